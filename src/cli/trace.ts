import { existsSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { TIERS, type Tier } from '../../emulator/processor.ts';
import { Lockstep, type LockstepResult } from './trace/lockstep.ts';
import { makeMachine, type Source } from './trace/machines.ts';
import { traceWindow, type Window } from './trace/window.ts';

const USAGE = `usage: npm run trace -- [options]

Prints what a machine executes, or finds where two tiers begin to differ. Machines are deterministic: two
runs of the same command print the same lines.

  --from N            number of the first instruction (default 0)
  --count M           instructions (default 100; with --compare: 1000000000)
  --tier TIER         interp (default), jit, light or auto; compiled code is printed block by block
  --blocks            the interpreter block by block, too
  --all               every register in every line
  --compare A,B       run tier A as it is and tier B to the same instructions, and compare all registers;
                      with --from block by block from there, else slice by slice and then finely
  --context N         lines before a difference (default 40)
  --disk WHERE        manifest (….json) or raw image (default: build/disks/debian/manifest.json)
  --kernel WHERE      kernel instead of the manifest's
  --initrd WHERE      initramfs instead of the manifest's
  --cmdline TEXT      kernel command line instead of the manifest's
  --append TEXT       words added to the command line
  --memory MIB        RAM in MiB (default 512)
  --console           what the guest prints, on stderr

A line: instructions before it, privilege level, address, instruction (#vector(code) where it faulted), then
the registers that it changed and the memory that it wrote.
Status: 0; 1 when the tiers differ or the machine cannot be made; 2 for a wrong option.`;

const STANDARD = 'build/disks/debian/manifest.json';

class Misuse extends Error {}

function readOptions() {
  try {
    return parseArgs({
      options: {
        from: { type: 'string' },
        count: { type: 'string' },
        tier: { type: 'string', default: 'interp' },
        blocks: { type: 'boolean', default: false },
        all: { type: 'boolean', default: false },
        compare: { type: 'string' },
        context: { type: 'string', default: '40' },
        disk: { type: 'string' },
        kernel: { type: 'string' },
        initrd: { type: 'string' },
        cmdline: { type: 'string' },
        append: { type: 'string' },
        memory: { type: 'string', default: '512' },
        console: { type: 'boolean', default: false },
        help: { type: 'boolean', default: false },
      },
    }).values;
  } catch (error) {
    throw new Misuse((error as Error).message);
  }
}

type Options = ReturnType<typeof readOptions>;

function number(name: string, text: string): number {
  const n = Number(text.replaceAll('_', ''));
  if (!Number.isSafeInteger(n) || n < 0) throw new Misuse(`--${name} ${text} is not a whole number`);
  return n;
}

function tier(name: string): Tier {
  const known = TIERS.find((tier) => tier === name);
  if (!known) throw new Misuse(`there is no tier "${name}": give ${TIERS.join(', ')}`);
  return known;
}

async function trace(source: Source, options: Options, window: Window): Promise<number> {
  const which = tier(options.tier);
  const { machine, cpu } = await makeMachine(source, which, (text) => {
    if (options.console) process.stderr.write(text);
  });
  const through = new Promise<undefined>((resolve) => {
    traceWindow(cpu, {
      ...window,
      single: which === 'interp' && !options.blocks,
      all: options.all,
      print: (line) => process.stdout.write(`${line}\n`),
      done: () => resolve(undefined),
    });
  });
  machine.start();
  const exit = await Promise.race([through, machine.stopped]);
  const end = cpu.retired;
  machine.stop();
  if (exit?.reason === 'error') throw exit.error;
  if (exit) process.stderr.write(`the machine ended after ${end} instructions: ${exit.message ?? exit.reason}\n`);
  return 0;
}

/** One run of two machines. */
async function lockstep(source: Source, tiers: readonly [Tier, Tier], window: Window, options: Options) {
  const leader = await makeMachine(source, tiers[0], () => undefined);
  const follower = await makeMachine(source, tiers[1], (text) => {
    if (options.console) process.stderr.write(text);
  });
  try {
    return await new Promise<LockstepResult>((resolve, reject) => {
      const both = new Lockstep(
        leader.cpu,
        follower.cpu,
        window,
        number('context', options.context),
        (who) => (who === 'leader' ? leader : follower).machine.wake(),
        resolve,
      );
      for (const { machine } of [leader, follower])
        void machine.stopped.then((exit) => {
          if (exit.reason === 'error') reject(exit.error instanceof Error ? exit.error : new Error(exit.message));
          else if (machine === follower.machine) both.ended();
        });
      leader.machine.start();
      follower.machine.start();
    });
  } finally {
    leader.machine.stop();
    follower.machine.stop();
  }
}

async function compare(source: Source, options: Options, names: string): Promise<number> {
  const [a, b, more] = names.split(',');
  if (!a || !b || more !== undefined) throw new Misuse(`--compare ${names}: give two tiers, as "auto,interp"`);
  const tiers = [tier(a), tier(b)] as const;
  const count = number('count', options.count ?? '1000000000');
  const given = options.from === undefined ? undefined : number('from', options.from);
  const say = (text: string): void => void process.stdout.write(`${text}\n`);
  let result = await lockstep(source, tiers, { from: given ?? count, count: given === undefined ? 0 : count }, options);
  let { difference } = result;
  if (difference && !difference.fine) {
    say(`between ${difference.after} and ${difference.by}: ${difference.registers.join(' ')}`);
    const window = { from: Math.max(0, difference.after - 1000), count: difference.by - difference.after + 2000 };
    result = await lockstep(source, tiers, window, options);
    if (!result.difference) {
      say('block by block from there they are equal: it shows only in code that runs at length (loops in a region)');
      return 1;
    }
    ({ difference } = result);
  }
  if (!difference) {
    say(
      `${a} and ${b} are equal over ${result.instructions} instructions, compared at ${result.compared} places` +
        (result.skipped ? `; ${result.skipped} could not be` : ''),
    );
    return 0;
  }
  for (const line of difference.lines) say(line);
  say(`between ${difference.after} and ${difference.by}, ${a}/${b}: ${difference.registers.join(' ')}`);
  return 1;
}

async function main(): Promise<number> {
  const options = readOptions();
  if (options.help) {
    process.stdout.write(`${USAGE}\n`);
    return 0;
  }
  const disk = options.disk ?? (options.kernel ? undefined : STANDARD);
  if (disk === STANDARD && !existsSync(STANDARD))
    throw new Misuse('there is no disk: build one with "npm run disk -- debian", or give --disk or --kernel');
  const memory = number('memory', options.memory);
  const { kernel, initrd, cmdline, append } = options;
  const source: Source = { disk, kernel, initrd, cmdline, append, memory };
  if (options.compare !== undefined) return compare(source, options, options.compare);
  const window = { from: number('from', options.from ?? '0'), count: number('count', options.count ?? '100') };
  return trace(source, options, window);
}

try {
  process.exitCode = await main();
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  if (error instanceof Misuse) process.stderr.write(`\n${USAGE}\n`);
  process.exitCode = error instanceof Misuse ? 2 : 1;
}
await new Promise<void>((done) => void process.stdout.write('', () => done()));
process.exit();
