import { expect, test, vi } from 'vitest';
import { compileWhileIdle, type IdleMachine } from '../../emulator/idle-work.ts';
import type { CompiledCode } from '../../emulator/processor.ts';

const code: CompiledCode = {
  module: new WebAssembly.Module(Uint8Array.of(0, 0x61, 0x73, 0x6d, 1, 0, 0, 0)),
  slots: [7],
};

/** A machine that has three steps to do. */
function setUp() {
  const state = { busy: 0, complete: true, steps: 0 };
  const ripener = { add: vi.fn(), end: vi.fn() };
  const machine: IdleMachine = {
    busySeconds: () => state.busy,
    memory: () => ({ chunks: 0, demanded: 0, complete: state.complete }),
    compileAhead: (_, compiled) => () => {
      compiled(code);
      return ++state.steps < 3;
    },
  };
  return { state, ripener, machine };
}
const some = (): Promise<Uint8Array> => Promise.resolve(new Uint8Array(4));
const never = new AbortController().signal;

test('all is compiled and handed on, step by step', async () => {
  const { state, ripener, machine } = setUp();
  await compileWhileIdle(machine, some, ripener, never);
  expect(state.steps).toBe(3);
  expect(ripener.add.mock.calls).toEqual([[code], [code], [code]]);
  expect(ripener.end).toHaveBeenCalledTimes(1);
});

test('nothing is done while the guest is busy, or its memory is under way', async () => {
  const { state, ripener, machine } = setUp();
  state.complete = false;
  const done = compileWhileIdle(machine, some, ripener, never);
  await new Promise((resolve) => setTimeout(resolve, 300));
  const work = setInterval(() => (state.busy += 0.005), 5);
  state.complete = true;
  await new Promise((resolve) => setTimeout(resolve, 600));
  expect(state.steps).toBe(0);
  clearInterval(work);
  await done;
  expect(state.steps).toBe(3);
});

test('what ends it early ends the thread as well', async () => {
  const first = setUp();
  const lost = (): Promise<Uint8Array> => Promise.reject(new Error('404'));
  await expect(compileWhileIdle(first.machine, lost, first.ripener, never)).rejects.toThrow('404');
  const second = setUp();
  await compileWhileIdle(second.machine, some, second.ripener, AbortSignal.abort());
  expect([first.ripener.end, second.ripener.end].map((end) => end.mock.calls.length)).toEqual([1, 1]);
  expect([first.state.steps, second.state.steps]).toEqual([0, 0]);
});
