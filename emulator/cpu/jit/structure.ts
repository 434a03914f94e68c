/** A region's control flow as structured WebAssembly: edges, loops, jumps to computed addresses, and the ways out. */
import type { Block } from '../block.ts';
import type { CodeCache } from '../code.ts';
import { NO_INSN } from '../insn.ts';
import { jumpCacheOffset, recordsOf } from '../interp.ts';
import { jumpCacheOf, S } from '../layout.ts';
import type { FunctionBuilder, Label, Local } from '../wasm/builder.ts';
import { callExpr, I32, i32, i64, k32, k64, type Expr } from '../wasm/expr.ts';
import { EXIT_FAR, fuelLeft, JitEmit, leave, takeFuel, type RegionContext } from './emit.ts';
import { ASKS_AGAIN, ASKS_WIDE, blockAt, isCall, isJmp, Kind, type Region } from './find.ts';
import { Evidence, groupAtStart, groupsOf, writtenBy, type Group } from './groups.ts';
import type { buildGraph, Node } from './graph.ts';
import { CallSite, type Guards } from './guards.ts';
import type { FlagLiveness } from './liveness.ts';
import {
  accessOf,
  areFlagsDead,
  flagsAfter,
  MORE_ROUNDS,
  StrideLocals,
  settleFuel,
  Ways,
  windowsOf,
  writeLook,
  type Stride,
} from './strides.ts';
import { keepingSteps } from './windows.ts';

/** From this many routes on, a table of jumps is quicker than a test for each. */
const MOST_TESTS = 3;

/** Address of the jump cache's entry for a linear address, in the tables of `mode`. */
const jumpCacheEntry = (mode: RegionContext['mode'], target: Expr): Expr =>
  i32.add(jumpCacheOffset(target), k32(jumpCacheOf(mode)));

/** Structured control flow from the dominator tree (after Ramsey, "Beyond Relooper", 2022). */
export class Structure {
  private readonly loopLabels = new Map<Node, Label>();
  private readonly mergeLabels = new Map<Node, Label>();

  constructor(
    private readonly c: RegionContext,
    private readonly region: Region,
    private readonly graph: ReturnType<typeof buildGraph>,
    private readonly code: CodeCache,
    private readonly live: FlagLiveness,
    private readonly selector: ReturnType<FunctionBuilder['local']>,
    private readonly targets: readonly Block[],
    private readonly guards: Guards,
  ) {
    this.evidence = new Evidence(c.f);
    this.strideLocals = new StrideLocals(c.f);
    if (!graph.indirect) return;
    for (const b of targets) this.targetsLive |= live.before.get(b) ?? 0;
    this.jumpIndex = c.f.local(I32);
    if (region.pages.size === 1) {
      // A table from offset in the page to 1 + index of the target.
      this.table = code.bytes(4096);
      targets.forEach((b, k) => code.setByte(this.table + b.offset, k + 1));
    } else this.table = this.recordTable();
  }

  private readonly evidence: Evidence;
  private readonly strideLocals: StrideLocals;
  private readonly table: number = 0;
  private tableMask = 0;
  private readonly targetsLive: number = 0;
  private readonly jumpIndex: ReturnType<FunctionBuilder['local']> | undefined;

  /**
   * A table from a target's record to its index and its page's distance, 16 bytes each, at places that the records' addresses
   * give without collisions.
   */
  private recordTable(): number {
    const { targets, code } = this;
    const place = (b: Block, mask: number): number => (b.record >>> 2) & mask;
    let mask = 1;
    while (mask < targets.length) mask = mask * 2 + 1;
    while (new Set(targets.map((b) => place(b, mask))).size < targets.length && mask < 0x3ff) mask = mask * 2 + 1;
    const table = code.bytes((mask + 1) * 16);
    // What collides even so is left out: such a jump leaves the region.
    targets.forEach((b, k) => {
      const at = table + place(b, mask) * 16;
      code.setWord(at, b.record);
      code.setWord(at + 4, k);
      code.setDouble(at + 8, this.region.bases.get(b)!);
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
    // What is known of pages and numbers comes along a single edge only.
    if (n.kind !== 'block' || n.forwardIn !== 1 || n.isLoop) {
      this.c.windows.clear();
      this.c.mirrored = 0;
      this.c.lanes.fill(0);
      this.c.mxcsrUsual = false;
    }
    if (n.kind === 'block') return this.block(n, n.block!);
    if (x87) x87.state = undefined;
    if (n.kind === 'indirect') return this.indirect(n);
    if (n.kind === 'stride') return this.stride(n, n.stride!);
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
    else {
      const b = n.header!.block!;
      // What was written before this belongs to other paths.
      this.c.pending = undefined;
      x87?.enterHere(b, () => new JitEmit(this.c, NO_INSN, b.offset, b.record, 0).retreat());
      this.branch(n, n.header!);
    }
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
    // A loop begins.
    const stride = (target.kind === 'dispatch' ? target.header! : target).stride;
    const again =
      from.kind === 'block' ? stride?.body.has(from.block!) : from.kind === 'dispatch' && from.header === target;
    if (stride && !again) this.c.f.set(this.strideLocals.wait, k32(stride.first));
    // What was written before this belongs to other paths.
    if (from.kind !== 'block') this.c.pending = undefined;
    const state = x87?.state;
    const { block } = to.kind === 'dispatch' ? to.header! : to;
    // Round a loop that can be entered in the middle the stack stays in locals; who enters it so has it in memory.
    const stays = to.kind !== 'dispatch' || (state !== undefined && from.kind === 'block' && selector === undefined);
    x87?.edge(stays ? block : undefined, () => new JitEmit(this.c, NO_INSN, block!.offset, block!.record, 0).retreat());
    if (to.kind === 'dispatch') x87?.setHere(stays);
    this.go(from, to, target);
    if (x87) x87.state = state;
  }

  /** A light region that loops is written anew, with its registers in locals. */
  private countRound(): void {
    const { heat } = this.c;
    if (heat) this.count(heat.at, heat.rounds, 0);
  }

  private countLeaving(): void {
    const { heat } = this.c;
    if (heat && this.region.kind === Kind.Small) this.count(heat.leavingAt, heat.leavings, ASKS_WIDE);
  }

  private countAstray(): void {
    const { astray } = this.c;
    if (astray) this.count(astray.at, astray.from, ASKS_AGAIN);
  }

  /** Counts down the word at `at`; where it comes to 0 it is set to `from` again, and the region is asked for anew. */
  private count(at: number, from: number, why: number): void {
    const { f, link, vpc } = this.c;
    const left = f.let(i32.sub(i32.load(k32(at)), 1));
    f.store(4, at, left);
    const args = [k32(at), k32(from), vpc.get, k32(this.region.blocks[0]!.record + why)];
    f.if(i32.eqz(left), () => f.drop(callExpr(I32, link.imports.counted!, args)), undefined, 0);
  }

  /** @param target where the edge leads in the end */
  private go(from: Node, to: Node, target: Node): void {
    const { f } = this.c;
    if (from.kind !== 'block') {
      this.c.windows.clear();
      this.c.mirrored = 0;
    }
    if (to.order <= from.order) {
      // Round a loop: let the run loop in when the fuel is used up.
      const block = target.block ?? target.header?.block;
      this.countRound();
      f.if(
        i32.le_s(fuelLeft(this.c), 0),
        () => {
          f.set(this.c.exitRecord, k32(block ? block.record : EXIT_FAR));
          leave(this.c);
        },
        undefined,
        0,
      );
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
    const b = n.block!;
    for (const to of this.guards.of.get(b) ?? []) {
      const offset = this.region.bases.get(to)! + to.offset;
      f.if(i64.eq(target, this.wrap(i64.add(c.vpc.get, k64(offset)))), () => this.edge(n, offset));
    }
    const j = this.guards.jumps.has(b) ? this.graph.indirect : undefined;
    const saved = c.pending;
    const windows = c.windows.save();
    const { mirrored } = c;
    this.noteCall(b, target);
    f.set(c.exitTarget, target);
    f.set(c.exitRecord, k32(EXIT_FAR));
    const enter = (): void => {
      if (this.targetsLive) this.settle();
      c.pending = undefined;
      this.branch(n, j!);
      c.pending = saved;
      c.windows.restore(windows);
      c.mirrored = mirrored;
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
          const place = f.let(i32.shl(i32.and(i32.shr_u(record, 2), this.tableMask), 4));
          const page = f.let(i64.and(target, k64(-4096)));
          f.store(8, c.state + S.VPC, page);
          // The same code may be mapped elsewhere in this address space, at another distance from the region's first page.
          const here = i64.eq(i64.sub(page, c.vpc.get), i64.load(place, this.table + 8));
          f.if(i32.and(i32.eq(i32.load(place, this.table), record), here), () => {
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
    const last = b.insns.at(-1)!;
    if (isCall(last) && this.guards.of.has(b)) this.countAstray();
    // The cases of a switch, the handlers of an interpreter; and calls, which will be known.
    else if (isCall(last) || (this.region.left.size && isJmp(last))) this.countLeaving();
    leave(c);
    c.windows.restore(windows);
  }

  /** What calls to computed addresses lead to, in a light region, and where they lead elsewhere than expected. */
  private noteCall(b: Block, target: Expr): void {
    const { c, code } = this;
    const { f } = c;
    if (!isCall(b.insns.at(-1)!) || !(c.light || this.guards.of.has(b))) return;
    const at = code.siteOf(b);
    const word = (offset: number): Expr => i64.load(k32(at + offset));
    f.if(
      i32.and(i64.ne(word(CallSite.TARGET), target), i64.ne(word(CallSite.OTHER), target)),
      () => {
        f.store(8, at + CallSite.OTHER, word(CallSite.TARGET));
        f.store(8, at + CallSite.TARGET, target);
        f.store(4, at + CallSite.CHANGES, i32.add(i32.load(k32(at + CallSite.CHANGES)), 1));
      },
      undefined,
      0,
    );
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

  /**
   * A block's ways out of the middle meet behind it, and only there go on to the region's: all registers are merged where they
   * meet, and the host's compiler writes moves for each way.
   */
  private block(n: Node, b: Block): void {
    const { c } = this;
    const { f } = c;
    const { fault, back } = c;
    f.block((faultHere) => {
      f.block((backHere) => {
        c.fault = faultHere;
        c.back = backHere;
        this.instructions(n, b);
        c.fault = fault;
        c.back = back;
      });
      f.br(back);
    });
    f.br(fault);
  }

  /**
   * @param edge writes an edge to an offset from the start of the region's first page
   * @param restart leaves the block, which has done nothing, to be done otherwise
   */
  private instructions(
    n: Node,
    b: Block,
    edge = (to: number): void => this.edge(n, to),
    restart: (() => void) | undefined = undefined,
  ): void {
    const { c } = this;
    const { f } = c;
    c.pending = undefined;
    const after = flagsAfter(b, this.live);
    const offsets = new Array<number>(b.count);
    let end = this.region.bases.get(b)! + b.offset;
    b.insns.forEach((insn, k) => {
      offsets[k] = end;
      end += insn.len;
    });
    const records = recordsOf(b.record, b.insns);
    const retreats = !this.code.plainFloats.has(b.page.physical);
    /** @returns whether the block ends */
    const write = (k: number): boolean => {
      const insn = b.insns[k]!;
      const e = new JitEmit(c, insn, offsets[k]!, records[k]!, b.count);
      if (k === 0) e.firstHandler = b.handler;
      e.compact = this.region.rare.has(b);
      e.flagsDead = areFlagsDead(insn, after[k]!);
      e.mayRetreat = retreats;
      const mark = f.mark();
      keepingSteps(c.windows, insn, () => {
        if (c.x87?.emit(e, b, k)) return;
        if (insn.def.emit) insn.def.emit(e);
        else e.runHelper();
      });
      f.release(mark);
      return e.done;
    };
    c.x87?.enter(b);
    let groups = c.mxcsr && retreats && !this.region.rare.has(b) ? groupsOf(b, after) : [];
    const atStart = restart && c.mxcsr && retreats ? groupAtStart(b, after) : undefined;
    if (atStart) groups = [atStart, ...groups.filter(({ start }) => start >= atStart.end)];
    const jump = (target: Expr, check: () => void): void => this.jump(n, target, check);
    for (let k = 0; k < b.count; k++) {
      // The next blocks' code may have taken these over.
      c.edge = edge;
      c.jump = jump;
      if (groups[0]?.start === k) {
        const group = groups.shift()!;
        this.group(b, group, write, group === atStart ? restart : undefined);
        k = group.end - 1;
      } else if (write(k)) return;
    }
    // Cut, not ended by a branch.
    takeFuel(c, b.count);
    edge(end);
  }

  /** In front of a loop that is written twice: the rounds whose accesses stay within their pages, in its second writing. */
  private stride(n: Node, stride: Stride): void {
    const { c, strideLocals: locals } = this;
    const { f, windows } = c;
    const { fault, back } = c;
    const { wait, rounds, saved } = locals;
    const hosts = locals.hosts(stride.streams.length);
    const access = accessOf(c, stride, hosts);
    const ways = new Ways(this.region, stride.header, stride.body);
    ways.start();
    f.block((first) => {
      f.if(i32.gt_s(wait.get, 0), () => {
        f.set(wait, i32.sub(wait.get, 1));
        f.br(first);
      });
      f.block((poor) => {
        writeLook(c, stride, locals, hosts, poor, first);
        f.loop((again) => {
          const round = (): void => {
            stride.streams.forEach(({ step }, k) => {
              if (step) f.set(hosts[k]!, i32.add(hosts[k]!.get, step));
            });
            const less = stride.longest - access.done;
            if (less) f.set(saved, i32.add(saved.get, less));
            f.set(rounds, i32.sub(rounds.get, 1));
            f.brIf(rounds.get, again);
            settleFuel(c, stride, locals, 0);
            f.br(first);
          };
          const leaving = (write: () => void): void => {
            settleFuel(c, stride, locals, access.done);
            const labels = { stride: c.stride, fault: c.fault, back: c.back };
            Object.assign(c, { stride: undefined, fault, back });
            write();
            Object.assign(c, labels);
          };
          const edge = (to: number): void => {
            const known = windows.save();
            const lanes = c.lanes.slice();
            const { pending, mxcsrUsual } = c;
            const { done } = access;
            const way = ways.next(to);
            if (way === 'out') leaving(() => this.edge(n, to));
            else {
              const next = way === 'round' ? stride.header : way.on;
              if (this.live.before.get(next)) this.settle();
              if (way === 'round') round();
              else block(next);
            }
            windows.restore(known);
            c.lanes.set(lanes);
            Object.assign(c, { pending, mxcsrUsual, edge });
            access.done = done;
          };
          const restart = (): void => {
            settleFuel(c, stride, locals, 0);
            f.set(wait, k32(MORE_ROUNDS));
            f.br(first);
          };
          const block = (b: Block): void => {
            const labels = { fault: c.fault, back: c.back };
            const { done } = access;
            f.block((faultHere) => {
              f.block((backHere) => {
                Object.assign(c, { fault: faultHere, back: backHere });
                this.instructions(n, b, edge, b === stride.header ? restart : undefined);
                Object.assign(c, labels);
              });
              settleFuel(c, stride, locals, done);
              f.br(back);
            });
            settleFuel(c, stride, locals, done);
            f.br(fault);
          };
          windows.restore(windowsOf(stride, hosts));
          c.lanes.fill(0);
          Object.assign(c, { stride: access, mxcsrUsual: stride.usual && c.mxcsr !== undefined });
          block(stride.header);
          Object.assign(c, { stride: undefined, mxcsrUsual: false });
          windows.clear();
        });
        f.unreachable();
      });
      f.set(wait, k32(MORE_ROUNDS));
    });
    this.branch(n, n.header!);
  }

  /** Writes a group of SSE arithmetic: on trial, and as it is done again; if `restart` is given, by that. */
  private group(b: Block, { start, end }: Group, write: (k: number) => boolean, restart?: () => void): void {
    const { c } = this;
    const { f } = c;
    const mark = f.mark();
    const written = writtenBy(b.insns.slice(start, end));
    const saved: [Local, Expr][] = [];
    const save = (registers: readonly Local[], mask: number): void =>
      registers.forEach((register, r) => {
        if (mask & (1 << r)) saved.push([register, f.let(register.get)]);
      });
    save(c.gpr, written.gpr);
    save(c.xmm, written.xmm);
    const windows = c.windows.save();
    const lanes = c.lanes.slice();
    const usual = c.mxcsrUsual;
    const all = (): void => {
      for (let k = start; k < end; k++) write(k);
    };
    c.windows.hold();
    let onTrial = windows;
    let known = lanes;
    f.block((done) => {
      f.block((again) => {
        if (!usual) f.brIf(c.mxcsr!.get, again, 0);
        this.evidence.clear();
        c.trial = { evidence: this.evidence, again };
        c.mxcsrUsual = true;
        all();
        f.brIf(this.evidence.odd()!, again, 0);
        c.trial = undefined;
        f.br(done);
        onTrial = c.windows.save();
        known = c.lanes.slice();
      });
      for (const [register, old] of saved) f.set(register, old);
      if (restart) return restart();
      c.windows.restore(windows);
      c.lanes.set(lanes);
      c.mxcsrUsual = usual;
      all();
    });
    c.windows.release();
    if (restart) {
      f.release(mark);
      return;
    }
    // What both ways know.
    if (!c.windows.equal(onTrial)) c.windows.clear();
    known.forEach((mask, r) => (c.lanes[r]! &= mask));
    f.release(mark);
  }

  private wrap(x: ReturnType<typeof k64>): ReturnType<typeof k64> {
    return this.c.mode > 1 ? i64.and(x, k64(0xffffffff)) : x;
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
    const lanes = c.lanes.slice();
    const usual = c.mxcsrUsual;
    const { mirrored } = c;
    const b = blockAt(this.region, offset);
    const to = b && this.graph.target(b);
    const own = this.region.bases.get(n.block!)!;
    const base = Math.floor(offset / 4096) * 4096;
    if (to) {
      if (this.live.before.get(b)) this.settle();
      const mark = f.mark();
      if (base !== own) {
        const placed = c.placed!;
        f.if(
          i32.eqz(i32.and(placed.valid.get, placed.bit.get(base / 4096)!)),
          () => {
            const target = f.let(this.wrap(i64.add(c.vpc.get, k64(offset))));
            const { number, at, valid } = placed;
            const args = [k32(number), k32(at), valid.get, c.vpc.get, target, k32(b.record)];
            f.set(valid, callExpr(I32, c.link.imports.asked!, args));
            f.if(
              i32.lt_s(valid.get, 0),
              () => {
                this.settle();
                f.set(c.exitTarget, target);
                f.set(c.exitRecord, k32(EXIT_FAR));
                leave(c);
              },
              undefined,
              0,
            );
          },
          undefined,
          0,
        );
        f.store(8, c.state + S.VPC, this.wrap(i64.add(c.vpc.get, k64(base))));
      }
      c.pending = undefined;
      this.branch(n, to);
      f.release(mark);
      c.edge = (o) => this.edge(n, o);
    } else {
      if (this.live.outside(n.block!, offset - own)) this.settle();
      if (this.region.left.has(offset)) this.countLeaving();
      if (base !== own) {
        f.set(c.exitTarget, this.wrap(i64.add(c.vpc.get, k64(offset))));
        f.set(c.exitRecord, k32(EXIT_FAR));
      } else f.set(c.exitRecord, k32(this.code.stub(n.block!.page, offset - base)));
      leave(c);
    }
    c.pending = saved;
    c.windows.restore(windows);
    c.lanes.set(lanes);
    c.mxcsrUsual = usual;
    c.mirrored = mirrored;
  }
}
