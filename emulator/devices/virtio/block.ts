import type { BlockDevice } from '../../disk/types.ts';
import type { VirtioDevice, VirtioHost } from './device.ts';
import type { Chain, SplitQueue } from './queue.ts';

// Feature bits and request types, virtio 1.2, 5.2.
const F_SEG_MAX = 2;
const F_RO = 5;
const F_BLK_SIZE = 6;
const F_FLUSH = 9;
const F_TOPOLOGY = 10;
const F_DISCARD = 13;
const F_WRITE_ZEROES = 14;

const T_IN = 0;
const T_OUT = 1;
const T_FLUSH = 4;
const T_GET_ID = 8;
const T_DISCARD = 11;
const T_WRITE_ZEROES = 13;

const S_OK = 0;
const S_IOERR = 1;
const S_UNSUPPORTED = 2;

const SECTOR = 512;
const HEADER_SIZE = 16;
const RANGE_SIZE = 16;
const ID_SIZE = 20;
const QUEUE_SIZE = 256;
const SEGMENTS = QUEUE_SIZE - 2;
/** The most bytes of one request; Linux's own limit is 1.25 MiB. More is refused rather than gathered in memory. */
const MAX_TRANSFER = 16 << 20;
/** The most sectors of one discard or write-zeroes range, and ranges in one request. */
const MAX_RANGE_SECTORS = 1 << 17;
const MAX_RANGES = 16;
const ZEROS = new Uint8Array(64 * 1024);

/** Nothing but what the disk itself saves: a request in flight is drained before. */
export type VirtioBlockState = Record<string, never>;

export interface VirtioBlockOptions {
  /** What the guest reads as the disk's serial number; at most 20 ASCII characters. */
  serial?: string;
  /** Told of every error of the disk below; the guest gets an I/O error. */
  onError?: (error: unknown) => void;
  /** Requests are finished in the order in which they came, whatever the disk does: a deterministic machine's. */
  inOrder?: boolean;
}

/**
 * virtio-blk over a `BlockDevice`. What the disk has in memory is answered before the driver's notification returns;
 * the rest is asynchronous, several requests at a time.
 */
export class VirtioBlock implements VirtioDevice<VirtioBlockState> {
  readonly id = 2;
  readonly name = 'virtio-blk';
  readonly queueSizes = [QUEUE_SIZE];
  readonly features: number;
  readonly config = new Uint8Array(60);
  readonly counters = {
    reads: 0,
    readBytes: 0,
    writes: 0,
    writtenBytes: 0,
    flushes: 0,
    discards: 0,
    /** Requests answered without waiting. */
    immediate: 0,
    errors: 0,
  };
  /** Requests that wait for the disk. */
  inFlight = 0;

  private host!: VirtioHost;
  private queue!: SplitQueue;
  private readonly header = new Uint8Array(HEADER_SIZE);
  private readonly headerView = new DataView(this.header.buffer);
  private readonly statusByte = new Uint8Array(1);
  private gather = new Uint8Array(64 * 1024);
  /** The request that `take` fills. */
  private reading!: Chain;
  private readonly take = (piece: Uint8Array): void => this.reading.append(piece);
  private idle: (() => void)[] = [];

  constructor(
    private readonly disk: BlockDevice,
    private readonly options: VirtioBlockOptions = {},
  ) {
    this.features =
      (1 << F_SEG_MAX) |
      (1 << F_BLK_SIZE) |
      (1 << F_FLUSH) |
      (1 << F_TOPOLOGY) |
      (disk.readOnly ? 1 << F_RO : (1 << F_DISCARD) | (1 << F_WRITE_ZEROES));
    const view = new DataView(this.config.buffer);
    view.setBigUint64(0, BigInt(Math.floor(disk.size / SECTOR)), true);
    view.setUint32(12, SEGMENTS, true);
    view.setUint32(20, SECTOR, true);
    view.setUint8(24, 3); // physical block: 8 sectors
    view.setUint16(26, 8, true); // smallest efficient transfer, sectors
    view.setUint16(34, 1, true); // one queue
    view.setUint32(36, MAX_RANGE_SECTORS, true);
    view.setUint32(40, MAX_RANGES, true);
    view.setUint32(44, 8, true); // discards are useful on 4 KiB boundaries
    view.setUint32(48, MAX_RANGE_SECTORS, true);
    view.setUint32(52, MAX_RANGES, true);
    view.setUint8(56, 1); // write-zeroes may unmap
  }

  attach(host: VirtioHost): void {
    this.host = host;
    this.queue = host.queues[0]!;
  }

  start(): void {
    this.notify(0);
  }

  notify(_queue: number): void {
    if (this.options.inOrder) {
      // Also what the disk has at hand, which may depend on how far it has read ahead, is answered later.
      if (this.inFlight > 0) return;
      this.inFlight++;
      void Promise.resolve().then(() => this.ended());
      return;
    }
    this.serve();
  }

  private serve(): void {
    let chain;
    while (!(this.options.inOrder && this.inFlight > 0) && (chain = this.queue.pop())) this.request(chain);
    this.queue.signal();
  }

  /** One of those in flight is done. */
  private ended(): void {
    this.inFlight--;
    if (this.options.inOrder) this.serve();
    else this.queue.signal();
    if (this.inFlight > 0) return;
    const idle = this.idle;
    this.idle = [];
    for (const done of idle) done();
  }

  private request(chain: Chain): void {
    if (chain.read(0, this.header) < HEADER_SIZE || chain.writableBytes < 1) {
      this.host.fail('a block request without header or status byte');
      return;
    }
    const type = this.headerView.getUint32(0, true);
    const sector = this.headerView.getUint32(8, true) + this.headerView.getUint32(12, true) * 0x1_0000_0000;
    try {
      const later = this.dispatch(chain, type, sector * SECTOR);
      if (!later) return;
      this.inFlight++;
      later
        .then(
          () => undefined,
          (error: unknown) => this.failed(chain, error),
        )
        .finally(() => this.ended());
    } catch (error) {
      this.failed(chain, error);
    }
  }

  /** Starts a request. Returns a promise when it will be finished later. */
  private dispatch(chain: Chain, type: number, offset: number): Promise<void> | undefined {
    switch (type) {
      case T_IN:
        return this.readRequest(chain, offset, chain.writableBytes - 1);
      case T_OUT:
        return this.writeRequest(chain, offset, chain.readableBytes - HEADER_SIZE);
      case T_FLUSH:
        this.counters.flushes++;
        return this.disk.flush().then(() => this.finish(chain, S_OK, 0));
      case T_GET_ID: {
        const id = new Uint8Array(ID_SIZE);
        id.set(new TextEncoder().encode(this.options.serial ?? '').subarray(0, ID_SIZE));
        const length = Math.min(ID_SIZE, chain.writableBytes - 1);
        chain.write(0, id.subarray(0, length));
        this.finish(chain, S_OK, length);
        return undefined;
      }
      case T_DISCARD:
      case T_WRITE_ZEROES:
        if (this.disk.readOnly) break;
        return this.rangeRequest(chain, type);
    }
    this.finish(chain, S_UNSUPPORTED, 0);
    return undefined;
  }

  private inside(offset: number, length: number): boolean {
    return length % SECTOR === 0 && length <= MAX_TRANSFER && offset + length <= this.disk.size;
  }

  private readRequest(chain: Chain, offset: number, length: number): Promise<void> | undefined {
    if (!this.inside(offset, length)) {
      this.finish(chain, S_IOERR, 0);
      return undefined;
    }
    this.counters.reads++;
    this.counters.readBytes += length;
    this.reading = chain;
    if (this.disk.readPieces?.(offset, length, this.take)) {
      this.counters.immediate++;
      this.finish(chain, S_OK, length);
      return undefined;
    }
    return this.disk.read(offset, length).then((data) => {
      if (!this.queue.alive(chain)) return this.finish(chain, S_OK, 0);
      if (data.length !== length) throw new Error(`the disk gave ${data.length} bytes instead of ${length}`);
      chain.write(0, data);
      this.finish(chain, S_OK, length);
    });
  }

  private writeRequest(chain: Chain, offset: number, length: number): Promise<void> | undefined {
    if (this.disk.readOnly || !this.inside(offset, length)) {
      this.finish(chain, S_IOERR, 0);
      return undefined;
    }
    this.counters.writes++;
    this.counters.writtenBytes += length;
    let data = chain.readInPlace(HEADER_SIZE, length);
    if (!data) {
      if (this.gather.length < length) this.gather = new Uint8Array(length);
      data = this.gather.subarray(0, length);
      chain.read(HEADER_SIZE, data);
    }
    // The disk takes a copy before it returns, so neither guest memory nor the buffer need stay as they are.
    const later = this.disk.write(offset, data);
    if (later) return later.then(() => this.finish(chain, S_OK, 0));
    this.counters.immediate++;
    this.finish(chain, S_OK, 0);
    return undefined;
  }

  /** Discard and write-zeroes: a list of ranges (5.2.6). */
  private rangeRequest(chain: Chain, type: number): Promise<void> | undefined {
    const length = chain.readableBytes - HEADER_SIZE;
    const count = length / RANGE_SIZE;
    if (!Number.isInteger(count) || count < 1 || count > MAX_RANGES) {
      this.finish(chain, S_IOERR, 0);
      return undefined;
    }
    const bytes = new Uint8Array(length);
    chain.read(HEADER_SIZE, bytes);
    const view = new DataView(bytes.buffer);
    const ranges: { offset: number; length: number }[] = [];
    for (let at = 0; at < length; at += RANGE_SIZE) {
      const sector = view.getUint32(at, true) + view.getUint32(at + 4, true) * 0x1_0000_0000;
      const sectors = view.getUint32(at + 8, true);
      const flags = view.getUint32(at + 12, true);
      if (flags & ~1 || (flags && type === T_DISCARD)) {
        this.finish(chain, S_UNSUPPORTED, 0);
        return undefined;
      }
      if (sectors > MAX_RANGE_SECTORS || sector * SECTOR + sectors * SECTOR > this.disk.size) {
        this.finish(chain, S_IOERR, 0);
        return undefined;
      }
      ranges.push({ offset: sector * SECTOR, length: sectors * SECTOR });
    }
    this.counters.discards++;
    if (type === T_DISCARD) {
      for (const range of ranges) this.disk.discard?.(range.offset, range.length);
      this.finish(chain, S_OK, 0);
      return undefined;
    }
    return this.writeZeroes(ranges).then(() => this.finish(chain, S_OK, 0));
  }

  private async writeZeroes(ranges: readonly { offset: number; length: number }[]): Promise<void> {
    for (const { offset, length } of ranges)
      for (let done = 0; done < length; done += ZEROS.length)
        await this.disk.write(offset + done, ZEROS.subarray(0, Math.min(ZEROS.length, length - done)));
  }

  private failed(chain: Chain, error: unknown): void {
    this.counters.errors++;
    this.options.onError?.(error);
    this.finish(chain, S_IOERR, 0);
  }

  /** @param written bytes before the status byte */
  private finish(chain: Chain, status: number, written: number): void {
    if (this.queue.alive(chain)) {
      this.statusByte[0] = status;
      chain.write(chain.writableBytes - 1, this.statusByte);
    }
    this.queue.push(chain, written + 1);
  }

  reset(): void {
    // Requests in flight belong to the queue's former life: `alive` is false when they come back.
  }

  drain(): Promise<void> {
    return this.inFlight === 0 ? Promise.resolve() : new Promise((resolve) => this.idle.push(resolve));
  }

  save(): VirtioBlockState {
    return {};
  }

  restore(_state: VirtioBlockState): void {
    // All state is in the queue and in the disk.
  }
}
