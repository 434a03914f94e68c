import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type { spareWorker } from '../../src/spare-worker.ts';

/** Workers of a page, that do nothing. */
class StubWorker extends EventTarget {
  static all: StubWorker[] = [];
  terminated = false;
  constructor() {
    super();
    StubWorker.all.push(this);
  }
  postMessage(): void {
    // Nobody listens.
  }
  terminate(): void {
    this.terminated = true;
  }
}

beforeEach(() => {
  StubWorker.all = [];
  vi.stubGlobal('Worker', StubWorker);
  vi.resetModules();
});
afterEach(() => void vi.unstubAllGlobals());

async function load(): Promise<typeof spareWorker> {
  return (await import('../../src/spare-worker.ts')).spareWorker;
}

test('the first machine gets the worker that was there before it, the next one another', async () => {
  const spare = await load();
  expect(StubWorker.all).toHaveLength(1);
  const first = spare.take();
  expect(StubWorker.all).toHaveLength(1);
  const errors: string[] = [];
  first.onError((error) => errors.push(error.message));
  StubWorker.all[0]!.dispatchEvent(Object.assign(new Event('error', { cancelable: true }), { message: 'it broke' }));
  expect(errors).toEqual([expect.stringContaining('it broke')]);
  spare.take();
  expect(StubWorker.all.map(({ terminated }) => terminated)).toEqual([false, false]);
});

test('one that failed before anybody wanted it is not given out', async () => {
  const spare = await load();
  StubWorker.all[0]!.dispatchEvent(new Event('error', { cancelable: true }));
  spare.take();
  expect(StubWorker.all.map(({ terminated }) => terminated)).toEqual([true, false]);
});

test('where there are no workers the machine is told, not the page', async () => {
  vi.stubGlobal('Worker', undefined);
  const spare = await load();
  expect(() => spare.take()).toThrow(/no web workers/);
});
