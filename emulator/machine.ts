import { writeAcpi } from './boot/acpi.ts';
import type { VirtioWindow } from './boot/acpi.ts';
import { MAX_MEMORY, MIN_MEMORY, VIRTIO_BASE, VIRTIO_PINS, VIRTIO_STRIDE } from './boot/layout.ts';
import { BootError, loadKernel } from './boot/load.ts';
import { Bus } from './bus.ts';
import { Scheduler } from './clock.ts';
import { Ioapic, IOAPIC_BASE, IOAPIC_SIZE } from './devices/ioapic.ts';
import { Lapic, LAPIC_BASE, LAPIC_SIZE } from './devices/lapic.ts';
import { Power } from './devices/power.ts';
import { Rtc, RTC_PORT } from './devices/rtc.ts';
import { COM1_IRQ, COM1_PORT, Uart16550 } from './devices/uart16550.ts';
import { VirtioBalloon } from './devices/virtio/balloon.ts';
import { VirtioBlock } from './devices/virtio/block.ts';
import { VirtioConsole } from './devices/virtio/console.ts';
import type { ConsolePort } from './devices/virtio/console.ts';
import type { VirtioDevice } from './devices/virtio/device.ts';
import { VirtioNet } from './devices/virtio/net.ts';
import { VirtioRng } from './devices/virtio/rng.ts';
import { VIRTIO_MMIO_SIZE, VirtioMmio } from './devices/virtio/transport-mmio.ts';
import { InstructionClock, RealClock } from './machine-clock.ts';
import type { MachineClock } from './machine-clock.ts';
import { isZero, PAGE_SIZE, restoreMemory, saveMemory, STATE_VERSION, wordsOf } from './machine-state.ts';
import type { MachineState, PagedState } from './machine-state.ts';
import { ByteBatch, PanicWatch, RandomSource } from './machine-parts.ts';
import type { MachineEvents, MachineExit, MachineOptions, MachineStats, MachineStatus } from './machine-options.ts';
import { type ChunkReader, Pager, type PagerEvents } from './pager.ts';
import type { Traffic } from './traffic.ts';
import type { Processor, StopReason } from './processor.ts';
import { macrotasks } from './macrotask.ts';
import type { Macrotasks } from './macrotask.ts';

export type { MachineState, PagedState } from './machine-state.ts';
export type * from './machine-options.ts';

/** The name of the guest agent's port: /sys/class/virtio-ports/…/name in the guest. */
export const AGENT_PORT = 'org.linux-vm.agent';

const DEFAULT_MAC = new Uint8Array([0x02, 0x4c, 0x56, 0x4d, 0x00, 0x01]);
/** 2026-01-01, where a deterministic machine's wall clock starts. */
const DETERMINISTIC_EPOCH = 1_767_225_600_000;

/** How long the run loop keeps the thread before it lets other events in, in milliseconds. */
const TURN = 4;
/** The same while a disk request is under way, whose completion is such an event. */
const TURN_WITH_IO = 1;
/** Guest time of one call of the processor in nanoseconds: timers are late by at most this. */
const SLICE = 500_000;
const DETERMINISTIC_SLICE = 200_000;
const LEAST_BUDGET = 256;
/** Waits shorter than this (milliseconds) are spent in the event loop; longer ones in a host timer of whole milliseconds. */
const SHORTEST_SLEEP = 0.1;
/** The longest host timer; a longer sleep is made of several. */
const LONGEST_SLEEP = 60_000;

/**
 * The PC: processor, memory, devices and the loop that runs them. One thread; the processor runs in slices, and between
 * them timers, devices and the host's event loop have their turn. A machine that has stopped stays so.
 */
export class Machine {
  readonly processor: Processor;
  readonly clock: MachineClock;
  readonly console: VirtioConsole;
  readonly agent: VirtioConsole;
  readonly balloon: VirtioBalloon;
  readonly net: VirtioNet;
  readonly blocks: readonly VirtioBlock[];
  readonly transports: readonly VirtioMmio[];
  /** Resolves when the machine has stopped, whatever the reason; never rejects. */
  readonly stopped: Promise<MachineExit>;

  private readonly scheduler: Scheduler;
  private readonly lapic: Lapic;
  private readonly ioapic: Ioapic;
  private readonly uart: Uart16550;
  private readonly rtc: Rtc;
  private readonly random: RandomSource;
  private readonly macrotasks: Macrotasks;
  private readonly hostNow: () => number;
  private readonly deterministic: boolean;
  private readonly events: MachineEvents;
  private readonly outputs: ByteBatch[];
  /** A port whose batch is full is on hold until that has gone on its way. */
  private readonly batches: ReadonlyMap<ConsolePort, ByteBatch>;
  private readonly panic = new PanicWatch();

  private state: MachineStatus = 'created';
  /** Where the virtio devices' registers are. */
  private readonly windows: VirtioWindow[] = [];
  private entered = false;
  private settle!: (exit: MachineExit) => void;
  /** What the guest asked for while the processor ran. */
  private request: MachineExit | undefined;
  /** The loop waits for `wake` or a host timer. */
  private asleep = false;
  private sleepTimer: ReturnType<typeof setTimeout> | undefined;
  private queuedTurn = false;
  private inProcessor = false;
  private saving: Promise<unknown> | undefined;
  private resumeAfterSave = false;
  private busyMs = 0;
  private turns = 0;
  private waiters = new Set<() => void>();
  /** Brings the RAM of a resumed machine, until all of it is here. */
  private pager: Pager | undefined;
  /** While the processor waits for a page: the guest's time, which stands still, and the host's when it began to. */
  private frozen: number | undefined;
  private frozenSince = 0;
  private waitedMs = 0;

  /**
   * Makes a machine and loads its kernel, if it is given one; `start` lets it run.
   * @throws RangeError for a wrong size of memory, BootError for a kernel that cannot be started
   */
  static async create(options: MachineOptions): Promise<Machine> {
    const { memory } = options;
    if (!Number.isInteger(memory) || memory < MIN_MEMORY || memory > MAX_MEMORY || memory % 0x20_0000)
      throw new RangeError(`memory of ${memory} bytes: give a multiple of 2 MiB, from 2 MiB to 3 GiB`);
    const bus = new Bus();
    const instructions = { processor: undefined as Processor | undefined };
    const retired = (): number =>
      instructions.processor?.instructions ?? instructions.processor?.stats.instructions ?? 0;
    const now = options.now ?? (() => performance.now());
    const clock = options.deterministic
      ? new InstructionClock(retired, options.wall?.() ?? DETERMINISTIC_EPOCH)
      : new RealClock(now, retired, options.wall);
    const scheduler = new Scheduler(clock);
    const hooks = { changed: (): void => undefined };
    const lapic = new Lapic(scheduler, () => hooks.changed());
    const random = new RandomSource(options.deterministic ? (options.seed ?? 1) : undefined);
    const processor = await options.createProcessor(
      { bus, clock, interrupts: lapic, msrs: lapic, random: (bytes) => random.fill(bytes) },
      memory,
      options.tier ?? 'auto',
    );
    instructions.processor = processor;
    const machine = new Machine(options, { bus, clock, scheduler, lapic, random, processor, now });
    hooks.changed = () => machine.interruptChanged();
    return machine;
  }

  private constructor(
    options: MachineOptions,
    parts: {
      bus: Bus;
      clock: MachineClock;
      scheduler: Scheduler;
      lapic: Lapic;
      random: RandomSource;
      processor: Processor;
      now: () => number;
    },
  ) {
    const { bus, processor } = parts;
    this.processor = processor;
    this.clock = parts.clock;
    this.scheduler = parts.scheduler;
    this.lapic = parts.lapic;
    this.random = parts.random;
    this.hostNow = parts.now;
    this.deterministic = options.deterministic ?? false;
    processor.synchronous = this.deterministic;
    this.events = options.events ?? {};
    this.stopped = new Promise((resolve) => (this.settle = resolve));

    this.ioapic = new Ioapic((vector, level) => this.lapic.deliver(vector, level));
    this.lapic.onEoi = (vector) => this.ioapic.endOfInterrupt(vector);
    bus.addMmio(LAPIC_BASE, LAPIC_SIZE, this.lapic);
    bus.addMmio(IOAPIC_BASE, IOAPIC_SIZE, this.ioapic);
    const serial = new ByteBatch((bytes) => this.output('serial', bytes));
    this.uart = new Uart16550(this.ioapic.line(COM1_IRQ), (byte) => serial.addByte(byte));
    bus.addPorts(COM1_PORT, 8, this.uart);
    const reset = (): void => this.guestAsks({ reason: 'reset' });
    this.rtc = new Rtc(this.clock, reset);
    bus.addPorts(RTC_PORT, 2, this.rtc);
    new Power(() => this.guestAsks({ reason: 'poweroff' }), reset).attach(bus);

    // The terminal is a device of its own, without control queues: see VirtioConsole on resizing.
    this.console = new VirtioConsole([{ console: true }]);
    this.agent = new VirtioConsole([{ name: AGENT_PORT }]);
    const terminal = new ByteBatch((bytes) => this.output('console', bytes));
    const channel = new ByteBatch((bytes) => this.output('agent', bytes));
    this.outputs = [serial, terminal, channel];
    this.batches = new Map([
      [this.console.ports[0]!, terminal],
      [this.agent.ports[0]!, channel],
    ]);
    for (const [port, batch] of this.batches) {
      port.onOutput = (bytes) => {
        batch.add(bytes);
        if (batch.full) port.hold = true;
      };
      port.onWritable = () => this.wakeWriters();
    }
    this.agent.ports[0]!.onGuestOpen = (open) => this.events.agentOpen?.(open);

    this.blocks = (options.disks ?? []).map(
      (disk, i) =>
        new VirtioBlock(disk, {
          serial: `linux-vm-disk${i}`,
          onError: (error) => this.events.diskError?.(error),
          inOrder: this.deterministic,
        }),
    );
    this.net = new VirtioNet(options.mac ?? DEFAULT_MAC, options.network);
    this.balloon = new VirtioBalloon((address, length) => this.release(address, length));
    const devices: VirtioDevice[] = [
      this.console,
      this.agent,
      ...this.blocks,
      this.net,
      new VirtioRng((bytes) => this.random.fill(bytes)),
      this.balloon,
    ];
    if (devices.length > VIRTIO_PINS.length)
      throw new RangeError(`${this.blocks.length} disks are too many: there is room for ${VIRTIO_PINS.length - 5}`);
    this.transports = devices.map((device, i) => {
      const window = { base: VIRTIO_BASE + i * VIRTIO_STRIDE, size: VIRTIO_MMIO_SIZE, pin: VIRTIO_PINS[i]! };
      this.windows.push(window);
      const transport = new VirtioMmio(processor.memory, this.ioapic.line(window.pin), device);
      bus.addMmio(window.base, window.size, transport);
      return transport;
    });

    const { kernel, initrd, cmdline } = options;
    if (kernel) this.load({ kernel, initrd }, cmdline);
    // Last, because an open channel would outlive a constructor that throws.
    this.macrotasks = options.macrotasks ?? macrotasks();
  }

  get status(): MachineStatus {
    return this.state;
  }

  // Life

  /** Loads a kernel into a machine that was made without one. @throws BootError for one that cannot be started */
  load({ kernel, initrd }: { kernel: Uint8Array; initrd?: Uint8Array }, cmdline = ''): void {
    const { memory } = this.processor;
    const rsdp = writeAcpi(memory, this.windows);
    this.processor.enter(loadKernel({ memory, kernel, initrd, cmdline, rsdp }));
    this.entered = true;
  }

  /** Lets the machine run for the first time. @throws Error when there is nothing to run */
  start(): void {
    if (this.state !== 'created') return;
    if (!this.entered) throw new BootError('the machine has neither a kernel nor a saved state to start from');
    this.go();
  }

  /** Holds the machine; its time stands still. Disk requests under way go on. */
  pause(): void {
    if (this.state === 'running') this.hold();
    else if (!this.resumeAfterSave) return;
    this.resumeAfterSave = false;
    this.events.status?.('paused');
  }

  resume(): void {
    if (this.state !== 'paused') return;
    if (!this.saving) this.go();
    else if (!this.resumeAfterSave) {
      this.resumeAfterSave = true;
      this.events.status?.('running');
    }
  }

  /** Ends the machine for good and settles everything that waits for it. */
  stop(): void {
    this.finish({ reason: 'stop' });
  }

  private pausedAt = 0;

  private go(announce = true): void {
    this.state = 'running';
    this.frozen = undefined;
    this.clock.start(this.pausedAt);
    this.queueTurn();
    if (announce) this.events.status?.('running');
  }

  private hold(): void {
    this.state = 'paused';
    this.pausedAt = this.clock.stop();
    this.cancelSleep();
  }

  private finish(exit: MachineExit): void {
    if (this.state === 'stopped') return;
    if (this.state === 'running') this.pausedAt = this.clock.stop();
    this.state = 'stopped';
    this.cancelSleep();
    this.pager?.close();
    try {
      this.flushOutputs();
    } catch (error) {
      exit = { reason: 'error', message: String(error), error };
    }
    if (exit.reason !== 'error' && exit.reason !== 'stop') {
      const message = this.panic.message;
      if (message !== undefined) exit = { reason: 'panic', message };
    }
    this.macrotasks.close();
    this.wakeWriters();
    this.settle(exit);
    try {
      this.events.status?.('stopped', exit);
    } catch {
      // The listener's own failure changes nothing any more.
    }
  }

  /** Called from inside the processor: it is let out at the next opportunity. */
  private guestAsks(exit: MachineExit): void {
    this.request ??= exit;
    this.processor.interruptChanged();
  }

  // The run loop

  private interruptChanged(): void {
    if (this.inProcessor) this.processor.interruptChanged();
    else this.wake();
  }

  /** Something has happened that a halted or waiting processor should see. Cheap; may be called at any time. */
  wake(): void {
    if (!this.asleep || this.state !== 'running') return;
    this.cancelSleep();
    this.queueTurn();
  }

  private cancelSleep(): void {
    this.asleep = false;
    clearTimeout(this.sleepTimer);
    this.sleepTimer = undefined;
  }

  private queueTurn(): void {
    if (this.queuedTurn) return;
    this.queuedTurn = true;
    this.macrotasks.post(this.turn);
  }

  private get requestsInFlight(): number {
    let n = 0;
    for (const block of this.blocks) n += block.inFlight;
    return n;
  }

  private readonly turn = (): void => {
    this.queuedTurn = false;
    if (this.state !== 'running') return;
    this.turns++;
    try {
      const start = this.hostNow();
      this.thaw();
      const before = this.processor.stats.instructions;
      const again = this.runSlices(start);
      const elapsed = this.hostNow() - start;
      this.busyMs += elapsed;
      this.measure(elapsed, this.processor.stats.instructions - before);
      this.flushOutputs();
      if (again && this.isRunning()) this.queueTurn();
    } catch (error) {
      this.finish({ reason: 'error', message: error instanceof Error ? error.message : String(error), error });
    }
  };

  /** A method, so that the compiler does not believe the state known. */
  private isRunning(): boolean {
    return this.state === 'running';
  }

  /** Runs the processor for one turn. @returns whether the next turn may follow at once */
  private runSlices(start: number): boolean {
    for (;;) {
      this.scheduler.run();
      if (this.deterministic && this.requestsInFlight > 0) return this.waitForDisks();
      const reason = this.runProcessor(this.budget());
      const told = this.tellDrivers();
      if (this.request) {
        this.finish(this.request);
        return false;
      }
      // Before idling, so that a prompt is seen at once; in a deterministic machine always at the same points.
      if (reason === 'halted' || this.deterministic || this.outputFull) this.flushOutputs();
      // A handler may have paused or stopped the machine.
      if (!this.isRunning()) return false;
      switch (reason) {
        case 'shutdown':
          this.finish({ reason: 'shutdown', message: 'the processor shut down after a triple fault' });
          return false;
        case 'waiting':
          this.asleep = true;
          this.frozen = this.clock.stop();
          this.frozenSince = this.hostNow();
          return false;
        case 'halted':
          this.panic.halted();
          if (!told && !this.idle()) return false;
          break;
        case 'budget':
          if (this.panic.isFinal(this.clock.now())) {
            this.finish({ reason: 'panic', message: this.panic.message });
            return false;
          }
      }
      if (this.hostNow() - start >= (this.requestsInFlight ? TURN_WITH_IO : TURN)) return true;
    }
  }

  /** Devices' interrupts that could wait for the end of the slice. @returns whether there was one */
  private tellDrivers(): boolean {
    let told = false;
    for (const transport of this.transports) if (transport.settle()) told = true;
    return told;
  }

  private thaw(): void {
    if (this.frozen === undefined) return;
    this.clock.start(this.frozen);
    this.frozen = undefined;
    this.waitedMs += this.hostNow() - this.frozenSince;
  }

  private runProcessor(budget: number): StopReason {
    this.inProcessor = true;
    try {
      return this.processor.run(budget);
    } finally {
      this.inProcessor = false;
    }
  }

  /** Instructions until the next timer, or for one slice. */
  private budget(): number {
    const left = this.scheduler.next - this.clock.now();
    if (this.deterministic) return Math.max(1, Math.min(left, DETERMINISTIC_SLICE));
    return Math.max(LEAST_BUDGET, Math.floor(Math.min(left, SLICE) / this.clock.nsPerInstruction));
  }

  private measure(elapsed: number, instructions: number): void {
    if (this.deterministic || elapsed < 1 || instructions < 1000) return;
    const before = this.clock.nsPerInstruction;
    const measured = (elapsed * 1e6) / instructions;
    // Quick to fall and slow to rise: on a busy host every other turn holds times in which somebody else ran, and slices
    // that last a tenth of what they should are mostly spent on their beginnings and ends.
    const next = measured < before ? (before + measured) / 2 : before * 0.75 + Math.min(measured, 2 * before) * 0.25;
    this.clock.nsPerInstruction = Math.min(Math.max(next, 0.2), 1000);
  }

  /** The processor is halted. @returns true to go on in this turn, false when the loop sleeps or comes back by itself */
  private idle(): boolean {
    const { next } = this.scheduler;
    if (this.deterministic) {
      if (this.requestsInFlight > 0) return this.waitForDisks();
      if (next === Infinity) {
        this.asleep = true;
        return false;
      }
      this.clock.jump(next);
      return true;
    }
    const milliseconds = (next - this.clock.now()) / 1e6;
    if (milliseconds <= 0) return true;
    if (milliseconds < SHORTEST_SLEEP) {
      this.queueTurn();
      return false;
    }
    this.asleep = true;
    if (next !== Infinity)
      this.sleepTimer = setTimeout(() => this.wake(), Math.min(Math.ceil(milliseconds), LONGEST_SLEEP));
    return false;
  }

  /** Deterministic mode: guest time does not pass while a disk is asked. */
  private waitForDisks(): false {
    this.asleep = true;
    void this.drain().then(() => this.wake());
    return false;
  }

  private async drain(): Promise<void> {
    await Promise.all(this.transports.map((t) => t.device.drain()));
  }

  // Input and output

  private output(kind: 'console' | 'serial' | 'agent', bytes: Uint8Array): void {
    if (kind !== 'agent') this.panic.watch(kind, bytes, this.clock.now());
    this.events[kind]?.(bytes);
  }

  private get outputFull(): boolean {
    return this.outputs.some((output) => output.full);
  }

  private flushOutputs(): void {
    for (const output of this.outputs) output.flush();
    for (const port of this.batches.keys()) if (port.hold) port.hold = false;
  }

  private wakeWriters(): void {
    const waiters = this.waiters;
    this.waiters = new Set();
    for (const wake of waiters) wake();
  }

  /**
   * Types into the terminal. Resolves when all bytes are in the guest's reach (or the machine has stopped, and they are
   * dropped): wait for it between large pieces. Never rejects.
   */
  writeConsole(bytes: Uint8Array): Promise<void> {
    return this.writePort(this.console.ports[0]!, bytes);
  }

  /** Sends to the guest agent; as `writeConsole`. Bytes written before the agent has opened its port wait for it. */
  writeAgent(bytes: Uint8Array): Promise<void> {
    return this.writePort(this.agent.ports[0]!, bytes);
  }

  /** Sends to the serial port. @returns how many bytes were taken */
  writeSerial(bytes: Uint8Array): number {
    return this.state === 'stopped' ? 0 : this.uart.send(bytes);
  }

  /** Whether the agent has its port open. */
  get agentIsOpen(): boolean {
    return this.agent.ports[0]!.guestOpen;
  }

  private readonly writing = new Map<ConsolePort, Promise<void>>();

  private writePort(port: ConsolePort, bytes: Uint8Array): Promise<void> {
    if (this.state === 'stopped') return Promise.resolve();
    const before = this.writing.get(port);
    if (!before) {
      const taken = port.send(bytes);
      if (taken === bytes.length) return Promise.resolve();
      bytes = bytes.slice(taken);
    } else bytes = bytes.slice();
    const done = this.writeRest(port, bytes, before).then(() => {
      if (this.writing.get(port) === done) this.writing.delete(port);
    });
    this.writing.set(port, done);
    return done;
  }

  private async writeRest(port: ConsolePort, bytes: Uint8Array, before?: Promise<void>): Promise<void> {
    await before;
    while (bytes.length && this.state !== 'stopped') {
      bytes = bytes.subarray(port.send(bytes));
      if (bytes.length) await new Promise<void>((resolve) => this.waiters.add(resolve));
    }
  }

  /** The terminal's size in characters. */
  resize(columns: number, rows: number): void {
    if (this.state !== 'stopped') this.console.resize(columns, rows);
  }

  private words: Int32Array | undefined;

  /** The guest does not use these pages. Only those that have been written to are looked at, and only those that are not zero written to. */
  private release(address: number, length: number): void {
    const { memory } = this.processor;
    this.words ??= wordsOf(memory);
    if (memory.absent)
      for (let at = address; at < address + length; at += PAGE_SIZE) this.pager?.discard(at / PAGE_SIZE);
    const { touched } = memory;
    for (let at = address; at < address + length; at += PAGE_SIZE)
      if (touched[at / PAGE_SIZE] && !isZero(this.words, at >>> 2, (at + PAGE_SIZE) >>> 2))
        memory.writable(at, PAGE_SIZE).fill(0);
  }

  // State

  /**
   * Takes the whole state. Time stands still meanwhile; disk requests under way are waited for. The machine goes on
   * afterwards if it was running. @throws Error when it has stopped
   */
  async save(): Promise<MachineState> {
    while (this.saving) await this.saving.catch(() => undefined);
    if (this.state === 'stopped') throw new Error('the machine has stopped: it has no state to save');
    this.resumeAfterSave = this.state === 'running';
    if (this.state === 'running') this.hold();
    const saving = this.takeState();
    this.saving = saving;
    try {
      return await saving;
    } finally {
      this.saving = undefined;
      if (this.resumeAfterSave && this.isPaused()) this.go(false);
      this.resumeAfterSave = false;
    }
  }

  private isPaused(): boolean {
    return this.state === 'paused';
  }

  private async takeState(): Promise<MachineState> {
    await this.pager?.all();
    await this.drain();
    if (this.state === 'stopped') throw new Error('the machine stopped while its state was being saved');
    this.flushOutputs();
    this.tellDrivers();
    return {
      version: STATE_VERSION,
      deterministic: this.deterministic,
      devices: this.devices,
      now: this.pausedAt,
      wall: this.clock.wall(),
      random: this.random.save(),
      processor: this.processor.save(),
      lapic: this.lapic.save(),
      ioapic: this.ioapic.save(),
      uart: this.uart.save(),
      rtc: this.rtc.save(),
      virtio: this.transports.map((t) => t.save()),
      memory: saveMemory(this.processor.memory),
    };
  }

  private get devices(): string[] {
    return this.transports.map(
      ({ device }) => `${device.name} ${device.features.toString(16)} ${device.queueSizes.join(',')}`,
    );
  }

  /**
   * Puts a state into a machine that has not been started. `start` then goes on where it was taken.
   * @throws Error when it is of another version or of a machine of another shape
   */
  restore(state: MachineState): void {
    this.check(state);
    restoreMemory(this.processor.memory, state.memory);
    this.restoreParts(state);
  }

  /**
   * As `restore`, with the pages of RAM still to come: those that the guest touches are read when it does, the others once
   * `fetchRest` is called or many have been touched. A page that cannot be had is a `memoryTrouble` and is tried again.
   * @param traffic what else the guest waits for
   */
  resumeFrom(state: PagedState, read: ChunkReader, traffic?: Traffic): void {
    this.check(state);
    const { memory } = this.processor;
    if (state.memory.size !== memory.size)
      throw new Error(`the snapshot has ${state.memory.size} bytes of RAM, this machine has ${memory.size}`);
    const events: PagerEvents = {
      arrived: () => {
        for (const transport of this.transports) transport.pagesArrived();
        this.wake();
      },
      trouble: (error) => this.events.memoryTrouble?.(error),
      complete: () => this.events.memoryComplete?.(this.waitedMs),
    };
    this.pager = new Pager(memory, state.memory, read, events, traffic);
    this.restoreParts(state);
  }

  /** Fetches the rest of a resumed machine's RAM in the background. */
  fetchRest(): void {
    this.pager?.startBackground();
  }

  private check(state: MachineState | PagedState): void {
    if (this.state !== 'created')
      throw new Error('a state can only be restored into a machine that has not been started');
    if (state.version !== STATE_VERSION)
      throw new Error(`the saved machine has format ${state.version}, this program reads format ${STATE_VERSION}`);
    if (this.deterministic && !state.deterministic)
      throw new Error('the saved machine was not deterministic, and this one is');
    if (state.virtio.length !== this.transports.length)
      throw new Error(
        `the saved machine has ${state.virtio.length} devices, this one has ${this.transports.length}: give it the same disks`,
      );
    const { devices } = this;
    const other = devices.findIndex((device, i) => device !== state.devices[i]);
    if (other >= 0)
      throw new Error(
        `the saved machine has the device "${state.devices[other]}" where this one has "${devices[other]}"`,
      );
  }

  private restoreParts(state: MachineState | PagedState): void {
    this.processor.restore(state.processor);
    this.pausedAt = state.now;
    // Timers are armed against the restored time.
    this.clock.start(state.now);
    this.clock.stop();
    this.random.restore(state.random);
    this.ioapic.restore(state.ioapic);
    this.uart.restore(state.uart);
    this.rtc.restore(state.rtc);
    this.transports.forEach((transport, i) => transport.restore(state.virtio[i]!));
    // Last: putting back the wires above may have sent messages that the saved controllers had seen already.
    this.ioapic.restore(state.ioapic);
    this.lapic.restore(state.lapic);
    this.entered = true;
  }

  stats(): MachineStats {
    return {
      status: this.state,
      processor: { ...this.processor.stats },
      guestSeconds: (this.state === 'running' ? this.clock.now() : this.pausedAt) / 1e9,
      busyMs: this.busyMs,
      turns: this.turns,
      interrupts: this.lapic.delivered,
      ...(this.pager && { memory: { ...this.pager.counters, complete: this.pager.complete } }),
      devices: this.transports.map((t) => ({
        name: t.device.name,
        counters: { ...t.device.counters },
        ...(t.failure === undefined ? {} : { failure: t.failure }),
      })),
    };
  }
}
