/** Moves to, from and between XMM registers, MXCSR, and the non-temporal stores (which here are plain stores). */
import { Lanes, Vector, type Emit } from '../emit.ts';
import type { Cpu } from '../cpu.ts';
import { MXCSR } from '../float/mxcsr.ts';
import { def, defHelper, type Insn } from '../insn.ts';
import { DS, RDI, S } from '../layout.ts';
import { I32X4, I64X2, I8X16 } from '../wasm/simd.ts';
import { I64, i32, k32, v128, type Expr } from '../wasm/expr.ts';
import { Fsw } from '../x87/common.ts';
import { low, range, reg } from './sse-common.ts';

/** The low or high 64 bits as an i64. */
const half = (v: Expr, lane: 0 | 1): Expr => v128.extract(I64X2.extract, I64, v, lane);

function load(pattern: string, aligned: boolean): void {
  def(pattern, { unit: 'sse', access: 'w' }, (c) => {
    if (aligned && c.isMem(1)) c.checkAligned();
    const known = c.lanesKnown(1);
    c.setVectorAt(0, c.getVector(1));
    c.noteLanes(0, known);
  });
}

function storeVector(c: Emit, aligned: boolean): void {
  if (c.isMem(0)) {
    if (aligned) c.checkAligned();
    c.store(c.address(), 16, c.vectorAt(1));
  } else {
    const known = c.lanesKnown(1);
    c.setVectorAt(0, reg(c, 1));
    c.noteLanes(0, known);
  }
}

function store(pattern: string, aligned: boolean): void {
  def(pattern, { unit: 'sse', access: 'w' }, (c) => storeVector(c, aligned));
}

function whole(): void {
  load('movups np 0f 10 Vx,Wx', false);
  load('movupd 66 0f 10 Vx,Wx', false);
  store('movups np 0f 11 Wx,Vx', false);
  store('movupd 66 0f 11 Wx,Vx', false);
  load('movaps np 0f 28 Vx,Wx', true);
  load('movapd 66 0f 28 Vx,Wx', true);
  store('movaps np 0f 29 Wx,Vx', true);
  store('movapd 66 0f 29 Wx,Vx', true);
  load('movdqa 66 0f 6f Vx,Wx', true);
  load('movdqu f3 0f 6f Vx,Wx', false);
  store('movdqa 66 0f 7f Wx,Vx', true);
  store('movdqu f3 0f 7f Wx,Vx', false);
  load('lddqu f2 0f f0 Vx,Mx', false);
  load('movntdqa 66 0f 38 2a Vx,Mx', true);
  store('movntps np 0f 2b Mx,Vx', true);
  store('movntpd 66 0f 2b Mx,Vx', true);
  store('movntdq 66 0f e7 Mx,Vx', true);
}

/** MOVSS and MOVSD: between registers the upper part stays, from memory it becomes zero. */
function scalar(name: string, prefix: string, size: 4 | 8, w: string): void {
  const [own, rest] = size === 8 ? [Lanes.D0, Lanes.HIGH] : [Lanes.S0, Lanes.D1 | Lanes.UPPER_S];
  const merge = (c: Emit, from: Expr, to: Expr): void => {
    const known = (c.lanesKnown(1) & own) | (c.lanesKnown(0) & rest);
    c.setVectorAt(0, v128.shuffle(from, to, [...range(0, size), ...range(16 + size, 16 - size)]));
    c.noteLanes(0, known);
  };
  def(`${name} ${prefix} 0f 10 Vx,${w}`, { unit: 'sse' }, (c) => {
    const from = low(c, 1, size);
    if (c.isMem(1)) {
      c.setVectorAt(0, from);
      c.noteLanes(0, rest);
    } else merge(c, from, c.vectorAt(0));
  });
  def(`${name} ${prefix} 0f 11 ${w},Vx`, { unit: 'sse', access: 'w' }, (c) => {
    if (c.isMem(0)) c.store(c.address(), size, c.getScalar(1, size));
    else merge(c, reg(c, 1), c.vectorAt(0));
  });
}

function halves(): void {
  for (const [prefix, letter] of [
    ['np', 's'],
    ['66', 'd'],
  ] as const) {
    for (const [name, from, to, lane] of [
      ['movlp', '12', '13', 0],
      ['movhp', '16', '17', 1],
    ] as const) {
      def(`${name}${letter} ${prefix} 0f ${from} Vx,Mq`, { unit: 'sse' }, (c) => {
        const v = c.load(c.address(), 8);
        c.setVectorAt(0, v128.replace(I64X2.replace, c.vectorAt(0), lane, v));
      });
      def(`${name}${letter} ${prefix} 0f ${to} Mq,Vx`, { unit: 'sse', access: 'w' }, (c) =>
        c.store(c.address(), 8, half(c.vectorAt(1), lane)),
      );
    }
  }
  def('movhlps np 0f 12 Vx,Ux', { unit: 'sse' }, (c) =>
    c.setVectorAt(0, v128.shuffle(reg(c, 1), c.vectorAt(0), [...range(8, 8), ...range(24, 8)])),
  );
  def('movlhps np 0f 16 Vx,Ux', { unit: 'sse' }, (c) =>
    c.setVectorAt(0, v128.shuffle(c.vectorAt(0), reg(c, 1), range(0, 8).concat(range(16, 8)))),
  );
  for (const [name, opcode, at] of [
    ['movsldup', '12', 0],
    ['movshdup', '16', 4],
  ] as const)
    def(`${name} f3 0f ${opcode} Vx,Wx`, { unit: 'sse', access: 'w' }, (c) => {
      if (c.isMem(1)) c.checkAligned();
      const v = c.getVector(1);
      const pick = [...range(at, 4), ...range(at, 4), ...range(at + 8, 4), ...range(at + 8, 4)];
      c.setVectorAt(0, v128.shuffle(v, v, pick));
    });
  def('movddup f2 0f 12 Vx,Wq', { unit: 'sse', access: 'w' }, (c) =>
    c.setVectorAt(0, v128.splat(I64X2.splat, c.getScalar(1, 8))),
  );
}

/** A 32- or 64-bit integer as the low part of a vector of zeros. */
const zeroExtended = (c: Emit, x: Expr, size: number): Expr =>
  size === 8 ? v128.replace(I64X2.replace, c.zeroVector, 0, x) : v128.replace(I32X4.replace, c.zeroVector, 0, x);

function general(): void {
  def('movd 66 0f 6e Vx,Ey', { unit: 'sse', access: 'w' }, (c) => {
    const o = c.operand(1);
    const size = o.size === 8 ? 8 : 4;
    if (o.kind === 'mem') c.setVectorAt(0, low(c, 1, size));
    else c.setVectorAt(0, zeroExtended(c, c.get(1), size));
  });
  def('movd 66 0f 7e Ey,Vx', { unit: 'sse', access: 'w' }, (c) =>
    c.set(0, c.getScalar(1, c.operand(0).size === 8 ? 8 : 4)),
  );
  def('movq f3 0f 7e Vx,Wq', { unit: 'sse', access: 'w' }, (c) => {
    if (c.isMem(1)) c.setVectorAt(0, low(c, 1, 8));
    else c.setVectorAt(0, v128.shuffle(c.vectorAt(1), c.zeroVector, [...range(0, 8), ...range(16, 8)]));
  });
  def('movq 66 0f d6 Wq,Vx', { unit: 'sse', access: 'w' }, (c) => {
    if (c.isMem(0)) c.store(c.address(), 8, half(c.vectorAt(1), 0));
    else c.setVectorAt(0, v128.shuffle(c.vectorAt(1), c.zeroVector, [...range(0, 8), ...range(16, 8)]));
  });
  def('movq2dq f3 0f d6 Vx,Nq', { unit: 'mmx', access: 'w', faults: true }, (c) => {
    waitMmx(c);
    const v = c.let(c.mmxAt(1));
    enterMmx(c);
    c.setVectorAt(0, v128.replace(I64X2.replace, c.zeroVector, 0, v));
  });
  def('movdq2q f2 0f d6 Pq,Ux', { unit: 'mmx', access: 'w', faults: true }, (c) => {
    waitMmx(c);
    const v = c.let(half(c.vectorAt(1), 0));
    enterMmx(c);
    c.setMmxAt(0, v);
  });
  def('movmskps np 0f 50 Gd,Ux', { unit: 'sse', access: 'w' }, (c) =>
    c.set(0, v128.test(I32X4.bitmask, c.vectorAt(1))),
  );
  def('movmskpd 66 0f 50 Gd,Ux', { unit: 'sse', access: 'w' }, (c) =>
    c.set(0, v128.test(I64X2.bitmask, c.vectorAt(1))),
  );
  def('pmovmskb 66 0f d7 Gd,Ux', { unit: 'sse', access: 'w' }, (c) =>
    c.set(0, v128.test(I8X16.bitmask, c.vectorAt(1))),
  );
}

/** #MF for a pending x87 exception, as before every instruction that uses MMX registers. */
export function waitMmx(c: Emit): void {
  c.raiseIf(i32.and(c.state32(S.FSW), k32(Fsw.ES)), Vector.MF);
}

/** The transition to MMX: all registers valid, TOP = 0 (SDM vol. 1, 9.5.1). */
export function enterMmx(c: Emit): void {
  c.setState(S.FTW, 4, k32(0xff));
  c.setState(S.FTOP, 4, k32(0));
}

function control(): void {
  def('ldmxcsr np 0f ae/2 Md', { unit: 'sse', access: 'r' }, (c) => {
    const v = c.load(c.address(), 4);
    c.raiseIf(i32.and(v, k32(~MXCSR.VALID)), Vector.GP, 0);
    c.setState(S.MXCSR, 4, v);
    c.mxcsrChanged();
  });
  def('stmxcsr np 0f ae/3 Md', { unit: 'sse', access: 'w' }, (c) => c.store(c.address(), 4, c.state32(S.MXCSR)));
}

/** MASKMOVDQU: bytes of the first operand whose mask bit (bit 7 of the second's) is set go to (segment):rDI. */
function maskedStore(cpu: Cpu, insn: Insn): void {
  const at = (n: number): number => {
    const o = insn.operands[n]!;
    return cpu.state + S.XMM + (o.kind === 'reg' ? o.reg : 0) * 16;
  };
  let lo = cpu.low(RDI);
  let hi = cpu.high(RDI);
  if (insn.addressSize !== 8) hi = 0;
  if (insn.addressSize === 2) lo &= 0xffff;
  lo = cpu.segmented(insn.segment >= 0 ? insn.segment : DS, lo, hi);
  hi = cpu.eaHigh;
  const data = at(0);
  const mask = at(1);
  for (let i = 0; i < 16; i++)
    if (cpu.u8[mask + i]! & 0x80) {
      const byteLow = (lo + i) | 0;
      const carry = byteLow >>> 0 < lo >>> 0 ? 1 : 0;
      cpu.mmu.write8(byteLow, insn.bits === 64 ? (hi + carry) | 0 : 0, cpu.u8[data + i]!);
    }
}

export function defineSseMove(): void {
  whole();
  scalar('movss', 'f3', 4, 'Wd');
  scalar('movsd', 'f2', 8, 'Wq');
  halves();
  general();
  control();
  defHelper('maskmovdqu 66 0f f7 Vx,Ux', { unit: 'sse', access: 'r', faults: true }, maskedStore);
}
