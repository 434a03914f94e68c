/**
 * The x87 arithmetic core: addition, multiplication, division and square root on registers in memory, with 128-bit
 * intermediate significands. Each `f80_…(state, dst, …)` stores the result and sets FSW; it returns 1, or 0 where an
 * unmasked exception keeps the result back.
 */
import type { RuntimeFunction } from '../runtime.ts';
import type { FunctionBuilder, Local } from '../wasm/builder.ts';
import { I32, I64, i32, i64, k32, k64, select, type Expr } from '../wasm/expr.ts';
import {
  BIAS,
  Fsw,
  INTEGER_BIT,
  isNormal,
  loadFcw,
  loadSignExponent,
  loadSignificand,
  MAX_EXPONENT,
  parameter,
  QUIET_BIT,
  Rc,
  rounding,
  runtime,
  storeRegister,
} from './common.ts';
import { shiftRightSticky } from './round.ts';
import { divideSignificands, multiplyHigh, rootSignificand } from './significand.ts';

/** An operand taken apart. `exponent` and `significand` may be changed (normalised). */
interface Parts {
  signExponent: Expr;
  sign: Expr;
  exponent: Local;
  significand: Local;
}

function unpack(f: FunctionBuilder, address: Expr): Parts {
  const signExponent = f.let(loadSignExponent(address));
  const exponent = f.temp(I32);
  const significand = f.temp(I64);
  f.set(exponent, i32.and(signExponent, MAX_EXPONENT));
  f.set(significand, loadSignificand(address));
  return { signExponent, sign: f.let(i32.shr_u(signExponent, 15)), exponent, significand };
}

/** Zero by its significand: only of an operand that f80_special has let through. */
const isZero = (p: Parts): Expr => i64.eqz(p.significand.get);
const isInfinite = (p: Parts): Expr => i32.eq(p.exponent.get, MAX_EXPONENT);
const isDenormal = (p: Parts): Expr => i32.and(i32.eqz(p.exponent.get), i64.ne(p.significand.get, 0));

/** Gives a denormal operand a set integer bit, and an exponent of 1 or less. */
function normalise(f: FunctionBuilder, p: Parts): void {
  f.if(isDenormal(p), () => {
    const n = f.let(i64.clz(p.significand.get));
    f.set(p.significand, i64.shl(p.significand.get, n));
    f.set(p.exponent, i32.sub(1, i32.wrap(n)));
  });
}

const both = (a: Parts, b: Parts): Expr =>
  i32.and(isNormal(a.exponent.get, a.significand.get), isNormal(b.exponent.get, b.significand.get));

/**
 * The way for operands that are not both normal numbers: NaNs and unsupported encodings return from the function; what is left is
 * zero, infinite or finite. `invalid` and `zero` are what comes before a denormal operand in priority (SDM vol. 1, 8.5 and
 * table 4-11); `result` handles zeros and infinities and returns from the function where one of them decides the result;
 * denormals are then normalised.
 */
function special(
  f: FunctionBuilder,
  call: (name: string, ...args: Expr[]) => Expr,
  a: Parts,
  b: Parts,
  flags: Local,
  ways: { invalid: Expr; before?: () => void; result: () => void },
): void {
  const [state, dst] = [f.param(0), f.param(1)];
  const nan = f.let(call('f80_nan', state, dst, f.param(2), f.param(3), k32(0)));
  f.if(i32.ge_s(nan, 0), () => f.return(nan));
  f.if(ways.invalid, () => f.return(call('f80_invalid', state, dst, k32(0))));
  ways.before?.();
  f.if(i32.or(isDenormal(a), isDenormal(b)), () => f.set(flags, i32.or(flags.get, Fsw.DE)));
  f.if(flags.get, () => f.if(i32.eqz(call('f80_flag', state, flags.get)), () => f.return(k32(0))));
  ways.result();
  normalise(f, a);
  normalise(f, b);
}

const signBit = (sign: Expr): Expr => i32.shl(sign, 15);

/** f80_…(state, dst, a, b, …, flags) */
const BINARY = [I32, I32, I32, I32, I32] as const;

export const X87_ARITHMETIC: readonly RuntimeFunction[] = [
  /**
   * f80_nan(state, dst, a, b, flags): if an operand is a NaN or an unsupported encoding, does the whole operation and
   * returns 1 or 0 as above; else returns −1. Of two NaNs the one with the larger significand is the result (SDM vol. 1, table
   * 4-7); a quiet NaN goes before a signalling one.
   */
  runtime('f80_nan', BINARY, (f, call) => {
    const [state, dst] = [f.param(0), f.param(1)];
    const a = unpack(f, f.param(2));
    const b = unpack(f, f.param(3));
    const unsupported = (p: Parts): Expr => i32.and(i32.ne(p.exponent.get, 0), i64.ge_s(p.significand.get, 0));
    const isNan = (p: Parts): Expr => i32.and(isInfinite(p), i64.ne(i64.shl(p.significand.get, 1), 0));
    const isSignalling = (p: Parts): Expr => i32.and(isNan(p), i64.eqz(i64.and(p.significand.get, QUIET_BIT)));
    f.if(i32.or(unsupported(a), unsupported(b)), () => f.return(call('f80_invalid', state, dst, f.param(4))));
    const nanA = f.let(isNan(a));
    const nanB = f.let(isNan(b));
    f.if(i32.eqz(i32.or(nanA, nanB)), () => f.return(k32(-1)));
    const signalA = f.let(isSignalling(a));
    const signalB = f.let(isSignalling(b));
    f.if(i32.eqz(call('f80_flag', state, i32.or(f.param(4), i32.or(signalA, signalB)))), () => f.return(k32(0)));
    const takeA = f.temp(I32);
    f.set(takeA, nanA);
    f.if(i32.and(nanA, nanB), () =>
      f.if(
        i32.ne(signalA, signalB),
        () => f.set(takeA, signalB),
        () =>
          f.if(
            i64.eq(a.significand.get, b.significand.get),
            () => f.set(takeA, i32.le_u(a.sign, b.sign)),
            () => f.set(takeA, i64.gt_u(a.significand.get, b.significand.get)),
          ),
      ),
    );
    storeRegister(
      f,
      dst,
      select(takeA.get, a.signExponent, b.signExponent),
      i64.or(select(takeA.get, a.significand.get, b.significand.get), QUIET_BIT),
    );
    f.return(k32(1));
  }),

  /** f80_add(state, dst, a, b, negate, flags): a + b, or a − b if `negate`. */
  runtime('f80_add', [...BINARY, I32], (f, call) => {
    const [state, dst] = [f.param(0), f.param(1)];
    const flags = parameter(f, 5);
    const a = unpack(f, f.param(2));
    const b = unpack(f, f.param(3));
    const signA = f.temp(I32);
    const signB = f.temp(I32);
    f.set(signA, a.sign);
    f.set(signB, i32.xor(b.sign, f.param(4)));
    const round = (sign: Expr, e: Expr, hi: Expr, lo: Expr): void =>
      f.return(call('f80_round', state, dst, sign, e, hi, lo, flags.get));
    const zeroSign = (): Expr => i32.eq(rounding(loadFcw(state)), Rc.DOWN);
    const done = (signExponent: Expr, significand: Expr): void => {
      storeRegister(f, dst, signExponent, significand);
      f.return(call('f80_flag', state, flags.get));
    };
    f.if(i32.eqz(i32.and(both(a, b), i32.eqz(flags.get))), () => {
      special(f, call, a, b, flags, {
        invalid: i32.and(i32.and(isInfinite(a), isInfinite(b)), i32.ne(signA.get, signB.get)),
        result: () => {
          f.if(isInfinite(a), () => done(a.signExponent, k64(INTEGER_BIT)));
          f.if(isInfinite(b), () => done(i32.or(signBit(signB.get), MAX_EXPONENT), k64(INTEGER_BIT)));
          f.if(isZero(a), () =>
            f.if(isZero(b), () => done(signBit(select(i32.eq(signA.get, signB.get), signA.get, zeroSign())), k64(0))),
          );
        },
      });
      f.if(isZero(a), () => round(signB.get, b.exponent.get, b.significand.get, k64(0)));
      f.if(isZero(b), () => round(signA.get, a.exponent.get, a.significand.get, k64(0)));
    });
    // The larger exponent first.
    const ea = a.exponent;
    const sa = a.significand;
    const hi = b.significand;
    f.if(i32.lt_s(ea.get, b.exponent.get), () => {
      const e = f.let(ea.get);
      const s = f.let(sa.get);
      const sign = f.let(signA.get);
      f.set(ea, b.exponent.get);
      f.set(sa, hi.get);
      f.set(signA, signB.get);
      f.set(b.exponent, e);
      f.set(hi, s);
      f.set(signB, sign);
    });
    const lo = f.temp(I64);
    f.set(lo, k64(0));
    const shift = f.let(i32.sub(ea.get, b.exponent.get));
    f.if(shift, () => shiftRightSticky(f, hi, lo, shift));
    f.if(i32.eq(signA.get, signB.get), () => {
      f.set(hi, i64.add(hi.get, sa.get));
      f.if(i64.lt_u(hi.get, sa.get), () => {
        f.set(lo, i64.or(i64.or(i64.shr_u(lo.get, 1), i64.and(lo.get, 1)), i64.shl(hi.get, 63)));
        f.set(hi, i64.or(i64.shr_u(hi.get, 1), INTEGER_BIT));
        f.set(ea, i32.add(ea.get, 1));
      });
      round(signA.get, ea.get, hi.get, lo.get);
    });
    // Different signs: the smaller magnitude from the larger.
    f.if(
      i32.and(i32.eqz(shift), i64.lt_u(sa.get, hi.get)),
      () => {
        f.set(hi, i64.sub(hi.get, sa.get));
        f.set(signA, signB.get);
      },
      () => {
        f.set(hi, i64.sub(i64.sub(sa.get, hi.get), i64.extend_u(i64.ne(lo.get, 0))));
        f.set(lo, i64.sub(0, lo.get));
      },
    );
    f.if(i64.eqz(hi.get), () => {
      f.if(i64.eqz(lo.get), () => done(signBit(zeroSign()), k64(0)));
      f.set(hi, lo.get);
      f.set(lo, k64(0));
      f.set(ea, i32.sub(ea.get, 64));
    });
    const n = f.let(i64.clz(hi.get));
    f.if(i64.ne(n, 0), () => {
      f.set(hi, i64.or(i64.shl(hi.get, n), i64.shr_u(lo.get, i64.sub(64, n))));
      f.set(lo, i64.shl(lo.get, n));
      f.set(ea, i32.sub(ea.get, i32.wrap(n)));
    });
    round(signA.get, ea.get, hi.get, lo.get);
  }),

  /** f80_mul(state, dst, a, b, flags) */
  runtime('f80_mul', BINARY, (f, call) => {
    const [state, dst] = [f.param(0), f.param(1)];
    const flags = parameter(f, 4);
    const a = unpack(f, f.param(2));
    const b = unpack(f, f.param(3));
    const sign = f.let(i32.xor(a.sign, b.sign));
    const done = (exponent: number, significand: bigint): void => {
      storeRegister(f, dst, i32.or(signBit(sign), exponent), k64(significand));
      f.return(call('f80_flag', state, flags.get));
    };
    f.if(i32.eqz(i32.and(both(a, b), i32.eqz(flags.get))), () =>
      special(f, call, a, b, flags, {
        invalid: i32.or(i32.and(isInfinite(a), isZero(b)), i32.and(isZero(a), isInfinite(b))),
        result: () => {
          f.if(i32.or(isInfinite(a), isInfinite(b)), () => done(MAX_EXPONENT, INTEGER_BIT));
          f.if(i32.or(isZero(a), isZero(b)), () => done(0, 0n));
        },
      }),
    );
    const hi = f.temp(I64);
    const lo = f.temp(I64);
    const e = f.temp(I32);
    f.set(lo, i64.mul(a.significand.get, b.significand.get));
    f.set(hi, multiplyHigh(f, a.significand.get, b.significand.get));
    f.set(e, i32.sub(i32.add(a.exponent.get, b.exponent.get), BIAS));
    f.if(
      i64.ge_s(hi.get, 0),
      () => {
        f.set(hi, i64.or(i64.shl(hi.get, 1), i64.shr_u(lo.get, 63)));
        f.set(lo, i64.shl(lo.get, 1));
      },
      () => f.set(e, i32.add(e.get, 1)),
    );
    f.return(call('f80_round', state, dst, sign, e.get, hi.get, lo.get, flags.get));
  }),

  /** f80_div(state, dst, a, b, flags): a ÷ b */
  runtime('f80_div', BINARY, (f, call) => {
    const [state, dst] = [f.param(0), f.param(1)];
    const flags = parameter(f, 4);
    const a = unpack(f, f.param(2));
    const b = unpack(f, f.param(3));
    const sign = f.let(i32.xor(a.sign, b.sign));
    const done = (exponent: number, significand: bigint): void => {
      storeRegister(f, dst, i32.or(signBit(sign), exponent), k64(significand));
      f.return(call('f80_flag', state, flags.get));
    };
    f.if(i32.eqz(i32.and(both(a, b), i32.eqz(flags.get))), () =>
      special(f, call, a, b, flags, {
        invalid: i32.or(i32.and(isInfinite(a), isInfinite(b)), i32.and(isZero(a), isZero(b))),
        before: () => {
          f.if(i32.and(isZero(b), i32.eqz(isInfinite(a))), () => {
            // It goes before a denormal operand.
            f.set(flags, k32(Fsw.ZE));
            f.if(i32.eqz(call('f80_flag', state, flags.get)), () => f.return(k32(0)));
            done(MAX_EXPONENT, INTEGER_BIT);
          });
        },
        result: () => {
          f.if(isInfinite(a), () => done(MAX_EXPONENT, INTEGER_BIT));
          f.if(i32.or(isZero(a), isInfinite(b)), () => done(0, 0n));
        },
      }),
    );
    const { quotient, longer } = divideSignificands(f, a.significand.get, b.significand.get);
    const e = i32.add(i32.add(i32.sub(a.exponent.get, b.exponent.get), BIAS - 1), longer);
    f.return(call('f80_round', state, dst, sign, e, quotient.hi, quotient.lo, flags.get));
  }),

  /** f80_sqrt(state, dst, a) */
  runtime('f80_sqrt', [I32, I32, I32], (f, call) => {
    const [state, dst] = [f.param(0), f.param(1)];
    const flags = f.temp(I32);
    f.set(flags, k32(0));
    const a = unpack(f, f.param(2));
    f.if(i32.eqz(i32.and(isNormal(a.exponent.get, a.significand.get), i32.eqz(a.sign))), () => {
      const nan = f.let(call('f80_nan', state, dst, f.param(2), f.param(2), k32(0)));
      f.if(i32.ge_s(nan, 0), () => f.return(nan));
      f.if(isZero(a), () => {
        storeRegister(f, dst, a.signExponent, k64(0));
        f.return(call('f80_flag', state, k32(0)));
      });
      f.if(a.sign, () => f.return(call('f80_invalid', state, dst, k32(0))));
      f.if(isInfinite(a), () => {
        storeRegister(f, dst, a.signExponent, k64(INTEGER_BIT));
        f.return(call('f80_flag', state, k32(0)));
      });
      f.set(flags, k32(Fsw.DE));
      f.if(i32.eqz(call('f80_flag', state, flags.get)), () => f.return(k32(0)));
      normalise(f, a);
    });
    // hi:lo = significand × 2^63 or 2^64, so that the root has 64 bits.
    const unbiased = f.let(i32.sub(a.exponent.get, BIAS));
    const hi = f.temp(I64);
    const lo = f.temp(I64);
    f.set(hi, a.significand.get);
    f.set(lo, k64(0));
    f.if(i32.eqz(i32.and(unbiased, 1)), () => {
      f.set(lo, i64.shl(hi.get, 63));
      f.set(hi, i64.shr_u(hi.get, 1));
    });
    const root = rootSignificand(f, hi.get, lo.get);
    f.return(call('f80_round', state, dst, k32(0), i32.add(i32.shr_s(unbiased, 1), BIAS), root.hi, root.lo, flags.get));
  }),
];
