import { readFileSync } from 'node:fs';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { PROMPT } from '../../disks/qemu.ts';
import type { Block } from '../../emulator/cpu/block.ts';
import type { CodeCache } from '../../emulator/cpu/code.ts';
import { decode } from '../../emulator/cpu/decoder.ts';
import { createProcessor, type X86Processor } from '../../emulator/cpu/processor.ts';
import { openDisk } from '../../emulator/disk/open.ts';
import { Machine } from '../../emulator/machine.ts';
import { fileFetch } from '../../src/cli/file-fetch.ts';
import { describeHost, figure, median, table } from './statistics.ts';

const USAGE = `usage: npm run bench:cold -- [--runs N] [--json]

Cold code: the decoder alone over the kernel's text, and the boot of the debian disk to the prompt in the interpreter
alone, deterministic, so that each run executes the same instructions. CPU seconds count, for a busy host.`;

const { values: options } = parseArgs({
  options: {
    runs: { type: 'string', default: '1' },
    json: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

const DISK = fileURLToPath(new URL('../../build/disks/debian', import.meta.url));

interface Figures {
  'decoder alone, 10⁶ instructions/s': number;
  'boot: 10⁶ instructions': number;
  'boot: CPU seconds': number;
  'boot: MIPS (CPU)': number;
  'boot: seconds': number;
  'blocks decoded, 10³': number;
  'instructions decoded, 10³': number;
  'of the boot in decoding and translating, %': number;
  'of the boot in making handlers, %': number;
  '10⁶ instructions/s decoded and translated': number;
}

/** Instructions that the decoder takes from the kernel's text in a second. */
function decodeRate(kernel: Uint8Array): number {
  const text = textSegment(kernel);
  let best = 0;
  for (let turn = 0; turn < 3; turn++) {
    const began = process.cpuUsage();
    let count = 0;
    for (let at = 0; at < text.length - 16; count++) {
      const insn = decode(text, at, text.length, 64);
      at += typeof insn === 'string' ? 1 : insn.len;
      if (count === 1_000_000) break;
    }
    best = Math.max(best, count / cpuSeconds(began));
  }
  return best;
}

/** Contents of the first executable segment of an ELF64 file. */
function textSegment(elf: Uint8Array): Uint8Array {
  const view = new DataView(elf.buffer, elf.byteOffset, elf.byteLength);
  const headers = Number(view.getBigUint64(32, true));
  for (let i = 0; i < view.getUint16(56, true); i++) {
    const at = headers + i * view.getUint16(54, true);
    const [type, flags] = [view.getUint32(at, true), view.getUint32(at + 4, true)];
    if (type !== 1 || !(flags & 1)) continue;
    const offset = Number(view.getBigUint64(at + 8, true));
    return elf.subarray(offset, offset + Number(view.getBigUint64(at + 32, true)));
  }
  throw new Error('the kernel has no executable segment');
}

function cpuSeconds(since: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(since);
  return (user + system) / 1e6;
}

async function measure(): Promise<Figures> {
  const kernel = new Uint8Array(readFileSync(join(DISK, 'vmlinux')));
  const manifest = JSON.parse(readFileSync(join(DISK, 'manifest.json'), 'utf8')) as { cmdline: string };
  const disk = await openDisk(pathToFileURL(join(DISK, 'manifest.json')).href, { policy: { fetch: fileFetch } });
  let cpu: X86Processor | undefined;
  let said = '';
  let arrived: () => void = () => undefined;
  const prompt = new Promise<void>((resolve) => (arrived = resolve));
  const machine = await Machine.create({
    createProcessor: (...args) => (cpu = createProcessor(...args) as X86Processor),
    memory: 512 * 2 ** 20,
    kernel,
    initrd: new Uint8Array(readFileSync(join(DISK, 'initramfs.gz'))),
    cmdline: manifest.cmdline,
    disks: [disk.device],
    tier: 'interp',
    deterministic: true,
    events: {
      console: (bytes) => {
        said = (said + new TextDecoder().decode(bytes)).slice(-10_000);
        if (PROMPT.test(said)) arrived();
      },
    },
  });
  // Only now are the instructions defined.
  const rate = decodeRate(kernel);
  const decoding = watchDecoding(cpu!.code);
  const began = process.cpuUsage();
  const start = performance.now();
  machine.start();
  await Promise.race([
    prompt,
    machine.stopped.then((exit) => {
      throw new Error(`the machine stopped (${exit.reason}) before the prompt:\n${said}`);
    }),
  ]);
  const [seconds, busy] = [(performance.now() - start) / 1000, cpuSeconds(began)];
  const { instructions } = cpu!.stats;
  machine.stop();
  return {
    'decoder alone, 10⁶ instructions/s': rate / 1e6,
    'boot: 10⁶ instructions': instructions / 1e6,
    'boot: CPU seconds': busy,
    'boot: MIPS (CPU)': instructions / busy / 1e6,
    'boot: seconds': seconds,
    'blocks decoded, 10³': decoding.blocks / 1e3,
    'instructions decoded, 10³': decoding.instructions / 1e3,
    'of the boot in decoding and translating, %': decoding.milliseconds / 10 / seconds,
    'of the boot in making handlers, %': decoding.making / 10 / seconds,
    '10⁶ instructions/s decoded and translated': decoding.instructions / decoding.milliseconds / 1e3,
  };
}

/** Counts what goes through the code cache's decoder; block by block, so that the clock is read seldom. */
function watchDecoding(code: CodeCache): {
  blocks: number;
  instructions: number;
  milliseconds: number;
  making: number;
} {
  const sum = { blocks: 0, instructions: 0, milliseconds: 0, making: 0 };
  const inner = code as unknown as { decodeBlock(...args: unknown[]): Block };
  const handlers = code.handlers as unknown as { makeMissing(): void; waiting: unknown[] };
  const decodeBlock = inner.decodeBlock.bind(code);
  const makeMissing = handlers.makeMissing.bind(handlers);
  inner.decodeBlock = (...args) => {
    const [began, made] = [performance.now(), sum.making];
    const block = decodeBlock(...args);
    sum.milliseconds += performance.now() - began - (sum.making - made);
    sum.blocks++;
    sum.instructions += block.count;
    return block;
  };
  handlers.makeMissing = () => {
    if (!handlers.waiting.length) return;
    const began = performance.now();
    makeMissing();
    sum.making += performance.now() - began;
  };
  return sum;
}

async function main(): Promise<void> {
  if (options.help) return void process.stdout.write(`${USAGE}\n`);
  const host = describeHost();
  const all: Figures[] = [];
  for (let run = 0; run < Number(options.runs); run++) all.push(await measure());
  const names = Object.keys(all[0]!) as (keyof Figures)[];
  const medians = Object.fromEntries(names.map((name) => [name, median(all.map((figures) => figures[name]))]));
  if (options.json) process.stdout.write(`${JSON.stringify({ host, runs: all, medians }, undefined, 2)}\n`);
  else
    process.stdout.write(
      `${host}\n\n${table(
        ['cold code', 'here'],
        names.map((name) => [name, figure(medians[name])]),
      )}\n`,
    );
}

main().then(
  () => process.exit(),
  (error: unknown) => {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
    process.exit(1);
  },
);
