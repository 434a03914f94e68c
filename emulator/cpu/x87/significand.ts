/** Multiplication, division and square root of 64-bit significands. */
import type { FunctionBuilder } from '../wasm/builder.ts';
import { F64, I64, f64, i32, i64, k64, kf64, select, type Expr } from '../wasm/expr.ts';

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
    f.set(q, i64.div_u(high.get, dh));
    const take = f.let(i64.mul(q.get, dl));
    const from = f.let(i64.or(i64.shl(i64.sub(high.get, i64.mul(q.get, dh)), 32), next));
    f.set(high, i64.sub(from, take));
    // The digit is at most two too large. Without branches: they could not be foreseen.
    const first = f.let(i64.sub(0, i64.extend_u(i64.lt_u(from, take))));
    f.set(q, i64.add(q.get, first));
    f.set(high, i64.add(high.get, i64.and(divisor, first)));
    const second = f.let(i64.and(first, i64.sub(0, i64.extend_u(i64.ge_u(high.get, divisor)))));
    f.set(q, i64.add(q.get, second));
    f.set(high, i64.add(high.get, i64.and(divisor, second)));
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

/**
 * Square root of hi:lo, hi at least 2^62: its 64 bits, and a `lo` that says only whether the rest is 0, below or above half.
 */
export function rootSignificand(f: FunctionBuilder, hi: Expr, lo: Expr): Wide {
  const set = (x: Expr): Expr => f.let(x);
  // An f64 gives 53 bits, cut so that it stays below 2^32; the rest is the remainder by twice the root.
  const estimate = f.temp(F64);
  f.set(estimate, f64.sqrt(f64.mul(f64.convert_i64_s(i64.shr_u(hi, 11)), kf64(2 ** 11))));
  const inverse = f.temp(F64);
  f.set(inverse, f64.div(kf64(1), estimate.get));
  const first = set(i64.or(i64.shl(i64.reinterpret(estimate.get), 11), 1n << 63n));
  const high = set(i64.shr_u(first, 32));
  const low = set(i64.and(first, LOW));
  const middle = set(i64.mul(high, low));
  const middleLow = set(i64.shl(middle, 33));
  const squareLow = set(i64.add(i64.mul(low, low), middleLow));
  const squareHigh = i64.add(
    i64.add(i64.mul(high, high), i64.shr_u(middle, 31)),
    i64.extend_u(i64.lt_u(squareLow, middleLow)),
  );
  const restHigh = f.temp(I64);
  const restLow = f.temp(I64);
  f.set(restHigh, i64.sub(i64.sub(hi, squareHigh), i64.extend_u(i64.lt_u(lo, squareLow))));
  f.set(restLow, i64.sub(lo, squareLow));
  // In units of 2^33, as the estimate is in units of 2^32.
  const rest = f64.add(
    f64.mul(f64.convert_i64_s(restHigh.get), kf64(2 ** 31)),
    f64.mul(f64.convert_i64_s(i64.shr_u(restLow.get, 1)), kf64(2 ** -32)),
  );
  // The quotient rounded down: below 2^13 in magnitude, and right but for an error of far less than one. Added to a number
  // whose last place is worth one, it is in the low bits.
  const shifter = 1.5 * 2 ** 52;
  const whole = f64.add(f64.sub(f64.mul(rest, inverse.get), kf64(0.5)), kf64(shifter));
  const more = set(i64.sub(i64.reinterpret(whole), i64.reinterpret(kf64(shifter))));
  const root = f.temp(I64);
  f.set(root, i64.add(first, more));
  // rest − more × (2 × first + more)
  const t = set(i64.mul(more, low));
  const u = set(i64.add(i64.mul(more, high), i64.shr_s(t, 32)));
  const square = set(i64.mul(more, more));
  const takeLow = set(i64.add(i64.or(i64.shl(u, 33), i64.shl(i64.and(t, LOW), 1)), square));
  const takeHigh = i64.add(i64.shr_s(u, 31), i64.extend_u(i64.lt_u(takeLow, square)));
  f.set(restHigh, i64.sub(i64.sub(restHigh.get, takeHigh), i64.extend_u(i64.lt_u(restLow.get, takeLow))));
  f.set(restLow, i64.sub(restLow.get, takeLow));
  f.if(i64.lt_s(restHigh.get, 0), () => {
    // + 2 × root + 1 with the root one less
    f.set(root, i64.sub(root.get, 1));
    const add = f.let(i64.or(i64.shl(root.get, 1), 1));
    f.set(restLow, i64.add(restLow.get, add));
    f.set(restHigh, i64.add(i64.add(restHigh.get, i64.shr_u(root.get, 63)), i64.extend_u(i64.lt_u(restLow.get, add))));
  });
  const top = i64.shr_u(root.get, 63);
  const twice = i64.shl(root.get, 1);
  f.if(i32.or(i64.gt_u(restHigh.get, top), i32.and(i64.eq(restHigh.get, top), i64.gt_u(restLow.get, twice))), () => {
    const take = f.let(i64.or(twice, 1));
    f.set(restHigh, i64.sub(i64.sub(restHigh.get, top), i64.extend_u(i64.lt_u(restLow.get, take))));
    f.set(restLow, i64.sub(restLow.get, take));
    f.set(root, i64.add(root.get, 1));
  });
  const fraction = f.let(
    select(
      i64.eqz(i64.or(restHigh.get, restLow.get)),
      k64(0),
      select(i32.or(i64.ne(restHigh.get, 0), i64.gt_u(restLow.get, root.get)), k64(0xc000000000000000n), k64(1)),
    ),
  );
  return { hi: root.get, lo: fraction };
}
