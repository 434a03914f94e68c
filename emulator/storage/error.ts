import { BlockError } from '../disk/types.ts';

/**
 * - `storage-busy`: another tab has this storage open.
 * - `storage-taken`: another tab took it over while this one used it.
 * - `storage-base-changed`: it belongs to another base image; `details` is a `BaseChange`.
 * - `storage-full`: the browser gives no more space.
 * - `storage-lost`: the browser removed it while it was in use (site data cleared, say).
 * - `storage-damaged`, `storage-version`: it, or a diff, cannot be read.
 * - `storage-not-empty`: a diff can only be put over an unwritten disk.
 * - `storage-unavailable`: there is no IndexedDB here, or it is blocked.
 * - `storage-key`: the name of the storage cannot be used.
 */
export type StorageErrorCode =
  | 'storage-busy'
  | 'storage-taken'
  | 'storage-base-changed'
  | 'storage-full'
  | 'storage-lost'
  | 'storage-damaged'
  | 'storage-version'
  | 'storage-not-empty'
  | 'storage-unavailable'
  | 'storage-key';

/** Why kept changes cannot be opened, read or written, in words for the person at the screen. */
export class StorageError extends Error {
  override readonly name = 'StorageError';
  readonly details: unknown;
  constructor(
    readonly code: StorageErrorCode,
    message: string,
    options?: { cause?: unknown; details?: unknown },
  ) {
    super(message, options);
    this.details = options?.details;
  }
}

/** What failed in IndexedDB, as a `StorageError` where the cause is known. */
export function asStorageError(cause: unknown, key: string): StorageError {
  if (cause instanceof StorageError) return cause;
  const name = cause instanceof Error || cause instanceof DOMException ? cause.name : '';
  const reason = cause instanceof Error ? cause.message : String(cause);
  if (name === 'QuotaExceededError')
    return new StorageError(
      'storage-full',
      `the browser gives no more space for the changes to the disk ("${key}"): delete stored machines or offline ` +
        'copies in this page, delete files in the guest and run "fstrim /" there, or free space on this device; what ' +
        'was written before is safe',
      { cause },
    );
  if (name === 'InvalidStateError' || name === 'NotFoundError')
    return new StorageError(
      'storage-lost',
      `the browser closed the storage of the changes to the disk ("${key}"), as when site data is deleted; what was ` +
        'written since cannot be kept',
      { cause },
    );
  if (name === 'SecurityError')
    return new StorageError('storage-unavailable', `the browser blocks storage for this page (${reason})`, { cause });
  return new StorageError('storage-damaged', `the storage of the changes to the disk ("${key}") failed: ${reason}`, {
    cause,
  });
}

/** The same for the disk's callers, who know `BlockError` only. */
export function asBlockFailure(error: StorageError): BlockError {
  return new BlockError('store', error.message, undefined, { cause: error });
}
