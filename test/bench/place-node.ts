import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Tier } from '../../emulator/processor.ts';
import type { VmStats } from '../../src/protocol.ts';
import type { Answer, Call } from './node-child.ts';
import { BOOT_LIMIT, type BootFigures, type Place, type Running, withLimit } from './places.ts';

/** Our machine in Node; a process of its own for each start, so that nothing compiled before is found again. */
export function nodePlace(disk: string, programs: string, tier: Tier): Place {
  return { name: 'node', start: () => start(disk, programs, tier) };
}

async function start(disk: string, programs: string, tier: Tier): Promise<Running> {
  const child = fork(fileURLToPath(new URL('node-child.ts', import.meta.url)), [], { serialization: 'advanced' });
  const call = caller(child);
  const stop = async (): Promise<void> => void child.kill('SIGKILL');
  try {
    const boot = (await withLimit(call('start', disk, tier), BOOT_LIMIT, 'the boot in Node')) as BootFigures;
    return {
      boot,
      put: async (file) => void (await call('put', programs, file)),
      run: async (file, args, timeout) => (await call('run', file, args, timeout)) as string,
      stats: async () => (await call('stats')) as VmStats,
      processes: async () => [child.pid!],
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

function caller(child: ChildProcess): (method: Call['method'], ...args: unknown[]) => Promise<unknown> {
  const waiting = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();
  let next = 0;
  child.on('message', (answer: Answer) => {
    const call = waiting.get(answer.id);
    waiting.delete(answer.id);
    if (answer.error === undefined) call?.resolve(answer.value);
    else call?.reject(new Error(answer.error));
  });
  child.on('exit', (status, signal) => {
    for (const { reject } of waiting.values()) reject(new Error(`Node ended with ${signal ?? `status ${status}`}`));
  });
  return (method, ...args) =>
    new Promise((resolve, reject) => {
      const id = next++;
      waiting.set(id, { resolve, reject });
      child.send({ id, method, args } satisfies Call);
    });
}
