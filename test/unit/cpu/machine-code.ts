/** Runs raw machine code on a processor with identity-mapped memory, for the tests of instructions. */
import type { ProcessorHost, Tier } from '../../../emulator/processor.ts';
import { CS, DS, ES, FS, GPR_NAMES, GS, S, SS } from '../../../emulator/cpu/layout.ts';
import { createProcessor, type X86Processor } from '../../../emulator/cpu/processor.ts';

export const RAM = 16 << 20;
/** Where code is put, where the stack ends, and 64 KiB of data. */
export const CODE = 0x20_0000;
export const STACK = 0x30_0000;
export const DATA = 0x40_0000;
/** The page at this address is not present. */
export const HOLE = 0x41_0000;
/** The page at this address can only be read. */
export const READ_ONLY = 0x41_2000;

export type RegisterName = (typeof GPR_NAMES)[number];
export type Registers = Partial<Record<RegisterName, bigint>>;

export interface Outcome {
  registers: Record<RegisterName, bigint>;
  flags: number;
  rip: bigint;
  /** Vector and error code of the exception that is pending, or undefined. */
  fault: { vector: number; code: number } | undefined;
}

const never = (): never => {
  throw new Error('no device here');
};

export class CodeMachine {
  readonly cpu: X86Processor;
  readonly view: DataView;
  readonly bytes: Uint8Array;

  /** Instructions of one slice: short ones make compiled code stop in its loops. */
  slice = 1_000_000;

  /**
   * @param heat executions after which a block is compiled, in tier `auto`; compiling is then synchronous
   * @param rounds of a light region, after which it is compiled anew; 0 for none of these
   * @param leavings of a small region, after which it is
   */
  constructor(tier: Tier = 'interp', heat?: number, rounds = 0, leavings = rounds) {
    const host: ProcessorHost = {
      bus: {
        readPort: never,
        writePort: never,
        readMmio: () => 0xffffffff,
        writeMmio: () => undefined,
      } as unknown as ProcessorHost['bus'],
      clock: { now: () => 0n } as unknown as ProcessorHost['clock'],
      interrupts: { pending: () => -1, acknowledge: () => -1, taskPriority: 0 },
      msrs: { readMsr: () => undefined, writeMsr: () => false },
      random: (bytes) => bytes.fill(0x5a),
    };
    this.cpu = createProcessor(host, RAM, tier) as X86Processor;
    if (heat !== undefined)
      Object.assign(this.cpu, { heat, again: { rounds, leavings }, synchronous: true } satisfies Partial<X86Processor>);
    this.bytes = this.cpu.memory.bytes;
    this.view = this.cpu.memory.view;
    const entry = (at: number, value: number): void => {
      this.view.setUint32(at, value, true);
      this.view.setUint32(at + 4, 0, true);
    };
    // 2 MiB pages from 0 to 16 MiB, but 4 KiB pages from 4 to 6 MiB.
    entry(0x1000, 0x2003);
    entry(0x2000, 0x3003);
    for (let i = 0; i < 8; i++) entry(0x3000 + i * 8, (i << 21) | 0x83);
    entry(0x3000 + 2 * 8, 0x4003);
    for (let i = 0; i < 512; i++) {
      const page = (2 << 21) + i * 4096;
      entry(0x4000 + i * 8, page === HOLE ? 0 : page | (page === READ_ONLY ? 1 : 3));
    }
  }

  /** 64-bit mode, or flat 32-bit protected mode without paging. */
  private enter(bits: 64 | 32): void {
    this.cpu.enter({
      mode: bits === 64 ? 'long' : 'protected',
      rip: CODE,
      registers: {},
      cr3: 0x1000,
      gdt: { base: 0, limit: 0, cs: 0x10, ds: 0x18 },
    });
    for (const n of [ES, CS, SS, DS, FS, GS]) this.cpu.setSegmentBase(n, 0, 0);
    this.cpu.mmu.flush(true);
  }

  private load(code: readonly number[] | Uint8Array, registers: Registers, flags: number, bits: 64 | 32): void {
    this.enter(bits);
    // The same code again keeps its translation.
    const whole = [...code, 0xf4, 0xf4];
    if (whole.some((byte, i) => this.bytes[CODE + i] !== byte)) this.cpu.memory.write(CODE, Uint8Array.from(whole));
    this.cpu.setBig(4, BigInt(STACK));
    for (const [name, value] of Object.entries(registers))
      this.cpu.setBig(GPR_NAMES.indexOf(name as RegisterName), BigInt.asUintN(64, value));
    this.cpu.rflags = flags | 2;
    this.cpu.faultObject.vector = -1;
    // What the last test raised was never delivered.
    Reflect.set(this.cpu, 'faulted', false);
  }

  /** Puts 64-bit code in place with SSE enabled, for tests that set the rest of the state and run it many times. */
  prepare(code: readonly number[]): void {
    this.load(code, {}, 0, 64);
    // CR4.OSFXSR and OSXMMEXCPT
    this.cpu.cr4 |= 0x600;
    this.cpu.i32[(this.cpu.state + S.CR4) >> 2] = this.cpu.cr4;
    this.cpu.modeChanged();
  }

  private outcome(): Outcome {
    const { cpu } = this;
    const registers = {} as Record<RegisterName, bigint>;
    GPR_NAMES.forEach((name, n) => (registers[name] = cpu.big(n)));
    const { vector, code } = cpu.faultObject;
    return { registers, flags: cpu.rflags, rip: cpu.rip, fault: vector < 0 ? undefined : { vector, code } };
  }

  /** Executes one instruction (or, of a repeated one, one stretch). */
  step(code: readonly number[], registers: Registers = {}, flags = 0, bits: 64 | 32 = 64): Outcome {
    this.load(code, registers, flags, bits);
    this.cpu.step();
    return this.outcome();
  }

  /** Runs until the HLT after the code. */
  run(code: readonly number[], registers: Registers = {}, flags = 0, bits: 64 | 32 = 64): Outcome {
    this.load(code, registers, flags, bits);
    let reason = this.cpu.run(this.slice);
    for (let left = 1_000_000; reason === 'budget' && left > 0; left -= this.slice) reason = this.cpu.run(this.slice);
    if (reason !== 'halted') throw new Error(`stopped by ${reason} at ${this.cpu.rip.toString(16)}`);
    this.cpu.halted = false;
    return this.outcome();
  }

  /** As `run`, but a fault (there is no IDT, so it ends in a shutdown) is an outcome too. */
  runFault(code: readonly number[], registers: Registers = {}, flags = 0, bits: 64 | 32 = 64): Outcome {
    this.load(code, registers, flags, bits);
    this.cpu.run(1_000_000);
    this.cpu.halted = false;
    this.cpu.shutdown = false;
    return this.outcome();
  }
}
