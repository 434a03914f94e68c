/** Between a memory access in emitted code that misses the TLB and its slow path in TypeScript, which has no 64-bit numbers. */
import type { RuntimeFunction } from './runtime.ts';
import { I32, i32, I64, i64 } from './wasm/expr.ts';

/** slowAccess, slowStore (address, info, record): as the imports `access` and `store` of emit.ts. */
export const SLOW_RUNTIME: readonly RuntimeFunction[] = (['access', 'store'] as const).map((name) => ({
  name: name === 'access' ? 'slowAccess' : 'slowStore',
  signature: { params: [I64, I32, I32], results: [I32] },
  build(f, call): void {
    const address = f.param(0);
    f.return(call(name, i32.wrap(address), i32.wrap(i64.shr_u(address, 32)), f.param(1), f.param(2)));
  },
}));
