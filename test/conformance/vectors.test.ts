/** The recorded answers of a real processor, on every host; nothing is asked of this one. */
import { describe, expect, test } from 'vitest';
import { DEFS } from '../../emulator/cpu/insn.ts';
import { formsOfKernels } from '../unit/cpu/system-forms.ts';
import { differences } from './compare.ts';
import { Emulated } from './emulated.ts';
import { IN } from './native.ts';
import { codeOf, formCases, Vectors } from './vectors.ts';

const vectors = new Vectors();

describe.each(['interp', 'jit', 'light'] as const)('recorded answers, %s', (tier) => {
  test('every form does what the processor did', () => {
    const machine = new Emulated(tier);
    const stale: string[] = [];
    const wrong: string[] = [];
    let forms = 0;
    for (const form of formCases()) {
      const results = vectors.results(form);
      if (!results) {
        stale.push(`${form.def.pattern} (${form.bits}-bit)`);
        continue;
      }
      forms++;
      machine.load(form.emulated, form.window);
      const input = new DataView(form.inputs.buffer);
      for (let i = 0; i < form.count; i++) {
        const lines = differences(codeOf(form, i), input, results, i, machine.run(input, i * IN.SIZE));
        if (lines.length) wrong.push(`${form.def.pattern} (${form.bits}-bit), case ${i}: ${lines.join('; ')}`);
      }
    }
    expect(wrong).toEqual([]);
    // The generator draws other cases than it did: npm run conformance:record
    expect(stale).toEqual([]);
    expect(forms).toBeGreaterThan(1800);
  }, 300_000);
});

test('every form has an answer, or a kernel of our own where user mode sees only #GP and #UD', () => {
  const answered = new Set<string>();
  for (const form of formCases()) {
    const results = vectors.results(form);
    for (let i = 0; results && i < form.count; i++)
      if (![6, 13].includes(results.vector(i))) answered.add(form.def.pattern);
  }
  const kernels = formsOfKernels();
  expect(DEFS.map((d) => d.pattern).filter((p) => !answered.has(p) && !kernels.has(p))).toEqual([]);
});
