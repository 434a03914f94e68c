import type {
  MachineEvents,
  MachineFactory,
  MachineParts,
  WorkerEnvironment,
  WorkerMachine,
} from '../../emulator/worker.ts';
import { type Port, serve } from '../../emulator/worker.ts';
import type { Fetch } from '../../emulator/disk/fetch.ts';
import type { FromWorker, ToWorker } from '../../src/protocol.ts';
import type { WorkerHandle } from '../../src/worker-handle.ts';

/** A machine that echoes what is typed and does what a test tells it. */
export class FakeMachine implements WorkerMachine {
  started = false;
  running = false;
  disposed = false;
  restored = '';
  readonly typed: string[] = [];
  readonly sizes: string[] = [];
  readonly agentBytes: Uint8Array[] = [];
  instructions = 1000;
  /** Whether it can take no state. */
  failing = false;
  busy = 0;

  constructor(
    readonly parts: MachineParts,
    readonly events: MachineEvents,
  ) {}

  start(): void {
    this.started = this.running = true;
  }
  pause(): void {
    this.running = false;
  }
  resume(): void {
    this.running = true;
  }
  writeConsole(bytes: Uint8Array): void {
    this.typed.push(new TextDecoder().decode(bytes));
    this.events.output('console', bytes);
  }
  writeAgent(bytes: Uint8Array): void {
    this.agentBytes.push(bytes);
  }
  resize(columns: number, rows: number): void {
    this.sizes.push(`${columns}x${rows}`);
  }
  print(text: string): void {
    this.events.output('console', new TextEncoder().encode(text));
  }
  busySeconds(): number {
    return this.busy;
  }
  compileAhead(): () => boolean {
    return () => false;
  }
  stats(): ReturnType<WorkerMachine['stats']> {
    return {
      instructions: this.instructions,
      interpreted: this.instructions,
      compiled: 0,
      regions: 0,
      codeBytes: 0,
      exceptions: 0,
      interrupts: 0,
      tlbFills: 0,
    };
  }
  async save(): Promise<AsyncIterable<Uint8Array>> {
    if (this.running) throw new Error('it was saved while it ran');
    return (async function* () {
      yield new TextEncoder().encode('RAM ');
      yield new TextEncoder().encode('and devices');
    })();
  }
  async restore(state: ReadableStream<Uint8Array>): Promise<void> {
    if (this.failing) throw new Error('this state is of another build');
    this.restored = await new Response(state).text();
  }
  dispose(): void {
    this.disposed = true;
    this.running = false;
  }
}

/** A worker that is none: both ends in this thread, messages cloned and delivered later as between threads. */
export class FakeWorker {
  readonly machines: FakeMachine[] = [];
  terminated = 0;
  /** Messages the page sent. */
  readonly sent: ToWorker[] = [];
  crash: (error: Error) => void = () => undefined;
  fetch: Fetch | undefined;
  ripen: WorkerEnvironment['ripen'];
  /** Of its machines. */
  failing = false;
  /** Replaces the machine's making, to let it fail or hang. */
  create: MachineFactory = async (parts, events) => {
    const machine = new FakeMachine(parts, events);
    machine.failing = this.failing;
    this.machines.push(machine);
    await parts.images;
    return machine;
  };
  deaf = false;

  get machine(): FakeMachine {
    const machine = this.machines.at(-1);
    if (!machine) throw new Error('no machine was made yet');
    return machine;
  }

  readonly factory = (): WorkerHandle => {
    let toWorker: (message: ToWorker) => void = () => undefined;
    let toPage: (message: FromWorker) => void = () => undefined;
    let alive = true;
    const inside: Port<ToWorker, FromWorker> = {
      post: (message) => {
        const copy = structuredClone(message);
        queueMicrotask(() => alive && toPage(copy));
      },
      onMessage: (listener) => (toWorker = listener),
    };
    serve(inside, {
      createMachine: (parts, events) => this.create(parts, events),
      fetch: this.fetch,
      ripen: this.ripen,
    });
    return {
      post: (message) => {
        this.sent.push(message);
        const copy = structuredClone(message);
        queueMicrotask(() => alive && !this.deaf && toWorker(copy));
      },
      onMessage: (listener) => (toPage = listener),
      onError: (listener) => (this.crash = listener),
      terminate: () => {
        alive = false;
        this.terminated++;
      },
    };
  };
}
