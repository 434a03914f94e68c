import type {
  Call,
  CallResult,
  FromWorker,
  MachineSpec,
  Origin,
  PlainExit,
  Progress,
  SnapshotStats,
  ToWorker,
  VmStats,
} from '../src/protocol.ts';
import { plainError } from '../src/protocol.ts';
import { BootFiles } from './boot-files.ts';
import type { Fetch, FetchPolicy } from './disk/fetch.ts';
import type { FetchHelper } from './disk/fetch-helper.ts';
import { fetchFile } from './disk/file.ts';
import type { DiskManifest } from './disk/manifest.ts';
import { openDisk, type OpenDisk } from './disk/open.ts';
import { compileWhileIdle, type RipenerThread } from './idle-work.ts';
import type { PagedState } from './machine-state.ts';
import type { ChunkReader } from './pager.ts';
import type { CompiledCode, ProcessorStats } from './processor.ts';
import { release } from './release.ts';
import { checkDisk, readSaved, writeSaved } from './saved-state.ts';
import { misfit, SnapshotSource } from './snapshot.ts';
import { StorageError } from './storage/error.ts';
import { DiskStorage } from './storage/session.ts';
import { Streams } from './streams.ts';
import { Traffic } from './traffic.ts';
import { whenIdle } from './when-idle.ts';

/** Either end of what joins a page to its worker. A MessagePort, a Worker and a worker's global scope all fit. */
export interface Port<In, Out> {
  post(message: Out, transfer?: Transferable[]): void;
  onMessage(listener: (message: In) => void): void;
}

/** What this file needs of a machine; `emulator/machine.ts` is the one there is, tests bring a small one. */
export interface WorkerMachine {
  start(): void;
  pause(): void;
  resume(): void;
  writeConsole(bytes: Uint8Array): void;
  writeAgent(bytes: Uint8Array): void;
  resize(columns: number, rows: number): void;
  stats(): ProcessorStats;
  /** Seconds of the host's time in which the processor was not halted. */
  busySeconds(): number;
  /** The state at this moment, once the disk requests under way have ended. The machine is paused. */
  save(): Promise<AsyncIterable<Uint8Array>>;
  restore(state: ReadableStream<Uint8Array>): Promise<void>;
  /** Goes on from a snapshot, whose pages are read when they are touched. @throws Error when it does not fit */
  resumeFrom?(state: PagedState, read: ChunkReader, traffic: Traffic): void;
  /** As that of `Processor`. */
  compileAhead(hotCode: Uint8Array, compiled: (code: CompiledCode) => void): () => boolean;
  /** Reads all other pages, too, in the background. */
  fetchRest?(): void;
  memory?(): { chunks: number; demanded: number; complete: boolean } | undefined;
  /** Ends it for good. */
  dispose(): void;
}

export interface BootImages {
  kernel: Uint8Array;
  initrd?: Uint8Array;
}

export interface MachineParts {
  /** What it boots; may be on the way while the machine is made. */
  images?: Promise<BootImages>;
  cmdline: string;
  disk?: OpenDisk;
  spec: MachineSpec;
}

export interface MachineEvents {
  /** The bytes belong to the receiver. */
  output(channel: 'console' | 'agent', bytes: Uint8Array): void;
  stopped(exit: PlainExit): void;
  /** As those of `Machine`. */
  memoryTrouble?(error: unknown): void;
  memoryComplete?(waited: number): void;
}

export type MachineFactory = (parts: MachineParts, events: MachineEvents) => Promise<WorkerMachine>;

export interface WorkerEnvironment {
  createMachine: MachineFactory;
  /** Does ahead of `createMachine` what can be done without its parts; called while these are on their way. */
  prepare?: () => Promise<void>;
  fetch?: Fetch;
  /** Makes what fetches in another thread. */
  fetchHelper?: () => FetchHelper;
  /** Starts a thread that makes this one's processors faster, if there can be one. @param handlers also the interpreter's */
  ripen?: (handlers: boolean) => RipenerThread | undefined;
  /** Called after the last message. */
  exit?: () => void;
}

/** Console output that the page has not dealt with, in bytes, past which the machine waits. */
const MOST_UNREAD = 1 << 20;
const PROGRESS_INTERVAL = 100;
/**
 * After a resume nothing is fetched but what the guest waits for, until it has said nothing for so long (milliseconds), or
 * until so much time has passed.
 */
const QUIET = 1000;
const LONGEST_HEAD_START = 10_000;

/** Serves one machine to the page at the other end of `port`. */
export function serve(port: Port<ToWorker, FromWorker>, environment: WorkerEnvironment): void {
  const session = new Session(port, environment);
  port.onMessage((message) => session.handle(message));
}

class Session {
  private machine: WorkerMachine | undefined;
  private disk: OpenDisk | undefined;
  private storage: DiskStorage | undefined;
  private readonly streams = new Streams();
  private readonly traffic = new Traffic();
  private spec: MachineSpec | undefined;
  private readonly controller = new AbortController();
  private began = 0;
  private stopped = false;
  private unread = 0;
  private held = false;
  private paused = false;
  private saving = 0;
  private ending: PlainExit | undefined;
  private timer: ReturnType<typeof setInterval> | undefined;
  private readonly progress: Progress = { phase: 'manifest', loaded: 0, diskBlocks: 0, diskBytes: 0, instructions: 0 };
  /** Before the machine is there: what was typed, and the size of the terminal. */
  private early: Extract<ToWorker, { type: 'input' | 'resize' }>[] = [];
  private readonly helper: FetchHelper | undefined;
  private readonly files: BootFiles;
  private snapshot: SnapshotSource | undefined;
  private restTimer: ReturnType<typeof setTimeout> | undefined;
  private restBefore: number | undefined;
  private cancelIdle: (() => void) | undefined;

  constructor(
    private readonly port: Port<ToWorker, FromWorker>,
    private readonly environment: WorkerEnvironment,
  ) {
    this.helper = environment.fetchHelper?.();
    this.files = new BootFiles(this.policy, this.controller.signal);
  }

  handle(message: ToWorker): void {
    if (this.stopped) {
      if (message.type === 'call') this.fail(message.id, new Error('the machine has stopped'));
      return;
    }
    switch (message.type) {
      case 'start':
        this.begin(() => this.boot(message.spec));
        break;
      case 'restore':
        this.begin(() => this.restore(message.spec, message.state));
        break;
      case 'input':
        if (!this.machine) this.early.push(message);
        else if (message.channel === 'console') this.machine.writeConsole(message.bytes);
        else this.machine.writeAgent(message.bytes);
        break;
      case 'resize':
        if (this.machine) this.machine.resize(message.columns, message.rows);
        else this.early.push(message);
        break;
      case 'credit':
        this.unread -= message.bytes;
        this.throttle();
        break;
      case 'pause':
      case 'resume':
        this.paused = message.type === 'pause';
        this.throttle();
        break;
      case 'call':
        this.call(message).then(
          (value) => {
            if (this.stopped) return;
            this.port.post({ type: 'result', id: message.id, value });
            if (this.ending) this.stop(this.ending);
          },
          (cause: unknown) => this.fail(message.id, cause),
        );
        break;
      case 'booted':
        clearInterval(this.timer);
        break;
      case 'ripen':
        this.ripen(message.handlers);
        break;
      case 'stop':
        this.stop({ reason: 'stopped' });
        break;
    }
  }

  private begin(work: () => Promise<void>): void {
    if (this.began) return;
    this.began = performance.now();
    work().catch((cause: unknown) =>
      this.stop({ reason: 'error', message: plainError(cause).message, error: plainError(cause) }),
    );
  }

  private async boot(spec: MachineSpec): Promise<void> {
    this.timer = setInterval(() => this.tellProgress(), PROGRESS_INTERVAL);
    this.tellProgress();
    this.spec = spec;
    await this.openDisk(spec);
    if (this.stopped || (await this.resumeSuspended(spec))) return;
    const { resumed, note } = await this.resumeSnapshot(spec);
    if (resumed) return;
    const manifest = this.disk?.manifest;
    this.tellPhase('kernel');
    const newer = this.disk?.newer;
    const images = this.files
      .load(spec, this.disk)
      .catch((cause: unknown) => {
        // An old disk that was kept: the files of its kernel may have given way to those of the new one.
        if (!newer?.manifest || this.stopped) throw cause;
        return this.files.load(spec, newer);
      })
      .then((files) => {
        this.tellPhase('machine');
        // What is here already when the guest asks changes the order of its events.
        if (!spec.deterministic && !this.stopped) this.prefetch(manifest);
        return files;
      });
    // Handled below.
    images.catch(() => undefined);
    await this.environment.prepare?.();
    const cmdline = [spec.cmdline ?? manifest?.cmdline ?? '', spec.append ?? ''].filter(Boolean).join(' ');
    await this.createMachine({ images, cmdline, disk: this.disk, spec }, { from: 'boot', note });
    // Guest RAM has it now.
    const { kernel } = await images;
    if (kernel !== spec.kernel) release(kernel);
  }

  /** The guest has nothing to do. */
  private ripen(handlers: boolean): void {
    const { machine, disk, spec } = this;
    if (!machine) return;
    const ripener = this.environment.ripen?.(handlers);
    if (!ripener) return;
    const file = disk?.manifest?.hotCode;
    if (!file || !this.traffic.mayGuess || spec?.deterministic) return ripener.end();
    const { signal } = this.controller;
    const url = new URL(file.url, disk.url).href;
    compileWhileIdle(
      machine,
      () => fetchFile({ ...file, url }, { policy: { ...this.policy, priority: 'low' }, signal }),
      ripener,
      signal,
    ).catch((cause: unknown) => {
      // All works without.
      if (!signal.aborted) console.warn(`nothing is compiled ahead: ${plainError(cause).message}`);
    });
  }

  /** Goes on from the disk's snapshot. @returns whether it does, or why not, where there is one that somebody may expect */
  private async resumeSnapshot(spec: MachineSpec): Promise<{ resumed: boolean; note?: string }> {
    const { disk } = this;
    const snapshot = disk?.manifest?.snapshot;
    if (!disk || !snapshot || disk.url === undefined || spec.boot === 'cold') return { resumed: false };
    const changed = (['kernel', 'initrd', 'cmdline', 'append'] as const).find((name) => spec[name] !== undefined);
    let note = misfit(snapshot, machineMemory(spec));
    if (changed) note = `the disk's snapshot was made without the option "${changed}"`;
    else if (spec.deterministic || spec.readOnly) note = "the disk's snapshot is neither deterministic nor read-only";
    if (note !== undefined) return { resumed: false, note };
    // A kernel that has the disk mounted believes it as it was then.
    const written = disk.device.stats.overlayBytes > 0;
    if (written) note = 'the disk has been written to since its snapshot was made';
    if (written && !snapshot.kernel) return { resumed: false, note };
    const source = new SnapshotSource(disk.manifest!, snapshot, disk.url, written ? 'kernel' : 'prompt', {
      policy: this.policy,
      signal: this.controller.signal,
    });
    this.snapshot = source;
    if (written) this.prefetch(disk.manifest);
    try {
      const coming = source.state();
      // Handled below, when the machine is there.
      coming.catch(() => undefined);
      await this.environment.prepare?.();
      let screen: Uint8Array = new Uint8Array(0);
      const origin: Origin = { from: written ? 'kernel' : 'snapshot', note };
      await this.createMachine({ cmdline: '', disk, spec }, origin, async (machine) => {
        if (!machine.resumeFrom) throw new Error('this kind of machine knows no snapshots');
        const { state, overlay, console } = await coming;
        if (this.stopped) return;
        screen = console;
        machine.resumeFrom(state, (chunk) => source.chunk(chunk), this.traffic);
        if (overlay.blocks.length) disk.device.importState(overlay, true);
      });
      if (this.stopped) return { resumed: true };
      this.output('console', screen);
      this.restBefore = performance.now() + LONGEST_HEAD_START;
      // One that still has to mount its disk says nothing until it is at its prompt.
      this.fetchRestSoon(written ? LONGEST_HEAD_START : QUIET);
      return { resumed: true };
    } catch (cause) {
      if (this.stopped) return { resumed: true };
      this.snapshot = undefined;
      return { resumed: false, note: `the disk's snapshot could not be used: ${plainError(cause).message}` };
    }
  }

  /** @param quiet milliseconds until then, if nothing is said meanwhile */
  private fetchRestSoon(quiet = QUIET): void {
    if (this.restBefore === undefined) return;
    clearTimeout(this.restTimer);
    this.restTimer = setTimeout(
      () => {
        this.restBefore = undefined;
        this.machine?.fetchRest?.();
      },
      Math.min(quiet, Math.max(0, this.restBefore - performance.now())),
    );
  }

  private async restore(changes: Partial<MachineSpec>, state: Blob): Promise<void> {
    this.timer = setInterval(() => this.tellProgress(), PROGRESS_INTERVAL);
    const { header, overlay, machine } = await readSaved(state);
    const spec: MachineSpec = {
      tier: 'auto',
      deterministic: false,
      readOnly: false,
      cache: 64,
      columns: 80,
      rows: 24,
      disk: header.disk,
      ...changes,
      memory: header.memory,
    };
    this.spec = spec;
    if (header.diskSize !== undefined && spec.disk === undefined)
      throw new Error('this machine was saved with a disk that was a local file: give the same file again');
    if (header.diskSize !== undefined) await this.openDisk(spec, true);
    const { disk } = this;
    if (disk) await checkDisk(disk, header);
    await this.createMachine({ cmdline: '', disk, spec }, { from: 'state' }, async (m) => {
      await m.restore(machine);
      // Only now: what is stored must not give way to the disk of a machine that cannot go on.
      if (overlay && disk) await this.storage!.begin(overlay);
    });
  }

  /** @param restore puts its state into the machine, unless that begins with a kernel */
  private async createMachine(
    parts: MachineParts,
    origin: Origin,
    restore?: (machine: WorkerMachine) => void | Promise<void>,
  ): Promise<void> {
    if (this.stopped) return;
    // Otherwise they come first.
    if (!parts.images) this.tellPhase('machine');
    const machine = await this.environment.createMachine(parts, {
      output: (channel, bytes) => this.output(channel, bytes),
      stopped: (exit) => this.stop(exit),
      memoryTrouble: (error) => {
        if (!this.stopped) this.port.post({ type: 'memory-trouble', error: error ? plainError(error) : undefined });
      },
      memoryComplete: (waited) => {
        if (!this.stopped) this.port.post({ type: 'memory-complete', waited });
      },
    });
    if (this.stopped) return machine.dispose();
    try {
      await restore?.(machine);
    } catch (cause) {
      machine.dispose();
      throw cause;
    }
    if (this.stopped) return machine.dispose();
    this.machine = machine;
    machine.resize(parts.spec.columns, parts.spec.rows);
    for (const message of this.early.splice(0)) this.handle(message);
    this.progress.phase = 'boot';
    this.port.post({ type: 'started', origin });
    this.tellProgress();
    machine.start();
    this.throttle();
    if (this.environment.ripen)
      this.cancelIdle = whenIdle(
        () => machine.busySeconds(),
        () => this.port.post({ type: 'idle' }),
      );
  }

  /** @param restoring with contents that the storage is given afterwards, by `begin` */
  private async openDisk(spec: MachineSpec, restoring = false): Promise<void> {
    if (spec.disk === undefined) return;
    const storage = new DiskStorage(
      spec.storage ?? { mode: 'exclusive', resume: false },
      {
        status: (status) => {
          if (!this.stopped) this.port.post({ type: 'storage', status });
        },
        lost: (error) => this.stop({ reason: 'error', message: error.message, error: plainError(error) }),
        yield: () => {
          const error = new StorageError(
            'storage-taken',
            'this machine was stopped because another tab or window took over its disk, where it can go on; what was ' +
              'written to the disk is there',
          );
          this.stop({ reason: 'error', message: error.message, error: plainError(error) });
        },
      },
      this.policy.fetch,
      restoring,
    );
    this.storage = storage;
    const disk = await openDisk(spec.disk, {
      openStore: (base) => storage.openStore(base),
      memory: spec.cache * 2 ** 20,
      traffic: this.traffic,
      readOnly: spec.readOnly,
      policy: this.policy,
      signal: this.controller.signal,
      onFull: (error) => storage.full(error),
      onError: (error) => {
        storage.failed(error);
        if (!this.stopped) this.port.post({ type: 'disk-error', error: plainError(error) });
      },
    });
    if (this.stopped) return disk.device.close();
    this.disk = disk;
    storage.attach(disk);
  }

  /** @returns whether a suspended machine goes on, so that nothing has to boot */
  private async resumeSuspended(spec: MachineSpec): Promise<boolean> {
    const suspended = this.storage?.suspended();
    if (!suspended) return false;
    const { memory, deterministic } = suspended.record;
    try {
      this.spec = { ...spec, memory, deterministic };
      await this.createMachine({ cmdline: '', disk: this.disk, spec: this.spec }, { from: 'state' }, (machine) =>
        machine.restore(suspended.stream),
      );
      this.storage?.resumed();
      return true;
    } catch (cause) {
      if (this.stopped) return true;
      this.spec = spec;
      await this.storage?.dropSuspended(cause);
      return false;
    }
  }

  private get policy(): Partial<FetchPolicy> {
    const { fetch } = this.environment;
    const policy: Partial<FetchPolicy> = {
      helper: this.helper,
      onRetry: (error) => (this.progress.trouble = error.message),
    };
    if (fetch) policy.fetch = fetch;
    return policy;
  }

  private prefetch(manifest: DiskManifest | undefined): void {
    if (manifest) this.disk?.cache.prefetch(manifest.bootChunks);
  }

  private output(channel: 'console' | 'agent', bytes: Uint8Array): void {
    if (this.stopped || bytes.length === 0) return;
    if (channel === 'console') {
      this.unread += bytes.length;
      this.throttle();
      this.fetchRestSoon();
    }
    this.port.post({ type: 'output', channel, bytes });
  }

  /** Runs or holds the machine, after what the page asked for and what it has still to read. */
  private throttle(): void {
    const hold =
      this.paused || this.saving > 0 || (this.held ? this.unread > MOST_UNREAD / 2 : this.unread > MOST_UNREAD);
    if (hold === this.held || !this.machine) return;
    this.held = hold;
    if (hold) this.machine.pause();
    else this.machine.resume();
  }

  private async call(call: Call): Promise<CallResult> {
    switch (call.method) {
      case 'stats': {
        const value = this.stats();
        if (!value) throw new Error('the machine has not started yet');
        return value;
      }
      case 'save':
        return this.save();
      case 'storage':
        return this.storage?.status();
      case 'flush':
        await this.disk?.device.keep();
        return undefined;
      case 'export': {
        const { storage } = this;
        if (!storage) throw new Error('this machine has no disk');
        const stream = await (call.what === 'diff' ? storage.exportDiff() : storage.exportImage());
        return this.streams.add(stream);
      }
      case 'pull':
        return this.streams.pull(call.stream);
      case 'cancel':
        await this.streams.cancel(call.stream);
        return undefined;
      case 'import':
        await this.whileHeld(() => this.storage?.importDiff(call.diff), {
          reason: 'stopped',
          message: 'the changes to its disk were replaced; start it again',
        });
        return undefined;
      case 'reset':
        await this.whileHeld(() => this.storage?.reset(), {
          reason: 'stopped',
          message: 'the changes to its disk were dropped; start it again',
        });
        return undefined;
      case 'suspend':
        await this.suspend(call.keepRunning ? undefined : { reason: 'suspended' });
        return undefined;
    }
  }

  /** Holds the machine. @param ending it does not go on when the work has succeeded, but ends so after the answer */
  private async whileHeld<T>(work: () => T | Promise<T>, ending?: PlainExit): Promise<T> {
    this.saving++;
    this.throttle();
    try {
      const value = await work();
      this.ending ??= ending;
      return value;
    } finally {
      if (!this.ending) {
        this.saving--;
        this.throttle();
      }
    }
  }

  private async suspend(ending: PlainExit | undefined): Promise<void> {
    const { machine, spec, storage } = this;
    if (!machine || !spec || !storage) throw new Error('there is no machine with a disk that could be suspended');
    storage.checkSpace();
    const { memory, deterministic } = spec;
    await this.whileHeld(async () => storage.suspend(await machine.save(), { memory, deterministic }), ending);
  }

  private async save(): Promise<Blob> {
    const { machine, spec } = this;
    if (!machine || !spec) throw new Error('the machine has not started yet, so there is no state to save');
    this.storage?.checkSpace();
    return this.whileHeld(async () => {
      const state = await machine.save();
      // Now nothing is under way to the disk, and the machine is held: the two belong to the same moment.
      const overlay = await this.disk?.device.exportState();
      return writeSaved(
        {
          memory: spec.memory,
          disk: typeof spec.disk === 'string' ? spec.disk : undefined,
          diskSize: this.disk?.device.size,
          base: await this.disk?.identity(),
        },
        overlay,
        state,
      );
    });
  }

  private fail(id: number, cause: unknown): void {
    this.port.post({ type: 'failure', id, error: plainError(cause) });
  }

  private stats(): VmStats | undefined {
    if (!this.machine) return undefined;
    return {
      seconds: (performance.now() - this.began) / 1000,
      processor: { ...this.machine.stats() },
      busySeconds: this.machine.busySeconds(),
      disk: this.disk?.device.stats,
      kernelBytes: this.files.loaded,
      snapshot: this.snapshotStats(),
    };
  }

  private snapshotStats(): SnapshotStats | undefined {
    const { snapshot, machine } = this;
    const memory = machine?.memory?.();
    return snapshot && memory ? { fetchedBytes: snapshot.fetchedBytes, ...memory } : undefined;
  }

  private tellPhase(phase: Progress['phase']): void {
    this.progress.phase = phase;
    this.tellProgress();
  }

  private tellProgress(): void {
    if (this.stopped) return;
    const { progress } = this;
    const before = progress.loaded + progress.diskBlocks;
    progress.loaded = this.files.loaded;
    progress.total = this.files.total;
    const disk = this.disk?.device.stats;
    progress.diskBlocks = disk?.fetches ?? 0;
    progress.diskBytes = disk?.fetchedBytes ?? 0;
    progress.instructions = this.machine?.stats().instructions ?? 0;
    if (progress.loaded + progress.diskBlocks > before) progress.trouble = undefined;
    this.port.post({ type: 'progress', progress: { ...progress } });
  }

  private stop(exit: PlainExit): void {
    if (this.stopped) return;
    let stats: VmStats | undefined;
    try {
      stats = this.stats();
    } catch {
      // A machine that failed may not know its counters any more.
    }
    this.stopped = true;
    clearInterval(this.timer);
    clearTimeout(this.restTimer);
    this.cancelIdle?.();
    this.controller.abort();
    try {
      this.machine?.dispose();
    } catch {
      // It is being thrown away; what it still had to say is in `exit`.
    }
    const { disk, storage } = this;
    this.machine = undefined;
    this.disk = undefined;
    const end = (): void => {
      disk?.device.close();
      this.port.post({ type: 'stopped', exit, stats });
      this.environment.exit?.();
    };
    // What the guest has written, and never flushed, is kept too if there is time.
    const last = storage?.close();
    if (last) void last.then(end);
    else end();
  }
}

/** Bytes of RAM: it is mapped by large pages of 2 MiB. */
export function machineMemory(spec: MachineSpec): number {
  return Math.floor(spec.memory / 2) * 2 * 2 ** 20;
}
