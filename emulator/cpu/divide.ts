/** 128-bit division for DIV and IDIV, as a function of the runtime library. */
import type { RuntimeFunction } from './runtime.ts';
import type { FunctionBuilder, Local } from './wasm/builder.ts';
import { I64, i32, i64, k64, type Expr } from './wasm/expr.ts';

/** One digit of base 2^32: (high × 2^32 + next) / divisor, given the divisor's top digit is at least 2^31 (Knuth, 4.3.1 D). */
function digit(f: FunctionBuilder, q: Local, rest: Local, high: Expr, next: Expr, top: Expr, bottom: Expr): void {
  f.set(q, i64.div_u(high, top));
  f.set(rest, i64.sub(high, i64.mul(q.get, top)));
  f.block((done) => {
    f.loop((again) => {
      const tooBig = i32.or(
        i64.gt_u(q.get, 0xffffffff),
        i64.gt_u(i64.mul(q.get, bottom), i64.or(i64.shl(rest.get, 32), next)),
      );
      f.brIf(i32.eqz(tooBig), done);
      f.set(q, i64.sub(q.get, 1));
      f.set(rest, i64.add(rest.get, top));
      f.brIf(i64.le_u(rest.get, 0xffffffff), again);
    });
  });
}

export const DIVIDE: readonly RuntimeFunction[] = [
  {
    /** divide128(high, low, divisor) → quotient. Unsigned; `high` must be below `divisor`. */
    name: 'divide128',
    signature: { params: [I64, I64, I64], results: [I64] },
    build(f): void {
      const [high, low, divisor] = [f.param(0), f.param(1), f.param(2)];
      const half = (x: Expr): Expr => i64.and(x, 0xffffffff);
      const s = f.let(i64.clz(divisor));
      const d = f.let(i64.shl(divisor, s));
      const top = f.let(i64.shr_u(d, 32));
      const bottom = f.let(half(d));
      // A shift by 64 would be one by 0: shift by 1 and by 63 − s.
      const a = f.let(i64.or(i64.shl(high, s), i64.shr_u(i64.shr_u(low, 1), i64.sub(63, s))));
      const b = f.let(i64.shl(low, s));
      const q1 = f.temp(I64);
      const q0 = f.temp(I64);
      const rest = f.temp(I64);
      digit(f, q1, rest, a, i64.shr_u(b, 32), top, bottom);
      const c = f.let(i64.sub(i64.or(i64.shl(a, 32), i64.shr_u(b, 32)), i64.mul(q1.get, d)));
      digit(f, q0, rest, c, half(b), top, bottom);
      f.return(i64.add(i64.mul(q1.get, k64(0x1_0000_0000n)), q0.get));
    },
  },
];
