/** SSE2 and SSSE3 integer arithmetic, comparisons, logic and shifts on XMM registers. */
import { Lanes, type Emit } from '../emit.ts';
import { def } from '../insn.ts';
import { I16X8, I32X4, I64X2, I8X16 } from '../wasm/simd.ts';
import { I64, i32, i64, k32, k64, select, v128, type Expr } from '../wasm/expr.ts';
import { IOTA, lanes16, lanes64, reg, source, splat16, splat8 } from './sse-common.ts';

/** `name opcode` in map 0F with prefix 66: destination = f(destination, source). */
function binary(name: string, opcode: string, f: (a: Expr, b: Expr, c: Emit) => Expr): void {
  def(`${name} 66 0f ${opcode} Vx,Wx`, { unit: 'sse' }, (c) => {
    const b = source(c, 1);
    c.setVectorAt(0, f(reg(c, 0), b, c));
    if (name === 'pxor' && c.sameRegister()) c.noteLanes(0, Lanes.ALL);
  });
}

const op =
  (sub: number) =>
  (a: Expr, b: Expr): Expr =>
    v128.bin(sub, a, b);

function plain(): void {
  const table: readonly (readonly [string, string, number])[] = [
    ['paddb', 'fc', I8X16.add],
    ['paddw', 'fd', I16X8.add],
    ['paddd', 'fe', I32X4.add],
    ['paddq', 'd4', I64X2.add],
    ['paddsb', 'ec', I8X16.add_sat_s],
    ['paddsw', 'ed', I16X8.add_sat_s],
    ['paddusb', 'dc', I8X16.add_sat_u],
    ['paddusw', 'dd', I16X8.add_sat_u],
    ['psubb', 'f8', I8X16.sub],
    ['psubw', 'f9', I16X8.sub],
    ['psubd', 'fa', I32X4.sub],
    ['psubq', 'fb', I64X2.sub],
    ['psubsb', 'e8', I8X16.sub_sat_s],
    ['psubsw', 'e9', I16X8.sub_sat_s],
    ['psubusb', 'd8', I8X16.sub_sat_u],
    ['psubusw', 'd9', I16X8.sub_sat_u],
    ['pcmpeqb', '74', I8X16.eq],
    ['pcmpeqw', '75', I16X8.eq],
    ['pcmpeqd', '76', I32X4.eq],
    ['pcmpgtb', '64', I8X16.gt_s],
    ['pcmpgtw', '65', I16X8.gt_s],
    ['pcmpgtd', '66', I32X4.gt_s],
    ['pminub', 'da', I8X16.min_u],
    ['pmaxub', 'de', I8X16.max_u],
    ['pminsw', 'ea', I16X8.min_s],
    ['pmaxsw', 'ee', I16X8.max_s],
    ['pavgb', 'e0', I8X16.avgr_u],
    ['pavgw', 'e3', I16X8.avgr_u],
    ['pmullw', 'd5', I16X8.mul],
    ['pmaddwd', 'f5', I32X4.dot_i16x8_s],
    ['packsswb', '63', I8X16.narrow_s],
    ['packuswb', '67', I8X16.narrow_u],
    ['packssdw', '6b', I16X8.narrow_s],
  ];
  for (const [name, opcode, sub] of table) binary(name, opcode, op(sub));
  binary('pand', 'db', v128.and);
  binary('pandn', 'df', (a, b) => v128.andnot(b, a));
  binary('por', 'eb', v128.or);
  binary('pxor', 'ef', v128.xor);
}

/** The upper halves of the eight 32-bit products. */
const HIGH_WORDS = [2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31];
/** Doublewords 0 and 2 at the front. */
export const EVEN_DWORDS = [0, 1, 2, 3, 8, 9, 10, 11, 0, 1, 2, 3, 8, 9, 10, 11];

function products(): void {
  binary('pmulhw', 'e5', (a, b) =>
    v128.shuffle(v128.bin(I32X4.extmul_low_s, a, b), v128.bin(I32X4.extmul_high_s, a, b), HIGH_WORDS),
  );
  binary('pmulhuw', 'e4', (a, b) =>
    v128.shuffle(v128.bin(I32X4.extmul_low_u, a, b), v128.bin(I32X4.extmul_high_u, a, b), HIGH_WORDS),
  );
  binary('pmuludq', 'f4', (a, b) =>
    v128.bin(I64X2.extmul_low_u, v128.shuffle(a, a, EVEN_DWORDS), v128.shuffle(b, b, EVEN_DWORDS)),
  );
  binary('psadbw', 'f6', (a, b, c) => {
    const difference = v128.or(v128.bin(I8X16.sub_sat_u, a, b), v128.bin(I8X16.sub_sat_u, b, a));
    const sums = c.let(v128.un(I32X4.extadd_pairwise_u, v128.un(I16X8.extadd_pairwise_u, difference)));
    const both = v128.bin(I64X2.add, sums, v128.bin(I64X2.shr_u, sums, k32(32)));
    return v128.and(both, lanes64([0xffffffffn, 0xffffffffn]));
  });
}

interface Shift {
  readonly bits: number;
  readonly shl: number;
  readonly shr_s: number;
  readonly shr_u: number;
}
const WORDS: Shift = { bits: 16, shl: I16X8.shl, shr_s: I16X8.shr_s, shr_u: I16X8.shr_u };
const DWORDS: Shift = { bits: 32, shl: I32X4.shl, shr_s: I32X4.shr_s, shr_u: I32X4.shr_u };
const QWORDS: Shift = { bits: 64, shl: I64X2.shl, shr_s: I64X2.shr_s, shr_u: I64X2.shr_u };

/** Shifts by a count that may be too large: then everything goes (or the sign fills). `count` is an i32 below 2^31, repeatable. */
function shifted(c: Emit, a: Expr, s: Shift, sub: number, count: Expr): Expr {
  if (sub === s.shr_s) {
    const limit = s.bits - 1;
    if (count.op === 0x41) return v128.bin(sub, a, k32(Math.min(count.k as number, limit)));
    return v128.bin(sub, a, select(i32.gt_u(count, limit), k32(limit), count));
  }
  if (count.op === 0x41) return (count.k as number) >= s.bits ? c.zeroVector : v128.bin(sub, a, count);
  return select(i32.lt_u(count, s.bits), v128.bin(sub, a, count), c.zeroVector);
}

function shifts(): void {
  const table: readonly (readonly [string, string, string, Shift, keyof Omit<Shift, 'bits'>])[] = [
    ['psrlw', 'd1', '71/2', WORDS, 'shr_u'],
    ['psrld', 'd2', '72/2', DWORDS, 'shr_u'],
    ['psrlq', 'd3', '73/2', QWORDS, 'shr_u'],
    ['psraw', 'e1', '71/4', WORDS, 'shr_s'],
    ['psrad', 'e2', '72/4', DWORDS, 'shr_s'],
    ['psllw', 'f1', '71/6', WORDS, 'shl'],
    ['pslld', 'f2', '72/6', DWORDS, 'shl'],
    ['psllq', 'f3', '73/6', QWORDS, 'shl'],
  ];
  for (const [name, opcode, group, s, which] of table) {
    binary(name, opcode, (a, b, c) => {
      const wide = c.let(v128.extract(I64X2.extract, I64, b, 0));
      const count = c.let(select(i64.gt_u(wide, k64(64)), k32(64), i32.wrap(wide)));
      return shifted(c, a, s, s[which], count);
    });
    def(`${name} 66 0f ${group} Ux,Ib`, { unit: 'sse' }, (c) => {
      const imm = c.immConst();
      const count = imm === undefined ? c.let(c.imm32()) : k32(imm & 0xff);
      c.setVectorAt(0, shifted(c, reg(c, 0), s, s[which], count));
    });
  }
  for (const [name, group, left] of [
    ['psrldq', '73/3', false],
    ['pslldq', '73/7', true],
  ] as const)
    def(`${name} 66 0f ${group} Ux,Ib`, { unit: 'sse' }, (c) => {
      const a = reg(c, 0);
      const imm = c.immConst();
      if (imm !== undefined) {
        const n = Math.min(imm & 0xff, 16);
        c.setVectorAt(
          0,
          v128.shuffle(
            left ? c.zeroVector : a,
            left ? a : c.zeroVector,
            IOTA.map((i) => (left ? i + 16 - n : i + n)),
          ),
        );
        return;
      }
      const raw = c.let(c.imm32());
      const n = splat8(select(i32.gt_u(raw, 16), k32(16), raw));
      // Lane numbers from 16 to 255 give zeros.
      c.setVectorAt(0, v128.swizzle(a, v128.bin(left ? I8X16.sub : I8X16.add, v128.const(IOTA), n)));
    });
}

/** SSSE3, map 0F 38 with prefix 66. */
function ssse3(name: string, opcode: string, f: (a: Expr, b: Expr, c: Emit) => Expr): void {
  def(`${name} 66 0f 38 ${opcode} Vx,Wx`, { unit: 'sse' }, (c) => {
    const b = source(c, 1);
    c.setVectorAt(0, f(reg(c, 0), b, c));
  });
}

const EVEN_WORDS = [0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29];
const ODD_WORDS = EVEN_WORDS.map((i) => i + 2);
const EVEN_OF_TWO = [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27];
const ODD_OF_TWO = EVEN_OF_TWO.map((i) => i + 4);

function supplemental(): void {
  ssse3('pshufb', '00', (a, b) => v128.swizzle(a, v128.and(b, splat8(k32(0x8f)))));
  for (const [name, opcode, sub, even, odd] of [
    ['phaddw', '01', I16X8.add, EVEN_WORDS, ODD_WORDS],
    ['phaddd', '02', I32X4.add, EVEN_OF_TWO, ODD_OF_TWO],
    ['phaddsw', '03', I16X8.add_sat_s, EVEN_WORDS, ODD_WORDS],
    ['phsubw', '05', I16X8.sub, EVEN_WORDS, ODD_WORDS],
    ['phsubd', '06', I32X4.sub, EVEN_OF_TWO, ODD_OF_TWO],
    ['phsubsw', '07', I16X8.sub_sat_s, EVEN_WORDS, ODD_WORDS],
  ] as const)
    ssse3(name, opcode, (a, b) => v128.bin(sub, v128.shuffle(a, b, even), v128.shuffle(a, b, odd)));
  ssse3('pmaddubsw', '04', (a, b) => {
    const s = (x: Expr): Expr => v128.bin(I16X8.shr_s, x, k32(8));
    const even = v128.bin(I16X8.mul, v128.and(a, splat16(k32(0xff))), s(v128.bin(I16X8.shl, b, k32(8))));
    const odd = v128.bin(I16X8.mul, v128.bin(I16X8.shr_u, a, k32(8)), s(b));
    return v128.bin(I16X8.add_sat_s, even, odd);
  });
  for (const [name, opcode, l, bits] of [
    ['psignb', '08', I8X16, 8],
    ['psignw', '09', I16X8, 16],
    ['psignd', '0a', I32X4, 32],
  ] as const)
    ssse3(name, opcode, (a, b, c) => {
      const negative = c.let(v128.bin(l.shr_s, b, k32(bits - 1)));
      const r = v128.bin(l.sub, v128.xor(a, negative), negative);
      return v128.andnot(r, v128.bin(l.eq, b, c.zeroVector));
    });
  ssse3('pmulhrsw', '0b', (a, b) => {
    // Only -1 × -1 differs: WebAssembly saturates it.
    const least = lanes16(Array<number>(8).fill(0x8000));
    const both = v128.and(v128.bin(I16X8.eq, a, least), v128.bin(I16X8.eq, b, least));
    return v128.xor(v128.bin(I16X8.q15mulr_sat_s, a, b), both);
  });
  for (const [name, opcode, sub] of [
    ['pabsb', '1c', I8X16.abs],
    ['pabsw', '1d', I16X8.abs],
    ['pabsd', '1e', I32X4.abs],
  ] as const)
    def(`${name} 66 0f 38 ${opcode} Vx,Wx`, { unit: 'sse', access: 'w' }, (c) =>
      c.setVectorAt(0, v128.un(sub, source(c, 1))),
    );
}

export function defineSseInteger(): void {
  plain();
  products();
  shifts();
  supplemental();
}
