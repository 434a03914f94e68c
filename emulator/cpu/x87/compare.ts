/** FCOM, FUCOM, FCOMI, FUCOMI, FTST and FXAM (SDM vol. 1, 8.3.6 and 8.3.7). */
import { S } from '../layout.ts';
import type { RuntimeFunction } from '../runtime.ts';
import { I32, i32, i64, k32, k64, select, type Expr } from '../wasm/expr.ts';
import {
  clearC1,
  Fsw,
  INTEGER_BIT,
  inUse,
  isNormal,
  loadFsw,
  loadSignExponent,
  loadSignificand,
  MAX_EXPONENT,
  OPERAND,
  parameter,
  physical,
  pop,
  QUIET_BIT,
  registerAddress,
  runtime,
  storeRegister,
} from './common.ts';

/** Bits of x87_compare's `info`. */
export const Compare = {
  /** Number of pops, in the two lowest bits. */
  POP: 1,
  POP2: 2,
  /** FUCOM: only a signalling NaN is invalid. */
  QUIET: 4,
  /** The other operand is OPERAND, not ST(i). */
  MEMORY: 8,
  /** FCOMI: the result is for RFLAGS, and FSW's condition bits stay. */
  FLAGS: 16,
} as const;

const UNORDERED = Fsw.C3 | Fsw.C2 | Fsw.C0;

export const X87_COMPARE: readonly RuntimeFunction[] = [
  /**
   * f80_compare(state, a, b, quiet, flags): C3, C2 and C0 at their places in FSW, after raising what there is to raise; bit 0 is
   * set if an unmasked exception leaves it without effect.
   */
  runtime('f80_compare', [I32, I32, I32, I32, I32], (f, call) => {
    const state = f.param(0);
    const flags = parameter(f, 4);
    const load = (address: Expr): { se: Expr; e: ReturnType<typeof f.temp>; m: Expr } => {
      const se = f.let(loadSignExponent(address));
      const e = f.temp(I32);
      f.set(e, i32.and(se, MAX_EXPONENT));
      return { se, e, m: f.let(loadSignificand(address)) };
    };
    const a = load(f.param(1));
    const b = load(f.param(2));
    const normal = i32.and(isNormal(a.e.get, a.m), isNormal(b.e.get, b.m));
    f.if(i32.or(i32.eqz(normal), flags.get), () => {
      const unsupported = (x: typeof a): Expr => i32.and(i32.ne(x.e.get, 0), i64.ge_s(x.m, 0));
      const nan = (x: typeof a): Expr => i32.and(i32.eq(x.e.get, MAX_EXPONENT), i64.ne(i64.shl(x.m, 1), 0));
      const signalling = (x: typeof a): Expr => i32.and(nan(x), i64.eqz(i64.and(x.m, QUIET_BIT)));
      const bad = f.let(i32.or(unsupported(a), unsupported(b)));
      f.if(i32.or(bad, i32.or(nan(a), nan(b))), () => {
        const invalid = i32.or(i32.or(bad, i32.eqz(f.param(3))), i32.or(signalling(a), signalling(b)));
        f.return(i32.or(i32.eqz(call('f80_flag', state, invalid)), UNORDERED));
      });
      const denormal = (x: typeof a): Expr => i32.and(i32.eqz(x.e.get), i64.ne(x.m, 0));
      f.if(i32.or(denormal(a), denormal(b)), () => f.set(flags, i32.or(flags.get, Fsw.DE)));
      for (const x of [a, b]) f.if(denormal(x), () => f.set(x.e, k32(1)));
      f.if(i64.eqz(i64.or(a.m, b.m)), () => {
        f.drop(call('f80_flag', state, k32(0)));
        f.return(k32(Fsw.C3));
      });
    });
    const stopped = f.temp(I32);
    f.set(stopped, k32(0));
    f.if(
      flags.get,
      () => f.set(stopped, i32.eqz(call('f80_flag', state, flags.get))),
      () => clearC1(f, state),
    );
    const signA = f.let(i32.shr_u(a.se, 15));
    f.if(i32.ne(signA, i32.shr_u(b.se, 15)), () => f.return(i32.or(stopped.get, select(signA, k32(Fsw.C0), k32(0)))));
    f.if(i32.and(i32.eq(a.e.get, b.e.get), i64.eq(a.m, b.m)), () => f.return(i32.or(stopped.get, Fsw.C3)));
    const below = i32.or(i32.lt_u(a.e.get, b.e.get), i32.and(i32.eq(a.e.get, b.e.get), i64.lt_u(a.m, b.m)));
    f.return(i32.or(stopped.get, select(i32.ne(below, signA), k32(Fsw.C0), k32(0))));
  }),

  /**
   * x87_compare(state, i, info, flags): ST(0) with ST(i) or OPERAND, setting FSW's condition bits, or returning ZF, PF and CF at
   * their places in RFLAGS.
   */
  runtime('x87_compare', [I32, I32, I32, I32], (f, call) => {
    const [state, info] = [f.param(0), f.param(2)];
    const top = f.let(physical(state, 0));
    const other = f.let(physical(state, f.param(1)));
    const memory = f.let(i32.and(info, Compare.MEMORY));
    const before = f.temp(I32);
    f.set(before, i32.and(loadFsw(state), Fsw.C1));
    const result = f.temp(I32);
    f.if(
      i32.and(inUse(state, top), i32.or(inUse(state, other), i32.ne(memory, 0))),
      () =>
        f.set(
          result,
          call(
            'f80_compare',
            state,
            registerAddress(state, top),
            select(memory, i32.add(state, OPERAND), registerAddress(state, other)),
            i32.and(info, Compare.QUIET),
            f.param(3),
          ),
        ),
      () => {
        f.set(before, k32(0));
        f.set(result, i32.or(i32.eqz(call('f80_flag', state, k32(Fsw.IE | Fsw.SF))), UNORDERED));
      },
    );
    f.if(
      i32.and(info, Compare.FLAGS),
      // AMD's processors leave C1 as it was, but for a stack fault.
      () => f.store(4, state, i32.or(loadFsw(state), before.get), S.FSW),
      () => f.store(4, state, i32.or(i32.and(loadFsw(state), ~UNORDERED), i32.and(result.get, UNORDERED)), S.FSW),
    );
    f.if(i32.eqz(i32.and(result.get, 1)), () => {
      f.if(i32.and(info, Compare.POP | Compare.POP2), () => pop(f, state));
      f.if(i32.and(info, Compare.POP2), () => pop(f, state));
    });
    // C3, C2, C0 (bits 14, 10, 8) are ZF, PF, CF (bits 6, 2, 0).
    f.return(i32.shr_u(i32.and(result.get, UNORDERED), 8));
  }),

  /** x87_ftst(state): ST(0) with 0.0. */
  runtime('x87_ftst', [I32], (f, call) => {
    storeRegister(f, i32.add(f.param(0), OPERAND), k32(0), k64(0));
    f.return(call('x87_compare', f.param(0), k32(0), k32(Compare.MEMORY), k32(0)));
  }),

  /** x87_fxam(state): the class of ST(0) in C3, C2, C0, its sign in C1. */
  runtime('x87_fxam', [I32], (f) => {
    const state = f.param(0);
    const top = f.let(physical(state, 0));
    const at = f.let(registerAddress(state, top));
    const se = f.let(loadSignExponent(at));
    const e = f.let(i32.and(se, MAX_EXPONENT));
    const m = f.let(loadSignificand(at));
    const c = f.temp(I32);
    const is = (condition: Expr, value: number): void => f.if(condition, () => f.set(c, k32(value)));
    f.set(c, k32(Fsw.C2));
    is(i32.and(i32.eqz(e), i64.ne(m, 0)), Fsw.C3 | Fsw.C2);
    is(i32.and(i32.eqz(e), i64.eqz(m)), Fsw.C3);
    is(i32.eq(e, MAX_EXPONENT), Fsw.C0);
    is(i32.and(i32.eq(e, MAX_EXPONENT), i64.eq(m, INTEGER_BIT)), Fsw.C2 | Fsw.C0);
    is(i32.and(i32.ne(e, 0), i64.ge_s(m, 0)), 0);
    is(i32.eqz(inUse(state, top)), Fsw.C3 | Fsw.C0);
    f.store(
      4,
      state,
      i32.or(i32.and(loadFsw(state), ~(UNORDERED | Fsw.C1)), i32.or(c.get, i32.shl(i32.shr_u(se, 15), 9))),
      S.FSW,
    );
    f.return(k32(1));
  }),
];
