import type { StorageDatabase } from './database.ts';

/**
 * Chromium keeps all IndexedDB of an origin in a LevelDB that goes on with its last log file when it is opened. A browser
 * that is killed in the middle of writing may leave half a record at the end of that file; the next one passes over it and
 * appends, and the one after that finds a damaged log and deletes everything (google/leveldb#1287, open in November 2026).
 * LevelDB begins a new file when 4 MiB have been written, so that much is written, and deleted, at the beginning of a
 * session.
 */
const PIECES = 90;
/** Bytes. Larger values become files of their own, and do not fill the log. */
const PIECE = 50_000;
/** Milliseconds that LevelDB is given to sort the old file's contents into a table and to remove it. */
const SETTLE = 100;

/** Lets the browser go over to a new log, where it has one. */
export async function beginNewLog(database: StorageDatabase): Promise<void> {
  if (!isChromium()) return;
  // Random, for values are compressed.
  const piece = crypto.getRandomValues(new Uint8Array(PIECE));
  const keys = Array.from({ length: PIECES }, (_, i) => `padding-${i}` as const);
  const fill = database.transaction('meta', 'readwrite', { durability: 'relaxed' });
  fill.done.catch(() => undefined);
  for (const key of keys) void fill.store.put(piece, key);
  await fill.done;
  const clear = database.transaction('meta', 'readwrite', { durability: 'relaxed' });
  clear.done.catch(() => undefined);
  for (const key of keys) void clear.store.delete(key);
  await clear.done;
  await new Promise((resolve) => setTimeout(resolve, SETTLE));
}

function isChromium(): boolean {
  const { userAgentData } = (globalThis.navigator ?? {}) as { userAgentData?: { brands?: { brand: string }[] } };
  return userAgentData?.brands?.some(({ brand }) => brand === 'Chromium') ?? false;
}
