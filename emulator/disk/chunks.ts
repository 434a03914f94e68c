import { detectCompression, gunzip } from './compression.ts';
import { aheadPolicy, checkStatus, type FetchPolicy, fetchPolicy, readBody, request, withRetry } from './fetch.ts';
import { sha256Hex } from './hash.ts';
import type { DiskManifest } from './manifest.ts';
import { BlockError, type BlockSource, checkRange, type TransferStats } from './types.ts';

/** A disk as a directory of compressed chunks, each named by the SHA-256 of its contents. Any static host will do. */
export class ChunkSource implements BlockSource {
  readonly size: number;
  readonly blockSize: number;
  readonly transfer: TransferStats = { fetchedBytes: 0, retries: 0 };
  private readonly policy: FetchPolicy;
  private readonly ahead: FetchPolicy;

  /** @param url of the manifest, absolute; chunks are found relative to it */
  constructor(
    private readonly manifest: Pick<DiskManifest, 'size' | 'chunkSize' | 'chunks' | 'compression'>,
    private readonly url: string,
    options: { policy?: Partial<FetchPolicy> } = {},
  ) {
    this.size = manifest.size;
    this.blockSize = manifest.chunkSize;
    const policy = fetchPolicy(options.policy);
    this.policy = {
      ...policy,
      onRetry: (error, attempt) => {
        this.transfer.retries++;
        policy.onRetry?.(error, attempt);
      },
    };
    this.ahead = aheadPolicy(this.policy);
  }

  isZero(block: number): boolean {
    return this.manifest.chunks[block] === null;
  }

  async read(offset: number, length: number, signal?: AbortSignal, ahead = false): Promise<Uint8Array> {
    checkRange(this.size, offset, length);
    const first = Math.floor(offset / this.blockSize);
    const start = first * this.blockSize;
    if (offset === start && length === this.chunkLength(first)) return this.chunk(first, signal, ahead);
    const out = new Uint8Array(length);
    const last = Math.floor((offset + length - 1) / this.blockSize);
    for (let i = first; i <= last; i++) {
      const chunk = await this.chunk(i, signal, ahead);
      const from = Math.max(0, offset - i * this.blockSize);
      const to = Math.min(chunk.length, offset + length - i * this.blockSize);
      out.set(chunk.subarray(from, to), i * this.blockSize + from - offset);
    }
    return out;
  }

  private chunkLength(index: number): number {
    return Math.min(this.blockSize, this.size - index * this.blockSize);
  }

  private async chunk(index: number, signal: AbortSignal | undefined, ahead: boolean): Promise<Uint8Array> {
    const expected = this.chunkLength(index);
    const hash = this.manifest.chunks[index];
    if (hash === null || hash === undefined) return new Uint8Array(expected);
    const url = new URL(`chunks/${hash}`, this.url).href;
    const policy = ahead ? this.ahead : this.policy;
    return withRetry(policy, url, signal, async (attempt) => {
      const response = await request(policy, url, {
        signal: attempt.signal,
        // A damaged answer may sit in the browser's cache: a second attempt goes past it.
        cache: attempt.number > 1 ? 'reload' : 'default',
      });
      attempt.alive();
      checkStatus(response, url, [200]);
      // Deflate cannot grow its input by more than this; anything longer is another file (an error page, say).
      const limit = expected + (expected >> 6) + 1024;
      const stored = await readBody(response, url, limit, attempt, (n) => (this.transfer.fetchedBytes += n));
      // Some servers label .gz-like files with Content-Encoding, and fetch has then unpacked them already.
      const packed = this.manifest.compression === 'gzip' && detectCompression(stored) === 'gzip';
      const bytes = packed ? await gunzip(stored, expected, url) : stored;
      if (bytes.length !== expected)
        throw new BlockError(
          'short',
          `${url} holds ${bytes.length} bytes where a chunk of ${expected} was expected; upload it again`,
          url,
        );
      const actual = await sha256Hex(bytes);
      if (actual !== hash)
        throw new BlockError(
          'hash',
          `${url} is damaged: its SHA-256 is ${actual}; upload it again, or clear what lies between (proxy, cache)`,
          url,
        );
      return bytes;
    });
  }
}
