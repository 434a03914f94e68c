import type { MmioDevice, Saved, Width } from '../bus.ts';
import type { Scheduler, Timer } from '../clock.ts';
import type { DeviceMsrs, InterruptSource } from '../processor.ts';

/** Physical address of the local APIC's register page. */
export const LAPIC_BASE = 0xfee00000;
export const LAPIC_SIZE = 0x1000;

/** One count of the undivided APIC timer, in guest nanoseconds: the 25 MHz crystal that CPUID.15H reports. */
const CRYSTAL_NS = 40;

const IA32_APIC_BASE = 0x1b;
const IA32_TSC_DEADLINE = 0x6e0;
/** APIC base address, enabled (bit 11), bootstrap processor (bit 8). Intel SDM vol. 3, 11.4.4. */
const APIC_BASE_RESET = 0xfee00900n;

// Register offsets, Intel SDM vol. 3, table 11-1.
const ID = 0x20;
const VERSION = 0x30;
const TPR = 0x80;
const APR = 0x90;
const PPR = 0xa0;
const EOI = 0xb0;
const LDR = 0xd0;
const DFR = 0xe0;
const SVR = 0xf0;
const ISR = 0x100;
const TMR = 0x180;
const IRR = 0x200;
const ESR = 0x280;
const ICR_LOW = 0x300;
const ICR_HIGH = 0x310;
const LVT_TIMER = 0x320;
const LVT_THERMAL = 0x330;
const LVT_PERF = 0x340;
const LVT_LINT0 = 0x350;
const LVT_LINT1 = 0x360;
const LVT_ERROR = 0x370;
const TIMER_INITIAL = 0x380;
const TIMER_CURRENT = 0x390;
const TIMER_DIVIDE = 0x3e0;

const LVT_MASKED = 0x10000;
const SVR_ENABLED = 0x100;
const ESR_SEND_ILLEGAL_VECTOR = 0x20;
const ESR_RECEIVE_ILLEGAL_VECTOR = 0x40;

/** Which bits of a local vector table entry can be written. */
const LVT_WRITABLE: Readonly<Record<number, number>> = {
  [LVT_TIMER]: 0x700ff,
  [LVT_THERMAL]: 0x107ff,
  [LVT_PERF]: 0x107ff,
  [LVT_LINT0]: 0x1a7ff,
  [LVT_LINT1]: 0x1a7ff,
  [LVT_ERROR]: 0x100ff,
};
const LVTS = [LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR];

export interface LapicState {
  id: number;
  tpr: number;
  ldr: number;
  dfr: number;
  svr: number;
  esr: number;
  esrPending: number;
  icrLow: number;
  icrHigh: number;
  lvt: number[];
  timerInitial: number;
  timerDivide: number;
  /** Guest time at which the count was last loaded, in nanoseconds. */
  timerStart: number;
  /** IA32_TSC_DEADLINE, 0 when disarmed. */
  deadline: bigint;
  /** Guest time of the armed timer event in nanoseconds, or -1. */
  next: number;
  apicBase: bigint;
  irr: Uint32Array;
  isr: Uint32Array;
  tmr: Uint32Array;
}

/**
 * The local APIC in xAPIC mode (Intel SDM vol. 3, chapter 11): what one processor needs of it. Only fixed-vector
 * interrupts are delivered; INIT, SIPI, SMI and NMI are accepted and dropped, there being one processor and no
 * legacy interrupt controller.
 */
export class Lapic implements MmioDevice, InterruptSource, DeviceMsrs, Saved<LapicState> {
  private readonly irr = new Uint32Array(8);
  private readonly isr = new Uint32Array(8);
  private readonly tmr = new Uint32Array(8);
  private readonly lvt = new Map<number, number>(LVTS.map((r) => [r, LVT_MASKED]));
  private id = 0;
  private tpr = 0;
  private ldr = 0;
  private dfr = 0xffffffff;
  private svr = 0xff;
  private esr = 0;
  private esrPending = 0;
  private icrLow = 0;
  private icrHigh = 0;
  private timerInitial = 0;
  private timerDivide = 0;
  private timerStart = 0;
  private deadline = 0n;
  private apicBase = APIC_BASE_RESET;
  private timer: Timer | undefined;
  /** What `pending` answers; kept current by `update`. */
  private next = -1;

  /** Called after a level-triggered interrupt's end, for the I/O APIC (11.8.5). */
  onEoi: (vector: number) => void = () => undefined;
  /** Interrupts accepted. */
  delivered = 0;

  /**
   * @param scheduler for the timer; its clock is the time-stamp counter, 1 ns a count
   * @param onChange a vector has become deliverable: tell the processor
   */
  constructor(
    private readonly scheduler: Scheduler,
    private readonly onChange: () => void = () => undefined,
  ) {}

  // Interrupts

  /** An interrupt message from the I/O APIC. @param level whether its end is to be broadcast */
  deliver(vector: number, level: boolean): void {
    vector &= 0xff;
    if (vector < 16) {
      this.error(ESR_RECEIVE_ILLEGAL_VECTOR);
      return;
    }
    if (!(this.svr & SVR_ENABLED)) return;
    const word = vector >>> 5;
    const bit = 1 << (vector & 31);
    if (level) this.tmr[word]! |= bit;
    else this.tmr[word]! &= ~bit;
    this.irr[word]! |= bit;
    this.delivered++;
    this.update();
  }

  pending(): number {
    return this.next;
  }

  acknowledge(): number {
    const vector = this.next;
    if (vector < 0) return -1;
    const bit = 1 << (vector & 31);
    this.irr[vector >>> 5]! &= ~bit;
    this.isr[vector >>> 5]! |= bit;
    this.update();
    return vector;
  }

  get taskPriority(): number {
    return this.tpr >>> 4;
  }
  set taskPriority(value: number) {
    this.tpr = (value & 15) << 4;
    this.update();
  }

  private static highest(bits: Uint32Array): number {
    for (let i = 7; i >= 0; i--) if (bits[i]) return i * 32 + 31 - Math.clz32(bits[i]!);
    return -1;
  }

  /** Processor priority, 11.8.3.1. */
  private ppr(): number {
    const service = Lapic.highest(this.isr);
    return this.tpr >>> 4 >= service >>> 4 || service < 0 ? this.tpr : service & 0xf0;
  }

  private update(): void {
    const vector = Lapic.highest(this.irr);
    const before = this.next;
    this.next = vector >= 0 && this.svr & SVR_ENABLED && vector >>> 4 > this.ppr() >>> 4 ? vector : -1;
    if (this.next !== before && this.next >= 0) this.onChange();
  }

  private endOfInterrupt(): void {
    const vector = Lapic.highest(this.isr);
    if (vector < 0) return;
    const bit = 1 << (vector & 31);
    this.isr[vector >>> 5]! &= ~bit;
    this.update();
    if (this.tmr[vector >>> 5]! & bit) this.onEoi(vector);
  }

  private error(bits: number): void {
    this.esrPending |= bits;
    const entry = this.lvt.get(LVT_ERROR)!;
    if (!(entry & LVT_MASKED) && (entry & 0xff) >= 16) this.deliver(entry, false);
  }

  private sendIpi(): void {
    const vector = this.icrLow & 0xff;
    const mode = (this.icrLow >>> 8) & 7;
    const shorthand = (this.icrLow >>> 18) & 3;
    const destination = this.icrHigh >>> 24;
    const self =
      shorthand === 1 ||
      shorthand === 2 ||
      (shorthand === 0 &&
        (destination === 0xff ||
          (this.icrLow & 0x800 ? (destination & (this.ldr >>> 24)) !== 0 : destination === this.id)));
    if (!self || mode > 1) return;
    if (vector < 16) this.error(ESR_SEND_ILLEGAL_VECTOR);
    else this.deliver(vector, false);
  }

  // Timer

  /** Guest nanoseconds per count, from the divide configuration (11.5.4). */
  private get countNs(): number {
    const code = (this.timerDivide & 3) | ((this.timerDivide >>> 1) & 4);
    return CRYSTAL_NS * (code === 7 ? 1 : 2 << code);
  }

  /** 0 one-shot, 1 periodic, 2 TSC-deadline. */
  private get timerMode(): number {
    return (this.lvt.get(LVT_TIMER)! >>> 17) & 3;
  }

  private arm(at: number): void {
    this.scheduler.cancel(this.timer);
    this.timer = at >= 0 ? this.scheduler.at(at, this.expire) : undefined;
  }

  private readonly expire = (): void => {
    const entry = this.lvt.get(LVT_TIMER)!;
    const at = this.timer!.deadline;
    this.timer = undefined;
    if (this.timerMode === 2) this.deadline = 0n;
    else if (this.timerMode === 1 && this.timerInitial) {
      const period = this.timerInitial * this.countNs;
      const now = this.scheduler.clock.now();
      // Missed periods collapse into one interrupt, as its single IRR bit would make them anyway.
      const missed = Math.max(0, Math.floor((now - at) / period));
      this.timerStart = at + missed * period;
      this.arm(this.timerStart + period);
    }
    if (!(entry & LVT_MASKED)) this.deliver(entry, false);
  };

  private startCount(): void {
    if (this.timerMode === 2) return;
    this.timerStart = this.scheduler.clock.now();
    this.arm(this.timerInitial ? this.timerStart + this.timerInitial * this.countNs : -1);
  }

  private currentCount(): number {
    if (this.timerMode === 2 || !this.timer) return 0;
    const left = Math.ceil((this.timer.deadline - this.scheduler.clock.now()) / this.countNs);
    return Math.min(Math.max(left, 0), this.timerInitial);
  }

  private setTimerEntry(value: number): void {
    const before = this.timerMode;
    this.lvt.set(LVT_TIMER, value);
    // Changing between TSC-deadline and the others disarms the timer (11.5.4.1).
    if (before !== this.timerMode && (before === 2 || this.timerMode === 2)) {
      this.deadline = 0n;
      this.arm(-1);
    }
  }

  // Registers

  readMmio(offset: number, width: Width): number {
    // Registers are 32 bits on 16-byte boundaries; a narrower read within one is undefined by the manual: give its bytes.
    const value = this.read(offset & 0xff0) >>> ((offset & 3) * 8);
    if (offset & 12) return 0;
    return width === 4 ? value >>> 0 : value & (width === 2 ? 0xffff : 0xff);
  }

  private read(register: number): number {
    if (register >= ISR && register < ISR + 0x80) return this.isr[(register - ISR) >>> 4]!;
    if (register >= TMR && register < TMR + 0x80) return this.tmr[(register - TMR) >>> 4]!;
    if (register >= IRR && register < IRR + 0x80) return this.irr[(register - IRR) >>> 4]!;
    switch (register) {
      case ID:
        return this.id << 24;
      case VERSION:
        return 0x50014; // integrated APIC, six local vector table entries
      case TPR:
        return this.tpr;
      case APR:
      case PPR:
        return this.ppr();
      case LDR:
        return this.ldr;
      case DFR:
        return this.dfr;
      case SVR:
        return this.svr;
      case ESR:
        return this.esr;
      case ICR_LOW:
        return this.icrLow;
      case ICR_HIGH:
        return this.icrHigh;
      case TIMER_INITIAL:
        return this.timerInitial;
      case TIMER_CURRENT:
        return this.currentCount();
      case TIMER_DIVIDE:
        return this.timerDivide;
      default:
        return this.lvt.get(register) ?? 0;
    }
  }

  writeMmio(offset: number, _width: Width, value: number): void {
    if (offset & 15) return;
    switch (offset) {
      case ID:
        this.id = value >>> 24;
        break;
      case TPR:
        this.tpr = value & 0xff;
        this.update();
        break;
      case EOI:
        this.endOfInterrupt();
        break;
      case LDR:
        this.ldr = (value & 0xff000000) >>> 0;
        break;
      case DFR:
        this.dfr = (value | 0x0fffffff) >>> 0;
        break;
      case SVR:
        this.svr = value & 0x1ff;
        // A disabled APIC has all its local vectors masked (11.4.7.2).
        if (!(this.svr & SVR_ENABLED)) for (const r of LVTS) this.lvt.set(r, this.lvt.get(r)! | LVT_MASKED);
        this.update();
        break;
      case ESR:
        this.esr = this.esrPending;
        this.esrPending = 0;
        break;
      case ICR_LOW:
        this.icrLow = value & 0xcdfff; // delivery status stays 0: idle
        this.sendIpi();
        break;
      case ICR_HIGH:
        this.icrHigh = (value & 0xff000000) >>> 0;
        break;
      case TIMER_INITIAL:
        if (this.timerMode === 2) break; // ignored (11.5.4.1)
        this.timerInitial = value >>> 0;
        this.startCount();
        break;
      case TIMER_DIVIDE: {
        const left = this.currentCount();
        this.timerDivide = value & 11;
        if (this.timer && this.timerMode !== 2) this.arm(this.scheduler.clock.now() + left * this.countNs);
        break;
      }
      default: {
        const writable = LVT_WRITABLE[offset];
        if (writable === undefined) break;
        const entry = (value & writable) | (this.svr & SVR_ENABLED ? 0 : LVT_MASKED);
        if (offset === LVT_TIMER) this.setTimerEntry(entry);
        else this.lvt.set(offset, entry);
      }
    }
  }

  readMsr(index: number): bigint | undefined {
    if (index === IA32_APIC_BASE) return this.apicBase;
    if (index === IA32_TSC_DEADLINE) return this.deadline;
    return undefined;
  }

  writeMsr(index: number, value: bigint): boolean {
    if (index === IA32_APIC_BASE) {
      // The page does not move, and x2APIC mode (bit 10) is not advertised: either is a general protection fault.
      if ((value & ~0x800n) !== (APIC_BASE_RESET & ~0x800n)) return false;
      this.apicBase = value;
      return true;
    }
    if (index === IA32_TSC_DEADLINE) {
      if (this.timerMode !== 2) return true; // ignored (11.5.4.1)
      this.deadline = BigInt.asUintN(64, value);
      // Deadlines past what a double holds exactly are centuries away: never.
      this.arm(value === 0n || value > 0x1f_ffff_ffff_ffffn ? -1 : Number(value));
      return true;
    }
    return false;
  }

  save(): LapicState {
    return {
      id: this.id,
      tpr: this.tpr,
      ldr: this.ldr,
      dfr: this.dfr,
      svr: this.svr,
      esr: this.esr,
      esrPending: this.esrPending,
      icrLow: this.icrLow,
      icrHigh: this.icrHigh,
      lvt: LVTS.map((r) => this.lvt.get(r)!),
      timerInitial: this.timerInitial,
      timerDivide: this.timerDivide,
      timerStart: this.timerStart,
      deadline: this.deadline,
      next: this.timer ? this.timer.deadline : -1,
      apicBase: this.apicBase,
      irr: this.irr.slice(),
      isr: this.isr.slice(),
      tmr: this.tmr.slice(),
    };
  }

  restore(state: LapicState): void {
    this.id = state.id;
    this.tpr = state.tpr;
    this.ldr = state.ldr;
    this.dfr = state.dfr;
    this.svr = state.svr;
    this.esr = state.esr;
    this.esrPending = state.esrPending;
    this.icrLow = state.icrLow;
    this.icrHigh = state.icrHigh;
    LVTS.forEach((r, i) => this.lvt.set(r, state.lvt[i]!));
    this.timerInitial = state.timerInitial;
    this.timerDivide = state.timerDivide;
    this.timerStart = state.timerStart;
    this.deadline = state.deadline;
    this.apicBase = state.apicBase;
    this.irr.set(state.irr);
    this.isr.set(state.isr);
    this.tmr.set(state.tmr);
    this.arm(state.next);
    this.update();
  }
}
