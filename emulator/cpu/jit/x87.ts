/**
 * The x87 register stack of a compiled region in locals. While it is there, TOP and the tags of the registers that matter
 * are known when the code is written, every exception is masked, and none is pending; where one of these does not hold when
 * the stack is loaded, the instruction is left to the interpreter (`JitEmit.retreat`).
 */
import type { Block } from '../block.ts';
import { S } from '../layout.ts';
import type { Local } from '../wasm/builder.ts';
import { I32, I64, i32, i64, k32, k64, select, type Expr } from '../wasm/expr.ts';
import { Fsw, MAX_EXPONENT, RESULT, SIGN } from '../x87/common.ts';
import { exponentOf, signExponentOf, VALUE, ZERO, ZERO_EXPONENT, type Value } from '../x87/values.ts';
import type { JitEmit, RegionContext } from './emit.ts';
import {
  compare,
  fromInteger,
  narrow,
  product,
  quotient,
  squareRoot,
  sum,
  valueOf,
  widen,
  type Status,
  type ValueLocals,
} from './x87-arithmetic.ts';
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
  /** Registers that may differ from what memory has. */
  readonly dirty: number;
  /** The control word is the ordinary one. */
  readonly ordinary: boolean;
}

export class X87Stack implements Status {
  /** Undefined: it is in memory. */
  state: StackState | undefined;
  /** What it was before the instruction that is being written. */
  private before: StackState | undefined;
  private readonly registers: (ValueLocals | undefined)[];
  /** Physical number of the relative register 0. */
  private readonly base: Local;
  /** Tags as far as they are not known: a mask by relative number. */
  private readonly tags: Local;
  readonly residue: Local;
  readonly c1: Local;
  /** For the common exit: relative TOP (−1 wherever the stack is in memory), and the tags. Only right when leaving. */
  private readonly exitTop: Local;
  private readonly exitTags: Local;
  /** In a dispatch: whether the stack is in locals. */
  private readonly here: Local;
  private readonly scratch: ValueLocals;

  constructor(
    private readonly c: RegionContext,
    readonly plan: X87Plan,
  ) {
    const { f } = c;
    const value = (): ValueLocals => ({ significand: f.local(I64), exponent: f.local(I32), sign: f.local(I32) });
    this.registers = Array.from({ length: 8 }, (_, r) => (plan.touched & (1 << r) ? value() : undefined));
    this.base = f.local(I32);
    this.tags = f.local(I32);
    this.residue = f.local(I64);
    this.c1 = f.local(I64);
    this.exitTop = f.local(I32);
    this.exitTags = f.local(I32);
    this.here = f.local(I32);
    this.scratch = value();
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
    f.set(this.residue, k64(0));
    f.set(this.c1, i64.shl(i64.extend_u(fsw), 54));
    this.registers.forEach((register, r) => {
      if (!register) return;
      const at = f.let(this.address(r));
      const signExponent = f.let(i32.load16_u(at, 8));
      f.set(register.significand, i64.load(at));
      const field = f.let(i32.and(signExponent, MAX_EXPONENT));
      // What is not read need not be taken apart.
      f.set(register.exponent, need & (1 << r) ? exponentOf(field, register.significand.get) : field);
      f.set(register.sign, i32.and(signExponent, SIGN));
    });
    this.state = { top, known: need | empty, used: need, dirty: 0, ordinary: true };
  }

  private status(): Expr {
    return i32.or(
      i32.and(this.word(S.FSW), ~Fsw.C1),
      i32.or(i32.and(i32.wrap(i64.shr_u(this.c1.get, 54)), Fsw.C1), i32.shl(i64.ne(this.residue.get, 0), 5)),
    );
  }

  private store(top: Expr, tags: Expr, registers: number): void {
    const { f, state } = this.c;
    f.store(4, state + S.FSW, this.status());
    f.store(4, state + S.FTOP, i32.and(i32.add(this.base.get, top), 7));
    const turned = f.let(i32.shl(tags, this.base.get));
    f.store(4, state + S.FTW, i32.and(i32.or(turned, i32.shr_u(turned, 8)), 0xff));
    this.registers.forEach((register, r) => {
      if (!register || !(registers & (1 << r))) return;
      const at = f.let(this.address(r));
      f.store(8, at, register.significand.get);
      f.store(2, at, signExponentOf(valueOf(register)), 8);
    });
  }

  private allTags(s: StackState): Expr {
    return s.known === 0xff ? k32(s.used) : i32.or(i32.and(this.tags.get, ~s.known & 0xff), s.used);
  }

  /** Brings the state in memory up to date; the locals are not used any more. */
  sync(): void {
    const s = this.state;
    if (!s) return;
    const mark = this.c.f.mark();
    this.store(k32(s.top), this.allTags(s), s.dirty);
    this.c.f.release(mark);
    this.state = undefined;
    this.c.f.set(this.exitTop, k32(-1));
  }

  /** Before what may lead to the region's exit: which registers are where. */
  exiting(): void {
    const s = this.state;
    if (!s) return;
    const { f } = this.c;
    f.set(this.exitTop, k32(s.top));
    f.set(this.exitTags, this.allTags(s));
  }

  /** At the region's exit. */
  writeExit(): void {
    const { f } = this.c;
    f.if(i32.ge_s(this.exitTop.get, 0), () => this.store(this.exitTop.get, this.exitTags.get, this.plan.written));
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
      // The block knows less of the tags than what comes before it.
      if (s.known & ~(demand.need | demand.empty)) this.c.f.set(this.tags, this.allTags(s));
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
    this.state = d && {
      top: d.top,
      known: d.need | d.empty,
      used: d.need,
      dirty: this.plan.written,
      ordinary: true,
    };
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
  private st(i: number): ValueLocals {
    return this.registers[(this.state!.top + i) & 7]!;
  }
  private value(i: number): Value {
    return valueOf(this.st(i));
  }
  private copy(to: ValueLocals, from: Value): void {
    const { f } = this.c;
    f.set(to.significand, from.significand);
    f.set(to.exponent, from.exponent);
    f.set(to.sign, from.sign);
  }
  /** The register ST(i) is about to be changed; it is in use from now on. */
  private change(i: number): ValueLocals {
    const s = this.state!;
    const bit = 1 << ((s.top + i) & 7);
    this.state = { ...s, known: s.known | bit, used: s.used | bit, dirty: s.dirty | bit };
    return this.st(i);
  }
  private push(): ValueLocals {
    const s = this.state!;
    this.state = { ...s, top: (s.top - 1) & 7 };
    return this.change(0);
  }
  private pop(n: number): void {
    for (let i = 0; i < n; i++) {
      const s = this.state!;
      this.state = { ...s, top: (s.top + 1) & 7, used: s.used & ~(1 << s.top) };
    }
  }
  private setC1(value: Expr): void {
    this.c.f.set(this.c1, value);
  }

  /** Arithmetic is written for the ordinary control word. */
  private ordinary(e: JitEmit): void {
    const s = this.state!;
    if (s.ordinary) return;
    this.c.f.if(i32.ne(i32.and(this.word(S.FCW), ORDINARY_MASK), ORDINARY), () => e.retreat(), undefined, 0);
    this.state = { ...s, ordinary: true };
  }

  private call(e: JitEmit, name: string, ...args: Expr[]): Expr {
    return e.callRuntime(name, k32(this.c.state), ...args);
  }
  private parts(v: Value): [Expr, Expr, Expr] {
    return [v.significand, v.exponent, v.sign];
  }
  /** Leaves an instruction that has changed nothing yet to the interpreter. */
  private giveUp(e: JitEmit): void {
    const now = this.state;
    this.state = this.before;
    e.retreat();
    this.state = now;
  }

  /** Calls a function that returns a significand and leaves the rest in VALUE. */
  private withRest(e: JitEmit, name: string, x: Expr, y: Expr): { hi: Expr; lo: Expr } {
    const { f, state } = this.c;
    return { hi: f.let(this.call(e, name, x, y)), lo: f.let(i64.load(k32(state + VALUE))) };
  }

  private operation(e: JitEmit, op: X87Op): void {
    const { f } = this.c;
    this.before = this.state;
    switch (op.kind) {
      case 'arithmetic': {
        this.ordinary(e);
        const a = this.value(0);
        const b = op.other ? this.value(op.other) : a;
        const out = this.change(op.toOther ? op.other : 0);
        this.arithmetic(e, op.operation, out, a, b);
        this.pop(op.pops);
        return;
      }
      case 'memory-arithmetic': {
        this.ordinary(e);
        const a = this.value(0);
        const value = this.operand(e, op.format);
        this.arithmetic(e, op.operation, this.change(0), a, value);
        return;
      }
      case 'compare':
      case 'memory-compare':
      case 'test':
        return this.compare(e, op);
      case 'load':
        return this.loadMemory(e, op.format);
      case 'load-st': {
        const from = this.value(op.other);
        this.copy(this.push(), from);
        return this.setC1(k64(0));
      }
      case 'constant':
        this.ordinary(e);
        this.copy(this.push(), {
          significand: k64(op.significand),
          exponent: k32(op.signExponent || ZERO_EXPONENT),
          sign: k32(0),
        });
        return this.setC1(k64(0));
      case 'store':
        return this.storeMemory(e, op.bytes, op.pops);
      case 'store-integer':
        return this.storeInteger(e, op.bytes, op.truncate, op.pops);
      case 'store-st': {
        const from = this.value(0);
        this.copy(this.change(op.other), from);
        this.setC1(k64(0));
        return this.pop(op.pops);
      }
      case 'exchange': {
        const a = this.change(0);
        const b = this.change(op.other);
        const held: Value = {
          significand: f.let(a.significand.get),
          exponent: f.let(a.exponent.get),
          sign: f.let(a.sign.get),
        };
        this.copy(a, valueOf(b));
        this.copy(b, held);
        return this.setC1(k64(0));
      }
      case 'move-if': {
        const from = this.value(op.other);
        const condition = f.let(e.condition(op.condition));
        const to = this.change(0);
        const old = valueOf(to);
        this.copy(to, {
          significand: select(condition, from.significand, old.significand),
          exponent: select(condition, from.exponent, old.exponent),
          sign: select(condition, from.sign, old.sign),
        });
        return;
      }
      case 'sign': {
        const x = this.change(0);
        f.set(x.sign, op.change ? i32.xor(x.sign.get, SIGN) : k32(0));
        return this.setC1(k64(0));
      }
      case 'root': {
        this.ordinary(e);
        const a = this.value(0);
        const out = this.change(0);
        squareRoot(
          f,
          out,
          this,
          a,
          (hi, lo) => this.withRest(e, 'x87_value_root', hi, lo),
          () => this.giveUp(e),
        );
        return;
      }
      case 'whole': {
        const a = this.value(0);
        const out = this.change(0);
        this.setC1(i64.shl(i64.extend_u(this.call(e, 'x87_value_whole', ...this.parts(a))), 63));
        f.set(out.significand, i64.load(k32(this.c.state + VALUE)));
        f.set(out.exponent, i32.load(k32(this.c.state + VALUE + 8)));
        f.set(out.sign, i32.load(k32(this.c.state + VALUE + 12)));
        return;
      }
      case 'status': {
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
        f.set(this.residue, k64(0));
        f.store(4, this.c.state + S.FSW, i32.and(this.word(S.FSW), ~(0xff | Fsw.B)));
        return;
      case 'nothing':
        return;
    }
  }

  /** `operation` is ModRM.reg of the instruction. */
  private arithmetic(e: JitEmit, operation: number, out: ValueLocals, st: Value, other: Value): void {
    const { f } = this.c;
    const [a, b] = operation === 5 || operation === 7 ? [other, st] : [st, other];
    const rare = (): void => this.giveUp(e);
    if (operation === 0) sum(f, out, this, a, b, false, rare);
    else if (operation === 1) product(f, out, this, a, b, rare);
    else if (operation < 6) sum(f, out, this, a, b, true, rare);
    else quotient(f, out, this, a, b, (x, y) => this.withRest(e, 'x87_value_quotient', x, y), rare);
  }

  /** Reads a memory operand into the scratch value. */
  private operand(e: JitEmit, format: MemoryFormat): Value {
    const { f } = this.c;
    const raw = e.load(e.address(), format === 'f64' ? 8 : format === 'i16' ? 2 : 4);
    if (format === 'i32' || format === 'i16')
      fromInteger(f, this.scratch, f.let(e.signExtend64(raw, format === 'i16' ? 2 : 4)));
    else {
      const double = format === 'f64';
      widen(f, this.scratch, double ? raw : f.let(i64.extend_u(raw)), double ? 8 : 4, () => this.giveUp(e));
    }
    return valueOf(this.scratch);
  }

  private loadMemory(e: JitEmit, format: MemoryFormat | 'i64' | 'f80'): void {
    const { f } = this.c;
    if (format === 'f80') {
      const host = e.access(e.address(), 10, false);
      const significand = f.let(i64.load(host));
      const signExponent = f.let(i32.load16_u(host, 8));
      const to = this.push();
      f.set(to.significand, significand);
      f.set(to.exponent, exponentOf(f.let(i32.and(signExponent, MAX_EXPONENT)), significand));
      f.set(to.sign, i32.and(signExponent, SIGN));
      return this.setC1(k64(0));
    }
    const size = format === 'f64' || format === 'i64' ? 8 : format === 'i16' ? 2 : 4;
    const raw = e.load(e.address(), size);
    if (format === 'f32' || format === 'f64') {
      const bits = size === 8 ? raw : f.let(i64.extend_u(raw));
      const to = this.push();
      widen(f, to, bits, size === 8 ? 8 : 4, () => this.giveUp(e));
    } else {
      const value = f.let(e.signExtend64(raw, size));
      fromInteger(f, this.push(), value);
    }
    this.setC1(k64(0));
  }

  private storeMemory(e: JitEmit, bytes: 4 | 8 | 10, pops: number): void {
    const { f } = this.c;
    const v = this.value(0);
    if (bytes === 10) {
      const host = e.access(e.address(), 10, true);
      // The second store is the one that takes the bounce buffer back.
      f.store(2, host, signExponentOf(v), 8);
      e.storeHost(host, 8, v.significand);
      this.setC1(k64(0));
      return this.pop(pops);
    }
    this.ordinary(e);
    const address = e.address();
    const { bits, c1, rest } = narrow(f, v, bytes, () => this.giveUp(e));
    e.store(address, bytes, bytes === 8 ? bits : i32.wrap(bits));
    this.setC1(c1);
    f.set(this.residue, i64.or(this.residue.get, rest));
    this.pop(pops);
  }

  private storeInteger(e: JitEmit, bytes: 2 | 4 | 8, truncate: boolean, pops: number): void {
    const { f, state } = this.c;
    e.access(e.address(), bytes, true);
    const up = f.let(
      this.call(e, 'x87_value_integer', k32(bytes), k32(truncate ? 1 : 0), ...this.parts(this.value(0))),
    );
    const result = k32(state + RESULT);
    e.store(e.address(), bytes, bytes === 8 ? i64.load(result) : i32.load(result));
    this.setC1(i64.shl(i64.extend_u(up), 63));
    this.pop(pops);
  }

  private compare(e: JitEmit, op: X87Op & { kind: 'compare' | 'memory-compare' | 'test' }): void {
    const { f, state } = this.c;
    const a = this.value(0);
    const b = op.kind === 'compare' ? this.value(op.other) : op.kind === 'test' ? ZERO : this.operand(e, op.format);
    const { equal, below } = compare(f, a, b, () => this.giveUp(e));
    if (op.kind === 'compare' && op.flags) e.flagsCompare(equal, k32(0), below);
    else {
      const bits = i32.or(i32.shl(equal, 14), i32.shl(below, 8));
      f.store(4, state + S.FSW, i32.or(i32.and(this.word(S.FSW), ~CONDITIONS), bits));
      this.setC1(k64(0));
    }
    if (op.kind !== 'test') this.pop(op.pops);
  }
}
