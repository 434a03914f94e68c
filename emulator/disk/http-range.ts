import {
  aheadPolicy,
  asBlockError,
  checkStatus,
  type FetchPolicy,
  fetchPolicy,
  readBody,
  request,
  withRetry,
} from './fetch.ts';
import { BlockError, type BlockSource, checkRange, type TransferStats } from './types.ts';

/** A raw disk image on any server that answers Range requests. */
export class HttpRangeSource implements BlockSource {
  readonly blockSize = 131072;
  readonly transfer: TransferStats = { fetchedBytes: 0, retries: 0 };

  private constructor(
    readonly url: string,
    readonly size: number,
    private readonly fileSize: number,
    private readonly version: string | null,
    /** What tells this image from a later one at the same address; null when the server gives nothing. */
    readonly validator: string | null,
    private readonly policy: FetchPolicy,
  ) {}

  /**
   * Asks the server for the image's size, and finds out whether it honours Range.
   * @throws BlockError code `range-ignored` when it does not
   */
  static async open(
    url: string,
    options: { policy?: Partial<FetchPolicy>; signal?: AbortSignal } = {},
  ): Promise<HttpRangeSource> {
    const policy = fetchPolicy(options.policy);
    const { fileSize, version, validator } = await withRetry(policy, url, options.signal, async ({ signal }) => {
      const response = await request(policy, url, { headers: { Range: 'bytes=0-511' }, signal });
      checkPartial(response, url);
      const range = contentRange(response, url);
      if (range) {
        if (range.first !== 0 || range.total === undefined) throw wrongRange(url, 0, 512, response);
        return { fileSize: range.total, version: versionOf(response), validator: validatorOf(response) };
      }
      // Another host that does not expose Content-Range; Content-Length of the whole is always readable.
      const head = await request(policy, url, { method: 'HEAD', signal });
      checkStatus(head, url, [200]);
      const total = Number(head.headers.get('content-length') ?? NaN);
      if (!Number.isSafeInteger(total))
        throw new BlockError(
          'range-wrong',
          `${url}: the server tells the image's size neither in Content-Range nor in Content-Length; let it send ` +
            'Access-Control-Expose-Headers: Content-Range',
          url,
        );
      return { fileSize: total, version: versionOf(response), validator: validatorOf(response) };
    });
    if (fileSize < 512) throw new BlockError('short', `${url} has only ${fileSize} bytes; it is not a disk image`, url);
    return new HttpRangeSource(url, fileSize - (fileSize % 512), fileSize, version, validator, policy);
  }

  async read(offset: number, length: number, signal?: AbortSignal, ahead = false): Promise<Uint8Array> {
    checkRange(this.size, offset, length);
    if (length === 0) return new Uint8Array(0);
    const policy: FetchPolicy = {
      ...(ahead ? aheadPolicy(this.policy) : this.policy),
      onRetry: (error, attempt) => {
        this.transfer.retries++;
        this.policy.onRetry?.(error, attempt);
      },
    };
    return withRetry(policy, this.url, signal, async (attempt) => {
      const response = await request(policy, this.url, {
        headers: { Range: `bytes=${offset}-${offset + length - 1}` },
        signal: attempt.signal,
        // A second attempt must not be given the same wrong answer by the browser's cache.
        cache: attempt.number > 1 ? 'reload' : 'default',
      });
      attempt.alive();
      checkPartial(response, this.url);
      const range = contentRange(response, this.url);
      if (range && (range.first !== offset || range.last !== offset + length - 1))
        throw wrongRange(this.url, offset, length, response);
      const version = versionOf(response);
      if (
        (range?.total !== undefined && range.total !== this.fileSize) ||
        (version !== null && this.version !== null && version !== this.version)
      )
        throw new BlockError(
          'changed',
          `${this.url} was replaced on the server while it was in use; reload the page to start with the new image`,
          this.url,
        );
      const bytes = await readBody(
        response,
        this.url,
        length,
        attempt,
        (part) => (this.transfer.fetchedBytes += part.length),
      );
      if (bytes.length !== length)
        throw new BlockError(
          'short',
          `${this.url} gave ${bytes.length} bytes at ${offset} where ${length} were expected; the connection was cut or ` +
            'the server compresses the image',
          this.url,
        );
      return bytes;
    });
  }
}

function checkPartial(response: Response, url: string): void {
  if (response.status === 200) {
    response.body?.cancel().catch(() => undefined);
    throw new BlockError(
      'range-ignored',
      `${url}: the server ignores Range requests (it sends the whole image); host the image where they are honoured, ` +
        'or use the chunk directory, which any static server can host',
      url,
    );
  }
  checkStatus(response, url, [206]);
}

function contentRange(response: Response, url: string): { first: number; last: number; total?: number } | undefined {
  const value = response.headers.get('content-range');
  if (value === null) return undefined;
  const match = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(value.trim());
  if (!match) throw asBlockError(new Error(`Content-Range: ${value} has no meaning`), url);
  return { first: +match[1]!, last: +match[2]!, total: match[3] === '*' ? undefined : +match[3]! };
}

function wrongRange(url: string, offset: number, length: number, response: Response): BlockError {
  return new BlockError(
    'range-wrong',
    `${url}: bytes ${offset} to ${offset + length - 1} were asked for, and the server answered with ` +
      `"${response.headers.get('content-range')}"; it does not serve ranges rightly`,
    url,
  );
}

/** Weak tags are left out: some servers make a new one for every answer. */
function versionOf(response: Response): string | null {
  const tag = response.headers.get('etag');
  return tag !== null && !tag.startsWith('W/') ? tag : null;
}

/** A strong tag, else the date; a weak tag is still better than nothing. */
function validatorOf(response: Response): string | null {
  return versionOf(response) ?? response.headers.get('last-modified') ?? response.headers.get('etag');
}
