/**
 * Strides: rounds of an inner loop whose accesses all stay within their pages.
 *
 * A loop over arrays spends more on looking its addresses up, and on the fuel, than on its work. Where all addresses of a loop are
 * registers that a round changes by constants, a region has the loop twice. In front of it stands how many rounds can be done
 * before an access would leave its page (or the fuel is used up): these are done by the second writing of the loop, in which
 * host addresses are known and nothing is checked. The first one does all others: a few at first, so that short loops do not pay
 * for what they do not need, and one from page to page.
 *
 * What comes up in the second writing besides (blocks that have run little, ways out of the loop) leads back to the first one, or
 * out of it, at the ends of blocks, where all state is exact in both.
 *
 * That an address was in the TLB holds while nothing can change translations: no helper is called in a stride.
 */
import type { Block } from '../block.ts';
import { flagsChanged, type Insn } from '../insn.ts';
import { recordsOf, type Linkage } from '../interp.ts';
import { S, type Mode } from '../layout.ts';
import { tlbAnswer, tlbMisses } from '../slow.ts';
import { FunctionBuilder, HANDLER, type Label, type Local } from '../wasm/builder.ts';
import { I32, i32, i64, k32, k64, select, type Expr } from '../wasm/expr.ts';
import { fuelLeft, JitEmit, newContext, tlbOf, type RegionContext } from './emit.ts';
import { blockAt, isCall, isRel, type Region } from './find.ts';
import { liveBefore, type FlagLiveness } from './liveness.ts';
import { keepingSteps, RIP, sameRegisters, stepOf, type Place, type Window } from './windows.ts';

/** Most instructions of the second writing, in which ways that part do not meet again before the loop's end. */
const MOST_INSNS = 96;
const MOST_STREAMS = 8;
/** Bytes that accesses with the same registers may lie apart to share a host address. */
const SPAN = 512;
/** A round that goes on by more leaves too few rounds in a page. */
const MOST_STEP = 512;

/** Rounds that the first writing does where an address was not in the TLB, before the next one is looked for. */
export const MORE_ROUNDS = 8;

/**
 * Rounds of the second writing that are worth a look for them: in host instructions, what the look costs over what a round saves.
 *
 * @param accesses of a round
 */
const worth = (streams: number, accesses: number): number => Math.ceil((15 + 18 * streams) / (6 + 7 * accesses));

/** Accesses that go through memory side by side, by the registers as they are at the start of a round. */
export interface Stream extends Place {
  /** From the lowest access to the end of the highest one. */
  readonly bytes: number;
  /** What a round changes the address by. */
  readonly step: number;
  readonly write: boolean;
  /** Whether it must be aligned to 16 bytes, which then holds for all accesses that ask for it. */
  readonly aligned: boolean;
}

export interface Stride {
  readonly header: Block;
  readonly body: ReadonlySet<Block>;
  readonly streams: readonly Stream[];
  /** Blocks of the region that the stride leads to, but for its own header. */
  readonly exits: ReadonlySet<Block>;
  /** Instructions of the longest round. */
  readonly longest: number;
  /** MXCSR, once in its usual state, stays so. */
  readonly usual: boolean;
  /** Rounds that the first writing does of a loop that begins: many loops are short. */
  readonly first: number;
  /** With fewer rounds in reach it is not worth it. */
  readonly least: number;
}

/** How a stride's accesses are written. */
export interface StrideAccess {
  /** Instructions of the round's blocks so far: what is taken off the fuel is known wherever the stride ends. */
  done: number;
  /** @param place undefined for an address that is not just registers and a displacement */
  access(place: Place | undefined, size: number, write: boolean): { readonly host: Local; readonly distance: number };
  /** Whether the place is known to be aligned to 16 bytes. */
  aligned(place: Place | undefined): boolean;
}

/** Where an edge of a stride leads. */
export type Way = { readonly on: Block } | 'round' | 'out';

const fitsStride = (b: Block): boolean => {
  if (!b.insns.every((insn) => insn.def.emit !== undefined && insn.def.unit !== 'x87')) return false;
  const last = b.insns.at(-1)!;
  return b.branches ? isRel(last) && !isCall(last) : !last.def.ends;
};

/** The ways through a loop, each until it meets the header again or leaves: the same ones whenever they are asked for. */
export class Ways {
  private insns = 0;
  private readonly base: number;

  constructor(
    private readonly region: Region,
    private readonly header: Block,
    private readonly body: ReadonlySet<Block>,
  ) {
    this.base = region.bases.get(header)!;
  }

  start(): boolean {
    return this.takes(this.header);
  }

  private takes(b: Block): boolean {
    const { region, body, base, insns } = this;
    if (!body.has(b) || region.rare.has(b) || region.bases.get(b) !== base || insns + b.count > MOST_INSNS)
      return false;
    if (!fitsStride(b)) return false;
    this.insns += b.count;
    return true;
  }

  /** @param offset from the start of the region's first page */
  next(offset: number): Way {
    const b = blockAt(this.region, offset);
    if (b === this.header) return 'round';
    return b && this.takes(b) ? { on: b } : 'out';
  }
}

/** Writes a block's instructions one by one; `write` tells of each whether it ends the block. */
export function eachInsn(
  b: Block,
  base: number,
  write: (insn: Insn, offset: number, record: number) => boolean,
): number | undefined {
  let offset = base + b.offset;
  const records = recordsOf(b.record, b.insns);
  for (let k = 0; k < b.count; k++) {
    const insn = b.insns[k]!;
    if (write(insn, offset, records[k]!)) return undefined;
    offset += insn.len;
  }
  return offset;
}

interface Found extends Place {
  readonly size: number;
  readonly write: boolean;
  readonly aligned: boolean;
}

/**
 * Sees whether a loop can have strides, by writing it for nobody.
 *
 * @param body blocks of the loop, an innermost one
 */
export function planStride(
  header: Block,
  body: ReadonlySet<Block>,
  region: Region,
  live: FlagLiveness,
  state: number,
  mode: Mode,
  link: Linkage,
): Stride | undefined {
  const paths = new Ways(region, header, body);
  if (!paths.start()) return undefined;
  const base = region.bases.get(header)!;
  const f = new FunctionBuilder(HANDLER);
  const c = newContext(f, state, mode, link, { gpr: 0, gprWritten: 0, xmm: 0, xmmWritten: 0 }, true);
  const found: Found[] = [];
  const exits = new Set<Block>();
  let failed = false;
  let ways = 0;
  let longest = 0;
  let usual = true;
  /** By register: what a round changes it by; undefined: by no constant. */
  let steps: (number | undefined)[] = [];
  const nothing = f.local(I32);
  // What becomes of a window at each register shows what has become of the register.
  const marks = Array.from({ length: 16 }, (_, n): Window => ({
    base: n,
    index: -1,
    scale: 0,
    displacement: 0,
    write: true,
    host: nothing,
    offset: nothing,
  }));
  const change = (n: number): number | undefined => {
    if (n < 0 || n === RIP) return 0;
    const mark = c.windows.save().find((w) => w.base === n);
    return mark && 0 - mark.displacement;
  };
  const note = (place: Place | undefined, size: number, write: boolean, aligned: boolean): void => {
    const ofBase = place && change(place.base);
    const ofIndex = place && change(place.index);
    if (ofBase === undefined || ofIndex === undefined) {
      failed = true;
      return;
    }
    const displacement = place!.displacement + ofBase + ofIndex * 2 ** place!.scale;
    found.push({ ...place!, displacement, size, write, aligned });
  };
  c.windows.restore(marks);
  c.mxcsrUsual = true;
  const trace: StrideAccess = {
    done: 0,
    access(place, size, write) {
      note(place, size, write, false);
      return { host: nothing, distance: 0 };
    },
    aligned(place) {
      note(place, 0, false, true);
      return true;
    },
  };
  c.stride = trace;
  const round = (): void => {
    ways++;
    longest = Math.max(longest, trace.done);
    if (!c.mxcsrUsual) usual = false;
    // A helper was called.
    if (!c.windows.save().length) failed = true;
    const now = marks.map((_, n) => change(n));
    steps = steps.length ? steps.map((s, n) => (s === now[n] ? s : undefined)) : now;
  };
  const block = (b: Block): void => {
    c.pending = undefined;
    const follow = (to: number): void => {
      const windows = c.windows.save();
      const { pending, mxcsrUsual } = c;
      const { done } = trace;
      const way = paths.next(to);
      if (way === 'round') round();
      else if (way === 'out') {
        const out = blockAt(region, to);
        if (out) exits.add(out);
      } else block(way.on);
      c.windows.restore(windows);
      Object.assign(c, { pending, mxcsrUsual, edge: follow });
      trace.done = done;
    };
    c.edge = follow;
    const after = flagsAfter(b, live);
    let k = 0;
    const end = eachInsn(b, base, (insn, offset, record) => {
      const e = new JitEmit(c, insn, offset, record, b.count);
      e.flagsDead = areFlagsDead(insn, after[k++]!);
      e.mayRetreat = true;
      keepingSteps(c.windows, insn, () => insn.def.emit!(e));
      return e.done || failed;
    });
    if (end === undefined) return;
    trace.done += b.count;
    follow(end);
  };
  f.block((leave) => {
    c.exit = c.fault = c.back = leave;
    block(header);
  });
  if (failed || !ways || !found.length) return undefined;
  const streams = streamsOf(found, steps);
  if (!streams) return undefined;
  const rounds = worth(streams.length, found.filter(({ size }) => size).length / ways);
  return { header, body, streams, exits, longest, usual, first: Math.min(rounds, 3), least: rounds + 1 };
}

/** Flags that are live after each of a block's instructions. */
export function flagsAfter(b: Block, live: FlagLiveness): number[] {
  const after = new Array<number>(b.count);
  let flags = live.after.get(b)!;
  for (let k = b.count - 1; k >= 0; k--) {
    after[k] = flags;
    flags = liveBefore(b.insns[k]!, flags);
  }
  return after;
}

export const areFlagsDead = (insn: Insn, after: number): boolean => {
  const changed = flagsChanged(insn);
  return changed !== 0 && (after & changed) === 0;
};

/** Accesses brought together, or undefined where there are too many places, or they move otherwise than by constants. */
function streamsOf(found: readonly Found[], steps: readonly (number | undefined)[]): Stream[] | undefined {
  const streams: Stream[] = [];
  for (const a of [...found].sort((x, y) => x.displacement - y.displacement)) {
    const near = streams.findLast((s) => sameRegisters(s, a) && a.displacement + a.size - s.displacement <= SPAN);
    if (near) {
      const bytes = Math.max(near.bytes, a.displacement + a.size - near.displacement);
      const merged = { ...near, bytes, write: near.write || a.write, aligned: near.aligned || a.aligned };
      streams[streams.indexOf(near)] = merged;
      continue;
    }
    let step = 0;
    for (const n of new Set([a.base, a.index])) {
      if (n < 0 || n === RIP) continue;
      const by = steps[n];
      if (by === undefined) return undefined;
      step += stepOf(a, n, by);
    }
    if (Math.abs(step) > MOST_STEP || streams.length === MOST_STREAMS) return undefined;
    const { base, index, scale, displacement, size, write, aligned } = a;
    streams.push({ base, index, scale, displacement, bytes: size, step, write, aligned });
  }
  // The lowest access of a stream stands for its alignment.
  const uneven = found.some((a) => {
    if (!a.aligned) return false;
    const s = streams.find(
      (x) => sameRegisters(x, a) && a.displacement >= x.displacement && a.displacement <= x.displacement + x.bytes,
    )!;
    return s.step % 16 !== 0 || (a.displacement - s.displacement) % 16 !== 0;
  });
  return uneven || streams.some((s) => s.bytes === 0) ? undefined : streams;
}

/** Locals of the stride that is being written: no two are under way at once. */
export class StrideLocals {
  /** Rounds that are left, with the one that is under way; and at the start. */
  readonly rounds: Local;
  readonly most: Local;
  /** Instructions by which rounds were shorter than the longest one. */
  readonly saved: Local;
  /** Rounds that the first writing is to do before a stride is looked for. */
  readonly wait: Local;
  private readonly pool: Local[] = [];

  constructor(private readonly f: FunctionBuilder) {
    this.rounds = f.local(I32);
    this.most = f.local(I32);
    this.saved = f.local(I32);
    this.wait = f.local(I32);
  }

  hosts(count: number): readonly Local[] {
    while (this.pool.length < count) this.pool.push(this.f.local(I32));
    return this.pool.slice(0, count);
  }
}

/**
 * Looks for the rounds that can be done from here on, and for the host addresses.
 *
 * @param poor where there are none
 * @param few where there are too few
 */
export function writeLook(
  c: RegionContext,
  stride: Stride,
  locals: StrideLocals,
  hosts: readonly Local[],
  poor: Label,
  few: Label,
): void {
  const { f } = c;
  const { rounds } = locals;
  if (c.mxcsr && stride.usual) f.brIf(c.mxcsr.get, poor, 0);
  // The first writing does the round after which the fuel is used up.
  const fuel = f.let(i32.sub(fuelLeft(c), 1));
  f.brIf(i32.lt_s(fuel, stride.least * stride.longest), poor, 0);
  f.set(rounds, i32.div_u(fuel, k32(stride.longest)));
  stride.streams.forEach((s, k) => {
    const value = (n: number): Expr => (n === RIP ? c.vpc : c.gpr[n]!).get;
    let address = k64(s.displacement);
    if (s.base >= 0) address = i64.add(value(s.base), address);
    if (s.index >= 0) address = i64.add(i64.shl(value(s.index), k64(s.scale)), address);
    const mark = f.mark();
    const at = f.let(address);
    const x = f.let(tlbAnswer(k32(tlbOf(c.mode, s.write)), at));
    f.brIf(tlbMisses(c.state, x, s.bytes), poor, 0);
    const host = hosts[k]!;
    f.set(host, i32.wrap(x));
    if (s.aligned) f.brIf(i32.and(host.get, 15), poor, 0);
    if (s.step) {
      const offset = i32.and(host.get, 0xfff);
      const room = s.step > 0 ? i32.sub(4096 - s.bytes, offset) : offset;
      const here = f.let(i32.add(i32.div_u(room, k32(Math.abs(s.step))), 1));
      f.set(rounds, select(i32.lt_u(here, rounds.get), here, rounds.get));
    }
    f.release(mark);
  });
  f.if(
    i32.lt_u(rounds.get, stride.least),
    () => {
      // Until the page ends.
      f.set(locals.wait, rounds.get);
      f.br(few);
    },
    undefined,
    0,
  );
  f.set(locals.most, rounds.get);
  f.set(locals.saved, k32(0));
}

/** Takes off the fuel what a stride has done, of its last round `done` instructions. */
export function settleFuel(
  c: RegionContext,
  stride: Stride,
  { rounds, most, saved }: StrideLocals,
  done: number,
): void {
  const at = c.state + S.FUEL;
  const whole = i32.mul(i32.sub(most.get, rounds.get), k32(stride.longest));
  const spent = i32.sub(i32.add(whole, k32(done)), saved.get);
  c.f.store(4, at, i32.sub(i32.load(k32(at)), spent));
}

/** How the accesses of a stride are written, given its windows. */
export function accessOf(c: RegionContext, stride: Stride, hosts: readonly Local[]): StrideAccess {
  /** The windows say what has become of the registers since the round began. */
  const find = (place: Place | undefined, size: number, write: boolean): { stream: Stream; window: Window } => {
    for (const window of c.windows.save()) {
      const stream = stride.streams[hosts.indexOf(window.host)];
      if (!place || !stream || (write && !stream.write) || !sameRegisters(stream, place)) continue;
      const distance = place.displacement - window.displacement;
      if (distance >= 0 && distance + size <= stream.bytes) return { stream, window };
    }
    throw new Error('a stride has an access that was not foreseen');
  };
  return {
    done: 0,
    access(place, size, write) {
      const { window } = find(place, size, write);
      return { host: window.host, distance: place!.displacement - window.displacement };
    },
    aligned: (place) => find(place, 0, false).stream.aligned,
  };
}

/** What is known of pages at the start of a round. */
export const windowsOf = (stride: Stride, hosts: readonly Local[]): Window[] =>
  stride.streams.map(({ base, index, scale, displacement, write }, k) => {
    const host = hosts[k]!;
    return { base, index, scale, displacement, write, host, offset: host };
  });
