/** Segments that are not flat: limits, expand-down, rights, null, in 32-bit and 16-bit code. */
import { describe, expect, test } from 'vitest';
import { CR0_NE } from '../../../emulator/cpu/bits.ts';
import { CS, DS, FS, Mode } from '../../../emulator/cpu/layout.ts';
import { asm, asm16, asm32, assembles, type Code } from './assembler.ts';
import { CODE, DATA, FREE, GDT, SystemMachine, UCODE32, UDATA, watchCompiler } from './system-machine.ts';

watchCompiler();

/** A user's data segment at DATA. @param type 2: read and write, 0: read only, 6: expand-down */
const data = (limit: number, type = 2, flags = 0x40): bigint =>
  BigInt(limit & 0xffff) |
  (BigInt(DATA & 0xffffff) << 16n) |
  (BigInt(0xf1 | type) << 40n) |
  (BigInt(flags | (limit >> 16)) << 48n) |
  (BigInt(DATA >>> 24) << 56n);

describe.skipIf(!assembles).each(['interp', 'jit'] as const)('%s', (tier) => {
  const m = new SystemMachine(tier);
  const { cpu } = m;
  const load = `mov ax, ${FREE | 3}; mov ds, ax; `;

  function start(code: Code, descriptor: bigint, registers: Record<string, number> = {}): void {
    m.user(code.bytes, registers, 0x202, UCODE32);
    m.quad(GDT + FREE, descriptor);
    m.gate(0x80, { dpl: 3 });
    m.quad(DATA, 0x1122334455667788n);
  }

  test.each<[string, string, bigint, boolean]>([
    ['the last byte', 'mov bl, [0xfff]', data(0xfff), true],
    ['one past it', 'mov bl, [0x1000]', data(0xfff), false],
    ['four bytes up to it', 'mov ebx, [0xffc]', data(0xfff), true],
    ['four bytes over it', 'mov ebx, [0xffd]', data(0xfff), false],
    ['a write over it', 'mov [0xffe], ebx', data(0xfff), false],
    ['a read-modify-write', 'add dword ptr [0xffd], 1', data(0xfff), false],
    ['sixteen bytes', 'movups xmm0, [0xff1]', data(0xfff), false],
    ['ten bytes', 'fld tbyte ptr [0xff7]', data(0xfff), false],
    ['an address that wraps', 'mov ecx, -4; mov ebx, [ecx+8]', data(0xfff), true],
    ['an address before it', 'mov ecx, -4; mov ebx, [ecx]', data(0xfff), false],
    ['LEA looks at nothing', 'lea ebx, [0x5000]', data(0xfff), true],
    ['a bit far away', 'mov ecx, 0x8000; bt [0], ecx', data(0xfff), false],
    ['pages', 'mov ebx, [0x1ffc]', data(1, 2, 0xc0), true],
    ['past pages', 'mov ebx, [0x1ffd]', data(1, 2, 0xc0), false],
    ['expand-down: at the limit', 'mov bl, [0xfff]', data(0xfff, 6), false],
    ['expand-down: above it', 'mov bl, [0x1000]', data(0xfff, 6), true],
    ['expand-down of 16 bits: its end', 'mov bl, [0xffff]', data(0xfff, 6, 0), true],
    ['expand-down of 16 bits: past its end', 'mov bl, [0x10000]', data(0xfff, 6, 0), false],
    ['a write to what can only be read', 'mov [0], bl', data(0xfff, 0), false],
    ['a read of it', 'mov bl, [0]', data(0xfff, 0), true],
  ])('%s', (_, text, descriptor, allowed) => {
    const code = asm32(`${load}${text}; int 0x80`);
    start(code, descriptor);
    cpu.cr4 |= 0x600;
    cpu.modeChanged();
    const trap = m.trap();
    expect(trap.vector).toBe(allowed ? 0x80 : 13);
    if (!allowed) expect([trap.code, trap.rip < code.bytes.length - 2]).toEqual([0, true]);
  });

  // SDM vol. 3, 6.9: #MF of an earlier instruction comes before any fault of the operand.
  test.each<[string, string, number]>([
    ['an instruction that waits', 'fld tbyte ptr [0xff7]', 16],
    ['a store that waits', 'fst dword ptr [0xffd]', 16],
    ['one that does not wait', 'fnstcw [0xfff]', 13],
  ])('an x87 exception is pending: %s', (_, text, vector) => {
    start(asm32(`${load}fninit; push 0x37b; fldcw [esp]; fld1; fldz; fdivp; ${text}; int 0x80`), data(0xfff));
    cpu.cr0 |= CR0_NE;
    cpu.modeChanged();
    expect(m.trap().vector).toBe(vector);
  });

  test('other segments than the limited one are as before', () => {
    start(
      asm32(`${load}mov cx, ${UDATA}; mov es, ecx; mov ebx, es:[${DATA}]; push ebx; pop ecx; int 0x80`),
      data(0xfff),
    );
    expect(m.trap().vector).toBe(0x80);
    expect(cpu.low(1)).toBe(0x55667788);
  });

  test('code with flat segments again is unchecked', () => {
    start(asm32(`${load}mov ebx, [4]; mov ax, ${UDATA}; mov ds, ax; mov ecx, [${DATA}]; int 0x80`), data(0xfff));
    cpu.setBig(0, 0n);
    expect(m.trap().vector).toBe(0x80);
    expect([cpu.low(3), cpu.low(1)]).toEqual([0x11223344, 0x55667788]);
    expect(cpu.segments[DS]!.selector).toBe(UDATA);
  });

  test('the mode tells which: 64-bit code is never checked', () => {
    start(asm32(`${load}jmp ${UCODE32}:${CODE + 0x40}`), data(0xfff));
    cpu.memory.write(CODE + 0x40, Uint8Array.of(0xcd, 0x80));
    for (let i = 0; i < 3; i++) cpu.step();
    expect(cpu.mode).toBe(Mode.LimitedUser32);
    expect(m.trap()).toMatchObject({ vector: 0x80, cs: UCODE32 });
    expect(cpu.mode).toBe(Mode.Kernel64);
    expect(cpu.segments[CS]!.attributes & 0x2000).toBe(0x2000);
  });

  test('a null DS', () => {
    start(asm32('xor eax, eax; mov ds, eax; mov bl, [0]'), data(0));
    expect(m.trap()).toMatchObject({ vector: 13, code: 0, rip: 4 });
  });

  test('a null FS is used in vain where another segment is limited', () => {
    start(asm32(`${load}xor eax, eax; mov fs, eax; mov bl, fs:[0]`), data(0xfff));
    expect(m.trap()).toMatchObject({ vector: 13, code: 0, rip: 10 });
    expect(cpu.segments[FS]!.usable).toBe(false);
  });

  const flat = `mov ax, ${UDATA}; mov ds, eax; mov es, eax; `;

  test('a null FS is used in vain where all others are flat', () => {
    start(asm32(`${flat}mov gs, eax; mov bl, [${DATA}]; mov bl, fs:[${DATA}]`), data(0));
    expect(m.trap()).toMatchObject({ vector: 13, code: 0, rip: 16 });
  });

  test('code that GS was there for finds it null', () => {
    const code = asm32(
      `${flat}mov gs, eax; mov ecx, 200; %%again: call %%f; dec ecx; jne %%again; xor eax, eax; mov gs, eax;` +
        'call %%f; hlt; %%f: mov ebx, gs:[esi]; ret',
    );
    start(code, data(0), { rsi: DATA });
    expect(m.trap()).toMatchObject({ vector: 13, code: 0, rip: code.bytes.length - 4 });
    expect([cpu.low(1), cpu.low(3)]).toEqual([0, 0x55667788]);
  });

  test('code that found GS null has it later', () => {
    start(asm32(`${flat}%%f: mov ebx, gs:[esi]; mov edx, gs:[esi+4]; int 0x80`), data(0), { rsi: DATA });
    // The handler of #GP loads GS and goes back.
    cpu.memory.write(0xc000 + 13 * 16, Uint8Array.from(asm(`mov ecx, ${UDATA}; mov gs, ecx; add rsp, 8; iretq`).bytes));
    expect(m.trap().vector).toBe(0x80);
    expect([cpu.low(3), cpu.low(2)]).toEqual([0x55667788, 0x11223344]);
  });

  test.each<[string, string, number]>([
    ['PUSH below an expand-down stack', 'push eax', 0x1000],
    ['PUSH', 'push eax', 0x1003],
    ['POP', 'pop eax', 0x0ffe],
    ['CALL', 'call %%start', 0x1002],
    ['through EBP', 'mov eax, [ebp]', 0x2000],
    ['LEAVE', 'mov ebp, 0xffd; leave', 0x2000],
  ])('%s is #SS', (_, text, esp) => {
    const code = asm32(`mov ax, ${FREE | 3}; mov ss, ax; mov esp, ${esp}; mov ebp, 0x800; ${text}`);
    start(code, data(0xfff, 6));
    const trap = m.trap();
    expect(trap).toMatchObject({ vector: 12, code: 0 });
    if (!text.startsWith('mov')) expect(trap.rsp).toBe(esp);
  });

  test.each<[string, string, number, Record<string, number>]>([
    ['REP STOSB up to the limit and on', 'rep stosb', 13, { rdi: 0xff8, rcx: 20 }],
    ['REP MOVSD whose source ends', 'rep movsd', 13, { rsi: 0xff4, rdi: 0, rcx: 9 }],
    ['REP LODSB that ends there', 'rep lodsb', 0x80, { rsi: 0xff8, rcx: 8 }],
    ['REPNE SCASB that finds it before', 'repne scasb', 0x80, { rdi: 0xff0, rcx: 100 }],
  ])('%s', (name, text, vector, registers) => {
    start(asm32(`${load}mov es, ax; xor eax, eax; ${text}; int 0x80`), data(0xfff), registers);
    cpu.memory.bytes.fill(1, DATA + 0xff0, DATA + 0x1010);
    cpu.memory.bytes[DATA + 0xff5] = 0;
    expect(m.trap().vector).toBe(vector);
    const [rcx, rsi, rdi] = [cpu.low(1), cpu.low(6), cpu.low(7)];
    if (name.includes('STOSB')) expect([rcx, rdi, cpu.memory.bytes[DATA + 0x1000]]).toEqual([12, 0x1000, 1]);
    else if (name.includes('MOVSD')) expect([rcx, rsi, rdi]).toEqual([6, 0x1000, 12]);
    else if (name.includes('LODSB')) expect([rcx, rsi]).toEqual([0, 0x1000]);
    else expect([rcx, rdi]).toEqual([94, 0xff6]);
  });

  test.each<[string, string, number]>([
    ['the last word', 'mov bx, [0xffe]', 0x80],
    ['a word past it', 'mov bx, [0xfff]', 13],
    ['a write past it', 'mov [0x1000], bl', 13],
    ['an address that wraps at 64 KiB', 'mov bx, 0xfff0; mov cl, [bx+0x20]', 0x80],
    ['a string that ends there', 'mov si, 0xffe; mov cx, 2; rep lodsb', 0x80],
    ['a string that goes on', 'mov si, 0xffe; mov cx, 3; rep lodsb', 13],
    ['a jump out of the code', 'jmp %%start+0x4000', 13],
    ['a call out of it', 'call %%start+0x4000', 13],
    ['a branch out of it', 'jz %%start+0x4000', 13],
    ['one that is not taken', 'jnz %%start+0x4000', 0x80],
    ['one by signs', 'jle %%start+0x4000', 13],
    ['a loop out of it', 'loop %%start-0x20', 13],
    ['a loop that ends', 'loop %%x; %%x: loop %%y; %%y: loopnz %%start-0x20', 0x80],
    ['a jump by a register', 'jmp si', 13],
    ['a call by memory', 'call [0x10]', 13],
    ['a return', 'push 0x4000; ret', 13],
  ])('16-bit code: %s', (_, text, vector) => {
    const code = asm16(`mov ax, ${(FREE + 8) | 3}; mov ds, ax; ${text}; int 0x80`);
    m.user(code.bytes, { rcx: 3, rsi: 0x4000 }, 0x246, FREE | 3);
    m.view.setUint16(DATA + 0x10, 0x4000, true);
    m.gate(0x80, { dpl: 3 });
    // 16-bit user code at CODE.
    m.quad(GDT + FREE, 0x0000fb00_00000fffn | (BigInt(CODE & 0xffffff) << 16n));
    m.quad(GDT + FREE + 8, data(0xfff, 2, 0));
    m.quad(0x30_0000 - 40, 0);
    const trap = m.trap();
    expect(trap.vector).toBe(vector);
    expect(trap.cs).toBe(FREE | 3);
    // It is the branch's exception, before it has branched.
    if (vector === 13) expect([trap.code, trap.rip + CODE < code.bytes.length - 2]).toEqual([0, true]);
  });

  /** Widths of code and stack; SP at first, in a stack that ends at 64 KiB. */
  describe.each([
    [16, 16],
    [32, 16],
    [16, 32],
  ] as const)('%i-bit code with a stack of %i bits', (bits, stack) => {
    const asmHere = bits === 16 ? asm16 : asm32;
    const b = bits / 8;
    const HIGH = 0x7abc_0000;
    test.each<[string, string, number, Record<string, number>, number]>([
      ['PUSH', 'push ax', 0, { rax: 0x1234 }, -2],
      ['POP', 'pop dx', 0xfffe, {}, 2],
      ['CALL and RET', 'call %%f; jmp %%end; %%f: pop cx; push cx; ret; %%end: nop', 0, {}, 0],
      ['RET with arguments', 'push 1; push 2; call %%f; jmp %%end; %%f: ret 4; %%end: nop', 4, {}, 4 - 2 * b],
      ['PUSHA and POPA', 'pusha; xor ebx, ebx; popa', 8, { rbx: 0x1111 }, 0],
      ['PUSHF and POPF', 'stc; pushf; clc; popf; setc al', 0, {}, 0],
      ['ENTER and LEAVE', 'enter 8, 2; mov di, sp; leave', 4, { rbp: 0x8000 }, 0],
      ['PUSH and POP of a segment', 'push ds; pop es', 0, {}, 0],
    ])('%s', (name, text, sp, registers, delta) => {
      const code = asmHere(`${text}; int 0x80`);
      // In 32-bit stacks it does not wrap.
      const first = stack === 16 ? HIGH + sp : 0x8000 + (sp & 0xff);
      m.user(code.bytes, registers, 0x202, FREE | 3);
      m.gate(0x80, { dpl: 3 });
      const flags = (bits === 32 ? 0x40 : 0) << 16;
      m.quad(GDT + FREE, BigInt(flags | 0xfb00) * 0x1_0000_0000n + 0xffffn + (BigInt(CODE) << 16n));
      m.quad(GDT + FREE + 8, data(0xffff, 2, stack === 32 ? 0x40 : 0));
      [0, FREE | 3, 0x202, first, (FREE + 8) | 3].forEach((value, i) => m.quad(0x30_0000 - 40 + i * 8, value));
      cpu.memory.bytes.fill(0x77, DATA, DATA + 0x1_0000);
      for (const n of [2, 7]) cpu.setBig(n, 0n);
      const trap = m.trap();
      expect(trap).toMatchObject({ vector: 0x80, rip: code.bytes.length - CODE });
      const after = stack === 16 ? HIGH + ((sp + delta) & 0xffff) : first + delta;
      // Returning from an interrupt and entering one keep the upper half of ESP as it is.
      expect(trap.rsp & 0xffff).toBe(after & 0xffff);
      expect(trap.ss).toBe((FREE + 8) | 3);
      const at = (offset: number): number => DATA + ((first + offset) & 0xffff);
      switch (name) {
        case 'PUSH':
          return expect(m.view.getUint16(at(-2), true)).toBe(0x1234);
        case 'POP':
          return expect(cpu.low(2)).toBe(0x7777);
        case 'CALL and RET':
          // What the called function popped is where it returned to.
          return expect(m.view.getUint16(at(-b), true)).toBe(cpu.low(1) & 0xffff);
        case 'PUSHA and POPA':
          expect(m.view.getUint16(at(-4 * b), true)).toBe(0x1111);
          return expect(cpu.low(3) & 0xffff).toBe(0x1111);
        case 'PUSHF and POPF':
          return expect(cpu.low(0) & 0xff).toBe(1);
        case 'ENTER and LEAVE':
          // The frame pointer, the outer one, this one, and 8 bytes.
          expect(cpu.low(7) & 0xffff).toBe((first - 3 * b - 8) & 0xffff);
          expect(m.view.getUint16(at(-b), true)).toBe(0x8000);
          expect(m.view.getUint16(at(-2 * b), true)).toBe(0x7777);
          return expect(cpu.low(5) & 0xffff).toBe(0x8000);
      }
    });
  });

  test('code that runs over the limit of its segment', () => {
    // 32-bit user code at CODE, of 16 bytes.
    const limited = 0x0040fb00_0000000fn | (BigInt(CODE & 0xffffff) << 16n);
    m.user(asm32('nop; nop').bytes, {}, 0x202, FREE | 3);
    m.quad(GDT + FREE, limited);
    m.quad(0x30_0000 - 40, 0);
    cpu.memory.write(CODE, new Uint8Array(20).fill(0x90));
    expect(m.trap()).toMatchObject({ vector: 13, code: 0, cs: FREE | 3, rip: 16 - CODE });
  });
});
