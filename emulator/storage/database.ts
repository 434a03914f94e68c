import { type DBSchema, type IDBPDatabase, openDB } from 'idb';
import type { BaseIdentity } from '../disk/identity.ts';
import type { DiskManifest } from '../disk/manifest.ts';
import { StorageError, asStorageError } from './error.ts';

/*
 * One database a storage key, so that deleting one gives its space back at once.
 *
 * Every transaction that writes blocks leaves the disk as it was at one moment: it holds all blocks that were written
 * up to then and not committed before, the map of what is held, and the next generation number. So a crash loses whole
 * transactions, the last ones, and nothing in between.
 */

/** The record `overlay`: changes with every transaction. */
export interface OverlayRecord {
  version: 1;
  key: string;
  base: BaseIdentity;
  /** Another base for which the user chose to keep this one; not asked again. */
  keptOver?: string;
  blockSize: number;
  /** Number of committed transactions that changed the disk. */
  generation: number;
  /** Which blocks are current: import and reset begin another set, and drop the old one. */
  set: number;
  /** Who may write. Whoever opens it puts its own token here; a transaction of anybody else is refused. */
  owner: string;
  created: number;
  modified: number;
  /** Bytes of blocks that are kept. */
  storedBytes: number;
}

/** The record `state`: RAM and devices of a suspended machine, in chunks. */
export interface StateRecord {
  id: number;
  /** Of the disk at that moment: with any other the RAM does not fit. */
  generation: number;
  set: number;
  chunks: number;
  bytes: number;
  created: number;
  /** RAM in MiB. */
  memory: number;
  deterministic: boolean;
}

/** A tab that looks at the disk as it was at one generation. */
export interface ReaderRecord {
  id: string;
  set: number;
  generation: number;
  since: number;
}

export interface StorageSchema extends DBSchema {
  meta: {
    key: 'overlay' | 'manifest' | 'state' | `padding-${number}`;
    value: OverlayRecord | DiskManifest | StateRecord | Uint8Array;
  };
  /** Blocks by `blockKey`. */
  blocks: { key: number; value: Uint8Array };
  /** What is held, by `blockKey` of segment numbers: see `BlockMap`. */
  map: { key: number; value: Uint8Array };
  /** What blocks were before a generation, for readers: by block key and generation. */
  old: { key: [number, number]; value: Uint8Array };
  readers: { key: string; value: ReaderRecord };
  /** Pieces of a suspended machine, by `stateKey`. */
  state: { key: number; value: Uint8Array };
}

export type StorageDatabase = IDBPDatabase<StorageSchema>;

const PREFIX = 'linux-vm:';
const SCHEMA_VERSION = 1;
const MOST_BLOCKS = 2 ** 32;
const MOST_SETS = 2 ** 20;

/** @throws StorageError code `storage-key` */
export function checkKey(key: string): string {
  if (key.length === 0 || key.length > 200)
    throw new StorageError('storage-key', `a storage key has 1 to 200 characters; this one has ${key.length}`);
  return key;
}

export const databaseName = (key: string): string => PREFIX + key;

/** The key in a database's name; undefined when the database is none of ours. */
export const keyOfDatabase = (name: string): string | undefined =>
  name.startsWith(PREFIX) ? name.slice(PREFIX.length) : undefined;

/** A number: numbers are the shortest keys and keep neighbours together. */
export const blockKey = (set: number, block: number): number => set * MOST_BLOCKS + block;

export const setRange = (set: number): IDBKeyRange =>
  IDBKeyRange.bound(set * MOST_BLOCKS, (set + 1) * MOST_BLOCKS, false, true);

export const nextSet = (set: number): number => (set + 1) % MOST_SETS;

export const stateKey = (id: number, chunk: number): number => id * MOST_BLOCKS + chunk;

export const stateRange = setRange;

/**
 * Opens, and makes if need be, the database of a key.
 * @param onLost the browser closed it, or another tab deletes it
 * @throws StorageError
 */
export async function openDatabase(key: string, onLost: () => void = () => undefined): Promise<StorageDatabase> {
  checkKey(key);
  if (typeof indexedDB === 'undefined')
    throw new StorageError('storage-unavailable', 'there is no IndexedDB here to keep changes in');
  try {
    const database = await openDB<StorageSchema>(databaseName(key), SCHEMA_VERSION, {
      upgrade(db) {
        for (const name of ['meta', 'blocks', 'map', 'old', 'readers', 'state'] as const) db.createObjectStore(name);
      },
      blocking(_current, _blocked, event) {
        // Another tab deletes it. Its lock says that it may.
        (event.target as IDBDatabase).close();
        onLost();
      },
      terminated: onLost,
    });
    return database;
  } catch (cause) {
    if (cause instanceof DOMException && cause.name === 'VersionError')
      throw new StorageError(
        'storage-version',
        `the storage "${key}" was written by a newer version of this page; reload the page`,
        { cause },
      );
    // Private windows and sandboxed frames of some browsers refuse in their own ways.
    if (cause instanceof DOMException && cause.name === 'QuotaExceededError') throw asStorageError(cause, key);
    throw new StorageError(
      'storage-unavailable',
      `the browser does not let this page store anything (${cause instanceof Error ? cause.message : String(cause)})`,
      { cause },
    );
  }
}
