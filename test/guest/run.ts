import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { startQemu } from '../../disks/qemu.ts';
import type { Tier } from '../../emulator/processor.ts';
import { AgentClient } from '../../src/agent/client.ts';
import { describeExit, LinuxVM } from '../../src/node.ts';
import { BASE, type Check, DEVELOPMENT, type Guest } from './checks.ts';

/**
 * `npx tsx test/guest/run.ts [--tier interp|jit|auto] [--qemu] [--only WORDS] [RECIPE…]`: boots each built disk once and
 * runs the checks in it. `--qemu` runs the same checks in QEMU, which tells a wrong check from a wrong machine.
 */
const { values: options, positionals } = parseArgs({
  options: {
    tier: { type: 'string', default: 'auto' },
    qemu: { type: 'boolean', default: false },
    only: { type: 'string', default: '' },
  },
  allowPositionals: true,
});

const BOOT = 180_000;
const EACH = 300_000;

interface Booted extends Guest {
  ready: Promise<unknown>;
  stop(): Promise<unknown>;
  /** What the console printed last, for a boot that fails. */
  tail(): string;
}

let passed = 0;
let failed = 0;

function limit<T>(work: Promise<T>, milliseconds: number, what: string): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} took more than ${milliseconds / 1000} s`)), milliseconds);
  });
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}

async function check(name: string, work: () => Promise<void>): Promise<boolean> {
  const began = performance.now();
  const seconds = (): string => `${((performance.now() - began) / 1000).toFixed(1)} s`;
  try {
    await limit(work(), EACH, name);
    passed++;
    process.stdout.write(`ok   ${name} (${seconds()})\n`);
    return true;
  } catch (error) {
    failed++;
    process.stdout.write(`FAIL ${name} (${seconds()}): ${error instanceof Error ? error.message : String(error)}\n`);
    return false;
  }
}

async function bootOurs(directory: string): Promise<Booted> {
  const vm = await LinuxVM.start({
    disk: pathToFileURL(join(directory, 'manifest.json')).href,
    memory: 512,
    tier: options.tier as Tier,
  });
  return Object.assign(vm as LinuxVM & { tail(): string }, { tail: tailOf((listen) => vm.console.onData(listen)) });
}

async function bootQemu(directory: string): Promise<Booted> {
  const folder = mkdtempSync(join(tmpdir(), 'guest-'));
  const agentSocket = join(folder, 'agent');
  const child = startQemu({ directory, agentSocket });
  child.stdin?.on('error', () => undefined);
  const tail = tailOf((listen) => child.stdout?.on('data', listen));
  // QEMU's console stands still when the agent's socket is connected before the guest has opened its port.
  const end = performance.now() + BOOT;
  while (!/[#$] ?$/.test(tail()) && performance.now() < end) await new Promise((done) => setTimeout(done, 50));
  const socket = connect(agentSocket);
  const agent = new AgentClient({
    write: (bytes) => socket.write(bytes),
    onData: (listener) => socket.on('data', (data: Buffer) => listener(new Uint8Array(data))),
    onClose: (listener) => socket.on('close', listener),
  });
  return {
    run: (argv, o) => agent.run(argv, o),
    fs: agent.fs,
    ready: agent.ready,
    tail,
    stop: async () => {
      socket.destroy();
      child.kill('SIGKILL');
      rmSync(folder, { recursive: true });
    },
  };
}

function tailOf(subscribe: (listen: (bytes: Uint8Array) => void) => void): () => string {
  let tail = '';
  subscribe((bytes) => (tail = (tail + new TextDecoder().decode(bytes)).slice(-2000)));
  return () => tail;
}

async function runRecipe(recipe: string, checks: readonly Check[]): Promise<void> {
  const directory = resolve('build/disks', recipe);
  process.stdout.write(`-- ${recipe}, ${options.qemu ? 'QEMU' : `tier ${options.tier}`}\n`);
  let guest: Booted | undefined;
  const booted = await check('boots until its agent answers', async () => {
    guest = await (options.qemu ? bootQemu : bootOurs)(directory);
    try {
      await limit(guest.ready, BOOT, 'the boot');
    } catch (error) {
      throw new Error(`${(error as Error).message}\n${guest.tail()}`, { cause: error });
    }
  });
  if (booted && guest) {
    const running = guest;
    for (const { name, work } of checks) if (name.includes(options.only)) await check(name, () => work(running));
  }
  await guest?.stop();
}

/** The state of a machine is taken while it works, and both go on to the same end. */
async function saveInTheMiddle(directory: string): Promise<void> {
  const disk = pathToFileURL(join(directory, 'manifest.json')).href;
  const vm = await LinuxVM.start({ disk, memory: 256, tier: options.tier as Tier });
  let again: LinuxVM | undefined;
  try {
    await limit(vm.ready, BOOT, 'the boot');
    await vm.run(['bash', '-c', '(seq 1 400000 | sha256sum > /root/sum; sync; touch /root/done) > /dev/null 2>&1 &']);
    const state = await vm.saveState();
    const sum = async (guest: LinuxVM): Promise<string> => {
      const script = 'while ! [ -e /root/done ]; do sleep 0.2; done; cat /root/sum';
      const { status, stdout, stderr } = await guest.run(['bash', '-c', script]);
      if (status !== 0) throw new Error(new TextDecoder().decode(stderr));
      return new TextDecoder().decode(stdout);
    };
    const first = await sum(vm);
    await vm.stop();
    again = await LinuxVM.restore(state, { tier: options.tier as Tier });
    const second = await limit(sum(again), EACH, 'the restored machine');
    if (first !== second || !/^[0-9a-f]{64}/.test(first)) throw new Error(`${first} and ${second}`);
  } finally {
    await vm.stop();
    await again?.stop();
  }
}

/** A guest that powers itself off, and one whose kernel panics. */
async function endings(directory: string): Promise<void> {
  const disk = pathToFileURL(join(directory, 'manifest.json')).href;
  for (const [command, reason] of [
    ['poweroff -f', 'poweroff'],
    ['echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger', 'panic'],
  ] as const) {
    const vm = await LinuxVM.start({ disk, memory: 256, tier: options.tier as Tier });
    try {
      await limit(vm.ready, BOOT, 'the boot');
      const left = vm.run(['bash', '-c', command]).then(
        () => 'it answered',
        (error: Error) => error.name,
      );
      const exit = await limit(vm.exited, 60_000, reason);
      if (exit.reason !== reason) throw new Error(`"${command}" ended with: ${describeExit(exit)}`);
      if (reason === 'panic' && !/sysrq/i.test(exit.message ?? '')) throw new Error(`it said ${exit.message}`);
      if (reason === 'panic' && (await left) !== 'VmStoppedError') throw new Error(`run: ${await left}`);
    } finally {
      await vm.stop();
    }
  }
}

const all: Record<string, readonly Check[]> = { debian: BASE, 'debian-dev': [...BASE, ...DEVELOPMENT] };
const recipes = positionals.length ? positionals : Object.keys(all);
for (const recipe of recipes) {
  const checks = all[recipe];
  if (!checks) {
    process.stderr.write(`there is no recipe ${recipe}; there are ${Object.keys(all).join(' and ')}\n`);
    process.exit(2);
  }
  const directory = resolve('build/disks', recipe);
  if (!existsSync(join(directory, 'manifest.json'))) {
    failed++;
    process.stdout.write(`FAIL ${recipe} is not built: npm run disk -- ${recipe}\n`);
    continue;
  }
  await runRecipe(recipe, checks);
  if (recipe === 'debian' && !options.qemu && !options.only) {
    await check('a state saved in the middle of work goes on elsewhere', () => saveInTheMiddle(directory));
    await check('power-off and panic are told apart and reach who waits', () => endings(directory));
  }
}
process.stdout.write(`${passed} passed, ${failed} failed\n`);
process.exit(failed ? 1 : 0);
