import type { StopReason } from '../../../emulator/processor.ts';
import { differences, type Registers, type TracedProcessor } from './processor.ts';

/** Instructions from number `from` on, `count` of them. */
export interface Window {
  from: number;
  count: number;
}

const hex16 = (value: bigint): string => value.toString(16).padStart(16, '0');

/** What one line is about, taken before the instruction runs. */
interface Before {
  count: number;
  rip: bigint;
  /** RIP if it only goes on. */
  next: bigint;
  text: string;
  written: { at: bigint; size: number } | undefined;
  registers: Registers;
  exceptions: number;
}

function before(cpu: TracedProcessor): Before {
  const { insn, text } = cpu.current();
  const o = insn?.operands[0];
  const written =
    insn?.mem && o?.kind === 'mem' && insn.def.access !== 'r' && o.size > 0 && o.size <= 16
      ? { at: cpu.operandAt(insn), size: o.size }
      : undefined;
  return {
    count: cpu.retired,
    rip: cpu.rip,
    next: cpu.rip + BigInt(insn?.len ?? 0),
    text,
    written,
    registers: cpu.registers(),
    exceptions: cpu.stats.exceptions,
  };
}

/** One line: number, privilege, address, instruction, and what has changed but for RIP going on to the next. */
function line(cpu: TracedProcessor, b: Before, all: boolean): string {
  const now = cpu.registers();
  const ran = cpu.retired - b.count;
  let text = b.text;
  if (cpu.stats.exceptions !== b.exceptions) {
    const { vector, code } = cpu.faultObject;
    text += ` #${vector}${code >= 0 ? `(${code.toString(16)})` : ''}`;
  }
  if (ran !== 1) text += ` … ${ran} instructions`;
  const changed = all
    ? now.map(([name, value]) => `${name}=${value.toString(16)}`)
    : differences(b.registers, now, false).slice(cpu.rip === b.next ? 1 : 0);
  if (b.written) {
    const bytes = cpu.bytesAt(b.written.at, b.written.size);
    if (bytes.length === b.written.size)
      changed.push(
        `[${b.written.at.toString(16)}]=${[...bytes]
          .reverse()
          .map((x) => x.toString(16).padStart(2, '0'))
          .join('')}`,
      );
  }
  return `${b.count} ${Number(b.registers[18]![1])} ${hex16(b.rip)} ${text.padEnd(40)} ${changed.join(' ')}`.trimEnd();
}

/** Lets an interrupt in that is due, as a line of its own. @returns why the processor does not go on, or `budget` */
export function letInterruptIn(cpu: TracedProcessor, all: boolean, print: (line: string) => void): StopReason {
  const start = before(cpu);
  const reason = cpu.piece(0);
  if (cpu.rip !== start.rip) print(line(cpu, { ...start, text: '(interrupt)', written: undefined }, all));
  return reason;
}

/** Runs one instruction, or one block, and tells what it did. @param all every register instead of those that changed */
export function tracedStep(cpu: TracedProcessor, all: boolean, print: (line: string) => void): StopReason {
  const b = before(cpu);
  const reason = cpu.piece(1);
  if (cpu.retired !== b.count || cpu.rip !== b.rip) print(line(cpu, b, all));
  return reason;
}

/** Runs a slice in parts without letting the compiler in between them: tiers change where they would have. */
export function withoutCompiling(cpu: TracedProcessor, work: () => StopReason): StopReason {
  const { jit } = cpu;
  const pump = jit.pump.bind(jit);
  jit.pump = () => undefined;
  try {
    return work();
  } finally {
    jit.pump = pump;
    pump(0, true);
  }
}

export interface WindowOptions extends Window {
  /** Instruction by instruction; else block by block, as the tiers run them. */
  single: boolean;
  all: boolean;
  print: (line: string) => void;
  /** The window is through. */
  done: () => void;
}

/** Lets a processor print a window of what it runs. */
export function traceWindow(cpu: TracedProcessor, options: WindowOptions): void {
  const { from, count, single, all, print, done } = options;
  cpu.driver = (budget) => {
    const start = cpu.retired;
    if (start + budget <= from) return cpu.piece(budget);
    return withoutCompiling(cpu, () => {
      if (start < from) {
        const reason = cpu.piece(from - start);
        if (reason !== 'budget') return reason;
      }
      cpu.stepping = single;
      while (cpu.retired < start + budget) {
        if (cpu.retired >= from + count) {
          done();
          return 'waiting';
        }
        let reason = letInterruptIn(cpu, all, print);
        if (reason === 'budget') reason = tracedStep(cpu, all, print);
        if (reason !== 'budget') return reason;
      }
      return 'budget';
    });
  };
}
