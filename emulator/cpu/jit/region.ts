/**
 * Regions: hot blocks, found by following branches (find.ts), written as one WebAssembly function.
 *
 * A region may span pages (pages.ts). S.VPC is the linear page of the block that runs, as everywhere; the local `vpc` is
 * that of the region's first page.
 *
 * There are light regions and others (`Kind` in find.ts). In a light region registers and flags stay where the interpreter has them (what a
 * path has written is in a local, too, so that reading it need not wait for the store): it costs nothing to enter
 * and to leave, its code is simple for the host's compilers, and so it is made early. Most code runs some thirty
 * instructions from one entry to the next exit, and gains most by this. An access that is not in the TLB is handed to the
 * interpreter with the rest of its block, so that there are no calls that registers would have to be saved for. A light
 * region that turns out to loop is written anew with its registers and flags in locals, loaded at the entry and stored
 * at the exit; its inner loops over arrays are written twice (strides.ts).
 */
import type { Block } from '../block.ts';
import type { CodeCache } from '../code.ts';
import { NO_INSN, type Insn } from '../insn.ts';
import { jumpCacheOffset, type Linkage } from '../interp.ts';
import { modeBits, S } from '../layout.ts';
import { handlerOf, HEADER_SIZE, meta, metaOffset } from '../record.ts';
import { FunctionBuilder, HANDLER } from '../wasm/builder.ts';
import { callExpr, I32, i32, i64, k32, k64, select, type Expr } from '../wasm/expr.ts';
import { JitEmit, newContext, reload, spill, writeFuel, type RegionContext } from './emit.ts';
import { cutBlocks } from './cut.ts';
import { blockAt, fits, returnOffset, successorOffsets, type Region } from './find.ts';
import { buildGraph } from './graph.ts';
import { planGuards } from './guards.ts';
import { flagLiveness } from './liveness.ts';
import { Kept, PATIENCE, writeEntry } from './pages.ts';
import { registersOf } from './registers.ts';
import { planStride, type Stride } from './strides.ts';
import { Structure } from './structure.ts';
import { planX87 } from './x87-plan.ts';
import { X87Stack } from './x87.ts';

/**
 * Rounds in loops that an entry of a light region may be followed by without counting: where there are no more, loading all
 * registers and storing them again costs more than it gains.
 */
const FEW_ROUNDS = 3;
/** Most blocks that an indirect jump may lead to inside a region. */
const MAX_TARGETS = 64;

/** When a light region asks to be written anew. */
export interface Again {
  /** Rounds in its loops; 0: there are no light regions. */
  readonly rounds: number;
  /** Times that it was left for code that it had no room for. */
  readonly leavings: number;
}

/** Whether an instruction computes by MXCSR. */
const usesMxcsr = (insn: Insn): boolean =>
  insn.def.unit === 'sse' && /^(add|sub|mul|div|sqrt|hadd|hsub|addsub|cvt)/.test(insn.def.name);

/**
 * Writes the function of a region.
 *
 * @param number that `pages` of the imports knows it by
 * @param again when a light region asks to be written anew
 */
export function emitRegion(
  found: Region,
  number: number,
  state: number,
  link: Linkage,
  code: CodeCache,
  again: Again,
): FunctionBuilder {
  const f = new FunctionBuilder(HANDLER);
  const region = cutBlocks(found);
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
  const guards = planGuards(blocks, region.known, successors, returns);
  const edges = (b: Block): Block[] => [...successors(b), ...(guards.of.get(b) ?? [])];
  const sites = new Set(blocks.flatMap(returns));
  const { jumps } = guards;
  const targets = blocks.filter((b) => (sites.has(b) ? guards.sites.has(b) : b.jumpedTo)).slice(0, MAX_TARGETS);
  const live = flagLiveness(blocks, near);
  const x87 =
    region.light || blocks.some((b) => code.plainFloats.has(b.page.physical)) ? undefined : planX87(blocks, edges);
  const plan = (header: Block, body: ReadonlySet<Block>): Stride | undefined => {
    if (region.light || x87 || modeBits(mode) !== 64) return undefined;
    const stride = planStride(header, body, region, live, state, mode, link);
    if (stride) found.strides++;
    return stride;
  };
  const graph = buildGraph(blocks, edges, returns, region.entries, jumps, targets, plan);
  const insns = blocks.flatMap((b) => b.insns);
  const registers = region.light ? undefined : registersOf(insns, state, mode, link);
  const c = newContext(f, state, mode, link, registers, false);
  const selector = f.local(I32);
  reload(c);
  const { entries } = region;
  if (entries.length > 1) f.set(selector, i32.load8_u(i32.sub(f.param(0), HEADER_SIZE)));
  let vpc = i64.load(k32(state + S.VPC));
  if (region.pages.size > 1) {
    const table = code.bytes(entries.length * 8);
    entries.forEach((b, k) => code.setDouble(table + k * 8, region.bases.get(b)!));
    vpc = i64.sub(vpc, i64.load(i32.shl(selector.get, 3), table));
  }
  f.set(c.vpc, vpc);
  if (region.pages.size > 1) {
    const at = (found.keptAt = code.bytes(Kept.SIZE));
    code.setWord(at + Kept.LEFT, PATIENCE);
    const bit = new Map([...region.pages.keys()].map((distance, k) => [distance, 1 << k]));
    c.placed = { number, at, bit, valid: f.local(I32) };
    writeEntry(f, c.placed, state, mode, c.vpc);
  }
  if (region.light) {
    const at = code.bytes(8);
    c.heat = { at, rounds: again.rounds, leavingAt: at + 4, leavings: again.leavings };
    code.setWord(at, again.rounds);
    code.setWord(at + 4, again.leavings);
    // Where there are no loops none is counted.
    if (graph.loops) f.store(4, c.heat.at, i32.add(i32.load(k32(c.heat.at)), FEW_ROUNDS));
  } else {
    if (x87) c.x87 = new X87Stack(c, x87, code);
    if (insns.some(usesMxcsr)) {
      c.mxcsr = f.local(I32);
      new JitEmit(c, NO_INSN, 0, 0, 0).mxcsrChanged();
    }
  }
  if (again.rounds && region.known.size) {
    c.astray = { at: code.bytes(4), from: again.leavings };
    code.setWord(c.astray.at, again.leavings);
  }
  f.block((exit) => {
    c.exit = exit;
    f.block((fault) => {
      c.fault = fault;
      f.block((back) => {
        c.back = back;
        const write = (): void => {
          new Structure(c, region, graph, code, live, selector, targets, guards).write();
        };
        if (!region.light) return write();
        f.block((interpret) => {
          c.interpret = interpret;
          write();
        });
        writeInterpret(c);
      });
      f.drop(callExpr(I32, link.imports.retreat!, [c.exitRecord.get]));
    });
    if (region.light) {
      writeFuel(c);
      leaveFaulted(c);
    } else f.set(c.exitRecord, k32(0));
  });
  writeExit(c);
  return f;
}

/** What `settle` is told of a pending result. */
const pendingOf = (c: RegionContext): Expr[] => [...c.pending32, ...c.pending64].map((l) => l.get);

/** After an exception: the pending result, of the kind that the runtime was told, goes to memory. */
function leaveFaulted(c: RegionContext): void {
  const { f, link, state } = c;
  const kind = f.let(i32.load(k32(state + S.FAULT_FLAGS)));
  f.if(kind, () => f.drop(callExpr(I32, link.imports.settle!, [kind, ...pendingOf(c)])));
  f.return();
}

/** The interpreter goes on at `exitRecord`, in the middle of a block: it accounts for the whole block at its end. */
function writeInterpret(c: RegionContext): void {
  const { f, link } = c;
  writeFuel(c);
  const record = c.exitRecord.get;
  const other = c.exitHandler.get;
  const slot = f.let(select(other, other, handlerOf(record)));
  const kind = c.exitKind.get;
  f.if(kind, () => f.returnCall(link.imports.settled!, kind, ...pendingOf(c), slot, record));
  f.returnCallIndirect(link.handlerType, slot, record);
}

/** The common exit: registers to memory, then to the next record, the next address, or the run loop. */
function writeExit(c: RegionContext): void {
  const { f, state, link } = c;
  spill(c);
  c.x87?.writeExit();
  const record = c.exitRecord.get;
  writeFuel(c);
  const out = i32.le_s(i32.load(k32(state + S.FUEL)), 0);
  f.if(i32.gt_s(record, 0), () => {
    f.if(out, () => {
      let rip = i64.add(i64.load(k32(state + S.VPC)), i64.extend_u(metaOffset(meta(record))));
      if (c.mode > 1) rip = i64.and(rip, k64(0xffffffff));
      f.store(8, state + S.RIP, rip);
      f.return();
    });
    f.returnCallIndirect(link.handlerType, handlerOf(record), record);
  });
  // A light region has another way out after an exception.
  if (!c.light) f.if(i32.eqz(record), () => leaveFaulted(c));
  const target = c.exitTarget.get;
  f.store(8, state + S.RIP, target);
  f.if(out, () => f.return(), undefined, 0);
  // A helper may have changed the mode.
  const entry = f.let(i32.add(i32.load(k32(state + S.JUMP_CACHE)), jumpCacheOffset(target)));
  f.if(i64.eq(i64.load(entry), target), () => {
    const next = f.let(i32.load(entry, 8));
    f.store(8, state + S.VPC, i64.and(target, k64(-4096)));
    f.returnCallIndirect(link.handlerType, handlerOf(next), next);
  });
  f.returnCall(link.imports.goOn!, f.param(0));
}
