/**
 * The processor's state as TypeScript sees it, and the services that helpers use. Registers live in WebAssembly memory
 * (layout.ts); what emitted code never touches lives here.
 */
import type { Bus } from '../bus.ts';
import type { GuestMemory } from '../memory.ts';
import type { ProcessorHost } from '../processor.ts';
import { bitsToFlags, flagsToBits } from './flags.ts';
import { ARITH, type Insn } from './insn.ts';
import { CS, Mode, S } from './layout.ts';
import { metaAddress, offsetOf } from './record.ts';
import { Mmu } from './mmu.ts';
import { SystemRegisters } from './system/registers.ts';

/** A segment register: selector and descriptor cache. */
export interface Segment {
  selector: number;
  /** Base when it was loaded; also at S.SEG_BASE, where SWAPGS changes it (use `Cpu.setSegmentBase`, `baseLow` and `baseHigh`). */
  baseLow: number;
  baseHigh: number;
  /** Limit in bytes (granularity applied), unsigned. */
  limit: number;
  /** Descriptor bits 40 to 55: type, S, DPL, P, limit 16–19 (unused), AVL, L, D/B, G. */
  attributes: number;
  /** Usable: not a null selector. */
  usable: boolean;
}

/** One of the six that instructions name: emitted code reads its selector. */
class SegmentRegister implements Segment {
  baseLow = 0;
  baseHigh = 0;
  limit = 0;
  attributes = 0;
  usable = false;

  /** @param at index of the selector in `words` */
  constructor(
    private readonly words: Int32Array,
    private readonly at: number,
  ) {}

  get selector(): number {
    return this.words[this.at]!;
  }
  set selector(value: number) {
    this.words[this.at] = value;
  }
}

/**
 * The vector of a fault that is no exception: a page of RAM is not here yet (`GuestMemory.absent`). It takes the way of a
 * page fault back to the run loop, with the instruction undone, and nothing is delivered.
 */
export const ABSENT = 256;

/** The exception in flight: thrown by helpers and the MMU, caught at the border to emitted code. One object for each processor. */
export class GuestFault extends Error {
  vector = 0;
  /** Error code, or -1 for none. */
  code = -1;
  override readonly name = 'GuestFault';
}

export interface DescriptorTable {
  baseLow: number;
  baseHigh: number;
  limit: number;
}

export abstract class Cpu {
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly i32: Int32Array;
  readonly u32: Uint32Array;
  readonly i64: BigInt64Array;
  readonly u64: BigUint64Array;
  readonly f64: Float64Array;
  readonly view: DataView;
  readonly mmu: Mmu;
  readonly bus: Bus;

  cr0 = 0;
  cr3Low = 0;
  cr3High = 0;
  cr4 = 0;
  efer = 0;
  cpl = 0;
  readonly segments: readonly Segment[];
  readonly gdt: DescriptorTable = { baseLow: 0, baseHigh: 0, limit: 0 };
  readonly idt: DescriptorTable = { baseLow: 0, baseHigh: 0, limit: 0 };
  ldt: Segment = emptySegment();
  tr: Segment = emptySegment();
  /** DR0 to DR3 (linear addresses), DR6, DR7. */
  readonly dr = new BigUint64Array(8);
  /** MSRs with plain storage, by index. */
  readonly msrs = new Map<number, bigint>();
  /** Set by HLT; cleared by the run loop. */
  halted = false;
  /** Triple fault. */
  shutdown = false;
  /** The vector of an interrupt that was acknowledged, and whose delivery waits for a page of RAM; −1 for none. */
  heldInterrupt = -1;
  readonly faultObject = new GuestFault();
  /** Registers that only the system instructions use (STAR, TSC_ADJUST…). */
  readonly sys = new SystemRegisters();

  constructor(
    readonly wasmMemory: WebAssembly.Memory,
    readonly host: ProcessorHost,
    ramSize: number,
    readonly state: number,
  ) {
    const buffer = wasmMemory.buffer;
    this.u8 = new Uint8Array(buffer);
    this.u16 = new Uint16Array(buffer);
    this.i32 = new Int32Array(buffer);
    this.u32 = new Uint32Array(buffer);
    this.i64 = new BigInt64Array(buffer);
    this.u64 = new BigUint64Array(buffer);
    this.f64 = new Float64Array(buffer);
    this.view = new DataView(buffer);
    this.segments = Array.from(
      { length: 6 },
      (_, n) => new SegmentRegister(this.i32, (state + S.SELECTORS + 4 * n) >> 2),
    );
    this.bus = host.bus;
    this.mmu = new Mmu(this, host.bus, ramSize);
  }

  // ---- provided by the code cache and the run loop (processor.ts) ----

  abstract readonly memory: GuestMemory;

  /** Whether a physical page holds translated code. `page` may be any address in it. */
  abstract hasCode(page: number): boolean;
  /** Guest or device is about to write there: drop what was translated from it. */
  abstract codeWritten(physical: number, size: number): void;
  /** The TLB was flushed: jump caches go too. */
  abstract translationsChanged(globals: boolean): void;
  abstract translationChanged(lo: number, hi: number): void;
  /** Another address space has become current; see `Mmu.switchSpace`. */
  abstract spaceChanged(from: number, to: number, keep: boolean): void;
  /** CPL, CS.L/D, CR0, CR4 or EFER changed: recompute the code mode, TLB tables and jump cache. Call after any such change. */
  abstract modeChanged(): void;
  /** The same in place of `modeChanged` after a change of CPL or CS that leads to 64-bit code, with all else as it was. */
  abstract enterCode64(): void;
  /** Leave emitted code for the run loop as soon as the current instruction (a block's last one) is done. */
  abstract leave(): void;
  /** For a helper of an instruction that ends a block: what it has done stands, and this is raised at the RIP that it has set. */
  abstract raiseAfter(vector: number, code: number): void;
  /** A watched data access (debug registers); raises #DB after the instruction. */
  abstract dataBreak(lo: number, hi: number, size: number, write: boolean): void;

  // ---- faults ----

  /** The exception to throw. */
  fault(vector: number, code = -1): GuestFault {
    this.faultObject.vector = vector;
    this.faultObject.code = code;
    return this.faultObject;
  }

  pageFault(lo: number, hi: number, code: number): GuestFault {
    const at = (this.state + S.CR2) >> 2;
    this.i32[at] = lo;
    this.i32[at + 1] = hi;
    return this.fault(14, code);
  }

  /** A non-canonical data address: #GP(0). (An access through SS raises #SS(0); the distinction is made by the caller's operand.) */
  nonCanonical(): GuestFault {
    return this.fault(13, 0);
  }

  // ---- registers ----

  low(n: number): number {
    return this.i32[(this.state + S.GPR + n * 8) >> 2]!;
  }
  high(n: number): number {
    return this.i32[((this.state + S.GPR + n * 8) >> 2) + 1]!;
  }
  setPair(n: number, lo: number, hi: number): void {
    const at = (this.state + S.GPR + n * 8) >> 2;
    this.i32[at] = lo;
    this.i32[at + 1] = hi;
  }
  /** A 32-bit write: the upper half becomes 0. */
  set32(n: number, value: number): void {
    this.setPair(n, value, 0);
  }
  big(n: number): bigint {
    return this.u64[(this.state + S.GPR + n * 8) >> 3]!;
  }
  setBig(n: number, value: bigint): void {
    this.u64[(this.state + S.GPR + n * 8) >> 3] = value;
  }

  /** Reads or writes a general register operand of 1, 2, 4 or 8 bytes. */
  operandAddress(insn: Insn, i: number): number {
    const o = insn.operands[i]!;
    if (o.kind !== 'reg') throw new Error(`operand ${i} of ${insn.def.pattern} is no register`);
    return this.state + S.GPR + o.reg * 8 + (o.high ? 1 : 0);
  }

  /** Linear address of the next instruction (valid at the start of a helper). */
  get rip(): bigint {
    return this.u64[(this.state + S.RIP) >> 3]!;
  }
  set rip(linear: bigint) {
    this.u64[(this.state + S.RIP) >> 3] = linear;
  }
  ripLow(): number {
    return this.i32[(this.state + S.RIP) >> 2]!;
  }
  ripHigh(): number {
    return this.i32[((this.state + S.RIP) >> 2) + 1]!;
  }
  setRip(lo: number, hi: number): void {
    const at = (this.state + S.RIP) >> 2;
    this.i32[at] = lo;
    this.i32[at + 1] = hi;
  }

  /**
   * RIP (linear) before which interrupts are held off (STI, MOV SS, POP SS), or undefined. It is stale once another
   * instruction is reached, so the run loop clears it when it has honoured it.
   */
  get shadow(): bigint | undefined {
    const linear = this.u64[(this.state + S.SHADOW) >> 3]!;
    return linear === 0n ? undefined : linear;
  }
  set shadow(linear: bigint | undefined) {
    this.u64[(this.state + S.SHADOW) >> 3] = linear ?? 0n;
  }

  /** RFLAGS with everything in it. */
  get rflags(): number {
    const at = this.state >> 2;
    return (
      (this.i32[at + (S.EFLAGS >> 2)]! & ~ARITH) |
      flagsToBits(this.i32[at + (S.FR >> 2)]!, this.i32[at + (S.FR >> 2) + 1]!, this.i32[at + (S.FX >> 2)]!) |
      2
    );
  }
  set rflags(value: number) {
    const at = this.state >> 2;
    const { fr, fx } = bitsToFlags(value);
    this.i32[at + (S.EFLAGS >> 2)] = (value & ~ARITH) | 2;
    this.i32[at + (S.FR >> 2)] = fr;
    this.i32[at + (S.FR >> 2) + 1] = 0;
    this.i32[at + (S.FX >> 2)] = fx;
  }

  // ---- segments ----

  /** Base of a segment as emitted code has it, low and high half. */
  baseLow(n: number): number {
    return this.i32[(this.state + S.SEG_BASE + n * 8) >> 2]!;
  }
  baseHigh(n: number): number {
    return this.i32[(this.state + S.SEG_BASE + n * 8 + 4) >> 2]!;
  }
  setSegmentBase(n: number, lo: number, hi: number): void {
    this.segments[n]!.baseLow = lo;
    this.segments[n]!.baseHigh = hi;
    const at = (this.state + S.SEG_BASE + n * 8) >> 2;
    this.i32[at] = lo;
    this.i32[at + 1] = hi;
  }

  /** Long mode is active (EFER.LMA). */
  get longMode(): boolean {
    return (this.efer & 0x400) !== 0;
  }
  /** Running 64-bit code. */
  get code64(): boolean {
    return this.longMode && (this.segments[CS]!.attributes & 0x2000) !== 0;
  }
  get mode(): Mode {
    return this.i32[(this.state + S.MODE) >> 2] as Mode;
  }

  // ---- operands for helpers ----

  /** Effective address (without segment base) of the memory operand: low half returned, high half in `eaHigh`. */
  effectiveAddress(insn: Insn): number {
    const m = insn.mem!;
    let lo = m.disp;
    let hi = m.dispHigh;
    if (m.base === 16) [lo, hi] = this.add64(lo, hi, this.ripLow(), this.ripHigh());
    else if (m.base >= 0) [lo, hi] = this.add64(lo, hi, this.low(m.base), this.high(m.base));
    if (m.index >= 0) {
      const il = this.low(m.index);
      const ih = this.high(m.index);
      const s = m.scale;
      [lo, hi] = this.add64(lo, hi, il << s, s ? (ih << s) | (il >>> (32 - s)) : ih);
    }
    if (m.addressSize === 4) hi = 0;
    else if (m.addressSize === 2) {
      lo &= 0xffff;
      hi = 0;
    }
    this.eaHigh = hi;
    return lo;
  }
  eaHigh = 0;

  /** Linear address of the memory operand: low half returned, high half in `eaHigh`. */
  linearAddress(insn: Insn): number {
    const lo = this.effectiveAddress(insn);
    return this.segmented(insn.mem!.seg, lo, this.eaHigh);
  }

  /** Adds a segment's base to an offset: low half returned, high half in `eaHigh`. In 64-bit mode only FS and GS have one. */
  segmented(seg: number, lo: number, hi: number): number {
    if (this.code64) {
      if (seg < 4) {
        this.eaHigh = hi;
        return lo;
      }
      const [l, h] = this.add64(lo, hi, this.baseLow(seg), this.baseHigh(seg));
      this.eaHigh = h;
      return l;
    }
    this.eaHigh = 0;
    return (lo + this.baseLow(seg)) | 0;
  }

  add64(al: number, ah: number, bl: number, bh: number): [number, number] {
    const lo = (al + bl) | 0;
    return [lo, (ah + bh + (lo >>> 0 < al >>> 0 ? 1 : 0)) | 0];
  }

  /** What lies beside a record: see META in record.ts. */
  metaOf(record: number): number {
    return this.i32[metaAddress(record) >> 2]!;
  }

  recordOffset(record: number): number {
    return offsetOf(this.metaOf(record));
  }
}

export function emptySegment(): Segment {
  return { selector: 0, baseLow: 0, baseHigh: 0, limit: 0, attributes: 0, usable: false };
}
