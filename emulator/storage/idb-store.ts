import { unwrap } from 'idb';
import type { BaseIdentity } from '../disk/identity.ts';
import type { DiskManifest } from '../disk/manifest.ts';
import type { OverlayBlock, OverlaySnapshot, OverlayStore } from '../disk/overlay.ts';
import { BlockMap } from './block-map.ts';
import {
  blockKey,
  nextSet,
  openDatabase,
  type OverlayRecord,
  type ReaderRecord,
  setRange,
  type StateRecord,
  type StorageDatabase,
} from './database.ts';
import { asStorageError, StorageError } from './error.ts';
import { heldLocks, lockForWriting, readerLockName, type WriterLock } from './locks.ts';
import { BlockLru } from './lru.ts';
import { SnapshotReader } from './reader.ts';
import { beginNewLog } from './torn-log.ts';

/** ext2's and the page's size: a guest that writes whole pages never has to read what was there before. */
export const BLOCK_SIZE = 4096;
/** Milliseconds after which a write that nobody flushed is written all the same. */
const WRITE_BACK = 500;
/** Readers that left without a word are looked for this often, in milliseconds. */
const READER_CHECK = 30_000;
/** Where there are no Web Locks, a reader is taken for gone after this. */
const READER_AGE = 86_400_000;

/** What the user is asked when a storage belongs to another base: `StorageError.details`. */
export interface BaseChange {
  key: string;
  stored: BaseIdentity;
  current: BaseIdentity;
  /** Bytes of changes that are at stake. */
  storedBytes: number;
  /** The old base is still there, so that `keep` will work. */
  canKeep: boolean;
}

export interface IdbStoreOptions {
  key: string;
  /** The base that the page has now. */
  base: BaseIdentity;
  /** Stored with a new overlay, so that the base can be opened again when the page has another. */
  manifest?: DiskManifest;
  takeOver?: boolean;
  /** The answer to `storage-base-changed`. */
  onBaseChange?: 'keep' | 'reset';
  /** Whether the base of a storage can still be read. */
  reachable?: (base: BaseIdentity, manifest: DiskManifest | undefined) => Promise<boolean>;
  /** There is no more space. @returns whether some was freed, so that it is worth another attempt */
  onFull?: () => Promise<boolean>;
  /** What is kept is not safe from a browser that is killed: see torn-log.ts. */
  onUnprotected?: (cause: unknown) => void;
  /** Another tab wants it: write out and close. */
  onYield?: () => void;
  /** It is lost for good; nothing can be written any more. */
  onLost?: (error: StorageError) => void;
}

/** The one writer of an overlay in IndexedDB. */
export class IdbStore implements OverlayStore {
  readonly blockSize = BLOCK_SIZE;
  readonly writeBack = WRITE_BACK;
  /** Bytes given to IndexedDB since it was opened. */
  writtenBytes = 0;
  private map = new BlockMap();
  private readonly cache = new BlockLru(32 << 20);
  /** Committed, but not with `durability: 'strict'`. */
  private loose = false;
  private lost: StorageError | undefined;
  /** Blocks whose old value was kept since the newest reader came. */
  private preserved = new Set<number>();
  private newestReader = '';
  private readersChecked = -Infinity;
  private stateRecord: StateRecord | undefined;
  private newLog: Promise<void> | undefined;

  private constructor(
    private readonly database: StorageDatabase,
    private readonly lock: WriterLock,
    private record: OverlayRecord,
    /** Of the base that it stands on, when that has one. */
    readonly manifest: DiskManifest | undefined,
    private readonly options: IdbStoreOptions,
  ) {}

  /**
   * @throws StorageError `storage-busy`, `storage-base-changed` (details: `BaseChange`), `storage-unavailable` and others
   */
  static async open(options: IdbStoreOptions): Promise<IdbStore> {
    const { key } = options;
    let store: IdbStore | undefined;
    let gone: StorageError | undefined;
    const lose = (error: StorageError): void => {
      if (store) store.lose(error);
      else gone ??= error;
    };
    const database = await openDatabase(key, () => lose(lostError(key)));
    let lock: WriterLock | undefined;
    try {
      lock = await lockForWriting(
        key,
        options.takeOver ?? false,
        () => options.onYield?.(),
        () => lose(takenError(key)),
      );
      const { record, manifest } = await claim(database, options);
      store = new IdbStore(database, lock, record, manifest, options);
      if (gone) throw gone;
      await store.load();
      // In a new one nothing is at stake before its first write.
      if (record.generation > 0) void store.protect();
      return store;
    } catch (cause) {
      lock?.release();
      database.close();
      throw asStorageError(cause, key);
    }
  }

  /** Its base; not the page's when the user chose to keep an older one. */
  get base(): BaseIdentity {
    return this.record.base;
  }

  get generation(): number {
    return this.record.generation;
  }

  get storedBytes(): number {
    return this.record.storedBytes;
  }

  /** A suspended machine that fits the disk as it is. */
  get state(): StateRecord | undefined {
    const { stateRecord, record } = this;
    return stateRecord?.generation === record.generation && stateRecord.set === record.set ? stateRecord : undefined;
  }

  async open(): Promise<Iterable<number>> {
    return this.map.blocks();
  }

  peek(block: number): OverlayBlock | undefined {
    return this.map.get(block) === 'zero' ? null : this.cache.get(block);
  }

  async read(blocks: readonly number[]): Promise<OverlayBlock[]> {
    this.checkLost();
    try {
      const store = this.database.transaction('blocks').store;
      const found = await Promise.all(
        blocks.map(async (block) => {
          const near = this.peek(block);
          if (near !== undefined) return near;
          const bytes = await store.get(blockKey(this.record.set, block));
          if (!bytes || bytes.length !== BLOCK_SIZE)
            throw new StorageError(
              'storage-damaged',
              `block ${block} of the changes to the disk ("${this.record.key}") is missing from the browser's storage`,
            );
          return bytes;
        }),
      );
      // A block may have been written anew while it was read; that one is in the cache already.
      found.forEach(
        (bytes, i) => bytes && this.cache.get(blocks[i]!) === undefined && this.cache.set(blocks[i]!, bytes),
      );
      return found;
    } catch (cause) {
      throw asStorageError(cause, this.record.key);
    }
  }

  /** One transaction: all of it or nothing is there afterwards. */
  async write(blocks: ReadonlyMap<number, OverlayBlock>, durable: boolean): Promise<void> {
    if (blocks.size === 0) return;
    await this.protect();
    try {
      await this.commit(blocks, durable);
    } catch (cause) {
      if (!(cause instanceof StorageError) || cause.code !== 'storage-full' || !(await this.options.onFull?.()))
        throw cause;
      await this.commit(blocks, durable);
    }
    this.dropStaleState();
    if (this.newestReader) this.checkReaders();
  }

  /** What an earlier kill of the browser has left in its log is not to harm what is written from now on. */
  private protect(): Promise<void> {
    return (this.newLog ??= beginNewLog(this.database).catch((cause: unknown) => this.options.onUnprotected?.(cause)));
  }

  private async commit(blocks: ReadonlyMap<number, OverlayBlock>, durable: boolean): Promise<void> {
    this.checkLost();
    const tx = this.database.transaction(['meta', 'blocks', 'map', 'old', 'readers'], 'readwrite', {
      durability: durable ? 'strict' : 'relaxed',
    });
    tx.done.catch(() => undefined);
    try {
      const [stored, readers] = await Promise.all([
        tx.objectStore('meta').get('overlay') as Promise<OverlayRecord | undefined>,
        tx.objectStore('readers').getAll(),
      ]);
      this.checkOwner(stored);
      const { set } = this.record;
      const generation = this.record.generation + 1;
      // Raw requests: there are thousands, and only the end of all of them matters.
      const target = unwrap(tx.objectStore('blocks'));
      const here = readers.filter((reader) => reader.set === set);
      if (here.length) await this.preserve(tx.objectStore('old'), target, here, blocks, generation);
      let { storedBytes } = this.record;
      const changes: [number, boolean][] = [];
      const data: [number, Uint8Array][] = [];
      for (const [block, bytes] of blocks) {
        const before = this.map.get(block);
        const kept = bytes && !isZero(bytes) ? bytes : null;
        changes.push([block, !kept]);
        if (kept) {
          target.put(kept, blockKey(set, block));
          data.push([block, kept]);
          if (before !== 'data') storedBytes += BLOCK_SIZE;
        } else if (before === 'data') {
          target.delete(blockKey(set, block));
          storedBytes -= BLOCK_SIZE;
        }
      }
      const segments = this.map.changed(changes);
      const maps = unwrap(tx.objectStore('map'));
      for (const [segment, bits] of segments) maps.put(bits, blockKey(set, segment));
      const record = { ...this.record, generation, storedBytes, modified: Date.now() };
      unwrap(tx.objectStore('meta')).put(record, 'overlay');
      tx.commit();
      await tx.done;
      this.record = record;
      this.map.apply(segments);
      for (const [block] of changes) this.cache.delete(block);
      for (const [block, bytes] of data) this.cache.set(block, bytes);
      this.loose = !durable;
      this.writtenBytes += data.length * BLOCK_SIZE;
    } catch (cause) {
      abort(tx);
      throw this.failed(tx.error ?? cause);
    }
  }

  async flush(): Promise<void> {
    this.checkLost();
    if (!this.loose) return;
    // A transaction that is strict takes all before it along to the disk.
    const tx = this.database.transaction('meta', 'readwrite', { durability: 'strict' });
    tx.done.catch(() => undefined);
    try {
      this.checkOwner((await tx.store.get('overlay')) as OverlayRecord | undefined);
      await tx.store.put(this.record, 'overlay');
      await tx.done;
      this.loose = false;
    } catch (cause) {
      abort(tx);
      throw this.failed(tx.error ?? cause);
    }
  }

  isFull(cause: unknown): boolean {
    return cause instanceof StorageError && cause.code === 'storage-full';
  }

  async snapshot(): Promise<OverlaySnapshot> {
    return SnapshotReader.open(this.record.key);
  }

  /** Drops all changes at once, or with a set that `import` filled, goes over to those. The machine must not go on. */
  async replace(set: number, segments: Iterable<readonly [number, Uint8Array]>, storedBytes: number): Promise<void> {
    this.checkLost();
    const tx = this.database.transaction(['meta', 'map'], 'readwrite', { durability: 'strict' });
    tx.done.catch(() => undefined);
    try {
      const meta = tx.objectStore('meta');
      this.checkOwner((await meta.get('overlay')) as OverlayRecord | undefined);
      const record = { ...this.record, set, storedBytes, generation: this.record.generation + 1, modified: Date.now() };
      const list = [...segments];
      for (const [segment, bits] of list) void tx.objectStore('map').put(bits, blockKey(set, segment));
      void meta.put(record, 'overlay');
      await tx.done;
      this.record = record;
      this.map = new BlockMap(list);
      this.cache.clear();
      this.loose = false;
    } catch (cause) {
      abort(tx);
      throw this.failed(tx.error ?? cause);
    }
    await this.dropOldSets().catch(() => undefined);
    this.dropStaleState();
  }

  /** Puts blocks into the set that will be the next one, where nobody sees them before `replace`. */
  async stage(blocks: readonly (readonly [number, Uint8Array])[]): Promise<void> {
    this.checkLost();
    const tx = this.database.transaction('blocks', 'readwrite', { durability: 'relaxed' });
    tx.done.catch(() => undefined);
    try {
      const target = unwrap(tx.store);
      for (const [block, bytes] of blocks) target.put(bytes, blockKey(this.stagedSet, block));
      tx.commit();
      await tx.done;
    } catch (cause) {
      abort(tx);
      throw this.failed(tx.error ?? cause);
    }
  }

  get stagedSet(): number {
    return nextSet(this.record.set);
  }

  /** Removes what an import that did not come to its end has left. */
  async unstage(): Promise<void> {
    await this.database.delete('blocks', setRange(this.stagedSet));
  }

  /** For `suspended.ts`. */
  get connection(): {
    database: StorageDatabase;
    record: OverlayRecord;
    check(stored: OverlayRecord | undefined): void;
  } {
    this.checkLost();
    return { database: this.database, record: this.record, check: (stored) => this.checkOwner(stored) };
  }

  setState(record: StateRecord | undefined): void {
    this.stateRecord = record;
  }

  close(): void {
    this.lost ??= new StorageError('storage-lost', `the storage "${this.record.key}" was closed`);
    this.database.close();
    this.lock.release();
  }

  private async load(): Promise<void> {
    const { database, record } = this;
    const [keys, maps, state] = await Promise.all([
      database.getAllKeys('map', setRange(record.set)),
      database.getAll('map', setRange(record.set)),
      database.get('meta', 'state') as Promise<StateRecord | undefined>,
    ]);
    const first = blockKey(record.set, 0);
    this.map = new BlockMap(keys.map((key, i) => [key - first, maps[i]!] as const));
    this.stateRecord = state;
    // What a crash left half done. Nobody waits for it.
    this.dropOldSets()
      .then(() => this.dropOldReaders())
      .catch(() => undefined);
    this.dropStaleState();
  }

  /** Keeps, for readers, what the blocks of a batch were before it. */
  private async preserve(
    old: { put(value: Uint8Array, key: [number, number]): Promise<unknown> },
    blocks: IDBObjectStore,
    readers: readonly ReaderRecord[],
    batch: ReadonlyMap<number, OverlayBlock>,
    generation: number,
  ): Promise<void> {
    const newest = readers.reduce((a, b) => (b.generation > a.generation ? b : a)).id;
    if (newest !== this.newestReader) {
      this.newestReader = newest;
      this.preserved = new Set();
    }
    const { set } = this.record;
    const work: Promise<void>[] = [];
    for (const block of batch.keys()) {
      // A reader's own map tells it what is zero or not held.
      if (this.map.get(block) !== 'data' || this.preserved.has(block)) continue;
      const key = blockKey(set, block);
      work.push(
        new Promise((resolve, reject) => {
          const get = blocks.get(key) as IDBRequest<Uint8Array>;
          get.onerror = () => reject(get.error ?? new Error('a block could not be read'));
          get.onsuccess = () => old.put(get.result, [key, generation]).then(() => resolve(), reject);
        }),
      );
      this.preserved.add(block);
    }
    try {
      await Promise.all(work);
    } catch (cause) {
      this.preserved = new Set();
      throw cause;
    }
  }

  private checkReaders(): void {
    const now = performance.now();
    if (now < this.readersChecked + READER_CHECK) return;
    this.readersChecked = now;
    this.dropOldReaders().catch(() => undefined);
  }

  private async dropOldReaders(): Promise<void> {
    const held = await heldLocks();
    const tx = this.database.transaction(['readers', 'old'], 'readwrite');
    tx.done.catch(() => undefined);
    const readers = tx.objectStore('readers');
    let left = 0;
    for (const reader of await readers.getAll()) {
      const alive = held
        ? held.has(readerLockName(this.record.key, reader.id))
        : Date.now() - reader.since < READER_AGE;
      if (alive) left++;
      else void readers.delete(reader.id);
    }
    if (left === 0) {
      void tx.objectStore('old').clear();
      this.newestReader = '';
      this.preserved = new Set();
    }
    await tx.done;
  }

  /** Blocks of sets that are neither current nor looked at. */
  private async dropOldSets(): Promise<void> {
    const tx = this.database.transaction(['meta', 'blocks', 'map', 'readers'], 'readwrite');
    tx.done.catch(() => undefined);
    this.checkOwner((await tx.objectStore('meta').get('overlay')) as OverlayRecord | undefined);
    const keep = new Set([this.record.set, ...(await tx.objectStore('readers').getAll()).map((reader) => reader.set)]);
    const sorted = [...keep].sort((a, b) => a - b);
    for (const name of ['blocks', 'map'] as const) {
      let from = 0;
      for (const set of [...sorted, Infinity]) {
        if (set > from)
          void tx
            .objectStore(name)
            .delete(
              set === Infinity
                ? IDBKeyRange.lowerBound(blockKey(from, 0))
                : IDBKeyRange.bound(blockKey(from, 0), blockKey(set, 0), false, true),
            );
        from = set + 1;
      }
    }
    await tx.done;
  }

  private dropStaleState(): void {
    if (!this.stateRecord || this.state) return;
    this.stateRecord = undefined;
    const tx = this.database.transaction(['meta', 'state'], 'readwrite', { durability: 'relaxed' });
    void tx
      .objectStore('meta')
      .delete('state')
      .catch(() => undefined);
    void tx
      .objectStore('state')
      .clear()
      .catch(() => undefined);
    tx.done.catch(() => undefined);
  }

  private checkOwner(stored: OverlayRecord | undefined): void {
    if (!stored) throw lostError(this.record.key);
    if (stored.owner !== this.record.owner) throw takenError(this.record.key);
  }

  private checkLost(): void {
    if (this.lost) throw this.lost;
  }

  private failed(cause: unknown): StorageError {
    const error = this.lost ?? asStorageError(cause, this.record.key);
    if (error.code === 'storage-taken' || error.code === 'storage-lost') this.lose(error);
    return error;
  }

  private lose(error: StorageError): void {
    if (this.lost) return;
    this.lost = error;
    this.options.onLost?.(error);
  }
}

/** Finds or makes the overlay's record, and puts the new owner's token in, all in one transaction. */
async function claim(
  database: StorageDatabase,
  options: IdbStoreOptions,
): Promise<{ record: OverlayRecord; manifest: DiskManifest | undefined }> {
  const { key, base } = options;
  const before = (await database.get('meta', 'overlay')) as OverlayRecord | undefined;
  if (before && before.version !== 1)
    throw new StorageError('storage-version', `the storage "${key}" was written by a newer version of this page`);
  const changed = before !== undefined && before.base.id !== base.id && before.generation > 0;
  if (changed && before.keptOver !== base.id && !options.onBaseChange) {
    const manifest = (await database.get('meta', 'manifest')) as DiskManifest | undefined;
    const canKeep = (await options.reachable?.(before.base, manifest).catch(() => false)) ?? false;
    throw baseChangedError(before, base, canKeep);
  }
  const tx = database.transaction('meta', 'readwrite', { durability: 'strict' });
  tx.done.catch(() => undefined);
  const now = Date.now();
  const stored = (await tx.store.get('overlay')) as OverlayRecord | undefined;
  const fresh = !stored || (stored.base.id !== base.id && stored.generation === 0);
  const owner = ownerToken();
  let record: OverlayRecord;
  if (fresh || (changed && options.onBaseChange === 'reset')) {
    record = {
      version: 1,
      key,
      base,
      blockSize: BLOCK_SIZE,
      generation: fresh ? 0 : stored.generation + 1,
      set: stored ? nextSet(stored.set) : 0,
      owner,
      created: now,
      modified: now,
      storedBytes: 0,
    };
    if (options.manifest) await tx.store.put(options.manifest, 'manifest');
    else await tx.store.delete('manifest');
  } else record = { ...stored, owner, keptOver: changed ? base.id : stored.keptOver };
  await tx.store.put(record, 'overlay');
  const manifest = (await tx.store.get('manifest')) as DiskManifest | undefined;
  await tx.done;
  return { record, manifest };
}

/** The question to the user. */
export function baseChangedError(record: OverlayRecord, current: BaseIdentity, canKeep: boolean): StorageError {
  const { key, base: stored, storedBytes } = record;
  const details: BaseChange = { key, stored, current, storedBytes, canKeep };
  return new StorageError(
    'storage-base-changed',
    `the changes stored as "${key}" belong to another version of the disk (${stored.name}) than the page has now ` +
      `(${current.name}): ${canKeep ? 'go on with the old version, ' : ''}export the changes, or drop them and start ` +
      'with the new disk',
    { details },
  );
}

function ownerToken(): string {
  return Array.from(crypto.getRandomValues(new Uint32Array(4)), (word) => word.toString(36)).join('-');
}

function takenError(key: string): StorageError {
  return new StorageError(
    'storage-taken',
    `another tab or window took over the changes to this disk ("${key}"), so this machine was stopped; what it had ` +
      'written to the disk is there',
  );
}

function lostError(key: string): StorageError {
  return new StorageError(
    'storage-lost',
    `the stored changes to this disk ("${key}") were deleted in another tab or by the browser, so this machine was stopped`,
  );
}

function abort(tx: { abort(): void }): void {
  try {
    tx.abort();
  } catch {
    // It had ended by itself.
  }
}

/** Starts at both ends: most blocks show at once that they are not zero. */
export function isZero(bytes: Uint8Array): boolean {
  if (bytes[0] || bytes[bytes.length - 1]) return false;
  if (bytes.byteOffset % 4 || bytes.length % 4) return bytes.every((byte) => byte === 0);
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  for (let i = 0; i < words.length; i++) if (words[i]) return false;
  return true;
}
