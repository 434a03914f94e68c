/** Runs of instructions that share a handler in the interpreter do what the instructions do one by one. */
import { expect, test } from 'vitest';
import { GPR_NAMES, S } from '../../../emulator/cpu/layout.ts';
import { RUNS } from '../../../emulator/cpu/runs.ts';
import { Random } from '../../conformance/random.ts';
import { CODE, DATA, HOLE, KERNEL_STACK, SMALL, SystemMachine } from './system-machine.ts';

/** Machine states that each run is tried with. */
const TRIES = 4;
const HLT = 0xf4;
/** Bytes of memory that are compared, from these addresses on. */
const SPANS = [CODE, DATA, SMALL, SMALL + 0x1000, KERNEL_STACK - 0x1000] as const;
const SPAN = 0x1000;

interface Sample {
  code: number[];
  /** Where in its page it has to be, so that its branch's target is in the page or not as it was. */
  offset: number;
}

function read(sample: string): Sample {
  const code = sample.split('_').flatMap((step) => [...Buffer.from(step.slice(0, -1), 'hex')]);
  const displacement = Buffer.from(code).readInt8(code.length - 1);
  // Where flags are not needed it is TEST that sees to it, after the run.
  const unneeded = sample.split('_').some((step) => 'bdfh'.includes(step.at(-1)!));
  return { code: unneeded ? [...code, 0x85, 0xc0] : code, offset: displacement < 0 ? 0xd00 : 0x100 };
}

/** What the processor and memory are after the run. */
function outcome(
  m: SystemMachine,
  { code, offset }: Sample,
  registers: Record<string, bigint>,
  flags: number,
): unknown {
  const { cpu } = m;
  m.kernel([], registers);
  m.smallPages();
  m.page(SMALL + 0x1000, SMALL + 0x1000, 5);
  m.page(SMALL + 0x2000, 0, 0);
  cpu.memory.bytes.fill(0x5c, DATA, DATA + SPAN);
  cpu.memory.bytes.fill(0x11, SMALL, SMALL + 2 * SPAN);
  cpu.memory.bytes.fill(0, KERNEL_STACK - SPAN, KERNEL_STACK);
  const page = new Uint8Array(SPAN).fill(HLT);
  page.set(code, offset);
  cpu.memory.write(CODE, page);
  const xmm = cpu.u8.subarray(cpu.state + S.XMM, cpu.state + S.XMM + 256);
  xmm.forEach((_, k) => (xmm[k] = k * 37 + flags));
  cpu.rflags = flags;
  cpu.setRip(CODE + offset, 0);
  cpu.run(1000);
  cpu.halted = false;
  return {
    registers: GPR_NAMES.map((_, n) => cpu.big(n).toString(16)),
    xmm: Buffer.from(xmm).toString('hex'),
    flags: cpu.rflags,
    rip: cpu.rip,
    cr2: cpu.u64[(cpu.state + S.CR2) >> 3],
    memory: SPANS.map((at) => Buffer.from(cpu.memory.bytes.subarray(at, at + SPAN)).toString('latin1')),
  };
}

test('with the same registers, flags, memory and faults, also where they write to themselves', () => {
  const together = new SystemMachine('interp');
  const apart = new SystemMachine('interp');
  apart.cpu.code.handlers.run = () => undefined;
  const used = new Set<number>();
  const { handlers } = together.cpu.code;
  const run = handlers.run.bind(handlers);
  handlers.run = (...args) => {
    const slot = run(...args);
    if (slot !== undefined) used.add(slot);
    return slot;
  };
  const r = new Random(7);
  const value = (offset: number): bigint => {
    const kind = r.below(20);
    if (kind < 9) return BigInt(DATA + 0x200 + r.below(0xc00));
    if (kind < 13) return BigInt(r.below(64));
    if (kind === 13) return BigInt(SMALL + 0xff0 + r.below(32));
    if (kind === 14) return BigInt(SMALL + 0x1ff0 + r.below(32));
    if (kind === 15) return BigInt(CODE + offset + r.below(24));
    if (kind === 16) return BigInt(HOLE);
    return (BigInt(r.u32()) << 32n) | BigInt(r.u32());
  };
  const samples = RUNS.match(/\S+/g)!;
  for (const text of samples) {
    const sample = read(text);
    for (let turn = 0; turn < TRIES; turn++) {
      const registers = Object.fromEntries(GPR_NAMES.map((name) => [name, value(sample.offset)]));
      if (r.below(8)) registers['rsp'] = BigInt(KERNEL_STACK - 0x800 - r.below(16) * 8);
      const flags = 2 | (r.below(0x10000) & 0x8d5);
      const [a, b] = [together, apart].map((m) => outcome(m, sample, registers, flags));
      expect(a, `${text} with ${JSON.stringify(registers, (_, x: unknown) => String(x))}`).toEqual(b);
    }
  }
  // Nearly all of them: some branches lead too far for a page, some flags are needed here that were not where it was found.
  expect(used.size).toBeGreaterThan(samples.length * 0.9);
});
