/**
 * SSE arithmetic in groups. An instruction by itself looks at its operands and its result at once, and leaves to the interpreter
 * what WebAssembly's arithmetic does not do as the processor does. Of a group only evidence is gathered: whether any number
 * among them was not an ordinary one. If there was, which is seen before anything is stored or the block ends, registers are put back
 * and the group is done again, each instruction by itself. So nothing in between can leave the region but memory accesses.
 */
import type { Block } from '../block.ts';
import { flagsChanged, type Insn } from '../insn.ts';
import type { FunctionBuilder, Label, Local } from '../wasm/builder.ts';
import { i32, k32, V128, v128, type Expr } from '../wasm/expr.ts';
import { I32X4 } from '../wasm/simd.ts';

/** The last instruction is not part of it. */
export interface Group {
  readonly start: number;
  readonly end: number;
}

const ARITHMETIC = /^(add|sub|mul|div|sqrt)[sp][sd]$/;
/** They may stand in a group when they write an XMM register and nothing else. */
const MOVES =
  /^(mov(aps|apd|ups|upd|dqa|dqu|ss|sd|q|d|lps|lpd|hps|hpd|hlps|lhps|ddup)|unpck[lh]p[sd]|shufp[sd]|pshufd|(and|andn|or|xor)p[sd]|pxor|por|pand|pandn)$/;
/** The same for general registers, if nobody reads the flags. */
const INTEGER = /^(mov|movsx|movsxd|movzx|lea|add|sub|and|or|xor|inc|dec)$/;
const MOST = 48;

const computes = (insn: Insn): boolean =>
  insn.def.unit === 'sse' && insn.def.emit !== undefined && ARITHMETIC.test(insn.def.name);

function joins(insn: Insn, flagsLive: number): boolean {
  const [to] = insn.operands;
  if (to?.kind !== 'reg' || !insn.def.emit || insn.operands.some((o) => o.kind === 'reg' && o.cls === 'mmx'))
    return false;
  if (to.cls === 'xmm') return MOVES.test(insn.def.name);
  return to.cls === 'gpr' && INTEGER.test(insn.def.name) && !(flagsChanged(insn) & flagsLive);
}

/** @param after flags that are live after each instruction */
export function groupsOf(b: Block, after: readonly number[]): Group[] {
  const out: Group[] = [];
  let start = -1;
  let end = -1;
  let count = 0;
  const close = (): void => {
    if (count > 1) out.push({ start, end });
    start = -1;
    count = 0;
  };
  b.insns.forEach((insn, k) => {
    if (start >= 0 && k - start >= MOST) close();
    if (computes(insn)) {
      if (start < 0) start = k;
      end = k + 1;
      count++;
    } else if (start >= 0 && !joins(insn, after[k]!)) close();
  });
  close();
  return out;
}

/** A group from the block's first instruction on, be it of one operation: for who can do the block again from its start. */
export function groupAtStart(b: Block, after: readonly number[]): Group | undefined {
  let end = 0;
  b.insns.slice(0, MOST).every((insn, k) => {
    if (computes(insn)) end = k + 1;
    return end === k + 1 || joins(insn, after[k]!);
  });
  return end ? { start: 0, end } : undefined;
}

/** Registers that a group's instructions write: masks of numbers. */
export function writtenBy(insns: readonly Insn[]): { gpr: number; xmm: number } {
  const written = { gpr: 0, xmm: 0 };
  for (const { operands } of insns) {
    const [to] = operands;
    if (to?.kind === 'reg' && to.cls === 'gpr') written.gpr |= 1 << (to.high ? to.reg & 3 : to.reg);
    if (to?.kind === 'reg' && to.cls === 'xmm') written.xmm |= 1 << to.reg;
  }
  return written;
}

/** Dwords of two vectors: 0 to 3 of the first one, 4 to 7 of the second. */
const dwords = (x: Expr, y: Expr, lanes: readonly number[]): Expr =>
  v128.shuffle(
    x,
    y,
    lanes.flatMap((lane) => [0, 1, 2, 3].map((i) => lane * 4 + i)),
  );
const max = (x: Expr, y: Expr): Expr => v128.bin(I32X4.max_u, x, y);

/** A local and whether it holds something at this place of the code. */
class Slot {
  private local: Local | undefined;
  full = false;
  constructor(private readonly f: FunctionBuilder) {}

  get(): Expr | undefined {
    return this.full ? this.local!.get : undefined;
  }
  set(x: Expr): void {
    this.f.set((this.local ??= this.f.local(V128)), x);
    this.full = true;
  }
  /** What it held, which leaves it empty. */
  take(): Expr | undefined {
    const x = this.get();
    this.full = false;
    return x;
  }
}

/**
 * What is known of a group's numbers. Without its sign, and less the second smallest exponent, the upper half of an ordinary number
 * is below a limit, also of one that cannot have been rounded up to the smallest normal one; the largest one is kept, lane by lane.
 * Upper halves of doubles are brought together by fours first.
 */
export class Evidence {
  /** A scalar double, and two doubles, that wait for others. */
  private readonly one: Slot;
  private readonly two: Slot;
  private readonly doubles: Slot;
  /** Of the lowest lane, and of all. */
  private readonly single: Slot;
  private readonly singles: Slot;

  constructor(f: FunctionBuilder) {
    this.one = new Slot(f);
    this.two = new Slot(f);
    this.doubles = new Slot(f);
    this.single = new Slot(f);
    this.singles = new Slot(f);
  }

  /** A group begins. */
  clear(): void {
    for (const slot of [this.one, this.two, this.doubles, this.single, this.singles]) slot.full = false;
  }

  private static measure(x: Expr, least: number): Expr {
    return v128.bin(I32X4.sub, v128.bin(I32X4.shl, x, k32(1)), v128.splat(I32X4.splat, k32(least)));
  }
  private static four(x: Expr): Expr {
    return Evidence.measure(x, 2 << 21);
  }

  add(size: 4 | 8, packed: boolean, x: Expr): void {
    if (size === 4) {
      const slot = packed ? this.singles : this.single;
      const y = Evidence.measure(x, 2 << 24);
      const old = slot.get();
      slot.set(old ? max(old, y) : y);
      return;
    }
    let pair = x;
    if (!packed) {
      const first = this.one.take();
      if (!first) return this.one.set(x);
      pair = dwords(first, x, [0, 1, 4, 5]);
    }
    const two = this.two.take();
    if (!two) return this.two.set(pair);
    const four = Evidence.four(dwords(two, pair, [1, 3, 5, 7]));
    const old = this.doubles.get();
    this.doubles.set(old ? max(old, four) : four);
  }

  /** Not 0 if a number was not ordinary; undefined where none has been looked at. */
  odd(): Expr | undefined {
    const any = (x: Expr, limit: number): Expr => {
      const bound = v128.splat(I32X4.splat, k32(limit | 0));
      return v128.test(I32X4.bitmask, v128.bin(I32X4.ge_u, x, bound));
    };
    const [one, two, singles, single] = [this.one.get(), this.two.get(), this.singles.get(), this.single.get()];
    let doubles = this.doubles.get();
    if (one ?? two) {
      const four = Evidence.four(dwords(two ?? one!, one ?? two!, [1, two ? 3 : 1, 5, one ? 5 : 7]));
      doubles = doubles ? max(doubles, four) : four;
    }
    const all = doubles && any(doubles, 0x7fd << 21);
    const lowest = single && v128.shuffle(single, single, LOWEST);
    const others = lowest && singles ? max(lowest, singles) : (lowest ?? singles);
    const odd = others && any(others, 0xfd << 24);
    return all && odd ? i32.or(all, odd) : (all ?? odd);
  }
}
const LOWEST = Array.from({ length: 16 }, (_, i) => i & 3);

/** A group that is being written for ordinary numbers. */
export interface Trial {
  readonly evidence: Evidence;
  /** Where it is done again. */
  readonly again: Label;
}
