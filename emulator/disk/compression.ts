import { concat } from './fetch.ts';
import { BlockError } from './types.ts';
import { Unzstd } from './zstd.ts';

export type Compression = 'none' | 'gzip' | 'zstd';

/** What the first bytes say a file is compressed with. */
export function detectCompression(bytes: Uint8Array): Compression {
  if (bytes[0] === 0x1f && bytes[1] === 0x8b) return 'gzip';
  if (bytes[0] === 0x28 && bytes[1] === 0xb5 && bytes[2] === 0x2f && bytes[3] === 0xfd) return 'zstd';
  return 'none';
}

/**
 * Unpacks `bytes`. Never gives more than `limit` bytes, so a hostile file cannot fill the memory.
 * @param begun what has had all of `bytes` already
 * @throws BlockError code `compression` when the data is damaged, `long` past the limit
 */
export async function decompress(
  bytes: Uint8Array,
  compression: Compression,
  limit: number,
  url: string,
  begun?: Unzstd,
): Promise<Uint8Array> {
  if (compression === 'none') return bytes;
  return compression === 'gzip' ? gunzip(bytes, limit, url) : unzstd(bytes, limit, url, begun);
}

/** Unpacking of a zstd file that begins while it comes; `decompress` ends it. */
export function beginUnzstd(limit: number, url: string): Unzstd {
  return new Unzstd((length) => {
    if (length > limit) throw tooLong(limit, url);
  });
}

/** The same for gzip alone, for who needs no other: decoders are large. */
export async function gunzip(bytes: Uint8Array, limit: number, url: string): Promise<Uint8Array> {
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

async function unzstd(bytes: Uint8Array, limit: number, url: string, begun?: Unzstd): Promise<Uint8Array> {
  const unpacking = begun ?? beginUnzstd(limit, url);
  if (!begun) unpacking.push(bytes);
  try {
    return await unpacking.finish();
  } catch (cause) {
    throw cause instanceof BlockError ? cause : damaged('zstd', url, cause);
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
