/** Rounding of x87 results, and the exception flags that come with them (SDM vol. 1, 4.8.4 and 8.5). */
import { S } from '../layout.ts';
import type { RuntimeFunction } from '../runtime.ts';
import type { FunctionBuilder, Local } from '../wasm/builder.ts';
import { I32, I64, i32, i64, k32, k64, select, type Expr } from '../wasm/expr.ts';
import {
  EXCEPTIONS,
  EXPONENT_WRAP,
  Fsw,
  INTEGER_BIT,
  loadFcw,
  loadFsw,
  parameter,
  Rc,
  rounding,
  runtime,
  storeRegister,
  SUMMARY,
} from './common.ts';

/** 1 if a fraction (`rest`, in units of 2^-64 of the last place) makes the magnitude go up. `last`: its last bit, i64. */
export function roundsUp(f: FunctionBuilder, rc: Expr, sign: Expr, rest: Expr, last: Expr): Expr {
  const up = f.temp(I32);
  f.if(
    i32.eqz(rc),
    // Above half, or half and odd.
    () => f.set(up, i32.and(i64.lt_s(rest, 0), i32.or(i64.ne(i64.shl(rest, 1), 0), i32.and(i32.wrap(last), 1)))),
    () =>
      f.set(
        up,
        i32.and(
          i64.ne(rest, 0),
          // DOWN takes negative magnitudes up, UP positive ones, ZERO none.
          select(i32.eq(rc, Rc.ZERO), k32(0), i32.eq(i32.and(rc, 1), sign)),
        ),
      ),
  );
  return up.get;
}

/**
 * Rounds hi:lo at bit `bits` of hi (0, 11 or 40).
 * @returns the rounded significand (0 after a carry out of 64 bits), whether it is inexact, whether it went up
 */
function roundAt(
  f: FunctionBuilder,
  hi: Expr,
  lo: Expr,
  bits: Expr,
  rc: Expr,
  sign: Expr,
): { significand: Expr; inexact: Expr; up: Expr } {
  const wide = f.let(i64.extend_u(bits));
  const rest = f.let(select(i32.eqz(bits), lo, i64.or(i64.shl(hi, i64.sub(64, wide)), i64.extend_u(i64.ne(lo, 0)))));
  const up = roundsUp(f, rc, sign, rest, i64.shr_u(hi, wide));
  const unit = f.let(i64.shl(k64(1), wide));
  const significand = f.let(i64.add(i64.and(hi, i64.sub(0, unit)), select(up, unit, k64(0))));
  return { significand, inexact: f.let(i64.ne(rest, 0)), up };
}

/** ORs exception flags into FSW with C1 = `up`, and sets the summary if one of them is unmasked. */
export function setStatus(f: FunctionBuilder, state: Expr, fcw: Expr, flags: Expr, up: Expr): void {
  f.store(
    4,
    state,
    i32.or(
      i32.or(i32.and(loadFsw(state), ~Fsw.C1), flags),
      i32.or(i32.shl(up, 9), select(i32.and(i32.and(flags, i32.xor(fcw, -1)), EXCEPTIONS), k32(SUMMARY), k32(0))),
    ),
    S.FSW,
  );
}

/** Shifts hi:lo right by `n` (1 or more), keeping what falls out as a sticky lowest bit. */
export function shiftRightSticky(f: FunctionBuilder, hi: Local, lo: Local, n: Expr): void {
  f.if(
    i32.lt_u(n, 64),
    () => {
      const wide = f.let(i64.extend_u(n));
      const left = f.let(i64.sub(64, wide));
      f.set(
        lo,
        i64.or(i64.or(i64.shr_u(lo.get, wide), i64.shl(hi.get, left)), i64.extend_u(i64.ne(i64.shl(lo.get, left), 0))),
      );
      f.set(hi, i64.shr_u(hi.get, wide));
    },
    () => {
      f.if(
        i32.lt_u(n, 128),
        () => {
          const wide = f.let(i64.extend_u(i32.sub(n, 64)));
          f.set(
            lo,
            i64.or(
              i64.shr_u(hi.get, wide),
              i64.extend_u(
                i64.ne(i64.or(lo.get, select(i64.eqz(wide), k64(0), i64.shl(hi.get, i64.sub(64, wide)))), 0),
              ),
            ),
          );
        },
        () => f.set(lo, i64.extend_u(i64.ne(i64.or(hi.get, lo.get), 0))),
      );
      f.set(hi, k64(0));
    },
  );
}

/** Bits of the significand that precision control cuts off: 0, 11 or 40. (PC = 1 is reserved and acts as 64 bits.) */
function cutBits(fcw: Expr): Expr {
  const pc = i32.and(i32.shr_u(fcw, 8), 3);
  return select(i32.eqz(pc), k32(40), select(i32.eq(pc, 2), k32(11), k32(0)));
}

const ROUND = [I32, I32, I32, I32, I64, I64, I32] as const;

export const X87_ROUND: readonly RuntimeFunction[] = [
  /**
   * f80_round(state, dst, sign, exponent, hi, lo, flags): rounds ±hi.lo × 2^(exponent − 16383) (hi's bit 63 is the integer
   * bit and is set; exponent may be out of range) by FCW to the register at dst, adding `flags` to what rounding raises.
   * Always stores; returns 1.
   */
  runtime('f80_round', ROUND, (f, call) => {
    const [state, dst, sign] = [f.param(0), f.param(1), f.param(2)];
    const exponent = parameter(f, 3);
    const hi = parameter(f, 4);
    const lo = f.param(5);
    const flags = f.param(6);
    const fcw = f.let(loadFcw(state));
    f.if(i32.and(i32.eq(i32.and(fcw, 0xf00), 0x300), i32.lt_u(i32.sub(exponent.get, 1), 0x7ffd)), () => {
      const up = f.let(i32.and(i64.lt_s(lo, 0), i32.or(i64.ne(i64.shl(lo, 1), 0), i32.and(i32.wrap(hi.get), 1))));
      f.set(hi, i64.add(hi.get, i64.extend_u(up)));
      f.if(i64.eqz(hi.get), () => {
        f.set(hi, k64(INTEGER_BIT));
        f.set(exponent, i32.add(exponent.get, 1));
      });
      storeRegister(f, dst, i32.or(i32.shl(sign, 15), exponent.get), hi.get);
      setStatus(f, state, fcw, f.let(i32.or(flags, i32.shl(i64.ne(lo, 0), 5))), up);
      f.return(k32(1));
    });
    f.return(call('f80_round_slow', state, dst, sign, exponent.get, hi.get, lo, flags));
  }),

  /** As f80_round, for every rounding and precision control, overflow and underflow. */
  runtime('f80_round_slow', ROUND, (f) => {
    const [state, dst, sign] = [f.param(0), f.param(1), f.param(2)];
    const exponent = parameter(f, 3);
    const hi = parameter(f, 4);
    const lo = parameter(f, 5);
    const flags = parameter(f, 6);
    const fcw = f.let(loadFcw(state));
    const rc = f.let(rounding(fcw));
    const bits = f.let(cutBits(fcw));
    const add = (bit: Expr): void => f.set(flags, i32.or(flags.get, bit));
    const finish = (signExponent: Expr, significand: Expr, up: Expr): void => {
      storeRegister(f, dst, i32.or(i32.shl(sign, 15), signExponent), significand);
      setStatus(f, state, fcw, flags.get, up);
      f.return(k32(1));
    };
    // As if the exponent had no bounds.
    const { significand, inexact, up } = roundAt(f, hi.get, lo.get, bits, rc, sign);
    const carried = f.let(i64.ge_s(significand, 0));
    const rounded = f.let(select(carried, k64(INTEGER_BIT), significand));
    const e = f.let(i32.add(exponent.get, carried));
    f.if(i32.le_s(e, 0), () => {
      f.if(i32.eqz(i32.and(fcw, Fsw.UE)), () => {
        add(k32(Fsw.UE));
        add(i32.shl(inexact, 5));
        finish(i32.add(e, EXPONENT_WRAP), rounded, up);
      });
      shiftRightSticky(f, hi, lo, i32.sub(1, exponent.get));
      const tiny = roundAt(f, hi.get, lo.get, bits, rc, sign);
      add(select(tiny.inexact, k32(Fsw.UE | Fsw.PE), k32(0)));
      finish(i64.lt_s(tiny.significand, 0), tiny.significand, tiny.up);
    });
    f.if(i32.ge_s(e, 0x7fff), () => {
      add(k32(Fsw.OE));
      f.if(i32.eqz(i32.and(fcw, Fsw.OE)), () => {
        add(i32.shl(inexact, 5));
        finish(i32.sub(e, EXPONENT_WRAP), rounded, up);
      });
      add(k32(Fsw.PE));
      // Infinity, but the largest number where the rounding direction is away from it.
      const infinite = f.let(i32.or(i32.eqz(rc), select(i32.eq(rc, Rc.ZERO), k32(0), i32.eq(i32.and(rc, 1), sign))));
      f.if(infinite, () => finish(k32(0x7fff), k64(INTEGER_BIT), k32(1)));
      finish(k32(0x7ffe), i64.shl(k64(-1), i64.extend_u(bits)), k32(0));
    });
    add(i32.shl(inexact, 5));
    finish(e, rounded, up);
    f.unreachable();
  }),

  /**
   * f80_flag(state, flags): raises exceptions that come before a result is computed, with C1 = 0. Returns 1 if all are masked, 0
   * if one is not: then the instruction must leave its destination and the stack alone.
   */
  runtime('f80_flag', [I32, I32], (f) => {
    const fcw = f.let(loadFcw(f.param(0)));
    setStatus(f, f.param(0), fcw, f.param(1), k32(0));
    f.return(i32.eqz(i32.and(i32.and(f.param(1), i32.xor(fcw, -1)), EXCEPTIONS)));
  }),

  /**
   * f80_invalid(state, dst, flags): an invalid operation: raises IE and `flags` (SF for a stack fault), and where it is masked
   * gives the default NaN. Returns as f80_flag.
   */
  runtime('f80_invalid', [I32, I32, I32], (f, call) => {
    const [state, dst, flags] = [f.param(0), f.param(1), f.param(2)];
    f.if(i32.eqz(call('f80_flag', state, i32.or(flags, Fsw.IE))), () => f.return(k32(0)));
    storeRegister(f, dst, k32(0xffff), k64(0xc000000000000000n));
    f.return(k32(1));
  }),
];
