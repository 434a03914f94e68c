import { afterEach, describe, expect, test, vi } from 'vitest';
import { BlockCache } from '../../emulator/disk/cache.ts';
import { ReadAhead } from '../../emulator/disk/read-ahead.ts';
import { BlockError, type BlockSource } from '../../emulator/disk/types.ts';
import { Traffic } from '../../emulator/traffic.ts';

const range = (first: number, last: number): number[] => Array.from({ length: last - first + 1 }, (_, i) => first + i);

describe('read-ahead', () => {
  const guesses = (ahead: ReadAhead, first: number, last = first): number[] => {
    const all: number[] = [];
    ahead.read(first, last, (block) => all.push(block));
    return [...new Set(all)];
  };

  test('single reads far from each other say nothing', () => {
    const ahead = new ReadAhead(1000, 8);
    expect([10, 500, 250, 900, 700].flatMap((block) => guesses(ahead, block))).toEqual([]);
  });

  test('a reader that goes on is followed by more and more, up to the bound and the end of the disk', () => {
    const ahead = new ReadAhead(100, 4);
    const windows = [50, 51, 52, 53].map((block) => guesses(ahead, block).filter((guess) => guess > block));
    expect(windows).toEqual([[], [52], range(53, 54), range(54, 57)]);
    guesses(ahead, 98);
    expect(guesses(ahead, 99).every((block) => block < 99)).toBe(true);
  });

  test('near blocks that were read, others are guessed on both sides, more of them the more were read', () => {
    const ahead = new ReadAhead(1000, 8);
    guesses(ahead, 100);
    expect(guesses(ahead, 105)).toEqual([106]);
    expect(guesses(ahead, 103)).toEqual([104, 102, 105]);
    expect(guesses(ahead, 118)).toEqual([]);
    // What has been read before says nothing new.
    expect(guesses(ahead, 100)).toEqual([]);
  });

  test('what is fetched anyway says nothing, but is read', () => {
    const ahead = new ReadAhead(1000, 8, [[100, 700, 800]]);
    ahead.plan([100, 105]);
    expect([100, 105].flatMap((block) => guesses(ahead, block))).toEqual([]);
    expect(guesses(ahead, 700)).toEqual([800]);
    expect(guesses(ahead, 103)).toEqual([104, 102, 105]);
  });

  test('where such guesses are of no use they become few', () => {
    const ahead = new ReadAhead(10_000, 8);
    for (let block = 0; block < 12; block += 3) guesses(ahead, block);
    expect(guesses(ahead, 12)).toHaveLength(4);
    for (const block of range(5000, 5019)) ahead.guessed(block);
    expect(guesses(ahead, 15)).toEqual([16]);
    for (const block of range(5000, 5019)) guesses(ahead, block);
    expect(ahead.counters).toEqual({ used: 20, unused: 0 });
    expect(guesses(ahead, 18).length).toBeGreaterThan(1);
  });

  test('a block of an order is followed by the next ones of the order, twice as many when they are read', () => {
    const order = range(0, 99).map((i) => 7000 - 31 * i);
    const ahead = new ReadAhead(10_000, 8, [order]);
    expect(guesses(ahead, order[10]!)).toEqual(order.slice(11, 19));
    expect(guesses(ahead, order[12]!)).toEqual(order.slice(13, 29));
    // A few places back is expected, too, and does not lead back.
    expect(guesses(ahead, order[9]!)).toEqual(order.slice(13, 45));
    expect(guesses(ahead, order[14]!)).toEqual(order.slice(15, 47));
    // Elsewhere in the same order: as many as before.
    expect(guesses(ahead, order[95]!)).toEqual(order.slice(96));
    expect(guesses(ahead, order[60]!)).toEqual(order.slice(61, 93));
  });

  test('where only what is likely is worth a guess, that is the next two of an order, and nothing for what lies near', () => {
    const order = range(0, 99).map((i) => 7000 - 31 * i);
    const ahead = new ReadAhead(10_000, 8, [order]);
    const sure = (block: number): number[] => {
      const all: number[] = [];
      ahead.read(block, block, (guess) => all.push(guess), true);
      return all;
    };
    expect(sure(order[10]!)).toEqual(order.slice(11, 13));
    expect(sure(order[12]!)).toEqual(order.slice(13, 15));
    expect([20, 22].flatMap(sure)).toEqual([]);
    expect(sure(23)).toEqual([24]);
  });

  test('of several orders, the one that most reads were in counts', () => {
    const [mine, other] = [range(0, 39).map((i) => 100 + 50 * i), range(0, 39).map((i) => 5000 + 50 * i)];
    mine[20] = other[5] = 9999;
    const ahead = new ReadAhead(10_000, 8, [other, mine]);
    guesses(ahead, mine[0]!);
    guesses(ahead, mine[1]!);
    expect(guesses(ahead, 9999)[0]).toBe(mine[21]);
    expect(new ReadAhead(10_000, 8, [other, mine]).counters).toEqual({ used: 0, unused: 0 });
  });

  test('blocks of zeros count neither as read nor as guessed', () => {
    const ahead = new ReadAhead(1000, 8, [], (block) => block < 50);
    expect([10, 40, 30].flatMap((block) => guesses(ahead, block))).toEqual([]);
    guesses(ahead, 60);
    expect(guesses(ahead, 62)).toEqual([63]);
  });

  test('a block that has gone may be read for the first time again', () => {
    const ahead = new ReadAhead(1000, 8, [[5, 6, 7]]);
    expect(guesses(ahead, 5)).toEqual([6, 7]);
    expect(guesses(ahead, 5)).toEqual([]);
    ahead.guessed(6);
    ahead.gone(5);
    ahead.gone(6);
    expect(ahead.counters.unused).toBe(0);
    expect(guesses(ahead, 5)).toEqual([6, 7]);
  });
});

/** A source whose fetches the test ends by hand. */
class Manual implements BlockSource {
  readonly blockSize = 512;
  readonly size = 512 * 10_000;
  readonly asked: [block: number, ahead: boolean][] = [];
  private readonly open = new Map<number, { resolve(bytes: Uint8Array): void; reject(error: Error): void }>();

  read(offset: number, _length: number, _signal?: AbortSignal, ahead = false): Promise<Uint8Array> {
    const block = offset / this.blockSize;
    this.asked.push([block, ahead]);
    return new Promise((resolve, reject) => this.open.set(block, { resolve, reject }));
  }

  async answer(block: number, error?: BlockError): Promise<void> {
    const { resolve, reject } = this.open.get(block)!;
    this.open.delete(block);
    if (error) reject(error);
    else resolve(new Uint8Array(512).fill(block));
    await new Promise((done) => setTimeout(done));
  }

  /** What was asked for since the last call. */
  get news(): [number, boolean][] {
    return this.asked.splice(0);
  }
}

describe('what a cache fetches ahead', () => {
  const order = range(0, 63).map((i) => 9000 - 100 * i);
  const gone = new BlockError('status', 'not found', undefined, { lasting: true });
  const make = (
    traffic = new Traffic(() => false),
    memory = 1 << 20,
    near = 0,
  ): { source: Manual; cache: BlockCache; errors: BlockError[] } => {
    const source = new Manual();
    const errors: BlockError[] = [];
    const onError = (error: BlockError): number => errors.push(error);
    const cache = new BlockCache(source, { orders: [order], traffic, memory, near, onError });
    return { source, cache, errors };
  };
  const ahead = (blocks: readonly number[]): [number, boolean][] => blocks.map((block) => [block, true]);

  test('comes after what the guest waits for, for which there is always room', async () => {
    const { source, cache } = make();
    const first = cache.read(order[0]! * 512, 512);
    // Two of six stay free while it waits, one when it does not.
    expect(source.news).toEqual([[order[0], false], ...ahead(order.slice(1, 5))]);
    await source.answer(order[0]!);
    expect(await first).toEqual(new Uint8Array(512).fill(order[0]!));
    expect(source.news).toEqual(ahead([order[5]!]));
    const second = cache.read(512, 512);
    expect(source.news).toEqual([[1, false]]);
    await source.answer(1);
    await second;
    await source.answer(order[1]!);
    expect(source.news).toEqual(ahead([order[6]!]));
    expect(cache.readPieces(order[1]! * 512, 512, () => undefined)).toBe(true);
    cache.close();
  });

  test('is one fetch with what the guest then asks for', async () => {
    const { source, cache } = make();
    void cache.read(order[0]! * 512, 512);
    const joined = cache.read(order[1]! * 512, 512);
    expect(source.news.filter(([block]) => block === order[1])).toEqual(ahead([order[1]!]));
    await source.answer(order[1]!);
    expect(await joined).toEqual(new Uint8Array(512).fill(order[1]!));
    cache.close();
  });

  test('fails in silence; nothing more is guessed until the guest has had something; and is asked for when it needs it', async () => {
    const { source, cache, errors } = make();
    const first = cache.read(order[0]! * 512, 512);
    void source.news;
    await source.answer(order[1]!, gone);
    await source.answer(order[2]!);
    expect([source.news, errors]).toEqual([[], []]);
    const again = expect(cache.read(order[1]! * 512, 512)).rejects.toBe(gone);
    expect(source.news).toEqual([[order[1], false]]);
    await source.answer(order[0]!);
    await first;
    await source.answer(order[1]!, gone);
    await again;
    expect(errors).toEqual([gone]);
    // The first one came: guesses are made again with the next read.
    const third = cache.read(order[8]! * 512, 512);
    expect(source.news.slice(0, 2)).toEqual([[order[8], false], ...ahead([order[9]!])]);
    await source.answer(order[8]!);
    await third;
    cache.close();
  });

  test('is tried as hard as ever when the guest has come to wait for it, and its failure is told then', async () => {
    const { source, cache, errors } = make();
    void cache.read(order[0]! * 512, 512);
    const good = cache.read(order[1]! * 512, 512);
    const bad = expect(cache.read(order[2]! * 512, 512)).rejects.toBe(gone);
    void source.news;
    await source.answer(order[1]!, gone);
    await source.answer(order[2]!, gone);
    expect(source.news).toEqual([
      [order[1], false],
      [order[2], false],
    ]);
    expect(errors).toEqual([]);
    await source.answer(order[1]!);
    expect(await good).toEqual(new Uint8Array(512).fill(order[1]!));
    await source.answer(order[2]!, gone);
    await bad;
    expect(errors).toEqual([gone]);
    cache.close();
  });

  test('is little until a fetch has shown that the source is far, and where it is near', async () => {
    for (const [near, more] of [
      [1e-6, true],
      [1e6, false],
    ] as const) {
      const { source, cache } = make(undefined, undefined, near);
      const first = cache.read(order[0]! * 512, 512);
      expect(source.news).toEqual([[order[0], false], ...ahead(order.slice(1, 3))]);
      for (const block of order.slice(0, 3)) await source.answer(block);
      await first;
      void cache.read(order[8]! * 512, 512);
      const guesses = order.slice(9, more ? 13 : 11);
      expect(source.news).toEqual([[order[8], false], ...ahead(guesses)]);
      cache.close();
    }
  });

  test('is nothing where data is to be saved', () => {
    const { source, cache } = make(new Traffic(() => true));
    cache.prefetch([3, 4]);
    cache.read(order[0]! * 512, 512).catch(() => undefined);
    cache.read(order[1]! * 512, 1024).catch(() => undefined);
    expect(source.news.every(([, guess]) => !guess)).toBe(true);
    cache.close();
  });

  test('does not push out what is used', async () => {
    const { source, cache } = make(undefined, 4 * 512);
    const read = cache.read(order[0]! * 512, 512);
    await source.answer(order[0]!);
    await read;
    expect(source.news).toEqual([[order[0], false], ...ahead(order.slice(1, 3))]);
    cache.close();
  });

  test('is less while the guest waits for something else', async () => {
    const traffic = new Traffic(() => false);
    const { source, cache } = make(traffic);
    void cache.read(order[0]! * 512, 512);
    traffic.begin();
    await source.answer(order[0]!);
    expect(source.news).toHaveLength(5);
    traffic.end();
    expect(source.news).toEqual(ahead([order[5]!]));
    expect(traffic.idle).toBe(false);
    for (const block of order.slice(1, 9)) await source.answer(block);
    expect(traffic.idle).toBe(true);
    cache.close();
  });
});

describe('traffic', () => {
  afterEach(() => void vi.unstubAllGlobals());

  test('the user who saves data, as the browser tells it', () => {
    vi.stubGlobal('navigator', { connection: { saveData: true } });
    expect(new Traffic().mayGuess).toBe(false);
    vi.stubGlobal('navigator', { connection: { saveData: false } });
    expect(new Traffic().mayGuess).toBe(true);
    vi.stubGlobal('navigator', undefined);
    expect(new Traffic().mayGuess).toBe(true);
  });
});
