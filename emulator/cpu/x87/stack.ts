/** Whole x87 instructions on the register stack: checks for stack faults, then the core, then pops (SDM vol. 1, 8.5.1.1). */
import { S } from '../layout.ts';
import type { RuntimeFunction } from '../runtime.ts';
import type { FunctionBuilder } from '../wasm/builder.ts';
import { I32, I64, i32, i64, k32, select, type Expr } from '../wasm/expr.ts';
import {
  BIAS,
  clearC1,
  Fsw,
  inUse,
  INTEGER_BIT,
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
  registerAddress,
  rounding,
  runtime,
  setEmpty,
  setInUse,
  storeIndefinite,
  storeRegister,
  SIGN,
} from './common.ts';
import { fastArithmetic, widened, type Operation } from './fast.ts';

/** Bits of `info` of the arithmetic functions. */
export const Arith = {
  /** The result goes to ST(i) instead of ST(0). */
  TO_I: 1,
  /** ST(i) (or memory) comes first: ST(i) − ST(0). */
  SWAP: 2,
  POP: 4,
  /** Subtract (x87_add only). */
  NEGATE: 8,
} as const;

type Call = (name: string, ...args: Expr[]) => Expr;
const STACK_FAULT = k32(Fsw.SF);

/** Moves TOP down and marks the new ST(0) in use; it must be empty. Returns its address. */
function pushRegister(f: FunctionBuilder, state: Expr): Expr {
  const n = f.let(physical(state, -1));
  setInUse(f, state, n);
  f.store(4, state, n, S.FTOP);
  return f.let(registerAddress(state, n));
}

/** If ST(7) is in use: stack overflow (C1 = 1), and where that is masked the default NaN is pushed. Returns from the function. */
function checkOverflow(f: FunctionBuilder, call: Call, state: Expr): void {
  f.if(inUse(state, f.let(physical(state, -1))), () => {
    f.if(call('f80_flag', state, k32(Fsw.IE | Fsw.SF)), () => {
      storeIndefinite(f, pushRegister(f, state));
      f.store(4, state, i32.or(loadFsw(state), Fsw.C1), S.FSW);
      f.return(k32(1));
    });
    f.store(4, state, i32.or(loadFsw(state), Fsw.C1), S.FSW);
    f.return(k32(0));
  });
}

/** Stack underflow: the default NaN goes to physical register `n` where it is masked; 1 or 0. */
function underflow(f: FunctionBuilder, call: Call, state: Expr, n: Expr): Expr {
  const ok = f.let(call('f80_invalid', state, registerAddress(state, n), STACK_FAULT));
  f.if(ok, () => setInUse(f, state, n));
  return ok;
}

/** x87_add/mul/div(state, i, info): ST(0) op ST(i). */
function arithmetic(op: Operation): RuntimeFunction {
  return runtime(`x87_${op}`, [I32, I32, I32], (f, call) => {
    const [state, info] = [f.param(0), f.param(2)];
    const top = f.let(physical(state, 0));
    const other = f.let(physical(state, f.param(1)));
    const to = f.let(select(i32.and(info, Arith.TO_I), other, top));
    const swap = f.let(i32.and(info, Arith.SWAP));
    const a = registerAddress(state, select(swap, other, top));
    const b = registerAddress(state, select(swap, top, other));
    const ok = f.temp(I32);
    f.if(
      i32.and(inUse(state, top), inUse(state, other)),
      () => {
        const at = f.let(a);
        const bt = f.let(b);
        fastArithmetic(
          f,
          op,
          state,
          f.let(registerAddress(state, to)),
          { signExponent: f.let(loadSignExponent(at)), significand: f.let(loadSignificand(at)) },
          { signExponent: f.let(loadSignExponent(bt)), significand: f.let(loadSignificand(bt)) },
          i32.and(i32.shr_u(info, 3), 1),
          () => {
            f.if(i32.and(info, Arith.POP), () => pop(f, state));
            f.return(k32(1));
          },
        );
        const core =
          op === 'add'
            ? call('f80_add', state, registerAddress(state, to), a, b, i32.and(i32.shr_u(info, 3), 1), k32(0))
            : call(`f80_${op}`, state, registerAddress(state, to), a, b, k32(0));
        f.set(ok, core);
      },
      () => f.set(ok, underflow(f, call, state, to)),
    );
    f.if(i32.and(ok.get, i32.shr_u(i32.and(info, Arith.POP), 2)), () => pop(f, state));
    f.return(ok.get);
  });
}

/** x87_add/mul/div_operand(state, info, flags): ST(0) = ST(0) op OPERAND; `flags`: DE if the operand was denormal in memory. */
function withOperand(op: Operation): RuntimeFunction {
  return runtime(`x87_${op}_operand`, [I32, I32, I32], (f, call) => {
    const [state, info] = [f.param(0), f.param(1)];
    const top = f.let(physical(state, 0));
    const at = f.let(registerAddress(state, top));
    const operand = f.let(i32.add(state, OPERAND));
    f.if(i32.eqz(inUse(state, top)), () => f.return(underflow(f, call, state, top)));
    const swap = f.let(i32.and(info, Arith.SWAP));
    const a = select(swap, operand, at);
    const b = select(swap, at, operand);
    f.return(
      op === 'add'
        ? call('f80_add', state, at, a, b, i32.and(i32.shr_u(info, 3), 1), f.param(2))
        : call(`f80_${op}`, state, at, a, b, f.param(2)),
    );
  });
}

/**
 * x87_add/mul/div_f32/f64(state, info, bits): as above with a number in the format of memory. `bits` is an i32 or i64.
 */
function withFloat(op: Operation, size: 4 | 8): RuntimeFunction {
  return runtime(`x87_${op}_f${size * 8}`, [I32, I32, size === 8 ? I64 : I32], (f, call) => {
    const [state, info] = [f.param(0), f.param(1)];
    const top = f.let(physical(state, 0));
    const { operand, normal } = widened(f, size === 8 ? f.param(2) : f.let(i64.extend_u(f.param(2))), size);
    f.if(i32.and(normal, inUse(state, top)), () => {
      const at = f.let(registerAddress(state, top));
      const signExponent = f.let(loadSignExponent(at));
      const significand = f.let(loadSignificand(at));
      const swap = f.let(i32.and(info, Arith.SWAP));
      const pick = (x: Expr, y: Expr): Expr => f.let(select(swap, x, y));
      fastArithmetic(
        f,
        op,
        state,
        at,
        {
          signExponent: pick(operand.signExponent, signExponent),
          significand: pick(operand.significand, significand),
        },
        {
          signExponent: pick(signExponent, operand.signExponent),
          significand: pick(significand, operand.significand),
        },
        i32.and(i32.shr_u(info, 3), 1),
        () => f.return(k32(1)),
      );
    });
    f.return(call(`x87_${op}_operand`, state, info, call(`f80_from_f${size * 8}`, state, f.param(2))));
  });
}

/** x87_…(state): an operation on ST(0) in place. */
function unary(name: string, body: (f: FunctionBuilder, call: Call, state: Expr, at: Expr) => Expr): RuntimeFunction {
  return runtime(name, [I32], (f, call) => {
    const state = f.param(0);
    const top = f.let(physical(state, 0));
    f.if(i32.eqz(inUse(state, top)), () => f.return(underflow(f, call, state, top)));
    f.return(body(f, call, state, f.let(registerAddress(state, top))));
  });
}

/** FABS and FCHS only touch the sign: they raise nothing, whatever the operand. */
function signOnly(name: string, sign: (se: Expr) => Expr): RuntimeFunction {
  return unary(name, (f, _call, state, at) => {
    f.store(2, at, sign(loadSignExponent(at)), 8);
    clearC1(f, state);
    return k32(1);
  });
}

/** Pushes a float of memory format; the widening to OPERAND is `f80_from_…`. */
function loadFloat(name: string, type: typeof I32 | typeof I64, fraction: number, bias: number): RuntimeFunction {
  const maxExponent = 2 * bias + 1;
  return runtime(name, [I32, type], (f, call) => {
    const state = f.param(0);
    const bits = f.let(type === I64 ? f.param(1) : i64.extend_u(f.param(1)));
    checkOverflow(f, call, state);
    const e = f.let(i32.and(i32.wrap(i64.shr_u(bits, fraction)), maxExponent));
    f.if(i32.lt_u(i32.sub(e, 1), maxExponent - 1), () => {
      storeRegister(
        f,
        pushRegister(f, state),
        i32.or(i32.shl(i32.wrap(i64.shr_u(bits, type === I64 ? 63 : 31)), 15), i32.add(e, BIAS - bias)),
        i64.or(i64.shl(bits, 63 - fraction), INTEGER_BIT),
      );
      clearC1(f, state);
      f.return(k32(1));
    });
    const flags = f.temp(I32);
    f.set(flags, call(type === I64 ? 'f80_from_f64' : 'f80_from_f32', state, f.param(1)));
    const operand = f.let(i32.add(state, OPERAND));
    const significand = f.let(loadSignificand(operand));
    const nan = f.let(i32.and(i32.eq(e, maxExponent), i64.ne(i64.shl(significand, 1), 0)));
    f.if(i32.and(nan, i64.eqz(i64.and(significand, QUIET_BIT))), () => f.set(flags, k32(Fsw.IE)));
    // An unmasked denormal is told, but loaded.
    f.if(i32.and(i32.eqz(call('f80_flag', state, flags.get)), i32.ne(flags.get, Fsw.DE)), () => f.return(k32(0)));
    storeRegister(
      f,
      pushRegister(f, state),
      loadSignExponent(operand),
      select(nan, i64.or(significand, QUIET_BIT), significand),
    );
    f.return(k32(1));
  });
}

export const X87_STACK: readonly RuntimeFunction[] = [
  arithmetic('add'),
  arithmetic('mul'),
  arithmetic('div'),
  withOperand('add'),
  withOperand('mul'),
  withOperand('div'),
  ...(['add', 'mul', 'div'] as const).flatMap((op) => [withFloat(op, 4), withFloat(op, 8)]),
  unary('x87_sqrt', (_f, call, state, at) => call('f80_sqrt', state, at, at)),
  unary('x87_rndint', (_f, call, state, at) => call('f80_rndint', state, at)),
  signOnly('x87_abs', (se) => i32.and(se, MAX_EXPONENT)),
  signOnly('x87_chs', (se) => i32.xor(se, SIGN)),

  /** x87_push(state, significand, signExponent): FLD m80: the bits as they are. */
  runtime('x87_push', [I32, I64, I32], (f, call) => {
    const state = f.param(0);
    checkOverflow(f, call, state);
    storeRegister(f, pushRegister(f, state), f.param(2), f.param(1));
    clearC1(f, state);
    f.return(k32(1));
  }),
  loadFloat('x87_load_f32', I32, 23, 127),
  loadFloat('x87_load_f64', I64, 52, 1023),

  /** x87_load_int(state, value): FILD. */
  runtime('x87_load_int', [I32, I64], (f, call) => {
    const state = f.param(0);
    f.drop(call('f80_from_int', state, f.param(1)));
    const operand = f.let(i32.add(state, OPERAND));
    f.return(call('x87_push', state, loadSignificand(operand), loadSignExponent(operand)));
  }),

  /** x87_load_constant(state, significand, signExponent, nearest): a constant cut to 64 bits, rounded by RC; `nearest`: 1 if to nearest is up. */
  runtime('x87_load_constant', [I32, I64, I32, I32], (f, call) => {
    const state = f.param(0);
    const rc = f.let(rounding(loadFcw(state)));
    const up = select(i32.eqz(rc), f.param(3), i32.eq(rc, 2));
    f.return(call('x87_push', state, i64.add(f.param(1), i64.extend_u(up)), f.param(2)));
  }),

  /** x87_load_st(state, i): FLD ST(i). */
  runtime('x87_load_st', [I32, I32], (f, call) => {
    const state = f.param(0);
    const from = f.let(physical(state, f.param(1)));
    // With both ends at fault it is underflow that is told.
    f.if(i32.eqz(inUse(state, from)), () => {
      f.if(i32.eqz(call('f80_flag', state, k32(Fsw.IE | Fsw.SF))), () => f.return(k32(0)));
      storeIndefinite(f, pushRegister(f, state));
      f.return(k32(1));
    });
    checkOverflow(f, call, state);
    const at = f.let(registerAddress(state, from));
    storeRegister(f, pushRegister(f, state), loadSignExponent(at), loadSignificand(at));
    clearC1(f, state);
    f.return(k32(1));
  }),

  /**
   * x87_store_st(state, i, pop): FST/FSTP ST(i). `pop` 2: pops, and an empty ST(0) is no fault and not copied, as
   * processors do for the alias D9 /3.
   */
  runtime('x87_store_st', [I32, I32, I32], (f, call) => {
    const state = f.param(0);
    const top = f.let(physical(state, 0));
    const to = f.let(physical(state, f.param(1)));
    f.if(i32.and(i32.eq(f.param(2), 2), i32.eqz(inUse(state, top))), () => {
      clearC1(f, state);
      pop(f, state);
      f.return(k32(1));
    });
    f.if(
      inUse(state, top),
      () => {
        const at = f.let(registerAddress(state, top));
        storeRegister(f, f.let(registerAddress(state, to)), loadSignExponent(at), loadSignificand(at));
        setInUse(f, state, to);
        clearC1(f, state);
      },
      () => f.if(i32.eqz(underflow(f, call, state, to)), () => f.return(k32(0))),
    );
    f.if(f.param(2), () => pop(f, state));
    f.return(k32(1));
  }),

  /** x87_exchange(state, i): FXCH. An empty register counts as the default NaN where the fault is masked. */
  runtime('x87_exchange', [I32, I32], (f, call) => {
    const state = f.param(0);
    const top = f.let(physical(state, 0));
    const other = f.let(physical(state, f.param(1)));
    const a = f.let(registerAddress(state, top));
    const b = f.let(registerAddress(state, other));
    f.if(
      i32.and(inUse(state, top), inUse(state, other)),
      () => clearC1(f, state),
      () => {
        f.if(i32.eqz(call('f80_flag', state, k32(Fsw.IE | Fsw.SF))), () => f.return(k32(0)));
        for (const [n, at] of [
          [top, a],
          [other, b],
        ] as const)
          f.if(i32.eqz(inUse(state, n)), () => {
            storeIndefinite(f, at);
            setInUse(f, state, n);
          });
      },
    );
    const se = f.let(loadSignExponent(a));
    const significand = f.let(loadSignificand(a));
    storeRegister(f, a, loadSignExponent(b), loadSignificand(b));
    storeRegister(f, b, se, significand);
    f.return(k32(1));
  }),

  /** x87_move_if(state, i, condition): FCMOVcc. */
  runtime('x87_move_if', [I32, I32, I32], (f, call) => {
    const state = f.param(0);
    const top = f.let(physical(state, 0));
    const other = f.let(physical(state, f.param(1)));
    f.if(i32.eqz(i32.and(inUse(state, top), inUse(state, other))), () => f.return(underflow(f, call, state, top)));
    f.if(f.param(2), () => {
      const from = f.let(registerAddress(state, other));
      storeRegister(f, f.let(registerAddress(state, top)), loadSignExponent(from), loadSignificand(from));
    });
    f.return(k32(1));
  }),

  /** x87_free(state, i, pop): FFREE ST(i). */
  runtime('x87_free', [I32, I32, I32], (f) => {
    const state = f.param(0);
    setEmpty(f, state, f.let(physical(state, f.param(1))));
    clearC1(f, state);
    f.if(f.param(2), () => pop(f, state));
    f.return(k32(1));
  }),

  /** x87_rotate(state, by): FINCSTP (1) and FDECSTP (−1). */
  runtime('x87_rotate', [I32, I32], (f) => {
    f.store(4, f.param(0), physical(f.param(0), f.param(1)), S.FTOP);
    clearC1(f, f.param(0));
    f.return(k32(1));
  }),

  /**
   * x87_store_extended(state): FSTP m80: ST(0), or the default NaN, to OPERAND and pops; returns 1 if it is to be stored.
   */
  runtime('x87_store_extended', [I32], (f, call) => {
    const state = f.param(0);
    const operand = f.let(i32.add(state, OPERAND));
    const top = f.let(physical(state, 0));
    f.if(
      inUse(state, top),
      () => {
        const at = f.let(registerAddress(state, top));
        storeRegister(f, operand, loadSignExponent(at), loadSignificand(at));
        clearC1(f, state);
      },
      () => f.if(i32.eqz(call('f80_invalid', state, operand, STACK_FAULT)), () => f.return(k32(0))),
    );
    pop(f, state);
    f.return(k32(1));
  }),

  /** x87_set_control(state, fcw): FLDCW: the summary follows the new masks. */
  runtime('x87_set_control', [I32, I32], (f) => {
    const state = f.param(0);
    const fcw = parameter(f, 1);
    f.set(fcw, i32.or(i32.and(fcw.get, 0x1f3f), 0x40));
    f.store(4, state, fcw.get, S.FCW);
    const fsw = f.let(loadFsw(state));
    f.store(
      4,
      state,
      i32.or(i32.and(fsw, ~0x8080), select(i32.and(i32.and(fsw, i32.xor(fcw.get, -1)), 0x3f), k32(0x8080), k32(0))),
      S.FSW,
    );
    f.return(k32(1));
  }),
];
