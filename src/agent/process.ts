import { AgentFrame, type Frame, HostFrame, PayloadReader, PayloadWriter, StreamNumber, WINDOW } from './codec.ts';
import { AgentError, EPIPE } from './errors.ts';

export interface ExitStatus {
  /** What the program gave to exit(), or 128 + signal. */
  status: number;
  /** The signal that ended it, if one did. */
  signal?: number;
}

/** A program running in the guest. */
export interface Process {
  /** In the guest. */
  readonly pid: number;
  readonly stdin: WritableStream<Uint8Array>;
  /** With `pty`, everything the program prints. Holds 256 KiB at most: a program whose output nobody reads waits. */
  readonly stdout: ReadableStream<Uint8Array>;
  /** Empty with `pty`. */
  readonly stderr: ReadableStream<Uint8Array>;
  /** Rejects only when the agent or the machine is gone. Output may still be on its way when it resolves. */
  readonly exit: Promise<ExitStatus>;
  /** Sends a signal, SIGTERM (15) unless told, to the program and the children in its process group. */
  kill(signal?: number): void;
  /** New size of its terminal, in characters; nothing without `pty`. */
  resize(columns: number, rows: number): void;
}

type Send = (type: number, id: number, payload?: Uint8Array) => void;

/** Payload of one frame towards the guest: what its driver moves in one buffer or a few. */
const STDIN_PIECE = 16 * 1024;
/** Credit is given back in lumps, to spare a frame for each read. */
const CREDIT_LUMP = WINDOW / 4;

/** One output of a program. Data waits here until it is asked for, and only then is its credit given back. */
class Output {
  readonly stream: ReadableStream<Uint8Array>;
  private readonly queue: Uint8Array[] = [];
  private queued = 0;
  private owed = 0;
  private ended = false;
  private failure: Error | undefined;
  private wake: (() => void) | undefined;

  constructor(
    private readonly giveCredit: (bytes: number) => void,
    private readonly cancel: () => void,
  ) {
    this.stream = new ReadableStream<Uint8Array>(
      { pull: (controller) => this.pull(controller), cancel: () => this.onCancel() },
      { highWaterMark: 0 },
    );
  }

  get isOver(): boolean {
    return this.ended;
  }

  /** @returns false when the guest sends more than it may */
  push(bytes: Uint8Array): boolean {
    if (this.ended) return true;
    this.queue.push(bytes);
    this.queued += bytes.length;
    this.wake?.();
    return this.queued <= WINDOW;
  }

  end(failure?: Error): void {
    if (this.ended) return;
    this.ended = true;
    this.failure = failure;
    this.wake?.();
  }

  private async pull(controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> {
    while (!this.queue.length && !this.ended) {
      await new Promise<void>((resolve) => (this.wake = resolve));
    }
    const bytes = this.queue.shift();
    if (bytes) {
      this.queued -= bytes.length;
      this.owed += bytes.length;
      controller.enqueue(bytes);
      if (this.owed >= CREDIT_LUMP && !this.ended) {
        this.giveCredit(this.owed);
        this.owed = 0;
      }
    } else if (this.failure) controller.error(this.failure);
    else controller.close();
  }

  private onCancel(): void {
    this.queue.length = 0;
    if (!this.ended) this.cancel();
    this.end();
  }
}

/** The host's side of a program: routes its frames to streams and promises. */
export class AgentProcess implements Process {
  pid = 0;
  readonly stdin: WritableStream<Uint8Array>;
  readonly exit: Promise<ExitStatus>;
  /** Resolves when the program runs; rejects when it cannot. */
  readonly started: Promise<void>;
  private readonly out: Output;
  private readonly err: Output;
  private settleExit!: { resolve(status: ExitStatus): void; reject(error: Error): void };
  private settleStarted!: { resolve(): void; reject(error: Error): void };
  private exited = false;
  private stdinCredit = WINDOW;
  private stdinFailure: Error | undefined;
  private stdinWake: (() => void) | undefined;

  /** @param forget called once, when no frame of this program can come any more */
  constructor(
    private readonly id: number,
    private readonly name: string,
    private readonly pty: boolean,
    private readonly send: Send,
    private readonly forget: () => void,
  ) {
    this.exit = new Promise((resolve, reject) => (this.settleExit = { resolve, reject }));
    this.started = new Promise((resolve, reject) => (this.settleStarted = { resolve, reject }));
    // Whoever waits for them is told; who does not is not to see an unhandled rejection.
    this.exit.catch(() => undefined);
    this.started.catch(() => undefined);
    this.out = this.output(StreamNumber.Stdout);
    this.err = this.output(StreamNumber.Stderr);
    if (pty) this.err.end();
    this.stdin = new WritableStream<Uint8Array>({
      write: (bytes) => this.writeStdin(bytes),
      close: () => this.closeStdin(),
      abort: () => this.closeStdin(),
    });
  }

  get stdout(): ReadableStream<Uint8Array> {
    return this.out.stream;
  }

  get stderr(): ReadableStream<Uint8Array> {
    return this.err.stream;
  }

  kill(signal = 15): void {
    if (!this.exited) this.send(HostFrame.Signal, this.id, new PayloadWriter().number(signal, 4).finish());
  }

  resize(columns: number, rows: number): void {
    if (this.exited || !this.pty) return;
    this.send(HostFrame.Resize, this.id, new PayloadWriter().number(columns, 2).number(rows, 2).finish());
  }

  receive({ type, payload }: Frame): void {
    const reader = new PayloadReader(payload);
    switch (type) {
      case AgentFrame.Started:
        this.pid = reader.number(4);
        this.settleStarted.resolve();
        break;
      case AgentFrame.Failed:
        this.fail(AgentError.fromErrno(reader.number(4), `cannot run ${this.name}`));
        break;
      case AgentFrame.Data: {
        const output = reader.number(1) === StreamNumber.Stderr ? this.err : this.out;
        if (!output.push(reader.rest())) {
          this.kill(9);
          this.fail(new AgentError(`the guest agent sent more of ${this.name} than it may`, 'EPROTO'));
        }
        break;
      }
      case AgentFrame.End: {
        const stream = reader.number(1);
        if (stream === StreamNumber.Stdin) this.endStdin();
        else (stream === StreamNumber.Stderr ? this.err : this.out).end();
        this.forgetIfOver();
        break;
      }
      case AgentFrame.Exit: {
        const status = reader.number(4);
        const signal = reader.number(4);
        this.exited = true;
        this.endStdin();
        this.settleExit.resolve(signal ? { status: 128 + signal, signal } : { status });
        this.forgetIfOver();
        break;
      }
      case AgentFrame.StdinCredit:
        this.stdinCredit = Math.min(WINDOW, this.stdinCredit + reader.number(4));
        this.stdinWake?.();
        break;
    }
  }

  /** Settles whatever is open with `error`. */
  fail(error: Error): void {
    this.exited = true;
    this.settleStarted.reject(error);
    this.settleExit.reject(error);
    this.out.end(error);
    this.err.end(error);
    this.stdinFailure ??= error;
    this.stdinWake?.();
    this.forget();
  }

  private output(stream: number): Output {
    return new Output(
      (bytes) => this.send(HostFrame.Credit, this.id, new PayloadWriter().number(stream, 1).number(bytes, 4).finish()),
      () => {
        this.send(HostFrame.CloseStream, this.id, Uint8Array.of(stream));
        this.forgetIfOver();
      },
    );
  }

  private forgetIfOver(): void {
    if (this.exited && this.out.isOver && this.err.isOver) this.forget();
  }

  private endStdin(): void {
    this.stdinFailure ??= AgentError.fromErrno(EPIPE, `${this.name} does not read its standard input any more`);
    this.stdinWake?.();
  }

  private async writeStdin(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) {
      while (!this.stdinCredit && !this.stdinFailure) {
        await new Promise<void>((resolve) => (this.stdinWake = resolve));
      }
      if (this.stdinFailure) throw this.stdinFailure;
      const piece = bytes.subarray(at, at + Math.min(STDIN_PIECE, this.stdinCredit));
      this.stdinCredit -= piece.length;
      at += piece.length;
      this.send(HostFrame.Stdin, this.id, piece);
    }
  }

  private closeStdin(): void {
    if (!this.stdinFailure) this.send(HostFrame.Stdin, this.id);
  }
}
