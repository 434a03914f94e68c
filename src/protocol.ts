import type { Compression } from '../emulator/disk/compression.ts';
import type { DiskStats } from '../emulator/disk/types.ts';
import type { ProcessorStats, Tier } from '../emulator/processor.ts';
import type { StorageSpec, StorageStatus } from '../emulator/storage/types.ts';

/** What a page and its worker say to each other. Everything here can be structured-cloned. */

/** An absolute address, or the bytes themselves. */
export type Location = string | Blob | Uint8Array;

/** What a machine is made of. */
export interface MachineSpec {
  /** A disk's manifest (`….json`) or raw image. */
  disk?: Location;
  /** These three override what the manifest says. */
  kernel?: Location;
  initrd?: Location;
  cmdline?: string;
  /** Added to the command line, whoever gave it. */
  append?: string;
  /** RAM in MiB. */
  memory: number;
  tier: Tier;
  deterministic: boolean;
  readOnly: boolean;
  /** Most memory for disk blocks that were read, in MiB. */
  cache: number;
  columns: number;
  rows: number;
  /** `cold`: from the kernel on, even where the disk has a snapshot to go on from. */
  boot?: 'cold';
  /** Where the changes to the disk are kept; absent: in memory. */
  storage?: StorageSpec;
}

/** Bytes have two ways: the console, and the guest agent's port. */
export type Channel = 'console' | 'agent';

export type ToWorker =
  | { type: 'start'; spec: MachineSpec }
  | { type: 'restore'; spec: Partial<MachineSpec>; state: Blob }
  | { type: 'input'; channel: Channel; bytes: Uint8Array }
  | { type: 'resize'; columns: number; rows: number }
  /** The page has dealt with this many bytes of console output; more than a bound unread stops the machine. */
  | { type: 'credit'; bytes: number }
  | { type: 'pause' }
  | { type: 'resume' }
  | ({ type: 'call'; id: number } & Call)
  /** The page shows no boot progress any more. */
  | { type: 'booted' }
  /** It may do now, and let another thread do, what makes it faster later: with the interpreter's handlers, too. */
  | { type: 'ripen'; handlers: boolean }
  | { type: 'stop' };

/** What is answered by a `result` or a `failure`. */
export type Call =
  | { method: 'save' | 'stats' | 'flush' | 'storage' | 'reset' }
  /** Gives the number of a stream, whose pieces `pull` gives one by one: bytes, or null at its end. */
  | { method: 'export'; what: 'diff' | 'image' }
  | { method: 'pull' | 'cancel'; stream: number }
  | { method: 'import'; diff: Blob }
  | { method: 'suspend'; keepRunning: boolean };

export type CallResult = VmStats | StorageStatus | Blob | Uint8Array | number | null | undefined;

export type FromWorker =
  | { type: 'progress'; progress: Progress }
  /** The processor runs. */
  | { type: 'started'; origin: Origin }
  /** The guest has nothing to do for the first time; there is a way for the machine to become faster meanwhile. */
  | { type: 'idle' }
  /** Why a part of a resumed machine's memory could not be fetched; it is tried again. Without an error: all is well. */
  | { type: 'memory-trouble'; error?: PlainError }
  /** All of it is here; for so many milliseconds the guest's clock stood still. */
  | { type: 'memory-complete'; waited: number }
  | { type: 'output'; channel: Channel; bytes: Uint8Array }
  | { type: 'result'; id: number; value: CallResult }
  | { type: 'failure'; id: number; error: PlainError }
  /** The guest was given an I/O error, for this reason. */
  | { type: 'disk-error'; error: PlainError }
  | { type: 'storage'; status: StorageStatus }
  /** The last message. */
  | { type: 'stopped'; exit: PlainExit; stats?: VmStats };

/** What a machine began with. */
export interface Origin {
  /**
   * `boot`: the start of the kernel. `kernel`: a kernel that had started and had not mounted the disk, from the disk's
   * snapshot. `snapshot`: the prompt, from there too. `state`: what was saved or suspended before.
   */
  from: 'boot' | 'kernel' | 'snapshot' | 'state';
  /** For people: why it is not the snapshot that the disk has. */
  note?: string;
}

/** How far loading and booting have come. */
export interface Progress {
  phase: 'manifest' | 'kernel' | 'initrd' | 'machine' | 'boot';
  /** Bytes of the kernel and the initramfs come so far, and in all when that is known. */
  loaded: number;
  total?: number;
  /** Disk blocks (chunks) and bytes that crossed the network for them. */
  diskBlocks: number;
  diskBytes: number;
  /** Guest instructions so far. */
  instructions: number;
  /** Why the last attempt to fetch something failed; it is being made again. Absent when all is well. */
  trouble?: string;
}

/**
 * Why a machine stopped: the guest powered off (`poweroff`), asked for a reset (`reset`), its kernel panicked, its
 * processor shut down (`triple-fault`), `stop()` was called, `suspend()` kept it for later (`suspended`), or something
 * failed (`error`).
 */
export type ExitReason = 'poweroff' | 'reset' | 'panic' | 'triple-fault' | 'stopped' | 'suspended' | 'error';

export interface PlainError {
  name: string;
  message: string;
  code?: string;
  url?: string;
  /** Plain data, for an answer by program. */
  details?: unknown;
  stack?: string;
}

export interface PlainExit {
  reason: ExitReason;
  /** For people: the panic's first lines, or what failed. */
  message?: string;
  error?: PlainError;
}

export interface VmStats {
  /** Seconds since the machine was started, on the host's clock. */
  seconds: number;
  /** Of these, the seconds in which the processor was not halted. */
  busySeconds?: number;
  processor: ProcessorStats;
  disk?: DiskStats;
  /** Bytes fetched for the kernel and the initramfs. */
  kernelBytes: number;
  /** Of a machine that went on from the disk's snapshot. */
  snapshot?: SnapshotStats;
}

export interface SnapshotStats {
  /** Bytes that crossed the network. */
  fetchedBytes: number;
  /** Chunks of memory that have come, those of them that the guest had to wait for, and whether that is all. */
  chunks: number;
  demanded: number;
  complete: boolean;
}

/** A file in words for the worker: where it is and what is known of it. */
export interface BootFile {
  location: Location;
  size?: number;
  sha256?: string;
  compression?: Compression;
}

export function plainError(cause: unknown): PlainError {
  if (!(cause instanceof Error)) return { name: 'Error', message: String(cause) };
  const { code, url, details } = cause as Error & { code?: unknown; url?: unknown; details?: unknown };
  return {
    name: cause.name,
    message: cause.message,
    code: typeof code === 'string' ? code : undefined,
    url: typeof url === 'string' ? url : undefined,
    details: cause.name === 'StorageError' ? details : undefined,
    stack: cause.stack,
  };
}
