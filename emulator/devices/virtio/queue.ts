import type { Saved } from '../../bus.ts';
import type { GuestMemory } from '../../memory.ts';

// Descriptor flags, virtio 1.2, 2.7.5.
const DESC_NEXT = 1;
const DESC_WRITE = 2;
const DESC_INDIRECT = 4;
const DESC_SIZE = 16;
const AVAIL_NO_INTERRUPT = 1;

/** The most descriptors one request may have; Linux uses at most 130. A longer chain is a loop or an attack. */
const MAX_SEGMENTS = 1024;

/**
 * One request of the driver: buffers to read, then buffers to write, all checked to lie in RAM. The objects are
 * pooled: one belongs to its device until the device pushes it back.
 */
export class Chain {
  /** Index of the first descriptor: the request's name in the used ring. */
  head = 0;
  /** Bytes in the buffers to read and in those to write. */
  readableBytes = 0;
  writableBytes = 0;
  /** Buffers in all, and how many of them are to read. */
  count = 0;
  readable = 0;
  /** The queue's life in which it was taken; after a reset the queue has another and the request is dead. */
  epoch = 0;
  /** Where `append` goes on: a buffer to write, and bytes into it. */
  private next = 0;
  private filled = 0;
  readonly addresses: number[] = [];
  readonly lengths: number[] = [];

  constructor(private readonly memory: GuestMemory) {}

  /** @internal */
  begin(head: number, epoch: number): void {
    this.head = head;
    this.epoch = epoch;
    this.readableBytes = this.writableBytes = this.count = this.readable = this.next = this.filled = 0;
  }

  /** @internal */
  add(address: number, length: number, writable: boolean): void {
    this.addresses[this.count] = address;
    this.lengths[this.count++] = length;
    if (writable) this.writableBytes += length;
    else {
      this.readable++;
      this.readableBytes += length;
    }
  }

  /** Copies request bytes from `offset` on to `target`. @returns how many there were, at most `target.length` */
  read(offset: number, target: Uint8Array): number {
    let done = 0;
    for (let i = 0; i < this.readable && done < target.length; i++) {
      const length = this.lengths[i]!;
      if (offset >= length) {
        offset -= length;
        continue;
      }
      const n = Math.min(length - offset, target.length - done);
      target.set(this.memory.slice(this.addresses[i]! + offset, n), done);
      done += n;
      offset = 0;
    }
    return done;
  }

  /** Request bytes [offset, offset + length) without a copy if they lie in one buffer, else undefined. */
  readInPlace(offset: number, length: number): Uint8Array | undefined {
    for (let i = 0; i < this.readable; i++) {
      const size = this.lengths[i]!;
      if (offset < size)
        return offset + length <= size ? this.memory.slice(this.addresses[i]! + offset, length) : undefined;
      offset -= size;
    }
    return undefined;
  }

  /** Copies `source` into the buffers to write, `offset` bytes into them. @returns how many bytes fitted */
  write(offset: number, source: Uint8Array): number {
    let done = 0;
    for (let i = this.readable; i < this.count && done < source.length; i++) {
      const length = this.lengths[i]!;
      if (offset >= length) {
        offset -= length;
        continue;
      }
      const n = Math.min(length - offset, source.length - done);
      const whole = done === 0 && n === source.length;
      this.memory.write(this.addresses[i]! + offset, whole ? source : source.subarray(done, done + n));
      done += n;
      offset = 0;
    }
    return done;
  }

  /** Copies `source` into the buffers to write, behind what was appended before; what does not fit is left out. */
  append(source: Uint8Array): void {
    let i = Math.max(this.next, this.readable);
    for (let done = 0; i < this.count && done < source.length;) {
      const n = Math.min(this.lengths[i]! - this.filled, source.length - done);
      const whole = n === source.length;
      this.memory.write(this.addresses[i]! + this.filled, whole ? source : source.subarray(done, done + n));
      done += n;
      this.filled += n;
      if (this.filled < this.lengths[i]!) break;
      i++;
      this.filled = 0;
    }
    this.next = i;
  }
}

export interface QueueState {
  size: number;
  ready: boolean;
  descriptors: number;
  available: number;
  used: number;
  lastAvailable: number;
  usedIndex: number;
  signalled: number;
}

/**
 * A split virtqueue (virtio 1.2, 2.7), device side. The driver is hostile: whatever the rings hold, `pop` does a
 * bounded amount of work and touches only RAM; a ring that breaks the rules calls `fail` and is dead until a reset.
 */
export class SplitQueue implements Saved<QueueState> {
  /** Descriptors in the ring, chosen by the driver: a power of two up to `maxSize`. */
  size: number;
  ready = false;
  /** Physical addresses of descriptor table, available ring and used ring. */
  descriptors = 0;
  available = 0;
  used = 0;
  /** Negotiated: VIRTIO_F_INDIRECT_DESC, VIRTIO_F_EVENT_IDX. */
  indirect = false;
  eventIndex = false;
  /** A request could not be taken because pages of RAM that it lies in are not here yet: notify the device when they are. */
  waiting = false;
  /** Requests taken, and interrupts asked for. */
  requests = 0;
  signals = 0;

  private lastAvailable = 0;
  private usedIndex = 0;
  private signalled = 0;
  private epoch = 0;
  private broken = false;
  private owed = false;
  /**
   * Requests that may still be taken before `signal` ends the batch. A driver adds none while the device works, so
   * more than the ring holds means that the device's own writes feed the ring.
   */
  private allowance = 0;
  private readonly pool: Chain[] = [];

  /**
   * @param fail the ring is broken, and why: the device needs a reset
   * @param interrupt tells the driver that there are used buffers
   */
  constructor(
    readonly memory: GuestMemory,
    readonly maxSize: number,
    private readonly fail: (reason: string) => void,
    private readonly interrupt: () => void,
  ) {
    this.size = maxSize;
  }

  /** Forgets everything; requests in flight die. */
  reset(): void {
    this.size = this.maxSize;
    this.ready = this.indirect = this.eventIndex = this.broken = this.waiting = this.owed = false;
    this.descriptors = this.available = this.used = 0;
    this.lastAvailable = this.usedIndex = this.signalled = 0;
    this.epoch++;
  }

  /** The driver takes the queue back alone; what was negotiated stays. */
  disable(): void {
    const { indirect, eventIndex } = this;
    this.reset();
    this.indirect = indirect;
    this.eventIndex = eventIndex;
  }

  /** The driver says that size and addresses are set. Fails when they are not usable. */
  enable(): void {
    const { size, memory } = this;
    if (size < 1 || size > this.maxSize || size & (size - 1)) return this.die(`queue size ${size}`);
    if (this.descriptors % 16 || this.available % 2 || this.used % 4) return this.die('a misaligned ring');
    if (
      !memory.contains(this.descriptors, size * DESC_SIZE) ||
      !memory.contains(this.available, 6 + size * 2) ||
      !memory.contains(this.used, 6 + size * 8)
    )
      return this.die('a ring outside RAM');
    this.ready = true;
    this.allowance = size;
  }

  private die(reason: string): undefined {
    this.broken = true;
    this.ready = false;
    this.fail(reason);
    return undefined;
  }

  /** Whether a request waits. */
  get pending(): boolean {
    return this.ready && !this.broken && this.memory.read16(this.available + 2) !== this.lastAvailable;
  }

  /** Whether the rings are in pages that are here. */
  private get ringsPresent(): boolean {
    const { memory, size } = this;
    const descriptors = memory.present(this.descriptors, size * DESC_SIZE);
    const available = memory.present(this.available, 6 + size * 2);
    return memory.present(this.used, 6 + size * 8) && descriptors && available;
  }

  /** Asks for the pages of the rings. @returns whether all of them are here; a queue that is not in use needs none */
  prepare(): boolean {
    return !this.ready || this.broken || this.memory.absent === undefined || this.ringsPresent;
  }

  /**
   * Takes the next request, or returns undefined when there is none (or the ring is broken). All of its buffers are in RAM
   * and here; while one is not, the request waits in the ring and `waiting` is set.
   */
  pop(): Chain | undefined {
    if (!this.ready || this.broken) return undefined;
    const { memory, size } = this;
    if (memory.absent !== undefined && !this.ringsPresent) return this.wait();
    const waiting = (memory.read16(this.available + 2) - this.lastAvailable) & 0xffff;
    if (waiting === 0) {
      // Ask to be notified of the next one.
      if (this.eventIndex) memory.write16(this.used + 4 + size * 8, this.lastAvailable);
      return undefined;
    }
    if (this.allowance-- === 0) return this.die('a ring that the device itself writes to');
    if (waiting > size) return this.die(`${waiting} available buffers in a ring of ${size}`);
    const head = memory.read16(this.available + 4 + (this.lastAvailable & (size - 1)) * 2);
    if (head >= size) return this.die(`descriptor ${head} of ${size}`);
    const chain = this.pool.pop() ?? new Chain(memory);
    chain.begin(head, this.epoch);
    if (!this.walk(chain, head)) {
      this.pool.push(chain);
      return undefined;
    }
    if (memory.absent !== undefined && !this.buffersPresent(chain)) {
      this.pool.push(chain);
      this.allowance++;
      return this.wait();
    }
    this.lastAvailable = (this.lastAvailable + 1) & 0xffff;
    this.requests++;
    return chain;
  }

  private wait(): undefined {
    this.waiting = true;
    return undefined;
  }

  private buffersPresent(chain: Chain): boolean {
    let all = true;
    for (let i = 0; i < chain.count; i++) if (!this.memory.present(chain.addresses[i]!, chain.lengths[i]!)) all = false;
    return all;
  }

  private walk(chain: Chain, head: number): boolean {
    const { memory } = this;
    let table = this.descriptors;
    let entries = this.size;
    let index = head;
    let direct = true;
    // Every turn adds a segment or enters the one indirect table, so MAX_SEGMENTS bounds it, loops included.
    for (;;) {
      const at = table + index * DESC_SIZE;
      const address = memory.read64(at);
      const length = memory.read32(at + 8);
      const flags = memory.read16(at + 12);
      const next = memory.read16(at + 14);
      if (flags & DESC_INDIRECT) {
        if (!direct || !this.indirect || flags & DESC_NEXT) return this.dead('a misplaced indirect descriptor');
        entries = length / DESC_SIZE;
        if (!Number.isInteger(entries) || entries === 0 || !memory.contains(address, length))
          return this.dead('an indirect table of a wrong size or outside RAM');
        if (!memory.present(address, length)) {
          this.allowance++;
          this.waiting = true;
          return false;
        }
        table = address;
        index = 0;
        direct = false;
        continue;
      }
      if (!memory.contains(address, length))
        return this.dead(`a buffer outside RAM: 0x${address.toString(16)} + ${length} bytes`);
      const writable = (flags & DESC_WRITE) !== 0;
      if (!writable && chain.count > chain.readable) return this.dead('a buffer to read after one to write');
      if (chain.count === MAX_SEGMENTS) return this.dead('an endless descriptor chain');
      chain.add(address, length, writable);
      if (!(flags & DESC_NEXT)) return true;
      if (next >= entries) return this.dead(`descriptor ${next} of ${entries}`);
      index = next;
    }
  }

  private dead(reason: string): false {
    this.die(reason);
    return false;
  }

  /** Whether the request still belongs to a driver: false after a reset. */
  alive(chain: Chain): boolean {
    return chain.epoch === this.epoch && this.ready && !this.broken;
  }

  /**
   * Gives a request back. `signal` must follow, once after a batch. Does nothing for a request from before a reset.
   * @param written bytes put into its buffers to write
   */
  push(chain: Chain, written: number): void {
    if (this.alive(chain)) this.pushHead(chain.head, written);
    this.pool.push(chain);
  }

  /** Ends the device's use of a request without giving it back; its head can be pushed later. */
  forget(chain: Chain): void {
    this.pool.push(chain);
  }

  /** As `push`, for a request of which only the head was kept (through a save and restore). */
  pushHead(head: number, written: number): void {
    if (!this.ready || this.broken) return;
    const { memory } = this;
    const at = this.used + 4 + (this.usedIndex & (this.size - 1)) * 8;
    memory.write32(at, head);
    memory.write32(at + 4, written);
    this.usedIndex = (this.usedIndex + 1) & 0xffff;
    memory.write16(this.used + 2, this.usedIndex);
  }

  /** Interrupts the driver if there are used buffers that it wants to hear of (2.7.7). */
  signal(): void {
    this.owed = false;
    this.allowance = this.size;
    if (!this.ready || this.broken || this.signalled === this.usedIndex) return;
    const { memory } = this;
    let wanted: boolean;
    if (this.eventIndex) {
      const event = memory.read16(this.available + 4 + this.size * 2);
      wanted = ((this.usedIndex - event - 1) & 0xffff) < ((this.usedIndex - this.signalled) & 0xffff);
    } else wanted = !(memory.read16(this.available) & AVAIL_NO_INTERRUPT);
    this.signalled = this.usedIndex;
    if (!wanted) return;
    this.signals++;
    this.interrupt();
  }

  /** In place of `signal` where the driver is likely to look for itself soon: it is told with `settle` if it has not. */
  signalLater(): void {
    // Past a ring's worth it is asked after all, long before the indices wrap around.
    if (((this.usedIndex - this.signalled) & 0xffff) >= this.size) return this.signal();
    this.owed = true;
    this.allowance = this.size;
  }

  /** @returns whether the driver was interrupted */
  settle(): boolean {
    if (!this.owed) return false;
    const before = this.signals;
    this.signal();
    return this.signals !== before;
  }

  save(): QueueState {
    return {
      size: this.size,
      ready: this.ready,
      descriptors: this.descriptors,
      available: this.available,
      used: this.used,
      lastAvailable: this.lastAvailable,
      usedIndex: this.usedIndex,
      signalled: this.signalled,
    };
  }

  restore(state: QueueState): void {
    this.reset();
    this.size = state.size;
    this.descriptors = state.descriptors;
    this.available = state.available;
    this.used = state.used;
    // A state from elsewhere is checked as a driver is.
    if (state.ready) this.enable();
    this.lastAvailable = state.lastAvailable & 0xffff;
    this.usedIndex = state.usedIndex & 0xffff;
    this.signalled = state.signalled & 0xffff;
  }
}
