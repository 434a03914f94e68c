/**
 * x87 arithmetic in compiled regions, which has ways of its own for ordinary numbers, against the interpreter's, with the status
 * word after each operation: ties, carries, cancellation, the ends of the range, quotients and roots next to the middle between two numbers.
 */
import { setFlagsFromString } from 'node:v8';
import { beforeAll, describe, expect, test } from 'vitest';
import { S } from '../../../emulator/cpu/layout.ts';
import { multiplyAdd } from '../../../emulator/cpu/wasm/fused.ts';
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

/** Doubles of few bits, or at the ends of a double's range: results are exact, or in the middle between two, or out of range. */
function double(): Number80 {
  const kind = random(4);
  if (kind === 0 && random(4) === 0) return { significand: 0n, signExponent: random(2) << 15 };
  const significand = kind < 2 ? TOP | (BigInt(random(8)) << BigInt(50 + random(11))) : (random64() | TOP) & -0x800n;
  const exponent =
    kind === 3
      ? [0x3c01, 0x3c40, 0x3e6e, 0x3e70, 0x43e6, 0x43e7, 0x43e8, 0x43fe][random(8)]!
      : 0x3fff + random(90) - 45;
  return { significand, signExponent: exponent | (random(2) << 15) };
}
/** The first one near to the second one's opposite, or far away. */
function apart(): [Number80, Number80] {
  const b = ordinary();
  const far = random(3) ? random(140) - 70 : random(3) - 1;
  const significand = random(2) ? b.significand ^ BigInt(random(4096)) : random64() | TOP;
  return [{ significand, signExponent: (b.signExponent ^ (random(2) << 15)) + far }, b];
}

/** The same exponent and some first bits, however many. */
function alike(): [Number80, Number80] {
  const b = ordinary();
  const significand = (b.significand ^ (random64() >> BigInt(1 + random(63)))) | TOP;
  return [{ significand, signExponent: b.signExponent ^ (random(2) << 15) }, b];
}

/** Numbers whose product is next to the middle between two singles. */
function nearSingles(): [Number80, Number80] {
  const a = random64() | TOP;
  const middle = BigInt(2 ** 24 + random(2 ** 24) + 1) | 1n;
  let b = (middle << 103n) / a + BigInt(random(3) - 1);
  while (b >= TOP * 2n) b >>= 1n;
  return [
    { significand: a, signExponent: 0x3fff },
    { significand: b, signExponent: 0x3ffd | (random(2) << 15) },
  ];
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
  ['fld m64, fadd m64', `${POP} dd5e38 dd4638 dc4638`],
  ['fld m64, fmul m64, fst m64', `${POP} dd5638 dd4638 dc4e38 dd5638 d9c9 ddd8`],
  ['fld m64, fadd m64 of two', `dd5e38 dd5e30 dd4638 dc4630`],
  ['fld m64, fsub m64 of two', `dd5e38 dd5e30 dd4638 dc6630`],
  ['fld m64, fmul m64 of two', `dd5e38 dd5e30 dd4638 dc4e30`],
  ['fld m64, fdivr m64 of two', `dd5e38 dd5e30 dd4638 dc7e30`],
  ['fld m64, fsqrt', `${POP} dd5e38 dd4638 d9fa`],
  ['faddp, fst m64 and m32', `dec1 dd5638 d95630`],
  ['fchs, fmulp, fabs', `d9e0 dec9 d9e1`],
  ['fist m32, fild m64', `${POP} db5638 d8c0 df7e30 df6e30`],
  ['fcmovb, frndint', `dbf1 dac1 d9fc d9c9 ddd8`],
  ['fcom, fnstsw', `d8d1 dfe0 668946 38 d9c9 ddd8`],
  ['fcomip, fnstsw', `dbf1 d9c9 ddd8`],
  // Results whose doubles are not rounded, as operands of every operation, and at the end of a block.
  ['products of products', `d8c9 d8c8 d8c9 d8c8 dec9`],
  ['product of a sum of a product', `d9c0 d8ca dec2 dec9`],
  ['root of a sum of squares', `d8c8 d9c9 d8c8 dec1 d9fa`],
  ['quotient of a number and a root', `d9c1 d8c9 d9e1 d9fa def9 dec9`],
  ['quotient of products', `d9c1 d8c9 d9c0 d8ca def9 dec9 def9`],
  ['product of a difference of squares', `d9c1 d8c8 d9c9 d8c8 dee9 dec9`],
  ['sums of products of doubles', `dd5e38 dd5e30 dd4638 dc4e30 dd4638 dc4e38 dec1 dc4630 dc6e38`],
  ['fmul, a jump, fmulp', `d8c9 eb00 d8c8 d8c9 eb00 dec9`],
  ['fsubp, a jump, fmul m64', `dd5638 dee9 eb00 dc4e38`],
  ['fmulp, fst m64 and m32', `dec9 dd5638 d95630`],
  ['fmulp, fist m32', `dec9 db5638`],
  ['fmul, fadd st, st, fchs, fdivp', `d8c9 d8c0 d9e0 def9`],
  ['fmulp, frndint', `dec9 d9fc`],
  ['fmul, fcom, fnstsw', `d8c9 d8d1 dfe0 668946 38 d9c9 ddd8`],
  ['48 × fmul', `${'d8c9'.repeat(48)} ddd9`],
  ['48 × fmul in a loop', `ba30000000 d8c9 ffca 75fa ddd9`],
  // C1, where what it is made of goes.
  ['fmul, fcmovb, fnstsw', `dbf1 d8c9 dac1 dfe0 668946 38 d9c9 ddd8`],
  ['fmulp, fst m64, fcmovb, fnstsw', `d9c1 dec9 dbf1 dd5638 dac1 dfe0 668946 32 d9c9 ddd8`],
  ['fmul, fcomi, a jump, fnstsw', `d8c9 dbf1 eb00 dfe0 668946 38 d9c9 ddd8`],
  // All status words of a loop, on whose way back the guest may have to stop.
  ['a loop of fnstsw, fmul', `ba08000000 dfe0 66014632 d8c9 ffca 75f4 ddd9`],
  ['a loop of fnstsw, fmul, fst m64', `ba08000000 dfe0 66014632 d8c9 dd5638 ffca 75f1 ddd9`],
  ['fst m64, fcomi, a jump, fnstsw', `dd5638 dbf1 eb00 dfe0 668946 32 d9c9 ddd8`],
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
  // Compiled code takes over between two slices, and stops wherever it may.
  for (let k = 0; cpu.run(20 + (k % 8) * 60) === 'budget'; k++);
  cpu.halted = false;
  const lines = pairs.map(([a, b], i) => {
    const hex = (x: Number80): string => `${x.signExponent.toString(16)}:${x.significand.toString(16)}`;
    const at = DATA + i * STRIDE;
    return `${hex(a)} ${hex(b)} ${Buffer.from(m.bytes.slice(at + 32, at + 64)).toString('hex')}`;
  });
  return [...lines, cpu.i32[(cpu.state + S.FSW) >> 2]!.toString(16)].join('\n');
}

// Node 20 has it behind a flag.
setFlagsFromString('--experimental-wasm-relaxed-simd');
const HOSTS: readonly [string, false | undefined][] = [
  ['with products as this host can take them from a number', undefined],
  ['with products taken apart', false],
];

describe.each(HOSTS)('%s', (_how, fused) => {
  const machines = (): { interpreted: CodeMachine; compiled: CodeMachine } => {
    const compiled = new CodeMachine('auto', 4);
    compiled.cpu.retreatLimit = Infinity;
    return { interpreted: new CodeMachine('interp'), compiled };
  };
  beforeAll(() => {
    multiplyAdd.fused = fused;
  });

  describe.each(OPERATIONS)('%s', (_name, operation) => {
    const { interpreted, compiled } = machines();
    const code = loop(operation);
    const cases: [string, () => [Number80, Number80], number][] = [
      ['ordinary numbers', () => [ordinary(), ordinary()], 0x37f],
      ['numbers at the ends of the range', () => [extreme(), extreme()], 0x37f],
      ['doubles', () => [double(), double()], 0x37f],
      ['sums with much that cancels, and with parts far apart', apart, 0x37f],
      ['numbers that are alike', alike, 0x37f],
      ['products next to the middle between two singles', nearSingles, 0x37f],
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
});
