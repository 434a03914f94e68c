/**
 * Blocks that run into one another. A block goes on to its first branch, so that the one before a loop has the loop's first round
 * in it, up to the first branch there. A region writes such code once: the block is cut where the other one starts.
 */
import type { Block, CodePage } from '../block.ts';
import type { Region } from './find.ts';

/** The first `count` instructions of a block, which end at offset `end`. */
function piece(b: Block, count: number, end: number): Block {
  const fields = { insns: b.insns.slice(0, count), count, end, branches: false, target: undefined };
  return Object.create(
    b,
    Object.fromEntries(Object.entries(fields).map(([name, value]) => [name, { value }])),
  ) as Block;
}

/** What there is of a block before another one starts that branches lead to; all of it where none does. */
function cut(b: Block, others: ReadonlyMap<number, Block>, isTarget: (offset: number) => boolean): Block {
  let end = b.offset;
  for (let k = 0; k < b.count; k++) {
    if (k && isTarget(end) && others.has(end)) return piece(b, k, end);
    end += b.insns[k]!.len;
  }
  return b;
}

/** The region with its blocks cut. They are only for writing its code. */
export function cutBlocks(region: Region): Region {
  const pages = new Map<number, CodePage>();
  for (const [distance, page] of region.pages) {
    const own = region.blocks.filter((b) => b.page === page && region.bases.get(b) === distance * 4096);
    pages.set(distance, { ...page, blocks: new Map(own.map((b) => [b.offset, b])) });
  }
  // By bytes from the start of the first page. Where a long block just goes on is no place to cut others.
  const targets = new Set<number>();
  for (const b of region.blocks)
    if (b.branches) for (const to of [b.target, b.end]) if (to !== undefined) targets.add(region.bases.get(b)! + to);
  const cuts = new Map<Block, Block>();
  for (const b of region.blocks) {
    const base = region.bases.get(b)!;
    const { blocks } = pages.get(base / 4096)!;
    const c = cut(b, blocks, (offset) => targets.has(base + offset));
    cuts.set(b, c);
    blocks.set(b.offset, c);
  }
  const of = (b: Block): Block => cuts.get(b)!;
  return {
    ...region,
    pages,
    blocks: region.blocks.map(of),
    bases: new Map([...region.bases].map(([b, base]) => [of(b), base])),
    rare: new Set([...region.rare].map(of)),
    entries: region.entries.map(of),
    known: new Map([...region.known].map(([b, to]) => [of(b), to.map(of)])),
  };
}
