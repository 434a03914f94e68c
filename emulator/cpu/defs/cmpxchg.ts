/** CMPXCHG, CMPXCHG8B, CMPXCHG16B, XADD. */
import type { Emit } from '../emit.ts';
import { ARITH, def, ZF, type DefOptions } from '../insn.ts';
import { RAX, RBX, RCX, RDX } from '../layout.ts';
import { i32, i64, k32, select, v128, type Expr } from '../wasm/expr.ts';

function cmpxchg(c: Emit): void {
  const { w, size } = c;
  const old = c.get(0);
  const source = c.get(1);
  const accumulator = c.let(c.gpr(RAX, size));
  const r = c.let(w.sub(accumulator, old));
  const equal = c.let(w.eq(accumulator, old));
  // The accumulator comes first: it may be the destination too. If equal, all 64 bits of it stay.
  if (size === 4) c.setGpr(RAX, 8, c.let(select(equal, c.gpr(RAX, 8), i64.extend_u(old))));
  else c.setGpr(RAX, size, c.let(select(equal, accumulator, old)));
  // A register that differs keeps its upper half even at 32 bits; memory is written in any case.
  if (c.isMem(0)) c.set(0, select(equal, source, old));
  else c.f.if(equal, () => c.set(0, source));
  c.flagsSub(accumulator, old, r);
}

function setZero(c: Emit, equal: Expr): void {
  if (c.flagsDead) return;
  c.setFlagBits(i32.or(i32.and(c.flagBits(), k32(ARITH & ~ZF)), i32.shl(equal, 6)));
}

/** CMPXCHG8B, or CMPXCHG16B with REX.W. */
function cmpxchgPair(c: Emit): void {
  const address = c.address();
  if (c.size === 8) {
    c.checkAligned(16);
    const host = c.access(address, 16, true);
    const low = c.let(c.loadHost(host, 8));
    const high = c.let(c.loadHost(host, 8, 8));
    const rax = c.let(c.gpr(RAX, 8));
    const rdx = c.let(c.gpr(RDX, 8));
    const equal = c.let(i64.eqz(i64.or(i64.xor(rax, low), i64.xor(rdx, high))));
    const newLow = select(equal, c.gpr(RBX, 8), low);
    const newHigh = select(equal, c.gpr(RCX, 8), high);
    c.storeHost(host, 16, v128.replace(0x1e, v128.splat(0x12, newLow), 1, newHigh));
    c.setGpr(RAX, 8, low);
    c.setGpr(RDX, 8, high);
    setZero(c, equal);
    return;
  }
  const host = c.access(address, 8, true);
  const old = c.let(c.loadHost(host, 8));
  const pair = (high: number, low: number): Expr =>
    i64.or(i64.shl(i64.extend_u(c.gpr(high, 4)), 32), i64.extend_u(c.gpr(low, 4)));
  const equal = c.let(i64.eq(old, pair(RDX, RAX)));
  c.storeHost(host, 8, select(equal, pair(RCX, RBX), old));
  c.setGpr(RAX, 8, c.let(select(equal, c.gpr(RAX, 8), i64.and(old, 0xffffffff))));
  c.setGpr(RDX, 8, c.let(select(equal, c.gpr(RDX, 8), i64.shr_u(old, 32))));
  setZero(c, equal);
}

function xadd(c: Emit): void {
  const a = c.get(0);
  const b = c.get(1);
  const r = c.let(c.w.add(a, b));
  // The source first: if both are one register, it gets the sum.
  c.set(1, a);
  c.set(0, r);
  c.flagsAdd(a, b, r);
}

export function defineCmpxchg(): void {
  const options: DefOptions = { writes: ARITH, lock: true };
  def('cmpxchg 0f b0 Eb,Gb', options, cmpxchg);
  def('cmpxchg 0f b1 Ev,Gv', options, cmpxchg);
  def('cmpxchg8b 0f c7/1 M', { reads: ARITH & ~ZF, writes: ZF, lock: true }, cmpxchgPair);
  def('xadd 0f c0 Eb,Gb', options, xadd);
  def('xadd 0f c1 Ev,Gv', options, xadd);
}
