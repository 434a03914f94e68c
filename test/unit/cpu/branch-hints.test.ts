/** The section of branch hints: each one has to stand for a branch, or hosts that look at them refuse or ignore all. */
import { expect, test } from 'vitest';
import { FunctionBuilder, ModuleBuilder } from '../../../emulator/cpu/wasm/builder.ts';
import { callExpr, I32, I64, i32, k32 } from '../../../emulator/cpu/wasm/expr.ts';

/** Reads unsigned LEB128 numbers and bytes one after another. */
function reader(bytes: Uint8Array): { u32(): number; skip(n: number): number } {
  let at = 0;
  return {
    u32() {
      for (let value = 0, shift = 0; ; shift += 7) {
        const byte = bytes[at++]!;
        value |= (byte & 0x7f) << shift;
        if (byte < 0x80) return value;
      }
    },
    /** @returns where it was */
    skip(n) {
      at += n;
      return at - n;
    },
  };
}

/** The bodies of a module's functions. */
function bodies(module: Uint8Array): Uint8Array[] {
  const r = reader(module);
  r.skip(8);
  for (;;) {
    const id = module[r.skip(1)];
    const length = r.u32();
    if (id !== 10) r.skip(length);
    else
      return Array.from({ length: r.u32() }, () => {
        const size = r.u32();
        const start = r.skip(size);
        return module.subarray(start, start + size);
      });
  }
}

test('hints stand for the branches that were given odds, by function and position', () => {
  const m = new ModuleBuilder();
  const slow = m.import('slow', { params: [I32], results: [I32] });
  const plain = new FunctionBuilder({ params: [I32], results: [I32] });
  plain.return(plain.param(0));
  m.add(plain);
  const f = new FunctionBuilder({ params: [I32], results: [I32] });
  f.local(I64);
  const x = f.local(I32);
  f.if(f.param(0), () => f.set(x, callExpr(I32, slow, [k32(1)])), undefined, 0);
  f.block((label) => {
    f.brIf(i32.eq(f.param(0), k32(200)), label);
    f.brIf(i32.ne(f.param(0), k32(300)), label, 1);
    f.set(x, k32(4));
  });
  f.return(x.get);
  m.add(f);
  const bytes = m.encode();
  const sections = WebAssembly.Module.customSections(new WebAssembly.Module(bytes), 'metadata.code.branch_hint');
  expect(sections).toHaveLength(1);
  const hints = reader(new Uint8Array(sections[0]!));
  expect(hints.u32(), 'functions with hints').toBe(1);
  // After the import and the plain function.
  expect(hints.u32(), 'index').toBe(2);
  expect(hints.u32(), 'hints').toBe(2);
  const body = bodies(bytes)[1]!;
  const found = Array.from({ length: 2 }, () => {
    const opcode = body[hints.u32()];
    expect(hints.u32(), 'size').toBe(1);
    return [opcode, hints.u32()];
  });
  expect(found).toEqual([
    [0x04, 0],
    [0x0d, 1],
  ]);
});

test('a module without odds has no such section', () => {
  const m = new ModuleBuilder();
  const f = new FunctionBuilder({ params: [I32], results: [] });
  f.if(f.param(0), () => f.return());
  m.add(f);
  expect(WebAssembly.Module.customSections(new WebAssembly.Module(m.encode()), 'metadata.code.branch_hint')).toEqual(
    [],
  );
});
