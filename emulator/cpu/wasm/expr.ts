/**
 * Pure WebAssembly expressions as small trees, with constants folded when they are built. A tree is emitted each time
 * it is used, so a value that is used twice, or that must be read before something changes it, goes through
 * `FunctionBuilder.let`.
 */
import type { Writer } from './writer.ts';

/** WebAssembly value types by their binary code. */
export const I32 = 0x7f;
export const I64 = 0x7e;
export const F32 = 0x7d;
export const F64 = 0x7c;
export const V128 = 0x7b;
export type ValType = typeof I32 | typeof I64 | typeof F32 | typeof F64 | typeof V128;

export interface Expr {
  readonly type: ValType;
  /** Opcode; prefixed ones are prefix × 0x1000 + sub-opcode. */
  readonly op: number;
  readonly args: readonly Expr[];
  /** Constant, local index, memory offset, function index, or lane, by opcode. */
  readonly k?: number | bigint;
  /** A second immediate: alignment, or the 16 lanes of a shuffle. */
  readonly bytes?: Uint8Array;
  /** A local that is set once: reading it again gives the same. */
  readonly stable?: boolean;
}

/** The one shape that all expressions are made in: the host's compiler sees millions of them. */
class Node implements Expr {
  constructor(
    readonly type: ValType,
    readonly op: number,
    readonly args: readonly Expr[],
    readonly k: number | bigint | undefined = undefined,
    readonly bytes: Uint8Array | undefined = undefined,
    readonly stable: boolean = false,
  ) {}
}

const OP_LOCAL_GET = 0x20;
const OP_LOCAL_TEE = 0x22;
const OP_GLOBAL_GET = 0x23;
const OP_CALL = 0x10;
const OP_SELECT = 0x1b;
const OP_IF = 0x04;
const SIMD = 0xfd000;
const NONE: readonly Expr[] = [];

export type Num = Expr | number;
export type Big = Expr | number | bigint;

export const k32 = (value: number): Expr => new Node(I32, 0x41, NONE, value | 0);
/** Constants that are asked for all the time: making a BigInt is slow. */
const SMALL = 8192;
const small: Expr[] = Array.from({ length: 2 * SMALL }, (_, n) => new Node(I64, 0x42, NONE, BigInt(n - SMALL)));
export const k64 = (value: number | bigint): Expr => {
  if (typeof value === 'number' && value >= -SMALL && value < SMALL) return small[value + SMALL]!;
  return new Node(I64, 0x42, NONE, BigInt.asIntN(64, BigInt(value)));
};
export const kf64 = (value: number): Expr => new Node(F64, 0x44, NONE, value);
export const kf32 = (value: number): Expr => new Node(F32, 0x43, NONE, value);
const ZERO: readonly Expr[] = [k32(0)];
/** A v128 constant from 16 bytes, lowest first. */
export const kv128 = (bytes: Uint8Array | readonly number[]): Expr =>
  new Node(V128, SIMD + 0x0c, NONE, undefined, Uint8Array.from(bytes));
/** A v128 constant from two 64-bit halves. */
export function kv64x2(low: bigint, high: bigint): Expr {
  const view = new DataView(new ArrayBuffer(16));
  view.setBigUint64(0, BigInt.asUintN(64, low), true);
  view.setBigUint64(8, BigInt.asUintN(64, high), true);
  return kv128(new Uint8Array(view.buffer));
}
export const localGet = (type: ValType, index: number, stable = false): Expr =>
  new Node(type, OP_LOCAL_GET, NONE, index, undefined, stable);
/** Sets a local and leaves the value. */
export const localTee = (type: ValType, index: number, value: Expr): Expr =>
  new Node(type, OP_LOCAL_TEE, [value], index);
export const globalGet = (type: ValType, index: number): Expr => new Node(type, OP_GLOBAL_GET, NONE, index);
/** A call of a function with one result. `index` is what the module builder gave for it. */
export const callExpr = (type: ValType, index: number, args: readonly Expr[]): Expr =>
  new Node(type, OP_CALL, args, index);
export const select = (condition: Expr, then: Expr, otherwise: Expr): Expr =>
  new Node(then.type, OP_SELECT, [then, otherwise, condition]);
/** An `if` with a result: only the chosen side is evaluated. */
export const choose = (condition: Expr, then: Expr, otherwise: Expr): Expr =>
  new Node(then.type, OP_IF, [condition, then, otherwise]);

export const isConst = (x: Expr): boolean => x.op === 0x41 || x.op === 0x42;
export const is32 = (x: Expr, value: number): boolean => x.op === 0x41 && x.k === value;
export const is64 = (x: Expr, value: bigint): boolean => x.op === 0x42 && x.k === value;

const e32 = (x: Num): Expr => (typeof x === 'number' ? k32(x) : x);
const e64 = (x: Big): Expr => (typeof x === 'object' ? x : k64(x));

const fold32: Record<number, (a: number, b: number) => number> = {
  0x6a: (a, b) => a + b,
  0x6b: (a, b) => a - b,
  0x6c: Math.imul,
  0x71: (a, b) => a & b,
  0x72: (a, b) => a | b,
  0x73: (a, b) => a ^ b,
  0x74: (a, b) => a << b,
  0x75: (a, b) => a >> b,
  0x76: (a, b) => a >>> b,
};
const fold64: Record<number, (a: bigint, b: bigint) => bigint> = {
  0x7c: (a, b) => a + b,
  0x7d: (a, b) => a - b,
  0x7e: (a, b) => a * b,
  0x83: (a, b) => a & b,
  0x84: (a, b) => a | b,
  0x85: (a, b) => a ^ b,
  0x86: (a, b) => a << (b & 63n),
  0x87: (a, b) => a >> (b & 63n),
  0x88: (a, b) => BigInt.asUintN(64, a) >> (b & 63n),
};

function bin32(op: number, a: Num, b: Num): Expr {
  const x = e32(a);
  const y = e32(b);
  if (y.op === 0x41) {
    const v = y.k as number;
    const f = fold32[op];
    if (x.op === 0x41 && f) return k32(f(x.k as number, v));
    if (v === 0 && (op === 0x6a || op === 0x6b || op === 0x72 || op === 0x73 || (op >= 0x74 && op <= 0x76))) return x;
    if (v === 0 && op === 0x71) return y;
    if (v === -1 && op === 0x71) return x;
    // (x + c) + d, the shape that chains of displacements give
    if (op === 0x6a && x.op === 0x6a && x.args[1]!.op === 0x41)
      return bin32(0x6a, x.args[0]!, (x.args[1]!.k as number) + v);
  } else if (x.op === 0x41 && (op === 0x6a || op === 0x71 || op === 0x72 || op === 0x73)) return bin32(op, y, x);
  return new Node(I32, op, [x, y]);
}
function bin64(op: number, a: Big, b: Big): Expr {
  const x = e64(a);
  const y = e64(b);
  if (y.op === 0x42) {
    const v = y.k as bigint;
    const f = fold64[op];
    if (x.op === 0x42 && f) return k64(f(x.k as bigint, v));
    if (v === 0n && (op === 0x7c || op === 0x7d || (op >= 0x84 && op <= 0x88))) return x;
    if (v === -1n && op === 0x83) return x;
    if (op === 0x7c && x.op === 0x7c && x.args[1]!.op === 0x42)
      return bin64(0x7c, x.args[0]!, (x.args[1]!.k as bigint) + v);
  } else if (x.op === 0x42 && (op === 0x7c || (op >= 0x83 && op <= 0x85))) return bin64(op, y, x);
  return new Node(I64, op, [x, y]);
}
const un = (type: ValType, op: number, a: Expr): Expr => new Node(type, op, [a]);
const bin = (type: ValType, op: number, a: Expr, b: Expr): Expr => new Node(type, op, [a, b]);
const cmp64 = (op: number) => (a: Big, b: Big) => bin(I32, op, e64(a), e64(b));
const cmp32 = (op: number) => (a: Num, b: Num) => bin(I32, op, e32(a), e32(b));
const b32 = (op: number) => (a: Num, b: Num) => bin32(op, a, b);
const b64 = (op: number) => (a: Big, b: Big) => bin64(op, a, b);
const u = (type: ValType, op: number) => (a: Expr) => un(type, op, a);
const f2 = (type: ValType, op: number) => (a: Expr, b: Expr) => bin(type, op, a, b);

const loadOf =
  (type: ValType, op: number) =>
  (address: Num, offset = 0): Expr => {
    const a = e32(address);
    // A constant address becomes the offset, so that state is reached without an add.
    if (a.op === 0x41 && (a.k as number) > 0) return new Node(type, op, ZERO, offset + (a.k as number));
    return new Node(type, op, [a], offset);
  };

export const i32 = {
  const: k32,
  eqz: (a: Expr) => (a.op === 0x41 ? k32(a.k === 0 ? 1 : 0) : un(I32, 0x45, a)),
  eq: cmp32(0x46),
  ne: cmp32(0x47),
  lt_s: cmp32(0x48),
  lt_u: cmp32(0x49),
  gt_s: cmp32(0x4a),
  gt_u: cmp32(0x4b),
  le_s: cmp32(0x4c),
  le_u: cmp32(0x4d),
  ge_s: cmp32(0x4e),
  ge_u: cmp32(0x4f),
  clz: u(I32, 0x67),
  ctz: u(I32, 0x68),
  popcnt: u(I32, 0x69),
  add: b32(0x6a),
  sub: b32(0x6b),
  mul: b32(0x6c),
  div_s: b32(0x6d),
  div_u: b32(0x6e),
  rem_s: b32(0x6f),
  rem_u: b32(0x70),
  and: b32(0x71),
  or: b32(0x72),
  xor: b32(0x73),
  shl: b32(0x74),
  shr_s: b32(0x75),
  shr_u: b32(0x76),
  rotl: b32(0x77),
  rotr: b32(0x78),
  wrap: (a: Expr) => (a.op === 0x42 ? k32(Number(BigInt.asIntN(32, a.k as bigint))) : un(I32, 0xa7, a)),
  extend8_s: u(I32, 0xc0),
  extend16_s: u(I32, 0xc1),
  reinterpret: u(I32, 0xbc),
  load: loadOf(I32, 0x28),
  load8_s: loadOf(I32, 0x2c),
  load8_u: loadOf(I32, 0x2d),
  load16_s: loadOf(I32, 0x2e),
  load16_u: loadOf(I32, 0x2f),
  trunc_sat_f32_s: u(I32, 0xfc000),
  trunc_sat_f32_u: u(I32, 0xfc001),
  trunc_sat_f64_s: u(I32, 0xfc002),
  trunc_sat_f64_u: u(I32, 0xfc003),
};

export const i64 = {
  const: k64,
  eqz: (a: Expr) => (a.op === 0x42 ? k32(a.k === 0n ? 1 : 0) : un(I32, 0x50, a)),
  eq: cmp64(0x51),
  ne: cmp64(0x52),
  lt_s: cmp64(0x53),
  lt_u: cmp64(0x54),
  gt_s: cmp64(0x55),
  gt_u: cmp64(0x56),
  le_s: cmp64(0x57),
  le_u: cmp64(0x58),
  ge_s: cmp64(0x59),
  ge_u: cmp64(0x5a),
  clz: u(I64, 0x79),
  ctz: u(I64, 0x7a),
  popcnt: u(I64, 0x7b),
  add: b64(0x7c),
  sub: b64(0x7d),
  mul: b64(0x7e),
  div_s: b64(0x7f),
  div_u: b64(0x80),
  rem_s: b64(0x81),
  rem_u: b64(0x82),
  and: b64(0x83),
  or: b64(0x84),
  xor: b64(0x85),
  shl: b64(0x86),
  shr_s: b64(0x87),
  shr_u: b64(0x88),
  rotl: b64(0x89),
  rotr: b64(0x8a),
  extend_s: (a: Expr) => (a.op === 0x41 ? k64(a.k as number) : un(I64, 0xac, a)),
  extend_u: (a: Expr) => (a.op === 0x41 ? k64((a.k as number) >>> 0) : un(I64, 0xad, a)),
  extend8_s: u(I64, 0xc2),
  extend16_s: u(I64, 0xc3),
  extend32_s: u(I64, 0xc4),
  reinterpret: u(I64, 0xbd),
  load: loadOf(I64, 0x29),
  load8_u: loadOf(I64, 0x31),
  load16_u: loadOf(I64, 0x33),
  load32_s: loadOf(I64, 0x34),
  load32_u: loadOf(I64, 0x35),
  trunc_sat_f32_s: u(I64, 0xfc004),
  trunc_sat_f32_u: u(I64, 0xfc005),
  trunc_sat_f64_s: u(I64, 0xfc006),
  trunc_sat_f64_u: u(I64, 0xfc007),
};

const float = (type: ValType, base: number, cmp: number) => ({
  eq: f2(I32, cmp),
  ne: f2(I32, cmp + 1),
  lt: f2(I32, cmp + 2),
  gt: f2(I32, cmp + 3),
  le: f2(I32, cmp + 4),
  ge: f2(I32, cmp + 5),
  abs: u(type, base),
  neg: u(type, base + 1),
  ceil: u(type, base + 2),
  floor: u(type, base + 3),
  trunc: u(type, base + 4),
  nearest: u(type, base + 5),
  sqrt: u(type, base + 6),
  add: f2(type, base + 7),
  sub: f2(type, base + 8),
  mul: f2(type, base + 9),
  div: f2(type, base + 10),
  min: f2(type, base + 11),
  max: f2(type, base + 12),
  copysign: f2(type, base + 13),
});
export const f32 = {
  ...float(F32, 0x8b, 0x5b),
  const: kf32,
  convert_i32_s: u(F32, 0xb2),
  convert_i32_u: u(F32, 0xb3),
  convert_i64_s: u(F32, 0xb4),
  convert_i64_u: u(F32, 0xb5),
  demote: u(F32, 0xb6),
  reinterpret: u(F32, 0xbe),
  load: loadOf(F32, 0x2a),
};
export const f64 = {
  ...float(F64, 0x99, 0x61),
  const: kf64,
  convert_i32_s: u(F64, 0xb7),
  convert_i32_u: u(F64, 0xb8),
  convert_i64_s: u(F64, 0xb9),
  convert_i64_u: u(F64, 0xba),
  promote: u(F64, 0xbb),
  reinterpret: u(F64, 0xbf),
  load: loadOf(F64, 0x2b),
};

/** v128 operations by their sub-opcode in the SIMD proposal's table (the 0xfd prefix). */
export const v128 = {
  const: kv128,
  load: loadOf(V128, SIMD + 0x00),
  load32_zero: loadOf(V128, SIMD + 0x5c),
  load64_zero: loadOf(V128, SIMD + 0x5d),
  /** A unary operation. */
  un: (sub: number, a: Expr): Expr => un(V128, SIMD + sub, a),
  /** A binary operation (also shifts, whose second operand is an i32). */
  bin: (sub: number, a: Expr, b: Expr): Expr => bin(V128, SIMD + sub, a, b),
  /** A test or bit mask: v128 → i32. */
  test: (sub: number, a: Expr): Expr => un(I32, SIMD + sub, a),
  /** i8x16.extract_lane_s 0x15 _u 0x16, i16x8 _s 0x18 _u 0x19, i32x4 0x1b, i64x2 0x1d, f32x4 0x1f, f64x2 0x21 */
  extract: (sub: number, type: ValType, a: Expr, lane: number): Expr => new Node(type, SIMD + sub, [a], lane),
  /** i8x16.replace_lane 0x17, i16x8 0x1a, i32x4 0x1c, i64x2 0x1e, f32x4 0x20, f64x2 0x22 */
  replace: (sub: number, a: Expr, lane: number, value: Expr): Expr => new Node(V128, SIMD + sub, [a, value], lane),
  /** Splats: i8x16 0x0f, i16x8 0x10, i32x4 0x11, i64x2 0x12, f32x4 0x13, f64x2 0x14 */
  splat: (sub: number, a: Expr): Expr => un(V128, SIMD + sub, a),
  shuffle: (a: Expr, b: Expr, lanes: ArrayLike<number>): Expr =>
    new Node(V128, SIMD + 0x0d, [a, b], undefined, Uint8Array.from(lanes)),
  swizzle: (a: Expr, s: Expr): Expr => bin(V128, SIMD + 0x0e, a, s),
  not: (a: Expr): Expr => un(V128, SIMD + 0x4d, a),
  and: (a: Expr, b: Expr): Expr => bin(V128, SIMD + 0x4e, a, b),
  /** a AND NOT b */
  andnot: (a: Expr, b: Expr): Expr => bin(V128, SIMD + 0x4f, a, b),
  or: (a: Expr, b: Expr): Expr => bin(V128, SIMD + 0x50, a, b),
  xor: (a: Expr, b: Expr): Expr => bin(V128, SIMD + 0x51, a, b),
  /** An operation on three vectors. */
  ternary: (sub: number, a: Expr, b: Expr, c: Expr): Expr => new Node(V128, SIMD + sub, [a, b, c]),
  /** (a AND c) OR (b AND NOT c) */
  bitselect: (a: Expr, b: Expr, c: Expr): Expr => new Node(V128, SIMD + 0x52, [a, b, c]),
};

/** Integer operations of one width, so that a definition reads the same for every operand size. */
export interface IntOps {
  readonly type: typeof I32 | typeof I64;
  k(value: number | bigint): Expr;
  eqz(a: Expr): Expr;
  eq(a: Expr, b: Expr): Expr;
  ne(a: Expr, b: Expr): Expr;
  lt_s(a: Expr, b: Expr): Expr;
  lt_u(a: Expr, b: Expr): Expr;
  le_s(a: Expr, b: Expr): Expr;
  le_u(a: Expr, b: Expr): Expr;
  clz(a: Expr): Expr;
  ctz(a: Expr): Expr;
  popcnt(a: Expr): Expr;
  add(a: Expr, b: Expr): Expr;
  sub(a: Expr, b: Expr): Expr;
  mul(a: Expr, b: Expr): Expr;
  and(a: Expr, b: Expr): Expr;
  or(a: Expr, b: Expr): Expr;
  xor(a: Expr, b: Expr): Expr;
  /** Counts are of this type; take them modulo the width yourself where the operand is narrower than the type. */
  shl(a: Expr, b: Expr): Expr;
  shr_s(a: Expr, b: Expr): Expr;
  shr_u(a: Expr, b: Expr): Expr;
  rotl(a: Expr, b: Expr): Expr;
  rotr(a: Expr, b: Expr): Expr;
  /** An i32 as this type (zero-extended). */
  from32(a: Expr): Expr;
  /** This type as an i32 (low bits). */
  to32(a: Expr): Expr;
}
const same = (a: Expr): Expr => a;
export const W32: IntOps = {
  ...i32,
  type: I32,
  k: (v) => k32(Number(BigInt.asIntN(32, BigInt(v)))),
  from32: same,
  to32: same,
};
export const W64: IntOps = { ...i64, type: I64, k: k64, from32: i64.extend_u, to32: i32.wrap };

const F64BITS = new DataView(new ArrayBuffer(8));

/** Writes the instructions that leave the value of `x` on the stack. */
export function emitExpr(w: Writer, x: Expr): void {
  const op = x.op;
  if (op === OP_IF) {
    emitExpr(w, x.args[0]!);
    w.u8(0x04);
    w.u8(x.type);
    emitExpr(w, x.args[1]!);
    w.u8(0x05);
    emitExpr(w, x.args[2]!);
    w.u8(0x0b);
    return;
  }
  if (op === OP_LOCAL_GET) return w.localGet(x.k as number);
  const args = x.args;
  for (let i = 0; i < args.length; i++) emitExpr(w, args[i]!);
  if (op < 0x100) {
    w.u8(op);
    if (op === 0x41) w.s32(x.k as number);
    else if (op === 0x42) w.s64(x.k as bigint);
    else if (op === 0x43 || op === 0x44) {
      if (op === 0x43) F64BITS.setFloat32(0, x.k as number, true);
      else F64BITS.setFloat64(0, x.k as number, true);
      w.raw(new Uint8Array(F64BITS.buffer, 0, op === 0x43 ? 4 : 8));
    } else if (op >= 0x28 && op <= 0x35) {
      w.u8(0); // alignment hint: none
      w.u32(x.k as number);
    } else if (op === OP_CALL) w.functionIndex(x.k as number);
    else if (op === OP_LOCAL_TEE || op === OP_GLOBAL_GET) w.u32(x.k as number);
    return;
  }
  const sub = op & 0xfff;
  w.u8(Math.floor(op / 0x1000));
  w.u32(sub);
  if (op >= SIMD) {
    if (sub <= 0x0a || sub === 0x5c || sub === 0x5d) {
      w.u8(0);
      w.u32(x.k as number);
    } else if (sub === 0x0c || sub === 0x0d) w.raw(x.bytes!);
    else if (sub >= 0x15 && sub <= 0x22) w.u8(x.k as number);
  }
}
