/** Conversions between registers and the formats of memory: single, double, integers (SDM vol. 1, 4.2 and 8.1.2). */
import { S } from '../layout.ts';
import type { RuntimeFunction } from '../runtime.ts';
import type { FunctionBuilder } from '../wasm/builder.ts';
import { I32, I64, i32, i64, k32, k64, select, type Expr } from '../wasm/expr.ts';
import {
  BIAS,
  Fsw,
  INTEGER_BIT,
  inUse,
  isNormal,
  loadFcw,
  loadFsw,
  loadSignExponent,
  loadSignificand,
  MAX_EXPONENT,
  OPERAND,
  parameter,
  physical,
  pop,
  QUIET_BIT,
  Rc,
  registerAddress,
  RESULT,
  rounding,
  runtime,
  storeRegister,
} from './common.ts';
import { roundsUp, setStatus, shiftRightSticky } from './round.ts';

/** Single and double precision. */
interface Format {
  bytes: 4 | 8;
  /** Fraction bits: 23 or 52. */
  fraction: number;
  bias: number;
  maxExponent: number;
}
const SINGLE: Format = { bytes: 4, fraction: 23, bias: 127, maxExponent: 255 };
const DOUBLE: Format = { bytes: 8, fraction: 52, bias: 1023, maxExponent: 2047 };

/** Widens a value to the register at `to` (OPERAND in the state by default); returns DE for a denormal, else 0. */
function widen(f: FunctionBuilder, to: Expr, bits: Expr, format: Format): void {
  const { fraction, bias, maxExponent } = format;
  const shift = 63 - fraction;
  const e = f.let(i32.and(i32.wrap(i64.shr_u(bits, fraction)), maxExponent));
  const sign = f.let(i32.shl(i32.wrap(i64.shr_u(bits, format.bytes * 8 - 1)), 15));
  const significand = f.let(i64.and(i64.shl(bits, shift), INTEGER_BIT - 1n));
  f.if(i32.lt_u(i32.sub(e, 1), maxExponent - 1), () => {
    storeRegister(f, to, i32.or(sign, i32.add(e, BIAS - bias)), i64.or(significand, INTEGER_BIT));
    f.return(k32(0));
  });
  f.if(e, () => {
    storeRegister(f, to, i32.or(sign, MAX_EXPONENT), i64.or(significand, INTEGER_BIT));
    f.return(k32(0));
  });
  f.if(i64.eqz(significand), () => {
    storeRegister(f, to, sign, k64(0));
    f.return(k32(0));
  });
  const n = f.let(i64.clz(significand));
  storeRegister(f, to, i32.or(sign, i32.sub(BIAS - bias + 1, i32.wrap(n))), i64.shl(significand, n));
  f.return(k32(Fsw.DE));
}

/** f80_to_f32/f64(state, address): rounds the register at `address` to RESULT; returns 1, or 0 where nothing may be stored. */
function narrow(format: Format): RuntimeFunction {
  const { bytes, fraction, bias, maxExponent } = format;
  const cut = 63 - fraction;
  return runtime(`f80_to_f${bytes * 8}`, [I32, I32], (f, call) => {
    const state = f.param(0);
    const address = f.param(1);
    const signExponent = f.let(loadSignExponent(address));
    const hi = f.temp(I64);
    const lo = f.temp(I64);
    f.set(hi, loadSignificand(address));
    f.set(lo, k64(0));
    const sign = f.let(i32.shr_u(signExponent, 15));
    const wide = f.let(i64.shl(i64.extend_u(sign), bytes * 8 - 1));
    const exponent = f.let(i32.and(signExponent, MAX_EXPONENT));
    const fcw = f.let(loadFcw(state));
    const store = (value: Expr): void => f.store(bytes, i32.add(state, RESULT), i64.or(wide, value));
    const infinity = k64(BigInt(maxExponent) << BigInt(fraction));
    // The common case: a result that is a normal number, to nearest, with everything masked.
    const small = f.let(i32.sub(exponent, BIAS - bias));
    f.if(
      i32.and(
        i32.and(i32.lt_u(i32.sub(small, 1), maxExponent - 2), i64.lt_s(hi.get, 0)),
        i32.eq(i32.and(fcw, 0xc3f), 0x3f),
      ),
      () => {
        const rest = f.let(i64.shl(hi.get, 64 - cut));
        const kept = f.let(i64.shr_u(hi.get, cut));
        const up = f.let(i32.and(i64.lt_s(rest, 0), i32.or(i64.ne(i64.shl(rest, 1), 0), i32.and(i32.wrap(kept), 1))));
        store(i64.add(i64.add(i64.shl(i64.extend_u(i32.sub(small, 1)), fraction), kept), i64.extend_u(up)));
        f.store(
          4,
          state,
          i32.or(i32.and(loadFsw(state), ~Fsw.C1), i32.or(i32.shl(up, 9), i32.shl(i64.ne(rest, 0), 5))),
          S.FSW,
        );
        f.return(k32(1));
      },
    );
    f.if(i32.eqz(isNormal(exponent, hi.get)), () => {
      f.if(i32.and(i32.ne(exponent, 0), i64.ge_s(hi.get, 0)), () => {
        f.if(i32.eqz(call('f80_flag', state, k32(Fsw.IE))), () => f.return(k32(0)));
        f.store(
          bytes,
          i32.add(state, RESULT),
          k64((((1n << BigInt(bytes * 8 - fraction)) - 1n) << BigInt(fraction)) | (1n << BigInt(fraction - 1))),
        );
        f.return(k32(1));
      });
      f.if(exponent, () => {
        // Infinity or NaN; a signalling one becomes quiet.
        f.if(i64.eq(hi.get, INTEGER_BIT), () => {
          store(infinity);
          f.return(call('f80_flag', state, k32(0)));
        });
        store(i64.or(i64.or(infinity, 1n << BigInt(fraction - 1)), i64.shr_u(i64.and(hi.get, INTEGER_BIT - 1n), cut)));
        f.return(call('f80_flag', state, i64.eqz(i64.and(hi.get, QUIET_BIT))));
      });
      f.if(i64.eqz(hi.get), () => {
        store(k64(0));
        f.return(call('f80_flag', state, k32(0)));
      });
    });
    // A denormal of 80 bits is far below every format of memory: its exponent only has to be small.
    const e = f.let(i32.sub(exponent, BIAS - bias));
    const rc = f.let(rounding(fcw));
    const flags = f.temp(I32);
    f.set(flags, k32(0));
    const add = (bit: Expr): void => f.set(flags, i32.or(flags.get, bit));
    const round = (): { value: Expr; inexact: Expr; up: Expr } => {
      const rest = f.let(i64.or(i64.shl(hi.get, 64 - cut), i64.extend_u(i64.ne(lo.get, 0))));
      const up = roundsUp(f, rc, sign, rest, i64.shr_u(hi.get, cut));
      const value = f.let(i64.add(i64.shr_u(hi.get, cut), i64.extend_u(up)));
      return { value, inexact: f.let(i64.ne(rest, 0)), up };
    };
    const { value, inexact, up } = round();
    const rounded = f.let(i32.add(e, i64.ne(i64.shr_u(value, fraction + 1), 0)));
    const keep = (bit: number): void => {
      // Unmasked: neither the destination nor the stack changes (SDM vol. 1, 8.5.4 and 8.5.5).
      f.if(i32.eqz(i32.and(fcw, bit)), () => f.return(call('f80_flag', state, flags.get)));
    };
    f.if(i32.le_s(rounded, 0), () => {
      f.set(flags, k32(Fsw.UE));
      keep(Fsw.UE);
      shiftRightSticky(f, hi, lo, i32.sub(1, e));
      const tiny = round();
      store(tiny.value);
      setStatus(f, state, fcw, f.let(select(tiny.inexact, k32(Fsw.UE | Fsw.PE), k32(0))), tiny.up);
      f.return(k32(1));
    });
    f.if(i32.ge_s(rounded, maxExponent), () => {
      f.set(flags, k32(Fsw.OE));
      keep(Fsw.OE);
      add(k32(Fsw.PE));
      const infinite = f.let(i32.or(i32.eqz(rc), select(i32.eq(rc, Rc.ZERO), k32(0), i32.eq(i32.and(rc, 1), sign))));
      store(i64.sub(infinity, i64.extend_u(i32.eqz(infinite))));
      setStatus(f, state, fcw, flags.get, infinite);
      f.return(k32(1));
    });
    // The carry out of the significand, if there was one, adds to the exponent by itself.
    store(i64.add(i64.shl(i64.extend_s(i32.sub(e, 1)), fraction), value));
    setStatus(f, state, fcw, f.let(i32.shl(inexact, 5)), up);
    f.return(k32(1));
  });
}

/** Takes the register at `address` to an integer magnitude and the fraction below it. The significand may be 0. */
function toInteger(f: FunctionBuilder, significand: Expr, exponent: Expr): { whole: Expr; rest: Expr; tooBig: Expr } {
  const shift = f.let(i32.sub(BIAS + 63, exponent));
  const whole = f.temp(I64);
  const rest = f.temp(I64);
  f.set(whole, significand);
  f.set(rest, k64(0));
  f.if(i32.gt_s(shift, 0), () =>
    f.if(
      i32.lt_s(shift, 64),
      () => {
        const n = f.let(i64.extend_u(shift));
        f.set(whole, i64.shr_u(significand, n));
        f.set(rest, i64.shl(significand, i64.sub(64, n)));
      },
      () => {
        f.set(whole, k64(0));
        f.set(rest, select(i32.eq(shift, 64), significand, i64.extend_u(i64.ne(significand, 0))));
      },
    ),
  );
  return { whole: whole.get, rest: rest.get, tooBig: f.let(i32.lt_s(shift, 0)) };
}

export const X87_CONVERT: readonly RuntimeFunction[] = [
  /** f80_from_f32(state, bits): to OPERAND. Returns DE if it is denormal, else 0. A signalling NaN stays one. */
  runtime('f80_from_f32', [I32, I32], (f) =>
    widen(f, i32.add(f.param(0), OPERAND), f.let(i64.extend_u(f.param(1))), SINGLE),
  ),
  runtime('f80_from_f64', [I32, I64], (f) => widen(f, i32.add(f.param(0), OPERAND), f.param(1), DOUBLE)),

  /** f80_from_int(state, value): to OPERAND. Returns 0: integers raise nothing. */
  runtime('f80_from_int', [I32, I64], (f) => {
    const value = f.param(1);
    const to = f.let(i32.add(f.param(0), OPERAND));
    f.if(i64.eqz(value), () => {
      storeRegister(f, to, k32(0), k64(0));
      f.return(k32(0));
    });
    const sign = f.let(i64.lt_s(value, 0));
    const magnitude = f.let(select(sign, i64.sub(0, value), value));
    const n = f.let(i64.clz(magnitude));
    storeRegister(f, to, i32.or(i32.shl(sign, 15), i32.sub(BIAS + 63, i32.wrap(n))), i64.shl(magnitude, n));
    f.return(k32(0));
  }),

  narrow(SINGLE),
  narrow(DOUBLE),

  /**
   * f80_to_int(state, address, bytes, truncate): rounds the register at `address` (by FCW, or towards zero) to an integer of 2, 4 or
   * 8 bytes in RESULT (8 bytes are written); returns 1, or 0 where nothing may be stored.
   */
  runtime('f80_to_int', [I32, I32, I32, I32], (f, call) => {
    const [state, address] = [f.param(0), f.param(1)];
    const bits = f.let(i64.extend_u(i32.sub(i32.shl(f.param(2), 3), 1)));
    const signExponent = f.let(loadSignExponent(address));
    const significand = f.let(loadSignificand(address));
    const sign = f.let(i32.shr_u(signExponent, 15));
    const exponent = f.let(i32.and(signExponent, MAX_EXPONENT));
    const fcw = f.let(loadFcw(state));
    const rc = f.let(select(f.param(3), k32(Rc.ZERO), rounding(fcw)));
    const limit = f.let(i64.shl(k64(1), bits));
    const result = f.let(i32.add(state, RESULT));
    const invalid = f.temp(I32);
    const { whole, rest, tooBig } = toInteger(f, significand, exponent);
    const up = roundsUp(f, rc, sign, rest, whole);
    const magnitude = f.let(i64.add(whole, i64.extend_u(up)));
    // Unsupported encodings have an exponent but no integer bit. NaN and infinity are too big.
    f.set(invalid, i32.or(tooBig, i32.and(i32.ne(exponent, 0), i64.ge_s(significand, 0))));
    f.if(i32.or(invalid.get, select(sign, i64.gt_u(magnitude, limit), i64.ge_u(magnitude, limit))), () => {
      f.if(i32.eqz(call('f80_flag', state, k32(Fsw.IE))), () => f.return(k32(0)));
      f.store(8, result, limit);
      f.return(k32(1));
    });
    f.store(8, result, select(sign, i64.sub(0, magnitude), magnitude));
    setStatus(f, state, fcw, f.let(i32.shl(i64.ne(rest, 0), 5)), up);
    f.return(k32(1));
  }),

  /** f80_rndint(state, address): FRNDINT in place. */
  runtime('f80_rndint', [I32, I32], (f, call) => {
    const [state, address] = [f.param(0), f.param(1)];
    const signExponent = f.let(loadSignExponent(address));
    const significand = f.let(loadSignificand(address));
    const sign = f.let(i32.shr_u(signExponent, 15));
    const exponent = f.let(i32.and(signExponent, MAX_EXPONENT));
    const fcw = f.let(loadFcw(state));
    const flags = f.temp(I32);
    f.set(flags, k32(0));
    f.if(i32.eqz(isNormal(exponent, significand)), () => {
      const nan = f.let(call('f80_nan', state, address, address, address, k32(0)));
      f.if(i32.ge_s(nan, 0), () => f.return(nan));
      f.if(i32.or(i64.eqz(significand), exponent), () => f.return(call('f80_flag', state, k32(0))));
      f.set(flags, k32(Fsw.DE));
      f.if(i32.eqz(call('f80_flag', state, flags.get)), () => f.return(k32(0)));
    });
    f.if(i32.ge_u(exponent, BIAS + 63), () => f.return(call('f80_flag', state, k32(0))));
    const { whole, rest } = toInteger(f, significand, exponent);
    const up = roundsUp(f, rounding(fcw), sign, rest, whole);
    const magnitude = f.let(i64.add(whole, i64.extend_u(up)));
    f.if(
      i64.eqz(magnitude),
      () => storeRegister(f, address, i32.shl(sign, 15), k64(0)),
      () => {
        const n = f.let(i64.clz(magnitude));
        storeRegister(f, address, i32.or(i32.shl(sign, 15), i32.sub(BIAS + 63, i32.wrap(n))), i64.shl(magnitude, n));
      },
    );
    setStatus(f, state, fcw, f.let(i32.or(flags.get, i32.shl(i64.ne(rest, 0), 5))), up);
    f.return(k32(1));
  }),

  /** x87_store_float(state, bytes, pop): FST/FSTP m32/m64: ST(0) to RESULT; returns 1 if it is to be stored. */
  runtime('x87_store_float', [I32, I32, I32], (f, call) => {
    const state = f.param(0);
    const result = f.let(i32.add(state, RESULT));
    const top = f.let(physical(state, 0));
    const ok = parameter(f, 1);
    f.if(
      inUse(state, top),
      () => {
        const from = f.let(registerAddress(state, top));
        f.if(
          i32.eq(f.param(1), 8),
          () => f.set(ok, call('f80_to_f64', state, from)),
          () => f.set(ok, call('f80_to_f32', state, from)),
        );
      },
      () => {
        f.store(8, result, select(i32.eq(f.param(1), 8), k64(0xfff8000000000000n), k64(0xffc00000n)));
        f.set(ok, call('f80_flag', state, k32(Fsw.IE | Fsw.SF)));
      },
    );
    f.if(i32.and(ok.get, f.param(2)), () => pop(f, state));
    f.return(ok.get);
  }),

  /** x87_store_int(state, bytes, truncate, pop): FIST, FISTP, FISTTP: ST(0) to RESULT; returns 1 if it is to be stored. */
  runtime('x87_store_int', [I32, I32, I32, I32], (f, call) => {
    const state = f.param(0);
    const top = f.let(physical(state, 0));
    const ok = f.temp(I32);
    f.if(
      inUse(state, top),
      () => f.set(ok, call('f80_to_int', state, registerAddress(state, top), f.param(1), f.param(2))),
      () => {
        f.store(8, i32.add(state, RESULT), i64.shl(k64(1), i64.extend_u(i32.sub(i32.shl(f.param(1), 3), 1))));
        f.set(ok, call('f80_flag', state, k32(Fsw.IE | Fsw.SF)));
      },
    );
    f.if(i32.and(ok.get, f.param(3)), () => pop(f, state));
    f.return(ok.get);
  }),
];
