/** Conversions between integers and the two floating-point formats. */
import type { Emit } from '../emit.ts';
import { FloatFormat, FloatKind } from '../float/exact.ts';
import { MXCSR } from '../float/mxcsr.ts';
import { def } from '../insn.ts';
import { S } from '../layout.ts';
import { F32X4, F64X2, I32X4, I64X2 } from '../wasm/simd.ts';
import { I32, I64, V128, choose, f32, f64, i32, i64, k32, k64, kf32, kf64, v128, type Expr } from '../wasm/expr.ts';
import { exact, exactResult, fastArithmetic, low, lowF32, lowF64, mxcsrIs, range, source } from './sse-common.ts';
import { PD, PS, SD, SS, keptBy, lanesOf, type Form } from './sse-float.ts';
import { MIN_NORMAL32 } from './sse-runtime.ts';
import { enterMmx, waitMmx } from './sse-move.ts';

const { Single, Double } = FloatFormat;

/**
 * Between the formats. Ordinary numbers of the narrow format, and zeros, need no closer look; `wide` is the operand or
 * result in double.
 */
function ordinary(packed: boolean, wide: Expr, operand: Expr): Expr {
  if (packed) {
    const size = v128.un(F64X2.abs, wide);
    const normal = v128.and(
      v128.bin(F64X2.gt, size, v128.splat(F64X2.splat, kf64(MIN_NORMAL32))),
      v128.bin(F64X2.lt, size, v128.splat(F64X2.splat, kf64(Infinity))),
    );
    const zero = v128.bin(F64X2.eq, operand, v128.const(new Uint8Array(16)));
    return v128.test(I64X2.all_true, v128.or(normal, zero));
  }
  const size = f64.abs(wide);
  return i32.or(i32.and(f64.gt(size, kf64(MIN_NORMAL32)), f64.lt(size, kf64(Infinity))), f64.eq(operand, kf64(0)));
}

/** Sets operand 0 to `r` if `ok`, else to the exact conversion of `b`. */
function convertOr(c: Emit, ok: Expr, r: Expr, format: FloatFormat, packed: boolean, b: Expr): void {
  const out = c.temp(V128);
  const to = [PS, PD, SS, SD].find((form) => form.packed === packed && form.format !== format)!;
  const kept = c.lanesKnown(0) & keptBy(to);
  c.f.set(out, r);
  c.f.if(
    i32.eqz(ok),
    () => {
      exact(c, FloatKind.Convert, format, packed, packed ? b : c.vectorAt(0), b);
      c.f.set(out, exactResult(c));
    },
    undefined,
    0,
  );
  c.setVectorAt(0, out.get);
  c.noteLanes(0, kept | (c.mayRetreat ? lanesOf(to) : 0));
}

function formats(): void {
  const widening = (c: Emit): Expr => mxcsrIs(c, MXCSR.DAZ, 0);
  def('cvtps2pd np 0f 5a Vx,Wq', { unit: 'sse', access: 'w' }, (c) => {
    const b = low(c, 1, 8);
    const r = c.let(v128.un(F64X2.promote_low_f32x4, b));
    convertOr(c, i32.and(widening(c), ordinary(true, r, r)), r, Single, true, b);
  });
  def('cvtss2sd f3 0f 5a Vx,Wd', { unit: 'sse' }, (c) => {
    const b = low(c, 1, 4);
    const r = c.let(f64.promote(lowF32(b)));
    const whole = v128.replace(F64X2.replace, c.vectorAt(0), 0, r);
    convertOr(c, i32.and(widening(c), ordinary(false, r, r)), whole, Single, false, b);
  });
  def('cvtpd2ps 66 0f 5a Vx,Wx', { unit: 'sse', access: 'w' }, (c) => {
    const b = source(c, 1);
    const r = c.let(v128.un(F32X4.demote_f64x2_zero, b));
    const wide = c.let(v128.un(F64X2.promote_low_f32x4, r));
    convertOr(c, i32.and(fastArithmetic(c), ordinary(true, wide, b)), r, Double, true, b);
  });
  def('cvtsd2ss f2 0f 5a Vx,Wq', { unit: 'sse' }, (c) => {
    const b = low(c, 1, 8);
    const x = c.let(lowF64(b));
    const r = c.let(f32.demote(x));
    const wide = c.let(f64.promote(r));
    const whole = v128.replace(F32X4.replace, c.vectorAt(0), 0, r);
    convertOr(c, i32.and(fastArithmetic(c), ordinary(false, wide, x)), whole, Double, false, b);
  });
}

/** Integers as numbers: a v128 of doublewords, an i32 or an i64. */
function fromIntegers(): void {
  def('cvtdq2pd f3 0f e6 Vx,Wq', { unit: 'sse', access: 'w' }, (c) =>
    c.setVectorAt(0, v128.un(F64X2.convert_low_i32x4_s, low(c, 1, 8))),
  );
  def('cvtdq2ps np 0f 5b Vx,Wx', { unit: 'sse', access: 'w' }, (c) => c.setVectorAt(0, toSingles(c, source(c, 1))));
  def('cvtpi2ps np 0f 2a Vx,Qq', { unit: 'sse', faults: true }, (c) => {
    // From memory it is no MMX instruction, as processors have it (the manual says so of CVTPI2PD only).
    if (!c.isMem(1)) waitMmx(c);
    const b = c.let(v128.replace(I64X2.replace, c.zeroVector, 0, mmxSource(c, 1)));
    const r = toSingles(c, b);
    if (!c.isMem(1)) enterMmx(c);
    c.setVectorAt(0, v128.shuffle(r, c.vectorAt(0), [...range(0, 8), ...range(24, 8)]));
  });
  def('cvtpi2pd 66 0f 2a Vx,Qq', { unit: 'sse', access: 'w', faults: true }, (c) => {
    // From memory it is no MMX instruction.
    if (!c.isMem(1)) waitMmx(c);
    const b = mmxSource(c, 1);
    if (!c.isMem(1)) enterMmx(c);
    c.setVectorAt(0, v128.un(F64X2.convert_low_i32x4_s, v128.replace(I64X2.replace, c.zeroVector, 0, b)));
  });
  for (const form of [SS, SD])
    def(`cvtsi2${form.suffix} ${form.prefix} 0f 2a Vx,Ey`, { unit: 'sse' }, (c) => {
      const x = c.get(1);
      const wide = c.operand(1).size === 8;
      const s = form.format ? f64 : f32;
      const r = wide ? s.convert_i64_s(x) : s.convert_i32_s(x);
      const out = c.temp(V128);
      c.f.set(out, v128.replace(form.lanes.replace, c.vectorAt(0), 0, r));
      if (wide || !form.format) {
        // Integers of few enough bits are exact in any mode.
        const large = wide
          ? i64.gt_u(i64.add(x, k64(form.format ? 2 ** 53 : 2 ** 24)), k64(form.format ? 2 ** 54 : 2 ** 25))
          : i32.gt_u(i32.add(x, k32(2 ** 24)), k32(2 ** 25));
        c.f.if(
          i32.eqz(fastArithmetic(c)),
          () =>
            c.f.if(large, () => {
              const kind = wide ? FloatKind.FromInt64 : FloatKind.FromInt32;
              const b = wide
                ? v128.replace(I64X2.replace, c.zeroVector, 0, x)
                : v128.replace(I32X4.replace, c.zeroVector, 0, x);
              exact(c, kind, form.format, false, c.vectorAt(0), b);
              c.f.set(out, exactResult(c));
            }),
          undefined,
          0,
        );
      }
      const kept = c.lanesKnown(0) & keptBy(form);
      c.setVectorAt(0, out.get);
      c.noteLanes(0, kept | lanesOf(form));
    });
}

/** Four doublewords to singles. */
function toSingles(c: Emit, b: Expr): Expr {
  const out = c.temp(V128);
  c.f.set(out, v128.un(F32X4.convert_i32x4_s, b));
  c.f.if(
    i32.eqz(fastArithmetic(c)),
    () => {
      exact(c, FloatKind.FromInt32, Single, true, b, b);
      c.f.set(out, exactResult(c));
    },
    undefined,
    0,
  );
  return out.get;
}

/** An MMX register or memory as an i64. */
const mmxSource = (c: Emit, i: number): Expr => (c.isMem(i) ? c.load(c.address(), 8) : c.let(c.mmxAt(i)));

/** Whether values that are integers need no exact path although PE is clear. `same`: i32, operand = result. */
function unlessExact(c: Emit, truncate: boolean, inRange: Expr, same: Expr, slow: () => void): void {
  const valid = c.let(inRange);
  const fast = truncate ? mxcsrIs(c, MXCSR.PE, MXCSR.PE) : fastArithmetic(c);
  c.f.if(
    i32.eqz(i32.and(fast, valid)),
    () => {
      const masked = truncate ? mxcsrIs(c, 0, 0) : mxcsrIs(c, MXCSR.RC, 0);
      c.f.if(choose(i32.and(valid, masked), i32.eqz(same), k32(1)), slow);
    },
    undefined,
    0,
  );
}

/** Numbers to four doublewords (from PD: two, and zeros). */
function toIntegers(c: Emit, form: Form, truncate: boolean, b: Expr): Expr {
  const l = form.lanes;
  const double = form.format === Double;
  const whole = c.let(v128.un(truncate ? l.trunc : l.nearest, b));
  const out = c.temp(V128);
  c.f.set(out, v128.un(double ? I32X4.trunc_sat_f64x2_s_zero : I32X4.trunc_sat_f32x4_s, whole));
  const limit = double ? v128.splat(l.splat, kf64(2 ** 31)) : v128.splat(l.splat, kf32(2 ** 31));
  const all = (x: Expr): Expr => v128.test(double ? I64X2.all_true : I32X4.all_true, x);
  unlessExact(c, truncate, all(v128.bin(l.lt, v128.un(l.abs, whole), limit)), all(v128.bin(l.eq, whole, b)), () => {
    exact(c, truncate ? FloatKind.TruncateInt32 : FloatKind.ToInt32, form.format, true, b, b);
    c.f.set(out, exactResult(c));
  });
  return out.get;
}

function scalarToInteger(pattern: string, form: Form, truncate: boolean): void {
  def(pattern, { unit: 'sse', access: 'w' }, (c) => {
    const double = form.format === Double;
    const b = low(c, 1, double ? 8 : 4);
    const x = c.let(double ? lowF64(b) : lowF32(b));
    const s = double ? f64 : f32;
    const whole = c.let(truncate ? s.trunc(x) : s.nearest(x));
    const wide = c.operand(0).size === 8;
    const limit = 2 ** (wide ? 63 : 31);
    const out = c.temp(wide ? I64 : I32);
    const to = wide ? i64 : i32;
    c.f.set(out, double ? to.trunc_sat_f64_s(whole) : to.trunc_sat_f32_s(whole));
    unlessExact(c, truncate, s.lt(s.abs(whole), double ? kf64(limit) : kf32(limit)), s.eq(whole, x), () => {
      const kinds = wide ? [FloatKind.ToInt64, FloatKind.TruncateInt64] : [FloatKind.ToInt32, FloatKind.TruncateInt32];
      exact(c, kinds[truncate ? 1 : 0]!, form.format, false, b, b);
      c.f.set(out, wide ? c.state64(S.TEMP) : c.state32(S.TEMP));
    });
    c.set(0, out.get);
  });
}

function intoMmx(pattern: string, form: Form, truncate: boolean): void {
  def(pattern, { unit: 'sse', access: 'w', faults: true }, (c) => {
    waitMmx(c);
    let b: Expr;
    if (form.format === Double) b = source(c, 1);
    else {
      const v = low(c, 1, 8);
      b = c.isMem(1) ? v : c.let(v128.shuffle(v, c.zeroVector, range(0, 8).concat(range(16, 8))));
    }
    const r = toIntegers(c, form, truncate, b);
    enterMmx(c);
    c.setMmxAt(0, v128.extract(I64X2.extract, I64, r, 0));
  });
}

export function defineSseConvert(): void {
  formats();
  fromIntegers();
  const packed: readonly (readonly [string, Form, boolean])[] = [
    ['cvtps2dq 66 0f 5b', PS, false],
    ['cvttps2dq f3 0f 5b', PS, true],
    ['cvtpd2dq f2 0f e6', PD, false],
    ['cvttpd2dq 66 0f e6', PD, true],
  ];
  for (const [pattern, form, truncate] of packed)
    def(`${pattern} Vx,Wx`, { unit: 'sse', access: 'w' }, (c) =>
      c.setVectorAt(0, toIntegers(c, form, truncate, source(c, 1))),
    );
  scalarToInteger('cvttss2si f3 0f 2c Gy,Wd', SS, true);
  scalarToInteger('cvtss2si f3 0f 2d Gy,Wd', SS, false);
  scalarToInteger('cvttsd2si f2 0f 2c Gy,Wq', SD, true);
  scalarToInteger('cvtsd2si f2 0f 2d Gy,Wq', SD, false);
  intoMmx('cvttps2pi np 0f 2c Pq,Wq', PS, true);
  intoMmx('cvtps2pi np 0f 2d Pq,Wq', PS, false);
  intoMmx('cvttpd2pi 66 0f 2c Pq,Wx', PD, true);
  intoMmx('cvtpd2pi 66 0f 2d Pq,Wx', PD, false);
}
