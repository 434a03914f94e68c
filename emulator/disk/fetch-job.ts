import { beginUnzstd, type Compression, decompress, detectCompression, gunzip } from './compression.ts';
import { type Attempt, checkStatus, type Fetch, readBody, request } from './fetch.ts';
import { sha256Hex } from './hash.ts';
import { release } from '../release.ts';
import { BlockError } from './types.ts';
import { prepareZstd, type Unzstd } from './zstd.ts';

/** A chunk of a disk, named by the SHA-256 of its contents. */
export interface ChunkJob {
  kind: 'chunk';
  /** Absolute address. */
  url: string;
  /** Of what it holds, in lower-case hexadecimal. */
  sha256: string;
  /** Bytes that it holds. */
  length: number;
  compression: 'gzip' | 'none';
}

/** A whole file (a kernel, an initramfs). */
export interface WholeFile {
  /** Absolute address. */
  url: string;
  /** Bytes as stored, when known. */
  size?: number;
  /** Of the file as stored, when known. */
  sha256?: string;
  compression?: Compression;
}
export type FileJob = WholeFile & { kind: 'file' };

/** Something to be fetched, checked and unpacked. Plain data: another thread may do it (fetch-helper.ts). */
export type FetchJob = ChunkJob | FileJob;

/** Told of the bytes that have come of one attempt, and of how many there are when that is known. */
export type OnProgress = (loaded: number, total: number | undefined) => void;

/** What one attempt at a job needs to know of it. */
export type JobAttempt = Attempt & { readonly priority?: RequestPriority };

/** Past this nothing is a kernel or an initramfs. */
const LARGEST = 1 << 30;

/**
 * Makes one attempt.
 * @returns what the chunk holds, or the file unpacked
 * @throws BlockError that says what was wrong
 */
export async function attemptJob(
  job: FetchJob,
  fetch: Fetch,
  attempt: JobAttempt,
  onProgress: OnProgress,
): Promise<Uint8Array> {
  if (job.kind === 'file' && job.compression === 'zstd') prepareZstd();
  const response = await request({ fetch, priority: attempt.priority }, job.url, {
    signal: attempt.signal,
    // A damaged answer may sit in the browser's cache: a second attempt goes past it.
    cache: attempt.number > 1 ? 'reload' : 'default',
  });
  attempt.alive();
  checkStatus(response, job.url, [200]);
  return job.kind === 'chunk' ? chunk(job, response, attempt, onProgress) : file(job, response, attempt, onProgress);
}

async function chunk(job: ChunkJob, response: Response, attempt: Attempt, onProgress: OnProgress): Promise<Uint8Array> {
  const { url, length, sha256 } = job;
  // Deflate cannot grow its input by more than this; anything longer is another file (an error page, say).
  const limit = length + (length >> 6) + 1024;
  const stored = await readBody(response, url, limit, attempt, counter(undefined, onProgress));
  // Some servers label .gz-like files with Content-Encoding, and fetch has then unpacked them already.
  const packed = job.compression === 'gzip' && detectCompression(stored) === 'gzip';
  const bytes = packed ? await gunzip(stored, length, url) : stored;
  if (bytes.length !== length)
    throw new BlockError(
      'short',
      `${url} holds ${bytes.length} bytes where a chunk of ${length} was expected; upload it again`,
      url,
    );
  const actual = await sha256Hex(bytes);
  if (actual !== sha256)
    throw new BlockError(
      'hash',
      `${url} is damaged: its SHA-256 is ${actual}; upload it again, or clear what lies between (proxy, cache)`,
      url,
    );
  return bytes;
}

async function file(job: FileJob, response: Response, attempt: Attempt, onProgress: OnProgress): Promise<Uint8Array> {
  const { url } = job;
  const announced = Number(response.headers.get('content-length') ?? NaN);
  const encoded = response.headers.has('content-encoding');
  const total = job.size ?? (Number.isSafeInteger(announced) && !encoded ? announced : undefined);
  onProgress(0, total);
  const wanted = job.compression ?? 'none';
  const count = counter(total, onProgress);
  let first = true;
  const unpacking: { begun?: Unzstd } = {};
  try {
    const stored = await readBody(response, url, LARGEST, attempt, (part) => {
      count(part);
      if (first && wanted === 'zstd' && detectCompression(part) === wanted) unpacking.begun = beginUnzstd(LARGEST, url);
      first = false;
      unpacking.begun?.push(part);
    });
    // A server that labels .gz files with Content-Encoding has had them unpacked by fetch already.
    const unpacked = wanted !== 'none' && detectCompression(stored) !== wanted;
    if (!unpacked) {
      if (total !== undefined && stored.length !== total)
        throw new BlockError('short', `${url} gave ${stored.length} of ${total} bytes; the connection was cut`, url);
      if (job.sha256) {
        const actual = await sha256Hex(stored);
        if (actual !== job.sha256)
          throw new BlockError('hash', `${url} is damaged: its SHA-256 is ${actual}; upload it again`, url);
      }
    } else if (!encoded)
      throw new BlockError(
        'compression',
        `${url} should be compressed with ${wanted}, and is not; upload it again`,
        url,
      );
    if (unpacked) return stored;
    const bytes = await decompress(stored, wanted, LARGEST, url, unpacking.begun);
    if (bytes !== stored) release(stored);
    return bytes;
  } finally {
    unpacking.begun?.close();
  }
}

function counter(total: number | undefined, onProgress: OnProgress): (part: Uint8Array) => void {
  let loaded = 0;
  return (part) => onProgress((loaded += part.length), total);
}
