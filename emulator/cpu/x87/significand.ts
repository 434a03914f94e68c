/** Multiplication and division of 64-bit significands. */
import type { FunctionBuilder } from '../wasm/builder.ts';
import { I64, i32, i64, k64, select, type Expr } from '../wasm/expr.ts';

/** A 128-bit significand in two i64 locals. */
export interface Wide {
  hi: Expr;
  lo: Expr;
}

const LOW = 0xffffffffn;

/** High half of a 64 × 64 bit product. */
export function multiplyHigh(f: FunctionBuilder, a: Expr, b: Expr): Expr {
  const al = f.let(i64.and(a, LOW));
  const ah = f.let(i64.shr_u(a, 32));
  const bl = f.let(i64.and(b, LOW));
  const bh = f.let(i64.shr_u(b, 32));
  const middle = f.let(i64.add(i64.mul(al, bh), i64.shr_u(i64.mul(al, bl), 32)));
  const other = f.let(i64.add(i64.mul(ah, bl), i64.and(middle, LOW)));
  return f.let(i64.add(i64.mul(ah, bh), i64.add(i64.shr_u(middle, 32), i64.shr_u(other, 32))));
}

/**
 * Quotient of two significands with their integer bits set, normalised, and exact for rounding: `lo` says only whether the rest is 0,
 * below or above half. `longer` (0 or 1) adds to the exponent eA − eB + BIAS − 1.
 */
export function divideSignificands(f: FunctionBuilder, a: Expr, divisor: Expr): { quotient: Wide; longer: Expr } {
  const high = f.temp(I64);
  const low = f.temp(I64);
  const longer = f.let(i64.ge_u(a, divisor));
  const wide = f.let(i64.extend_u(longer));
  f.set(high, i64.shr_u(a, wide));
  f.set(low, i64.shl(i64.and(a, wide), 63));
  // high:low ÷ divisor by two digits of 32 bits (Knuth, The Art of Computer Programming, 4.3.1, algorithm D).
  const dh = f.let(i64.shr_u(divisor, 32));
  const dl = f.let(i64.and(divisor, LOW));
  const digit = (next: Expr): Expr => {
    const q = f.temp(I64);
    const r = f.temp(I64);
    f.set(q, i64.div_u(high.get, dh));
    f.set(r, i64.sub(high.get, i64.mul(q.get, dh)));
    f.block((leave) =>
      f.loop((again) => {
        f.brIf(
          i32.eqz(i32.or(i64.gt_u(q.get, LOW), i64.gt_u(i64.mul(q.get, dl), i64.or(i64.shl(r.get, 32), next)))),
          leave,
        );
        f.set(q, i64.sub(q.get, 1));
        f.set(r, i64.add(r.get, dh));
        f.brIf(i64.le_u(r.get, LOW), again);
      }),
    );
    f.set(high, i64.sub(i64.or(i64.shl(high.get, 32), next), i64.mul(q.get, divisor)));
    return q.get;
  };
  const q1 = digit(f.let(i64.shr_u(low.get, 32)));
  const q0 = digit(f.let(i64.and(low.get, LOW)));
  // The remainder against half the divisor is all that rounding wants to know.
  const lo = f.let(
    select(
      i64.eqz(high.get),
      k64(0),
      select(i32.or(i64.lt_s(high.get, 0), i64.gt_u(i64.shl(high.get, 1), divisor)), k64(0xc000000000000000n), k64(1)),
    ),
  );
  return { quotient: { hi: f.let(i64.or(i64.shl(q1, 32), q0)), lo }, longer };
}
