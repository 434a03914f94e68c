/** BT, BTS, BTR, BTC, BSF, BSR, POPCNT. */
import type { Emit } from '../emit.ts';
import { ARITH, CF, def, type DefOptions } from '../insn.ts';
import { i32, i64, k32, select, type Expr } from '../wasm/expr.ts';

type Change = 'bt' | 'bts' | 'btr' | 'btc';

/** The value with bit `n` (same type, already modulo the width) as the instruction leaves it. */
function changed(c: Emit, change: Change, v: Expr, n: Expr): Expr {
  const { w } = c;
  const mask = w.shl(w.k(1), n);
  if (change === 'bts') return w.or(v, mask);
  if (change === 'btr') return w.and(v, w.xor(mask, w.k(-1)));
  return w.xor(v, mask);
}

const bitOf = (c: Emit, v: Expr, n: Expr): Expr => i32.and(c.w.to32(c.w.shr_u(v, n)), 1);

/** Bit offset in a register: with a memory operand it reaches any bit around the address, signed. */
const byRegister =
  (change: Change) =>
  (c: Emit): void => {
    const { w, size } = c;
    const offset = c.get(1);
    const n = c.let(w.and(offset, w.k(size * 8 - 1)));
    if (!c.isMem(0)) {
      const v = c.get(0);
      if (change !== 'bt') c.set(0, changed(c, change, v, n));
      c.setCarry(bitOf(c, v, n));
      return;
    }
    const displacement = i64.and(i64.shr_s(c.signExtend64(offset, size), 3), -size);
    // The sum is an offset in the segment: it wraps at the address size.
    const sum = i64.add(c.effectiveAddress(), displacement);
    const bytes = c.insn.mem!.addressSize;
    const at = c.let(c.sourceAddress(bytes === 8 ? sum : i64.and(sum, bytes === 4 ? 0xffffffff : 0xffff)));
    if (change === 'bt') {
      c.setCarry(bitOf(c, c.load(at, size), n));
      return;
    }
    const host = c.access(at, size, true);
    const v = c.let(c.loadHost(host, size));
    c.storeHost(host, size, changed(c, change, v, n));
    c.setCarry(bitOf(c, v, n));
  };

const byImmediate =
  (change: Change) =>
  (c: Emit): void => {
    const v = c.get(0);
    const n = c.let(c.w.from32(i32.and(c.imm32(), c.size * 8 - 1)));
    if (change !== 'bt') c.set(0, changed(c, change, v, n));
    c.setCarry(bitOf(c, v, n));
  };

/** BSF and BSR leave the destination as it is when the source is 0. */
const scan =
  (forward: boolean) =>
  (c: Emit): void => {
    const { w } = c;
    const v = c.get(1);
    const index = forward ? w.ctz(v) : w.sub(w.k(c.size === 8 ? 63 : 31), w.clz(v));
    // A write of 32 bits would clear the upper half.
    if (c.size === 4) c.f.if(v, () => c.set(0, index));
    else c.set(0, select(w.eqz(v), c.get(0), index));
    c.flagsLogic(v);
  };

export function defineBit(): void {
  (['bt', 'bts', 'btr', 'btc'] as const).forEach((name, i) => {
    const options: DefOptions = { writes: CF, access: i === 0 ? 'r' : 'rw', lock: i !== 0 };
    def(`${name} 0f ${(0xa3 + 8 * i).toString(16)} Ev,Gv`, options, byRegister(name));
    def(`${name} 0f ba/${4 + i} Ev,Ib`, options, byImmediate(name));
  });
  // With F3 these are TZCNT and LZCNT on processors that have them; without, the prefix is ignored.
  def('bsf 0f bc Gv,Ev', { writes: ARITH }, scan(true));
  def('bsr 0f bd Gv,Ev', { writes: ARITH }, scan(false));
  def('popcnt f3 0f b8 Gv,Ev', { writes: ARITH, access: 'w' }, (c) => {
    const v = c.get(1);
    c.set(0, c.w.popcnt(v));
    c.flagsCompare(c.w.eqz(v), k32(0), k32(0));
  });
}
