import { describe, expect, test } from 'vitest';
import { InstructionClock, RealClock } from '../../emulator/machine-clock.ts';

describe('the real-time clock', () => {
  function setup(): { clock: RealClock; host: { ms: number; instructions: number } } {
    const host = { ms: 1000, instructions: 0 };
    const clock = new RealClock(
      () => host.ms,
      () => host.instructions,
      () => 42,
    );
    clock.start(0);
    return { clock, host };
  }

  test('follows the host in nanoseconds from where it was started', () => {
    const { clock, host } = setup();
    expect(clock.now()).toBeLessThan(10);
    host.ms += 2.5;
    expect(clock.now()).toBe(2_500_000);
    expect(clock.wall()).toBe(42);
  });

  test('between two ticks of the host moves with the instructions, 100 µs ahead at most', () => {
    const { clock, host } = setup();
    clock.nsPerInstruction = 5;
    host.ms += 1;
    clock.now();
    host.instructions += 1000;
    expect(clock.now()).toBe(1_005_000);
    host.instructions += 1e9;
    expect(clock.now()).toBe(1_100_000);
  });

  test('never shows the same time twice, nor an earlier one', () => {
    const { clock, host } = setup();
    let last = -1;
    for (let i = 0; i < 3000; i++) {
      if (i % 700 === 0) host.ms += 0.1;
      if (i % 3 === 0) host.instructions += 1 + (i % 977);
      const now = clock.now();
      expect(now).toBeGreaterThan(last);
      last = now;
    }
    // Half a millisecond of host time, the interpolation, and a nanosecond for each reading after that.
    expect(last).toBeLessThan(603_000);
  });

  test('stopped, it stands; started again, it goes on from the time given', () => {
    const { clock, host } = setup();
    host.ms += 1;
    const at = clock.stop();
    host.ms += 5000;
    expect(clock.now()).toBe(at);
    clock.start(at);
    host.ms += 1;
    expect(clock.now() - at).toBe(1_000_000);
  });
});

test('the deterministic clock counts instructions, and jumps forward only', () => {
  let instructions = 500;
  const clock = new InstructionClock(() => instructions, 1000);
  clock.start(2_000_000);
  instructions += 10;
  expect(clock.now()).toBe(2_000_010);
  clock.jump(3_000_000);
  clock.jump(100);
  expect([clock.now(), clock.wall()]).toEqual([3_000_000, 1003]);
});
