/** Hardware task switches in 32-bit protected mode. */
import { describe, expect, test } from 'vitest';
import { CR0_TS, NT } from '../../../emulator/cpu/bits.ts';
import { SS } from '../../../emulator/cpu/layout.ts';
import { asm32, assembles, type Code } from './assembler.ts';
import {
  CODE,
  DATA,
  FREE,
  GDT,
  HANDLERS,
  IDT,
  IST1,
  KCODE32,
  KDATA,
  SystemMachine,
  TASK,
  TSS,
  UCODE32,
  UDATA,
  USER_STACK,
  watchCompiler,
} from './system-machine.ts';

const OTHER = FREE;
const GATE = FREE + 8;
const OTHER_TSS = TSS + 0x400;
/** The second half of a 64-bit TSS's descriptor: free here. */
const LAST = TASK + 8;
const LAST_TSS = TSS + 0x800;
const THERE = CODE + 0x400;
const BUSY = 2;
/** Offsets in a TSS. */
const T = {
  LINK: 0,
  EIP: 0x20,
  EFLAGS: 0x24,
  EAX: 0x28,
  ESP: 0x38,
  ES: 0x48,
  CS: 0x4c,
  SS: 0x50,
  DS: 0x54,
  LDT: 0x60,
  T: 0x64,
};

watchCompiler();

describe.skipIf(!assembles).each(['interp', 'jit', 'light'] as const)('%s', (tier) => {
  const m = new SystemMachine(tier);
  const { cpu, view } = m;
  const word = (at: number, value: number): void => view.setUint32(at, value, true);
  const tss = (base: number, type: number, limit = 0x67): bigint =>
    BigInt(limit) | (BigInt(base) << 16n) | (BigInt(type) << 40n);
  const isBusy = (selector: number): boolean => (view.getUint8(GDT + selector + 5) & BUSY) !== 0;
  const idt = (vector: number, low: number, high: number): void => {
    word(IDT + vector * 8, low);
    word(IDT + vector * 8 + 4, high);
  };

  /** 32-bit kernel code at CODE in the task of TSS, and another task that begins at THERE. */
  function start(code: Code, there: Code): void {
    m.protected(code.bytes, { rsi: DATA });
    cpu.memory.write(THERE, Uint8Array.from([...there.bytes, 0xf4]));
    m.descriptor(OTHER, tss(OTHER_TSS, 0x89));
    m.descriptor(GATE, (0xe5n << 40n) | (BigInt(OTHER) << 16n));
    cpu.memory.bytes.fill(0, OTHER_TSS, OTHER_TSS + 0x68);
    word(OTHER_TSS + T.EIP, THERE);
    word(OTHER_TSS + T.EFLAGS, 0x2);
    for (let n = 0; n < 8; n++) word(OTHER_TSS + T.EAX + n * 4, 0x100 + n);
    word(OTHER_TSS + T.ESP, IST1);
    word(OTHER_TSS + T.CS, KCODE32);
    for (const at of [T.ES, T.SS, T.DS]) word(OTHER_TSS + at, KDATA);
    word(DATA, 0);
  }

  /** The exception that stopped it, with what its 32-bit handler has on the stack. */
  function exception(): { vector: number; stack: number[] } {
    expect(m.run()).toBe('halted');
    const esp = cpu.low(4);
    return {
      vector: (cpu.ripLow() - 1 - HANDLERS) / 16,
      stack: [0, 4, 8, 12].map((at) => view.getUint32(esp + at, true)),
    };
  }

  const halt = asm32('hlt');

  test.each([
    ['a TSS', OTHER],
    ['a task gate', GATE],
  ])('JMP to %s', (_, selector) => {
    const code = asm32(`mov ebx, 5; stc; jmp ${selector}:0x1234`);
    start(code, halt);
    expect(m.run()).toBe('halted');
    expect(cpu.ripLow()).toBe(THERE + 1);
    expect([0, 1, 2, 3, 5, 6, 7].map((n) => cpu.low(n))).toEqual([0x100, 0x101, 0x102, 0x103, 0x105, 0x106, 0x107]);
    expect([cpu.low(4), cpu.rflags & NT, cpu.cr0 & CR0_TS]).toEqual([IST1, 0, CR0_TS]);
    expect([cpu.tr.selector, isBusy(TASK), isBusy(OTHER)]).toEqual([OTHER, false, true]);
    // What the old task goes on with.
    expect(view.getUint32(TSS + T.EIP, true)).toBe(CODE + code.bytes.length);
    expect(view.getUint32(TSS + T.EFLAGS, true) & 1).toBe(1);
    expect(view.getUint32(TSS + T.EAX + 12, true)).toBe(5);
    expect([T.CS, T.SS, T.DS].map((at) => view.getUint16(TSS + at, true))).toEqual([KCODE32, KDATA, KDATA]);
    expect(view.getUint16(OTHER_TSS + T.LINK, true)).toBe(0);
  });

  test.each([
    ['a TSS', `call ${OTHER}:0`],
    ['a task gate', `call ${GATE}:0`],
    ['INT through a task gate', 'int 0x90'],
  ])('CALL and IRET, again and again: %s', (_, text) => {
    start(
      asm32(`mov ecx, 100; %%again: ${text}; add ebx, 3; dec ecx; jne %%again`),
      asm32(`%%again: inc dword ptr [${DATA}]; iretd; jmp %%again`),
    );
    idt(0x90, OTHER << 16, 0x8500);
    expect(m.run()).toBe('halted');
    expect([cpu.low(1), cpu.low(3), view.getUint32(DATA, true)]).toEqual([0, 300, 100]);
    expect([cpu.tr.selector, isBusy(TASK), isBusy(OTHER), cpu.rflags & NT]).toEqual([TASK, true, false, 0]);
    expect([view.getUint16(OTHER_TSS + T.LINK, true), view.getUint32(OTHER_TSS + T.EFLAGS, true) & NT]).toEqual([
      TASK,
      0,
    ]);
  });

  test('an exception through a task gate leaves its error code on the new stack', () => {
    start(asm32('mov eax, 0x1000; mov ds, eax'), asm32('pop eax; mov ebx, esp'));
    idt(13, OTHER << 16, 0x8500);
    expect(m.run()).toBe('halted');
    expect([cpu.low(0), cpu.low(3), cpu.rflags & NT]).toEqual([0x1000, IST1, NT]);
    expect(view.getUint32(TSS + T.EIP, true)).toBe(CODE + 5);
    expect(view.getUint16(OTHER_TSS + T.LINK, true)).toBe(TASK);
  });

  test('an interrupt through a task gate, and back', () => {
    start(
      asm32('sti; nop; %%wait: cmp dword ptr [esi], 1; jne %%wait; cli'),
      asm32('mov dword ptr [0x500000], 1; iretd'),
    );
    idt(0x40, OTHER << 16, 0x8500);
    m.pending = 0x40;
    cpu.interruptChanged();
    expect(m.run()).toBe('halted');
    expect(cpu.tr.selector).toBe(TASK);
    expect(DATA).toBe(0x500000);
  });

  test('to a task of users, and back by an interrupt to the stack in its TSS', () => {
    start(asm32(`jmp ${OTHER}:0`), asm32('mov eax, 7; int 0x90'));
    m.gate32(0x90, { dpl: 3 });
    word(OTHER_TSS + T.CS, UCODE32);
    for (const at of [T.ES, T.SS, T.DS]) word(OTHER_TSS + at, UDATA);
    word(OTHER_TSS + T.ESP, USER_STACK);
    word(OTHER_TSS + 4, IST1);
    word(OTHER_TSS + 8, KDATA);
    expect(exception()).toEqual({ vector: 0x90, stack: [THERE + 7, UCODE32, 2, USER_STACK] });
    expect([cpu.low(0), cpu.segments[SS]!.selector, cpu.cpl]).toEqual([7, KDATA, 0]);
  });

  test.each<[string, string, () => void, number, number]>([
    ['a busy TSS', `jmp ${OTHER}:0`, () => m.descriptor(OTHER, tss(OTHER_TSS, 0x8b)), 13, OTHER],
    ['one not present', `jmp ${OTHER}:0`, () => m.descriptor(OTHER, tss(OTHER_TSS, 0x09)), 11, OTHER],
    ['one too short', `jmp ${OTHER}:0`, () => m.descriptor(OTHER, tss(OTHER_TSS, 0x89, 0x66)), 10, OTHER],
    ['one that only the kernel may name so', `jmp ${OTHER | 3}:0`, () => undefined, 13, OTHER],
    ['a task gate not present', `call ${GATE}:0`, () => m.descriptor(GATE, 0x65n << 40n), 11, GATE],
    [
      'a task gate to no TSS',
      `call ${GATE}:0`,
      () => m.descriptor(GATE, (0xe5n << 40n) | (BigInt(KDATA) << 16n)),
      13,
      KDATA,
    ],
    [
      'IRET to a task that is not busy',
      'pushfd; or dword ptr [esp], 0x4000; popfd; iretd',
      () => word(TSS, OTHER),
      10,
      OTHER,
    ],
  ])('%s is the old task’s exception', (_, text, spoil, vector, code) => {
    start(asm32(text), halt);
    spoil();
    const before = isBusy(OTHER);
    const { stack, ...what } = exception();
    expect({ ...what, code: stack[0] }).toEqual({ vector, code });
    expect(stack[1]).toBeLessThan(CODE + 16);
    expect([cpu.tr.selector, isBusy(TASK), isBusy(OTHER)]).toEqual([TASK, true, before]);
  });

  test.each<[string, () => void, number, number]>([
    ['CS null', () => word(OTHER_TSS + T.CS, 0), 10, 0],
    ['CS is data', () => word(OTHER_TSS + T.CS, KDATA), 10, KDATA],
    ['SS of another level', () => word(OTHER_TSS + T.SS, UDATA), 10, UDATA & ~3],
    ['DS past the GDT', () => word(OTHER_TSS + T.DS, 0x1000), 10, 0x1000],
    ['an LDT that is none', () => word(OTHER_TSS + T.LDT, KDATA), 10, KDATA],
    ['EIP past the limit', () => m.descriptor(KCODE32, 0x00409b00_0000ffffn), 13, 0],
  ])('%s is the new task’s exception', (_, spoil, vector, code) => {
    start(asm32(`jmp ${OTHER}:0`), halt);
    spoil();
    // A task of its own has it: the new one may have no stack.
    m.descriptor(LAST, tss(LAST_TSS, 0x89));
    cpu.memory.bytes.copyWithin(LAST_TSS, OTHER_TSS, OTHER_TSS + 0x68);
    word(LAST_TSS + T.EIP, HANDLERS);
    [T.ES, T.SS, T.DS].forEach((at) => word(LAST_TSS + at, KDATA));
    word(LAST_TSS + T.CS, KCODE32);
    word(LAST_TSS + T.LDT, 0);
    idt(vector, LAST << 16, 0x8500);
    expect(m.run()).toBe('halted');
    expect([cpu.ripLow(), cpu.tr.selector]).toEqual([HANDLERS + 1, LAST]);
    expect(view.getUint32(cpu.low(4), true)).toBe(code);
    expect(view.getUint32(OTHER_TSS + T.EIP, true)).toBe(THERE);
    expect([TASK, OTHER, LAST].map(isBusy)).toEqual([false, true, true]);
  });

  test('the trap flag of a TSS', () => {
    start(asm32(`jmp ${OTHER}:0`), halt);
    word(OTHER_TSS + T.T, 1);
    const { vector, stack } = exception();
    expect([vector, ...stack.slice(0, 2)]).toEqual([1, THERE, KCODE32]);
    expect(Number(cpu.dr[6]) & 0xf000).toBe(0x8000);
  });

  test('a TSS of 16 bits', () => {
    start(asm32(`call ${OTHER}:0; mov ebx, 9`), halt);
    // Code that 16 bits can address, at CODE.
    m.descriptor(OTHER, tss(OTHER_TSS, 0x81, 0x2b));
    m.descriptor(GATE, 0x00409b00_0000ffffn | (BigInt(CODE) << 16n));
    cpu.memory.bytes.fill(0, OTHER_TSS, OTHER_TSS + 0x2c);
    view.setUint16(OTHER_TSS + 0x0e, 0x400, true);
    view.setUint16(OTHER_TSS + 0x10, 2, true);
    [1, 2, 3, 4, 0x500, 6, 7, 8].forEach((value, n) => view.setUint16(OTHER_TSS + 0x12 + n * 2, value, true));
    [KDATA, GATE, KDATA, KDATA].forEach((value, n) => view.setUint16(OTHER_TSS + 0x22 + n * 2, value, true));
    cpu.memory.write(THERE, Uint8Array.from(asm32('lea edx, [eax+ebx]; iretd').bytes));
    expect(m.run()).toBe('halted');
    expect([cpu.low(3), cpu.tr.selector]).toEqual([9, TASK]);
    expect(view.getUint16(OTHER_TSS + 0x16, true)).toBe(5);
  });
});
