import type { IrqLine, MmioDevice, Saved, Width } from '../../bus.ts';
import type { GuestMemory } from '../../memory.ts';
import type { VirtioDevice, VirtioHost } from './device.ts';
import { SplitQueue } from './queue.ts';
import type { QueueState } from './queue.ts';

/** Bytes of one device's register window. */
export const VIRTIO_MMIO_SIZE = 0x200;

// Register offsets, virtio 1.2, 4.2.2.
const MAGIC = 0x000;
const VERSION = 0x004;
const DEVICE_ID = 0x008;
const VENDOR_ID = 0x00c;
const DEVICE_FEATURES = 0x010;
const DEVICE_FEATURES_SELECT = 0x014;
const DRIVER_FEATURES = 0x020;
const DRIVER_FEATURES_SELECT = 0x024;
const QUEUE_SELECT = 0x030;
const QUEUE_SIZE_MAX = 0x034;
const QUEUE_SIZE = 0x038;
const QUEUE_READY = 0x044;
const QUEUE_NOTIFY = 0x050;
const INTERRUPT_STATUS = 0x060;
const INTERRUPT_ACK = 0x064;
const STATUS = 0x070;
const QUEUE_DESCRIPTORS = 0x080;
const QUEUE_DRIVER = 0x090;
const QUEUE_DEVICE = 0x0a0;
const SHM_LENGTH = 0x0b0;
const SHM_BASE = 0x0b8;
const CONFIG_GENERATION = 0x0fc;
const CONFIG = 0x100;

const STATUS_DRIVER_OK = 4;
const STATUS_FEATURES_OK = 8;
const STATUS_NEEDS_RESET = 64;

const INTERRUPT_USED = 1;
const INTERRUPT_CONFIG = 2;

// Feature bits of the transport, as bits of the two 32-bit words.
const INDIRECT_DESC = 1 << 28;
const EVENT_IDX = 1 << 29;
const VERSION_1 = 1 << 0; // bit 32

const TWO_32 = 0x1_0000_0000;

export interface TransportState {
  name: string;
  status: number;
  featuresSelect: number;
  driverSelect: number;
  driverFeatures: [number, number];
  queueSelect: number;
  interrupts: number;
  generation: number;
  queues: QueueState[];
  device: unknown;
}

/** The memory-mapped register window of one virtio device (version 2, "modern"), with one level-triggered interrupt. */
export class VirtioMmio implements MmioDevice, VirtioHost, Saved<TransportState> {
  readonly queues: readonly SplitQueue[];
  /** Why the device needs a reset, for people. */
  failure: string | undefined;
  private status = 0;
  private featuresSelect = 0;
  private driverSelect = 0;
  private readonly driverFeatures: [number, number] = [0, 0];
  private queueSelect = 0;
  private interrupts = 0;
  private generation = 0;

  constructor(
    readonly memory: GuestMemory,
    private readonly irq: IrqLine,
    readonly device: VirtioDevice,
  ) {
    this.queues = device.queueSizes.map(
      (size) =>
        new SplitQueue(
          memory,
          size,
          (reason) => this.fail(reason),
          () => this.raise(INTERRUPT_USED),
        ),
    );
    device.attach(this);
  }

  // VirtioHost

  has(feature: number): boolean {
    return ((this.driverFeatures[feature >>> 5] ?? 0) & (1 << (feature & 31))) !== 0;
  }

  configChanged(): void {
    this.generation = (this.generation + 1) >>> 0;
    if (this.status & STATUS_DRIVER_OK) this.raise(INTERRUPT_CONFIG);
  }

  fail(reason: string): void {
    if (this.status & STATUS_NEEDS_RESET) return;
    this.failure = `${this.device.name}: the driver gave ${reason}`;
    this.status |= STATUS_NEEDS_RESET;
    if (this.status & STATUS_DRIVER_OK) this.raise(INTERRUPT_CONFIG);
  }

  private raise(bits: number): void {
    this.interrupts |= bits;
    this.irq.set(true);
  }

  /** Pages of RAM have come: queues that waited for some are looked at again. */
  pagesArrived(): void {
    for (let i = 0; i < this.queues.length; i++) {
      const queue = this.queues[i]!;
      if (!queue.waiting) continue;
      queue.waiting = false;
      if (this.live) this.device.notify(i);
    }
  }

  /** Between two slices of the processor: interrupts that could wait until now. @returns whether there was one */
  settle(): boolean {
    let told = false;
    for (let i = 0; i < this.queues.length; i++) if (this.queues[i]!.settle()) told = true;
    return told;
  }

  private get live(): boolean {
    return (this.status & (STATUS_DRIVER_OK | STATUS_NEEDS_RESET)) === STATUS_DRIVER_OK;
  }

  private reset(): void {
    this.status = 0;
    this.featuresSelect = this.driverSelect = this.queueSelect = 0;
    this.driverFeatures[0] = this.driverFeatures[1] = 0;
    this.interrupts = 0;
    this.failure = undefined;
    for (const queue of this.queues) queue.reset();
    this.device.reset();
    this.irq.set(false);
  }

  // Registers

  readMmio(offset: number, width: Width): number {
    if (offset >= CONFIG) {
      let value = 0;
      for (let i = 0; i < width; i++) value += (this.device.config[offset - CONFIG + i] ?? 0) * 2 ** (8 * i);
      return value;
    }
    if (width !== 4 || offset & 3) return 0;
    const queue = this.queues[this.queueSelect];
    switch (offset) {
      case MAGIC:
        return 0x74726976; // 'virt'
      case VERSION:
        return 2;
      case DEVICE_ID:
        return this.device.id;
      case VENDOR_ID:
        return 0x4d564c; // 'LVM'
      case DEVICE_FEATURES:
        if (this.featuresSelect === 0) return (this.device.features | INDIRECT_DESC | EVENT_IDX) >>> 0;
        return this.featuresSelect === 1 ? VERSION_1 : 0;
      case QUEUE_SIZE_MAX:
        return queue ? queue.maxSize : 0;
      case QUEUE_READY:
        return queue?.ready ? 1 : 0;
      case INTERRUPT_STATUS:
        return this.interrupts;
      case STATUS:
        return this.status;
      case SHM_LENGTH:
      case SHM_LENGTH + 4:
      case SHM_BASE:
      case SHM_BASE + 4:
        return 0xffffffff; // no shared memory region
      case CONFIG_GENERATION:
        return this.generation;
      default:
        return 0;
    }
  }

  writeMmio(offset: number, width: Width, value: number): void {
    if (offset >= CONFIG) {
      for (let i = 0; i < width; i++)
        if (offset - CONFIG + i < this.device.config.length)
          this.device.writeConfig?.(offset - CONFIG + i, (value >>> (8 * i)) & 0xff);
      return;
    }
    if (width !== 4 || offset & 3) return;
    value >>>= 0;
    switch (offset) {
      case QUEUE_NOTIFY:
        if (this.live && value < this.queues.length) this.device.notify(value);
        break;
      case INTERRUPT_ACK:
        this.interrupts &= ~value;
        if (!this.interrupts) this.irq.set(false);
        break;
      case DEVICE_FEATURES_SELECT:
        this.featuresSelect = value;
        break;
      case DRIVER_FEATURES_SELECT:
        this.driverSelect = value;
        break;
      case DRIVER_FEATURES:
        if (this.driverSelect < 2 && !(this.status & STATUS_FEATURES_OK))
          this.driverFeatures[this.driverSelect as 0 | 1] = value;
        break;
      case QUEUE_SELECT:
        this.queueSelect = value;
        break;
      case STATUS:
        this.setStatus(value & 0xff);
        break;
      default:
        this.configureQueue(offset, value);
    }
  }

  private setStatus(value: number): void {
    if (value === 0) {
      this.reset();
      return;
    }
    if (value & STATUS_FEATURES_OK && !(this.status & STATUS_FEATURES_OK) && !this.featuresAccepted())
      value &= ~STATUS_FEATURES_OK;
    const starts = (value & STATUS_DRIVER_OK) !== 0 && !(this.status & STATUS_DRIVER_OK);
    this.status = value | (this.status & STATUS_NEEDS_RESET);
    if (starts) {
      if (this.live) this.device.start();
    }
  }

  /** The driver took only what was offered, and no legacy interface (6.1, 6.2). */
  private featuresAccepted(): boolean {
    const [low, high] = this.driverFeatures;
    if (low & ~(this.device.features | INDIRECT_DESC | EVENT_IDX) || high !== VERSION_1) return false;
    for (const queue of this.queues) {
      queue.indirect = (low & INDIRECT_DESC) !== 0;
      queue.eventIndex = (low & EVENT_IDX) !== 0;
    }
    return true;
  }

  private configureQueue(offset: number, value: number): void {
    const queue = this.queues[this.queueSelect];
    if (!queue) return;
    if (offset === QUEUE_READY) {
      if (value & 1) {
        if (!queue.ready) queue.enable();
      } else queue.disable();
      return;
    }
    // Addresses and size of a live queue do not move.
    if (queue.ready) return;
    const low = (old: number): number => Math.floor(old / TWO_32) * TWO_32 + value;
    const high = (old: number): number => (old % TWO_32) + value * TWO_32;
    switch (offset) {
      case QUEUE_SIZE:
        queue.size = value;
        break;
      case QUEUE_DESCRIPTORS:
        queue.descriptors = low(queue.descriptors);
        break;
      case QUEUE_DESCRIPTORS + 4:
        queue.descriptors = high(queue.descriptors);
        break;
      case QUEUE_DRIVER:
        queue.available = low(queue.available);
        break;
      case QUEUE_DRIVER + 4:
        queue.available = high(queue.available);
        break;
      case QUEUE_DEVICE:
        queue.used = low(queue.used);
        break;
      case QUEUE_DEVICE + 4:
        queue.used = high(queue.used);
        break;
    }
  }

  /** Take it after `device.drain()`: a request in flight is not part of the state. */
  save(): TransportState {
    return {
      name: this.device.name,
      status: this.status,
      featuresSelect: this.featuresSelect,
      driverSelect: this.driverSelect,
      driverFeatures: [...this.driverFeatures],
      queueSelect: this.queueSelect,
      interrupts: this.interrupts,
      generation: this.generation,
      queues: this.queues.map((q) => q.save()),
      device: this.device.save(),
    };
  }

  /** @throws Error when the state is another device's. */
  restore(state: TransportState): void {
    if (state.name !== this.device.name || state.queues.length !== this.queues.length)
      throw new Error(`a saved state of ${state.name} cannot be restored into ${this.device.name}`);
    this.reset();
    this.featuresSelect = state.featuresSelect;
    this.driverSelect = state.driverSelect;
    this.driverFeatures[0] = state.driverFeatures[0];
    this.driverFeatures[1] = state.driverFeatures[1];
    this.queueSelect = state.queueSelect;
    this.generation = state.generation;
    this.queues.forEach((queue, i) => queue.restore(state.queues[i]!));
    this.featuresAccepted();
    this.status = state.status;
    this.device.restore(state.device);
    this.interrupts = state.interrupts;
    this.irq.set(this.interrupts !== 0);
  }
}
