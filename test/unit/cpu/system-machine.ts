/** A processor with descriptor tables, a TSS and one handler for each vector, for the tests of system instructions. */
import { afterAll, expect, vi } from 'vitest';
import { Bus } from '../../../emulator/bus.ts';
import { GPR_NAMES, S } from '../../../emulator/cpu/layout.ts';
import { createProcessor, type X86Processor } from '../../../emulator/cpu/processor.ts';
import type { StopReason, Tier } from '../../../emulator/processor.ts';

export const CODE = 0x20_0000;
export const USER_STACK = 0x40_0000;
export const KERNEL_STACK = 0x30_0000;
export const RSP0 = 0x31_0000;
export const IST1 = 0x32_0000;
export const DATA = 0x50_0000;
/** 2 MiB from here are not present. */
export const HOLE = 0xe0_0000;

/** 2 MiB that `smallPages` maps page by page, and their table. */
export const SMALL = 0x60_0000;
export const PT = 0x6000;
export const TABLES = 0x1000;
export const PD = 0x3000;
export const GDT = 0x8000;
export const TSS = 0x9000;
export const IDT = 0xa000;
/** The handler of vector n, a HLT, is at HANDLERS + 16 n. */
export const HANDLERS = 0xc000;

export const KCODE64 = 0x10;
export const KDATA = 0x18;
export const UCODE32 = 0x23;
export const UDATA = 0x2b;
export const UCODE64 = 0x33;
export const KCODE32 = 0x38;
export const TASK = 0x40;
/** User data that is not present, and room for a test's own descriptor of 16 bytes. */
export const ABSENT = 0x53;
export const FREE = 0x58;

const IF = 0x200;

export interface FramePart {
  vector: number;
  /** Quadwords on the handler's stack, from its RSP. */
  stack: bigint[];
}

/** An exception or interrupt as its handler sees it. */
export interface Trap {
  vector: number;
  code: number;
  /** Relative to CODE. */
  rip: number;
  cs: number;
  flags: number;
  rsp: number;
  ss: number;
  cr2: number;
}

export class SystemMachine {
  readonly cpu: X86Processor;
  readonly view: DataView;
  readonly bus = new Bus();
  /** Vector that the interrupt controller offers, or -1. */
  pending = -1;
  time = 0;
  readonly written: [port: number, width: number, value: number][] = [];

  constructor(tier: Tier = 'interp') {
    this.bus.addPorts(0x60, 4, {
      readPort: (port, width) => (0x11223344 & (width === 4 ? -1 : (1 << (8 * width)) - 1)) + (port - 0x60),
      writePort: (port, width, value) => this.written.push([port, width, value]),
    });
    this.cpu = createProcessor(
      {
        bus: this.bus,
        clock: { now: () => this.time, wall: () => 0 },
        interrupts: {
          pending: () => this.pending,
          acknowledge: () => {
            const vector = this.pending;
            this.pending = -1;
            return vector;
          },
          taskPriority: 0,
        },
        msrs: { readMsr: () => undefined, writeMsr: () => false },
        random: (bytes) => bytes.fill(0x5a),
      },
      16 << 20,
      tier,
    ) as X86Processor;
    this.view = this.cpu.memory.view;
  }

  quad(at: number, value: bigint | number): void {
    this.view.setBigUint64(at, BigInt.asUintN(64, BigInt(value)), true);
  }
  read(at: number): bigint {
    return this.view.getBigUint64(at, true);
  }

  /** A 64-bit interrupt gate (type 14) or trap gate (15). */
  gate(vector: number, options: { dpl?: number; ist?: number; type?: number } = {}): void {
    const target = HANDLERS + vector * 16;
    const { dpl = 0, ist = 0, type = 14 } = options;
    this.view.setUint32(IDT + vector * 16, (target & 0xffff) | (KCODE64 << 16), true);
    this.view.setUint32(IDT + vector * 16 + 4, (target & 0xffff0000) | 0x8000 | (dpl << 13) | (type << 8) | ist, true);
    this.quad(IDT + vector * 16 + 8, 0);
  }

  /** 64-bit kernel mode at `CODE` with everything set up anew; the registers are then set by name. */
  kernel(code: readonly number[], registers: Partial<Record<(typeof GPR_NAMES)[number], bigint | number>> = {}): void {
    const { cpu } = this;
    const handlers = cpu.memory.bytes.slice(HANDLERS, HANDLERS + 0x1000);
    cpu.memory.bytes.fill(0, 0, 0x10000);
    this.quad(TABLES, 0x2007);
    this.quad(0x2000, PD | 7);
    for (let i = 0; i < 7; i++) this.quad(PD + i * 8, (i << 21) | 0x87);
    const descriptors: [number, bigint][] = [
      [KCODE64, 0x00af9b000000ffffn],
      [KDATA, 0x00cf93000000ffffn],
      [UCODE32, 0x00cffb000000ffffn],
      [UDATA, 0x00cff3000000ffffn],
      [UCODE64, 0x00affb000000ffffn],
      [KCODE32, 0x00cf9b000000ffffn],
      [TASK, 0x0000890090000000n | 0x9fn],
      [ABSENT, 0x00cf73000000ffffn],
    ];
    for (const [selector, value] of descriptors) this.descriptor(selector, value);
    this.quad(TSS + 4, RSP0);
    this.quad(TSS + 0x24, IST1);
    this.view.setUint16(TSS + 0x66, 0x68, true);
    cpu.memory.bytes.fill(0xff, TSS + 0x68, TSS + 0xa0);
    for (let vector = 0; vector < 256; vector++) {
      this.gate(vector);
      // What a test put there is translated code by now; the same bytes again keep their translation.
      const at = HANDLERS + vector * 16;
      if (handlers[vector * 16] !== 0xf4) cpu.memory.write(at, Uint8Array.of(0xf4));
      else cpu.memory.bytes[at] = 0xf4;
    }
    cpu.memory.write(CODE, Uint8Array.from([...code, 0xf4]));
    cpu.enter({
      mode: 'long',
      rip: CODE,
      registers: { rsp: KERNEL_STACK },
      cr3: TABLES,
      gdt: { base: GDT, limit: 0x67, cs: KCODE64, ds: KDATA },
    });
    for (const [name, value] of Object.entries(registers))
      cpu.setBig(GPR_NAMES.indexOf(name as 'rax'), BigInt.asUintN(64, BigInt(value)));
    Object.assign(cpu.idt, { baseLow: IDT, baseHigh: 0, limit: 0xfff });
    cpu.tr = { selector: TASK, baseLow: TSS, baseHigh: 0, limit: 0x9f, attributes: 0x8b, usable: true };
    cpu.mmu.flush(true);
    this.pending = -1;
    this.written.length = 0;
  }

  /** As `kernel`, in 32-bit protected mode without paging, with 32-bit gates. */
  protected(code: readonly number[], registers: Partial<Record<(typeof GPR_NAMES)[number], number>> = {}): void {
    const { cpu } = this;
    this.kernel(code);
    for (let vector = 0; vector < 256; vector++) this.gate32(vector);
    this.descriptor(TASK, 0x0000_8b00_9000_0067n);
    cpu.enter({
      mode: 'protected',
      rip: CODE,
      registers: { rsp: KERNEL_STACK, ...registers },
      gdt: { base: GDT, limit: 0x67, cs: KCODE32, ds: KDATA },
    });
    Object.assign(cpu.idt, { baseLow: IDT, baseHigh: 0, limit: 0x7ff });
    cpu.tr = { selector: TASK, baseLow: TSS, baseHigh: 0, limit: 0x67, attributes: 0x8b, usable: true };
  }

  /** An interrupt gate of 32-bit protected mode. */
  gate32(vector: number, { target = HANDLERS + vector * 16, dpl = 0 } = {}): void {
    this.view.setUint32(IDT + vector * 8, (target & 0xffff) | (KCODE32 << 16), true);
    this.view.setUint32(IDT + vector * 8 + 4, (target & 0xffff0000) | 0x8e00 | (dpl << 13), true);
  }

  descriptor(selector: number, value: bigint): void {
    this.quad(GDT + (selector & ~7), value);
  }

  /** As `kernel`, with the code run in user mode: entered by IRETQ. */
  user(
    code: readonly number[],
    registers: Partial<Record<(typeof GPR_NAMES)[number], bigint | number>> = {},
    flags = 0x202,
    cs = UCODE64,
  ): void {
    this.kernel(code, { ...registers, rsp: KERNEL_STACK - 40 });
    [CODE, cs, flags, USER_STACK, UDATA].forEach((value, i) => this.quad(KERNEL_STACK - 40 + i * 8, value));
    this.cpu.memory.write(CODE - 16, Uint8Array.from([0x48, 0xcf]));
    this.cpu.setRip(CODE - 16, 0);
  }

  /** Runs until HLT (or what else stops it); clears the halt. */
  run(): StopReason {
    const reason = this.cpu.run(100_000);
    this.cpu.halted = false;
    return reason;
  }

  /** Runs into a handler and tells which one and what is on its stack. */
  fault(): FramePart {
    const reason = this.run();
    const at = Number(this.cpu.rip) - HANDLERS - 1;
    if (reason !== 'halted' || at < 0 || at >= 0x1000 || at % 16)
      throw new Error(`no handler was entered: ${reason} at ${this.cpu.rip.toString(16)}`);
    const rsp = Number(this.cpu.big(4));
    return { vector: at / 16, stack: [0, 1, 2, 3, 4, 5].map((i) => this.read(rsp + i * 8)) };
  }

  /** As `fault`, with what the processor pushed by name. `code` is -1 for exceptions that have none. */
  trap(): Trap {
    const { vector, stack } = this.fault();
    const coded = [8, 10, 11, 12, 13, 14, 17].includes(vector);
    const [rip, cs, flags, rsp, ss] = (coded ? stack.slice(1) : stack).map(Number) as [
      number,
      number,
      number,
      number,
      number,
    ];
    const code = coded ? Number(stack[0]) : -1;
    const cr2 = Number(this.cpu.u64[(this.cpu.state + S.CR2) >> 3]);
    return { vector, code, rip: rip - CODE, cs, flags, rsp, ss, cr2 };
  }

  /** Maps the 2 MiB at 0x600000 by 4 KiB pages, identical at first. */
  smallPages(): void {
    this.quad(PD + (SMALL >> 21) * 8, PT | 7);
    for (let i = 0; i < 512; i++) this.quad(PT + i * 8, (SMALL + i * 4096) | 7);
    this.cpu.mmu.flush(true);
  }

  /** Sets the entry of one of the small pages: by default present, writable, the user's. */
  page(linear: number, physical: number, flags: number | bigint = 7): void {
    this.quad(PT + ((linear >> 12) & 511) * 8, BigInt(physical) | BigInt(flags));
  }
  pageEntry(linear: number): bigint {
    return this.read(PT + ((linear >> 12) & 511) * 8);
  }

  get interruptsOn(): boolean {
    return (this.cpu.rflags & IF) !== 0;
  }
}

/** A region that cannot be written or compiled is only reported, and its code interpreted: here that is a failure. */
export function watchCompiler(): void {
  const errors = vi.spyOn(console, 'error');
  afterAll(() => expect(errors.mock.calls).toEqual([]));
}
