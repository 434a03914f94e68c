import type { IrqLine, PortDevice, Saved, Width } from '../bus.ts';

export const COM1_PORT = 0x3f8;
export const COM1_IRQ = 4;

const FIFO_SIZE = 16;
/** Bytes from the host waiting for room in the FIFO; `send` takes no more than this. */
const BACKLOG = 64 * 1024;

// Interrupt enable (IER) and identification (IIR), PC16550D datasheet 8.5 and 8.6.
const IER_RECEIVED = 1;
const IER_THR_EMPTY = 2;
const IER_LINE = 4;
const IER_MODEM = 8;
const LSR_DATA_READY = 1;
const LSR_OVERRUN = 2;
const LSR_EMPTY = 0x60; // transmitter holding register and transmitter empty: output is instantaneous
const MCR_LOOPBACK = 0x10;
const LCR_DLAB = 0x80;
/** Carrier, data set ready, clear to send: a terminal is always there. */
const MSR_CONNECTED = 0xb0;

export interface UartState {
  ier: number;
  fifo: boolean;
  trigger: number;
  lcr: number;
  mcr: number;
  scratch: number;
  divisor: number;
  thrEmpty: boolean;
  overrun: boolean;
  received: Uint8Array;
}

/** A 16550A serial port. Bytes leave at once; the baud rate is remembered and has no effect. */
export class Uart16550 implements PortDevice, Saved<UartState> {
  private ier = 0;
  private fifo = false;
  private trigger = 1;
  private lcr = 0;
  private mcr = 0;
  private scratch = 0;
  private divisor = 12;
  /** The THR-empty interrupt is pending: it is set by the event and cleared by reading IIR, not by a level. */
  private thrEmpty = true;
  private overrun = false;
  private received: number[] = [];
  private backlog: Uint8Array[] = [];
  private backlogBytes = 0;
  private head = 0;

  /** Bytes out and in. */
  readonly counters = { output: 0, input: 0 };

  /**
   * @param irq its interrupt wire
   * @param output called with each byte that the guest sends
   */
  constructor(
    private readonly irq: IrqLine,
    private readonly output: (byte: number) => void,
  ) {}

  /** Queues bytes for the guest. @returns how many were taken; the rest must be offered again later */
  send(bytes: Uint8Array): number {
    const taken = Math.min(bytes.length, BACKLOG - this.backlogBytes);
    if (taken > 0) {
      this.backlog.push(bytes.slice(0, taken));
      this.backlogBytes += taken;
      this.refill();
      this.update();
    }
    return taken;
  }

  private refill(): void {
    while (this.backlogBytes > 0 && this.received.length < (this.fifo ? FIFO_SIZE : 1)) {
      const first = this.backlog[0]!;
      this.received.push(first[this.head++]!);
      this.backlogBytes--;
      this.counters.input++;
      if (this.head === first.length) {
        this.backlog.shift();
        this.head = 0;
      }
    }
  }

  /** The interrupt identification, highest priority first (8.6). 1: none. */
  private identify(): number {
    if (this.ier & IER_LINE && this.overrun) return 6;
    if (this.ier & IER_RECEIVED && this.received.length > 0)
      // Below the trigger level the character time-out applies; with no line speed it is over at once.
      return this.fifo && this.received.length < this.trigger ? 12 : 4;
    if (this.ier & IER_THR_EMPTY && this.thrEmpty) return 2;
    return 1;
  }

  private update(): void {
    this.irq.set(this.identify() !== 1);
  }

  readPort(port: number, width: Width): number {
    if (width !== 1) return width === 2 ? 0xffff : 0xffffffff;
    switch (port & 7) {
      case 0: {
        if (this.lcr & LCR_DLAB) return this.divisor & 0xff;
        const byte = this.received.shift() ?? 0;
        this.refill();
        this.update();
        return byte;
      }
      case 1:
        return this.lcr & LCR_DLAB ? this.divisor >>> 8 : this.ier;
      case 2: {
        const id = this.identify();
        if (id === 2) {
          this.thrEmpty = false;
          this.update();
        }
        return id | (this.fifo ? 0xc0 : 0);
      }
      case 3:
        return this.lcr;
      case 4:
        return this.mcr;
      case 5: {
        const status = LSR_EMPTY | (this.received.length ? LSR_DATA_READY : 0) | (this.overrun ? LSR_OVERRUN : 0);
        if (this.overrun) {
          this.overrun = false;
          this.update();
        }
        return status;
      }
      case 6:
        // In loopback the modem outputs appear as its inputs: DTR→DSR, RTS→CTS, OUT1→RI, OUT2→DCD (8.7).
        if (this.mcr & MCR_LOOPBACK)
          return ((this.mcr & 1) << 5) | ((this.mcr & 2) << 3) | ((this.mcr & 4) << 4) | ((this.mcr & 8) << 4);
        return MSR_CONNECTED;
      default:
        return this.scratch;
    }
  }

  writePort(port: number, _width: Width, value: number): void {
    value &= 0xff;
    switch (port & 7) {
      case 0:
        if (this.lcr & LCR_DLAB) this.divisor = (this.divisor & 0xff00) | value;
        else this.transmit(value);
        break;
      case 1:
        if (this.lcr & LCR_DLAB) this.divisor = (this.divisor & 0xff) | (value << 8);
        else {
          // Enabling the THR-empty interrupt while the register is empty raises it.
          if (value & ~this.ier & IER_THR_EMPTY) this.thrEmpty = true;
          this.ier = value & (IER_RECEIVED | IER_THR_EMPTY | IER_LINE | IER_MODEM);
          this.update();
        }
        break;
      case 2:
        if ((value & 1) !== (this.fifo ? 1 : 0) || value & 2) this.received.length = 0;
        this.fifo = (value & 1) !== 0;
        this.trigger = [1, 4, 8, 14][value >>> 6]!;
        this.refill();
        this.update();
        break;
      case 3:
        this.lcr = value;
        break;
      case 4:
        this.mcr = value & 0x1f;
        break;
      case 7:
        this.scratch = value;
        break;
    }
  }

  private transmit(byte: number): void {
    if (this.mcr & MCR_LOOPBACK) {
      if (this.received.length < (this.fifo ? FIFO_SIZE : 1)) this.received.push(byte);
      else this.overrun = true;
    } else {
      this.counters.output++;
      this.output(byte);
    }
    this.thrEmpty = true;
    this.update();
  }

  save(): UartState {
    // What the host has queued behind the FIFO travels with the state, so no typed character is lost.
    const received = new Uint8Array(this.received.length + this.backlogBytes);
    received.set(this.received);
    let at = this.received.length;
    this.backlog.forEach((bytes, i) => {
      const rest = i === 0 ? bytes.subarray(this.head) : bytes;
      received.set(rest, at);
      at += rest.length;
    });
    return {
      ier: this.ier,
      fifo: this.fifo,
      trigger: this.trigger,
      lcr: this.lcr,
      mcr: this.mcr,
      scratch: this.scratch,
      divisor: this.divisor,
      thrEmpty: this.thrEmpty,
      overrun: this.overrun,
      received,
    };
  }

  restore(state: UartState): void {
    this.ier = state.ier;
    this.fifo = state.fifo;
    this.trigger = state.trigger;
    this.lcr = state.lcr;
    this.mcr = state.mcr;
    this.scratch = state.scratch;
    this.divisor = state.divisor;
    this.thrEmpty = state.thrEmpty;
    this.overrun = state.overrun;
    this.received = [];
    this.backlog = state.received.length ? [state.received.slice()] : [];
    this.backlogBytes = state.received.length;
    this.head = 0;
    this.refill();
    this.update();
  }
}
