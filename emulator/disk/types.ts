/** Counters of one disk, from its opening on. */
export interface DiskStats {
  /** Requests of the guest, and their bytes. */
  reads: number;
  readBytes: number;
  writes: number;
  writtenBytes: number;
  flushes: number;
  /** Cache blocks that a request found in memory, and that it had to wait for. */
  hits: number;
  misses: number;
  /** Blocks taken from the source (demand, read-ahead and prefetch), and the bytes that crossed the network for them. */
  fetches: number;
  fetchedBytes: number;
  /** Attempts at the source that failed and were made again. */
  retries: number;
  /** Bytes that the cache and the overlay hold in memory now. */
  cachedBytes: number;
  overlayBytes: number;
}

/** What a virtio block device stands on. Offsets and lengths are bytes and must lie within `size`. */
export interface BlockDevice {
  /** Capacity in bytes, a multiple of 512. */
  readonly size: number;
  readonly readOnly: boolean;
  /** @throws BlockError when the data cannot be had; the guest is then given an I/O error. Never hangs. */
  read(offset: number, length: number): Promise<Uint8Array>;
  /**
   * Hands out the same bytes at once, piece by piece and in order, when all of them are in memory. The pieces must not be
   * written to. @returns false, having handed out nothing, when they are not
   */
  readPieces?(offset: number, length: number, take: (piece: Uint8Array) => void): boolean;
  /** Takes a copy of `data`. Done at once when it returns nothing. @throws BlockError (or rejects) as for `read`. */
  write(offset: number, data: Uint8Array): Promise<void> | void;
  /** Resolves when everything written before is as lasting as the store below can make it. */
  flush(): Promise<void>;
  /** The range is no longer needed; it reads as zeros afterwards where whole overlay blocks lie in it. */
  discard?(offset: number, length: number): void;
  readonly stats: DiskStats;
}

/** Where a disk's original bytes come from: read-only, asynchronous, and checked before they are handed on. */
export interface BlockSource {
  /** Bytes. */
  readonly size: number;
  /** The size in bytes of the unit that is cheapest to fetch; a power of two. */
  readonly blockSize: number;
  /**
   * @param ahead nobody waits for it: it is tried only once, and may take longer
   * @throws BlockError after its retries are used up, or at once when `signal` aborts
   */
  read(offset: number, length: number, signal?: AbortSignal, ahead?: boolean): Promise<Uint8Array>;
  /** Blocks that are known to be zero without fetching them. */
  isZero?(block: number): boolean;
  readonly transfer?: TransferStats;
}

/** What a source did on the network. */
export interface TransferStats {
  fetchedBytes: number;
  retries: number;
}

export type BlockErrorCode =
  | 'network'
  | 'timeout'
  | 'status'
  | 'short'
  | 'long'
  | 'range-ignored'
  | 'range-wrong'
  | 'hash'
  | 'compression'
  | 'manifest'
  | 'changed'
  | 'bounds'
  | 'read-only'
  | 'store'
  | 'aborted';

/** Why data could not be had, in words for the person at the screen: what failed, what was expected, what to do. */
export class BlockError extends Error {
  override readonly name = 'BlockError';
  /** Unlikely to go away soon (a 404, say): fewer attempts are made. */
  readonly lasting: boolean;
  constructor(
    readonly code: BlockErrorCode,
    message: string,
    readonly url?: string,
    options?: { cause?: unknown; lasting?: boolean },
  ) {
    super(message, options);
    this.lasting = options?.lasting ?? false;
  }
}

/** @throws BlockError when [offset, offset + length) is not inside a disk of `size` bytes. */
export function checkRange(size: number, offset: number, length: number): void {
  if (!(Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 && length >= 0))
    throw new BlockError('bounds', `a disk access at ${offset} of ${length} bytes makes no sense`);
  if (offset + length > size)
    throw new BlockError('bounds', `a disk access at ${offset} of ${length} bytes ends past the disk's ${size} bytes`);
}

export function emptyStats(): DiskStats {
  return {
    reads: 0,
    readBytes: 0,
    writes: 0,
    writtenBytes: 0,
    flushes: 0,
    hits: 0,
    misses: 0,
    fetches: 0,
    fetchedBytes: 0,
    retries: 0,
    cachedBytes: 0,
    overlayBytes: 0,
  };
}
