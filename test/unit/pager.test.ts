import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { FirstPages } from '../../emulator/machine-state.ts';
import { GuestMemory } from '../../emulator/memory.ts';
import { Pager, type PageTable } from '../../emulator/pager.ts';
import { Traffic } from '../../emulator/traffic.ts';

const PAGE = 4096;
const PAGES = 32;
/** Two slots a chunk; pages 9 and 3 are equal. */
const TABLE: PageTable = {
  chunkPages: 2,
  pages: Uint32Array.of(7, 3, 9, 20, 21),
  slots: Uint32Array.of(0, 1, 1, 2, 3),
};
const contents = (chunk: number): Uint8Array => {
  const bytes = new Uint8Array(2 * PAGE);
  bytes.fill(chunk * 2 + 1, 0, PAGE);
  bytes.fill(chunk * 2 + 2, PAGE);
  return bytes;
};

interface Setting {
  memory: GuestMemory;
  pager: Pager;
  asked: number[];
  answer: (chunk: number, bytes?: Uint8Array | Error) => Promise<void>;
  events: { arrived: number; complete: number; trouble: unknown[] };
}

const NONE: FirstPages = { pages: new Uint32Array(0), bytes: new Uint8Array(0) };

/** @param traffic unless told, nothing is fetched that nobody asks for */
function make(table = TABLE, first = NONE, traffic = new Traffic(() => true)): Setting {
  const memory = new GuestMemory(new ArrayBuffer(PAGES * PAGE), 0, PAGES * PAGE);
  const asked: number[] = [];
  const open = new Map<number, { resolve(bytes: Uint8Array): void; reject(error: Error): void }>();
  const events: Setting['events'] = { arrived: 0, complete: 0, trouble: [] };
  const pager = new Pager(
    memory,
    { first, table },
    (chunk) => {
      asked.push(chunk);
      return new Promise((resolve, reject) => open.set(chunk, { resolve, reject }));
    },
    {
      arrived: () => events.arrived++,
      complete: () => events.complete++,
      trouble: (error) => events.trouble.push(error),
    },
    traffic,
  );
  const answer: Setting['answer'] = async (chunk, bytes = contents(chunk)) => {
    const { resolve, reject } = open.get(chunk)!;
    if (bytes instanceof Error) reject(bytes);
    else resolve(bytes);
    await Promise.resolve();
    await Promise.resolve();
  };
  return { memory, pager, asked, answer, events };
}

describe('pages of a resumed machine', () => {
  test('the first ones are here from the beginning', () => {
    const bytes = new Uint8Array(2 * PAGE).fill(8, PAGE);
    const { memory, asked } = make(TABLE, { pages: Uint32Array.of(4, 11), bytes });
    expect(memory.present(11 * PAGE, PAGE)).toBe(true);
    expect([memory.read8(11 * PAGE), memory.read8(12 * PAGE - 1), memory.read8(4 * PAGE)]).toEqual([8, 8, 0]);
    expect(asked).toEqual([]);
    expect(() => make(TABLE, { pages: Uint32Array.of(4, PAGES), bytes })).toThrow(/damaged/);
    expect(() => make(TABLE, { pages: Uint32Array.of(4), bytes })).toThrow(/damaged/);
  });

  test('a page is asked for once, and comes with the rest of its chunk wherever that belongs', async () => {
    const { memory, asked, answer, events } = make();
    expect(memory.present(3 * PAGE + 100, 4)).toBe(false);
    expect(memory.present(3 * PAGE, 4)).toBe(false);
    expect(memory.present(8 * PAGE, PAGE)).toBe(true);
    expect(asked).toEqual([0]);
    await answer(0);
    expect(events.arrived).toBe(1);
    expect([7, 3, 9].map((page) => memory.read8(page * PAGE + 5))).toEqual([1, 2, 2]);
    expect(memory.present(0, 19 * PAGE)).toBe(true);
    expect(memory.present(0, PAGES * PAGE)).toBe(false);
  });

  test('a range that runs out of RAM asks for what lies in it, and for no more than a bound', () => {
    const table = { chunkPages: 1, pages: Uint32Array.from({ length: PAGES }, (_, i) => i) };
    const { memory, asked } = make({ ...table, slots: table.pages });
    expect(memory.present((PAGES - 1) * PAGE, 2 ** 40)).toBe(false);
    expect(asked).toEqual([PAGES - 1]);
    expect(memory.present(PAGES * PAGE, 10)).toBe(true);
    expect(memory.present(0, 0)).toBe(true);
  });

  test('a page that the guest gave back stays zero', async () => {
    const { memory, pager, answer } = make();
    pager.request(3);
    pager.discard(9);
    await answer(0);
    expect(memory.read8(9 * PAGE)).toBe(0);
    expect(memory.read8(3 * PAGE)).toBe(2);
  });

  test('the background brings all, in order and after what is waited for', async () => {
    const { memory, pager, asked, answer, events } = make();
    pager.request(21);
    const all = pager.all();
    expect(asked).toEqual([1, 0]);
    await answer(1);
    expect(pager.complete).toBe(false);
    await answer(0);
    await all;
    expect(events.complete).toBe(1);
    expect(memory.absent).toBeUndefined();
    expect(memory.read8(20 * PAGE)).toBe(3);
  });

  test.each([
    ['two pages in one place', { ...TABLE, pages: Uint32Array.of(7, 3, 3, 20, 21) }],
    ['a page outside RAM', { ...TABLE, pages: Uint32Array.of(7, 3, 9, 20, PAGES) }],
    ['slots out of order', { ...TABLE, slots: Uint32Array.of(0, 2, 1, 2, 3) }],
    ['lists of two lengths', { ...TABLE, slots: Uint32Array.of(0, 1, 1, 2) }],
  ])('a table with %s is refused', (_, table) => {
    expect(() => make(table)).toThrow(/damaged/);
  });
});

describe('pages that nobody has asked for', () => {
  /** A chunk a page, but for page 0. */
  const pages = Uint32Array.from({ length: PAGES - 1 }, (_, i) => i + 1);
  const table: PageTable = { chunkPages: 1, pages, slots: pages };
  const page = (fill: number): Uint8Array => new Uint8Array(PAGE).fill(fill);

  test('come behind those that were, the neighbours of the last one first', async () => {
    const { pager, asked, answer } = make(table, NONE, new Traffic(() => false));
    pager.request(3);
    expect(asked).toEqual([3, 4, 5, 6]);
    pager.request(20);
    expect(asked).toEqual([3, 4, 5, 6, 20]);
    for (const chunk of [4, 5, 6]) await answer(chunk, page(1));
    expect(asked.slice(5)).toEqual([21, 22]);
    // Eight behind the last one, and then what is left of the others; and no more.
    for (const chunk of [3, 20]) await answer(chunk, page(1));
    for (let next = 5; next < asked.length; next++) await answer(asked[next]!, page(1));
    expect(asked.slice(5)).toEqual([21, 22, 23, 24, 25, 26, 27, 28, 7, 8, 9, 10, 11]);
  });

  test('are fetched when the guest has waited for some, while nothing else is fetched for it', async () => {
    const traffic = new Traffic(() => false);
    const { pager, asked, answer } = make(table, NONE, traffic);
    const waited = [31, 29, 27, 25];
    for (const each of waited) pager.request(each);
    traffic.begin();
    const ahead = [26, 28, 30];
    for (const chunk of [...waited, ...ahead]) await answer(chunk, page(1));
    expect([...asked].sort()).toEqual([...waited, ...ahead].sort());
    traffic.beginGuess();
    traffic.end();
    expect(asked).toHaveLength(7);
    traffic.endGuess();
    expect(asked.slice(7)).toEqual([1, 2]);
    pager.close();
  });

  test('are left where data is to be saved, until somebody needs them all', () => {
    const { pager, asked } = make(table);
    for (const each of [31, 29, 27, 25]) pager.request(each);
    pager.startBackground();
    expect(asked).toEqual([31, 29, 27, 25]);
    pager.all().catch(() => undefined);
    pager.close();
    const other = make(table);
    other.pager.all().catch(() => undefined);
    expect(other.asked).toEqual([1, 2]);
  });

  test('a machine that has ended waits for nothing', () => {
    const traffic = new Traffic(() => false);
    const { pager } = make(table, NONE, traffic);
    pager.request(1);
    pager.request(30);
    expect(traffic.waited).toBe(2);
    pager.close();
    expect(traffic.waited).toBe(0);
  });
});

describe('pages that cannot be had', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  test('are told of and asked for again, and when they come all is well', async () => {
    const { memory, pager, asked, answer, events } = make();
    pager.request(7);
    await answer(0, new Error('offline'));
    expect(events.trouble).toEqual([new Error('offline')]);
    await vi.advanceTimersByTimeAsync(1000);
    expect(asked).toEqual([0, 0]);
    await answer(0, new Uint8Array(PAGE)); // too short
    expect(String(events.trouble[1])).toMatch(/damaged/);
    await vi.advanceTimersByTimeAsync(1000);
    expect(asked).toHaveLength(2);
    await vi.advanceTimersByTimeAsync(1000);
    await answer(0);
    expect(events.trouble.at(-1)).toBeUndefined();
    expect(memory.read8(7 * PAGE)).toBe(1);
  });

  test('keep nobody waiting after the machine has ended', async () => {
    const { pager, asked, answer } = make();
    const all = pager.all();
    await answer(0, new Error('offline'));
    pager.close();
    await expect(all).rejects.toThrow(/ended/);
    await vi.advanceTimersByTimeAsync(100_000);
    expect(asked).toEqual([0, 1]);
  });
});
