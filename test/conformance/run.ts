/**
 * `npm run conformance -- --cases N --seed S [--only PATTERN] [--tier interp|jit|both] [--bits 64|32]`: instruction
 * forms against the processor that this runs on.
 */
import { parseArgs } from 'node:util';
import type { Tier } from '../../emulator/processor.ts';
import { campaign } from './campaign.ts';

const { values } = parseArgs({
  options: {
    cases: { type: 'string', default: '100000' },
    seed: { type: 'string', default: '1' },
    only: { type: 'string' },
    tier: { type: 'string', default: 'both' },
    bits: { type: 'string', default: '64' },
    inputs: { type: 'string', default: '16' },
    verbose: { type: 'boolean', default: false },
  },
});
const tiers: Tier[] = values.tier === 'both' ? ['interp', 'jit'] : [values.tier as Tier];
const started = performance.now();
let tenths = 0;
const result = campaign({
  cases: Number(values.cases),
  seed: Number(values.seed),
  only: values.only === undefined ? undefined : new RegExp(values.only),
  tiers,
  bits: values.bits === '32' ? 32 : 64,
  inputs: Number(values.inputs),
  progress: (done) => {
    if (Math.floor((done * 10) / Number(values.cases)) > tenths)
      console.error(`${done} cases, ${((performance.now() - started) / 1000).toFixed(0)} s`);
    tenths = Math.floor((done * 10) / Number(values.cases));
  },
});
result.mismatches.sort((a, b) => (a.pattern < b.pattern ? -1 : a.pattern > b.pattern ? 1 : 0));
const byExample = new Map<string, string>();
for (const m of result.mismatches) {
  console.log(`${m.pattern} [${m.tier}]: ${m.count} mismatches`);
  if (byExample.get(m.pattern) !== m.example || values.verbose) console.log(`    ${m.example}`);
  byExample.set(m.pattern, m.example);
}
if (values.verbose) for (const [pattern, why] of result.excluded) console.log(`not asked: ${pattern}: ${why}`);
for (const pattern of result.missing) console.log(`not covered: ${pattern}`);
const total = result.mismatches.reduce((n, m) => n + m.count, 0);
console.log(
  `${result.cases} cases in each of ${tiers.join(', ')}, seed ${values.seed}; ${result.forms} of ${result.advertised} forms covered ` +
    `(${result.excluded.size} not asked); ${total} mismatches in ${byExample.size} forms; ${((performance.now() - started) / 1000).toFixed(1)} s`,
);
process.exitCode = total || result.missing.length ? 1 : 0;
