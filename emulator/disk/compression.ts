import { Decompress, decompress as unzstdWhole } from 'fzstd';
import { concat } from './fetch.ts';
import { BlockError } from './types.ts';

export type Compression = 'none' | 'gzip' | 'zstd';

/** What the first bytes say a file is compressed with. */
export function detectCompression(bytes: Uint8Array): Compression {
  if (bytes[0] === 0x1f && bytes[1] === 0x8b) return 'gzip';
  if (bytes[0] === 0x28 && bytes[1] === 0xb5 && bytes[2] === 0x2f && bytes[3] === 0xfd) return 'zstd';
  return 'none';
}

/**
 * Unpacks `bytes`. Never gives more than `limit` bytes, so a hostile file cannot fill the memory.
 * @throws BlockError code `compression` when the data is damaged, `long` past the limit
 */
export async function decompress(
  bytes: Uint8Array,
  compression: Compression,
  limit: number,
  url: string,
): Promise<Uint8Array> {
  if (compression === 'none') return bytes;
  return compression === 'gzip' ? gunzip(bytes, limit, url) : unzstd(bytes, limit, url);
}

async function gunzip(bytes: Uint8Array, limit: number, url: string): Promise<Uint8Array> {
  const stream = new DecompressionStream('gzip');
  const writer = stream.writable.getWriter();
  // Errors of the writing side show up on the reading side, too.
  writer.write(bytes as Uint8Array<ArrayBuffer>).catch(() => undefined);
  writer.close().catch(() => undefined);
  const reader = stream.readable.getReader();
  const parts: Uint8Array[] = [];
  let length = 0;
  for (;;) {
    let step;
    try {
      step = await reader.read();
    } catch (cause) {
      throw damaged('gzip', url, cause);
    }
    if (step.done) break;
    length += step.value.length;
    if (length > limit) {
      reader.cancel().catch(() => undefined);
      throw tooLong(limit, url);
    }
    parts.push(step.value);
  }
  return parts.length === 1 ? parts[0]! : concat(parts, length);
}

function unzstd(bytes: Uint8Array, limit: number, url: string): Uint8Array {
  const size = zstdContentSize(bytes);
  if (size !== undefined && size > limit) throw tooLong(limit, url);
  try {
    // The whole at once is six times faster than by pieces, where the result's size is known.
    if (size !== undefined) {
      const out = unzstdWhole(bytes, new Uint8Array(size));
      if (out.length !== size) throw new Error(`${out.length} of ${size} bytes`);
      return out;
    }
    const parts: Uint8Array[] = [];
    let length = 0;
    const decoder = new Decompress((part) => {
      length += part.length;
      if (length > limit) throw tooLong(limit, url);
      parts.push(part);
    });
    decoder.push(bytes, true);
    return concat(parts, length);
  } catch (cause) {
    throw cause instanceof BlockError ? cause : damaged('zstd', url, cause);
  }
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

function damaged(kind: string, url: string, cause: unknown): BlockError {
  return new BlockError('compression', `${url} is damaged: it does not unpack as ${kind}; upload it again`, url, {
    cause,
  });
}

function tooLong(limit: number, url: string): BlockError {
  return new BlockError(
    'long',
    `${url} unpacks to more than the ${limit} bytes expected; it is not the right file`,
    url,
  );
}
