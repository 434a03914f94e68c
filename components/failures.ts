import { checkSupport } from '../src/support.ts';

/** A failure as it is shown: a heading, what happened, and what to do next. */
export interface Explanation {
  title: string;
  text: string;
  next: string;
}

interface Coded extends Error {
  code?: string;
}

/** By the `code` of a BlockError. */
const DISK: Readonly<Record<string, readonly [title: string, next: string]>> = {
  'range-ignored': [
    "The server cannot serve this disk's image in parts",
    'Use a server that answers Range requests (most do), or the disk’s manifest.json with its chunks, which any server can host.',
  ],
  'range-wrong': [
    'The server serves parts of the disk wrongly',
    'Ask whoever runs the server, or host the disk’s chunks instead of its image.',
  ],
  hash: [
    'A piece of the disk is damaged',
    'Nothing of it was used. Try again; if it comes back, clear this site’s cached data, or upload the disk again.',
  ],
  short: ['A piece of the disk is cut short', 'Try again; if it comes back, upload the disk again.'],
  long: ['A piece of the disk is longer than it should be', 'Try again; if it comes back, upload the disk again.'],
  changed: ['The disk was replaced on the server', 'Reload the page to start with the new one.'],
  manifest: [
    'This is not a disk',
    'Check the address: it should lead to a disk’s manifest.json or to a raw ext2 image.',
  ],
  compression: ['A file of the disk cannot be unpacked', 'Build the disk again and upload all of it.'],
  network: ['No connection to the server', 'Check the connection, then try again. What was downloaded before is kept.'],
  timeout: ['The server does not answer', 'Check the connection, then try again. What was downloaded before is kept.'],
  status: [
    'The server refused a file of the disk',
    'Check the address, and that all files were uploaded; then try again.',
  ],
  store: [
    'Writes could not be saved in this browser',
    'Free some space, or allow this site to store data; then try again.',
  ],
};

/** By the `code` of a StorageError; those that are questions are asked elsewhere. */
const STORAGE: Readonly<Record<string, readonly [title: string, next: string]>> = {
  'storage-full': [
    'This browser has no room left',
    'Free some: delete snapshots or offline copies here, or data of other sites in the browser’s settings. Then try again.',
  ],
  'storage-damaged': [
    'The files that were kept here are damaged',
    'Nothing was changed. Turn off “Keep files in this browser” in the settings to start without them.',
  ],
  'storage-version': [
    'The files that were kept here are from a newer version',
    'Reload the page; it may be an old one from a cache.',
  ],
};

const OUT_OF_MEMORY =
  /out of memory|could not allocate memory|allocation failed|invalid (typed )?array(buffer)? length/i;
const OTHER_BUILD =
  /saved in format|has format \d+, this program reads|another (build|version)|only \d+ is known here|bytes of RAM, this one/i;
const DAMAGED_STATE = /saved machine|not a saved/i;

/**
 * @param began whether the machine ran before it failed
 * @param memory the machine's RAM in MiB, where it may have been too much
 */
export function explainFailure(
  error: Error,
  { began = false, memory }: { began?: boolean; memory?: number } = {},
): Explanation {
  const { message: text } = error;
  const code = (error as Coded).code ?? '';
  const support = checkSupport();
  if (!support.ok)
    return {
      title: 'This browser cannot run the machine',
      text: support.message,
      next: 'Update the browser, or open this page in one of these.',
    };
  const storage = STORAGE[code];
  if (storage) return { title: storage[0], text, next: storage[1] };
  const disk = DISK[code];
  if (disk) return { title: disk[0], text, next: disk[1] };
  if (error instanceof RangeError || OUT_OF_MEMORY.test(text))
    return {
      title: 'There is not enough memory',
      text,
      next:
        memory !== undefined && memory > 256
          ? `Close other tabs, or give the machine less than its ${memory} MiB in the settings.`
          : 'Close other tabs and programs, then try again.',
    };
  if (OTHER_BUILD.test(text))
    return {
      title: 'This snapshot is from another build',
      text,
      next: 'Start the machine from its disk, or open the snapshot with the version of this site that made it.',
    };
  if (DAMAGED_STATE.test(text))
    return {
      title: 'This snapshot cannot be used',
      text,
      next: 'Start the machine from its disk, or take another snapshot.',
    };
  if (/panicked/.test(text))
    return {
      title: 'The guest’s kernel panicked',
      text,
      next: 'What was flushed to a kept disk is safe. Restart the machine.',
    };
  return began
    ? { title: 'The machine failed', text, next: 'Restart it; what was written to a kept disk before is still there.' }
    : { title: 'The machine could not be started', text, next: 'When the cause is removed, try again.' };
}
