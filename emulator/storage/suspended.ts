import { type OverlayRecord, stateKey, stateRange, type StateRecord } from './database.ts';
import { asStorageError, StorageError } from './error.ts';
import type { IdbStore } from './idb-store.ts';

const CHUNK = 1 << 20;

/**
 * Keeps RAM and devices beside the disk. The disk must have been flushed when the state was taken, and the machine held.
 * @throws StorageError
 */
export async function saveSuspended(
  store: IdbStore,
  state: AsyncIterable<Uint8Array>,
  about: Pick<StateRecord, 'memory' | 'deterministic'>,
): Promise<void> {
  const { database, record } = store.connection;
  const { key } = record;
  const previous = (await database.get('meta', 'state')) as StateRecord | undefined;
  const id = ((previous?.id ?? 0) + 1) % 2 ** 20;
  try {
    // What an attempt that did not come to its end has left.
    await database.delete('state', stateRange(id));
    const buffer = new Uint8Array(CHUNK);
    let used = 0;
    let chunks = 0;
    let bytes = 0;
    const put = async (): Promise<void> => {
      const tx = database.transaction('state', 'readwrite', { durability: 'relaxed' });
      tx.done.catch(() => undefined);
      await tx.store.put(buffer.slice(0, used), stateKey(id, chunks++));
      await tx.done;
      bytes += used;
      used = 0;
    };
    for await (const piece of state)
      for (let at = 0; at < piece.length;) {
        const count = Math.min(CHUNK - used, piece.length - at);
        buffer.set(piece.subarray(at, at + count), used);
        used += count;
        at += count;
        if (used === CHUNK) await put();
      }
    if (used) await put();
    const tx = database.transaction(['meta', 'state'], 'readwrite', { durability: 'strict' });
    tx.done.catch(() => undefined);
    const meta = tx.objectStore('meta');
    const stored = (await meta.get('overlay')) as OverlayRecord | undefined;
    store.connection.check(stored);
    const { generation, set } = record;
    if (stored?.generation !== generation || stored.set !== set)
      throw new StorageError('storage-damaged', 'the disk was written while the machine was being suspended');
    const saved: StateRecord = { ...about, id, generation, set, chunks, bytes, created: Date.now() };
    void meta.put(saved, 'state');
    if (previous) void tx.objectStore('state').delete(stateRange(previous.id));
    await tx.done;
    store.setState(saved);
  } catch (cause) {
    await database.delete('state', stateRange(id)).catch(() => undefined);
    throw asStorageError(cause, key);
  }
}

/** The state that fits the disk, piece by piece. */
export function readSuspended(store: IdbStore): ReadableStream<Uint8Array> {
  const { database, record } = store.connection;
  const { state } = store;
  let next = 0;
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        if (!state || next === state.chunks) return controller.close();
        const piece = await database.get('state', stateKey(state.id, next++));
        if (!piece)
          throw new StorageError('storage-damaged', `a piece of the suspended machine of "${record.key}" is missing`);
        controller.enqueue(piece);
      },
    },
    { highWaterMark: 1 },
  );
}

/** Forgets the suspended machine. */
export async function dropSuspended(store: IdbStore): Promise<void> {
  const { database } = store.connection;
  store.setState(undefined);
  const tx = database.transaction(['meta', 'state'], 'readwrite', { durability: 'relaxed' });
  tx.done.catch(() => undefined);
  void tx.objectStore('meta').delete('state');
  void tx.objectStore('state').clear();
  await tx.done;
}
