/** SSE floating-point arithmetic, comparisons and logic. */
import { Lanes, type Emit } from '../emit.ts';
import { FloatFormat, FloatKind, floatOp } from '../float/exact.ts';
import { MXCSR } from '../float/mxcsr.ts';
import { ARITH, def } from '../insn.ts';
import { ANY_TRUE, F32X4, F64X2, I32X4, I64X2, type FloatLanes } from '../wasm/simd.ts';
import { V128, choose, f64, i32, i64, k32, kf32, v128, type Expr } from '../wasm/expr.ts';
import {
  IOTA,
  exact,
  exactOp,
  exactResult,
  isOdd,
  isOddNotZero,
  laneOdd,
  lanes32,
  lanes64,
  low,
  lowF32,
  lowF64,
  mxcsrIs,
  oddCompared,
  range,
  reg,
  source,
  splat32,
  unsignedBits,
} from './sse-common.ts';
import { minNormal } from './sse-runtime.ts';

/** One of the four forms of a floating-point instruction. */
export interface Form {
  readonly suffix: 'ps' | 'pd' | 'ss' | 'sd';
  readonly prefix: string;
  readonly lanes: typeof F32X4 | typeof F64X2;
  readonly format: FloatFormat;
  readonly packed: boolean;
  /** Operand code of the source. */
  readonly w: string;
}
export const PS: Form = { suffix: 'ps', prefix: 'np', lanes: F32X4, format: 0, packed: true, w: 'Wx' };
export const PD: Form = { suffix: 'pd', prefix: '66', lanes: F64X2, format: 1, packed: true, w: 'Wx' };
export const SS: Form = { suffix: 'ss', prefix: 'f3', lanes: F32X4, format: 0, packed: false, w: 'Wd' };
export const SD: Form = { suffix: 'sd', prefix: 'f2', lanes: F64X2, format: 1, packed: false, w: 'Wq' };
export const FORMS: readonly Form[] = [PS, PD, SS, SD];

/** The source operand of a form. */
export const formSource = (c: Emit, form: Form, i = 1): Expr =>
  form.packed ? source(c, i) : low(c, i, form.format ? 8 : 4);

/** The low element of `low`, the rest of `rest`. */
export const mergeLow = (form: Form, lowVector: Expr, rest: Expr): Expr =>
  v128.shuffle(lowVector, rest, form.format ? [...range(0, 8), ...range(24, 8)] : [...range(0, 4), ...range(20, 12)]);

/** Every lane the low element, so that a runtime function that tests all lanes tests only that. */
export const spreadLow = (form: Form, x: Expr): Expr =>
  v128.shuffle(
    x,
    x,
    IOTA.map((i) => i & (form.format ? 7 : 3)),
  );

/** Lanes that a form computes. */
export const lanesOf = (form: Form): number =>
  form.format ? (form.packed ? Lanes.D : Lanes.D0) : form.packed ? Lanes.S : Lanes.S0;
/** Lanes that a scalar form leaves alone. */
export const keptBy = (form: Form): number => (form.packed ? 0 : form.format ? Lanes.HIGH : Lanes.D1 | Lanes.UPPER_S);

/**
 * Whether a lane of r = a op b needs the exact function (not 0 then) although one of `vectors` was odd: zeros may well do. Lanes are
 * those of the form.
 */
function stillOdd(
  c: Emit,
  form: Form,
  rule: 'add' | 'mul' | 'div',
  a: Expr,
  b: Expr,
  r: Expr,
  vectors: readonly Expr[],
): Expr {
  const size = form.format ? 8 : 4;
  const l = form.lanes;
  const zero = c.zeroVector;
  // A zero product has a zero factor, or there was an underflow.
  if (form.packed) {
    const origin =
      rule === 'mul'
        ? v128.or(v128.bin(l.eq, a, zero), v128.bin(l.eq, b, zero))
        : v128.and(v128.bin(l.eq, a, zero), v128.bin(l.ne, b, zero));
    const odd = vectors.map((v) => {
      const fine = v128.bin(l.eq, v, zero);
      if (rule === 'add' || v !== r) return v128.andnot(laneOdd(c, size, v), fine);
      const least = v128.bin(l.eq, v128.un(l.abs, v), minNormal(l));
      return v128.or(least, v128.andnot(laneOdd(c, size, v), v128.and(fine, origin)));
    });
    return v128.test((size === 8 ? I64X2 : I32X4).bitmask, odd.reduce(v128.or));
  }
  const bitsOf = (v: Expr): Expr => unsignedBits(c, size, form.format ? lowF64(v) : lowF32(v));
  const isZero = (x: Expr): Expr => (size === 8 ? i64.eqz(x) : i32.eqz(x));
  const odd = vectors.map((v) => isOddNotZero(size, bitsOf(v)));
  if (rule === 'add') return odd.reduce(i32.or);
  const [zeroA, zeroB] = [isZero(bitsOf(a)), isZero(bitsOf(b))];
  const origin = rule === 'mul' ? i32.or(zeroA, zeroB) : i32.and(zeroA, i32.eqz(zeroB));
  const x = bitsOf(r);
  const least = size === 8 ? i64.eq(x, 1n << 53n) : i32.eq(x, 1 << 24);
  return i32.or(odd.reduce(i32.or), i32.or(least, i32.and(isZero(x), i32.eqz(origin))));
}

/**
 * The tail of an arithmetic operation: `r` is what WebAssembly made of `a` and `b` (all evaluated). It stands if they
 * are ordinary numbers and MXCSR is in its usual state; otherwise the exact function decides, or the interpreter: then the code that
 * follows knows that there are ordinary numbers.
 *
 * @param known lanes of a and of b known to be ordinary
 */
function checked(
  c: Emit,
  form: Form,
  kind: FloatKind,
  rule: 'add' | 'mul' | 'div',
  a: Expr,
  b: Expr,
  r: Expr,
  known: readonly [number, number],
): void {
  const lanes = lanesOf(form);
  const size = form.format ? 8 : 4;
  const kept = c.lanesKnown(0) & keptBy(form);
  const vectors = [r];
  if (kind !== FloatKind.Sqrt && (known[0] & lanes) !== lanes) vectors.push(a);
  if ((known[1] & lanes) !== lanes) vectors.push(b);
  if (c.trial) {
    for (const v of vectors) c.evidence(size, form.packed, v);
    c.setVectorAt(0, r);
    c.noteLanes(0, kept | lanes);
    return;
  }
  const least = (v: Expr): 1 | 2 => (v === r && rule !== 'add' ? 2 : 1);
  const odd = form.packed
    ? [
        v128.test(
          (size === 8 ? I64X2 : I32X4).bitmask,
          vectors.map((v) => laneOdd(c, size, v, least(v))).reduce(v128.or),
        ),
      ]
    : vectors.map((v) => isOdd(size, unsignedBits(c, size, form.format ? lowF64(v) : lowF32(v)), least(v)));
  if (c.mayRetreat) {
    c.f.block((fine) => {
      c.f.block((rare) => {
        if (!c.mxcsrUsual) c.f.brIf(c.mxcsrOdd(), rare, 0);
        for (const condition of odd) c.f.brIf(condition, rare, 0);
        c.f.br(fine);
      });
      c.f.if(i32.or(c.mxcsrOdd(), stillOdd(c, form, rule, a, b, r, vectors)), () => c.retreat());
    });
    c.setVectorAt(0, r);
    c.noteLanes(0, kept | lanes);
    // Otherwise the instruction was left.
    c.mxcsrUsual = true;
    return;
  }
  const out = c.temp(V128);
  c.f.set(out, r);
  const s = (x: Expr): Expr => (form.packed ? x : spreadLow(form, x));
  const look = (function_: string, x: Expr, y: Expr): Expr =>
    c.callRuntime(`sse_${function_}_${size * 8}`, s(x), s(y), s(r));
  c.f.if(i32.or(c.mxcsrOdd(), odd.reduce(i32.or)), () => {
    const first = kind === FloatKind.Sqrt ? b : a;
    // While PE is clear, exact results need nothing either.
    const second = kind === FloatKind.Sub ? v128.un(form.lanes.neg, b) : b;
    const inexact = `inexact_${kind === FloatKind.Sqrt ? 'sqrt' : rule}`;
    const clear =
      kind === FloatKind.AddSub ? k32(1) : choose(mxcsrIs(c, MXCSR.RC, 0), look(inexact, first, second), k32(1));
    c.f.if(choose(c.mxcsrOdd(), clear, look(`odd_${rule}`, first, b)), () => {
      exact(c, kind, form.format, form.packed, a, b);
      c.f.set(out, exactResult(c));
    });
  });
  c.setVectorAt(0, out.get);
  c.noteLanes(0, kept);
}

function arithmetic(name: 'add' | 'sub' | 'mul' | 'div' | 'sqrt', opcode: string, kind: FloatKind): void {
  const rule = name === 'mul' || name === 'div' ? name : 'add';
  for (const form of FORMS)
    def(`${name}${form.suffix} ${form.prefix} 0f ${opcode} Vx,${form.w}`, { unit: 'sse' }, (c) => {
      // Of one operand twice it is enough to look at it once.
      const same = !c.isMem(1) && c.sameRegister();
      const known = [same ? Lanes.ALL : c.lanesKnown(0), c.lanesKnown(1)] as const;
      const b = formSource(c, form);
      const a = reg(c, 0);
      const l = form.lanes;
      // Of a scalar form, too, all lanes are computed: to keep the others of the result is one step, to take the lowest ones out first
      // and put the result back are three.
      const all = name === 'sqrt' ? v128.un(l.sqrt, b) : v128.bin(l[name], a, b);
      const r = form.packed ? all : mergeLow(form, all, a);
      // Without a way to leave, an operand that is not ordinary stays so.
      if (c.mayRetreat && !c.isMem(1)) c.noteLanes(1, known[1] | lanesOf(form));
      checked(c, form, kind, rule, a, b, c.let(r), known);
    });
}

const EVEN32 = [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27];
const ODD32 = EVEN32.map((i) => i + 4);
const EVEN64 = [...range(0, 8), ...range(16, 8)];
const ODD64 = EVEN64.map((i) => i + 8);

function horizontal(): void {
  for (const form of [PS, PD]) {
    const prefix = form.format ? '66' : 'f2';
    const l = form.lanes;
    for (const [name, opcode, op, kind] of [
      ['hadd', '7c', l.add, FloatKind.Add],
      ['hsub', '7d', l.sub, FloatKind.Sub],
    ] as const)
      def(`${name}${form.suffix} ${prefix} 0f ${opcode} Vx,Wx`, { unit: 'sse' }, (c) => {
        const y = source(c, 1);
        const x = reg(c, 0);
        const a = c.let(v128.shuffle(x, y, form.format ? EVEN64 : EVEN32));
        const b = c.let(v128.shuffle(x, y, form.format ? ODD64 : ODD32));
        checked(c, form, kind, 'add', a, b, c.let(v128.bin(op, a, b)), [0, 0]);
      });
    def(`addsub${form.suffix} ${prefix} 0f d0 Vx,Wx`, { unit: 'sse' }, (c) => {
      const b = source(c, 1);
      const a = reg(c, 0);
      const negative = form.format ? lanes64([1n << 63n, 0n]) : lanes32([0x80000000, 0, 0x80000000, 0]);
      const r = c.let(v128.bin(l.add, a, v128.xor(b, negative)));
      checked(c, form, FloatKind.AddSub, 'add', a, b, r, [0, 0]);
    });
  }
}

/** All exceptions masked and denormals honoured: what comparisons depend on. */
const fastCompare = (c: Emit): Expr => mxcsrIs(c, MXCSR.DAZ, 0);

/**
 * Operands of a comparison as it sees them (denormals flushed under DAZ), with its flags raised.
 *
 * @param signalling an i32, 0 or 1: quiet NaNs are invalid
 */
function comparable(
  c: Emit,
  form: Form,
  x: Expr,
  y: Expr,
  signalling: Expr,
  known: readonly [number, number],
): { a: Expr; b: Expr } {
  const l = form.lanes;
  const lanes = lanesOf(form);
  const size = form.format ? 8 : 4;
  const [knownX, knownY] = known.map((k) => (k & lanes) === lanes);
  if (knownX && knownY) return { a: x, b: y };
  const bitsOf = (v: Expr): Expr => unsignedBits(c, size, form.format ? lowF64(v) : lowF32(v));
  if (c.mayRetreat && !form.packed) {
    c.f.block((fine) => {
      c.f.block((odd) => {
        for (const v of [...(knownX ? [] : [x]), ...(knownY ? [] : [y])])
          for (const condition of oddCompared(size, bitsOf(v))) c.f.brIf(condition, odd, 0);
        c.f.br(fine);
      });
      c.retreat();
    });
    return { a: x, b: y };
  }
  const a = c.temp(V128);
  const b = c.temp(V128);
  c.f.set(a, x);
  c.f.set(b, y);
  // Lanes of what is not known: NaN or denormal.
  const odd = (v: Expr): Expr =>
    v128.or(
      v128.and(v128.bin(l.lt, v128.un(l.abs, v), minNormal(l)), v128.bin(l.ne, v, c.zeroVector)),
      v128.bin(l.ne, v, v),
    );
  const both = [...(knownX ? [] : [a.get]), ...(knownY ? [] : [b.get])];
  const odds = form.packed
    ? v128.test(ANY_TRUE, both.map(odd).reduce(v128.or))
    : both.flatMap((v) => oddCompared(size, bitsOf(v))).reduce(i32.or);
  c.f.if(c.mayRetreat ? odds : i32.or(i32.eqz(fastCompare(c)), odds), () => {
    exactOp(c, i32.add(k32(floatOp(FloatKind.Compare, form.format, form.packed)), signalling), a.get, b.get);
    c.f.set(a, exactResult(c));
    c.f.set(b, exactResult(c, 1));
  });
  return { a: a.get, b: b.get };
}

function minMax(): void {
  for (const form of FORMS)
    for (const [name, opcode, op] of [
      ['min', '5d', form.lanes.pmin],
      ['max', '5f', form.lanes.pmax],
    ] as const)
      def(`${name}${form.suffix} ${form.prefix} 0f ${opcode} Vx,${form.w}`, { unit: 'sse' }, (c) => {
        const known = [c.lanesKnown(0), c.lanesKnown(1)] as const;
        const y = formSource(c, form);
        const x = reg(c, 0);
        const { a, b } = comparable(c, form, x, y, k32(1), known);
        // pmin(b, a) = a < b ? a : b, which is what MINPS does with NaNs and zeros too.
        const r = v128.bin(op, b, a);
        c.setVectorAt(0, form.packed ? r : mergeLow(form, r, x));
        c.noteLanes(0, (known[0] & known[1] & lanesOf(form)) | (known[0] & keptBy(form)));
      });
}

/** Lanes of ones where predicate `p` (0 to 7: eq lt le unord neq nlt nle ord) holds. */
function predicate(l: FloatLanes, p: number, a: Expr, b: Expr): Expr {
  switch (p & 3) {
    case 0:
      return v128.bin(p & 4 ? l.ne : l.eq, a, b);
    case 3: {
      const unordered = v128.or(v128.bin(l.ne, a, a), v128.bin(l.ne, b, b));
      return p & 4 ? v128.not(unordered) : unordered;
    }
    default: {
      const r = v128.bin((p & 3) === 1 ? l.lt : l.le, a, b);
      return p & 4 ? v128.not(r) : r;
    }
  }
}

function compares(): void {
  for (const form of FORMS) {
    def(`cmp${form.suffix} ${form.prefix} 0f c2 Vx,${form.w},Ib`, { unit: 'sse' }, (c) => {
      const known = [c.lanesKnown(0), c.lanesKnown(1)] as const;
      const y = formSource(c, form);
      const x = reg(c, 0);
      const l = form.lanes;
      const p = c.immConst();
      let r: Expr;
      if (p !== undefined) {
        const { a, b } = comparable(c, form, x, y, k32((p & 3) === 1 || (p & 3) === 2 ? 1 : 0), known);
        r = predicate(l, p & 7, a, b);
      } else {
        const imm = c.let(i32.and(c.imm32(), k32(7)));
        const kind = c.let(i32.and(imm, k32(3)));
        // LT and LE (1 and 2) and their negations signal quiet NaNs.
        const { a, b } = comparable(
          c,
          form,
          x,
          y,
          i32.and(i32.shr_u(i32.add(kind, k32(1)), k32(1)), i32.ne(kind, 3)),
          known,
        );
        const positive = choose(
          i32.eqz(kind),
          predicate(l, 0, a, b),
          choose(
            i32.eq(kind, k32(1)),
            predicate(l, 1, a, b),
            choose(i32.eq(kind, k32(2)), predicate(l, 2, a, b), predicate(l, 3, a, b)),
          ),
        );
        r = v128.xor(positive, splat32(i32.sub(k32(0), i32.shr_u(imm, k32(2)))));
      }
      c.setVectorAt(0, form.packed ? r : mergeLow(form, c.let(r), x));
    });
  }
  for (const form of [SS, SD])
    for (const [name, opcode, signalling] of [
      ['ucomi', '2e', 0],
      ['comi', '2f', 1],
    ] as const)
      def(
        `${name}${form.suffix} ${form.format ? '66' : 'np'} 0f ${opcode} Vx,${form.w}`,
        { unit: 'sse', access: 'r', writes: ARITH },
        (c) => {
          const known = [c.lanesKnown(0), c.lanesKnown(1)] as const;
          const y = formSource(c, form);
          const v = comparable(c, form, reg(c, 0), y, k32(signalling), known);
          // A single is the same number as a double.
          const double = (x: Expr): Expr => c.let(form.format ? lowF64(x) : f64.promote(lowF32(x)));
          c.flagsOfDoubles(double(v.a), double(v.b));
        },
      );
}

function logic(): void {
  for (const prefix of ['np', '66'])
    for (const [name, opcode, op] of [
      ['and', '54', v128.and],
      ['andn', '55', (a: Expr, b: Expr) => v128.andnot(b, a)],
      ['or', '56', v128.or],
      ['xor', '57', v128.xor],
    ] as const)
      def(`${name}p${prefix === '66' ? 'd' : 's'} ${prefix} 0f ${opcode} Vx,Wx`, { unit: 'sse' }, (c) => {
        const b = source(c, 1);
        c.setVectorAt(0, op(reg(c, 0), b));
        if (name === 'xor' && c.sameRegister()) c.noteLanes(0, Lanes.ALL);
      });
}

const SIGN32 = lanes32([0x80000000, 0x80000000, 0x80000000, 0x80000000]);

/**
 * RCPPS and RSQRTPS: vendors' approximations differ (each within 1.5 × 2^-12). Here it is the true value rounded to 12 significant bits. As
 * on silicon denormals count as zeros, tiny results become zeros, and MXCSR plays no part.
 */
function approximations(): void {
  const l = F32X4;
  const tiny = (x: Expr): Expr => v128.bin(l.lt, v128.un(l.abs, x), minNormal(l));
  const one = v128.splat(l.splat, kf32(1));
  for (const [name, opcode] of [
    ['rsqrt', '52'],
    ['rcp', '53'],
  ] as const)
    for (const form of [PS, SS])
      def(`${name}${form.suffix} ${form.prefix} 0f ${opcode} Vx,${form.w}`, { unit: 'sse' }, (c) => {
        const b = formSource(c, form);
        const flushed = c.let(v128.bitselect(v128.and(b, SIGN32), b, tiny(b)));
        const root = name === 'rsqrt' ? v128.un(l.sqrt, flushed) : flushed;
        const r = c.let(v128.bin(l.div, one, root));
        const rounded = c.let(v128.and(v128.bin(I32X4.add, r, splat32(k32(0x800))), splat32(k32(0xfffff000 | 0))));
        // NaN operands are made quiet; a NaN of another origin is the default one.
        const nan = v128.bitselect(
          v128.or(b, splat32(k32(0x400000))),
          splat32(k32(0xffc00000 | 0)),
          v128.bin(l.ne, b, b),
        );
        const noNan = v128.bitselect(v128.and(rounded, SIGN32), rounded, tiny(rounded));
        const result = v128.bitselect(nan, noNan, v128.bin(l.ne, r, r));
        c.setVectorAt(0, form.packed ? result : mergeLow(form, c.let(result), c.vectorAt(0)));
      });
}

export function defineSseFloat(): void {
  arithmetic('add', '58', FloatKind.Add);
  arithmetic('mul', '59', FloatKind.Mul);
  arithmetic('sub', '5c', FloatKind.Sub);
  arithmetic('div', '5e', FloatKind.Div);
  arithmetic('sqrt', '51', FloatKind.Sqrt);
  horizontal();
  minMax();
  compares();
  logic();
  approximations();
}
