/**
 * Runtime functions that look closer at operands and result when the quick test of an SSE operation failed: most often
 * there was just a zero. Each returns 1 where the exact path is needed.
 */
import type { RuntimeFunction } from '../runtime.ts';
import { ANY_TRUE, F32X4, F64X2, type FloatLanes } from '../wasm/simd.ts';
import type { FunctionBuilder } from '../wasm/builder.ts';
import { I32, V128, k32, kf32, kf64, v128, type Expr } from '../wasm/expr.ts';

/** Smallest normal numbers. */
export const MIN_NORMAL32 = 2 ** -126;
export const MIN_NORMAL64 = 2 ** -1022;

export const minNormal = (l: FloatLanes): Expr =>
  v128.splat(l.splat, l === F32X4 ? kf32(MIN_NORMAL32) : kf64(MIN_NORMAL64));
export const infinity = (l: FloatLanes): Expr => v128.splat(l.splat, l === F32X4 ? kf32(Infinity) : kf64(Infinity));

const zero = v128.const(new Uint8Array(16));

/** Mask of lanes that are denormal or just normal (the rounding of a tiny result may have ended there). */
const denormal = (l: FloatLanes, x: Expr): Expr =>
  v128.and(v128.bin(l.le, v128.un(l.abs, x), minNormal(l)), v128.bin(l.ne, x, zero));

const isZero = (l: FloatLanes, x: Expr): Expr => v128.bin(l.eq, x, zero);
const isNotZero = (l: FloatLanes, x: Expr): Expr => v128.bin(l.ne, x, zero);

type Rule = 'add' | 'mul' | 'div';

function odd(name: string, l: FloatLanes, rule: Rule): RuntimeFunction {
  return {
    name,
    signature: { params: [V128, V128, V128], results: [I32] },
    build(f) {
      const a = f.param(0);
      const b = f.param(1);
      const r = f.param(2);
      let bad = v128.or(denormal(l, a), denormal(l, b));
      bad = v128.or(bad, denormal(l, r));
      bad = v128.or(bad, v128.not(v128.bin(l.lt, v128.un(l.abs, r), infinity(l))));
      // A zero from operands that are not: underflow.
      if (rule === 'div') bad = v128.or(bad, v128.and(isZero(l, r), isNotZero(l, a)));
      if (rule === 'mul') bad = v128.or(bad, v128.and(isZero(l, r), v128.and(isNotZero(l, a), isNotZero(l, b))));
      f.return(v128.test(ANY_TRUE, bad));
    },
  };
}

type Operation = 'add' | 'mul' | 'div' | 'sqrt';
const RULES: Record<Operation, Rule> = { add: 'add', mul: 'mul', div: 'div', sqrt: 'add' };

/** A double that is zero or far from the ends of the range: no product of two, or its error, overflows or underflows. */
function moderate(x: Expr): Expr {
  const size = v128.un(F64X2.abs, x);
  const limit = (power: number): Expr => v128.splat(F64X2.splat, kf64(2 ** power));
  const inside = v128.and(v128.bin(F64X2.gt, size, limit(-450)), v128.bin(F64X2.lt, size, limit(450)));
  return v128.or(inside, isZero(F64X2, x));
}

/** Lanes of ones where a·b is not exactly p, by Dekker's product. All evaluated; factors are `moderate` or quotients of such. */
function productDiffers(f: FunctionBuilder, a: Expr, b: Expr, p: Expr): Expr {
  const l = F64X2;
  const split = (x: Expr): { high: Expr; low: Expr } => {
    const t = f.let(v128.bin(l.mul, x, v128.splat(l.splat, kf64(2 ** 27 + 1))));
    const high = f.let(v128.bin(l.sub, t, v128.bin(l.sub, t, x)));
    return { high, low: f.let(v128.bin(l.sub, x, high)) };
  };
  const x = split(a);
  const y = split(b);
  let error = v128.bin(l.sub, v128.bin(l.mul, x.high, y.high), p);
  error = v128.bin(l.add, error, v128.bin(l.mul, x.high, y.low));
  error = v128.bin(l.add, error, v128.bin(l.mul, x.low, y.high));
  return isNotZero(l, v128.bin(l.add, error, v128.bin(l.mul, x.low, y.low)));
}

/** Lanes of ones where a + b is not exactly r, by the error of a two-sum. */
function sumDiffers(f: FunctionBuilder, l: FloatLanes, a: Expr, b: Expr, r: Expr): Expr {
  const bPart = f.let(v128.bin(l.sub, r, a));
  const aError = v128.bin(l.sub, a, v128.bin(l.sub, r, bPart));
  return isNotZero(l, v128.bin(l.add, aError, v128.bin(l.sub, b, bPart)));
}

/** As `odd`, but also 1 where the result is inexact (or may be): for as long as PE is clear. */
function inexact(operation: Operation, l: FloatLanes): RuntimeFunction {
  const bits = l === F32X4 ? 32 : 64;
  return {
    name: `sse_inexact_${operation}_${bits}`,
    signature: { params: [V128, V128, V128], results: [I32] },
    build(f, call) {
      const a = f.param(0);
      const b = f.param(1);
      const r = f.param(2);
      const any = (x: Expr): Expr => v128.test(ANY_TRUE, x);
      f.if(call(`sse_odd_${RULES[operation]}_${bits}`, a, b, r), () => f.return(k32(1)));
      if (operation === 'add') f.return(any(sumDiffers(f, l, a, b, r)));
      else if (l === F32X4) {
        // Products of singles are exact in double.
        const half = (upper: boolean): Expr => {
          const wide = (x: Expr): Expr =>
            v128.un(
              F64X2.promote_low_f32x4,
              upper ? v128.shuffle(x, x, [8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7]) : x,
            );
          const [left, right, product] = operation === 'mul' ? [a, b, r] : operation === 'div' ? [r, b, a] : [r, r, b];
          return v128.bin(F64X2.ne, v128.bin(F64X2.mul, wide(left), wide(right)), wide(product));
        };
        f.return(any(v128.or(half(false), half(true))));
      } else {
        f.if(any(v128.not(v128.and(moderate(a), moderate(b)))), () => f.return(k32(1)));
        if (operation === 'mul') f.return(any(productDiffers(f, a, b, r)));
        else {
          const factor = operation === 'div' ? b : r;
          const target = operation === 'div' ? a : b;
          const product = f.let(v128.bin(l.mul, r, factor));
          f.return(any(v128.or(v128.bin(l.ne, product, target), productDiffers(f, r, factor, product))));
        }
      }
    },
  };
}

export const SSE_RUNTIME: readonly RuntimeFunction[] = [
  ...(['add', 'mul', 'div'] as const).flatMap((rule) => [
    odd(`sse_odd_${rule}_32`, F32X4, rule),
    odd(`sse_odd_${rule}_64`, F64X2, rule),
  ]),
  ...(['add', 'mul', 'div', 'sqrt'] as const).flatMap((operation) => [
    inexact(operation, F32X4),
    inexact(operation, F64X2),
  ]),
];
