import { BlockError, type BlockSource, checkRange } from './types.ts';
import { asBlockError } from './fetch.ts';
import { Traffic } from '../traffic.ts';
import { ReadAhead } from './read-ahead.ts';

export interface CacheOptions {
  /** Most bytes of blocks kept in memory; at least four blocks are kept. Default 64 MiB. */
  memory?: number;
  /** Most blocks fetched ahead of a sequential reader; 0: nothing is fetched ahead of any reader. Default 8. */
  readAhead?: number;
  /** Blocks in the orders in which they are read; see `DiskManifest.programChunks`. */
  orders?: readonly (readonly number[])[];
  /**
   * Milliseconds that a fetch with no other beside it takes at most where the source counts as near: little is guessed then.
   * 0: no source does. Default 25.
   */
  near?: number;
  /** What else the guest waits for. */
  traffic?: Traffic;
  /** Most fetches under way at once. Browsers open six connections to an HTTP/1.1 server. Default 6. */
  parallel?: number;
  /** Told of every read of the guest that failed for good. */
  onError?: (error: BlockError) => void;
  /** Told when a block has come. */
  onFetch?: () => void;
}

interface Job {
  readonly block: number;
  readonly promise: Promise<Uint8Array>;
  settle: (bytes: Uint8Array) => void;
  fail: (error: BlockError) => void;
  /** Whether the guest waits for it. */
  demand: boolean;
}

/** See `CacheOptions.near`. A connection to a server elsewhere takes longer before anything comes. */
const NEAR = 25;
/** Most blocks that wait to be fetched on a guess; of older guesses the rest is forgotten. */
const MOST_GUESSES = 32;
/** Share of a slower fetch than before in what is remembered of the time that one takes. */
const SLOWER = 1 / 4;

/**
 * Blocks of a source in memory, least recently used out first. One fetch a block however many ask for it; demand goes
 * before read-ahead and prefetch, and the number of fetches under way is bounded, so that a time-out measures the
 * server and not the browser's queue. A block that nobody waits for is tried once; when it cannot be had nobody is told,
 * and nothing more is guessed until the guest has had something that it asked for.
 */
export class BlockCache {
  readonly stats = { hits: 0, misses: 0, fetches: 0 };
  private readonly blocks = new Map<number, Uint8Array>();
  private bytes = 0;
  private readonly jobs = new Map<number, Job>();
  private readonly demand: Job[] = [];
  private background: number[] = [];
  private guesses: number[] = [];
  /** The last guess failed. */
  private discouraged = false;
  /** Milliseconds that fetches with no other beside them have taken lately; undefined before the first. */
  private pace: number | undefined;
  private running = 0;
  /** Those under way that were begun without the guest's waiting for them, whether or not it has come to wait since. */
  private runningAhead = 0;
  private readonly zero: Uint8Array;
  private readonly controller = new AbortController();
  private readonly memory: number;
  private readonly parallel: number;
  private readonly traffic: Traffic;
  private readonly ahead: ReadAhead | undefined;
  /** What `ahead` has said of one read. */
  private readonly fresh: number[] = [];
  private readonly takeGuess = (block: number): void => {
    if (!this.peek(block) && !this.jobs.has(block)) this.fresh.push(block);
  };

  constructor(
    readonly source: BlockSource,
    private readonly options: CacheOptions = {},
  ) {
    this.zero = new Uint8Array(source.blockSize);
    this.memory = Math.max(options.memory ?? 64 << 20, 4 * source.blockSize);
    this.parallel = Math.max(1, options.parallel ?? 6);
    this.traffic = options.traffic ?? new Traffic();
    this.traffic.onIdle(() => this.pump());
    const count = Math.ceil(source.size / source.blockSize);
    const readAhead = options.readAhead ?? 8;
    if (readAhead)
      this.ahead = new ReadAhead(count, readAhead, options.orders, (block) => source.isZero?.(block) ?? false);
  }

  get cachedBytes(): number {
    return this.bytes;
  }

  /** Whether all of the bytes are in memory. */
  has(offset: number, length: number): boolean {
    checkRange(this.source.size, offset, length);
    const size = this.source.blockSize;
    const last = Math.floor((offset + Math.max(length, 1) - 1) / size);
    for (let i = Math.floor(offset / size); i <= last; i++) if (!this.peek(i)) return false;
    return true;
  }

  /** See `BlockDevice.readPieces`. */
  readPieces(offset: number, length: number, take: (piece: Uint8Array) => void): boolean {
    if (!this.has(offset, length)) return false;
    const size = this.source.blockSize;
    const end = offset + length;
    const first = Math.floor(offset / size);
    const last = Math.floor((offset + Math.max(length, 1) - 1) / size);
    this.stats.hits += last - first + 1;
    this.follow(first, last);
    for (let i = first; i <= last; i++)
      take(this.touch(i)!.subarray(Math.max(offset - i * size, 0), Math.min(end - i * size, size)));
    return true;
  }

  /** @throws BlockError when the source has given up */
  async read(offset: number, length: number): Promise<Uint8Array> {
    checkRange(this.source.size, offset, length);
    if (length === 0) return new Uint8Array(0);
    const size = this.source.blockSize;
    const first = Math.floor(offset / size);
    const last = Math.floor((offset + length - 1) / size);
    const wanted: (Uint8Array | Promise<Uint8Array>)[] = [];
    for (let i = first; i <= last; i++) {
      const block = this.touch(i);
      if (block) this.stats.hits++;
      else this.stats.misses++;
      wanted.push(block ?? this.need(i));
    }
    this.follow(first, last);
    this.pump();
    let got: Uint8Array[];
    try {
      got = await Promise.all(wanted);
    } catch (cause) {
      const error = asBlockError(cause, 'the disk');
      if (error.code !== 'aborted') this.options.onError?.(error);
      throw error;
    }
    if (first === last) return got[0]!.subarray(offset - first * size, offset - first * size + length);
    const out = new Uint8Array(length);
    got.forEach((block, i) => copyBlock(out, offset, block, (first + i) * size));
    return out;
  }

  /** Fetches blocks while nothing else is wanted, in this order. What memory cannot hold is left out. */
  prefetch(blocks: readonly number[]): void {
    this.ahead?.plan(blocks);
    const most = Math.floor(this.memory / 2 / this.source.blockSize);
    this.background.push(
      ...blocks.filter((b) => b >= 0 && b * this.source.blockSize < this.source.size).slice(0, most),
    );
    this.pump();
  }

  /** Ends every fetch; reads that wait reject with code `aborted`. */
  close(): void {
    this.controller.abort();
    this.background = [];
    this.guesses = [];
    for (const job of this.demand.splice(0)) this.endWithError(job, new BlockError('aborted', 'the disk was closed'));
    this.blocks.clear();
    this.bytes = 0;
  }

  private peek(block: number): Uint8Array | undefined {
    return this.blocks.get(block) ?? (this.source.isZero?.(block) ? this.zero : undefined);
  }

  private touch(block: number): Uint8Array | undefined {
    const bytes = this.blocks.get(block);
    if (!bytes) return this.peek(block);
    this.blocks.delete(block);
    this.blocks.set(block, bytes);
    return bytes;
  }

  private keep(block: number, bytes: Uint8Array): void {
    this.blocks.set(block, bytes);
    this.bytes += bytes.length;
    for (const [old, data] of this.blocks) {
      if (this.bytes <= this.memory) break;
      this.blocks.delete(old);
      this.bytes -= data.length;
      this.ahead?.gone(old);
    }
  }

  private need(block: number): Promise<Uint8Array> {
    let job = this.jobs.get(block);
    if (!job) {
      job = this.job(block, true);
      this.traffic.begin();
      if (this.controller.signal.aborted) this.endWithError(job, new BlockError('aborted', 'the disk was closed'));
      else this.demand.push(job);
    } else if (!job.demand) {
      job.demand = true;
      this.traffic.begin();
    }
    return job.promise;
  }

  private job(block: number, demand: boolean): Job {
    let settle: Job['settle'] = () => undefined;
    let fail: Job['fail'] = () => undefined;
    const promise = new Promise<Uint8Array>((resolve, reject) => {
      settle = resolve;
      fail = reject;
    });
    promise.catch(() => undefined);
    const job: Job = { block, promise, settle, fail, demand };
    this.jobs.set(block, job);
    return job;
  }

  /** The guest reads these blocks: what it may read next is fetched before everything else that it does not wait for. */
  private follow(first: number, last: number): void {
    if (!this.ahead) return;
    this.ahead.read(first, last, this.takeGuess, this.isNear);
    const { fresh } = this;
    if (!fresh.length) return;
    // As many as there may be without pushing out what the guest uses.
    const most = Math.min(MOST_GUESSES, Math.floor(this.memory / 2 / this.source.blockSize));
    this.guesses = [...new Set([...fresh, ...this.guesses])].slice(0, most);
    fresh.length = 0;
    this.pump();
  }

  /**
   * Whether blocks come about as fast as they can be unpacked and checked: from a service worker's cache, a server on the same
   * machine. Guesses gain nothing then, and what the guest waits for waits for them. So it is until the first fetch tells.
   */
  private get isNear(): boolean {
    const { near = NEAR } = this.options;
    return near > 0 && (this.pace === undefined || this.pace <= near);
  }

  private notePace(milliseconds: number): void {
    const wasNear = this.isNear;
    const before = this.pace ?? milliseconds;
    this.pace = Math.min(milliseconds, before + (milliseconds - before) * SLOWER);
    if (this.isNear && !wasNear) this.guesses = [];
  }

  private pump(): void {
    if (this.controller.signal.aborted) return;
    while (this.running < this.parallel) {
      const job = this.demand.shift() ?? this.nextAhead();
      if (!job) return;
      this.run(job);
    }
  }

  /** What is fetched without the guest's waiting for it. */
  private nextAhead(): Job | undefined {
    if (!this.guesses.length && !this.background.length) return undefined;
    // For what the guest asks for next there is always room at once; the more so while it waits for something.
    const { parallel } = this;
    const kept = Math.floor(this.traffic.waited > 0 ? parallel / 3 : parallel / 6);
    if (this.runningAhead >= parallel - kept) return undefined;
    if (this.discouraged || !this.traffic.mayGuess) {
      this.guesses = [];
      if (!this.traffic.mayGuess) this.background = [];
    }
    let block;
    while ((block = this.guesses.shift()) !== undefined)
      if (!this.peek(block) && !this.jobs.has(block)) {
        this.ahead?.guessed(block);
        return this.job(block, false);
      }
    while ((block = this.background.shift()) !== undefined)
      if (!this.peek(block) && !this.jobs.has(block)) return this.job(block, false);
    return undefined;
  }

  private run(job: Job): void {
    const size = this.source.blockSize;
    const offset = job.block * size;
    const ahead = !job.demand;
    const began = !ahead && this.running === 0 ? performance.now() : undefined;
    this.running++;
    if (ahead) {
      this.runningAhead++;
      this.traffic.beginGuess();
    }
    const done = (): void => {
      this.running--;
      if (!ahead) return;
      this.runningAhead--;
      this.traffic.endGuess();
    };
    this.source.read(offset, Math.min(size, this.source.size - offset), this.controller.signal, ahead).then(
      (bytes) => {
        done();
        if (began !== undefined) this.notePace(performance.now() - began);
        this.jobs.delete(job.block);
        if (!this.controller.signal.aborted) this.keep(job.block, bytes);
        this.stats.fetches++;
        if (job.demand) this.discouraged = false;
        job.settle(bytes);
        if (job.demand) this.traffic.end();
        this.options.onFetch?.();
        this.pump();
      },
      (cause: unknown) => {
        done();
        const guess = ahead && !this.controller.signal.aborted;
        if (guess) this.discouraged = true;
        // Where the guest has come to wait for a guess, it is now worth all attempts.
        if (guess && job.demand) this.demand.unshift(job);
        else this.endWithError(job, asBlockError(cause, 'the disk'));
        this.pump();
      },
    );
  }

  private endWithError(job: Job, error: BlockError): void {
    this.jobs.delete(job.block);
    this.ahead?.gone(job.block);
    job.fail(error);
    if (job.demand) this.traffic.end();
  }
}

/** Copies what `block`, which starts at byte `start` of the disk, has of the bytes from `offset` on into `out`. */
function copyBlock(out: Uint8Array, offset: number, block: Uint8Array, start: number): void {
  const from = Math.max(0, offset - start);
  const to = Math.min(block.length, offset + out.length - start);
  if (to > from) out.set(block.subarray(from, to), start + from - offset);
}
