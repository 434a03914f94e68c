/**
 * Regions: hot blocks, found by following branches (find.ts), written as one WebAssembly function.
 *
 * A region may span pages. S.VPC is the linear page of the block that runs, as everywhere; the local `vpc` is that of the
 * region's first page. Between two pages nothing promises that the other one is still mapped where it was, so an edge
 * from page to page asks the jump cache, whose entries go with the translations: when the target's address leads to the
 * target's record, the edge may be taken; otherwise it leaves the region as any far jump.
 */
import { ARITH, flagsRead, flagsWritten, NO_INSN, type Insn } from '../insn.ts';
import type { Block } from '../block.ts';
import type { CodeCache } from '../code.ts';
import { shapeKey, FAR, type Linkage } from '../interp.ts';
import {
  JUMP_CACHE_BYTES,
  JUMP_CACHE_HASH,
  JUMP_CACHE_SHIFT,
  JUMP_CACHES,
  R,
  RECORDS,
  S,
  SELECTORS,
} from '../layout.ts';
import { FunctionBuilder, HANDLER, type Label } from '../wasm/builder.ts';
import { I32, i32, i64, k32, k64, type Expr } from '../wasm/expr.ts';
import {
  blockAt,
  fits,
  isCall,
  isJmp,
  isRel,
  jumpsIndirectly,
  returnOffset,
  successorOffsets,
  type Region,
} from './find.ts';
import {
  EXIT_FAR,
  JitEmit,
  leave,
  liveFlags,
  newContext,
  reload,
  spill,
  takeFuel,
  type RegionContext,
  type Registers,
} from './emit.ts';
import { buildGraph, type Node } from './graph.ts';
import { planX87 } from './x87-plan.ts';
import { X87Stack } from './x87.ts';

/**
 * Rounds in loops that an entry of a light region may be followed by without counting: where there are no more, loading all
 * registers and storing them again costs more than it gains.
 */
const FEW_ROUNDS = 3;
/** From this many routes on, a table of jumps is quicker than a test for each. */
const MOST_TESTS = 3;
/** Most blocks that an indirect jump may lead to inside a region. */
const MAX_TARGETS = 64;

/** Registers that a shape touches besides its operands, found once by emitting it. */
const implicit = new Map<number, Registers>();

function registersOf(insns: readonly Insn[], state: number, mode: Block['page']['mode'], link: Linkage): Registers {
  const r: Registers = { gpr: 0, gprWritten: 0, xmm: 0, xmmWritten: 0 };
  for (const insn of insns) {
    if (insn.mem) {
      if (insn.mem.base >= 0 && insn.mem.base < 16) r.gpr |= 1 << insn.mem.base;
      if (insn.mem.index >= 0) r.gpr |= 1 << insn.mem.index;
    }
    if (!insn.def.emit) {
      // A helper works on registers in memory: all that the region knows are written back and read again.
      continue;
    }
    insn.operands.forEach((o, k) => {
      if (o.kind !== 'reg') return;
      const written = k === 0 ? insn.def.access !== 'r' : !/^(mov|cmp|test|add|sub|and|or|xor)$/.test(insn.def.name);
      if (o.cls === 'gpr') {
        r.gpr |= 1 << o.reg;
        if (written) r.gprWritten |= 1 << o.reg;
      } else if (o.cls === 'xmm') {
        r.xmm |= 1 << o.reg;
        if (written) r.xmmWritten |= 1 << o.reg;
      }
    });
    const key = shapeKey(insn, false, FAR);
    let extra = implicit.get(key);
    if (!extra) {
      extra = { gpr: 0, gprWritten: 0, xmm: 0, xmmWritten: 0 };
      const c = newContext(new FunctionBuilder(HANDLER), state, mode, link, extra, true);
      // Operands are given register numbers that do not matter: only fixed ones stay when operands are masked out.
      const probe = { gpr: 0, gprWritten: 0, xmm: 0, xmmWritten: 0 };
      Object.assign(c.registers, probe);
      c.f.block((exit) => {
        c.exit = exit;
        const e = new JitEmit(c, withoutRegisters(insn), 0, 0, 1);
        insn.def.emit!(e);
      });
      implicit.set(key, extra);
      // What the explicit operands of the probe added (R15 and XMM15) is not implicit.
      extra.gpr &= 0x7fff;
      extra.gprWritten &= 0x7fff;
      extra.xmm &= 0x7fff;
      extra.xmmWritten &= 0x7fff;
    }
    r.gpr |= extra.gpr;
    r.gprWritten |= extra.gprWritten;
    r.xmm |= extra.xmm;
    r.xmmWritten |= extra.xmmWritten;
  }
  return r;
}

/** The instruction with register 15 for every variable operand, so that emission shows only the fixed ones. */
function withoutRegisters(insn: Insn): Insn {
  return {
    ...insn,
    operands: insn.operands.map((o) => (o.kind === 'reg' ? { ...o, reg: o.cls === 'mmx' ? 7 : 15, high: false } : o)),
    mem: insn.mem && { ...insn.mem, base: 15, index: insn.mem.index >= 0 ? 15 : -1 },
  };
}

/** Whether an instruction computes by MXCSR. */
const usesMxcsr = (insn: Insn): boolean =>
  insn.def.unit === 'sse' && /^(add|sub|mul|div|sqrt|hadd|hsub|addsub|cvt)/.test(insn.def.name);

/**
 * Writes the function of a region.
 *
 * @param rounds of a light region, in its loops, after which it asks to be written anew
 */
export function emitRegion(
  region: Region,
  state: number,
  link: Linkage,
  code: CodeCache,
  rounds: number,
): FunctionBuilder {
  const f = new FunctionBuilder(HANDLER);
  const { blocks } = region;
  const { mode } = blocks[0]!.page;
  const near = (b: Block, offset: number): Block | undefined => blockAt(region, region.bases.get(b)! + offset);
  const successors = (b: Block): Block[] =>
    successorOffsets(b)
      .map((o) => near(b, o))
      .filter(fits);
  const returns = (b: Block): Block[] => {
    const o = returnOffset(b);
    return o === undefined ? [] : [near(b, o)].filter(fits);
  };
  const jumps = new Set(blocks.filter(jumpsIndirectly));
  const sites = new Set(blocks.flatMap(returns));
  const targets = blocks.filter((b) => sites.has(b) || b.jumpedTo).slice(0, MAX_TARGETS);
  const graph = buildGraph(blocks, successors, returns, region.entries, jumps, targets);
  const live = flagLiveness(blocks, near);
  const insns = blocks.flatMap((b) => b.insns);
  const registers = region.light ? undefined : registersOf(insns, state, mode, link);
  const c = newContext(f, state, mode, link, registers, false);
  const selector = f.local(I32);
  reload(c);
  const { entries } = region;
  if (entries.length > 1) f.set(selector, i32.load8_u(i32.shr_u(f.param(0), 5), SELECTORS - RECORDS / R.SIZE));
  let vpc = i64.load(k32(state + S.VPC));
  if (region.pages.size > 1) {
    const table = code.bytes(entries.length * 8);
    entries.forEach((b, k) => code.setDouble(table + k * 8, region.bases.get(b)!));
    vpc = i64.sub(vpc, i64.load(i32.shl(selector.get, 3), table));
  }
  f.set(c.vpc, vpc);
  if (region.light) {
    c.heat = { at: code.bytes(4), rounds };
    code.setWord(c.heat.at, rounds);
    f.store(4, c.heat.at, i32.add(i32.load(k32(c.heat.at)), FEW_ROUNDS));
  } else {
    const plan = blocks.some((b) => code.plainFloats.has(b.page.physical)) ? undefined : planX87(blocks, successors);
    if (plan) c.x87 = new X87Stack(c, plan);
    if (insns.some(usesMxcsr)) {
      c.mxcsr = f.local(I32);
      new JitEmit(c, NO_INSN, 0, 0, 0).mxcsrChanged();
    }
  }
  f.block((exit) => {
    c.exit = exit;
    f.block((fault) => {
      c.fault = fault;
      f.block((back) => {
        c.back = back;
        new Structure(c, region, graph, code, live, selector, targets).write();
      });
      f.drop({ type: I32, op: 0x10, args: [c.exitRecord.get], k: link.imports.retreat! });
    });
    f.set(c.exitRecord, k32(0));
  });
  writeExit(c);
  return f;
}

/** Address of the jump cache's entry for a linear address, in the tables of `mode`. */
function jumpCacheEntry(mode: RegionContext['mode'], target: Expr): Expr {
  return i32.add(
    i32.and(i32.shr_u(i32.mul(i32.wrap(target), k32(JUMP_CACHE_HASH)), JUMP_CACHE_SHIFT), -16),
    k32(JUMP_CACHES + mode * JUMP_CACHE_BYTES),
  );
}

/** The common exit: registers to memory, then to the next record, the next address, or the run loop. */
function writeExit(c: RegionContext): void {
  const { f, state, link } = c;
  spill(c);
  c.x87?.writeExit();
  const record = c.exitRecord.get;
  const out = i32.le_s(i32.load(k32(state + S.FUEL)), 0);
  f.if(i32.gt_s(record, 0), () => {
    f.if(out, () => {
      let rip = i64.add(i64.load(k32(state + S.VPC)), i64.extend_u(i32.load16_u(record, R.OFFSET)));
      if (c.mode > 1) rip = i64.and(rip, k64(0xffffffff));
      f.store(8, state + S.RIP, rip);
      f.return();
    });
    f.returnCallIndirect(link.handlerType, i32.load(record, R.FN), record);
  });
  f.if(i32.eqz(record), () => {
    const kind = f.let(i32.load(k32(state + S.FAULT_FLAGS)));
    f.if(kind, () => {
      const args = [kind, ...[...c.pending32, ...c.pending64].map((l) => l.get)];
      f.drop({ type: I32, op: 0x10, args, k: link.imports.settle! });
    });
    f.return();
  });
  const target = c.exitTarget.get;
  f.store(8, state + S.RIP, target);
  f.if(out, () => f.return());
  const low = i32.wrap(target);
  // A helper may have changed the mode.
  const entry = f.let(
    i32.add(
      i32.load(k32(state + S.JUMP_CACHE)),
      i32.and(i32.shr_u(i32.mul(low, k32(JUMP_CACHE_HASH)), JUMP_CACHE_SHIFT), -16),
    ),
  );
  f.if(i64.eq(i64.load(entry), target), () => {
    const next = f.let(i32.load(entry, 8));
    f.store(8, state + S.VPC, i64.and(target, k64(-4096)));
    f.returnCallIndirect(link.handlerType, i32.load(next, R.FN), next);
  });
  const found = f.let({ type: I32, op: 0x10, args: [], k: link.imports.lookup! });
  f.if(i32.eqz(found), () => f.return());
  f.returnCallIndirect(link.handlerType, i32.load(found, R.FN), found);
}

/** A register that an instruction changes by a constant, changing nothing else. */
function constantStep(insn: Insn): { register: number; by: number } | undefined {
  const [to, from] = insn.operands;
  if (insn.size !== 8 || to?.kind !== 'reg' || to.cls !== 'gpr') return undefined;
  switch (insn.def.name) {
    case 'add':
    case 'sub':
      if (from?.kind !== 'imm') return undefined;
      return { register: to.reg, by: insn.def.name === 'add' ? insn.imm : -insn.imm };
    case 'lea': {
      const m = insn.mem!;
      if (m.base !== to.reg || m.index >= 0 || m.addressSize !== 8) return undefined;
      return { register: to.reg, by: m.disp };
    }
    default:
      return undefined;
  }
}

/** Flags live at the start of each block. Leaving the region, all are. */
function flagLiveness(
  blocks: readonly Block[],
  near: (b: Block, offset: number) => Block | undefined,
): Map<Block, number> {
  const live = new Map<Block, number>();
  const after = (b: Block): number => {
    const last = b.insns[b.insns.length - 1]!;
    if (b.branches && (!isRel(last) || isCall(last))) return ARITH;
    let out = 0;
    const list = successorOffsets(b);
    const expected = !b.branches || isJmp(last) ? 1 : 2;
    if (list.length < expected) return ARITH;
    for (const o of list) {
      const s = near(b, o);
      out |= s ? (live.get(s) ?? 0) : ARITH;
    }
    return out;
  };
  for (let changed = true; changed;) {
    changed = false;
    for (let i = blocks.length - 1; i >= 0; i--) {
      const b = blocks[i]!;
      const now = liveFlags(b.insns, after(b));
      if (now !== live.get(b)) {
        live.set(b, now);
        changed = true;
      }
    }
  }
  return live;
}

/** Structured control flow from the dominator tree (after Ramsey, "Beyond Relooper", 2022). */
class Structure {
  private readonly loopLabels = new Map<Node, Label>();
  private readonly mergeLabels = new Map<Node, Label>();

  constructor(
    private readonly c: RegionContext,
    private readonly region: Region,
    private readonly graph: ReturnType<typeof buildGraph>,
    private readonly code: CodeCache,
    private readonly live: Map<Block, number>,
    private readonly selector: ReturnType<FunctionBuilder['local']>,
    private readonly targets: readonly Block[],
  ) {
    if (!graph.indirect) return;
    for (const b of targets) this.targetsLive |= live.get(b) ?? 0;
    this.jumpIndex = c.f.local(I32);
    if (region.pages.size === 1) {
      // A table from offset in the page to 1 + index of the target.
      this.table = code.bytes(4096);
      targets.forEach((b, k) => code.setByte(this.table + b.offset, k + 1));
    } else this.table = this.recordTable();
  }

  private readonly table: number = 0;
  private tableMask = 0;
  private readonly targetsLive: number = 0;
  private readonly jumpIndex: ReturnType<FunctionBuilder['local']> | undefined;

  /** A table from a target's record to its index: pairs of words, at a place that the record's number gives without collisions. */
  private recordTable(): number {
    const { targets, code } = this;
    const place = (b: Block, mask: number): number => (b.record / R.SIZE) & mask;
    let mask = 1;
    while (mask < targets.length) mask = mask * 2 + 1;
    while (new Set(targets.map((b) => place(b, mask))).size < targets.length && mask < 0x3ff) mask = mask * 2 + 1;
    const table = code.bytes((mask + 1) * 8);
    // What collides even so is left out: such a jump leaves the region.
    targets.forEach((b, k) => {
      code.setWord(table + place(b, mask) * 8, b.record);
      code.setWord(table + place(b, mask) * 8 + 4, k);
    });
    this.tableMask = mask;
    return table;
  }

  write(): void {
    this.tree(this.graph.start);
  }

  private tree(n: Node): void {
    const merges = n.children.filter((x) => x.forwardIn > 1).sort((a, b) => b.order - a.order);
    if (!n.isLoop) return this.within(n, merges, 0);
    this.c.f.loop((label) => {
      this.loopLabels.set(n, label);
      this.within(n, merges, 0);
    });
    // A loop's body never falls out of its end.
    this.c.f.unreachable();
  }

  private within(n: Node, merges: readonly Node[], i: number): void {
    if (i === merges.length) return this.node(n);
    const y = merges[i]!;
    this.c.f.block((label) => {
      this.mergeLabels.set(y, label);
      this.within(n, merges, i + 1);
    });
    this.tree(y);
  }

  private node(n: Node): void {
    const { f, x87 } = this.c;
    // What is known of pages comes along a single edge only.
    if (n.kind !== 'block' || n.forwardIn !== 1 || n.isLoop) this.c.windows.clear();
    if (n.kind === 'block') return this.block(n, n.block!);
    if (x87) x87.state = undefined;
    if (n.kind === 'indirect') return this.indirect(n);
    const route = (r: Node['routes'][number]): void => {
      if (r.last) f.set(this.selector, k32(-1));
      this.branch(n, r.to);
    };
    const [first, ...rest] = n.kind === 'start' ? n.routes : [undefined, ...n.routes];
    if (rest.length <= MOST_TESTS)
      for (const r of rest) f.if(i32.eq(this.selector.get, k32(r!.selector)), () => route(r!));
    else
      this.switch(this.selector.get, Math.max(...rest.map((r) => r!.selector)) + 1, (k) => {
        const r = rest.find((x) => x!.selector === k);
        return r && (() => route(r));
      });
    if (first) route(first);
    else this.branch(n, n.header!);
  }

  /** Runs the case of a number below `count`; goes on after it where there is none. Cases leave. */
  private switch(index: Expr, count: number, write: (k: number) => (() => void) | undefined): void {
    const { f } = this.c;
    const cases = Array.from({ length: count }, (_, k) => write(k));
    f.block((otherwise) => {
      const labels = new Array<Label>(count);
      const nest = (k: number): void => {
        if (k === count) {
          f.brTable(index, labels, otherwise);
          return;
        }
        const body = cases[k];
        if (!body) {
          labels[k] = otherwise;
          nest(k + 1);
          return;
        }
        f.block((label) => {
          labels[k] = label;
          nest(k + 1);
        });
        body();
      };
      nest(0);
    });
  }

  /** Control flow from one node to another inside the region. */
  private branch(from: Node, target: Node): void {
    const { x87 } = this.c;
    const selector = this.graph.detour(from, target);
    if (selector !== undefined) {
      if (from.kind === 'dispatch') throw new Error('a loop of the region cannot be entered where it must be');
      this.c.f.set(this.selector, k32(selector));
    }
    const to = selector === undefined ? target : this.graph.start;
    // What was written before this belongs to other paths.
    if (from.kind !== 'block') this.c.pending = undefined;
    const state = x87?.state;
    x87?.edge(to.kind === 'block' ? to.block : undefined, () =>
      new JitEmit(this.c, NO_INSN, to.block!.offset, to.block!.record, 0).retreat(),
    );
    this.go(from, to, target);
    if (x87) x87.state = state;
  }

  /** A light region that loops is written anew, with its registers in locals. */
  private countRound(): void {
    const { f, heat, link } = this.c;
    if (!heat) return;
    const left = f.let(i32.sub(i32.load(k32(heat.at)), 1));
    f.store(4, heat.at, left);
    f.if(i32.eqz(left), () => {
      f.store(4, heat.at, k32(heat.rounds));
      f.drop({ type: I32, op: 0x10, args: [k32(this.region.blocks[0]!.record)], k: link.imports.hot! });
    });
  }

  /** @param target where the edge leads in the end */
  private go(from: Node, to: Node, target: Node): void {
    const { f } = this.c;
    if (from.kind !== 'block') this.c.windows.clear();
    if (to.order <= from.order) {
      // Round a loop: let the run loop in when the fuel is used up.
      const block = target.block ?? target.header?.block;
      this.countRound();
      f.if(i32.le_s(i32.load(k32(this.c.state + S.FUEL)), 0), () => {
        f.set(this.c.exitRecord, k32(block ? block.record : EXIT_FAR));
        leave(this.c);
      });
      f.br(this.loopLabels.get(to)!);
    } else if (to.forwardIn > 1) f.br(this.mergeLabels.get(to)!);
    else this.tree(to);
  }

  /**
   * An indirect jump, call or return: to its target where that is in the region, else out of the region.
   *
   * @param check raises where the target is no address
   */
  private jump(n: Node, target: Expr, check: () => void): void {
    const { c } = this;
    const { f } = c;
    const j = this.graph.indirect;
    const saved = c.pending;
    const windows = c.windows.save();
    f.set(c.exitTarget, target);
    f.set(c.exitRecord, k32(EXIT_FAR));
    const enter = (): void => {
      if (this.targetsLive) this.settle();
      c.pending = undefined;
      this.branch(n, j!);
      c.pending = saved;
      c.windows.restore(windows);
    };
    if (j && this.region.pages.size === 1) {
      const offset = f.let(i64.sub(target, c.vpc.get));
      f.if(i64.lt_u(offset, 4096), () => {
        f.set(this.jumpIndex!, i32.load8_u(i32.wrap(offset), this.table));
        f.if(this.jumpIndex!.get, () => {
          f.set(this.jumpIndex!, i32.sub(this.jumpIndex!.get, 1));
          enter();
        });
      });
    }
    f.block((known) => {
      if (j && this.region.pages.size > 1) {
        const cached = f.let(jumpCacheEntry(c.mode, target));
        f.if(i64.eq(i64.load(cached), target), () => {
          const record = f.let(i32.load(cached, 8));
          const place = f.let(i32.shl(i32.and(i32.shr_u(record, 5), this.tableMask), 3));
          f.store(8, c.state + S.VPC, i64.and(target, k64(-4096)));
          f.if(i32.eq(i32.load(place, this.table), record), () => {
            f.set(this.jumpIndex!, i32.load(place, this.table + 4));
            enter();
          });
          f.set(c.exitRecord, record);
          f.br(known);
        });
      }
      check();
      c.pending = saved;
    });
    this.settle();
    leave(c);
    c.windows.restore(windows);
  }

  private indirect(n: Node): void {
    const { f } = this.c;
    this.switch(
      this.jumpIndex!.get,
      this.targets.length,
      (k) => () => this.branch(n, this.graph.target(this.targets[k]!)!),
    );
    f.unreachable();
  }

  private block(n: Node, b: Block): void {
    const { c } = this;
    const { f } = c;
    c.pending = undefined;
    // Liveness after each instruction, for dead flag results.
    const after = new Array<number>(b.count);
    let live = this.liveAfter(b);
    for (let k = b.insns.length - 1; k >= 0; k--) {
      after[k] = live;
      const insn = b.insns[k]!;
      live = !insn.def.emit ? ARITH : (live & ~flagsWritten(insn)) | flagsRead(insn);
    }
    let offset = this.region.bases.get(b)! + b.offset;
    c.edge = (to) => this.edge(n, to);
    c.jump = (target, check) => this.jump(n, target, check);
    c.x87?.enter(b);
    c.lanes.fill(0);
    c.mxcsrUsual = false;
    for (let k = 0; k < b.count; k++) {
      const insn = b.insns[k]!;
      const e = new JitEmit(c, insn, offset, b.record + k * R.SIZE, b.count);
      const written = flagsWritten(insn);
      e.compact = this.region.rare.has(b);
      e.flagsDead = written !== 0 && (after[k]! & written) === 0;
      e.mayRetreat = !this.code.plainFloats.has(b.page.physical);
      const mark = f.mark();
      const step = constantStep(insn);
      const windows = step && c.windows.save();
      if (!c.x87?.emit(e, b, k)) {
        if (insn.def.emit) insn.def.emit(e);
        else e.runHelper();
      }
      if (windows) {
        c.windows.restore(windows);
        c.windows.changed(step.register, step.by);
      }
      f.release(mark);
      offset += insn.len;
      if (e.done) return;
      // The next blocks' code may have taken these over.
      c.edge = (to) => this.edge(n, to);
      c.jump = (target, check) => this.jump(n, target, check);
    }
    // Cut, not ended by a branch.
    takeFuel(c, b.count);
    this.edge(n, offset);
  }

  private wrap(x: ReturnType<typeof k64>): ReturnType<typeof k64> {
    return this.c.mode > 1 ? i64.and(x, k64(0xffffffff)) : x;
  }

  private liveAfter(b: Block): number {
    const last = b.insns[b.insns.length - 1]!;
    if (b.branches && (!isRel(last) || isCall(last))) return ARITH;
    const list = successorOffsets(b);
    if (list.length < (!b.branches || isJmp(last) ? 1 : 2)) return ARITH;
    let out = 0;
    for (const o of list) {
      const s = blockAt(this.region, this.region.bases.get(b)! + o);
      out |= s ? (this.live.get(s) ?? ARITH) : ARITH;
    }
    return out;
  }

  private settle(): void {
    if (!this.c.pending) return;
    // Any instruction will do to write the pair: it depends on the pending result only.
    new JitEmit(this.c, NO_INSN, 0, 0, 0).settleFlags();
  }

  /** An edge from a block to an offset from the start of the region's first page. */
  private edge(n: Node, offset: number): void {
    const { c } = this;
    const { f } = c;
    const saved = c.pending;
    const windows = c.windows.save();
    const b = blockAt(this.region, offset);
    const to = b && this.graph.target(b);
    const own = this.region.bases.get(n.block!)!;
    const base = Math.floor(offset / 4096) * 4096;
    if (to) {
      if (this.live.get(b)) this.settle();
      const mark = f.mark();
      if (base !== own) {
        const target = f.let(this.wrap(i64.add(c.vpc.get, k64(offset))));
        const cached = f.let(jumpCacheEntry(c.mode, target));
        f.if(i32.or(i64.ne(i64.load(cached), target), i32.ne(i32.load(cached, 8), k32(b.record))), () => {
          this.settle();
          f.set(c.exitTarget, target);
          f.set(c.exitRecord, k32(EXIT_FAR));
          leave(c);
        });
        f.store(8, c.state + S.VPC, this.wrap(i64.add(c.vpc.get, k64(base))));
      }
      c.pending = undefined;
      this.branch(n, to);
      f.release(mark);
      c.edge = (o) => this.edge(n, o);
    } else {
      this.settle();
      if (base !== own) {
        f.set(c.exitTarget, this.wrap(i64.add(c.vpc.get, k64(offset))));
        f.set(c.exitRecord, k32(EXIT_FAR));
      } else f.set(c.exitRecord, k32(this.code.stub(n.block!.page, offset - base)));
      leave(c);
    }
    c.pending = saved;
    c.windows.restore(windows);
  }
}
