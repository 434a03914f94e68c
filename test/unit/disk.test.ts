import { createHash, webcrypto } from 'node:crypto';
import { createServer, type Server } from 'node:http';
import { gzipSync } from 'node:zlib';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { BlobSource } from '../../emulator/disk/blob.ts';
import { BlockCache } from '../../emulator/disk/cache.ts';
import { decompress } from '../../emulator/disk/compression.ts';
import { ChunkSource } from '../../emulator/disk/chunks.ts';
import type { Fetch, FetchPolicy } from '../../emulator/disk/fetch.ts';
import { fetchFile } from '../../emulator/disk/file.ts';
import { sha256Hex } from '../../emulator/disk/hash.ts';
import { HttpRangeSource } from '../../emulator/disk/http-range.ts';
import { type DiskManifest, parseManifest } from '../../emulator/disk/manifest.ts';
import { EmptySource, MemorySource } from '../../emulator/disk/memory.ts';
import { openDisk } from '../../emulator/disk/open.ts';
import { MemoryStore, Overlay, type OverlaySnapshot, type OverlayStore } from '../../emulator/disk/overlay.ts';
import { Unzstd } from '../../emulator/disk/zstd.ts';
import { type BlockDevice, BlockError, type BlockErrorCode, type BlockSource } from '../../emulator/disk/types.ts';

const hex = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

function pattern(length: number, seed = 1): Uint8Array {
  const bytes = new Uint8Array(length);
  let x = seed;
  for (let i = 0; i < length; i++) bytes[i] = (x = (x * 1103515245 + 12345) >>> 0) >>> 16;
  return bytes;
}

/** No waiting between attempts, three of them. */
function quick(fetch: Fetch, changes: Partial<FetchPolicy> = {}): Partial<FetchPolicy> {
  return { fetch, attempts: 3, baseDelay: 1, maxDelay: 1, stallTimeout: 200, ...changes };
}

async function failure(work: Promise<unknown>): Promise<BlockErrorCode> {
  const error = await work.then(
    () => undefined,
    (e: unknown) => e,
  );
  expect(error).toBeInstanceOf(BlockError);
  return (error as BlockError).code;
}

const CHUNK = 4096;
const image = pattern(CHUNK * 3 + 512);
image.fill(0, CHUNK, 2 * CHUNK);
const BASE = 'http://host/disk/manifest.json';

function chunked(): { manifest: DiskManifest; files: Map<string, Uint8Array> } {
  const files = new Map<string, Uint8Array>();
  const chunks = [0, 1, 2, 3].map((i) => {
    const bytes = image.subarray(i * CHUNK, (i + 1) * CHUNK);
    if (bytes.every((b) => b === 0)) return null;
    files.set(`http://host/disk/chunks/${hex(bytes)}`, gzipSync(bytes));
    return hex(bytes);
  });
  const manifest = parseManifest(
    {
      format: 'linux-vm-disk',
      version: 1,
      name: 't',
      size: image.length,
      chunkSize: CHUNK,
      compression: 'gzip',
      chunks,
    },
    BASE,
  );
  return { manifest, files };
}

function serveMap(files: Map<string, Uint8Array>): { fetch: Fetch; calls: string[] } {
  const calls: string[] = [];
  return {
    calls,
    fetch: async (url) => {
      calls.push(url);
      const bytes = files.get(url);
      return bytes ? new Response(bytes.slice()) : new Response('no', { status: 404 });
    },
  };
}

describe('chunk directory', () => {
  test('reads across chunks, a zero chunk without fetching it, and a short last chunk', async () => {
    const { manifest, files } = chunked();
    const { fetch, calls } = serveMap(files);
    const source = new ChunkSource(manifest, BASE, { policy: quick(fetch) });
    expect(await source.read(100, image.length - 100)).toEqual(image.slice(100));
    expect(calls.length).toBe(3);
    expect(source.transfer.fetchedBytes).toBe([...files.values()].reduce((sum, f) => sum + f.length, 0));
  });

  test('a flipped bit is found by the hash, tried again past the cache, and then an error', async () => {
    const { manifest, files } = chunked();
    const bad = image.slice(0, CHUNK);
    bad[7]! ^= 1;
    files.set(`http://host/disk/chunks/${manifest.chunks[0]}`, gzipSync(bad));
    const modes: unknown[] = [];
    const { fetch } = serveMap(files);
    const source = new ChunkSource(manifest, BASE, {
      policy: quick((url, init) => (modes.push(init?.cache), fetch(url, init))),
    });
    expect(await failure(source.read(0, 16))).toBe('hash');
    expect(modes).toEqual(['default', 'reload', 'reload']);
  });

  test.each<[string, (good: Uint8Array) => Uint8Array | undefined, BlockErrorCode]>([
    ['404', () => undefined, 'status'],
    ['half a file', (good) => good.slice(0, good.length >> 1), 'compression'],
    ['another chunk size', () => gzipSync(new Uint8Array(100)), 'short'],
    ['a file that unpacks to far more', () => gzipSync(new Uint8Array(1 << 20)), 'long'],
    ['an error page', () => new TextEncoder().encode('<html>'), 'short'],
  ])('%s is an error after three attempts', async (_, change, code) => {
    const { manifest, files } = chunked();
    const url = `http://host/disk/chunks/${manifest.chunks[0]}`;
    const bytes = change(files.get(url)!);
    if (bytes) files.set(url, bytes);
    else files.delete(url);
    const { fetch, calls } = serveMap(files);
    const source = new ChunkSource(manifest, BASE, { policy: quick(fetch) });
    expect(await failure(source.read(0, 16))).toBe(code);
    expect(calls.length).toBe(3);
  });

  test('a connection that comes back is retried without a trace but the count', async () => {
    const { manifest, files } = chunked();
    const { fetch } = serveMap(files);
    let calls = 0;
    const source = new ChunkSource(manifest, BASE, {
      policy: quick(async (url) => {
        if (++calls === 1) throw new TypeError('Failed to fetch');
        return fetch(url);
      }),
    });
    expect(await source.read(0, 16)).toEqual(image.slice(0, 16));
    expect(source.transfer.retries).toBe(1);
  });

  test('a server that never answers ends in a time-out even if fetch ignores its signal', async () => {
    const { manifest } = chunked();
    const policy = quick(() => new Promise(() => undefined), { stallTimeout: 10 });
    expect(await failure(new ChunkSource(manifest, BASE, { policy }).read(0, 16))).toBe('timeout');
  });

  test('a body that stalls in the middle ends in a time-out', async () => {
    const { manifest } = chunked();
    const policy = quick(
      async () => new Response(new ReadableStream({ start: (c) => c.enqueue(new Uint8Array(10)) })),
      { stallTimeout: 10 },
    );
    expect(await failure(new ChunkSource(manifest, BASE, { policy }).read(0, 16))).toBe('timeout');
  });

  test('what nobody waits for is tried once, with less urgency', async () => {
    const { manifest, files } = chunked();
    const { fetch, calls } = serveMap(new Map());
    const priorities: unknown[] = [];
    const policy = quick((url, init) => (priorities.push(init?.priority), fetch(url, init)));
    const source = new ChunkSource(manifest, BASE, { policy });
    expect(await failure(source.read(0, CHUNK, undefined, true))).toBe('status');
    expect([calls.length, source.transfer.retries]).toEqual([1, 0]);
    expect(await failure(source.read(0, CHUNK))).toBe('status');
    expect(priorities).toEqual(['low', undefined, undefined, undefined]);
    const image_ = new Response(image.slice(0, 512), {
      status: 206,
      headers: { 'content-range': `bytes 0-511/${image.length}` },
    });
    const ranges = await HttpRangeSource.open(BASE, {
      policy: quick((_, init) => (priorities.push(init?.priority), Promise.resolve(image_.clone()))),
    });
    await ranges.read(0, 512, undefined, true);
    expect(priorities.slice(4)).toEqual([undefined, 'low']);
    const there = new ChunkSource(manifest, BASE, { policy: quick(serveMap(files).fetch) });
    expect(await there.read(0, CHUNK, undefined, true)).toEqual(image.slice(0, CHUNK));
  });

  test('a disk that is opened fetches ahead what its manifest says', async () => {
    const { manifest, files } = chunked();
    files.set(BASE, new TextEncoder().encode(JSON.stringify({ ...manifest, programChunks: [[3, 0, 2]] })));
    const { fetch, calls } = serveMap(files);
    const disk = await openDisk(BASE, { policy: quick(fetch) });
    await disk.device.read(3 * CHUNK, 512);
    expect(calls.slice(1).map((url) => manifest.chunks.indexOf(url.split('/').at(-1)!))).toEqual([3, 0, 2]);
    disk.device.close();
  });

  test('aborting ends a read at once', async () => {
    const { manifest } = chunked();
    const controller = new AbortController();
    const policy = quick(() => new Promise(() => undefined), { stallTimeout: 60_000 });
    const read = new ChunkSource(manifest, BASE, { policy }).read(0, 16, controller.signal);
    controller.abort();
    expect(await failure(read)).toBe('aborted');
  });
});

describe('manifest', () => {
  const good = chunked().manifest;
  test.each<[string, object]>([
    ['"format"', { format: 'x' }],
    ['"version"', { version: 2 }],
    ['"size"', { size: -512 }],
    ['"size"', { size: 513 }],
    ['"chunkSize"', { chunkSize: 5000 }],
    ['"chunks"', { chunks: [] }],
    ['"programChunks"', { programChunks: [[0, 4]] }],
    ['"programChunks"', { programChunks: [0] }],
    ['"hotCode"', { hotCode: { url: 'chunks/x', size: 10, sha256: 'x' } }],
    ['chunk 1 has no SHA-256', { chunks: [null, '../../etc/passwd', null, null] }],
    ['"bootChunks"', { bootChunks: [4] }],
    ['"kernel" has no "sha256"', { kernel: { url: 'k', size: 1 } }],
    ['"compression"', { compression: 'rar' }],
  ])('names the field that is wrong: %s', (words, change) => {
    expect(() => parseManifest({ ...good, ...change }, BASE)).toThrow(words);
  });
});

describe('hash', () => {
  test('is the same without a secure context', async () => {
    const bytes = pattern(1000);
    vi.stubGlobal('crypto', {});
    expect(await sha256Hex(bytes)).toBe(hex(bytes));
    vi.stubGlobal('crypto', webcrypto);
    expect(await sha256Hex(bytes)).toBe(hex(bytes));
    vi.unstubAllGlobals();
  });
});

describe('range requests', () => {
  let server: Server | undefined;
  afterEach(() => {
    server?.closeAllConnections();
    server?.close();
    server = undefined;
  });

  type Mode = 'good' | 'ignore' | 'shifted' | 'short' | 'cut' | '503 once' | 'replaced';
  async function serve(mode: { now: Mode }): Promise<string> {
    let count = 0;
    server = createServer((request, response) => {
      count++;
      const match = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '');
      if (mode.now === '503 once' && count % 2) return void response.writeHead(503).end();
      if (!match || mode.now === 'ignore') return void response.writeHead(200).end(image);
      let [first, last] = [+match[1]!, +match[2]!];
      if (mode.now === 'shifted') first += 512;
      if (mode.now === 'short') last -= 1;
      const total = mode.now === 'replaced' ? image.length + 512 : image.length;
      response.writeHead(206, {
        'content-range': `bytes ${first}-${mode.now === 'short' ? last + 1 : last}/${total}`,
        ...(mode.now === 'cut' ? { 'content-length': last - first + 1 } : {}),
      });
      if (mode.now === 'cut') {
        response.write(image.subarray(first, first + 10));
        return void setTimeout(() => response.destroy(), 5);
      }
      response.end(image.subarray(first, last + 1));
    });
    await new Promise<void>((resolve) => server!.listen(0, '127.0.0.1', resolve));
    return `http://127.0.0.1:${(server.address() as { port: number }).port}/disk.ext2`;
  }
  const policy = quick((url, init) => globalThis.fetch(url, init), { stallTimeout: 2000 });

  test('finds the size and reads any range', async () => {
    const source = await HttpRangeSource.open(await serve({ now: 'good' }), { policy });
    expect(source.size).toBe(image.length);
    expect(await source.read(1000, 5000)).toEqual(image.slice(1000, 6000));
  });

  test('a server that ignores Range is told from one that does not, with what to do', async () => {
    const open = HttpRangeSource.open(await serve({ now: 'ignore' }), { policy });
    await expect(open).rejects.toThrow(/ignores Range.*chunk directory/);
    expect(await failure(open)).toBe('range-ignored');
  });

  test.each<[Mode, BlockErrorCode]>([
    ['ignore', 'range-ignored'],
    ['shifted', 'range-wrong'],
    ['short', 'short'],
    ['cut', 'network'],
    ['replaced', 'changed'],
  ])('an answer gone bad later (%s) is an error', async (bad, code) => {
    const mode: { now: Mode } = { now: 'good' };
    const source = await HttpRangeSource.open(await serve(mode), { policy });
    mode.now = bad;
    expect(await failure(source.read(0, 4096))).toBe(code);
    expect(source.transfer.retries).toBe(2);
    mode.now = 'good';
    expect(await source.read(0, 4096)).toEqual(image.slice(0, 4096));
  });

  test('every other answer being 503 is not noticed', async () => {
    const source = await HttpRangeSource.open(await serve({ now: '503 once' }), { policy });
    expect(await source.read(0, 100)).toEqual(image.slice(0, 100));
  });
});

describe('whole file', () => {
  const kernel = pattern(10_000);
  const packed = gzipSync(kernel);
  const fetch: Fetch = async () => new Response(packed.slice());

  test('is checked as stored, unpacked, and its progress told', async () => {
    const seen: number[] = [];
    const bytes = await fetchFile(
      { url: 'http://h/k', size: packed.length, sha256: hex(packed), compression: 'gzip' },
      { policy: quick(fetch), onProgress: (n, all) => (expect(all).toBe(packed.length), seen.push(n)) },
    );
    expect(bytes).toEqual(kernel);
    expect(seen.at(-1)).toBe(packed.length);
  });

  test.each<[string, object, BlockErrorCode]>([
    ['wrong hash', { sha256: hex(kernel) }, 'hash'],
    ['wrong size', { size: 5 }, 'short'],
    ['wrong compression', { compression: 'zstd' }, 'compression'],
  ])('%s is an error', async (_, change, code) => {
    const file = { url: 'http://h/k', size: packed.length, sha256: hex(packed), ...change };
    expect(await failure(fetchFile(file, { policy: quick(fetch) }))).toBe(code);
  });
});

const RAW_BLOCK = 1 << 17;
/** A zstd file of blocks that are not compressed (RFC 8878, 3.1.1). */
function rawZstd(text: Uint8Array): Uint8Array {
  const header = Buffer.from('28b52ffda000000000', 'hex');
  header.writeUInt32LE(text.length, 5);
  const parts = [header];
  for (let at = 0; at < text.length; at += RAW_BLOCK) {
    const block = text.subarray(at, at + RAW_BLOCK);
    const head = Buffer.alloc(3);
    head.writeUIntLE((block.length << 3) | (at + RAW_BLOCK >= text.length ? 1 : 0), 0, 3);
    parts.push(head, Buffer.from(block));
  }
  return new Uint8Array(Buffer.concat(parts));
}

describe('zstd', () => {
  const text = new TextEncoder().encode('hello hello hello hello hello hello');
  // As the zstd program writes it: from a file (its size in the header), and from a pipe.
  test.each<[string, string]>([
    ['of known size', '28b52ffd24236500003068656c6c6f200100b94b112be168e7'],
    ['of unknown size', '28b52ffd04586500003068656c6c6f200100b94b112be168e7'],
  ])('%s is unpacked, bounded, and refused when damaged', async (_, packed) => {
    const bytes = new Uint8Array(Buffer.from(packed, 'hex'));
    expect(await decompress(bytes, 'zstd', 100, 'k')).toEqual(text);
    expect(await failure(decompress(bytes, 'zstd', 10, 'k'))).toBe('long');
    expect(await failure(decompress(bytes.slice(0, 15), 'zstd', 100, 'k'))).toBe('compression');
    for (let at = 5; at < bytes.length; at++) {
      const damaged = bytes.slice();
      damaged[at]! ^= 0x81;
      expect(await failure(decompress(damaged, 'zstd', 100, 'k'))).toMatch(/^(compression|long)$/);
    }
    // Where a page's policy forbids the decoder in WebAssembly.
    vi.resetModules();
    vi.stubGlobal('fetch', () => Promise.reject(new TypeError('refused')));
    try {
      const { Unzstd } = await import('../../emulator/disk/zstd.ts');
      const unpack = (packed: Uint8Array): Promise<Uint8Array> => {
        const unpacking = new Unzstd(() => undefined);
        unpacking.push(packed);
        return unpacking.finish();
      };
      expect(await unpack(bytes)).toEqual(text);
      await expect(unpack(bytes.slice(0, 15))).rejects.toThrow();
    } finally {
      vi.unstubAllGlobals();
    }
  });

  test('what comes in parts is unpacked as it comes', async () => {
    const text = pattern(600_000);
    const packed = rawZstd(text);
    const unpack = async (bytes: Uint8Array, size: number): Promise<[at: number, Uint8Array]> => {
      let unpacked = 0;
      const unpacking = new Unzstd((length) => (unpacked = length));
      for (let at = 0; at < bytes.length; at += size) unpacking.push(bytes.subarray(at, at + size));
      return [unpacked, await unpacking.finish()];
    };
    // The decoder is there.
    await decompress(packed, 'zstd', text.length, 'k');
    const [early, whole] = await unpack(packed, 10_000);
    expect(Buffer.compare(whole, text)).toBe(0);
    expect(early).toBeGreaterThan(text.length / 2);
    await expect(unpack(packed.subarray(0, -100), 10_000)).rejects.toThrow();
    // Files that are given up leave nothing behind: more of them than the decoder's memory could hold.
    for (let k = 0; k < 3000; k++) {
      const unpacking = new Unzstd(() => undefined);
      unpacking.push(packed.subarray(0, 300_000));
      unpacking.close();
    }
    expect(Buffer.compare((await unpack(packed, 10_000))[1], text)).toBe(0);
    // The second block has a type that there is not.
    packed[9 + 3 + RAW_BLOCK] = 6;
    await expect(unpack(packed, 10_000)).rejects.toThrow();
  });
});

test('a Blob is read in place', async () => {
  const source = new BlobSource(new Blob([image.slice()]));
  expect(await source.read(600, 512)).toEqual(image.slice(600, 1112));
  expect(await failure(source.read(image.length, 1))).toBe('bounds');
});

/** A source whose fetches the test ends by hand. */
class Manual implements BlockSource {
  readonly blockSize = 1024;
  readonly pending = new Map<number, (bytes: Uint8Array | Error) => void>();
  readonly asked: number[] = [];
  readonly data: Uint8Array;
  constructor(readonly size: number) {
    this.data = pattern(size);
  }
  read(offset: number): Promise<Uint8Array> {
    const block = offset / this.blockSize;
    this.asked.push(block);
    return new Promise((resolve, reject) =>
      this.pending.set(block, (result) => {
        this.pending.delete(block);
        if (result instanceof Error) reject(result);
        else resolve(result);
      }),
    );
  }
  answer(block: number): Promise<void> {
    this.pending.get(block)!(this.data.slice(block * 1024, (block + 1) * 1024));
    return new Promise((resolve) => setTimeout(resolve));
  }
}

/** What `readPieces` hands out, or undefined when it does not. */
function cached(disk: Pick<BlockDevice, 'readPieces'>, offset: number, length: number): Uint8Array | undefined {
  const pieces: Uint8Array[] = [];
  if (disk.readPieces!(offset, length, (piece) => pieces.push(piece))) return new Uint8Array(Buffer.concat(pieces));
  expect(pieces).toEqual([]);
  return undefined;
}

describe('cache', () => {
  test('requests for one block share one fetch, and it is in memory afterwards', async () => {
    const source = new Manual(8192);
    const cache = new BlockCache(source, { readAhead: 0 });
    const reads = [cache.read(0, 10), cache.read(500, 1000), cache.read(1, 1)];
    expect(source.asked).toEqual([0, 1]);
    await source.answer(0);
    await source.answer(1);
    expect((await Promise.all(reads)).map((b) => b.length)).toEqual([10, 1000, 1]);
    expect(cached(cache, 500, 1000)).toEqual(source.data.slice(500, 1500));
    expect(cached(cache, 2000, 100)).toBeUndefined();
  });

  test('a failed block is not kept: the error reaches the reader and the listener, and the next read asks again', async () => {
    const source = new Manual(8192);
    const errors: BlockError[] = [];
    const cache = new BlockCache(source, { readAhead: 0, onError: (e) => errors.push(e) });
    const read = cache.read(0, 10);
    source.pending.get(0)!(new BlockError('hash', 'damaged'));
    expect(await failure(read)).toBe('hash');
    expect(errors.map((e) => e.code)).toEqual(['hash']);
    const again = cache.read(0, 10);
    await source.answer(0);
    expect(await again).toEqual(source.data.slice(0, 10));
  });

  test('holds no more than its bound and drops what was used longest ago', async () => {
    const data = pattern(1 << 20);
    const base = new MemorySource(data);
    const cache = new BlockCache(base, { memory: 4 * base.blockSize, readAhead: 0 });
    for (const block of [0, 1, 2, 3, 0, 4]) await cache.read(block * base.blockSize, 512);
    expect(cache.cachedBytes).toBe(4 * base.blockSize);
    expect(cached(cache, 0, 512)).toEqual(data.slice(0, 512));
    expect(cached(cache, base.blockSize, 512)).toBeUndefined();
  });

  test('demand overtakes prefetch, and no more than the bound are under way', async () => {
    const source = new Manual(64 * 1024);
    const cache = new BlockCache(source, { readAhead: 0, parallel: 2 });
    cache.prefetch([10, 11, 12, 13]);
    expect(source.asked).toEqual([10, 11]);
    const read = cache.read(30 * 1024, 10);
    await source.answer(10);
    expect(source.asked).toEqual([10, 11, 30]);
    await source.answer(30);
    expect((await read).length).toBe(10);
    await source.answer(11);
    expect(source.asked).toEqual([10, 11, 30, 12, 13]);
  });

  test('a sequential reader is read ahead of, a random one is not', async () => {
    const data = pattern(4 << 20);
    const asked: number[] = [];
    const memory = new MemorySource(data);
    const source: BlockSource = {
      size: memory.size,
      blockSize: memory.blockSize,
      read: (offset, length) => (asked.push(offset / memory.blockSize), memory.read(offset, length)),
    };
    const cache = new BlockCache(source, { readAhead: 4 });
    for (const block of [40, 3, 20]) await cache.read(block * memory.blockSize, 512);
    expect(asked).toEqual([40, 3, 20]);
    await cache.read(21 * memory.blockSize, 512);
    await cache.read(22 * memory.blockSize, 512);
    expect(asked.slice(3)).toEqual([21, 22, 23, 24]);
  });

  test('closing ends every read that waits', async () => {
    const source = new Manual(8192);
    const cache = new BlockCache(source, { parallel: 1, readAhead: 0 });
    cache.read(0, 1).catch(() => undefined);
    const waiting = cache.read(4096, 1);
    cache.close();
    expect(await failure(waiting)).toBe('aborted');
    expect(await failure(cache.read(2048, 1))).toBe('aborted');
  });
});

/** A store that is as asynchronous as a database. */
class SlowStore implements OverlayStore {
  readonly blockSize = 512;
  readonly kept = new Map<number, Uint8Array | null>();
  batches = 0;
  flushed = 0;
  failing = false;
  async open(): Promise<Iterable<number>> {
    return this.kept.keys();
  }
  async read(blocks: readonly number[]): Promise<(Uint8Array | null)[]> {
    await new Promise((resolve) => setTimeout(resolve, 1));
    return blocks.map((b) => this.kept.get(b)!);
  }
  async write(blocks: ReadonlyMap<number, Uint8Array | null>): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, 1));
    if (this.failing) throw new Error('quota exceeded');
    this.batches++;
    for (const [b, bytes] of blocks) this.kept.set(b, bytes);
  }
  async flush(): Promise<void> {
    this.flushed++;
  }
  async snapshot(): Promise<OverlaySnapshot> {
    const kept = new Map(this.kept);
    return {
      blockSize: 512,
      blocks: () => kept.keys(),
      read: async (blocks) => blocks.map((b) => kept.get(b)!),
      close: () => undefined,
    };
  }
}

describe('overlay', () => {
  async function both(store: OverlayStore): Promise<{ overlay: Overlay; expected: Uint8Array }> {
    const data = pattern(300 * 512);
    const overlay = await Overlay.open(new BlockCache(new MemorySource(data.slice())), store, { dirtyLimit: 20 * 512 });
    return { overlay, expected: data };
  }

  test.each<[string, () => OverlayStore]>([
    ['memory', () => new MemoryStore(4096)],
    ['a slow store', () => new SlowStore()],
  ])('random writes, reads, flushes and discards over %s read back as written', async (_, make) => {
    const { overlay, expected } = await both(make());
    let x = 7;
    const random = (n: number): number => (x = (x * 1103515245 + 12345) & 0x7fffffff) % n;
    for (let i = 0; i < 400; i++) {
      const offset = random(expected.length - 1);
      const length = 1 + random(Math.min(6000, expected.length - offset));
      const kind = random(10);
      if (kind < 5) {
        const data = pattern(length, i);
        const work = overlay.write(offset, data);
        expected.set(data, offset);
        data.fill(0xee); // the caller may use its buffer again at once
        if (kind < 3) await work;
        else await overlay.flush();
      } else if (kind < 9) {
        const want = expected.slice(offset, offset + length);
        expect(Buffer.compare(cached(overlay, offset, length) ?? want, want)).toBe(0);
        expect(Buffer.compare(await overlay.read(offset, length), want)).toBe(0);
      } else await overlay.flush();
    }
    await overlay.flush();
    expect(Buffer.compare(await overlay.read(0, expected.length), expected)).toBe(0);
  });

  test('the base is not touched, and flush brings batches to the store before it resolves', async () => {
    const store = new SlowStore();
    const { overlay } = await both(store);
    for (let i = 0; i < 10; i++) await overlay.write(i * 512, new Uint8Array(512).fill(i + 1));
    expect(store.batches).toBe(0);
    await overlay.flush();
    expect([store.batches, store.flushed, store.kept.size]).toEqual([1, 1, 10]);
    const again = await Overlay.open(overlay.base, store);
    expect((await again.read(512, 1))[0]).toBe(2);
  });

  test('a store that fails makes flush fail, keeps what was written, and a later flush keeps it', async () => {
    const store = new SlowStore();
    const { overlay } = await both(store);
    overlay.write(0, new Uint8Array(512).fill(9));
    store.failing = true;
    await expect(overlay.flush()).rejects.toThrow(/quota exceeded.*free some space/);
    expect((await overlay.read(0, 1))[0]).toBe(9);
    store.failing = false;
    await overlay.flush();
    expect(store.kept.size).toBe(1);
  });

  test('discarded blocks read as zeros and cost no memory where the base is zero', async () => {
    const { overlay, expected } = await both(new MemoryStore(512));
    overlay.discard(100, 2000);
    expected.fill(0, 512, 2048);
    expect(await overlay.read(0, 4096)).toEqual(expected.slice(0, 4096));
    const empty = await Overlay.open(new BlockCache(new EmptySource(1 << 30)), new MemoryStore());
    empty.discard(0, 1 << 30);
    expect(empty.stats.overlayBytes).toBe(0);
  });

  test('past its limit a write is an error and the disk stays as it was', async () => {
    const base = new BlockCache(new EmptySource(1 << 20));
    const overlay = await Overlay.open(base, new MemoryStore(), { limit: 8192 });
    overlay.write(0, new Uint8Array(8192).fill(1));
    expect(() => overlay.write(8192, new Uint8Array(1))).toThrow(/limit/);
    overlay.write(0, new Uint8Array(1));
    // Zeros take no memory.
    overlay.discard(4096, 4096);
    expect(overlay.heldBytes).toBe(4096);
    overlay.write(8192, new Uint8Array(1));
    expect(() => overlay.write(4096, new Uint8Array(1))).toThrow(/limit/);
    expect(() => overlay.write((1 << 20) - 1, new Uint8Array(2))).toThrow(BlockError);
  });

  test('a saved overlay put over the same base reads the same', async () => {
    const { overlay, expected } = await both(new SlowStore());
    overlay.write(1000, pattern(5000, 3));
    expected.set(pattern(5000, 3), 1000);
    await overlay.flush();
    overlay.write(9000, pattern(700, 4));
    expected.set(pattern(700, 4), 9000);
    const copy = await Overlay.open(overlay.base, new SlowStore());
    copy.importState(structuredClone(await overlay.exportState()));
    expect(Buffer.compare(await copy.read(0, expected.length), expected)).toBe(0);
  });
});
