import type { BaseIdentity } from './disk/identity.ts';
import type { OpenDisk } from './disk/open.ts';
import type { OverlayBlock, OverlayState } from './disk/overlay.ts';

/**
 * The file that `saveState` makes: magic, length of the header, header (JSON), the disk's written blocks, then the
 * machine's own stream to the end.
 */
export interface SavedHeader {
  version: 1;
  memory: number;
  /** Address of the disk, when it had one; a restored machine needs the very same disk. */
  disk?: string;
  /** Bytes of the disk, so that another one is not taken for it. */
  diskSize?: number;
  /** Whose contents the written blocks and the guest's memory belong to. */
  base?: BaseIdentity;
  overlay?: { blockSize: number; count: number };
}

const MAGIC = new TextEncoder().encode('LINUXVM\x01');
const LARGEST_HEADER = 1 << 20;

export async function writeSaved(
  header: Omit<SavedHeader, 'version' | 'overlay'>,
  overlay: OverlayState | undefined,
  machine: AsyncIterable<Uint8Array>,
): Promise<Blob> {
  const full: SavedHeader = {
    version: 1,
    ...header,
    overlay: overlay && { blockSize: overlay.blockSize, count: overlay.blocks.length },
  };
  const json = new TextEncoder().encode(JSON.stringify(full));
  const length = new Uint8Array(4);
  new DataView(length.buffer).setUint32(0, json.length, true);
  // A Blob of Blobs: browsers keep their bytes outside the worker's heap.
  const parts: BlobPart[] = [MAGIC, length, json];
  let batch: BlobPart[] = [];
  let size = 0;
  const add = (bytes: Uint8Array): void => {
    batch.push(bytes as Uint8Array<ArrayBuffer>);
    size += bytes.length;
    if (size > 8 << 20) {
      parts.push(new Blob(batch));
      batch = [];
      size = 0;
    }
  };
  for (const [block, bytes] of overlay?.blocks ?? []) {
    const head = new Uint8Array(9);
    const view = new DataView(head.buffer);
    view.setFloat64(0, block, true);
    view.setUint8(8, bytes ? 1 : 0);
    add(head);
    if (bytes) add(bytes);
  }
  for await (const bytes of machine) add(bytes);
  return new Blob([...parts, ...batch], { type: 'application/octet-stream' });
}

/** @throws Error, for people, when the file is not a saved machine or is damaged */
export async function readSaved(
  blob: Blob,
): Promise<{ header: SavedHeader; overlay?: OverlayState; machine: ReadableStream<Uint8Array> }> {
  const head = new Uint8Array(await blob.slice(0, 12).arrayBuffer());
  if (head.length < 12 || MAGIC.some((byte, i) => head[i] !== byte))
    throw new Error('this file is not a saved machine (its first bytes are wrong)');
  const length = new DataView(head.buffer).getUint32(8, true);
  if (length > LARGEST_HEADER || 12 + length > blob.size) throw damaged();
  let header: SavedHeader;
  try {
    header = JSON.parse(await blob.slice(12, 12 + length).text()) as SavedHeader;
  } catch {
    throw damaged();
  }
  if (header.version !== 1) throw new Error(`this machine was saved in format ${header.version}; only 1 is known here`);
  let at = 12 + length;
  let overlay: OverlayState | undefined;
  if (header.overlay) {
    const { blockSize, count } = header.overlay;
    if (!(Number.isSafeInteger(blockSize) && blockSize >= 512 && blockSize <= 1 << 20 && count >= 0)) throw damaged();
    const blocks: [number, OverlayBlock][] = [];
    const window = 16 << 20;
    let bytes = new Uint8Array(0);
    let view = new DataView(bytes.buffer);
    let used = 0;
    for (let i = 0; i < count; i++) {
      if (bytes.length - used < 9 + blockSize) {
        at += used;
        bytes = new Uint8Array(await blob.slice(at, at + window).arrayBuffer());
        view = new DataView(bytes.buffer);
        used = 0;
      }
      if (bytes.length - used < 9) throw damaged();
      const block = view.getFloat64(used, true);
      const full = bytes[used + 8] === 1;
      used += 9;
      if (full && bytes.length - used < blockSize) throw damaged();
      blocks.push([block, full ? bytes.slice(used, used + blockSize) : null]);
      if (full) used += blockSize;
    }
    at += used;
    overlay = { blockSize, blocks };
  }
  return { header, overlay, machine: blob.slice(at).stream() };
}

/** @throws Error when it is not the disk that the machine was saved with: the guest's memory knows that one's contents */
export async function checkDisk(disk: OpenDisk, { diskSize, base }: SavedHeader): Promise<void> {
  const { size } = disk.device;
  if (size !== diskSize)
    throw new Error(`this machine was saved with a disk of ${diskSize} bytes, and this one has ${size}`);
  if (!base) return;
  const here = await disk.identity();
  if (here.id !== base.id)
    throw new Error(
      `this machine was saved over another version of its disk (${base.name}) than the one that is there now ` +
        `(${here.name}): its memory does not fit that; start the machine anew`,
    );
}

function damaged(): Error {
  return new Error('the saved machine is damaged or cut short; save it again');
}
