import type { LinuxVM } from './vm.ts';

/**
 * What an address of the page says about the machine. What decides which machine it is stands in the query; what is to
 * be done in it stands in the fragment, which no server sees.
 */
export interface Link {
  disk?: string;
  kernel?: string;
  initrd?: string;
  cmdline?: string;
  memory?: string;
  tier?: string;
  /** `cold`: booted, even where a snapshot would be quicker. */
  boot?: string;
  theme?: string;
  /** Address of an exported snapshot to go on from. */
  state?: string;
  /** `none`: what is written is not kept in the browser. */
  storage?: string;
  screenReader?: boolean;
  /** A command line for the guest's shell. */
  run?: string;
  /** Files as `packDirectory` gives them, and where they go. */
  files?: Uint8Array;
  directory?: string;
}

const QUERY = ['disk', 'kernel', 'initrd', 'cmdline', 'memory', 'tier', 'boot', 'theme', 'state', 'storage'] as const;
/** Most bytes of packed files in an address, and of files that come out of one. */
export const MOST_PACKED = 48 << 10;
const MOST_UNPACKED = 16 << 20;
/** Longer addresses are cut by some mail and chat programs. */
export const COMFORTABLE_LENGTH = 8000;

export function parseLink(address: string): Link {
  const url = new URL(address);
  const link: Link = {};
  for (const name of QUERY) {
    const value = url.searchParams.get(name);
    if (value) link[name] = value;
  }
  link.screenReader = url.searchParams.has('screen-reader');
  const fragment = new URLSearchParams(url.hash.slice(1));
  link.run = visible(fragment.get('run') ?? '') || undefined;
  link.directory = fragment.get('in') || undefined;
  const files = fragment.get('files');
  if (files) link.files = fromBase64url(files);
  return link;
}

/** Without characters that would make a command look like another one: controls, and turns of the writing direction. */
function visible(command: string): string {
  // eslint-disable-next-line no-control-regex -- that is what is taken out
  return command.replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g, '').trim();
}

/** @param page the page's address, whose own query and fragment are left out */
export function makeLink(page: string, link: Link): string {
  const url = new URL(page);
  url.search = '';
  for (const name of QUERY) if (link[name]) url.searchParams.set(name, link[name]);
  const fragment = new URLSearchParams();
  if (link.run) fragment.set('run', link.run);
  if (link.files) {
    if (link.directory) fragment.set('in', link.directory);
    fragment.set('files', toBase64url(link.files));
  }
  url.hash = fragment.toString();
  return url.href;
}

/** The files of a directory of the guest: a tar archive, deflated. @throws Error when they are too many for an address */
export async function packDirectory(vm: LinuxVM, directory: string): Promise<Uint8Array> {
  const { status, stdout, stderr } = await vm.run(
    ['tar', '-C', directory, '--sort=name', '--owner=0', '--group=0', '-cf', '-', '.'],
    { maxOutput: MOST_UNPACKED },
  );
  if (status !== 0) throw new Error(new TextDecoder().decode(stderr).trim() || `tar ended with status ${status}`);
  const packed = await deflate(stdout);
  if (packed.length > MOST_PACKED)
    throw new Error(
      `The files of ${directory} are ${Math.ceil(packed.length / 1024)} KiB when packed, and an address holds ` +
        `${MOST_PACKED / 1024}. Choose a smaller directory, or share a snapshot file.`,
    );
  return packed;
}

/** Puts files that `packDirectory` gave into a directory of the guest, which is made when it is not there. */
export async function unpackInto(vm: LinuxVM, directory: string, packed: Uint8Array): Promise<void> {
  const stdin = await inflate(packed, MOST_UNPACKED);
  await vm.fs.mkdir(directory, { recursive: true });
  const { status, stderr } = await vm.run(['tar', '-C', directory, '--no-same-owner', '-xf', '-'], { stdin });
  if (status !== 0) throw new Error(new TextDecoder().decode(stderr).trim() || `tar ended with status ${status}`);
}

async function deflate(bytes: Uint8Array): Promise<Uint8Array> {
  const stream = new Blob([bytes as Uint8Array<ArrayBuffer>])
    .stream()
    .pipeThrough(new CompressionStream('deflate-raw'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** @throws Error when more than `limit` bytes come out, or what came in is damaged */
export async function inflate(bytes: Uint8Array, limit: number): Promise<Uint8Array> {
  const stream = new Blob([bytes as Uint8Array<ArrayBuffer>])
    .stream()
    .pipeThrough(new DecompressionStream('deflate-raw'));
  const parts: Uint8Array<ArrayBuffer>[] = [];
  let length = 0;
  const reader = (stream as ReadableStream<Uint8Array<ArrayBuffer>>).getReader();
  for (;;) {
    const { done, value } = await reader.read().catch(() => {
      throw new Error('The files in this address are damaged; was it copied as a whole?');
    });
    if (done) break;
    parts.push(value);
    length += value.length;
    if (length > limit) {
      void reader.cancel();
      throw new Error(`The files in this address are more than ${limit >> 20} MiB; they were not unpacked.`);
    }
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

export function toBase64url(bytes: Uint8Array): string {
  let text = '';
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text).replaceAll('+', '-').replaceAll('/', '_').replace(/=+$/, '');
}

/** @returns nothing when `text` is no base64url */
export function fromBase64url(text: string): Uint8Array | undefined {
  try {
    return Uint8Array.from(atob(text.replaceAll('-', '+').replaceAll('_', '/')), (c) => c.charCodeAt(0));
  } catch {
    return undefined;
  }
}
