import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { S, STATE_BASE } from '../../../emulator/cpu/layout.ts';
import { MEMORY_BYTES, X87Machine, type Result } from './x87-machine.ts';

const machine = new X87Machine();
const fromHex = (s: string): Uint8Array => Uint8Array.from(Buffer.from(s, 'hex'));

/** FXSAVE image: registers as "sign and exponent, significand" in hexadecimal. */
function image(fcw: number, fsw: number, tags: number, registers: readonly string[]): Uint8Array {
  const bytes = new Uint8Array(512);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, fcw, true);
  view.setUint16(2, fsw, true);
  bytes[4] = tags;
  view.setUint32(24, 0x1f80, true);
  registers.forEach((r, i) => {
    view.setUint16(40 + 16 * i, parseInt(r.slice(0, 4), 16), true);
    view.setBigUint64(32 + 16 * i, BigInt(`0x${r.slice(4)}`), true);
  });
  return bytes;
}

function register(bytes: Uint8Array, i: number): string {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  return (
    view
      .getUint16(40 + 16 * i, true)
      .toString(16)
      .padStart(4, '0') +
    view
      .getBigUint64(32 + 16 * i, true)
      .toString(16)
      .padStart(16, '0')
  );
}

const ONE = '3fff8000000000000000';
const zeroMemory = new Uint8Array(MEMORY_BYTES);

interface VectorCase {
  line: string;
  bytes: string;
  result: Result;
  /** What the real processor left, in the words of the vector file. */
  want: string[];
  before: string[];
}

function runVector(line: string): VectorCase {
  const [input, output] = line.split(' > ') as [string, string];
  const [bytes, fcw, fsw, tags, st0, st1, st2, memory, flags] = input.split(' ') as [string, ...string[]];
  const before = [st0!, st1!, st2!, ONE, ONE, ONE, ONE, ONE];
  const operand = new Uint8Array(MEMORY_BYTES);
  operand.set(fromHex(memory!));
  const hex = (s: string | undefined): number => parseInt(s!, 16);
  const result = machine.run(fromHex(bytes), image(hex(fcw), hex(fsw), hex(tags), before), operand, hex(flags));
  return { line, bytes, result, want: output.split(' '), before };
}

/** The result in the words of the vector file. */
function describeResult({ result, before }: VectorCase, memory: string): string[] {
  const view = new DataView(result.image.buffer);
  const words = [
    view.getUint16(0, true).toString(16),
    view.getUint16(2, true).toString(16),
    result.image[4]!.toString(16),
  ];
  for (let i = 0; i < 8; i++) {
    const r = register(result.image, i);
    if (r !== before[i]) words.push(`${i}=${r}`);
  }
  const after = Buffer.from(result.memory.subarray(0, 10)).toString('hex');
  if (after !== memory) words.push(`m=${after}`);
  if (result.rax) words.push(`a=${result.rax.toString(16)}`);
  words.push(`f=${result.flags.toString(16)}`);
  return words;
}

const vectors = readFileSync(new URL('./x87-vectors.txt', import.meta.url), 'utf8')
  .split('\n')
  .filter((line) => line && !line.startsWith('#'))
  .map(runVector);

/** F2XM1, FYL2X, FPTAN, FPATAN, FYL2XP1, FSINCOS, FSIN, FCOS: processors differ in the last place. */
const ELEMENTARY = /^d9(f[0-39be]|ff)$/;

describe('against a real processor', () => {
  const groups = new Map<string, VectorCase[]>();
  for (const v of vectors) {
    if (ELEMENTARY.test(v.bytes)) continue;
    const key = v.bytes.startsWith('d') || v.bytes === '9b' ? v.bytes.slice(0, 2) : 'mmx';
    groups.set(key, [...(groups.get(key) ?? []), v]);
  }
  for (const [name, cases] of groups)
    test(`${name}: results, flags and stack of ${cases.length} cases`, () => {
      for (const v of cases) expect(describeResult(v, v.line.split(' ')[7]!), v.line).toEqual(v.want);
    });

  test('elementary functions are within one unit in the last place', () => {
    const cases = vectors.filter((v) => ELEMENTARY.test(v.bytes));
    expect(cases.length).toBeGreaterThan(40);
    for (const v of cases) {
      const real = [...v.before];
      for (const word of v.want) if (/^\d=/.test(word)) real[Number(word[0])] = word.slice(2);
      for (let i = 0; i < 8; i++) {
        const mine = BigInt(`0x${register(v.result.image, i)}`);
        const theirs = BigInt(`0x${real[i]!}`);
        const distance = mine > theirs ? mine - theirs : theirs - mine;
        expect(distance <= 1n, `${v.line} ST${i} ${register(v.result.image, i)}`).toBe(true);
      }
    }
  });
});

describe('whole state', () => {
  const registers = Array.from({ length: 8 }, (_, i) => `40${i}08${i}00000000000001`);
  const rotated = image(0x27f, 0x1d00, 0x7e, registers);

  test.each([
    ['FNSAVE and FRSTOR, 32-bit format', 'dd32', 'dd22'],
    ['FNSAVE and FRSTOR, 16-bit format', '66dd32', '66dd22'],
    ['FXSAVE and FXRSTOR', '480fae02', '480fae0a'],
  ])('%s bring it back', (_name, save, load) => {
    // The machine's memory operand is 128 bytes, but the instruction may use more; only what fits is compared.
    const saved = machine.run(fromHex(save), rotated, zeroMemory, 2);
    expect(saved.fault).toBe(-1);
    const blank = image(
      0x37f,
      0,
      0,
      registers.slice(0, 5).map(() => ONE),
    );
    const restored = machine.run(fromHex(load), blank, saved.memory, 2);
    expect(restored.fault).toBe(-1);
    expect([...restored.image.subarray(0, 5)]).toEqual([...rotated.subarray(0, 5)]);
    for (let i = 0; i < 6; i++) expect(register(restored.image, i)).toBe(registers[i]);
  });

  test('FXRSTOR refuses reserved bits of MXCSR and leaves the state alone', () => {
    const bad = new Uint8Array(MEMORY_BYTES);
    bad[26] = 1;
    const r = machine.run(fromHex('0fae0a'), rotated, bad, 2);
    expect(r.fault).toBe(13);
    expect(register(r.image, 0)).toBe(registers[0]);
  });

  test('FXSAVE refuses an address that is not a multiple of 16', () => {
    expect(machine.run(fromHex('0fae4208'), rotated, zeroMemory, 2).fault).toBe(13);
  });
});

describe('pending exceptions', () => {
  // Invalid operation raised and unmasked: ES and B are set.
  const pending = image(0x37e, 0x8081, 0xff, [ONE, ONE]);

  test.each([
    ['fadd', 'd8c1'],
    ['fld m64', 'dd02'],
    ['fsin', 'd9fe'],
    ['fwait', '9b'],
    ['paddb', '0ffcca'],
    ['fldenv', 'd922'],
  ])('%s raises #MF and changes nothing', (_name, bytes) => {
    const r = machine.run(fromHex(bytes), pending, zeroMemory, 2);
    expect(r.fault).toBe(16);
    expect([...r.image.subarray(0, 160)]).toEqual([...pending.subarray(0, 160)]);
  });

  test.each([
    ['fnstsw', 'dd3a'],
    ['fnclex', 'dbe2'],
    ['fninit', 'dbe3'],
    ['fnstenv', 'd932'],
  ])('%s does not wait', (_name, bytes) => {
    expect(machine.run(fromHex(bytes), pending, zeroMemory, 2).fault).toBe(-1);
  });

  test('FLDCW that unmasks a raised flag makes it pending', () => {
    const control = new Uint8Array(MEMORY_BYTES);
    control.set([0x7e, 0x03]);
    const r = machine.run(fromHex('d92a'), image(0x37f, 0x01, 0xff, [ONE]), control, 2);
    expect(new DataView(r.image.buffer).getUint16(2, true) & 0x8080).toBe(0x8080);
  });
});

test('FWAIT raises #NM only with both CR0.TS and CR0.MP', () => {
  const plain = image(0x37f, 0, 0, []);
  for (const [cr0, fault] of [
    [0x0, -1],
    [0x2, -1],
    [0x8, -1],
    [0xa, 7],
  ] as const) {
    machine.view.setInt32(STATE_BASE + S.CR0, cr0, true);
    expect(machine.run(fromHex('9b'), plain, zeroMemory, 2).fault).toBe(fault);
  }
  machine.view.setInt32(STATE_BASE + S.CR0, 0, true);
});

test.each(['d90a', 'd9d1', 'ded8', 'd9ef', 'dfe1', 'dbe5'])('%s is no instruction', (bytes) => {
  expect(machine.prepare(fromHex(bytes))).toBeUndefined();
});
