import type { OverlayBlock, OverlaySnapshot } from '../disk/overlay.ts';
import type { DiskManifest } from '../disk/manifest.ts';
import { BlockMap } from './block-map.ts';
import { blockKey, openDatabase, type OverlayRecord, setRange, type StorageDatabase } from './database.ts';
import { asStorageError, StorageError } from './error.ts';
import { lockForReading } from './locks.ts';

/**
 * A storage as it was at one moment, while its writer goes on: the writer sees the reader's record and keeps what the
 * blocks were (`IdbStore.preserve`).
 */
export class SnapshotReader implements OverlaySnapshot {
  private constructor(
    private readonly database: StorageDatabase,
    readonly record: OverlayRecord,
    readonly manifest: DiskManifest | undefined,
    private readonly map: BlockMap,
    private readonly id: string,
    private readonly unlock: () => void,
  ) {}

  /** @throws StorageError code `storage-lost` when there is no such storage */
  static async open(key: string): Promise<SnapshotReader> {
    const database = await openDatabase(key);
    const id = Array.from(crypto.getRandomValues(new Uint32Array(3)), (word) => word.toString(36)).join('-');
    const unlock = await lockForReading(key, id);
    try {
      const tx = database.transaction(['meta', 'map', 'readers'], 'readwrite');
      tx.done.catch(() => undefined);
      const record = (await tx.objectStore('meta').get('overlay')) as OverlayRecord | undefined;
      if (!record) throw new StorageError('storage-lost', `there is no storage "${key}"`);
      const manifest = (await tx.objectStore('meta').get('manifest')) as DiskManifest | undefined;
      const keys = await tx.objectStore('map').getAllKeys(setRange(record.set));
      const maps = await tx.objectStore('map').getAll(setRange(record.set));
      await tx
        .objectStore('readers')
        .put({ id, set: record.set, generation: record.generation, since: Date.now() }, id);
      await tx.done;
      const first = blockKey(record.set, 0);
      const map = new BlockMap(keys.map((at, i) => [at - first, maps[i]!] as const));
      return new SnapshotReader(database, record, manifest, map, id, unlock);
    } catch (cause) {
      unlock();
      database.close();
      throw asStorageError(cause, key);
    }
  }

  get blockSize(): number {
    return this.record.blockSize;
  }

  blocks(): Iterable<number> {
    return this.map.blocks();
  }

  isZero(block: number): boolean {
    return this.map.get(block) === 'zero';
  }

  async read(blocks: readonly number[]): Promise<OverlayBlock[]> {
    const { set, generation } = this.record;
    try {
      // One transaction: no writer comes between the look for an old value and that for the current one.
      const tx = this.database.transaction(['old', 'blocks']);
      return await Promise.all(
        blocks.map(async (block) => {
          if (this.isZero(block)) return null;
          const key = blockKey(set, block);
          const old = await tx.objectStore('old').get(IDBKeyRange.bound([key, generation + 1], [key, Infinity]));
          const bytes = old ?? (await tx.objectStore('blocks').get(key));
          if (!bytes || bytes.length !== this.record.blockSize)
            throw new StorageError(
              'storage-damaged',
              `block ${block} of the changes to the disk ("${this.record.key}") is missing from the browser's storage`,
            );
          return bytes;
        }),
      );
    } catch (cause) {
      throw asStorageError(cause, this.record.key);
    }
  }

  close(): void {
    this.database
      .delete('readers', this.id)
      .catch(() => undefined)
      .finally(() => {
        this.database.close();
        this.unlock();
      });
  }
}
