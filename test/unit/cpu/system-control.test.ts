import { describe, expect, test } from 'vitest';
import { S } from '../../../emulator/cpu/layout.ts';
import { cpuidLeaf } from '../../../emulator/cpu/system/cpuid.ts';
import {
  ABSENT,
  CODE,
  DATA,
  FREE,
  GDT,
  HOLE,
  KCODE32,
  KCODE64,
  KDATA,
  PD,
  SystemMachine,
  TASK,
  TSS,
  UDATA,
} from './system-machine.ts';

describe.each(['interp', 'jit'] as const)('%s', (tier) => {
  const m = new SystemMachine(tier);
  const le32 = (x: number): number[] => [x & 0xff, (x >> 8) & 0xff, (x >> 16) & 0xff, (x >>> 24) & 0xff];

  /** #GP and its kin: vector and error code. */
  function fault(): { vector: number; code: number } {
    const { vector, stack } = m.fault();
    return { vector, code: Number(stack[0]) };
  }

  describe('control registers', () => {
    test('a kernel gets from 32-bit protected mode to 64-bit mode', () => {
      m.kernel([]);
      const target = CODE + 0x200;
      m.cpu.memory.write(
        CODE,
        Uint8Array.from([
          ...[0xb8, ...le32(0x20), 0x0f, 0x22, 0xe0], // mov eax,PAE; mov cr4,eax
          ...[0xb8, ...le32(0x1000), 0x0f, 0x22, 0xd8], // mov cr3
          ...[0xb9, ...le32(0xc0000080), 0x31, 0xd2, 0xb8, ...le32(0x900), 0x0f, 0x30], // EFER: LME, NXE
          ...[0xb8, ...le32(0x80010033), 0x0f, 0x22, 0xc0], // mov cr0: PG, WP, PE
          ...[0xea, ...le32(target), KCODE64, 0], // ljmp
        ]),
      );
      m.cpu.memory.write(target, Uint8Array.from([0x48, 0x83, 0xc8, 0xff, 0xf4])); // or rax,-1
      m.cpu.enter({
        mode: 'protected',
        rip: CODE,
        registers: {},
        gdt: { base: GDT, limit: 0x67, cs: KCODE32, ds: KDATA },
      });
      expect(m.run()).toBe('halted');
      expect(m.cpu.big(0)).toBe(0xffff_ffff_ffff_ffffn);
      expect(m.cpu.efer).toBe(0xd00);
      expect(m.cpu.segments[1]!.selector).toBe(KCODE64);
    });

    test.each([
      ['CR0: PG without PE', [0x0f, 0x22, 0xc0], 0x80000000n],
      ['CR0: upper half', [0x0f, 0x22, 0xc0], 0x1_80000011n],
      ['CR4: SMEP is not offered', [0x0f, 0x22, 0xe0], 0x100020n],
      ['CR4: PAE off in long mode', [0x0f, 0x22, 0xe0], 0n],
      ['CR3: past the physical address bits', [0x0f, 0x22, 0xd8], 0x100_0000_0000n],
    ])('#GP(0) for %s', (_, code, rax) => {
      m.kernel(code, { rax });
      expect(fault()).toEqual({ vector: 13, code: 0 });
    });

    test('MOV from and to a control register that does not exist is #UD', () => {
      m.kernel([0x0f, 0x20, 0xe8]); // mov rax,cr5
      expect(m.fault().vector).toBe(6);
    });

    test('a changed page table entry is seen after INVLPG', () => {
      const load = [0x8b, 0x18]; // mov ebx,[rax]
      m.kernel([...load, 0xc7, 0x01, ...le32(0x40_0087), 0x0f, 0x01, 0x38, ...load], { rax: DATA, rcx: PD + 2 * 8 });
      m.view.setUint32(0x50_0000, 1, true);
      m.view.setUint32(0x90_0000, 2, true);
      m.cpu.memory.bytes.set([0x87, 0, 0x80, 0], PD + 16); // DATA is at 0x900000 at first
      m.run();
      expect(m.cpu.low(3)).toBe(1);
    });

    test('CR3 keeps global pages while CR4.PGE is on', () => {
      const load = [0x8b, 0x18];
      const code = [...load, 0xc7, 0x01, ...le32(0x40_0187), 0x0f, 0x20, 0xda, 0x0f, 0x22, 0xda, ...load];
      const go = (): number => {
        m.view.setUint32(0x90_0000, 2, true);
        m.view.setUint32(0x50_0000, 1, true);
        m.cpu.memory.bytes.set([0x87, 1, 0x80, 0], PD + 16);
        m.run();
        return m.cpu.low(3);
      };
      m.kernel(code, { rax: DATA, rcx: PD + 16 });
      expect(go()).toBe(1);
      m.kernel([0x0f, 0x20, 0xe2, 0x80, 0xca, 0x80, 0x0f, 0x22, 0xe2, ...code], { rax: DATA, rcx: PD + 16 });
      expect(go()).toBe(2);
    });

    test('system instructions are #GP(0) in user mode', () => {
      for (const code of [[0xf4], [0x0f, 0x20, 0xc0], [0x0f, 0x30], [0x0f, 0x01, 0x38], [0x0f, 0x06], [0x0f, 0x09]]) {
        m.user(code);
        expect(fault()).toEqual({ vector: 13, code: 0 });
      }
    });

    test('SGDT stores what LGDT loaded', () => {
      m.kernel([0x0f, 0x01, 0x10, 0x0f, 0x01, 0x01], { rax: DATA, rcx: DATA + 32 });
      m.view.setUint16(DATA, 0x7f, true);
      m.quad(DATA + 2, GDT);
      m.run();
      expect(m.view.getUint16(DATA + 32, true)).toBe(0x7f);
      expect(m.read(DATA + 34)).toBe(BigInt(GDT));
    });

    test('TS makes x87 and SSE raise #NM until CLTS', () => {
      m.kernel([0x0f, 0x06, 0x0f, 0x28, 0xc0, 0x0f, 0x20, 0xc0, 0x0c, 8, 0x0f, 0x22, 0xc0, 0x0f, 0x28, 0xc0]); // clts; movaps…
      m.cpu.cr0 |= 8;
      m.cpu.cr4 |= 0x200;
      m.cpu.modeChanged();
      const { vector, stack } = m.fault();
      expect(vector).toBe(7);
      expect(stack[0]).toBe(BigInt(CODE + 13));
    });
  });

  describe('segment registers', () => {
    test.each([
      ['DS with a kernel segment', [0x8e, 0xd8], KDATA | 3, 13, KDATA],
      ['DS with a segment that is not present', [0x8e, 0xd8], ABSENT, 11, ABSENT & ~3],
      ['DS past the GDT', [0x8e, 0xd8], 0x1003, 13, 0x1000],
      ['SS with another level', [0x8e, 0xd0], KDATA, 13, KDATA],
      ['SS with null', [0x8e, 0xd0], 3, 13, 0],
      ['DS with a system descriptor', [0x8e, 0xd8], TASK, 13, TASK],
    ])('%s from user mode faults', (_, code, rax, vector, error) => {
      m.user(code, { rax });
      expect(fault()).toEqual({ vector, code: error });
    });

    test('FS takes base 0 upwards from the descriptor, and a null selector clears it', () => {
      m.kernel([0x8e, 0xe0, 0x31, 0xc0, 0x8e, 0xe8], { rax: UDATA });
      m.cpu.setSegmentBase(4, 0x1111, 0x22);
      m.cpu.setSegmentBase(5, 0x1111, 0x22);
      m.run();
      expect(m.cpu.segments[4]).toMatchObject({ selector: UDATA, baseLow: 0, baseHigh: 0, usable: true });
      expect(m.cpu.segments[5]).toMatchObject({ selector: 0, baseLow: 0, baseHigh: 0, usable: false });
    });

    test('MOV CS and a seventh segment register are #UD', () => {
      for (const modrm of [0xc8, 0xf0]) {
        m.kernel([0x8e, modrm]);
        expect(m.fault().vector).toBe(6);
      }
    });

    test('an interrupt waits for the instruction after MOV SS', () => {
      m.kernel([0x8e, 0xd0, 0xff, 0xc1], { rax: KDATA });
      m.cpu.rflags = 0x202;
      m.cpu.step();
      m.pending = 0x40;
      expect(m.fault().stack[0]).toBe(BigInt(CODE + 4));
    });

    test('MOV from segment registers gives the selector in as many bits as are asked for', () => {
      const code = [0x8e, 0xd8, 0x8e, 0xe0]; // mov ds,eax; mov fs,eax
      code.push(0x48, 0x8c, 0xcb, 0x8c, 0xde, 0x66, 0x8c, 0xe7); // mov rbx,cs; mov esi,ds; mov di,fs
      code.push(0x8c, 0xd2, 0x41, 0x8c, 0xc0, 0x41, 0x8c, 0xe9); // mov edx,ss; mov r8d,es; mov r9d,gs
      m.kernel(code, { rax: UDATA, rbx: -1n, rsi: -1n, rdi: -1n, rdx: -1n, r8: -1n, r9: -1n });
      m.cpu.segments[5]!.selector = FREE;
      m.run();
      expect([3, 6, 2, 8, 9].map((n) => m.cpu.big(n))).toEqual([KCODE64, UDATA, KDATA, KDATA, FREE].map(BigInt));
      expect(m.cpu.big(7)).toBe(BigInt.asUintN(64, (-1n << 16n) | BigInt(UDATA)));
    });

    test('a restored state brings the selectors', () => {
      m.kernel([0x8e, 0xe8], { rax: UDATA }); // mov gs,eax
      m.run();
      const state = structuredClone(m.cpu.save());
      m.kernel([0x90]);
      m.run();
      m.cpu.restore(state);
      m.cpu.memory.write(CODE, Uint8Array.of(0x8c, 0xe9, 0xf4)); // mov ecx,gs
      m.cpu.setRip(CODE, 0);
      m.cpu.halted = false;
      m.run();
      expect(m.cpu.low(1)).toBe(UDATA);
    });

    test('FXSAVE and FXRSTOR are the same in one page and across two', () => {
      const at = 0x40_0000;
      // fxsave64 [rdi]; fxsave64 [rsi]; fxrstor64 [rsi]; fxsave64 [rdx]
      const code = [0x48, 0x0f, 0xae, 0x07, 0x48, 0x0f, 0xae, 0x06, 0x48, 0x0f, 0xae, 0x0e, 0x48, 0x0f, 0xae, 0x02];
      // The first time the TLB knows none of the pages, the second time all.
      for (let round = 0; round < 2; round++) {
        m.kernel(code.concat(code), { rdi: at + 0x400, rsi: at + 0xf00, rdx: at + 0x1400 });
        m.cpu.cr4 |= 0x200;
        m.cpu.modeChanged();
        for (let k = 0; k < 32; k++)
          m.cpu.u64[((m.cpu.state + S.XMM) >> 3) + k] = 0x0101_0101_0101_0101n * BigInt(k + 1);
        m.run();
        const image = (from: number): Uint8Array => m.cpu.memory.slice(from, 416);
        expect(image(at + 0xf00)).toEqual(image(at + 0x400));
        expect(image(at + 0x1400)).toEqual(image(at + 0x400));
        expect(image(at + 0x400).slice(24, 32)).toEqual(Uint8Array.of(0x80, 0x1f, 0, 0, 0xff, 0xff, 0, 0));
      }
    });

    test('PUSH FS and POP GS move a quadword', () => {
      m.kernel([0x0f, 0xa0, 0x0f, 0xa9]);
      m.cpu.segments[4]!.selector = UDATA;
      m.run();
      expect(m.cpu.segments[5]!.selector).toBe(UDATA);
      expect(m.cpu.big(4)).toBe(0x30_0000n);
    });

    test('LAR, LSL, VERR and VERW tell what may be used', () => {
      // lar ebx,eax; setz cl — and so on
      m.user([0x0f, 0x02, 0xd8, 0x0f, 0x94, 0xc1, 0x0f, 0x03, 0xf0, 0x0f, 0x00, 0xe8, 0x0f, 0x94, 0xc2], {
        rax: UDATA,
      });
      m.fault();
      expect(m.cpu.low(3)).toBe(0xcff300);
      expect(m.cpu.low(6)).toBe(-1);
      expect([m.cpu.low(1) & 0xff, m.cpu.low(2) & 0xff]).toEqual([1, 1]);
      m.user([0x0f, 0x02, 0xd8, 0x0f, 0x94, 0xc1], { rax: KDATA, rbx: 5, rcx: 0 });
      m.fault();
      expect([m.cpu.low(3), m.cpu.low(1) & 0xff]).toEqual([5, 0]);
    });

    test('LTR takes an available TSS, marks it busy, and refuses it then', () => {
      m.kernel([0x0f, 0x00, 0xd8, 0x0f, 0x00, 0xc9, 0x0f, 0x00, 0xd8], { rax: TASK }); // ltr; str ecx; ltr
      expect(fault()).toEqual({ vector: 13, code: TASK });
      expect(m.cpu.low(1)).toBe(TASK);
      expect(m.cpu.tr).toMatchObject({ baseLow: TSS, limit: 0x9f, attributes: 0x8b });
      expect(m.view.getUint8(GDT + TASK + 5)).toBe(0x8b);
    });
  });

  describe('MSRs', () => {
    const msr = (code: number[], index: number, value = 0n): void =>
      m.kernel(code, { rcx: index, rax: value & 0xffffffffn, rdx: value >> 32n });
    const WRITE_READ = [0x0f, 0x30, 0x31, 0xc0, 0x31, 0xd2, 0x0f, 0x32];

    test.each([
      ['STAR', 0xc0000081, 0x0023001012345678n],
      ['LSTAR', 0xc0000082, 0xffffffff81000000n],
      ['FS base', 0xc0000100, 0x00007fffdeadbeefn],
      ['GS base', 0xc0000101, 0xffff888012345678n],
      ['kernel GS base', 0xc0000102, 0xffff888012345678n],
      ['SYSENTER EIP', 0x176, 0xffffffff81000001n],
      ['TSC_AUX', 0xc0000103, 0x12345678n],
      ['PAT', 0x277, 0x0407050600070106n],
      ['MTRR default type', 0x2ff, 0xc06n],
      ['a fixed MTRR', 0x268, 0x0606060606060606n],
      ['TSC_ADJUST', 0x3b, 0xffff_ffff_ffff_ff00n],
    ])('%s holds what is written', (_, index, value) => {
      msr(WRITE_READ, index, value);
      expect(m.run()).toBe('halted');
      expect((m.cpu.big(2) << 32n) | m.cpu.big(0)).toBe(value);
      m.cpu.sys.tscAdjust = 0n;
    });

    test.each([
      ['an MSR that is not there', [0x0f, 0x32], 0xc0010015, 0n],
      ['a base that is not canonical', [0x0f, 0x30], 0xc0000101, 0x0000800000000000n],
      ['a PAT type that does not exist', [0x0f, 0x30], 0x277, 2n],
      ['EFER bits that are not offered', [0x0f, 0x30], 0xc0000080, 0x8501n],
      ['EFER.LME while paging is on', [0x0f, 0x30], 0xc0000080, 1n],
    ])('#GP(0) for %s', (_, code, index, value) => {
      msr(code, index, value);
      expect(fault()).toEqual({ vector: 13, code: 0 });
    });

    test('the TSC counts nanoseconds, and WRMSR moves it', () => {
      m.time = 5_000_000_000.75;
      m.kernel([0x0f, 0x31]);
      m.run();
      expect((m.cpu.big(2) << 32n) | m.cpu.big(0)).toBe(5_000_000_000n);
      msr([0x0f, 0x30, 0x0f, 0x01, 0xf9], 0x10, 100n); // wrmsr; rdtscp
      m.cpu.sys.tscAux = 7;
      m.run();
      expect([m.cpu.low(0), m.cpu.low(2), m.cpu.low(1)]).toEqual([100, 0, 7]);
      m.cpu.sys.tscAdjust = 0n;
      m.time = 0;
    });

    test('RDTSC is #GP(0) in user mode under CR4.TSD', () => {
      m.user([0x0f, 0x31]);
      m.cpu.cr4 |= 4;
      expect(fault()).toEqual({ vector: 13, code: 0 });
    });

    test('RDFSBASE and WRGSBASE need CR4.FSGSBASE', () => {
      const code = [0xf3, 0x48, 0x0f, 0xae, 0xd9, 0xf3, 0x48, 0x0f, 0xae, 0xca]; // wrgsbase rcx; rdgsbase rdx
      m.user(code, { rcx: 0x7fff_1234_5678n });
      expect(m.fault().vector).toBe(6);
      m.user(code, { rcx: 0x7fff_1234_5678n });
      m.cpu.cr4 |= 0x10000;
      m.cpu.modeChanged();
      expect(m.fault().vector).toBe(13); // HLT
      expect(m.cpu.big(2)).toBe(0x7fff_1234_5678n);
    });

    test('WRFSBASE of 32 bits clears the upper half, RDFSBASE reads as much as it is asked for', () => {
      // wrfsbase ecx; rdfsbase rdx; wrfsbase rcx; rdfsbase esi
      const code = [0xf3, 0x0f, 0xae, 0xd1, 0xf3, 0x48, 0x0f, 0xae, 0xc2, 0xf3, 0x48, 0x0f, 0xae, 0xd1].concat([
        0xf3, 0x0f, 0xae, 0xc6,
      ]);
      m.user(code, { rcx: 0x7fff_8234_5678n, rdx: -1n, rsi: -1n });
      m.cpu.cr4 |= 0x10000;
      m.cpu.modeChanged();
      expect(m.fault().vector).toBe(13); // HLT
      expect([m.cpu.big(2), m.cpu.big(6)]).toEqual([0x8234_5678n, 0x8234_5678n]);
      expect([m.cpu.baseLow(4), m.cpu.baseHigh(4)]).toEqual([0x8234_5678 | 0, 0x7fff]);
    });

    test('WRGSBASE of what is not canonical is #GP(0)', () => {
      m.user([0xf3, 0x48, 0x0f, 0xae, 0xd9], { rcx: 0x8000_0000_0000n });
      m.cpu.cr4 |= 0x10000;
      m.cpu.modeChanged();
      expect(fault()).toEqual({ vector: 13, code: 0 });
      expect(m.cpu.baseHigh(5)).toBe(0);
    });

    test('there is no CR10, though its low bits are those of CR2', () => {
      m.kernel([0x44, 0x0f, 0x20, 0xd1]); // mov rcx,cr10
      expect(m.fault().vector).toBe(6);
    });
  });

  describe('CPUID and random numbers', () => {
    test('CPUID clears the upper halves and names the vendor', () => {
      m.kernel([0x0f, 0xa2], { rax: -1n << 32n, rbx: -1n });
      m.run();
      const text = [3, 2, 1]
        .map((n) =>
          le32(m.cpu.low(n))
            .map((c) => String.fromCharCode(c))
            .join(''),
        )
        .join('');
      expect(text).toBe('GenuineIntel');
      expect(m.cpu.big(0)).toBe(0x16n);
      expect(m.cpu.high(3)).toBe(0);
    });

    test('the brand string is 48 bytes with a zero in the end', () => {
      const bytes = [0x80000002, 0x80000003, 0x80000004].flatMap((leaf) => cpuidLeaf(leaf, 0).flatMap((x) => le32(x)));
      expect(String.fromCharCode(...bytes).replace(/\0+$/, '')).toBe('linux-vm x86-64 processor');
    });

    test('the TSC frequency of leaf 15H is 1 GHz', () => {
      const [denominator, numerator, crystal] = cpuidLeaf(0x15, 0);
      expect((crystal * numerator) / denominator).toBe(1e9);
    });

    test('RDRAND fills its operand and sets CF alone', () => {
      m.kernel([0x0f, 0xc7, 0xf0, 0x66, 0x0f, 0xc7, 0xf3], { rax: -1n, rbx: -1n });
      m.cpu.rflags = 0x8d5 | 2;
      m.run();
      expect([m.cpu.big(0), m.cpu.big(3)]).toEqual([0x5a5a5a5an, 0xffff_ffff_ffff_5a5an]);
      expect(m.cpu.rflags & 0x8d5).toBe(1);
    });
  });

  describe('ports', () => {
    test('IN and OUT of each width', () => {
      m.kernel([0xe5, 0x60, 0x89, 0xc3, 0x66, 0xed, 0x89, 0xc6, 0xec, 0xee, 0x66, 0xef, 0xef, 0xe7, 0x61], {
        rdx: 0x60,
      });
      m.run();
      expect([m.cpu.low(3), m.cpu.low(6)]).toEqual([0x11223344, 0x11223344]);
      expect(m.written).toEqual([
        [0x60, 1, 0x44],
        [0x60, 2, 0x3344],
        [0x60, 4, 0x11223344],
        [0x61, 4, 0x11223344],
      ]);
    });

    test('user mode needs IOPL or the permission bitmap', () => {
      m.user([0xe4, 0x61], {});
      expect(fault()).toEqual({ vector: 13, code: 0 });
      m.user([0xe4, 0x61], {});
      m.view.setUint8(TSS + 0x68 + 0x60 / 8, 0xfd);
      expect(m.fault().stack[1]).toBe(BigInt(CODE + 2)); // the HLT after it
      m.user([0xe5, 0x61], {}); // all four ports count
      m.view.setUint8(TSS + 0x68 + 0x60 / 8, 0xfd);
      expect(m.fault().stack[1]).toBe(BigInt(CODE));
      m.user([0xe4, 0x61], {}, 0x3202);
      expect(m.fault().stack[1]).toBe(BigInt(CODE + 2));
    });

    test('REP OUTSB stops at a fault with its registers there', () => {
      m.kernel([0xf3, 0x6e], { rdx: 0x60, rcx: 5, rsi: HOLE - 2 });
      expect(m.fault().vector).toBe(14);
      expect([m.cpu.low(1), m.cpu.low(6), m.written.length]).toEqual([3, HOLE, 2]);
    });

    test('REP INSW stores downwards under DF', () => {
      m.kernel([0xfd, 0xf3, 0x66, 0x6d], { rdx: 0x60, rcx: 3, rdi: DATA + 4 });
      m.quad(DATA, 0);
      m.run();
      expect(m.read(DATA)).toBe(0x3344_3344_3344n);
      expect(m.cpu.big(7)).toBe(BigInt(DATA - 2));
    });
  });

  describe('debug registers', () => {
    const arm = (dr7: bigint, address: number): void => {
      m.cpu.memory.write(CODE - 0x40, Uint8Array.of(0x0f, 0x23, 0xc0, 0x0f, 0x23, 0xf9, 0xeb, 0x38)); // mov dr0,rax; mov dr7,rcx; jmp CODE
      m.cpu.setRip(CODE - 0x40, 0);
      m.cpu.setBig(0, BigInt(address));
      m.cpu.setBig(1, dr7);
    };
    const dr6 = (): number => Number(m.cpu.dr[6]! & 0xe00fn);
    const disarm = (): void => {
      m.kernel([0x0f, 0x23, 0xf8]);
      m.run();
    };

    test('TF traps after each instruction', () => {
      m.user([0x90, 0x90], {}, 0x302);
      const { vector, stack } = m.fault();
      expect(vector).toBe(1);
      expect(stack[0]).toBe(BigInt(CODE + 1));
      expect(Number(stack[2]) & 0x10100).toBe(0x100);
      expect(dr6()).toBe(0x4000);
    });

    test('an instruction breakpoint stops before the instruction', () => {
      m.kernel([0x90, 0x90, 0x90]);
      arm(1n, CODE + 2);
      expect(m.fault()).toMatchObject({ vector: 1 });
      expect(m.read(Number(m.cpu.big(4)))).toBe(BigInt(CODE + 2));
      expect(dr6()).toBe(1);
      disarm();
    });

    test('a data breakpoint stops after the write, not after a read', () => {
      m.kernel([0x8b, 0x1c, 0x25, ...le32(DATA), 0x89, 0x1c, 0x25, ...le32(DATA + 2), 0x90]);
      arm(0xd0001n, DATA + 4); // four bytes, write
      expect(m.fault().vector).toBe(1);
      expect(m.read(Number(m.cpu.big(4)))).toBe(BigInt(CODE + 14));
      expect(dr6()).toBe(1);
      disarm();
      expect(m.cpu.mmu.watching).toBe(false);
    });

    test('DR7.GD turns an access to a debug register into #DB', () => {
      m.kernel([0x0f, 0x21, 0xf0]);
      m.cpu.dr[7] = 0x2400n;
      expect(m.fault().vector).toBe(1);
      expect(dr6() & 0x2000).toBe(0x2000);
      expect(m.cpu.dr[7]).toBe(0x400n);
    });

    test('DR4 is DR6, or #UD under CR4.DE', () => {
      m.kernel([0x0f, 0x21, 0xe0, 0x0f, 0x20, 0xe1, 0x80, 0xc9, 8, 0x0f, 0x22, 0xe1, 0x0f, 0x21, 0xe0]);
      const { vector, stack } = m.fault();
      expect([vector, stack[0]]).toEqual([6, BigInt(CODE + 12)]);
      expect(m.cpu.low(0) >>> 0).toBe(Number(m.cpu.dr[6]! & 0xffffffffn));
    });

    test('INT3 gives the RIP after it', () => {
      m.kernel([0xcc]);
      const { vector, stack } = m.fault();
      expect([vector, stack[0]]).toEqual([3, BigInt(CODE + 1)]);
    });
  });

  test('what is not offered is #UD', () => {
    for (const code of [
      [0x0f, 0x01, 0xd0], // xgetbv
      [0x0f, 0x01, 0xc8], // monitor
      [0x0f, 0x01, 0xca], // clac
      [0x0f, 0x01, 0xc1], // vmcall
      [0x0f, 0xaa], // rsm
      [0x0f, 0x0b], // ud2
      [0xf3, 0x0f, 0xc7, 0xf8], // rdpid
      [0x66, 0x0f, 0x38, 0x82, 0x08], // invpcid
    ]) {
      m.kernel(code);
      expect([m.fault().vector, code]).toEqual([6, code]);
    }
  });
});
