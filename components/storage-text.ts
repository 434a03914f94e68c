import type { LinuxVM } from '../src/vm.ts';
import { bytesText } from './format.ts';

/** Where a machine's writes go; the shape of LinuxVM's `storage`. */
export interface StorageView {
  key?: string;
  mode: 'exclusive' | 'read-only' | 'ephemeral';
  reason?: string;
  storedBytes: number;
  dirtyBytes: number;
  quota?: number;
  usage?: number;
  persisted?: boolean;
  suspendedBytes?: number;
  problem?: { code: string; message: string };
}

export function storageOf(vm: LinuxVM | undefined): StorageView | undefined {
  return (vm as { storage?: StorageView } | undefined)?.storage;
}

/** Calls on the disk as a whole; the shape of LinuxVM's `disk`. */
export interface DiskCalls {
  exportDiff(): ReadableStream<Uint8Array>;
  /** A raw ext2 image. */
  exportImage(): ReadableStream<Uint8Array>;
  /** These two end the machine. */
  importDiff(diff: Blob): Promise<void>;
  reset(): Promise<void>;
}

export function diskOf(vm: LinuxVM): DiskCalls | undefined {
  return (vm as { disk?: DiskCalls }).disk;
}

/** For the status line. */
export function storageText(vm: LinuxVM | undefined): { text: string; trouble: boolean } {
  if (!vm) return { text: '', trouble: false };
  const storage = storageOf(vm);
  if (storage?.problem) return { text: 'Not saved: no room', trouble: true };
  switch (storage?.mode) {
    case 'exclusive':
      return {
        text: storage.dirtyBytes > 0 ? 'Saving…' : `Saved here (${bytesText(storage.storedBytes)})`,
        trouble: false,
      };
    case 'read-only':
      return { text: 'Read-only: changes are lost', trouble: false };
    default:
      return { text: 'Changes are lost on close', trouble: false };
  }
}
