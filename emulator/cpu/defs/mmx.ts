/**
 * MMX, with what SSE, SSE2 and SSSE3 added on MMX registers (SDM vol. 1, chapter 9). MMn is the significand of R n; every
 * instruction sets TOP to 0 and all tags to valid, and EMMS empties them. Most are done on the lower half of a v128.
 */
import type { Cpu } from '../cpu.ts';
import type { Emit } from '../emit.ts';
import { Vector } from '../emit.ts';
import { def, defHelper, type DefOptions, type Insn } from '../insn.ts';
import { RDI, S } from '../layout.ts';
import { choose, I32, I64, i32, i64, k32, k64, select, v128, type Expr } from '../wasm/expr.ts';
import { Fsw } from '../x87/common.ts';

const OPTIONS: DefOptions = { unit: 'mmx', faults: true };
const STORE: DefOptions = { unit: 'mmx', faults: true, access: 'w' };

/** #MF for a pending x87 exception: before the operands are touched. */
function wait(c: Emit): void {
  c.raiseIf(i32.and(c.state32(S.FSW), Fsw.ES), Vector.MF);
}

/** What every MMX instruction but EMMS does to the x87 state, after all that may fault. */
function enterMmx(c: Emit): void {
  c.setState(S.FTOP, 4, k32(0));
  c.setState(S.FTW, 4, k32(0xff));
}

/** Operand `i` (MMX register or memory of 8 or 4 bytes) as an i64, evaluated. */
function source(c: Emit, i: number): Expr {
  if (!c.isMem(i)) return c.let(c.mmxAt(i));
  const value = c.get(i);
  return value.type === I64 ? value : c.let(i64.extend_u(value));
}

const splat = (x: Expr): Expr => v128.splat(0x12, x);
const low64 = (v: Expr): Expr => v128.extract(0x1d, I64, v, 0);
/** a in the lower half, b in the upper. */
const join = (a: Expr, b: Expr): Expr => v128.replace(0x1e, splat(a), 1, b);

type Binary = (a: Expr, b: Expr, c: Emit) => Expr;

/** Pq = f(Pq, Qq), on i64 values. */
function binary(pattern: string, f: Binary): void {
  def(pattern, OPTIONS, (c) => {
    wait(c);
    const b = source(c, 1);
    const a = c.let(c.mmxAt(0));
    enterMmx(c);
    c.setMmxAt(0, f(a, b, c));
  });
}

/** One v128 operation on the lower halves, by its sub-opcode. */
function lanes(pattern: string, sub: number): void {
  binary(pattern, (a, b) => low64(v128.bin(sub, splat(a), splat(b))));
}

/** [name, opcode, sub-opcode of the v128 operation] */
const LANES: readonly [string, string, number][] = [
  ['pcmpgtb', '64', 0x27],
  ['pcmpgtw', '65', 0x31],
  ['pcmpgtd', '66', 0x3b],
  ['pcmpeqb', '74', 0x23],
  ['pcmpeqw', '75', 0x2d],
  ['pcmpeqd', '76', 0x37],
  ['pmullw', 'd5', 0x95],
  ['psubusb', 'd8', 0x73],
  ['psubusw', 'd9', 0x93],
  ['pminub', 'da', 0x77],
  ['paddusb', 'dc', 0x70],
  ['paddusw', 'dd', 0x90],
  ['pmaxub', 'de', 0x79],
  ['pavgb', 'e0', 0x7b],
  ['pavgw', 'e3', 0x9b],
  ['psubsb', 'e8', 0x72],
  ['psubsw', 'e9', 0x92],
  ['pminsw', 'ea', 0x96],
  ['paddsb', 'ec', 0x6f],
  ['paddsw', 'ed', 0x8f],
  ['pmaxsw', 'ee', 0x98],
  ['pmaddwd', 'f5', 0xba],
  ['psubb', 'f8', 0x71],
  ['psubw', 'f9', 0x91],
  ['psubd', 'fa', 0xb1],
  ['paddb', 'fc', 0x6e],
  ['paddw', 'fd', 0x8e],
  ['paddd', 'fe', 0xae],
];

function defineArithmetic(): void {
  for (const [name, opcode, sub] of LANES) lanes(`${name} np 0f ${opcode} Pq,Qq`, sub);
  binary('paddq np 0f d4 Pq,Qq', (a, b) => i64.add(a, b));
  binary('psubq np 0f fb Pq,Qq', (a, b) => i64.sub(a, b));
  binary('pand np 0f db Pq,Qq', (a, b) => i64.and(a, b));
  binary('pandn np 0f df Pq,Qq', (a, b) => i64.and(i64.xor(a, -1), b));
  binary('por np 0f eb Pq,Qq', (a, b) => i64.or(a, b));
  binary('pxor np 0f ef Pq,Qq', (a, b) => i64.xor(a, b));
  binary('pmuludq np 0f f4 Pq,Qq', (a, b) => i64.mul(i64.and(a, 0xffffffffn), i64.and(b, 0xffffffffn)));
  // The upper halves of four 32-bit products.
  const high = (product: number) => (a: Expr, b: Expr, c: Emit) => {
    const p = c.let(v128.bin(product, splat(a), splat(b)));
    return low64(v128.shuffle(p, p, [2, 3, 6, 7, 10, 11, 14, 15, 0, 0, 0, 0, 0, 0, 0, 0]));
  };
  binary('pmulhw np 0f e5 Pq,Qq', high(0xbc));
  binary('pmulhuw np 0f e4 Pq,Qq', high(0xbe));
  // |a − b| of bytes by saturating both ways, then summed in pairs, fours and eights.
  binary('psadbw np 0f f6 Pq,Qq', (a, b, c) => {
    const x = splat(a);
    const y = splat(b);
    const difference = v128.or(v128.bin(0x73, x, y), v128.bin(0x73, y, x));
    const sums = c.let(low64(v128.un(0x7f, v128.un(0x7d, difference))));
    return i64.and(i64.add(sums, i64.shr_u(sums, 32)), 0xffff);
  });
}

function definePacks(): void {
  binary('packsswb np 0f 63 Pq,Qq', (a, b) => low64(v128.bin(0x65, join(a, b), splat(b))));
  binary('packuswb np 0f 67 Pq,Qq', (a, b) => low64(v128.bin(0x66, join(a, b), splat(b))));
  binary('packssdw np 0f 6b Pq,Qq', (a, b) => low64(v128.bin(0x85, join(a, b), splat(b))));
  const zip = (bytes: number[]) => (a: Expr, b: Expr) =>
    low64(v128.shuffle(splat(a), splat(b), [...bytes, 0, 0, 0, 0, 0, 0, 0, 0]));
  binary('punpcklbw np 0f 60 Pq,Qd', zip([0, 16, 1, 17, 2, 18, 3, 19]));
  binary('punpcklwd np 0f 61 Pq,Qd', zip([0, 1, 16, 17, 2, 3, 18, 19]));
  binary('punpckldq np 0f 62 Pq,Qd', zip([0, 1, 2, 3, 16, 17, 18, 19]));
  binary('punpckhbw np 0f 68 Pq,Qq', zip([4, 20, 5, 21, 6, 22, 7, 23]));
  binary('punpckhwd np 0f 69 Pq,Qq', zip([4, 5, 20, 21, 6, 7, 22, 23]));
  binary('punpckhdq np 0f 6a Pq,Qq', zip([4, 5, 6, 7, 20, 21, 22, 23]));
}

/** Shifts: name, opcode of the form with a register count, opcode and ModRM.reg of the immediate form, lane bits, v128 operation. */
const SHIFTS: readonly [string, string, string, number, number][] = [
  ['psrlw', 'd1', '71/2', 16, 0x8d],
  ['psrld', 'd2', '72/2', 32, 0xad],
  ['psrlq', 'd3', '73/2', 64, 0],
  ['psraw', 'e1', '71/4', 16, 0x8c],
  ['psrad', 'e2', '72/4', 32, 0xac],
  ['psllw', 'f1', '71/6', 16, 0x8b],
  ['pslld', 'f2', '72/6', 32, 0xab],
  ['psllq', 'f3', '73/6', 64, 1],
];

function defineShifts(): void {
  for (const [name, opcode, immediate, bits, sub] of SHIFTS) {
    const arithmetic = name.startsWith('psra');
    /** `count` is an i64, evaluated. */
    const shift = (a: Expr, count: Expr): Expr => {
      const over = i64.ge_u(count, bits);
      if (arithmetic) return low64(v128.bin(sub, splat(a), select(over, k32(bits - 1), i32.wrap(count))));
      if (bits === 64) return select(over, k64(0), sub ? i64.shl(a, count) : i64.shr_u(a, count));
      return select(over, k64(0), low64(v128.bin(sub, splat(a), i32.wrap(count))));
    };
    binary(`${name} np 0f ${opcode} Pq,Qq`, shift);
    def(`${name} np 0f ${immediate} Nq,Ib`, OPTIONS, (c) => {
      wait(c);
      const a = c.let(c.mmxAt(0));
      enterMmx(c);
      c.setMmxAt(0, shift(a, c.let(i64.extend_u(c.imm32()))));
    });
  }
}

function defineMoves(): void {
  const load: DefOptions = { ...OPTIONS, access: 'w' };
  def('movd np 0f 6e Pq,Ey', load, (c) => {
    wait(c);
    const value = c.get(1);
    enterMmx(c);
    c.setMmxAt(0, value.type === I32 ? i64.extend_u(value) : value);
  });
  def('movd np 0f 7e Ey,Pq', STORE, (c) => {
    wait(c);
    const value = c.let(c.mmxAt(1));
    const o = c.operand(0);
    c.set(0, o.size === 4 ? c.let(i32.wrap(value)) : value);
    enterMmx(c);
  });
  def('movq np 0f 6f Pq,Qq', load, (c) => {
    wait(c);
    const value = source(c, 1);
    enterMmx(c);
    c.setMmxAt(0, value);
  });
  const store = (c: Emit): void => {
    wait(c);
    const value = c.let(c.mmxAt(1));
    if (c.isMem(0)) c.set(0, value);
    else c.setMmxAt(0, value);
    enterMmx(c);
  };
  def('movq np 0f 7f Qq,Pq', STORE, store);
  def('movntq np 0f e7 Mq,Pq', STORE, store);
  def('emms np 0f 77', OPTIONS, (c) => {
    wait(c);
    c.setState(S.FTW, 4, k32(0));
    // As every MMX instruction it sets TOP to 0.
    c.setState(S.FTOP, 4, k32(0));
  });
  def('pmovmskb np 0f d7 Gd,Nq', OPTIONS, (c) => {
    wait(c);
    const mask = c.let(i32.and(v128.test(0x64, splat(c.mmxAt(1))), 0xff));
    enterMmx(c);
    c.set(0, mask);
  });
  const lane = (c: Emit): Expr => c.let(i64.extend_u(i32.shl(i32.and(c.imm32(), 3), 4)));
  def('pextrw np 0f c5 Gd,Nq,Ib', { ...OPTIONS, access: 'w' }, (c) => {
    wait(c);
    const value = c.let(i32.and(i32.wrap(i64.shr_u(c.mmxAt(1), lane(c))), 0xffff));
    enterMmx(c);
    c.set(0, value);
  });
  const insert = (c: Emit): void => {
    wait(c);
    const value = c.let(i64.and(i64.extend_u(c.get(1)), 0xffff));
    const at = lane(c);
    const a = c.let(c.mmxAt(0));
    enterMmx(c);
    c.setMmxAt(0, i64.or(i64.and(a, i64.xor(i64.shl(k64(0xffff), at), -1)), i64.shl(value, at)));
  };
  def('pinsrw np 0f c4 Pq,Rd,Ib', OPTIONS, insert);
  def('pinsrw np 0f c4 Pq,Mw,Ib', OPTIONS, insert);
  def('pshufw np 0f 70 Pq,Qq,Ib', { ...OPTIONS, access: 'w' }, (c) => {
    wait(c);
    const a = source(c, 1);
    enterMmx(c);
    const imm = c.let(c.imm32());
    const word = (k: number): Expr => {
      const from = i64.extend_u(i32.shl(i32.and(i32.shr_u(imm, 2 * k), 3), 4));
      return i64.shl(i64.and(i64.shr_u(a, from), 0xffff), 16 * k);
    };
    c.setMmxAt(0, i64.or(i64.or(word(0), word(1)), i64.or(word(2), word(3))));
  });
}

/** Even and odd lanes of a, then of b, as two vectors to add or subtract (PHADD and PHSUB). */
function pairs(c: Emit, a: Expr, b: Expr, bytes: 2 | 4): [Expr, Expr] {
  const v = c.let(join(a, b));
  const pick = (odd: number): Expr => {
    const order: number[] = [];
    for (let k = odd; k < 16 / bytes; k += 2) for (let n = 0; n < bytes; n++) order.push(k * bytes + n);
    return v128.shuffle(v, v, [...order, ...order]);
  };
  return [pick(0), pick(1)];
}

function defineSsse3(): void {
  for (const [name, opcode, bytes, sub] of [
    ['phaddw', '01', 2, 0x8e],
    ['phaddd', '02', 4, 0xae],
    ['phaddsw', '03', 2, 0x8f],
    ['phsubw', '05', 2, 0x91],
    ['phsubd', '06', 4, 0xb1],
    ['phsubsw', '07', 2, 0x92],
  ] as const)
    binary(`${name} np 0f 38 ${opcode} Pq,Qq`, (a, b, c) => {
      const [even, odd] = pairs(c, a, b, bytes);
      return low64(v128.bin(sub, even, odd));
    });
  binary('pshufb np 0f 38 00 Pq,Qq', (a, b) =>
    // A set bit 7 must stay out of range: 0x87 keeps it, and the index within 8 bytes.
    low64(v128.swizzle(splat(a), splat(i64.and(b, 0x8787878787878787n)))),
  );
  binary('pmaddubsw np 0f 38 04 Pq,Qq', (a, b, c) => {
    // Unsigned bytes of the destination times signed bytes of the source; neighbours summed with saturation.
    const p = c.let(v128.bin(0x95, v128.un(0x89, splat(a)), v128.un(0x87, splat(b))));
    const even = v128.shuffle(p, p, [0, 1, 4, 5, 8, 9, 12, 13, 0, 1, 4, 5, 8, 9, 12, 13]);
    const odd = v128.shuffle(p, p, [2, 3, 6, 7, 10, 11, 14, 15, 2, 3, 6, 7, 10, 11, 14, 15]);
    return low64(v128.bin(0x8f, even, odd));
  });
  for (const [name, opcode, neg, gt] of [
    ['psignb', '08', 0x61, 0x27],
    ['psignw', '09', 0x81, 0x31],
    ['psignd', '0a', 0xa1, 0x3b],
  ] as const)
    binary(`${name} np 0f 38 ${opcode} Pq,Qq`, (a, b, c) => {
      const x = c.let(splat(a));
      const y = c.let(splat(b));
      const zero = c.zeroVector;
      const negative = v128.bin(gt, zero, y);
      const positive = v128.bin(gt, y, zero);
      return low64(v128.or(v128.and(v128.un(neg, x), negative), v128.and(x, positive)));
    });
  binary('pmulhrsw np 0f 38 0b Pq,Qq', (a, b, c) => {
    // (a × b + 0x4000) >> 15 without saturation: −1 × −1 stays 0x8000.
    const p = v128.bin(0xbc, splat(a), splat(b));
    const rounded = c.let(v128.bin(0xad, v128.bin(0xae, p, v128.splat(0x11, k32(0x4000))), k32(15)));
    return low64(v128.shuffle(rounded, rounded, [0, 1, 4, 5, 8, 9, 12, 13, 0, 0, 0, 0, 0, 0, 0, 0]));
  });
  for (const [name, opcode, sub] of [
    ['pabsb', '1c', 0x60],
    ['pabsw', '1d', 0x80],
    ['pabsd', '1e', 0xa0],
  ] as const)
    binary(`${name} np 0f 38 ${opcode} Pq,Qq`, (_a, b) => low64(v128.un(sub, splat(b))));
  def('palignr np 0f 3a 0f Pq,Qq,Ib', OPTIONS, (c) => {
    wait(c);
    const b = source(c, 1);
    const a = c.let(c.mmxAt(0));
    enterMmx(c);
    const n = c.let(i64.extend_u(i32.shl(c.imm32(), 3)));
    const within = choose(i64.eqz(n), b, i64.or(i64.shr_u(b, n), i64.shl(a, i64.sub(64, n))));
    const beyond = select(i64.lt_u(n, 128), i64.shr_u(a, i64.sub(n, 64)), k64(0));
    c.setMmxAt(0, select(i64.lt_u(n, 64), within, beyond));
  });
}

/** MASKMOVQ: the bytes of Pq whose mask byte in Nq has its top bit set go to DS:[rDI] (or the overriding segment). */
function maskmovq(cpu: Cpu, insn: Insn): void {
  const word = cpu.state >> 2;
  if (cpu.i32[word + (S.FSW >> 2)]! & Fsw.ES) throw cpu.fault(Vector.MF);
  const [data, mask] = insn.operands;
  if (data?.kind !== 'reg' || mask?.kind !== 'reg') throw new Error('MASKMOVQ has two registers');
  const from = cpu.state + S.X87 + data.reg * 16;
  const masks = cpu.state + S.X87 + mask.reg * 16;
  const lo = cpu.low(RDI);
  const hi = insn.addressSize === 8 ? cpu.high(RDI) : 0;
  for (let k = 0; k < 8; k++) {
    if (!(cpu.u8[masks + k]! & 0x80)) continue;
    const [offsetLow, offsetHigh] = cpu.add64(lo, hi, k, 0);
    const at = cpu.segmented(insn.segment >= 0 ? insn.segment : 3, offsetLow, insn.addressSize === 8 ? offsetHigh : 0);
    cpu.mmu.write8(at, cpu.eaHigh, cpu.u8[from + k]!);
  }
  cpu.i32[word + (S.FTOP >> 2)] = 0;
  cpu.i32[word + (S.FTW >> 2)] = 0xff;
}

export function defineMmx(): void {
  defineArithmetic();
  definePacks();
  defineShifts();
  defineMoves();
  defineSsse3();
  defHelper('maskmovq np 0f f7 Pq,Nq', { unit: 'mmx', faults: true }, maskmovq);
}
