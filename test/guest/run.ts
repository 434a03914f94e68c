import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { startQemu } from '../../disks/qemu.ts';
import type { Tier } from '../../emulator/processor.ts';
import { AgentClient } from '../../src/agent/client.ts';
import { LinuxVM } from '../../src/node.ts';
import { record } from '../compatibility/results.ts';
import { type Check, type Guest, limit } from './check.ts';
import { BASE, DEVELOPMENT, ESSENTIAL } from './checks.ts';
import { BOOT, MACHINE } from './machine.ts';
import { RESUME } from './resume.ts';
import { PROGRAMS } from './programs.ts';
import { KERNEL_LOG, SYSTEM } from './system.ts';
import { TERMINAL } from './terminal.ts';

/**
 * `npx tsx test/guest/run.ts [--tier interp|jit|auto] [--qemu] [--only WORDS,…] [--record] [RECIPE…]`: boots each built
 * disk once and runs the checks in it. `--qemu` runs the same checks in QEMU, which tells a wrong check from a wrong machine.
 * `--record` keeps the results of programs for the README's table (`npm run compatibility`).
 */
const { values: options, positionals } = parseArgs({
  options: {
    tier: { type: 'string', default: 'auto' },
    qemu: { type: 'boolean', default: false },
    only: { type: 'string', default: '' },
    record: { type: 'boolean', default: false },
  },
  allowPositionals: true,
});

const EACH = 300_000;

interface Booted extends Guest {
  ready: Promise<unknown>;
  stop(): Promise<unknown>;
  /** What the console printed last, for a boot that fails. */
  tail(): string;
}

let passed = 0;
let failed = 0;
/** Of programs that the README names: whether all their checks passed. */
const programs = new Map<string, boolean>();

async function check(name: string, work: () => Promise<void>, patience = EACH): Promise<boolean> {
  const began = performance.now();
  const seconds = (): string => `${((performance.now() - began) / 1000).toFixed(1)} s`;
  try {
    await limit(work(), patience, name);
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
    spawn: (argv, o) => agent.spawn(argv, o),
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
    for (const { name, work, patience, program } of checks)
      if (name === KERNEL_LOG.name || wanted(name)) {
        const ok = await check(name, () => work(running), patience);
        if (program) programs.set(program, ok && programs.get(program) !== false);
      }
  }
  await guest?.stop();
}

const wanted = (name: string): boolean => options.only.split(',').some((words) => name.includes(words));

/** The small disk shows that it works at all, and the machine; all that programs do is tried where the tools are. */
const all: Record<string, readonly Check[]> = {
  debian: [...ESSENTIAL, ...SYSTEM, ...TERMINAL, KERNEL_LOG],
  'debian-dev': [...BASE, ...DEVELOPMENT, ...PROGRAMS, KERNEL_LOG],
};
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
  if (recipe === 'debian' && !options.qemu)
    for (const { name, work } of [...MACHINE, ...RESUME])
      if (wanted(name)) await check(name, () => work({ directory, tier: options.tier as Tier }));
}
if (options.record) for (const [program, ok] of programs) record({ program, passed: ok });
process.stdout.write(`${passed} passed, ${failed} failed\n`);
process.exit(failed ? 1 : 0);
