/**
 * What x87 instructions do to the register stack, and where a region keeps that stack in locals.
 *
 * Registers are named relative to each other, 0 to 7, as they are in the processor, but with TOP unknown: where the stack is
 * loaded, its ST(0) is taken to be the register that the plan says. The plan is only about speed: what it foresees wrongly is
 * noticed when the code is written or run.
 */
import type { Block } from '../block.ts';
import type { Insn } from '../insn.ts';

/** What an instruction does that is done on locals. */
export type X87Op =
  | { kind: 'arithmetic'; operation: number; other: number; toOther: boolean; pops: 0 | 1 }
  | { kind: 'memory-arithmetic'; operation: number; format: MemoryFormat }
  | { kind: 'compare'; other: number; quiet: boolean; flags: boolean; pops: 0 | 1 | 2 }
  | { kind: 'memory-compare'; format: MemoryFormat; pops: 0 | 1 }
  | { kind: 'test' }
  | { kind: 'load'; format: MemoryFormat | 'i64' | 'f80' }
  | { kind: 'load-st'; other: number }
  | { kind: 'constant'; signExponent: number; significand: bigint }
  | { kind: 'store'; bytes: 4 | 8 | 10; pops: 0 | 1 }
  | { kind: 'store-integer'; bytes: 2 | 4 | 8; truncate: boolean; pops: 0 | 1 }
  | { kind: 'store-st'; other: number; pops: 0 | 1 }
  | { kind: 'exchange'; other: number }
  | { kind: 'move-if'; other: number; condition: number }
  | { kind: 'sign'; change: boolean }
  | { kind: 'root' }
  | { kind: 'whole' }
  | { kind: 'status'; memory: boolean }
  | { kind: 'control' }
  | { kind: 'clear' }
  | { kind: 'nothing' };
export type MemoryFormat = 'f32' | 'f64' | 'i32' | 'i16';

/** Constants rounded to nearest, by ModRM.rm of D9 /5. */
const CONSTANTS: readonly [bigint, number][] = [
  [0x8000000000000000n, 0x3fff],
  [0xd49a784bcd1b8afen, 0x4000],
  [0xb8aa3b295c17f0bcn, 0x3fff],
  [0xc90fdaa22168c235n, 0x4000],
  [0x9a209a84fbcff799n, 0x3ffd],
  [0xb17217f7d1cf79acn, 0x3ffe],
  [0n, 0],
];
/** Formats of the even opcodes D8, DA, DC, DE. */
const FORMATS: readonly MemoryFormat[] = ['f32', 'i32', 'f64', 'i16'];
/** Jcc's condition codes of FCMOVB, E, BE, U. */
const MOVES = [2, 4, 6, 10];

function memoryOp(opcode: number, reg: number): X87Op | undefined {
  if (!(opcode & 1)) {
    const format = FORMATS[(opcode >> 1) & 3]!;
    if (reg === 2 || reg === 3) return { kind: 'memory-compare', format, pops: reg === 3 ? 1 : 0 };
    return { kind: 'memory-arithmetic', operation: reg, format };
  }
  switch (opcode * 8 + reg) {
    case 0xd9 * 8:
      return { kind: 'load', format: 'f32' };
    case 0xd9 * 8 + 2:
    case 0xd9 * 8 + 3:
      return { kind: 'store', bytes: 4, pops: reg === 3 ? 1 : 0 };
    case 0xd9 * 8 + 5:
      return { kind: 'control' };
    case 0xd9 * 8 + 7:
      return { kind: 'nothing' };
    case 0xdb * 8:
      return { kind: 'load', format: 'i32' };
    case 0xdb * 8 + 5:
      return { kind: 'load', format: 'f80' };
    case 0xdb * 8 + 7:
      return { kind: 'store', bytes: 10, pops: 1 };
    case 0xdd * 8:
      return { kind: 'load', format: 'f64' };
    case 0xdd * 8 + 2:
    case 0xdd * 8 + 3:
      return { kind: 'store', bytes: 8, pops: reg === 3 ? 1 : 0 };
    case 0xdd * 8 + 7:
      return { kind: 'status', memory: true };
    case 0xdf * 8:
      return { kind: 'load', format: 'i16' };
    case 0xdf * 8 + 5:
      return { kind: 'load', format: 'i64' };
    case 0xdd * 8 + 1:
    case 0xdf * 8 + 7:
      return { kind: 'store-integer', bytes: 8, truncate: reg === 1, pops: 1 };
    case 0xdb * 8 + 1:
    case 0xdb * 8 + 2:
    case 0xdb * 8 + 3:
    case 0xdf * 8 + 1:
    case 0xdf * 8 + 2:
    case 0xdf * 8 + 3:
      return { kind: 'store-integer', bytes: opcode === 0xdb ? 4 : 2, truncate: reg === 1, pops: reg === 2 ? 0 : 1 };
    default:
      return undefined;
  }
}

function registerOp(opcode: number, reg: number, rm: number): X87Op | undefined {
  switch (opcode) {
    case 0xd8:
    case 0xdc:
      if (reg === 2 || reg === 3)
        return { kind: 'compare', other: rm, quiet: false, flags: false, pops: reg === 3 ? 1 : 0 };
      return { kind: 'arithmetic', operation: reg, other: rm, toOther: opcode === 0xdc, pops: 0 };
    case 0xde:
      if (reg === 2 || (reg === 3 && rm === 1))
        return { kind: 'compare', other: rm, quiet: false, flags: false, pops: reg === 3 ? 2 : 1 };
      return reg === 3 ? undefined : { kind: 'arithmetic', operation: reg, other: rm, toOther: true, pops: 1 };
    case 0xd9:
      if (reg === 0) return { kind: 'load-st', other: rm };
      if (reg === 1) return { kind: 'exchange', other: rm };
      if (reg === 2 && rm === 0) return { kind: 'nothing' };
      if (reg === 4 && rm <= 1) return { kind: 'sign', change: rm === 0 };
      if (reg === 4 && rm === 4) return { kind: 'test' };
      if (reg === 5 && rm < 7)
        return { kind: 'constant', significand: CONSTANTS[rm]![0], signExponent: CONSTANTS[rm]![1] };
      if (reg === 7 && rm === 2) return { kind: 'root' };
      if (reg === 7 && rm === 4) return { kind: 'whole' };
      return undefined;
    case 0xda:
      if (reg < 4) return { kind: 'move-if', other: rm, condition: MOVES[reg]! };
      return reg === 5 && rm === 1 ? { kind: 'compare', other: 1, quiet: true, flags: false, pops: 2 } : undefined;
    case 0xdb:
      if (reg < 4) return { kind: 'move-if', other: rm, condition: MOVES[reg]! + 1 };
      if (reg === 4 && rm === 2) return { kind: 'clear' };
      if (reg >= 5) return { kind: 'compare', other: rm, quiet: reg === 5, flags: true, pops: 0 };
      return undefined;
    case 0xdd:
      if (reg === 2 || reg === 3) return { kind: 'store-st', other: rm, pops: reg === 3 ? 1 : 0 };
      if (reg === 4 || reg === 5)
        return { kind: 'compare', other: rm, quiet: true, flags: false, pops: reg === 5 ? 1 : 0 };
      return undefined;
    default:
      if (reg === 4 && rm === 0) return { kind: 'status', memory: false };
      if (reg === 5 || reg === 6) return { kind: 'compare', other: rm, quiet: reg === 5, flags: true, pops: 1 };
      return undefined;
  }
}

const known = new WeakMap<Insn, X87Op | 'sync' | 'other'>();

/**
 * What an instruction is to the x87 stack: an operation on locals; `sync` for what needs the state in memory; `other` for
 * what has nothing to do with it.
 */
export function x87Op(insn: Insn): X87Op | 'sync' | 'other' {
  let op = known.get(insn);
  if (op === undefined) known.set(insn, (op = classify(insn)));
  return op;
}

const isX87 = (insn: Insn): boolean => insn.def.map === 0 && insn.opcode >= 0xd8 && insn.opcode <= 0xdf;

function classify(insn: Insn): X87Op | 'sync' | 'other' {
  const { def } = insn;
  if (!def.emit) return 'sync';
  if (isX87(insn)) {
    const reg = (insn.modrm >> 3) & 7;
    return (insn.mem ? memoryOp(insn.opcode, reg) : registerOp(insn.opcode, reg, insn.modrm & 7)) ?? 'sync';
  }
  if (def.unit === 'mmx' || def.unit === 'x87') return 'sync';
  return insn.operands.some((o) => o.kind === 'reg' && o.cls === 'mmx') ? 'sync' : 'other';
}

/** Registers an operation needs in use (as i of ST(i), before it), those it writes, and how it moves the top. */
export interface Effect {
  reads: readonly number[];
  writes: readonly number[];
  push: boolean;
  pops: number;
}
const NONE: Effect = { reads: [], writes: [], push: false, pops: 0 };

export function effectOf(op: X87Op): Effect {
  switch (op.kind) {
    case 'arithmetic':
      return { reads: [0, op.other], writes: [op.toOther ? op.other : 0], push: false, pops: op.pops };
    case 'memory-arithmetic':
    case 'sign':
    case 'root':
    case 'whole':
      return { reads: [0], writes: [0], push: false, pops: 0 };
    case 'compare':
      return { reads: [0, op.other], writes: [], push: false, pops: op.pops };
    case 'memory-compare':
    case 'store':
    case 'store-integer':
      return { reads: [0], writes: [], push: false, pops: op.pops };
    case 'test':
      return { reads: [0], writes: [], push: false, pops: 0 };
    case 'load':
    case 'constant':
      return { reads: [], writes: [], push: true, pops: 0 };
    case 'load-st':
      return { reads: [op.other], writes: [], push: true, pops: 0 };
    case 'store-st':
      return { reads: [0], writes: [op.other], push: false, pops: op.pops };
    case 'exchange':
      return { reads: [0, op.other], writes: [0, op.other], push: false, pops: 0 };
    case 'move-if':
      return { reads: [0, op.other], writes: [0], push: false, pops: 0 };
    default:
      return NONE;
  }
}

/** State of the stack at a point: the registers' bit masks are by relative number. */
export interface Demand {
  /** Relative number of ST(0). */
  top: number;
  /** Registers that must be in use, and that must be empty. */
  need: number;
  empty: number;
}

export interface X87Plan {
  /** Blocks that are entered with the stack in locals, and what they rely on. */
  readonly entries: ReadonlyMap<Block, Demand>;
  /** Registers that some block reads or changes, and those that are changed. */
  readonly touched: number;
  readonly written: number;
  /** What code from an instruction of a block on relies on. */
  demand(b: Block, from: number): Demand;
}

interface Facts {
  /** The first and the last instruction that matters is done on locals. */
  starts: boolean;
  ends: boolean;
  /** No instruction matters. */
  passes: boolean;
}

function factsOf(b: Block): Facts {
  const ops = b.insns.map(x87Op).filter((op) => op !== 'other');
  const local = (op: X87Op | 'sync' | 'other' | undefined): boolean => op !== undefined && op !== 'sync';
  return { starts: local(ops[0]), ends: local(ops[ops.length - 1]), passes: ops.length === 0 };
}

/**
 * @param successors blocks that control goes to directly, within the region
 * @returns undefined if the region has no x87 instruction
 */
export function planX87(blocks: readonly Block[], successors: (b: Block) => readonly Block[]): X87Plan | undefined {
  // Most regions have none, and are found out soon.
  if (!blocks.some((b) => b.insns.some(isX87))) return undefined;
  const facts = new Map(blocks.map((b) => [b, factsOf(b)]));
  if (![...facts.values()].some((x) => x.starts || x.ends)) return undefined;
  const next = new Map(blocks.map((b) => [b, successors(b)]));
  // Is the stack used later, before anything needs it in memory?
  const later = new Set<Block>();
  // Is it in locals at the end?
  const ends = new Set<Block>();
  const entered = new Set<Block>();
  for (const [b, x] of facts) {
    if (x.starts) later.add(b);
    if (x.ends) ends.add(b);
  }
  for (let changed = true; changed;) {
    changed = false;
    const add = (set: Set<Block>, b: Block): void => {
      if (set.has(b)) return;
      set.add(b);
      changed = true;
    };
    for (const b of blocks) {
      if (facts.get(b)!.passes && next.get(b)!.some((s) => later.has(s))) add(later, b);
      if (!ends.has(b)) continue;
      for (const s of next.get(b)!)
        if (later.has(s)) {
          add(entered, s);
          if (facts.get(s)!.passes) add(ends, s);
        }
    }
  }
  // Where ST(0) is at each block's start, as seen from the block that was come from.
  const tops = new Map<Block, number>();
  const topAt = (b: Block, k: number): number => {
    let top = tops.get(b) ?? 0;
    for (let i = 0; i < k; i++) {
      const op = x87Op(b.insns[i]!);
      if (op === 'other' || op === 'sync') continue;
      const { push, pops } = effectOf(op);
      top = (top + pops - (push ? 1 : 0)) & 7;
    }
    return top;
  };
  for (const root of blocks) {
    if (!ends.has(root) || tops.has(root)) continue;
    tops.set(root, 0);
    const stack = [root];
    while (stack.length) {
      const b = stack.pop()!;
      const top = topAt(b, b.insns.length);
      for (const s of next.get(b)!)
        if (entered.has(s) && !tops.has(s)) {
          tops.set(s, top);
          stack.push(s);
        }
    }
  }
  const entries = new Map<Block, Demand>();
  for (const b of entered) entries.set(b, { top: tops.get(b) ?? 0, need: 0, empty: 0 });
  let touched = 0;
  let written = 0;
  for (const b of blocks) {
    let t = tops.get(b) ?? 0;
    for (const insn of b.insns) {
      const op = x87Op(insn);
      if (op === 'other' || op === 'sync') continue;
      const { reads, writes, push, pops } = effectOf(op);
      for (const i of reads) touched |= 1 << ((t + i) & 7);
      for (const i of writes) written |= 1 << ((t + i) & 7);
      t = (t + pops - (push ? 1 : 0)) & 7;
      if (push) written |= 1 << t;
    }
  }
  touched |= written;
  const demand = (b: Block, from: number): Demand => {
    const top = topAt(b, from);
    let need = 0;
    let empty = 0;
    let seen = 0;
    let t = top;
    for (let k = from; k < b.insns.length; k++) {
      const op = x87Op(b.insns[k]!);
      if (op === 'other') continue;
      if (op === 'sync') return { top, need, empty };
      const { reads, writes, push, pops } = effectOf(op);
      for (const i of reads) {
        const bit = 1 << ((t + i) & 7);
        if (!(seen & bit)) need |= bit;
        seen |= bit;
      }
      for (const i of writes) seen |= 1 << ((t + i) & 7);
      t = (t + pops - (push ? 1 : 0)) & 7;
      if (push) {
        if (!(seen & (1 << t))) empty |= 1 << t;
        seen |= 1 << t;
      }
    }
    for (const s of next.get(b)!) {
      const d = entries.get(s);
      if (d?.top !== t) continue;
      need |= d.need & ~seen;
      empty |= d.empty & ~seen;
    }
    // What one way wants in use and another one empty cannot be met for both.
    return { top, need, empty: empty & ~need };
  };
  for (let changed = true; changed;) {
    changed = false;
    for (let i = blocks.length - 1; i >= 0; i--) {
      const b = blocks[i]!;
      const e = entries.get(b);
      if (!e) continue;
      const d = demand(b, 0);
      if (d.need === e.need && d.empty === e.empty) continue;
      entries.set(b, d);
      changed = true;
    }
  }
  return { entries, touched, written, demand };
}
