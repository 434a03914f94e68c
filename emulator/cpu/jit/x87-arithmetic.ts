/**
 * x87 arithmetic on values in locals (x87/values.ts), as a compiled region does it: numbers that are normal, rounded to
 * nearest with 64 bits and every exception masked; and zeros where they are simple. `rare` gets the rest: it leaves the region, so
 * that registers need not be kept over calls.
 */
import { BIAS, INTEGER_BIT, SIGN } from '../x87/common.ts';
import { multiplyHigh } from '../x87/significand.ts';
import { shiftRightSticky } from '../x87/round.ts';
import { SPECIAL, ZERO_EXPONENT, type Value } from '../x87/values.ts';
import type { FunctionBuilder, Label, Local } from '../wasm/builder.ts';
import { I32, I64, i32, i64, k32, k64, select, type Expr } from '../wasm/expr.ts';

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
  /** C1, 0 or 1. */
  c1: Local;
}

const HALF = 0x8000000000000000n;

/** 1 if hi.lo, or a significand with `rest` cut off, goes up to the nearest; ties go to even. */
const roundsUp = (significand: Expr, rest: Expr): Expr => i64.gt_u(rest, i64.sub(k64(HALF), i64.and(significand, 1)));

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
  // Room for a carry.
  f.brIf(i32.ge_u(i32.sub(exponent, 1), 0x7ffd), rare);
  f.set(status.c1, roundsUp(hi, lo));
  f.set(status.residue, i64.or(status.residue.get, lo));
  f.set(out.significand, i64.add(hi, i64.extend_u(status.c1.get)));
  f.set(out.sign, sign);
  f.set(out.exponent, exponent);
  f.if(i64.eqz(out.significand.get), () => {
    f.set(out.significand, k64(INTEGER_BIT));
    f.set(out.exponent, i32.add(out.exponent.get, 1));
  });
}

function setZero(f: FunctionBuilder, out: ValueLocals, status: Status, sign: Expr): void {
  f.set(out.sign, sign);
  f.set(out.significand, k64(0));
  f.set(out.exponent, k32(ZERO_EXPONENT));
  f.set(status.c1, k32(0));
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
  const swap = f.let(i32.lt_s(a.exponent, b.exponent));
  const pick = (x: Expr, y: Expr): Local => {
    const local = f.temp(x.type);
    f.set(local, select(swap, x, y));
    return local;
  };
  f.block((done) => {
    f.block((label) => {
      const e = pick(b.exponent, a.exponent);
      const large = pick(b.significand, a.significand).get;
      const small = pick(a.significand, b.significand).get;
      const sign = pick(signB, a.sign);
      const shift = f.let(i32.sub(e.get, select(swap, a.exponent, b.exponent)));
      const hi = f.temp(I64);
      const lo = f.temp(I64);
      f.if(
        i32.lt_u(shift, 64),
        () => {
          const n = f.let(i64.extend_u(shift));
          f.set(hi, i64.shr_u(small, n));
          f.set(lo, i64.shl(i64.shl(small, 1), i64.xor(n, 63)));
        },
        () => {
          f.set(hi, small);
          f.set(lo, k64(0));
          f.if(i64.ne(small, 0), () => shiftRightSticky(f, hi, lo, shift));
        },
      );
      f.if(
        i32.eq(a.sign, signB),
        () => {
          f.set(hi, i64.add(hi.get, large));
          const carry = f.let(i64.extend_u(i64.lt_u(hi.get, large)));
          f.set(e, i32.add(e.get, i32.wrap(carry)));
          f.set(
            lo,
            i64.or(i64.or(i64.shr_u(lo.get, carry), i64.and(lo.get, carry)), i64.shl(i64.and(hi.get, carry), 63)),
          );
          f.set(hi, i64.or(i64.shr_u(hi.get, carry), i64.shl(carry, 63)));
        },
        () => {
          f.set(hi, i64.sub(i64.sub(large, hi.get), i64.extend_u(i64.ne(lo.get, 0))));
          f.set(lo, i64.sub(0, lo.get));
          // With equal exponents the second one may have been larger.
          f.if(i32.and(i32.eqz(shift), i64.lt_s(hi.get, 0)), () => {
            f.set(hi, i64.sub(0, hi.get));
            f.set(sign, i32.xor(sign.get, SIGN));
          });
          f.if(i64.eqz(hi.get), () => {
            f.brIf(i32.or(i64.ne(lo.get, 0), i32.ge_u(i32.sub(e.get, 1), 0x7ffd)), label);
            setZero(f, out, status, k32(0));
            f.br(done);
          });
          const n = f.let(i64.clz(hi.get));
          f.set(hi, i64.or(i64.shl(hi.get, n), i64.shr_u(i64.shr_u(lo.get, 1), i64.xor(n, 63))));
          f.set(lo, i64.shl(lo.get, n));
          f.set(e, i32.sub(e.get, i32.wrap(n)));
        },
      );
      finish(f, out, status, label, sign.get, e.get, hi.get, lo.get);
      f.br(done);
    });
    // Two zeros: only their exponents are negative. With different signs the sum is positive.
    f.if(i32.lt_s(i32.and(a.exponent, b.exponent), 0), () => setZero(f, out, status, i32.and(a.sign, signB)), rare);
  });
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
      const low = f.let(i64.mul(a.significand, b.significand));
      const high = multiplyHigh(f, a.significand, b.significand);
      const short = f.let(i64.xor(i64.shr_u(high, 63), 1));
      const hi = f.let(i64.or(i64.shl(high, short), i64.and(i64.shr_u(low, 63), short)));
      const lo = f.let(i64.shl(low, short));
      const e = f.let(i32.sub(i32.sub(i32.add(a.exponent, b.exponent), BIAS - 1), i32.wrap(short)));
      finish(f, out, status, label, f.let(i32.xor(a.sign, b.sign)), e, hi, lo);
    },
    () => {
      // One is zero, none is special.
      const zero = i32.eq(i32.and(i32.or(a.exponent, b.exponent), 0xc0000000), 0x80000000 | 0);
      f.if(zero, () => setZero(f, out, status, i32.xor(a.sign, b.sign)), rare);
    },
  );
}

const isNormal = (v: Value): Expr => i32.lt_u(i32.sub(v.exponent, 1), 0x7ffe);

/** out = a ÷ b. `divide` gives the quotient and what is left of it. */
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
      f.brIf(i32.eqz(i32.and(isNormal(a), isNormal(b))), label);
      const { hi, lo } = divide(a.significand, b.significand);
      const longer = i64.ge_u(a.significand, b.significand);
      const e = f.let(i32.add(i32.add(i32.sub(a.exponent, b.exponent), BIAS - 1), longer));
      finish(f, out, status, label, f.let(i32.xor(a.sign, b.sign)), e, hi, lo);
    },
    () => {
      const zero = i32.and(i32.lt_s(a.exponent, 0), isNormal(b));
      f.if(zero, () => setZero(f, out, status, i32.xor(a.sign, b.sign)), rare);
    },
  );
}

/** out = √a. `root` gives the root of hi:lo and what is left of it. */
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
      f.brIf(i32.eqz(i32.and(isNormal(a), i32.eqz(a.sign))), label);
      // BIAS is odd: numbers with an odd exponent field have an even exponent.
      const even = f.let(i64.extend_u(i32.and(a.exponent, 1)));
      const lo = i64.shl(i64.and(a.significand, even), 63);
      const r = root(i64.shr_u(a.significand, even), lo);
      const e = f.let(i32.add(i32.shr_s(i32.sub(a.exponent, BIAS), 1), BIAS));
      finish(f, out, status, label, k32(0), e, r.hi, r.lo);
    },
    () => f.if(i32.lt_s(a.exponent, 0), () => setZero(f, out, status, a.sign), rare),
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
 * A value as a double or single (its bits in an i64), with C1 and what was cut off; others than normal results and
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
  const c1 = f.temp(I32);
  const rest = f.temp(I64);
  const e = f.let(i32.sub(v.exponent, BIAS - bias + 1));
  f.set(bits, i64.shl(i64.extend_u(v.sign), size * 8 - 16));
  f.if(
    i32.lt_u(e, 2 * bias - 1),
    () => {
      const kept = f.let(i64.shr_u(v.significand, cut));
      f.set(rest, i64.shl(v.significand, 64 - cut));
      f.set(c1, roundsUp(kept, rest.get));
      // The integer bit adds one to the exponent.
      f.set(bits, i64.or(bits.get, i64.add(i64.add(i64.shl(i64.extend_u(e), fraction), kept), i64.extend_u(c1.get))));
    },
    () => {
      f.set(rest, k64(0));
      f.set(c1, k32(0));
      f.if(i32.ne(v.exponent, ZERO_EXPONENT), rare);
    },
  );
  return { bits: bits.get, c1: c1.get, rest: rest.get };
}

/** a and b compared: 1 where equal, below. With anything special `rare` is run, which does not come back. */
export function compare(f: FunctionBuilder, a: Value, b: Value, rare: () => void): { equal: Expr; below: Expr } {
  const equal = f.temp(I32);
  const below = f.temp(I32);
  f.if(i32.and(i32.or(a.exponent, b.exponent), SPECIAL), rare);
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
