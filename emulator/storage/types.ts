import type { StorageMode } from './locks.ts';

export type { StorageMode };

/** Where a machine keeps the changes to its disk, as the page asks for it. */
export interface StorageSpec {
  /** Absent: the changes go with the machine. */
  key?: string;
  mode: StorageMode;
  /** The answer to `storage-base-changed`. */
  base?: 'keep' | 'reset';
  /** Goes on from a suspended machine where there is one that fits. */
  resume: boolean;
  /** Changes to begin with. */
  diff?: Blob;
}

/** How it stands with the changes to a disk. */
export interface StorageStatus {
  key?: string;
  /** `ephemeral`: the changes go with the machine; `read-only`: these too, over what was stored before. */
  mode: 'exclusive' | 'read-only' | 'ephemeral';
  /** Why the changes are not kept although they should be: the browser stores nothing for this page. */
  reason?: string;
  /** Of the disk, in bytes. */
  diskBytes?: number;
  /** Bytes of changes that are kept, and that are still on their way. */
  storedBytes: number;
  dirtyBytes: number;
  /** Where changes are held in memory: most bytes of them. */
  limitBytes?: number;
  /** Bytes that were given to the store since the start. */
  writtenBytes: number;
  /** What the browser gives this origin, and what all of it uses, in bytes; of both only estimates. */
  quota?: number;
  usage?: number;
  /** The browser does not delete it by itself when space is short; undefined until it was asked. */
  persisted?: boolean;
  /** Bytes of the suspended machine that fits the disk as it is now. */
  suspendedBytes?: number;
  /** Only after a start with `resume`: what came of it, or why the suspended machine could not be used. */
  resume?: 'resumed' | 'none' | (string & {});
  /** Changes are kept, but less safely than they should be; why, and what to do. */
  warning?: string;
  /** Why changes cannot be kept, or no more made, at the moment; absent when all is well. */
  problem?: { code?: string; message: string };
}
