import { describe, expect, test } from 'vitest';
import { CODE, CodeMachine, DATA, HOLE, READ_ONLY, STACK, type Registers } from './machine-code.ts';

const CF = 1;
const PF = 4;
const AF = 0x10;
const ZF = 0x40;
const SF = 0x80;
const DF = 0x400;
const OF = 0x800;
const ARITH = CF | PF | AF | ZF | SF | OF;
const BIG = 0x1122334455667788n;

const hex = (s: string): number[] => s.split(/\s+/).map((x) => parseInt(x, 16));

for (const tier of ['interp', 'jit', 'light'] as const) {
  const m = new CodeMachine(tier);
  /** Runs code up to the HLT and gives the outcome. */
  const run = (
    code: string,
    registers: Registers = {},
    flags = 0,
    bits: 64 | 32 = 64,
  ): ReturnType<CodeMachine['run']> => m.run(hex(code), registers, flags, bits);
  const fault = (
    code: string,
    registers: Registers = {},
    flags = 0,
    bits: 64 | 32 = 64,
  ): ReturnType<CodeMachine['step']> => m.step(hex(code), registers, flags, bits);
  const put64 = (at: number, v: bigint): void => m.view.setBigUint64(at, BigInt.asUintN(64, v), true);
  const get64 = (at: number): bigint => m.view.getBigUint64(at, true);

  describe(`data movement, ${tier}`, () => {
    test('byte and word writes keep the rest of the register, dword writes clear the upper half', () => {
      const r = run('b4 aa 66 b9 bb bb ba 01 00 00 00', { rax: BIG, rcx: BIG, rdx: BIG }).registers;
      expect(r.rax).toBe(0x112233445566aa88n);
      expect(r.rcx).toBe(0x112233445566bbbbn);
      expect(r.rdx).toBe(1n);
    });
    test('MOV with a 64-bit immediate and with a 64-bit absolute address', () => {
      put64(DATA, BIG);
      const r = run('48 bb 88 77 66 55 44 33 22 f1 48 a1 00 00 40 00 00 00 00 00').registers;
      expect(r.rbx).toBe(0xf122334455667788n);
      expect(r.rax).toBe(BIG);
    });
    test('a 32-bit CMOV clears the upper half even if its condition is false', () => {
      expect(run('0f 44 c3', { rax: BIG, rbx: 1n }, 0).registers.rax).toBe(0x55667788n);
    });
    test('90 leaves RAX alone, 49 90 exchanges with R8', () => {
      const r = run('90 f3 90 49 90', { rax: BIG, r8: 5n }).registers;
      expect([r.rax, r.r8]).toEqual([5n, BIG]);
    });
    test('RIP-relative and SIB addresses', () => {
      put64(DATA + 24, 7n);
      const r = run('48 8b 44 cb 08 48 8d 0d 00 00 00 00', { rbx: BigInt(DATA), rcx: 2n }).registers;
      expect(r.rax).toBe(7n);
      expect(r.rcx).toBe(BigInt(CODE + 12));
    });
    test('a value that crosses a page is loaded and stored whole', () => {
      put64(DATA + 0xffc, BIG);
      expect(run('48 8b 03 48 89 43 10', { rbx: BigInt(DATA + 0xffc) }).registers.rax).toBe(BIG);
      expect(get64(DATA + 0x100c)).toBe(BIG);
    });
    test('a page fault leaves everything as it was and gives address and error code', () => {
      const r = fault('48 01 03', { rbx: BigInt(HOLE + 8), rax: 1n }, CF);
      expect(r.fault).toEqual({ vector: 14, code: 2 });
      expect(r.rip).toBe(BigInt(CODE));
      expect(r.flags & ARITH).toBe(CF);
      expect(fault('48 89 03', { rbx: BigInt(READ_ONLY) }).fault).toEqual({ vector: 14, code: 3 });
    });
    test('LOCK is refused where the manual does not allow it', () => {
      expect(fault('f0 48 01 03', { rbx: BigInt(DATA) }).fault).toBeUndefined();
      expect(fault('f0 48 8b 03', { rbx: BigInt(DATA) }).fault?.vector).toBe(6);
      expect(fault('f0 48 01 d8').fault?.vector).toBe(6);
    });
  });

  describe(`arithmetic, ${tier}`, () => {
    test.each([
      ['add al, bl', '00 d8', 0x7fn, 1n, 0, 0x80n, OF | SF | AF],
      ['add rax, rbx', '48 01 d8', -1n, 1n, 0, 0n, CF | ZF | PF | AF],
      ['adc eax, ebx', '11 d8', 0xffffffffn, 0n, CF, 0n, CF | ZF | PF | AF],
      ['sbb al, bl', '18 d8', 0n, 0xffn, CF, 0n, CF | ZF | PF | AF],
      ['sub ax, bx', '66 29 d8', 0x8000n, 1n, 0, 0x7fffn, OF | PF | AF],
      ['cmp rax, rbx', '48 39 d8', 1n, 2n, 0, 1n, CF | SF | AF | PF],
      ['xor eax, ebx', '31 d8', 0xf0n, 0xf0n, CF | OF, 0n, ZF | PF],
      ['inc al keeps CF', 'fe c0', 0xffn, 0n, CF, 0n, CF | ZF | PF | AF],
      ['dec eax', 'ff c8', 0x80000000n, 0n, 0, 0x7fffffffn, OF | PF | AF],
      ['neg al', 'f6 d8', 0x80n, 0n, 0, 0x80n, CF | OF | SF],
    ])('%s', (_name, code, a, b, before, result, flags) => {
      const r = run(code, { rax: a, rbx: b }, before);
      expect(r.registers.rax).toBe(result);
      expect(r.flags & ARITH).toBe(flags);
    });
    test('a flag that was set several instructions ago is still right', () => {
      // stc; inc eax; mov ecx, 5; setc dl; lahf
      const r = run('f9 ff c0 b9 05 00 00 00 0f 92 c2 9f', { rax: 0xffffffffn, rdx: 0n });
      expect(r.registers.rdx).toBe(1n);
      expect(Number(r.registers.rax >> 8n) & 0xff).toBe(CF | 2 | PF | AF | ZF);
    });
  });

  describe(`shifts and rotates, ${tier}`, () => {
    test.each([
      ['a count of 0 keeps the flags', 'd3 e0', 1n, 32n, ARITH, 1n, ARITH],
      ['shl eax, 1', 'd1 e0', 0xc0000000n, 0n, 0, 0x80000000n, CF | SF | PF],
      ['shr al beyond its width', 'd2 e8', 0xffn, 9n, 0, 0n, ZF | PF],
      ['sar ax', '66 d3 f8', 0x8000n, 4n, 0, 0xf800n, SF | PF],
      ['rol al by its width: only CF', 'd2 c0', 0x81n, 8n, 0, 0x81n, CF],
      ['rcl al, 1', 'd0 d0', 0x80n, 0n, CF, 1n, CF | OF],
      ['rcr rax, cl', '48 d3 d8', 1n, 1n, CF, 0x8000000000000000n, CF | OF],
    ])('%s', (_name, code, a, cl, before, result, flags) => {
      const r = run(code, { rax: a, rcx: cl }, before);
      expect(r.registers.rax).toBe(result);
      // OF is defined for a count of 1 only, AF never after a shift by more than 0.
      const mask = cl > 1n && cl !== 32n ? CF | ZF | SF | PF : cl === 32n ? ARITH : ARITH & ~AF;
      expect(r.flags & mask).toBe(flags & mask);
    });
    test('SHLD and SHRD take bits from the second register', () => {
      expect(run('48 0f a4 d8 04', { rax: 0x1n, rbx: 0xf000000000000000n }).registers.rax).toBe(0x1fn);
      expect(run('0f ad d8', { rax: 0x10n, rbx: 0xfn, rcx: 4n }).registers.rax).toBe(0xf0000001n);
    });
  });

  describe(`multiplication and division, ${tier}`, () => {
    test('64-bit products have 128 bits', () => {
      const r = run('48 f7 e3', { rax: -1n, rbx: -1n });
      expect([r.registers.rdx, r.registers.rax]).toEqual([0xfffffffffffffffen, 1n]);
      expect(r.flags & (CF | OF)).toBe(CF | OF);
      const s = run('48 f7 eb', { rax: -3n, rbx: 5n });
      expect([s.registers.rdx, s.registers.rax]).toEqual([0xffffffffffffffffn, BigInt.asUintN(64, -15n)]);
      expect(s.flags & (CF | OF)).toBe(0);
    });
    test('128-bit dividends', () => {
      const n = 0x0123456789abcdef_fedcba9876543210n;
      const d = 0xfedcba9876543211n;
      const high = { rdx: n >> 64n, rax: n & 0xffffffffffffffffn, rbx: d };
      const r = run('48 f7 f3', high).registers;
      expect([r.rax, r.rdx]).toEqual([n / d, n % d]);
      const minus = BigInt.asUintN(128, -n);
      const s = run('48 f7 fb', { rdx: minus >> 64n, rax: minus & 0xffffffffffffffffn, rbx: 0x7edcba9876543211n });
      expect(BigInt.asIntN(64, s.registers.rax)).toBe(-n / 0x7edcba9876543211n);
      expect(BigInt.asIntN(64, s.registers.rdx)).toBe(-n % 0x7edcba9876543211n);
    });
    test.each([
      ['by 0', '48 f7 f3', { rax: 1n, rbx: 0n }],
      ['quotient too large', 'f7 f3', { rax: 0n, rdx: 5n, rbx: 5n }],
      ['smallest by -1', '48 f7 fb', { rax: 1n << 63n, rdx: -1n, rbx: -1n }],
      ['smallest dword dividend by -1', '66 f7 fb', { rax: 0n, rdx: 0x8000n, rbx: 0xffffn }],
      ['smallest qword dividend by -1', 'f7 fb', { rax: 0n, rdx: 0x80000000n, rbx: 0xffffffffn }],
    ])('#DE: %s', (_name, code, registers) => {
      const r = fault(code, registers);
      expect(r.fault).toEqual({ vector: 0, code: -1 });
      expect(r.rip).toBe(BigInt(CODE));
    });
  });

  describe(`bits and exchanges, ${tier}`, () => {
    test('a register bit offset reaches memory on both sides of the address', () => {
      m.bytes.fill(0, DATA, DATA + 64);
      expect(run('48 0f ab 03', { rbx: BigInt(DATA + 32), rax: -1n }).flags & CF).toBe(0);
      expect(m.bytes[DATA + 31]).toBe(0x80);
      expect(run('0f a3 03', { rbx: BigInt(DATA), rax: 255n }).flags & CF).toBe(CF);
    });
    test('BSF of 0 leaves the destination; POPCNT clears all flags but ZF', () => {
      const r = run('48 0f bc c3', { rax: 77n, rbx: 0n });
      expect(r.registers.rax).toBe(77n);
      expect(r.flags & ZF).toBe(ZF);
      const p = run('f3 48 0f b8 c3', { rbx: 0xff00ffn }, ARITH);
      expect(p.registers.rax).toBe(16n);
      expect(p.flags & ARITH).toBe(0);
    });
    test('CMPXCHG writes memory if equal and the accumulator if not', () => {
      put64(DATA, 5n);
      expect(run('f0 48 0f b1 0b', { rbx: BigInt(DATA), rax: 5n, rcx: 9n }).flags & ZF).toBe(ZF);
      expect(get64(DATA)).toBe(9n);
      const r = run('f0 48 0f b1 0b', { rbx: BigInt(DATA), rax: 5n, rcx: 1n });
      expect(r.registers.rax).toBe(9n);
      expect(get64(DATA)).toBe(9n);
    });
    test('CMPXCHG16B needs alignment', () => {
      put64(DATA, 1n);
      put64(DATA + 8, 2n);
      const registers = { rsi: BigInt(DATA), rax: 1n, rdx: 2n, rbx: 3n, rcx: 4n };
      expect(run('f0 48 0f c7 0e', registers, CF).flags & (ZF | CF)).toBe(ZF | CF);
      expect([get64(DATA), get64(DATA + 8)]).toEqual([3n, 4n]);
      expect(fault('48 0f c7 0e', { rsi: BigInt(DATA + 8) }).fault).toEqual({ vector: 13, code: 0 });
    });
    test('XADD', () => {
      put64(DATA, 40n);
      expect(run('f0 48 0f c1 03', { rbx: BigInt(DATA), rax: 2n }).registers.rax).toBe(40n);
      expect(get64(DATA)).toBe(42n);
    });
  });

  describe(`stack and branches, ${tier}`, () => {
    test('POP to memory uses the RSP after the pop, and keeps RSP when the store faults', () => {
      put64(STACK, BIG);
      expect(run('8f 04 24').registers.rsp).toBe(BigInt(STACK + 8));
      expect(get64(STACK + 8)).toBe(BIG);
      const r = fault('8f 03', { rbx: BigInt(HOLE) });
      expect(r.fault?.vector).toBe(14);
      expect(r.registers.rsp).toBe(BigInt(STACK));
    });
    test('PUSH of a byte immediate sign-extends to 64 bits', () => {
      expect(run('6a fe 58').registers.rax).toBe(BigInt.asUintN(64, -2n));
    });
    test('PUSHF and POPF: at CPL 0 every flag but the reserved ones goes through', () => {
      const r = run('68 d7 3a 00 00 9d 9c 58').registers;
      expect(Number(r.rax) & 0xffff).toBe(0x3ad7 & ~0x28);
    });
    test('ENTER with nesting, LEAVE', () => {
      const r = run('c8 10 00 02 48 89 e0 c9', { rbp: BigInt(STACK - 0x100) }).registers;
      expect(r.rax).toBe(BigInt(STACK - 8 - 8 - 8 - 0x10));
      expect(r.rbp).toBe(BigInt(STACK - 0x100));
      expect(r.rsp).toBe(BigInt(STACK));
    });
    test('CALL and RET, RET with bytes', () => {
      // call +1; hlt; lea rsp, [rsp-16]; call +1; hlt → the inner function returns over 16 bytes
      const r = run('e8 04 00 00 00 83 c0 10 f4 ff c0 c3', { rax: 1n });
      expect(r.registers.rax).toBe(0x12n);
      expect(run('e8 01 00 00 00 f4 c2 10 00').registers.rsp).toBe(BigInt(STACK + 16));
    });
    test('loops: LOOP, LOOPNE, JRCXZ, and a backward Jcc', () => {
      expect(run('ff c0 e2 fc', { rax: 0n, rcx: 1000n }).registers.rax).toBe(1000n);
      // again: inc eax; cmp eax, 7; loopne again
      expect(run('ff c0 83 f8 07 e0 f9', { rcx: 100n }).registers.rcx).toBe(93n);
      expect(run('e3 02 ff c0 ff c0', { rcx: 0n }).registers.rax).toBe(1n);
      expect(run('01 c8 ff c9 75 fa', { rcx: 100n }).registers.rax).toBe(5050n);
    });
    test('every condition code agrees with the flags', () => {
      const conditions = (f: number): boolean[] => {
        const [c, p, z, s, o] = [CF, PF, ZF, SF, OF].map((bit) => (f & bit) !== 0) as [
          boolean,
          boolean,
          boolean,
          boolean,
          boolean,
        ];
        return [o, !o, c, !c, z, !z, c || z, !(c || z), s, !s, p, !p, s !== o, s === o, z || s !== o, !z && s === o];
      };
      const values = [0n, 1n, 0x7fn, 0x80n, 0xffn];
      for (const op of [0x38, 0x00, 0x20])
        for (let cc = 0; cc < 16; cc++)
          for (const a of values)
            for (const b of values) {
              // op al, bl; jcc +2; mov cl, 0  (cl stays 1 if taken)
              const r = m.run([op, 0xd8, 0x70 + cc, 2, 0xb1, 0], { rax: a, rbx: b, rcx: 1n });
              expect(r.registers.rcx === 1n, `${op} ${a} ${b} ${cc}`).toBe(conditions(r.flags)[cc]);
            }
    });
    test('32-bit code: PUSHA, POPA, decimal adjustment, BOUND', () => {
      const r = run('60 31 c0 61', { rax: 5n, rdi: 6n }, 0, 32).registers;
      expect([r.rax, r.rdi, r.rsp]).toEqual([5n, 6n, BigInt(STACK)]);
      const d = run('00 d8 27', { rax: 0x79n, rbx: 0x35n }, 0, 32);
      expect(d.registers.rax).toBe(0x14n);
      expect(d.flags & (CF | AF)).toBe(CF | AF);
      m.view.setInt32(DATA, -1, true);
      m.view.setInt32(DATA + 4, 9, true);
      expect(fault('62 03', { rax: 9n, rbx: BigInt(DATA) }, 0, 32).fault).toBeUndefined();
      expect(fault('62 03', { rax: 10n, rbx: BigInt(DATA) }, 0, 32).fault?.vector).toBe(5);
    });
  });

  describe(`string instructions, ${tier}`, () => {
    const fill = (): void => {
      for (let i = 0; i < 0x10000; i++) m.bytes[DATA + i] = (i * 7 + (i >> 8)) & 0xff;
    };
    test('REP MOVSB copies across pages', () => {
      fill();
      const r = run('f3 a4', { rsi: BigInt(DATA + 5), rdi: BigInt(DATA + 0x8003), rcx: 0x5000n }).registers;
      expect([r.rsi, r.rdi, r.rcx]).toEqual([BigInt(DATA + 0x5005), BigInt(DATA + 0xd003), 0n]);
      expect(m.bytes.subarray(DATA + 0x8003, DATA + 0xd003)).toEqual(m.bytes.subarray(DATA + 5, DATA + 0x5005));
    });
    test.each([1, 3, 8, 100])('REP MOVSB onto itself %i bytes ahead repeats the pattern', (gap) => {
      fill();
      const before = m.bytes.slice(DATA, DATA + gap);
      run('f3 a4', { rsi: BigInt(DATA), rdi: BigInt(DATA + gap), rcx: 5000n });
      for (let i = 0; i < 5000 + gap; i++) if (m.bytes[DATA + i] !== before[i % gap]) throw new Error(`byte ${i}`);
    });
    test('REP MOVSQ backward', () => {
      fill();
      const want = m.bytes.slice(DATA, DATA + 800);
      run('f3 48 a5', { rsi: BigInt(DATA + 792), rdi: BigInt(DATA + 792 + 8), rcx: 100n }, DF);
      expect(m.bytes.slice(DATA + 8, DATA + 808)).toEqual(want);
    });
    test.each([
      ['aa', 1],
      ['66 ab', 2],
      ['ab', 4],
      ['48 ab', 8],
    ])('REP STOS %s', (code, size) => {
      for (const value of [0n, BIG]) {
        fill();
        run(`f3 ${code}`, { rdi: BigInt(DATA + 0xff9), rcx: 1001n, rax: value });
        for (let i = 0; i < 1001 * size; i++)
          if (m.bytes[DATA + 0xff9 + i] !== Number((value >> BigInt(8 * (i % size))) & 0xffn))
            throw new Error(`byte ${i}`);
        expect(m.bytes[DATA + 0xff9 + 1001 * size]).toBe(
          ((0xff9 + 1001 * size) * 7 + ((0xff9 + 1001 * size) >> 8)) & 0xff,
        );
      }
    });
    test.each([
      ['aa', 1],
      ['66 ab', 2],
      ['ab', 4],
      ['48 ab', 8],
    ])('REP STOS %s writes what it should and nothing else, whatever the count', (code, size) => {
      for (const value of [0x3333333333333333n, BIG])
        for (let count = 0; count < 100; count++) {
          m.bytes.fill(0x77, DATA, DATA + 1024);
          run(`f3 ${code}`, { rdi: BigInt(DATA + 61), rcx: BigInt(count), rax: value });
          const want = new Uint8Array(1024).fill(0x77);
          for (let i = 0; i < count * size; i++) want[61 + i] = Number((value >> BigInt(8 * (i % size))) & 0xffn);
          expect(m.bytes.subarray(DATA, DATA + 1024), `${count}`).toEqual(want);
        }
    });
    test('a fault in the middle leaves the registers at the element that faulted', () => {
      fill();
      const r = m.runFault(hex('f3 a5'), { rsi: BigInt(DATA), rdi: BigInt(HOLE - 18), rcx: 100n });
      expect(r.fault).toBeDefined();
      expect([r.registers.rcx, r.registers.rdi]).toEqual([96n, BigInt(HOLE - 2)]);
      expect(r.rip).toBe(BigInt(CODE));
    });
    test('REPE CMPSB and REPNE SCASB stop where they should', () => {
      fill();
      m.bytes.copyWithin(DATA + 0x4000, DATA, DATA + 0x2000);
      m.bytes[DATA + 0x4000 + 6000]! ^= 0xff;
      const r = run('f3 a6', { rsi: BigInt(DATA), rdi: BigInt(DATA + 0x4000), rcx: 8000n });
      expect(r.registers.rcx).toBe(8000n - 6001n);
      expect(r.flags & ZF).toBe(0);
      m.bytes.fill(1, DATA, DATA + 0x2000);
      m.bytes[DATA + 5000] = 0;
      const s = run('f2 ae', { rdi: BigInt(DATA), rcx: -1n, rax: 0n });
      expect(s.registers.rdi).toBe(BigInt(DATA + 5001));
      expect(s.flags & ZF).toBe(ZF);
    });
    test('a count of 0 does nothing, not even to the flags', () => {
      const r = run('f3 a6', { rsi: 1n, rdi: 2n, rcx: 0n }, CF);
      expect(r.flags & ARITH).toBe(CF);
      expect(r.registers.rsi).toBe(1n);
    });
    test('32-bit addresses wrap and clear the upper halves', () => {
      fill();
      const r = run('67 f3 a4', { rsi: BigInt(DATA) | (1n << 40n), rdi: BigInt(DATA + 0x9000), rcx: 3n | (1n << 32n) });
      expect([r.registers.rsi, r.registers.rcx]).toEqual([BigInt(DATA + 3), 0n]);
      expect(m.bytes[DATA + 0x9002]).toBe(m.bytes[DATA + 2]);
    });
  });
}
