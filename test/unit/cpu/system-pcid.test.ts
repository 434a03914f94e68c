/** Process-context identifiers (SDM vol. 3, 4.10.1): what an address space keeps while others run, and what it must not. */
import { describe, expect, test } from 'vitest';
import { asm, assembles } from './assembler.ts';
import { PD, PT, SMALL, SystemMachine, watchCompiler } from './system-machine.ts';

const PAGE = SMALL + 0x5000;
const NEXT = PAGE + 0x1000;
/** A second address space, in which PAGE leads to NEXT. */
const TABLES2 = 0x4000;
const PDPT2 = 0x5000;
const PD2 = 0x7000;
const PT2 = 0xb000;
const GLOBAL = 0x100;

watchCompiler();

describe.skipIf(!assembles).each(['interp', 'jit', 'light'] as const)('%s', (tier) => {
  const m = new SystemMachine(tier);
  const { cpu } = m;
  const enable = 'mov rdx, cr4; bts rdx, 17; bts rdx, 7; mov cr4, rdx; mov rsi, cr3';
  /** To the second address space as PCID 2, and back to the first as PCID 0; `keep` sets bit 63. */
  const away = `mov rdx, ${TABLES2 | 2}; mov cr3, rdx`;
  const back = 'mov cr3, rsi';
  const backKept = 'mov rdx, rsi; bts rdx, 63; mov cr3, rdx';
  const change = `mov qword ptr [rcx], ${NEXT | 7}`;

  function run(code: string): void {
    m.kernel(asm(code).bytes, { rax: PAGE, rcx: PT + 5 * 8 });
    m.smallPages();
    m.quad(TABLES2, PDPT2 | 7);
    m.quad(PDPT2, PD2 | 7);
    for (let i = 0; i < 7; i++) m.quad(PD2 + i * 8, m.read(PD + i * 8));
    m.quad(PD2 + (SMALL >>> 21) * 8, PT2 | 7);
    for (let i = 0; i < 512; i++) m.quad(PT2 + i * 8, m.read(PT + i * 8));
    m.quad(PT2 + 5 * 8, NEXT | 7);
    m.view.setUint32(PAGE, 0x111, true);
    m.view.setUint32(NEXT, 0x222, true);
    m.run();
  }

  test('each address space has its own translations', () => {
    run(`${enable}; mov ebx, [rax]; ${away}; mov ebp, [rax]; ${backKept}; mov edi, [rax]`);
    expect([cpu.low(3), cpu.low(5), cpu.low(7)]).toEqual([0x111, 0x222, 0x111]);
  });

  test('a space that is left and comes back with bit 63 needs no page walk', () => {
    run(`${enable}; mov ebx, [rax]; ${away}; ${change}; ${backKept}; mov edi, [rax]`);
    expect(cpu.low(7)).toBe(0x111);
  });

  test.each([
    ['without bit 63', back],
    ['after CR4.PGE was off', `mov rdx, cr4; btc rdx, 7; mov cr4, rdx; btc rdx, 7; mov cr4, rdx; ${backKept}`],
    ['and INVLPG', `${backKept}; invlpg [rax]`],
    ['after the same without bit 63', `${back}; ${away}; ${backKept}`],
  ])('a space that comes back %s sees what was changed', (_, how) => {
    run(`${enable}; mov ebx, [rax]; ${away}; ${change}; ${how}; mov edi, [rax]`);
    expect(cpu.low(7)).toBe(0x222);
  });

  test('INVLPG of a global page concerns all spaces', () => {
    run(
      `${enable}; or qword ptr [rcx], ${GLOBAL}; mov ebx, [rax]; ${away}; ${change}; invlpg [rax]; ${backKept}; mov edi, [rax]`,
    );
    expect(cpu.low(7)).toBe(0x222);
  });

  test('writes are seen in code that was run from another space meanwhile', () => {
    // Written in the first space, run in the second, and written again.
    run(
      `mov byte ptr [rax], 0xc3; ${enable}; mov dword ptr [rax], 0xc301b3; ${away};` +
        `mov rdi, ${PT2 + 5 * 8}; mov qword ptr [rdi], ${PAGE | 7}; invlpg [rax]; call rax; ${backKept};` +
        `mov byte ptr [rax+1], 7; call rax`,
    );
    expect(cpu.low(3) & 0xff).toBe(7);
  });

  test('calls go to where the current space leads', () => {
    run(`mov dword ptr [rax], 0xc301b3; mov dword ptr [rax+0x1000], 0xc302b3; ${enable}; call rax; mov ebp, ebx; ${away};
      call rax; mov edi, ebx; ${backKept}; call rax`);
    expect([cpu.low(5) & 0xff, cpu.low(7) & 0xff, cpu.low(3) & 0xff]).toEqual([1, 2, 1]);
  });

  test('an instruction that crosses into a page is the one of the current space', () => {
    // ret imm16 with its immediate in PAGE
    const call = (to: string): string => `mov r8, rsp; push 0; call rax; sub r8, rsp; mov ${to}, r8d`;
    run(
      `mov byte ptr [rax-1], 0xc2; mov dword ptr [rax], 0; mov dword ptr [rax+0x1000], 8; dec rax; ${enable}; ${call('ebp')};
      ${call('ebp')}; ${away}; ${call('edi')}; ${backKept}; ${call('ebx')}; mov dword ptr [rax+1], 8; ${call('edx')}`,
    );
    expect([cpu.low(5), cpu.low(7), cpu.low(3), cpu.low(2)]).toEqual([8, 0, 8, 0]);
  });

  test.each([
    [
      'CR4.PCIDE comes on with another PCID than 0',
      'mov rdx, cr3; or rdx, 3; mov cr3, rdx; mov rdx, cr4; bts rdx, 17; mov cr4, rdx',
    ],
    ['bit 63 of CR3 while CR4.PCIDE is off', 'mov rdx, cr3; bts rdx, 63; mov cr3, rdx'],
  ])('#GP(0): %s', (_, code) => {
    m.kernel(asm(code).bytes);
    expect(m.trap()).toMatchObject({ vector: 13, code: 0 });
  });
});
