/** The runtime function of a region whose rounds, or ways out, have come to a number. */
import { S, STATE_BASE } from '../layout.ts';
import type { RuntimeFunction } from '../runtime.ts';
import type { FunctionBuilder } from '../wasm/builder.ts';
import { I32, I64, i64, k32 } from '../wasm/expr.ts';

/** counted(at, from, first, record): the count at `at` begins anew; the region, whose `first` page is there, is asked for. */
export const COUNT_RUNTIME: readonly RuntimeFunction[] = [
  {
    name: 'counted',
    signature: { params: [I32, I32, I64, I32], results: [I32] },
    build(f: FunctionBuilder, call): void {
      f.store(4, f.param(0), f.param(1));
      // Where its first block lies shows where the others are.
      const vpc = f.let(i64.load(k32(STATE_BASE + S.VPC)));
      f.store(8, STATE_BASE + S.VPC, f.param(2));
      f.drop(call('hot', f.param(3)));
      f.store(8, STATE_BASE + S.VPC, vpc);
      f.return(k32(0));
    },
  },
];
