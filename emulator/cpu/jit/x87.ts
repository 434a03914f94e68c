/**
 * The x87 register stack of a compiled region in locals. While it is there, TOP and the tags of the registers that matter
 * are known when the code is written, every exception is masked, and none is pending; where one of these does not hold when
 * the stack is loaded, the instruction is left to the interpreter (`JitEmit.retreat`).
 */
import type { Block } from '../block.ts';
import type { CodeCache } from '../code.ts';
import { S } from '../layout.ts';
import type { Local } from '../wasm/builder.ts';
import { callExpr, f64, I32, i32, i64, k32, select, V128, v128, type Expr } from '../wasm/expr.ts';
import { multiplyAdd } from '../wasm/fused.ts';
import { F64X2 } from '../wasm/simd.ts';
import { Fsw, RESULT } from '../x87/common.ts';
import { fromInteger, fromVector, fromWord, isBad, narrow32, narrow64, widen32, widen64 } from '../x87/pair-formats.ts';
import {
  bitsOf,
  constantPair,
  constantsAt,
  CONSTANTS,
  difference,
  excessOf,
  excessOfDouble,
  isInexact,
  isUp,
  join,
  negated,
  product,
  putExact,
  quotient,
  ROUNDED,
  second,
  settled,
  squareRoot,
  sum,
  twice,
  withoutSign,
  ZERO,
  ZERO_VECTOR,
  type Constants,
  type Pair,
  type PairLocals,
  type Status,
} from '../x87/pairs.ts';
import { Operation, VALUE, VALUES } from '../x87/values.ts';
import type { JitEmit, RegionContext } from './emit.ts';
import { effectOf, x87Op, type Demand, type Effect, type MemoryFormat, type X87Op, type X87Plan } from './x87-plan.ts';

/** Control word: rounding to nearest, 64 bits, everything masked; and the bits that this is about. */
const ORDINARY = 0x33f;
const ORDINARY_MASK = 0xf3f;
const MASKS = 0x3f;
const CONDITIONS = Fsw.C3 | Fsw.C2 | Fsw.C0;

/** What is known at a point of the code. Masks are of relative register numbers, as in the plan. */
export interface StackState {
  readonly top: number;
  /** Registers whose tags are known, and those of them that are in use. */
  readonly known: number;
  readonly used: number;
  /** Registers that have been changed since the block's start, or since the stack was loaded. */
  readonly dirty: number;
  /** By register: how far its rest reaches (`Pair`); 0: it is known to hold a double. */
  readonly reach: readonly number[];
  /** The control word is the ordinary one. */
  readonly ordinary: boolean;
  readonly up: Up;
}

/**
 * Where C1 is: whether `excess` is not zero and has the sign of `rounded`. Most of what C1 could be is never looked at, and so it is
 * made of what the last result left behind only where somebody may: of a register that holds it (`result`), or that was
 * stored as a double. `zero`: it is 0.
 */
type Up = 'zero' | 'locals' | { readonly kind: 'result' | 'stored'; readonly register: number };

const ALL_ROUNDED: readonly number[] = Array.from({ length: 8 }, () => ROUNDED);

export class X87Stack implements Status {
  /** Undefined: it is in memory. */
  state: StackState | undefined;
  /** What it was before the instruction that is being written. */
  private before: StackState | undefined;
  private readonly registers: (PairLocals | undefined)[];
  /** Physical number of the relative register 0. */
  private readonly base: Local;
  /** Tags as far as they are not known: a mask by relative number. */
  private readonly tags: Local;
  readonly constants: Constants;
  readonly fused = multiplyAdd.fused;
  readonly residue: Local;
  readonly over: Local;
  /** What was stored last, if it was a double. */
  private readonly stored: Local;
  private readonly excess: Local;
  private readonly rounded: Local;
  /**
   * Registers that had been changed at the block's start, by relative number. What has not been changed is not written back: it
   * may be something that locals do not hold, in a register that is not in use.
   */
  private readonly dirty: Local;
  /** For the common exit: relative TOP (−1 wherever the stack is in memory), tags, changed registers. Only right when leaving. */
  private readonly exitTop: Local;
  private readonly exitTags: Local;
  private readonly exitDirty: Local;
  /** In a dispatch: whether the stack is in locals. */
  private readonly here: Local;

  constructor(
    private readonly c: RegionContext,
    readonly plan: X87Plan,
    code: CodeCache,
  ) {
    const { f } = c;
    const at = code.bytes(CONSTANTS.length * 16);
    CONSTANTS.forEach((x, k) => [0, 8].forEach((lane) => code.setDouble(at + k * 16 + lane, Number(x))));
    this.constants = constantsAt(at);
    this.registers = Array.from({ length: 8 }, (_, r) =>
      plan.touched & (1 << r) ? { high: f.local(V128), low: f.local(V128) } : undefined,
    );
    this.base = f.local(I32);
    this.tags = f.local(I32);
    this.residue = f.local(V128);
    this.over = f.local(V128);
    this.stored = f.local(V128);
    this.excess = f.local(V128);
    this.rounded = f.local(V128);
    this.dirty = f.local(I32);
    this.exitTop = f.local(I32);
    this.exitTags = f.local(I32);
    this.exitDirty = f.local(I32);
    this.here = f.local(I32);
    f.set(this.exitTop, k32(-1));
  }

  // ---- between memory and locals ----

  private address(r: number): Expr {
    const n = i32.and(i32.add(this.base.get, r), 7);
    return i32.add(i32.shl(n, 4), this.c.state + S.X87);
  }

  private word(offset: number): Expr {
    return i32.load(k32(this.c.state + offset));
  }

  /** Loads the stack. `retreat` writes what leaves to the interpreter. */
  private load(demand: Demand, retreat: () => void): void {
    const { f } = this.c;
    const { top, need, empty } = demand;
    f.set(this.base, i32.and(i32.sub(this.word(S.FTOP), top), 7));
    f.set(this.tags, i32.and(i32.shr_u(i32.mul(this.word(S.FTW), 0x101), this.base.get), 0xff));
    const fsw = f.let(this.word(S.FSW));
    const odd = i32.or(
      i32.xor(i32.and(this.word(S.FCW), ORDINARY_MASK), ORDINARY),
      i32.or(i32.and(fsw, Fsw.ES), i32.xor(i32.and(this.tags.get, need | empty), need)),
    );
    f.if(odd, retreat, undefined, 0);
    let bad: Expr | undefined;
    this.registers.forEach((register, r) => {
      if (!register || !(need & (1 << r))) return;
      f.set(register.high, this.function(V128, 'x87_value_get', this.address(r)));
      f.set(register.low, second(register.high.get));
      bad = bad ? i32.or(bad, isBad(register.high.get)) : isBad(register.high.get);
    });
    if (bad) f.if(bad, retreat, undefined, 0);
    f.set(this.residue, ZERO_VECTOR);
    f.set(this.dirty, k32(0));
    this.putC1(i32.and(i32.shr_u(fsw, 9), 1));
    this.enterWith(demand);
  }

  private enterWith({ top, need, empty }: Demand): void {
    const known = need | empty;
    this.state = { top, known, used: need, dirty: 0, reach: ALL_ROUNDED, ordinary: true, up: 'locals' };
  }

  /** C1 is to be in locals already. */
  private status(): Expr {
    const up = isUp(this.excess.get, this.rounded.get);
    const flags = i32.or(i32.shl(up, 9), i32.shl(isInexact(this.residue.get), 5));
    return i32.or(i32.and(this.word(S.FSW), ~Fsw.C1), flags);
  }

  /** @param changed registers that are written back, of those that `maybe` has (masks) */
  private store(top: Expr, tags: Expr, maybe: number, changed: Expr): void {
    const { f, state } = this.c;
    f.store(4, state + S.FSW, this.status());
    f.store(4, state + S.FTOP, i32.and(i32.add(this.base.get, top), 7));
    const turned = f.let(i32.shl(tags, this.base.get));
    f.store(4, state + S.FTW, i32.and(i32.or(turned, i32.shr_u(turned, 8)), 0xff));
    if (!maybe) return;
    this.registers.forEach((register, r) => {
      if (register && maybe & (1 << r)) f.store(16, state + VALUES + r * 16, join(register.high.get, register.low.get));
    });
    f.drop(this.call('x87_values_put', this.base.get, changed));
  }

  private allTags(s: StackState): Expr {
    return s.known === 0xff ? k32(s.used) : i32.or(i32.and(this.tags.get, ~s.known & 0xff), s.used);
  }

  /** Brings the state in memory up to date; the locals are not used any more. */
  sync(): void {
    const s = this.state;
    if (!s) return;
    const mark = this.c.f.mark();
    this.makeC1(s);
    const { written } = this.plan;
    this.store(k32(s.top), this.allTags(s), written, i32.or(i32.and(this.dirty.get, ~s.dirty & written), s.dirty));
    this.c.f.release(mark);
    this.state = undefined;
    this.c.f.set(this.exitTop, k32(-1));
  }

  /** Before what may lead to the region's exit: which registers are where. */
  exiting(): void {
    const s = this.state;
    if (!s) return;
    const { f } = this.c;
    this.makeC1(s);
    f.set(this.exitTop, k32(s.top));
    f.set(this.exitTags, this.allTags(s));
    f.set(this.exitDirty, i32.or(this.dirty.get, s.dirty));
  }

  /** At the region's exit. */
  writeExit(): void {
    const { f } = this.c;
    f.if(i32.ge_s(this.exitTop.get, 0), () =>
      this.store(this.exitTop.get, this.exitTags.get, this.plan.written, this.exitDirty.get),
    );
  }

  /** On an edge to a block, or (undefined) to where the stack is to be in memory. `retreat` leaves in front of the block. */
  edge(to: Block | undefined, retreat: () => void): void {
    const demand = to && this.plan.entries.get(to);
    if (!demand) return this.sync();
    const s = this.state;
    const fits =
      s?.top === demand.top &&
      s.ordinary &&
      (s.used & demand.need) === demand.need &&
      (s.known & ~s.used & demand.empty) === demand.empty;
    if (s && fits) {
      // Blocks take it that C1 is in its locals and that the doubles of what they use are rounded. Who leaves behind the edge does, too.
      this.keepC1();
      this.registers.forEach((register, r) => {
        const x = register && this.pairOf(s, r);
        if (!x || !(demand.need & (1 << r)) || x.reach <= ROUNDED) return;
        const { high, low } = settled(this.c.f, x);
        this.c.f.set(register.high, high);
        this.c.f.set(register.low, low);
      });
      // The block knows less of the tags than what comes before it.
      if (s.known & ~(demand.need | demand.empty)) this.c.f.set(this.tags, this.allTags(s));
      if (s.dirty) this.c.f.set(this.dirty, i32.or(this.dirty.get, s.dirty));
    } else {
      this.sync();
      const mark = this.c.f.mark();
      this.load(demand, retreat);
      this.c.f.release(mark);
    }
  }

  /** Before a loop's dispatch: whether the locals have what the loop's first block wants, or memory has the stack. */
  setHere(here: boolean): void {
    this.c.f.set(this.here, k32(here && this.state ? 1 : 0));
  }

  /** In a loop's dispatch, on the way to its first block. */
  enterHere(b: Block, retreat: () => void): void {
    if (!this.plan.entries.has(b)) return;
    this.c.f.if(i32.eqz(this.here.get), () => this.edge(b, retreat), undefined, 0);
    this.enter(b);
  }

  /** At the start of a block. */
  enter(b: Block): void {
    const d = this.plan.entries.get(b);
    if (d) this.enterWith(d);
    else this.state = undefined;
  }

  // ---- instructions ----

  private fits({ reads, writes, push, pops }: Effect): boolean {
    const s = this.state!;
    const bit = (i: number): number => 1 << ((s.top + i) & 7);
    const touched = (i: number): boolean => (this.plan.touched & bit(i)) !== 0;
    if (!reads.every((i) => touched(i) && s.used & bit(i))) return false;
    if (!writes.every((i) => this.plan.written & bit(i))) return false;
    if (push && !(this.plan.written & bit(-1) && s.known & bit(-1) && !(s.used & bit(-1)))) return false;
    return pops === 0 || reads.includes(0);
  }

  /**
   * Writes an instruction that is done on locals, or brings memory up to date where it needs that.
   *
   * @param k its index in the block
   * @returns whether it is done; otherwise it is to be written as usual
   */
  emit(e: JitEmit, b: Block, k: number): boolean {
    const op = x87Op(b.insns[k]!);
    if (op === 'other') return false;
    if (op === 'sync') {
      this.sync();
      return false;
    }
    if (op.kind === 'nothing') return false;
    const bare = op.kind === 'status' || op.kind === 'control' || op.kind === 'clear';
    if (!this.state && bare) return false;
    const effect = effectOf(op);
    if (this.state && !this.fits(effect)) this.sync();
    if (!this.state) {
      this.load(this.plan.demand(b, k), () => e.retreat());
      if (!this.fits(effect)) {
        this.sync();
        return false;
      }
    }
    this.operation(e, op);
    return true;
  }

  /** ST(i). */
  private st(i: number): PairLocals {
    return this.registers[(this.state!.top + i) & 7]!;
  }
  private value(i: number): Pair {
    const s = this.state!;
    return this.pairOf(s, (s.top + i) & 7);
  }
  private pairOf(s: StackState, r: number): Pair {
    const { high, low } = this.registers[r]!;
    const reach = s.reach[r]!;
    return { high: high.get, low: low.get, plain: reach === 0, reach };
  }
  /** The register ST(i) is about to be changed; it is in use from now on. */
  private change(i: number, reach = ROUNDED): PairLocals {
    const s = this.state!;
    const bit = 1 << ((s.top + i) & 7);
    this.state = { ...s, known: s.known | bit, used: s.used | bit, dirty: s.dirty | bit };
    this.setReach(i, reach);
    return this.st(i);
  }
  private setReach(i: number, reach: number): void {
    const s = this.state!;
    const r = (s.top + i) & 7;
    if (s.reach[r] !== reach) this.state = { ...s, reach: s.reach.map((x, k) => (k === r ? reach : x)) };
  }
  private set(i: number, { high, low, reach }: Pair): void {
    const to = this.change(i, reach);
    this.c.f.set(to.high, high);
    this.c.f.set(to.low, low);
  }
  private push(x: Pair): void {
    const s = this.state!;
    this.state = { ...s, top: (s.top - 1) & 7 };
    this.set(0, x);
    this.setUp('zero');
  }
  private pop(n: number): void {
    for (let i = 0; i < n; i++) {
      const s = this.state!;
      this.state = { ...s, top: (s.top + 1) & 7, used: s.used & ~(1 << s.top) };
    }
  }
  private setUp(up: Up): void {
    this.state = { ...this.state!, up };
  }
  /** C1 where nothing was rounded, 0 or 1: to its locals. */
  private putC1(up: Expr): void {
    const { f } = this.c;
    f.set(this.rounded, v128.splat(F64X2.splat, f64.const(1)));
    f.set(this.excess, v128.splat(F64X2.splat, f64.convert_i32_s(up)));
  }
  /** To its locals, from wherever it is. */
  private makeC1(s: StackState): void {
    const { f } = this.c;
    const { up } = s;
    if (up === 'locals') return;
    if (up === 'zero') {
      f.set(this.excess, ZERO_VECTOR);
      return;
    }
    const x = this.pairOf(s, up.register);
    f.set(this.excess, up.kind === 'result' ? excessOf(this.over.get, x.low) : excessOfDouble(this.stored.get, x));
    f.set(this.rounded, x.high);
  }
  /** Where C1 stays as it is, but registers that it may be made of do not. */
  private keepC1(): void {
    this.makeC1(this.state!);
    this.setUp('locals');
  }

  /** Arithmetic is written for the ordinary control word. */
  private ordinary(e: JitEmit): void {
    const s = this.state!;
    if (s.ordinary) return;
    this.c.f.if(i32.ne(i32.and(this.word(S.FCW), ORDINARY_MASK), ORDINARY), () => e.retreat(), undefined, 0);
    this.state = { ...s, ordinary: true };
  }

  private function(type: typeof I32 | typeof V128, name: string, ...args: Expr[]): Expr {
    return callExpr(type, this.c.link.imports[name]!, args);
  }
  private call(name: string, ...args: Expr[]): Expr {
    return this.function(I32, name, k32(this.c.state), ...args);
  }
  /** Leaves an instruction that has changed nothing yet to the interpreter. */
  private giveUp(e: JitEmit): void {
    const now = this.state;
    this.state = this.before;
    e.retreat();
    this.state = now;
  }

  /** Takes what a function has left at VALUE, or leaves it to the interpreter. */
  private take(e: JitEmit, out: PairLocals, done: Expr): void {
    const { f, state } = this.c;
    f.if(i32.eqz(done), () => this.giveUp(e), undefined, 0);
    f.set(out.high, v128.load64_zero(k32(state + VALUE)));
    f.set(out.low, v128.load64_zero(k32(state + VALUE + 8)));
    f.set(this.over, v128.bin(F64X2.sub, v128.load64_zero(k32(state + VALUE + 16)), out.low.get));
  }
  private operate(e: JitEmit, out: PairLocals, operation: number, a: Pair, b: Pair): void {
    this.take(e, out, this.call('x87_value_operate', k32(operation), a.high, a.low, b.high, b.low));
  }

  private operation(e: JitEmit, op: X87Op): void {
    const { f } = this.c;
    this.before = this.state;
    switch (op.kind) {
      case 'arithmetic': {
        this.ordinary(e);
        const a = this.value(0);
        const b = op.other ? this.value(op.other) : a;
        this.arithmetic(e, op.operation, op.toOther ? op.other : 0, a, b);
        this.pop(op.pops);
        return;
      }
      case 'memory-arithmetic': {
        this.ordinary(e);
        const a = this.value(0);
        const value = this.operand(e, op.format);
        this.arithmetic(e, op.operation, 0, a, value);
        return;
      }
      case 'compare':
      case 'memory-compare':
      case 'test':
        return this.compare(e, op);
      case 'load':
        return this.loadMemory(e, op.format);
      case 'load-st':
        return this.push(this.value(op.other));
      case 'constant':
        this.ordinary(e);
        return this.push(constantPair(op.signExponent, op.significand));
      case 'store':
        return this.storeMemory(e, op.bytes, op.pops);
      case 'store-integer':
        return this.storeInteger(e, op.bytes, op.truncate, op.pops);
      case 'store-st': {
        const from = this.value(0);
        this.set(op.other, from);
        this.setUp('zero');
        return this.pop(op.pops);
      }
      case 'exchange': {
        const [a, b] = [this.value(0), this.value(op.other)];
        const held: Pair = { ...a, high: f.let(a.high), low: f.let(a.low) };
        this.set(0, b);
        this.set(op.other, held);
        return this.setUp('zero');
      }
      case 'move-if': {
        const [old, from] = [this.value(0), this.value(op.other)];
        const condition = f.let(e.condition(op.condition));
        const chosen = (x: Expr, y: Expr): Expr => select(condition, x, y);
        const plain = old.plain && from.plain;
        const reach = Math.max(old.reach, from.reach);
        this.keepC1();
        this.set(0, { high: chosen(from.high, old.high), low: chosen(from.low, old.low), plain, reach });
        return;
      }
      case 'sign': {
        const x = this.value(0);
        this.set(0, op.change ? negated(f, x) : withoutSign(f, x));
        return this.setUp('zero');
      }
      case 'root': {
        this.ordinary(e);
        const a = this.value(0);
        const out = this.result(0);
        this.setReach(
          0,
          squareRoot(f, out, this, a, () => this.operate(e, out, Operation.ROOT, a, a)),
        );
        return;
      }
      case 'whole': {
        const a = this.value(0);
        this.take(e, this.result(0), this.call('x87_value_whole', a.high, a.low));
        return;
      }
      case 'status': {
        this.keepC1();
        const top = i32.and(i32.add(this.base.get, this.state!.top), 7);
        const v = f.let(i32.or(this.status(), i32.shl(top, 11)));
        if (op.memory) e.store(e.address(), 2, v);
        else e.setGpr(0, 2, v);
        return;
      }
      case 'control': {
        const v = e.load(e.address(), 2);
        f.if(i32.ne(i32.and(v, MASKS), MASKS), () => e.retreat(), undefined, 0);
        f.store(4, this.c.state + S.FCW, i32.or(i32.and(v, 0x1f3f), 0x40));
        this.state = { ...this.state!, ordinary: false };
        return;
      }
      case 'clear':
        f.set(this.residue, ZERO_VECTOR);
        f.store(4, this.c.state + S.FSW, i32.and(this.word(S.FSW), ~(0xff | Fsw.B)));
        return;
      case 'nothing':
        return;
    }
  }

  /** ST(i) is about to get what an operation gives. */
  private result(i: number): PairLocals {
    const out = this.change(i);
    this.setUp({ kind: 'result', register: (this.state!.top + i) & 7 });
    return out;
  }

  /** `operation` is ModRM.reg of the instruction, whose result ST(to) is. */
  private arithmetic(e: JitEmit, operation: number, to: number, st: Pair, other: Pair): void {
    const { f } = this.c;
    const [a, b] = operation === 5 || operation === 7 ? [other, st] : [st, other];
    const same = a.high === b.high;
    const out = this.result(to);
    const rare = (which: number) => () => this.operate(e, out, which, a, b);
    if (operation === 0 && same) {
      twice(f, out, this, a, rare(Operation.ADD));
      this.setReach(to, Math.max(a.reach, ROUNDED));
    } else if (operation === 0) this.setReach(to, sum(f, out, this, a, b, false, false, rare(Operation.ADD)));
    else if (operation === 1) this.setReach(to, product(f, out, this, a, b, false, rare(Operation.MULTIPLY)));
    else if (operation >= 6) this.setReach(to, quotient(f, out, this, a, b, rare(Operation.DIVIDE)));
    else if (same) putExact(f, out, this, ZERO_VECTOR, ZERO_VECTOR);
    else this.setReach(to, sum(f, out, this, a, b, true, false, rare(Operation.SUBTRACT)));
  }

  /** Reads a memory operand. */
  private operand(e: JitEmit, format: MemoryFormat): Pair {
    const { f } = this.c;
    if (format === 'f64') return widen64(f, e.access(e.address(), 8, false), () => this.giveUp(e));
    const size = format === 'i16' ? 2 : 4;
    const raw = e.load(e.address(), size);
    if (format === 'f32') return widen32(f, raw, () => this.giveUp(e));
    return fromWord(f, size === 2 ? i32.extend16_s(raw) : raw);
  }

  private loadMemory(e: JitEmit, format: MemoryFormat | 'i64' | 'f80'): void {
    const { f } = this.c;
    if (format === 'f80') {
      const host = e.access(e.address(), 10, false);
      const x = fromVector(f, this.function(V128, 'x87_value_get', host));
      f.if(isBad(x.high), () => this.giveUp(e), undefined, 0);
      this.push(x);
    } else if (format === 'i64') this.push(fromInteger(f, e.load(e.address(), 8)));
    else this.push(this.operand(e, format));
  }

  private storeMemory(e: JitEmit, bytes: 4 | 8 | 10, pops: number): void {
    const { f, state } = this.c;
    const a = this.value(0);
    if (bytes === 10) {
      const host = e.access(e.address(), 10, true);
      const at = k32(state + VALUE);
      f.drop(this.function(I32, 'x87_value_put', at, a.high, a.low));
      // The second store is the one that takes the bounce buffer back.
      f.store(2, host, i32.load16_u(at, 8), 8);
      e.storeHost(host, 8, i64.load(at));
      this.setUp('zero');
      return this.pop(pops);
    }
    this.ordinary(e);
    const address = e.address();
    // What is told of the status is for after the store, which may go wrong.
    let excess: Expr | undefined;
    if (bytes === 4) {
      const narrow = narrow32(f, a, () => this.giveUp(e));
      e.store(address, bytes, narrow.bits);
      excess = narrow.excess;
      f.set(this.excess, excess);
      f.set(this.rounded, a.high);
      this.setUp('locals');
    } else {
      const v = narrow64(f, a);
      e.store(address, bytes, f.let(bitsOf(v)));
      if (a.plain) this.setUp('zero');
      else {
        f.set(this.stored, v);
        excess = excessOfDouble(v, a);
        this.setUp({ kind: 'stored', register: this.state!.top });
      }
    }
    if (excess) f.set(this.residue, v128.or(this.residue.get, excess));
    this.pop(pops);
  }

  private storeInteger(e: JitEmit, bytes: 2 | 4 | 8, truncate: boolean, pops: number): void {
    const { f, state } = this.c;
    e.access(e.address(), bytes, true);
    const { high, low } = this.value(0);
    const up = f.let(this.call('x87_value_integer', k32(bytes), k32(truncate ? 1 : 0), high, low));
    const result = k32(state + RESULT);
    e.store(e.address(), bytes, bytes === 8 ? i64.load(result) : i32.load(result));
    this.putC1(up);
    this.setUp('locals');
    this.pop(pops);
  }

  private compare(e: JitEmit, op: X87Op & { kind: 'compare' | 'memory-compare' | 'test' }): void {
    const { f, state } = this.c;
    const a = this.value(0);
    const b = op.kind === 'compare' ? this.value(op.other) : op.kind === 'test' ? ZERO : this.operand(e, op.format);
    const order = difference(f, a, b);
    const zero = f64.const(0);
    if (op.kind === 'compare' && op.flags) e.flagsOfDoubles(order, zero);
    else {
      const bits = i32.or(i32.shl(f64.eq(order, zero), 14), i32.shl(f64.lt(order, zero), 8));
      f.store(4, state + S.FSW, i32.or(i32.and(this.word(S.FSW), ~CONDITIONS), bits));
      this.setUp('zero');
    }
    if (op.kind !== 'test') this.pop(op.pops);
  }
}
