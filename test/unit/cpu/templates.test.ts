import { beforeAll, expect, test } from 'vitest';
import { decode } from '../../../emulator/cpu/decoder.ts';
import { defineAll } from '../../../emulator/cpu/defs/index.ts';
import { Mode } from '../../../emulator/cpu/layout.ts';
import { metaAddress } from '../../../emulator/cpu/record.ts';
import { findDeadFlags, Template, Templates } from '../../../emulator/cpu/templates.ts';
import { WARM } from '../../../emulator/cpu/warm.ts';
import { CODE, CodeMachine } from './machine-code.ts';

beforeAll(defineAll);

/** Instructions of Debian's programs, one of each shape. */
const SAMPLES = (WARM.match(/\S+q(?=\s|$)/g) ?? []).map((sample) =>
  Uint8Array.from(sample.split('_')[0]!.match(/[0-9a-f]{2}/g)!, (x) => parseInt(x, 16)),
);

/** Numbers below `n`, the same each time. */
function dice(): (n: number) => number {
  let x = 20_261_130;
  return (n) => (x = (Math.imul(x, 1_664_525) + 1_013_904_223) >>> 0) % n;
}

test('what is found by its first bytes is what decoding in full gives', () => {
  const templates = new Templates();
  const roll = dice();
  const code = new Uint8Array(32);
  let hits = 0;
  for (let n = 0; n < 60_000; n++) {
    for (let i = 0; i < code.length; i++) code[i] = roll(256);
    const sample = SAMPLES[roll(SAMPLES.length)]!;
    code.set(sample.subarray(0, 2 + roll(sample.length)));
    // Another prefix, opcode, ModRM or SIB byte now and then.
    if (roll(4) === 0) code[roll(6)] = roll(256);
    const end = 12 + roll(20);
    const found = templates.find(code, 0, end);
    const insn = decode(code, 0, end, 64);
    if (!found) {
      if (typeof insn !== 'string') templates.make(insn);
      continue;
    }
    hits++;
    if (typeof insn === 'string') throw new Error(`found what is ${insn}`);
    const { length, disp, imm } = templates;
    const { mem } = found.insn;
    const immHigh = insn.operands.some((o) => o.kind === 'imm' || o.kind === 'rel') ? insn.immHigh : 0;
    const filled = { ...found.insn, imm, immHigh, mem: mem && { ...mem, disp, dispHigh: disp >> 31 }, len: length };
    expect(filled).toEqual(insn);
  }
  expect(hits).toBeGreaterThan(20_000);
});

test('a control register is moved to a register, even where ModRM speaks of memory', () => {
  const templates = new Templates();
  // MOV RBX, CR2 with mod 1 (a byte of displacement) and mod 0 (a SIB byte, for RSP): Intel SDM 2B, MOV.
  for (const bytes of [
    [0x0f, 0x20, 0x53],
    [0x0f, 0x20, 0x14],
  ]) {
    const code = new Uint8Array(32).fill(0x90);
    code.set(bytes);
    for (let n = 0; n < 2; n++) {
      expect(templates.find(code, 0, 32)).toBeUndefined();
      const insn = decode(code, 0, 32, 64);
      if (typeof insn === 'string') throw new Error(insn);
      expect([insn.len, templates.make(insn).kept]).toEqual([3, false]);
    }
  }
});

test('a record from a template is the one that decoding in full leads to', () => {
  const { cpu, bytes } = new CodeMachine();
  const { code, i32 } = cpu;
  const { templates } = (code as unknown as { translator: { templates: Templates } }).translator;
  const roll = dice();
  const learn = templates.find.bind(templates);
  /** What is written for an instruction, at once thrown away again. */
  const written = (insn: Uint8Array): number[] => {
    bytes.fill(0x90, CODE, CODE + 32);
    bytes.set(insn, CODE);
    const { record, recordsEnd } = code.single(CODE, Mode.Kernel64);
    const at = record >> 2;
    const beside = metaAddress(record) >> 2;
    const size = (recordsEnd - record) >> 2;
    return [...i32.subarray(at, at + size), ...i32.subarray(beside, beside + size)];
  };
  let kept = 0;
  for (const sample of SAMPLES) {
    const insn = decode(sample, 0, 32, 64);
    if (typeof insn === 'string' || insn.def.helper || insn.def.unit) continue;
    written(sample);
    // The same with another displacement or immediate: bytes after the first two or three are one or the other.
    const other = sample.slice();
    if (insn.len > 4) other[insn.len - 1] = roll(128);
    if (typeof decode(other, 0, 32, 64) === 'string') continue;
    if (learn(bytes, CODE, CODE + 64)) kept++;
    const short = written(other);
    templates.find = () => undefined;
    const long = written(other);
    templates.find = learn;
    expect(short, [...other].map((b) => b.toString(16)).join(' ')).toEqual(long);
  }
  expect(kept).toBeGreaterThan(SAMPLES.length / 2);
});

test('flags of a shift by CL are dead where none of them is read, and those before it are not where one is', () => {
  const dead = (...codes: string[]): number[] => {
    const insns = codes.map((code) => decode(Buffer.from(code, 'hex'), 0, 32, 64));
    const templates = insns.map((insn) => new Template(insn as Exclude<typeof insn, string>));
    const flags = new Uint8Array(codes.length);
    findDeadFlags(templates, new Int32Array(codes.length), codes.length, flags);
    return [...flags];
  };
  const [addEaxEcx, shlEdxCl, rolEdxCl, shldEdxEaxCl] = ['01c8', 'd3e2', 'd3c2', '0fa5c2'];
  for (const shift of [shlEdxCl, shldEdxEaxCl]) {
    expect(dead(addEaxEcx, shift, addEaxEcx)).toEqual([1, 1, 0]);
    // If CL is 0 whoever comes next sees the sum's flags.
    expect(dead(addEaxEcx, shift)).toEqual([0, 0]);
  }
  // CLC overwrites CF alone, which ROL may have changed with OF.
  expect(dead(addEaxEcx, rolEdxCl, 'f8')).toEqual([0, 0, 0]);
  // JZ reads what ROL leaves.
  expect(dead(addEaxEcx, rolEdxCl, addEaxEcx, '7400')).toEqual([1, 1, 0, 0]);
});
