/**
 * `npm run conformance -- [--cases N] [--programs N] [--seed S]`: every instruction form and random programs, 64-bit and
 * 32-bit, interpreted and compiled, against the processor that this runs on. To look closer: `--only PATTERN` (of
 * forms), `--tier interp|jit`, `--bits 64|32`, `--inputs N` (for each piece of code), `--verbose`.
 */
import { fork } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { DEFS } from '../../emulator/cpu/insn.ts';
import type { Tier } from '../../emulator/processor.ts';
import { formsOfKernels } from '../unit/cpu/system-forms.ts';
import { forms, type CampaignResult, type Mismatch } from './campaign.ts';
import { describeFailure } from './describe.ts';
import type { Job, JobMessage } from './job.ts';
import { buildNative } from './native.ts';
import type { SequenceResult } from './sequences.ts';

const { values } = parseArgs({
  options: {
    cases: { type: 'string', default: '2000000' },
    programs: { type: 'string', default: '2000' },
    seed: { type: 'string', default: '1' },
    only: { type: 'string' },
    tier: { type: 'string', default: 'both' },
    bits: { type: 'string', default: 'both' },
    inputs: { type: 'string' },
    verbose: { type: 'boolean', default: false },
  },
});
const tiers: Tier[] = values.tier === 'both' ? ['interp', 'jit'] : [values.tier as Tier];
const modes: (64 | 32)[] = values.bits === 'both' ? [64, 32] : [values.bits === '32' ? 32 : 64];
const seed = Number(values.seed);
const cases = Number(values.cases);
const programs = values.only === undefined ? Number(values.programs) : 0;

const built = buildNative();
if ('reason' in built) {
  console.error(`There is no processor to compare with: ${built.reason}. What another one answered is recorded:`);
  console.error('npx vitest run test/conformance/vectors.test.ts');
  process.exit(2);
}

const PROGRAMS_OF_A_PROCESS = 500;

/** Long jobs first; each in 64-bit mode has two thirds of the cases. */
function jobs(): Job[] {
  const list: Job[] = [];
  // A short run does not need two processes for each mode.
  const parts = cases >= 200_000 ? 2 : 1;
  modes.forEach((bits, m) => {
    const share = modes.length === 1 ? 1 : bits === 64 ? 2 / 3 : 1 / 3;
    for (let k = 0; k < parts; k++)
      list.push({
        kind: 'forms',
        options: {
          cases: Math.ceil((cases * share) / parts),
          seed: seed + 1000 * (2 * m + k),
          only: values.only,
          tiers,
          bits,
          // In a short run fewer, so that every form has its turn.
          inputs: Number(values.inputs ?? Math.max(1, Math.min(32, Math.floor((cases * share) / parts / 1200)))),
        },
      });
  });
  // Compiled code is collected late, so a process should not have too many programs.
  const share = Math.ceil(programs / modes.length);
  for (const bits of modes)
    for (let first = 0; first < share; first += PROGRAMS_OF_A_PROCESS)
      list.push({
        kind: 'programs',
        options: {
          programs: Math.min(PROGRAMS_OF_A_PROCESS, share - first),
          seed: seed + first,
          runners: ['interp', 'jit', 'light', 'compiled', 'slices'],
          mix: 'all',
          bits,
          reduce: true,
        },
      });
  return list;
}

const started = performance.now();
const elapsed = (): string => ((performance.now() - started) / 1000).toFixed(0);
let processorTime = 0;
const done: { forms: (CampaignResult & { bits: number })[]; programs: SequenceResult[] } = { forms: [], programs: [] };

/** Runs one job. @throws Error when its process dies or says so */
function run(job: Job): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = fork(fileURLToPath(new URL('job.ts', import.meta.url)), {
      execArgv: process.execArgv,
      serialization: 'advanced',
    });
    const name = `${job.options.bits}-bit ${job.kind}`;
    let quarters = 0;
    let answered = false;
    child.on('message', (message: JobMessage) => {
      if ('progress' in message) {
        const now = Math.floor((message.progress * 4) / (job.kind === 'forms' ? job.options.cases : 1));
        if (now > quarters) console.error(`${elapsed()} s: ${name}: ${message.progress} cases`);
        quarters = now;
        return;
      }
      answered = true;
      if (!('error' in message)) processorTime += message.seconds;
      if ('error' in message) reject(new Error(`${name}: ${message.error}`));
      else if ('forms' in message) done.forms.push({ ...message.forms, bits: job.options.bits ?? 64 });
      else {
        done.programs.push(message.programs);
        console.error(`${elapsed()} s: ${name}: ${message.programs.programs}`);
      }
    });
    child.on('error', reject);
    child.on('exit', (status, signal) => {
      if (!answered) reject(new Error(`${name}: its process ended with ${status ?? signal}`));
      else resolve();
    });
    child.send(job);
  });
}

const queue = jobs();
/** Jobs that came to no result. The others' results are shown all the same. */
const failed: string[] = [];
await Promise.all(
  Array.from({ length: Math.min(2, availableParallelism()) }, async () => {
    for (let job = queue.shift(); job; job = queue.shift())
      await run(job).catch((e: unknown) => failed.push(e instanceof Error ? e.message : String(e)));
  }),
);

// Every form that any mode has must have been asked about, or have a kernel.
const kernels = formsOfKernels();
const asked = new Set(done.forms.flatMap((r) => r.covered));
// What the processor answered in one mode with nothing but #GP, it may have answered in the other.
const refused = new Set(
  done.forms
    .flatMap((r) => r.refused)
    .filter((p) => done.forms.every((r) => !r.covered.includes(p) || r.refused.includes(p))),
);
forms(64);
const advertised = DEFS.filter((d) => modes.some((bits) => d.only === undefined || d.only === bits))
  .map((d) => d.pattern)
  .filter((p) => values.only === undefined || new RegExp(values.only).test(p));
const uncovered = advertised.filter((p) => (!asked.has(p) || refused.has(p)) && !kernels.has(p));
const missing = done.forms.flatMap((r) => r.missing.map((p) => `${p} (${r.bits}-bit)`));

const mismatches = new Map<string, Mismatch>();
for (const m of done.forms.flatMap((r) => r.mismatches)) {
  const key = `${m.pattern} [${m.tier}]`;
  const known = mismatches.get(key);
  if (known) known.count += m.count;
  else mismatches.set(key, m);
}
const shown = new Set<string>();
for (const [key, m] of [...mismatches].sort(([a], [b]) => (a < b ? -1 : 1))) {
  console.log(`${key}: ${m.count} mismatches`);
  if (!shown.has(m.example) || values.verbose) console.log(`    ${m.example}`);
  shown.add(m.example);
}
for (const r of done.programs) for (const f of r.failures) console.log(describeFailure(f));
if (values.verbose)
  for (const r of done.forms) for (const [p, why] of r.excluded) console.log(`${r.bits}-bit, not asked: ${p}: ${why}`);
for (const p of uncovered) console.log(`not covered: ${p}`);
for (const p of missing) console.log(`not asked: ${p}`);

const sum = (list: readonly number[]): number => list.reduce((a, b) => a + b, 0);
const formCases = sum(done.forms.map((r) => r.cases));
const runs = sum(done.programs.map((r) => r.cases));
const total = sum([...mismatches.values()].map((m) => m.count)) + sum(done.programs.map((r) => r.failures.length));
const byKernels = advertised.filter((p) => kernels.has(p)).length;
console.log(
  `${formCases + runs} cases in each of ${tiers.join(', ')} (seed ${seed}): ` +
    done.forms.map((r) => `${r.cases} of ${r.bits}-bit forms`).join(', ') +
    (runs ? `, ${runs} runs of ${sum(done.programs.map((r) => r.programs))} programs` : ''),
);
console.log(
  `forms covered: ${advertised.length - uncovered.length} of ${advertised.length} advertised ` +
    `(${asked.size} asked of the processor; ${byKernels} by kernels in test/unit/cpu/system-forms.ts)`,
);
const wavered = sum(done.forms.map((r) => r.wavered));
if (wavered) console.log(`${wavered} cases that the processor answered as we do once it was asked again`);
console.log(`${total} mismatches; ${elapsed()} s, ${processorTime.toFixed(0)} s of processor time in two processes`);
for (const text of failed) console.error(text);
process.exitCode = failed.length || total || uncovered.length || missing.length ? 1 : 0;
