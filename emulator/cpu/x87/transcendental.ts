/** FSIN, FCOS, FSINCOS, FPTAN, FPATAN, F2XM1, FYL2X and FYL2XP1 (SDM vol. 1, 8.3.7 to 8.3.9). */
import { BIAS, Fsw, INTEGER_BIT } from './common.ts';
import { bitLength, type Float80, type Fpu } from './fpu.ts';
import { atan, BITS, expm1, ln, LN2, ONE, PI, PI66, sinCos } from './functions.ts';

const SHIFT = BigInt(BITS);
/** Below 2^-90 the first term of a function's series is all that 64 bits (and direction) can see. */
const TINY = -90;
/** Arguments from here on set C2 and stay as they are. */
const MAX_ANGLE_EXPONENT = 63;

/** |x| scaled by 2^BITS. Only for arguments that are not tiny. */
function fixed(x: Float80): bigint {
  return x.significand << BigInt(BITS + x.exponent - 63);
}

/** Rounds an inexact fixed-point value into ST(i). */
function result(fpu: Fpu, i: number, sign: number, value: bigint, flags: number): void {
  if (value < 0n) fpu.round(i, sign ^ 1, -value, -BITS, true, flags);
  else fpu.round(i, sign, value, -BITS, true, flags);
}

/** Rounds the value that is just below (or, `above`, just above) significand × 2^(exponent − 63). */
function beside(fpu: Fpu, i: number, x: Float80, above: boolean, flags: number): void {
  fpu.round(i, x.sign, (x.significand << 64n) - (above ? 0n : 1n), x.exponent - 127, true, flags);
}

const PAIR = 2;
type Trigonometric = 'sin' | 'cos' | 'sincos' | 'tan';

/** FSIN, FCOS, FSINCOS, FPTAN on ST(0). */
export function trigonometric(fpu: Fpu, what: Trigonometric): void {
  fpu.wait();
  const pushes = what === 'sincos' || what === 'tan' ? PAIR : 1;
  if (!fpu.inUse(0) || (pushes === PAIR && fpu.inUse(7))) {
    const over = fpu.inUse(0);
    if (!fpu.underflow()) {
      if (over) fpu.fsw |= Fsw.C1;
      return;
    }
    fpu.writeIndefinite(0);
    if (pushes === PAIR) {
      fpu.push();
      fpu.writeIndefinite(0);
    }
    fpu.fsw = (fpu.fsw & ~Fsw.C2) | (over ? Fsw.C1 : 0);
    return;
  }
  const x = fpu.read(0);
  const done = (): void => {
    fpu.fsw &= ~Fsw.C2;
  };
  const nan = x.kind === 'infinite' ? fpu.invalid(0) : fpu.nan(0, x);
  if (nan !== undefined) {
    if (nan && pushes === PAIR) {
      const again = fpu.read(0);
      fpu.push();
      fpu.writeQuiet(0, again);
    }
    if (nan) done();
    return;
  }
  if (x.kind === 'finite' && x.exponent >= MAX_ANGLE_EXPONENT) {
    fpu.fsw = (fpu.fsw & ~Fsw.C1) | Fsw.C2;
    return;
  }
  const one = (): void => fpu.write(0, BIAS, INTEGER_BIT);
  if (x.kind === 'zero') {
    fpu.flag(0);
    if (what === 'cos') one();
    else if (pushes === PAIR) {
      fpu.push();
      one();
    }
    done();
    return;
  }
  const flags = x.denormal ? Fsw.DE : 0;
  if (!fpu.flag(flags)) return;
  if (x.exponent < TINY) {
    if (what === 'cos') fpu.round(0, 0, ONE - 1n, -BITS, true, flags);
    else {
      beside(fpu, 0, x, what === 'tan', flags);
      if (pushes === PAIR) {
        fpu.push();
        if (what === 'tan') one();
        else fpu.round(0, 0, ONE - 1n, -BITS, true, flags);
      }
    }
    done();
    return;
  }
  const half = PI66 >> 1n;
  const angle = fixed(x);
  const turns = (angle + (half >> 1n)) / half;
  const { sin, cos } = sinCos(angle - turns * half);
  const quadrant = Number(turns & 3n);
  const s = quadrant === 0 ? sin : quadrant === 1 ? cos : quadrant === 2 ? -sin : -cos;
  const c = quadrant === 0 ? cos : quadrant === 1 ? -sin : quadrant === 2 ? -cos : sin;
  if (what === 'cos') result(fpu, 0, 0, c, flags);
  else if (what === 'tan') {
    result(fpu, 0, x.sign, (s << SHIFT) / c, flags);
    fpu.push();
    one();
  } else {
    result(fpu, 0, x.sign, s, flags);
    if (what === 'sincos') {
      fpu.push();
      result(fpu, 0, 0, c, flags);
    }
  }
  done();
}

/** The checks that ST(1) = f(ST(1), ST(0)) and pop begin with; `body` writes ST(1) and tells whether to pop. */
function twoToOne(fpu: Fpu, body: (x: Float80, y: Float80, flags: number) => boolean): void {
  fpu.wait();
  if (!fpu.inUse(0) || !fpu.inUse(1)) {
    if (!fpu.underflow()) return;
    fpu.writeIndefinite(1);
    fpu.pop();
    return;
  }
  const x = fpu.read(0);
  const y = fpu.read(1);
  const pops = fpu.nan(1, x, y) ?? body(x, y, x.denormal || y.denormal ? Fsw.DE : 0);
  if (pops) fpu.pop();
}

/** FPATAN: the angle of the point (ST(0), ST(1)). */
export function fpatan(fpu: Fpu): void {
  twoToOne(fpu, (x, y, flags) => {
    if (!fpu.flag(flags)) return false;
    const angle = (value: bigint): boolean => {
      result(fpu, 1, y.sign, value, flags);
      return true;
    };
    if (y.kind === 'zero' || (x.kind === 'infinite' && y.kind !== 'infinite')) {
      if (x.sign) return angle(PI);
      fpu.writeZero(1, y.sign);
      return true;
    }
    if (y.kind === 'infinite') {
      if (x.kind !== 'infinite') return angle(PI >> 1n);
      return angle(x.sign ? (3n * PI) >> 2n : PI >> 2n);
    }
    if (x.kind === 'zero') return angle(PI >> 1n);
    const d = y.exponent - x.exponent;
    const steep = d > 0 || (d === 0 && y.significand > x.significand);
    if (!steep) {
      if (d < TINY) {
        if (x.sign) return angle(PI - 1n);
        // Just below y / x.
        fpu.round(1, y.sign, ((y.significand << 160n) / x.significand) * 2n - 1n, d - 161, true, flags);
        return true;
      }
      const a = atan((y.significand << BigInt(BITS + d)) / x.significand);
      return angle(x.sign ? PI - a : a);
    }
    const a = d > -TINY ? 1n : atan((x.significand << BigInt(BITS - d)) / y.significand);
    return angle(x.sign ? (PI >> 1n) + a : (PI >> 1n) - a);
  });
}

/** F2XM1: 2^ST(0) − 1 for −1 to 1. Beyond, where the result is undefined, ST(0) stays. */
export function f2xm1(fpu: Fpu): void {
  fpu.wait();
  if (!fpu.inUse(0)) {
    if (fpu.underflow()) fpu.writeIndefinite(0);
    return;
  }
  const x = fpu.read(0);
  if (fpu.nan(0, x) !== undefined) return;
  const flags = x.denormal ? Fsw.DE : 0;
  if (!fpu.flag(flags) || x.kind === 'zero') return;
  if (x.kind === 'infinite') {
    if (x.sign) fpu.write(0, 0x8000 | BIAS, INTEGER_BIT);
    return;
  }
  if (x.exponent >= 0) {
    // −1 gives −1/2; 1 gives itself.
    if (x.exponent !== 0 || x.significand !== INTEGER_BIT) fpu.flag(Fsw.PE);
    else if (x.sign) fpu.write(0, 0x8000 | (BIAS - 1), INTEGER_BIT);
    return;
  }
  if (x.exponent < TINY) {
    fpu.round(0, x.sign, x.significand * LN2 + (x.sign ? -1n : 1n), x.exponent - 63 - BITS, true, flags);
    return;
  }
  const t = (fixed(x) * LN2) >> SHIFT;
  result(fpu, 0, 0, expm1(x.sign ? -t : t), flags);
}

/** log2 of significand × 2^(exponent − 63), scaled by 2^BITS; exact for a power of two. */
function log2(significand: bigint, exponent: number): bigint {
  let m = significand << BigInt(BITS - 63);
  // To within √½ … √2, so that no digits cancel.
  if (significand > 0xb504f333f9de6484n) {
    m >>= 1n;
    exponent++;
  }
  return (BigInt(exponent) << SHIFT) + (ln(m) << SHIFT) / LN2;
}

/** Stores y × logarithm into ST(1). */
function product(fpu: Fpu, y: Float80, logarithm: bigint, exact: boolean, flags: number): boolean {
  const sign = logarithm < 0n ? y.sign ^ 1 : y.sign;
  const magnitude = logarithm < 0n ? -logarithm : logarithm;
  fpu.round(1, sign, y.significand * magnitude, y.exponent - 63 - BITS, !exact, flags);
  return true;
}

/** FYL2X: ST(1) × log2(ST(0)). */
export function fyl2x(fpu: Fpu): void {
  twoToOne(fpu, (x, y, flags) => {
    if (x.kind === 'zero') {
      if (y.kind === 'zero') return fpu.invalid(1);
      if (y.kind !== 'infinite' && !fpu.flag(Fsw.ZE)) return false;
      if (y.kind === 'infinite') fpu.flag(0);
      fpu.writeInfinity(1, y.sign ^ 1);
      return true;
    }
    if (x.sign) return fpu.invalid(1);
    const isOne = x.kind === 'finite' && x.exponent === 0 && x.significand === INTEGER_BIT;
    if (x.kind === 'infinite' ? y.kind === 'zero' : isOne && y.kind === 'infinite') return fpu.invalid(1);
    if (!fpu.flag(flags)) return false;
    const below = x.kind === 'finite' && x.exponent < 0 ? 1 : 0;
    if (x.kind === 'infinite' || y.kind === 'infinite') fpu.writeInfinity(1, y.sign ^ below);
    else if (y.kind === 'zero' || isOne) fpu.writeZero(1, y.sign ^ below);
    else return product(fpu, y, log2(x.significand, x.exponent), x.significand === INTEGER_BIT, flags);
    return true;
  });
}

/** FYL2XP1: ST(1) × log2(ST(0) + 1). Where ST(0) is −1 or less, which is undefined, it is the result. */
export function fyl2xp1(fpu: Fpu): void {
  twoToOne(fpu, (x, y, flags) => {
    if (x.kind === 'infinite' && (x.sign || y.kind === 'zero')) return fpu.invalid(1);
    if (x.kind === 'zero' && y.kind === 'infinite') return fpu.invalid(1);
    if (!fpu.flag(flags)) return false;
    const sign = x.sign ^ y.sign;
    if (x.kind === 'infinite' || y.kind === 'infinite') fpu.writeInfinity(1, sign);
    else if (x.kind === 'zero' || y.kind === 'zero') fpu.writeZero(1, sign);
    else if (x.exponent < TINY) {
      // x / ln 2, a little nearer to 0 (or, for a negative x, farther from it).
      const m = (y.significand * x.significand * 2n ** 400n) / LN2 + (x.sign ? 1n : -1n);
      fpu.round(1, sign, m, y.exponent + x.exponent - 126 - 400 + BITS, true, flags);
    } else if (x.exponent > 70) return product(fpu, y, log2(x.significand, x.exponent), false, flags);
    else {
      const sum = x.sign ? ONE - fixed(x) : ONE + fixed(x);
      if (sum <= 0n) {
        fpu.write(1, 0x8000 | (x.exponent + BIAS), x.significand);
        fpu.flag(flags | Fsw.PE);
        return true;
      }
      // As significand and exponent, but with all bits.
      const e = bitLength(sum) - 1 - BITS;
      const near = e === 0 || e === -1;
      const m = near ? sum : e > 0 ? sum >> BigInt(e) : sum << BigInt(-e);
      const logarithm = (ln(m) << SHIFT) / LN2 + (near ? 0n : BigInt(e) << SHIFT);
      return product(fpu, y, logarithm, false, flags);
    }
    return true;
  });
}
