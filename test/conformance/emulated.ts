/** The same cases in the emulated processor: user mode, with page tables of its own, at the same linear addresses. */
import { Bus } from '../../emulator/bus.ts';
import { CS, DS, ES, FS, GS, RSP, S, SS } from '../../emulator/cpu/layout.ts';
import { createProcessor, type X86Processor } from '../../emulator/cpu/processor.ts';
import type { ProcessorHost, Tier } from '../../emulator/processor.ts';
import {
  CODE,
  FS_BASE,
  GS_BASE,
  IN,
  NO_EXCEPTION,
  OUT,
  PATCH_BYTES,
  TIMEOUT,
  USER_CODE,
  USER_CODE32,
  USER_DATA,
  WINDOW,
  WINDOW_BYTES,
} from './native.ts';

const KIB = 1024;
const MIB = KIB * KIB;
const RAM = 8 * MIB;
const PML4 = 0x1000;
const PDPT = 0x2000;
const PD = 0x3000;
const PT_WINDOW = 0x4000;
const PT_CODE = 0x5000;
const GDT = 0x6000;
const TSS = 0x7000;
const IDT = 0x8000;
const HANDLERS = 0x10000;
const STACK_TOP = 0x30000;
/** Linear address of the RAM above, for the kernel only; the host has nothing mapped there. */
const KERNEL = 0x3800_0000;
/** The window's two pages do not lie one after the other in RAM. */
const PAGES = [0x210000, 0x250000] as const;
const READ_ONLY_PAGE = 0x260000;
const CODE_RAM = 4 * MIB;
/** Most bytes of code in a batch. */
export const CODE_BYTES = 2 * MIB;

const KERNEL_CODE = 0x10;
const PRESENT = 1;
const WRITE = 2;
const USER = 4;
const LARGE = 0x80;
/** Instructions a case may take. */
const BUDGET = 200_000;

/** What a case left behind, as an output record of the native program, and the window. */
export interface Outcome {
  readonly record: DataView;
  readonly window: Uint8Array;
}

export class Emulated {
  readonly cpu: X86Processor;
  private readonly record = new DataView(new ArrayBuffer(OUT.SIZE));
  private readonly window = new Uint8Array(WINDOW_BYTES);
  private base: Uint8Array = new Uint8Array(WINDOW_BYTES);

  /** Instructions of one slice; short ones make compiled code stop in its loops. */
  slice = BUDGET;

  /**
   * @param heat executions after which a block is compiled, in tier `auto`; compiling is then synchronous
   * @param rounds of a light region, after which it is compiled anew; 0 for none of these
   */
  constructor(tier: Tier, heat?: number, rounds = 0) {
    const host: ProcessorHost = {
      bus: new Bus(),
      clock: { now: () => 0, wall: () => 0 } as unknown as ProcessorHost['clock'],
      interrupts: { pending: () => -1, acknowledge: () => -1, taskPriority: 0 },
      msrs: { readMsr: () => undefined, writeMsr: () => false },
      random: () => undefined,
    };
    const cpu = createProcessor(host, RAM, tier) as X86Processor;
    // Inputs are beyond what compiled x87 code expects more often than a program's are.
    cpu.retreatLimit = Infinity;
    this.cpu = cpu;
    if (heat !== undefined) {
      Object.assign(cpu, { heat, again: { rounds, leavings: rounds } } satisfies Partial<X86Processor>);
      cpu.synchronous = true;
    }
    const { memory } = cpu;
    memory.write64(PML4, PDPT | PRESENT | WRITE | USER);
    memory.write64(PDPT, PD | PRESENT | WRITE | USER);
    memory.write64(PD + (KERNEL >>> 21) * 8, 0 | PRESENT | WRITE | LARGE);
    memory.write64(PD + (WINDOW >>> 21) * 8, PT_WINDOW | PRESENT | WRITE | USER);
    memory.write64(PD + (CODE >>> 21) * 8, PT_CODE | PRESENT | WRITE | USER);
    PAGES.forEach((page, i) => memory.write64(PT_WINDOW + i * 8, page | PRESENT | WRITE | USER));
    memory.write64(PT_WINDOW + 3 * 8, READ_ONLY_PAGE | PRESENT | USER);
    for (let i = 0; i < 512; i++) memory.write64(PT_CODE + i * 8, (CODE_RAM + i * 4096) | PRESENT | WRITE | USER);
    const descriptor = (selector: number, high: number): void => {
      memory.write32(GDT + (selector & ~7), 0xffff);
      memory.write32(GDT + (selector & ~7) + 4, high);
    };
    descriptor(KERNEL_CODE, 0x00af9b00);
    descriptor(0x18, 0x00cf9300);
    descriptor(USER_CODE32, 0x00cffb00);
    descriptor(USER_DATA, 0x00cff300);
    descriptor(USER_CODE, 0x00affb00);
    memory.write64(TSS + 0x24, KERNEL + STACK_TOP);
    memory.write64(TSS + 4, KERNEL + STACK_TOP);
    memory.write16(TSS + 0x66, 0x68);
    for (let v = 0; v < 256; v++) {
      const handler = KERNEL + HANDLERS + v * 16;
      memory.write32(IDT + v * 16, (KERNEL_CODE << 16) | (handler & 0xffff));
      memory.write32(IDT + v * 16 + 4, (handler & 0xffff0000) | 0x8e01 | (v === 3 || v === 4 ? 0x6000 : 0));
      memory.write8(HANDLERS + v * 16, 0xf4);
    }
    cpu.enter({
      mode: 'long',
      rip: CODE,
      cr3: PML4,
      registers: {},
      gdt: { base: KERNEL + GDT, limit: 0x3f, cs: KERNEL_CODE, ds: 0x18 },
    });
    Object.assign(cpu.idt, { baseLow: KERNEL + IDT, baseHigh: 0, limit: 0xfff });
    cpu.tr = { selector: 0x40, baseLow: KERNEL + TSS, baseHigh: 0, limit: 0x67, attributes: 0x8b, usable: true };
    cpu.cr0 |= 0x2 | 0x40000; // MP, AM
    cpu.cr4 |= 0x200 | 0x400 | 0x10000; // OSFXSR, OSXMMEXCPT, FSGSBASE
    cpu.efer |= 0x1 | 0x800; // SCE, NXE
    cpu.modeChanged();
  }

  /** New code and window contents. */
  load(code: Uint8Array, window: Uint8Array): void {
    this.cpu.memory.write(CODE_RAM, code);
    this.base = window;
  }

  /** Runs the case whose input record is at `at`. The outcome is overwritten by the next one. */
  run(input: DataView, at: number): Outcome {
    const { cpu, record, window } = this;
    const { u8 } = cpu;
    const state = cpu.state;
    const inputBytes = new Uint8Array(input.buffer, input.byteOffset);
    window.set(this.base);
    const patches = input.getUint32(at + IN.PATCHES, true);
    for (let k = 0; k < patches; k++) {
      const p = at + IN.PATCH + k * PATCH_BYTES;
      window.set(inputBytes.subarray(p + 8, p + 8 + input.getUint32(p + 4, true)), input.getUint32(p, true));
    }
    const ram = cpu.memory.bytes;
    PAGES.forEach((page, i) => ram.set(window.subarray(i * 4096, i * 4096 + 4096), page));

    const bits = input.getUint32(at + IN.BITS, true);
    const exit = input.getUint32(at + IN.EXIT, true);
    cpu.halted = false;
    cpu.shutdown = false;
    cpu.shadow = undefined;
    cpu.cpl = 3;
    const flat = { baseLow: 0, baseHigh: 0, limit: 0xffffffff, usable: true };
    const set = (n: number, selector: number, attributes: number): void =>
      void Object.assign(cpu.segments[n]!, flat, { selector, attributes });
    if (bits === 64) set(CS, USER_CODE, 0xa0fb);
    else set(CS, USER_CODE32, 0xc0fb);
    for (const n of [SS, ES, DS]) set(n, USER_DATA, 0xc0f3);
    for (const n of [FS, GS]) set(n, 0, 0xc0f3);
    for (const n of [ES, DS, SS]) cpu.setSegmentBase(n, 0, 0);
    cpu.setSegmentBase(FS, FS_BASE, 0);
    cpu.setSegmentBase(GS, GS_BASE, 0);
    u8.set(inputBytes.subarray(at + IN.GPR, at + IN.GPR + 128), state + S.GPR);
    cpu.rflags = input.getUint32(at + IN.RFLAGS, true);
    this.loadFx(inputBytes.subarray(at + IN.FX, at + IN.FX + 512), input, at + IN.FX);
    cpu.setRip(input.getUint32(at + IN.ENTRY, true), 0);
    cpu.modeChanged();
    let reason = cpu.run(this.slice);
    for (let left = BUDGET; left > 0 && reason === 'budget'; left -= this.slice) reason = cpu.run(this.slice);

    record.setUint32(OUT.VECTOR, TIMEOUT, true);
    const out = new Uint8Array(record.buffer);
    out.set(u8.subarray(state + S.GPR, state + S.GPR + 128), OUT.GPR);
    record.setBigUint64(OUT.RFLAGS, BigInt(cpu.rflags >>> 0), true);
    record.setBigUint64(OUT.RIP, cpu.rip, true);
    record.setUint32(OUT.ERROR, 0, true);
    record.setBigUint64(OUT.CR2, cpu.u64[(state + S.CR2) >> 3]!, true);
    for (let n = 0; n < 6; n++) record.setUint16(OUT.SELECTORS + n * 2, cpu.segments[n]!.selector, true);
    for (const [n, at] of [
      [FS, OUT.FS_BASE],
      [GS, OUT.GS_BASE],
    ] as const) {
      record.setInt32(at, cpu.baseLow(n), true);
      record.setInt32(at + 4, cpu.baseHigh(n), true);
    }
    const vector = (Number(cpu.rip) - KERNEL - HANDLERS) >> 4;
    if (reason === 'halted' && vector >= 0 && vector < 256) {
      // The frame: error code (where there is one), RIP, CS, RFLAGS, RSP, SS.
      const frame = STACK_TOP - 40;
      const { view } = cpu.memory;
      record.setUint32(OUT.VECTOR, vector, true);
      if (vector === 8 || (vector >= 10 && vector <= 14) || vector === 17)
        record.setUint32(OUT.ERROR, view.getUint32(frame - 8, true), true);
      record.setBigUint64(OUT.RIP, view.getBigUint64(frame, true), true);
      record.setBigUint64(OUT.RFLAGS, view.getBigUint64(frame + 16, true), true);
      record.setBigUint64(OUT.GPR + RSP * 8, view.getBigUint64(frame + 24, true), true);
      record.setUint16(OUT.SELECTORS + CS * 2, view.getUint16(frame + 8, true), true);
      record.setUint16(OUT.SELECTORS + SS * 2, view.getUint16(frame + 32, true), true);
      if (vector === 13 && view.getBigUint64(frame, true) === BigInt(exit))
        record.setUint32(OUT.VECTOR, NO_EXCEPTION, true);
    }
    this.saveFx(out.subarray(OUT.FX));
    PAGES.forEach((page, i) => window.set(ram.subarray(page, page + 4096), i * 4096));
    return { record, window };
  }

  private loadFx(fx: Uint8Array, view: DataView, at: number): void {
    const { u8, i32 } = this.cpu;
    const { state } = this.cpu;
    const word = (offset: number, value: number): void => {
      i32[(state + offset) >> 2] = value;
    };
    const status = view.getUint16(at + 2, true);
    const top = (status >> 11) & 7;
    word(S.FCW, view.getUint16(at, true));
    word(S.FSW, status & ~0x3800);
    word(S.FTOP, top);
    word(S.FTW, fx[4]!);
    word(S.MXCSR, view.getUint32(at + 24, true));
    for (let i = 0; i < 8; i++) {
      const to = state + S.X87 + ((top + i) & 7) * 16;
      u8.set(fx.subarray(32 + i * 16, 42 + i * 16), to);
    }
    u8.set(fx.subarray(160, 416), state + S.XMM);
  }

  private saveFx(fx: Uint8Array): void {
    const { u8, i32, state } = this.cpu;
    const view = new DataView(fx.buffer, fx.byteOffset, fx.byteLength);
    const top = i32[(state + S.FTOP) >> 2]!;
    fx.fill(0, 0, 160);
    view.setUint16(0, i32[(state + S.FCW) >> 2]!, true);
    view.setUint16(2, i32[(state + S.FSW) >> 2]! | (top << 11), true);
    view.setUint8(4, i32[(state + S.FTW) >> 2]!);
    view.setUint32(24, i32[(state + S.MXCSR) >> 2]!, true);
    for (let i = 0; i < 8; i++) {
      const from = state + S.X87 + ((top + i) & 7) * 16;
      fx.set(u8.subarray(from, from + 10), 32 + i * 16);
    }
    fx.set(u8.subarray(state + S.XMM, state + S.XMM + 256), 160);
  }
}
