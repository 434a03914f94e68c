import { aheadPolicy, checkStatus, type FetchPolicy, fetchPolicy, readBody, request, withRetry } from './fetch.ts';
import type { BaseIdentity } from './identity.ts';
import { BlockError, type BlockSource, checkRange, type TransferStats } from './types.ts';

/** Bytes of each part but the last. */
const PART = 131072;
/** Of the file that holds the size: a decimal number and a newline. */
const LONGEST_META = 64;

/**
 * A raw image cut into files of 128 KiB, for hosts that know no Range, as WebVM's deployment to GitHub Pages makes
 * them: `IMAGE.meta` holds the size in decimal, `IMAGE.c000000.txt` and on (six hexadecimal digits) the parts.
 */
export class PartsSource implements BlockSource {
  readonly blockSize = PART;
  readonly transfer: TransferStats = { fetchedBytes: 0, retries: 0 };

  private constructor(
    /** Of the image, without `.meta`. */
    private readonly image: string,
    readonly size: number,
    private readonly modified: string | null,
    private readonly policy: FetchPolicy,
  ) {}

  /**
   * @param url of the `.meta` file, absolute
   * @throws BlockError when it holds no size
   */
  static async open(
    url: string,
    options: { policy?: Partial<FetchPolicy>; signal?: AbortSignal } = {},
  ): Promise<PartsSource> {
    const policy = fetchPolicy(options.policy);
    const { text, modified } = await withRetry(policy, url, options.signal, async (attempt) => {
      const response = await request(policy, url, { signal: attempt.signal, cache: 'no-cache' });
      checkStatus(response, url, [200]);
      const bytes = await readBody(response, url, LONGEST_META, attempt);
      return {
        text: new TextDecoder().decode(bytes).trim(),
        modified: response.headers.get('etag') ?? response.headers.get('last-modified'),
      };
    });
    const size = /^\d+$/.test(text) ? Number(text) : NaN;
    if (!Number.isSafeInteger(size) || size < 512)
      throw new BlockError('manifest', `${url} holds "${text}" where an image's size in bytes was expected`, url);
    return new PartsSource(url.replace(/\.meta$/, ''), size - (size % 512), modified, policy);
  }

  get identity(): BaseIdentity {
    const name = new URL(this.image).pathname.split('/').at(-1) || this.image;
    return { id: `parts:${this.size}:${this.modified ?? this.image}`, name, size: this.size, url: this.image };
  }

  async read(offset: number, length: number, signal?: AbortSignal, ahead = false): Promise<Uint8Array> {
    checkRange(this.size, offset, length);
    const out = new Uint8Array(length);
    for (let index = Math.floor(offset / PART); index * PART < offset + length; index++) {
      const part = await this.part(index, signal, ahead);
      const start = index * PART;
      const from = Math.max(offset, start);
      out.set(part.subarray(from - start, Math.min(offset + length, start + PART) - start), from - offset);
    }
    return out;
  }

  private part(index: number, signal: AbortSignal | undefined, ahead: boolean): Promise<Uint8Array> {
    const url = `${this.image}.c${index.toString(16).padStart(6, '0')}.txt`;
    // The image's own last bytes may be cut off here; the part has them.
    const least = Math.min(PART, this.size - index * PART);
    const policy: FetchPolicy = {
      ...(ahead ? aheadPolicy(this.policy) : this.policy),
      onRetry: (error, attempt) => {
        this.transfer.retries++;
        this.policy.onRetry?.(error, attempt);
      },
    };
    return withRetry(policy, url, signal, async (attempt) => {
      const response = await request(policy, url, {
        signal: attempt.signal,
        cache: attempt.number > 1 ? 'reload' : 'default',
      });
      attempt.alive();
      checkStatus(response, url, [200]);
      const bytes = await readBody(response, url, PART, attempt, (part) => (this.transfer.fetchedBytes += part.length));
      if (bytes.length < least)
        throw new BlockError('short', `${url} holds ${bytes.length} bytes where ${least} were expected`, url);
      return bytes;
    });
  }
}

/** Whether an address is that of an image in parts, going by its name. */
export function isParts(url: string): boolean {
  return /\.meta$/i.test(url.replace(/[?#].*$/, ''));
}
