/** `npm run conformance:record`: asks the processor that this runs on, and writes vectors.bin. */
import { readFileSync, writeFileSync } from 'node:fs';
import { buildNative, runNative } from './native.ts';
import { Results } from './results.ts';
import { codeOf, formCases, Recorder, VECTORS } from './vectors.ts';

const built = buildNative();
if ('reason' in built) throw new Error(`no processor to ask: ${built.reason}`);
const processor = /^model name\s*:\s*(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1] ?? 'unknown';
const recorder = new Recorder(processor);
let forms = 0;
let cases = 0;
for (const form of formCases()) {
  const output = runNative(built.program, { ...form, code: form.native });
  const results = new Results(output, form.inputs, form.window, form.count);
  if (form.bits === 32) for (let i = 0; i < form.count; i++) results.leaveByBreakpoint(i, codeOf(form, i).exit);
  recorder.add(form, results);
  forms++;
  cases += form.count;
}
const file = recorder.finish();
writeFileSync(VECTORS, file);
console.log(
  `${cases} cases of ${forms} forms (64-bit and 32-bit) from ${processor}: ${(file.length / 1000).toFixed(0)} kB`,
);
