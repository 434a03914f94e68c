/** Exceptions of every kind, double and triple faults, single steps, breakpoints, interrupt shadows. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { asm, asm32, assembles, type Code } from './assembler.ts';
import {
  ABSENT,
  CODE,
  DATA,
  HOLE,
  IDT,
  IST1,
  KCODE64,
  KDATA,
  KERNEL_STACK,
  RSP0,
  SystemMachine,
  TSS,
  UCODE32,
  UCODE64,
  watchCompiler,
} from './system-machine.ts';

const TF = 0x100;
const RF = 0x10000;
const [B0, BS] = [1, 0x4000];

watchCompiler();

describe.skipIf(!assembles).each(['interp', 'jit', 'light'] as const)('%s', (tier) => {
  const m = new SystemMachine(tier);
  const { cpu } = m;

  /** x87 and SSE on, with exceptions that are not masked reported. */
  function units(): void {
    cpu.cr4 |= 0x600;
    cpu.cr0 |= 0x22;
    cpu.modeChanged();
  }

  describe('exceptions', () => {
    /** `at` is where the pushed RIP points, from the end of the code (0: behind it). */
    test.each<[string, Code, number, number, number, 'kernel' | 'user' | 'compat']>([
      ['#DE: division by 0', asm('xor ecx, ecx; div ecx'), 0, -1, -2, 'user'],
      ['#DE: quotient too large', asm('mov edx, 5; mov ecx, 5; div ecx'), 0, -1, -2, 'user'],
      [
        '#DE: IDIV of the least number by -1',
        asm('mov rax, 0x8000000000000000; cqo; mov rcx, -1; idiv rcx'),
        0,
        -1,
        -3,
        'user',
      ],
      ['#DE: AAM 0', asm32('aam 0'), 0, -1, -2, 'compat'],
      ['#DB: INT1', asm('.byte 0xf1'), 1, -1, 0, 'kernel'],
      ['#BP: INT3 of the kernel', asm('int3'), 3, -1, 0, 'kernel'],
      ['#BP: INT 3', asm('.byte 0xcd, 3'), 3, -1, 0, 'kernel'],
      ['#OF: INTO', asm32('mov al, 0x7f; inc al; into'), 4, -1, 0, 'compat'],
      ['#BR: BOUND', asm32(`mov eax, 5; bound eax, ss:[${DATA}]`), 5, -1, -7, 'compat'],
      ['#UD: UD2', asm('ud2'), 6, -1, -2, 'user'],
      ['#UD: UD1', asm('ud1 eax, [rax]'), 6, -1, -3, 'user'],
      ['#UD: POPA in 64-bit code', asm('.byte 0x61'), 6, -1, -1, 'user'],
      ['#UD: SYSENTER is not: #GP without IA32_SYSENTER_CS', asm('sysenter'), 13, 0, -2, 'user'],
      ['#NP: a data segment that is not present', asm(`mov ax, ${ABSENT}; mov ds, ax`), 11, ABSENT & ~3, -2, 'user'],
      ['#SS: a stack segment that is not present', asm(`mov ax, ${ABSENT}; mov ss, ax`), 12, ABSENT & ~3, -2, 'user'],
      ['#GP: a write to a control register', asm('mov cr3, rax'), 13, 0, -3, 'user'],
      ["#GP: an interrupt whose gate is the kernel's", asm('int 0x77'), 13, 0x77 * 8 + 2, -2, 'user'],
      ['#GP: MOVAPS that is not aligned', asm(`movaps xmm0, [${DATA + 8}]`), 13, 0, -8, 'user'],
      [
        '#MF: waits for the next x87 instruction',
        asm('fninit; push 0x360; fldcw [rsp]; fldz; fld1; fdivrp; fwait'),
        16,
        -1,
        -1,
        'user',
      ],
      [
        '#MF: not for FNSTSW',
        asm('fninit; push 0x360; fldcw [rsp]; fldz; fld1; fdivrp; fnstsw ax; fld1'),
        16,
        -1,
        -2,
        'user',
      ],
      [
        '#XM: an exception of SSE that is not masked',
        asm('push 0; ldmxcsr [rsp]; xorps xmm0, xmm0; divss xmm0, xmm0'),
        19,
        -1,
        -4,
        'user',
      ],
    ])('%s', (_, code, vector, error, at, who) => {
      if (who === 'kernel') m.kernel(code.bytes);
      else m.user(code.bytes, {}, 0x202, who === 'user' ? UCODE64 : UCODE32);
      m.gate(4, { dpl: 3 });
      m.quad(DATA, 4n << 32n); // BOUND's limits: 0 and 4
      units();
      const trap = m.trap();
      expect(trap).toMatchObject({ vector, code: error, rip: code.bytes.length + at });
      // Faults have RF in their frame, traps have not.
      expect([_, (trap.flags & RF) !== 0]).toEqual([_, at < 0]);
    });

    test('an SSE exception that CR4 does not offer is #UD', () => {
      m.user(asm('push 0; ldmxcsr [rsp]; xorps xmm0, xmm0; divss xmm0, xmm0').bytes);
      units();
      cpu.cr4 &= ~0x400;
      cpu.modeChanged();
      expect(m.trap().vector).toBe(6);
    });

    test('INT3 needs no right but the gate of its vector', () => {
      m.user([0xcc]);
      expect(m.trap()).toMatchObject({ vector: 13, code: 3 * 8 + 2 });
      m.user([0xcc]);
      m.gate(3, { dpl: 3 });
      expect(m.trap()).toMatchObject({ vector: 3, rip: 1, cs: UCODE64 });
    });

    test('a handler that faults itself, on a stack of its own each time, does not hold the machine', () => {
      m.kernel([0x0f, 0x0b]);
      m.gate(6, { ist: 1 });
      m.view.setUint32(IDT + 6 * 16, (CODE & 0xffff) | (KCODE64 << 16), true);
      m.view.setUint32(IDT + 6 * 16 + 4, (CODE & 0xffff0000) | 0x8e01, true);
      expect(cpu.run(10_000)).toBe('budget');
      expect(Number(cpu.big(4))).toBe(IST1 - 40);
    });
  });

  describe('exceptions in the delivery of others', () => {
    const absent = (vector: number): void => m.view.setUint8(IDT + vector * 16 + 5, 0x0e);

    test.each<[string, Code, number[], number, number]>([
      ['#DE, its gate not present: #NP and so #DF', asm('xor ecx, ecx; div ecx'), [0], 8, 0],
      ['#GP, its gate not present: #DF', asm('mov cr3, rax'), [13], 8, 0],
      ['#UD, its gate not present: #NP', asm('ud2'), [6], 11, 6 * 8 + 3],
      ['#UD and #NP, no gate present: #DF', asm('ud2'), [6, 11], 8, 0],
      ['#PF, its gate not present: #DF', asm(`mov eax, [${HOLE}]`), [14], 8, 0],
      ['INT n, its gate not present: #NP of the instruction', asm('int 0x70'), [0x70], 11, 0x70 * 8 + 2],
    ])('%s', (_, code, gates, vector, error) => {
      m.user(code.bytes);
      m.gate(0x70, { dpl: 3 });
      for (const gate of gates) m.view.setUint8(IDT + gate * 16 + 5, gate === 0x70 ? 0x6e : 0x0e);
      const trap = m.trap();
      expect(trap).toMatchObject({ vector, code: error, cs: UCODE64 });
      expect(trap.rip).toBeLessThan(code.bytes.length);
    });

    test('an external interrupt whose gate is not present is #NP with EXT', () => {
      m.kernel([0x90, 0x90]);
      cpu.rflags = 0x202;
      absent(0x40);
      m.pending = 0x40;
      expect(m.trap()).toMatchObject({ vector: 11, code: 0x40 * 8 + 3 });
    });

    test('a double fault that cannot be delivered shuts the processor down', () => {
      m.kernel([0x0f, 0x0b]);
      for (const v of [6, 11, 8]) absent(v);
      expect(m.run()).toBe('shutdown');
      cpu.shutdown = false;
    });

    test('a code segment that a gate may not have', () => {
      m.user([0x0f, 0x0b]);
      m.view.setUint16(IDT + 6 * 16 + 2, UCODE64 & ~3, true); // less privileged is no way in for an exception of the kernel
      m.view.setUint16(IDT + 13 * 16 + 2, KCODE64, true);
      const trap = m.trap();
      // From user mode the user's segment is one of the same level: the handler runs there, and its HLT is #GP.
      expect(trap).toMatchObject({ vector: 13, code: 0 });
      m.kernel([0x0f, 0x0b]);
      m.view.setUint16(IDT + 6 * 16 + 2, UCODE64 & ~3, true);
      expect(m.trap()).toMatchObject({ vector: 13, code: (UCODE64 & ~3) | 1 });
      m.kernel([0x0f, 0x0b]);
      m.view.setUint16(IDT + 6 * 16 + 2, KDATA, true);
      expect(m.trap()).toMatchObject({ vector: 13, code: KDATA | 1 });
    });

    test('an inner stack that is not canonical is #SS', () => {
      m.user([0x0f, 0x0b]);
      m.quad(TSS + 4, 0x8000_0000_1000n);
      m.gate(12, { ist: 1 });
      expect(m.trap()).toMatchObject({ vector: 12, code: 1 });
    });

    test('a stack of the IST that is not there', () => {
      m.user([0x0f, 0x0b]);
      m.gate(6, { ist: 2 });
      m.quad(TSS + 0x2c, HOLE + 0x1000);
      expect(m.trap()).toMatchObject({ vector: 14, code: 2, cs: UCODE64, cr2: HOLE + 0x1000 - 8 - 32 });
    });
  });

  describe('single steps', () => {
    /** Runs in user mode with TF; each trap's RIP and RFLAGS, up to the given number; the handler returns. */
    function steps(code: Code, most: number, prepare: () => void = () => undefined, cs = UCODE64): number[] {
      m.user(code.bytes, { rcx: 3, rsi: DATA, rdi: DATA + 0x100, rdx: DATA }, 0x202 | TF, cs);
      prepare();
      const out: number[] = [];
      for (let i = 0; i < most; i++) {
        const trap = m.trap();
        out.push(trap.vector === 1 ? trap.rip : -trap.vector);
        if (trap.vector !== 1) break;
        expect(Number(cpu.dr[6]! & 0xe00fn)).toBe(BS);
        // iretq
        cpu.memory.write(0xb000 + 0x800, Uint8Array.of(0x48, 0xcf));
        cpu.setRip(0xb800, 0);
      }
      return out;
    }

    test('each instruction, taken and not taken branches', () => {
      expect(steps(asm('nop; test ecx, ecx; jz %%a; jnz %%a; nop; %%a: nop; hlt'), 9)).toEqual([1, 3, 5, 8, 9, -13]);
    });

    test('each iteration of a repeated string instruction', () => {
      expect(steps(asm('rep movsb; nop; hlt'), 9)).toEqual([0, 0, 2, 3, -13]);
    });

    test('the instruction after MOV SS is stepped together with it', () => {
      expect(steps(asm('mov eax, ss; mov ss, eax; nop; nop; hlt'), 9)).toEqual([2, 5, 6, -13]);
    });

    test('POPF that sets TF: after the next instruction', () => {
      m.user(asm('pushf; or dword ptr [rsp], 0x100; popf; nop; nop').bytes);
      expect(m.trap()).toMatchObject({ vector: 1, rip: 10 });
    });

    test('POPF that clears TF is still stepped', () => {
      expect(steps(asm('pushf; and dword ptr [rsp], ~0x100; popf; nop; hlt'), 9)).toEqual([1, 8, 9, -13]);
    });

    test('an interrupt gate clears TF, and the frame keeps it', () => {
      expect(
        steps(asm('int 0x80'), 1, () => {
          m.gate(0x80, { dpl: 3 });
        }),
      ).toEqual([-0x80]);
      expect(Number(m.read(RSP0 - 24)) & TF).toBe(TF);
      expect(cpu.rflags & TF).toBe(0);
    });

    test('a fault comes instead of the step', () => {
      expect(steps(asm(`nop; mov eax, [${HOLE}]`), 3)).toEqual([1, -14]);
    });

    test('in compatibility mode', () => {
      expect(steps(asm32('inc eax; push eax; hlt'), 4, undefined, UCODE32)).toEqual([1, 2, -13]);
    });

    test('the clock does not run ahead', () => {
      const seen: number[] = [];
      m.bus.addPorts(0x90, 1, { readPort: () => 0, writePort: () => void seen.push(cpu.instructions) });
      m.kernel(asm('pushf; or dword ptr [rsp], 0x100; popf; out 0x90, al; out 0x90, al; nop').bytes);
      m.gate(1);
      cpu.memory.write(0xc000 + 16, Uint8Array.of(0x48, 0xcf));
      const start = cpu.instructions;
      m.run();
      expect(seen.map((n) => n - start < 30)).toEqual([true, true]);
      expect(seen[1]!).toBeGreaterThan(seen[0]!);
    });
  });

  describe('breakpoints', () => {
    /** DR0 at an address, with the type and length bits of DR7. */
    const arm = (address: number, type: number, length: number): void => {
      cpu.dr[0] = BigInt(address);
      cpu.dr[7] = BigInt(0x400 | 1 | (type << 16) | (length << 18));
      // As MOV to DR7 does.
      cpu.memory.write(CODE - 0x40, Uint8Array.of(0x0f, 0x23, 0xf8, 0xeb, 0x3b)); // mov dr7,rax; jmp CODE
      cpu.setBig(0, cpu.dr[7]);
      cpu.setRip(CODE - 0x40, 0);
    };
    const dr6 = (): number => Number(cpu.dr[6]! & 0xe00fn);
    beforeEach(() => (cpu.dr[6] = 0xffff0ff0n));
    afterEach(() => {
      m.kernel(asm('mov dr7, rax').bytes);
      m.run();
    });

    test('an instruction breakpoint comes before the instruction, and IRET with RF goes on', () => {
      m.kernel(asm('nop; inc ecx; nop').bytes);
      arm(CODE + 1, 0, 0);
      const trap = m.trap();
      expect(trap).toMatchObject({ vector: 1, rip: 1 });
      // RF is for the handler to set (SDM vol. 3, 18.3.1.1).
      expect([trap.flags & RF, dr6(), cpu.low(1)]).toEqual([0, B0, 0]);
      m.quad(Number(cpu.big(4)) + 16, RF | 2);
      cpu.memory.write(0xb800, Uint8Array.of(0x48, 0xcf));
      cpu.setRip(0xb800, 0);
      expect(m.run()).toBe('halted');
      expect(cpu.low(1)).toBe(1);
    });

    test.each<[string, Code, number, number, number, boolean]>([
      ['a write of what is watched', asm('mov [rdx], eax; nop'), DATA, 1, 3, true],
      ['a read, watched for writes', asm('mov eax, [rdx]; nop'), DATA, 1, 3, false],
      ['a read, watched for both', asm('mov eax, [rdx]; nop'), DATA, 3, 3, true],
      ['a byte beside', asm('mov [rdx+4], al; nop'), DATA, 1, 3, false],
      ['eight bytes that end in it', asm('mov [rdx-7], rax; nop'), DATA, 1, 0, true],
      ['PUSH', asm('push rax; nop'), KERNEL_STACK - 8, 1, 2, true],
      ['a locked read-modify-write', asm('lock inc dword ptr [rdx]; nop'), DATA, 1, 3, true],
      ['MOVUPS across', asm('movups [rdx-12], xmm0; nop'), DATA, 1, 0, true],
    ])('%s', (_, code, at, type, length, hit) => {
      m.kernel(code.bytes, { rdx: DATA });
      units();
      arm(at, type, length);
      if (!hit) {
        expect(m.run()).toBe('halted');
        expect(dr6()).toBe(0);
        return;
      }
      expect(m.trap()).toMatchObject({ vector: 1, rip: code.bytes.length - 1 });
      expect(dr6()).toBe(B0);
    });

    test('a repeated string instruction stops after the iteration that hit', () => {
      m.kernel(asm('rep stosb').bytes, { rdi: DATA, rcx: 10 });
      arm(DATA + 3, 1, 0);
      expect(m.trap()).toMatchObject({ vector: 1, rip: 0 });
      expect([cpu.low(7), cpu.low(1)]).toEqual([DATA + 4, 6]);
    });

    test('with TF, both are in DR6', () => {
      m.kernel(asm('mov [rdx], eax; nop').bytes, { rdx: DATA });
      arm(DATA, 1, 3);
      cpu.rflags = 2 | TF;
      // The two instructions that arm it are stepped first.
      for (let i = 0; i < 4; i++) {
        const trap = m.trap();
        if (trap.rip === 2) break;
        cpu.memory.write(0xb800, Uint8Array.of(0x48, 0xcf));
        cpu.setRip(0xb800, 0);
      }
      expect(dr6()).toBe(B0 | BS);
    });

    test('a breakpoint on a port', () => {
      m.kernel(asm('in al, 0x61; nop').bytes);
      cpu.cr4 |= 8;
      arm(0x60, 2, 1);
      expect(m.trap()).toMatchObject({ vector: 1, rip: 2 });
    });
  });

  describe('interrupts', () => {
    const ask = (vector: number): void => {
      m.pending = vector;
      cpu.interruptChanged();
    };

    test('STI holds them for one instruction, a second STI does not', () => {
      m.kernel(asm('sti; cli; sti; sti; hlt; nop').bytes);
      ask(0x30);
      // The CLI in the shadow comes in time.
      expect(m.trap()).toMatchObject({ vector: 0x30, rip: 5 });
    });

    test.each([
      ['MOV SS', asm('mov ss, eax; inc ecx; inc ecx'), 4],
      ['POP SS', asm32('.byte 0x17; inc ecx; inc ecx'), 2],
    ])('%s holds them for one instruction', (name, code, at) => {
      if (name === 'MOV SS') {
        m.kernel(code.bytes, { rax: KDATA });
        cpu.rflags = 0x202;
      } else {
        m.user(code.bytes, {}, 0x202, UCODE32);
        m.quad(0x40_0000, 0x2b);
        // Up to the code.
        for (let i = 0; i < 5 && Number(cpu.rip) !== CODE; i++) cpu.step();
      }
      cpu.step();
      ask(0x31);
      expect(m.trap()).toMatchObject({ vector: 0x31, rip: at });
    });

    test('HLT with interrupts off waits for ever, and says so', () => {
      m.kernel([0xf4]);
      ask(0x33);
      expect(cpu.run(1000)).toBe('halted');
      expect(cpu.run(1000)).toBe('halted');
      cpu.halted = false;
      m.pending = -1;
    });

    test('one comes between two iterations of a repeated instruction, which goes on afterwards', () => {
      // The device asks for an interrupt at the third byte.
      let bytes = 0;
      m.bus.addPorts(0x91, 1, {
        readPort: () => 0,
        writePort: () => {
          if (++bytes === 3) ask(0x35);
        },
      });
      m.kernel(asm('rep outsb').bytes, { rcx: 10, rsi: DATA, rdx: 0x91 });
      cpu.rflags = 0x202;
      const trap = m.trap();
      expect(trap).toMatchObject({ vector: 0x35, rip: 0 });
      expect([bytes + cpu.low(1), cpu.low(6) - DATA]).toEqual([10, bytes]);
      expect(bytes).toBeLessThan(10);
      cpu.memory.write(0xb800, Uint8Array.of(0x48, 0xcf));
      cpu.setRip(0xb800, 0);
      m.run();
      expect([bytes, cpu.low(1)]).toEqual([10, 0]);
    });

    test('a long REP STOS lets go when its slice is over', () => {
      m.kernel(asm('rep stosb').bytes, { rcx: 8 << 20, rdi: DATA, rax: 0x5a });
      let slices = 0;
      while (cpu.run(100) === 'budget' && slices < 1e6) slices++;
      cpu.halted = false;
      expect(slices).toBeGreaterThan(3);
      expect([cpu.low(1), cpu.low(7)]).toEqual([0, DATA + (8 << 20)]);
      expect(cpu.memory.bytes[DATA + (8 << 20) - 1]).toBe(0x5a);
    });
  });

  test('the TSC never goes back, whatever runs', () => {
    // Reads it in a loop that is stepped in between: each value above the one before.
    m.kernel(
      asm(
        'mov r9d, 200; %%again: rdtsc; shl rdx, 32; or rax, rdx; cmp rax, r8; jb %%bad; mov r8, rax; pushf; xor dword ptr [rsp], 0x100; popf; dec r9d; jnz %%again; mov bl, 1; %%bad: nop; and dword ptr [rsp-8], ~0x100',
      ).bytes,
    );
    cpu.memory.write(0xc000 + 16, Uint8Array.of(0x48, 0xcf)); // #DB: iretq
    const base = cpu.instructions;
    Object.defineProperty(m, 'time', { get: () => cpu.instructions - base, set: () => undefined, configurable: true });
    expect(m.run()).toBe('halted');
    expect(cpu.low(3) & 0xff).toBe(1);
    Object.defineProperty(m, 'time', { value: 0, writable: true, configurable: true });
  });
});
