import { expect, test } from 'vitest';
import { JumpCaches } from '../../../emulator/cpu/jump-cache.ts';
import { JUMP_CACHE_BYTES, jumpCacheOf, Mode, MODES } from '../../../emulator/cpu/layout.ts';

/** Records that a table has for any address. */
function records(i32: Int32Array, mode: Mode): number[] {
  const out: number[] = [];
  const from = jumpCacheOf(mode) >> 2;
  for (let at = from; at < from + JUMP_CACHE_BYTES / 4; at += 4) if (i32[at + 2]) out.push(i32[at + 2]!);
  return out;
}

function caches(): { i32: Int32Array; jumps: JumpCaches } {
  const i32 = new Int32Array((jumpCacheOf((MODES - 1) as Mode) + JUMP_CACHE_BYTES) >> 2);
  return { i32, jumps: new JumpCaches(i32) };
}

test('modes that share a table do not see the records of one another', () => {
  const { i32, jumps } = caches();
  for (const [mode, record] of [
    [Mode.Kernel64, 1],
    [Mode.User64, 2],
  ] as const) {
    jumps.enter(mode);
    jumps.remember(mode, 0x1000, 0, record, false);
  }
  jumps.enter(Mode.Kernel16);
  jumps.remember(Mode.Kernel16, 0x1000, 0, 3, false);
  jumps.remember(Mode.Kernel16, 0x2000, 0, 4, true);
  expect(records(i32, Mode.Kernel16).sort()).toEqual([3, 4]);
  // Back and forth to 64-bit code empties nothing.
  jumps.enter(Mode.Kernel64);
  jumps.enter(Mode.Kernel16);
  expect(records(i32, Mode.Kernel16).sort()).toEqual([3, 4]);
  jumps.enter(Mode.LimitedUser64);
  expect(records(i32, Mode.LimitedUser64)).toEqual([]);
  expect(records(i32, Mode.Kernel64)).toEqual([1]);
  expect(records(i32, Mode.User64)).toEqual([2]);
});

test('an address space that comes back brings its records, but none of the shared table', () => {
  const { i32, jumps } = caches();
  jumps.remember(Mode.User64, 0x1000, 0, 1, false);
  jumps.enter(Mode.User16);
  jumps.remember(Mode.User16, 0x1000, 0, 2, false);
  jumps.switchSpace(1, 2, false);
  expect(records(i32, Mode.User64)).toEqual([]);
  jumps.enter(Mode.Kernel16);
  jumps.switchSpace(2, 1, true);
  expect(records(i32, Mode.User64)).toEqual([1]);
  expect(records(i32, Mode.Kernel16)).toEqual([]);
});

test('pages that count do so until translations have changed, whatever becomes of the records', () => {
  const { jumps } = caches();
  jumps.remember(Mode.User64, 0x1234, 0, 1, false);
  jumps.watch(0x5678);
  expect(jumps.clearPage(0x9000)).toBe(false);
  jumps.clear();
  expect(jumps.clearPage(0x5000)).toBe(true);
  expect(jumps.clearPage(0x1000)).toBe(false);
  jumps.watch(0x5678);
  jumps.clearWatched();
  expect(jumps.clearPage(0x5000)).toBe(false);
});

test('a record is found by its whole address, in the table that is asked', () => {
  const { jumps } = caches();
  jumps.remember(Mode.User64, 0x1000, 1, 7, false);
  const table = jumpCacheOf(Mode.User64);
  expect(jumps.find(table, 0x1000, 1)).toBe(7);
  expect(jumps.find(table, 0x1000, 2)).toBe(0);
  expect(jumps.find(table, 0x1008, 1)).toBe(0);
  expect(jumps.find(jumpCacheOf(Mode.Kernel64), 0x1000, 1)).toBe(0);
  jumps.clear();
  expect(jumps.find(table, 0x1000, 1)).toBe(0);
  expect(jumps.find(table, 0, 0)).toBe(0);
});
