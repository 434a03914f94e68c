/**
 * The runtime library: WebAssembly functions that definitions call by name (`Emit.callRuntime`), for what is too long to
 * repeat in every place that uses it and too frequent for TypeScript. They are part of the interpreter's module, and
 * compiled regions import them. Each returns exactly one value; addresses are host addresses (i32).
 */
import { SSE_RUNTIME } from './defs/sse-runtime.ts';
import { STRING_RUNTIME } from './defs/string.ts';
import { DIVIDE } from './divide.ts';
import { COUNT_RUNTIME } from './jit/counts.ts';
import { PAGES_RUNTIME } from './jit/pages.ts';
import { SETTLE_RUNTIME } from './jit/settle.ts';
import { SLOW_RUNTIME } from './slow.ts';
import type { FunctionBuilder, FunctionType } from './wasm/builder.ts';
import type { Expr } from './wasm/expr.ts';
import { X87_ARITHMETIC } from './x87/arithmetic.ts';
import { X87_COMPARE } from './x87/compare.ts';
import { X87_CONVERT } from './x87/convert.ts';
import { X87_ROUND } from './x87/round.ts';
import { X87_STACK } from './x87/stack.ts';
import { X87_VALUES } from './x87/values.ts';

export interface RuntimeFunction {
  readonly name: string;
  readonly signature: FunctionType;
  /** Writes the body. `call` gives the call of another runtime function (or of this one), or of an import, by its name. */
  build(f: FunctionBuilder, call: (name: string, ...args: Expr[]) => Expr): void;
}

export const RUNTIME: readonly RuntimeFunction[] = [
  ...DIVIDE,
  ...SSE_RUNTIME,
  ...STRING_RUNTIME,
  ...X87_ROUND,
  ...X87_ARITHMETIC,
  ...X87_CONVERT,
  ...X87_COMPARE,
  ...X87_STACK,
  ...X87_VALUES,
  ...SETTLE_RUNTIME,
  ...PAGES_RUNTIME,
  ...COUNT_RUNTIME,
  ...SLOW_RUNTIME,
];
