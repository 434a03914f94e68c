import { expect, test } from 'vitest';
import { defineAll } from '../../../emulator/cpu/defs/index.ts';
import { STATE_BASE } from '../../../emulator/cpu/layout.ts';
import { Ripener, unripe } from '../../../emulator/cpu/ripening.ts';

defineAll();

test('each handler runs to its end when it is called for its own sake', () => {
  const job = unripe(STATE_BASE);
  const { passed, trapped } = new Ripener(job).handlers(80);
  expect(trapped).toBe(0);
  // The others, such as far jumps and port accesses, are the processor's own.
  expect(passed / job.slots.length).toBeGreaterThan(0.9);
});
