/** Ways between privilege levels and modes: IRET in every direction, far transfers, fast system calls, stacks of the TSS. */
import { describe, expect, test } from 'vitest';
import { asm, asm32, assembles, type Code } from './assembler.ts';
import {
  ABSENT,
  CODE,
  DATA,
  FREE,
  GDT,
  IST1,
  KCODE32,
  KCODE64,
  KDATA,
  KERNEL_STACK,
  RSP0,
  SystemMachine,
  TSS,
  UCODE32,
  UCODE64,
  UDATA,
  USER_STACK,
  watchCompiler,
} from './system-machine.ts';

const ES = 0;
const CS = 1;
const SS = 2;
const DS = 3;
/** Where each transfer goes to. */
const THERE = CODE + 0x400;

watchCompiler();

describe.skipIf(!assembles).each(['interp', 'jit'] as const)('%s', (tier) => {
  const m = new SystemMachine(tier);
  const { cpu } = m;

  /** INT 0x80 at THERE, so that a transfer that arrives shows where it came from and what it has. */
  function arrive(): void {
    cpu.memory.write(THERE, Uint8Array.of(0xcd, 0x80, 0xf4));
    m.gate(0x80, { dpl: 3, ist: 1 });
  }
  const frame = (at: number, size: 4 | 8, ...values: number[]): void =>
    values.forEach((value, i) => {
      if (size === 8) m.quad(at + i * 8, value);
      else m.view.setUint32(at + i * 4, value, true);
    });

  const iretq = asm('iretq');
  const iretd = asm32('iretd');

  describe('IRET', () => {
    test.each<[string, 'kernel' | 'user' | 'compat', number, number, number]>([
      ['from the kernel to itself', 'kernel', KCODE64, KDATA, KERNEL_STACK - 64],
      ['from the kernel to itself, SS null', 'kernel', KCODE64, 0, KERNEL_STACK - 64],
      ['from the kernel to a user', 'kernel', UCODE64, UDATA, USER_STACK],
      ['from the kernel to 32-bit user code', 'kernel', UCODE32, UDATA, USER_STACK],
      ['from the kernel to 32-bit kernel code', 'kernel', KCODE32, KDATA, KERNEL_STACK - 64],
      ['from a user to itself', 'user', UCODE64, UDATA, USER_STACK - 64],
      ['from a user to 32-bit code', 'user', UCODE32, UDATA, USER_STACK - 64],
      ['from 32-bit user code to itself', 'compat', UCODE32, UDATA, USER_STACK - 64],
      ['from 32-bit user code to 64-bit user code', 'compat', UCODE64, UDATA, USER_STACK - 64],
    ])('%s', (_, who, cs, ss, rsp) => {
      const size = who === 'compat' ? 4 : 8;
      if (who === 'kernel') m.kernel(iretq.bytes, { rsp: KERNEL_STACK - 64 });
      else m.user((size === 8 ? iretq : iretd).bytes, {}, 0x202, who === 'user' ? UCODE64 : UCODE32);
      arrive();
      // In 64-bit code SS:RSP is always popped; within a level 32-bit code keeps them.
      frame(who === 'kernel' ? KERNEL_STACK - 64 : USER_STACK, size, THERE, cs, 0xad7, rsp, ss);
      const same = who === 'compat';
      const trap = m.trap();
      expect(trap).toMatchObject({ vector: 0x80, rip: THERE + 2 - CODE, cs });
      expect([trap.rsp, trap.ss]).toEqual(same ? [USER_STACK + 12, UDATA] : [rsp, ss]);
      // TF is not in it; IF only where it may be changed, IOPL only by the kernel.
      expect(trap.flags).toBe(who === 'kernel' ? 0xad7 : 0xad7 | 0x200);
    });

    test('of 16 bits', () => {
      m.kernel(asm('iretw').bytes, { rsp: DATA, rax: 1n << 40n });
      // Only 16 bits of RIP: a segment of the kernel's 32-bit code at CODE makes something of them.
      m.descriptor(FREE, 0x00009b00_0000ffffn | (BigInt(CODE & 0xffffff) << 16n));
      [0x400, FREE, 0x2].forEach((value, i) => m.view.setUint16(DATA + i * 2, value, true));
      m.view.setUint16(DATA + 6, 0x9000, true);
      m.view.setUint16(DATA + 8, KDATA, true);
      cpu.memory.write(THERE, Uint8Array.of(0xcd, 0x80));
      m.gate(0x80, { ist: 1 });
      expect(m.trap()).toMatchObject({ vector: 0x80, cs: FREE, rip: 0x402 - CODE });
    });

    test.each<[string, number[], number, number, (() => void)?]>([
      ['CS null', [THERE, 3, 2, USER_STACK, UDATA], 13, 0],
      ['CS past the GDT', [THERE, 0x103, 2, USER_STACK, UDATA], 13, 0x100],
      ['CS is data', [THERE, UDATA, 2, USER_STACK, UDATA], 13, UDATA & ~3],
      ['CS of another level', [THERE, KCODE64 | 3, 2, USER_STACK, UDATA], 13, KCODE64],
      [
        'CS not present',
        [THERE, FREE | 3, 2, USER_STACK, UDATA],
        11,
        FREE,
        () => m.descriptor(FREE, 0x00af7b000000ffffn),
      ],
      [
        'CS both 64-bit and 32-bit',
        [THERE, FREE | 3, 2, USER_STACK, UDATA],
        13,
        FREE,
        () => m.descriptor(FREE, 0x00effb000000ffffn),
      ],
      ['SS null for a user', [THERE, UCODE64, 2, USER_STACK, 3], 13, 0],
      ['SS null for 32-bit kernel code', [THERE, KCODE32, 2, KERNEL_STACK, 0], 13, 0],
      ['SS of another level', [THERE, UCODE64, 2, USER_STACK, KDATA], 13, KDATA],
      ['SS is code', [THERE, UCODE64, 2, USER_STACK, UCODE64], 13, UCODE64 & ~3],
      ['SS not present', [THERE, UCODE64, 2, USER_STACK, ABSENT], 12, ABSENT & ~3],
      [
        'SS that cannot be written',
        [THERE, UCODE64, 2, USER_STACK, FREE | 3],
        13,
        FREE,
        () => m.descriptor(FREE, 0x00cff1000000ffffn),
      ],
      [
        'RIP past the limit of 32-bit code',
        [THERE, FREE | 3, 2, USER_STACK, UDATA],
        13,
        0,
        () => m.descriptor(FREE, 0x0040fb000000ffffn),
      ],
    ])('%s', (_, values, vector, code, prepare) => {
      m.kernel(iretq.bytes, { rsp: KERNEL_STACK - 64 });
      frame(KERNEL_STACK - 64, 8, ...values);
      prepare?.();
      // Nothing has changed: the handler's frame shows the kernel at its IRET.
      expect(m.trap()).toMatchObject({ vector, code, rip: 0, cs: KCODE64, rsp: KERNEL_STACK - 64, ss: KDATA });
    });

    test('to an address that is not canonical', () => {
      m.kernel(iretq.bytes, { rsp: KERNEL_STACK - 64 });
      frame(KERNEL_STACK - 64, 8, 0x8000_0000_0000, UCODE64, 2, USER_STACK, UDATA);
      expect(m.trap()).toMatchObject({ vector: 13, code: 0, rip: 0, cs: KCODE64 });
    });

    test('to an outer level makes what it may not use null, and leaves conforming and user segments', () => {
      m.kernel(asm(`mov eax, ${KDATA}; mov ds, eax; mov eax, ${UDATA}; mov es, eax; iretq`).bytes, {
        rsp: KERNEL_STACK - 64,
      });
      arrive();
      frame(KERNEL_STACK - 64, 8, THERE, UCODE64, 2, USER_STACK, UDATA);
      m.trap();
      expect([cpu.segments[DS]!.selector, cpu.segments[DS]!.usable, cpu.segments[ES]!.selector]).toEqual([
        0,
        false,
        UDATA,
      ]);
    });

    test('a page fault in the frame leaves everything', () => {
      m.user(iretq.bytes);
      cpu.setBig(3, 1n);
      m.quad(KERNEL_STACK - 40 + 24, 0xe0_0000 - 8); // RSP: the frame runs into the hole
      expect(m.trap()).toMatchObject({ vector: 14, rip: 0, rsp: 0xe0_0000 - 8, cs: UCODE64 });
    });
  });

  describe('far transfers', () => {
    /** A far pointer in memory at DATA, used by `use`. */
    const pointer = (selector: number, offset = THERE, size: 4 | 8 = 4): void => {
      frame(DATA, size, offset);
      m.view.setUint16(DATA + size, selector, true);
    };

    test.each<[string, Code, number, number]>([
      ['JMP to 64-bit code', asm(`jmp fword ptr [${DATA}]`), KCODE64, 0],
      ['JMP to 32-bit code', asm(`jmp fword ptr [${DATA}]`), KCODE32, 0],
      ['CALL', asm(`call fword ptr [${DATA}]`), KCODE64, 8],
      ['CALL with REX.W', asm(`rex.w call fword ptr [${DATA}]`), KCODE64, 16],
      ['CALL to 32-bit code', asm(`call fword ptr [${DATA}]`), KCODE32, 8],
    ])('%s', (name, code, selector, pushed) => {
      m.kernel(code.bytes);
      arrive();
      pointer(selector, THERE, name.includes('REX') ? 8 : 4);
      expect(m.trap()).toMatchObject({ vector: 0x80, cs: selector, rsp: KERNEL_STACK - pushed });
      if (pushed) {
        const at = KERNEL_STACK - pushed;
        const read = (i: number): number =>
          pushed === 16 ? Number(m.read(at + i * 8)) : m.view.getUint32(at + i * 4, true);
        expect([read(0), read(1)]).toEqual([CODE + code.bytes.length, KCODE64]);
      }
    });

    test.each<[string, number, number, number]>([
      ['null', 0, 13, 0],
      ['data', KDATA, 13, KDATA],
      ["the user's code", UCODE64, 13, UCODE64 & ~3],
      ['past the GDT', 0x200, 13, 0x200],
      ['a TSS: there are no task switches in long mode', 0x40, 13, 0x40],
    ])('JMP to %s', (_, selector, vector, code) => {
      m.kernel(asm(`jmp fword ptr [${DATA}]`).bytes);
      pointer(selector);
      expect(m.trap()).toMatchObject({ vector, code, rip: 0 });
    });

    test('conforming code runs at the level that jumps there', () => {
      m.user(asm(`jmp fword ptr [${DATA}]`).bytes);
      arrive();
      m.descriptor(FREE, 0x00af9f000000ffffn);
      pointer(FREE);
      expect(m.trap()).toMatchObject({ vector: 0x80, cs: FREE | 3 });
    });

    test('RETF to an outer level, with arguments dropped from both stacks', () => {
      m.kernel(asm('rex.w retf 0x18').bytes, { rsp: KERNEL_STACK - 128 });
      arrive();
      frame(KERNEL_STACK - 128, 8, THERE, UCODE64, 1, 2, 3, USER_STACK, UDATA);
      expect(m.trap()).toMatchObject({ vector: 0x80, cs: UCODE64, rsp: USER_STACK + 0x18, ss: UDATA });
    });

    test('a 32-bit user crosses to 64-bit code and back', () => {
      const there = asm(`mov r8, 0x123456789abc; push ${UCODE32}; push ${CODE + 7}; rex.w retf`);
      m.user(asm32(`jmp ${UCODE64}:${THERE}; int 0x80`).bytes, {}, 0x202, UCODE32);
      m.gate(0x80, { dpl: 3 });
      cpu.memory.write(THERE, Uint8Array.from(there.bytes));
      expect(m.trap()).toMatchObject({ vector: 0x80, cs: UCODE32, rip: 9 });
      expect(cpu.big(8)).toBe(0x123456789abcn);
    });
  });

  describe('fast system calls', () => {
    const ENTRY = THERE;
    function system(): void {
      cpu.efer |= 1;
      cpu.sys.starHigh = (0x20 << 16) | KCODE64;
      cpu.sys.lstarLow = ENTRY;
      cpu.sys.sfmask = 0x47700;
      Object.assign(cpu.sys, { sysenterCs: KCODE64, sysenterEspLow: KERNEL_STACK, sysenterEipLow: ENTRY });
    }

    test('SYSCALL keeps RFLAGS in R11, masks it, and clears RF', () => {
      m.user(asm('std; stc; syscall').bytes);
      system();
      cpu.memory.write(ENTRY, Uint8Array.from(asm('pushf; pop rbx; hlt').bytes));
      cpu.setBig(4, BigInt(KERNEL_STACK - 40));
      m.run();
      expect([cpu.low(11), cpu.low(3), cpu.low(1)]).toEqual([0x603, 3, CODE + 4]);
      expect([CS, SS].map((n) => cpu.segments[n]!.selector)).toEqual([KCODE64, KCODE64 + 8]);
      expect(cpu.segments[SS]!.limit).toBe(0xffffffff);
    });

    test('SYSCALL with TF that is masked is not followed by a step', () => {
      m.user(asm('syscall').bytes, {}, 0x302);
      system();
      cpu.memory.write(ENTRY, Uint8Array.of(0x90, 0xf4));
      expect(m.run()).toBe('halted');
      expect([Number(cpu.rip), cpu.low(11)]).toEqual([ENTRY + 2, 0x302]);
    });

    test('SYSENTER with TF is', () => {
      m.user(asm('sysenter').bytes, {}, 0x302);
      system();
      cpu.memory.write(ENTRY, Uint8Array.of(0x90, 0xf4));
      expect(m.trap()).toMatchObject({ vector: 1, rip: ENTRY - CODE, cs: KCODE64 });
    });

    test.each<[string, Code, number, number]>([
      ['SYSRETQ', asm('.byte 0x48, 0x0f, 0x07'), UCODE64, 0x30 + 3],
      ['SYSRETL', asm('.byte 0x0f, 0x07'), UCODE32, 0x20 + 3],
    ])('%s', (_, code, cs) => {
      m.kernel(code.bytes, { rcx: THERE, r11: 0x7d7fd7, rsp: USER_STACK });
      arrive();
      system();
      const trap = m.trap();
      expect(trap).toMatchObject({ vector: 0x80, cs, ss: UDATA, rsp: USER_STACK, rip: THERE + 2 - CODE });
      // VM is never set; RF does not outlive the first instruction.
      expect(trap.flags & ~0x10000).toBe(0x3c7fd7 & ~0x10000);
    });

    test.each<[string, Code, number]>([
      ['SYSEXIT to 32-bit code', asm('.byte 0x0f, 0x35'), KCODE64 + 16 + 3],
      ['SYSEXIT to 64-bit code', asm('.byte 0x48, 0x0f, 0x35'), KCODE64 + 32 + 3],
    ])('%s', (_, code, cs) => {
      m.kernel(code.bytes, { rcx: USER_STACK, rdx: THERE });
      arrive();
      system();
      expect(m.trap()).toMatchObject({ vector: 0x80, cs, ss: cs + 8, rsp: USER_STACK });
    });

    test.each<[string, Code, Partial<Record<'rcx' | 'rdx', bigint>>, boolean, number]>([
      ['SYSEXIT without IA32_SYSENTER_CS', asm('.byte 0x0f, 0x35'), {}, true, 13],
      ['SYSEXIT to RIP that is not canonical', asm('.byte 0x48, 0x0f, 0x35'), { rdx: 1n << 47n }, false, 13],
      ['SYSEXIT to RSP that is not canonical', asm('.byte 0x48, 0x0f, 0x35'), { rcx: 1n << 47n }, false, 13],
    ])('%s', (_, code, registers, none, vector) => {
      m.kernel(code.bytes, registers);
      system();
      if (none) cpu.sys.sysenterCs = 3;
      expect(m.trap()).toMatchObject({ vector, code: 0, rip: 0, cs: KCODE64 });
    });

    test('SYSRET and SYSEXIT are #GP for users, SYSCALL is #UD in 32-bit code', () => {
      for (const code of [asm('.byte 0x48, 0x0f, 0x07').bytes, [0x0f, 0x35]]) {
        m.user(code);
        system();
        expect(m.trap()).toMatchObject({ vector: 13, code: 0 });
      }
      m.user([0x0f, 0x05], {}, 0x202, UCODE32);
      system();
      expect(m.trap().vector).toBe(6);
    });

    test('INT 0x80 of 32-bit code, and IRETQ back to it', () => {
      m.user(asm32('mov eax, 20; int 0x80; mov ebx, eax; int 0x81').bytes, {}, 0x202, UCODE32);
      m.gate(0x80, { dpl: 3 });
      m.gate(0x81, { dpl: 3 });
      cpu.memory.write(0xc000 + 0x800, Uint8Array.from(asm('add eax, 1; iretq').bytes));
      expect(m.trap()).toMatchObject({ vector: 0x81, cs: UCODE32, ss: UDATA, rsp: USER_STACK });
      expect(cpu.big(3)).toBe(21n);
    });
  });

  describe('stacks of the TSS', () => {
    test('each level and each entry of the IST has its own', () => {
      for (let ist = 1; ist <= 7; ist++) {
        m.user([0xcd, 0x70]);
        m.gate(0x70, { dpl: 3, ist });
        m.quad(TSS + 0x1c + ist * 8, 0x50_0000 + ist * 0x1000);
        m.fault();
        expect(Number(cpu.big(4))).toBe(0x50_0000 + ist * 0x1000 - 40);
      }
    });

    test('an exception of the kernel with an IST stack leaves the one it had', () => {
      m.kernel([0x0f, 0x0b]);
      m.gate(6, { ist: 1 });
      expect(m.trap()).toMatchObject({ rsp: KERNEL_STACK, ss: KDATA });
      expect(Number(cpu.big(4))).toBe(IST1 - 40);
    });

    test('a call gate from a user to the kernel, and back', () => {
      m.user(asm(`call fword ptr [${DATA}]; int 0x80`).bytes);
      m.gate(0x80, { dpl: 3 });
      m.view.setUint16(DATA + 4, FREE | 3, true);
      m.quad(
        GDT + FREE,
        BigInt(THERE & 0xffff) | (BigInt(KCODE64) << 16n) | (0xec00n << 32n) | (BigInt(THERE >> 16) << 48n),
      );
      m.quad(GDT + FREE + 8, 0);
      cpu.gdt.limit = 0x6f;
      cpu.memory.write(THERE, Uint8Array.from(asm('mov rbx, rsp; rex.w retf').bytes));
      expect(m.trap()).toMatchObject({ vector: 0x80, cs: UCODE64, rsp: USER_STACK });
      expect(cpu.low(3)).toBe(RSP0 - 32);
    });
  });
});
