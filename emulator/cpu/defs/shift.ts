/** Shifts and rotates. Counts are masked to 5 bits (6 for 64-bit operands); a masked count of 0 changes no flag. */
import type { Emit } from '../emit.ts';
import { ARITH, CF, def, OF, type DefOptions } from '../insn.ts';
import { i32, i64, k32, select, W64, type Expr, type IntOps } from '../wasm/expr.ts';

/** A masked count: evaluated, and as a number where it is known when the code is emitted. */
interface Count {
  n: Expr;
  known: number | undefined;
}

/** The count in operand `i` (an immediate, CL, or the constant 1). */
function countOf(c: Emit, i: number): Count {
  const mask = c.size === 8 ? 63 : 31;
  const spec = c.insn.def.specs[i]!;
  let known: number | undefined;
  if (spec === '1') known = 1;
  else if (spec === 'Ib') known = c.immConst();
  if (known !== undefined) {
    known &= mask;
    return { n: k32(known), known };
  }
  return { n: c.let(i32.and(spec === 'CL' ? c.get(i) : c.imm32(), mask)), known };
}

/** Sets all flags from a result unless the count is 0. */
function resultFlags(c: Emit, count: Count, r: Expr, cf: Expr, of: Expr): void {
  if (count.known === 0) return;
  if (count.known !== undefined) c.flagsResult(r, cf, of);
  else c.flagsResultIf(count.n, r, cf, of);
}

/** Sets CF and OF unless the count is 0. */
function rotateFlags(c: Emit, count: Count, cf: Expr, of: Expr): void {
  if (count.known === 0 || c.flagsDead) return;
  if (count.known !== undefined) c.setCarryOverflow(cf, of);
  else {
    const newCf = c.let(cf);
    const newOf = c.let(of);
    c.setCarryOverflow(select(count.n, newCf, c.carry()), select(count.n, newOf, c.overflow()));
  }
}

const bit = (w: IntOps, x: Expr, at: number): Expr => i32.and(w.to32(w.shr_u(x, w.k(at))), 1);
const low = (w: IntOps, x: Expr): Expr => i32.and(w.to32(x), 1);

function shl(c: Emit): void {
  const { w, size } = c;
  const bits = size * 8;
  const a = c.get(0);
  const count = countOf(c, 1);
  const n = w.from32(count.n);
  const r = c.let(w.shl(a, n));
  c.set(0, r);
  if (c.flagsDead) return;
  // The last bit shifted out: for narrow operands it is still there, just above the result.
  const cf = c.let(size < 4 ? bit(w, r, bits) : low(w, w.shr_u(a, w.sub(w.k(bits), n))));
  resultFlags(c, count, r, cf, i32.xor(c.signBit(r, size), cf));
}

function shr(c: Emit): void {
  const { w, size } = c;
  const a = c.get(0);
  const count = countOf(c, 1);
  const n = w.from32(count.n);
  const r = c.let(w.shr_u(a, n));
  c.set(0, r);
  if (c.flagsDead) return;
  const cf = low(w, w.shr_u(a, w.sub(n, w.k(1))));
  // For a count of 1 this is the operand's old sign bit; for more it is 0.
  resultFlags(c, count, r, cf, bit(w, r, size * 8 - 2));
}

function sar(c: Emit): void {
  const { w, size } = c;
  const a = size < 4 ? c.let(c.signExtend32(c.get(0), size)) : c.get(0);
  const count = countOf(c, 1);
  const n = w.from32(count.n);
  const r = c.let(w.shr_s(a, n));
  c.set(0, r);
  if (c.flagsDead) return;
  resultFlags(c, count, r, low(w, w.shr_s(a, w.sub(n, w.k(1)))), k32(0));
}

const rotate =
  (left: boolean) =>
  (c: Emit): void => {
    const { w, size } = c;
    const bits = size * 8;
    const a = c.get(0);
    const count = countOf(c, 1);
    const n = w.from32(count.n);
    let r: Expr;
    if (size >= 4) r = c.let(left ? w.rotl(a, n) : w.rotr(a, n));
    else {
      const by = i32.and(n, bits - 1);
      const back = i32.and(i32.sub(0, n), bits - 1);
      r = c.let(c.zeroExtend(i32.or(i32.shl(a, left ? by : back), i32.shr_u(a, left ? back : by)), size));
    }
    c.set(0, r);
    if (c.flagsDead) return;
    const top = c.let(c.signBit(r, size));
    if (left) {
      const cf = c.let(low(w, r));
      rotateFlags(c, count, cf, i32.xor(top, cf));
    } else rotateFlags(c, count, top, i32.xor(top, bit(w, r, bits - 2)));
  };

/** RCL and RCR to 32 bits: a rotate of a value one bit wider, in an i64. */
function rotateWide(c: Emit, left: boolean): void {
  const { size } = c;
  const width = size * 8 + 1;
  const a = c.get(0);
  const masked = countOf(c, 1);
  const known = masked.known === undefined ? undefined : masked.known % width;
  const count: Count =
    known !== undefined
      ? { n: k32(known), known }
      : { n: size === 4 ? masked.n : c.let(i32.rem_u(masked.n, k32(width))), known };
  const n = c.let(i64.extend_u(count.n));
  const v = c.let(i64.or(i64.extend_u(a), i64.shl(i64.extend_u(c.carry()), width - 1)));
  const back = i64.sub(width, n);
  const r = c.let(left ? i64.or(i64.shl(v, n), i64.shr_u(v, back)) : i64.or(i64.shr_u(v, n), i64.shl(v, back)));
  c.set(0, i32.wrap(r));
  if (c.flagsDead) return;
  const cf = c.let(bit(W64, r, width - 1));
  const top = bit(W64, r, width - 2);
  rotateFlags(c, count, cf, left ? i32.xor(top, cf) : i32.xor(top, bit(W64, r, width - 3)));
}

/** RCL and RCR of 64 bits. */
function rotateLong(c: Emit, left: boolean): void {
  const a = c.get(0);
  const count = countOf(c, 1);
  const n = c.let(i64.extend_u(count.n));
  const old = c.let(i64.extend_u(c.carry()));
  const back = i64.sub(64, n);
  const rotated = left
    ? i64.or(i64.or(i64.shl(a, n), i64.shl(old, i64.sub(n, 1))), i64.shr_u(i64.shr_u(a, 1), back))
    : i64.or(i64.or(i64.shr_u(a, n), i64.shl(old, back)), i64.shl(i64.shl(a, 1), back));
  const r = c.let(count.known !== undefined && count.known > 0 ? rotated : select(count.n, rotated, a));
  c.set(0, r);
  if (c.flagsDead) return;
  const cf = c.let(low(W64, i64.shr_u(a, left ? back : i64.sub(n, 1))));
  const top = c.signBit(r, 8);
  rotateFlags(c, count, cf, left ? i32.xor(top, cf) : i32.xor(top, bit(W64, r, 62)));
}

const rotateCarry =
  (left: boolean) =>
  (c: Emit): void => {
    if (c.size === 8) rotateLong(c, left);
    else rotateWide(c, left);
  };

/** SHLD and SHRD. Counts above 16 of 16-bit operands are undefined by the manual; here the operand follows itself. */
const double =
  (left: boolean) =>
  (c: Emit): void => {
    const { w, size } = c;
    const a = c.get(0);
    const b = c.get(1);
    const count = countOf(c, 2);
    let r: Expr;
    let cf: Expr;
    if (size === 2) {
      const n = c.let(i64.extend_u(count.n));
      const a64 = c.let(i64.extend_u(a));
      const v = c.let(i64.or(i64.or(i64.shl(a64, 32), i64.shl(i64.extend_u(b), 16)), a64));
      r = c.let(c.zeroExtend(i32.wrap(left ? i64.shr_u(i64.shl(v, n), 32) : i64.shr_u(v, n)), 2));
      cf = low(W64, i64.shr_u(v, left ? i64.sub(48, n) : i64.sub(n, 1)));
    } else {
      const n = c.let(w.from32(count.n));
      const back = w.sub(w.k(size * 8), n);
      const shifted = left ? w.or(w.shl(a, n), w.shr_u(b, back)) : w.or(w.shr_u(a, n), w.shl(b, back));
      r = c.let(count.known !== undefined && count.known > 0 ? shifted : select(count.n, shifted, a));
      cf = low(w, w.shr_u(a, left ? back : w.sub(n, w.k(1))));
    }
    c.set(0, r);
    if (c.flagsDead) return;
    resultFlags(c, count, r, cf, i32.xor(c.signBit(r, size), c.signBit(a, size)));
  };

export function defineShift(): void {
  const shifts: readonly (readonly [string, readonly number[], (c: Emit) => void, number])[] = [
    ['rol', [0], rotate(true), CF | OF],
    ['ror', [1], rotate(false), CF | OF],
    ['rcl', [2], rotateCarry(true), CF | OF],
    ['rcr', [3], rotateCarry(false), CF | OF],
    // /6 is an undocumented alias of SHL that all processors have.
    ['shl', [4, 6], shl, ARITH],
    ['shr', [5], shr, ARITH],
    ['sar', [7], sar, ARITH],
  ];
  for (const [name, regs, emit, flags] of shifts)
    for (const reg of regs) {
      const carryIn = name.startsWith('rc') ? CF : 0;
      const byOne: DefOptions = { reads: carryIn, writes: flags };
      // A count of 0 leaves the flags.
      const byImmediate: DefOptions = { reads: carryIn, counted: flags };
      const byCount: DefOptions = { reads: carryIn, sometimes: flags };
      def(`${name} d0/${reg} Eb,1`, byOne, emit);
      def(`${name} d1/${reg} Ev,1`, byOne, emit);
      def(`${name} c0/${reg} Eb,Ib`, byImmediate, emit);
      def(`${name} c1/${reg} Ev,Ib`, byImmediate, emit);
      def(`${name} d2/${reg} Eb,CL`, byCount, emit);
      def(`${name} d3/${reg} Ev,CL`, byCount, emit);
    }
  const options: DefOptions = { sometimes: ARITH };
  const immediate: DefOptions = { counted: ARITH };
  def('shld 0f a4 Ev,Gv,Ib', immediate, double(true));
  def('shld 0f a5 Ev,Gv,CL', options, double(true));
  def('shrd 0f ac Ev,Gv,Ib', immediate, double(false));
  def('shrd 0f ad Ev,Gv,CL', options, double(false));
}
