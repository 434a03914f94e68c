/** Repeated CMPS and SCAS against a model that goes byte by byte: they are done by pages where they can be. */
import { describe, expect, test } from 'vitest';
import { CODE, CodeMachine, DATA, HOLE, type Outcome, type Registers } from './machine-code.ts';

const ARITH = 0x8d5;
const ZF = 0x40;
const DF = 0x400;

/** What is compared: [RSI] − [RDI], or the accumulator − [RDI]. */
interface Case {
  readonly scans: boolean;
  /** The prefix is F3: goes on while equal. */
  readonly whileEqual: boolean;
  readonly size: number;
  readonly addressSize: 8 | 4 | 2;
  readonly bits: 64 | 32;
  readonly down: boolean;
  readonly rsi: number;
  readonly rdi: number;
  readonly rax: bigint;
  readonly count: number;
}

const codeOf = (x: Case): number[] => [
  ...(x.addressSize === x.bits / 8 ? [] : [0x67]),
  ...(x.size === 2 ? [0x66] : []),
  x.whileEqual ? 0xf3 : 0xf2,
  ...(x.size === 8 ? [0x48] : []),
  (x.scans ? 0xae : 0xa6) | (x.size > 1 ? 1 : 0),
];

/** Flags of a − b. */
function flagsOf(a: bigint, b: bigint, size: number): number {
  const bits = size * 8;
  const r = BigInt.asUintN(bits, a - b);
  const top = (x: bigint): boolean => x >> BigInt(bits - 1) === 1n;
  let ones = 0;
  for (let i = 0n; i < 8n; i++) ones += Number((r >> i) & 1n);
  return (
    (a < b ? 1 : 0) |
    (ones & 1 ? 0 : 4) |
    ((a & 15n) < (b & 15n) ? 0x10 : 0) |
    (r === 0n ? ZF : 0) |
    (top(r) ? 0x80 : 0) |
    (top(a) !== top(b) && top(a) !== top(r) ? 0x800 : 0)
  );
}

const tiers = ['interp', 'jit', 'light'] as const;

describe.each(tiers)('%s', (tier) => {
  const m = new CodeMachine(tier);
  let seed = 0x2545f491;
  const below = (n: number): number => {
    seed ^= seed << 13;
    seed ^= seed >>> 17;
    seed ^= seed << 5;
    return (seed >>> 0) % n;
  };
  const element = (at: number, size: number): bigint => {
    let v = 0n;
    for (let i = size - 1; i >= 0; i--) v = (v << 8n) | BigInt(m.bytes[at + i]!);
    return v;
  };

  /** What should come out, up to a page that is not there. */
  function expected(x: Case, flags: number): { rsi: bigint; rdi: bigint; rcx: bigint; flags: number; faults: boolean } {
    const cut = (v: number): number => (x.addressSize === 2 ? v & 0xffff : x.addressSize === 4 ? v >>> 0 : v);
    const absent = (at: number): boolean => x.bits === 64 && at + x.size > HOLE && at < HOLE + 4096;
    const step = x.down ? -x.size : x.size;
    let { rsi, rdi, count } = x;
    let out = flags & ARITH;
    let faults = false;
    while (count > 0) {
      if ((!x.scans && absent(rsi)) || absent(rdi)) {
        faults = true;
        break;
      }
      const a = x.scans ? BigInt.asUintN(x.size * 8, x.rax) : element(rsi, x.size);
      const b = element(rdi, x.size);
      out = flagsOf(a, b, x.size);
      if (!x.scans) rsi = cut(rsi + step);
      rdi = cut(rdi + step);
      count--;
      if ((a === b) !== x.whileEqual) break;
    }
    return { rsi: BigInt(rsi), rdi: BigInt(rdi), rcx: BigInt(count), flags: out, faults };
  }

  function check(x: Case): void {
    const flags = below(0x1000) & ARITH;
    const want = expected(x, flags);
    const registers: Registers = { rsi: BigInt(x.rsi), rdi: BigInt(x.rdi), rcx: BigInt(x.count), rax: x.rax };
    const code = codeOf(x);
    const withDirection = flags | (x.down ? DF : 0);
    const got: Outcome = want.faults
      ? m.runFault(code, registers, withDirection, x.bits)
      : m.run(code, registers, withDirection, x.bits);
    const said = JSON.stringify(x, (_, v: unknown) => (typeof v === 'bigint' ? String(v) : v));
    expect(
      {
        rsi: got.registers.rsi,
        rdi: got.registers.rdi,
        rcx: got.registers.rcx,
        flags: got.flags & ARITH,
        faults: got.fault !== undefined,
      },
      said,
    ).toEqual(want);
    if (want.faults) expect(got.rip, said).toBe(BigInt(CODE));
  }

  /** Fills memory with few different bytes, so that runs are long whichever way; then a random one differs. */
  function fill(from: number, bytes: number): void {
    const [a, b] = [below(256), below(256)];
    const rare = below(4) ? 400 : 3;
    for (let at = from; at < from + bytes; at++) m.bytes[at] = below(rare) ? a : b;
  }

  const random = (bits: 64 | 32, size: number, addressSize: 8 | 4 | 2): Case => {
    const down = below(4) === 0;
    const span = 0x3000;
    // 16-bit addresses wrap between the two.
    const first = addressSize === 2 ? 0xe000 : DATA;
    if (addressSize === 2) fill(0, 0x1000);
    fill(first, addressSize === 2 ? 0x2000 : span * 2);
    const place = (): number => {
      const near = addressSize === 2 ? 0x10000 : first + 0x1000 * (1 + below(2));
      return near + below(80) - 40 - (addressSize === 2 ? 60 : 0) - (below(3) ? 0 : 700);
    };
    const rsi = place();
    let rdi = place();
    if (addressSize !== 2 && below(2)) {
      // Equal for long.
      rdi = rsi + span;
      m.bytes.copyWithin(first + span, first, first + span);
      if (below(2)) m.bytes[rdi + (down ? -1 : 1) * below(1200)]! ^= 1 << below(8);
    }
    return {
      scans: below(2) === 0,
      whileEqual: below(2) === 0,
      size,
      addressSize,
      bits,
      down,
      rsi,
      rdi,
      rax: element(rsi, 8),
      count: below(3) ? below(40) : Math.min(below(2000), Math.floor(900 / size)),
    };
  };

  test.each([
    [64, 8, [1, 2, 4, 8]],
    [64, 4, [1, 2, 4, 8]],
    [32, 4, [1, 2, 4]],
    [32, 2, [1, 2, 4]],
  ] as const)('%i-bit code, addresses of %i bytes', (bits, addressSize, sizes) => {
    for (const size of sizes)
      for (let k = 0; k < 60; k++) {
        check(random(bits, size, addressSize));
      }
  });

  test('a count of 0 leaves the flags of the comparison before', () => {
    // cmp eax, ebx; repe cmpsb
    const out = m.run([0x39, 0xd8, 0xf3, 0xa6], { rax: 1n, rbx: 2n, rcx: 0n });
    expect(out.flags & ARITH).toBe(flagsOf(1n, 2n, 4));
  });

  test('a page that is not there', () => {
    for (const size of [1, 2, 4, 8])
      for (let k = 0; k < 16; k++) {
        m.bytes.fill(0x55, HOLE - 0x2000, HOLE);
        const end = HOLE - below(40);
        const other = HOLE - 0x1800 + below(64);
        const rsi = k & 1 ? end : other;
        const rdi = k & 1 ? other : end;
        const x = { size, addressSize: 8, bits: 64, down: false, rsi, rdi, count: 100 } as const;
        check({ ...x, scans: k % 4 === 2, whileEqual: true, rax: 0x5555555555555555n });
        check({ ...x, rdi: end, scans: true, whileEqual: false, rax: 0x1234n });
      }
  });

  test('many pages, and stops in between', () => {
    m.bytes.fill(7, DATA, DATA + 0x10000);
    const x: Case = {
      scans: false,
      whileEqual: true,
      size: 1,
      addressSize: 8,
      bits: 64,
      down: false,
      rsi: DATA + 1,
      rdi: DATA + 0x7003,
      rax: 0n,
      count: 0x8000,
    };
    check(x);
    m.slice = 20;
    check(x);
    check({ ...x, scans: true, whileEqual: false });
    check({ ...x, down: true, rsi: DATA + 0x8000, rdi: DATA + 0xfff0, count: 0x3000 });
    m.bytes[x.rdi + 0x7abc] = 8;
    check(x);
    check({ ...x, scans: true, whileEqual: false, rax: 8n });
    m.slice = 1_000_000;
  });

  test('a huge count comes up for air', () => {
    m.bytes.fill(0, 0x80_0000, 0xff_0000);
    const registers: Registers = { rdi: 0x80_0000n, rcx: -1n, rax: 1n };
    m.slice = 1000;
    m.bytes[0xfe_1234] = 1;
    const out = m.run([0xf2, 0xae], registers);
    m.slice = 1_000_000;
    expect(out.registers.rdi).toBe(0xfe_1235n);
    const short = m.step([0xf2, 0xae], registers);
    expect(Number(short.registers.rdi)).toBeLessThanOrEqual(0x80_0000 + 128 * 4096);
    expect(short.rip).toBe(BigInt(CODE));
  });

  test('32-bit offsets that wrap where the base is not cut with them', () => {
    m.bytes.fill(9, DATA, DATA + 0x1000);
    // mov ecx, 0xc0000100; mov edx, -1; mov eax, DATA + 0x800; wrmsr (FS base = DATA + 0x800 − 2^32); mov ecx, 0x200
    const base = DATA + 0x800;
    const eax = [base & 0xff, (base >> 8) & 0xff, (base >> 16) & 0xff, base >>> 24];
    const setUp = [0xb9, 0, 1, 0, 0xc0, 0xba, 0xff, 0xff, 0xff, 0xff, 0xb8, ...eax, 0x0f, 0x30, 0xb9, 0, 2, 0, 0];
    const out = m.runFault([...setUp, 0x67, 0x64, 0xf3, 0xa6], { rsi: 0xffff_ff00n, rdi: BigInt(DATA) });
    expect(out.fault).toBeDefined();
    expect([out.registers.rsi, out.registers.rdi, out.registers.rcx]).toEqual([0n, BigInt(DATA + 0x100), 0x100n]);
  });
});
