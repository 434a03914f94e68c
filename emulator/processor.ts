import type { Bus, Saved } from './bus.ts';
import type { Clock } from './clock.ts';
import type { GuestMemory } from './memory.ts';

/** What the processor knows of its local interrupt controller (the LAPIC implements it). */
export interface InterruptSource {
  /** The vector that would be delivered now (above the processor priority), or -1. Cheap: asked at every slice. */
  pending(): number;
  /** Takes the pending vector into service and returns it, or -1 when there is none. */
  acknowledge(): number;
  /** CR8: the task priority class, 0 to 15. */
  taskPriority: number;
}

/** MSRs that belong to a device (IA32_APIC_BASE, IA32_TSC_DEADLINE). */
export interface DeviceMsrs {
  /** The value, or undefined when this MSR is none of the device's. */
  readMsr(index: number): bigint | undefined;
  /** false: none of the device's, or a value that must raise #GP. */
  writeMsr(index: number, value: bigint): boolean;
}

/** What the machine gives its processor. */
export interface ProcessorHost {
  readonly bus: Bus;
  /** The time-stamp counter runs at 1 GHz: TSC = clock.now() + IA32_TSC_ADJUST. */
  readonly clock: Clock;
  readonly interrupts: InterruptSource;
  readonly msrs: DeviceMsrs;
  /** Fills `bytes` with random data, for RDRAND and RDSEED. */
  random(bytes: Uint8Array): void;
}

/** Registers at the kernel's entry point. Numbers are addresses below 4 GiB. */
export interface EntryState {
  /** `long`: 64-bit mode, paging on with `cr3`. `protected`: 32-bit flat protected mode, paging off (PVH, Multiboot). */
  mode: 'long' | 'protected';
  rip: number;
  /** Initial general registers by name; the rest are 0. */
  registers: Partial<Record<'rax' | 'rbx' | 'rcx' | 'rdx' | 'rsi' | 'rdi' | 'rbp' | 'rsp', number>>;
  /** Page tables in RAM (`long` only). */
  cr3?: number;
  /**
   * A GDT in RAM, already written by the loader, and the selectors that CS and the data segments start with.
   * The descriptor caches are flat whatever the table holds.
   */
  gdt: { base: number; limit: number; cs: number; ds: number };
}

/**
 * Why `run` came back: `budget` used up, `halted` in HLT with nothing pending, `waiting` for a page of RAM that is not
 * here yet, `shutdown` after a triple fault.
 */
export type StopReason = 'budget' | 'halted' | 'waiting' | 'shutdown';

/**
 * Which tier may run: `auto` promotes by heat, the others force one (`jit` and `light`, regions of one kind: see EAGER in
 * cpu/jit.ts).
 */
export const TIERS = ['auto', 'interp', 'jit', 'light'] as const;
export type Tier = (typeof TIERS)[number];

export interface ProcessorStats {
  /** Guest instructions retired. */
  instructions: number;
  /** Of these, retired in the interpreter and in compiled regions. */
  interpreted: number;
  compiled: number;
  /** Regions compiled so far, and bytes of WebAssembly emitted for them. */
  regions: number;
  codeBytes: number;
  /** Milliseconds in which that was written; not those in which the engine compiled it, in the background. */
  emitMilliseconds?: number;
  /** How often the guest has stood still for the compiler for more than 20 ms. */
  longPauses?: number;
  /** Exceptions and interrupts delivered, TLB fills. */
  exceptions: number;
  interrupts: number;
  tlbFills: number;
}

/** Plain, structured-cloneable registers and caches of the processor; RAM is saved by the machine. */
export interface ProcessorState {
  [key: string]: unknown;
}

/** A module of compiled code, and the table slots that its functions are in. */
export interface CompiledCode {
  readonly module: WebAssembly.Module;
  readonly slots: readonly number[];
}

export interface Processor extends Saved<ProcessorState> {
  readonly memory: GuestMemory;
  /** Puts the processor at a kernel's entry point. */
  enter(state: EntryState): void;
  /**
   * Runs until about `budget` instructions have retired or there is a reason to stop. Interrupts are taken at block
   * boundaries. Synchronous: call it in slices of a few milliseconds and let the event loop breathe between them.
   */
  run(budget: number): StopReason;
  /** The interrupt controller's answer may have changed: leave the running code at the next block boundary. */
  interruptChanged(): void;
  /** Code is compiled between two slices while the guest waits, so that the tiers change at the same instruction in every run. */
  synchronous?: boolean;
  /**
   * Compiles code that is known to run often before it does.
   *
   * @param hotCode what is known (`encodeHotCode` of cpu/hot-code.ts)
   * @param compiled is given what came of it
   * @returns what does a little of it, to be called while the guest has nothing to do, and says whether there is more
   * @throws Error when `hotCode` is damaged
   */
  compileAhead?(hotCode: Uint8Array, compiled: (code: CompiledCode) => void): () => boolean;
  readonly stats: ProcessorStats;
  /** `stats.instructions` to the instruction, also from inside `run`, without making an object: clocks are read often. */
  readonly instructions?: number;
}
