/** Receives console output; the machine is slowed down while promises that listeners return are unsettled. */
export type ConsoleListener = (bytes: Uint8Array) => void | Promise<void>;

/** Output before anyone listens that is kept for the first who does, in bytes. */
const HISTORY = 256 << 10;
const QUEUE = 256 << 10;

/** The guest's console (hvc0) as byte streams. */
export class Console {
  private readonly listeners = new Set<ConsoleListener>();
  private history: Uint8Array[] = [];
  private historySize = 0;
  private stream: ReadableStream<Uint8Array> | undefined;
  private sink: WritableStream<Uint8Array> | undefined;
  private closed = false;
  private closing: (() => void) | undefined;

  /** @internal */
  constructor(
    private readonly send: (bytes: Uint8Array) => void,
    private readonly sendSize: (columns: number, rows: number) => void,
    private readonly credit: (bytes: number) => void,
  ) {}

  /**
   * What the guest prints, from the first byte that nobody else received. Once taken it has to be read: a reader that
   * falls 256 KiB and more behind stops the machine until it has caught up. Ends when the machine stops.
   */
  get readable(): ReadableStream<Uint8Array> {
    if (this.stream) return this.stream;
    let drained: (() => void) | undefined;
    let room: Promise<void> | undefined;
    const drain = (): void => {
      drained?.();
      drained = room = undefined;
    };
    let remove: () => void = () => undefined;
    this.stream = new ReadableStream<Uint8Array>(
      {
        start: (controller) => {
          const end = (): void => {
            try {
              controller.close();
            } catch {
              // Cancelled already.
            }
          };
          remove = this.onData((bytes) => {
            controller.enqueue(bytes);
            if ((controller.desiredSize ?? 1) > 0) return;
            return (room ??= new Promise((resolve) => (drained = resolve)));
          });
          if (this.closed) end();
          else
            this.closing = () => {
              drain();
              end();
            };
        },
        pull: drain,
        cancel: () => {
          remove();
          drain();
        },
      },
      { highWaterMark: QUEUE, size: (bytes) => bytes?.length ?? 0 },
    );
    return this.stream;
  }

  /** What the guest reads. Writing after the machine has stopped does nothing. */
  get writable(): WritableStream<Uint8Array> {
    return (this.sink ??= new WritableStream<Uint8Array>({ write: (bytes) => this.write(bytes) }));
  }

  /** Types into the guest's console. Text is sent as UTF-8. */
  write(data: string | Uint8Array): void {
    if (this.closed) return;
    const bytes = typeof data === 'string' ? new TextEncoder().encode(data) : data.slice();
    if (bytes.length) this.send(bytes);
  }

  /** Tells the guest's tty its size, 1 to 1000 each; programs there get SIGWINCH. */
  resize(columns: number, rows: number): void {
    const whole = (n: number): number => Math.min(1000, Math.max(1, Math.floor(n) || 1));
    if (!this.closed) this.sendSize(whole(columns), whole(rows));
  }

  /** Adds a listener, which is first given what nobody has received yet. @returns a function that removes it */
  onData(listener: ConsoleListener): () => void {
    this.listeners.add(listener);
    for (const bytes of this.history.splice(0)) void listener(bytes);
    this.historySize = 0;
    return () => this.listeners.delete(listener);
  }

  /** @internal */
  receive(bytes: Uint8Array): void {
    if (this.listeners.size === 0) {
      this.history.push(bytes);
      this.historySize += bytes.length;
      while (this.historySize > HISTORY) this.historySize -= this.history.shift()!.length;
      this.credit(bytes.length);
      return;
    }
    let waits: Promise<void>[] | undefined;
    for (const listener of this.listeners) {
      try {
        const wait = listener(bytes);
        if (wait) (waits ??= []).push(wait);
      } catch (error) {
        reportLater(error);
      }
    }
    if (waits) void Promise.allSettled(waits).then(() => this.credit(bytes.length));
    else this.credit(bytes.length);
  }

  /** @internal */
  close(): void {
    this.closed = true;
    this.closing?.();
    this.closing = undefined;
  }
}

/** An error of a listener is its owner's, not the machine's. */
export function reportLater(error: unknown): void {
  queueMicrotask(() => {
    if (typeof globalThis.reportError === 'function') globalThis.reportError(error);
    else console.error(error);
  });
}
