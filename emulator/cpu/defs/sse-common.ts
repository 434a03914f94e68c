/** What the SSE definitions share: operands, masks of lane numbers, and the way to the exact floating-point functions. */
import type { Emit } from '../emit.ts';
import { S } from '../layout.ts';
import { floatOp, type FloatFormat, type FloatKind } from '../float/exact.ts';
import { MXCSR } from '../float/mxcsr.ts';
import { I16X8, I32X4, I64X2, I8X16 } from '../wasm/simd.ts';
import { F32, F64, i32, i64, k32, kv128, v128, type Expr } from '../wasm/expr.ts';

/** 0, 1, … 15 as bytes. */
export const IOTA = Array.from({ length: 16 }, (_, i) => i);

export const range = (from: number, count: number): number[] => Array.from({ length: count }, (_, i) => from + i);

/** A v128 constant of 16-, 32- or 64-bit lanes. */
export const lanes16 = (values: readonly number[]): Expr => kv128(new Uint8Array(Uint16Array.from(values).buffer));
export const lanes32 = (values: readonly number[]): Expr => kv128(new Uint8Array(Uint32Array.from(values).buffer));
export const lanes64 = (values: readonly bigint[]): Expr =>
  kv128(new Uint8Array(BigUint64Array.from(values, (v) => BigInt.asUintN(64, v)).buffer));

export const splat8 = (x: Expr): Expr => v128.splat(I8X16.splat, x);
export const splat16 = (x: Expr): Expr => v128.splat(I16X8.splat, x);
export const splat32 = (x: Expr): Expr => v128.splat(I32X4.splat, x);
export const splat64 = (x: Expr): Expr => v128.splat(I64X2.splat, x);

/** The whole XMM register of operand `i`, evaluated. */
export const reg = (c: Emit, i: number): Expr => c.let(c.vectorAt(i));

/** Operand `i` as a 16-byte source; in memory it must be aligned (SDM vol. 1, 11.4.4: all but the unaligned moves). */
export function source(c: Emit, i: number): Expr {
  if (c.isMem(i)) c.checkAligned();
  return c.getVector(i);
}

/** Operand `i` as a vector whose low `size` bytes count: the whole register, or memory with zeros above. */
export function low(c: Emit, i: number, size: 4 | 8): Expr {
  if (!c.isMem(i)) return reg(c, i);
  const host = c.access(c.address(), size, false);
  return c.let(size === 4 ? v128.load32_zero(host) : v128.load64_zero(host));
}

/** A lane's low element as f32 or f64. */
export const lowF32 = (v: Expr): Expr => v128.extract(0x1f, F32, v, 0);
export const lowF64 = (v: Expr): Expr => v128.extract(0x21, F64, v, 0);

/**
 * Whether the operation may be done with WebAssembly's own arithmetic: all exceptions masked, and the other bits of
 * `care` as in `want`.
 */
export function mxcsrIs(c: Emit, care: number, want: number): Expr {
  if (c.mxcsrUsual && !(care & ~(MXCSR.RC | MXCSR.PE))) return k32((care & MXCSR.PE) === want ? 1 : 0);
  return i32.eq(i32.and(c.state32(S.MXCSR), k32(care | MXCSR.MASKS)), k32(want | MXCSR.MASKS));
}

/** Round to nearest, and the sticky PE is already set: inexact results need no notice. */
export const fastArithmetic = (c: Emit): Expr => mxcsrIs(c, MXCSR.RC | MXCSR.PE, MXCSR.PE);

/** A vector of lanes of 4 or 8 bytes with `exponent` in their exponent fields. */
const withExponent = (size: 4 | 8, exponent: number): Expr =>
  size === 8
    ? lanes64([BigInt(exponent) << 52n, BigInt(exponent) << 52n])
    : lanes32(Array.from({ length: 4 }, () => exponent << 23));

/**
 * The sign bits of lanes that are zero, denormal, infinite or NaN. `size`: of a lane, in bytes.
 *
 * @param least smallest exponent field that is ordinary: 2 for results that may have been rounded up to the least normal number
 */
export function laneOdd(c: Emit, size: 4 | 8, v: Expr, least: 1 | 2 = 1): Expr {
  const l = size === 8 ? I64X2 : I32X4;
  // The field less `least` is negative, or with one more than `least` added reaches the sign.
  const e = c.let(
    v128.bin(l.sub, v128.and(v, withExponent(size, size === 8 ? 0x7ff : 0xff)), withExponent(size, least)),
  );
  return v128.or(e, v128.bin(l.add, e, withExponent(size, least + 1)));
}

/** The bits of a scalar without its sign: i32 or i64, evaluated. */
export const unsignedBits = (c: Emit, size: 4 | 8, x: Expr): Expr =>
  c.let(size === 8 ? i64.shl(i64.reinterpret(x), 1) : i32.shl(i32.reinterpret(x), 1));
/** 1 if the number of these bits is zero, denormal, infinite or NaN. `least` as above. */
export const isOdd = (size: 4 | 8, bits: Expr, least: 1 | 2 = 1): Expr =>
  size === 8
    ? i64.ge_u(i64.sub(bits, BigInt(least) << 53n), BigInt(0x7ff - least) << 53n)
    : i32.ge_u(i32.sub(bits, least << 24), k32((0xff - least) << 24));
/** The same without zero. */
export const isOddNotZero = (size: 4 | 8, bits: Expr): Expr =>
  i32.and(isOdd(size, bits), size === 8 ? i64.ne(bits, 0) : i32.ne(bits, 0));

/** Each 1 if the number of these bits matters to a comparison besides its value: a denormal, a NaN. */
export const oddCompared = (size: 4 | 8, bits: Expr): readonly [Expr, Expr] =>
  size === 8
    ? [i64.lt_u(i64.sub(bits, 1), (1n << 53n) - 1n), i64.gt_u(bits, 0x7ffn << 53n)]
    : [i32.lt_u(i32.sub(bits, 1), (1 << 24) - 1), i32.gt_u(bits, k32(0xff000000))];

/**
 * Stores the operands in TEMP and runs the exact operation; the result is at `exactResult`. Compiled code mostly leaves it to
 * the interpreter: nothing may have changed yet.
 */
export function exactOp(c: Emit, op: Expr, a: Expr, b: Expr): void {
  // In a region a call that comes back costs the common case too: registers would have to be kept over it.
  if (c.mayRetreat) return c.retreat();
  c.setState(S.TEMP, 16, a);
  c.setState(S.TEMP + 16, 16, b);
  c.exactFloat(op);
}

/** The same with the operation given by its parts and, perhaps, an immediate. */
export function exact(
  c: Emit,
  kind: FloatKind,
  format: FloatFormat,
  packed: boolean,
  a: Expr,
  b: Expr,
  imm?: Expr,
): void {
  const op = k32(floatOp(kind, format, packed));
  exactOp(c, imm ? i32.or(op, i32.shl(imm, k32(16))) : op, a, b);
}

export const exactResult = (c: Emit, index = 0): Expr => v128.load(k32(c.state + S.TEMP + index * 16));
