/**
 * Shuffles, unpacking, insertion and extraction of words, PALIGNR. Where the immediate is known they are constant
 * shuffles; otherwise lane numbers are computed from it with a multiplication that shifts each lane's field into place.
 */
import { Lanes, type Emit } from '../emit.ts';
import { def } from '../insn.ts';
import { I16X8, I32X4, I64X2, I8X16 } from '../wasm/simd.ts';
import { I32, i32, k32, select, v128, type Expr } from '../wasm/expr.ts';
import { IOTA, lanes16, lanes32, range, reg, source, splat16, splat32, splat64, splat8 } from './sse-common.ts';

/** Byte numbers of the doublewords that a PSHUFD immediate picks. */
const dwordLanes = (imm: number): number[] => IOTA.map((i) => ((imm >> ((i >> 2) * 2)) & 3) * 4 + (i & 3));
/** The same as a vector, computed. */
function dwordMask(imm: Expr): Expr {
  const picks = v128.and(
    v128.bin(I32X4.shr_u, v128.bin(I32X4.mul, splat32(imm), lanes32([64, 16, 4, 1])), k32(6)),
    splat32(k32(3)),
  );
  return v128.bin(I32X4.add, v128.bin(I32X4.mul, picks, splat32(k32(0x04040404))), splat32(k32(0x03020100)));
}

/** PSHUFLW and PSHUFHW: `half` 0 or 1. */
const wordLanes = (imm: number, half: number): number[] =>
  IOTA.map((i) => (i >> 3 === half ? half * 8 + ((imm >> (((i >> 1) & 3) * 2)) & 3) * 2 + (i & 1) : i));
function wordMask(imm: Expr, half: number): Expr {
  const factors = [64, 16, 4, 1];
  const none = [0, 0, 0, 0];
  const picks = v128.and(
    v128.bin(
      I16X8.shr_u,
      v128.bin(I16X8.mul, splat16(imm), lanes16(half ? [...none, ...factors] : [...factors, ...none])),
      k32(6),
    ),
    splat16(k32(3)),
  );
  const word = (n: number): number => ((2 * n + 1) << 8) | (2 * n);
  const base = half ? [0, 1, 2, 3, 4, 4, 4, 4] : [0, 0, 0, 0, 4, 5, 6, 7];
  return v128.bin(I16X8.add, v128.bin(I16X8.mul, picks, splat16(k32(0x0202))), lanes16(base.map(word)));
}

function shuffles(): void {
  def('pshufd 66 0f 70 Vx,Wx,Ib', { unit: 'sse', access: 'w' }, (c) => {
    const a = source(c, 1);
    const imm = c.immConst();
    c.setVectorAt(0, imm === undefined ? v128.swizzle(a, dwordMask(c.imm32())) : v128.shuffle(a, a, dwordLanes(imm)));
  });
  for (const [name, prefix, half] of [
    ['pshuflw', 'f2', 0],
    ['pshufhw', 'f3', 1],
  ] as const)
    def(`${name} ${prefix} 0f 70 Vx,Wx,Ib`, { unit: 'sse', access: 'w' }, (c) => {
      const a = source(c, 1);
      const imm = c.immConst();
      c.setVectorAt(
        0,
        imm === undefined ? v128.swizzle(a, wordMask(c.imm32(), half)) : v128.shuffle(a, a, wordLanes(imm, half)),
      );
    });
  def('shufps np 0f c6 Vx,Wx,Ib', { unit: 'sse' }, (c) => {
    const b = source(c, 1);
    const a = reg(c, 0);
    const imm = c.immConst();
    if (imm === undefined) {
      const mask = c.let(dwordMask(c.imm32()));
      c.setVectorAt(0, v128.shuffle(v128.swizzle(a, mask), v128.swizzle(b, mask), [...range(0, 8), ...range(24, 8)]));
    } else
      c.setVectorAt(
        0,
        v128.shuffle(
          a,
          b,
          dwordLanes(imm).map((lane, i) => (i < 8 ? lane : lane + 16)),
        ),
      );
  });
  def('shufpd 66 0f c6 Vx,Wx,Ib', { unit: 'sse' }, (c) => {
    const b = source(c, 1);
    const a = reg(c, 0);
    const imm = c.immConst();
    if (imm === undefined) {
      const bits = c.let(c.imm32());
      const pick = (v: Expr, bit: number): Expr =>
        select(
          i32.and(bits, k32(bit)),
          v128.extract(I64X2.extract, 0x7e, v, 1),
          v128.extract(I64X2.extract, 0x7e, v, 0),
        );
      c.setVectorAt(0, v128.replace(I64X2.replace, splat64(pick(a, 1)), 1, pick(b, 2)));
    } else c.setVectorAt(0, v128.shuffle(a, b, [...range(imm & 1 ? 8 : 0, 8), ...range(imm & 2 ? 24 : 16, 8)]));
  });
  def('palignr 66 0f 3a 0f Vx,Wx,Ib', { unit: 'sse' }, (c) => {
    const b = source(c, 1);
    const a = reg(c, 0);
    const imm = c.immConst();
    if (imm !== undefined) {
      const n = imm & 0xff;
      // The pair source, destination shifted right by n bytes.
      if (n <= 16)
        c.setVectorAt(
          0,
          v128.shuffle(
            b,
            a,
            IOTA.map((i) => i + n),
          ),
        );
      else
        c.setVectorAt(
          0,
          v128.shuffle(
            a,
            c.zeroVector,
            IOTA.map((i) => Math.min(i + n - 16, 16)),
          ),
        );
      return;
    }
    const raw = c.let(c.imm32());
    const lanes = c.let(v128.bin(I8X16.add, v128.const(IOTA), splat8(select(i32.gt_u(raw, 32), k32(32), raw))));
    // Lane numbers from 16 to 255 give zeros.
    c.setVectorAt(0, v128.or(v128.swizzle(b, lanes), v128.swizzle(a, v128.bin(I8X16.sub, lanes, splat8(k32(16))))));
  });
}

/** Interleaves elements of `size` bytes from the low (0) or high (1) halves. */
const interleave = (size: number, half: 0 | 1): number[] =>
  IOTA.map((i) => {
    const element = Math.floor(i / size);
    return half * 8 + (element >> 1) * size + (i % size) + (element & 1 ? 16 : 0);
  });

function unpacks(): void {
  const table: readonly (readonly [string, string, string, number, 0 | 1])[] = [
    ['punpcklbw', '66', '60', 1, 0],
    ['punpcklwd', '66', '61', 2, 0],
    ['punpckldq', '66', '62', 4, 0],
    ['punpcklqdq', '66', '6c', 8, 0],
    ['punpckhbw', '66', '68', 1, 1],
    ['punpckhwd', '66', '69', 2, 1],
    ['punpckhdq', '66', '6a', 4, 1],
    ['punpckhqdq', '66', '6d', 8, 1],
    ['unpcklps', 'np', '14', 4, 0],
    ['unpckhps', 'np', '15', 4, 1],
    ['unpcklpd', '66', '14', 8, 0],
    ['unpckhpd', '66', '15', 8, 1],
  ];
  for (const [name, prefix, opcode, size, half] of table) {
    const pick = interleave(size, half);
    def(`${name} ${prefix} 0f ${opcode} Vx,Wx`, { unit: 'sse' }, (c) => {
      const b = source(c, 1);
      // Doubles keep what is known of them.
      const known = size === 8 ? [c.lanesKnown(0), c.lanesKnown(1)].map((k) => (half ? k >> 1 : k) & Lanes.D0) : [0, 0];
      c.setVectorAt(0, v128.shuffle(reg(c, 0), b, pick));
      c.noteLanes(0, known[0]! | (known[1]! << 1));
    });
  }
}

/** Integer lanes that can be inserted and extracted. */
interface Element {
  readonly size: 1 | 2 | 4 | 8;
  readonly extract: number;
  readonly replace: number;
}
export const BYTE: Element = { size: 1, extract: I8X16.extract_u, replace: I8X16.replace };
export const WORD: Element = { size: 2, extract: I16X8.extract_u, replace: I16X8.replace };
export const DWORD: Element = { size: 4, extract: I32X4.extract, replace: I32X4.replace };
export const QWORD: Element = { size: 8, extract: I64X2.extract, replace: I64X2.replace };

/** Element number imm (modulo the count of elements), zero-extended. */
export function extractElement(c: Emit, v: Expr, e: Element): Expr {
  const type = e.size === 8 ? 0x7e : I32;
  const count = 16 / e.size;
  const imm = c.immConst();
  if (imm !== undefined) return v128.extract(e.extract, type, v, imm & (count - 1));
  // Shifts the element down to lane 0.
  const first = i32.mul(i32.and(c.imm32(), k32(count - 1)), k32(e.size));
  return v128.extract(e.extract, type, v128.swizzle(v, v128.bin(I8X16.add, v128.const(IOTA), splat8(first))), 0);
}

/** `v` with element number imm replaced by `x` (i32, or i64 for a quadword). */
export function insertElement(c: Emit, v: Expr, e: Element, x: Expr): Expr {
  const count = 16 / e.size;
  const imm = c.immConst();
  if (imm !== undefined) return v128.replace(e.replace, v, imm & (count - 1), x);
  const splat = e.size === 1 ? splat8 : e.size === 2 ? splat16 : e.size === 4 ? splat32 : splat64;
  // Byte i belongs to element i / size.
  const elements = v128.const(IOTA.map((i) => Math.floor(i / e.size)));
  const mask = v128.bin(I8X16.eq, elements, splat8(i32.and(c.imm32(), k32(count - 1))));
  return v128.bitselect(splat(x), v, mask);
}

function words(): void {
  def('pinsrw 66 0f c4 Vx,Rd,Ib', { unit: 'sse' }, (c) => {
    c.setVectorAt(0, insertElement(c, c.vectorAt(0), WORD, c.get(1)));
  });
  def('pinsrw 66 0f c4 Vx,Mw,Ib', { unit: 'sse' }, (c) => {
    const x = c.get(1);
    c.setVectorAt(0, insertElement(c, c.vectorAt(0), WORD, x));
  });
  def('pextrw 66 0f c5 Gd,Ux,Ib', { unit: 'sse', access: 'w' }, (c) =>
    c.set(0, extractElement(c, c.vectorAt(1), WORD)),
  );
}

export function defineSseShuffle(): void {
  shuffles();
  unpacks();
  words();
}
