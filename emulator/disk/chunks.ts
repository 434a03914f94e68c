import { aheadPolicy, type FetchPolicy, fetchPolicy, withRetry } from './fetch.ts';
import { attemptBy } from './fetch-helper.ts';
import type { DiskManifest } from './manifest.ts';
import { type BlockSource, checkRange, type TransferStats } from './types.ts';

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
    const length = this.chunkLength(index);
    const sha256 = this.manifest.chunks[index];
    if (sha256 === null || sha256 === undefined) return new Uint8Array(length);
    const url = new URL(`chunks/${sha256}`, this.url).href;
    const policy = ahead ? this.ahead : this.policy;
    const { compression } = this.manifest;
    return withRetry(policy, url, signal, (attempt) => {
      let before = 0;
      const onProgress = (loaded: number): void => {
        this.transfer.fetchedBytes += loaded - before;
        before = loaded;
      };
      return attemptBy(policy, { kind: 'chunk', url, sha256, length, compression }, attempt, onProgress);
    });
  }
}
