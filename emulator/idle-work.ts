/** What makes a machine faster while its guest has nothing to do. */
import type { CompiledCode } from './processor.ts';
import type { WorkerMachine } from './worker.ts';

/** A thread that brings compiled code to its optimized form (cpu/ripening.ts). */
export interface RipenerThread {
  add(code: CompiledCode): void;
  /** There is no more to come: it ends when it is done. */
  end(): void;
}

/** What is asked of a machine. */
export type IdleMachine = Pick<WorkerMachine, 'busySeconds' | 'compileAhead' | 'memory'>;

/** Milliseconds between two steps; between two looks at a machine that is not idle; of the time between two steps that it may be busy. */
const PAUSE = 10;
const PATIENCE = 250;
const LITTLE = 2;

const sleep = (milliseconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, milliseconds));

/**
 * Compiles what is known to be hot, a little at a time.
 *
 * @param hotCode gives what is known of it
 * @param signal ends it
 * @throws what `hotCode` throws, and Error when that is damaged
 */
export async function compileWhileIdle(
  machine: IdleMachine,
  hotCode: () => Promise<Uint8Array>,
  ripener: RipenerThread,
  signal: AbortSignal,
): Promise<void> {
  try {
    const bytes = await hotCode();
    while (machine.memory?.()?.complete === false) {
      if (signal.aborted) return;
      await sleep(PATIENCE);
    }
    if (signal.aborted) return;
    const step = machine.compileAhead(bytes, (code) => ripener.add(code));
    for (;;) {
      const busy = machine.busySeconds();
      await sleep(PAUSE);
      if (signal.aborted) return;
      if (machine.busySeconds() - busy > LITTLE / 1000) await sleep(PATIENCE);
      else if (!step()) return;
    }
  } finally {
    ripener.end();
  }
}
