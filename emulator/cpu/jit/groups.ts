/**
 * SSE arithmetic in groups. An instruction by itself looks at its operands and its result at once, and leaves to the interpreter
 * what WebAssembly's arithmetic does not do as the processor does. Of a group only evidence is gathered: whether any number
 * among them was not an ordinary one. If there was, which is seen before anything is stored or the block ends, registers are put back
 * and the group is done again, each instruction by itself. So nothing in between can leave the region but memory accesses.
 */
import type { Block } from '../block.ts';
import { flagsWritten, type Insn } from '../insn.ts';
import type { FunctionBuilder, Label, Local } from '../wasm/builder.ts';
import { I32, i32, k32, V128, v128, type Expr } from '../wasm/expr.ts';
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
  return to.cls === 'gpr' && INTEGER.test(insn.def.name) && !(flagsWritten(insn) & flagsLive);
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

/** By size and form: scalar doubles, packed doubles, scalar singles, packed singles. */
const KINDS = 4;

/**
 * What is known of a group's numbers. Without its sign, and less the second smallest exponent, the upper half of an ordinary number
 * is below a limit, also of one that cannot have been rounded up to the smallest normal one; the largest one is kept, lane by lane.
 */
export class Evidence {
  private readonly largest: (Local | undefined)[] = new Array<Local | undefined>(KINDS);
  private readonly seen: boolean[] = new Array<boolean>(KINDS).fill(false);

  constructor(private readonly f: FunctionBuilder) {}

  /** A group begins. */
  clear(): void {
    this.seen.fill(false);
  }

  add(size: 4 | 8, packed: boolean, x: Expr): void {
    const { f } = this;
    const kind = (size === 8 ? 0 : 2) + (packed ? 1 : 0);
    const local = (this.largest[kind] ??= f.local(V128));
    const least = v128.splat(I32X4.splat, k32(size === 8 ? 2 << 21 : 2 << 24));
    const y = v128.bin(I32X4.sub, v128.bin(I32X4.shl, x, k32(1)), least);
    f.set(local, this.seen[kind] ? v128.bin(I32X4.max_u, local.get, y) : y);
    this.seen[kind] = true;
  }

  /** Not 0 if a number was not ordinary; undefined where none has been looked at. */
  odd(): Expr | undefined {
    const { f } = this;
    const of = (kind: number): Expr | undefined => (this.seen[kind] ? this.largest[kind]!.get : undefined);
    const max = (x: Expr, y: Expr): Expr => v128.bin(I32X4.max_u, x, y);
    const turned = (x: Expr, by: number): Expr =>
      v128.shuffle(
        x,
        x,
        Array.from({ length: 16 }, (_, i) => (i + by) & 15),
      );
    const both = (scalar: Expr | undefined, packed: Expr | undefined): Expr | undefined =>
      scalar && packed ? max(scalar, packed) : (scalar ?? packed);
    let singles = of(3);
    if (singles) {
      singles = f.let(max(singles, turned(singles, 8)));
      singles = max(singles, turned(singles, 4));
    }
    singles = both(of(2), singles);
    let doubles = of(1);
    if (doubles) doubles = max(doubles, turned(doubles, 8));
    doubles = both(of(0), doubles);
    const beyond = (x: Expr | undefined, lane: number, limit: number): Expr | undefined =>
      x && i32.ge_u(v128.extract(I32X4.extract, I32, x, lane), k32(limit | 0));
    const a = beyond(doubles, 1, 0x7fd << 21);
    const b = beyond(singles, 0, 0xfd << 24);
    return a && b ? i32.or(a, b) : (a ?? b);
  }
}

/** A group that is being written for ordinary numbers. */
export interface Trial {
  readonly evidence: Evidence;
  /** Where it is done again. */
  readonly again: Label;
}
