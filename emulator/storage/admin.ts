import { deleteDB } from 'idb';
import { databaseName, keyOfDatabase, openDatabase, type OverlayRecord, type StateRecord } from './database.ts';
import { writeDiff } from './diff.ts';
import { asStorageError } from './error.ts';
import { isInUse, lockForWriting } from './locks.ts';
import { SnapshotReader } from './reader.ts';

/** Changes to a disk that this browser keeps for this origin. */
export interface StoredDisk {
  key: string;
  /** Of the base image. */
  name: string;
  url?: string;
  /** Bytes of changes, and of the suspended machine. */
  storedBytes: number;
  suspendedBytes: number;
  created: Date;
  modified: Date;
  /** A machine has it open, in this tab or another. */
  inUse: boolean;
}

/** All stored changes, the last used first. Empty where the browser stores nothing for this page. */
export async function listStorage(): Promise<StoredDisk[]> {
  let names: string[];
  try {
    names = (await indexedDB.databases()).map(({ name }) => name ?? '');
  } catch {
    return [];
  }
  const found = await Promise.all(
    names.map(async (name): Promise<StoredDisk | undefined> => {
      const key = keyOfDatabase(name);
      if (key === undefined) return undefined;
      try {
        const database = await openDatabase(key);
        const record = (await database.get('meta', 'overlay')) as OverlayRecord | undefined;
        const state = (await database.get('meta', 'state')) as StateRecord | undefined;
        database.close();
        if (!record) return undefined;
        return {
          key,
          name: record.base.name,
          url: record.base.url,
          storedBytes: record.storedBytes,
          suspendedBytes: state?.generation === record.generation ? state.bytes : 0,
          created: new Date(record.created),
          modified: new Date(record.modified),
          inUse: await isInUse(key),
        };
      } catch {
        return undefined;
      }
    }),
  );
  return found.filter((disk) => disk !== undefined).sort((a, b) => b.modified.getTime() - a.modified.getTime());
}

/**
 * Deletes stored changes for good.
 * @throws StorageError `storage-busy` when a machine has them open
 */
export async function deleteStorage(key: string): Promise<void> {
  const lock = await lockForWriting(
    key,
    false,
    () => undefined,
    () => undefined,
  );
  try {
    await deleteDB(databaseName(key));
  } catch (cause) {
    throw asStorageError(cause, key);
  } finally {
    lock.release();
  }
}

/**
 * Stored changes as a file, without a machine; see `VmDisk.exportDiff`. What a running machine has written is in it as
 * far as it is stored.
 * @throws StorageError, from the stream too, when there are none or they cannot be read
 */
export function exportStorage(key: string): ReadableStream<Uint8Array> {
  let reader: ReadableStreamDefaultReader<Uint8Array> | undefined;
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        if (!reader) {
          const snapshot = await SnapshotReader.open(key);
          reader = writeDiff(snapshot.record.base, snapshot).getReader();
        }
        const { done, value } = await reader.read();
        if (done) controller.close();
        else controller.enqueue(value);
      },
      cancel: (reason) => reader?.cancel(reason),
    },
    { highWaterMark: 0 },
  );
}
