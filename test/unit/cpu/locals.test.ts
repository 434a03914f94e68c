/** Temporary locals: what is only set to be got at once is not kept. */
import { expect, test } from 'vitest';
import { FunctionBuilder, type FunctionType, ModuleBuilder } from '../../../emulator/cpu/wasm/builder.ts';
import { I32, i32, k32 } from '../../../emulator/cpu/wasm/expr.ts';

const SIGNATURE: FunctionType = { params: [I32], results: [I32] };

/** The code of a function, in hexadecimal, and what it gives for 5. */
function compiled(f: FunctionBuilder): { code: string; result: number } {
  const code = Buffer.from(f.w.view()).toString('hex');
  const m = new ModuleBuilder();
  m.add(f, 'f');
  const imports = {
    memory: new WebAssembly.Memory({ initial: 1 }),
    table: new WebAssembly.Table({ element: 'anyfunc', initial: 1 }),
  };
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(m.encode()), { m: imports });
  return { code, result: (exports.f as (x: number) => number)(5) };
}

test('a temporary that is got once, at once, is not set', () => {
  const f = new FunctionBuilder(SIGNATURE);
  const result = f.local(I32);
  const mark = f.mark();
  f.set(result, i32.mul(f.let(i32.add(f.param(0), 1)), 7));
  f.release(mark);
  f.return(result.get);
  // local.get 0; i32.const 1; i32.add; nop; nop; i32.const 7; i32.mul; local.tee 1; return
  expect(compiled(f)).toEqual({
    code: '2000' + '4101' + '6a' + '0101' + '4107' + '6c' + '2201' + '0f',
    result: 42,
  });
});

test('one that is got again is', () => {
  const f = new FunctionBuilder(SIGNATURE);
  const result = f.local(I32);
  const mark = f.mark();
  const x = f.let(i32.add(f.param(0), 1));
  f.set(result, i32.mul(x, x));
  f.release(mark);
  f.return(result.get);
  expect(compiled(f)).toEqual({
    code: '2000' + '4101' + '6a' + '2202' + '2002' + '6c' + '2201' + '0f',
    result: 36,
  });
});

test('one that is never got is dropped, and its local is free for another value', () => {
  const f = new FunctionBuilder(SIGNATURE);
  // Locals from 128 on are written with one byte more.
  for (let k = 0; k < 127; k++) f.local(I32);
  const mark = f.mark();
  f.let(i32.add(f.param(0), 1));
  f.release(mark);
  const x = f.let(i32.add(f.param(0), 2));
  f.return(i32.add(x, x));
  expect(compiled(f)).toEqual({
    code: '2000' + '4101' + '6a' + '1a0101' + '2000' + '4102' + '6a' + '228001' + '208001' + '6a' + '0f',
    result: 14,
  });
});

test('one that is set under a condition as well keeps both values', () => {
  const f = new FunctionBuilder(SIGNATURE);
  const mark = f.mark();
  const x = f.temp(I32);
  f.set(x, k32(1));
  f.if(f.param(0), () => f.set(x, k32(2)));
  f.return(x.get);
  f.release(mark);
  expect(compiled(f).result).toBe(2);
});

test('reading a temporary after it was given back is a defect', () => {
  const f = new FunctionBuilder(SIGNATURE);
  const mark = f.mark();
  const x = f.let(i32.add(f.param(0), 1));
  f.release(mark);
  expect(() => f.return(x)).toThrow('given back');
});
