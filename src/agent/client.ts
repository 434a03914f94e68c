import {
  AgentFrame,
  concat,
  encodeFrame,
  type Frame,
  FrameParser,
  helloPayload,
  HostFrame,
  MAX_PAYLOAD,
  parseHello,
  PayloadReader,
  PayloadWriter,
  PROTOCOL_VERSION,
} from './codec.ts';
import { AgentError, E2BIG } from './errors.ts';
import { AgentFiles, type FileSystem, type Operate, Operation } from './files.ts';
import { AgentInspector, type Inspector } from './inspect.ts';
import { AgentProcess, type ExitStatus, type Process } from './process.ts';

export { AgentError } from './errors.ts';
export type { DirectoryEntry, FileStat, FileSystem, FileType, ListedEntry } from './files.ts';
export type { GuestDevice, GuestProcess, Inspector, InterruptLine, Mount, OpenFile } from './inspect.ts';
export type { ExitStatus, Process } from './process.ts';

/** The host's end of the agent's port. Bytes arrive in order, in pieces of any size. */
export interface AgentPort {
  write(bytes: Uint8Array): void;
  onData(listener: (bytes: Uint8Array) => void): void;
  /** Called when nothing will come any more, at once if that is so already. */
  onClose(listener: () => void): void;
}

export interface SpawnOptions {
  /** Added to PATH, HOME, USER, LOGNAME, SHELL and LANG, which the user's entry in /etc/passwd gives. */
  env?: Readonly<Record<string, string>>;
  /** The user's home unless told. */
  cwd?: string;
  /** root (0) unless told; with it come the user's groups. */
  uid?: number;
  gid?: number;
  /** Runs it on a terminal of its own; `true` is 80 by 24. */
  pty?: boolean | { columns: number; rows: number };
}

export interface RunOptions extends Omit<SpawnOptions, 'pty'> {
  /** Nothing unless told. */
  stdin?: string | Uint8Array | ReadableStream<Uint8Array>;
  /** Ends the program (SIGKILL) and rejects with the signal's reason. */
  signal?: AbortSignal;
  /** Bytes of standard output and error together; past it the program is ended and the promise rejects. 64 MiB. */
  maxOutput?: number;
}

export interface RunResult extends ExitStatus {
  stdout: Uint8Array;
  stderr: Uint8Array;
}

/** What machines that go on from one snapshot must not share. */
export interface Identity {
  /** 64 bytes. */
  seed: Uint8Array;
  /** 32 hexadecimal digits; nothing changes unless told. A disk with an id of its own keeps that. */
  machineId?: string;
  /** Six bytes; the network card keeps its address unless told. */
  mac?: Uint8Array;
  /** The disk's unless told. */
  hostname?: string;
}

interface Call {
  what: string;
  parts: Uint8Array[];
  length: number;
  resolve(body: Uint8Array): void;
  reject(error: Error): void;
}

const UNSET = 0xffffffff;
const SIGKILL = 9;
/** Of one answer: a directory of half a million names. */
const MAX_ANSWER = 64 << 20;

/**
 * Runs programs and handles files in the guest through its agent. Calls made before the agent answers wait for it;
 * every promise settles: when the port closes or the agent is started anew, what is open rejects with an AgentError
 * of code `EAGENT`.
 */
export class AgentClient {
  /** Resolves at the agent's first answer; rejects when the port closes before. */
  readonly ready: Promise<void>;
  readonly fs: FileSystem;
  readonly inspect: Inspector;
  private readonly parser = new FrameParser(
    (frame) => this.receive(frame),
    (reason) => this.restart(`the guest agent's port gave ${reason}`),
  );
  private readonly processes = new Map<number, AgentProcess>();
  private readonly calls = new Map<number, Call>();
  private nextId = 1;
  private connected = false;
  private closed: AgentError | undefined;
  private waiting: { resolve(): void; reject(error: Error): void }[] = [];

  /** @param nonce tells this connection from earlier ones; not 0 */
  constructor(
    private readonly port: AgentPort,
    private readonly nonce = crypto.getRandomValues(new Uint32Array(1))[0]! || 1,
  ) {
    const operate: Operate = async (what, operation, body) => {
      await this.whenConnected();
      return this.call(what, operation, body);
    };
    this.fs = new AgentFiles(operate);
    this.inspect = new AgentInspector(operate, this.fs);
    this.ready = this.whenConnected();
    this.ready.catch(() => undefined);
    port.onData((bytes) => {
      if (!this.closed) this.parser.push(bytes);
    });
    port.onClose(() => this.close());
    if (!this.closed) this.sendHello();
  }

  /**
   * Starts a program.
   * @param argv its name, looked for in PATH, and its arguments
   * @throws AgentError such as ENOENT when it cannot be run
   */
  async spawn(argv: readonly string[], options: SpawnOptions = {}): Promise<Process> {
    if (!argv.length || !argv[0]) throw new TypeError('spawn needs the name of a program');
    const payload = spawnPayload(argv, options);
    if (payload.length > MAX_PAYLOAD) throw AgentError.fromErrno(E2BIG, `cannot run ${argv[0]}`);
    await this.whenConnected();
    const id = this.newId();
    const process = new AgentProcess(
      id,
      argv[0],
      Boolean(options.pty),
      (type, of, body) => this.send(type, of, body),
      () => this.processes.delete(id),
    );
    this.processes.set(id, process);
    this.send(HostFrame.Spawn, id, payload);
    await process.started;
    return process;
  }

  /**
   * Runs a program to its end and collects what it prints. As with a pipe in a shell, its end is when it has exited and
   * all that inherited its output have closed it.
   */
  async run(argv: readonly string[], options: RunOptions = {}): Promise<RunResult> {
    const { stdin, signal, maxOutput = 64 << 20, ...spawnOptions } = options;
    signal?.throwIfAborted();
    const process = await this.spawn(argv, spawnOptions);
    let stop!: (reason: unknown) => void;
    const stopped = new Promise<never>((_, reject) => (stop = reject));
    stopped.catch(() => undefined);
    const onAbort = () => stop(signal?.reason);
    signal?.addEventListener('abort', onAbort, { once: true });
    if (signal?.aborted) onAbort();
    let left = maxOutput;
    const collect = async (stream: ReadableStream<Uint8Array>) => {
      const parts: Uint8Array[] = [];
      let length = 0;
      const reader = stream.getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return concat(parts, length);
        parts.push(value);
        length += value.length;
        left -= value.length;
        if (left < 0) throw new AgentError(`${argv[0]} printed more than ${maxOutput} bytes`, 'EFBIG');
      }
    };
    // A program need not read all its input: that it closed it is no failure.
    const feeding = feed(process, stdin);
    try {
      const all = Promise.all([process.exit, collect(process.stdout), collect(process.stderr), feeding]);
      const [exit, stdout, stderr] = await Promise.race([all, stopped]);
      return { ...exit, stdout, stderr };
    } catch (error) {
      process.kill(SIGKILL);
      feeding.catch(() => undefined);
      throw error;
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  }

  /** Sets the guest's clock; `time` in milliseconds since 1970. For use after a restore. */
  async setTime(time: number): Promise<void> {
    await this.whenConnected();
    const seconds = Math.floor(time / 1000);
    const nanoseconds = Math.floor((time - seconds * 1000) * 1e6);
    const body = new PayloadWriter().long(BigInt(seconds)).number(nanoseconds, 4).finish();
    await this.call('set the clock', Operation.SetTime, body);
  }

  /** Gives the guest random numbers, a machine-id, a clock (`time` in milliseconds since 1970) and a name of its own. */
  async refresh(time: number, identity: Identity): Promise<void> {
    await this.whenConnected();
    const seconds = Math.floor(time / 1000);
    const nanoseconds = Math.floor((time - seconds * 1000) * 1e6);
    const body = new PayloadWriter()
      .long(BigInt(seconds))
      .number(nanoseconds, 4)
      .bytes(identity.seed)
      .bytes(identity.mac ?? new Uint8Array(6))
      .string(identity.machineId ?? '')
      .string(identity.hostname ?? '')
      .finish();
    await this.call('make the machine its own', Operation.Refresh, body);
  }

  /** Resolves when the agent has answered. */
  async ping(): Promise<void> {
    await this.whenConnected();
    await this.call('ping', Operation.Ping, new Uint8Array(0));
  }

  private whenConnected(): Promise<void> {
    if (this.closed) return Promise.reject(this.closed);
    if (this.connected) return Promise.resolve();
    return new Promise((resolve, reject) => this.waiting.push({ resolve, reject }));
  }

  private call(what: string, operation: number, body: Uint8Array): Promise<Uint8Array> {
    // The state may have changed between the wait for the agent and here.
    if (this.closed) return Promise.reject(this.closed);
    const id = this.newId();
    return new Promise((resolve, reject) => {
      this.calls.set(id, { what, parts: [], length: 0, resolve, reject });
      this.send(HostFrame.FileOperation, id, concat([Uint8Array.of(operation), body], body.length + 1));
    });
  }

  private newId(): number {
    do this.nextId = (this.nextId + 1) >>> 0 || 1;
    while (this.processes.has(this.nextId) || this.calls.has(this.nextId));
    return this.nextId;
  }

  private send(type: number, id: number, payload?: Uint8Array): void {
    if (!this.closed) this.port.write(encodeFrame(type, id, payload));
  }

  private sendHello(): void {
    this.send(HostFrame.Hello, 0, helloPayload(this.nonce));
  }

  private receive(frame: Frame): void {
    if (frame.type === AgentFrame.Hello) this.receiveHello(frame.payload);
    // What comes before the agent has answered our hello was meant for an earlier host.
    else if (!this.connected) return;
    else if (frame.type === AgentFrame.Result || frame.type === AgentFrame.ResultPart) this.receiveResult(frame);
    else this.processes.get(frame.id)?.receive(frame);
  }

  private receiveHello(payload: Uint8Array): void {
    const hello = parseHello(payload);
    if (hello?.nonce === this.nonce) {
      if (hello.version !== PROTOCOL_VERSION) {
        this.close(
          `the guest agent speaks version ${hello.version} of the protocol and this host version ${PROTOCOL_VERSION}; build the disk again`,
        );
        return;
      }
      this.connected = true;
      const waiting = this.waiting;
      this.waiting = [];
      for (const { resolve } of waiting) resolve();
    } else if (hello?.nonce === 0) this.restart('the guest agent was started anew');
  }

  private receiveResult({ type, id, payload }: Frame): void {
    const call = this.calls.get(id);
    if (!call) return;
    const reader = new PayloadReader(payload);
    const errno = type === AgentFrame.Result ? reader.number(4) : 0;
    const body = reader.rest();
    call.parts.push(body);
    call.length += body.length;
    if (call.length > MAX_ANSWER) {
      this.calls.delete(id);
      call.reject(new AgentError(`${call.what}: the answer is longer than ${MAX_ANSWER} bytes`, 'EFBIG'));
    } else if (type === AgentFrame.Result) {
      this.calls.delete(id);
      if (errno) call.reject(AgentError.fromErrno(errno, call.what));
      else call.resolve(concat(call.parts, call.length));
    }
  }

  /** The agent has lost what was open: says so to whoever waits, and begins again. */
  private restart(reason: string): void {
    this.connected = false;
    this.failOpen(new AgentError(reason, 'EAGENT'));
    this.sendHello();
  }

  private close(reason = 'the machine has stopped: its guest agent cannot be reached any more'): void {
    if (this.closed) return;
    this.closed = new AgentError(reason, 'EAGENT');
    this.connected = false;
    const waiting = this.waiting;
    this.waiting = [];
    for (const { reject } of waiting) reject(this.closed);
    this.failOpen(this.closed);
  }

  private failOpen(error: AgentError): void {
    for (const process of [...this.processes.values()]) process.fail(error);
    this.processes.clear();
    for (const call of this.calls.values()) call.reject(error);
    this.calls.clear();
  }
}

function spawnPayload(argv: readonly string[], { env = {}, cwd = '', uid, gid, pty }: SpawnOptions): Uint8Array {
  const { columns, rows } = typeof pty === 'object' ? pty : { columns: 80, rows: 24 };
  const payload = new PayloadWriter()
    .number(pty ? 1 : 0, 1)
    .number(columns, 2)
    .number(rows, 2)
    .number(uid ?? UNSET, 4)
    .number(gid ?? UNSET, 4)
    .string(cwd)
    .number(argv.length, 4);
  for (const argument of argv) payload.string(argument);
  const entries = Object.entries(env);
  payload.number(entries.length, 4);
  for (const [name, value] of entries) {
    if (!name || name.includes('=')) throw new TypeError(`${JSON.stringify(name)} cannot name an environment variable`);
    payload.string(`${name}=${value}`);
  }
  return payload.finish();
}

/**
 * Writes `data` to the program and closes its input. Resolves quietly when the program stops reading or ends; rejects
 * when `data` cannot be read.
 */
async function feed(process: Process, data: RunOptions['stdin']): Promise<void> {
  const writer = process.stdin.getWriter();
  writer.closed.catch(() => undefined);
  const source = (typeof data === 'string' ? new Blob([data]).stream() : data) ?? new Uint8Array(0);
  if (source instanceof Uint8Array) {
    await writer.write(source).then(
      () => writer.close(),
      () => undefined,
    );
    return;
  }
  const reader = source.getReader();
  const ended = process.exit.then(() => ({ done: true as const, value: undefined }));
  ended.catch(() => undefined);
  try {
    for (;;) {
      const { done, value } = await Promise.race([reader.read(), ended]);
      if (done) break;
      await writer.write(value);
    }
    await writer.close();
  } catch (error) {
    if (error instanceof AgentError) return;
    writer.abort(error).catch(() => undefined);
    throw error;
  } finally {
    reader.cancel().catch(() => undefined);
  }
}
