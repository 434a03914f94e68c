/** Regions: hot blocks of one page, found by following branches, written as one WebAssembly function. */
import { ARITH, flagsRead, flagsWritten, NO_INSN, type Insn } from '../insn.ts';
import type { Block, CodePage } from '../block.ts';
import type { CodeCache } from '../code.ts';
import { shapeKey, FAR, type Linkage } from '../interp.ts';
import { JUMP_CACHE_HASH, JUMP_CACHE_SHIFT, R, S } from '../layout.ts';
import { FunctionBuilder, type FunctionType, type Label } from '../wasm/builder.ts';
import { I32, i32, i64, k32, k64, type Expr } from '../wasm/expr.ts';
import { EXIT_FAR, JitEmit, liveFlags, newContext, reload, spill, type RegionContext, type Registers } from './emit.ts';
import { buildGraph, type Node } from './graph.ts';

const MAX_BLOCKS = 120;
const MAX_INSNS = 700;

/** A region's function takes the selector of its entry. */
export const REGION: FunctionType = { params: [I32], results: [] };

export interface Region {
  readonly page: CodePage;
  readonly blocks: readonly Block[];
  /** Blocks that can be entered from outside, by selector. */
  readonly entries: readonly Block[];
  /** Table slots of the entries while it is installed. */
  slots: number[];
  dropped: boolean;
  /** Its module has been instantiated. */
  installed: boolean;
}

const isCall = (insn: Insn): boolean => insn.def.name === 'call';
const isRel = (insn: Insn): boolean => insn.operands.some((o) => o.kind === 'rel');
/** Repeated string instructions that are emitted go on to the next instruction when they are done. */
const isRepeated = (insn: Insn): boolean => insn.def.emit !== undefined && insn.def.map === 0 && insn.def.prefix !== '';
const isJmp = (insn: Insn): boolean => insn.def.name === 'jmp';

/** Offsets of a block's direct successors in its page. */
function successorOffsets(b: Block): number[] {
  if (b.raises || b.crosses) return [];
  if (!b.branches) return b.end < 4096 ? [b.end] : [];
  const last = b.insns[b.insns.length - 1]!;
  if (isRepeated(last)) return b.end < 4096 ? [b.end] : [];
  if (!isRel(last)) return [];
  const out: number[] = [];
  if (b.target !== undefined && b.target >= 0 && b.target < 4096) out.push(b.target);
  if (!isJmp(last) && !isCall(last) && b.end < 4096) out.push(b.end);
  return out;
}

function returnOffset(b: Block): number | undefined {
  const last = b.insns[b.insns.length - 1];
  return b.branches && last && isCall(last) && b.end < 4096 ? b.end : undefined;
}

/** Whether a block ends in a jump, call or return to an address that is only known when it runs. */
function jumpsIndirectly(b: Block): boolean {
  const last = b.insns[b.insns.length - 1];
  return b.branches && last !== undefined && !isRel(last) && /^(jmp|call|ret)$/.test(last.def.name) && !!last.def.emit;
}

/** Most blocks that an indirect jump may lead to inside a region. */
const MAX_TARGETS = 64;

/** A block that a region can hold. */
const fits = (b: Block | undefined): b is Block => b !== undefined && !b.raises && !b.crosses && b.count > 0;

/** Collects what is reachable from `head` within its page and already decoded. */
export function findRegion(head: Block): Region {
  const { page } = head;
  const blocks: Block[] = [head];
  const seen = new Set<Block>([head]);
  const entries: Block[] = [head];
  let insns = head.count;
  for (let i = 0; i < blocks.length; i++) {
    const b = blocks[i]!;
    const back = returnOffset(b);
    const offsets = successorOffsets(b);
    if (back !== undefined) offsets.push(back);
    // What computed jumps in this page have led to so far: the cases of a switch, the handlers of an interpreter.
    const last = b.insns[b.insns.length - 1]!;
    if (isJmp(last) && jumpsIndirectly(b)) for (const t of page.blocks.values()) if (t.jumpedTo) offsets.push(t.offset);
    for (const offset of offsets) {
      const s = page.blocks.get(offset);
      if (!fits(s)) continue;
      if (!seen.has(s)) {
        if (blocks.length >= MAX_BLOCKS || insns + s.count > MAX_INSNS) continue;
        seen.add(s);
        blocks.push(s);
        insns += s.count;
      }
      if (offset === back && !entries.includes(s)) entries.push(s);
    }
  }
  return { page, blocks, entries, slots: [], dropped: false, installed: false };
}

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
      const c = newContext(new FunctionBuilder(REGION), state, mode, link, extra, true);
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

/** Writes the function of a region. */
export function emitRegion(region: Region, state: number, link: Linkage, code: CodeCache): FunctionBuilder {
  const f = new FunctionBuilder(REGION);
  const { page, blocks } = region;
  const inRegion = new Set(blocks);
  const find = (offset: number): Block | undefined => {
    const b = page.blocks.get(offset);
    return b && inRegion.has(b) ? b : undefined;
  };
  const successors = (b: Block): Block[] => successorOffsets(b).map(find).filter(fits);
  const returns = (b: Block): Block[] => {
    const o = returnOffset(b);
    return o === undefined ? [] : [find(o)].filter(fits);
  };
  const jumps = new Set(blocks.filter(jumpsIndirectly));
  const sites = new Set(blocks.flatMap(returns));
  const targets = blocks.filter((b) => sites.has(b) || b.jumpedTo).slice(0, MAX_TARGETS);
  const graph = buildGraph(blocks, successors, returns, region.entries, jumps, targets);
  const live = flagLiveness(blocks, successorOffsets, find);
  const registers = registersOf(
    blocks.flatMap((b) => b.insns),
    state,
    page.mode,
    link,
  );
  const c = newContext(f, state, page.mode, link, registers, false);
  const selector = f.local(I32);
  reload(c);
  f.set(c.vpc, i64.load(k32(state + S.VPC)));
  f.set(selector, f.param(0));
  f.block((exit) => {
    c.exit = exit;
    new Structure(c, graph, code, find, live, selector, targets).write();
  });
  writeExit(c);
  return f;
}

/** The common exit: registers to memory, then to the next record, the next address, or the run loop. */
function writeExit(c: RegionContext): void {
  const { f, state, link } = c;
  spill(c);
  f.if(c.faultFlags.get, () => {
    const args = [c.faultFlags, ...c.pending32, ...c.pending64].map((l) => l.get);
    f.drop({ type: I32, op: 0x10, args, k: link.imports.settle! });
    f.return();
  });
  const record = c.exitRecord.get;
  const out = i32.le_s(c.fuel.get, 0);
  f.if(i32.gt_s(record, 0), () => {
    f.if(out, () => {
      let rip = i64.add(c.vpc.get, i64.extend_u(i32.load16_u(record, R.OFFSET)));
      if (c.mode > 1) rip = i64.and(rip, k64(0xffffffff));
      f.store(8, state + S.RIP, rip);
      f.return();
    });
    f.returnCallIndirect(link.handlerType, i32.load(record, R.FN), record);
  });
  f.if(i32.eqz(record), () => f.return());
  const target = c.exitTarget.get;
  f.store(8, state + S.RIP, target);
  f.if(out, () => f.return());
  const low = i32.wrap(target);
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

/** Flags live at the start of each block. Leaving the region, all are. */
function flagLiveness(
  blocks: readonly Block[],
  offsets: (b: Block) => number[],
  find: (offset: number) => Block | undefined,
): Map<Block, number> {
  const live = new Map<Block, number>();
  const after = (b: Block): number => {
    const last = b.insns[b.insns.length - 1]!;
    if (b.branches && (!isRel(last) || isCall(last))) return ARITH;
    let out = 0;
    const list = offsets(b);
    const expected = !b.branches || isJmp(last) ? 1 : 2;
    if (list.length < expected) return ARITH;
    for (const o of list) {
      const s = find(o);
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
    private readonly graph: ReturnType<typeof buildGraph>,
    private readonly code: CodeCache,
    private readonly find: (offset: number) => Block | undefined,
    private readonly live: Map<Block, number>,
    private readonly selector: ReturnType<FunctionBuilder['local']>,
    private readonly targets: readonly Block[],
  ) {
    if (!graph.indirect) return;
    // A table from offset in the page to 1 + index of the target.
    this.table = code.bytes(4096);
    targets.forEach((b, k) => code.setByte(this.table + b.offset, k + 1));
    for (const b of targets) this.targetsLive |= live.get(b) ?? 0;
    this.jumpIndex = c.f.local(I32);
  }

  private readonly table: number = 0;
  private readonly targetsLive: number = 0;
  private readonly jumpIndex: ReturnType<FunctionBuilder['local']> | undefined;

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
    const { f } = this.c;
    if (n.kind === 'block') return this.block(n, n.block!);
    if (n.kind === 'indirect') return this.indirect(n);
    const route = (r: Node['routes'][number]): void => {
      if (r.last) f.set(this.selector, k32(-1));
      this.branch(n, r.to);
    };
    if (n.kind === 'start') {
      for (const r of n.routes.slice(1)) f.if(i32.eq(this.selector.get, k32(r.selector)), () => route(r));
      route(n.routes[0]!);
      return;
    }
    f.if(i32.ge_s(this.selector.get, 0), () => {
      for (const r of n.routes) f.if(i32.eq(this.selector.get, k32(r.selector)), () => route(r));
    });
    this.branch(n, n.header!);
  }

  /** Control flow from one node to another inside the region. */
  private branch(from: Node, to: Node): void {
    const { f } = this.c;
    if (to.order <= from.order) {
      // Round a loop: let the run loop in when the fuel is used up.
      const target = to.block ?? to.header?.block;
      f.if(i32.le_s(this.c.fuel.get, 0), () => {
        f.set(this.c.exitRecord, k32(target ? target.record : EXIT_FAR));
        f.br(this.c.exit);
      });
      f.br(this.loopLabels.get(to)!);
    } else if (to.forwardIn > 1) f.br(this.mergeLabels.get(to)!);
    else this.tree(to);
  }

  /** An indirect jump or return that finds its target in the region goes there; otherwise what follows leaves. */
  private jump(n: Node, target: Expr): void {
    const { c } = this;
    const { f } = c;
    const j = this.graph.indirect;
    if (!j || !this.graph.allowed(n, j)) return;
    const saved = c.pending;
    f.set(c.exitTarget, target);
    const offset = f.let(i64.sub(target, c.vpc.get));
    f.if(i64.lt_u(offset, 4096), () => {
      f.set(this.jumpIndex!, i32.load8_u(i32.wrap(offset), this.table));
      f.if(this.jumpIndex!.get, () => {
        // Where an edge to a target leaves the region after all, every flag must be right.
        const cut = this.targets.some((b) => !this.graph.allowed(this.graph.indirectNode!, this.graph.target(b)!));
        if (this.targetsLive || cut) this.settle();
        c.pending = undefined;
        this.branch(n, j);
      });
    });
    c.pending = saved;
    c.edge = (o) => this.edge(n, o);
  }

  private indirect(n: Node): void {
    const { f } = this.c;
    const labels: Label[] = [];
    const nest = (k: number): void => {
      if (k === this.targets.length) {
        f.brTable(i32.sub(this.jumpIndex!.get, 1), labels, labels[0]!);
        return;
      }
      f.block((label) => {
        labels.push(label);
        nest(k + 1);
      });
      const b = this.targets[k]!;
      const to = this.graph.target(b)!;
      if (this.graph.allowed(n, to)) this.branch(n, to);
      else {
        f.set(this.c.exitRecord, k32(b.record));
        f.br(this.c.exit);
      }
    };
    nest(0);
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
    let offset = b.offset;
    c.edge = (to) => this.edge(n, to);
    c.jump = (target) => this.jump(n, target);
    for (let k = 0; k < b.count; k++) {
      const insn = b.insns[k]!;
      const e = new JitEmit(c, insn, offset, b.record + k * R.SIZE, b.count);
      const written = flagsWritten(insn);
      e.flagsDead = written !== 0 && (after[k]! & written) === 0;
      const mark = f.mark();
      if (insn.def.emit) insn.def.emit(e);
      else e.runHelper();
      f.release(mark);
      offset += insn.len;
      if (e.done) return;
      // The next blocks' code may have taken these over.
      c.edge = (to) => this.edge(n, to);
      c.jump = (target) => this.jump(n, target);
    }
    // Cut, not ended by a branch.
    f.set(c.fuel, i32.sub(c.fuel.get, k32(b.count)));
    if (b.end >= 4096) {
      f.set(c.exitTarget, this.wrap(i64.add(c.vpc.get, k64(b.end))));
      this.settle();
      f.set(c.exitRecord, k32(-1));
      f.br(c.exit);
    } else this.edge(n, b.end);
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
      const s = this.find(o);
      out |= s ? (this.live.get(s) ?? ARITH) : ARITH;
    }
    return out;
  }

  private settle(): void {
    if (!this.c.pending) return;
    // Any instruction will do to write the pair: it depends on the pending result only.
    new JitEmit(this.c, NO_INSN, 0, 0, 0).settleFlags();
  }

  /** An edge from a block to an offset relative to the page. */
  private edge(n: Node, offset: number): void {
    const { c } = this;
    const { f } = c;
    const saved = c.pending;
    const b = offset >= 0 && offset < 4096 ? this.find(offset) : undefined;
    const to = b && this.graph.target(b);
    if (to && this.graph.allowed(n, to)) {
      if (this.live.get(b)) this.settle();
      c.pending = undefined;
      const mark = f.mark();
      this.branch(n, to);
      f.release(mark);
      c.edge = (o) => this.edge(n, o);
    } else {
      this.settle();
      if (offset < 0 || offset >= 4096) {
        f.set(c.exitTarget, this.wrap(i64.add(c.vpc.get, k64(offset))));
        f.set(c.exitRecord, k32(-1));
      } else f.set(c.exitRecord, k32(this.code.stub(n.block!.page, offset)));
      f.br(c.exit);
    }
    c.pending = saved;
  }
}
