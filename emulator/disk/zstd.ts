import { Decompress, decompress as unzstdWhole } from 'fzstd';
import { ZSTDDecoder } from 'zstddec/stream';
import { concat } from './fetch.ts';

/** Bytes that the decoder is given at a time: its memory, which is never given back, stays as small as its window. */
const PIECE = 1 << 18;
/** Pieces of nothing, one after the other, after which a decoder does not get on: it does not say so itself. */
const MOST_EMPTY = 64;
/** Pieces, of at most 128 KiB, that the rest of what the decoder has been given is unpacked to, to be thrown away. */
const MOST_TO_CLOSE = 1000;

let ready: Promise<ZSTDDecoder | undefined> | undefined;
/** The decoder, as soon as there is one. */
let made: ZSTDDecoder | undefined;

/**
 * Begins to make the decoder ready. It comes as WebAssembly in a `data:` address, which the policy of a page may forbid:
 * then all is done in JavaScript, which takes five times as long.
 */
export function prepareZstd(): void {
  void decoder();
}

function decoder(): Promise<ZSTDDecoder | undefined> {
  return (ready ??= (async () => {
    const zstd = new ZSTDDecoder();
    try {
      await zstd.init();
      return (made = zstd);
    } catch {
      return undefined;
    }
  })());
}

/** Unpacks the frames of a zstd file, whose bytes may come one part after the other. */
export class Unzstd {
  /** What the decoder has not had. */
  private readonly queue: Uint8Array[] = [];
  private ended = false;
  private decoded: Iterator<Uint8Array> | undefined;
  private out: Uint8Array | undefined;
  private readonly parts: Uint8Array[] = [];
  private length = 0;
  private empty = 0;
  private failure: unknown;

  /** @param limit told of the length so far, and throws when it is too much */
  constructor(private readonly limit: (length: number) => void) {
    prepareZstd();
  }

  /** Takes the file's next bytes, and unpacks what came before them. */
  push(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; at += PIECE) this.queue.push(bytes.subarray(at, at + PIECE));
    if (!made || this.failure !== undefined) return;
    try {
      this.begin(made);
      // The decoder is given one piece by a step at most, and none of them is empty: it is never asked when it has none.
      while (this.queue.length) this.step();
    } catch (error) {
      this.failure = error;
    }
  }

  /** @throws Error when the file is damaged */
  async finish(): Promise<Uint8Array> {
    this.ended = true;
    const zstd = await decoder();
    if (this.failure !== undefined) throw this.failure;
    if (!zstd) return withoutDecoder(concat(this.queue), this.limit);
    this.begin(zstd);
    while (this.step());
    return this.out ? exactly(this.length, this.out) : concat(this.parts, this.length);
  }

  /** Gives the decoder's memory back where the file is not wanted any more. */
  close(): void {
    this.ended = true;
    this.queue.length = 0;
    try {
      for (let k = 0; k < MOST_TO_CLOSE && !this.decoded?.next().done; k++);
    } catch {
      // What the decoder says of a file that is not whole, when it has given its memory back.
    }
  }

  private begin(zstd: ZSTDDecoder): void {
    if (this.decoded) return;
    const size = zstdContentSize(this.queue[0] ?? EMPTY);
    if (size !== undefined) {
      this.limit(size);
      this.out = new Uint8Array(size);
    }
    this.decoded = zstd.decodeStreaming(this.pieces());
  }

  private *pieces(): Iterable<Uint8Array> {
    for (let piece; (piece = this.queue.shift());) yield piece;
    if (!this.ended) throw new Error('the decoder asked for more than there is');
  }

  /** @returns whether there may be more to come */
  private step(): boolean {
    const { done, value: part } = this.decoded!.next();
    if (done) return false;
    if (part.length) this.empty = 0;
    else if (++this.empty > MOST_EMPTY) throw new Error('it is damaged');
    const at = this.length;
    this.length += part.length;
    this.limit(this.length);
    const { out } = this;
    if (!out) this.parts.push(part);
    else if (this.length > out.length) throw new Error(`it has more than the ${out.length} bytes that it says`);
    else out.set(part, at);
    return true;
  }
}
const EMPTY = new Uint8Array(0);

/** @throws Error when the file is damaged */
function withoutDecoder(bytes: Uint8Array, limit: (length: number) => void): Uint8Array {
  const size = zstdContentSize(bytes);
  if (size === undefined) return unzstdInPieces(bytes, limit);
  limit(size);
  return exactly(size, unzstdWhole(bytes, new Uint8Array(size)));
}

function unzstdInPieces(bytes: Uint8Array, limit: (length: number) => void): Uint8Array {
  const parts: Uint8Array[] = [];
  let length = 0;
  const stream = new Decompress((part) => {
    length += part.length;
    limit(length);
    parts.push(part);
  });
  stream.push(bytes, true);
  return concat(parts, length);
}

function exactly(length: number, out: Uint8Array): Uint8Array {
  if (out.length !== length) throw new Error(`it has ${length} of ${out.length} bytes`);
  return out;
}

/** Frame_Content_Size of the first frame (RFC 8878, 3.1.1.1), where its header has one. */
function zstdContentSize(bytes: Uint8Array): number | undefined {
  const descriptor = bytes[4] ?? 0;
  const single = (descriptor >> 5) & 1;
  const flag = descriptor >> 6;
  if (flag === 0 && !single) return undefined;
  const at = 5 + (single ? 0 : 1) + [0, 1, 2, 4][descriptor & 3]!;
  if (at + 8 > bytes.length) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset + at);
  switch (flag) {
    case 0:
      return view.getUint8(0);
    case 1:
      return view.getUint16(0, true) + 256;
    case 2:
      return view.getUint32(0, true);
    default:
      return view.getUint32(0, true) + view.getUint32(4, true) * 2 ** 32;
  }
}
