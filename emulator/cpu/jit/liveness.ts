/** Which arithmetic flags are live (read before they are written) where, so that others are never made. */
import type { Block } from '../block.ts';
import { ARITH, flagsRead, flagsWritten, type Insn } from '../insn.ts';
import { fits, isCall, isJmp, isRel, successorOffsets } from './find.ts';

/** Flags that are live before an instruction, given those live after it. A helper may look at all. */
export const liveBefore = (insn: Insn, after: number): number =>
  insn.def.emit ? (after & ~flagsWritten(insn)) | flagsRead(insn) : ARITH;

/** Flags that are live at the start and at the end of each block. */
export interface FlagLiveness {
  readonly before: ReadonlyMap<Block, number>;
  readonly after: ReadonlyMap<Block, number>;
  /** Flags that are live where a block's edge to an offset in its page leaves the region. */
  outside(b: Block, offset: number): number;
}

/**
 * Leaving the region, all flags are live but where it is left for a block of the same page that is known: if that should change,
 * the region goes with it.
 */
export function flagLiveness(
  blocks: readonly Block[],
  blockAt: (b: Block, offset: number) => Block | undefined,
): FlagLiveness {
  const inside = new Set(blocks);
  const known = new Map<Block, number>();
  const outside = (b: Block, offset: number): number => {
    const s = offset >= 0 && offset < 4096 ? b.page.blocks.get(offset) : undefined;
    if (!fits(s)) return ARITH;
    let live = known.get(s);
    if (live === undefined) {
      known.set(s, (live = s.insns.reduceRight((after, insn) => liveBefore(insn, after), ARITH)));
      if (!inside.has(s)) s.release();
    }
    return live;
  };
  const flow = blocks.map((block) => {
    const last = block.insns[block.insns.length - 1]!;
    const list = block.branches && (!isRel(last) || isCall(last)) ? [] : successorOffsets(block);
    const successors: Block[] = [];
    let leaves = list.length === (!block.branches || isJmp(last) ? 1 : 2) ? 0 : ARITH;
    for (const offset of list) {
      const s = blockAt(block, offset);
      if (s) successors.push(s);
      // Where the page of a successor is mapped elsewhere meanwhile, the edge leaves.
      if (!s || offset < 0 || offset >= 4096) leaves |= outside(block, offset);
    }
    // What is live before it: `read` and, of what is live after it, `passed`.
    const before = (after: number): number => block.insns.reduceRight((live, insn) => liveBefore(insn, live), after);
    return { block, successors, leaves, read: before(0), passed: before(ARITH) };
  });
  const before = new Map<Block, number>();
  const after = new Map<Block, number>();
  for (let changed = true; changed;) {
    changed = false;
    for (let i = flow.length - 1; i >= 0; i--) {
      const { block, successors, leaves, read, passed } = flow[i]!;
      let out = leaves;
      for (const s of successors) out |= before.get(s) ?? 0;
      after.set(block, out);
      const live = read | (out & passed);
      if (live !== before.get(block)) {
        before.set(block, live);
        changed = true;
      }
    }
  }
  return { before, after, outside };
}
