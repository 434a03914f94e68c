/**
 * Floating-point programs with loops and branches in compiled regions against the interpreter, which works on memory: what regions
 * keep in locals, what they know of registers, and what they leave to the interpreter must not show.
 */
import { describe, expect, test } from 'vitest';
import { S } from '../../../emulator/cpu/layout.ts';
import type { X86Processor } from '../../../emulator/cpu/processor.ts';
import { CodeMachine, DATA, HOLE } from './machine-code.ts';

/** Bytes of memory that programs read and write. */
const WINDOW = 512;
const LOOPS = 60;

/** A number from 0 to n − 1. */
type Draw = (n: number) => number;
function drawFrom(seed: number): Draw {
  let x = seed * 2654435761 + 12345;
  return (n) => {
    x = (Math.imul(x ^ (x >>> 15), 0x2c1b3c6d) + 0x9e3779b9) | 0;
    const y = Math.imul(x ^ (x >>> 12), 0x297a2d39);
    return ((y ^ (y >>> 15)) >>> 0) % n;
  };
}

const ODD_DOUBLES = [0n, 1n << 63n, 0x7ff0n << 48n, 0xfff0n << 48n, 0x7ff8n << 48n, 0x7ff4n << 48n, 1n, 0x000fn << 48n];
function fill(view: DataView, at: number, bytes: number, draw: Draw, strange: number): void {
  for (let i = 0; i < bytes; i += 8) {
    const kind = draw(100);
    if (kind < strange) view.setBigUint64(at + i, ODD_DOUBLES[draw(ODD_DOUBLES.length)]!, true);
    else if (kind < 40) view.setFloat64(at + i, draw(200) - 100, true);
    else view.setFloat64(at + i, (draw(1 << 30) / (1 << 20)) * 2 ** (draw(20) - 10) * (draw(2) ? 1 : -1), true);
  }
}

/** [rsi + displacement]. */
const memory = (reg: number, displacement: number): number[] => [
  0x86 | (reg << 3),
  displacement & 0xff,
  displacement >> 8,
  0,
  0,
];

/** An x87 instruction that leaves the depth of the stack, at which it may reach `depth` registers. */
function x87Neutral(draw: Draw, depth: number): number[] {
  const i = draw(depth);
  const place = draw(WINDOW / 8) * 8;
  const choices: number[][] = [
    [0xd8, 0xc0 | ([0, 1, 4, 5, 6, 7][draw(6)]! << 3) | i],
    [0xdc, 0xc0 | ([0, 1, 4, 5, 6, 7][draw(6)]! << 3) | i],
    [0xd9, 0xc8 | i],
    [0xd9, [0xe0, 0xe1, 0xfa, 0xfc, 0xe4][draw(5)]!],
    [0xdd, 0xd0 | i],
    [0xdb, (draw(2) ? 0xf0 : 0xe8) | i],
    [0xd8, 0xd0 | i],
    [[0xda, 0xdb][draw(2)]!, 0xc0 | (draw(4) << 3) | i],
    [0xdc, ...memory([0, 1, 4, 5, 6, 7, 2][draw(7)]!, place)],
    [0xd8, ...memory([0, 1, 4, 5, 6, 7, 2][draw(7)]!, place)],
    [0xda, ...memory([0, 1, 4, 5][draw(4)]!, place)],
    [[0xdd, 0xd9][draw(2)]!, ...memory(2, place)],
    [0xdf, 0xe0],
    [0xdd, ...memory(7, place)],
  ];
  return choices[draw(choices.length)]!;
}
function x87Push(draw: Draw, depth: number): number[] {
  const place = draw(WINDOW / 8) * 8;
  const choices = [
    [0xdd, ...memory(0, place)],
    [0xd9, ...memory(0, place)],
    [0xdb, ...memory(0, place)],
    [0xdf, ...memory(5, place)],
    [0xd9, [0xe8, 0xee, 0xeb][draw(3)]!],
    [0xd9, 0xc0 | draw(Math.max(1, depth))],
  ];
  return choices[draw(depth ? choices.length : 5)]!;
}
function x87Pop(draw: Draw, depth: number): number[] {
  const place = draw(WINDOW / 8 - 1) * 8;
  const i = depth > 1 ? 1 + draw(depth - 1) : 0;
  const choices = [
    [0xdd, ...memory(3, place)],
    [0xd9, ...memory(3, place)],
    [0xdb, ...memory(3, place)],
    [0xdb, ...memory(7, place)],
    [0xdd, 0xd8 | i],
    [0xdf, 0xf0 | i],
    [0xde, 0xc0 | ([0, 1, 4, 5, 6, 7][draw(6)]! << 3) | i],
  ];
  return choices[draw(depth > 1 ? choices.length : 5)]!;
}

/** An SSE instruction on XMM0 to XMM4 and memory. */
function sse(draw: Draw): number[] {
  const [x, y] = [draw(5), draw(5)];
  const prefix = [[], [0x66], [0xf3], [0xf2]][draw(4)]!;
  const packed = prefix[0] !== 0xf3 && prefix[0] !== 0xf2;
  const operand = draw(3) ? [0xc0 | (x << 3) | y] : memory(x, draw(WINDOW / 16) * 16);
  const choices = [
    [...prefix, 0x0f, [0x58, 0x59, 0x5c, 0x5e][draw(4)]!, ...operand],
    [...prefix, 0x0f, [0x58, 0x59, 0x5c][draw(3)]!, ...operand],
    [...prefix, 0x0f, [0x51, 0x5d, 0x5f][draw(3)]!, ...operand],
    [0x66, 0x0f, 0x28, 0xc0 | (x << 3) | y],
    [[0xf2, 0xf3][draw(2)]!, 0x0f, 0x10, ...operand],
    [0xf2, 0x0f, 0x11, ...memory(x, draw(WINDOW / 8) * 8)],
    [0x66, 0x0f, [0x14, 0x15][draw(2)]!, 0xc0 | (x << 3) | y],
    [0x0f, 0x57, 0xc0 | (x << 3) | (draw(2) ? x : y)],
    [[0xf2, 0xf3][draw(2)]!, 0x0f, 0x5a, ...operand],
    [[0xf2, 0xf3][draw(2)]!, 0x0f, 0x2a, 0xc1 | (x << 3)],
    [...(draw(2) ? [0x66] : []), 0x0f, [0x2e, 0x2f][draw(2)]!, 0xc0 | (x << 3) | y],
    [...prefix, 0x0f, 0xc2, ...operand, draw(8)],
    [[0xf2, 0xf3][draw(2)]!, 0x0f, [0x2c, 0x2d][draw(2)]!, 0xc0 | y],
    // lea rax, [rax + rcx + y]
    [0x48, 0x8d, 0x44, 0x08, y],
  ];
  const code = choices[draw(choices.length)]!;
  return packed || code.length ? code : [0x90];
}

/** A loop of `LOOPS` rounds; RSI is the window, RCX counts. */
function program(draw: Draw): number[] {
  const code = [0xb9, LOOPS, 0, 0, 0];
  let depth = 0;
  for (const n = 1 + draw(3); depth < n; depth++) code.push(...x87Push(draw, depth));
  const start = code.length;
  const atStart = depth;
  const mix = draw(3);
  for (let k = 0; k < 24; k++) {
    if (mix === 0 || (mix === 2 && draw(2))) code.push(...sse(draw));
    else if (draw(4) === 0 && depth < 7) code.push(...x87Push(draw, depth++));
    else if (draw(4) === 0 && depth > 1) code.push(...x87Pop(draw, depth--));
    else code.push(...x87Neutral(draw, depth));
    if (draw(6) === 0) {
      // A branch over something, by flags that a comparison or nothing in particular left.
      const skipped: number[] = [];
      for (let n = 1 + draw(3); n > 0; n--) skipped.push(...(mix === 0 ? sse(draw) : x87Neutral(draw, depth)));
      code.push([0x77, 0x7a, 0x74, 0x72][draw(4)]!, skipped.length, ...skipped);
    }
    // The control word of another rounding, and back.
    if (mix && draw(60) === 0)
      code.push(0xd9, ...memory(5, WINDOW), 0xdb, ...memory(2, 8), 0xd9, ...memory(5, WINDOW + 2));
  }
  // Now and then the stack is left to run over.
  if (draw(8)) {
    while (depth < atStart) code.push(...x87Push(draw, depth++));
    while (depth > atStart) code.push(...x87Pop(draw, depth--));
  }
  code.push(0xff, 0xc9, 0x0f, 0x85);
  const back = start - (code.length + 4);
  return [...code, back & 0xff, (back >> 8) & 0xff, (back >> 16) & 0xff, (back >> 24) & 0xff];
}

interface Start {
  fcw: number;
  mxcsr: number;
  strange: number;
}

/** Runs a program to its end; everything that it can have changed. */
function outcome(m: CodeMachine, code: readonly number[], seed: number, start: Start): string {
  const { cpu } = m;
  const draw = drawFrom(seed);
  m.prepare(code);
  fill(m.view, DATA, WINDOW, draw, start.strange);
  m.view.setUint16(DATA + WINDOW, 0xf7f, true);
  m.view.setUint16(DATA + WINDOW + 2, start.fcw, true);
  cpu.setBig(6, BigInt(DATA));
  const { state } = cpu;
  cpu.u8.fill(0, state + S.X87, state + S.X87 + 128);
  for (let i = 0; i < 80; i += 8) fill(new DataView(cpu.u8.buffer), state + S.XMM + i, 8, draw, start.strange);
  for (const at of [S.FSW, S.FTW, S.FTOP]) cpu.i32[(state + at) >> 2] = 0;
  cpu.i32[(state + S.FCW) >> 2] = start.fcw;
  cpu.i32[(state + S.MXCSR) >> 2] = start.mxcsr;
  for (let slices = 0; cpu.run(700) === 'budget';) if (++slices > 1000) throw new Error('it does not end');
  const fault = cpu.faultObject.vector;
  cpu.halted = false;
  cpu.shutdown = false;
  const hex = (at: number, bytes: number): string => Buffer.from(cpu.u8.slice(at, at + bytes)).toString('hex');
  const words = [S.FCW, S.FSW, S.FTW, S.FTOP, S.MXCSR].map((at) => cpu.i32[(state + at) >> 2]!.toString(16));
  const registers = Array.from({ length: 8 }, (_, n) => hex(state + S.X87 + n * 16, 10));
  const integers = [0, 1].map((n) => cpu.big(n).toString(16));
  const vectors = Array.from({ length: 5 }, (_, n) => hex(state + S.XMM + n * 16, 16));
  const flags = fault < 0 ? cpu.rflags.toString(16) : '';
  return [
    fault,
    flags,
    ...words,
    ...integers,
    ...registers,
    ...vectors,
    Buffer.from(m.bytes.slice(DATA, DATA + WINDOW)).toString('hex'),
  ].join('\n');
}

const STARTS: readonly Start[] = [
  { fcw: 0x37f, mxcsr: 0x1fa0, strange: 0 },
  { fcw: 0x37f, mxcsr: 0x1f80, strange: 4 },
  { fcw: 0x37f, mxcsr: 0x1fa0, strange: 10 },
  { fcw: 0x27f, mxcsr: 0x9fe0, strange: 10 },
];

test.each([
  ['with hope for ordinary numbers', Infinity, 40],
  ['that gave up hope', 3, 20],
])(
  'random loops give the same bits, flags and memory in regions %s',
  (_name, retreatLimit, programs) => {
    const interpreted = new CodeMachine('interp');
    const compiled = new CodeMachine('auto');
    const cpu: X86Processor = compiled.cpu;
    const again = { rounds: 0, leavings: 0 };
    Object.assign(cpu, { heat: 4, again, synchronous: true, retreatLimit } satisfies Partial<X86Processor>);
    const first = Number(process.env.SEED ?? 1);
    const last = first + Number(process.env.PROGRAMS ?? programs);
    for (let seed = first; seed < last; seed++) {
      const code = program(drawFrom(seed));
      const start = STARTS[seed % STARTS.length]!;
      const expected = outcome(interpreted, code, seed, start);
      expect(outcome(compiled, code, seed, start), `seed ${seed}: ${Buffer.from(code).toString('hex')}`).toBe(expected);
    }
    expect(cpu.stats.regions).toBeGreaterThan(programs);
  },
  120_000,
);

/** Arithmetic that is done as a group: odd numbers are seen at its end, or when a load needs more than a look at memory. */
const GROUP = [
  ...[0x66, 0x0f, 0x28, 0xd8], // movapd xmm3, xmm0
  ...[0xf2, 0x0f, 0x59, 0x06], // mulsd xmm0, [rsi]
  ...[0x48, 0x8d, 0x40, 0x03], // lea rax, [rax + 3]
  ...[0xf2, 0x0f, 0x58, 0xc8], // addsd xmm1, xmm0
  ...[0x66, 0x0f, 0x28, 0xc3], // movapd xmm0, xmm3
  ...[0xf2, 0x0f, 0x5c, 0x56, 0x08], // subsd xmm2, [rsi + 8]
  ...[0x66, 0x0f, 0x58, 0xe3], // addpd xmm4, xmm3
  ...[0x48, 0x83, 0xc6, 0x10], // add rsi, 16
  ...[0xff, 0xc9, 0x75, 0xdb], // dec ecx; jnz
];
/** The same where what is known of pages changes within the group. */
const MOVING_GROUP = [
  ...[0xf2, 0x0f, 0x10, 0x2e], // movsd xmm5, [rsi]
  ...[0xf2, 0x0f, 0x59, 0x06], // mulsd xmm0, [rsi]
  ...[0x48, 0x8d, 0x37], // lea rsi, [rdi]
  ...[0xf2, 0x0f, 0x58, 0x4e, 0x08], // addsd xmm1, [rsi + 8]
  ...[0xf2, 0x0f, 0x5c, 0xd0], // subsd xmm2, xmm0
  ...[0x66, 0x0f, 0x28, 0xc3], // movapd xmm0, xmm3
  ...[0x48, 0x83, 0xc3, 0x10], // add rbx, 16
  ...[0x48, 0x8d, 0x33], // lea rsi, [rbx]
  ...[0xff, 0xc9, 0x75, 0xdd], // dec ecx; jnz
];
const DENORMAL = 0x000f_0000_0000_0001n;
const TINY = 0x0010_0000_0000_0001n;

describe.each([
  ['before a page that is not there', HOLE - 1600, GROUP],
  ['of which half is in a page that is not there', HOLE - 1592, GROUP],
  ['across pages', DATA + 4096 - 792, GROUP],
  ['in two pages', DATA, MOVING_GROUP],
])('a group of SSE arithmetic with its operands %s', (_where, from, code) => {
  const machines = [new CodeMachine('interp'), new CodeMachine('auto', 4)] as const;
  machines[1].cpu.retreatLimit = Infinity;
  test.each([
    ['ordinary numbers', 0n, 0n],
    ['a zero', 0x3ffn << 52n, 0n],
    ['a denormal', 0x3ffn << 52n, DENORMAL],
    ['an infinity', 0x3ffn << 52n, 0x7ffn << 52n],
    ['a signalling NaN', 0x3ffn << 52n, 0x7ff4n << 48n],
    ['a product that underflows', TINY, 0x3fe0_0000_0000_0001n],
    ['a product that is rounded to the least normal number', 0x001f_ffff_ffff_ffffn, 0x3fe0n << 48n],
    ['a product that overflows', 0x7fen << 52n, 0x400n << 52n],
  ])('%s', (which, factor, odd) => {
    const [expected, actual] = machines.map((m) => {
      const { cpu, view } = m;
      m.prepare(code);
      for (let i = 0; i < 300 && from + i * 8 < HOLE; i++) view.setFloat64(from + i * 8, 1 + i / 7, true);
      if (which !== 'ordinary numbers') view.setBigUint64(from + 99 * 16, odd, true);
      const { state } = cpu;
      for (let n = 0; n < 5; n++) for (const half of [0, 8]) cpu.f64[(state + S.XMM + n * 16 + half) >> 3] = n + 1.5;
      if (factor) for (const n of [0, 3]) cpu.u64[(state + S.XMM + n * 16) >> 3] = factor;
      cpu.i32[(state + S.MXCSR) >> 2] = 0x1fa0;
      cpu.setBig(3, BigInt(from));
      cpu.setBig(6, BigInt(from));
      cpu.setBig(7, BigInt(DATA + 0x5000));
      cpu.setBig(1, 150n);
      cpu.setBig(0, 0n);
      // Compiled code takes over between two slices.
      while (cpu.run(300) === 'budget');
      const fault = cpu.faultObject.vector;
      cpu.halted = false;
      cpu.shutdown = false;
      const vectors = Buffer.from(cpu.u8.slice(state + S.XMM, state + S.XMM + 80)).toString('hex');
      return [fault, vectors, cpu.big(0), cpu.big(6), cpu.i32[(state + S.MXCSR) >> 2]].join('\n');
    });
    expect(actual).toBe(expected);
    expect(machines[1].cpu.stats.regions).toBeGreaterThan(0);
  });
});
