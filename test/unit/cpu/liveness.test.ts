import { expect, test } from 'vitest';
import type { Block } from '../../../emulator/cpu/block.ts';
import { ARITH, CF } from '../../../emulator/cpu/insn.ts';
import { flagLiveness } from '../../../emulator/cpu/jit/liveness.ts';
import { Mode } from '../../../emulator/cpu/layout.ts';
import { CODE, CodeMachine } from './machine-code.ts';

/** `cmp eax, ebx; jz` to 0x40, and at 0x04 the code that it goes on to. */
const HEAD = [0x39, 0xd8, 0x74, 0x3c];

/** Liveness of the head alone, left for `next` and for `taken`, of which what is not given was never decoded. */
function leaving(next: readonly number[] | undefined, taken: readonly number[] | undefined): number {
  const { cpu, bytes } = new CodeMachine();
  bytes.set(HEAD, CODE);
  const place = (offset: number, code: readonly number[] | undefined): void => {
    if (!code) return;
    bytes.set(code, CODE + offset);
    cpu.code.block(CODE + offset, Mode.Kernel64);
  };
  place(0x04, next);
  place(0x40, taken);
  const head: Block = cpu.code.block(CODE, Mode.Kernel64);
  const live = flagLiveness([head], () => undefined);
  expect(live.after.get(head)).toBe(live.outside(head, 0x04) | live.outside(head, 0x40));
  return live.after.get(head)!;
}

const ADD = [0x01, 0xd8, 0xf4];
const INC = [0xff, 0xc0, 0xf4];
const HLT = [0xf4];

test('flags that the code where a region is left overwrites are dead there', () => {
  expect(leaving(ADD, ADD)).toBe(0);
  expect(leaving(ADD, INC)).toBe(CF);
  expect(leaving(HLT, ADD)).toBe(ARITH);
  expect(leaving(undefined, ADD)).toBe(ARITH);
  expect(leaving(ADD, undefined)).toBe(ARITH);
});

test('and all are live in another page', () => {
  const { cpu, bytes } = new CodeMachine();
  // jmp to the next page, which begins with an ADD
  bytes.set([0xe9, 0xfb, 0x0f, 0x00, 0x00], CODE);
  bytes.set(ADD, CODE + 0x1000);
  cpu.code.block(CODE + 0x1000, Mode.Kernel64);
  const head = cpu.code.block(CODE, Mode.Kernel64);
  expect(flagLiveness([head], () => undefined).after.get(head)).toBe(ARITH);
});
