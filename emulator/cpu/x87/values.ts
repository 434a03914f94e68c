/**
 * x87 operations on values that a compiled region keeps in locals (jit/x87.ts), for the cases that it does not do
 * itself. A value is three locals: the significand; an exponent that tells all that is not a normal number apart; the sign,
 * 0 or 0x8000. Every exception is masked when these are called. Those that round return C1.
 */
import { S } from '../layout.ts';
import type { RuntimeFunction } from '../runtime.ts';
import type { FunctionBuilder } from '../wasm/builder.ts';
import { I32, I64, i32, i64, k32, k64, select, type Expr, type ValType } from '../wasm/expr.ts';
import { loadFsw, loadSignExponent, loadSignificand, MAX_EXPONENT, runtime, SIGN, storeRegister } from './common.ts';
import { divideSignificands, rootSignificand } from './significand.ts';

/**
 * Exponent of a zero. Small enough that a sum takes the other operand's exponent and a product's is out of range, also that of
 * a zero and something special.
 */
export const ZERO_EXPONENT = -0x60000000;
/** Added to the exponent field of infinities, NaNs, denormals and unsupported encodings. The field is in the low 15 bits. */
export const SPECIAL = 0x40000000;

/** Where these functions leave a value: significand (8 bytes), exponent (4), sign (4). */
export const VALUE = S.TEMP + 0x80;
const A = S.TEMP + 0xa0;

export interface Value {
  significand: Expr;
  exponent: Expr;
  sign: Expr;
}

/** Sign and exponent as a register holds them. */
export const signExponentOf = (v: Value): Expr => i32.or(i32.and(v.exponent, MAX_EXPONENT), v.sign);

/** The exponent of a value by its field and significand. */
export function exponentOf(field: Expr, significand: Expr): Expr {
  const normal = i32.and(i32.lt_u(i32.sub(field, 1), 0x7ffe), i64.lt_s(significand, 0));
  const zero = i64.eqz(i64.or(i64.extend_u(field), significand));
  return select(normal, field, select(zero, k32(ZERO_EXPONENT), i32.or(field, SPECIAL)));
}

const put = (f: FunctionBuilder, at: Expr, v: Value): void => storeRegister(f, at, signExponentOf(v), v.significand);

/** Takes the register at `at` to VALUE. */
function take(f: FunctionBuilder, state: Expr, at: Expr): void {
  const signExponent = f.let(loadSignExponent(at));
  const significand = f.let(loadSignificand(at));
  f.store(8, state, significand, VALUE);
  f.store(4, state, exponentOf(f.let(i32.and(signExponent, MAX_EXPONENT)), significand), VALUE + 8);
  f.store(4, state, i32.and(signExponent, SIGN), VALUE + 12);
}

const c1 = (state: Expr): Expr => i32.and(i32.shr_u(loadFsw(state), 9), 1);

/** Parameters of a value, from the `first`. */
const value = (f: FunctionBuilder, first: number): Value => ({
  significand: f.param(first),
  exponent: f.param(first + 1),
  sign: f.param(first + 2),
});
const VALUE_TYPES: readonly ValType[] = [I64, I32, I32];

export const X87_VALUES: readonly RuntimeFunction[] = [
  /** x87_value_whole(state, a): FRNDINT. */
  runtime('x87_value_whole', [I32, ...VALUE_TYPES], (f, call) => {
    const state = f.param(0);
    const a = f.let(i32.add(state, A));
    put(f, a, value(f, 1));
    f.drop(call('f80_rndint', state, a));
    take(f, state, a);
    f.return(c1(state));
  }),

  /** x87_value_integer(state, bytes, truncate, a): to RESULT as an integer. */
  runtime('x87_value_integer', [I32, I32, I32, ...VALUE_TYPES], (f, call) => {
    const state = f.param(0);
    const a = f.let(i32.add(state, A));
    put(f, a, value(f, 3));
    f.drop(call('f80_to_int', state, a, f.param(1), f.param(2)));
    f.return(c1(state));
  }),

  /**
   * x87_value_quotient(state, a, b): the 64 bits of a ÷ b for significands with their integer bits set; what is left, for
   * rounding, is at VALUE.
   */
  runtime(
    'x87_value_quotient',
    [I32, I64, I64],
    (f) => {
      const { quotient } = divideSignificands(f, f.param(1), f.param(2));
      f.store(8, f.param(0), quotient.lo, VALUE);
      f.return(quotient.hi);
    },
    I64,
  ),

  /** x87_value_root(state, hi, lo): the 64 bits of the square root of hi:lo; the rest as above. */
  runtime(
    'x87_value_root',
    [I32, I64, I64],
    (f) => {
      const root = rootSignificand(f, f.param(1), f.param(2));
      f.store(8, f.param(0), root.lo, VALUE);
      f.return(root.hi);
    },
    I64,
  ),
];

export const ZERO: Value = { significand: k64(0), exponent: k32(ZERO_EXPONENT), sign: k32(0) };
