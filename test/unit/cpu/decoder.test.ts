import { expect, test } from 'vitest';
import { compareDecoders } from '../../conformance/decoder.ts';

// 5 million strings: npm run conformance:decoder.
test('random and mutated bytes are what iced-x86 says they are, in all three modes', () => {
  const result = compareDecoders({ count: 100_000, seed: 20_260_101 });
  expect(result.disagreements).toEqual([]);
  expect(result.forms).toBe(result.advertised);
  // Not only bytes that are nothing.
  expect(result.instructions).toBeGreaterThan(result.strings / 2);
});
