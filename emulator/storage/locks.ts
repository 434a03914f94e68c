import { StorageError } from './error.ts';

/** How a machine uses its storage. */
export type StorageMode = 'exclusive' | 'read-only' | 'take-over';

/** A page that is being reloaded still holds its lock for a moment. Milliseconds. */
const RELOAD = 1500;
/** How long a tab that is asked to yield may write out what it has. Milliseconds. */
const YIELD = 3000;

export interface WriterLock {
  release(): void;
}

const lockName = (key: string): string => `linux-vm:${key}`;
export const readerLockName = (key: string, id: string): string => `linux-vm:${key}:reader:${id}`;

/** Web Locks are there in secure contexts only. Elsewhere the owner's token in the database still keeps writers apart. */
const locks = (): LockManager | undefined =>
  typeof navigator === 'undefined' ? undefined : ((navigator as Partial<Navigator>).locks as LockManager | undefined);

/**
 * Becomes the one writer of a storage.
 * @param onYield another tab asks for it: write out, stop, release. After a while it is taken anyway
 * @param onStolen it was taken
 * @throws StorageError code `storage-busy`
 */
export async function lockForWriting(
  key: string,
  takeOver: boolean,
  onYield: () => void,
  onStolen: () => void,
): Promise<WriterLock> {
  const manager = locks();
  if (!manager) return { release: () => undefined };
  const channel = typeof BroadcastChannel === 'undefined' ? undefined : new BroadcastChannel(lockName(key));
  let held = await request(manager, lockName(key), { ifAvailable: true }, onStolen);
  if (!held && takeOver) channel?.postMessage('yield');
  held ??= await request(manager, lockName(key), { signal: AbortSignal.timeout(takeOver ? YIELD : RELOAD) }, onStolen);
  if (!held && takeOver) held = await request(manager, lockName(key), { steal: true }, onStolen);
  if (!held) {
    channel?.close();
    throw new StorageError(
      'storage-busy',
      `the changes to this disk ("${key}") are in use in another tab or window: close it there, open it here without ` +
        'keeping changes (storage-mode="read-only"), or take it over (storage-mode="take-over"), which stops the other',
    );
  }
  if (channel) channel.onmessage = (event) => event.data === 'yield' && onYield();
  const release = held;
  return {
    release: () => {
      channel?.close();
      release();
    },
  };
}

/** @returns the function that releases the lock; undefined when it was not had */
function request(
  manager: LockManager,
  name: string,
  options: LockOptions,
  onStolen: () => void,
): Promise<(() => void) | undefined> {
  return new Promise((resolve, reject) => {
    let granted = false;
    manager
      .request(name, options, (lock) => {
        if (!lock) return resolve(undefined);
        granted = true;
        return new Promise<void>((release) => resolve(release));
      })
      .catch((cause: unknown) => {
        if (granted) onStolen();
        // The time is over, or a page without rights to locks (an opaque origin).
        else if (options.signal?.aborted) resolve(undefined);
        else
          reject(
            new StorageError('storage-unavailable', 'the browser does not let this page use storage locks', { cause }),
          );
      });
  });
}

/** Shows others that a reader lives. @returns the function that ends it */
export async function lockForReading(key: string, id: string): Promise<() => void> {
  const manager = locks();
  if (!manager) return () => undefined;
  const release = await request(manager, readerLockName(key, id), { mode: 'shared' }, () => undefined);
  return release ?? (() => undefined);
}

/** Names of the locks that are held by anybody; undefined when that cannot be known. */
export async function heldLocks(): Promise<Set<string> | undefined> {
  const state = await locks()?.query();
  return state && new Set((state.held ?? []).map((lock) => lock.name ?? ''));
}

export async function isInUse(key: string): Promise<boolean> {
  return (await heldLocks())?.has(lockName(key)) ?? false;
}
