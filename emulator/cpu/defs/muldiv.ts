/** MUL, IMUL, DIV, IDIV. */
import { Vector, type Emit } from '../emit.ts';
import { ARITH, def, type DefOptions } from '../insn.ts';
import { RAX, RDX } from '../layout.ts';
import { I64, i32, i64, k64, select, type Expr } from '../wasm/expr.ts';

/** High half of the unsigned 128-bit product of two i64 (cheap to repeat), from four products of halves. */
function highUnsigned(c: Emit, a: Expr, b: Expr): Expr {
  const half = (x: Expr): Expr => i64.and(x, 0xffffffff);
  const al = c.let(half(a));
  const ah = c.let(i64.shr_u(a, 32));
  const bl = c.let(half(b));
  const bh = c.let(i64.shr_u(b, 32));
  const u = c.let(i64.add(i64.mul(ah, bl), i64.shr_u(i64.mul(al, bl), 32)));
  const v = i64.add(i64.mul(al, bh), half(u));
  return c.let(i64.add(i64.add(i64.mul(ah, bh), i64.shr_u(u, 32)), i64.shr_u(v, 32)));
}

function highSigned(c: Emit, a: Expr, b: Expr): Expr {
  const correction = i64.add(i64.and(i64.shr_s(a, 63), b), i64.and(i64.shr_s(b, 63), a));
  return c.let(i64.sub(highUnsigned(c, a, b), correction));
}

/** rDX:rAX = rAX × operand. CF = OF = the high half is more than the low half's extension. */
const multiply =
  (signed: boolean) =>
  (c: Emit): void => {
    const { size } = c;
    const b = c.get(0);
    const a = c.let(c.gpr(RAX, size));
    let low: Expr;
    let over: Expr;
    if (size === 8) {
      low = c.let(i64.mul(a, b));
      const high = signed ? highSigned(c, a, b) : highUnsigned(c, a, b);
      c.setGpr(RAX, 8, low);
      c.setGpr(RDX, 8, high);
      over = i64.ne(high, signed ? i64.shr_s(low, 63) : 0);
    } else if (size === 4) {
      const p = c.let(signed ? i64.mul(i64.extend_s(a), i64.extend_s(b)) : i64.mul(i64.extend_u(a), i64.extend_u(b)));
      low = c.let(i32.wrap(p));
      c.setGpr(RAX, 4, low);
      c.setGpr(RDX, 4, i32.wrap(i64.shr_u(p, 32)));
      over = i64.ne(p, signed ? i64.extend_s(low) : i64.extend_u(low));
    } else {
      const extend = (x: Expr): Expr => (signed ? c.signExtend32(x, size) : x);
      const p = c.let(i32.mul(extend(a), extend(b)));
      low = p;
      c.setGpr(RAX, 2, p);
      if (size === 2) c.setGpr(RDX, 2, i32.shr_u(p, 16));
      over = i32.ne(p, signed ? c.signExtend32(p, size) : c.zeroExtend(p, size));
    }
    if (c.flagsDead) return;
    const o = c.let(over);
    c.flagsResult(low, o, o);
  };

/** Operand 0 = the product of operands `i` and `k`, cut to the operand size. */
const multiplyCut =
  (i: number, k: number) =>
  (c: Emit): void => {
    const { size, w } = c;
    const a = c.get(i);
    const b = c.let(c.get(k));
    if (size === 8 || (size === 4 && c.flagsDead)) {
      const low = c.let(w.mul(a, b));
      c.set(0, low);
      if (c.flagsDead) return;
      const over = c.let(i64.ne(highSigned(c, a, b), i64.shr_s(low, 63)));
      c.flagsResult(low, over, over);
      return;
    }
    let low: Expr;
    let over: Expr;
    if (size === 4) {
      const p = c.let(i64.mul(i64.extend_s(a), i64.extend_s(b)));
      low = c.let(i32.wrap(p));
      over = i64.ne(p, i64.extend_s(low));
    } else {
      low = c.let(i32.mul(i32.extend16_s(a), i32.extend16_s(b)));
      over = i32.ne(low, i32.extend16_s(low));
    }
    c.set(0, low);
    if (c.flagsDead) return;
    const o = c.let(over);
    c.flagsResult(low, o, o);
  };

/** The dividend of an 8-, 16- or 32-bit division as an i64, extended as its sign says. */
function dividend(c: Emit, signed: boolean): Expr {
  const { size } = c;
  if (size === 1) {
    const ax = c.gpr(RAX, 2);
    return c.let(signed ? i64.extend_s(i32.extend16_s(ax)) : i64.extend_u(ax));
  }
  const high = c.gpr(RDX, size);
  const low = i64.extend_u(c.gpr(RAX, size));
  if (size === 4) return c.let(i64.or(i64.shl(i64.extend_u(high), 32), low));
  const both = i32.or(i32.shl(high, 16), c.gpr(RAX, 2));
  return c.let(signed ? i64.extend_s(both) : i64.extend_u(both));
}

function setQuotient(c: Emit, quotient: Expr, remainder: Expr): void {
  const { size } = c;
  const q = c.let(quotient);
  const r = c.let(remainder);
  if (size === 1) {
    c.setGpr(RAX, 2, i32.or(c.zeroExtend(q, 1), i32.shl(c.zeroExtend(r, 1), 8)));
    return;
  }
  c.setGpr(RAX, size, q);
  c.setGpr(RDX, size, r);
}

/** Division of a dividend that fits an i64: everything but 64-bit operands. */
function divideNarrow(c: Emit, signed: boolean): void {
  const { size } = c;
  const d = c.get(0);
  const divisor = c.let(signed ? c.signExtend64(d, size) : i64.extend_u(d));
  const a = dividend(c, signed);
  const bad = i64.eqz(divisor);
  if (!signed) {
    c.raiseIf(bad, Vector.DE);
    const q = c.let(i64.div_u(a, divisor));
    c.raiseIf(i64.ne(i64.shr_u(q, size * 8), 0), Vector.DE);
    setQuotient(c, i32.wrap(q), i32.wrap(i64.sub(a, i64.mul(q, divisor))));
    return;
  }
  // The one quotient that overflows an i64 would trap.
  const extreme = i32.and(i64.eq(a, k64(-(2n ** 63n))), i64.eq(divisor, -1));
  c.raiseIf(i32.or(bad, extreme), Vector.DE);
  const q = c.let(i64.div_s(a, divisor));
  const cut = size === 4 ? i64.extend32_s(q) : size === 2 ? i64.extend16_s(q) : i64.extend8_s(q);
  c.raiseIf(i64.ne(cut, q), Vector.DE);
  setQuotient(c, i32.wrap(q), i32.wrap(i64.sub(a, i64.mul(q, divisor))));
}

function divideLongUnsigned(c: Emit): void {
  const d = c.get(0);
  const low = c.let(c.gpr(RAX, 8));
  const high = c.let(c.gpr(RDX, 8));
  // Covers a divisor of 0 too.
  c.raiseIf(i64.ge_u(high, d), Vector.DE);
  const q = c.temp(I64);
  c.f.if(
    i64.eqz(high),
    () => c.f.set(q, i64.div_u(low, d)),
    () => c.f.set(q, c.callRuntime('divide128', high, low, d)),
  );
  setQuotient(c, q.get, i64.sub(low, i64.mul(q.get, d)));
}

function divideLongSigned(c: Emit): void {
  const d = c.get(0);
  const low = c.let(c.gpr(RAX, 8));
  const high = c.let(c.gpr(RDX, 8));
  const negative = c.let(i64.shr_s(high, 63));
  // Magnitudes: (x XOR sign) − sign, over 128 bits for the dividend.
  const lowMagnitude = c.let(i64.sub(i64.xor(low, negative), negative));
  const highMagnitude = c.let(
    i64.add(i64.xor(high, negative), i64.and(i64.extend_u(i64.eqz(low)), i64.shr_u(negative, 63))),
  );
  const dSign = c.let(i64.shr_s(d, 63));
  const dMagnitude = c.let(i64.sub(i64.xor(d, dSign), dSign));
  c.raiseIf(i64.ge_u(highMagnitude, dMagnitude), Vector.DE);
  const q = c.temp(I64);
  c.f.if(
    i64.eqz(highMagnitude),
    () => c.f.set(q, i64.div_u(lowMagnitude, dMagnitude)),
    () => c.f.set(q, c.callRuntime('divide128', highMagnitude, lowMagnitude, dMagnitude)),
  );
  const sign = c.let(i64.xor(negative, dSign));
  // The quotient's magnitude may be 2^63 only if it is negative.
  const limit = select(i64.eqz(sign), k64(2n ** 63n - 1n), k64(-(2n ** 63n)));
  c.raiseIf(i64.gt_u(q.get, limit), Vector.DE);
  const quotient = c.let(i64.sub(i64.xor(q.get, sign), sign));
  setQuotient(c, quotient, i64.sub(low, i64.mul(quotient, d)));
}

export function defineMuldiv(): void {
  const mul: DefOptions = { access: 'r', writes: ARITH };
  // All flags are undefined after a division; they are left as they are.
  const div: DefOptions = { access: 'r', faults: true };
  for (const e of ['f6/N Eb', 'f7/N Ev']) {
    const form = (n: number): string => e.replace('N', String(n));
    def(`mul ${form(4)}`, mul, multiply(false));
    def(`imul ${form(5)}`, mul, multiply(true));
    def(`div ${form(6)}`, div, (c) => {
      if (c.size === 8) divideLongUnsigned(c);
      else divideNarrow(c, false);
    });
    def(`idiv ${form(7)}`, div, (c) => {
      if (c.size === 8) divideLongSigned(c);
      else divideNarrow(c, true);
    });
  }
  def('imul 0f af Gv,Ev', { writes: ARITH }, multiplyCut(0, 1));
  def('imul 69 Gv,Ev,Iz', { writes: ARITH, access: 'w' }, multiplyCut(1, 2));
  def('imul 6b Gv,Ev,Ibs', { writes: ARITH, access: 'w' }, multiplyCut(1, 2));
}
