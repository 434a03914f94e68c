/** Data movement: MOV and its relatives, LEA, XCHG, CMOVcc, SETcc, BSWAP, XLAT, widening, NOPs, hints and fences. */
import { CC_NAMES, CC_READS } from '../flags.ts';
import type { Emit } from '../emit.ts';
import { def, defHelper } from '../insn.ts';
import { DS, RAX, RBX, RDX } from '../layout.ts';
import { i32, i64, k32, select, type Expr } from '../wasm/expr.ts';

const W = { access: 'w' } as const;
const hex = (n: number): string => n.toString(16).padStart(2, '0');

function move(c: Emit): void {
  c.set(0, c.get(1));
}

function swap32(x: Expr): Expr {
  return i32.or(i32.and(i32.rotl(x, 8), 0x00ff00ff), i32.and(i32.rotr(x, 8), 0xff00ff00 | 0));
}

function exchange(c: Emit): void {
  const a = c.get(0);
  const b = c.get(1);
  c.set(0, b);
  c.set(1, a);
}

function defineExtensions(): void {
  for (const source of ['Eb', 'Ew'] as const) {
    const low = source === 'Eb' ? 0 : 1;
    def(`movzx 0f ${hex(0xb6 + low)} Gv,${source}`, W, (c) => {
      const v = c.get(1);
      c.set(0, c.size === 8 ? i64.extend_u(v) : v);
    });
    def(`movsx 0f ${hex(0xbe + low)} Gv,${source}`, W, (c) => {
      const v = c.signExtend32(c.get(1), low + 1);
      c.set(0, c.size === 8 ? i64.extend_s(v) : v);
    });
  }
  def('movsxd 63 Gv,Ed', { ...W, only: 64 }, (c) => {
    const v = c.get(1);
    c.set(0, c.size === 8 ? i64.extend_s(v) : v);
  });
  // CBW, CWDE, CDQE
  def('cbw 98', {}, (c) => {
    if (c.size === 2) c.setGpr(RAX, 2, i32.extend8_s(c.gpr(RAX, 1)));
    else if (c.size === 4) c.setGpr(RAX, 4, i32.extend16_s(c.gpr(RAX, 2)));
    else c.setGpr(RAX, 8, i64.extend_s(c.gpr(RAX, 4)));
  });
  // CWD, CDQ, CQO
  def('cwd 99', {}, (c) => {
    if (c.size === 2) c.setGpr(RDX, 2, i32.shr_s(i32.extend16_s(c.gpr(RAX, 2)), 15));
    else if (c.size === 4) c.setGpr(RDX, 4, i32.shr_s(c.gpr(RAX, 4), 31));
    else c.setGpr(RDX, 8, i64.shr_s(c.gpr(RAX, 8), 63));
  });
}

function defineHints(): void {
  const nothing = (): void => {};
  // Reserved hints: PREFETCHh, multi-byte NOP, and ENDBR64, which is a NOP without CET. The operand is not accessed.
  def('prefetchw 0f 0d M', { access: 'r' }, nothing);
  for (let i = 0x18; i <= 0x1f; i++) def(`nop 0f ${hex(i)} Ev`, { access: 'r' }, nothing);
  def('lfence np 0f ae/5 Rd', { access: 'r' }, nothing);
  def('mfence np 0f ae/6 Rd', { access: 'r' }, nothing);
  def('sfence np 0f ae/7 Rd', { access: 'r' }, nothing);
  // Faults as a load of the byte would.
  def('clflush np 0f ae/7 Mb', { access: 'r' }, (c) => {
    c.get(0);
  });
}

export function defineMov(): void {
  def('mov 88 Eb,Gb', W, move);
  def('mov 89 Ev,Gv', W, move);
  def('mov 8a Gb,Eb', W, move);
  def('mov 8b Gv,Ev', W, move);
  def('mov a0 Ab,Ob', W, move);
  def('mov a1 Av,Ov', W, move);
  def('mov a2 Ob,Ab', W, move);
  def('mov a3 Ov,Av', W, move);
  def('mov b0+r Zb,Ib', W, move);
  def('mov b8+r Zv,Iv', W, move);
  def('mov c6/0 Eb,Ib', W, move);
  def('mov c7/0 Ev,Iz', W, move);
  def('movnti np 0f c3 My,Gy', W, move);
  defineExtensions();

  def('lea 8d Gv,M', W, (c) => {
    const ea = c.effectiveAddress();
    c.set(0, c.size === 8 ? ea : i32.wrap(ea));
  });

  // 90 is XCHG rAX,rAX, which must not clear the upper half: NOP is found first. F3 90 (PAUSE) decodes as it too.
  def('nop 90', {}, () => {});
  def('xchg 90+r Zv,Av', {}, exchange);
  def('xchg 86 Eb,Gb', { lock: true }, exchange);
  def('xchg 87 Ev,Gv', { lock: true }, exchange);

  CC_NAMES.forEach((name, cc) => {
    const reads = CC_READS[cc >> 1]!;
    def(`cmov${name} 0f ${hex(0x40 + cc)} Gv,Ev`, { reads }, (c) => {
      const v = c.get(1);
      const old = c.get(0);
      c.set(0, select(c.condition(cc), v, old));
    });
    def(`set${name} 0f ${hex(0x90 + cc)} Eb`, { reads, ...W }, (c) => {
      c.set(0, i32.ne(c.condition(cc), k32(0)));
    });
  });

  def('bswap 0f c8+r Zv', {}, (c) => {
    const x = c.get(0);
    if (c.size === 8)
      c.set(
        0,
        i64.or(
          i64.shl(i64.extend_u(swap32(c.let(i32.wrap(x)))), 32),
          i64.extend_u(swap32(c.let(i32.wrap(i64.shr_u(x, 32))))),
        ),
      );
    // The result for 16 bits is undefined by the manual; processors give 0.
    else c.set(0, c.size === 4 ? swap32(x) : k32(0));
  });

  defHelper('xlat d7', {}, (cpu, insn) => {
    const size = insn.addressSize;
    let [lo, hi] = cpu.add64(cpu.low(RBX), cpu.high(RBX), cpu.low(RAX) & 0xff, 0);
    if (size !== 8) hi = 0;
    if (size === 2) lo &= 0xffff;
    lo = cpu.segmented(insn.segment < 0 ? DS : insn.segment, lo, hi);
    const value = cpu.mmu.read8(lo, cpu.eaHigh);
    cpu.setPair(RAX, (cpu.low(RAX) & ~0xff) | value, cpu.high(RAX));
  });

  defineHints();
}
