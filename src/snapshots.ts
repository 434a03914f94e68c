import { type DBSchema, type IDBPDatabase, openDB } from 'idb';

/** A machine's state that was kept in this browser. */
export interface Snapshot {
  id: number;
  name: string;
  /** Milliseconds since 1970. */
  created: number;
  bytes: number;
}

interface Schema extends DBSchema {
  /** Two stores, so that a list does not touch the states themselves. */
  snapshots: { key: number; value: Omit<Snapshot, 'id'> & { id?: number } };
  states: { key: number; value: Blob };
}

const DATABASE = 'linux-vm-snapshots';

/** Snapshots in this browser's IndexedDB. Calls reject with an Error in words when it refuses. */
export class SnapshotStore {
  private database: Promise<IDBPDatabase<Schema>> | undefined;

  private open(): Promise<IDBPDatabase<Schema>> {
    this.database ??= openDB<Schema>(DATABASE, 1, {
      upgrade(database) {
        database.createObjectStore('snapshots', { keyPath: 'id', autoIncrement: true });
        database.createObjectStore('states');
      },
      blocking: (_current, _blocked, event) => (event.target as IDBDatabase).close(),
      terminated: () => (this.database = undefined),
    }).catch((cause: unknown) => {
      this.database = undefined;
      throw refused(cause);
    });
    return this.database;
  }

  /** Newest first. */
  async list(): Promise<Snapshot[]> {
    const all = await (await this.open()).getAll('snapshots');
    return (all as Snapshot[]).sort((a, b) => b.created - a.created);
  }

  async add(name: string, state: Blob): Promise<Snapshot> {
    const database = await this.open();
    const snapshot = { name, created: Date.now(), bytes: state.size };
    try {
      const transaction = database.transaction(['snapshots', 'states'], 'readwrite');
      const id = await transaction.objectStore('snapshots').add(snapshot);
      await transaction.objectStore('states').put(state, id);
      await transaction.done;
      return { ...snapshot, id };
    } catch (cause) {
      throw refused(cause);
    }
  }

  /** @throws Error when it is not there any more */
  async state(id: number): Promise<Blob> {
    const state = await (await this.open()).get('states', id);
    if (!state) throw new Error('This snapshot is not there any more; another tab may have deleted it.');
    return state;
  }

  async rename(id: number, name: string): Promise<void> {
    const database = await this.open();
    const snapshot = await database.get('snapshots', id);
    if (snapshot) await database.put('snapshots', { ...snapshot, name });
  }

  async delete(id: number): Promise<void> {
    const transaction = (await this.open()).transaction(['snapshots', 'states'], 'readwrite');
    await Promise.all([
      transaction.objectStore('snapshots').delete(id),
      transaction.objectStore('states').delete(id),
      transaction.done,
    ]);
  }
}

function refused(cause: unknown): Error {
  const name = cause instanceof Error ? cause.name : '';
  if (name === 'QuotaExceededError')
    return new Error('This browser has no room left for a snapshot; delete others, or export this one as a file.', {
      cause,
    });
  return new Error(
    `This browser keeps no snapshots (${name || String(cause)}): a private window, a sandboxed frame, or a setting. Exporting to a file works.`,
    { cause },
  );
}
