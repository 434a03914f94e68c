import type { IrqLine, MmioDevice, Saved, Width } from '../bus.ts';

/** Physical address of the I/O APIC's window. */
export const IOAPIC_BASE = 0xfec00000;
export const IOAPIC_SIZE = 0x1000;
export const IOAPIC_PINS = 24;

// Redirection table entry, 82093AA datasheet 3.2.4.
const REMOTE_IRR = 1 << 14;
const LEVEL = 1 << 15;
const MASKED = 1 << 16;
const READ_ONLY = (1 << 12) | REMOTE_IRR;

export interface IoapicState {
  id: number;
  select: number;
  low: Uint32Array;
  high: Uint32Array;
  asserted: number;
}

/** The I/O APIC (82093AA): 24 pins, edge or level, to the one local APIC. Only fixed and lowest-priority delivery. */
export class Ioapic implements MmioDevice, Saved<IoapicState> {
  private id = 0;
  private select = 0;
  private readonly low = new Uint32Array(IOAPIC_PINS).fill(MASKED);
  private readonly high = new Uint32Array(IOAPIC_PINS);
  /** Bit n: the wire at pin n is asserted. */
  private asserted = 0;

  /** @param deliver an interrupt message to the local APIC */
  constructor(private readonly deliver: (vector: number, level: boolean) => void) {}

  /** The wire to one pin. @throws RangeError when there is no such pin. */
  line(pin: number): IrqLine {
    if (!(pin >= 0 && pin < IOAPIC_PINS)) throw new RangeError(`I/O APIC pin ${pin}: there are pins 0 to 23`);
    return { set: (asserted) => this.set(pin, asserted) };
  }

  private set(pin: number, asserted: boolean): void {
    const bit = 1 << pin;
    const before = (this.asserted & bit) !== 0;
    if (before === asserted) return;
    if (asserted) {
      this.asserted |= bit;
      this.service(pin);
    } else this.asserted &= ~bit;
  }

  /** A pin has become active (an edge), or may be delivered again (a level). */
  private service(pin: number): void {
    const entry = this.low[pin]!;
    if (entry & MASKED) return;
    const mode = (entry >>> 8) & 7;
    if (mode > 1) return;
    if (entry & LEVEL) {
      if (entry & REMOTE_IRR) return;
      this.low[pin] = entry | REMOTE_IRR;
    }
    this.deliver(entry & 0xff, (entry & LEVEL) !== 0);
  }

  /** The local APIC broadcasts the end of a level-triggered interrupt. */
  endOfInterrupt(vector: number): void {
    for (let pin = 0; pin < IOAPIC_PINS; pin++) {
      const entry = this.low[pin]!;
      if ((entry & 0xff) !== vector || !(entry & REMOTE_IRR)) continue;
      this.low[pin] = entry & ~REMOTE_IRR;
      if (this.asserted & (1 << pin)) this.service(pin);
    }
  }

  readMmio(offset: number, width: Width): number {
    let value = 0;
    if (offset === 0) value = this.select;
    else if (offset === 0x10) value = this.readRegister();
    return width === 4 ? value >>> 0 : value & (width === 2 ? 0xffff : 0xff);
  }

  writeMmio(offset: number, _width: Width, value: number): void {
    if (offset === 0) this.select = value & 0xff;
    else if (offset === 0x10) this.writeRegister(value >>> 0);
  }

  private readRegister(): number {
    if (this.select === 0 || this.select === 2) return this.id << 24;
    if (this.select === 1) return ((IOAPIC_PINS - 1) << 16) | 0x11;
    const pin = (this.select - 0x10) >> 1;
    if (pin < 0 || pin >= IOAPIC_PINS) return 0;
    return this.select & 1 ? this.high[pin]! : this.low[pin]!;
  }

  private writeRegister(value: number): void {
    if (this.select === 0) this.id = (value >>> 24) & 15;
    const pin = (this.select - 0x10) >> 1;
    if (pin < 0 || pin >= IOAPIC_PINS) return;
    if (this.select & 1) {
      this.high[pin] = value;
      return;
    }
    const before = this.low[pin]!;
    let entry = (value & 0x1ffff & ~READ_ONLY) | (before & READ_ONLY);
    // An edge pin has no remote IRR; Linux relies on switching to edge and back to clear it.
    if (!(entry & LEVEL)) entry &= ~REMOTE_IRR;
    this.low[pin] = entry;
    if (entry & LEVEL && this.asserted & (1 << pin)) this.service(pin);
  }

  save(): IoapicState {
    return {
      id: this.id,
      select: this.select,
      low: this.low.slice(),
      high: this.high.slice(),
      asserted: this.asserted,
    };
  }

  restore(state: IoapicState): void {
    this.id = state.id;
    this.select = state.select;
    this.low.set(state.low);
    this.high.set(state.high);
    this.asserted = state.asserted;
  }
}
