/** What is known of a region's control flow when its code is written. */
import { expect, test } from 'vitest';
import type { Block } from '../../../emulator/cpu/block.ts';
import { buildGraph } from '../../../emulator/cpu/jit/graph.ts';

/** Blocks by number, with edges from each to others; 0 is the main entry. */
function loops(edges: readonly (readonly number[])[], entries: readonly number[] = [0]): boolean {
  const blocks = edges.map(() => ({}) as Block);
  const to = (b: Block): Block[] => edges[blocks.indexOf(b)]!.map((k) => blocks[k]!);
  const entered = entries.map((k) => blocks[k]!);
  return buildGraph(
    blocks,
    to,
    () => [],
    entered,
    new Set(),
    [],
    () => undefined,
  ).loops;
}

test('a graph says whether control comes to a node again', () => {
  expect(loops([[1, 2], [3], [3], []])).toBe(false);
  expect(loops([[1], [2], []], [0, 1, 2])).toBe(false);
  expect(loops([[0]])).toBe(true);
  expect(loops([[1], [2], [1, 3], []])).toBe(true);
  // A loop that is entered in the middle.
  expect(loops([[1], [2], [1]], [0, 2])).toBe(true);
  // Two blocks that lead to each other, both led to from outside: irreducible.
  expect(loops([[1, 2], [2], [1]])).toBe(true);
});
