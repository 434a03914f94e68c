/** Virtual-8086 mode: into it, what runs there, and out of it. */
import { describe, expect, test } from 'vitest';
import { VM } from '../../../emulator/cpu/bits.ts';
import { CS, DS, FS, Mode, SS } from '../../../emulator/cpu/layout.ts';
import { asm16, asm32, assembles } from './assembler.ts';
import {
  CODE,
  FREE,
  HANDLERS,
  KCODE32,
  KDATA,
  RSP0,
  SystemMachine,
  TASK,
  TSS,
  watchCompiler,
} from './system-machine.ts';

/** Segments of the task: code, stack, data. */
const HERE = 0x2000;
const STACK = 0x3000;
const DATA = 0x4000;
const SP = 0x800;
const [IOPL0, IOPL3] = [0x202, 0x3202];

watchCompiler();

describe.skipIf(!assembles).each(['interp', 'jit', 'light'] as const)('%s', (tier) => {
  const m = new SystemMachine(tier);
  const { cpu, view } = m;

  /** The kernel goes to `text` at HERE:0 by IRETD. */
  function start(text: string, flags = IOPL3): number {
    const code = asm16(`${text}; int 0x80`);
    const frame = [0x5000, 0x6000, DATA, DATA, STACK, SP, flags | VM, HERE, 0];
    m.protected(asm32(`${frame.map((value) => `push ${value}`).join(';')}; iretd`).bytes, { rcx: 3 });
    cpu.memory.write(HERE * 16, Uint8Array.from(code.bytes));
    cpu.memory.bytes.fill(0, DATA * 16, DATA * 16 + 0x1_0000);
    m.gate32(0x80, { dpl: 3 });
    m.gate32(3, { dpl: 3 });
    view.setUint32(TSS + 4, RSP0, true);
    view.setUint32(TSS + 8, KDATA, true);
    return code.bytes.length;
  }

  /** Runs into a handler of the kernel. */
  function exception(): { vector: number; code: number; eip: number; flags: number; stack: number[] } {
    expect(m.run()).toBe('halted');
    const vector = (cpu.ripLow() - 1 - HANDLERS) / 16;
    const coded = vector === 13 || vector === 12;
    const at = cpu.low(4) + (coded ? 4 : 0);
    const stack = Array.from({ length: 9 }, (_, i) => view.getUint32(at + i * 4, true));
    expect(at + 36).toBe(RSP0);
    // DS and ES are null.
    expect([cpu.cpl, cpu.rflags & VM, cpu.mode]).toEqual([0, 0, Mode.LimitedKernel32]);
    return { vector, code: coded ? view.getUint32(cpu.low(4), true) : -1, eip: stack[0]!, flags: stack[2]!, stack };
  }

  test('in by IRETD, out by an interrupt with all segments', () => {
    const length = start(
      'mov ax, cs; mov [0], ax; mov bx, ds; call %%f; loop %%start; jmp %%end; %%f: inc dx; ret; %%end: nop',
    );
    const { vector, stack } = exception();
    expect(vector).toBe(0x80);
    expect(stack).toEqual([length, HERE, IOPL3 | VM | (stack[2]! & 0x8d5), SP, STACK, DATA, DATA, 0x6000, 0x5000]);
    expect([cpu.low(0), cpu.low(3), cpu.low(2), view.getUint16(DATA * 16, true)]).toEqual([HERE, DATA, 3, HERE]);
    expect([cpu.segments[DS]!.usable, cpu.segments[FS]!.usable, cpu.segments[SS]!.selector]).toEqual([
      false,
      false,
      KDATA,
    ]);
  });

  test('segments are loaded as in real mode', () => {
    start('mov ax, 0x4100; mov ds, ax; mov byte ptr [0x10], 7; push ss; pop es; mov bl, es:[0]');
    expect(exception()).toMatchObject({ vector: 0x80 });
    expect(view.getUint8(0x41010)).toBe(7);
  });

  test.each<[string, boolean]>([
    ['pushf', false],
    ['popf', false],
    ['cli', false],
    ['sti', false],
    ['int 0x21', false],
    ['iret', false],
    ['hlt', false],
    ['mov eax, cr0', false],
    ['int3', true],
    ['push ax', true],
  ])('with IOPL 0: %s', (text, allowed) => {
    start(`nop; ${text}`, IOPL0);
    if (text === 'int3') return expect(exception()).toMatchObject({ vector: 3, eip: 2 });
    expect(exception()).toMatchObject(allowed ? { vector: 13, eip: 2 } : { vector: 13, code: 0, eip: 1 });
  });

  test('with IOPL 3 the interrupt flag is its own, IOPL and VM are not', () => {
    start('cli; pushf; pop ax; or ax, 0x200; and ax, 0xcfff; push ax; popf; pushf; pop bx');
    expect(exception()).toMatchObject({ vector: 0x80 });
    expect([cpu.low(0) & 0x3200, cpu.low(3) & 0x3200]).toEqual([0x200, 0x3200]);
  });

  test('IRET within it', () => {
    start('pushf; push 0x2000; push offset %%there-%%start; iret; hlt; %%there: mov cx, 0x77');
    expect(exception()).toMatchObject({ vector: 0x80 });
    expect([cpu.low(1), cpu.segments[CS]!.selector]).toEqual([0x77, KCODE32]);
  });

  test('the kernel returns to it', () => {
    start('mov ecx, 40; %%again: int3; loop %%again');
    cpu.memory.write(HANDLERS + 0x30, Uint8Array.from(asm32('inc edx; iretd').bytes));
    expect(exception()).toMatchObject({ vector: 0x80 });
    expect([cpu.low(1), cpu.low(2)]).toEqual([0, 40]);
  });

  test.each<[string, string, number]>([
    ['the last byte', 'mov al, [0xffff]', 0x80],
    ['a word over the end', 'mov ax, [0xffff]', 13],
    ['an address of 32 bits', 'mov eax, 0x10000; mov bl, [eax]', 13],
    ['an instruction that needs descriptors', 'str ax', 6],
  ])('%s', (_, text, vector) => {
    start(text);
    expect(m.run()).toBe('halted');
    expect((cpu.ripLow() - 1 - HANDLERS) / 16).toBe(vector);
  });

  test.each([
    ['allows', 0x00, 0x80],
    ['denies', 0xff, 13],
  ])('ports are the permission bitmap’s, whatever IOPL: it %s', (_, bits, vector) => {
    start('in al, 0x60');
    view.setUint16(TSS + 0x66, 0x68, true);
    cpu.memory.bytes.fill(bits, TSS + 0x68, TSS + 0x90);
    cpu.tr.limit = 0x8f;
    expect(exception()).toMatchObject({ vector });
  });

  test('a task switch into it', () => {
    start('nop');
    const other = TSS + 0x400;
    m.descriptor(FREE, 0x0000_8900_0000_0067n | (BigInt(other) << 16n));
    cpu.memory.write(CODE, Uint8Array.from(asm32(`jmp ${FREE}:0`).bytes));
    for (const [at, value] of [
      [4, RSP0],
      [8, KDATA],
      [0x24, IOPL3 | VM],
      [0x38, SP],
      [0x48, DATA],
      [0x4c, HERE],
      [0x50, STACK],
      [0x54, DATA],
    ] as const)
      view.setUint32(other + at, value, true);
    const { stack, ...what } = exception();
    expect([what.vector, ...stack.slice(3)]).toEqual([0x80, SP, STACK, DATA, DATA, 0, 0]);
    expect([cpu.tr.selector, view.getUint8(0x8000 + TASK + 5) & 2]).toEqual([FREE, 0]);
  });
});
