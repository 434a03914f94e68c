import type { IrqLine } from '../../../emulator/bus.ts';
import type { VirtioDevice } from '../../../emulator/devices/virtio/device.ts';
import { VirtioMmio } from '../../../emulator/devices/virtio/transport-mmio.ts';
import { GuestMemory } from '../../../emulator/memory.ts';

export interface Buffer {
  address: number;
  length: number;
  write?: boolean;
}

const EVENT_IDX = 1 << 29;
const INDIRECT = 1 << 28;

/** A guest's driver in miniature, over the MMIO transport: enough to bring a device up and use its queues. */
export class Driver {
  readonly memory: GuestMemory;
  readonly transport: VirtioMmio;
  irq = false;
  readonly size = 8;
  private readonly nextDescriptor: number[] = [];
  private readonly available: number[] = [];
  private readonly seen: number[] = [];

  constructor(
    readonly device: VirtioDevice,
    memorySize = 1 << 20,
    memory?: GuestMemory,
  ) {
    this.memory = memory ?? new GuestMemory(new ArrayBuffer(memorySize), 0, memorySize);
    const line: IrqLine = { set: (asserted) => (this.irq = asserted) };
    this.transport = new VirtioMmio(this.memory, line, device);
  }

  read(offset: number, width: 1 | 2 | 4 = 4): number {
    return this.transport.readMmio(offset, width);
  }
  write(offset: number, value: number): void {
    this.transport.writeMmio(offset, 4, value);
  }
  get status(): number {
    return this.read(0x70);
  }
  get needsReset(): boolean {
    return (this.status & 64) !== 0;
  }

  /** Where a queue's three rings are; queues are 4 KiB apart from 64 KiB on. */
  rings(queue: number): { desc: number; avail: number; used: number } {
    const base = 0x10000 + queue * 0x1000;
    return { desc: base, avail: base + 0x400, used: base + 0x800 };
  }

  /** Reset to DRIVER_OK, with all the device's features but those in `without`. */
  start(options: { eventIndex?: boolean; indirect?: boolean; without?: number } = {}): this {
    this.write(0x70, 0);
    this.write(0x70, 1);
    this.write(0x70, 3);
    this.write(0x14, 0);
    let low = this.read(0x10);
    if (!options.eventIndex) low &= ~EVENT_IDX;
    if (options.indirect === false) low &= ~INDIRECT;
    low &= ~(options.without ?? 0);
    this.write(0x24, 0);
    this.write(0x20, low >>> 0);
    this.write(0x24, 1);
    this.write(0x20, 1);
    this.write(0x70, 11);
    if (!(this.status & 8)) throw new Error('the device refused the features');
    this.device.queueSizes.forEach((_, q) => {
      const { desc, avail, used } = this.rings(q);
      this.memory.bytes.fill(0, desc, desc + 0x1000);
      this.write(0x30, q);
      this.write(0x38, this.size);
      this.write(0x80, desc);
      this.write(0x84, 0);
      this.write(0x90, avail);
      this.write(0x94, 0);
      this.write(0xa0, used);
      this.write(0xa4, 0);
      this.write(0x44, 1);
      this.nextDescriptor[q] = 0;
      this.available[q] = 0;
      this.seen[q] = 0;
    });
    this.write(0x70, 15);
    return this;
  }

  descriptor(queue: number, index: number, address: number, length: number, flags: number, next = 0): void {
    const at = this.rings(queue).desc + index * 16;
    this.memory.write64(at, address);
    this.memory.write32(at + 8, length);
    this.memory.write16(at + 12, flags);
    this.memory.write16(at + 14, next);
  }

  /** Makes a descriptor chain's head available. */
  offer(queue: number, head: number): void {
    const { avail } = this.rings(queue);
    const index = this.available[queue]!;
    this.memory.write16(avail + 4 + (index % this.size) * 2, head);
    this.available[queue] = (index + 1) & 0xffff;
    this.memory.write16(avail + 2, this.available[queue]!);
  }

  /** Adds a request and returns its head. */
  add(queue: number, buffers: Buffer[], notify = true): number {
    const head = this.nextDescriptor[queue]!;
    buffers.forEach((buffer, i) => {
      const index = (head + i) % this.size;
      const last = i === buffers.length - 1;
      this.descriptor(
        queue,
        index,
        buffer.address,
        buffer.length,
        (last ? 0 : 1) | (buffer.write ? 2 : 0),
        (index + 1) % this.size,
      );
    });
    this.nextDescriptor[queue] = (head + buffers.length) % this.size;
    this.offer(queue, head);
    if (notify) this.notify(queue);
    return head;
  }

  notify(queue: number): void {
    this.write(0x50, queue);
  }

  /** Used entries that were not returned before. */
  used(queue: number): { id: number; length: number }[] {
    const { used } = this.rings(queue);
    const index = this.memory.read16(used + 2);
    const entries = [];
    while (this.seen[queue] !== index) {
      const at = used + 4 + (this.seen[queue]! % this.size) * 8;
      entries.push({ id: this.memory.read32(at), length: this.memory.read32(at + 4) });
      this.seen[queue] = (this.seen[queue]! + 1) & 0xffff;
    }
    return entries;
  }

  /** Acknowledges the interrupt. @returns the interrupt status before */
  acknowledge(): number {
    const status = this.read(0x60);
    this.write(0x64, status);
    return status;
  }
}
