/** Accesses that a compiled region checks against the page of an earlier one with the same base (jit/windows.ts). */
import { describe, expect, test } from 'vitest';
import { asm, assembles } from './assembler.ts';
import { SMALL, SystemMachine, watchCompiler } from './system-machine.ts';

const PAGE = SMALL + 0x5000;
const NEXT = PAGE + 0x1000;

watchCompiler();

describe.skipIf(!assembles).each(['interp', 'jit', 'light'] as const)('%s', (tier) => {
  const m = new SystemMachine(tier);
  const { cpu } = m;

  function run(code: string, registers: Record<string, number> = {}): void {
    m.kernel(asm(code).bytes, registers);
    m.smallPages();
    for (let at = PAGE - 64; at < NEXT + 64; at += 4) m.view.setUint32(at, at, true);
    m.run();
  }

  test('fields before, across and behind the end of a page', () => {
    run('mov ebx, [rax]; mov ecx, [rax+4]; mov edx, [rax+6]; mov esi, [rax+8]; mov edi, [rax-0x1000]', {
      rax: NEXT - 8,
    });
    expect([3, 1, 6].map((n) => cpu.low(n))).toEqual([NEXT - 8, NEXT - 4, NEXT]);
    expect(cpu.low(2)).toBe(m.view.getInt32(NEXT - 2, true));
    expect(cpu.low(7)).toBe(m.view.getInt32(NEXT - 8 - 0x1000, true));
  });

  test('stores before, across and behind the end of a page', () => {
    run('mov dword ptr [rax], 1; mov dword ptr [rax+6], 0x22222222; mov dword ptr [rax+12], 3', { rax: NEXT - 8 });
    expect([
      m.view.getUint32(NEXT - 8, true),
      m.view.getUint32(NEXT - 2, true),
      m.view.getUint32(NEXT + 4, true),
    ]).toEqual([1, 0x22222222, 3]);
  });

  test('a base that changes by constants, and one that is loaded through itself', () => {
    run(
      'mov ebx, [rax]; add rax, 16; mov ecx, [rax+4]; lea rax, [rax-32]; mov edx, [rax]; sub rax, -8; mov esi, [rax];' +
        'mov [rdi], rdi; add qword ptr [rdi], 32; mov rdi, [rdi]; mov ebp, [rdi+4]',
      { rax: PAGE, rdi: NEXT - 16 },
    );
    expect([3, 1, 2, 6, 5].map((n) => cpu.low(n))).toEqual([PAGE, PAGE + 20, PAGE - 16, PAGE - 8, NEXT + 20]);
  });

  test('an index that changes by constants, and one register as both', () => {
    run(
      // Both pages are to be in the TLB.
      'mov ebx, [rax]; mov ebx, [rdi]; mov ebx, [rax+rcx*4]; add rcx, 2; mov edx, [rax+rcx*4-6]; dec rcx; mov esi, [rax+rcx*4]; mov [rax+rcx*4-8], ecx;' +
        'inc rcx; mov edi, [rax+rcx*4]; mov r8, rdi; mov rdi, [rbp+rbp]; add rbp, 8; mov r9d, [rbp+rbp-16]; mov r10d, [rbp+rbp]; xor ecx, ecx; mov r11d, [rax+rcx*4-8]',
      { rax: NEXT - 8, rcx: 0, rbp: NEXT / 2 - 4, rdi: NEXT },
    );
    expect([3, 6, 8, 9, 10, 11].map((n) => cpu.low(n))).toEqual([
      NEXT - 8,
      NEXT - 4,
      NEXT,
      NEXT - 8,
      NEXT + 8,
      NEXT - 16,
    ]);
    expect(cpu.low(2)).toBe(m.view.getInt32(NEXT - 6, true));
    expect(m.view.getUint32(NEXT - 12, true)).toBe(1);
  });

  test('a stack that goes from page to page', () => {
    run(
      'mov rsp, rax; push 1; push 2; push 3; sub rsp, 16; mov qword ptr [rsp+8], 4; mov rbx, [rsp+16]; mov rcx, [rsp+32];' +
        'add rsp, 16; pop rdx; pop rsi; pop rdi',
      { rax: NEXT + 16 },
    );
    expect([3, 1, 2, 6, 7].map((n) => cpu.low(n))).toEqual([3, 1, 3, 2, 1]);
    expect(m.view.getUint32(NEXT - 16, true)).toBe(4);
    expect(cpu.low(4)).toBe(NEXT + 16);
  });

  test('an access that not every path has made', () => {
    // Odd rounds read [rax] first; CMPXCHG writes only in the round that finds the 4.
    const code =
      'mov ecx, 6; xor ebx, ebx; xor ebp, ebp; 1: test ecx, 1; jz 2f; add ebx, [rax]; 2: add ebp, [rax+8];' +
      'mov rsi, rax; mov eax, 4; cmpxchg [rdi], ecx; mov [rdi+8], ecx; mov rax, rsi; add rax, 4; add rdi, 4; dec ecx; jnz 1b';
    run(code, { rax: PAGE, rdi: NEXT - 16 });
    expect([cpu.low(3), cpu.low(5)]).toEqual([3 * PAGE + 4 + 12 + 20, 6 * (PAGE + 8) + 60]);
    expect([0, 1, 2, 3, 4, 5].map((i) => m.view.getUint32(NEXT - 8 + i * 4, true))).toEqual([6, 5, 2, 3, 2, 1]);
  });

  test('a fault behind the end of the page has its own address, and nothing of the instruction is done', () => {
    m.kernel(asm('mov rbx, [rax]; add rbx, 1; mov [rax+8], rbx; mov [rax+12], rbx').bytes, { rax: NEXT - 16 });
    m.smallPages();
    m.page(NEXT, NEXT, 0);
    m.quad(NEXT - 16, 41);
    m.quad(NEXT - 8, 0);
    expect(m.trap()).toMatchObject({ vector: 14, code: 2, cr2: NEXT, rip: 11 });
    expect(m.read(NEXT - 8)).toBe(42n);
  });
});
