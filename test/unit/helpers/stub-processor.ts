import { GuestMemory } from '../../../emulator/memory.ts';
import type {
  EntryState,
  Processor,
  ProcessorHost,
  ProcessorState,
  ProcessorStats,
  StopReason,
} from '../../../emulator/processor.ts';

/** A processor whose "program" is a function of the test: it acts through the host's buses like an instruction would. */
export class StubProcessor implements Processor {
  readonly memory: GuestMemory;
  readonly stats: ProcessorStats = {
    instructions: 0,
    interpreted: 0,
    compiled: 0,
    regions: 0,
    codeBytes: 0,
    exceptions: 0,
    interrupts: 0,
    tlbFills: 0,
  };
  entry: EntryState | undefined;
  /** Called for every `run`; the default halts. */
  program: (budget: number) => StopReason = () => 'halted';
  runs = 0;
  changes = 0;
  value = 0;

  constructor(
    readonly host: ProcessorHost,
    memoryBytes: number,
  ) {
    this.memory = new GuestMemory(new ArrayBuffer(memoryBytes), 0, memoryBytes);
  }

  enter(state: EntryState): void {
    this.entry = state;
  }

  run(budget: number): StopReason {
    this.runs++;
    return this.program(budget);
  }

  /** Retires `count` instructions and goes on. */
  spend(count: number): StopReason {
    this.stats.instructions += count;
    return 'budget';
  }

  interruptChanged(): void {
    this.changes++;
  }

  save(): ProcessorState {
    return { value: this.value, instructions: this.stats.instructions };
  }

  restore(state: ProcessorState): void {
    this.value = state['value'] as number;
    this.stats.instructions = state['instructions'] as number;
  }
}

/** The smallest Multiboot kernel: a header with addresses. */
export function tinyKernel(): Uint8Array {
  const kernel = new Uint8Array(64);
  const view = new DataView(kernel.buffer);
  const flags = 0x10000;
  [0x1badb002, flags, -(0x1badb002 + flags), 0x100000, 0x100000, 0, 0, 0x100020].forEach((word, i) =>
    view.setUint32(i * 4, word >>> 0, true),
  );
  return kernel;
}
