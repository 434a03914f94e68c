/** Integer arithmetic and logic of two operands, and INC, DEC, NEG, NOT. */
import type { Emit } from '../emit.ts';
import { ARITH, CF, def, type DefOptions } from '../insn.ts';
import { i32, type Expr } from '../wasm/expr.ts';

const hex = (n: number): string => n.toString(16).padStart(2, '0');

/** Operand 1, evaluated once also where it is an immediate. */
function second(c: Emit): Expr {
  const v = c.get(1);
  return c.operand(1).kind === 'imm' ? c.let(v) : v;
}

/** Writes a result and its flags; flags first where nothing can fault, so that registers among the operands are still the old ones. */
function finish(c: Emit, r: Expr, flags: () => void): void {
  const memory = c.isMem(0);
  if (!memory) flags();
  c.set(0, r);
  if (memory) flags();
}

function add(c: Emit): void {
  const a = c.get(0);
  const b = second(c);
  const r = c.let(c.w.add(a, b));
  finish(c, r, () => c.flagsAdd(a, b, r));
}
function adc(c: Emit): void {
  const a = c.get(0);
  const b = second(c);
  const r = c.let(c.w.add(c.w.add(a, b), c.w.from32(c.carry())));
  c.set(0, r);
  c.flagsAdd(a, b, r, c.size, true);
}
/** The result 0, and its flags as of XOR, which for SUB of equal operands are the same. */
function zero(c: Emit): void {
  c.set(0, c.w.k(0));
  c.flagsLogic(c.w.k(0));
}
function sub(c: Emit): void {
  if (c.sameRegister()) return zero(c);
  const a = c.get(0);
  const b = second(c);
  const r = c.let(c.w.sub(a, b));
  finish(c, r, () => c.flagsSub(a, b, r));
}
function sbb(c: Emit): void {
  const a = c.get(0);
  const b = second(c);
  const r = c.let(c.w.sub(c.w.sub(a, b), c.w.from32(c.carry())));
  c.set(0, r);
  c.flagsSub(a, b, r, c.size, true);
}
function cmp(c: Emit): void {
  const a = c.get(0);
  const b = second(c);
  c.flagsSub(a, b, c.w.sub(a, b));
}
function test(c: Emit): void {
  const a = c.get(0);
  const b = second(c);
  if (!c.flagsDead) c.flagsLogic(c.sameRegister() ? c.let(a) : c.let(c.w.and(a, b)));
}
const logic =
  (op: 'and' | 'or' | 'xor') =>
  (c: Emit): void => {
    if (op === 'xor' && c.sameRegister()) return zero(c);
    const a = c.get(0);
    const r = c.let(c.sameRegister() ? a : c.w[op](a, c.get(1)));
    c.set(0, r);
    c.flagsLogic(r);
  };

const TWO: readonly (readonly [name: string, emit: (c: Emit) => void, options?: DefOptions])[] = [
  ['add', add],
  ['or', logic('or')],
  ['adc', adc, { reads: CF }],
  ['sbb', sbb, { reads: CF }],
  ['and', logic('and')],
  ['sub', sub],
  ['xor', logic('xor')],
  ['cmp', cmp, { access: 'r' }],
];

/** INC and DEC leave CF as it is. */
function step(by: 1 | -1): (c: Emit) => void {
  return (c) => {
    const a = c.get(0);
    const r = c.let(c.ops(c.size).add(a, c.w.k(by)));
    if (c.flagsDead) {
      c.set(0, r);
      return;
    }
    const carry = c.carry();
    c.set(0, r);
    // Overflow happens for exactly one operand: the largest (INC) or the smallest (DEC).
    const edge = 2n ** BigInt(c.size * 8 - 1) - (by === 1 ? 1n : 0n);
    const low = i32.and(c.w.to32(a), 0xf);
    c.flagsResultAux(r, carry, c.w.eq(a, c.w.k(edge)), i32.eq(low, by === 1 ? 0xf : 0));
  };
}

export function defineAlu(): void {
  TWO.forEach(([name, emit, extra], i) => {
    const options: DefOptions = { writes: ARITH, ...extra };
    const first: DefOptions = { ...options, lock: options.access !== 'r' };
    const base = i * 8;
    def(`${name} ${hex(base)} Eb,Gb`, first, emit);
    def(`${name} ${hex(base + 1)} Ev,Gv`, first, emit);
    def(`${name} ${hex(base + 2)} Gb,Eb`, options, emit);
    def(`${name} ${hex(base + 3)} Gv,Ev`, options, emit);
    def(`${name} ${hex(base + 4)} Ab,Ib`, options, emit);
    def(`${name} ${hex(base + 5)} Av,Iz`, options, emit);
    def(`${name} 80/${i} Eb,Ib`, first, emit);
    def(`${name} 81/${i} Ev,Iz`, first, emit);
    def(`${name} 82/${i} Eb,Ib`, { ...first, only: 32 }, emit);
    def(`${name} 83/${i} Ev,Ibs`, first, emit);
  });

  const testing: DefOptions = { writes: ARITH, access: 'r' };
  def('test 84 Eb,Gb', testing, test);
  def('test 85 Ev,Gv', testing, test);
  def('test a8 Ab,Ib', testing, test);
  def('test a9 Av,Iz', testing, test);
  // /1 is an undocumented alias that all processors have.
  for (const reg of [0, 1]) {
    def(`test f6/${reg} Eb,Ib`, testing, test);
    def(`test f7/${reg} Ev,Iz`, testing, test);
  }

  const stepping: DefOptions = { reads: CF, writes: ARITH & ~CF };
  def('inc fe/0 Eb', { ...stepping, lock: true }, step(1));
  def('inc ff/0 Ev', { ...stepping, lock: true }, step(1));
  def('dec fe/1 Eb', { ...stepping, lock: true }, step(-1));
  def('dec ff/1 Ev', { ...stepping, lock: true }, step(-1));
  def('inc 40+r Zv', { ...stepping, only: 32 }, step(1));
  def('dec 48+r Zv', { ...stepping, only: 32 }, step(-1));

  for (const e of ['f6/3 Eb', 'f7/3 Ev'])
    def(`neg ${e}`, { writes: ARITH, lock: true }, (c) => {
      const a = c.get(0);
      const zero = c.w.k(0);
      const r = c.let(c.w.sub(zero, a));
      c.set(0, r);
      c.flagsSub(zero, a, r);
    });
  for (const e of ['f6/2 Eb', 'f7/2 Ev'])
    def(`not ${e}`, { lock: true }, (c) => {
      c.set(0, c.w.xor(c.get(0), c.w.k(-1)));
    });
}
