import type { Progress } from '../src/protocol.ts';

const MEGABYTE = 1e6;

/** One line for people about how far loading or booting has come. */
export function progressText(progress: Progress | undefined): string {
  if (!progress) return 'Starting the worker';
  switch (progress.phase) {
    case 'manifest':
      return 'Reading what the disk consists of';
    case 'kernel':
    case 'initrd':
      return progress.total
        ? `Kernel: ${megabytes(progress.loaded)} of ${megabytes(progress.total)} MB`
        : `Kernel: ${megabytes(progress.loaded)} MB`;
    case 'machine':
      return 'Building the machine';
    case 'boot': {
      const millions = Math.floor(progress.instructions / 1e6);
      const disk = progress.diskBlocks
        ? `; disk: ${progress.diskBlocks} ${progress.diskBlocks === 1 ? 'chunk' : 'chunks'}, ${megabytes(progress.diskBytes)} MB`
        : '';
      return `The kernel starts: ${millions} million instructions${disk}`;
    }
  }
}

/** 0 to 1, or null where the end is not known. */
export function progressValue(progress: Progress | undefined): number | null {
  if (!progress?.total || progress.phase === 'boot') return null;
  return Math.min(1, progress.loaded / progress.total);
}

function megabytes(bytes: number): string {
  return (bytes / MEGABYTE).toFixed(1);
}
