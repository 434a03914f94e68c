/** Code that changes while it runs, and LOCK on every form. */
import { beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { decode } from '../../../emulator/cpu/decoder.ts';
import { defineAll } from '../../../emulator/cpu/defs/index.ts';
import { DEFS, type Def } from '../../../emulator/cpu/insn.ts';
import { asm, assembles, type Code } from './assembler.ts';
import { CODE, DATA, PT, SMALL, SystemMachine, watchCompiler } from './system-machine.ts';

const PAGE = SMALL + 0x5000;

describe.skipIf(!assembles).each(['interp', 'jit', 'light'] as const)('code that changes itself (%s)', (tier) => {
  const m = new SystemMachine(tier);
  const { cpu } = m;
  /** How often the code of all of a page was dropped at once. */
  let dropped = 0;
  const { code: cache } = cpu;
  const written = cache.written.bind(cache);
  cache.written = (physical, size) => {
    if (size === 4096) dropped++;
    return written(physical, size);
  };
  beforeEach(() => {
    dropped = 0;
  });

  /** The code ends in MOV BL, 1; `%%patch` is its immediate. Each way of writing 2 there must be seen at once. */
  test.each<[string, Code]>([
    ['MOV', asm('mov byte ptr [rip+%%patch], 2; mov bl, 1; %%patch = . - 1')],
    [
      'MOV of the same code twice',
      asm(
        'mov ecx, 3; %%again: mov byte ptr [rip+%%patch], cl; mov bl, 1; %%patch = . - 1; add edx, ebx; dec ecx; jnz %%again; lea ebx, [edx-4]',
      ),
    ],
    ['a read-modify-write', asm('inc byte ptr [rip+%%patch]; mov bl, 1; %%patch = . - 1')],
    ['LOCK ADD', asm('mov eax, 1; lock add [rip+%%patch], al; mov bl, 1; %%patch = . - 1')],
    ['XCHG', asm('mov al, 2; lea rdi, [rip+%%patch]; xchg [rdi], al; mov bl, 1; %%patch = . - 1')],
    ['CMPXCHG', asm('mov al, 1; mov cl, 2; lea rdi, [rip+%%patch]; cmpxchg [rdi], cl; mov bl, 1; %%patch = . - 1')],
    ['STOSB', asm('mov al, 2; lea rdi, [rip+%%patch]; stosb; mov bl, 1; %%patch = . - 1')],
    ['REP STOSB', asm('mov al, 2; mov ecx, 1; lea rdi, [rip+%%patch]; rep stosb; mov bl, 1; %%patch = . - 1')],
    [
      'REP MOVSB',
      asm(
        'mov ecx, 1; lea rdi, [rip+%%patch]; lea rsi, [rip+%%two]; %%then: rep movsb; jmp %%on; %%two: .byte 2; %%on: mov bl, 1; %%patch = . - 1',
      ),
    ],
    [
      'MOVDQU',
      asm(
        'lea rdi, [rip+%%patch]; movdqu xmm0, [rdi]; pinsrw xmm1, [rip+%%two], 0; %%then: paddb xmm0, xmm1; movdqu [rdi], xmm0; jmp %%on; %%two: .word 1; %%on: mov bl, 1; %%patch = . - 1; hlt',
      ),
    ],
    ['PUSH', asm('lea rsp, [rip+%%patch+8]; push 2; mov bl, 1; %%patch = . - 1; hlt; .space 8')],
    ['a store of two bytes', asm('mov word ptr [rip+%%patch-1], 0x2b3; mov bl, 1; %%patch = . - 1')],
  ])('by %s', (_, code) => {
    m.kernel(code.bytes);
    cpu.cr4 |= 0x600;
    cpu.modeChanged();
    expect(m.run()).toBe('halted');
    expect(cpu.low(3) & 0xff).toBe(2);
  });

  test('by FISTP', () => {
    // 0x02b3 is MOV BL, 2.
    m.kernel(asm('push 0x2b3; fild word ptr [rsp]; fistp word ptr [rip+%%on]; nop; %%on: mov bl, 1').bytes);
    m.run();
    expect(cpu.low(3) & 0xff).toBe(2);
  });

  test('by the return address of a CALL', () => {
    // The address ends in F4, which is HLT.
    const code = asm(
      'lea rsp, [rip+%%on+8]; jmp %%go; .org %%start+0xef; %%go: call %%far; %%on: .space 8, 0x90; mov bl, 1; hlt; .space 99; %%far: jmp %%on',
    );
    m.kernel(code.bytes);
    m.run();
    expect([cpu.low(3), Number(cpu.rip)]).toEqual([0, CODE + 0xf5]);
  });

  test.each([
    ['a store', 'mov byte ptr [rax+0x800], 1', 'mov byte ptr [rax+1], 2'],
    ['a read-modify-write', 'inc byte ptr [rax+0x800]', 'inc byte ptr [rax+1]'],
    ['a load of a dirty page', 'mov byte ptr [rax+0x800], 1; invlpg [rax]; mov cl, [rax]', 'mov byte ptr [rax+1], 2'],
  ])('in a page that was written to by %s before there was code', (_, before, after) => {
    m.kernel(asm(`${before}; call rax; ${after}; call rax`).bytes, { rax: PAGE });
    m.smallPages();
    cpu.memory.write(PAGE, Uint8Array.of(0xb3, 1, 0xc3)); // mov bl,1; ret
    cpu.code.flush();
    m.run();
    expect(cpu.low(3)).toBe(2);
  });

  test.each([
    ['REP STOSB', 'mov rdi, rax; mov ecx, 0x400; rep stosb'],
    ['single stores', 'mov ecx, 0x400; %%next: mov byte ptr [rax+rcx-1], 0; dec ecx; jnz %%next'],
    ['single stores upwards', 'xor ecx, ecx; %%next: mov [rax+rcx*8], rdx; inc ecx; cmp ecx, 0x80; jnz %%next'],
  ])('a page that is cleared from its start loses its code before that is reached: %s', (how, code) => {
    const offset = 0xf00;
    m.kernel(asm(`mov r8, rax; call r9; mov rax, r8; ${code}; call r9`).bytes, {
      rax: PAGE,
      rdx: 0,
      r9: PAGE + offset,
    });
    m.smallPages();
    cpu.memory.write(PAGE + offset, Uint8Array.of(0xff, 0xc3, 0xb0, 0, 0xc3)); // inc ebx; mov al,0; ret
    cpu.code.flush();
    m.run();
    // The code is as it was, whether it was dropped meanwhile or not.
    expect(cpu.low(3)).toBe(2);
    expect(m.read(PAGE + 0x3f8)).toBe(0n);
    expect(dropped).toBe(how === 'single stores' ? 0 : 1);
  });

  test('through another linear address', () => {
    m.kernel(asm('call rax; mov byte ptr [rcx+1], 2; call rax').bytes, { rax: PAGE, rcx: PAGE + 0x1000 });
    m.smallPages();
    m.page(PAGE + 0x1000, PAGE);
    cpu.memory.write(PAGE, Uint8Array.of(0xb3, 1, 0xc3)); // mov bl,1; ret
    m.run();
    expect(cpu.low(3)).toBe(2);
  });

  test('in the page after, where an instruction ends', () => {
    const code = asm('call rax; mov byte ptr [rcx], 2; call rax; mov byte ptr [rcx], 3; call rax');
    m.kernel(code.bytes, { rax: PAGE - 1, rcx: PAGE });
    m.smallPages();
    cpu.memory.write(PAGE - 1, Uint8Array.of(0xb3, 1, 0xc3));
    m.run();
    expect(cpu.low(3)).toBe(3);
  });

  test('in a page that was written before it ran, and again after', () => {
    // A just-in-time compiler: emits MOV BL, n; RET and calls it, 20 times.
    const code = asm(
      'mov ecx, 20; %%again: mov word ptr [rax], 0xb3; mov [rax+1], cl; mov byte ptr [rax+2], 0xc3; call rax; add edx, ebx; dec ecx; jnz %%again',
    );
    m.kernel(code.bytes, { rax: DATA });
    m.run();
    expect(cpu.low(2)).toBe(210);
  });

  test('a function that another page changes while a loop calls it', () => {
    const code = asm(
      'mov ecx, 100; %%again: call rax; add edx, ebx; cmp ecx, 50; jne %%on; mov byte ptr [rax+1], 5; %%on: dec ecx; jnz %%again',
    );
    m.kernel(code.bytes, { rax: DATA + 0x800 });
    cpu.memory.write(DATA + 0x800, Uint8Array.of(0xb3, 1, 0xc3));
    m.run();
    expect(cpu.low(2)).toBe(51 + 49 * 5);
  });

  test('data beside code in its page is written without the code being lost', () => {
    const code = asm('mov ecx, 1000; %%again: add [rax], ecx; dec ecx; jnz %%again; hlt');
    m.kernel(code.bytes, { rax: CODE + 0x800 });
    m.view.setUint32(CODE + 0x800, 0, true);
    m.run();
    expect(m.view.getUint32(CODE + 0x800, true)).toBe(500500);
  });

  test('page tables in a page with code are seen', () => {
    // The PTE of PAGE lies right after code that writes it.
    m.kernel(asm('mov ebx, [rax]; mov qword ptr [rcx], rdx; invlpg [rax]; mov ebx, [rax]').bytes, {
      rax: PAGE,
      rcx: PT + 5 * 8,
      rdx: (PAGE + 0x1000) | 7,
    });
    m.smallPages();
    cpu.memory.write(PT + 0x800, Uint8Array.of(0xc3));
    m.view.setUint32(PAGE, 1, true);
    m.view.setUint32(PAGE + 0x1000, 2, true);
    m.run();
    expect(cpu.low(3)).toBe(2);
  });
});

watchCompiler();

/** Instructions that may be locked, with a memory destination (SDM vol. 2, LOCK); CMPXCHG16B is a form of CMPXCHG8B here. */
const LOCKABLE = 'adc add and btc btr bts cmpxchg cmpxchg8b dec inc neg not or sbb sub xadd xchg xor'.split(' ');

/** The bytes of a form with a memory operand [rax] and RCX, or with register operands. */
function bytesOf(d: Def, memory: boolean): number[] {
  const out = [0xf0];
  if (d.prefix && d.prefix !== 'np') out.push(parseInt(d.prefix, 16));
  if (d.map) out.push(0x0f);
  if (d.map === 2) out.push(0x38);
  if (d.map === 3) out.push(0x3a);
  out.push(d.opcode);
  if (d.hasModrm) out.push((memory ? 0x00 : 0xc0) | ((d.reg < 0 ? 1 : d.reg) << 3) | Math.max(0, d.rm));
  return [...out, 0, 0, 0, 0, 0, 0, 0, 0];
}

describe('LOCK', () => {
  beforeAll(() => {
    if (!DEFS.length) defineAll();
  });

  test('is allowed with a memory destination of the instructions that the manual names, and nowhere else', () => {
    const seen = new Set<string>();
    for (const d of DEFS)
      for (const bits of [64, 32] as const)
        for (const memory of [true, false]) {
          const bytes = Uint8Array.from(bytesOf(d, memory));
          const plain = decode(bytes.subarray(1), 0, 15, bits);
          if (typeof plain === 'string' || plain.def !== d) continue;
          const locked = decode(bytes, 0, 15, bits);
          const allowed = LOCKABLE.includes(d.name) && plain.operands[0]?.kind === 'mem';
          expect([d.pattern, bits, memory, typeof locked !== 'string']).toEqual([d.pattern, bits, memory, allowed]);
          if (allowed) seen.add(d.name);
        }
    expect([...seen].sort()).toEqual(LOCKABLE);
  });

  describe.each(['interp', 'jit', 'light'] as const)('%s', (tier) => {
    const m = new SystemMachine(tier);

    test('every form that is allowed runs as without it', () => {
      const run = (code: number[]): string => {
        m.kernel(code, { rax: DATA, rcx: 5, rdx: 7, rbx: 0x1234 });
        m.cpu.rflags = 3;
        for (let i = 0; i < 2; i++) m.quad(DATA + 8 * i, 0x8123_4567_89ab_cdefn);
        expect(m.run()).toBe('halted');
        return [m.read(DATA), m.read(DATA + 8), ...[0, 1, 2, 3].map((n) => m.cpu.big(n)), m.cpu.rflags].join();
      };
      let forms = 0;
      for (const d of DEFS) {
        if (!LOCKABLE.includes(d.name)) continue;
        for (const rex of [[], [0x48]]) {
          const [lock, ...rest] = bytesOf(d, true);
          const insn = decode(Uint8Array.from([...rex, ...rest]), 0, 16, 64);
          if (typeof insn === 'string' || insn.def !== d || insn.operands[0]?.kind !== 'mem') continue;
          const code = [...rex, ...rest].slice(0, insn.len);
          expect([d.pattern, run([lock!, ...code])]).toEqual([d.pattern, run(code)]);
          forms++;
        }
      }
      expect(forms).toBeGreaterThan(80);
    });

    test('where it is not, it is #UD before anything else', () => {
      for (const code of [
        [0xf0, 0x90], // nop
        [0xf0, 0x01, 0xc8], // add eax,ecx
        [0xf0, 0x8b, 0x04, 0x25, 0, 0, 0xe0, 0], // mov eax,[a hole]
        [0xf0, 0x0f, 0xba, 0x20, 1], // bt [rax],1
        [0xf0, 0x39, 0x08], // cmp [rax],ecx
        [0xf0, 0xf4], // hlt
        [0xf0, 0xff, 0x10], // call [rax]
      ]) {
        m.user(code, { rax: DATA });
        expect([code, m.trap()]).toMatchObject([code, { vector: 6, rip: 0 }]);
      }
    });
  });
});
