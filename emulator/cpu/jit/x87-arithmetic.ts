/**
 * x87 arithmetic on values in locals (x87/values.ts), as a compiled region does it: numbers that are normal, rounded to
 * nearest with 64 bits and every exception masked; and zeros where they are simple. `rare` gets the rest: it leaves the region, so
 * that registers need not be kept over calls.
 */
import { BIAS, INTEGER_BIT, SIGN } from '../x87/common.ts';
import { multiplyHigh, squareHigh } from '../x87/significand.ts';
import { SPECIAL, ZERO_EXPONENT, type Value } from '../x87/values.ts';
import type { FunctionBuilder, Label, Local } from '../wasm/builder.ts';
import { f64, I32, I64, i32, i64, k32, k64, kf64, select, type Expr } from '../wasm/expr.ts';

/** A value's locals. */
export interface ValueLocals {
  significand: Local;
  exponent: Local;
  sign: Local;
}
export const valueOf = (v: ValueLocals): Value => ({
  significand: v.significand.get,
  exponent: v.exponent.get,
  sign: v.sign.get,
});

/** What is kept of the status word. */
export interface Status {
  /** Not 0 if a result was inexact: PE is to be set (i64). */
  residue: Local;
  /** C1 in bit 63 (i64). */
  c1: Local;
}

const HALF = 0x8000000000000000n;

/** Runs `common`, in which a branch to its label goes on with `rare` instead. */
export function unless(f: FunctionBuilder, common: (rare: Label) => void, rare: () => void): void {
  f.block((done) => {
    f.block((label) => {
      common(label);
      f.br(done);
    });
    rare();
  });
}

/**
 * Writes a result with 64 bits of a significand, C1 in bit 63 of `rest`, which is not 0 if the result is inexact. Out of range it
 * is a rare case. All expressions are locals.
 */
function put(
  f: FunctionBuilder,
  out: ValueLocals,
  status: Status,
  sign: Expr,
  exponent: Expr,
  significand: Expr,
  rest: Expr,
): void {
  f.set(status.c1, rest);
  f.set(status.residue, i64.or(status.residue.get, rest));
  f.set(out.significand, significand);
  f.set(out.sign, sign);
  f.set(out.exponent, exponent);
}

/** No exponent of a result, even if it is to get one more. */
const outOfRange = (exponent: Expr): Expr => i32.ge_u(i32.sub(exponent, 1), 0x7ffd);

/** Rounds a normalised hi.lo into `out`; out of range it is a rare case. All expressions are locals. */
function finish(
  f: FunctionBuilder,
  out: ValueLocals,
  status: Status,
  rare: Label,
  sign: Expr,
  exponent: Expr,
  hi: Expr,
  lo: Expr,
): void {
  f.brIf(outOfRange(exponent), rare, 0);
  put(f, out, status, sign, exponent, i64.add(hi, i64.shr_u(lo, 63)), lo);
  // Ties go to even.
  f.if(
    i64.eq(lo, k64(HALF)),
    () => {
      f.set(status.c1, i64.xor(i64.shl(out.significand.get, 63), k64(HALF)));
      f.set(out.significand, i64.and(out.significand.get, -2));
    },
    undefined,
    0,
  );
  f.if(
    i64.eqz(out.significand.get),
    () => {
      f.set(out.significand, k64(INTEGER_BIT));
      f.set(out.exponent, i32.add(out.exponent.get, 1));
    },
    undefined,
    0,
  );
}

function setZero(f: FunctionBuilder, out: ValueLocals, status: Status, sign: Expr): void {
  f.set(out.sign, sign);
  f.set(out.significand, k64(0));
  f.set(out.exponent, k32(ZERO_EXPONENT));
  f.set(status.c1, k64(0));
}

/** out = a + b, or a − b. */
export function sum(
  f: FunctionBuilder,
  out: ValueLocals,
  status: Status,
  a: Value,
  b: Value,
  negate: boolean,
  rare: () => void,
): void {
  const signB = negate ? f.let(i32.xor(b.sign, SIGN)) : b.sign;
  if (a === b && !negate) return twice(f, out, status, a, rare);
  f.block((done) => {
    f.block((label) => {
      const distance = f.let(i32.sub(a.exponent, b.exponent));
      // Not the comparison: the host's compilers would make a number of it first.
      const swap = f.let(i32.shr_u(distance, 31));
      const pick = (x: Expr, y: Expr): Local => {
        const local = f.temp(x.type);
        f.set(local, select(swap, x, y));
        return local;
      };
      const large = pick(b.significand, a.significand).get;
      const small = pick(a.significand, b.significand).get;
      const shift = pick(i32.sub(0, distance), distance).get;
      const e = pick(b.exponent, a.exponent);
      const sign = f.temp(I32);
      const hi = f.temp(I64);
      const lo = f.temp(I64);
      const n = f.let(i64.extend_u(shift));
      f.if(
        i32.lt_u(shift, 64),
        () => {
          f.set(hi, i64.shr_u(small, n));
          f.set(lo, i64.shl(i64.shl(small, 1), i64.xor(n, 63)));
        },
        () => {
          // The last bit of `lo` stands for all that are below it.
          const down = f.let(select(i32.lt_u(shift, 127), i64.sub(n, 64), k64(63)));
          const lost = i64.ne(i64.shl(i64.shl(small, 1), i64.xor(down, 63)), 0);
          f.set(hi, k64(0));
          f.set(lo, i64.or(i64.shr_u(small, down), i64.extend_u(lost)));
        },
        1,
      );
      f.if(
        i32.eq(a.sign, signB),
        () => {
          f.set(sign, signB);
          f.set(hi, i64.add(hi.get, large));
          // With a carry the exponents are near enough that the last bit of `lo` is 0.
          const carry = f.let(i64.lt_u(hi.get, large));
          f.set(e, i32.add(e.get, carry));
          f.set(lo, select(carry, i64.or(i64.shr_u(lo.get, 1), i64.shl(hi.get, 63)), lo.get));
          f.set(hi, select(carry, i64.or(i64.shr_u(hi.get, 1), k64(INTEGER_BIT)), hi.get));
        },
        () => {
          f.set(sign, select(swap, signB, a.sign));
          f.if(
            i64.lt_u(large, hi.get),
            () => {
              // The exponents are equal.
              f.set(hi, i64.sub(hi.get, large));
              f.set(sign, i32.xor(sign.get, SIGN));
            },
            () => {
              f.set(hi, i64.sub(i64.sub(large, hi.get), i64.extend_u(i64.ne(lo.get, 0))));
              f.set(lo, i64.sub(0, lo.get));
            },
          );
          f.if(
            i64.eqz(hi.get),
            () => {
              f.brIf(i32.or(i64.ne(lo.get, 0), outOfRange(e.get)), label);
              setZero(f, out, status, k32(0));
              f.br(done);
            },
            undefined,
            0,
          );
          const up = f.let(i64.clz(hi.get));
          f.set(hi, i64.or(i64.shl(hi.get, up), i64.shr_u(i64.shr_u(lo.get, 1), i64.xor(up, 63))));
          f.set(lo, i64.shl(lo.get, up));
          f.set(e, i32.sub(e.get, i32.wrap(up)));
        },
      );
      finish(f, out, status, label, sign.get, e.get, hi.get, lo.get);
      f.br(done);
    });
    // Two zeros: only their exponents are negative. With different signs the sum is positive.
    f.if(i32.lt_s(i32.and(a.exponent, b.exponent), 0), () => setZero(f, out, status, i32.and(a.sign, signB)), rare);
  });
}

/** out = a + a. */
function twice(f: FunctionBuilder, out: ValueLocals, status: Status, a: Value, rare: () => void): void {
  unless(
    f,
    (label) => {
      f.brIf(outOfRange(a.exponent), label, 0);
      put(f, out, status, a.sign, i32.add(a.exponent, 1), a.significand, k64(0));
    },
    () => f.if(i32.lt_s(a.exponent, 0), () => setZero(f, out, status, a.sign), rare),
  );
}

/** out = a × b. */
export function product(
  f: FunctionBuilder,
  out: ValueLocals,
  status: Status,
  a: Value,
  b: Value,
  rare: () => void,
): void {
  unless(
    f,
    (label) => {
      const square = a === b;
      const high = square ? squareHigh(f, a.significand) : multiplyHigh(f, a.significand, b.significand);
      const low = f.let(i64.mul(a.significand, b.significand));
      const long = f.let(i64.shr_u(high, 63));
      const hi = f.let(select(i32.wrap(long), high, i64.add(i64.shl(high, 1), i64.shr_u(low, 63))));
      const lo = f.let(select(i32.wrap(long), low, i64.shl(low, 1)));
      const e = f.let(i32.add(i32.sub(i32.add(a.exponent, b.exponent), BIAS), i32.wrap(long)));
      finish(f, out, status, label, square ? k32(0) : f.let(i32.xor(a.sign, b.sign)), e, hi, lo);
    },
    () => {
      // One is zero, none is special.
      const zero = i32.eq(i32.and(i32.or(a.exponent, b.exponent), 0xc0000000), 0x80000000 | 0);
      f.if(zero, () => setZero(f, out, status, i32.xor(a.sign, b.sign)), rare);
    },
  );
}

const isNormal = (v: Value): Expr => i32.lt_u(i32.sub(v.exponent, 1), 0x7ffe);

/** A significand and what is left of it: C1 in bit 63, not 0 if it is inexact. */
interface Rounded {
  significand: Local;
  rest: Local;
}

/**
 * a ÷ b. A quotient can not lie in the middle between two significands of its length, nor be rounded up to 1.
 *
 * @param divide gives the quotient and what is left of it, for rounding, where the quick way does not
 */
export function quotient(
  f: FunctionBuilder,
  out: ValueLocals,
  status: Status,
  a: Value,
  b: Value,
  divide: (a: Expr, b: Expr) => { hi: Expr; lo: Expr },
  rare: () => void,
): void {
  unless(
    f,
    (label) => {
      f.brIf(i32.eqz(isNormal(a)), label, 0);
      f.brIf(i32.eqz(isNormal(b)), label, 0);
      const longer = f.let(i64.extend_u(i64.ge_u(a.significand, b.significand)));
      const e = f.let(i32.add(i32.add(i32.sub(a.exponent, b.exponent), BIAS - 1), i32.wrap(longer)));
      f.brIf(outOfRange(e), label, 0);
      const r: Rounded = { significand: f.temp(I64), rest: f.temp(I64) };
      f.if(
        i64.lt_u(b.significand, k64(QUICK_DIVISORS)),
        () => quickQuotient(f, r, a.significand, b.significand, longer),
        () => byCall(f, r, divide(a.significand, b.significand)),
        1,
      );
      put(f, out, status, f.let(i32.xor(a.sign, b.sign)), e, r.significand.get, r.rest.get);
    },
    () => {
      const zero = i32.and(i32.lt_s(a.exponent, 0), isNormal(b));
      f.if(zero, () => setZero(f, out, status, i32.xor(a.sign, b.sign)), rare);
    },
  );
}

/** √a. A root can not lie in the middle either. `root` is as `divide` above, for hi:lo. */
export function squareRoot(
  f: FunctionBuilder,
  out: ValueLocals,
  status: Status,
  a: Value,
  root: (hi: Expr, lo: Expr) => { hi: Expr; lo: Expr },
  rare: () => void,
): void {
  unless(
    f,
    (label) => {
      f.brIf(i32.eqz(isNormal(a)), label, 0);
      f.brIf(a.sign, label, 0);
      // BIAS is odd: numbers with an odd exponent field have an even exponent.
      const even = f.let(i64.extend_u(i32.and(a.exponent, 1)));
      const hi = f.let(i64.shr_u(a.significand, even));
      const lo = f.let(i64.shl(i64.and(a.significand, even), 63));
      const e = f.let(i32.add(i32.shr_s(i32.sub(a.exponent, BIAS), 1), BIAS));
      const r: Rounded = { significand: f.temp(I64), rest: f.temp(I64) };
      quickRoot(f, r, hi, lo, () => byCall(f, r, root(hi, lo)));
      put(f, out, status, k32(0), e, r.significand.get, r.rest.get);
    },
    () => f.if(i32.lt_s(a.exponent, 0), () => setZero(f, out, status, a.sign), rare),
  );
}

/** Rounds what a function gave: its `lo` is not half. */
function byCall(f: FunctionBuilder, r: Rounded, { hi, lo }: { hi: Expr; lo: Expr }): void {
  f.set(r.significand, i64.add(hi, i64.shr_u(lo, 63)));
  f.set(r.rest, lo);
}

/** Added to a double below 2^51 in magnitude it rounds it to an integer, which is in the low bits then. */
const SHIFTER = 1.5 * 2 ** 52;
const SHIFTER_BITS = 0x4338000000000000n;
/** The bits of 2^32 as a double. */
const DOUBLE_2_32 = 0x41f0000000000000n;

/** Below this a remainder of a digit that is off by less than 2^-19 fits into 64 bits with its sign. */
const QUICK_DIVISORS = 0xffff800000000000n;

/**
 * The quotient of significands, by two digits of 32 bits, each the nearest integer to an estimate in double precision.
 * Doubles err by less than 2^-51 altogether, digits by less than 2^-19. `longer`: a is not below b.
 */
function quickQuotient(f: FunctionBuilder, r: Rounded, a: Expr, b: Expr, longer: Expr): void {
  const half = f.let(i64.shr_u(b, 1));
  const divisor = f.let(f64.convert_i64_s(half));
  // The divisor is of b ÷ 2, and the rest is in units of 2^32.
  const inverse = f.let(f64.div(kf64(2 ** 31), divisor));
  const scale = f64.reinterpret(i64.sub(k64(DOUBLE_2_32), i64.shl(longer, 52)));
  const estimate = f64.div(f64.mul(f64.convert_i64_s(i64.shr_u(a, 1)), scale), divisor);
  const first = f.let(i64.sub(i64.reinterpret(f64.add(estimate, kf64(SHIFTER))), k64(SHIFTER_BITS)));
  const left = f.let(i64.sub(i64.shl(a, i64.sub(32, longer)), i64.mul(first, b)));
  const next = f64.mul(f64.convert_i64_s(left), inverse);
  const second = f.let(i64.sub(i64.reinterpret(f64.add(next, kf64(SHIFTER))), k64(SHIFTER_BITS)));
  f.set(r.significand, i64.add(i64.shl(first, 32), second));
  f.set(r.rest, i64.sub(i64.shl(left, 32), i64.mul(second, b)));
  // More than half of b is left only if the estimate was near the middle.
  f.if(
    i64.gt_u(i64.add(r.rest.get, half), i64.shl(half, 1)),
    () => {
      const down = f.let(i64.or(i64.shr_s(r.rest.get, 63), 1));
      f.set(r.significand, i64.add(r.significand.get, down));
      f.set(r.rest, i64.sub(r.rest.get, i64.mul(b, down)));
    },
    undefined,
    0,
  );
}

/**
 * The root of hi:lo, hi at least 2^62: a first one in double precision, and the rest by twice that, which is below 2^14 and
 * errs by less than 2^-36. `slow` is run where it is too near the middle between two integers.
 */
function quickRoot(f: FunctionBuilder, r: Rounded, hi: Expr, lo: Expr, slow: () => void): void {
  // From 2^25 to below 2^26, in units of 2^38.
  const estimate = f.let(f64.sqrt(f64.convert_i64_s(i64.shr_u(hi, 12))));
  const first = f.let(i64.or(i64.shl(i64.reinterpret(estimate), 11), k64(HALF)));
  const high = f.let(i64.shr_u(first, 32));
  const low = f.let(i64.and(first, 0xffffffffn));
  const middle = f.let(i64.mul(high, low));
  const middleLow = f.let(i64.shl(middle, 33));
  const squareLow = f.let(i64.add(i64.mul(low, low), middleLow));
  const carry = i64.extend_u(i64.lt_u(squareLow, middleLow));
  const square = i64.add(i64.add(i64.mul(high, high), i64.shr_u(middle, 31)), carry);
  const restHigh = i64.sub(i64.sub(hi, square), i64.extend_u(i64.lt_u(lo, squareLow)));
  const restLow = f.let(i64.sub(lo, squareLow));
  // In units of 2^16: it is below 2^79.
  const rest = i64.or(i64.shl(restHigh, 48), i64.shr_u(restLow, 16));
  const exact = f.let(f64.mul(f64.convert_i64_s(rest), f64.div(kf64(2 ** (16 - 39)), estimate)));
  const shifted = f.let(f64.add(exact, kf64(SHIFTER)));
  const fraction = f.let(f64.sub(exact, f64.sub(shifted, kf64(SHIFTER))));
  const size = f.let(f64.abs(fraction));
  f.if(
    f64.lt(size, kf64(0.5 - 2 ** -30)),
    () => {
      const more = f.let(i64.sub(i64.reinterpret(shifted), k64(SHIFTER_BITS)));
      const left = i64.sub(restLow, i64.mul(more, i64.add(i64.shl(first, 1), more)));
      f.set(r.significand, i64.add(first, more));
      // What is left may not fit into 64 bits, but its sign is known then.
      f.set(r.rest, select(f64.lt(size, kf64(0.25)), left, i64.reinterpret(fraction)));
    },
    slow,
    1,
  );
}

/**
 * A double or single (its bits in an i64) into `out`: normal numbers and zeros; for others `rare` is run, which is to set
 * `out` or mark it special.
 */
export function widen(f: FunctionBuilder, out: ValueLocals, bits: Expr, size: 4 | 8, rare: () => void): void {
  const fraction = size === 8 ? 52 : 23;
  const bias = size === 8 ? 1023 : 127;
  const e = f.let(i32.and(i32.wrap(i64.shr_u(bits, fraction)), 2 * bias + 1));
  f.set(out.sign, i32.and(i32.wrap(i64.shr_u(bits, size * 8 - 16)), SIGN));
  f.if(
    i32.lt_u(i32.sub(e, 1), 2 * bias),
    () => {
      f.set(out.significand, i64.or(i64.shl(bits, 63 - fraction), k64(INTEGER_BIT)));
      f.set(out.exponent, i32.add(e, BIAS - bias));
    },
    () =>
      f.if(
        i64.eqz(i64.shl(bits, size === 8 ? 1 : 33)),
        () => {
          f.set(out.significand, k64(0));
          f.set(out.exponent, k32(ZERO_EXPONENT));
        },
        rare,
      ),
    1,
  );
}

/** An integer (i64) into `out`. */
export function fromInteger(f: FunctionBuilder, out: ValueLocals, value: Expr): void {
  f.set(out.sign, i32.and(i32.wrap(i64.shr_s(value, 48)), SIGN));
  const mask = f.let(i64.shr_s(value, 63));
  const magnitude = f.let(i64.sub(i64.xor(value, mask), mask));
  const n = f.let(i64.clz(magnitude));
  f.set(out.significand, i64.shl(magnitude, n));
  f.set(out.exponent, select(i64.eqz(magnitude), k32(ZERO_EXPONENT), i32.sub(BIAS + 63, i32.wrap(n))));
}

/**
 * A value as a double or single (its bits in an i64), with C1 in bit 63 and what was cut off; others than normal results and
 * zeros are left to `rare`, which does not come back.
 */
export function narrow(
  f: FunctionBuilder,
  v: Value,
  size: 4 | 8,
  rare: () => void,
): { bits: Expr; c1: Expr; rest: Expr } {
  const fraction = size === 8 ? 52 : 23;
  const bias = size === 8 ? 1023 : 127;
  const cut = 63 - fraction;
  const bits = f.temp(I64);
  const rest = f.temp(I64);
  const c1 = f.temp(I64);
  const e = f.let(i32.sub(v.exponent, BIAS - bias + 1));
  f.set(bits, i64.shl(i64.extend_u(v.sign), size * 8 - 16));
  f.if(
    i32.lt_u(e, 2 * bias - 1),
    () => {
      const kept = i64.shr_u(v.significand, cut);
      f.set(rest, i64.shl(v.significand, 64 - cut));
      f.set(c1, rest.get);
      // The integer bit adds one to the exponent.
      const magnitude = i64.add(i64.shl(i64.extend_u(e), fraction), kept);
      f.set(bits, i64.add(i64.add(bits.get, magnitude), i64.shr_u(rest.get, 63)));
      f.if(
        i64.eq(rest.get, k64(HALF)),
        () => {
          f.set(c1, i64.xor(i64.shl(bits.get, 63), k64(HALF)));
          f.set(bits, i64.and(bits.get, -2));
        },
        undefined,
        0,
      );
    },
    () => {
      f.set(rest, k64(0));
      f.set(c1, k64(0));
      f.if(i32.ne(v.exponent, ZERO_EXPONENT), rare, undefined, 0);
    },
    1,
  );
  return { bits: bits.get, c1: c1.get, rest: rest.get };
}

/** a and b compared: 1 where equal, below. With anything special `rare` is run, which does not come back. */
export function compare(f: FunctionBuilder, a: Value, b: Value, rare: () => void): { equal: Expr; below: Expr } {
  const equal = f.temp(I32);
  const below = f.temp(I32);
  f.if(i32.and(i32.or(a.exponent, b.exponent), SPECIAL), rare, undefined, 0);
  // Zeros have no sign here; their exponent is negative.
  const sign = (v: Value): Expr => f.let(i32.and(v.sign, i32.xor(i32.shr_s(v.exponent, 31), -1)));
  const signA = sign(a);
  const signB = sign(b);
  const level = f.let(i32.eq(a.exponent, b.exponent));
  f.set(equal, i32.and(level, i64.eq(a.significand, b.significand)));
  f.set(below, select(level, i64.lt_u(a.significand, b.significand), i32.lt_s(a.exponent, b.exponent)));
  f.if(
    i32.eq(signA, signB),
    () => f.if(signA, () => f.set(below, i32.eqz(i32.or(below.get, equal.get)))),
    () => {
      f.set(equal, k32(0));
      f.set(below, i32.ne(signA, 0));
    },
  );
  return { equal: equal.get, below: below.get };
}
