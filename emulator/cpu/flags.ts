/**
 * The six arithmetic flags are kept as two values from which each one is read without knowing what set them:
 *
 * - `fr` (i64): the result, sign-extended from the operand size. ZF = (fr == 0).
 * - `fx` (i32): bit 31 CF; bit 30 CF XOR OF; bit 3 AF; bits 8 to 15 are XORed into the result's low byte before its
 *   parity gives PF; bit 0 is XORed into the sign of `fr` to give SF.
 *
 * An addition or subtraction gives bits 31, 30 and 3 as bits of its carry vector, so setting all flags costs a handful
 * of bitwise operations and reading one costs one or two.
 */
import { AF, CF, OF, PF, SF, ZF } from './insn.ts';
import { i32, i64, k64, select, type Expr } from './wasm/expr.ts';

/** Condition codes, the low four bits of Jcc, SETcc and CMOVcc opcodes. */
export const CC_NAMES = [
  'o',
  'no',
  'b',
  'ae',
  'e',
  'ne',
  'be',
  'a',
  's',
  'ns',
  'p',
  'np',
  'l',
  'ge',
  'le',
  'g',
] as const;

/** Flags that a condition reads. */
export const CC_READS = [OF, CF, ZF, CF | ZF, SF, PF, SF | OF, SF | OF | ZF] as const;

export function canonicalCf(fx: Expr): Expr {
  return i32.shr_u(fx, 31);
}
export function canonicalOf(fx: Expr): Expr {
  return i32.shr_u(i32.add(fx, 0x40000000), 31);
}
export function canonicalZf(fr: Expr): Expr {
  return i64.eqz(fr);
}
export function canonicalSf(fr: Expr, fx: Expr): Expr {
  return i32.xor(i32.wrap(i64.shr_u(fr, 63)), i32.and(fx, 1));
}
export function canonicalPf(fr: Expr, fx: Expr): Expr {
  const low = i32.and(i32.xor(i32.wrap(fr), i32.shr_u(fx, 8)), 0xff);
  return i32.eqz(i32.and(i32.popcnt(low), 1));
}
export function canonicalAf(fx: Expr): Expr {
  return i32.and(i32.shr_u(fx, 3), 1);
}

/** A condition (0 or 1) from the canonical pair. `fr` and `fx` must be cheap to repeat. */
export function canonicalCondition(cc: number, fr: Expr, fx: Expr): Expr {
  let x: Expr;
  switch (cc >> 1) {
    case 0:
      x = canonicalOf(fx);
      break;
    case 1:
      x = canonicalCf(fx);
      break;
    case 2:
      x = canonicalZf(fr);
      break;
    case 3:
      x = i32.or(canonicalCf(fx), canonicalZf(fr));
      break;
    case 4:
      x = canonicalSf(fr, fx);
      break;
    case 5:
      x = canonicalPf(fr, fx);
      break;
    case 6:
      x = i32.xor(canonicalSf(fr, fx), canonicalOf(fx));
      break;
    default:
      x = i32.or(i32.xor(canonicalSf(fr, fx), canonicalOf(fx)), canonicalZf(fr));
  }
  return cc & 1 ? i32.eqz(x) : x;
}

/** The six flags at their RFLAGS places, from the pair. */
export function canonicalToBits(fr: Expr, fx: Expr): Expr {
  return i32.or(
    i32.or(
      i32.or(canonicalCf(fx), i32.shl(canonicalPf(fr, fx), 2)),
      i32.or(i32.shl(canonicalAf(fx), 4), i32.shl(canonicalZf(fr), 6)),
    ),
    i32.or(i32.shl(canonicalSf(fr, fx), 7), i32.shl(canonicalOf(fx), 11)),
  );
}

/** The pair for given RFLAGS bits. `bits` must be cheap to repeat. */
export function bitsToCanonical(bits: Expr): { fr: Expr; fx: Expr } {
  const bit = (shift: number): Expr => i32.and(i32.shr_u(bits, shift), 1);
  const zf = bit(6);
  // fr is 0 (even parity, ZF) or 1 (odd parity, no ZF); the parity delta corrects PF, the sign delta SF.
  const delta = i32.xor(bit(2), zf);
  return {
    fr: select(zf, k64(0), k64(1)),
    fx: i32.or(
      i32.or(i32.shl(bit(0), 31), i32.shl(i32.xor(bit(0), bit(11)), 30)),
      i32.or(i32.or(i32.shl(bit(4), 3), i32.shl(delta, 8)), bit(7)),
    ),
  };
}

/** The same two conversions on numbers, for TypeScript. `frLow`/`frHigh` are the halves of fr. */
export function flagsToBits(frLow: number, frHigh: number, fx: number): number {
  let low = (frLow ^ (fx >>> 8)) & 0xff;
  low ^= low >> 4;
  low ^= low >> 2;
  low ^= low >> 1;
  return (
    (fx < 0 ? CF : 0) |
    (low & 1 ? 0 : PF) |
    (fx & 8 ? AF : 0) |
    ((frLow | frHigh) === 0 ? ZF : 0) |
    (((frHigh >>> 31) ^ fx) & 1 ? SF : 0) |
    ((((fx + 0x40000000) | 0) >>> 31) << 11)
  );
}

export function bitsToFlags(bits: number): { fr: number; fx: number } {
  const zf = (bits >> 6) & 1;
  const cf = bits & 1;
  const of = (bits >> 11) & 1;
  const delta = ((bits >> 2) & 1) ^ zf;
  return {
    fr: zf ? 0 : 1,
    fx: (cf << 31) | ((cf ^ of) << 30) | (((bits >> 4) & 1) << 3) | (delta << 8) | ((bits >> 7) & 1),
  };
}

export { OF };
