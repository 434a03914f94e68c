/**
 * x87 numbers as pairs of doubles, as a compiled region keeps them in locals (jit/x87.ts): a double next to the number, and the
 * rest, which together have room for 64 bits. So it is where rounding is to nearest with 64 bits. An operation gives its exact
 * result as a difference of two doubles, or one that is near enough to it, and that is rounded by adding and taking away a number whose
 * last place is worth what the 64th bit is. Whatever that does not settle is `rare`: zeros; results that are a power of two (of the numbers
 * just below it the 64th bit is worth half); ones too small to take the rests of, and too large ones; sums of numbers far apart; and what
 * is next to another result or to the middle between two, where it is not known exactly on which side.
 *
 * The double need not be the number rounded: what comes out of products, quotients and roots is left as it is, which saves the three
 * operations that would make it so, as long as the rest does not reach too far (`Pair.reach`, known when the code is written). Of such
 * a number neither end of a power of two is near (`unlessCommon`), so that the double tells the exponent all the same.
 *
 * Sizes of rests are in units: what the 64th bit is worth. Numbers are zero or at least 2^-463, of which the last place is worth that
 * (`LEAST` and 63 bits), and below `LARGEST`: so nothing that is taken of them here underflows, and nothing overflows but products and
 * quotients, which is seen by their size. Each number is in lane 0 of a vector, because some operations are there for vectors
 * only; what is in lane 1 does not matter.
 */
import { F64X2, I32X4, I64X2 } from '../wasm/simd.ts';
import type { FunctionBuilder, Label, Local } from '../wasm/builder.ts';
import { F64, I32, I64, V128, i32, i64, k32, kf64, kv64x2, v128, type Expr } from '../wasm/expr.ts';
import { BIAS, MAX_EXPONENT } from './common.ts';

/** A number: two doubles in lanes 0 of vectors, evaluated. `plain`: it is known to be a double, and the rest zero. */
export interface Pair {
  readonly high: Expr;
  readonly low: Expr;
  readonly plain: boolean;
  /** Most that the rest can be, in units of the double's last place; 0 where it is plain, and only there. */
  readonly reach: number;
}
/** The reach of a number whose double is the number rounded, and the longest one there is. */
export const ROUNDED = 0.5;
export const LONGEST = 128;
export interface PairLocals {
  readonly high: Local;
  readonly low: Local;
}

/** Vectors of the same number twice. */
export interface Constants {
  /** The exponent of a double. */
  readonly exponent: Expr;
  /** Times a power of two: 1.5 × 2^52 units of a number of that exponent. */
  readonly grid: Expr;
  /** By number of bits less one: how far from a sum's exponent those of its terms may be, if so many bits may cancel (`roundSum`). */
  readonly apart: readonly Expr[];
}

/** What is kept of the status word; of vectors lane 0 counts. */
export interface Status {
  readonly constants: Constants;
  /** Multiplies and adds with a single rounding (wasm/fused.ts). */
  readonly fused: boolean;
  /** Not zero if a result was inexact: PE is to be set. */
  readonly residue: Local;
  /** What the double of the last result is more than the exact one: with the rest added, what the result is more (`excessOf`). */
  readonly over: Local;
}

export const BIAS64 = 1023;
/** Bits of a power of two as a double. */
export const power = (e: number): bigint => BigInt(BIAS64 + e) << 52n;
const both = (bits: bigint): Expr => kv64x2(bits, bits);
const powers = (e: number): Expr => both(power(e));

/** Exponents of the least number that is loaded, or a product or quotient, and of what is too large. */
export const LEAST = -400;
export const LARGEST = 1000;

const SIGNS = both(1n << 63n);
/** The window for exponents of a sum's terms: 32 of them, the largest one of as many more than the sum's as bits may cancel. */
const WINDOW = 32;
const apartFor = (lost: number): bigint => BigInt(WINDOW - lost) << 52n;
/** `Constants` in their order. */
export const CONSTANTS: readonly bigint[] = [0x7ffn << 52n, power(52 - 63) | (1n << 51n), apartFor(1), apartFor(2)];
const constantsOf = ([exponent, grid, ...apart]: readonly Expr[]): Constants => ({
  exponent: exponent!,
  grid: grid!,
  apart,
});
/** Written where they are used. */
export const IMMEDIATE = constantsOf(CONSTANTS.map(both));
/** From memory, which is shorter, and where they are used often also quicker: hosts make them anew in many places. */
export const constantsAt = (address: number): Constants =>
  constantsOf(CONSTANTS.map((_, k) => v128.load(k32(address + k * 16))));
export const ZERO_VECTOR = kv64x2(0n, 0n);
export const plainPair = (high: Expr): Pair => ({ high, low: ZERO_VECTOR, plain: true, reach: 0 });
export const ZERO = plainPair(ZERO_VECTOR);

/** c − a × b, rounded once. */
const minusProduct = (a: Expr, b: Expr, c: Expr): Expr => v128.ternary(F64X2.relaxed_nmadd, a, b, c);
const splat = (x: number): Expr => v128.splat(F64X2.splat, kf64(x));
const { add, sub, mul, div, abs, lt, eq } = F64X2;
const bin = v128.bin;

const LANES = (first: number, second: number): number[] =>
  [first, second].flatMap((lane) => Array.from({ length: 8 }, (_, i) => lane * 8 + i));
const SECOND_FIRST = LANES(1, 0);
const FIRSTS = LANES(0, 2);
/** A vector of two vectors' first lanes, and its parts. */
export const join = (x: Expr, y: Expr): Expr => v128.shuffle(x, y, FIRSTS);
export const second = (x: Expr): Expr => v128.shuffle(x, x, SECOND_FIRST);

export const bitsOf = (x: Expr): Expr => v128.extract(I64X2.extract, I64, x, 0);
/** Whether a number is not too large (i32). */
export const isBounded = (high: Expr): Expr => holds(bin(lt, v128.un(abs, high), powers(LARGEST)));

/** What a result is more than the exact one. */
export const excessOf = (over: Expr, low: Expr): Expr => bin(add, over, low);
/** What a double (the number as it was stored) is more than the number. */
export const excessOfDouble = (v: Expr, { high, low }: Pair): Expr => bin(sub, bin(sub, v, high), low);
/** C1, 0 or 1, of a result and what it is more than the exact one. */
export const isUp = (excess: Expr, result: Expr): Expr =>
  i32.and(i64.ge_s(i64.xor(bitsOf(excess), bitsOf(result)), 0), i64.ne(i64.shl(bitsOf(excess), 1), 0));
/** PE, 0 or 1. */
export const isInexact = (residue: Expr): Expr => i64.ne(i64.shl(bitsOf(residue), 1), 0);

/** A double (f64) in a vector. */
export const vectorOf = (x: Expr): Expr => v128.replace(F64X2.replace, ZERO_VECTOR, 0, x);

/** A number as a constant. */
export function constantPair(signExponent: number, significand: bigint): Pair {
  const bits = new DataView(new ArrayBuffer(8));
  const bitsOfNumber = (x: number): bigint => {
    bits.setFloat64(0, x);
    return bits.getBigUint64(0);
  };
  const high = Number(significand);
  const scale = 2 ** ((signExponent & MAX_EXPONENT) - BIAS - 63);
  const rest = significand - BigInt(high);
  const vector = (x: bigint): Expr => kv64x2(bitsOfNumber(Number(x) * scale), 0n);
  if (rest === 0n) return significand === 0n ? ZERO : plainPair(vector(BigInt(high)));
  return { high: vector(BigInt(high)), low: vector(rest), plain: false, reach: ROUNDED };
}

/** Runs `common`, in which a branch to its label goes on with `rare` instead. */
function unless(f: FunctionBuilder, common: (rare: Label) => void, rare: () => void): void {
  f.block((done) => {
    f.block((label) => {
      common(label);
      f.br(done);
    });
    rare();
  });
}

/** Whether lane 0 is ones. */
const holds = (mask: Expr): Expr => i32.and(v128.test(I64X2.bitmask, mask), 1);
const every = (...masks: readonly Expr[]): Expr => masks.reduce(v128.and);

/** The difference of two doubles, of which the second one is small against the first. */
interface Rounded {
  /** A double next to it, and the rest of it rounded to units. */
  readonly high: Expr;
  readonly low: Expr;
  /** What these are more than it. */
  readonly over: Expr;
  readonly excess: Expr;
  /** `high`'s exponent alone. */
  readonly size: Expr;
  readonly reach: number;
}

/** x − y, of which y is at most `reach` in x's last places. `settled`: the double is to be the difference rounded. */
function round(f: FunctionBuilder, { constants }: Status, x: Expr, y: Expr, reach: number, settled: boolean): Rounded {
  const high = settled ? f.let(bin(sub, x, y)) : x;
  const over = settled ? f.let(bin(add, bin(sub, high, x), y)) : y;
  const size = f.let(v128.and(high, constants.exponent));
  const grid = f.let(bin(mul, size, constants.grid));
  const low = f.let(bin(sub, grid, bin(add, over, grid)));
  return { high, low, over, excess: f.let(excessOf(over, low)), size, reach: settled ? ROUNDED : reach };
}

/** The upper half of a vector's first lane. */
const upperHalf = (x: Expr): Expr => v128.extract(I32X4.extract, I32, x, 1);

/** By how much a's exponent is more than b's, with what their fractions add: in units of which `ONE` make one. */
const exponentsApart = (a: Expr, b: Expr): Expr => i32.shl(upperHalf(v128.bin(I32X4.sub, a, b)), 1);
const ONE = 1 << 21;

/** What takes an exponent that is common to the upper half of all that there are. */
const COMMON = 1024 - (BIAS64 + LEAST);

/**
 * Goes on with `rare` where units of the result are not those that were thought, for powers of two and zeros (and whatever begins
 * like one, or where the rest may reach that far), and for what is too small, or so large that it may be too large, infinite or not a
 * number: the upper bit of the exponent and any one of the fraction are to be ones.
 */
function unlessCommon(f: FunctionBuilder, { high, reach }: Rounded, rare: Label): void {
  // Just below a power of two, one more in the fraction makes it zero; so two of its values are none, and its last bit does not count.
  const loose = reach > ROUNDED ? 2 : 0;
  const upper = i32.add(i32.shl(upperHalf(high), 1), k32(COMMON * ONE + loose));
  f.brIf(i32.le_u(i32.and(upper, k32((1 << 31) | (ONE - 2 - loose))), k32(1 << 31)), rare, 0);
}

/**
 * Goes on with `rare` where a result is less than 2^-22 units from the exact one, or that far from the middle between two, or not a
 * number: the exponent of what it is more is to be 65 to 85 less than its own one, and not all upper bits may be ones with the largest.
 */
function unlessClear(f: FunctionBuilder, { excess, size }: Rounded, rare: Label): void {
  f.brIf(i32.gt_u(i32.add(exponentsApart(excess, size), 85 * ONE), k32(20 * ONE + ONE - 4)), rare, 0);
}

/**
 * How much the exponents of two numbers that are added may differ. Below that all bits of their sum are in 103 places, and of the
 * lower half of it there are not more than a double has. Rests that reach further take some of these.
 */
const mostApart = (a: Pair, b: Pair): number => 39 - Math.max(0, Math.ceil(Math.log2(a.reach + b.reach)));
/** Whether they do (i32). */
const areFar = (a: Pair, b: Pair): Expr => {
  const most = mostApart(a, b) * ONE;
  return i32.gt_u(i32.add(exponentsApart(a.high, b.high), most), 2 * most);
};

/** How far the rest of a sum reaches whose exponent is not less than those of a and b by more than `lost`. */
const sumReach = (a: Pair, b: Pair, lost: number): number => ROUNDED + 2 ** lost * (a.reach + b.reach);
/** Bits that may cancel in a sum before its double must be rounded: some, but not so many that products would pay for it. */
const mayCancel = (a: Pair, b: Pair): number | undefined =>
  [2, 1].find((lost) => sumReach(a, b, lost) <= (lost === 1 ? LONGEST / 2 : LONGEST / 8));

function put(f: FunctionBuilder, out: PairLocals, status: Status, r: Rounded): void {
  f.set(out.high, r.high);
  f.set(out.low, r.low);
  f.set(status.over, r.over);
  f.set(status.residue, v128.or(status.residue.get, r.excess));
}

/** A result that was not rounded. */
export function putExact(f: FunctionBuilder, out: PairLocals, status: Status, high: Expr, low: Expr): void {
  f.set(out.high, high);
  f.set(out.low, low);
  f.set(status.over, v128.un(F64X2.neg, out.low.get));
}

/**
 * x − y, of which y may err by 2^-23 units; what that does not settle is left to `rare`.
 *
 * @returns how far the result's rest reaches
 */
function finish(
  f: FunctionBuilder,
  out: PairLocals,
  status: Status,
  x: Expr,
  y: Expr,
  reach: number,
  rare: (r: Rounded) => void,
): number {
  const r = round(f, status, x, y, reach, reach > LONGEST);
  unless(
    f,
    (label) => {
      unlessClear(f, r, label);
      unlessCommon(f, r, label);
      put(f, out, status, r);
    },
    () => rare(r),
  );
  return r.reach;
}

/** Lanes of ones where r = x + y is exact: taking either away leaves the other. */
const isExact = (r: Expr, x: Expr, y: Expr): Expr => v128.and(bin(eq, bin(sub, r, x), y), bin(eq, bin(sub, r, y), x));
const isZero = (x: Expr): Expr => bin(eq, x, ZERO_VECTOR);

/**
 * out = a + b, or a − b.
 *
 * @param thorough less is left to `rare`; here and below
 * @returns how far the result's rest reaches
 */
export function sum(
  f: FunctionBuilder,
  out: PairLocals,
  status: Status,
  a: Pair,
  b: Pair,
  negate: boolean,
  thorough: boolean,
  rare: () => void,
): number {
  const [plus, minus] = negate ? [sub, add] : [add, sub];
  const s = f.let(bin(plus, a.high, b.high));
  const part = f.let(bin(sub, s, a.high));
  // What it is more than the sum.
  const over = f.let(bin(add, bin(sub, bin(sub, s, part), a.high), bin(minus, part, b.high)));
  /** Zero, which has the sign that the sum of the upper parts has; or what is exact, and no rounding of it is in doubt. */
  const again = (r: Rounded, y: Expr, exact: readonly Expr[]): void =>
    f.block((done) => {
      f.if(holds(every(isZero(s), isZero(y))), () => {
        putExact(f, out, status, s, ZERO_VECTOR);
        f.br(done);
      });
      if (thorough)
        f.if(holds(every(...exact, bin(F64X2.ne, v128.un(abs, r.high), r.size), bin(eq, r.excess, r.excess))), () => {
          put(f, out, status, r);
          f.br(done);
        });
      if (thorough)
        f.if(holds(every(...exact, isZero(r.excess))), () => {
          putExact(f, out, status, r.high, r.low);
          f.br(done);
        });
      rare();
    });
  if (a.plain && b.plain) {
    const r = round(f, status, s, over, ROUNDED, false);
    unless(
      f,
      (label) => {
        unlessCommon(f, r, label);
        put(f, out, status, r);
      },
      () => again(r, over, []),
    );
    return ROUNDED;
  }
  const lows = a.plain ? f.let(bin(plus, ZERO_VECTOR, b.low)) : b.plain ? a.low : f.let(bin(plus, a.low, b.low));
  const y = f.let(bin(sub, over, lows));
  const lost = thorough ? undefined : mayCancel(a, b);
  const r = lost === undefined ? round(f, status, s, y, 0, true) : roundSum(f, status, a, b, s, y, lost);
  unless(
    f,
    (label) => {
      if (lost === undefined) f.brIf(areFar(a, b), label, 0);
      unlessCommon(f, r, label);
      put(f, out, status, r);
    },
    () => {
      const exact = thorough ? [bin(eq, bin(sub, over, y), lows), bin(eq, bin(add, y, lows), over)] : [];
      if (thorough && !a.plain && !b.plain)
        exact.push(isExact(lows, a.low, negate ? f.let(v128.un(F64X2.neg, b.low)) : b.low));
      again(r, y, exact);
    },
  );
  return r.reach;
}

/** Rounds s − y, the sum of a and b, of which up to `lost` bits may cancel; it is zero where they are too far apart. */
function roundSum(f: FunctionBuilder, status: Status, a: Pair, b: Pair, s: Expr, y: Expr, lost: number): Rounded {
  const high = f.temp(V128);
  const over = f.temp(V128);
  f.set(high, s);
  f.set(over, y);
  // Bits 20 to 30 are the exponent's.
  const from = f.let(v128.bin(I32X4.sub, s, status.constants.apart[lost - 1]!));
  const both = v128.or(v128.bin(I32X4.sub, a.high, from), v128.bin(I32X4.sub, b.high, from));
  const settle = (): void => {
    f.set(high, bin(sub, s, y));
    f.set(over, bin(add, bin(sub, high.get, s), y));
    f.if(areFar(a, b), () => f.set(high, ZERO_VECTOR));
  };
  f.block((done) => {
    f.block((apart) => {
      f.brIf(i32.and(upperHalf(both), k32(0x7ff00000 & -(WINDOW << 20))), apart, 0);
      f.br(done);
    });
    settle();
  });
  return round(f, status, high.get, over.get, sumReach(a, b, lost), false);
}

/** out = a + a. */
export function twice(f: FunctionBuilder, out: PairLocals, status: Status, a: Pair, rare: () => void): void {
  const high = f.let(bin(add, a.high, a.high));
  f.if(isBounded(high), () => putExact(f, out, status, high, a.plain ? ZERO_VECTOR : bin(add, a.low, a.low)), rare, 1);
}

/** The upper half of a double's bits, rounded, and what is left of it; products of halves are exact. */
function split(f: FunctionBuilder, x: Expr): { high: Expr; low: Expr } {
  const high = f.let(v128.and(bin(I64X2.add, x, both(1n << 26n)), both(-1n << 27n)));
  return { high, low: f.let(bin(sub, x, high)) };
}

/** c − a × b, where c is the product rounded, or the difference needs no rounding. All evaluated. */
function without(f: FunctionBuilder, { fused }: Status, a: Expr, b: Expr, c: Expr): Expr {
  if (fused) return minusProduct(a, b, c);
  const x = split(f, a);
  const y = a === b ? x : split(f, b);
  let left = bin(sub, c, bin(mul, x.high, y.high));
  left = bin(sub, bin(sub, left, bin(mul, x.high, y.low)), bin(mul, x.low, y.high));
  return bin(sub, left, bin(mul, x.low, y.low));
}

/** How far the rest of a product or quotient of two numbers reaches, or (of one) of a square root. */
const reachOf = (a: Pair, b?: Pair): number => ROUNDED + 2 * (a.reach + (b?.reach ?? 0));

/** out = a × b. @returns how far its rest reaches */
export function product(
  f: FunctionBuilder,
  out: PairLocals,
  status: Status,
  a: Pair,
  b: Pair,
  thorough: boolean,
  rare: () => void,
): number {
  // One with a rest goes first.
  const [x, y] = a.plain ? [b, a] : [a, b];
  const p = f.let(bin(mul, x.high, y.high));
  const left = f.let(without(f, status, x.high, y.high, p));
  const again = (r: Rounded, exact: readonly Expr[]): void =>
    f.block((done) => {
      // A zero has the sign that the product of the upper parts has.
      f.if(holds(v128.or(isZero(a.high), isZero(b.high))), () => {
        putExact(f, out, status, p, ZERO_VECTOR);
        f.br(done);
      });
      const least = bin(F64X2.ge, v128.un(abs, r.high), powers(LEAST));
      if (thorough)
        f.if(holds(every(...exact, isZero(r.excess), least)), () => {
          putExact(f, out, status, r.high, r.low);
          f.br(done);
        });
      rare();
    });
  if (x.plain) {
    const r = round(f, status, p, left, ROUNDED, false);
    unless(
      f,
      (label) => {
        unlessCommon(f, r, label);
        put(f, out, status, r);
      },
      () => again(r, []),
    );
    return ROUNDED;
  }
  // The product of both rests is below 2^-25 units.
  const { fused } = status;
  const less = (u: Expr, v: Expr, from: Expr): Expr =>
    fused ? minusProduct(u, v, from) : bin(sub, from, bin(mul, u, v));
  let over = less(x.low, y.high, left);
  if (!y.plain) over = less(x.high, y.low, over);
  over = f.let(over);
  return finish(f, out, status, p, over, reachOf(x, y), (r) => {
    const first = f.let(bin(mul, x.low, y.high));
    if (!thorough) {
      if (!y.plain) return again(r, []);
      // By a power of two.
      const exponent = i64.eqz(i64.shl(bitsOf(y.high), 12));
      const inside = v128.andnot(bin(lt, v128.un(abs, p), powers(LARGEST)), bin(lt, v128.un(abs, p), powers(LEAST)));
      f.if(
        i32.and(exponent, holds(inside)),
        () => putExact(f, out, status, p, first),
        () => again(r, []),
      );
      return;
    }
    // By a number of few bits it may be exact.
    const exact = [isZero(without(f, status, x.low, y.high, first)), bin(eq, bin(sub, left, over), first)];
    exact.push(bin(eq, bin(add, over, first), left));
    if (!y.plain) exact.push(isZero(y.low));
    again(r, exact);
  });
}

/** out = a ÷ b. @returns how far its rest reaches */
export function quotient(
  f: FunctionBuilder,
  out: PairLocals,
  status: Status,
  a: Pair,
  b: Pair,
  rare: () => void,
): number {
  const q = f.let(bin(div, a.high, b.high));
  const inverse = f.let(bin(div, splat(-1), b.high));
  let left: Expr;
  if (status.fused) left = minusProduct(q, b.high, a.high);
  else {
    const p = f.let(bin(mul, q, b.high));
    // p is near a: the difference is exact, and so is what is left in the end.
    left = bin(add, bin(sub, a.high, p), without(f, status, q, b.high, p));
  }
  if (!b.plain) {
    const rest = a.plain ? ZERO_VECTOR : a.low;
    const taken = status.fused ? minusProduct(q, b.low, rest) : bin(sub, rest, bin(mul, q, b.low));
    left = bin(add, left, taken);
  } else if (!a.plain) left = bin(add, left, a.low);
  const rest = f.let(left);
  return finish(f, out, status, q, f.let(bin(mul, rest, inverse)), reachOf(a, b), () => {
    // Nothing is left of a double: the quotient is one.
    const small = bin(lt, v128.un(abs, q), powers(LEAST));
    const doubles = [a, b].filter((x) => !x.plain).map((x) => isZero(x.low));
    const exact = v128.andnot(every(isZero(rest), ...doubles), v128.andnot(small, isZero(a.high)));
    f.if(i32.and(holds(exact), isBounded(q)), () => putExact(f, out, status, q, ZERO_VECTOR), rare);
  });
}

/** out = √a. @returns how far its rest reaches */
export function squareRoot(f: FunctionBuilder, out: PairLocals, status: Status, a: Pair, rare: () => void): number {
  const h = f.let(v128.un(F64X2.sqrt, a.high));
  // Of -0.5 ÷ h there need not be more than some 40 bits, and the division need not wait for the root.
  const inverse = f.let(bin(mul, bin(div, splat(-0.5), a.high), h));
  let left: Expr;
  if (status.fused) left = minusProduct(h, h, a.high);
  else {
    const p = f.let(bin(mul, h, h));
    left = bin(add, bin(sub, a.high, p), without(f, status, h, h, p));
  }
  if (!a.plain) left = bin(add, left, a.low);
  const rest = f.let(left);
  return finish(f, out, status, h, f.let(bin(mul, rest, inverse)), reachOf(a), () => {
    const exact = a.plain ? isZero(rest) : v128.and(isZero(rest), isZero(a.low));
    f.if(holds(exact), () => putExact(f, out, status, h, ZERO_VECTOR), rare);
  });
}

/** A number rounded to a double. A zero's rest may be of either sign, and must not change its own. */
export const rounded = (f: FunctionBuilder, a: Pair): Expr =>
  f.let(bin(sub, a.high, f.let(bin(sub, ZERO_VECTOR, a.low))));

/** The same number, its double rounded. */
export function settled(f: FunctionBuilder, a: Pair): Pair {
  if (a.reach <= ROUNDED) return a;
  const high = rounded(f, a);
  return { high, low: f.let(bin(sub, a.low, bin(sub, high, a.high))), plain: false, reach: ROUNDED };
}

/** A double (f64) that is to zero as a is to b. */
export function difference(f: FunctionBuilder, a: Pair, b: Pair): Expr {
  let v = bin(sub, a.high, b.high);
  if (!a.plain) v = bin(add, v, b.plain ? a.low : bin(sub, a.low, b.low));
  else if (!b.plain) v = bin(sub, v, b.low);
  return f.let(v128.extract(F64X2.extract, F64, v, 0));
}

/** The other sign, or none. A zero's rest may be of either sign. */
export const negated = (f: FunctionBuilder, { high, low, plain, reach }: Pair): Pair => ({
  high: f.let(v128.xor(high, SIGNS)),
  low: plain ? low : f.let(v128.xor(low, SIGNS)),
  plain,
  reach,
});
export function withoutSign(f: FunctionBuilder, { high, low, plain, reach }: Pair): Pair {
  const sign = f.let(v128.and(high, SIGNS));
  return { high: f.let(v128.xor(high, sign)), low: plain ? low : f.let(v128.xor(low, sign)), plain, reach };
}

/** Two parameters that are a pair. */
export const pairParameter = (f: FunctionBuilder, index: number): Pair => ({
  high: f.param(index),
  low: f.param(index + 1),
  plain: false,
  reach: LONGEST,
});
