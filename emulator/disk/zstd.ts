import { Decompress, decompress as unzstdWhole } from 'fzstd';
import { ZSTDDecoder } from 'zstddec/stream';
import { concat } from './fetch.ts';

/** Bytes that the decoder is given at a time: its memory, which is never given back, stays as small as its window. */
const PIECE = 1 << 18;
/** Pieces of nothing, one after the other, after which a decoder does not get on: it does not say so itself. */
const MOST_EMPTY = 64;

let ready: Promise<ZSTDDecoder | undefined> | undefined;

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
      return zstd;
    } catch {
      return undefined;
    }
  })());
}

/**
 * Unpacks the frames of a zstd file.
 * @param limit told of the length so far, and throws when it is too much
 * @throws Error when the file is damaged
 */
export async function unzstd(bytes: Uint8Array, limit: (length: number) => void): Promise<Uint8Array> {
  const size = zstdContentSize(bytes);
  if (size !== undefined) limit(size);
  const zstd = await decoder();
  if (!zstd)
    return size === undefined ? unzstdInPieces(bytes, limit) : exactly(size, unzstdWhole(bytes, new Uint8Array(size)));
  const out = size === undefined ? undefined : new Uint8Array(size);
  const parts: Uint8Array[] = [];
  let length = 0;
  let empty = 0;
  for (const part of zstd.decodeStreaming(pieces(bytes))) {
    if (part.length) empty = 0;
    else if (++empty > MOST_EMPTY) throw new Error('it is damaged');
    length += part.length;
    limit(length);
    if (!out) parts.push(part);
    else if (length > out.length) throw new Error(`it has more than the ${out.length} bytes that it says`);
    else out.set(part, length - part.length);
  }
  return out ? exactly(length, out) : concat(parts, length);
}

function* pieces(bytes: Uint8Array): Iterable<Uint8Array> {
  for (let at = 0; at < bytes.length; at += PIECE) yield bytes.subarray(at, at + PIECE);
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
