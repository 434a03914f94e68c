/** Pairs (pairs.ts) from and to what memory and registers hold: doubles, singles, integers, and numbers of 80 bits. */
import { ANY_TRUE, F64X2 } from '../wasm/simd.ts';
import type { FunctionBuilder } from '../wasm/builder.ts';
import { F64, I32, I64, f32, f64, i32, i64, k32, k64, kf64, select, v128, type Expr } from '../wasm/expr.ts';
import { BIAS, MAX_EXPONENT, SIGN } from './common.ts';
import {
  BIAS64,
  bitsOf,
  LARGEST,
  LEAST,
  type Pair,
  plainPair,
  power,
  ROUNDED,
  rounded,
  second,
  settled,
  vectorOf,
} from './pairs.ts';

const { bin } = v128;

/** Upper halves of doubles: where the exponent is. */
const HIGH_EXPONENT = 0x7ff00000;

/** A double at a host address; for others than ordinary ones and zeros `rare` is run, which does not come back. */
export function widen64(f: FunctionBuilder, host: Expr, rare: () => void): Pair {
  const limit = (BIAS64 + LEAST) << 20;
  const e = i32.sub(i32.and(i32.load(host, 4), HIGH_EXPONENT), limit);
  f.if(i32.ge_u(e, HIGH_EXPONENT - limit), () => f.if(i64.ne(i64.shl(i64.load(host), 1), 0), rare), undefined, 0);
  return plainPair(f.let(v128.load64_zero(host)));
}

/** The same for a single's bits. */
export function widen32(f: FunctionBuilder, bits: Expr, rare: () => void): Pair {
  const size = f.let(i32.shl(bits, 1));
  f.if(i32.ge_u(i32.sub(size, 1 << 24), k32(0xfe << 24)), () => f.if(size, rare), undefined, 0);
  return plainPair(f.let(vectorOf(f64.promote(f32.reinterpret(bits)))));
}

/** An integer of 32 bits. */
export const fromWord = (f: FunctionBuilder, value: Expr): Pair => plainPair(f.let(vectorOf(f64.convert_i32_s(value))));

/** An integer of 64 bits. */
export function fromInteger(f: FunctionBuilder, value: Expr): Pair {
  const high = f.let(f64.convert_i64_s(i64.and(value, -2048)));
  const low = f.let(f64.convert_i64_s(i64.and(value, 2047)));
  return fromVector(f, normalised(f, high, low));
}

/** A vector of both parts. */
export const fromVector = (f: FunctionBuilder, v: Expr): Pair => {
  const high = f.let(v);
  return { high, low: f.let(second(high)), plain: false, reach: ROUNDED };
};

/** The parts of the sum of two doubles (f64), the second one smaller, in a vector. */
function normalised(f: FunctionBuilder, high: Expr, low: Expr): Expr {
  const sumOf = f.let(f64.add(high, low));
  const rest = f64.sub(low, f64.sub(sumOf, high));
  return f.let(v128.replace(F64X2.replace, v128.splat(F64X2.splat, sumOf), 1, rest));
}

/** As a double, in a vector. */
export const narrow64 = (f: FunctionBuilder, a: Pair): Expr => (a.plain ? a.high : rounded(f, a));

/**
 * As a single's bits (i32), and what that is more; others than normal results and zeros are left to `rare`, which does not
 * come back.
 */
export function narrow32(f: FunctionBuilder, a: Pair, rare: () => void): { bits: Expr; excess: Expr } {
  const whole = settled(f, a);
  const high = f.let(bitsOf(whole.high));
  const e = i32.and(i32.wrap(i64.shr_u(high, 52)), 0x7ff);
  f.if(i32.ge_u(i32.sub(e, BIAS64 - 125), 252), () => f.if(i64.ne(i64.shl(high, 1), 0), rare), undefined, 0);
  let odd = high;
  if (!a.plain) {
    // Towards zero, with the last bit set where there is a rest: then rounding once more gives what rounding at once gives.
    const low = f.let(bitsOf(whole.low));
    const inexact = f.let(i64.extend_u(i64.ne(i64.shl(low, 1), 0)));
    const down = i64.and(i64.shr_u(i64.xor(high, low), 63), inexact);
    odd = f.let(i64.or(i64.sub(high, down), inexact));
  }
  const double = f.let(f64.reinterpret(odd));
  const single = f.let(f32.demote(double));
  const excess = f.let(v128.splat(F64X2.splat, f64.sub(f64.promote(single), double)));
  return { bits: f.let(i32.reinterpret(single)), excess };
}

/** Not 0 where a vector that has been made by `fromExtended` is none. */
export const isBad = (v: Expr): Expr => v128.test(ANY_TRUE, bin(F64X2.ne, v, v));

/** A register's contents as a pair; NaNs where it is neither an ordinary number nor zero. */
export function fromExtended(f: FunctionBuilder, signExponent: Expr, significand: Expr): Expr {
  const field = f.let(i32.and(signExponent, MAX_EXPONENT));
  const sign = f.let(i64.shl(i64.extend_u(i32.and(signExponent, SIGN)), 48));
  const exponent = (bias: number): Expr => i64.or(i64.shl(i64.extend_u(i32.sub(field, bias)), 52), sign);
  const high = f.temp(F64);
  const low = f.temp(F64);
  const known = i32.lt_u(i32.sub(field, BIAS + LEAST), LARGEST - LEAST);
  f.if(
    i32.and(known, i64.lt_s(significand, 0)),
    () => {
      f.set(high, f64.reinterpret(i64.add(exponent(BIAS - BIAS64), i64.shr_u(i64.shl(significand, 1), 12))));
      const scale = f64.reinterpret(exponent(BIAS + 63 - BIAS64));
      f.set(low, f64.mul(f64.convert_i32_s(i32.and(i32.wrap(significand), 2047)), scale));
    },
    () => {
      const zero = i64.eqz(i64.or(i64.extend_u(field), significand));
      f.set(high, f64.reinterpret(select(zero, sign, k64(0x7ff8000000000000n))));
      f.set(low, high.get);
    },
  );
  return normalised(f, high.get, low.get);
}

/** A pair as a register holds it. */
export function toExtended(f: FunctionBuilder, { high: x, low: y }: Pair): { signExponent: Expr; significand: Expr } {
  const high = f.let(bitsOf(x));
  const top = f.let(i32.wrap(i64.shr_u(high, 52)));
  const sign = i32.shl(i32.and(top, 0x800), 4);
  const exponent = f.temp(I32);
  const significand = f.temp(I64);
  const e = i32.and(top, 0x7ff);
  f.set(exponent, i32.add(e, BIAS - BIAS64));
  f.set(significand, i64.or(i64.shl(high, 11), k64(1n << 63n)));
  // The rest in units of `scale`'s inverse, and positive if it is away from zero: in the last places of a number that is large enough.
  const unitsOf = (scale: Expr): Expr => {
    const large = f64.add(f64.mul(f64.reinterpret(bitsOf(y)), f64.reinterpret(scale)), kf64(1.5 * 2 ** 52));
    return i64.sub(i64.reinterpret(large), k64(power(52) | (1n << 51n)));
  };
  const scale = f.let(i64.sub(k64(BigInt(63 + 2 * BIAS64) << 52n), i64.and(high, -(1n << 52n))));
  f.if(
    i64.eqz(i64.shl(high, 12)),
    () => {
      // Zero, or a power of two: numbers just below it are of the exponent below it.
      f.if(
        i64.eqz(i64.shl(high, 1)),
        () => {
          f.set(exponent, k32(0));
          f.set(significand, k64(0));
        },
        () => {
          const units = f.let(unitsOf(i64.add(scale, 1n << 52n)));
          const below = i64.lt_s(units, 0);
          const half = i64.shr_s(units, 1);
          f.set(significand, i64.add(significand.get, select(below, i64.add(significand.get, units), half)));
          f.set(exponent, i32.sub(exponent.get, below));
        },
      );
    },
    () => f.set(significand, i64.add(significand.get, unitsOf(scale))),
    0,
  );
  return { significand: significand.get, signExponent: f.let(i32.or(exponent.get, sign)) };
}
