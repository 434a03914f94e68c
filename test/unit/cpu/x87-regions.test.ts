/**
 * x87 arithmetic in compiled regions, which has ways of its own for ordinary numbers, against the interpreter's, with the status
 * word after each operation: ties, carries, cancellation, the ends of the range, quotients and roots next to the middle between two numbers.
 */
import { describe, expect, test } from 'vitest';
import { S } from '../../../emulator/cpu/layout.ts';
import { CodeMachine, DATA } from './machine-code.ts';

const bytes = (s: string): number[] => [...Buffer.from(s.replace(/\s/g, ''), 'hex')];

interface Number80 {
  significand: bigint;
  signExponent: number;
}

const TOP = 1n << 63n;
let seed = 1;
function random(n: number): number {
  seed = (Math.imul(seed ^ (seed >>> 15), 0x2c1b3c6d) + 0x9e3779b9) | 0;
  const y = Math.imul(seed ^ (seed >>> 12), 0x297a2d39);
  return ((y ^ (y >>> 15)) >>> 0) % n;
}
const random64 = (): bigint => (BigInt(random(2 ** 32)) << 32n) | BigInt(random(2 ** 32));

const SIGNIFICANDS: readonly bigint[] = [
  TOP,
  TOP + 1n,
  TOP + 3n,
  TOP + 0x400n,
  TOP + 0xc00n,
  TOP + (1n << 32n),
  TOP * 2n - 1n,
  TOP * 2n - 2n,
  TOP * 2n - 0x400n,
  TOP * 2n - 0x800n,
  // Where divisors are too large for the quick way.
  0xffff7fffffffffffn,
  0xffff800000000000n,
  0xffff800000000001n,
  0xc000000000000000n,
  0xaaaaaaaaaaaaaaaan,
  0xaaaaaaaaaaaaaaabn,
];

function ordinary(): Number80 {
  const kind = random(4);
  const significand =
    kind === 0
      ? SIGNIFICANDS[random(SIGNIFICANDS.length)]!
      : kind === 1
        ? (random64() | TOP) & -0x800n
        : kind === 2
          ? (BigInt(random(64)) << 58n) | TOP
          : random64() | TOP;
  const near = random(8);
  const exponent = near ? 0x3fff + random(6) - 3 : 0x3fff + random(160) - 80;
  return { significand, signExponent: exponent | (random(2) << 15) };
}
const ENDS = [0x0001, 0x0002, 0x0040, 0x0041, 0x3c00, 0x3c01, 0x3fff, 0x43fe, 0x43ff, 0x7ffd, 0x7ffe];
function extreme(): Number80 {
  if (random(8) === 0) return { significand: 0n, signExponent: random(2) << 15 };
  const significand = random(2) ? SIGNIFICANDS[random(SIGNIFICANDS.length)]! : random64() | TOP;
  return { significand, signExponent: ENDS[random(ENDS.length)]! | (random(2) << 15) };
}

/** Numbers whose quotient is nearly in the middle between two, or nearly in the middle of its 64 bits. */
function nearTie(): [Number80, Number80] {
  if (random(16) === 0)
    return [
      { significand: TOP + 0x80000000n + BigInt(random(2)), signExponent: 0x3fff },
      { significand: TOP * 2n - 1n - BigInt(random(2)), signExponent: 0x3fff },
    ];
  for (;;) {
    const b = random64() | TOP | 1n;
    // a × 2^64 is half of b, and little, modulo b.
    let [r0, r1, t0, t1] = [b, (1n << 64n) % b, 0n, 1n];
    while (r1) [r0, r1, t0, t1] = [r1, r0 % r1, t1, t0 - (r0 / r1) * t1];
    if (r0 !== 1n) continue;
    const rest = b / 2n + BigInt(random(8) - 4);
    const a = (((rest * t0) % b) + b) % b;
    if (a >= TOP)
      return [
        { significand: a, signExponent: 0x3fff },
        { significand: b, signExponent: 0x4005 },
      ];
  }
}

const PAIRS = 600;
/** a, b, result (10 bytes each, 16 apart), status word. */
const STRIDE = 64;

/** Loads a and b, clears the flags, operates, stores status and result. */
const loop = (operation: string): number[] => {
  const body = bytes(`
    db2e db6e10 dbe2
    ${operation}
    9bdd7e30 db7e20
    4883c6${STRIDE.toString(16)} ffc9 0f85`);
  const back = -(body.length + 4);
  return [...body, back & 0xff, (back >> 8) & 0xff, 0xff, 0xff];
};
const POP = 'd9c9ddd8';

const OPERATIONS: readonly [string, string][] = [
  ['faddp', 'dec1'],
  ['fsubp', 'dee9'],
  ['fsubrp', 'dee1'],
  ['fmulp', 'dec9'],
  ['fdivp', 'def9'],
  ['fdivrp', 'def1'],
  ['fadd st, st', `${POP} d9c0 ddd9 d8c0`],
  ['fmul st, st', `${POP} d8c8`],
  ['fdiv st, st', `${POP} d8f0`],
  ['fsub st, st', `${POP} d8e0`],
  ['fsqrt', `${POP} d9e1 d9fa`],
  ['fst m64', `${POP} dd5638`],
  ['fst m32', `${POP} d95638`],
  ['fmul m64', `dd5e38 dc4e38`],
  ['fadd m32', `d95e38 d84638`],
  ['fcomip, fnstsw', `dbf1 d9c9 ddd8`],
];

function outcome(m: CodeMachine, code: readonly number[], pairs: readonly [Number80, Number80][], fcw: number): string {
  const { cpu, view } = m;
  m.prepare(code);
  pairs.forEach((pair, i) =>
    pair.forEach((x, k) => {
      view.setBigUint64(DATA + i * STRIDE + k * 16, x.significand, true);
      view.setUint16(DATA + i * STRIDE + k * 16 + 8, x.signExponent, true);
    }),
  );
  cpu.u8.fill(0, cpu.state + S.X87, cpu.state + S.X87 + 128);
  for (const at of [S.FSW, S.FTW, S.FTOP]) cpu.i32[(cpu.state + at) >> 2] = 0;
  cpu.i32[(cpu.state + S.FCW) >> 2] = fcw;
  cpu.setBig(6, BigInt(DATA));
  cpu.setBig(1, BigInt(pairs.length));
  // Compiled code takes over between two slices.
  while (cpu.run(500) === 'budget');
  cpu.halted = false;
  const lines = pairs.map(([a, b], i) => {
    const hex = (x: Number80): string => `${x.signExponent.toString(16)}:${x.significand.toString(16)}`;
    const at = DATA + i * STRIDE;
    return `${hex(a)} ${hex(b)} ${Buffer.from(m.bytes.slice(at + 32, at + 64)).toString('hex')}`;
  });
  return [...lines, cpu.i32[(cpu.state + S.FSW) >> 2]!.toString(16)].join('\n');
}

describe.each(OPERATIONS)('%s', (_name, operation) => {
  const interpreted = new CodeMachine('interp');
  const compiled = new CodeMachine('auto', 4);
  compiled.cpu.retreatLimit = Infinity;
  const code = loop(operation);
  const cases: [string, () => [Number80, Number80], number][] = [
    ['ordinary numbers', () => [ordinary(), ordinary()], 0x37f],
    ['numbers at the ends of the range', () => [extreme(), extreme()], 0x37f],
    ['quotients next to the middle', nearTie, 0x37f],
    ['53 bits', () => [ordinary(), ordinary()], 0x27f],
    ['24 bits, rounded up', () => [ordinary(), ordinary()], 0x87f],
  ];
  test.each(cases)('%s', (_which, pair, fcw) => {
    const pairs = Array.from({ length: PAIRS }, pair);
    const expected = outcome(interpreted, code, pairs, fcw);
    expect(outcome(compiled, code, pairs, fcw)).toBe(expected);
    expect(compiled.cpu.stats.regions).toBeGreaterThan(0);
  });
});
