import { type Compression, decompress, detectCompression } from './compression.ts';
import { checkStatus, type FetchPolicy, fetchPolicy, readBody, request, withRetry } from './fetch.ts';
import { sha256Hex } from './hash.ts';
import { release } from '../release.ts';
import { BlockError } from './types.ts';
import { prepareZstd } from './zstd.ts';

export interface WholeFile {
  /** Absolute address. */
  url: string;
  /** Bytes as stored, when known. */
  size?: number;
  /** Of the file as stored, when known. */
  sha256?: string;
  compression?: Compression;
}

/** Past this nothing is a kernel or an initramfs. */
const LARGEST = 1 << 30;

/**
 * Fetches a whole file (a kernel, an initramfs), checks it, and unpacks it where `compression` says so.
 * @param onProgress bytes come so far, and in all when that is known
 * @throws BlockError after the retries of the policy
 */
export async function fetchFile(
  file: WholeFile,
  options: {
    policy?: Partial<FetchPolicy>;
    signal?: AbortSignal;
    onProgress?: (loaded: number, total: number | undefined) => void;
  } = {},
): Promise<Uint8Array> {
  const { url } = file;
  const policy = fetchPolicy(options.policy);
  if (file.compression === 'zstd') prepareZstd();
  return withRetry(policy, url, options.signal, async (attempt) => {
    const response = await request(policy, url, {
      signal: attempt.signal,
      cache: attempt.number > 1 ? 'reload' : 'default',
    });
    attempt.alive();
    checkStatus(response, url, [200]);
    const announced = Number(response.headers.get('content-length') ?? NaN);
    const encoded = response.headers.has('content-encoding');
    const total = file.size ?? (Number.isSafeInteger(announced) && !encoded ? announced : undefined);
    let loaded = 0;
    options.onProgress?.(0, total);
    const stored = await readBody(response, url, LARGEST, attempt, (count) => {
      loaded += count;
      options.onProgress?.(loaded, total);
    });
    const wanted = file.compression ?? 'none';
    // A server that labels .gz files with Content-Encoding has had them unpacked by fetch already.
    const unpacked = wanted !== 'none' && detectCompression(stored) !== wanted;
    if (!unpacked) {
      if (total !== undefined && stored.length !== total)
        throw new BlockError('short', `${url} gave ${stored.length} of ${total} bytes; the connection was cut`, url);
      if (file.sha256) {
        const actual = await sha256Hex(stored);
        if (actual !== file.sha256)
          throw new BlockError('hash', `${url} is damaged: its SHA-256 is ${actual}; upload it again`, url);
      }
    } else if (!encoded)
      throw new BlockError(
        'compression',
        `${url} should be compressed with ${wanted}, and is not; upload it again`,
        url,
      );
    if (unpacked) return stored;
    const bytes = await decompress(stored, wanted, LARGEST, url);
    if (bytes !== stored) release(stored);
    return bytes;
  });
}
