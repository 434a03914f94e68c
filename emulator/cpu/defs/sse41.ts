/** SSE4.1, and PCMPGTQ of SSE4.2. */
import type { Emit } from '../emit.ts';
import { FloatKind } from '../float/exact.ts';
import { MXCSR } from '../float/mxcsr.ts';
import { ARITH, def } from '../insn.ts';
import { S } from '../layout.ts';
import { ANY_TRUE, I16X8, I32X4, I64X2, I8X16, type FloatLanes } from '../wasm/simd.ts';
import { I32, V128, choose, i32, k32, v128, type Expr } from '../wasm/expr.ts';
import {
  IOTA,
  exact,
  exactResult,
  lanes16,
  lanes32,
  lanes64,
  low,
  mxcsrIs,
  range,
  reg,
  source,
  splat16,
  splat32,
  splat8,
} from './sse-common.ts';
import { FORMS, formSource, mergeLow, type Form } from './sse-float.ts';
import { EVEN_DWORDS } from './sse-integer.ts';
import { BYTE, DWORD, QWORD, WORD, extractElement, insertElement } from './sse-shuffle.ts';

function binary(name: string, opcode: string, f: (a: Expr, b: Expr, c: Emit) => Expr): void {
  def(`${name} 66 0f 38 ${opcode} Vx,Wx`, { unit: 'sse' }, (c) => {
    const b = source(c, 1);
    c.setVectorAt(0, f(reg(c, 0), b, c));
  });
}

function integers(): void {
  const table: readonly (readonly [string, string, number])[] = [
    ['pcmpeqq', '29', I64X2.eq],
    ['packusdw', '2b', I16X8.narrow_u],
    ['pcmpgtq', '37', I64X2.gt_s],
    ['pminsb', '38', I8X16.min_s],
    ['pminsd', '39', I32X4.min_s],
    ['pminuw', '3a', I16X8.min_u],
    ['pminud', '3b', I32X4.min_u],
    ['pmaxsb', '3c', I8X16.max_s],
    ['pmaxsd', '3d', I32X4.max_s],
    ['pmaxuw', '3e', I16X8.max_u],
    ['pmaxud', '3f', I32X4.max_u],
    ['pmulld', '40', I32X4.mul],
  ];
  for (const [name, opcode, sub] of table) binary(name, opcode, (a, b) => v128.bin(sub, a, b));
  binary('pmuldq', '28', (a, b) =>
    v128.bin(I64X2.extmul_low_s, v128.shuffle(a, a, EVEN_DWORDS), v128.shuffle(b, b, EVEN_DWORDS)),
  );
  def('phminposuw 66 0f 38 41 Vx,Wx', { unit: 'sse', access: 'w' }, (c) => {
    const a = source(c, 1);
    // Value above index, so that the least of these is the first of the least values.
    const keyed = (sub: number, from: number): Expr =>
      v128.or(v128.bin(I32X4.shl, v128.un(sub, a), k32(16)), lanes32(range(from, 4)));
    const least = (x: Expr, by: number): Expr =>
      c.let(
        v128.bin(
          I32X4.min_u,
          x,
          v128.shuffle(
            x,
            x,
            IOTA.map((i) => (i + by) & 15),
          ),
        ),
      );
    const four = c.let(v128.bin(I32X4.min_u, keyed(I32X4.extend_low_u, 0), keyed(I32X4.extend_high_u, 4)));
    const one = least(least(four, 8), 4);
    const r = i32.rotl(v128.extract(I32X4.extract, I32, one, 0), k32(16));
    c.setVectorAt(0, v128.replace(I32X4.replace, c.zeroVector, 0, r));
  });
  def('ptest 66 0f 38 17 Vx,Wx', { unit: 'sse', access: 'r', writes: ARITH }, (c) => {
    const b = source(c, 1);
    const a = reg(c, 0);
    const none = (x: Expr): Expr => i32.eqz(v128.test(ANY_TRUE, x));
    c.flagsCompare(none(v128.and(a, b)), k32(0), none(v128.andnot(b, a)));
  });
}

function extensions(): void {
  const steps = {
    s: [I16X8.extend_low_s, I32X4.extend_low_s, I64X2.extend_low_s],
    u: [I16X8.extend_low_u, I32X4.extend_low_u, I64X2.extend_low_u],
  };
  // Which widening steps (8 to 16, 16 to 32, 32 to 64) each form takes, and the size of its source.
  const forms = [
    ['bw', 0, 0, 1, 8],
    ['bd', 1, 0, 2, 4],
    ['bq', 2, 0, 3, 2],
    ['wd', 3, 1, 2, 8],
    ['wq', 4, 1, 3, 4],
    ['dq', 5, 2, 3, 8],
  ] as const;
  for (const [sign, base] of [
    ['s', 0x20],
    ['u', 0x30],
  ] as const)
    for (const [name, offset, from, to, size] of forms) {
      const w = size === 8 ? 'Wq' : size === 4 ? 'Wd' : 'Ww';
      const pattern = `pmov${sign === 's' ? 's' : 'z'}x${name} 66 0f 38 ${(base + offset).toString(16)} Vx,${w}`;
      def(pattern, { unit: 'sse', access: 'w' }, (c) => {
        let v: Expr;
        if (size !== 2) v = low(c, 1, size);
        else if (c.isMem(1)) v = v128.replace(I32X4.replace, c.zeroVector, 0, c.load(c.address(), 2));
        else v = c.vectorAt(1);
        for (let i: number = from; i < to; i++) v = v128.un(steps[sign][i]!, v);
        c.setVectorAt(0, v);
      });
    }
}

/** Lanes of ones where the immediate's bits are set. `bits`: 2, 4 or 8 lanes. */
function immediateLanes(c: Emit, lanes: 2 | 4 | 8): Expr {
  const imm = c.imm32();
  const powers = range(0, lanes).map((i) => 1 << i);
  if (lanes === 8) return v128.bin(I16X8.ne, v128.and(splat16(imm), lanes16(powers)), c.zeroVector);
  if (lanes === 4) return v128.bin(I32X4.ne, v128.and(splat32(imm), lanes32(powers)), c.zeroVector);
  return v128.bin(I64X2.ne, v128.and(splat32(imm), lanes64(powers.map(BigInt))), c.zeroVector);
}

function blends(): void {
  for (const [name, opcode, lanes] of [
    ['blendps', '0c', 4],
    ['blendpd', '0d', 2],
    ['pblendw', '0e', 8],
  ] as const)
    def(`${name} 66 0f 3a ${opcode} Vx,Wx,Ib`, { unit: 'sse' }, (c) => {
      const b = source(c, 1);
      const a = reg(c, 0);
      const imm = c.immConst();
      if (imm === undefined) c.setVectorAt(0, v128.bitselect(b, a, immediateLanes(c, lanes)));
      else
        c.setVectorAt(
          0,
          v128.shuffle(
            a,
            b,
            IOTA.map((i) => ((imm >> Math.floor((i * lanes) / 16)) & 1 ? i + 16 : i)),
          ),
        );
    });
  binary('pblendvb', '10', (a, b, c) => v128.bitselect(b, a, v128.bin(I8X16.shr_s, c.xmm(0), k32(7))));
  binary('blendvps', '14', (a, b, c) => v128.bitselect(b, a, v128.bin(I32X4.shr_s, c.xmm(0), k32(31))));
  binary('blendvpd', '15', (a, b, c) => v128.bitselect(b, a, v128.bin(I64X2.shr_s, c.xmm(0), k32(63))));
}

function elements(): void {
  def('pextrb 66 0f 3a 14 Rd,Vx,Ib', { unit: 'sse', access: 'w' }, (c) =>
    c.set(0, extractElement(c, c.vectorAt(1), BYTE)),
  );
  def('pextrb 66 0f 3a 14 Mb,Vx,Ib', { unit: 'sse', access: 'w' }, (c) =>
    c.set(0, extractElement(c, c.vectorAt(1), BYTE)),
  );
  def('pextrw 66 0f 3a 15 Rd,Vx,Ib', { unit: 'sse', access: 'w' }, (c) =>
    c.set(0, extractElement(c, c.vectorAt(1), WORD)),
  );
  def('pextrw 66 0f 3a 15 Mw,Vx,Ib', { unit: 'sse', access: 'w' }, (c) =>
    c.set(0, extractElement(c, c.vectorAt(1), WORD)),
  );
  def('pextrd 66 0f 3a 16 Ey,Vx,Ib', { unit: 'sse', access: 'w' }, (c) =>
    c.set(0, extractElement(c, c.vectorAt(1), c.operand(0).size === 8 ? QWORD : DWORD)),
  );
  def('extractps 66 0f 3a 17 Ed,Vx,Ib', { unit: 'sse', access: 'w' }, (c) =>
    c.set(0, extractElement(c, c.vectorAt(1), DWORD)),
  );
  for (const operand of ['Rd', 'Mb'])
    def(`pinsrb 66 0f 3a 20 Vx,${operand},Ib`, { unit: 'sse' }, (c) => {
      const x = c.get(1);
      c.setVectorAt(0, insertElement(c, c.vectorAt(0), BYTE, x));
    });
  def('pinsrd 66 0f 3a 22 Vx,Ey,Ib', { unit: 'sse' }, (c) => {
    const x = c.get(1);
    c.setVectorAt(0, insertElement(c, c.vectorAt(0), c.operand(1).size === 8 ? QWORD : DWORD, x));
  });
  def('insertps 66 0f 3a 21 Vx,Wd,Ib', { unit: 'sse' }, (c) => {
    const b = low(c, 1, 4);
    const imm = c.immConst();
    if (imm !== undefined) {
      const x = v128.extract(I32X4.extract, I32, b, c.isMem(1) ? 0 : (imm >> 6) & 3);
      const r = v128.replace(I32X4.replace, c.vectorAt(0), (imm >> 4) & 3, x);
      c.setVectorAt(0, v128.and(r, lanes32(range(0, 4).map((i) => ((imm >> i) & 1 ? 0 : 0xffffffff)))));
      return;
    }
    const bits = c.let(c.imm32());
    const dwordNumbers = v128.const(IOTA.map((i) => i >> 2));
    const at = v128.bin(I8X16.eq, dwordNumbers, splat8(i32.and(i32.shr_u(bits, k32(4)), k32(3))));
    let x = b;
    if (!c.isMem(1)) {
      const first = i32.and(i32.shr_u(bits, k32(4)), k32(0xc));
      x = v128.swizzle(b, v128.bin(I8X16.add, v128.const(IOTA), splat8(first)));
    }
    const spread = v128.splat(I32X4.splat, v128.extract(I32X4.extract, I32, x, 0));
    c.setVectorAt(0, v128.andnot(v128.bitselect(spread, c.vectorAt(0), at), immediateLanes(c, 4)));
  });
}

/** MPSADBW: eight sums of absolute differences of a block of four bytes and the bytes that slide along. */
function multipleSads(): void {
  def('mpsadbw 66 0f 3a 42 Vx,Wx,Ib', { unit: 'sse' }, (c) => {
    const b = source(c, 1);
    const a = reg(c, 0);
    const imm = c.let(c.imm32());
    const offset = i32.and(imm, k32(4));
    const block = i32.shl(i32.and(imm, k32(3)), k32(2));
    const window = c.let(v128.swizzle(a, v128.bin(I8X16.add, v128.const(IOTA), splat8(offset))));
    const four = c.let(v128.swizzle(b, v128.bin(I8X16.add, v128.const(IOTA), splat8(block))));
    let sum: Expr | undefined;
    for (let j = 0; j < 4; j++) {
      const words = v128.un(
        I16X8.extend_low_u,
        v128.shuffle(
          window,
          window,
          IOTA.map((i) => Math.min(i + j, 15)),
        ),
      );
      const one = splat16(v128.extract(I8X16.extract_u, I32, four, j));
      const difference = v128.un(I16X8.abs, v128.bin(I16X8.sub, words, one));
      sum = sum ? v128.bin(I16X8.add, sum, difference) : difference;
    }
    c.setVectorAt(0, sum!);
  });
}

/** `mode` as in the immediate: nearest, down, up, towards zero. */
const roundBy = (l: FloatLanes, mode: number, x: Expr): Expr =>
  v128.un([l.nearest, l.floor, l.ceil, l.trunc][mode]!, x);

function rounding(form: Form, opcode: string): void {
  def(`round${form.suffix} 66 0f 3a ${opcode} Vx,${form.w},Ib`, { unit: 'sse' }, (c) => {
    const b = formSource(c, form);
    const l = form.lanes;
    const imm = c.immConst();
    const bits = c.let(c.imm32());
    const r = c.temp(V128);
    let mode: Expr;
    if (imm !== undefined) {
      c.f.set(r, roundBy(l, imm & 4 ? 0 : imm & 3, b));
      mode = mxcsrIs(c, imm & 4 ? MXCSR.DAZ | MXCSR.RC : MXCSR.DAZ, 0);
    } else {
      const rc = c.let(choose(i32.and(bits, k32(4)), k32(0), i32.and(bits, k32(3))));
      c.f.set(
        r,
        choose(
          i32.and(rc, k32(2)),
          choose(i32.and(rc, k32(1)), roundBy(l, 3, b), roundBy(l, 2, b)),
          choose(rc, roundBy(l, 1, b), roundBy(l, 0, b)),
        ),
      );
      const care = i32.or(
        k32(MXCSR.DAZ | MXCSR.MASKS),
        i32.mul(i32.and(i32.shr_u(bits, k32(2)), k32(1)), k32(MXCSR.RC)),
      );
      mode = i32.eq(i32.and(c.state32(S.MXCSR), care), k32(MXCSR.MASKS));
    }
    // PE is already set, or is not to be set.
    const quiet = i32.or(i32.and(bits, k32(8)), i32.and(c.state32(S.MXCSR), k32(MXCSR.PE)));
    const all = (x: Expr): Expr =>
      form.packed
        ? v128.test(form.format ? I64X2.all_true : I32X4.all_true, x)
        : i32.and(v128.test(form.format ? I64X2.bitmask : I32X4.bitmask, x), k32(1));
    const ok = i32.and(mode, choose(quiet, all(v128.bin(l.eq, b, b)), all(v128.bin(l.eq, r.get, b))));
    const out = c.temp(V128);
    c.f.set(out, form.packed ? r.get : mergeLow(form, r.get, c.vectorAt(0)));
    c.f.if(i32.eqz(ok), () => {
      exact(c, FloatKind.Round, form.format, form.packed, form.packed ? b : c.vectorAt(0), b, i32.and(bits, k32(0xff)));
      c.f.set(out, exactResult(c));
    });
    c.setVectorAt(0, out.get);
  });
}

/** Rare and of many roundings: always the exact way. */
function dotProducts(): void {
  for (const [name, opcode, format] of [
    ['dpps', '40', 0],
    ['dppd', '41', 1],
  ] as const)
    def(`${name} 66 0f 3a ${opcode} Vx,Wx,Ib`, { unit: 'sse' }, (c) => {
      const b = source(c, 1);
      exact(c, FloatKind.Dot, format, true, reg(c, 0), b, i32.and(c.imm32(), k32(0xff)));
      c.setVectorAt(0, exactResult(c));
    });
}

export function defineSse41(): void {
  integers();
  extensions();
  blends();
  elements();
  multipleSads();
  FORMS.forEach((form, i) => rounding(form, ['08', '09', '0a', '0b'][i]!));
  dotProducts();
}
