import type { Fetch } from '../disk/fetch.ts';
import type { BaseIdentity } from '../disk/identity.ts';
import type { DiskManifest } from '../disk/manifest.ts';
import type { DiskBase, OpenDisk } from '../disk/open.ts';
import { BlockError } from '../disk/types.ts';
import { MemoryStore, type OverlayBlock, type OverlayState, type OverlayStore } from '../disk/overlay.ts';
import { BlockMap } from './block-map.ts';
import type { StateRecord } from './database.ts';
import { readDiff, writeDiff, writeImage } from './diff.ts';
import { asStorageError, StorageError } from './error.ts';
import { baseChangedError, IdbStore } from './idb-store.ts';
import { SnapshotReader } from './reader.ts';
import { Reserve } from './reserve.ts';
import { dropSuspended, readSuspended, saveSuspended } from './suspended.ts';
import type { StorageSpec, StorageStatus } from './types.ts';

/** How often the page is told how it stands, when something changed, and the browser asked for its quota. Milliseconds. */
const STATUS_INTERVAL = 1000;
const ESTIMATE_INTERVAL = 5000;
/** How often space is looked for after there was none. Milliseconds. */
const REFILL_INTERVAL = 10_000;
/** Chunks of a kept base that are looked for before it is offered. */
const PROBES = 3;
/** Blocks in one transaction. */
const BATCH = 1024;
/** Bytes before the end of what may be held in memory at which people are told: the guest sees its end then. */
const NEAR_LIMIT = 72 << 20;
/** How long a machine that ends may take to write out its last changes. Milliseconds. */
const LAST_WRITE = 5000;

export interface StorageEvents {
  status(status: StorageStatus): void;
  /** Nothing can be written any more: the machine must stop. */
  lost(error: StorageError): void;
  /** Another tab asks for the storage: the machine must stop, and `close` be called. */
  yield(): void;
}

/** All that one machine has to do with the storage of its disk. */
export class DiskStorage {
  private store: IdbStore | undefined;
  private disk: OpenDisk | undefined;
  private reason: string | undefined;
  private problem: StorageError | undefined;
  private warning: string | undefined;
  private estimate: { quota?: number; usage?: number } = {};
  private estimated = -Infinity;
  private readonly reserve = new Reserve();
  /** Undefined before the first attempt to fill it, and for ever where that cannot be. */
  private reserved: boolean | undefined;
  private filled = -Infinity;
  private timer: ReturnType<typeof setInterval> | undefined;
  private told = '';
  private resume: StorageStatus['resume'];
  private closed = false;

  constructor(
    private readonly spec: StorageSpec,
    private readonly events: StorageEvents,
    private readonly fetch: Fetch = (url, init) => globalThis.fetch(url, init),
    /** The disk is to have other contents than are stored: see `begin`. */
    private readonly restoring = false,
  ) {}

  /** For `openDisk`. @throws StorageError */
  async openStore(base: DiskBase): Promise<{ store: OverlayStore; kept?: { manifest: DiskManifest; url: string } }> {
    const opened = await this.choose(base).catch((cause: unknown) => {
      if (!(cause instanceof StorageError)) throw cause;
      // A machine that forgets is better than none; the page says so.
      if (cause.code === 'storage-unavailable') this.reason = cause.message;
      else if (cause.code === 'storage-base-changed' && this.restoring)
        this.reason =
          'this machine was saved with another disk than the one whose changes are kept here; what it writes goes ' +
          'with it, unless it is saved again';
      else throw cause;
      return { store: new MemoryStore() };
    });
    if (this.spec.diff) await this.putDiff(opened.store, base, this.spec.diff);
    return opened;
  }

  private async choose(
    base: DiskBase,
  ): Promise<{ store: OverlayStore; kept?: { manifest: DiskManifest; url: string } }> {
    const { key, mode } = this.spec;
    if (key === undefined) return { store: new MemoryStore() };
    const identity = await base.identity();
    const reachable = (stored: BaseIdentity, manifest: DiskManifest | undefined): Promise<boolean> =>
      this.reachable(stored, manifest, base);
    if (mode === 'read-only') {
      if (this.restoring) return { store: new MemoryStore() };
      const lower = await this.openReader(key, identity, reachable);
      const kept = lower && keptBase(lower.record.base, lower.manifest, identity);
      return { store: new MemoryStore(undefined, lower), kept };
    }
    this.store = await IdbStore.open({
      key,
      base: identity,
      manifest: base.manifest,
      takeOver: mode === 'take-over',
      onBaseChange: this.spec.base,
      reachable,
      onFull: () => this.useReserve(),
      onUnprotected: (cause) => this.unprotected(cause),
      onYield: () => this.events.yield(),
      onLost: (error) => this.events.lost(error),
    });
    try {
      return { store: this.store, kept: keptBase(this.store.base, this.store.manifest, identity) };
    } catch (cause) {
      this.store.close();
      throw cause;
    }
  }

  private async openReader(
    key: string,
    identity: BaseIdentity,
    reachable: (base: BaseIdentity, manifest: DiskManifest | undefined) => Promise<boolean>,
  ): Promise<SnapshotReader | undefined> {
    let reader: SnapshotReader;
    try {
      reader = await SnapshotReader.open(key);
    } catch (cause) {
      // Nothing was stored yet.
      if (cause instanceof StorageError && cause.code === 'storage-lost') return undefined;
      throw cause;
    }
    const { record, manifest } = reader;
    if (record.base.id === identity.id || record.keptOver === identity.id || this.spec.base === 'keep') return reader;
    const canKeep = await reachable(record.base, manifest).catch(() => false);
    reader.close();
    if (this.spec.base === 'reset' || record.generation === 0) return undefined;
    throw baseChangedError(record, identity, canKeep);
  }

  /** Whether chunks that only the old base has are still on the server (or in a cache on the way). */
  private async reachable(
    stored: BaseIdentity,
    manifest: DiskManifest | undefined,
    current: DiskBase,
  ): Promise<boolean> {
    if (!manifest || stored.url === undefined) return false;
    const now = new Set(current.manifest?.chunks);
    const gone = [...new Set(manifest.chunks)].filter((chunk) => chunk !== null && !now.has(chunk));
    const step = Math.max(1, Math.floor(gone.length / PROBES));
    for (let i = 0; i < gone.length && i < PROBES * step; i += step) {
      const response = await this.fetch(new URL(`chunks/${gone[i]!}`, stored.url).href);
      await response.body?.cancel();
      if (!response.ok) return false;
    }
    return true;
  }

  /** @param device the overlay that stands on the store */
  attach(disk: OpenDisk): void {
    this.disk = disk;
    this.timer = setInterval(() => void this.tell(), STATUS_INTERVAL);
    void this.tell();
  }

  /**
   * Gives the disk the contents that a saved machine had. Where changes are kept, these take the place of what was kept,
   * all at once. The machine must not have run yet.
   * @throws StorageError when there is no space; then nothing has changed
   */
  async begin({ blockSize, blocks }: OverlayState): Promise<void> {
    const { store } = this;
    const { device } = this.opened();
    if (!store) {
      device.importState({ blockSize, blocks });
      return;
    }
    if (blockSize !== store.blockSize) throw otherBlocks(blockSize);
    await fillAnew(store, batched(blocks));
    await device.reopen();
    void this.tell();
  }

  /** A new log could not be begun. */
  private unprotected(cause: unknown): void {
    if (this.closed) return;
    this.warning =
      'changes are kept, but a browser that ends abnormally now might lose them: it could not begin a new log for them ' +
      `(${asStorageError(cause, this.spec.key ?? '').message}). Export them from time to time, or load the page again ` +
      'when that is mended';
    void this.tell();
  }

  /** Changes that are held in memory have come near to what they may take. */
  private get memoryFull(): StorageError | undefined {
    const { device } = this.disk ?? {};
    if (this.store || !device || device.size <= device.limit || device.heldBytes < device.limit - NEAR_LIMIT)
      return undefined;
    return new StorageError(
      'storage-full',
      `the changes to the disk are held in memory and take all of the ${Math.round(device.limit / 2 ** 20)} MiB that ` +
        'they may: delete files in the guest and run "fstrim /" there, or give the machine a storage key, so that the ' +
        'browser keeps them',
    );
  }

  /** Called for every error of the disk. */
  failed(error: unknown): void {
    if (!(error instanceof BlockError) || error.code !== 'store' || !this.store || this.closed) return;
    this.problem = asStorageError(error.cause ?? error, this.spec.key ?? '');
    void this.tell();
  }

  /** Called at every attempt to write where there is no space, even of the reserve. */
  full(error: BlockError): void {
    if (this.closed) return;
    const { message } = asStorageError(error.cause ?? error, this.spec.key ?? '');
    this.problem = new StorageError(
      'storage-full',
      `${message}. Until there is space the machine waits with what it writes`,
      { cause: error },
    );
    void this.tell();
  }

  /** @throws StorageError while requests of the guest wait for space: a machine cannot be saved in the middle of them */
  checkSpace(): void {
    if (this.disk?.device.waitsForSpace) throw this.problem ?? asStorageError(quotaError(), this.spec.key ?? '');
  }

  status(): StorageStatus {
    const { store, spec } = this;
    if (this.problem && store && this.disk?.device.dirtyBytes === 0 && this.reserved !== false)
      this.problem = undefined;
    const problem = this.problem ?? this.memoryFull;
    return {
      key: spec.key,
      mode: store ? 'exclusive' : spec.key !== undefined && spec.mode === 'read-only' ? 'read-only' : 'ephemeral',
      reason: this.reason,
      diskBytes: this.disk?.device.size,
      storedBytes: store ? store.storedBytes : (this.disk?.device.heldBytes ?? 0),
      dirtyBytes: store ? (this.disk?.device.dirtyBytes ?? 0) : 0,
      writtenBytes: store?.writtenBytes ?? 0,
      ...this.estimate,
      suspendedBytes: store?.state?.bytes,
      resume: this.resume,
      limitBytes: store ? undefined : this.disk?.device.limit,
      warning: this.warning,
      problem: problem && { code: problem.code, message: problem.message },
    };
  }

  /** The suspended machine that fits the disk. */
  suspended(): { record: StateRecord; stream: ReadableStream<Uint8Array> } | undefined {
    const record = this.spec.resume ? this.store?.state : undefined;
    if (this.spec.resume) this.resume ??= 'none';
    return record && { record, stream: readSuspended(this.store!) };
  }

  resumed(): void {
    this.resume = 'resumed';
  }

  /** The suspended machine could not be used, for this reason. */
  async dropSuspended(cause: unknown): Promise<void> {
    this.resume = cause instanceof Error ? cause.message : String(cause);
    if (this.store) await dropSuspended(this.store).catch(() => undefined);
  }

  /**
   * Keeps a machine, which is held until this is done.
   * @param state taken while nothing was under way to the disk
   * @throws StorageError
   */
  async suspend(state: AsyncIterable<Uint8Array>, about: Pick<StateRecord, 'memory' | 'deterministic'>): Promise<void> {
    const { store, disk } = this;
    if (!store || !disk)
      throw new StorageError(
        'storage-unavailable',
        'a machine can only be suspended where the changes to its disk are kept: give it a storage key',
      );
    disk.device.keepImported();
    await disk.device.keep();
    await saveSuspended(store, state, about);
    void this.tell();
  }

  async exportDiff(): Promise<ReadableStream<Uint8Array>> {
    const disk = this.opened();
    const base = this.store?.base ?? (await disk.identity());
    return writeDiff(base, await disk.device.snapshot());
  }

  async exportImage(): Promise<ReadableStream<Uint8Array>> {
    const disk = this.opened();
    return writeImage(disk.cache.source, await disk.device.snapshot());
  }

  /** Replaces the changes by those of a diff. The machine must be held, and must not go on afterwards. */
  async importDiff(diff: Blob): Promise<void> {
    const { store } = this;
    if (!store)
      throw new StorageError(
        'storage-unavailable',
        'changes can only be imported where they are kept: give the machine a storage key, or start it with the diff',
      );
    await importInto(store, diff, () => this.disk?.device.halt());
  }

  /** Drops all changes. The machine must be held, and must not go on afterwards. */
  async reset(): Promise<void> {
    const { store } = this;
    if (!store) return;
    await this.disk?.device.halt();
    await store.unstage();
    await store.replace(store.stagedSet, [], 0);
  }

  /** The end: writes out what there is, as far as it can be done in time. A promise that never rejects, if it takes any. */
  close(): Promise<void> | undefined {
    if (this.closed) return undefined;
    this.closed = true;
    clearInterval(this.timer);
    const { device } = this.disk ?? {};
    if (!this.store || !device) return undefined;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, LAST_WRITE)));
    return Promise.race([device.keep().catch(() => undefined), late]).finally(() => clearTimeout(timer));
  }

  private opened(): OpenDisk {
    if (!this.disk) throw new Error('this machine has no disk');
    return this.disk;
  }

  private async putDiff(store: OverlayStore, base: DiskBase, diff: Blob): Promise<void> {
    if (store instanceof IdbStore) {
      if (store.storedBytes || store.generation)
        throw new StorageError(
          'storage-not-empty',
          `there are changes stored as "${this.spec.key ?? ''}" already: delete them, or start without the given ones`,
        );
      return importInto(store, diff);
    }
    const { header, batches } = await readDiff(diff);
    checkBase(header.base, await base.identity());
    if (header.blockSize !== store.blockSize) throw otherBlocks(header.blockSize);
    for await (const batch of batches) await store.write(new Map<number, OverlayBlock>(batch), false);
  }

  private async useReserve(): Promise<boolean> {
    const freed = await this.reserve.release();
    if (freed) {
      this.reserved = false;
      this.filled = performance.now();
      this.problem = asStorageError(quotaError(), this.spec.key ?? '');
      void this.tell();
    }
    return freed;
  }

  /** Puts space by once there is something to lose, and again after it was used. */
  private async fillReserve(now: number): Promise<void> {
    if (!this.store?.generation || this.reserved === true || now < this.filled + REFILL_INTERVAL) return;
    this.filled = now;
    const there = await this.reserve.fill();
    // Where it cannot be had at the start, nothing is known of the space.
    if (there) this.reserved = true;
    else if (this.reserved === undefined) this.filled = Infinity;
  }

  private async tell(): Promise<void> {
    const now = performance.now();
    if (!this.closed) await this.fillReserve(now);
    if (this.store && now > this.estimated + ESTIMATE_INTERVAL) {
      this.estimated = now;
      this.estimate = await storageEstimate();
    }
    const status = this.status();
    const text = JSON.stringify(status);
    if (this.closed || text === this.told) return;
    this.told = text;
    this.events.status(status);
  }
}

/** What the browser says of its space for this origin. */
export async function storageEstimate(): Promise<{ quota?: number; usage?: number }> {
  const manager = (globalThis.navigator as Partial<Navigator> | undefined)?.storage;
  const { quota, usage } = (await manager?.estimate?.().catch(() => undefined)) ?? {};
  return { quota, usage };
}

/** Fills the next set from a diff, then goes over to it at once. @param halt called once the diff is known to be whole */
async function importInto(store: IdbStore, diff: Blob, halt?: () => Promise<void> | undefined): Promise<void> {
  const { header, batches, cancel } = await readDiff(diff);
  try {
    checkBase(header.base, store.base);
    if (header.blockSize !== store.blockSize) throw otherBlocks(header.blockSize);
    await fillAnew(store, batches, halt);
  } catch (cause) {
    cancel();
    throw cause;
  }
}

type Batch = readonly (readonly [number, OverlayBlock])[];

/** Puts these blocks in the place of all there are, at once, after the last has come. @param halt called before that */
async function fillAnew(
  store: IdbStore,
  batches: Iterable<Batch> | AsyncIterable<Batch>,
  halt?: () => Promise<void> | undefined,
): Promise<void> {
  try {
    await store.unstage();
    const map = new BlockMap();
    let bytes = 0;
    for await (const batch of batches) {
      const data = batch.filter((entry): entry is readonly [number, Uint8Array] => entry[1] !== null);
      for (const [block] of batch)
        if (!(Number.isSafeInteger(block) && block >= 0 && block * store.blockSize < store.base.size))
          throw new StorageError('storage-damaged', `the changes have a block ${block}, which the disk does not have`);
      await store.stage(data);
      map.apply(map.changed(batch.map(([block, data]) => [block, data === null] as const)));
      bytes += data.length * store.blockSize;
    }
    await halt?.();
    await store.replace(store.stagedSet, map.entries(), bytes);
  } catch (cause) {
    await store.unstage().catch(() => undefined);
    throw cause;
  }
}

function* batched(blocks: OverlayState['blocks']): Iterable<Batch> {
  for (let at = 0; at < blocks.length; at += BATCH) yield blocks.slice(at, at + BATCH);
}

function checkBase(given: BaseIdentity, here: BaseIdentity): void {
  if (given.id !== here.id)
    throw new StorageError(
      'storage-base-changed',
      `these changes belong to another disk (${given.name}, ${given.size} bytes${given.url ? `, ${given.url}` : ''}) ` +
        `than this one (${here.name}, ${here.size} bytes); start a machine with that disk and import them there`,
    );
}

function otherBlocks(size: number): StorageError {
  return new StorageError('storage-version', `these changes are in blocks of ${size} bytes, which cannot be read here`);
}

function quotaError(): DOMException {
  return new DOMException('the reserve is in use', 'QuotaExceededError');
}

function keptBase(
  stored: BaseIdentity,
  manifest: DiskManifest | undefined,
  current: BaseIdentity,
): { manifest: DiskManifest; url: string } | undefined {
  if (stored.id === current.id) return undefined;
  if (manifest && stored.url !== undefined) return { manifest, url: stored.url };
  throw new StorageError(
    'storage-damaged',
    `the disk that the changes belong to (${stored.name}) is not known any more: export the changes, or drop them`,
  );
}
