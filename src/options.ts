import { TIERS, type Tier } from '../emulator/processor.ts';
import type { Location, MachineSpec, Progress } from './protocol.ts';
import type { StorageMode } from './storage.ts';
import type { WorkerFactory } from './worker-handle.ts';

/** An address (relative ones count from the page), or the bytes themselves. */
export type Source = string | URL | Blob | Uint8Array;

export interface LinuxVMOptions {
  /** Manifest (`….json`) or raw image of the disk. A raw image on a server needs Range requests there. */
  disk?: Source;
  /** Kernel: bzImage, vmlinux or Multiboot; overrides the manifest's. */
  kernel?: Source;
  /** Initramfs; overrides the manifest's. */
  initrd?: Source;
  /** Kernel command line; replaces the manifest's. */
  cmdline?: string;
  /** Words added to the command line. */
  append?: string;
  /** RAM in MiB, 64 to 3072; an odd number is rounded down. Default 512. */
  memory?: number;
  /** Forces the interpreter or the compiler; for tests. Default `auto`. */
  tier?: Tier;
  /** Clock by instruction count and fixed random numbers: two runs with the same input are equal. Default false. */
  deterministic?: boolean;
  /** The guest cannot write to the disk. Default false. */
  readOnly?: boolean;
  /**
   * Name, of 1 to 200 characters, under which the browser keeps what is written to the disk. Absent: it goes with the
   * machine. One machine at a time can have it open.
   */
  storageKey?: string;
  /**
   * When another tab has it open, `exclusive` (the default) fails with code `storage-busy`, and `take-over` stops the
   * machine there. `read-only` sees what is stored at that moment and keeps nothing of its own.
   */
  storageMode?: StorageMode;
  /** Where what is stored belongs to another base image (code `storage-base-changed`): go on with that, or drop it. */
  storageBase?: 'keep' | 'reset';
  /** Goes on from where `suspend()` left off, if the disk is as it was then; else boots. Default false. */
  resume?: boolean;
  /** Changes to begin with, as `disk.exportDiff()` gave them, over a disk without any. */
  diff?: Blob;
  /**
   * `cold` boots from the kernel on. `auto` (the default) goes on from the snapshot in the disk's manifest where that fits:
   * see `origin`.
   */
  boot?: 'auto' | 'cold';
  /** The guest's host name; the disk's unless told. */
  hostname?: string;
  /** Most memory for disk blocks that were read, in MiB. Default 64. */
  cache?: number;
  /** First size of the console. Default 80 × 24. */
  columns?: number;
  rows?: number;
  /** Hears of the loading before `start` resolves; the same as the `progress` event afterwards. */
  onProgress?: (progress: Progress) => void;
  /** Ends the loading, or the machine. */
  signal?: AbortSignal;
  /** Where the machine runs. Default: a web worker, or in Node (`linux-vm/node`) a worker thread. */
  worker?: WorkerFactory;
}

/** What there is to say of a machine whose kernel and memory are in its state. */
export type RestoreOptions = Omit<LinuxVMOptions, 'kernel' | 'initrd' | 'cmdline' | 'append' | 'memory'>;

/** What the worker is told. @throws TypeError when an option is wrong */
export function startSpec(options: LinuxVMOptions): MachineSpec {
  return {
    tier: options.tier ?? 'auto',
    deterministic: options.deterministic ?? false,
    readOnly: options.readOnly ?? false,
    ...commonSpec(options),
    memory: checkNumber('memory', options.memory ?? 512, 64, 3072),
    cache: checkNumber('cache', options.cache ?? 64, 1, 4096),
    columns: checkNumber('columns', options.columns ?? 80, 1, 1000),
    rows: checkNumber('rows', options.rows ?? 24, 1, 1000),
  };
}

/** The same for a machine that goes on from a state. */
export function restoreSpec(options: RestoreOptions): Partial<MachineSpec> {
  const { disk, storage } = commonSpec(options);
  const spec: Partial<MachineSpec> = { tier: options.tier ?? 'auto', deterministic: options.deterministic ?? false };
  if (disk !== undefined) spec.disk = disk;
  if (storage !== undefined) spec.storage = storage;
  if (options.readOnly !== undefined) spec.readOnly = options.readOnly;
  if (options.cache !== undefined) spec.cache = checkNumber('cache', options.cache, 1, 4096);
  if (options.columns !== undefined) spec.columns = checkNumber('columns', options.columns, 1, 1000);
  if (options.rows !== undefined) spec.rows = checkNumber('rows', options.rows, 1, 1000);
  return spec;
}

/** sethostname(2) takes 64 bytes; names begin and end with a letter or a digit (RFC 1123, 2.1). */
const HOSTNAME = /^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$/i;

function commonSpec(options: LinuxVMOptions): Partial<MachineSpec> {
  const spec: Partial<MachineSpec> = {};
  for (const name of ['disk', 'kernel', 'initrd'] as const) {
    const value = options[name];
    if (value !== undefined) spec[name] = location(name, value);
  }
  if (options.cmdline !== undefined) spec.cmdline = options.cmdline;
  if (options.append !== undefined) spec.append = options.append;
  if (options.boot !== undefined && !['auto', 'cold'].includes(options.boot))
    throw new TypeError(`boot is "${String(options.boot)}"; it can be auto or cold`);
  if (options.boot === 'cold') spec.boot = 'cold';
  if (options.hostname !== undefined && !HOSTNAME.test(options.hostname))
    throw new TypeError(`hostname is "${options.hostname}"; it can be 1 to 63 letters, digits, dots and hyphens`);
  const { storageKey: key, storageMode: mode = 'exclusive', storageBase: base, resume = false, diff } = options;
  if (!['exclusive', 'read-only', 'take-over'].includes(mode))
    throw new TypeError(`storageMode is "${String(mode)}"; it can be exclusive, read-only or take-over`);
  if (base !== undefined && !['keep', 'reset'].includes(base))
    throw new TypeError(`storageBase is "${String(base)}"; it can be keep or reset`);
  if (key !== undefined || diff !== undefined) spec.storage = { key, mode, base, resume, diff };
  if (options.tier !== undefined && !TIERS.includes(options.tier))
    throw new TypeError(`tier is "${String(options.tier)}"; it can be ${TIERS.join(', ')}`);
  return spec;
}

/** Makes an address absolute: a worker's own base is not the page's. */
function location(name: string, value: Source): Location {
  if (value instanceof Uint8Array || value instanceof Blob) return value;
  const base = typeof document === 'undefined' ? undefined : document.baseURI;
  try {
    return new URL(value, base).href;
  } catch {
    throw new TypeError(`${name} is "${String(value)}", which is not an address`);
  }
}

function checkNumber(name: string, value: number, least: number, most: number): number {
  if (!(Number.isFinite(value) && value >= least && value <= most))
    throw new TypeError(`${name} is ${value}; it can be ${least} to ${most}`);
  return Math.floor(value);
}
