import type { FetchHelper } from './fetch-helper.ts';
import { BlockError } from './types.ts';

/** The part of `fetch` that is used here; a test, or Node for `file:` addresses, puts its own in. */
export type Fetch = (url: string, init?: RequestInit) => Promise<Response>;

/** How hard to try. Times are milliseconds. */
export interface FetchPolicy {
  fetch: Fetch;
  /** Another thread that fetches, unpacks and checks whole files and chunks. */
  helper?: FetchHelper;
  /** Of these requests among the browser's others. */
  priority?: RequestPriority;
  /** Attempts in all, the first one included. */
  attempts: number;
  /** Pause before the second attempt; doubles from there up to `maxDelay`. */
  baseDelay: number;
  maxDelay: number;
  /** An attempt that brings no byte for this long has failed. */
  stallTimeout: number;
  /** Told of every attempt that failed and will be made again. */
  onRetry?: (error: BlockError, attempt: number) => void;
}

export function fetchPolicy(changes: Partial<FetchPolicy> = {}): FetchPolicy {
  return {
    fetch: (url, init) => globalThis.fetch(url, init),
    attempts: 6,
    baseDelay: 250,
    maxDelay: 4000,
    stallTimeout: 20_000,
    ...changes,
  };
}

/** The same for what nobody waits for: one attempt. */
export function aheadPolicy(policy: FetchPolicy): FetchPolicy {
  return { ...policy, attempts: 1, priority: 'low' };
}

/** One attempt: its signal, and `alive`, to be called whenever bytes arrive. */
export interface Attempt {
  readonly signal: AbortSignal;
  readonly number: number;
  alive(): void;
}

/**
 * Makes attempts with exponential back-off until one succeeds. Settles even when `fetch` ignores its signal.
 * @throws BlockError the last attempt's; code `aborted` as soon as `signal` aborts
 */
export async function withRetry<T>(
  policy: FetchPolicy,
  url: string,
  signal: AbortSignal | undefined,
  work: (attempt: Attempt) => Promise<T>,
): Promise<T> {
  for (let number = 1; ; number++) {
    if (signal?.aborted) throw new BlockError('aborted', `stopped before ${url} was read`, url);
    try {
      return await once(policy, url, signal, number, work);
    } catch (cause) {
      const error = asBlockError(cause, url);
      if (error.code === 'aborted') throw error;
      if (number >= (error.lasting ? Math.min(3, policy.attempts) : policy.attempts))
        throw number > 1 ? afterAttempts(error, number) : error;
      policy.onRetry?.(error, number);
      // Up to a quarter of jitter, so that many waiting blocks do not come back in one burst.
      const delay = Math.min(policy.maxDelay, policy.baseDelay * 2 ** (number - 1));
      await pause(delay * (1 + Math.random() / 4), signal);
    }
  }
}

async function once<T>(
  policy: FetchPolicy,
  url: string,
  signal: AbortSignal | undefined,
  number: number,
  work: (attempt: Attempt) => Promise<T>,
): Promise<T> {
  const controller = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  let fail: (error: BlockError) => void = () => undefined;
  const failed = new Promise<never>((_, reject) => (fail = reject));
  const giveUp = (error: BlockError): void => {
    fail(error);
    controller.abort(error);
  };
  const alive = (): void => {
    clearTimeout(timer);
    timer = setTimeout(
      () =>
        giveUp(
          new BlockError(
            'timeout',
            `${url} sent nothing for ${policy.stallTimeout / 1000} seconds; check the connection and the server`,
            url,
          ),
        ),
      policy.stallTimeout,
    );
  };
  const onAbort = (): void => giveUp(new BlockError('aborted', `stopped while ${url} was read`, url));
  signal?.addEventListener('abort', onAbort, { once: true });
  alive();
  try {
    const job = work({ signal: controller.signal, number, alive });
    job.catch(() => undefined);
    return await Promise.race([job, failed]);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', onAbort);
    failed.catch(() => undefined);
    // Whatever body is still under way is of no use any more.
    controller.abort();
  }
}

/** Calls `fetch` with the policy's priority; a connection that fails becomes a BlockError in words. */
export async function request(
  { fetch, priority }: Pick<FetchPolicy, 'fetch' | 'priority'>,
  url: string,
  init: RequestInit,
): Promise<Response> {
  try {
    return await fetch(url, priority ? { ...init, priority } : init);
  } catch (cause) {
    throw asBlockError(cause, url);
  }
}

/** @throws BlockError code `status` unless the answer is one of `wanted` */
export function checkStatus(response: Response, url: string, wanted: readonly number[]): void {
  if (wanted.includes(response.status)) return;
  const hint =
    response.status === 404
      ? 'is the address right, and were all files uploaded?'
      : response.status === 403 || response.status === 401
        ? 'the server wants a permission this page does not have'
        : 'try again later, or ask whoever runs the server';
  const { status } = response;
  const text = `${url} was answered with ${status} ${response.statusText}: ${hint}`;
  throw new BlockError('status', text, url, {
    lasting: status >= 400 && status < 500 && status !== 408 && status !== 429,
  });
}

/**
 * Reads a whole body.
 * @param limit most bytes to take; more is an error and ends the transfer
 */
export async function readBody(
  response: Response,
  url: string,
  limit: number,
  attempt: Attempt,
  onBytes?: (bytes: Uint8Array) => void,
): Promise<Uint8Array> {
  const reader = response.body?.getReader();
  if (!reader) return new Uint8Array(0);
  const parts: Uint8Array[] = [];
  let length = 0;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      attempt.alive();
      length += value.length;
      if (length > limit) {
        throw new BlockError(
          'long',
          `${url} sent more than the ${limit} bytes expected; the file is not the right one`,
          url,
        );
      }
      onBytes?.(value);
      parts.push(value);
    }
  } catch (cause) {
    reader.cancel().catch(() => undefined);
    throw asBlockError(cause, url);
  }
  if (parts.length === 1) return parts[0]!;
  return concat(parts, length);
}

export function concat(parts: readonly Uint8Array[], length = parts.reduce((sum, p) => sum + p.length, 0)): Uint8Array {
  const all = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

export function asBlockError(cause: unknown, url: string): BlockError {
  if (cause instanceof BlockError) return cause;
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new BlockError(
    'network',
    `${url} could not be read (${reason}); check the connection, and for another host that it allows this page (CORS)`,
    url,
    { cause },
  );
}

function afterAttempts(error: BlockError, attempts: number): BlockError {
  return new BlockError(error.code, `${error.message} (${attempts} attempts)`, error.url, {
    cause: error,
    lasting: error.lasting,
  });
}

function pause(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    signal?.addEventListener('abort', done, { once: true });
  });
}
