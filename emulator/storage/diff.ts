import type { BaseIdentity } from '../disk/identity.ts';
import type { OverlayBlock, OverlaySnapshot } from '../disk/overlay.ts';
import type { BlockSource } from '../disk/types.ts';
import { StorageError } from './error.ts';

/*
 * A diff is a gzip stream (whose CRC finds damage) of:
 *
 *   "LINUXVM-DIFF\n"
 *   length         4 bytes, little-endian, as all numbers here
 *   header         JSON, see DiffHeader
 *   blocks         each 4 (its number), 1 (0: all zero, 1: data follows) and the data
 *   end            4 (how many blocks there were), 1 (2)
 */
const MAGIC = new TextEncoder().encode('LINUXVM-DIFF\n');
const LARGEST_HEADER = 1 << 16;
const ZERO = 0;
const DATA = 1;
const END = 2;
/** Blocks read from a store at once. */
const BATCH = 256;

export interface DiffHeader {
  version: 1;
  base: BaseIdentity;
  blockSize: number;
}

export type DiffBlock = readonly [block: number, bytes: OverlayBlock];

/** The changes of a disk as a file. Closes the snapshot at its end. */
export function writeDiff(base: BaseIdentity, snapshot: OverlaySnapshot): ReadableStream<Uint8Array> {
  const pieces = async function* (): AsyncGenerator<Uint8Array> {
    const header: DiffHeader = { version: 1, base, blockSize: snapshot.blockSize };
    const json = new TextEncoder().encode(JSON.stringify(header));
    yield MAGIC;
    const length = new Uint8Array(4);
    new DataView(length.buffer).setUint32(0, json.length, true);
    yield length;
    yield json;
    const blocks = [...snapshot.blocks()].sort((a, b) => a - b);
    for (let at = 0; at < blocks.length; at += BATCH) {
      const numbers = blocks.slice(at, at + BATCH);
      const found = await snapshot.read(numbers);
      const out = new Uint8Array(numbers.length * (5 + snapshot.blockSize));
      const view = new DataView(out.buffer);
      let used = 0;
      numbers.forEach((block, i) => {
        const bytes = found[i];
        view.setUint32(used, block, true);
        out[used + 4] = bytes ? DATA : ZERO;
        used += 5;
        if (bytes) {
          out.set(bytes, used);
          used += bytes.length;
        }
      });
      yield out.subarray(0, used);
    }
    const end = new Uint8Array(5);
    new DataView(end.buffer).setUint32(0, blocks.length, true);
    end[4] = END;
    yield end;
  };
  return stream(pieces(), () => snapshot.close()).pipeThrough(
    new CompressionStream('gzip') as unknown as TransformStream<Uint8Array, Uint8Array>,
  );
}

/** The whole disk as a raw image. Closes the snapshot at its end. */
export function writeImage(source: BlockSource, snapshot: OverlaySnapshot): ReadableStream<Uint8Array> {
  const pieces = async function* (): AsyncGenerator<Uint8Array> {
    const { blockSize } = snapshot;
    const held = [...snapshot.blocks()].sort((a, b) => a - b);
    let next = 0;
    for (let offset = 0; offset < source.size; offset += source.blockSize) {
      const length = Math.min(source.blockSize, source.size - offset);
      const numbers: number[] = [];
      while (next < held.length && held[next]! * blockSize < offset + length) numbers.push(held[next++]!);
      const covered = numbers.length * blockSize >= length;
      const out =
        covered || source.isZero?.(offset / source.blockSize)
          ? new Uint8Array(length)
          : // A copy: a source may give what it keeps.
            (await source.read(offset, length)).slice();
      const found = numbers.length ? await snapshot.read(numbers) : [];
      numbers.forEach((block, i) => {
        const at = block * blockSize - offset;
        const room = Math.min(blockSize, length - at);
        if (found[i]) out.set(found[i].subarray(0, room), at);
        else out.fill(0, at, at + room);
      });
      yield out;
    }
  };
  return stream(pieces(), () => snapshot.close());
}

/**
 * Reads a diff: its header, then its blocks in batches.
 * @throws StorageError code `storage-damaged`, also from the iterator
 */
export async function readDiff(
  diff: Blob,
): Promise<{ header: DiffHeader; batches: AsyncGenerator<DiffBlock[]>; cancel(): void }> {
  const unpacked = diff
    .stream()
    .pipeThrough(new DecompressionStream('gzip') as unknown as TransformStream<Uint8Array, Uint8Array>);
  const reader = new Bytes(unpacked.getReader());
  const magic = await reader.take(MAGIC.length);
  if (!MAGIC.every((byte, i) => byte === magic[i]))
    throw new StorageError('storage-damaged', 'this file holds no changes of a disk (its first bytes are wrong)');
  const length = view(await reader.take(4)).getUint32(0, true);
  if (length > LARGEST_HEADER) throw damaged();
  let header: DiffHeader;
  try {
    header = JSON.parse(new TextDecoder().decode(await reader.take(length))) as DiffHeader;
  } catch (cause) {
    throw cause instanceof StorageError ? cause : damaged();
  }
  if (header.version !== 1)
    throw new StorageError(
      'storage-version',
      `these changes are in format ${String(header.version)}; this page reads format 1, so a newer one is needed`,
    );
  const { blockSize } = header;
  if (typeof header.base?.id !== 'string' || !(blockSize >= 512 && blockSize <= 65536 && blockSize % 512 === 0))
    throw damaged();
  const batches = async function* (): AsyncGenerator<DiffBlock[]> {
    let batch: DiffBlock[] = [];
    for (let count = 0; ; count++) {
      const head = await reader.take(5);
      const number = view(head).getUint32(0, true);
      if (head[4] === END) {
        if (number !== count) throw damaged();
        // Only the end of the stream says that its checksum is right.
        await reader.end();
        if (batch.length) yield batch;
        return;
      }
      if (head[4] !== ZERO && head[4] !== DATA) throw damaged();
      batch.push([number, head[4] === DATA ? (await reader.take(blockSize)).slice() : null]);
      if (batch.length === BATCH) {
        yield batch;
        batch = [];
      }
    }
  };
  return { header, batches: batches(), cancel: () => reader.cancel() };
}

/** Exact numbers of bytes out of a stream of pieces of any size. */
class Bytes {
  private piece = new Uint8Array(0);

  constructor(private readonly reader: ReadableStreamDefaultReader<Uint8Array>) {}

  async take(length: number): Promise<Uint8Array> {
    while (this.piece.length < length) {
      const more = await this.next();
      if (!more) throw damaged();
      const joined = new Uint8Array(this.piece.length + more.length);
      joined.set(this.piece);
      joined.set(more, this.piece.length);
      this.piece = joined;
    }
    const taken = this.piece.subarray(0, length);
    this.piece = this.piece.subarray(length);
    return taken;
  }

  async end(): Promise<void> {
    if (this.piece.length || (await this.next())?.length) throw damaged();
  }

  cancel(): void {
    this.reader.cancel().catch(() => undefined);
  }

  private async next(): Promise<Uint8Array | undefined> {
    try {
      return (await this.reader.read()).value;
    } catch (cause) {
      throw damaged(cause);
    }
  }
}

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function damaged(cause?: unknown): StorageError {
  return new StorageError('storage-damaged', 'the file with the changes of a disk is damaged or cut short', { cause });
}

/** A stream that makes its pieces when they are asked for, and tidies up however it ends. */
function stream(pieces: AsyncGenerator<Uint8Array>, close: () => void): ReadableStream<Uint8Array> {
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        try {
          const { done, value } = await pieces.next();
          if (!done) return controller.enqueue(value);
          close();
          controller.close();
        } catch (error) {
          close();
          throw error;
        }
      },
      async cancel() {
        await pieces.return(undefined);
        close();
      },
    },
    { highWaterMark: 0 },
  );
}
