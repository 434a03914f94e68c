/** Real mode, as a kernel's start uses it: entered from 16-bit protected mode. */
import { describe, expect, test } from 'vitest';
import { Mode } from '../../../emulator/cpu/layout.ts';
import { asm16, asm32, assembles } from './assembler.ts';
import { FREE, SystemMachine, watchCompiler } from './system-machine.ts';

/** Code, and stack and data, as real-mode segments. */
const HERE = 0x2000;
const THERE = 0x3000;

watchCompiler();

/** Real mode keeps the limits that it finds: those of 64 KiB that manuals ask for, or none. */
const LIMITS = ['64 KiB', 'none'] as const;

describe
  .skipIf(!assembles)
  .each((['interp', 'jit', 'light'] as const).flatMap((tier) => LIMITS.map((limits) => ({ tier, limits }))))(
  '$tier, limits: $limits',
  ({ tier, limits }) => {
    const m = new SystemMachine(tier);
    const { cpu, view } = m;
    const flat = limits === 'none';

    /** Runs code in real mode at HERE:0000 and up, to a HLT, with DS = ES = SS = THERE and SP = 0. */
    function real(text: string): void {
      m.protected(asm32(`jmp ${FREE}:0`).bytes, { rbp: 7 });
      const code = asm16(
        `mov ax, ${FREE + 8}; mov ds, ax; mov es, ax; mov ss, ax; mov fs, ax; mov gs, ax;` +
          `mov eax, cr0; and al, 0xfe; mov cr0, eax; jmp ${HERE}:%%real-%%start; %%real: lidt cs:[%%table-%%start];` +
          `mov ax, ${THERE}; mov ds, ax; mov es, ax; mov ss, ax; mov esp, 0x12340000; ${text}; hlt; %%table: .word 0x3ff, 0, 0`,
      );
      cpu.memory.write(HERE * 16, Uint8Array.from(code.bytes));
      const size = flat ? 0x008f_0000_0000_ffffn : 0xffffn;
      m.descriptor(FREE, 0x9b02_0000_0000n | size);
      m.descriptor(FREE + 8, 0x9303_0000_0000n | size);
      // INT 0x21: increments BP and returns.
      const handler = code.bytes.length + 64;
      cpu.memory.write(HERE * 16 + handler, Uint8Array.from(asm16('inc bp; iret').bytes));
      vector(0x21, HERE, handler);
      // #GP and #SS end it.
      cpu.memory.write(0x50000, Uint8Array.from(asm16('mov cx, 0x77; hlt').bytes));
      vector(13, 0x5000, 0);
      vector(12, 0x5000, 0);
      // A far procedure at 4000:0100.
      cpu.memory.write(0x40100, Uint8Array.from(asm16('mov dx, cs; retf 2').bytes));
      cpu.memory.bytes.fill(0, THERE * 16, THERE * 16 + 0x1_0000);
      expect(m.run()).toBe('halted');
      expect(cpu.mode).toBe(flat ? Mode.Kernel16 : Mode.LimitedKernel16);
    }
    const vector = (n: number, segment: number, offset: number): void => {
      view.setUint16(n * 4, offset, true);
      view.setUint16(n * 4 + 2, segment, true);
    };
    const word = (n: number): number => cpu.low(n) & 0xffff;

    test('calls, jumps and loops', () => {
      real('mov cx, 50; xor bx, bx; %%again: call %%f; loop %%again; jmp %%end; %%f: add bx, cx; ret; %%end: nop');
      expect([word(3), word(1), cpu.low(4)]).toEqual([1275, 0, 0x12340000]);
    });

    test('the stack wraps at 64 KiB', () => {
      real('mov ax, 0x55aa; push ax; mov bx, sp; pusha; popa; pop cx');
      expect([word(3), word(1), view.getUint16(THERE * 16 + 0xfffe, true)]).toEqual([0xfffe, 0x55aa, 0x55aa]);
    });

    test('interrupts through the vector table', () => {
      real('stc; int 0x21; setc al; int 0x21');
      expect([word(5), word(0) & 0xff, cpu.low(4)]).toEqual([9, 1, 0x12340000]);
    });

    test('far calls and returns', () => {
      real('push 1; call 0x4000:0x100; mov bx, cs');
      expect([word(2), word(3), cpu.low(4)]).toEqual([0x4000, HERE, 0x12340000]);
    });

    test('string instructions and addresses of 16 bits', () => {
      real('cld; mov di, 0xfffc; mov ax, 0x6161; mov cx, 4; rep stosw; mov bx, 0xfff0; mov dl, [bx+0x10]; mov si, di');
      expect([word(7), word(2) & 0xff]).toEqual([4, 0x61]);
      expect(view.getUint32(THERE * 16 + 0xfffc, true)).toBe(0x61616161);
      expect(view.getUint32(THERE * 16, true)).toBe(0x61616161);
    });

    test('32-bit registers and addresses', () => {
      real(
        'mov eax, 0x12345678; push eax; pop ebx; mov edi, 0x100; mov [edi+4], ebx; mov ecx, [edi+4]; call %%f; %%f: pop dx',
      );
      expect([cpu.low(3), cpu.low(1)]).toEqual([0x12345678, 0x12345678]);
    });

    test.each<[string, string, boolean]>([
      ['a word that ends there', 'mov bx, [0xfffe]', true],
      ['a word over it', 'mov bx, [0xffff]', false],
      ['an offset of 32 bits', 'mov edi, 0x10000; mov [edi], bl', false],
      ['a stack over it', 'mov sp, 1; push ax', false],
    ])('an offset of 64 KiB: %s', (_, text, within) => {
      real(`${text}; mov cx, 1`);
      expect(word(1)).toBe(within || flat ? 1 : 0x77);
    });
  },
);
