import { readFileSync } from 'node:fs';
import * as prettier from 'prettier';
import { expect, test } from 'vitest';
import { readResults } from '../compatibility/results.ts';
import { compatibilityTable, withTable } from '../compatibility/table.ts';

test('the README says what the processor offers and what is known to work: npm run compatibility', async () => {
  const readme = readFileSync('README.md', 'utf8');
  const options = { ...(await prettier.resolveConfig('README.md')), filepath: 'README.md' };
  expect(readme).toBe(await prettier.format(withTable(readme, compatibilityTable(readResults())), options));
});

test('what a run showed is in the table', () => {
  const table = compatibilityTable([
    { program: "Python's test_math", passed: true },
    { program: "Python's test_long", passed: true, detail: 'run=1,044 skipped=2' },
    { program: "Python's test_signal", passed: false, detail: 'test_a' },
    { program: 'sums', passed: true },
  ]);
  expect(table).toMatch(/^\| Python's own tests that pass \| `math`, `long` \(1,044, skipped 2\); skipped are .* \|$/m);
  expect(table).toMatch(/^\| does not pass: Python's test_signal \| test_a \|$/m);
  expect(table).toMatch(/results of the host \| sums \|$/m);
  expect(table).toMatch(/offered by CPUID \| .*SSE4\.2.*64-bit mode/);
  expect(table).toMatch(/not offered \| .*AVX/);
});
