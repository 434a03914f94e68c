import 'fake-indexeddb/auto';
import { IDBFactory } from 'fake-indexeddb';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { BlockCache } from '../../emulator/disk/cache.ts';
import { sha256Hex } from '../../emulator/disk/hash.ts';
import { HttpRangeSource } from '../../emulator/disk/http-range.ts';
import { type BaseIdentity, identifyRange } from '../../emulator/disk/identity.ts';
import type { DiskManifest, ManifestFile } from '../../emulator/disk/manifest.ts';
import { MemorySource } from '../../emulator/disk/memory.ts';
import { MemoryStore, Overlay } from '../../emulator/disk/overlay.ts';
import type { PagedState } from '../../emulator/machine.ts';
import { encodeSnapshot, SNAPSHOT_FORMAT } from '../../emulator/snapshot.ts';
import { writeDiff, writeImage } from '../../emulator/storage/diff.ts';
import { IdbStore, type IdbStoreOptions } from '../../emulator/storage/idb-store.ts';
import { SnapshotReader } from '../../emulator/storage/reader.ts';
import { deleteStorage, exportStorage, listStorage, StorageError } from '../../src/storage.ts';
import { LinuxVM, type LinuxVMOptions } from '../../src/vm.ts';
import { FakeWorker } from '../fakes/machine.ts';

const SIZE = 64 * 4096;
const base: BaseIdentity = { id: 'chunks:one', name: 'debian', size: SIZE };

function pattern(length: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let x = seed;
  for (let i = 0; i < length; i++) bytes[i] = (x = (x * 1103515245 + 12345) >>> 0) >>> 16;
  return bytes;
}

async function code(work: Promise<unknown>): Promise<string> {
  const error = await work.then(
    () => undefined,
    (cause: unknown) => cause,
  );
  expect(error).toBeInstanceOf(StorageError);
  return (error as StorageError).code;
}

const opened: { close(): void }[] = [];

async function openStore(changes: Partial<IdbStoreOptions> = {}): Promise<IdbStore> {
  const store = await IdbStore.open({ key: 'work', base, ...changes });
  opened.push(store);
  return store;
}

async function openOverlay(store: IdbStore): Promise<Overlay> {
  return Overlay.open(new BlockCache(new MemorySource(pattern(SIZE, 1))), store, { dirtyLimit: 4 * 4096 });
}

beforeEach(() => {
  globalThis.indexedDB = new IDBFactory();
});
afterEach(() => {
  for (const store of opened.splice(0)) store.close();
  vi.restoreAllMocks();
});

describe('store', () => {
  test('random writes, discards and flushes are there after it was closed and opened again', async () => {
    const expected = pattern(SIZE, 1);
    let x = 3;
    const random = (n: number): number => (x = (x * 1103515245 + 12345) & 0x7fffffff) % n;
    for (let round = 0; round < 3; round++) {
      const store = await openStore();
      const overlay = await openOverlay(store);
      expect(Buffer.compare(await overlay.read(0, SIZE), expected)).toBe(0);
      for (let i = 0; i < 80; i++) {
        const offset = random(SIZE - 1);
        const length = 1 + random(Math.min(20000, SIZE - offset));
        const kind = random(10);
        if (kind < 6) {
          const data = kind ? pattern(length, i) : new Uint8Array(length);
          await overlay.write(offset, data);
          expected.set(data, offset);
        } else if (kind < 7) {
          overlay.discard(offset, length);
          const from = Math.ceil(offset / 4096) * 4096;
          const to = Math.floor((offset + length) / 4096) * 4096;
          if (to > from) expected.fill(0, from, to);
        } else if (kind < 9)
          expect(Buffer.compare(await overlay.read(offset, length), expected.subarray(offset, offset + length))).toBe(
            0,
          );
        else await overlay.flush();
      }
      await overlay.flush();
      overlay.close();
    }
    const store = await openStore();
    const held = [...(await store.open())];
    const data = await store.read(held);
    expect(store.storedBytes).toBe(data.filter((bytes) => bytes !== null).length * 4096);
    expect(data.some((bytes) => bytes === null)).toBe(true);
  });

  test('what was written before a flush is committed strictly when it returns, in one transaction', async () => {
    const transactions = vi.spyOn(IDBDatabase.prototype, 'transaction');
    const overlay = await openOverlay(await openStore());
    for (let i = 0; i < 4; i++) await overlay.write(i * 4096, pattern(4096, i));
    transactions.mockClear();
    await overlay.flush();
    const writing = transactions.mock.calls.filter(([names]) => [...names].includes('map'));
    expect(writing.map(([, mode, options]) => [mode, options?.durability])).toEqual([['readwrite', 'strict']]);
    // The other tab's view, with nothing closed.
    const reader = await SnapshotReader.open('work');
    expect([...reader.blocks()]).toEqual([0, 1, 2, 3]);
    reader.close();
  });

  test('a flush after writes that went out unasked makes these strict too', async () => {
    const overlay = await openOverlay(await openStore());
    await overlay.write(0, pattern(4096, 1));
    const reader = await overlay.snapshot();
    reader.close();
    const transactions = vi.spyOn(IDBDatabase.prototype, 'transaction');
    await overlay.flush();
    await overlay.flush();
    expect(transactions.mock.calls.filter(([, , options]) => options?.durability === 'strict').length).toBe(1);
  });

  test('a guest that flushes waits for space; others are told at once', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
    try {
      class Narrow extends MemoryStore {
        full = true;
        override async write(blocks: ReadonlyMap<number, Uint8Array | null>): Promise<void> {
          if (this.full) throw new StorageError('storage-full', 'there is no space');
          return super.write(blocks);
        }
        isFull = (cause: unknown): boolean => cause instanceof StorageError && cause.code === 'storage-full';
      }
      const store = new Narrow();
      const told: string[] = [];
      const overlay = await Overlay.open(new BlockCache(new MemorySource(pattern(SIZE, 1))), store, {
        dirtyLimit: 4096,
        onError: () => told.push('error'),
        onFull: () => told.push('full'),
      });
      const open = async (): Promise<Overlay> =>
        Overlay.open(new BlockCache(new MemorySource(pattern(SIZE, 1))), store, { dirtyLimit: 4096 });
      for (let i = 0; i < 12; i++) void overlay.write(i * 4096, pattern(4096, i));
      const ends: string[] = [];
      const late = Promise.resolve(overlay.write(12 * 4096, pattern(4096, 12))).then(() => ends.push('write'));
      const flushed = overlay.flush().then(() => ends.push('flush'));
      await expect(overlay.keep()).rejects.toThrow('there is no space');
      await vi.advanceTimersByTimeAsync(60_000);
      expect([ends, overlay.waitsForSpace, new Set(told)]).toEqual([[], true, new Set(['full'])]);
      store.full = false;
      await vi.advanceTimersByTimeAsync(4000);
      await Promise.all([late, flushed]);
      expect(overlay.waitsForSpace).toBe(false);
      await overlay.flush();
      expect(Buffer.compare(await (await open()).read(12 * 4096, 4096), pattern(4096, 12))).toBe(0);

      store.full = true;
      void overlay.write(0, pattern(4096, 9));
      const cut = expect(overlay.flush()).rejects.toThrow();
      await vi.advanceTimersByTimeAsync(10);
      overlay.close();
      await cut;
    } finally {
      vi.useRealTimers();
    }
  });

  test('blocks imported quietly are kept with the first write, and not before', async () => {
    const store = await openStore();
    const overlay = await openOverlay(store);
    const imported: [number, Uint8Array][] = [1, 2].map((block) => [block, pattern(4096, block)]);
    overlay.importState({ blockSize: 4096, blocks: imported }, true);
    await overlay.flush();
    expect([store.generation, overlay.dirtyBytes]).toEqual([0, 0]);
    expect(Buffer.compare(await overlay.read(4096, 8192), Buffer.concat(imported.map(([, bytes]) => bytes)))).toBe(0);
    await overlay.write(2 * 4096 + 10, new Uint8Array([7]));
    await overlay.flush();
    const [first, second] = await store.read([1, 2]);
    imported[1]![1][10] = 7;
    expect([Buffer.compare(first!, imported[0]![1]), Buffer.compare(second!, imported[1]![1])]).toEqual([0, 0]);
  });

  test('what nobody flushes is written after a while', async () => {
    const store = await openStore();
    const overlay = await openOverlay(store);
    await overlay.write(0, pattern(4096, 1));
    expect(store.generation).toBe(0);
    await vi.waitFor(() => expect(store.generation).toBe(1), { timeout: 5000 });
    expect(overlay.dirtyBytes).toBe(0);
  });

  test('a transaction that fails half way keeps nothing; at a full store writes wait until there is space again', async () => {
    const store = await openStore();
    const errors: string[] = [];
    const overlay = await Overlay.open(new BlockCache(new MemorySource(pattern(SIZE, 1))), store, {
      dirtyLimit: 4 * 4096,
      onFull: (error) => errors.push(error.message),
    });
    await overlay.write(0, pattern(4096, 50));
    await overlay.flush();
    const put = IDBObjectStore.prototype.put;
    let room = 2;
    const full = vi.spyOn(IDBObjectStore.prototype, 'put').mockImplementation(function (
      this: IDBObjectStore,
      value: unknown,
      key?: IDBValidKey,
    ) {
      if (this.name === 'blocks' && room-- <= 0) throw new DOMException('full', 'QuotaExceededError');
      return put.call(this, value, key);
    });
    for (let i = 0; i < 4; i++) await overlay.write(i * 4096, pattern(4096, 60 + i));
    await expect(overlay.keep()).rejects.toThrow(/no more space.*what was written before is safe/s);
    expect(errors.length).toBe(1);
    const before = await SnapshotReader.open('work');
    expect([...before.blocks()]).toEqual([0]);
    expect(Buffer.compare((await before.read([0]))[0]!, pattern(4096, 50))).toBe(0);
    before.close();
    // Memory does not fill up instead, and what was answered can still be read.
    let answered = 0;
    const writes = Array.from({ length: 36 }, async (_, i) => {
      await overlay.write((4 + i) * 4096, pattern(4096, 64 + i));
      answered++;
    });
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(answered).toBeLessThan(10);
    expect(overlay.dirtyBytes).toBeLessThan(12 * 4096);
    expect(Buffer.compare(await overlay.read(2 * 4096, 4096), pattern(4096, 62))).toBe(0);
    full.mockRestore();
    await Promise.all(writes);
    await overlay.flush();
    await overlay.write(40 * 4096, pattern(4096, 100));
    const after = await overlay.snapshot();
    expect(Buffer.compare((await after.read([40]))[0]!, pattern(4096, 100))).toBe(0);
    after.close();
  });

  test('a second owner shuts the first one out, and loses nothing of what that had flushed', async () => {
    const lost: string[] = [];
    const first = await openStore({ onLost: (error) => lost.push(error.code) });
    const overlay = await openOverlay(first);
    await overlay.write(0, pattern(4096, 7));
    await overlay.flush();
    await overlay.write(0, pattern(4096, 8));
    const second = await openStore({ takeOver: true });
    await expect(overlay.flush()).rejects.toThrow(/took over/);
    expect(lost).toEqual(['storage-taken']);
    expect(Buffer.compare((await second.read([0]))[0]!, pattern(4096, 7))).toBe(0);
  });

  test('a reader sees the disk as it was, whatever is written, discarded or dropped afterwards', async () => {
    const store = await openStore();
    const overlay = await openOverlay(store);
    for (let i = 0; i < 4; i++) await overlay.write(i * 4096, pattern(4096, i));
    await overlay.flush();
    const early = await SnapshotReader.open('work');
    await overlay.write(0, pattern(4096, 10));
    overlay.discard(4096, 4096);
    await overlay.flush();
    const late = await SnapshotReader.open('work');
    await overlay.write(0, pattern(4096, 11));
    await overlay.write(10 * 4096, pattern(4096, 12));
    await overlay.flush();
    const is = async (reader: SnapshotReader, blocks: number[], seeds: (number | null)[]): Promise<void> => {
      expect([...reader.blocks()]).toEqual(blocks);
      const found = await reader.read(blocks);
      expect(found.map((b, i) => (b ? Buffer.compare(b, pattern(4096, seeds[i] ?? -1)) : b))).toEqual(
        seeds.map((seed) => (seed === null ? null : 0)),
      );
    };
    await is(early, [0, 1, 2, 3], [0, 1, 2, 3]);
    await is(late, [0, 1, 2, 3], [10, null, 2, 3]);
    await overlay.halt();
    await store.replace(store.stagedSet, [], 0);
    await is(early, [0, 1, 2, 3], [0, 1, 2, 3]);
    for (const reader of [early, late]) reader.close();
    expect([...(await (await SnapshotReader.open('work')).blocks())]).toEqual([]);
  });
});

describe('base image', () => {
  const other: BaseIdentity = { id: 'chunks:two', name: 'debian 2', size: SIZE };
  const manifest = { name: 'debian' } as DiskManifest;

  async function written(): Promise<void> {
    const store = await openStore({ manifest });
    const overlay = await openOverlay(store);
    await overlay.write(0, pattern(4096, 1));
    await overlay.flush();
    overlay.close();
  }

  test('changes are never put over another base: the user is asked, with what can be done', async () => {
    await written();
    const work = IdbStore.open({ key: 'work', base: other, reachable: async (stored) => stored.id === base.id });
    expect(await code(work)).toBe('storage-base-changed');
    expect(await work.catch((error: StorageError) => error.details)).toEqual({
      key: 'work',
      stored: base,
      current: other,
      storedBytes: 4096,
      canKeep: true,
    });
  });

  test('kept: the old base comes back, and is not asked about again until there is yet another', async () => {
    await written();
    const kept = await openStore({ base: other, onBaseChange: 'keep' });
    expect([kept.base, kept.manifest]).toEqual([base, manifest]);
    kept.close();
    const again = await openStore({ base: other });
    expect([...(await again.open())]).toEqual([0]);
    again.close();
    expect(await code(IdbStore.open({ key: 'work', base: { ...other, id: 'chunks:three' } }))).toBe(
      'storage-base-changed',
    );
  });

  test('reset: nothing of the changes is left, and it belongs to the new base', async () => {
    await written();
    const fresh = await openStore({ base: other, onBaseChange: 'reset' });
    expect([...(await fresh.open()), fresh.storedBytes, fresh.base]).toEqual([0, other]);
    await vi.waitFor(async () => {
      const database = await new Promise<IDBDatabase>((resolve) => {
        const request = indexedDB.open('linux-vm:work');
        request.onsuccess = () => resolve(request.result);
      });
      const count = await new Promise((resolve) => {
        const request = database.transaction('blocks').objectStore('blocks').count();
        request.onsuccess = () => resolve(request.result);
      });
      database.close();
      expect(count).toBe(0);
    });
  });

  test.each<[string, Record<string, string>, Record<string, string>, boolean]>([
    ['equal tags', { etag: '"a"' }, { etag: '"a"', 'last-modified': 'Mon, 01 Jan 2024 00:00:00 GMT' }, true],
    ['other tags', { etag: '"a"' }, { etag: '"b"' }, false],
    ['other dates', { 'last-modified': 'Mon, 01 Jan 2024 00:00:00 GMT' }, { 'last-modified': 'x' }, false],
    ['other weak tags', { etag: 'W/"a"' }, { etag: 'W/"b"' }, false],
    ['nothing but the address', {}, {}, true],
  ])('a raw image on a server: %s', async (_, before, after, same) => {
    const identify = async (headers: Record<string, string>): Promise<string> => {
      const range = { ...headers, 'content-range': 'bytes 0-511/8192' };
      const fetch = async (): Promise<Response> => new Response(new Uint8Array(512), { status: 206, headers: range });
      return identifyRange(await HttpRangeSource.open('http://host/disk.ext2', { policy: { fetch } })).id;
    };
    expect((await identify(before)) === (await identify(after))).toBe(same);
  });

  test('storage that was never written takes the new base without a question', async () => {
    (await openStore()).close();
    expect((await openStore({ base: other })).base).toEqual(other);
  });
});

// Through the API, with a machine that is none.

const image = pattern(SIZE, 1);
const kernel = new Uint8Array([0x7f, 0x45, 0x4c, 0x46]);

async function start(options: Partial<LinuxVMOptions> = {}): Promise<{ vm: LinuxVM; worker: FakeWorker }> {
  const worker = new FakeWorker();
  const vm = await LinuxVM.start({ kernel, disk: image, worker: worker.factory, storageKey: 'work', ...options });
  return { vm, worker };
}
const device = (worker: FakeWorker): Overlay => worker.machine.parts.disk!.device;
const all = async (stream: ReadableStream<Uint8Array>): Promise<Blob> =>
  new Response(stream as ReadableStream<Uint8Array<ArrayBuffer>>).blob();
const bytesOf = async (blob: Blob): Promise<Uint8Array> => new Uint8Array(await blob.arrayBuffer());

describe('machine', () => {
  test('what it wrote is there at its next start, flushed or not', async () => {
    const first = await start();
    await device(first.worker).write(4096, pattern(4096, 9));
    await first.vm.stop();
    const second = await start();
    expect(Buffer.compare(await device(second.worker).read(4096, 4096), pattern(4096, 9))).toBe(0);
    await second.vm.stop();
    const ephemeral = await start({ storageKey: undefined });
    expect(Buffer.compare(await device(ephemeral.worker).read(4096, 4096), image.subarray(4096, 8192))).toBe(0);
    await ephemeral.vm.stop();
  });

  test('tells how it stands, and stays ephemeral where nothing can be stored', async () => {
    const { vm, worker } = await start();
    await device(worker).write(0, pattern(8192, 2));
    await vm.disk.flush();
    expect(await vm.disk.status()).toMatchObject({ mode: 'exclusive', storedBytes: 8192, dirtyBytes: 0 });
    await vm.stop();
    vi.spyOn(indexedDB, 'open').mockImplementation(() => {
      throw new DOMException('no', 'SecurityError');
    });
    const blocked = await start();
    const status = await blocked.vm.disk.status();
    expect([status?.mode, /does not let this page store/.test(status?.reason ?? '')]).toEqual(['ephemeral', true]);
    await device(blocked.worker).write(0, pattern(8192, 2));
    await blocked.vm.stop();
  });

  test('tells when it cannot begin a new log, and keeps changes all the same', async () => {
    vi.stubGlobal('navigator', { userAgentData: { brands: [{ brand: 'Chromium' }] } });
    const put = IDBObjectStore.prototype.put;
    vi.spyOn(IDBObjectStore.prototype, 'put').mockImplementation(function (this: IDBObjectStore, value, key) {
      if (String(key).startsWith('padding')) throw new DOMException('full', 'QuotaExceededError');
      return put.call(this, value, key);
    });
    try {
      const { vm, worker } = await start();
      await device(worker).write(0, pattern(8192, 2));
      await vm.disk.flush();
      const status = await vm.disk.status();
      expect(status).toMatchObject({ mode: 'exclusive', storedBytes: 8192, problem: undefined });
      expect(status?.warning).toMatch(/could not begin a new log .*no more space.*Export/);
      await vm.stop();
    } finally {
      vi.unstubAllGlobals();
    }
  });

  test('goes on from the right snapshot; the rest of its memory comes when it has said something and is quiet', async () => {
    const files = new Map<string, Uint8Array>();
    const file = async (console: string): Promise<ManifestFile> => {
      const pages = { pages: new Uint32Array(0), slots: new Uint32Array(0), chunkPages: 64 };
      const memory = { size: 0, first: { pages: new Uint32Array(0), bytes: new Uint8Array(0) }, table: pages };
      const overlay = { blockSize: 4096, blocks: [] };
      const bytes = encodeSnapshot({
        state: { memory } as unknown as PagedState,
        overlay,
        console: new TextEncoder().encode(console),
      });
      const url = `chunks/state-${files.size}`;
      files.set(`https://example.org/d/${url}`, bytes);
      return { url, size: bytes.length, sha256: await sha256Hex(bytes), compression: 'none' };
    };
    const manifest: DiskManifest = {
      format: 'linux-vm-disk',
      version: 1,
      name: 'd',
      size: SIZE,
      chunkSize: 4096,
      compression: 'gzip',
      chunks: Array.from({ length: SIZE / 4096 }, () => null),
      cmdline: '',
      bootChunks: [],
      snapshot: {
        format: SNAPSHOT_FORMAT,
        memory: 512 << 20,
        state: await file('ready # '),
        size: 4096,
        chunkSize: 4096,
        chunks: ['a'.repeat(64)],
        kernel: { state: await file('') },
      },
    };
    files.set('https://example.org/d/manifest.json', new TextEncoder().encode(JSON.stringify(manifest)));
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
    try {
      const rest: string[] = [];
      const begin = async (): Promise<{ vm: LinuxVM; worker: FakeWorker }> => {
        const worker = new FakeWorker();
        const { create } = worker;
        worker.create = async (parts, events) =>
          Object.assign(await create(parts, events), {
            resumeFrom: () => undefined,
            fetchRest: () => rest.push(vm.origin.from),
          });
        worker.fetch = async (url) => new Response(files.get(url) as Uint8Array<ArrayBuffer>);
        const disk = 'https://example.org/d/manifest.json';
        const vm = await LinuxVM.start({ disk, worker: worker.factory, storageKey: 'work' });
        return { vm, worker };
      };
      const first = await begin();
      await vi.advanceTimersByTimeAsync(1100);
      expect(rest).toEqual(['snapshot']);
      await device(first.worker).write(0, pattern(4096, 1));
      await first.vm.disk.flush();
      await first.vm.stop();
      // Before its mount it has much to do, and says nothing.
      const second = await begin();
      await vi.advanceTimersByTimeAsync(5000);
      expect(rest).toEqual(['snapshot']);
      second.worker.machine.print('ready # ');
      await vi.advanceTimersByTimeAsync(1100);
      expect(rest).toEqual(['snapshot', 'kernel']);
      await second.vm.stop();
    } finally {
      vi.useRealTimers();
    }
  });

  test('read-only: sees what is stored, may write, and keeps nothing of it', async () => {
    const first = await start();
    await device(first.worker).write(0, pattern(4096, 3));
    await first.vm.disk.flush();
    const reader = await start({ storageMode: 'read-only' });
    expect(Buffer.compare(await device(reader.worker).read(0, 4096), pattern(4096, 3))).toBe(0);
    await device(reader.worker).write(0, pattern(4096, 4));
    await device(reader.worker).flush();
    expect(Buffer.compare(await device(reader.worker).read(0, 4096), pattern(4096, 4))).toBe(0);
    expect((await reader.vm.disk.status())?.mode).toBe('read-only');
    await reader.vm.stop();
    expect(Buffer.compare(await device(first.worker).read(0, 4096), pattern(4096, 3))).toBe(0);
    await first.vm.stop();
  });

  test('the loser of a take-over stops with the reason', async () => {
    const first = await start();
    await device(first.worker).write(0, pattern(4096, 3));
    await first.vm.disk.flush();
    const second = await start({ storageMode: 'take-over' });
    await device(first.worker).write(0, pattern(4096, 4));
    await first.vm.disk.flush().catch(() => undefined);
    const exit = await first.vm.exited;
    expect([exit.reason, (exit.error as StorageError).code]).toEqual(['error', 'storage-taken']);
    expect(Buffer.compare(await device(second.worker).read(0, 4096), pattern(4096, 3))).toBe(0);
    await second.vm.stop();
  });

  test('another image under the same key is a question that reaches the page with its details', async () => {
    const first = await start();
    await device(first.worker).write(0, pattern(4096, 3));
    await first.vm.stop();
    const asked = start({ disk: pattern(SIZE, 77) });
    expect(await code(asked)).toBe('storage-base-changed');
    expect(await asked.catch((error: StorageError) => error.details)).toMatchObject({ storedBytes: 4096 });
    const dropped = await start({ disk: pattern(SIZE, 77), storageBase: 'reset' });
    expect(device(dropped.worker).heldBytes).toBe(0);
    await dropped.vm.stop();
  });
});

describe('saved machine', () => {
  const restore = async (
    state: Blob,
    options: Parameters<typeof LinuxVM.restore>[1] = {},
    fails = false,
  ): Promise<{ vm: LinuxVM; worker: FakeWorker }> => {
    const worker = new FakeWorker();
    worker.failing = fails;
    return { worker, vm: await LinuxVM.restore(state, { disk: image, worker: worker.factory, ...options }) };
  };
  /** A machine that was saved with `a` at 0, and had `b` at 4096 when it was stopped. */
  const saved = async (): Promise<Blob> => {
    const { vm, worker } = await start();
    await device(worker).write(0, pattern(4096, 3));
    const state = await vm.saveState();
    await device(worker).write(4096, pattern(4096, 4));
    await vm.stop();
    return state;
  };
  const expectDisk = async (worker: FakeWorker, first: Uint8Array, second: Uint8Array): Promise<void> => {
    const bytes = await device(worker).read(0, 8192);
    expect([Buffer.compare(bytes.subarray(0, 4096), first), Buffer.compare(bytes.subarray(4096), second)]).toEqual([
      0, 0,
    ]);
  };

  test('takes the place of what is kept, and what it writes is kept from then on', async () => {
    const again = await restore(await saved(), { storageKey: 'work' });
    await expectDisk(again.worker, pattern(4096, 3), image.subarray(4096, 8192));
    expect(await again.vm.disk.status()).toMatchObject({ mode: 'exclusive', storedBytes: 4096 });
    await device(again.worker).write(4096, pattern(4096, 5));
    await again.vm.stop();
    const next = await start();
    await expectDisk(next.worker, pattern(4096, 3), pattern(4096, 5));
    await next.vm.stop();
  });

  test('that cannot go on leaves what is kept as it is', async () => {
    await expect(restore(await saved(), { storageKey: 'work' }, true)).rejects.toThrow('of another build');
    const next = await start();
    await expectDisk(next.worker, pattern(4096, 3), pattern(4096, 4));
    await next.vm.stop();
  });

  test('of another disk than the one that is kept keeps nothing, and says so', async () => {
    const state = await saved();
    await deleteStorage('work');
    const other = await start({ disk: pattern(SIZE, 77) });
    await device(other.worker).write(0, pattern(4096, 9));
    await other.vm.stop();
    const again = await restore(state, { storageKey: 'work' });
    await expectDisk(again.worker, pattern(4096, 3), image.subarray(4096, 8192));
    const status = await again.vm.disk.status();
    expect([status?.mode, /saved with another disk/.test(status?.reason ?? '')]).toEqual(['ephemeral', true]);
    await again.vm.stop();
    const kept = await start({ disk: pattern(SIZE, 77) });
    expect(Buffer.compare(await device(kept.worker).read(0, 4096), pattern(4096, 9))).toBe(0);
    await kept.vm.stop();
  });

  test('does not go on over another version of its disk', async () => {
    await expect(restore(await saved(), { disk: pattern(SIZE, 77) })).rejects.toThrow(/another version of its disk/);
  });

  test('with a block that its disk does not have is refused', async () => {
    const bytes = new Uint8Array(await (await saved()).arrayBuffer());
    const view = new DataView(bytes.buffer);
    view.setFloat64(12 + view.getUint32(8, true), NaN, true);
    await expect(restore(new Blob([bytes]), { storageKey: 'work' })).rejects.toThrow(/block NaN/);
    await expect(restore(new Blob([bytes]))).rejects.toThrow();
  });
});

describe('suspended machine', () => {
  test('goes on where it was while the disk is as it was', async () => {
    const first = await start({ memory: 128 });
    await device(first.worker).write(0, pattern(4096, 3));
    await first.vm.suspend();
    expect((await first.vm.exited).reason).toBe('suspended');
    for (let i = 0; i < 2; i++) {
      const again = await start({ memory: 256, resume: true });
      expect(again.worker.machine.restored).toBe('RAM and devices');
      expect(again.worker.machine.parts.spec.memory).toBe(128);
      expect(await again.vm.disk.status()).toMatchObject({ resume: 'resumed', suspendedBytes: 15 });
      await again.vm.stop();
    }
    const cold = await start();
    expect(cold.worker.machine.restored).toBe('');
    await cold.vm.stop();
  });

  test('is dropped when the disk was written after it', async () => {
    const first = await start();
    await device(first.worker).write(0, pattern(4096, 3));
    await first.vm.suspend({ keepRunning: true });
    expect(first.worker.machine.running).toBe(true);
    await device(first.worker).write(0, pattern(4096, 4));
    await first.vm.stop();
    const again = await start({ resume: true });
    expect(again.worker.machine.restored).toBe('');
    expect((await again.vm.disk.status())?.resume).toBe('none');
    await again.vm.stop();
  });

  test('boots when the state cannot be used, and says why', async () => {
    const first = await start();
    await first.vm.suspend();
    const worker = new FakeWorker();
    const { create } = worker;
    worker.create = async (parts, events) => {
      const machine = await create(parts, events);
      machine.restore = () => Promise.reject(new Error('it was saved by another version'));
      return machine;
    };
    const vm = await LinuxVM.start({ kernel, disk: image, worker: worker.factory, storageKey: 'work', resume: true });
    expect(worker.machines.map((machine) => [machine.started, machine.disposed])).toEqual([
      [false, true],
      [true, false],
    ]);
    expect((await vm.disk.status())?.resume).toMatch(/another version/);
    await vm.stop();
  });

  test('needs a key', async () => {
    const { vm } = await start({ storageKey: undefined });
    await expect(vm.suspend()).rejects.toThrow(/storage key/);
    await vm.stop();
  });
});

describe('export and import', () => {
  test('a diff put over the same base reads the same; the export is of one moment', async () => {
    const { vm, worker } = await start();
    const disk = device(worker);
    await disk.write(0, pattern(3 * 4096, 3));
    disk.discard(8 * 4096, 4096);
    const expected = await disk.read(0, SIZE);
    const diff = vm.disk.exportDiff().getReader();
    const parts = [(await diff.read()).value!];
    const whole = vm.disk.exportImage();
    const imageReader = whole.getReader();
    const firstOfImage = (await imageReader.read()).value!;
    await disk.write(0, pattern(4096, 99));
    await disk.flush();
    for (;;) {
      const { done, value } = await diff.read();
      if (done) break;
      parts.push(value);
    }
    const rest = [firstOfImage];
    for (;;) {
      const { done, value } = await imageReader.read();
      if (done) break;
      rest.push(value);
    }
    expect(Buffer.compare(await bytesOf(new Blob(rest as BlobPart[])), expected)).toBe(0);
    await vm.stop();
    const file = new Blob(parts as BlobPart[]);

    for (const storageKey of [undefined, 'other']) {
      const copy = await start({ storageKey, diff: file });
      expect(Buffer.compare(await device(copy.worker).read(0, SIZE), expected)).toBe(0);
      await copy.vm.stop();
    }
    expect(await code(start({ storageKey: 'other', diff: file }))).toBe('storage-not-empty');

    const third = await start({ storageKey: 'third' });
    await device(third.worker).write(20 * 4096, pattern(4096, 5));
    await third.vm.disk.importDiff(file);
    expect((await third.vm.exited).reason).toBe('stopped');
    const imported = await start({ storageKey: 'third' });
    expect(Buffer.compare(await device(imported.worker).read(0, SIZE), expected)).toBe(0);
    await imported.vm.disk.reset();
    await imported.vm.exited;
    const reset = await start({ storageKey: 'third' });
    expect(Buffer.compare(await device(reset.worker).read(0, SIZE), image)).toBe(0);
    await reset.vm.stop();
  });

  test.each<[string, (good: Blob) => Promise<Blob>, string]>([
    ['a cut file', async (good) => good.slice(0, good.size - 20), 'storage-damaged'],
    [
      'a changed file',
      async (good) => {
        const bytes = await bytesOf(good);
        bytes[bytes.length - 6]! ^= 1;
        return new Blob([bytes as Uint8Array<ArrayBuffer>]);
      },
      'storage-damaged',
    ],
    ['another file', async () => new Blob(['hello']), 'storage-damaged'],
    [
      'a diff of another base',
      async () => all(writeDiff({ id: 'chunks:9', name: 'x', size: SIZE }, await new MemoryStore().snapshot())),
      'storage-base-changed',
    ],
  ])('%s changes nothing, and the machine goes on', async (_, make, expected) => {
    const { vm, worker } = await start();
    await device(worker).write(0, pattern(4096, 3));
    const good = await all(vm.disk.exportDiff());
    await device(worker).write(0, pattern(4096, 4));
    expect(await code(vm.disk.importDiff(await make(good)))).toBe(expected);
    expect(worker.machine.running).toBe(true);
    await device(worker).write(4096, pattern(4096, 5));
    await vm.stop();
    const again = await start();
    expect(Buffer.compare(await device(again.worker).read(0, 4096), pattern(4096, 4))).toBe(0);
    expect(Buffer.compare(await device(again.worker).read(4096, 4096), pattern(4096, 5))).toBe(0);
    await again.vm.stop();
  });

  test('an image has the overlay over the base where blocks and chunks meet', async () => {
    const store = new MemoryStore(4096);
    const source = new MemorySource(pattern(3 * 65536 + 512, 1));
    const overlay = await Overlay.open(new BlockCache(source), store);
    for (const [offset, length] of [
      [65536 - 100, 200],
      [3 * 65536 + 10, 400],
      [131072, 65536],
    ] as const)
      await overlay.write(offset, pattern(length, offset));
    const written = await all(writeImage(source, await overlay.snapshot()));
    expect(await sha256Hex(await bytesOf(written))).toBe(await sha256Hex(await overlay.read(0, source.size)));
  });
});

describe('what is stored', () => {
  test('is listed with sizes, exported without a machine, and deleted', async () => {
    for (const [storageKey, seed] of [
      ['a', 1],
      ['b', 2],
    ] as const) {
      const { vm, worker } = await start({ storageKey });
      await device(worker).write(0, pattern(seed * 4096, 40 + seed));
      await vm.suspend();
    }
    const listed = (await listStorage()).sort((a, b) => a.key.localeCompare(b.key));
    expect(listed.map(({ key, storedBytes, suspendedBytes }) => [key, storedBytes, suspendedBytes])).toEqual([
      ['a', 4096, 15],
      ['b', 8192, 15],
    ]);
    const copy = await start({ storageKey: 'c', diff: await all(exportStorage('b')) });
    expect(Buffer.compare(await device(copy.worker).read(0, 8192), pattern(8192, 42))).toBe(0);
    await copy.vm.stop();
    await deleteStorage('a');
    expect((await listStorage()).map(({ key }) => key).sort()).toEqual(['b', 'c']);
    expect(await code(all(exportStorage('a')))).toBe('storage-lost');
  });
});
