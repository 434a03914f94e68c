import { createHash } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import { describe, expect, test, vi } from 'vitest';
import { ChunkSource } from '../../emulator/disk/chunks.ts';
import type { Fetch, FetchPolicy } from '../../emulator/disk/fetch.ts';
import {
  FetchHelper,
  type FromFetchHelper,
  serveFetches,
  type ToFetchHelper,
} from '../../emulator/disk/fetch-helper.ts';
import { fetchFile } from '../../emulator/disk/file.ts';
import type { BlockError } from '../../emulator/disk/types.ts';

const BASE = 'http://host/disk/manifest.json';
const bytes = Uint8Array.from({ length: 4096 }, (_, k) => (k * k) >> 3);
const sha256 = createHash('sha256').update(bytes).digest('hex');
const manifest = { size: 4096, chunkSize: 4096, chunks: [sha256], compression: 'gzip' as const };

/** Two threads in one: each message is a copy, and comes later. */
function pair(theirs: Fetch, ours: Fetch = () => Promise.reject(new Error('not here')), longestIdle = 10_000) {
  let toHelper: (message: ToFetchHelper) => void = () => undefined;
  let fromHelper: (message: FromFetchHelper) => void = () => undefined;
  let cut = false;
  let lose: () => void = () => undefined;
  const count = { started: 0, ended: 0 };
  const seen: ToFetchHelper[] = [];
  const helper = new FetchHelper(() => {
    count.started++;
    return {
      post(message) {
        seen.push(message);
        if (!cut) queueMicrotask(() => toHelper(structuredClone(message)));
      },
      onMessage: (listener) => (fromHelper = listener),
      onLost: (listener) => (lose = listener),
      terminate: () => count.ended++,
    };
  }, longestIdle);
  const start = (): void =>
    serveFetches(
      {
        post: (message, transfer = []) => {
          const copy = structuredClone(message, { transfer });
          if (!cut) queueMicrotask(() => fromHelper(copy));
        },
        onMessage: (listener) => (toHelper = listener),
      },
      theirs,
    );
  const policy: Partial<FetchPolicy> = {
    helper,
    fetch: ours,
    attempts: 3,
    baseDelay: 1,
    maxDelay: 1,
    stallTimeout: 100,
  };
  return { start, seen, policy, count, cutOff: () => (cut = true), lose: () => lose() };
}

const answer = (body: Uint8Array, calls: (RequestInit | undefined)[] = []): Fetch => {
  return (_, init) => {
    calls.push(init);
    return Promise.resolve(new Response(body.slice()));
  };
};

describe('a helper that fetches', () => {
  test('gets, unpacks and checks chunks and files, and what it took is counted', async () => {
    const packed = gzipSync(bytes);
    const { policy, start } = pair(answer(packed));
    start();
    await Promise.resolve();
    const source = new ChunkSource(manifest, BASE, { policy });
    expect(await source.read(0, 4096)).toEqual(bytes);
    expect(source.transfer.fetchedBytes).toBe(packed.length);
    const progress: unknown[] = [];
    const file = { url: 'http://host/kernel', size: packed.length, compression: 'gzip' as const };
    const onProgress = (...args: unknown[]): unknown => progress.push(args);
    expect(await fetchFile(file, { policy, onProgress })).toEqual(bytes);
    expect(progress.at(-1)).toEqual([packed.length, packed.length]);
  });

  test('leaves the work to the other thread until it listens, and when it is lost', async () => {
    const never: Fetch = () => new Promise(() => undefined);
    const { policy, start, lose, seen } = pair(never, answer(gzipSync(bytes)));
    const source = new ChunkSource(manifest, BASE, { policy });
    expect(await source.read(0, 4096)).toEqual(bytes);
    expect(seen).toEqual([]);
    start();
    await Promise.resolve();
    const read = source.read(0, 4096);
    expect(seen).toHaveLength(1);
    lose();
    expect(await read).toEqual(bytes);
    expect(await source.read(0, 4096)).toEqual(bytes);
    expect(seen).toHaveLength(1);
  });

  test('ends when it has nothing to do, and is there again when it has', async () => {
    const { policy, start, count, seen } = pair(answer(gzipSync(bytes)), answer(gzipSync(bytes)), 60);
    const source = new ChunkSource(manifest, BASE, { policy });
    start();
    await Promise.resolve();
    expect(await source.read(0, 4096)).toEqual(bytes);
    expect([count, seen.length]).toEqual([{ started: 1, ended: 0 }, 1]);
    await vi.waitFor(() => expect(count.ended).toBe(1));
    // One now and then is done here, as all is until the new one listens.
    expect(await source.read(0, 4096)).toEqual(bytes);
    expect([count.started, seen.length]).toEqual([1, 1]);
    for (let i = 0; i < 2; i++) expect(await source.read(0, 4096)).toEqual(bytes);
    expect([count.started, seen.length]).toEqual([2, 1]);
    start();
    await Promise.resolve();
    expect(await source.read(0, 4096)).toEqual(bytes);
    expect(seen).toHaveLength(2);
  });

  test('gives way to another one when it has fetched much', async () => {
    const { policy, start, count } = pair(answer(new Uint8Array(5 << 20)));
    start();
    await Promise.resolve();
    await fetchFile({ url: 'http://host/file' }, { policy });
    expect(count).toEqual({ started: 1, ended: 0 });
    await fetchFile({ url: 'http://host/file' }, { policy });
    expect(count).toEqual({ started: 2, ended: 1 });
  });

  test('that does not answer is done without at the third attempt', async () => {
    const { policy, start, cutOff, seen } = pair(answer(gzipSync(bytes)), answer(gzipSync(bytes)));
    start();
    await Promise.resolve();
    cutOff();
    expect(await new ChunkSource(manifest, BASE, { policy }).read(0, 4096)).toEqual(bytes);
    expect(seen.map(({ type }) => type)).toEqual(['job', 'abort', 'job', 'abort']);
  });

  test('tells what was wrong, and goes past the cache the second time', async () => {
    const calls: RequestInit[] = [];
    const { policy, start } = pair(answer(gzipSync(bytes.map((x) => x ^ 1)), calls as (RequestInit | undefined)[]));
    start();
    await Promise.resolve();
    const error = (await new ChunkSource(manifest, BASE, { policy: { ...policy, attempts: 2 } })
      .read(0, 4096)
      .catch((e: unknown) => e)) as BlockError;
    expect([error.code, error.url]).toEqual(['hash', `http://host/disk/chunks/${sha256}`]);
    expect(error.message).toContain('upload it again');
    expect(calls.map(({ cache }) => cache)).toEqual(['default', 'reload']);

    const missing = pair(() => Promise.resolve(new Response('', { status: 404 })));
    missing.start();
    await Promise.resolve();
    const lasting = (await fetchFile(
      { url: 'http://host/kernel' },
      { policy: { ...missing.policy, attempts: 1 } },
    ).catch((e: unknown) => e)) as BlockError;
    expect([lasting.code, lasting.lasting]).toEqual(['status', true]);
  });

  test('stops what nobody wants any more, and asks with the priority it is told', async () => {
    const signals: AbortSignal[] = [];
    const priorities: unknown[] = [];
    const { policy, start } = pair((_, init) => {
      signals.push(init!.signal!);
      priorities.push(init!.priority);
      return new Promise(() => undefined);
    });
    start();
    await Promise.resolve();
    const controller = new AbortController();
    const read = new ChunkSource(manifest, BASE, { policy }).read(0, 4096, controller.signal, true);
    await new Promise((resolve) => setTimeout(resolve, 5));
    controller.abort();
    await expect(read).rejects.toMatchObject({ code: 'aborted' });
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect([signals[0]!.aborted, priorities[0]]).toEqual([true, 'low']);
  });
});
