import { beforeEach, describe, expect, test } from 'vitest';
import { S } from '../../../emulator/cpu/layout.ts';
import { asm32, assembles } from './assembler.ts';
import {
  CODE,
  DATA,
  FREE,
  GDT,
  HANDLERS,
  HOLE,
  IDT,
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
} from './system-machine.ts';

describe.each(['interp', 'jit'] as const)('%s', (tier) => {
  const m = new SystemMachine(tier);
  const big = (...values: number[]): bigint[] => values.map(BigInt);

  /** #GP of the first instruction. */
  function expectGp(code: number): void {
    const { vector, stack } = m.fault();
    expect(vector).toBe(13);
    expect(stack.slice(0, 2)).toEqual(big(code, CODE));
  }

  beforeEach(() => {
    m.time = 0;
  });

  describe('interrupt gates in long mode', () => {
    test('INT n from user mode switches to RSP0 and clears IF', () => {
      m.user([0xcd, 0x80]);
      m.gate(0x80, { dpl: 3 });
      const { vector, stack } = m.fault();
      expect(vector).toBe(0x80);
      expect(stack.slice(0, 5)).toEqual(big(CODE + 2, UCODE64, 0x202, USER_STACK, UDATA));
      expect(m.cpu.big(4)).toBe(BigInt(RSP0 - 40));
      expect(m.cpu.cpl).toBe(0);
      expect(m.cpu.segments[1]!.selector).toBe(KCODE64);
      expect(m.cpu.segments[2]!.selector).toBe(0);
      expect(m.interruptsOn).toBe(false);
    });

    test.each([8, 16, 24, 40, 48])(
      'a frame of which %i bytes lie in another page is the same, and IRET takes it',
      (over) => {
        const top = 0x40_0000 + Math.ceil(over / 16) * 16;
        m.user([0x8b, 0x00, 0x90], { rax: HOLE + 5 }); // mov eax,[rax]; nop
        m.quad(TSS + 4, top);
        // add rsp,8; add qword [rsp],2; iretq
        m.cpu.memory.write(
          HANDLERS + 14 * 16,
          Uint8Array.from([0x48, 0x83, 0xc4, 8, 0x48, 0x83, 4, 0x24, 2, 0x48, 0xcf]),
        );
        const { vector, stack } = m.fault(); // HLT in user mode
        expect(vector).toBe(13);
        expect(stack).toEqual(big(0, CODE + 3, UCODE64, 0x10202, USER_STACK, UDATA));
        expect(m.cpu.big(4)).toBe(BigInt(top - 48));
        expect([m.read(top - 40), m.read(top - 8)]).toEqual(big(CODE + 3, UDATA));
      },
    );

    test('a trap gate leaves IF', () => {
      m.user([0xcd, 0x81]);
      m.gate(0x81, { dpl: 3, type: 15 });
      m.fault();
      expect(m.interruptsOn).toBe(true);
    });

    test('INT n through a gate of a lower DPL is #GP with the gate as its code', () => {
      m.user([0xcd, 0x82]);
      expect(m.fault()).toMatchObject({
        vector: 13,
        stack: big(0x82 * 8 + 2, CODE, UCODE64, 0x10202, USER_STACK, UDATA),
      });
    });

    test('a page fault gives CR2, the error code, RF, and the faulting RIP', () => {
      m.user([0x90, 0x8b, 0x00], { rax: HOLE + 5 }); // mov eax,[rax]
      const { vector, stack } = m.fault();
      expect(vector).toBe(14);
      expect(stack.slice(0, 4)).toEqual(big(4, CODE + 1, UCODE64, 0x10202));
      expect(m.cpu.u64[(m.cpu.state + 0x2b0) >> 3]).toBe(BigInt(HOLE + 5));
    });

    test('a kernel exception stays on its stack, aligned to 16', () => {
      m.kernel([0x0f, 0x0b], { rsp: KERNEL_STACK - 8 }); // ud2
      const { vector, stack } = m.fault();
      expect(vector).toBe(6);
      expect(m.cpu.big(4)).toBe(BigInt(KERNEL_STACK - 16 - 40));
      expect(stack.slice(0, 5)).toEqual(big(CODE, KCODE64, 0x10002, KERNEL_STACK - 8, KDATA));
    });

    test('an IST stack is taken whatever the privilege', () => {
      m.kernel([0x0f, 0x0b]);
      m.gate(6, { ist: 1 });
      m.fault();
      expect(m.cpu.big(4)).toBe(BigInt(IST1 - 40));
    });

    test('a page fault whose frame faults is a double fault with code 0', () => {
      m.kernel([0x8b, 0x00], { rax: HOLE, rsp: HOLE + 0x1000 });
      m.gate(8, { ist: 1 });
      const { vector, stack } = m.fault();
      expect(vector).toBe(8);
      expect(stack.slice(0, 2)).toEqual(big(0, CODE));
      expect(stack[4]).toBe(BigInt(HOLE + 0x1000));
    });

    test('a fault in a double fault shuts down', () => {
      m.kernel([0x8b, 0x00], { rax: HOLE, rsp: HOLE + 0x1000 });
      expect(m.run()).toBe('shutdown');
      m.cpu.shutdown = false;
    });

    test('a benign exception whose gate is missing becomes #NP with EXT', () => {
      m.kernel([0x0f, 0x0b]);
      m.view.setUint8(IDT + 6 * 16 + 5, 0x0e);
      expect(m.fault()).toMatchObject({
        vector: 11,
        stack: big(6 * 8 + 3, CODE, KCODE64, 0x10002, KERNEL_STACK, KDATA),
      });
    });

    test('a vector past the IDT limit is #GP', () => {
      m.kernel([0xcd, 0xf0]);
      m.cpu.idt.limit = 0x1ff;
      expectGp(0xf0 * 8 + 2);
    });
  });

  describe('IRETQ', () => {
    test('a null CS is #GP(0) and changes nothing', () => {
      m.user([0x90], {}, 0x202, 0);
      const { vector, stack } = m.fault();
      expect(vector).toBe(13);
      expect(stack.slice(0, 2)).toEqual(big(0, CODE - 16));
      expect(stack[4]).toBe(BigInt(KERNEL_STACK - 40));
    });

    test('to compatibility mode runs 32-bit code', () => {
      m.user([0x40, 0xcd, 0x80], { rax: 0x1_ffff_ffffn }, 0x202, UCODE32); // inc eax
      m.gate(0x80, { dpl: 3 });
      const { stack } = m.fault();
      expect(m.cpu.big(0)).toBe(0n);
      expect(stack.slice(0, 2)).toEqual(big(CODE + 3, UCODE32));
    });

    test('user mode cannot change IF or IOPL', () => {
      m.user([0x48, 0xcf, 0x90], {});
      [CODE + 2, UCODE64, 0x3802, USER_STACK, UDATA].forEach((value, i) => m.quad(USER_STACK + i * 8, value));
      m.fault(); // the HLT after the code
      const flags = Number(m.read(RSP0 - 24));
      expect(flags & 0x3a00).toBe(0xa00);
    });

    test('NT in long mode is #GP', () => {
      m.user([0x90]);
      m.cpu.rflags = 0x4002;
      expect(m.fault().vector).toBe(13);
    });
  });

  describe('fast system calls', () => {
    const star = (): void => {
      m.cpu.efer |= 1;
      // SYSCALL: CS 10, SS 18. SYSRET: CS 20 + 16, SS 20 + 8.
      m.cpu.sys.starHigh = (0x20 << 16) | KCODE64;
      m.cpu.sys.lstarLow = CODE + 0x100;
      m.cpu.sys.sfmask = 0x200;
    };

    test('SYSCALL and SYSRET there and back', () => {
      m.user([0x0f, 0x05, 0xb3, 7]); // syscall; mov bl,7; hlt → #GP
      star();
      m.cpu.memory.write(CODE + 0x100, Uint8Array.from([0x9c, 0x5a, 0x48, 0x0f, 0x07])); // pushf; pop rdx; sysretq
      expect(m.fault().vector).toBe(13);
      expect(m.cpu.big(1)).toBe(BigInt(CODE + 2));
      expect(m.cpu.big(11)).toBe(0x202n);
      expect(m.cpu.big(2)).toBe(2n); // IF was masked
      expect(m.cpu.low(3)).toBe(7);
      expect(m.read(RSP0 - 32)).toBe(BigInt(UCODE64));
    });

    test('SYSRET to a RIP that is not canonical is #GP at CPL 0', () => {
      m.kernel([0x48, 0x0f, 0x07], { rcx: 0x8000_0000_0000n });
      star();
      expect(m.fault()).toMatchObject({ vector: 13, stack: big(0, CODE, KCODE64, 0x10002, KERNEL_STACK, KDATA) });
    });

    test('SYSCALL without EFER.SCE is #UD', () => {
      m.user([0x0f, 0x05]);
      expect(m.fault().vector).toBe(6);
    });

    test('SYSENTER from compatibility mode enters 64-bit code', () => {
      m.user([0x0f, 0x34], {}, 0x202, UCODE32);
      Object.assign(m.cpu.sys, { sysenterCs: KCODE64, sysenterEspLow: KERNEL_STACK, sysenterEipLow: CODE + 0x100 });
      m.cpu.memory.write(CODE + 0x100, Uint8Array.from([0x48, 0xff, 0xc0, 0xf4])); // inc rax
      m.cpu.setBig(0, 0xffff_ffffn);
      expect(m.run()).toBe('halted');
      expect(m.cpu.big(0)).toBe(0x1_0000_0000n);
      expect(m.cpu.cpl).toBe(0);
      expect(m.cpu.big(4)).toBe(BigInt(KERNEL_STACK));
    });

    test('SWAPGS exchanges the bases and is privileged', () => {
      m.kernel([0x0f, 0x01, 0xf8, 0x65, 0x8b, 0x04, 0x25, 0, 0, 0, 0]); // swapgs; mov eax,gs:[0]
      const kernelGs = (m.cpu.state + S.KERNEL_GS_BASE) >> 2;
      m.cpu.i32[kernelGs] = DATA;
      m.cpu.setSegmentBase(5, 0x1234, 0);
      m.quad(DATA, 0x55aa);
      m.run();
      expect(m.cpu.low(0)).toBe(0x55aa);
      expect(m.cpu.i32[kernelGs]).toBe(0x1234);
      m.user([0x0f, 0x01, 0xf8]);
      expect(m.fault().vector).toBe(13);
    });
  });

  describe('external interrupts', () => {
    test('are taken when STI sets IF, after the next instruction', () => {
      m.kernel([0xfb, 0xff, 0xc0, 0xff, 0xc0]); // sti; inc eax; inc eax
      m.pending = 0x30;
      m.cpu.interruptChanged();
      const { vector, stack } = m.fault();
      expect(vector).toBe(0x30);
      expect(Number(stack[0])).toBeGreaterThanOrEqual(CODE + 3);
    });

    test('STI and HLT are not torn apart', () => {
      m.kernel([0xfb, 0xf4]);
      m.pending = 0x30;
      m.cpu.interruptChanged();
      expect(m.cpu.run(1000)).toBe('halted');
      expect(m.read(Number(m.cpu.big(4)))).toBe(BigInt(CODE + 2));
      m.cpu.halted = false;
    });

    test('CLI in user mode without IOPL is #GP(0)', () => {
      m.user([0xfa]);
      expectGp(0);
    });
  });

  describe('call gates', () => {
    const gate = (dpl: number): void => {
      m.view.setUint32(GDT + FREE, ((CODE + 0x100) & 0xffff) | (KCODE64 << 16), true);
      m.view.setUint32(GDT + FREE + 4, ((CODE + 0x100) & 0xffff0000) | 0x8c00 | (dpl << 13), true);
      m.quad(GDT + FREE + 8, 0);
      m.cpu.memory.write(CODE + 0x100, Uint8Array.from([0x48, 0xcb])); // retfq
      m.view.setUint32(DATA, 0, true);
      m.view.setUint16(DATA + 4, FREE | 3, true);
    };

    test('a far call from user mode goes to the inner stack, and RETF back', () => {
      m.user([0xff, 0x1c, 0x25, DATA & 0xff, (DATA >> 8) & 0xff, DATA >> 16, 0, 0x66, 0x8c, 0xd3]); // mov bx,ss
      gate(3);
      expect(m.fault().vector).toBe(13); // HLT in user mode
      expect(m.cpu.low(3) & 0xffff).toBe(UDATA);
      expect(m.read(RSP0 - 8)).toBe(BigInt(UDATA));
      expect(m.read(RSP0 - 16)).toBe(BigInt(USER_STACK));
    });

    test('a gate of a lower DPL is #GP with the gate as its code', () => {
      m.user([0xff, 0x1c, 0x25, DATA & 0xff, (DATA >> 8) & 0xff, DATA >> 16, 0]);
      gate(0);
      expectGp(FREE);
    });
  });

  test('a TSS too short for RSP0 is #TS, and that cannot be delivered either: shutdown', () => {
    m.user([0xcd, 0x80]);
    m.gate(0x80, { dpl: 3 });
    m.cpu.tr.limit = 8;
    expect(m.run()).toBe('shutdown');
    m.cpu.shutdown = false;
  });

  test.skipIf(!assembles)(
    'in 32-bit protected mode an interrupt goes to the inner stack of the TSS, and IRETD back',
    () => {
      const user = CODE + 0x100;
      const handler = CODE + 0x200;
      const frame = [UDATA, USER_STACK, 0x202, UCODE32, user].map((value) => `push ${value}`);
      m.protected(asm32(`${frame.join(';')}; iretd`).bytes);
      m.cpu.memory.write(user, Uint8Array.from(asm32('int 0x30; inc ebx; int 0x31').bytes));
      m.cpu.memory.write(handler, Uint8Array.from(asm32('inc eax; mov ecx, [esp+12]; iretd').bytes));
      m.gate32(0x30, { target: handler, dpl: 3 });
      m.gate32(0x31, { dpl: 3 });
      m.view.setUint32(TSS + 4, RSP0, true);
      m.view.setUint32(TSS + 8, KDATA, true);
      expect(m.run()).toBe('halted');
      expect([m.cpu.low(0), m.cpu.low(3), m.cpu.low(1)]).toEqual([1, 1, USER_STACK]);
      expect(m.cpu.big(4)).toBe(BigInt(RSP0 - 20));
      expect([m.cpu.segments[1]!.selector, m.cpu.segments[2]!.selector]).toEqual([KCODE32, KDATA]);
    },
  );
});
