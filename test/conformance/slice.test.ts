/** A slice of the conformance runs, short enough for every `npm test`. Long ones: `npm run conformance`. */
import { describe, expect, test } from 'vitest';
import { campaign } from './campaign.ts';
import { buildNative } from './native.ts';
import { sequences } from './sequences.ts';

const built = buildNative();
const SEED = 20_260_101;

describe.skipIf('reason' in built)('against the processor that this runs on', () => {
  test.each([64, 32] as const)(
    'every form of %i-bit code, interpreted',
    (bits) => {
      const result = campaign({ cases: 30_000, seed: SEED, tiers: ['interp'], bits, inputs: 10 });
      expect(result.mismatches).toEqual([]);
      expect(result.missing).toEqual([]);
    },
    120_000,
  );

  test('every form of 64-bit code, compiled', () => {
    const result = campaign({ cases: 30_000, seed: SEED + 1, tiers: ['jit'], inputs: 25 });
    expect(result.mismatches).toEqual([]);
    expect(result.missing).toEqual([]);
  }, 120_000);

  test.each([64, 32] as const)(
    'random programs of %i-bit code, interpreted and compiled',
    (bits) => {
      const result = sequences({
        programs: bits === 64 ? 100 : 60,
        seed: SEED,
        runners: ['interp', 'light', 'compiled', 'slices'],
        mix: 'all',
        bits,
        reduce: false,
      });
      expect(result.failures.map((f) => ({ runner: f.runner, lines: f.lines }))).toEqual([]);
      // Most come to their end, and regions were indeed made.
      expect(result.finished).toBeGreaterThan(result.cases / 2);
      expect(result.regions).toBeGreaterThan(100);
    },
    120_000,
  );

  test('random programs that are left every few instructions, and entered again where they were left', () => {
    const result = sequences({ programs: 150, seed: 5, runners: ['slices'], mix: 'all', reduce: false });
    expect(result.failures.map((f) => ({ runner: f.runner, lines: f.lines }))).toEqual([]);
    expect(result.regions).toBeGreaterThan(100);
  }, 120_000);
});
