/**
 * Runtime functions that look closer at operands and result when the quick test of an SSE operation failed: most often
 * there was just a zero. Each returns 1 where the exact path is needed.
 */
import type { RuntimeFunction } from '../runtime.ts';
import { ANY_TRUE, F32X4, F64X2, type FloatLanes } from '../wasm/simd.ts';
import { I32, V128, kf32, kf64, v128, type Expr } from '../wasm/expr.ts';

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

type Rule = 'add' | 'mul' | 'div' | 'compare';

function odd(name: string, l: FloatLanes, rule: Rule): RuntimeFunction {
  return {
    name,
    signature: { params: [V128, V128, V128], results: [I32] },
    build(f) {
      const a = f.param(0);
      const b = f.param(1);
      const r = f.param(2);
      let bad = v128.or(denormal(l, a), denormal(l, b));
      if (rule === 'compare') bad = v128.or(bad, v128.or(v128.bin(l.ne, a, a), v128.bin(l.ne, b, b)));
      else {
        bad = v128.or(bad, denormal(l, r));
        bad = v128.or(bad, v128.not(v128.bin(l.lt, v128.un(l.abs, r), infinity(l))));
        // A zero from operands that are not: underflow.
        if (rule === 'div') bad = v128.or(bad, v128.and(isZero(l, r), isNotZero(l, a)));
        if (rule === 'mul') bad = v128.or(bad, v128.and(isZero(l, r), v128.and(isNotZero(l, a), isNotZero(l, b))));
      }
      f.return(v128.test(ANY_TRUE, bad));
    },
  };
}

export const SSE_RUNTIME: readonly RuntimeFunction[] = (['add', 'mul', 'div', 'compare'] as const).flatMap((rule) => [
  odd(`sse_odd_${rule}_32`, F32X4, rule),
  odd(`sse_odd_${rule}_64`, F64X2, rule),
]);
