import { expect, test } from 'vitest';
import { BLOCK, parseRange, RangeCache, type Store } from '../../sw/ranges.ts';

/** A Cache in a Map; like the real one it takes whole answers only. */
class MapStore implements Store {
  readonly entries = new Map<string, Response>();
  match(key: string): Promise<Response | undefined> {
    return Promise.resolve(this.entries.get(key)?.clone());
  }
  put(key: string, response: Response): Promise<void> {
    if (response.status === 206) return Promise.reject(new TypeError('partial'));
    this.entries.set(key, response);
    return Promise.resolve();
  }
  keys(): Promise<{ url: string }[]> {
    return Promise.resolve([...this.entries.keys()].map((url) => ({ url })));
  }
  delete(key: string): Promise<boolean> {
    return Promise.resolve(this.entries.delete(key));
  }
}

const URL_ = 'http://host/a.ext2?x=1';

function stage(): {
  store: MapStore;
  server: { bytes: Uint8Array<ArrayBuffer>; etag: string | undefined; modified?: string; asked: string[]; up: boolean };
  read: (range: string, cache?: RequestCache) => Promise<{ status: number; bytes: number[]; headers: Headers }>;
  restart: () => void;
} {
  const server = {
    bytes: new Uint8Array(3 * BLOCK + 1000).map((_, i) => (i * 31) >> 3),
    etag: '"a"' as string | undefined,
    modified: undefined as string | undefined,
    asked: [] as string[],
    up: true,
  };
  const store = new MapStore();
  const fetch = async (request: Request): Promise<Response> => {
    if (!server.up) throw new TypeError('no network');
    const range = request.headers.get('range')!;
    server.asked.push(range);
    const { first, last } = parseRange(range)!;
    const headers: Record<string, string> = { 'content-range': `bytes ${first}-${last}/${server.bytes.length}` };
    if (server.etag) headers['etag'] = server.etag;
    if (server.modified) headers['last-modified'] = server.modified;
    return new Response(server.bytes.slice(first, last + 1), { status: 206, headers });
  };
  let cache = new RangeCache(store, fetch);
  return {
    store,
    server,
    restart: () => (cache = new RangeCache(store, fetch)),
    async read(range, mode) {
      const work: Promise<void>[] = [];
      const request = new Request(URL_, { headers: { range }, cache: mode });
      const response = await cache.answer(request, parseRange(range)!, (w) => work.push(w));
      const bytes = [...new Uint8Array(await response.arrayBuffer())];
      await Promise.all(work);
      return { status: response.status, bytes, headers: response.headers };
    },
  };
}

const PROBE = 'bytes=0-511';
const block = (i: number, length = BLOCK): string => `bytes=${i * BLOCK}-${i * BLOCK + length - 1}`;

test('whole blocks are fetched once, also the short last one, also by a worker started anew, also without a network', async () => {
  const { server, read, restart } = stage();
  await read(PROBE);
  await read(block(1));
  await read(block(3, 1000));
  expect(server.asked.length).toBe(3);
  restart();
  server.up = false;
  for (const [first, last] of [
    [BLOCK, 2 * BLOCK - 1],
    [BLOCK + 5, BLOCK + 10],
    [3 * BLOCK, 3 * BLOCK + 999],
  ]) {
    const { status, bytes, headers } = await read(`bytes=${first}-${last}`);
    expect(status).toBe(206);
    expect(bytes).toEqual([...server.bytes.slice(first, last! + 1)]);
    expect(headers.get('content-range')).toBe(`bytes ${first}-${last}/${server.bytes.length}`);
    expect(headers.get('etag')).toBe('"a"');
  }
  await expect(read(block(2))).rejects.toThrow('no network');
});

test('a range over several blocks is put together, and fills them', async () => {
  const { server, read } = stage();
  await read(PROBE);
  await read(`bytes=100-${3 * BLOCK + 5}`); // whole: 1 and 2
  server.asked.length = 0;
  const { bytes } = await read(`bytes=${BLOCK + 7}-${3 * BLOCK - 9}`);
  expect(bytes).toEqual([...server.bytes.slice(BLOCK + 7, 3 * BLOCK - 8)]);
  expect(server.asked).toEqual([]);
  await read(block(0));
  expect(server.asked).toEqual([block(0)]);
});

test('an image that was replaced is not mixed with the old one', async () => {
  const { server, store, read } = stage();
  await read(PROBE);
  await read(block(0));
  server.bytes = server.bytes.map((b) => b ^ 0xff);
  server.etag = '"b"';
  // The machine that runs on the old one is given the new answer, whose ETag tells it; nothing of it is kept.
  const before = store.entries.size;
  expect((await read(block(1))).headers.get('etag')).toBe('"b"');
  expect(store.entries.size).toBe(before);
  await read(PROBE);
  expect((await read(block(0))).bytes).toEqual([...server.bytes.slice(0, BLOCK)]);
});

test('a damaged block is replaced', async () => {
  const { server, store, read } = stage();
  await read(PROBE);
  await read(block(1));
  const key = [...store.entries.keys()].find((k) => k.includes('linux-vm-block'))!;
  store.entries.set(key, new Response(new Uint8Array(BLOCK)));
  expect((await read(block(1))).bytes[1]).toBe(0);
  await read(block(1), 'reload');
  expect((await read(block(1))).bytes).toEqual([...server.bytes.slice(BLOCK, 2 * BLOCK)]);
});

test.each([
  { etag: undefined, modified: undefined, kept: 0 },
  { etag: 'W/"weak"', modified: undefined, kept: 0 },
  { etag: 'W/"weak"', modified: 'Sat, 21 Nov 2026 14:00:00 GMT', kept: 2 },
])('keeps only what can be told apart from its next version: $etag, $modified', async ({ etag, modified, kept }) => {
  const { server, store, read } = stage();
  Object.assign(server, { etag, modified });
  await read(PROBE);
  await read(block(0));
  expect(store.entries.size).toBe(kept);
});

test.each(['bytes=5-4', 'bytes=-5', 'bytes=5-', 'bytes=0-1,4-5', 'lines=0-1', null])(
  '%s is left to the server',
  (range) => {
    expect(parseRange(range)).toBeUndefined();
  },
);
