import { describe, expect, test } from 'vitest';
import { decode } from '../../../emulator/cpu/decoder.ts';
import { KERNEL_FORMS } from './system-forms.ts';
import { SystemMachine } from './system-machine.ts';

/** Patterns of the instructions in a piece of code. */
function patterns(code: readonly number[], bits: 64 | 32): string[] {
  const bytes = Uint8Array.from([...code, ...new Uint8Array(16)]);
  const list: string[] = [];
  for (let at = 0; at < code.length;) {
    const insn = decode(bytes, at, bytes.length, bits);
    if (typeof insn === 'string') throw new Error(`${code.join(' ')} at ${at}: ${insn}`);
    list.push(insn.def.pattern);
    at += insn.len;
  }
  return list;
}

describe.each(['interp', 'jit'] as const)('what user mode cannot see, %s', (tier) => {
  const m = new SystemMachine(tier);
  test.each(KERNEL_FORMS.map((k) => [k.forms.join(', '), k] as const))('%s', (_, k) => {
    expect(k.run(m, k.code, Uint8Array.from(k.handler ?? []))).toEqual(k.expected);
    const found = [...patterns(k.code, k.bits ?? 64), ...patterns(k.handler ?? [], 64)];
    expect(found).toEqual(expect.arrayContaining([...k.forms]));
  });
});
