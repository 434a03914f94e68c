import {
  AgentClient,
  type FileSystem,
  type Identity,
  type Inspector,
  type Process,
  type RunOptions,
  type RunResult,
  type SpawnOptions,
} from './agent/client.ts';
import { Console, reportLater } from './console.ts';
import type {
  Call,
  CallResult,
  FromWorker,
  Origin,
  PlainError,
  PlainExit,
  Progress,
  ToWorker,
  VmStats,
} from './protocol.ts';
import { newIdentity } from './identity.ts';
import { machineRuns } from './offline/running.ts';
import { type LinuxVMOptions, type RestoreOptions, restoreSpec, startSpec } from './options.ts';
import { SpaceGuard } from './space-guard.ts';
import { askToPersist, StorageError, type StorageErrorCode, type StorageStatus, VmDisk } from './storage.ts';
import { defaultWorker, type WorkerHandle } from './worker-handle.ts';

export type { LinuxVMOptions, Source } from './options.ts';

export type VmState = 'loading' | 'booting' | 'running' | 'stopped' | 'error';

/** How a machine ended. */
export interface VmExit extends Omit<PlainExit, 'error'> {
  error?: Error;
  stats?: VmStats;
}

/** Why a call could not be answered: the machine is no longer there. */
export class VmStoppedError extends Error {
  override readonly name = 'VmStoppedError';
  constructor(readonly exit: VmExit) {
    super(`the machine has stopped (${describeExit(exit)})`, { cause: exit.error });
  }
}

/** How long a machine with stored changes may take to write the last of them, and a guest to sync. Milliseconds. */
const LAST_WRITE = 7000;
const SYNC = 10_000;

/** Whether the interpreter's handlers have been optimized (emulator/cpu/ripening.ts): it is done for all machines of a page. */
let ripened = false;

/** Colours, and the switching on of bracketed paste. */
// eslint-disable-next-line no-control-regex -- they begin with ESC
const ESCAPE_SEQUENCE = /\x1b\[[0-9;?]*[A-Za-z]/g;

export interface VmEvents {
  state: VmState;
  progress: Progress;
  /** A disk access failed after all retries; the guest saw an I/O error. */
  'disk-error': Error;
  /**
   * A part of the memory of a machine that goes on from a snapshot could not be fetched, and is being tried again; the
   * machine may stand still meanwhile. Undefined: all is well again.
   */
  'memory-trouble': Error | undefined;
  /** How it stands with the changes to the disk, at most once a second. */
  storage: StorageStatus;
}

/**
 * A virtual machine that runs in a worker of its own.
 *
 * ```ts
 * const vm = await LinuxVM.start({ disk: 'disks/debian/manifest.json' });
 * const { stdout } = await vm.run(['python3', '-c', 'print(2**100)']);
 * console.log(new TextDecoder().decode(stdout));
 * await vm.stop();
 * ```
 *
 * Every promise settles: when the machine stops for whatever reason, what is pending rejects with a VmStoppedError.
 */
export class LinuxVM {
  /** The guest's console. */
  readonly console: Console;
  /** The guest's files, through the agent. Calls wait for it. */
  readonly fs: FileSystem;
  /** Processes, open files, mounts and devices of the guest, through the agent. Calls wait for it. */
  readonly inspect: Inspector;
  /** The disk and what was written to it. */
  readonly disk: VmDisk;
  /** Resolves when the guest agent answers; rejects with VmStoppedError when the machine stops before. */
  readonly ready: Promise<void>;
  /** Resolves when the machine has stopped; never rejects. */
  readonly exited: Promise<VmExit>;

  private current: VmState = 'loading';
  private exit: VmExit | undefined;
  private settleExit: (exit: VmExit) => void = () => undefined;
  private settleStart: { resolve(): void; reject(error: Error): void } | undefined;
  private readonly listeners: { [K in keyof VmEvents]: Set<(value: VmEvents[K]) => void> } = {
    state: new Set(),
    progress: new Set(),
    'disk-error': new Set(),
    'memory-trouble': new Set(),
    storage: new Set(),
  };
  private readonly calls = new Map<number, { resolve(value: CallResult): void; reject(error: Error): void }>();
  private begunFrom: Origin = { from: 'boot' };
  private identity: Identity | undefined;
  private storageStatus: StorageStatus | undefined;
  private persisted: boolean | undefined;
  private askedToPersist = false;
  private bootWrites: number | undefined;
  private readonly space = new SpaceGuard(this);
  /** How long a worker that is told to stop may take, in milliseconds. */
  private patience = 1000;
  private nextCall = 1;
  private readonly agent: AgentClient;
  private agentData: ((bytes: Uint8Array) => void) | undefined;
  private readonly pending = new Set<(error: Error) => void>();
  private readonly agentClosed = new Set<() => void>();
  private tail = '';

  private constructor(
    private readonly worker: WorkerHandle,
    private readonly signal: AbortSignal | undefined,
  ) {
    this.exited = new Promise((resolve) => (this.settleExit = resolve));
    this.console = new Console(
      (bytes) => this.post({ type: 'input', channel: 'console', bytes }),
      (columns, rows) => this.post({ type: 'resize', columns, rows }),
      (bytes) => this.post({ type: 'credit', bytes }),
    );
    worker.onMessage((message) => this.receive(message));
    worker.onError((error) => this.finish({ reason: 'error', message: error.message, error }));
    this.agent = new AgentClient({
      write: (bytes) => this.post({ type: 'input', channel: 'agent', bytes }),
      onData: (listener) => (this.agentData = listener),
      onClose: (listener) => {
        if (this.exit) listener();
        else this.agentClosed.add(listener);
      },
    });
    const alive = <T extends object>(calls: T): T =>
      new Proxy(calls, {
        get: (target, name) => {
          const method: unknown = Reflect.get(target, name);
          if (typeof method !== 'function') return method;
          return (...args: unknown[]) => {
            const result: unknown = Reflect.apply(method, target, args);
            // A stream ends with the agent by itself.
            return result instanceof Promise ? this.whileAlive(result) : result;
          };
        },
      });
    this.fs = alive(this.agent.fs);
    this.inspect = alive(this.agent.inspect);
    this.disk = new VmDisk(
      (call) => this.call(call),
      () => this.syncGuest(),
    );
    this.ready = this.whileAlive(this.agent.ready.then(() => this.becomeItself()));
    this.ready.then(
      () => this.setState('running'),
      () => undefined,
    );
    signal?.addEventListener('abort', this.onAbort, { once: true });
  }

  /**
   * Loads kernel and disk and starts a machine; resolves when its processor runs.
   * @throws Error in words for people when something cannot be loaded; TypeError when an option is wrong
   */
  static async start(options: LinuxVMOptions): Promise<LinuxVM> {
    return LinuxVM.begin(options, { type: 'start', spec: startSpec(options) });
  }

  /**
   * Goes on from a state that `saveState` gave. The same build is needed, and the same disk: by its address when it
   * had one, else through `options.disk`. With a `storageKey` the disk as it was then takes the place of what was kept
   * under that name, unless that belongs to another base image; then nothing is kept, and `storage.reason` says so.
   * @throws Error when the state is damaged or its disk is not there
   */
  static async restore(state: Blob | ReadableStream<Uint8Array>, options: RestoreOptions = {}): Promise<LinuxVM> {
    const blob = state instanceof Blob ? state : await new Response(state).blob();
    return LinuxVM.begin(options, { type: 'restore', spec: restoreSpec(options), state: blob });
  }

  private static async begin(options: LinuxVMOptions, message: ToWorker): Promise<LinuxVM> {
    options.signal?.throwIfAborted();
    const vm = new LinuxVM((options.worker ?? defaultWorker)(), options.signal);
    // A deterministic machine gets nothing from outside that is not asked for.
    if (!options.deterministic) vm.identity = newIdentity(options.hostname);
    if (options.storageKey !== undefined) vm.patience = LAST_WRITE;
    void vm.exited.then(machineRuns());
    if (options.onProgress) vm.on('progress', options.onProgress);
    const started = new Promise<void>((resolve, reject) => (vm.settleStart = { resolve, reject }));
    vm.post(message);
    await started;
    return vm;
  }

  /**
   * The real-time clock knows whole seconds only, and a restored guest's clock stood still since it was saved. Machines
   * that go on from one snapshot would also have the same random numbers and names.
   */
  private async becomeItself(): Promise<void> {
    const { identity } = this;
    if (!identity) return;
    const { from } = this.begunFrom;
    // Who goes on from a state of their own keeps their names, and the network its address.
    const { seed, mac, ...names } = identity;
    const own = { seed, ...(from !== 'state' && names), ...((from === 'snapshot' || from === 'kernel') && { mac }) };
    try {
      await this.agent.refresh(Date.now(), own);
    } catch {
      // The agent of an older disk knows how to set the clock only.
      await this.agent.setTime(Date.now()).catch(() => undefined);
    }
  }

  /** What the machine began with, from the time its processor runs. */
  get origin(): Origin {
    return this.begunFrom;
  }

  /** `loading`, `booting` from the first instruction, `running` from the agent's first answer or the first prompt. */
  get state(): VmState {
    return this.current;
  }

  /** Adds a listener. @returns a function that removes it */
  on<K extends keyof VmEvents>(event: K, listener: (value: VmEvents[K]) => void): () => void {
    this.listeners[event].add(listener);
    return () => this.listeners[event].delete(listener);
  }

  /**
   * Runs a program in the guest and collects its output. Waits for the agent first.
   * @param argv program (looked for in PATH) and arguments
   */
  async run(argv: readonly string[], options: RunOptions = {}): Promise<RunResult> {
    options.signal?.throwIfAborted();
    await this.readyOr(options.signal);
    return this.whileAlive(this.agent.run(argv, options));
  }

  /** Starts a program in the guest and gives its streams. Waits for the agent first. */
  async spawn(argv: readonly string[], options: SpawnOptions = {}): Promise<Process> {
    await this.ready;
    return this.whileAlive(this.agent.spawn(argv, options));
  }

  /** How it stands with the changes to the disk; undefined until it is known. The event `storage` tells of changes. */
  get storage(): StorageStatus | undefined {
    return this.storageStatus;
  }

  /**
   * Keeps RAM and devices beside the stored disk, for a later start with `resume`, and ends the machine. What is written
   * to the disk afterwards makes what was kept worthless.
   * @param options.keepRunning the machine goes on
   * @throws StorageError without a `storageKey`, or when there is no space
   */
  async suspend(options: { keepRunning?: boolean } = {}): Promise<void> {
    await this.call({ method: 'suspend', keepRunning: options.keepRunning ?? false });
  }

  /** RAM, devices and what was written to the disk. The machine is held while it is taken, and then goes on. */
  async saveState(): Promise<Blob> {
    return (await this.call({ method: 'save' })) as Blob;
  }

  /** Counters; after the machine has stopped, its last ones. */
  async stats(): Promise<VmStats> {
    if (this.exit?.stats) return this.exit.stats;
    return (await this.call({ method: 'stats' })) as VmStats;
  }

  /** Stops the processor's clock until `resume`. */
  pause(): void {
    this.post({ type: 'pause' });
  }

  resume(): void {
    this.post({ type: 'resume' });
  }

  /** Pulls the plug and frees the memory. What the guest had not flushed is lost. */
  async stop(): Promise<VmExit> {
    if (!this.exit) {
      this.post({ type: 'stop' });
      // A worker that is stuck is not asked twice.
      const timer = setTimeout(() => this.finish({ reason: 'stopped' }), this.patience);
      void this.exited.then(() => clearTimeout(timer));
    }
    return this.exited;
  }

  private readonly onAbort = (): void => {
    const reason: unknown = this.signal?.reason;
    const exit: VmExit = {
      reason: 'stopped',
      message: 'stopped by its signal',
      error: reason instanceof Error ? reason : new DOMException('The machine was stopped', 'AbortError'),
    };
    // A machine that runs is asked for its last counters; one that loads has none.
    if (this.settleStart) this.finish(exit);
    else void this.stop();
  };

  private async readyOr(signal: AbortSignal | undefined): Promise<void> {
    if (!signal) return this.ready;
    signal.throwIfAborted();
    let abort: () => void = () => undefined;
    const aborted = new Promise<never>((_, reject) => {
      abort = () => reject(signal.reason as Error);
      signal.addEventListener('abort', abort, { once: true });
    });
    try {
      await Promise.race([this.ready, aborted]);
    } finally {
      signal.removeEventListener('abort', abort);
    }
  }

  /** `work`, or a VmStoppedError as soon as the machine has stopped, whatever `work` says of that itself. */
  private whileAlive<T>(work: Promise<T>): Promise<T> {
    const { exit } = this;
    if (exit) {
      work.catch(() => undefined);
      return Promise.reject(new VmStoppedError(exit));
    }
    const either = new Promise<T>((resolve, reject) => {
      this.pending.add(reject);
      work
        .then(resolve, (error: unknown) => reject(this.exit ? new VmStoppedError(this.exit) : error))
        .finally(() => this.pending.delete(reject));
    });
    // Nobody may be waiting for it, as for `ready`; who is, hears of it through a promise of their own.
    either.catch(() => undefined);
    return either;
  }

  private post(message: ToWorker): void {
    if (!this.exit) this.worker.post(message);
  }

  /** What the guest holds back in memory goes to its disk first, where there is an agent to ask for it. */
  private async syncGuest(): Promise<void> {
    if (this.current !== 'running') return;
    await this.agent.run(['sync'], { signal: AbortSignal.timeout(SYNC) }).catch(() => undefined);
  }

  private keepStatus(status: StorageStatus): void {
    const { persisted } = this;
    this.storageStatus = { ...status, persisted };
    // What a boot writes is nothing to lose yet, and some browsers ask the user.
    if (this.current === 'running') this.bootWrites ??= status.writtenBytes;
    if (status.mode === 'exclusive' && status.writtenBytes > (this.bootWrites ?? Infinity) && !this.askedToPersist) {
      this.askedToPersist = true;
      void askToPersist().then((answer) => {
        this.persisted = answer;
        if (this.storageStatus && !this.exit) this.keepStatus(this.storageStatus);
      });
    }
    this.space.update(this.storageStatus);
    this.emit('storage', this.storageStatus);
  }

  private call(call: Call): Promise<CallResult> {
    if (this.exit) return Promise.reject(new VmStoppedError(this.exit));
    const id = this.nextCall++;
    return new Promise((resolve, reject) => {
      this.calls.set(id, { resolve, reject });
      this.post({ type: 'call', id, ...call });
    });
  }

  private receive(message: FromWorker): void {
    if (this.exit) return;
    switch (message.type) {
      case 'progress':
        this.emit('progress', message.progress);
        break;
      case 'started':
        this.begunFrom = message.origin;
        this.setState('booting');
        this.settleStart?.resolve();
        this.settleStart = undefined;
        break;
      case 'idle':
        this.post({ type: 'ripen', handlers: !ripened });
        ripened = true;
        break;
      case 'output':
        if (message.channel === 'agent') this.agentData?.(message.bytes);
        else {
          this.console.receive(message.bytes);
          this.watchForPrompt(message.bytes);
        }
        break;
      case 'result':
        this.calls.get(message.id)?.resolve(message.value);
        this.calls.delete(message.id);
        break;
      case 'failure':
        this.calls.get(message.id)?.reject(revive(message.error));
        this.calls.delete(message.id);
        break;
      case 'memory-trouble':
        this.emit('memory-trouble', message.error && revive(message.error));
        break;
      case 'memory-complete':
        // The wall clock stood still as well.
        if (message.waited > 100 && this.identity)
          this.ready.then(() => this.agent.setTime(Date.now())).catch(() => undefined);
        break;
      case 'disk-error':
        this.emit('disk-error', revive(message.error));
        break;
      case 'storage':
        this.keepStatus(message.status);
        break;
      case 'stopped':
        this.finish({
          ...message.exit,
          error: message.exit.error && revive(message.exit.error),
          stats: message.stats,
        });
        break;
    }
  }

  /** A guest without an agent is taken as running from its first prompt. */
  private watchForPrompt(bytes: Uint8Array): void {
    if (this.current !== 'booting') return;
    this.tail = (this.tail + new TextDecoder('latin1').decode(bytes)).slice(-200);
    const line = this.tail
      .replace(ESCAPE_SEQUENCE, '')
      .split(/[\r\n]/)
      .at(-1)!;
    if (/([#$%]|login:) $/.test(line)) this.setState('running');
  }

  private setState(state: VmState): void {
    if (this.current === state || this.current === 'stopped' || this.current === 'error') return;
    if (state === 'running') this.post({ type: 'booted' });
    this.current = state;
    if (state === 'running' && this.storageStatus) this.space.update(this.storageStatus);
    this.emit('state', state);
  }

  private emit<K extends keyof VmEvents>(event: K, value: VmEvents[K]): void {
    for (const listener of this.listeners[event]) {
      try {
        listener(value);
      } catch (error) {
        reportLater(error);
      }
    }
  }

  private finish(exit: VmExit): void {
    if (this.exit) return;
    this.exit = exit;
    this.signal?.removeEventListener('abort', this.onAbort);
    this.worker.terminate();
    const error = new VmStoppedError(exit);
    this.settleStart?.reject(exit.error ?? error);
    this.settleStart = undefined;
    for (const call of this.calls.values()) call.reject(error);
    this.calls.clear();
    for (const reject of this.pending) reject(error);
    this.pending.clear();
    for (const listener of this.agentClosed) listener();
    this.agentClosed.clear();
    this.console.close();
    this.setState(exit.reason === 'error' ? 'error' : 'stopped');
    this.settleExit(exit);
  }
}

/** One line for people about how a machine ended. */
export function describeExit(exit: Pick<VmExit, 'reason' | 'message'>): string {
  const words: Record<VmExit['reason'], string> = {
    poweroff: 'it was powered off',
    reset: 'it asked for a restart',
    panic: 'the kernel panicked',
    'triple-fault': 'its processor shut down after a triple fault',
    stopped: 'it was stopped',
    suspended: 'it was suspended',
    error: 'an error',
  };
  return exit.message ? `${words[exit.reason]}: ${exit.message}` : words[exit.reason];
}

function revive(plain: PlainError): Error {
  if (plain.name === 'StorageError')
    return new StorageError(plain.code as StorageErrorCode, plain.message, { details: plain.details });
  const error = new Error(plain.message);
  return Object.assign(error, { name: plain.name, code: plain.code, url: plain.url });
}
