/**
 * What the x87 runtime functions share: constants of the status and control words, and short expressions on the state.
 * ST(i) is the physical register R[(TOP + i) & 7]; a register is 16 bytes: significand (8), sign and exponent (2).
 */
import { S } from '../layout.ts';
import type { RuntimeFunction } from '../runtime.ts';
import type { FunctionBuilder, FunctionType, Local } from '../wasm/builder.ts';
import { I32, i32, i64, k32, k64, type Expr, type ValType } from '../wasm/expr.ts';

/** Bits of the status word (SDM vol. 1, 8.1.3). */
export const Fsw = {
  IE: 0x01,
  DE: 0x02,
  ZE: 0x04,
  OE: 0x08,
  UE: 0x10,
  PE: 0x20,
  SF: 0x40,
  ES: 0x80,
  C0: 0x100,
  C1: 0x200,
  C2: 0x400,
  C3: 0x4000,
  B: 0x8000,
} as const;
/** The six exception flags. */
export const EXCEPTIONS = 0x3f;
/** ES and its mirror B. */
export const SUMMARY = Fsw.ES | Fsw.B;

/** Rounding control, as the field FCW[11:10] holds it. */
export const Rc = { NEAREST: 0, DOWN: 1, UP: 2, ZERO: 3 } as const;

export const BIAS = 16383;
export const SIGN = 0x8000;
export const MAX_EXPONENT = 0x7fff;
export const INTEGER_BIT = 0x8000000000000000n;
export const QUIET_BIT = 0x4000000000000000n;
/** Significand of the default NaN ("real indefinite"), whose sign and exponent are 0xffff. */
export const INDEFINITE = 0xc000000000000000n;
/** What an unmasked overflow or underflow takes from or adds to the exponent (SDM vol. 1, 8.5.4). */
export const EXPONENT_WRAP = 0x6000;

/** Slot in S.TEMP for an operand that came from memory, in the format of a register. */
export const OPERAND = S.TEMP + 0xe0;
/** Slot in S.TEMP for a result that goes to memory: 8 bytes, or 10 in the format of a register. */
export const RESULT = S.TEMP + 0xd0;

/** A parameter as a local that may be set. */
export function parameter(f: FunctionBuilder, index: number): Local {
  return { type: f.signature.params[index]!, index, get: f.param(index) };
}

export const signature = (...params: ValType[]): FunctionType => ({ params, results: [I32] });

export const runtime = (
  name: string,
  params: readonly ValType[],
  build: RuntimeFunction['build'],
  result: ValType = I32,
): RuntimeFunction => ({ name, signature: { params, results: [result] }, build });

export const loadFcw = (state: Expr): Expr => i32.load(state, S.FCW);
export const loadFsw = (state: Expr): Expr => i32.load(state, S.FSW);
export const rounding = (fcw: Expr): Expr => i32.and(i32.shr_u(fcw, 10), 3);

/** Physical number of ST(i). */
export const physical = (state: Expr, i: Expr | number): Expr => i32.and(i32.add(i32.load(state, S.FTOP), i), 7);
/** Host address of a physical register. */
export const registerAddress = (state: Expr, n: Expr): Expr => i32.add(i32.add(state, i32.shl(n, 4)), S.X87);

export const loadSignificand = (address: Expr): Expr => i64.load(address);
export const loadSignExponent = (address: Expr): Expr => i32.load16_u(address, 8);

/** Writes a register. */
export function storeRegister(f: FunctionBuilder, address: Expr, signExponent: Expr, significand: Expr): void {
  f.store(8, address, significand);
  f.store(2, address, signExponent, 8);
}

export function storeIndefinite(f: FunctionBuilder, address: Expr): void {
  storeRegister(f, address, k32(0xffff), k64(INDEFINITE));
}

/** 1 if the register of that physical number is in use. */
export const inUse = (state: Expr, n: Expr): Expr => i32.and(i32.shr_u(i32.load(state, S.FTW), n), 1);

export function setInUse(f: FunctionBuilder, state: Expr, n: Expr): void {
  f.store(4, state, i32.or(i32.load(state, S.FTW), i32.shl(k32(1), n)), S.FTW);
}
export function setEmpty(f: FunctionBuilder, state: Expr, n: Expr): void {
  f.store(4, state, i32.and(i32.load(state, S.FTW), i32.xor(i32.shl(k32(1), n), -1)), S.FTW);
}

/** Marks ST(0) empty and moves TOP up. */
export function pop(f: FunctionBuilder, state: Expr): void {
  const top = f.let(i32.load(state, S.FTOP));
  setEmpty(f, state, top);
  f.store(4, state, i32.and(i32.add(top, 1), 7), S.FTOP);
}

/** Clears C1. */
export function clearC1(f: FunctionBuilder, state: Expr): void {
  f.store(4, state, i32.and(loadFsw(state), ~Fsw.C1), S.FSW);
}

/** `exponent` (1 to 0x7ffe, i32) and `significand` are those of a normal number: 1 <= exponent <= 0x7ffe, integer bit set. */
export const isNormal = (exponent: Expr, significand: Expr): Expr =>
  i32.and(i32.lt_u(i32.sub(exponent, 1), 0x7ffe), i64.lt_s(significand, 0));
