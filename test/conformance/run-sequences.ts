/**
 * `npm run conformance:sequences -- --programs N --seed S [--runners interp,jit,light,compiled,slices] [--mix integer|all] [--bits 64|32]`:
 * random programs against the processor that this runs on.
 */
import { parseArgs } from 'node:util';
import { describeFailure } from './describe.ts';
import { sequences } from './sequences.ts';

const { values } = parseArgs({
  options: {
    programs: { type: 'string', default: '1000' },
    seed: { type: 'string', default: '1' },
    runners: { type: 'string', default: 'interp,jit,light,compiled,slices' },
    mix: { type: 'string', default: 'all' },
    bits: { type: 'string', default: '64' },
    size: { type: 'string', default: '900' },
    stop: { type: 'string', default: '20' },
    'no-reduce': { type: 'boolean', default: false },
  },
});
const started = performance.now();
const result = sequences({
  programs: Number(values.programs),
  seed: Number(values.seed),
  runners: values.runners.split(','),
  mix: values.mix === 'integer' ? 'integer' : 'all',
  bits: values.bits === '32' ? 32 : 64,
  reduce: !values['no-reduce'],
  size: Number(values.size),
  stopAfter: Number(values.stop),
});
for (const f of result.failures) console.log(describeFailure(f));
console.log(
  `${result.programs} programs of ${(result.instructions / result.programs).toFixed(0)} instructions, ${result.cases} runs (${result.finished} to the end) in each of ${values.runners}, ` +
    `seed ${values.seed}; ${result.regions} regions compiled; ${result.failures.length} mismatches; ${((performance.now() - started) / 1000).toFixed(1)} s`,
);
process.exitCode = result.failures.length ? 1 : 0;
