/** Far transfers: IRET, RETF, and far CALL and JMP through code segments and call gates (SDM vol. 3, 5.8). */
import { IF, IOPL, NT, RF, TF, VM } from '../bits.ts';
import type { Cpu } from '../cpu.ts';
import { Vector } from '../emit.ts';
import { CS, RSP, S, SS } from '../layout.ts';
import { hasCodeBreakpoints } from './debug.ts';
import { canonical } from './interrupts.ts';
import {
  ATTR,
  attributesOf,
  baseOf,
  checkStack,
  dplOf,
  dropInnerSegments,
  isProtected,
  markAccessed,
  readDescriptor,
  setCode,
  setCpl,
  setNull,
  setSegment,
  setVirtual,
} from './segments.ts';
import { moveStack, peek, poke } from './stack.ts';
import { gateTask, isTaskGate, isTss, linkedTask, switchByInstruction } from './tasks.ts';
import { tssStack32, tssStack64 } from './tss.ts';

/** What any level may change: the arithmetic flags, TF, DF, NT, RF, AC, ID. */
const ANY_LEVEL = 0x254dd5;
const VIF_VIP = 0x180000;

/** After IF or TF may have become 1: leave the running code if an interrupt waits for it, or for single steps. */
export function noticeFlags(cpu: Cpu): void {
  const flags = cpu.i32[(cpu.state + S.EFLAGS) >> 2]!;
  if (flags & TF || (flags & IF && cpu.i32[(cpu.state + S.PENDING) >> 2]!)) cpu.leave();
}

/** RFLAGS after loading `value` at a privilege level, with an operand of `size` bytes. */
export function loadedFlags(cpu: Cpu, value: number, cpl: number, size: number): number {
  const old = cpu.rflags;
  let mask = ANY_LEVEL | (cpl <= ((old >> 12) & 3) ? IF : 0) | (cpl === 0 ? IOPL | VIF_VIP : 0);
  if (size === 2) mask &= 0xffff;
  // RF is of use only while code breakpoints are on; kept otherwise, it would suppress the first one set later.
  if (!hasCodeBreakpoints(cpu)) value &= ~RF;
  if (!hasCodeBreakpoints(cpu)) mask |= RF;
  return (old & ~mask) | (value & mask);
}

/** Checks the code segment of a return to `selector`, leaving its descriptor in `cpu.sys`. @throws #GP, #NP */
function checkReturnCode(cpu: Cpu, selector: number): void {
  const code = selector & 0xfffc;
  if (code === 0) throw cpu.fault(Vector.GP, 0);
  readDescriptor(cpu, selector);
  const a = attributesOf(cpu.sys.descriptorHigh);
  const rpl = selector & 3;
  if ((a & (ATTR.S | ATTR.CODE)) !== (ATTR.S | ATTR.CODE) || rpl < cpu.cpl) throw cpu.fault(Vector.GP, code);
  if (a & ATTR.CONFORMING ? dplOf(a) > rpl : dplOf(a) !== rpl) throw cpu.fault(Vector.GP, code);
  if (cpu.longMode && (a & (ATTR.L | ATTR.DB)) === (ATTR.L | ATTR.DB)) throw cpu.fault(Vector.GP, code);
  if (!(a & ATTR.P)) throw cpu.fault(Vector.NP, code);
  markAccessed(cpu, selector);
}

/** Commits a return: code segment, stack segment and pointer if they come from the frame, and RIP. */
function finishReturn(
  cpu: Cpu,
  ripLow: number,
  ripHigh: number,
  selector: number,
  codeLow: number,
  codeHigh: number,
  stack: { selector: number; low: number; high: number } | undefined,
): void {
  const cpl = selector & 3;
  const inner = cpl !== cpu.cpl;
  const long = cpu.longMode && (codeHigh & 0x200000) !== 0;
  if (stack) {
    if ((stack.selector & 0xfffc) === 0) {
      if (!long || cpl === 3 || (stack.selector & 3) !== cpl) throw cpu.fault(Vector.GP, 0);
      setNull(cpu, SS, stack.selector);
    } else {
      checkStack(cpu, stack.selector, cpl, Vector.GP, Vector.SS, 0);
      markAccessed(cpu, stack.selector);
      setSegment(cpu, SS, stack.selector);
    }
  }
  cpu.sys.descriptorLow = codeLow;
  cpu.sys.descriptorHigh = codeHigh;
  setCode(cpu, selector, cpl);
  if (stack) {
    if (long || cpu.segments[SS]!.attributes & ATTR.DB) cpu.setPair(RSP, stack.low, stack.high);
    else cpu.setPair(RSP, (cpu.low(RSP) & 0xffff0000) | (stack.low & 0xffff), cpu.high(RSP));
  }
  if (inner) dropInnerSegments(cpu);
  if (long) cpu.setRip(ripLow, ripHigh);
  else cpu.setRip((ripLow + cpu.segments[CS]!.baseLow) | 0, 0);
}

/** Checks RIP for the code segment in `cpu.sys`. @throws #GP(0) */
function checkTarget(cpu: Cpu, lo: number, hi: number): void {
  if (cpu.longMode && cpu.sys.descriptorHigh & 0x200000) {
    if (!canonical(hi)) throw cpu.fault(Vector.GP, 0);
    return;
  }
  const { descriptorLow: low, descriptorHigh: high } = cpu.sys;
  const raw = (low & 0xffff) | (high & 0xf0000);
  const limit = high & 0x800000 ? ((raw << 12) | 0xfff) >>> 0 : raw;
  if (lo >>> 0 > limit) throw cpu.fault(Vector.GP, 0);
}

const frame = { selector: 0, low: 0, high: 0 };

/** IRET, IRETD and IRETQ. @param size operand size in bytes @throws #GP, #NP, #SS, page faults */
export function iret(cpu: Cpu, size: number): void {
  if (!isProtected(cpu)) {
    const ip = peek(cpu, 0, size);
    const cs = peek(cpu, size, size) & 0xffff;
    const flags = peek(cpu, 2 * size, size);
    moveStack(cpu, 3 * size);
    cpu.segments[CS]!.selector = cs;
    cpu.setSegmentBase(CS, cs << 4, 0);
    cpu.rflags = loadedFlags(cpu, flags, cpu.cpl, size);
    cpu.setRip((ip + (cs << 4)) | 0, 0);
    cpu.modeChanged();
    noticeFlags(cpu);
    return;
  }
  if (cpu.rflags & NT) {
    if (cpu.longMode) throw cpu.fault(Vector.GP, 0);
    switchByInstruction(cpu, linkedTask(cpu), 'return');
    noticeFlags(cpu);
    return;
  }
  // Nearly all frames are of 64-bit code and in one page that the TLB knows.
  const host = size === 8 && cpu.code64 ? cpu.mmu.inPlace(cpu.low(RSP), cpu.high(RSP), 40, false, false) : -1;
  const at = host >= 0 && (host & 3) === 0 ? host >> 2 : -1;
  const lo = at >= 0 ? cpu.i32[at]! : peek(cpu, 0, size);
  const hi = at >= 0 ? cpu.i32[at + 1]! : cpu.mmu.high;
  const selector = (at >= 0 ? cpu.i32[at + 2]! : peek(cpu, size, size)) & 0xffff;
  const flags = at >= 0 ? cpu.i32[at + 4]! : peek(cpu, 2 * size, size);
  if (flags & VM && !cpu.longMode && cpu.cpl === 0 && size === 4) {
    enterVirtual(cpu, lo, selector, flags);
    return;
  }
  checkReturnCode(cpu, selector);
  checkTarget(cpu, lo, hi);
  const { descriptorLow, descriptorHigh } = cpu.sys;
  const cpl = cpu.cpl;
  if (cpu.code64 || (selector & 3) !== cpl) {
    frame.low = at >= 0 ? cpu.i32[at + 6]! : peek(cpu, 3 * size, size);
    frame.high = at >= 0 ? cpu.i32[at + 7]! : cpu.mmu.high;
    frame.selector = (at >= 0 ? cpu.i32[at + 8]! : peek(cpu, 4 * size, size)) & 0xffff;
    finishReturn(cpu, lo, hi, selector, descriptorLow, descriptorHigh, frame);
  } else {
    moveStack(cpu, 3 * size);
    finishReturn(cpu, lo, hi, selector, descriptorLow, descriptorHigh, undefined);
  }
  cpu.rflags = loadedFlags(cpu, flags, cpl, size);
  if (cpu.code64) cpu.enterCode64();
  else cpu.modeChanged();
  noticeFlags(cpu);
}

/** IRETD of the kernel to virtual-8086 mode: the frame goes on with ESP, SS, ES, DS, FS and GS. @throws #GP(0), page faults */
function enterVirtual(cpu: Cpu, eip: number, cs: number, flags: number): void {
  const words = [12, 16, 20, 24, 28, 32].map((delta) => peek(cpu, delta, 4));
  if (eip >>> 0 > 0xffff) throw cpu.fault(Vector.GP, 0);
  const [esp, ss, es, ds, fs, gs] = words as [number, number, number, number, number, number];
  cpu.rflags = loadedFlags(cpu, flags, 0, 4) | VM;
  [es, cs, ss, ds, fs, gs].forEach((selector, n) => setVirtual(cpu, n, selector & 0xffff));
  setCpl(cpu, 3);
  cpu.set32(RSP, esp);
  cpu.setRip((eip + cpu.segments[CS]!.baseLow) | 0, 0);
  cpu.modeChanged();
  noticeFlags(cpu);
}

/** RETF. @param size operand size in bytes @param release bytes of arguments to drop @throws as `iret` */
export function farReturn(cpu: Cpu, size: number, release: number): void {
  const lo = peek(cpu, 0, size);
  const hi = cpu.mmu.high;
  const selector = peek(cpu, size, size) & 0xffff;
  if (!isProtected(cpu)) {
    moveStack(cpu, 2 * size + release);
    cpu.segments[CS]!.selector = selector;
    cpu.setSegmentBase(CS, selector << 4, 0);
    cpu.setRip((lo + (selector << 4)) | 0, 0);
    cpu.modeChanged();
    return;
  }
  checkReturnCode(cpu, selector);
  checkTarget(cpu, lo, hi);
  const { descriptorLow, descriptorHigh } = cpu.sys;
  if ((selector & 3) !== cpu.cpl) {
    frame.low = peek(cpu, 2 * size + release, size);
    frame.high = cpu.mmu.high;
    frame.selector = peek(cpu, 3 * size + release, size) & 0xffff;
    finishReturn(cpu, lo, hi, selector, descriptorLow, descriptorHigh, frame);
    moveStack(cpu, release);
  } else {
    moveStack(cpu, 2 * size + release);
    finishReturn(cpu, lo, hi, selector, descriptorLow, descriptorHigh, undefined);
  }
  cpu.modeChanged();
}

/** RIP of the next instruction as it is pushed: the low half; the high half is `cpu.ripHigh()` in 64-bit code. */
const returnLow = (cpu: Cpu): number => (cpu.code64 ? cpu.ripLow() : (cpu.ripLow() - cpu.segments[CS]!.baseLow) | 0);

/**
 * Far CALL or JMP from a helper (cpu.rip is the next instruction's).
 *
 * @param size operand size in bytes
 * @throws #GP, #NP, #TS, #SS, page faults; then nothing has changed
 */
export function farTransfer(cpu: Cpu, selector: number, lo: number, hi: number, size: number, call: boolean): void {
  if (!isProtected(cpu)) {
    if (call) pushReturn(cpu, size);
    cpu.segments[CS]!.selector = selector;
    cpu.setSegmentBase(CS, selector << 4, 0);
    cpu.setRip((lo + (selector << 4)) | 0, 0);
    cpu.modeChanged();
    return;
  }
  const code = selector & 0xfffc;
  if (code === 0) throw cpu.fault(Vector.GP, 0);
  readDescriptor(cpu, selector);
  const a = attributesOf(cpu.sys.descriptorHigh);
  if (!(a & ATTR.S)) {
    throughGate(cpu, selector, a, call);
    return;
  }
  if (!(a & ATTR.CODE)) throw cpu.fault(Vector.GP, code);
  if (a & ATTR.CONFORMING ? dplOf(a) > cpu.cpl : (selector & 3) > cpu.cpl || dplOf(a) !== cpu.cpl)
    throw cpu.fault(Vector.GP, code);
  if (cpu.longMode && (a & (ATTR.L | ATTR.DB)) === (ATTR.L | ATTR.DB)) throw cpu.fault(Vector.GP, code);
  if (!(a & ATTR.P)) throw cpu.fault(Vector.NP, code);
  checkTarget(cpu, lo, hi);
  markAccessed(cpu, selector);
  if (call) pushReturn(cpu, size);
  setCode(cpu, selector, cpu.cpl);
  if (cpu.code64) cpu.setRip(lo, hi);
  else cpu.setRip((lo + cpu.segments[CS]!.baseLow) | 0, 0);
  cpu.modeChanged();
}

function pushReturn(cpu: Cpu, size: number): void {
  poke(cpu, -size, size, cpu.segments[CS]!.selector, 0);
  poke(cpu, -2 * size, size, returnLow(cpu), cpu.code64 ? cpu.ripHigh() : 0);
  moveStack(cpu, -2 * size);
}

/** Call gates: 64-bit ones in long mode, 16- and 32-bit ones otherwise, where there are also task gates and TSSs. */
function throughGate(cpu: Cpu, gateSelector: number, gate: number, call: boolean): void {
  const code = gateSelector & 0xfffc;
  const { sys } = cpu;
  const type = gate & 15;
  const task = !cpu.longMode && (isTss(gate) || isTaskGate(gate));
  if (type !== 0xc && (cpu.longMode || type !== 4) && !task) throw cpu.fault(Vector.GP, code);
  if (dplOf(gate) < cpu.cpl || dplOf(gate) < (gateSelector & 3)) throw cpu.fault(Vector.GP, code);
  if (!(gate & ATTR.P)) throw cpu.fault(Vector.NP, code);
  if (task) {
    switchByInstruction(cpu, isTss(gate) ? gateSelector : gateTask(cpu, code), call ? 'call' : 'jump');
    noticeFlags(cpu);
    return;
  }
  const size = cpu.longMode ? 8 : type === 0xc ? 4 : 2;
  const low = sys.descriptorLow;
  const high = sys.descriptorHigh;
  const target = size === 2 ? low & 0xffff : (low & 0xffff) | (high & 0xffff0000);
  let targetHigh = 0;
  if (cpu.longMode) {
    readDescriptor(cpu, (gateSelector + 8) & 0xffff);
    if (sys.descriptorHigh & 0x1f00) throw cpu.fault(Vector.GP, code);
    targetHigh = sys.descriptorLow;
  }
  const selector = low >>> 16;
  const csCode = selector & 0xfffc;
  if (csCode === 0) throw cpu.fault(Vector.GP, 0);
  readDescriptor(cpu, selector);
  const a = attributesOf(sys.descriptorHigh);
  if ((a & (ATTR.S | ATTR.CODE)) !== (ATTR.S | ATTR.CODE) || dplOf(a) > cpu.cpl) throw cpu.fault(Vector.GP, csCode);
  if (cpu.longMode && (a & (ATTR.L | ATTR.DB)) !== ATTR.L) throw cpu.fault(Vector.GP, csCode);
  const nonconforming = !(a & ATTR.CONFORMING);
  if (!call && nonconforming && dplOf(a) !== cpu.cpl) throw cpu.fault(Vector.GP, csCode);
  if (!(a & ATTR.P)) throw cpu.fault(Vector.NP, csCode);
  checkTarget(cpu, target, targetHigh);
  markAccessed(cpu, selector);
  const codeLow = sys.descriptorLow;
  const codeHigh = sys.descriptorHigh;
  const cpl = nonconforming ? dplOf(a) : cpu.cpl;
  if (call) {
    if (cpl < cpu.cpl) innerCall(cpu, cpl, size, high & 31);
    else pushReturn(cpu, size);
  }
  sys.descriptorLow = codeLow;
  sys.descriptorHigh = codeHigh;
  setCode(cpu, selector, cpl);
  if (cpu.code64) cpu.setRip(target, targetHigh);
  else cpu.setRip((target + cpu.segments[CS]!.baseLow) | 0, 0);
  cpu.modeChanged();
}

/** Switches to the inner stack and pushes SS, RSP, the arguments (not in long mode), CS and RIP. */
function innerCall(cpu: Cpu, cpl: number, size: number, count: number): void {
  const { mmu, sys } = cpu;
  const cs = cpu.segments[CS]!.selector;
  const ss = cpu.segments[SS]!.selector;
  const rip = returnLow(cpu);
  const ripHigh = cpu.code64 ? cpu.ripHigh() : 0;
  if (size === 8) {
    const top = tssStack64(cpu, 4 + cpl * 8, 0);
    const topHigh = mmu.high;
    if (!canonical(topHigh)) throw cpu.fault(Vector.SS, 0);
    const at = (k: number): number => (top - 8 * k) | 0;
    const up = (k: number): number => (at(k) >>> 0 > top >>> 0 ? (topHigh - 1) | 0 : topHigh);
    mmu.write64(at(1), up(1), ss, 0, true);
    mmu.write64(at(2), up(2), cpu.low(RSP), cpu.high(RSP), true);
    mmu.write64(at(3), up(3), cs, 0, true);
    mmu.write64(at(4), up(4), rip, ripHigh, true);
    setNull(cpu, SS, cpl);
    cpu.setPair(RSP, at(4), up(4));
    return;
  }
  const top = tssStack32(cpu, cpl, 0);
  const newSs = mmu.high & 0xffff;
  const words: number[] = [ss, cpu.low(RSP)];
  for (let k = count - 1; k >= 0; k--) words.push(peek(cpu, k * size, size));
  words.push(cs, rip);
  checkStack(cpu, newSs, cpl, Vector.TS, Vector.SS, 0);
  markAccessed(cpu, newSs);
  const base = baseOf(sys.descriptorLow, sys.descriptorHigh);
  const mask = sys.descriptorHigh & 0x400000 ? -1 : 0xffff;
  let sp = top;
  for (const word of words) {
    sp = (sp & ~mask) | ((sp - size) & mask);
    const at = (base + (sp & mask)) | 0;
    if (size === 4) mmu.write32(at, 0, word, true);
    else mmu.write16(at, 0, word & 0xffff, true);
  }
  setSegment(cpu, SS, newSs);
  cpu.set32(RSP, sp);
}
