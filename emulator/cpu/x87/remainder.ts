/** FPREM, FPREM1, FSCALE, FXTRACT, FBLD and FBSTP (SDM vol. 2). */
import { BIAS, Fsw, Rc } from './common.ts';
import { bitLength, type Float80, type Fpu } from './fpu.ts';

/** Operands ST(0) and ST(1) of an instruction that changes ST(0); undefined where checks have ended it. */
function operands(fpu: Fpu): { x: Float80; y: Float80 } | undefined {
  fpu.wait();
  if (!fpu.inUse(0) || !fpu.inUse(1)) {
    if (fpu.underflow()) fpu.writeIndefinite(0);
    return undefined;
  }
  const x = fpu.read(0);
  const y = fpu.read(1);
  return fpu.nan(0, x, y) === undefined ? { x, y } : undefined;
}

/** The three low bits of the quotient in C0, C3, C1. */
function quotientBits(q: bigint): number {
  return (q & 4n ? Fsw.C0 : 0) | (q & 2n ? Fsw.C3 : 0) | (q & 1n ? Fsw.C1 : 0);
}

/** FPREM (`nearest` false: the quotient is cut off) and FPREM1 (the quotient is the nearest integer). */
export function remainder(fpu: Fpu, nearest: boolean): void {
  const o = operands(fpu);
  fpu.fsw &= ~Fsw.C2;
  if (!o) return;
  const { x, y } = o;
  if (x.kind === 'infinite' || y.kind === 'zero') {
    fpu.invalid(0);
    return;
  }
  const flags = x.denormal || y.denormal ? Fsw.DE : 0;
  if (!fpu.flag(flags)) return;
  if (x.kind === 'zero' || y.kind === 'infinite') {
    if (x.kind === 'finite') fpu.round(0, x.sign, x.significand, x.exponent - 63, false, flags);
    fpu.conditions(0);
    return;
  }
  const d = x.exponent - y.exponent;
  if (d >= 64) {
    // Part of the work: the exponent's difference becomes smaller by up to 63.
    const n = d % 32 === 0 ? 32 : (d % 32) + 32;
    const q = (x.significand << BigInt(n)) / y.significand;
    const rest = (x.significand << BigInt(n)) - q * y.significand;
    const scale = x.exponent - n - 63;
    if (rest === 0n) fpu.writeZero(0, x.sign);
    else fpu.round(0, x.sign, rest, scale, false, flags);
    fpu.conditions(Fsw.C2);
    return;
  }
  let sign = x.sign;
  let q = 0n;
  // In units of y's last place, or of x's where that is smaller.
  const fine = d < 0 ? BigInt(Math.min(-d, 70)) : 0n;
  const numerator = d < 0 ? x.significand : x.significand << BigInt(d);
  const denominator = y.significand << fine;
  let rest = numerator;
  if (d >= 0) {
    q = numerator / denominator;
    rest = numerator - q * denominator;
  }
  if (nearest && d >= -1) {
    const twice = rest * 2n;
    if (twice > denominator || (twice === denominator && (q & 1n) === 1n)) {
      q++;
      rest = denominator - rest;
      sign ^= 1;
    }
  }
  if (rest === 0n) fpu.writeZero(0, x.sign);
  else fpu.round(0, sign, rest, (d < 0 ? x.exponent : y.exponent) - 63, false, flags);
  fpu.conditions(quotientBits(q));
}

/** FSCALE: ST(0) × 2^(ST(1) cut to an integer). */
export function fscale(fpu: Fpu): void {
  const o = operands(fpu);
  if (!o) return;
  const { x, y } = o;
  if (y.kind === 'infinite') {
    if (y.sign ? x.kind === 'infinite' : x.kind === 'zero') {
      fpu.invalid(0);
      return;
    }
    if (!fpu.flag(x.denormal ? Fsw.DE : 0)) return;
    if (y.sign) fpu.writeZero(0, x.sign);
    else fpu.writeInfinity(0, x.sign);
    return;
  }
  const flags = x.denormal || y.denormal ? Fsw.DE : 0;
  if (!fpu.flag(flags) || x.kind !== 'finite') return;
  let by = 0;
  if (y.kind === 'finite' && y.exponent >= 0) {
    // More than any exponent can be, where it is so large.
    by = y.exponent > 16 ? 0x20000 : Number(y.significand >> BigInt(63 - y.exponent));
    if (y.sign) by = -by;
  }
  fpu.round(0, x.sign, x.significand, x.exponent + by - 63, false, flags);
}

/** FXTRACT: ST(0) becomes its exponent, and its significand is pushed. */
export function fxtract(fpu: Fpu): void {
  fpu.wait();
  const full = fpu.inUse(7);
  if (!fpu.inUse(0) || full) {
    const overflow = fpu.inUse(0);
    const masked = fpu.underflow();
    if (masked) {
      fpu.writeIndefinite(0);
      fpu.push();
      fpu.writeIndefinite(0);
    }
    if (overflow) fpu.fsw |= Fsw.C1;
    return;
  }
  const x = fpu.read(0);
  const nan = fpu.nan(0, x);
  if (nan !== undefined) {
    if (!nan) return;
    const result = fpu.read(0);
    fpu.push();
    fpu.writeQuiet(0, result);
    return;
  }
  if (x.kind === 'zero') {
    if (!fpu.flag(Fsw.ZE)) return;
    fpu.writeInfinity(0, 1);
    fpu.push();
    fpu.writeZero(0, x.sign);
    return;
  }
  if (!fpu.flag(x.denormal ? Fsw.DE : 0)) return;
  if (x.kind === 'infinite') {
    fpu.writeInfinity(0, 0);
    fpu.push();
    fpu.writeInfinity(0, x.sign);
    return;
  }
  const e = BigInt(Math.abs(x.exponent));
  if (e === 0n) fpu.writeZero(0, 0);
  else {
    const n = bitLength(e);
    fpu.write(0, (x.exponent < 0 ? 0x8000 : 0) | (BIAS + n - 1), e << BigInt(64 - n));
  }
  fpu.push();
  fpu.write(0, (x.sign << 15) | BIAS, x.significand);
}

const LARGEST_BCD = 10n ** 18n - 1n;

/** FBLD: 18 packed decimal digits (`digits`, low 72 bits) and a sign. */
export function loadBcd(fpu: Fpu, digits: bigint, sign: number): void {
  if (fpu.inUse(7)) {
    if (fpu.underflow()) {
      fpu.push();
      fpu.writeIndefinite(0);
    }
    fpu.fsw |= Fsw.C1;
    return;
  }
  let value = 0n;
  for (let k = 17; k >= 0; k--) value = value * 10n + ((digits >> BigInt(4 * k)) & 15n);
  fpu.push();
  if (value === 0n) fpu.writeZero(0, sign);
  else {
    const n = bitLength(value);
    // Digits above 9 are undefined, but they fit.
    fpu.write(0, (sign << 15) | (BIAS + n - 1), value << BigInt(64 - n));
  }
  fpu.flag(0);
}

/**
 * FBSTP: what is to be stored for ST(0), as 80 bits, and the flags to raise. The state does not change yet.
 */
export function toBcd(fpu: Fpu): { value: bigint; flags: number; up: boolean } {
  const indefinite = 0xffffc000000000000000n;
  if (!fpu.inUse(0)) return { value: indefinite, flags: Fsw.IE | Fsw.SF, up: false };
  const x = fpu.read(0);
  const signBit = BigInt(x.sign) << 79n;
  if (x.kind === 'zero') return { value: signBit, flags: 0, up: false };
  if (x.kind !== 'finite' || x.exponent >= 63) return { value: indefinite, flags: Fsw.IE, up: false };
  const shift = BigInt(Math.min(63 - x.exponent, 100));
  let whole = x.significand >> shift;
  const rest = x.significand - (whole << shift);
  const rc = (fpu.fcw >> 10) & 3;
  const half = (1n << shift) >> 1n;
  const up =
    rc === Rc.NEAREST
      ? rest > half || (rest === half && rest !== 0n && (whole & 1n) === 1n)
      : rest !== 0n && rc !== Rc.ZERO && (rc & 1) === x.sign;
  if (up) whole++;
  if (whole > LARGEST_BCD) return { value: indefinite, flags: Fsw.IE, up: false };
  return { value: signBit | BigInt(`0x${whole.toString()}`), flags: rest !== 0n ? Fsw.PE : 0, up };
}
