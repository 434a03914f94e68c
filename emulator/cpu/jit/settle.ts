/** The runtime function that turns a region's pending flag result into the canonical pair when an instruction faults. */
import { S, STATE_BASE } from '../layout.ts';
import { comparison, comparisonPair } from '../emit.ts';
import type { RuntimeFunction } from '../runtime.ts';
import type { FunctionBuilder } from '../wasm/builder.ts';
import { f64, I32, i32, I64, i64, k32, k64, select, type Expr } from '../wasm/expr.ts';

/** The kind of a comparison of doubles, whose bits are the operands. */
const COMPARED = 1 + 3 * 4 + 3;

/** settle(kind, a32, b32, a64, b64): stores FR and FX; `kind` is that of `flagKind`. */
export const SETTLE_RUNTIME: readonly RuntimeFunction[] = [
  {
    name: 'settle',
    signature: { params: [I32, I32, I32, I64, I64], results: [I32] },
    build(f: FunctionBuilder): void {
      f.if(i32.eq(f.param(0), COMPARED), () => {
        const [x, y] = [f.param(3), f.param(4)].map((bits) => f.let(f64.reinterpret(bits))) as [Expr, Expr];
        const { zf, pf, cf } = comparison(x, y);
        const { fr, fx } = comparisonPair(f.let(zf), pf, cf);
        f.store(8, STATE_BASE + S.FR, fr);
        f.store(4, STATE_BASE + S.FX, fx);
        f.return(k32(0));
      });
      const kind = f.let(i32.shr_u(i32.sub(f.param(0), 1), 2));
      const log = f.let(i32.and(i32.sub(f.param(0), 1), 3));
      const wide = i32.eq(log, 3);
      // Everything is brought to the top of 64 bits, where carries look the same for all sizes.
      const shift = f.let(i64.sub(k64(64), i64.shl(k64(8), i64.extend_u(log))));
      const top = (narrow: Expr, full: Expr): Expr => f.let(select(wide, full, i64.shl(i64.extend_u(narrow), shift)));
      const a = top(f.param(1), f.param(3));
      const b = top(f.param(2), f.param(4));
      const sum = select(i32.eqz(kind), i64.add(a, b), i64.sub(a, b));
      const r = f.let(select(i32.eq(kind, 2), a, sum));
      const not = (x: Expr): Expr => i64.xor(x, k64(-1));
      const carries = f.temp(I64);
      f.if(
        i32.eqz(kind),
        () => f.set(carries, i64.or(i64.and(a, b), i64.and(i64.or(a, b), not(r)))),
        () =>
          f.if(
            i32.eq(kind, 1),
            () => f.set(carries, i64.or(i64.and(not(a), b), i64.and(i64.or(not(a), b), r))),
            () => f.set(carries, k64(0)),
          ),
      );
      f.store(8, STATE_BASE + S.FR, i64.shr_s(r, shift));
      f.store(
        4,
        STATE_BASE + S.FX,
        i32.or(
          i32.and(i32.wrap(i64.shr_u(carries.get, k64(32))), k32(0xc0000000)),
          i32.and(i32.wrap(i64.shr_u(carries.get, shift)), k32(8)),
        ),
      );
      f.return(k32(0));
    },
  },
];
