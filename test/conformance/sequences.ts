/** Random programs in the host's processor, the interpreter and compiled regions. */
import { defineAll } from '../../emulator/cpu/defs/index.ts';
import { ARITH, DEFS } from '../../emulator/cpu/insn.ts';
import { RBP, RSP } from '../../emulator/cpu/layout.ts';
import type { Tier } from '../../emulator/processor.ts';
import { Emulated, type Outcome } from './emulated.ts';
import { place } from './forms.ts';
import { buildNative, CODE, IN, NO_EXCEPTION, OUT, runNative, WINDOW, WINDOW_BYTES } from './native.ts';
import { f80, fill16, integer64, type Kind } from './operands.ts';
import { COUNTS_IN_MEMORY, ProgramMaker, REACH, secondBase, type Program } from './programs.ts';
import { Random } from './random.ts';
import { Comparison, Results } from './results.ts';

const SLOT_BYTES = 8192;
const PROGRAMS = 128;
const C0_TO_C3 = 0x4700;

/** A tier in the way it is run here. */
export interface Runner {
  readonly name: string;
  readonly machine: Emulated;
}

/**
 * `compiled`: regions of many blocks, made when a block has run twice; `slices`: the same, left every few instructions;
 * `light`: light ones, which become regions as the others when they have looped a little.
 */
export function runners(names: readonly string[]): Runner[] {
  return names.map((name) => {
    if (name === 'interp' || name === 'jit') return { name, machine: new Emulated(name as Tier) };
    const machine = new Emulated('auto', 2, name === 'light' ? 12 : 0);
    if (name === 'slices') machine.slice = 37;
    return { name, machine };
  });
}

function fillProgramInput(r: Random, program: Program, view: DataView, at: number): void {
  new Uint8Array(view.buffer, view.byteOffset + at, IN.SIZE).fill(0);
  view.setUint32(at + IN.ENTRY, program.entry, true);
  view.setUint32(at + IN.EXIT, program.exit, true);
  view.setUint32(at + IN.BITS, program.bits, true);
  const set = (n: number, v: number): void => view.setBigUint64(at + IN.GPR + n * 8, BigInt(v), true);
  for (let n = 0; n < 16; n++) integer64(r, view, at + IN.GPR + n * 8);
  set(RSP, WINDOW + 0x1e00);
  set(RBP, WINDOW + 0x100 + r.below(16) * 16);
  set(secondBase(program.bits), WINDOW + 0x1000 - (REACH >> 1));
  if (program.bits === 64) {
    set(14, r.below(4));
    set(15, r.below(4));
  } else {
    for (let n = 0; n < 16; n++) view.setUint32(at + IN.GPR + n * 8 + 4, 0, true);
    new Uint8Array(view.buffer, view.byteOffset + at + IN.GPR + 64, 64).fill(0);
    // Loops are not always entered at their beginning.
    view.setUint32(at + IN.PATCHES, 1, true);
    view.setUint32(at + IN.PATCH, COUNTS_IN_MEMORY - WINDOW, true);
    view.setUint32(at + IN.PATCH + 4, 8, true);
    for (const k of [0, 4]) view.setUint32(at + IN.PATCH + 8 + k, r.below(4), true);
  }
  view.setBigUint64(at + IN.RFLAGS, BigInt(0x202 | (r.u32() & ARITH)), true);
  const fx = at + IN.FX;
  view.setUint16(fx, 0x37f, true);
  view.setUint16(fx + 2, r.below(8) << 11, true);
  view.setUint8(fx + 4, r.oneIn(2) ? 0xff : r.below(256));
  view.setUint32(fx + 24, 0x1f80, true);
  for (let i = 0; i < 8; i++) {
    f80(r, view, fx + 32 + i * 16);
    for (let k = 10; k < 16; k++) view.setUint8(fx + 32 + i * 16 + k, 0);
  }
  for (let i = 0; i < 16; i++) fill16(r, r.pick<Kind>(['int', 'f32', 'f64']), view, fx + 160 + i * 16);
}

/** What differs after a program. */
function compareProgram(program: Program, results: Results, i: number, got: Outcome): string[] {
  const c = new Comparison(results.view, results.at(i), got);
  c.exception();
  c.rip(program.entry);
  if (program.bits === 64) c.registers(16, 0, 0);
  else c.registers(8, 0, -1);
  // Flags that the next instruction would have overwritten may be stale when it faults.
  c.flags(c.vector === NO_EXCEPTION ? 0xcd5 & ~program.undefinedAtEnd : 0x400);
  c.field(OUT.FX, 2, 0x1f3f, 'fcw');
  c.field(OUT.FX + 2, 2, 0xffff & ~C0_TO_C3, 'fsw');
  c.field(OUT.FX + 4, 1, 0xff, 'ftw');
  c.field(OUT.FX + 24, 2, 0xffff, 'mxcsr');
  c.vectors();
  c.memory(results.windowAfter(i));
  return c.lines;
}

/** Runs that came to their end, in the host's processor. */
let finished = 0;

interface Trial {
  program: Program;
  inputs: Uint8Array;
  count: number;
}

/** Runs programs (each with its inputs) everywhere; returns what differs, by program and runner. */
function runTrials(
  native: string,
  trials: readonly Trial[],
  window: Uint8Array,
  machines: readonly Runner[],
): { trial: Trial; runner: string; input: number; lines: string[] }[] {
  const size = Math.max(...trials.map((t) => t.program.exit - CODE)) + 64;
  const code = new Uint8Array(size).fill(0xcc);
  const emulated = code.slice();
  for (const { program } of trials) place(program, code, emulated);
  const inputs = Buffer.concat(trials.map((t) => t.inputs.subarray(0, t.count * IN.SIZE)));
  const view = new DataView(inputs.buffer, inputs.byteOffset, inputs.length);
  const count = trials.reduce((n, t) => n + t.count, 0);
  const output = runNative(native, { code, window, inputs, count });
  const results = new Results(output, inputs, window, count);
  trials
    .flatMap((t) => new Array<Program>(t.count).fill(t.program))
    .forEach((program, i) => {
      if (program.bits === 32) results.leaveByBreakpoint(i, program.exit);
    });
  if (machines.length !== 1 || trials.length !== 1)
    for (let i = 0; i < count; i++) if (results.vector(i) === NO_EXCEPTION) finished++;
  const out: { trial: Trial; runner: string; input: number; lines: string[] }[] = [];
  for (const { name, machine } of machines) {
    machine.load(emulated, window);
    let i = 0;
    for (const trial of trials) {
      let told = false;
      for (let k = 0; k < trial.count; k++, i++) {
        let lines: string[];
        try {
          lines = compareProgram(trial.program, results, i, machine.run(view, i * IN.SIZE));
        } catch (e) {
          lines = [
            `threw ${e instanceof Error ? (e.stack ?? e.message).split('\n').slice(0, 6).join(' | ') : String(e)}`,
          ];
        }
        if (lines.length && !told) {
          told = true;
          out.push({ trial, runner: name, input: k, lines });
        }
      }
    }
  }
  return out;
}

export interface SequenceOptions {
  programs: number;
  seed: number;
  runners: readonly string[];
  mix: 'integer' | 'all';
  bits?: 64 | 32;
  /** Make what fails smaller before it is shown. */
  reduce: boolean;
  /** Bytes of the main part, at most. */
  size?: number;
  /** Stop after this many failures. */
  stopAfter?: number;
}

export interface SequenceFailure {
  readonly runner: string;
  readonly lines: readonly string[];
  readonly program: Program;
  readonly input: Uint8Array;
  readonly inputIndex: number;
}

export interface SequenceResult {
  programs: number;
  cases: number;
  instructions: number;
  /** Runs that came to the program's end; the others were stopped by an exception. */
  finished: number;
  regions: number;
  failures: SequenceFailure[];
}

const INPUTS = 8;

/** @throws Error when this host cannot run the native program */
export function sequences(options: SequenceOptions): SequenceResult {
  const built = buildNative();
  if ('reason' in built) throw new Error(`no reference processor: ${built.reason}`);
  if (!DEFS.length) defineAll();
  const r = new Random(options.seed);
  const machines = runners(options.runners);
  const failures: SequenceFailure[] = [];
  let programs = 0;
  let instructions = 0;
  finished = 0;
  while (programs < options.programs && failures.length < (options.stopAfter ?? 20)) {
    const trials: Trial[] = [];
    for (let i = 0; i < PROGRAMS && programs + trials.length < options.programs; i++) {
      // Some lie across the end of a page.
      const entry = CODE + i * SLOT_BYTES + (r.oneIn(3) ? 4096 - r.below(1024) : r.below(64));
      const program = new ProgramMaker(r, entry, options.mix, options.bits ?? 64).make(
        20 + r.below(options.size ?? 900),
      );
      if (!program || program.exit > CODE + (i + 1) * SLOT_BYTES - 64) {
        i--;
        continue;
      }
      const inputs = new Uint8Array(INPUTS * IN.SIZE);
      const view = new DataView(inputs.buffer);
      for (let k = 0; k < INPUTS; k++) fillProgramInput(r, program, view, k * IN.SIZE);
      trials.push({ program, inputs, count: INPUTS });
      instructions += program.instructions.length;
    }
    const window = new Uint8Array(WINDOW_BYTES);
    const windowView = new DataView(window.buffer);
    for (let i = 0; i < WINDOW_BYTES; i += 16) fill16(r, r.pick<Kind>(['int', 'f32', 'f64']), windowView, i);
    const told = new Set<string>();
    for (const failure of runTrials(built.program, trials, window, machines)) {
      if (failures.length >= (options.stopAfter ?? 20)) break;
      const runner = machines.filter((m) => m.name === failure.runner);
      const key = `${failure.trial.program.entry} ${failure.input} ${failure.lines.join()}`;
      if (told.has(key)) continue;
      told.add(key);
      const shown = options.reduce ? reduce(built.program, failure.trial, window, runner) : failure;
      failures.push({
        runner: failure.runner,
        lines: shown.lines,
        program: shown.trial.program,
        input: shown.trial.inputs.slice(shown.input * IN.SIZE, (shown.input + 1) * IN.SIZE),
        inputIndex: shown.input,
      });
    }
    programs += trials.length;
  }
  return {
    programs,
    finished,
    cases: programs * INPUTS,
    instructions,
    regions: machines.reduce((n, m) => n + m.machine.cpu.stats.regions, 0),
    failures,
  };
}

/** Replaces instructions by NOPs as long as the program still fails. */
function reduce(
  native: string,
  trial: Trial,
  window: Uint8Array,
  runner: readonly Runner[],
): { trial: Trial; input: number; lines: string[] } {
  let bytes = trial.program.bytes;
  const attempt = (b: Uint8Array): ReturnType<typeof runTrials>[number] | undefined => {
    try {
      return runTrials(native, [{ ...trial, program: { ...trial.program, bytes: b } }], window, runner)[0];
    } catch {
      return undefined;
    }
  };
  const label = (lines: readonly string[]): string => lines.map((l) => l.split(' ')[0]).join(' ');
  let best = attempt(bytes);
  const signature = best && label(best.lines);
  if (!best) return { trial, input: 0, lines: ['(not alone)'] };
  const list = trial.program.instructions.filter((i) => i.removable);
  for (let chunk = Math.ceil(list.length / 2); chunk >= 1; chunk = chunk === 1 ? 0 : Math.ceil(chunk / 2))
    for (let k = 0; k < list.length; k += chunk) {
      const smaller = bytes.slice();
      for (const { offset, length } of list.slice(k, k + chunk)) smaller.fill(0x90, offset, offset + length);
      if (smaller.every((x, i) => x === bytes[i])) continue;
      const found = attempt(smaller);
      // The same registers: without an instruction, undefined flags may come to light.
      if (found && label(found.lines) === signature) {
        bytes = smaller;
        best = found;
      }
    }
  return best;
}
