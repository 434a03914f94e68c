/**
 * SSE floating-point operations done exactly, for what emitted code does not do itself: rounding modes other than to
 * nearest, unmasked exceptions, NaNs, infinities, denormals, and every operation until PE is set for the first time.
 */
import type { Cpu } from '../cpu.ts';
import { Vector } from '../emit.ts';
import { S } from '../layout.ts';
import { MXCSR } from './mxcsr.ts';
import {
  CHOP,
  DE,
  DOUBLE,
  IE,
  PE,
  SINGLE,
  ZE,
  add,
  compareFlags,
  convert,
  div,
  flush,
  fromInteger,
  mul,
  roundIntegral,
  sqrt,
  toInteger,
  type Context,
  type Format,
} from './soft.ts';

/** Operations. Unless said otherwise: operands a (TEMP) and b (TEMP + 16), result at TEMP, other lanes as in a. */
export const FloatKind = {
  Add: 0,
  Sub: 1,
  Mul: 2,
  Div: 3,
  /** Of b. */
  Sqrt: 4,
  /** Subtracts in even lanes, adds in odd ones. */
  AddSub: 5,
  /** Flags of a comparison; a and b come back with denormals flushed if DAZ says so. */
  Compare: 6,
  /** The same where quiet NaNs are invalid too. Also minimum and maximum. */
  CompareSignalling: 7,
  /** Of b; immediate as in ROUNDPS. */
  Round: 8,
  /** Dot product; immediate as in DPPS. */
  Dot: 9,
  /** Of b, to the other format; packed converts two. Unused result lanes are 0 if packed. */
  Convert: 10,
  /** Of b, to 32-bit integers. */
  ToInt32: 11,
  TruncateInt32: 12,
  /** Of b, to one 64-bit integer. */
  ToInt64: 13,
  TruncateInt64: 14,
  /** 32-bit integers of b to this format. */
  FromInt32: 15,
  /** One 64-bit integer of b to this format. */
  FromInt64: 16,
} as const;
export type FloatKind = (typeof FloatKind)[keyof typeof FloatKind];

export const FloatFormat = { Single: 0, Double: 1 } as const;
export type FloatFormat = (typeof FloatFormat)[keyof typeof FloatFormat];

/** The operation code that `exactFloat` takes; an immediate goes to bits 16 to 23. */
export const floatOp = (kind: FloatKind, format: FloatFormat, packed: boolean): number =>
  kind | (format ? 0x100 : 0) | (packed ? 0x200 : 0);

const SPLIT = 134217729; // 2^27 + 1
/** a·b − p for p = a·b rounded: Dekker's product. Exact for factors below 2^996 and products above 2^-960. */
function productError(a: number, b: number, p: number): number {
  let t = SPLIT * a;
  const ah = t - (t - a);
  const al = a - ah;
  t = SPLIT * b;
  const bh = t - (t - b);
  const bl = b - bh;
  return al * bl - (p - ah * bh - al * bh - ah * bl);
}

const SMALL = 2 ** -450;
const LARGE = 2 ** 450;
/** Far enough from the ends of the range that no intermediate value overflows or underflows. */
const moderate = (x: number): boolean => {
  const m = Math.abs(x);
  return m === 0 || (m > SMALL && m < LARGE);
};

/** Result of the last successful `quick`. */
let quickResult = 0;
/** PE or 0. */
let quickFlags = 0;

/** Does a plain operation in the default mode with numbers; false where that does not give all flags. */
function quick(kind: FloatKind, double: boolean, a: number, b: number): boolean {
  if (!moderate(a) || !moderate(b)) return false;
  let r: number;
  let exact: boolean;
  switch (kind) {
    case FloatKind.Sub:
    case FloatKind.Add: {
      if (kind === FloatKind.Sub) b = -b;
      const sum = a + b;
      const bb = sum - a;
      exact = a - (sum - bb) + (b - bb) === 0;
      r = double ? sum : Math.fround(sum);
      exact = exact && r === sum;
      break;
    }
    case FloatKind.Mul: {
      const product = a * b;
      r = double ? product : Math.fround(product);
      exact = double ? productError(a, b, r) === 0 : r === product;
      break;
    }
    case FloatKind.Div: {
      if (b === 0) return false;
      const q = a / b;
      r = double ? q : Math.fround(q);
      const product = r * b;
      exact = product === a && (!double || productError(r, b, product) === 0);
      break;
    }
    case FloatKind.Sqrt: {
      if (b < 0) return false;
      const root = Math.sqrt(b);
      r = double ? root : Math.fround(root);
      const product = r * r;
      exact = product === b && (!double || productError(r, r, product) === 0);
      break;
    }
    default:
      return false;
  }
  if (double) {
    if (!moderate(r)) return false;
  } else {
    const m = Math.abs(r);
    // A zero that is not exact is an underflow.
    if (!(m === 0 ? exact : m > 2 ** -126 && m < Infinity)) return false;
    // Denormal operands have a flag of their own.
    const am = Math.abs(a);
    const bm = Math.abs(b);
    if ((am !== 0 && am < 2 ** -126) || (bm !== 0 && bm < 2 ** -126)) return false;
  }
  quickResult = r;
  quickFlags = exact ? 0 : PE;
  return true;
}

/**
 * Executes an operation that emitted code handed over: operands at S.TEMP and S.TEMP + 16, result at S.TEMP, flags into MXCSR.
 * Throws the processor's fault (#XM, or #UD if CR4.OSXMMEXCPT is off) where an unmasked exception occurred.
 */
export function exactFloat(cpu: Cpu, op: number): void {
  const kind = (op & 0xff) as FloatKind;
  const double = (op & 0x100) !== 0;
  const packed = (op & 0x200) !== 0;
  const imm = (op >>> 16) & 0xff;
  const at = cpu.state + S.TEMP;
  const mxcsr = cpu.i32[(cpu.state + S.MXCSR) >> 2]!;
  const view = cpu.view;
  const ctx: Context = {
    rounding: (mxcsr & MXCSR.RC) >> 13,
    daz: (mxcsr & MXCSR.DAZ) !== 0,
    ftz: (mxcsr & MXCSR.FTZ) !== 0,
    underflowTraps: (mxcsr & 0x800) === 0,
    overflowTraps: (mxcsr & 0x400) === 0,
    flags: 0,
  };
  const f = double ? DOUBLE : SINGLE;
  let flags: number;
  if (kind === FloatKind.Dot) flags = dot(view, at, f, imm, unmaskedOf(mxcsr), ctx);
  else {
    if (kind <= FloatKind.AddSub) arithmetic(view, at, kind, f, packed, mxcsr, ctx);
    else others(view, at, kind, f, packed, imm, ctx);
    flags = found(ctx.flags, unmaskedOf(mxcsr));
  }
  finish(cpu, mxcsr, flags);
}

const unmaskedOf = (mxcsr: number): number => ~(mxcsr >> 7) & MXCSR.FLAGS;

/** Unmasked exceptions of the operands keep those of the result from being found (SDM vol. 1, 11.5.3). */
const found = (flags: number, unmasked: number): number =>
  flags & unmasked & (IE | DE | ZE) ? flags & (IE | DE | ZE) : flags;

/** Merges flags into MXCSR and raises #XM for unmasked ones. */
function finish(cpu: Cpu, mxcsr: number, flags: number): void {
  const unmasked = unmaskedOf(mxcsr);
  cpu.i32[(cpu.state + S.MXCSR) >> 2] = mxcsr | flags;
  if (flags & unmasked) {
    // CR4.OSXMMEXCPT
    const cr4 = cpu.i32[(cpu.state + S.CR4) >> 2]!;
    throw cpu.fault(cr4 & 0x400 ? Vector.XM : Vector.UD);
  }
}

const read = (view: DataView, at: number, f: Format): bigint =>
  f === DOUBLE ? view.getBigUint64(at, true) : BigInt(view.getUint32(at, true));
function write(view: DataView, at: number, f: Format, value: bigint): void {
  if (f === DOUBLE) view.setBigUint64(at, value, true);
  else view.setUint32(at, Number(value), true);
}

function arithmetic(
  view: DataView,
  at: number,
  kind: FloatKind,
  f: Format,
  packed: boolean,
  mxcsr: number,
  ctx: Context,
): void {
  const double = f === DOUBLE;
  const size = double ? 8 : 4;
  const lanes = packed ? 16 / size : 1;
  const plain = (mxcsr & (MXCSR.MASKS | MXCSR.RC)) === MXCSR.MASKS;
  for (let i = 0; i < lanes; i++) {
    const p = at + i * size;
    let k = kind;
    if (kind === FloatKind.AddSub) k = i & 1 ? FloatKind.Add : FloatKind.Sub;
    if (plain) {
      const y = double ? view.getFloat64(p + 16, true) : view.getFloat32(p + 16, true);
      const x = k === FloatKind.Sqrt ? 0 : double ? view.getFloat64(p, true) : view.getFloat32(p, true);
      if (quick(k, double, x, y)) {
        if (double) view.setFloat64(p, quickResult, true);
        else view.setFloat32(p, quickResult, true);
        ctx.flags |= quickFlags;
        continue;
      }
    }
    const a = read(view, p, f);
    const b = read(view, p + 16, f);
    let r: bigint;
    switch (k) {
      case FloatKind.Add:
        r = add(f, a, b, false, ctx);
        break;
      case FloatKind.Sub:
        r = add(f, a, b, true, ctx);
        break;
      case FloatKind.Mul:
        r = mul(f, a, b, ctx);
        break;
      case FloatKind.Div:
        r = div(f, a, b, ctx);
        break;
      default:
        r = sqrt(f, b, ctx);
    }
    write(view, p, f, r);
  }
}

/**
 * DPPS, DPPD: products, then sums of pairs, each step rounded; an unmasked exception of one step is the last.
 * @returns the flags
 */
function dot(view: DataView, at: number, f: Format, imm: number, unmasked: number, ctx: Context): number {
  const size = f === DOUBLE ? 8 : 4;
  const lanes = 16 / size;
  const terms: bigint[] = [];
  for (let i = 0; i < lanes; i++)
    terms.push(imm & (0x10 << i) ? mul(f, read(view, at + i * size, f), read(view, at + 16 + i * size, f), ctx) : 0n);
  let flags = found(ctx.flags, unmasked);
  while (terms.length > 1 && !(flags & unmasked)) {
    ctx.flags = 0;
    const n = terms.length / 2;
    for (let i = 0; i < n; i++) terms[i] = add(f, terms[2 * i]!, terms[2 * i + 1]!, false, ctx);
    terms.length = n;
    flags |= found(ctx.flags, unmasked);
  }
  for (let i = 0; i < lanes; i++) write(view, at + i * size, f, imm & (1 << i) ? terms[0]! : 0n);
  return flags;
}

function others(
  view: DataView,
  at: number,
  kind: FloatKind,
  f: Format,
  packed: boolean,
  imm: number,
  ctx: Context,
): void {
  const double = f === DOUBLE;
  const size = double ? 8 : 4;
  const lanes = packed ? 16 / size : 1;
  switch (kind) {
    case FloatKind.Compare:
    case FloatKind.CompareSignalling:
      for (let i = 0; i < lanes; i++) {
        const p = at + i * size;
        const a = read(view, p, f);
        const b = read(view, p + 16, f);
        compareFlags(f, a, b, kind === FloatKind.CompareSignalling, ctx);
        write(view, p, f, flush(f, a, ctx));
        write(view, p + 16, f, flush(f, b, ctx));
      }
      break;
    case FloatKind.Round: {
      const rounding = imm & 4 ? ctx.rounding : imm & 3;
      for (let i = 0; i < lanes; i++)
        write(view, at + i * size, f, roundIntegral(f, read(view, at + 16 + i * size, f), rounding, ctx));
      if (imm & 8) ctx.flags &= ~PE;
      break;
    }
    case FloatKind.Convert: {
      const to = double ? SINGLE : DOUBLE;
      const step = double ? 4 : 8;
      const n = packed ? 2 : 1;
      if (packed && double) view.setBigUint64(at + 8, 0n, true);
      for (let i = 0; i < n; i++)
        write(view, at + i * step, to, convert(f, to, read(view, at + 16 + i * size, f), ctx));
      break;
    }
    case FloatKind.ToInt32:
    case FloatKind.TruncateInt32: {
      if (packed) view.setBigUint64(at + 8, 0n, true);
      const rounding = kind === FloatKind.TruncateInt32 ? CHOP : ctx.rounding;
      for (let i = 0; i < lanes; i++)
        view.setUint32(at + i * 4, Number(toInteger(f, read(view, at + 16 + i * size, f), 32, rounding, ctx)), true);
      break;
    }
    case FloatKind.ToInt64:
    case FloatKind.TruncateInt64: {
      const rounding = kind === FloatKind.TruncateInt64 ? CHOP : ctx.rounding;
      view.setBigUint64(at, toInteger(f, read(view, at + 16, f), 64, rounding, ctx), true);
      break;
    }
    case FloatKind.FromInt32:
      for (let i = 0; i < lanes; i++)
        write(view, at + i * size, f, fromInteger(f, BigInt(view.getInt32(at + 16 + i * 4, true)), ctx));
      break;
    case FloatKind.FromInt64:
      write(view, at, f, fromInteger(f, view.getBigInt64(at + 16, true), ctx));
      break;
    default:
      throw new Error(`floating-point operation ${kind}`);
  }
}
