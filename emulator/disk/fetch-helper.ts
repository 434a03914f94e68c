/**
 * Fetching in a thread of its own. Of the time in which a program starts for the first time, a fifth goes into getting, unpacking
 * and checking its chunks; the processor's thread has better to do.
 */
import type { Port } from '../worker.ts';
import { type Attempt, asBlockError, type Fetch } from './fetch.ts';
import { attemptJob, type FetchJob, type JobAttempt, type OnProgress } from './fetch-job.ts';
import { BlockError, type BlockErrorCode } from './types.ts';

/** To the helper. Times are milliseconds. */
export type ToFetchHelper =
  | { type: 'job'; id: number; job: FetchJob; number: number; priority?: RequestPriority }
  | { type: 'abort'; id: number };

export type FromFetchHelper =
  /** It listens. */
  | { type: 'ready' }
  /** Something has come. */
  | { type: 'progress'; id: number; loaded: number; total: number | undefined }
  | { type: 'done'; id: number; bytes: Uint8Array }
  | { type: 'failed'; id: number; error: { code: BlockErrorCode; message: string; url?: string; lasting: boolean } };

/** Between two reports of progress. */
const PROGRESS_INTERVAL = 100;
/**
 * Bytes after which a helper gives way to another one: it makes hardly any small objects, so that the collector of its garbage, which
 * are large ones, hardly ever has reason to run.
 */
const MOST_HANDLED = 8 << 20;
/** Jobs, and milliseconds, for which a helper is started. */
const BURST = 3;
const BURST_TIME = 1000;
/** From then on it may be the helper that does not answer. */
const MOST_ATTEMPTS = 2;

/** Makes attempts at jobs for who is at the other end. */
export function serveFetches(
  port: Port<ToFetchHelper, FromFetchHelper>,
  fetch: Fetch = (url, init) => globalThis.fetch(url, init),
): void {
  const running = new Map<number, AbortController>();
  port.onMessage((message) => {
    const { id } = message;
    if (message.type === 'abort') {
      running.get(id)?.abort();
      return;
    }
    const { job, number, priority } = message;
    const controller = new AbortController();
    running.set(id, controller);
    let told = 0;
    let last = { loaded: 0, total: undefined as number | undefined };
    const tell = (): void => {
      told = performance.now();
      port.post({ type: 'progress', id, ...last });
    };
    const progress: OnProgress = (loaded, total) => {
      last = { loaded, total };
      if (performance.now() - told > PROGRESS_INTERVAL) tell();
    };
    attemptJob(job, fetch, { signal: controller.signal, number, priority, alive: () => undefined }, progress).then(
      (bytes) => {
        running.delete(id);
        tell();
        // A part of a larger array cannot be handed over.
        const whole = bytes.byteLength === bytes.buffer.byteLength ? bytes : bytes.slice();
        port.post({ type: 'done', id, bytes: whole }, [whole.buffer as ArrayBuffer]);
      },
      (cause: unknown) => {
        running.delete(id);
        const { code, message, url, lasting } = asBlockError(cause, job.url);
        port.post({ type: 'failed', id, error: { code, message, url, lasting } });
      },
    );
  });
  port.post({ type: 'ready' });
}

interface Waiting {
  job: FetchJob;
  attempt: JobAttempt;
  onProgress: OnProgress;
  fetch: Fetch;
  settle: (bytes: Uint8Array | Promise<Uint8Array>) => void;
  fail: (error: BlockError) => void;
}

/** A thread that runs `serveFetches`. */
export interface HelperThread extends Port<FromFetchHelper, ToFetchHelper> {
  /** Called when it cannot be loaded, or has failed. */
  onLost(listener: () => void): void;
  terminate(): void;
}

/**
 * The other end: does what the helper does itself until that is ready, and when it has failed. A helper that has nothing
 * to do ends, for what it has fetched stays in its memory; there is another one when there is much again.
 */
export class FetchHelper {
  private thread: HelperThread | undefined;
  private ready = false;
  private failed = false;
  private lastId = 0;
  /** Bytes that the present helper has given. */
  private handled = 0;
  private readonly waiting = new Map<number, Waiting>();
  /** Jobs since a time in milliseconds, while there is no helper. */
  private recent = 0;
  private since = 0;
  private idle: ReturnType<typeof setTimeout> | undefined;

  /**
   * @param start gives undefined where there can be no other thread
   * @param longestIdle milliseconds without a job after which a helper ends
   */
  constructor(
    private readonly start: () => HelperThread | undefined,
    private readonly longestIdle = 4000,
  ) {
    this.wake();
  }

  /** As `attemptJob`. @param fetch for what is done here */
  attempt(job: FetchJob, fetch: Fetch, attempt: JobAttempt, onProgress: OnProgress): Promise<Uint8Array> {
    if (this.thread || this.isBurst()) this.wake();
    if (!this.ready || attempt.number > MOST_ATTEMPTS) return attemptJob(job, fetch, attempt, onProgress);
    const id = ++this.lastId;
    return new Promise((settle, fail) => {
      this.waiting.set(id, { job, attempt, onProgress, fetch, settle, fail });
      attempt.signal.addEventListener('abort', () => this.abort(id), { once: true });
      this.thread!.post({ type: 'job', id, job, number: attempt.number, priority: attempt.priority });
    });
  }

  /** Whether several jobs have come in a short time: for one now and then no thread is started. */
  private isBurst(): boolean {
    const now = performance.now();
    if (now - this.since > BURST_TIME) {
      this.since = now;
      this.recent = 0;
    }
    return ++this.recent >= BURST;
  }

  /** There is a helper, and it has some time again. */
  private wake(): void {
    clearTimeout(this.idle);
    this.idle = setTimeout(() => this.rest(), this.longestIdle);
    if (this.thread || this.failed) return;
    const thread = this.start();
    this.failed = !thread;
    this.thread = thread;
    thread?.onMessage((message) => {
      if (thread === this.thread) this.handle(message);
    });
    thread?.onLost(() => {
      if (thread === this.thread) this.lost();
    });
  }

  private rest(): void {
    if (this.waiting.size) return this.wake();
    this.thread?.terminate();
    this.thread = undefined;
    this.ready = false;
    this.handled = 0;
  }

  /** It can't be loaded, or has ended. What it had is done here. */
  private lost(): void {
    this.failed = true;
    this.thread?.terminate();
    this.thread = undefined;
    this.ready = false;
    for (const [id, { job, attempt, onProgress, fetch, settle }] of this.waiting) {
      this.waiting.delete(id);
      settle(attemptJob(job, fetch, attempt, onProgress));
    }
  }

  private abort(id: number): void {
    const waiting = this.waiting.get(id);
    if (!waiting) return;
    this.waiting.delete(id);
    this.thread?.post({ type: 'abort', id });
    const { url } = waiting.job;
    waiting.fail(new BlockError('aborted', `stopped while ${url} was read`, url));
  }

  private handle(message: FromFetchHelper): void {
    if (message.type === 'ready') {
      this.ready = true;
      return;
    }
    const waiting = this.waiting.get(message.id);
    // Aborted meanwhile.
    if (!waiting) return;
    switch (message.type) {
      case 'progress':
        waiting.attempt.alive();
        waiting.onProgress(message.loaded, message.total);
        return;
      case 'done':
        this.waiting.delete(message.id);
        waiting.settle(message.bytes);
        this.handled += message.bytes.length;
        if (this.handled < MOST_HANDLED || this.waiting.size) return;
        this.rest();
        this.wake();
        return;
      case 'failed': {
        this.waiting.delete(message.id);
        const { code, message: text, url, lasting } = message.error;
        waiting.fail(new BlockError(code, text, url, { lasting }));
      }
    }
  }
}

/** Makes one attempt by a helper, where there is one. */
export function attemptBy(
  policy: { readonly fetch: Fetch; readonly helper?: FetchHelper; readonly priority?: RequestPriority },
  job: FetchJob,
  attempt: Attempt,
  onProgress: OnProgress,
): Promise<Uint8Array> {
  const { fetch, helper, priority } = policy;
  const own = { ...attempt, priority };
  return helper ? helper.attempt(job, fetch, own, onProgress) : attemptJob(job, fetch, own, onProgress);
}
