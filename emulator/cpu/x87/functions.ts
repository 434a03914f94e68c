/**
 * Elementary functions in fixed point with big integers, for the x87's transcendental instructions. Values are integers
 * scaled by 2^BITS. 192 bits leave at least 95 correct ones for every argument that comes here, so results rounded to
 * 64 bits are the nearest ones in all but one case in 2^30.
 */
export const BITS = 192;
const SHIFT = BigInt(BITS);
const ONE = 1n << SHIFT;

const multiply = (a: bigint, b: bigint): bigint => (a * b) >> SHIFT;
const divide = (a: bigint, b: bigint): bigint => (a << SHIFT) / b;

/** atanh(1/n) × 2^BITS, with `alternate` atan(1/n). */
function inverse(n: bigint, alternate: boolean): bigint {
  let power = ONE / n;
  let sum = power;
  const square = n * n;
  for (let k = 3n, minus = true; power !== 0n; k += 2n, minus = !minus) {
    power /= square;
    sum += alternate && minus ? -(power / k) : power / k;
  }
  return sum;
}

/** π by Machin's formula, and ln 2 = 2 atanh(1/3). */
export const PI = 4n * (4n * inverse(5n, true) - inverse(239n, true));
export const LN2 = 2n * inverse(3n, false);

/** The π that real processors reduce angles by: its first 66 bits (SDM vol. 1, 8.3.8). Programs know its errors. */
export const PI66 = 0xc90fdaa22168c234cn << BigInt(BITS + 2 - 68);

/** e^x − 1 for |x| <= 1. */
export function expm1(x: bigint): bigint {
  let term = x;
  let sum = x;
  for (let k = 2n; term !== 0n && term !== -1n; k++) {
    term = multiply(term, x) / k;
    sum += term;
  }
  return sum;
}

/** ln(x) for x from 1/2 to 2, as 2 atanh((x − 1) / (x + 1)). */
export function ln(x: bigint): bigint {
  const t = divide(x - ONE, x + ONE);
  const square = multiply(t, t);
  let power = t;
  let sum = t;
  for (let k = 3n; power !== 0n && power !== -1n; k += 2n) {
    power = multiply(power, square);
    sum += power / k;
  }
  return 2n * sum;
}

/** sin and cos of x, |x| <= π/4 or so. */
export function sinCos(x: bigint): { sin: bigint; cos: bigint } {
  const square = multiply(x, x);
  let s = x;
  let c = ONE;
  let sin = s;
  let cos = c;
  for (let k = 1n; s !== 0n && s !== -1n; k++) {
    c = -multiply(c, square) / ((2n * k - 1n) * (2n * k));
    s = -multiply(s, square) / (2n * k * (2n * k + 1n));
    cos += c;
    sin += s;
  }
  return { sin, cos };
}

/** atan by its series, for small x. */
function atanSeries(x: bigint): bigint {
  const square = multiply(x, x);
  let power = x;
  let sum = x;
  for (let k = 3n; power !== 0n && power !== -1n; k += 2n) {
    power = -multiply(power, square);
    sum += power / k;
  }
  return sum;
}

/** atan(k/16), filled as it is needed: each from the one before. */
const ATAN16: bigint[] = [0n];
function atan16(k: number): bigint {
  for (let n = ATAN16.length; n <= k; n++)
    ATAN16.push(ATAN16[n - 1]! + atanSeries((16n * ONE) / BigInt(256 + n * (n - 1))));
  return ATAN16[k]!;
}

/** atan(x) for x from 0 to 1. */
export function atan(x: bigint): bigint {
  const k = Number((x * 16n + ONE / 2n) >> SHIFT);
  const c = (BigInt(k) * ONE) / 16n;
  return atan16(k) + atanSeries(divide(x - c, ONE + multiply(x, c)));
}

export { ONE };
