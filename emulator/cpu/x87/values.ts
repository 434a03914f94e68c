/**
 * x87 operations on numbers that a compiled region keeps in locals (pairs.ts), for the cases that it does not do itself. Every
 * exception is masked when these are called. Those that round leave a pair at VALUE, with what `Status` wants behind it, and return
 * 0 where the result is no pair: then nothing has changed that doing it again would not.
 */
import { S } from '../layout.ts';
import type { RuntimeFunction } from '../runtime.ts';
import type { FunctionBuilder } from '../wasm/builder.ts';
import { I32, V128, i32, k32, kv64x2, select, v128, type Expr } from '../wasm/expr.ts';
import { loadFsw, loadSignExponent, loadSignificand, registerAddress, runtime, storeRegister } from './common.ts';
import { fromExtended, fromVector, isBad, toExtended } from './pair-formats.ts';
import {
  excessOf,
  IMMEDIATE,
  isBounded,
  isInexact,
  isUp,
  join,
  pairParameter,
  product,
  sum,
  type Pair,
  type Status,
} from './pairs.ts';

/** Where these functions leave both parts of a number, and 16 bytes behind it something of its sign if it was rounded up, else zeros. */
export const VALUE = S.TEMP + 0x80;
/** Where a region leaves numbers for `x87_values_put`: 16 bytes for each register, by relative number. */
export const VALUES = S.TEMP;
const A = S.TEMP + 0xa0;
const B = S.TEMP + 0xb0;
const TO = S.TEMP + 0xc0;

function putExtended(f: FunctionBuilder, at: Expr, v: Pair): void {
  const { signExponent, significand } = toExtended(f, v);
  storeRegister(f, at, signExponent, significand);
}

const c1 = (state: Expr): Expr => i32.and(i32.shr_u(loadFsw(state), 9), 1);

/** Takes the register at `at` to VALUE, and returns from the function. */
function give(f: FunctionBuilder, state: Expr, at: Expr): void {
  const v = f.let(fromExtended(f, f.let(loadSignExponent(at)), f.let(loadSignificand(at))));
  f.store(16, state, v, VALUE);
  f.store(16, state, select(c1(state), v, kv64x2(0n, 0n)), VALUE + 16);
  f.return(i32.eqz(isBad(v)));
}

/** What `x87_value_operate` is told to do. */
export const Operation = { ADD: 0, SUBTRACT: 1, MULTIPLY: 2, DIVIDE: 3, ROOT: 4 } as const;

export const X87_VALUES: readonly RuntimeFunction[] = [
  /** x87_value_operate(state, operation, a, b) */
  runtime('x87_value_operate', [I32, I32, V128, V128, V128, V128], (f, call) => {
    const [state, operation] = [f.param(0), f.param(1)];
    const [a, b] = [pairParameter(f, 2), pairParameter(f, 4)];
    const out = { high: f.local(V128), low: f.local(V128) };
    const [residue, over] = [f.local(V128), f.local(V128)];
    const status: Status = { constants: IMMEDIATE, fused: false, residue, over };
    f.block((slow) => {
      const rare = (): void => f.br(slow);
      f.block((done) => {
        for (const [which, write] of [
          [Operation.ADD, (): void => void sum(f, out, status, a, b, false, true, rare)],
          [Operation.SUBTRACT, (): void => void sum(f, out, status, a, b, true, true, rare)],
          [Operation.MULTIPLY, (): void => void product(f, out, status, a, b, true, rare)],
        ] as const)
          f.if(i32.eq(operation, which), () => {
            write();
            f.br(done);
          });
        f.br(slow);
      });
      f.brIf(i32.eqz(isBounded(out.high.get)), slow);
      const excess = f.let(excessOf(over.get, out.low.get));
      f.store(16, state, join(out.high.get, out.low.get), VALUE);
      f.store(16, state, select(isUp(excess, out.high.get), out.high.get, kv64x2(0n, 0n)), VALUE + 16);
      f.store(4, state, i32.or(loadFsw(state), i32.shl(isInexact(residue.get), 5)), S.FSW);
      f.return(k32(1));
    });
    const [x, y, to] = [A, B, TO].map((at) => f.let(i32.add(state, at))) as [Expr, Expr, Expr];
    putExtended(f, x, a);
    putExtended(f, y, b);
    const none = k32(0);
    f.if(
      i32.le_u(operation, Operation.SUBTRACT),
      () => f.drop(call('f80_add', state, to, x, y, operation, none)),
      () =>
        f.if(
          i32.eq(operation, Operation.MULTIPLY),
          () => f.drop(call('f80_mul', state, to, x, y, none)),
          () =>
            f.if(
              i32.eq(operation, Operation.DIVIDE),
              () => f.drop(call('f80_div', state, to, x, y, none)),
              () => f.drop(call('f80_sqrt', state, to, x)),
            ),
        ),
    );
    give(f, state, to);
  }),

  /** x87_value_whole(state, a): FRNDINT. */
  runtime('x87_value_whole', [I32, V128, V128], (f, call) => {
    const state = f.param(0);
    const a = f.let(i32.add(state, A));
    putExtended(f, a, pairParameter(f, 1));
    f.drop(call('f80_rndint', state, a));
    give(f, state, a);
  }),

  /** x87_value_integer(state, bytes, truncate, a): to RESULT as an integer. Returns C1. */
  runtime('x87_value_integer', [I32, I32, I32, V128, V128], (f, call) => {
    const state = f.param(0);
    const a = f.let(i32.add(state, A));
    putExtended(f, a, pairParameter(f, 3));
    f.drop(call('f80_to_int', state, a, f.param(1), f.param(2)));
    f.return(c1(state));
  }),

  /** x87_value_get(address): what is there in the format of a register, or NaNs. */
  runtime(
    'x87_value_get',
    [I32],
    (f) => {
      const at = f.param(0);
      f.return(fromExtended(f, f.let(loadSignExponent(at)), f.let(loadSignificand(at))));
    },
    V128,
  ),

  /** x87_values_put(state, base, mask): from VALUES to the registers, of which `base` is the number of the relative register 0. */
  runtime('x87_values_put', [I32, I32, I32], (f) => {
    const state = f.param(0);
    const left = f.local(I32);
    f.set(left, f.param(2));
    f.block((done) => {
      f.loop((again) => {
        f.brIf(i32.eqz(left.get), done);
        const r = f.let(i32.ctz(left.get));
        const v = fromVector(f, v128.load(i32.add(state, i32.shl(r, 4)), VALUES));
        putExtended(f, f.let(registerAddress(state, i32.and(i32.add(f.param(1), r), 7))), v);
        f.set(left, i32.and(left.get, i32.sub(left.get, 1)));
        f.br(again);
      });
    });
    f.return(k32(0));
  }),

  /** x87_value_put(address, a): `x87_value_get` the other way. */
  runtime('x87_value_put', [I32, V128, V128], (f) => {
    putExtended(f, f.param(0), pairParameter(f, 1));
    f.return(k32(0));
  }),
];
