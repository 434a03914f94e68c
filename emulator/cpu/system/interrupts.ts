/** Delivery of exceptions and interrupts through the IDT (SDM vol. 3, chapter 6). */
import { IF, NT, RF, TF, VM } from '../bits.ts';
import { ABSENT, GuestFault, type Cpu } from '../cpu.ts';
import { Vector } from '../emit.ts';
import { CS, DS, ES, FS, GS, RSP, S, SS } from '../layout.ts';
import {
  ATTR,
  attributesOf,
  baseOf,
  checkStack,
  dplOf,
  isVirtual8086,
  markAccessed,
  readDescriptor,
  setCode,
  setNull,
  setSegment,
} from './segments.ts';
import { switchTask } from './tasks.ts';
import { tssStack32, tssStack64 } from './tss.ts';

/** What is delivered: decides the DPL check, the EXT bit and RF. */
type Source = 'exception' | 'external' | 'software';

/** Exceptions that make a double fault together (SDM vol. 3, table 6-4). */
const contributory = (v: number): boolean => v === Vector.DE || (v >= Vector.TS && v <= Vector.GP);

/** Exceptions that are traps or aborts: the pushed RF is not set (#DB, NMI, #BP, #OF, #DF, #MC). */
const NO_RF = (1 << Vector.DB) | (1 << Vector.NMI) | (1 << Vector.BP) | (1 << Vector.OF) | (1 << Vector.DF) | (1 << 18);

/**
 * Delivers an exception at cpu.rip; what goes wrong on the way is turned into the second exception, a double fault or
 * `cpu.shutdown`. Never throws a guest fault.
 *
 * @param code error code, or −1 for none
 * @returns false when a page of RAM has to come first: what to deliver then is in `cpu.faultObject`, nothing has happened
 */
export function deliverException(cpu: Cpu, vector: number, code: number): boolean {
  let v = vector;
  let c = code;
  for (;;) {
    try {
      deliver(cpu, v, c, 'exception');
      return true;
    } catch (e) {
      if (!(e instanceof GuestFault)) throw e;
      if (e.vector === ABSENT) {
        cpu.fault(v, c);
        return false;
      }
      if (v === Vector.DF) {
        cpu.shutdown = true;
        cpu.leave();
        return true;
      }
      if (
        (contributory(v) && contributory(e.vector)) ||
        (v === Vector.PF && (e.vector === Vector.PF || contributory(e.vector)))
      ) {
        v = Vector.DF;
        c = 0;
      } else {
        v = e.vector;
        c = e.code;
      }
    }
  }
}

/**
 * Delivers an external interrupt at cpu.rip. Never throws a guest fault.
 *
 * @returns false when a page of RAM has to come first. Then `cpu.heldInterrupt` is the vector to deliver, or −1 where the
 *   delivery has raised an exception, which is in `cpu.faultObject`
 */
export function deliverInterrupt(cpu: Cpu, vector: number): boolean {
  cpu.heldInterrupt = -1;
  try {
    deliver(cpu, vector, -1, 'external');
    return true;
  } catch (e) {
    if (!(e instanceof GuestFault)) throw e;
    if (e.vector !== ABSENT) return deliverException(cpu, e.vector, e.code);
    cpu.heldInterrupt = vector;
    return false;
  }
}

/**
 * INT n, INT3 and INTO, from a helper: cpu.rip is the next instruction's.
 * @throws the fault of the INT instruction itself
 */
export function softwareInterrupt(cpu: Cpu, vector: number): void {
  deliver(cpu, vector, -1, 'software');
}

/** INT1: a #DB trap without the gate's DPL being checked. @throws faults */
export function icebp(cpu: Cpu): void {
  deliver(cpu, Vector.DB, -1, 'exception');
}

function deliver(cpu: Cpu, vector: number, code: number, source: Source): void {
  if (cpu.longMode) deliver64(cpu, vector, code, source);
  else if (cpu.cr0 & 1) deliver32(cpu, vector, code, source);
  else deliverReal(cpu, vector);
}

/** RFLAGS as pushed. */
function pushedFlags(cpu: Cpu, vector: number, source: Source): number {
  const flags = cpu.rflags & ~RF;
  return source === 'exception' && !((NO_RF >> vector) & 1) ? flags | RF : flags;
}

function clearFlags(cpu: Cpu, interruptGate: boolean): void {
  const at = (cpu.state + S.EFLAGS) >> 2;
  cpu.i32[at] = cpu.i32[at]! & ~(TF | NT | RF | VM | (interruptGate ? IF : 0));
}

/** Whether an address's upper half continues bit 47. */
export const canonical = (hi: number): boolean => (hi << 15) >> 31 === hi >> 15;

function deliver64(cpu: Cpu, vector: number, code: number, source: Source): void {
  const { mmu, idt, sys } = cpu;
  const ext = source === 'software' ? 0 : 1;
  const gateCode = vector * 8 + 2 + ext;
  const offset = vector * 16;
  if (offset + 15 > idt.limit) throw cpu.fault(Vector.GP, gateCode);
  const gate = (idt.baseLow + offset) | 0;
  const gateHigh = idt.baseHigh + (gate >>> 0 < idt.baseLow >>> 0 ? 1 : 0);
  const w0 = mmu.read64(gate, gateHigh, true);
  const w1 = mmu.high;
  const targetHigh = mmu.read32((gate + 8) | 0, gateHigh, true);
  const type = (w1 >>> 8) & 0x1f;
  if (type !== 0xe && type !== 0xf) throw cpu.fault(Vector.GP, gateCode);
  if (source === 'software' && ((w1 >>> 13) & 3) < cpu.cpl) throw cpu.fault(Vector.GP, gateCode);
  if (!(w1 & 0x8000)) throw cpu.fault(Vector.NP, gateCode);
  const selector = w0 >>> 16;
  if ((selector & 0xfffc) === 0) throw cpu.fault(Vector.GP, ext);
  readDescriptor(cpu, selector, Vector.GP, ext);
  const a = attributesOf(sys.descriptorHigh);
  const dpl = dplOf(a);
  if ((a & (ATTR.S | ATTR.CODE | ATTR.L | ATTR.DB)) !== (ATTR.S | ATTR.CODE | ATTR.L) || dpl > cpu.cpl)
    throw cpu.fault(Vector.GP, (selector & 0xfffc) | ext);
  if (!(a & ATTR.P)) throw cpu.fault(Vector.NP, (selector & 0xfffc) | ext);
  markAccessed(cpu, selector);
  const cpl = a & ATTR.CONFORMING ? cpu.cpl : dpl;
  const ist = w1 & 7;
  let lo = cpu.low(RSP);
  let hi = cpu.high(RSP);
  if (ist) {
    lo = tssStack64(cpu, 0x1c + ist * 8, ext);
    hi = mmu.high;
  } else if (cpl !== cpu.cpl) {
    lo = tssStack64(cpu, 4 + cpl * 8, ext);
    hi = mmu.high;
  }
  lo &= ~15;
  // The frame lies below an aligned pointer, so its words share a page boundary only at multiples of 8.
  const words = code >= 0 ? 6 : 5;
  const top = lo;
  lo = (top - words * 8) | 0;
  if (lo >>> 0 > top >>> 0) hi = (hi - 1) | 0;
  if (!canonical(hi)) throw cpu.fault(Vector.SS, ext);
  const target = (w0 & 0xffff) | (w1 & 0xffff0000);
  if (!canonical(targetHigh)) throw cpu.fault(Vector.GP, ext);
  const system = cpl !== 3;
  const cs = cpu.segments[CS]!;
  const compat = !(cs.attributes & ATTR.L);
  const ripLow = compat ? (cpu.ripLow() - cs.baseLow) | 0 : cpu.ripLow();
  const ripHigh = compat ? 0 : cpu.ripHigh();
  const flags = pushedFlags(cpu, vector, source);
  const ss = cpu.segments[SS]!.selector;
  const host = mmu.inPlace(lo, hi, words * 8, true, system);
  if (host >= 0) {
    // The usual case; the pointer is a multiple of 8.
    const { i32 } = cpu;
    let w = host >> 2;
    if (code >= 0) {
      i32[w] = code;
      i32[w + 1] = 0;
      w += 2;
    }
    i32[w] = ripLow;
    i32[w + 1] = ripHigh;
    i32[w + 2] = cs.selector;
    i32[w + 3] = 0;
    i32[w + 4] = flags;
    i32[w + 5] = 0;
    i32[w + 6] = cpu.low(RSP);
    i32[w + 7] = cpu.high(RSP);
    i32[w + 8] = ss;
    i32[w + 9] = 0;
  } else {
    frame.lo = lo;
    frame.hi = hi;
    if (code >= 0) pushUp(cpu, code, 0, system);
    pushUp(cpu, ripLow, ripHigh, system);
    pushUp(cpu, cs.selector, 0, system);
    pushUp(cpu, flags, 0, system);
    pushUp(cpu, cpu.low(RSP), cpu.high(RSP), system);
    pushUp(cpu, ss, 0, system);
  }
  // Everything is checked and written: commit.
  const changes = cpl !== cpu.cpl;
  setCode(cpu, selector, cpl);
  if (changes) setNull(cpu, SS, cpl);
  cpu.setPair(RSP, lo, hi);
  clearFlags(cpu, type === 0xe);
  cpu.setRip(target, targetHigh);
  cpu.enterCode64();
}

/** Where `pushUp` writes next. */
const frame = { lo: 0, hi: 0 };

/** Writes a word of the frame of a 64-bit delivery, from the lowest to the highest. @throws page faults */
function pushUp(cpu: Cpu, valueLow: number, valueHigh: number, system: boolean): void {
  cpu.mmu.write64(frame.lo, frame.hi, valueLow, valueHigh, system);
  frame.lo = (frame.lo + 8) | 0;
  if (frame.lo === 0) frame.hi = (frame.hi + 1) | 0;
}

/** Pushes onto a 32- or 16-bit stack without moving ESP until `commit`. */
class LegacyStack {
  private esp: number;

  constructor(
    private readonly cpu: Cpu,
    esp: number,
    private readonly base: number,
    private readonly mask: number,
    private readonly wide: boolean,
    private readonly system: boolean,
  ) {
    this.esp = esp;
  }

  push(value: number): void {
    const size = this.wide ? 4 : 2;
    this.esp = (this.esp & ~this.mask) | ((this.esp - size) & this.mask);
    const at = (this.base + (this.esp & this.mask)) | 0;
    if (this.wide) this.cpu.mmu.write32(at, 0, value, this.system);
    else this.cpu.mmu.write16(at, 0, value & 0xffff, this.system);
  }

  commit(): void {
    this.cpu.set32(RSP, this.esp);
  }
}

function deliver32(cpu: Cpu, vector: number, code: number, source: Source): void {
  const { mmu, idt, sys } = cpu;
  const ext = source === 'software' ? 0 : 1;
  const gateCode = vector * 8 + 2 + ext;
  if (vector * 8 + 7 > idt.limit) throw cpu.fault(Vector.GP, gateCode);
  const w0 = mmu.read64((idt.baseLow + vector * 8) | 0, 0, true);
  const w1 = mmu.high;
  const type = (w1 >>> 8) & 0x1f;
  // 16- and 32-bit interrupt and trap gates, and task gates.
  if ((type & 0x16) !== 6 && type !== 5) throw cpu.fault(Vector.GP, gateCode);
  if (source === 'software' && ((w1 >>> 13) & 3) < cpu.cpl) throw cpu.fault(Vector.GP, gateCode);
  if (!(w1 & 0x8000)) throw cpu.fault(Vector.NP, gateCode);
  const wide = (type & 8) !== 0;
  const selector = w0 >>> 16;
  if (type === 5) {
    const eip = (cpu.ripLow() - cpu.segments[CS]!.baseLow) | 0;
    const flags = pushedFlags(cpu, vector, source);
    switchTask(cpu, selector, { way: 'call', eip, flags, ext, pushed: code, instruction: source === 'software' });
    return;
  }
  if ((selector & 0xfffc) === 0) throw cpu.fault(Vector.GP, ext);
  readDescriptor(cpu, selector, Vector.GP, ext);
  const a = attributesOf(sys.descriptorHigh);
  const dpl = dplOf(a);
  if ((a & (ATTR.S | ATTR.CODE)) !== (ATTR.S | ATTR.CODE) || dpl > cpu.cpl)
    throw cpu.fault(Vector.GP, (selector & 0xfffc) | ext);
  if (!(a & ATTR.P)) throw cpu.fault(Vector.NP, (selector & 0xfffc) | ext);
  markAccessed(cpu, selector);
  const codeLow = sys.descriptorLow;
  const codeHigh = sys.descriptorHigh;
  const cpl = a & ATTR.CONFORMING ? cpu.cpl : dpl;
  const changes = cpl !== cpu.cpl;
  const virtual = isVirtual8086(cpu);
  // Virtual-8086 mode is left for the kernel only.
  if (virtual && cpl !== 0) throw cpu.fault(Vector.GP, (selector & 0xfffc) | ext);
  const cs = cpu.segments[CS]!;
  const ss = cpu.segments[SS]!;
  let esp = cpu.low(RSP);
  let base = ss.baseLow;
  let mask = ss.attributes & ATTR.DB ? -1 : 0xffff;
  let newSs = 0;
  if (changes) {
    esp = tssStack32(cpu, cpl, ext);
    newSs = mmu.high & 0xffff;
    checkStack(cpu, newSs, cpl, Vector.TS, Vector.SS, ext);
    markAccessed(cpu, newSs);
    // This descriptor stays in `sys` until the commit.
    base = baseOf(sys.descriptorLow, sys.descriptorHigh);
    mask = sys.descriptorHigh & 0x400000 ? -1 : 0xffff;
  }
  const stack = new LegacyStack(cpu, esp, base, mask, wide, cpl !== 3);
  if (virtual) for (const n of [GS, FS, DS, ES]) stack.push(cpu.segments[n]!.selector);
  if (changes) {
    stack.push(ss.selector);
    stack.push(cpu.low(RSP));
  }
  stack.push(pushedFlags(cpu, vector, source));
  stack.push(cs.selector);
  stack.push((cpu.ripLow() - cs.baseLow) | 0);
  if (code >= 0) stack.push(code);
  if (virtual) for (const n of [GS, FS, DS, ES]) setNull(cpu, n, 0);
  if (changes) setSegment(cpu, SS, newSs);
  sys.descriptorLow = codeLow;
  sys.descriptorHigh = codeHigh;
  setCode(cpu, selector, cpl);
  stack.commit();
  clearFlags(cpu, (type & 1) === 0);
  const eip = wide ? (w0 & 0xffff) | (w1 & 0xffff0000) : w0 & 0xffff;
  cpu.setRip((eip + cpu.segments[CS]!.baseLow) | 0, 0);
  cpu.modeChanged();
}

/** Real mode: the interrupt vector table. */
function deliverReal(cpu: Cpu, vector: number): void {
  const { idt, mmu } = cpu;
  if (vector * 4 + 3 > idt.limit) throw cpu.fault(Vector.GP, 0);
  const entry = mmu.read32((idt.baseLow + vector * 4) | 0, 0, true);
  const stack = new LegacyStack(cpu, cpu.low(RSP), cpu.segments[SS]!.baseLow, 0xffff, false, true);
  stack.push(cpu.rflags);
  stack.push(cpu.segments[CS]!.selector);
  stack.push((cpu.ripLow() - cpu.segments[CS]!.baseLow) | 0);
  stack.commit();
  cpu.segments[CS]!.selector = entry >>> 16;
  cpu.setSegmentBase(CS, (entry >>> 16) << 4, 0);
  clearFlags(cpu, true);
  cpu.setRip(((entry & 0xffff) + ((entry >>> 16) << 4)) | 0, 0);
  cpu.modeChanged();
}
