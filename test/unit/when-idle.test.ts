import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { whenIdle } from '../../emulator/when-idle.ts';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

/** Something that is busy for `share` of the time. */
function busy(share: number) {
  const work = { share, seconds: 0 };
  setInterval(() => (work.seconds += work.share / 10), 100);
  return work;
}

test('it waits until there is nothing to do, and calls once', () => {
  const work = busy(1);
  const then = vi.fn();
  whenIdle(() => work.seconds, then);
  vi.advanceTimersByTime(5000);
  work.share = 0.3;
  vi.advanceTimersByTime(5000);
  expect(then).not.toHaveBeenCalled();
  work.share = 0.02;
  vi.advanceTimersByTime(1100);
  expect(then).toHaveBeenCalledTimes(1);
  vi.advanceTimersByTime(5000);
  expect(then).toHaveBeenCalledTimes(1);
});

test('it can be called off', () => {
  const work = busy(1);
  const then = vi.fn();
  const cancel = whenIdle(() => work.seconds, then);
  vi.advanceTimersByTime(1000);
  cancel();
  work.share = 0;
  vi.advanceTimersByTime(5000);
  expect(then).not.toHaveBeenCalled();
});
