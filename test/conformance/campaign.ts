/** Runs many cases over all forms and says what differs. */
import { defineAll } from '../../emulator/cpu/defs/index.ts';
import { DEFS, type Def } from '../../emulator/cpu/insn.ts';
import type { Tier } from '../../emulator/processor.ts';
import { describeInput, differences } from './compare.ts';
import { CODE_BYTES, Emulated } from './emulated.ts';
import { encode, place, SLOT, unaskable, type Code } from './forms.ts';
import { fillInput } from './inputs.ts';
import { buildNative, CODE, IN, INTEL_HOST, runNative, WINDOW_BYTES } from './native.ts';
import { fill16 } from './operands.ts';
import { Random } from './random.ts';
import { Results } from './results.ts';

export interface CampaignOptions {
  cases: number;
  seed: number;
  /** Only forms whose pattern matches. */
  only?: string | undefined;
  tiers: readonly Tier[];
  bits?: 64 | 32;
  /** Inputs for each piece of code. */
  inputs?: number;
  /** Told at times how far it is. */
  progress?: (done: number) => void;
}

export interface Mismatch {
  readonly pattern: string;
  readonly tier: Tier;
  count: number;
  /** One case, in words. */
  readonly example: string;
}

export interface CampaignResult {
  cases: number;
  /** Patterns of the forms that ran, and of those that could be asked for but did not. */
  covered: string[];
  missing: string[];
  /** Forms that were answered with nothing but #GP or #UD: what they do was not seen. */
  refused: string[];
  /** Forms that user mode of the host cannot be asked about, each with the reason. */
  excluded: [pattern: string, why: string][];
  mismatches: Mismatch[];
  /**
   * Cases that the processor answered as the emulator once it was asked again, and so are no mismatches: an interrupt of the host
   * between two instructions changes what user mode can see (a null selector becomes 0).
   */
  wavered: number;
}

/** Forms of the decoder's table that the host can be asked about. */
export function forms(bits: 64 | 32, only?: string): { askable: Def[]; excluded: [string, string][] } {
  if (!DEFS.length) defineAll();
  const wanted = only === undefined ? undefined : new RegExp(only);
  const excluded: [string, string][] = [];
  const askable: Def[] = [];
  for (const d of DEFS) {
    if (wanted && !wanted.test(d.pattern)) continue;
    const why = unaskable(d, bits);
    if (why) excluded.push([d.pattern, why]);
    else askable.push(d);
  }
  return { askable, excluded };
}

const BATCH_CODES = 2048;
/** Mismatches of a form in a tier from which on the processor is not asked again: each time is a process. */
const ASKED_AGAIN = 8;

/** @throws Error when this host cannot run the native program */
export function campaign(options: CampaignOptions): CampaignResult {
  const built = buildNative();
  if ('reason' in built) throw new Error(`no reference processor: ${built.reason}`);
  const bits = options.bits ?? 64;
  const perCode = options.inputs ?? 16;
  const r = new Random(options.seed);
  const { tiers } = options;
  const machines = tiers.map((tier) => new Emulated(tier));
  const { askable, excluded } = forms(bits, options.only);
  const ran = new Set<Def>();
  const answered = new Set<Def>();
  const mismatches = new Map<string, Mismatch>();
  const codesWanted = Math.ceil(options.cases / perCode);
  let cases = 0;
  let wavered = 0;
  let variant = 0;
  let next = 0;
  while (cases < options.cases) {
    // A batch: a page's last slot is given to instructions that cross into the next page.
    const memory = new Uint8Array(Math.min(CODE_BYTES, (Math.min(BATCH_CODES, codesWanted) + 64) * SLOT)).fill(0xcc);
    const emulated = memory.slice();
    const codes: Code[] = [];
    for (
      let slot = 0;
      (slot + 3) * SLOT <= memory.length && (cases + codes.length * perCode < options.cases || codes.length === 0);
      slot++
    ) {
      const d = askable[next]!;
      const at = CODE + slot * SLOT;
      const crossing = slot % 64 === 63;
      const code = encode(d, variant, r, at, bits, crossing ? at + SLOT - 1 - r.below(12) : at);
      if (code) {
        place(code, memory, emulated);
        codes.push(code);
        ran.add(d);
        if (crossing) slot++;
      } else slot--;
      if (++next === askable.length) {
        next = 0;
        variant++;
      }
    }
    const window = new Uint8Array(WINDOW_BYTES);
    const windowView = new DataView(window.buffer);
    for (let i = 0; i < WINDOW_BYTES; i += 16) fill16(r, r.pick(['int', 'f32', 'f64'] as const), windowView, i);
    const count = codes.length * perCode;
    const inputs = new Uint8Array(count * IN.SIZE);
    const view = new DataView(inputs.buffer);
    codes.forEach((code, i) => {
      for (let k = 0; k < perCode; k++) fillInput(code, r, view, (i * perCode + k) * IN.SIZE);
    });
    const codeOf = (i: number): Code => codes[Math.floor(i / perCode)]!;
    /** What the processor makes of some of the cases. */
    const ask = (first: number, number: number): Results => {
      const some = inputs.subarray(first * IN.SIZE, (first + number) * IN.SIZE);
      const output = runNative(built.program, { code: memory, window, inputs: some, count: number });
      const results = new Results(output, some, window, number, INTEL_HOST);
      if (bits === 32) for (let i = 0; i < number; i++) results.leaveByBreakpoint(i, codeOf(first + i).exit);
      return results;
    };
    const results = ask(0, count);
    for (let i = 0; i < count; i++) {
      const code = codeOf(i);
      const vector = results.vector(i);
      if (vector !== 13 && vector !== 6) answered.add(code.def);
    }
    machines.forEach((machine, t) => {
      machine.load(emulated, window);
      for (let i = 0; i < count; i++) {
        const code = codeOf(i);
        const key = `${code.def.pattern} ${tiers[t]}`;
        let lines: string[];
        try {
          const got = machine.run(view, i * IN.SIZE);
          lines = differences(code, view, results, i, got);
          if (lines.length && (mismatches.get(key)?.count ?? 0) < ASKED_AGAIN) {
            const alone = new DataView(inputs.buffer, i * IN.SIZE, IN.SIZE);
            lines = differences(code, alone, ask(i, 1), 0, got);
            if (!lines.length) wavered++;
          }
        } catch (e) {
          lines = [
            `threw ${e instanceof Error ? (e.stack ?? e.message).split('\n').slice(0, 4).join(' | ') : String(e)}`,
          ];
        }
        if (lines.length) {
          const known = mismatches.get(key);
          if (known) known.count++;
          else
            mismatches.set(key, {
              pattern: code.def.pattern,
              tier: tiers[t]!,
              count: 1,
              example: `bytes ${[...code.bytes].map((b) => b.toString(16).padStart(2, '0')).join(' ')}\n      ${describeInput(code, view, i * IN.SIZE)}\n    expected ${lines.join('\n    expected ')}`,
            });
        }
      }
    });
    cases += count;
    options.progress?.(cases);
  }
  return {
    cases,
    covered: [...ran].map((d) => d.pattern),
    missing: askable.filter((d) => !ran.has(d)).map((d) => d.pattern),
    refused: [...ran].filter((d) => !answered.has(d)).map((d) => d.pattern),
    excluded,
    mismatches: [...mismatches.values()],
    wavered,
  };
}
