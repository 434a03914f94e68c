import type { BlockCache } from './cache.ts';
import { HeldBlocks } from './held-blocks.ts';
import { type BlockDevice, BlockError, checkRange, type DiskStats, emptyStats } from './types.ts';

/** Milliseconds until a store that failed is asked again. */
const RETRY = 3000;

/** A block of an overlay: its bytes, or null when it is all zero. */
export type OverlayBlock = Uint8Array | null;

/** Where written blocks are kept: memory, or something lasting such as IndexedDB. */
export interface OverlayStore {
  /** Bytes in a block: a power of two, at least 512. */
  readonly blockSize: number;
  /** Numbers of the blocks that are kept already. Called once, first. */
  open(): Promise<Iterable<number>>;
  /** The block at once when it is in memory; `undefined` when `read` must be asked. */
  peek?(block: number): OverlayBlock | undefined;
  /** Blocks that are kept, in the order asked for. */
  read(blocks: readonly number[]): Promise<OverlayBlock[]>;
  /**
   * Keeps all of these blocks, or rejects having kept none. The arrays belong to the store from then on.
   * @param durable as after `flush`
   */
  write(blocks: ReadonlyMap<number, OverlayBlock>, durable: boolean): Promise<void>;
  /** Resolves when all that was written will outlast a crash, as far as the store can promise it. */
  flush(): Promise<void>;
  /** Milliseconds after which what nobody flushed is written all the same; absent: it need not be. */
  readonly writeBack?: number;
  /** What is kept now, whatever is written later. */
  snapshot(): Promise<OverlaySnapshot>;
  /** Whether a failure means no more than that there is no space at the moment. */
  isFull?(cause: unknown): boolean;
  close?(): void;
}

/** Blocks of an overlay at one moment. */
export interface OverlaySnapshot {
  readonly blockSize: number;
  /** Numbers of the blocks that it has. */
  blocks(): Iterable<number>;
  /** @throws Error when the store cannot be read */
  read(blocks: readonly number[]): Promise<OverlayBlock[]>;
  close(): void;
}

/** An overlay that is gone with the page; over `lower`, where there is one, which it does not change. */
export class MemoryStore implements OverlayStore {
  readonly blockSize: number;
  private blocks = new Map<number, OverlayBlock>();

  constructor(
    blockSize?: number,
    private readonly lower?: OverlaySnapshot,
  ) {
    this.blockSize = lower?.blockSize ?? blockSize ?? 4096;
  }

  async open(): Promise<Iterable<number>> {
    return new Set([...(this.lower?.blocks() ?? []), ...this.blocks.keys()]);
  }

  peek(block: number): OverlayBlock | undefined {
    return this.blocks.get(block);
  }

  read(blocks: readonly number[]): Promise<OverlayBlock[]> {
    return readLayers(this.blocks, this.lower, blocks);
  }

  async write(blocks: ReadonlyMap<number, OverlayBlock>): Promise<void> {
    for (const [block, bytes] of blocks) this.blocks.set(block, bytes);
  }

  async snapshot(): Promise<OverlaySnapshot> {
    // Blocks are never changed in place, so that the list is enough.
    const blocks = new Map(this.blocks);
    const { lower } = this;
    return {
      blockSize: this.blockSize,
      blocks: () => new Set([...(lower?.blocks() ?? []), ...blocks.keys()]),
      read: (numbers) => readLayers(blocks, lower, numbers),
      close: () => blocks.clear(),
    };
  }

  close(): void {
    this.blocks = new Map();
    this.lower?.close();
  }

  async flush(): Promise<void> {
    // Memory is as lasting as this store gets.
  }
}

async function readLayers(
  upper: ReadonlyMap<number, OverlayBlock>,
  lower: OverlaySnapshot | undefined,
  blocks: readonly number[],
): Promise<OverlayBlock[]> {
  const missing = lower ? blocks.filter((block) => !upper.has(block)) : [];
  const below = missing.length ? await lower!.read(missing) : [];
  let next = 0;
  return blocks.map((block) => upper.get(block) ?? (upper.has(block) || !lower ? null : below[next++]!));
}

export interface OverlayOptions {
  readOnly?: boolean;
  /**
   * Most bytes of written blocks; more writes fail with an I/O error instead of filling the tab. The default is for those
   * in memory: 4 GiB, where the device is known to have less than 8 GiB 2 GiB. The guest is told before that
   * (src/space-guard.ts).
   */
  limit?: number;
  /**
   * Bytes written but not yet given to the store, past which they are given to it unasked; past twice as many a write
   * waits for the store. Default 8 MiB.
   */
  dirtyLimit?: number;
  onError?: (error: BlockError) => void;
  /** There is no space; what the guest wants to have written waits until there is some. Called at every attempt. */
  onFull?: (error: BlockError) => void;
}

/** Everything an overlay holds, for a snapshot. */
export interface OverlayState {
  blockSize: number;
  blocks: [number, OverlayBlock][];
}

/**
 * A writable disk over a read-only one. Writes are taken at once into `dirty`, go to the store in batches, and are
 * looked for in that order: dirty, under way to the store, store, base.
 */
export class Overlay implements BlockDevice {
  readonly size: number;
  readonly readOnly: boolean;
  private readonly counters = emptyStats();
  private readonly blockSize: number;
  private readonly zero: Uint8Array;
  private readonly held = new HeldBlocks();
  private dirty = new Map<number, OverlayBlock>();
  private saving = new Map<number, OverlayBlock>();
  private save: Promise<void> | undefined;
  /** Numbers of the last batch that was begun, and that the store has. */
  private batch = 0;
  private saved = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;
  /** Writes that wait for the store, in their order. */
  private waiting: Promise<void> | undefined;
  private closed = false;
  private halted = false;
  /** All that is dirty was imported, and is not worth keeping without a write of the guest. */
  private quiet = false;
  /** Why the store took nothing, and until when it is only asked again by a flush. */
  private refusal: { error: BlockError; until: number } | undefined;
  /** Ends the waiting for space before its time. */
  private readonly waits = new Set<() => void>();
  /** The last unfinished write to a block that first has to read the rest of it. */
  private readonly partial = new Map<number, Promise<void>>();
  /** Most bytes of written blocks. */
  readonly limit: number;
  private readonly dirtyLimit: number;

  private constructor(
    readonly base: BlockCache,
    private readonly store: OverlayStore,
    private readonly options: OverlayOptions,
  ) {
    this.size = base.source.size;
    this.readOnly = options.readOnly ?? false;
    this.blockSize = store.blockSize;
    this.zero = new Uint8Array(this.blockSize);
    this.limit = options.limit ?? (store instanceof MemoryStore ? memoryLimit() : Infinity);
    this.dirtyLimit = options.dirtyLimit ?? 8 << 20;
  }

  static async open(base: BlockCache, store: OverlayStore, options: OverlayOptions = {}): Promise<Overlay> {
    const overlay = new Overlay(base, store, options);
    for (const block of await store.open()) overlay.held.add(block, store instanceof MemoryStore && !store.peek(block));
    return overlay;
  }

  /** Bytes of changes that are held, zeros left out. */
  get heldBytes(): number {
    return this.held.filled * this.blockSize;
  }

  /** Bytes that the store does not have yet. */
  get dirtyBytes(): number {
    return this.quiet ? 0 : (this.dirty.size + this.saving.size) * this.blockSize;
  }

  get stats(): DiskStats {
    const { transfer } = this.base.source;
    return {
      ...this.counters,
      ...this.base.stats,
      fetchedBytes: transfer?.fetchedBytes ?? 0,
      retries: transfer?.retries ?? 0,
      cachedBytes: this.base.cachedBytes,
      overlayBytes: this.held.size * this.blockSize,
    };
  }

  readPieces(offset: number, length: number, take: (piece: Uint8Array) => void): boolean {
    checkRange(this.size, offset, length);
    if (!this.inMemory(offset, length)) return false;
    this.count(length);
    const end = offset + length;
    for (let at = offset; at < end;) {
      const next = this.endOfRun(at, end);
      const block = Math.floor(at / this.blockSize);
      if (this.held.has(block)) {
        const start = block * this.blockSize;
        take((this.peek(block) ?? this.zero).subarray(at - start, next - start));
      } else this.base.readPieces(at, next - at, take);
      at = next;
    }
    return true;
  }

  private inMemory(offset: number, length: number): boolean {
    const end = offset + length;
    for (let at = offset; at < end;) {
      const next = this.endOfRun(at, end);
      const block = Math.floor(at / this.blockSize);
      if (this.held.has(block) ? this.peek(block) === undefined : !this.base.has(at, next - at)) return false;
      at = next;
    }
    return true;
  }

  /** Where the held block, or the stretch of base, ends that begins at `at`; at most `end`. */
  private endOfRun(at: number, end: number): number {
    const size = this.blockSize;
    let block = Math.floor(at / size);
    if (this.held.size === 0) return end;
    if (!this.held.has(block++)) while (block * size < end && !this.held.has(block)) block++;
    return Math.min(end, block * size);
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    checkRange(this.size, offset, length);
    this.count(length);
    if (length === 0) return new Uint8Array(0);
    const runs = this.runs(offset, length);
    if (runs.length === 1 && !runs[0]!.held) return this.base.read(offset, length);
    const out = new Uint8Array(length);
    const stored = runs.filter((run) => run.held && this.peek(run.block) === undefined);
    const parts: Promise<void>[] = [];
    if (stored.length) parts.push(this.readStored(stored, out, offset));
    for (const run of runs) {
      if (!run.held)
        parts.push(
          this.base.read(run.offset, run.length).then((bytes) => place(out, offset, run, bytes, this.blockSize)),
        );
      else {
        const bytes = this.peek(run.block);
        if (bytes) place(out, offset, run, bytes, this.blockSize);
      }
    }
    await Promise.all(parts);
    return out;
  }

  private async readStored(runs: readonly Run[], out: Uint8Array, offset: number): Promise<void> {
    const blocks = await this.fetchHeld(runs.map((run) => run.block));
    runs.forEach((run, i) => blocks[i] && place(out, offset, run, blocks[i], this.blockSize));
  }

  write(offset: number, data: Uint8Array): Promise<void> | void {
    if (this.readOnly) throw new BlockError('read-only', 'this disk is read-only');
    if (this.halted) throw new BlockError('store', 'this disk is being replaced; start the machine again');
    checkRange(this.size, offset, data.length);
    const size = this.blockSize;
    const first = Math.floor(offset / size);
    const last = Math.floor((offset + data.length - 1) / size);
    if ((this.held.filled + last - first + 1) * size > this.limit) {
      let fresh = 0;
      for (let i = first; i <= last; i++) if (!this.held.isFilled(i)) fresh++;
      if (fresh && (this.held.filled + fresh) * size > this.limit) {
        const error = new BlockError(
          'store',
          `the changes to the disk have reached their limit of ${Math.round(this.limit / 2 ** 20)} MiB; delete files in ` +
            'the guest and run "fstrim /" there, or allow more',
        );
        this.options.onError?.(error);
        throw error;
      }
    }
    this.counters.writes++;
    this.counters.writtenBytes += data.length;
    // The guest may not run ahead of a slow store, or one that is full, without bound.
    if (this.waiting || this.dirty.size * size > 2 * this.dirtyLimit) return this.writeLater(offset, data.slice());
    return this.writeNow(offset, data);
  }

  private writeLater(offset: number, data: Uint8Array): Promise<void> {
    const earlier = this.waiting;
    const work = (async () => {
      await earlier?.catch(() => undefined);
      while (this.dirty.size * this.blockSize > 2 * this.dirtyLimit) await this.patiently(() => this.startSave(false));
      if (!this.halted) await this.writeNow(offset, data);
    })();
    this.waiting = work;
    const forget = (): void => {
      if (this.waiting === work) this.waiting = undefined;
    };
    work.then(forget, forget);
    return work;
  }

  private writeNow(offset: number, data: Uint8Array): Promise<void> | void {
    this.quiet = false;
    const size = this.blockSize;
    const end = offset + data.length;
    let waits: Promise<void>[] | undefined;
    for (let i = Math.floor(offset / size); i * size < end; i++) {
      const from = Math.max(offset, i * size);
      const to = Math.min(end, (i + 1) * size, this.size);
      const wait = this.put(i, from - i * size, data.slice(from - offset, to - offset));
      if (wait) (waits ??= []).push(wait);
    }
    this.saveLater();
    return waits ? Promise.all(waits).then(() => undefined) : undefined;
  }

  /**
   * Everything that was written before, and answered, is in the store afterwards, in one batch or several. The guest's:
   * where there is no space it waits for some, for at an error a file system would lose what it writes.
   */
  async flush(): Promise<void> {
    this.counters.flushes++;
    await this.patiently(() => this.keep());
  }

  /** The same for others. @throws BlockError where there is no space, too */
  async keep(): Promise<void> {
    await this.settle(true);
    try {
      await this.store.flush();
    } catch (cause) {
      throw this.storeError(cause);
    }
  }

  /** Whether requests of the guest wait for space. */
  get waitsForSpace(): boolean {
    return this.waits.size > 0;
  }

  private async patiently(work: () => Promise<void>): Promise<void> {
    for (;;)
      try {
        return await work();
      } catch (cause) {
        if (this.closed || this.halted || !this.isFull(cause)) throw cause;
        await new Promise<void>((resolve) => {
          const end = (): void => {
            clearTimeout(timer);
            this.waits.delete(end);
            resolve();
          };
          const timer = setTimeout(end, RETRY);
          this.waits.add(end);
        });
      }
  }

  private isFull(error: unknown): boolean {
    return this.store.isFull?.(error instanceof BlockError ? (error.cause ?? error) : error) ?? false;
  }

  /** Gives the store all that has been written so far; later writes are not waited for. */
  private async settle(durable: boolean): Promise<void> {
    await Promise.all(this.partial.values());
    if (this.quiet) return;
    const wanted = this.dirty.size ? this.batch + 1 : this.batch;
    while (this.saved < wanted && (this.save || this.dirty.size)) await this.startSave(durable);
  }

  /** What was imported goes to the store with the next flush, even if the guest writes nothing. */
  keepImported(): void {
    this.quiet = false;
  }

  /** The disk as it is now, whatever is written later. @throws BlockError when the store fails */
  async snapshot(): Promise<OverlaySnapshot> {
    this.keepImported();
    await this.settle(false);
    return this.store.snapshot();
  }

  discard(offset: number, length: number): void {
    if (this.readOnly || this.halted) return;
    checkRange(this.size, offset, length);
    const size = this.blockSize;
    const end = Math.floor((offset + length) / size);
    for (let i = Math.ceil(offset / size); i < end; i++) {
      if (this.partial.has(i)) continue;
      if (this.held.has(i) || !this.base.source.isZero?.(Math.floor((i * size) / this.base.source.blockSize))) {
        this.quiet = false;
        this.held.add(i, true);
        this.dirty.set(i, null);
      }
    }
    this.saveLater();
  }

  /** Everything written since the disk was made. @throws BlockError when the store cannot be read */
  async exportState(): Promise<OverlayState> {
    await Promise.all(this.partial.values());
    const blocks: [number, OverlayBlock][] = [];
    const stored: number[] = [];
    for (const block of this.held) {
      const bytes = this.peek(block);
      if (bytes === undefined) stored.push(block);
      else blocks.push([block, bytes]);
    }
    const bytes = await this.store.read(stored);
    stored.forEach((block, i) => blocks.push([block, bytes[i] ?? null]));
    return { blockSize: this.blockSize, blocks };
  }

  /**
   * Puts written blocks over the base, as `exportState` gave them, on an overlay nothing was written to.
   * @param quiet the store gets them only together with the first write of the guest: as long as there is none, the same
   * blocks can be imported again the next time
   */
  importState(state: OverlayState, quiet = false): void {
    if (this.held.size) throw new BlockError('store', 'a saved disk can only be restored over an unwritten one');
    for (const [block, bytes] of state.blocks) {
      const offset = block * state.blockSize;
      if (bytes && bytes.length !== state.blockSize) throw new BlockError('store', 'the saved disk is damaged');
      checkRange(this.size, offset, Math.min(state.blockSize, this.size - offset));
      if (state.blockSize === this.blockSize) {
        this.held.add(block, bytes === null);
        this.dirty.set(block, bytes);
      } else
        throw new BlockError('store', `the saved disk has blocks of ${state.blockSize} bytes, not ${this.blockSize}`);
    }
    this.quiet = quiet;
    if (!quiet) this.saveLater();
  }

  /** The store was filled anew, under a machine that has not run yet. */
  async reopen(): Promise<void> {
    if (this.dirty.size || this.save || this.partial.size)
      throw new BlockError('store', 'a disk that is in use cannot be given other contents');
    this.held.clear();
    for (const block of await this.store.open()) this.held.add(block, false);
  }

  /** Nothing more is taken, and what the store does not have is forgotten: the store is about to be replaced. */
  async halt(): Promise<void> {
    this.halted = true;
    clearTimeout(this.timer);
    for (const end of this.waits) end();
    await this.save?.catch(() => undefined);
    clearTimeout(this.timer);
    this.dirty.clear();
  }

  /** What was not flushed is lost. */
  close(): void {
    this.closed = true;
    clearTimeout(this.timer);
    for (const end of this.waits) end();
    this.base.close();
    this.store.close?.();
  }

  private count(length: number): void {
    this.counters.reads++;
    this.counters.readBytes += length;
  }

  /** The block when it is in memory: bytes or null for zeros; undefined when only the store has it. */
  private peek(block: number): OverlayBlock | undefined {
    let bytes = this.dirty.get(block);
    if (bytes === undefined) bytes = this.saving.get(block);
    if (bytes === undefined) bytes = this.store.peek?.(block);
    return bytes;
  }

  private async fetchHeld(blocks: readonly number[]): Promise<OverlayBlock[]> {
    try {
      return await this.store.read(blocks);
    } catch (cause) {
      throw this.storeError(cause);
    }
  }

  /** Writes into one block; a promise when its other bytes have to be read first, or an earlier write still waits. */
  private put(block: number, at: number, data: Uint8Array): Promise<void> | undefined {
    const earlier = this.partial.get(block);
    if (!earlier && this.putNow(block, at, data)) return undefined;
    const work = (async () => {
      await earlier?.catch(() => undefined);
      if (this.putNow(block, at, data)) return;
      const offset = block * this.blockSize;
      const whole = new Uint8Array(this.blockSize);
      const old = this.held.has(block)
        ? (this.peek(block) ?? (await this.fetchHeld([block]))[0])
        : await this.base.read(offset, Math.min(this.blockSize, this.size - offset));
      if (old) whole.set(old);
      whole.set(data, at);
      this.held.add(block, false);
      this.dirty.set(block, whole);
    })();
    this.partial.set(block, work);
    const forget = (): void => {
      if (this.partial.get(block) === work) this.partial.delete(block);
    };
    work.then(forget, forget);
    return work;
  }

  private putNow(block: number, at: number, data: Uint8Array): boolean {
    if (data.length === this.blockSize) {
      this.held.add(block, false);
      this.dirty.set(block, data);
      return true;
    }
    // A copy even where it is dirty already: a reader may still hold the old array.
    const whole = new Uint8Array(this.blockSize);
    if (this.held.has(block)) {
      const old = this.peek(block);
      if (old === undefined) return false;
      if (old) whole.set(old);
    } else {
      const offset = block * this.blockSize;
      let done = 0;
      const take = (piece: Uint8Array): void => {
        whole.set(piece, done);
        done += piece.length;
      };
      if (!this.base.readPieces(offset, Math.min(this.blockSize, this.size - offset), take)) return false;
    }
    whole.set(data, at);
    this.held.add(block, false);
    this.dirty.set(block, whole);
    return true;
  }

  /** Sees to it that what is dirty reaches the store even if nobody flushes. */
  private saveLater(): void {
    if (this.dirty.size * this.blockSize > this.dirtyLimit) this.startSave(false).catch(() => undefined);
    else if (this.store.writeBack !== undefined && this.timer === undefined && this.dirty.size)
      this.armTimer(this.store.writeBack);
  }

  private armTimer(delay: number): void {
    if (this.closed || this.halted) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.timer = undefined;
      if (this.dirty.size) this.startSave(false).catch(() => undefined);
    }, delay);
  }

  /** Gives what is dirty to the store, one batch at a time: the store always has the disk as it was at one moment. */
  private startSave(durable: boolean): Promise<void> {
    if (this.save) return this.save;
    if (!durable && this.refusal && performance.now() < this.refusal.until) return Promise.reject(this.refusal.error);
    this.saving = this.dirty;
    this.dirty = new Map();
    const batch = ++this.batch;
    this.save = this.store.write(this.saving, durable).then(
      () => {
        this.saving = new Map();
        this.save = undefined;
        this.saved = batch;
        this.refusal = undefined;
        this.saveLater();
      },
      (cause: unknown) => {
        // Nothing was kept: it stays dirty, under what was written since.
        for (const [block, bytes] of this.dirty) this.saving.set(block, bytes);
        this.dirty = this.saving;
        this.saving = new Map();
        this.save = undefined;
        const error = this.storeError(cause);
        this.refusal = { error, until: performance.now() + RETRY };
        // Space may be freed: it is tried again without being asked.
        if (this.store.writeBack !== undefined) this.armTimer(RETRY);
        throw error;
      },
    );
    return this.save;
  }

  private storeError(cause: unknown): BlockError {
    const reason = cause instanceof Error ? cause.message : String(cause);
    const error =
      cause instanceof BlockError
        ? cause
        : new BlockError(
            'store',
            cause instanceof Error && cause.name === 'StorageError'
              ? reason
              : `changes to the disk could not be kept (${reason}); free some space`,
            undefined,
            { cause },
          );
    const { onError, onFull } = this.options;
    if (this.isFull(error)) onFull?.(error);
    else onError?.(error);
    return error;
  }

  /** Cuts a range into single held blocks and the stretches of base between them. */
  private runs(offset: number, length: number): Run[] {
    const runs: Run[] = [];
    const end = offset + length;
    for (let at = offset; at < end;) {
      const block = Math.floor(at / this.blockSize);
      const next = this.endOfRun(at, end);
      runs.push({ held: this.held.has(block), block, offset: at, length: next - at });
      at = next;
    }
    return runs;
  }
}

/** Bytes of changes that may be held in memory. Chromium tells how much the device has, in GiB; others do not. */
function memoryLimit(): number {
  const { deviceMemory } = (globalThis.navigator ?? {}) as { deviceMemory?: number };
  return deviceMemory !== undefined && deviceMemory < 8 ? 2 ** 31 : 2 ** 32;
}

interface Run {
  held: boolean;
  block: number;
  offset: number;
  length: number;
}

/** Copies a run into the answer: `bytes` is the whole block for a held run, else exactly the run. */
function place(out: Uint8Array, start: number, run: Run, bytes: Uint8Array, blockSize: number): void {
  const from = run.held ? run.offset - run.block * blockSize : 0;
  out.set(bytes.subarray(from, from + run.length), run.offset - start);
}
