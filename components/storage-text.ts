import type { StorageStatus } from '../src/storage.ts';
import { bytesText } from './format.ts';

/** In a few words, for the status line, where a disk's changes go. */
export function storageText(status: StorageStatus | undefined): { text: string; trouble: boolean } {
  if (status?.problem) return { text: 'Not saved', trouble: true };
  switch (status?.mode) {
    case 'exclusive':
      return { text: status.dirtyBytes > 0 ? 'Saving…' : `Saved (${bytesText(status.storedBytes)})`, trouble: false };
    case 'read-only':
      return { text: 'Read-only', trouble: false };
    case 'ephemeral':
      // That a browser refuses what was asked for is worth a look; that nobody asked is not.
      return { text: 'Not saved', trouble: status.reason !== undefined };
    case undefined:
      return { text: '', trouble: false };
  }
}
