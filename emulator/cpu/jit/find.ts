/**
 * Which blocks make a region: what hot code leads to, by what the interpreter counted.
 *
 * A region may span several pages. Pages of one region are told apart by their distance from the first one in linear
 * space; that they are still mapped so is checked by the region itself, on each edge from page to page (see region.ts).
 */
import type { Block, CodePage } from '../block.ts';
import type { Insn } from '../insn.ts';
import { usesSegment } from '../interp.ts';

/**
 * Most blocks and instructions of a region. First regions are small: the host's compiler takes more than twice the time for
 * twice the code, and much of what becomes warm once is never hot.
 */
const MAX_BLOCKS = 160;
const MAX_INSNS = 900;
const MAX_BLOCKS_SMALL = 24;
const MAX_INSNS_SMALL = 120;
const MAX_PAGES = 12;
/** Most blocks at which a region can be entered. */
const MAX_ENTRIES = 48;
/** Of the runs that make a block hot, the share that a block of its page, or of another one, must have had. */
const LEAST_SHARE = 1 / 256;
const LEAST_SHARE_FAR = 1 / 16;
/** The same for light regions, which are made early: what turns out to be hot later gets one of its own. */
const LEAST_SHARE_LIGHT = 1 / 16;
const LEAST_SHARE_LIGHT_FAR = 1 / 4;
/** Blocks with less than this share are written for size. */
const RARE = 1 / 8;

/**
 * Kinds of regions, each made of what a lesser one has shown to be hot. In light ones (small and wide) registers and flags stay
 * in memory, where they are written at once: entering and leaving cost little, compiling costs little, loops cost more. A
 * small one that is much left for code that it had no room for is compiled once more with more of that, and what loops
 * much with registers in locals.
 */
export const Kind = { Small: 0, Wide: 1, Loops: 2 } as const;
export type Kind = (typeof Kind)[keyof typeof Kind];

/** Added to the record with which a region asks to be compiled anew: it is left much, and is to be a wide one. */
export const ASKS_WIDE = 1;
/** The same: calls in it often lead elsewhere than when it was found. */
export const ASKS_AGAIN = 2;

export interface Region {
  readonly kind: Kind;
  /** Small or wide. */
  readonly light: boolean;
  /** What there was no room for, in bytes from the start of the first page. */
  readonly left: ReadonlySet<number>;
  /** By distance from the page of the first block, in pages. */
  readonly pages: ReadonlyMap<number, CodePage>;
  readonly blocks: readonly Block[];
  /** Where a block's page begins, in bytes from the start of the first one. */
  readonly bases: ReadonlyMap<Block, number>;
  /** Blocks that have run little. */
  readonly rare: ReadonlySet<Block>;
  /** Blocks that can be entered from outside, by selector. */
  readonly entries: readonly Block[];
  /** Where blocks' computed jumps and calls are expected to go. */
  readonly known: ReadonlyMap<Block, readonly Block[]>;
  /** Its function's slot in the table once it is written. */
  slot: number | undefined;
  dropped: boolean;
  /** Loops that it has twice (strides.ts). */
  strides: number;
  /** What its pages call when their translations are dropped. */
  onDrop: () => void;
  /** How often it has been found anew for the sake of its calls. */
  renewed: number;
  /** Instructions that the processor had executed when it was installed, or when it last asked to be a wide region. */
  askedAt: number;
  /** Its module has been instantiated. */
  installed: boolean;
  /** Of one that spans pages: its number, and where `Kept` of pages.ts lies. */
  number: number;
  keptAt: number;
}

/** What finding a region asks of its surroundings. */
export interface Surroundings {
  /** The translated code of the page that lies `distance` pages from the first block's in linear space, if it is known. */
  pageAt(distance: number): CodePage | undefined;
  /** The address that is stored `offset` bytes from the start of the first block's page, from there on, if it can be read at once. */
  pointerAt(offset: number): number | undefined;
  /** Where the call to a computed address at a block's end has gone, in the same way; nowhere where it goes to many places. */
  calledAt(block: Block): readonly number[];
  /** How often a block has run, as a share of what makes a block hot. */
  share(block: Block): number;
  /** Whether a block is to have a region of its own rather than be part of a light one. */
  apart(block: Block): boolean;
}

export const isCall = (insn: Insn): boolean => insn.def.name === 'call';
export const isRel = (insn: Insn): boolean => insn.operands.some((o) => o.kind === 'rel');
/** Repeated string instructions that are emitted go on to the next instruction when they are done. */
const isRepeated = (insn: Insn): boolean => insn.def.emit !== undefined && insn.def.map === 0 && insn.def.prefix !== '';
export const isJmp = (insn: Insn): boolean => insn.def.name === 'jmp';

/** Offsets of a block's direct successors from the start of its page; they may lie in other pages. */
export function successorOffsets(b: Block): number[] {
  if (b.raises || b.crosses) return [];
  if (!b.branches) return [b.end];
  const last = b.insns[b.insns.length - 1]!;
  if (isRepeated(last)) return [b.end];
  if (!isRel(last)) return [];
  const out: number[] = [];
  if (b.target !== undefined) out.push(b.target);
  if (!isJmp(last) && !isCall(last)) out.push(b.end);
  return out;
}

export function returnOffset(b: Block): number | undefined {
  const last = b.insns[b.insns.length - 1];
  return b.branches && last && isCall(last) ? b.end : undefined;
}

/** Whether a block ends in a jump, call or return to an address that is only known when it runs. */
export function jumpsIndirectly(b: Block): boolean {
  const last = b.insns[b.insns.length - 1];
  return b.branches && last !== undefined && !isRel(last) && /^(jmp|call|ret)$/.test(last.def.name) && !!last.def.emit;
}

/** A block that a region can hold. */
export const fits = (b: Block | undefined): b is Block => b !== undefined && !b.raises && !b.crosses && b.count > 0;

/** Finds the block at `offset` bytes from the start of the first page. */
export function blockAt(region: Pick<Region, 'pages' | 'bases'>, offset: number): Block | undefined {
  const distance = Math.floor(offset / 4096);
  const b = region.pages.get(distance)?.blocks.get(offset - distance * 4096);
  return b && region.bases.get(b) === distance * 4096 ? b : undefined;
}

/** Collects what is reachable from `head`, already decoded, and has run often enough to be worth compiling. */
export function findRegion(head: Block, kind: Kind, around: Surroundings): Region {
  const light = kind !== Kind.Loops;
  const pages = new Map<number, CodePage>([[0, head.page]]);
  const absent = new Set<number>();
  const blocks: Block[] = [head];
  const bases = new Map<Block, number>([[head, 0]]);
  const entries: Block[] = [head];
  const rare = new Set<Block>();
  const left = new Set<number>();
  const known = new Map<Block, readonly number[]>();
  const maxBlocks = kind === Kind.Small ? MAX_BLOCKS_SMALL : MAX_BLOCKS;
  const maxInsns = kind === Kind.Small ? MAX_INSNS_SMALL : MAX_INSNS;
  const least = light ? LEAST_SHARE_LIGHT : LEAST_SHARE;
  const leastFar = light ? LEAST_SHARE_LIGHT_FAR : LEAST_SHARE_FAR;
  let insns = head.count;
  const add = (from: Block, offset: number, entry: boolean): void => {
    const base = bases.get(from)!;
    const distance = Math.floor((base + offset) / 4096);
    const far = distance * 4096 !== base;
    let page = pages.get(distance);
    if (!page) {
      if (pages.size >= MAX_PAGES || absent.has(distance)) return;
      page = around.pageAt(distance);
      if (!page || page.mode !== head.page.mode) {
        absent.add(distance);
        return;
      }
    }
    const s = page.blocks.get(base + offset - distance * 4096);
    if (!fits(s)) return;
    const known = bases.get(s);
    // One physical page that is mapped twice is left out the second time.
    if (known !== undefined && known !== distance * 4096) return;
    if (known === undefined) {
      const share = around.share(s);
      if (share < (far ? leastFar : least)) return;
      if (blocks.length >= maxBlocks || insns + s.count > maxInsns) {
        left.add(base + offset);
        return;
      }
      if (light && around.apart(s)) {
        s.release();
        return;
      }
      if (share < RARE) rare.add(s);
      pages.set(distance, page);
      bases.set(s, distance * 4096);
      blocks.push(s);
      insns += s.count;
    }
    // Wherever computed jumps, returns and other pages lead to, so that who comes that way again need not be interpreted.
    if ((entry || far || s.jumpedTo) && entries.length < MAX_ENTRIES && !entries.includes(s)) entries.push(s);
  };
  for (let i = 0; i < blocks.length; i++) {
    const b = blocks[i]!;
    for (const offset of successorOffsets(b)) add(b, offset, false);
    const back = returnOffset(b);
    if (back !== undefined) add(b, back, true);
    // What computed jumps in this page have led to so far: the cases of a switch, the handlers of an interpreter.
    const last = b.insns[b.insns.length - 1]!;
    if (!jumpsIndirectly(b)) continue;
    let to: readonly number[] = [];
    // Through a table of the dynamic linker, which changes once if ever.
    const linked = last.mem?.base === 16 && last.mem.index < 0 && last.bits === 64 && !usesSegment(last);
    if (linked) to = [around.pointerAt(bases.get(b)! + b.end + last.mem!.disp)].filter((x) => x !== undefined);
    else if (isCall(last)) to = around.calledAt(b);
    if (to.length) {
      known.set(b, to);
      for (const offset of to) add(b, offset - bases.get(b)!, false);
    } else if (isJmp(last) && !linked) for (const t of b.page.blocks.values()) if (t.jumpedTo) add(b, t.offset, false);
  }
  const found = { pages, bases };
  return {
    kind,
    light,
    left,
    pages,
    blocks,
    bases,
    rare,
    entries,
    known: new Map(
      [...known].flatMap(([b, offsets]) => {
        const to = offsets.map((offset) => blockAt(found, offset)).filter(fits);
        return to.length ? [[b, to]] : [];
      }),
    ),
    slot: undefined,
    dropped: false,
    strides: 0,
    renewed: 0,
    askedAt: 0,
    installed: false,
    number: 0,
    keptAt: 0,
    onDrop: () => undefined,
  };
}
