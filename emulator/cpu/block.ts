/** Decoded blocks, and the pages of physical memory that they are kept by. */
import { decode } from './decoder.ts';
import type { Insn } from './insn.ts';
import { modeBits, modeStack, RAM_BASE, type Mode } from './layout.ts';

/** What decoding finds out about a block. Offsets are from the start of its page. */
interface BlockFields {
  readonly page: CodePage;
  /** Of its first instruction. */
  readonly offset: number;
  /** Address of its first record (of the cross-page check, where there is one). */
  readonly record: number;
  /** Where its records end, with the check and the final go-on record. */
  readonly recordsEnd: number;
  /** Number of instructions. */
  readonly count: number;
  /** After the last instruction; above 4096 when it crosses. */
  readonly end: number;
  /** Of a direct branch's target (it may lie outside 0…4095), or undefined. */
  readonly target: number | undefined;
  /** Whether it ends in the last instruction itself (a branch or the like), not by being cut. */
  readonly branches: boolean;
  /** Address of the last record. */
  readonly last: number;
  /** Table slot of the interpreter's handler of its first record. */
  readonly handler: number;
  /** The last record has a heat counter. */
  readonly heated: boolean;
  /** An instruction that only raises an exception, in place of one that can't be decoded or may not be run. */
  readonly raises: boolean;
  /** A single instruction that is checked each time: it crosses into the next page, or its segment is null. */
  readonly crosses: boolean;
}

/** A decoded block. There are hundreds of thousands of them, so each has its fields in place. */
export class Block implements BlockFields {
  readonly page: CodePage;
  readonly offset: number;
  readonly record: number;
  readonly recordsEnd: number;
  readonly count: number;
  readonly end: number;
  readonly target: number | undefined;
  readonly branches: boolean;
  readonly last: number;
  readonly handler: number;
  readonly heated: boolean;
  readonly raises: boolean;
  readonly crosses: boolean;
  /** It is, or is about to be, the entry of a compiled region. */
  compiled = false;
  /** It is part of a compiled region, so that its counter says nothing of how often it runs. */
  inRegion = false;
  /** A computed jump or a return has led here. */
  jumpedTo = false;
  /** Where regions note what its call to a computed address leads to (jit/guards.ts); 0: nowhere yet. */
  site = 0;
  private decoded: readonly Insn[] | undefined;

  constructor(
    fields: BlockFields,
    private readonly ram: Uint8Array,
  ) {
    this.page = fields.page;
    this.offset = fields.offset;
    this.record = fields.record;
    this.recordsEnd = fields.recordsEnd;
    this.count = fields.count;
    this.end = fields.end;
    this.target = fields.target;
    this.branches = fields.branches;
    this.last = fields.last;
    this.handler = fields.handler;
    this.heated = fields.heated;
    this.raises = fields.raises;
    this.crosses = fields.crosses;
  }

  /**
   * Its instructions, decoded again when the compiler asks: kept for all blocks they would be most of the heap. (The
   * bytes are the same still, or the block would have been dropped.) Not for blocks that cross pages.
   */
  get insns(): readonly Insn[] {
    if (this.decoded) return this.decoded;
    const out: Insn[] = [];
    const base = RAM_BASE + this.page.physical;
    for (let at = this.offset; out.length < this.count;) {
      const insn = decode(this.ram, base + at, base + 4096, modeBits(this.page.mode), modeStack(this.page.mode));
      if (typeof insn === 'string') throw new Error(`block at ${base + at} changed without being dropped`);
      out.push(insn);
      at += insn.len;
    }
    this.decoded = out;
    return out;
  }

  /** Lets go of the instructions. */
  release(): void {
    this.decoded = undefined;
  }
}

/** The translations of one physical page in one mode. */
export interface CodePage {
  /** Physical address of the page. */
  readonly physical: number;
  readonly mode: Mode;
  readonly blocks: Map<number, Block>;
  /** Blocks that start in the page before and cross into this one are dropped with it. */
  readonly spill: Set<Block>;
  /** Exit records of compiled regions. */
  readonly stubs: Block[];
  /** One bit for each 128 bytes that hold code. */
  granules: number;
  /** Called when the page's translations are dropped (compiled regions). */
  readonly onDrop: Set<() => void>;
}
