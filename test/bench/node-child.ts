import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { PROMPT } from '../../disks/qemu.ts';
import type { Tier } from '../../emulator/processor.ts';
import { describeExit, LinuxVM } from '../../src/node.ts';
import { type BootFigures, GUEST_DIRECTORY, guestPath } from './places.ts';
import { memoryOf } from './processes.ts';

/** The process that `place-node.ts` starts: one machine, and calls from outside. */
export interface Call {
  id: number;
  method: 'start' | 'put' | 'run' | 'stats';
  args: unknown[];
}

export interface Answer {
  id: number;
  value?: unknown;
  error?: string;
}

let vm: LinuxVM | undefined;

function machine(): LinuxVM {
  if (!vm) throw new Error('the machine was not started');
  return vm;
}

const METHODS: Record<Call['method'], (...args: never[]) => Promise<unknown>> = {
  async start(disk: string, tier: Tier): Promise<BootFigures> {
    const began = performance.now();
    // A tier that compiles each block by itself on its first run would take minutes for a boot.
    const booting: Tier = tier === 'jit' ? 'auto' : tier;
    vm = await LinuxVM.start({ disk: pathToFileURL(join(disk, 'manifest.json')).href, tier: booting, boot: 'cold' });
    const loading = (performance.now() - began) / 1000;
    const { console, exited } = vm;
    const seconds = await new Promise<number>((resolve, reject) => {
      let said = '';
      const decoder = new TextDecoder();
      console.onData((bytes) => {
        said = (said + decoder.decode(bytes, { stream: true })).slice(-10_000);
        if (PROMPT.test(said)) resolve((performance.now() - began) / 1000);
      });
      void exited.then((exit) => reject(new Error(`${describeExit(exit)}; the console said:\n${said}`)));
    });
    const { processor, disk: blocks, kernelBytes } = await vm.stats();
    if (tier !== booting) {
      await vm.ready;
      const state = await vm.saveState();
      await vm.stop();
      vm = await LinuxVM.restore(state, { tier });
    }
    return {
      seconds,
      loading,
      instructions: processor.instructions,
      interpreted: processor.interpreted,
      regions: processor.regions,
      codeBytes: processor.codeBytes,
      kernelBytes,
      diskBytes: blocks?.fetchedBytes,
      diskChunks: blocks?.fetches,
      ...memoryOf(process.pid),
    };
  },
  async put(programs: string, file: string) {
    const { fs } = machine();
    await fs.mkdir(GUEST_DIRECTORY, { recursive: true });
    await fs.writeFile(`${GUEST_DIRECTORY}/${file}`, new Uint8Array(readFileSync(join(programs, file))), {
      mode: 0o755,
    });
  },
  async run(file: string, args: string[], timeout: number): Promise<string> {
    const argv = [guestPath(file), ...args];
    const { status, stdout, stderr } = await machine().run(argv, { signal: AbortSignal.timeout(timeout) });
    const text = new TextDecoder().decode(stdout);
    if (status !== 0) throw new Error(`status ${status}: ${text}${new TextDecoder().decode(stderr)}`);
    return text;
  },
  stats: () => machine().stats(),
};

process.on('message', ({ id, method, args }: Call) => {
  METHODS[method](...(args as never[])).then(
    (value) => process.send!({ id, value } satisfies Answer),
    (error: unknown) => process.send!({ id, error: error instanceof Error ? error.message : String(error) }),
  );
});
process.on('disconnect', () => process.exit());
