/** Access width of a port or memory-mapped register, in bytes. The processor splits 8-byte accesses into two of 4. */
export type Width = 1 | 2 | 4;

/** A device with I/O ports. `port` is the absolute port number. Values are unsigned. */
export interface PortDevice {
  readPort(port: number, width: Width): number;
  writePort(port: number, width: Width, value: number): void;
}

/** A device with memory-mapped registers. `offset` counts from the start of its window. Values are unsigned. */
export interface MmioDevice {
  readMmio(offset: number, width: Width): number;
  writeMmio(offset: number, width: Width, value: number): void;
}

/** A level-triggered (or, for an edge, pulsed) interrupt wire from a device to the interrupt controller. */
export interface IrqLine {
  set(asserted: boolean): void;
}

/** A part of the machine whose whole state can be taken as a plain object (structured-cloneable) and put back. */
export interface Saved<State> {
  save(): State;
  restore(state: State): void;
}

const ABSENT = { 1: 0xff, 2: 0xffff, 4: 0xffffffff } as const;

/** The machine's port and memory-mapped address spaces. What is absent reads as all ones and ignores writes. */
export class Bus {
  private readonly ports = new Map<number, PortDevice>();
  private readonly windows: { base: number; end: number; device: MmioDevice }[] = [];

  /** @throws Error when a port is taken. */
  addPorts(first: number, count: number, device: PortDevice): void {
    for (let port = first; port < first + count; port++) {
      if (this.ports.has(port)) throw new Error(`port 0x${port.toString(16)} has two devices`);
      this.ports.set(port, device);
    }
  }

  /** @throws Error when the window overlaps another one. */
  addMmio(base: number, size: number, device: MmioDevice): void {
    const end = base + size;
    if (this.windows.some((w) => base < w.end && w.base < end))
      throw new Error(`memory window 0x${base.toString(16)} has two devices`);
    this.windows.push({ base, end, device });
  }

  readPort(port: number, width: Width): number {
    return this.ports.get(port)?.readPort(port, width) ?? ABSENT[width];
  }

  writePort(port: number, width: Width, value: number): void {
    this.ports.get(port)?.writePort(port, width, value);
  }

  readMmio(address: number, width: Width): number {
    const w = this.find(address);
    return w ? w.device.readMmio(address - w.base, width) : ABSENT[width];
  }

  writeMmio(address: number, width: Width, value: number): void {
    const w = this.find(address);
    if (w) w.device.writeMmio(address - w.base, width, value);
  }

  private find(address: number): { base: number; end: number; device: MmioDevice } | undefined {
    for (const w of this.windows) if (address >= w.base && address < w.end) return w;
    return undefined;
  }
}
