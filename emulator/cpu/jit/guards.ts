/**
 * Where computed jumps, calls and returns are expected to go within a region: compared with the address that they do go to, which
 * costs next to nothing, while looking that up in tables takes some dozen loads and jumps. Whatever goes elsewhere leaves the region.
 *
 * A call or jump goes to where it has gone before (`CallSite`), or where the dynamic linker's table leads. A return goes back to the
 * calls of the functions that it can be the end of: what a function is, is seen by following it from where it is called.
 */
import type { Block } from '../block.ts';
import { isCall, isRel, jumpsIndirectly } from './find.ts';

/** Most places that a return is compared with, one after the other. */
const MOST_RETURNS = 4;

/** What is kept of a call to a computed address, in bytes from `Block.site`. */
export const CallSite = {
  /** The last two targets (i64), 0 where there was none. */
  TARGET: 0,
  OTHER: 8,
  /** How often it was another one than these (i32). */
  CHANGES: 16,
  SIZE: 24,
} as const;

/** A site that has led to other targets more often calls many functions. The first call is a change, too. */
export const MOST_CHANGES = 8;

export interface Guards {
  /** By block that ends in a computed jump: where it is expected to go. */
  readonly of: ReadonlyMap<Block, readonly Block[]>;
  /** The others: blocks whose jumps are looked up in tables. */
  readonly jumps: ReadonlySet<Block>;
  /** Where these may go back to. */
  readonly sites: ReadonlySet<Block>;
}

const lastOf = (b: Block): Block['insns'][number] => b.insns[b.insns.length - 1]!;
const calls = (b: Block): boolean => b.branches && isCall(lastOf(b));

/**
 * @param known where blocks' computed jumps and calls are expected to go
 * @param successors direct successors of a block within the region
 * @param returns where a block's call comes back to, within the region
 */
export function planGuards(
  blocks: readonly Block[],
  known: ReadonlyMap<Block, readonly Block[]>,
  successors: (b: Block) => readonly Block[],
  returns: (b: Block) => readonly Block[],
): Guards {
  const of = new Map<Block, Block[]>();
  for (const [b, to] of known) of.set(b, [...to]);
  const sitesOf = new Map<Block, Block[]>();
  /** What calls that may go anywhere in the region come back to. */
  const anywhere = new Set<Block>();
  for (const b of blocks) {
    const [site] = calls(b) ? returns(b) : [];
    if (!site) continue;
    const callees = known.get(b) ?? successors(b);
    for (const to of callees) sitesOf.set(to, [...(sitesOf.get(to) ?? []), site]);
    if (!callees.length && !isRel(lastOf(b))) anywhere.add(site);
  }
  const isReturn = (b: Block): boolean => jumpsIndirectly(b) && lastOf(b).def.name === 'ret';
  for (const [entry, sites] of sitesOf) {
    const seen = new Set([entry]);
    for (const b of seen) {
      if (isReturn(b)) of.set(b, [...new Set([...(of.get(b) ?? []), ...sites])]);
      for (const s of calls(b) ? returns(b) : (known.get(b) ?? successors(b))) seen.add(s);
    }
  }
  const jumps = new Set<Block>();
  const sites = new Set(anywhere);
  for (const b of blocks) {
    if (!jumpsIndirectly(b)) continue;
    const to = of.get(b);
    if (!to) {
      // A function that nobody in the region calls by its address.
      if (!isReturn(b) || anywhere.size) jumps.add(b);
    } else if (to.length > MOST_RETURNS) {
      for (const s of to) sites.add(s);
      of.delete(b);
      jumps.add(b);
    }
  }
  return { of, jumps, sites };
}
