/** Alignment checks: #AC at CPL 3 under CR0.AM and RFLAGS.AC. What each form checks is compared in test/conformance. */
import { describe, expect, test } from 'vitest';
import { AC, CR0_AM as AM } from '../../../emulator/cpu/bits.ts';
import { Mode } from '../../../emulator/cpu/layout.ts';
import { asm, asm32, assembles, type Code } from './assembler.ts';
import {
  CODE,
  DATA,
  HOLE,
  SystemMachine,
  UCODE32,
  UCODE64,
  UDATA,
  USER_STACK,
  watchCompiler,
} from './system-machine.ts';

const FLAGS = 0x202;
/** What user code ends with. */
const DONE = 0x80;

watchCompiler();

describe.skipIf(!assembles).each(['interp', 'jit', 'light'] as const)('%s', (tier) => {
  const m = new SystemMachine(tier);
  const { cpu } = m;

  function start(code: Code, flags = FLAGS | AC, am = AM, cs = UCODE64): void {
    m.user(code.bytes, { rbx: DATA, rsi: DATA + 1, rdi: DATA + 16, rcx: 3 }, flags, cs);
    m.gate(DONE, { dpl: 3 });
    cpu.cr0 |= am;
    cpu.cr4 |= 0x600;
    cpu.modeChanged();
  }

  test.each<[string, string, boolean]>([
    ['two bytes', 'mov ax, [rbx+1]', false],
    ['four bytes', 'mov eax, [rbx+2]', false],
    ['eight bytes', 'mov [rbx+4], rax', false],
    ['eight aligned bytes', 'mov [rbx+8], rax', true],
    ['a byte', 'mov al, [rbx+3]', true],
    ['a sum of two registers', 'mov eax, [rbx+rcx]', false],
    ['an address that is not used', 'lea eax, [rbx+1]', true],
    ['relative to RIP', 'mov eax, [rip+1]', false],
    ['read and written', 'lock add dword ptr [rbx+3], 1', false],
    ['a bit far away', 'mov ecx, 64; bt [rbx+2], ecx', false],
    ['ten bytes at eight', 'fld tbyte ptr [rbx+8]', true],
    ['ten bytes', 'fld tbyte ptr [rbx+4]', false],
    ['sixteen bytes', 'movups xmm0, [rbx+8]', false],
    ['a string', 'rep movsd', false],
    ['a string of bytes', 'rep movsb', true],
    ['a string of none', 'xor ecx, ecx; rep movsd', true],
    ['the stack', 'push rax', true],
    ['a misaligned stack', 'sub rsp, 2; push rax', false],
    ['a call on it', 'sub rsp, 2; call %%x; %%x: nop', false],
    ['an environment', 'fnstenv [rbx+4]', true],
    ['a misaligned environment', 'fnstenv [rbx+2]', false],
    ['what is not present', `mov ebx, ${HOLE + 1}; mov eax, [rbx]`, false],
  ])('%s', (_, text, allowed) => {
    start(asm(`${text}; int ${DONE}`));
    expect(cpu.mode).toBe(Mode.Kernel64);
    const trap = m.trap();
    if (allowed) return expect(trap.vector).toBe(DONE);
    expect(trap).toMatchObject({ vector: 17, code: 0, cs: UCODE64 });
    expect(trap.flags & AC).toBe(AC);
  });

  test.each<[string, number, number]>([
    ['RFLAGS.AC', FLAGS, AM],
    ['CR0.AM', FLAGS | AC, 0],
  ])('nothing is checked without %s', (_, flags, am) => {
    start(asm(`mov eax, [rbx+1]; int ${DONE}`), flags, am);
    expect(m.trap().vector).toBe(DONE);
  });

  test('nor at CPL 0', () => {
    const { bytes } = asm('pushfq; or dword ptr [rsp], 0x40000; popfq; mov eax, [rbx+1]; push rax');
    m.kernel(bytes, { rbx: DATA });
    cpu.cr0 |= AM;
    cpu.modeChanged();
    expect(m.run()).toBe('halted');
    expect(cpu.rip).toBe(BigInt(CODE + bytes.length + 1));
  });

  test('POPF begins and ends it, in a loop that is compiled', () => {
    const set = 'pushfq; or dword ptr [rsp], 0x40000; popfq';
    const clear = 'pushfq; and dword ptr [rsp], -0x40001; popfq';
    const code = asm(
      `mov ecx, 300; %%again: mov eax, [rbx+1]; ${set}; mov eax, [rbx]; ${clear}; mov eax, [rbx+2]; dec ecx; jne %%again;` +
        `${set}; %%last: mov eax, [rbx+1]; int ${DONE}`,
    );
    start(code, FLAGS);
    const trap = m.trap();
    expect(trap).toMatchObject({ vector: 17, code: 0, rip: code.bytes.length - 5 });
    expect(cpu.low(1)).toBe(0);
  });

  test('a handler at CPL 0 is not checked, and what it returns to is', () => {
    start(asm(`mov eax, [rbx+1]; mov eax, [rbx+2]; int ${DONE}`));
    // The handler skips the first instruction; its own stack is misaligned.
    const skip = asm('add rsp, 8; mov eax, [rbx+3]; add qword ptr [rsp], 3; iretq').bytes;
    cpu.memory.write(0xc000 + 17 * 16, Uint8Array.from(skip));
    expect(m.run()).toBe('halted');
  });

  test('32-bit code', () => {
    start(
      asm32(`mov ax, ${UDATA}; mov ds, eax; mov es, eax; mov ecx, [ebx]; mov ecx, [ebx+1]; int ${DONE}`),
      FLAGS | AC,
      AM,
      UCODE32,
    );
    expect(m.trap()).toMatchObject({ vector: 17, code: 0, cs: UCODE32, rip: 10, rsp: USER_STACK });
  });
});
