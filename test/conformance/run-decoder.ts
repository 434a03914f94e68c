/** `npm run conformance:decoder -- --count N --seed S`: our decoder against iced-x86, in 64-, 32- and 16-bit mode. */
import { parseArgs } from 'node:util';
import { compareDecoders } from './decoder.ts';

const { values } = parseArgs({
  options: { count: { type: 'string', default: '5000000' }, seed: { type: 'string', default: '1' } },
});
const started = performance.now();
const result = compareDecoders({ count: Number(values.count), seed: Number(values.seed) });
result.disagreements.sort((a, b) => b.count - a.count);
for (const d of result.disagreements) console.log(`${d.bits}-bit, ${d.count} times: ${d.bytes}: ${d.text}`);
console.log(
  `${result.strings} byte strings, ${result.instructions} of them instructions, seed ${values.seed}; ` +
    `${result.forms} of ${result.advertised} forms; ${result.disagreements.length} kinds of disagreement; ` +
    `${((performance.now() - started) / 1000).toFixed(1)} s`,
);
process.exitCode = result.disagreements.length ? 1 : 0;
