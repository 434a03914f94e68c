/**
 * x87 operations on values that a compiled region keeps in locals (jit/x87.ts), for the cases that it does not do
 * itself. A value is three locals: the significand; an exponent that tells all that is not a normal number apart; the sign,
 * 0 or 0x8000. Every exception is masked when these are called. Those that round return C1.
 */
import { S } from '../layout.ts';
import type { RuntimeFunction } from '../runtime.ts';
import type { FunctionBuilder } from '../wasm/builder.ts';
import { I32, I64, i32, i64, k32, k64, select, type Expr, type ValType } from '../wasm/expr.ts';
import {
  Fsw,
  loadFsw,
  loadSignExponent,
  loadSignificand,
  MAX_EXPONENT,
  OPERAND,
  QUIET_BIT,
  runtime,
  SIGN,
  storeRegister,
} from './common.ts';
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
const B = S.TEMP + 0xb0;
const C = S.TEMP + 0xc0;

export interface Value {
  significand: Expr;
  exponent: Expr;
  sign: Expr;
}

/** Operations of x87_value_two and x87_value_float, and their operands exchanged. */
export const ValueOp = { ADD: 0, SUB: 1, MUL: 2, DIV: 3, SWAP: 4, DOUBLE: 8 } as const;

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

type Call = (name: string, ...args: Expr[]) => Expr;

/** C = a op b, to VALUE; a and b are addresses. */
function operate(f: FunctionBuilder, call: Call, state: Expr, info: Expr, x: Expr, y: Expr, flags: Expr): void {
  const swap = f.let(i32.and(info, ValueOp.SWAP));
  const a = f.let(select(swap, y, x));
  const b = f.let(select(swap, x, y));
  const dst = f.let(i32.add(state, C));
  const op = f.let(i32.and(info, 3));
  f.if(
    i32.le_u(op, ValueOp.SUB),
    () => f.drop(call('f80_add', state, dst, a, b, op, flags)),
    () =>
      f.if(
        i32.eq(op, ValueOp.MUL),
        () => f.drop(call('f80_mul', state, dst, a, b, flags)),
        () => f.drop(call('f80_div', state, dst, a, b, flags)),
      ),
  );
  take(f, state, dst);
  f.return(c1(state));
}

/** A float of memory format (its bits as an i64) to OPERAND; returns DE or 0. */
function widened(f: FunctionBuilder, call: Call, state: Expr, double: Expr, bits: Expr): Expr {
  const flags = f.temp(I32);
  f.if(
    double,
    () => f.set(flags, call('f80_from_f64', state, bits)),
    () => f.set(flags, call('f80_from_f32', state, i32.wrap(bits))),
  );
  return flags.get;
}

export const X87_VALUES: readonly RuntimeFunction[] = [
  /** x87_value_two(state, op, a, b): a op b. */
  runtime('x87_value_two', [I32, I32, ...VALUE_TYPES, ...VALUE_TYPES], (f, call) => {
    const state = f.param(0);
    const a = f.let(i32.add(state, A));
    const b = f.let(i32.add(state, B));
    put(f, a, value(f, 2));
    put(f, b, value(f, 5));
    operate(f, call, state, f.param(1), a, b, k32(0));
  }),

  /** x87_value_float(state, op, a, bits): a op a single or double from memory. */
  runtime('x87_value_float', [I32, I32, ...VALUE_TYPES, I64], (f, call) => {
    const state = f.param(0);
    const a = f.let(i32.add(state, A));
    put(f, a, value(f, 2));
    const flags = widened(f, call, state, i32.and(f.param(1), ValueOp.DOUBLE), f.param(5));
    operate(f, call, state, f.param(1), a, f.let(i32.add(state, OPERAND)), flags);
  }),

  /** x87_value_root(state, a): its square root. */
  runtime('x87_value_root', [I32, ...VALUE_TYPES], (f, call) => {
    const state = f.param(0);
    const a = f.let(i32.add(state, A));
    put(f, a, value(f, 1));
    f.drop(call('f80_sqrt', state, a, a));
    take(f, state, a);
    f.return(c1(state));
  }),

  /** x87_value_whole(state, a): FRNDINT. */
  runtime('x87_value_whole', [I32, ...VALUE_TYPES], (f, call) => {
    const state = f.param(0);
    const a = f.let(i32.add(state, A));
    put(f, a, value(f, 1));
    f.drop(call('f80_rndint', state, a));
    take(f, state, a);
    f.return(c1(state));
  }),

  /** x87_value_load(state, double, bits): FLD of a float. C1 becomes 0. */
  runtime('x87_value_load', [I32, I32, I64], (f, call) => {
    const state = f.param(0);
    const flags = widened(f, call, state, f.param(1), f.param(2));
    const operand = f.let(i32.add(state, OPERAND));
    const significand = f.let(loadSignificand(operand));
    const nan = f.let(
      i32.and(
        i32.eq(i32.and(loadSignExponent(operand), MAX_EXPONENT), MAX_EXPONENT),
        i64.ne(i64.shl(significand, 1), 0),
      ),
    );
    const signalling = i32.and(nan, i64.eqz(i64.and(significand, QUIET_BIT)));
    f.drop(call('f80_flag', state, i32.or(flags, signalling)));
    f.if(nan, () => f.store(8, operand, i64.or(significand, QUIET_BIT)));
    take(f, state, operand);
    f.return(k32(0));
  }),

  /** x87_value_store(state, bytes, a): to RESULT as a single or double. */
  runtime('x87_value_store', [I32, I32, ...VALUE_TYPES], (f, call) => {
    const state = f.param(0);
    const a = f.let(i32.add(state, A));
    put(f, a, value(f, 2));
    f.if(
      i32.eq(f.param(1), 8),
      () => f.drop(call('f80_to_f64', state, a)),
      () => f.drop(call('f80_to_f32', state, a)),
    );
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

  /** x87_value_compare(state, quiet, a, b): C3, C2 and C0 at their places in FSW. */
  runtime('x87_value_compare', [I32, I32, ...VALUE_TYPES, ...VALUE_TYPES], (f, call) => {
    const state = f.param(0);
    const a = f.let(i32.add(state, A));
    const b = f.let(i32.add(state, B));
    put(f, a, value(f, 2));
    put(f, b, value(f, 5));
    f.return(i32.and(call('f80_compare', state, a, b, f.param(1), k32(0)), Fsw.C3 | Fsw.C2 | Fsw.C0));
  }),

  /** x87_value_compare_float(state, double, a, bits): the same with a single or double from memory. */
  runtime('x87_value_compare_float', [I32, I32, ...VALUE_TYPES, I64], (f, call) => {
    const state = f.param(0);
    const a = f.let(i32.add(state, A));
    put(f, a, value(f, 2));
    const flags = widened(f, call, state, f.param(1), f.param(5));
    const operand = i32.add(state, OPERAND);
    f.return(i32.and(call('f80_compare', state, a, operand, k32(0), flags), Fsw.C3 | Fsw.C2 | Fsw.C0));
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

  /** x87_value_root64(state, hi, lo): the 64 bits of the square root of hi:lo; the rest as above. */
  runtime(
    'x87_value_root64',
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
