/**
 * IEEE 754 arithmetic on bit patterns, exact in every rounding mode, for the rare cases that emitted code hands over.
 * Slow and simple: significands are BigInts.
 */

/** Exception flags at their places in MXCSR (SDM vol. 1, 10.2.3); the x87 status word has them at the same places. */
export const IE = 1;
export const DE = 2;
export const ZE = 4;
export const OE = 8;
export const UE = 16;
export const PE = 32;

/** Rounding modes as in MXCSR.RC. */
export const NEAREST = 0;
export const DOWN = 1;
export const UP = 2;
export const CHOP = 3;

export interface Format {
  readonly bits: number;
  /** Significand bits with the leading one. */
  readonly precision: number;
  readonly fraction: bigint;
  readonly emin: number;
  readonly emax: number;
  readonly quiet: bigint;
  /** The default NaN, which is negative. */
  readonly indefinite: bigint;
  readonly infinity: bigint;
  readonly sign: bigint;
}

const format = (bits: number, precision: number): Format => {
  const exponentBits = bits - precision;
  const emax = 2 ** (exponentBits - 1) - 1;
  const sign = 1n << BigInt(bits - 1);
  const infinity = ((1n << BigInt(exponentBits)) - 1n) << BigInt(precision - 1);
  const quiet = 1n << BigInt(precision - 2);
  return {
    bits,
    precision,
    fraction: (1n << BigInt(precision - 1)) - 1n,
    emin: 1 - emax,
    emax,
    quiet,
    indefinite: sign | infinity | quiet,
    infinity,
    sign,
  };
};
export const SINGLE = format(32, 24);
export const DOUBLE = format(64, 53);

/** How to round and what to do with tiny results. `flags` collects what happened. */
export interface Context {
  rounding: number;
  /** Denormal operands count as zero. */
  daz: boolean;
  /** Tiny results become zero. */
  ftz: boolean;
  /** The underflow exception is unmasked: tiny results raise it even where they are exact. */
  underflowTraps: boolean;
  /** The overflow exception is unmasked. */
  overflowTraps: boolean;
  flags: number;
}

/** A finite number: ±significand × 2^exponent. */
export interface Finite {
  sign: boolean;
  exponent: number;
  significand: bigint;
}

export const isNaN_ = (f: Format, x: bigint): boolean => (x & ~f.sign) > f.infinity;
export const isSignalling = (f: Format, x: bigint): boolean => isNaN_(f, x) && (x & f.quiet) === 0n;
export const isInfinite = (f: Format, x: bigint): boolean => (x & ~f.sign) === f.infinity;
export const isZero = (f: Format, x: bigint): boolean => (x & ~f.sign) === 0n;
export const isDenormal = (f: Format, x: bigint): boolean => {
  const m = x & ~f.sign;
  return m !== 0n && m <= f.fraction;
};
export const isNegative = (f: Format, x: bigint): boolean => (x & f.sign) !== 0n;

/** DAZ: a denormal operand becomes a zero of its sign. */
export const flush = (f: Format, x: bigint, ctx: Context): bigint => (ctx.daz && isDenormal(f, x) ? x & f.sign : x);

export function unpack(f: Format, x: bigint): Finite {
  const biased = Number((x & f.infinity) >> BigInt(f.precision - 1));
  const fraction = x & f.fraction;
  return {
    sign: isNegative(f, x),
    exponent: (biased || 1) - f.emax - (f.precision - 1),
    significand: biased ? fraction | (f.fraction + 1n) : fraction,
  };
}

export const bitLength = (x: bigint): number => (x === 0n ? 0 : x.toString(16).length * 4 - clz4(x));
function clz4(x: bigint): number {
  return Math.clz32(parseInt(x.toString(16)[0]!, 16)) - 28;
}

/**
 * x / 2^shift rounded to an integer. `sticky`: the true value is a little above x.
 * @returns the integer; `inexactShift` says whether it differs from the true value
 */
export let inexactShift = false;
export function shiftRound(x: bigint, shift: number, sticky: boolean, sign: boolean, rounding: number): bigint {
  if (shift <= 0) {
    // Callers that pass `sticky` give enough bits for a shift of at least 1.
    inexactShift = sticky;
    return x << BigInt(-shift);
  }
  const n = BigInt(shift);
  const q = x >> n;
  const rest = x - (q << n);
  inexactShift = rest !== 0n || sticky;
  if (!inexactShift) return q;
  let up: boolean;
  if (rounding === NEAREST) {
    const half = 1n << (n - 1n);
    up = rest > half || (rest === half && (sticky || (q & 1n) === 1n));
  } else up = rounding === UP ? !sign : rounding === DOWN ? sign : false;
  return up ? q + 1n : q;
}

/** Rounds ±significand × 2^exponent to the format; the significand is not 0. */
export function pack(f: Format, x: Finite, sticky: boolean, ctx: Context): bigint {
  const { sign, significand } = x;
  const s = sign ? f.sign : 0n;
  const p = f.precision;
  const top = x.exponent + bitLength(significand) - 1;
  let tiny = false;
  if (top < f.emin) {
    // Tininess is detected after rounding as if the exponent had no bound.
    const free = shiftRound(significand, top - p + 1 - x.exponent, sticky, sign, ctx.rounding);
    tiny = top < f.emin - 1 || bitLength(free) <= p;
    if (tiny && ctx.underflowTraps) {
      // The handler gets no result; whether it would have been inexact is seen at full precision.
      ctx.flags |= inexactShift ? UE | PE : UE;
      return s;
    }
  }
  if (tiny && ctx.ftz) {
    ctx.flags |= UE | PE;
    return s;
  }
  const lsb = Math.max(top, f.emin) - p + 1;
  let q = shiftRound(significand, lsb - x.exponent, sticky, sign, ctx.rounding);
  const inexact = inexactShift;
  if (tiny && inexact) ctx.flags |= UE;
  if (inexact) ctx.flags |= PE;
  let e = lsb + p - 1;
  if (bitLength(q) > p) {
    q >>= 1n;
    e++;
  }
  if (e > f.emax) {
    ctx.flags |= ctx.overflowTraps ? OE : OE | PE;
    const toInfinity = ctx.rounding === NEAREST || (ctx.rounding === UP && !sign) || (ctx.rounding === DOWN && sign);
    return s | (toInfinity ? f.infinity : f.infinity - 1n);
  }
  if (q <= f.fraction) return s | q;
  return s | (BigInt(e + f.emax) << BigInt(p - 1)) | (q & f.fraction);
}

/** The NaN result of an operation with a NaN operand (SDM vol. 1, table 4-7): the first operand's, made quiet. */
function nan2(f: Format, a: bigint, b: bigint, ctx: Context): bigint {
  if (isSignalling(f, a) || isSignalling(f, b)) ctx.flags |= IE;
  return (isNaN_(f, a) ? a : b) | f.quiet;
}

function invalid(f: Format, ctx: Context): bigint {
  ctx.flags |= IE;
  return f.indefinite;
}

function denormals(f: Format, a: bigint, b: bigint, ctx: Context): void {
  if (isDenormal(f, a) || isDenormal(f, b)) ctx.flags |= DE;
}

export function add(f: Format, a: bigint, b: bigint, subtract: boolean, ctx: Context): bigint {
  a = flush(f, a, ctx);
  b = flush(f, b, ctx);
  if (isNaN_(f, a) || isNaN_(f, b)) return nan2(f, a, b, ctx);
  if (subtract) b ^= f.sign;
  if (isInfinite(f, a)) {
    if (isInfinite(f, b) && a !== b) return invalid(f, ctx);
    denormals(f, a, b, ctx);
    return a;
  }
  denormals(f, a, b, ctx);
  if (isInfinite(f, b)) return b;
  const x = unpack(f, a);
  const y = unpack(f, b);
  const exponent = Math.min(x.exponent, y.exponent);
  const xs = x.significand << BigInt(x.exponent - exponent);
  const ys = y.significand << BigInt(y.exponent - exponent);
  const sum = (x.sign ? -xs : xs) + (y.sign ? -ys : ys);
  if (sum === 0n) {
    if (xs === 0n && x.sign === y.sign) return a;
    return ctx.rounding === DOWN ? f.sign : 0n;
  }
  return pack(f, { sign: sum < 0n, exponent, significand: sum < 0n ? -sum : sum }, false, ctx);
}

export function mul(f: Format, a: bigint, b: bigint, ctx: Context): bigint {
  a = flush(f, a, ctx);
  b = flush(f, b, ctx);
  if (isNaN_(f, a) || isNaN_(f, b)) return nan2(f, a, b, ctx);
  const s = (a ^ b) & f.sign;
  if (isInfinite(f, a) || isInfinite(f, b)) {
    if (isZero(f, a) || isZero(f, b)) return invalid(f, ctx);
    denormals(f, a, b, ctx);
    return s | f.infinity;
  }
  denormals(f, a, b, ctx);
  const x = unpack(f, a);
  const y = unpack(f, b);
  const significand = x.significand * y.significand;
  if (significand === 0n) return s;
  return pack(f, { sign: s !== 0n, exponent: x.exponent + y.exponent, significand }, false, ctx);
}

export function div(f: Format, a: bigint, b: bigint, ctx: Context): bigint {
  a = flush(f, a, ctx);
  b = flush(f, b, ctx);
  if (isNaN_(f, a) || isNaN_(f, b)) return nan2(f, a, b, ctx);
  const s = (a ^ b) & f.sign;
  if (isInfinite(f, a)) {
    if (isInfinite(f, b)) return invalid(f, ctx);
    denormals(f, a, b, ctx);
    return s | f.infinity;
  }
  if (isZero(f, b)) {
    if (isZero(f, a)) return invalid(f, ctx);
    ctx.flags |= ZE;
    return s | f.infinity;
  }
  denormals(f, a, b, ctx);
  if (isInfinite(f, b) || isZero(f, a)) return s;
  const x = unpack(f, a);
  const y = unpack(f, b);
  // Enough bits for the precision, a rounding bit and normalisation, however small the dividend's significand is.
  const n = 2 * f.precision + 4;
  const dividend = x.significand << BigInt(n);
  const significand = dividend / y.significand;
  const sticky = significand * y.significand !== dividend;
  return pack(f, { sign: s !== 0n, exponent: x.exponent - y.exponent - n, significand }, sticky, ctx);
}

export function sqrt(f: Format, a: bigint, ctx: Context): bigint {
  a = flush(f, a, ctx);
  if (isNaN_(f, a)) return nan2(f, a, a, ctx);
  if (isZero(f, a)) return a;
  if (isNegative(f, a)) return invalid(f, ctx);
  if (isInfinite(f, a)) return a;
  denormals(f, a, a, ctx);
  const x = unpack(f, a);
  let n = 2 * f.precision + 4;
  if ((x.exponent - n) & 1) n++;
  const radicand = x.significand << BigInt(n);
  // Newton's iteration from above.
  let r = 1n << BigInt((bitLength(radicand) + 1) >> 1);
  for (;;) {
    const next = (r + radicand / r) >> 1n;
    if (next >= r) break;
    r = next;
  }
  return pack(f, { sign: false, exponent: (x.exponent - n) / 2, significand: r }, r * r !== radicand, ctx);
}

/** Converts between the formats. */
export function convert(from: Format, to: Format, a: bigint, ctx: Context): bigint {
  a = flush(from, a, ctx);
  const s = isNegative(from, a) ? to.sign : 0n;
  if (isNaN_(from, a)) {
    if (isSignalling(from, a)) ctx.flags |= IE;
    const shift = BigInt(Math.abs(to.precision - from.precision));
    const fraction = a & from.fraction;
    return s | to.infinity | to.quiet | (to.precision > from.precision ? fraction << shift : fraction >> shift);
  }
  if (isInfinite(from, a)) return s | to.infinity;
  if (isZero(from, a)) return s;
  denormals(from, a, a, ctx);
  return pack(to, unpack(from, a), false, ctx);
}

/**
 * Rounds to a signed integer of 32 or 64 bits; the integer indefinite (only the sign bit set) with IE where it does not
 * fit.
 */
export function toInteger(f: Format, a: bigint, bits: 32 | 64, rounding: number, ctx: Context): bigint {
  a = flush(f, a, ctx);
  const limit = 1n << BigInt(bits - 1);
  if (isNaN_(f, a) || isInfinite(f, a)) {
    ctx.flags |= IE;
    return limit;
  }
  const x = unpack(f, a);
  if (x.significand === 0n) return 0n;
  if (x.exponent > bits) {
    ctx.flags |= IE;
    return limit;
  }
  const magnitude = shiftRound(x.significand, -x.exponent, false, x.sign, rounding);
  const inexact = inexactShift;
  if (magnitude > limit || (magnitude === limit && !x.sign)) {
    ctx.flags |= IE;
    return limit;
  }
  if (inexact) ctx.flags |= PE;
  return BigInt.asUintN(bits, x.sign ? -magnitude : magnitude);
}

export function fromInteger(f: Format, value: bigint, ctx: Context): bigint {
  if (value === 0n) return 0n;
  const sign = value < 0n;
  return pack(f, { sign, exponent: 0, significand: sign ? -value : value }, false, ctx);
}

/** Rounds to an integral value in the format (ROUNDSD and its kin). */
export function roundIntegral(f: Format, a: bigint, rounding: number, ctx: Context): bigint {
  a = flush(f, a, ctx);
  if (isNaN_(f, a)) return nan2(f, a, a, ctx);
  if (isInfinite(f, a) || isZero(f, a)) return a;
  const x = unpack(f, a);
  if (x.exponent >= 0) return a;
  const n = shiftRound(x.significand, -x.exponent, false, x.sign, rounding);
  if (inexactShift) ctx.flags |= PE;
  if (n === 0n) return x.sign ? f.sign : 0n;
  const e = bitLength(n) - 1;
  const fraction = (n << BigInt(f.precision - 1 - e)) & f.fraction;
  return (x.sign ? f.sign : 0n) | (BigInt(e + f.emax) << BigInt(f.precision - 1)) | fraction;
}

/** Flags of a comparison. `signalling`: quiet NaNs are invalid too. */
export function compareFlags(f: Format, a: bigint, b: bigint, signalling: boolean, ctx: Context): void {
  if (isNaN_(f, a) || isNaN_(f, b)) {
    if (signalling || isSignalling(f, a) || isSignalling(f, b)) ctx.flags |= IE;
  } else denormals(f, flush(f, a, ctx), flush(f, b, ctx), ctx);
}
