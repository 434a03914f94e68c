import type { VirtioDevice, VirtioHost } from './device.ts';
import type { SplitQueue } from './queue.ts';

// Virtio 1.2, 5.3.
const F_SIZE = 0;
const F_MULTIPORT = 1;

const DEVICE_READY = 0;
const PORT_ADD = 1;
const PORT_READY = 3;
const CONSOLE_PORT = 4;
const RESIZE = 5;
const PORT_OPEN = 6;
const PORT_NAME = 7;

const CONTROL_RX = 2;
const CONTROL_TX = 3;
const QUEUE_SIZE = 128;
/** Bytes that a port holds for the guest before it takes no more. */
const BACKLOG = 256 * 1024;
/** The most bytes taken of one request. */
const MOST_OUTPUT = 1 << 20;
/** A control message of the driver is 8 bytes. */
const CONTROL_SIZE = 8;
/** Control messages waiting for the driver; more means it does not read them, and the oldest requests are moot. */
const MAX_CONTROL = 256;

export interface ConsolePortOptions {
  /** A terminal (`hvc0`, …) rather than a plain channel. */
  console?: boolean;
  /** The guest finds the port by it: /sys/class/virtio-ports/…/name. */
  name?: string;
}

interface PortState {
  guestOpen: boolean;
  hostOpen: boolean;
  backlog: Uint8Array;
}

export interface VirtioConsoleState {
  columns: number;
  rows: number;
  ports: PortState[];
  control: Uint8Array[];
}

/** One port, as the host sees it. */
export class ConsolePort {
  /** Bytes of the guest, where it has them: they are good until this returns. */
  onOutput: (bytes: Uint8Array) => void = () => undefined;
  /** The backlog has room again after `send` took less than it was given. */
  onWritable: () => void = () => undefined;
  /** A program in the guest has opened or closed the port. */
  onGuestOpen: (open: boolean) => void = () => undefined;
  /** @internal The device's sides of `send`, `hold` and `open`. */
  device: { deliver(): void; transmit(): void; opened(): void } | undefined;

  readonly counters = { output: 0, input: 0 };
  /** @internal */
  backlog: Uint8Array[] = [];
  private head = 0;
  private size = 0;
  private full = false;
  private onHold = false;
  /** Whether a program in the guest has the port open. */
  guestOpen = false;
  private isHostOpen = true;

  constructor(readonly options: ConsolePortOptions) {}

  /** Queues bytes for the guest. @returns how many were taken; after a short count wait for `onWritable` */
  send(bytes: Uint8Array): number {
    const taken = Math.min(bytes.length, BACKLOG - this.size);
    if (taken < bytes.length) this.full = true;
    if (taken > 0) {
      this.backlog.push(bytes.slice(0, taken));
      this.size += taken;
      this.device?.deliver();
    }
    return taken;
  }

  /** Bytes queued that the guest has not taken yet. */
  get queued(): number {
    return this.size;
  }

  /** While on hold the guest's output stays in its own buffers, and its writers wait. */
  get hold(): boolean {
    return this.onHold;
  }
  set hold(value: boolean) {
    this.onHold = value;
    if (!value) this.device?.transmit();
  }

  /** Whether the host's end is open: a guest that writes to a closed port gets an error or waits. */
  get hostOpen(): boolean {
    return this.isHostOpen;
  }
  set hostOpen(value: boolean) {
    if (value === this.isHostOpen) return;
    this.isHostOpen = value;
    this.device?.opened();
  }

  /** @internal Takes up to `target.length` queued bytes. */
  take(target: Uint8Array): number {
    let done = 0;
    while (done < target.length && this.size > 0) {
      const first = this.backlog[0]!;
      const n = Math.min(first.length - this.head, target.length - done);
      target.set(first.subarray(this.head, this.head + n), done);
      done += n;
      this.head += n;
      this.size -= n;
      if (this.head === first.length) {
        this.backlog.shift();
        this.head = 0;
      }
    }
    this.counters.input += done;
    return done;
  }

  /** @internal */
  announceRoom(): void {
    if (!this.full || this.size > BACKLOG / 2) return;
    this.full = false;
    this.onWritable();
  }

  /** @internal */
  clear(): void {
    this.backlog = [];
    this.head = this.size = 0;
    this.announceRoom();
  }

  /** @internal */
  save(): PortState {
    const backlog = new Uint8Array(this.size);
    let at = 0;
    this.backlog.forEach((bytes, i) => {
      const rest = i === 0 ? bytes.subarray(this.head) : bytes;
      backlog.set(rest, at);
      at += rest.length;
    });
    return { guestOpen: this.guestOpen, hostOpen: this.isHostOpen, backlog };
  }

  /** @internal */
  restore(state: PortState): void {
    this.guestOpen = state.guestOpen;
    this.isHostOpen = state.hostOpen;
    this.backlog = state.backlog.length ? [state.backlog.slice()] : [];
    this.size = state.backlog.length;
    this.head = 0;
    if (this.guestOpen) this.onGuestOpen(true);
  }
}

/**
 * virtio-console. With one port that is a console and has no name it is the plain device: its size is in the
 * configuration space. Otherwise it is the multiport device with control queues.
 *
 * A terminal that is to be resized is better on a plain device of its own: Linux read rows and columns of the multiport
 * RESIZE message in the opposite order of the specification until 6.16, and correctly from the configuration space always.
 */
export class VirtioConsole implements VirtioDevice<VirtioConsoleState> {
  readonly id = 3;
  readonly name = 'virtio-console';
  readonly features: number;
  readonly queueSizes: readonly number[];
  readonly config = new Uint8Array(12);
  readonly ports: readonly ConsolePort[];
  readonly counters = { controlMessages: 0 };

  private readonly multiport: boolean;
  private readonly view = new DataView(this.config.buffer);
  private host!: VirtioHost;
  private control: Uint8Array[] = [];
  private buffer = new Uint8Array(4096);

  /** @param ports the ports; a port's number is its index, so a leading `undefined` starts the numbers at 1 */
  constructor(ports: readonly ConsolePortOptions[]) {
    this.ports = ports.map((options) => new ConsolePort(options));
    this.multiport = ports.length > 1 || !ports[0]?.console || ports[0].name !== undefined;
    this.features = this.multiport ? (1 << F_SIZE) | (1 << F_MULTIPORT) : 1 << F_SIZE;
    const queues = this.multiport ? 2 + 2 * ports.length : 2;
    this.queueSizes = Array.from({ length: queues }, () => QUEUE_SIZE);
    this.view.setUint32(4, ports.length, true);
    this.view.setUint16(0, 80, true);
    this.view.setUint16(2, 25, true);
    this.ports.forEach((port, i) => {
      port.device = {
        deliver: () => this.deliver(i),
        transmit: () => this.transmit(i),
        opened: () => {
          if (this.multiport) this.post(i, PORT_OPEN, port.hostOpen ? 1 : 0);
        },
      };
    });
  }

  attach(host: VirtioHost): void {
    this.host = host;
  }

  get columns(): number {
    return this.view.getUint16(0, true);
  }
  get rows(): number {
    return this.view.getUint16(2, true);
  }

  /** Tells the guest the terminal's size in characters, 1 to 65535. Nothing happens when it is the same. */
  resize(columns: number, rows: number): void {
    const c = Math.min(Math.max(Math.trunc(columns) || 1, 1), 0xffff);
    const r = Math.min(Math.max(Math.trunc(rows) || 1, 1), 0xffff);
    if (c === this.columns && r === this.rows) return;
    this.view.setUint16(0, c, true);
    this.view.setUint16(2, r, true);
    if (!this.multiport) this.host.configChanged();
    else
      this.ports.forEach((port, i) => {
        if (port.options.console) this.postSize(i);
      });
  }

  start(): void {
    for (let i = 0; i < this.ports.length; i++) {
      this.deliver(i);
      this.transmit(i);
    }
  }

  notify(index: number): void {
    if (this.multiport && index === CONTROL_RX) this.flushControl();
    else if (this.multiport && index === CONTROL_TX) this.readControl();
    else {
      const port = index < 2 ? 0 : (index - 2) >> 1;
      if (index & 1) this.transmit(port, true);
      else this.deliver(port);
    }
  }

  private queueOf(port: number, transmit: boolean): SplitQueue {
    return this.host.queues[(port === 0 ? 0 : 2 + 2 * port) + (transmit ? 1 : 0)]!;
  }

  // Data

  /**
   * Guest to host. Linux writes to a terminal twice a line, and waits for each write on the spot with interrupts off: one
   * for each would come when all is known already, and cost as much again.
   */
  private transmit(index: number, asked = false): void {
    const port = this.ports[index]!;
    const queue = this.queueOf(index, true);
    while (!port.hold) {
      const chain = queue.pop();
      if (!chain) break;
      // A driver writes at most some pages at a time; what claims more is an attack, and cut off.
      let left = MOST_OUTPUT;
      for (let i = 0; i < chain.readable && left > 0; i++) {
        const n = Math.min(chain.lengths[i]!, left);
        if (n > 0) port.onOutput(this.host.memory.slice(chain.addresses[i]!, n));
        left -= n;
      }
      port.counters.output += MOST_OUTPUT - left;
      queue.push(chain, 0);
    }
    if (asked) queue.signalLater();
    else queue.signal();
  }

  /** Host to guest. */
  private deliver(index: number): void {
    const port = this.ports[index]!;
    const queue = this.queueOf(index, false);
    // A multiport guest drops what arrives before a program has opened the port: keep it.
    while (port.queued > 0 && (!this.multiport || port.options.console || port.guestOpen)) {
      const chain = queue.pop();
      if (!chain) break;
      const room = Math.min(chain.writableBytes, port.queued, this.buffer.length);
      if (room === 0) {
        this.host.fail('a console receive buffer without room');
        return;
      }
      const n = port.take(this.buffer.subarray(0, room));
      chain.write(0, this.buffer.subarray(0, n));
      queue.push(chain, n);
    }
    queue.signal();
    port.announceRoom();
  }

  // Control

  private post(port: number, event: number, value: number, extra?: Uint8Array): void {
    const message = new Uint8Array(CONTROL_SIZE + (extra?.length ?? 0));
    const view = new DataView(message.buffer);
    view.setUint32(0, port, true);
    view.setUint16(4, event, true);
    view.setUint16(6, value, true);
    if (extra) message.set(extra, CONTROL_SIZE);
    if (this.control.length === MAX_CONTROL) this.control.shift();
    this.control.push(message);
    this.flushControl();
  }

  private postSize(port: number): void {
    this.post(port, RESIZE, 0, this.config.slice(0, 4));
  }

  private flushControl(): void {
    const queue = this.host.queues[CONTROL_RX]!;
    while (this.control.length) {
      const chain = queue.pop();
      if (!chain) break;
      const message = this.control.shift()!;
      queue.push(chain, chain.write(0, message));
    }
    queue.signal();
  }

  private readControl(): void {
    const queue = this.host.queues[CONTROL_TX]!;
    const message = new Uint8Array(CONTROL_SIZE);
    const view = new DataView(message.buffer);
    let chain;
    while ((chain = queue.pop())) {
      const n = chain.read(0, message);
      queue.push(chain, 0);
      if (n === CONTROL_SIZE)
        this.handleControl(view.getUint32(0, true), view.getUint16(4, true), view.getUint16(6, true));
    }
    queue.signal();
  }

  private handleControl(id: number, event: number, value: number): void {
    this.counters.controlMessages++;
    if (event === DEVICE_READY) {
      if (value) this.ports.forEach((_, i) => this.post(i, PORT_ADD, 1));
      return;
    }
    const port = this.ports[id];
    if (!port) return;
    if (event === PORT_READY && value) {
      if (port.options.console) {
        this.post(id, CONSOLE_PORT, 1);
        this.postSize(id);
      }
      if (port.options.name !== undefined) this.post(id, PORT_NAME, 1, new TextEncoder().encode(port.options.name));
      if (port.hostOpen) this.post(id, PORT_OPEN, 1);
    } else if (event === PORT_OPEN) {
      const open = value !== 0;
      if (open === port.guestOpen) return;
      port.guestOpen = open;
      // What was meant for the program that has just closed the port is not for the next one.
      if (!open) port.clear();
      port.onGuestOpen(open);
      if (open) this.deliver(id);
    }
  }

  reset(): void {
    this.control = [];
    for (const port of this.ports) {
      if (!port.guestOpen) continue;
      port.guestOpen = false;
      port.onGuestOpen(false);
    }
  }

  drain(): Promise<void> {
    return Promise.resolve();
  }

  save(): VirtioConsoleState {
    return {
      columns: this.columns,
      rows: this.rows,
      ports: this.ports.map((p) => p.save()),
      control: this.control.map((m) => m.slice()),
    };
  }

  restore(state: VirtioConsoleState): void {
    this.view.setUint16(0, state.columns, true);
    this.view.setUint16(2, state.rows, true);
    this.ports.forEach((port, i) => {
      const saved = state.ports[i];
      if (saved) port.restore(saved);
    });
    this.control = state.control.map((m) => m.slice());
  }
}
