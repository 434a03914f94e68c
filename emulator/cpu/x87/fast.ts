/**
 * The common case of x87 arithmetic, inline in the functions that definitions call: both operands normal, rounding to nearest
 * with 64 bits and every exception masked, result in range. Anything else falls through to the full core, which gives
 * the same result for these too.
 */
import { S } from '../layout.ts';
import type { FunctionBuilder } from '../wasm/builder.ts';
import { I32, I64, i32, i64, k32, k64, type Expr } from '../wasm/expr.ts';
import { BIAS, Fsw, INTEGER_BIT, loadFcw, loadFsw, MAX_EXPONENT, storeRegister } from './common.ts';
import { divideSignificands, multiplyHigh, type Wide } from './significand.ts';
import { shiftRightSticky } from './round.ts';

export type Operation = 'add' | 'mul' | 'div';

/** An operand in locals: sign and exponent as in a register, and its significand. */
export interface Operand80 {
  signExponent: Expr;
  significand: Expr;
}

/** FCW: nearest, 64 bits, everything masked. (The reserved bits do not matter.) */
const ORDINARY_MASK = 0xf3f;
const ORDINARY = 0x33f;

const exponentOf = (x: Operand80): Expr => i32.and(x.signExponent, MAX_EXPONENT);
const inRange = (e: Expr): Expr => i32.lt_u(i32.sub(e, 1), 0x7ffd);

/** 1 if FCW asks for nothing out of the ordinary. */
export const ordinary = (state: Expr): Expr => i32.eq(i32.and(loadFcw(state), ORDINARY_MASK), ORDINARY);

/** Rounds hi:lo to nearest and stores it, with the status; `then` follows. Falls through if the exponent is out of range. */
function finish(
  f: FunctionBuilder,
  state: Expr,
  dst: Expr,
  sign: Expr,
  exponent: Expr,
  { hi, lo }: Wide,
  then: () => void,
): void {
  f.if(inRange(exponent), () => {
    const up = f.let(i32.and(i64.lt_s(lo, 0), i32.or(i64.ne(i64.shl(lo, 1), 0), i32.and(i32.wrap(hi), 1))));
    const significand = f.let(i64.add(hi, i64.extend_u(up)));
    // All ones and up: the next power of two.
    const carried = f.let(i64.eqz(significand));
    storeRegister(
      f,
      dst,
      i32.or(i32.shl(sign, 15), i32.add(exponent, carried)),
      i64.or(significand, i64.shl(i64.extend_u(carried), 63)),
    );
    f.store(
      4,
      state,
      i32.or(i32.and(loadFsw(state), ~Fsw.C1), i32.or(i32.shl(up, 9), i32.shl(i64.ne(lo, 0), 5))),
      S.FSW,
    );
    then();
  });
}

/**
 * a op b into the register at `dst`, then `then` (which returns from the function). Falls through where the case is not common.
 * All expressions are locals or cheap. `negate` (0 or 1): a − b.
 */
export function fastArithmetic(
  f: FunctionBuilder,
  op: Operation,
  state: Expr,
  dst: Expr,
  a: Operand80,
  b: Operand80,
  negate: Expr,
  then: () => void,
): void {
  const ea = f.let(exponentOf(a));
  const eb = f.let(exponentOf(b));
  const normal = i32.and(
    i32.and(i32.lt_u(i32.sub(ea, 1), 0x7ffe), i32.lt_u(i32.sub(eb, 1), 0x7ffe)),
    i32.and(i64.lt_s(i64.and(a.significand, b.significand), 0), ordinary(state)),
  );
  f.if(normal, () => {
    const signA = i32.shr_u(a.signExponent, 15);
    const signB = i32.shr_u(b.signExponent, 15);
    if (op === 'mul') {
      const low = f.let(i64.mul(a.significand, b.significand));
      const high = multiplyHigh(f, a.significand, b.significand);
      const short = f.let(i64.extend_u(i64.ge_s(high, 0)));
      const hi = f.let(i64.or(i64.shl(high, short), i64.and(i64.shr_u(low, 63), short)));
      const e = f.let(i32.sub(i32.sub(i32.add(ea, eb), BIAS - 1), i32.wrap(short)));
      finish(f, state, dst, i32.xor(signA, signB), e, { hi, lo: f.let(i64.shl(low, short)) }, then);
    } else if (op === 'div') {
      const { quotient, longer } = divideSignificands(f, a.significand, b.significand);
      const e = f.let(i32.add(i32.add(i32.sub(ea, eb), BIAS - 1), longer));
      finish(f, state, dst, i32.xor(signA, signB), e, quotient, then);
    } else fastSum(f, state, dst, a, b, ea, eb, negate, then);
  });
}

function fastSum(
  f: FunctionBuilder,
  state: Expr,
  dst: Expr,
  a: Operand80,
  b: Operand80,
  ea: Expr,
  eb: Expr,
  negate: Expr,
  then: () => void,
): void {
  const sign = f.temp(I32);
  const difference = f.temp(I32);
  const e = f.temp(I32);
  const large = f.temp(I64);
  const hi = f.temp(I64);
  const lo = f.temp(I64);
  const shift = f.temp(I32);
  f.set(sign, i32.shr_u(a.signExponent, 15));
  f.set(difference, i32.xor(sign.get, i32.xor(i32.shr_u(b.signExponent, 15), negate)));
  f.if(
    i32.or(i32.gt_u(ea, eb), i32.and(i32.eq(ea, eb), i64.ge_u(a.significand, b.significand))),
    () => {
      f.set(e, ea);
      f.set(large, a.significand);
      f.set(hi, b.significand);
      f.set(shift, i32.sub(ea, eb));
    },
    () => {
      f.set(sign, i32.xor(sign.get, difference.get));
      f.set(e, eb);
      f.set(large, b.significand);
      f.set(hi, a.significand);
      f.set(shift, i32.sub(eb, ea));
    },
  );
  f.set(lo, k64(0));
  f.if(shift.get, () =>
    f.if(
      i32.lt_u(shift.get, 64),
      () => {
        const n = f.let(i64.extend_u(shift.get));
        f.set(lo, i64.shl(hi.get, i64.sub(0, n)));
        f.set(hi, i64.shr_u(hi.get, n));
      },
      () => shiftRightSticky(f, hi, lo, shift.get),
    ),
  );
  f.if(
    difference.get,
    () => {
      f.set(hi, i64.sub(i64.sub(large.get, hi.get), i64.extend_u(i64.ne(lo.get, 0))));
      f.set(lo, i64.sub(0, lo.get));
      f.if(i64.ge_s(hi.get, 0), () => {
        f.if(i64.eqz(hi.get), () => {
          // Equal: leave it to the core. (A difference below 2^-64 of the operands has exponents 1 apart.)
          f.set(e, i32.sub(e.get, 64));
          f.set(hi, lo.get);
          f.set(lo, k64(0));
        });
        const n = f.let(i64.clz(hi.get));
        f.if(i64.ne(n, 0), () => {
          f.set(hi, i64.or(i64.shl(hi.get, n), i64.shr_u(lo.get, i64.sub(0, n))));
          f.set(lo, i64.shl(lo.get, n));
          f.set(e, i32.sub(e.get, i32.wrap(n)));
        });
      });
    },
    () => {
      f.set(hi, i64.add(hi.get, large.get));
      f.if(i64.lt_u(hi.get, large.get), () => {
        f.set(lo, i64.or(i64.or(i64.shr_u(lo.get, 1), i64.and(lo.get, 1)), i64.shl(hi.get, 63)));
        f.set(hi, i64.or(i64.shr_u(hi.get, 1), INTEGER_BIT));
        f.set(e, i32.add(e.get, 1));
      });
    },
  );
  f.if(i64.lt_s(hi.get, 0), () => finish(f, state, dst, sign.get, e.get, { hi: hi.get, lo: lo.get }, then));
}

/** A normal double or single as an operand; `normal` tells whether it is one. */
export function widened(f: FunctionBuilder, bits: Expr, size: 4 | 8): { operand: Operand80; normal: Expr } {
  const fraction = size === 8 ? 52 : 23;
  const bias = size === 8 ? 1023 : 127;
  const e = f.let(i32.and(i32.wrap(i64.shr_u(bits, fraction)), 2 * bias + 1));
  return {
    normal: i32.lt_u(i32.sub(e, 1), 2 * bias),
    operand: {
      signExponent: f.let(i32.or(i32.shl(i32.wrap(i64.shr_u(bits, size * 8 - 1)), 15), i32.add(e, k32(BIAS - bias)))),
      significand: f.let(i64.or(i64.shl(bits, 63 - fraction), INTEGER_BIT)),
    },
  };
}
