/** Segment descriptors: reading, checking and loading them (SDM vol. 3, chapters 3 and 5). */
import { CR0_PE, VM } from '../bits.ts';
import type { Cpu, Segment } from '../cpu.ts';
import { Vector } from '../emit.ts';
import { CS, ES, S, SS } from '../layout.ts';

/** Bits of `Segment.attributes` (descriptor bits 40 to 55). */
export const ATTR = { ACCESSED: 1, CODE: 8, CONFORMING: 4, RW: 2, S: 0x10, P: 0x80, L: 0x2000, DB: 0x4000 } as const;

export const dplOf = (attributes: number): number => (attributes >> 5) & 3;
export const attributesOf = (high: number): number => (high >>> 8) & 0xffff;
/** Bits 24 to 31, 16 to 23 and 0 to 15 of the base, from a descriptor's words. */
export const baseOf = (low: number, high: number): number => (high & 0xff000000) | ((high & 0xff) << 16) | (low >>> 16);

export function limitOf(low: number, high: number): number {
  const raw = (low & 0xffff) | (high & 0xf0000);
  return high & 0x800000 ? ((raw << 12) | 0xfff) >>> 0 : raw;
}

/** A task in virtual-8086 mode (SDM vol. 3, 20.2): CPL 3, segments as in real mode, everything else as in protected mode. */
export const isVirtual8086 = (cpu: Cpu): boolean => (cpu.i32[(cpu.state + S.EFLAGS) >> 2]! & VM) !== 0;

/** Segments have descriptors: neither real mode nor virtual-8086 mode. */
export const isProtected = (cpu: Cpu): boolean => (cpu.cr0 & CR0_PE) !== 0 && !isVirtual8086(cpu);

/** Linear address of a selector's descriptor: low half returned (high half in `cpu.eaHigh`), or undefined outside its table. */
function descriptorAddress(cpu: Cpu, selector: number, bytes: number): number | undefined {
  const offset = selector & 0xfff8;
  const local = (selector & 4) !== 0;
  const table = local ? cpu.ldt : cpu.gdt;
  if ((local && !cpu.ldt.usable) || offset + bytes - 1 > table.limit) return undefined;
  const lo = (table.baseLow + offset) | 0;
  cpu.eaHigh = table.baseHigh + (lo >>> 0 < table.baseLow >>> 0 ? 1 : 0);
  return lo;
}

/** Reads a descriptor into `cpu.sys`. @returns false when the selector is outside its table @throws page faults */
export function tryDescriptor(cpu: Cpu, selector: number): boolean {
  const lo = descriptorAddress(cpu, selector, 8);
  if (lo === undefined) return false;
  cpu.sys.descriptorLow = cpu.mmu.read64(lo, cpu.eaHigh, true);
  cpu.sys.descriptorHigh = cpu.mmu.high;
  return true;
}

/** Reads a descriptor into `cpu.sys`. @param ext bit 0 of the error code @throws vector(selector), page faults */
export function readDescriptor(cpu: Cpu, selector: number, vector: number = Vector.GP, ext = 0): void {
  if (!tryDescriptor(cpu, selector)) throw cpu.fault(vector, (selector & 0xfffc) | ext);
}

/** Bits 32 to 63 of the base of a 16-byte system descriptor, of whose address the lower half was just read. */
function upperBase(cpu: Cpu, selector: number): number {
  const lo = descriptorAddress(cpu, selector, 16);
  if (lo === undefined) throw cpu.fault(Vector.GP, selector & 0xfffc);
  const at = (lo + 8) | 0;
  const base = cpu.mmu.read64(at, cpu.eaHigh, true);
  if (cpu.mmu.high & 0x1f00) throw cpu.fault(Vector.GP, selector & 0xfffc);
  return base;
}

/** Sets the accessed bit of the descriptor in `cpu.sys` if it is not set. */
export function markAccessed(cpu: Cpu, selector: number): void {
  if (cpu.sys.descriptorHigh & 0x100) return;
  const lo = descriptorAddress(cpu, selector, 8)!;
  cpu.sys.descriptorHigh |= 0x100;
  const at = (lo + 5) | 0;
  cpu.mmu.write8(at, cpu.eaHigh, (cpu.sys.descriptorHigh >>> 8) & 0xff, true);
}

/** Fills a segment register from the descriptor in `cpu.sys`. */
export function setSegment(cpu: Cpu, n: number, selector: number): void {
  const { descriptorLow: low, descriptorHigh: high } = cpu.sys;
  setCache(cpu, n, selector, baseOf(low, high), limitOf(low, high), attributesOf(high), true);
}

export function setCache(
  cpu: Cpu,
  n: number,
  selector: number,
  base: number,
  limit: number,
  attributes: number,
  usable: boolean,
): void {
  const s = cpu.segments[n]!;
  s.selector = selector;
  s.limit = limit;
  s.attributes = attributes;
  s.usable = usable;
  cpu.setSegmentBase(n, base, 0);
}

/** A segment register of virtual-8086 mode. */
export function setVirtual(cpu: Cpu, n: number, selector: number): void {
  setCache(cpu, n, selector, selector << 4, 0xffff, VIRTUAL, true);
}
/** Present data, read and written, at level 0 and at level 3. */
const DATA = 0x93;
const VIRTUAL = 0xf3;

/** A null selector: unusable; SS keeps a DPL. */
export function setNull(cpu: Cpu, n: number, selector: number): void {
  setCache(cpu, n, selector, 0, 0, (selector & 3) << 5, false);
}

/** CS from the descriptor in `cpu.sys`, with its RPL made the new CPL. The caller calls `modeChanged`. */
export function setCode(cpu: Cpu, selector: number, cpl: number): void {
  setSegment(cpu, CS, (selector & 0xfffc) | cpl);
  if (cpu.longMode && cpu.segments[CS]!.attributes & ATTR.L) cpu.setSegmentBase(CS, 0, 0);
  setCpl(cpu, cpl);
}

export function setCpl(cpu: Cpu, cpl: number): void {
  cpu.cpl = cpl;
  cpu.i32[(cpu.state + S.CPL) >> 2] = cpl;
}

/** Loads SS, DS, ES, FS or GS as MOV and POP do. @throws #GP, #SS, #NP, page faults; then nothing has changed */
export function loadSegment(cpu: Cpu, n: number, selector: number): void {
  loadChecked(cpu, n, selector);
  // Outside 64-bit code the mode tells whether all segments are flat.
  if (!cpu.code64) cpu.modeChanged();
}

function loadChecked(cpu: Cpu, n: number, selector: number): void {
  if (!isProtected(cpu)) {
    const s = cpu.segments[n]!;
    // Limit and rights stay what they were, if there were any (SDM vol. 3, 9.9.2).
    if (!s.usable) Object.assign(s, { limit: 0xffff, attributes: DATA, usable: true });
    s.selector = selector;
    cpu.setSegmentBase(n, selector << 4, 0);
    return;
  }
  if (n === SS) {
    loadStack(cpu, selector);
    return;
  }
  if ((selector & 0xfffc) === 0) {
    setNull(cpu, n, selector);
    return;
  }
  const code = selector & 0xfffc;
  readDescriptor(cpu, selector);
  const a = attributesOf(cpu.sys.descriptorHigh);
  if (!(a & ATTR.S) || (a & (ATTR.CODE | ATTR.RW)) === ATTR.CODE) throw cpu.fault(Vector.GP, code);
  const conforming = (a & (ATTR.CODE | ATTR.CONFORMING)) === (ATTR.CODE | ATTR.CONFORMING);
  if (!conforming && ((selector & 3) > dplOf(a) || cpu.cpl > dplOf(a))) throw cpu.fault(Vector.GP, code);
  if (!(a & ATTR.P)) throw cpu.fault(Vector.NP, code);
  markAccessed(cpu, selector);
  setSegment(cpu, n, selector);
}

function loadStack(cpu: Cpu, selector: number): void {
  if ((selector & 0xfffc) === 0) {
    if (!cpu.code64 || cpu.cpl === 3 || (selector & 3) !== cpu.cpl) throw cpu.fault(Vector.GP, 0);
    setNull(cpu, SS, selector);
    return;
  }
  checkStack(cpu, selector, cpu.cpl, Vector.GP, Vector.SS, 0);
  markAccessed(cpu, selector);
  setSegment(cpu, SS, selector);
}

/** Reads and checks a stack segment's descriptor for a CPL, leaving it in `cpu.sys`. */
export function checkStack(cpu: Cpu, selector: number, cpl: number, vector: number, absent: number, ext: number): void {
  const code = (selector & 0xfffc) | ext;
  if ((selector & 0xfffc) === 0) throw cpu.fault(vector, ext);
  readDescriptor(cpu, selector, vector, ext);
  const a = attributesOf(cpu.sys.descriptorHigh);
  if ((selector & 3) !== cpl || dplOf(a) !== cpl || (a & (ATTR.S | ATTR.CODE | ATTR.RW)) !== (ATTR.S | ATTR.RW))
    throw cpu.fault(vector, code);
  if (!(a & ATTR.P)) throw cpu.fault(absent, code);
}

/** After a return to an outer level: data segments that the new CPL may not use become null (SDM vol. 2, RET). */
export function dropInnerSegments(cpu: Cpu): void {
  for (let n = ES; n <= 5; n++) {
    if (n === CS || n === SS) continue;
    const s = cpu.segments[n]!;
    const a = s.attributes;
    if (!s.usable) continue;
    if ((a & (ATTR.CODE | ATTR.CONFORMING)) !== (ATTR.CODE | ATTR.CONFORMING) && dplOf(a) < cpu.cpl) setNull(cpu, n, 0);
  }
}

function systemSegment(cpu: Cpu, selector: number): Segment {
  const { descriptorLow: low, descriptorHigh: high } = cpu.sys;
  return {
    selector,
    baseLow: baseOf(low, high),
    baseHigh: cpu.longMode ? upperBase(cpu, selector) : 0,
    limit: limitOf(low, high),
    attributes: attributesOf(high),
    usable: true,
  };
}

/** LLDT. @throws #GP, #NP, page faults */
export function loadLdt(cpu: Cpu, selector: number): void {
  if ((selector & 0xfffc) === 0) {
    cpu.ldt = { selector, baseLow: 0, baseHigh: 0, limit: 0, attributes: 0x82, usable: false };
    return;
  }
  const code = selector & 0xfffc;
  if (selector & 4) throw cpu.fault(Vector.GP, code);
  readDescriptor(cpu, selector);
  const a = attributesOf(cpu.sys.descriptorHigh);
  if ((a & 0x1f) !== 2) throw cpu.fault(Vector.GP, code);
  if (!(a & ATTR.P)) throw cpu.fault(Vector.NP, code);
  cpu.ldt = systemSegment(cpu, selector);
}

/** LTR: marks the TSS busy. @throws #GP, #NP, page faults */
export function loadTask(cpu: Cpu, selector: number): void {
  const code = selector & 0xfffc;
  if (code === 0) throw cpu.fault(Vector.GP, 0);
  if (selector & 4) throw cpu.fault(Vector.GP, code);
  readDescriptor(cpu, selector);
  const a = attributesOf(cpu.sys.descriptorHigh);
  if ((a & 0x1f) !== 9 && (cpu.longMode || (a & 0x1f) !== 1)) throw cpu.fault(Vector.GP, code);
  if (!(a & ATTR.P)) throw cpu.fault(Vector.NP, code);
  const tr = systemSegment(cpu, selector);
  tr.attributes |= 2;
  const lo = descriptorAddress(cpu, selector, 8)!;
  const at = (lo + 5) | 0;
  cpu.mmu.write8(at, cpu.eaHigh, tr.attributes & 0xff, true);
  cpu.tr = tr;
}

/** Marks a TSS busy or available. @throws #TS(selector) where its descriptor is not in the table any more, page faults */
export function setBusy(cpu: Cpu, selector: number, busy: boolean): void {
  const lo = descriptorAddress(cpu, selector, 8);
  if (lo === undefined) throw cpu.fault(Vector.TS, selector & 0xfffc);
  const at = (lo + 5) | 0;
  const type = cpu.mmu.read8(at, cpu.eaHigh, true);
  cpu.mmu.write8(at, cpu.eaHigh, busy ? type | 2 : type & ~2, true);
}

/** Whether a selector can be looked at from here (LAR, LSL, VERR, VERW); its descriptor is then in `cpu.sys`. */
function visible(cpu: Cpu, selector: number): boolean {
  if ((selector & 0xfffc) === 0 || !tryDescriptor(cpu, selector)) return false;
  const a = attributesOf(cpu.sys.descriptorHigh);
  const conforming = (a & (ATTR.S | ATTR.CODE | ATTR.CONFORMING)) === (ATTR.S | ATTR.CODE | ATTR.CONFORMING);
  return conforming || (cpu.cpl <= dplOf(a) && (selector & 3) <= dplOf(a));
}

/** Types of system descriptors, as a bit set, that LAR and LSL know. In long mode: LDT, TSS, busy TSS, (LAR) call gate. */
const LAR_LONG = (1 << 2) | (1 << 9) | (1 << 11) | (1 << 12);
const LAR_LEGACY = LAR_LONG | (1 << 1) | (1 << 3) | (1 << 4) | (1 << 5);
const LSL_LONG = (1 << 2) | (1 << 9) | (1 << 11);
const LSL_LEGACY = LSL_LONG | (1 << 1) | (1 << 3);

/** LAR: the access rights, or undefined. */
export function accessRights(cpu: Cpu, selector: number): number | undefined {
  if (!visible(cpu, selector)) return undefined;
  const high = cpu.sys.descriptorHigh;
  if (!(high & 0x1000) && !(((cpu.longMode ? LAR_LONG : LAR_LEGACY) >> ((high >>> 8) & 15)) & 1)) return undefined;
  return high & 0x00ffff00;
}

/** LSL: the limit in bytes, or undefined. */
export function segmentLimit(cpu: Cpu, selector: number): number | undefined {
  if (!visible(cpu, selector)) return undefined;
  const { descriptorLow: low, descriptorHigh: high } = cpu.sys;
  if (!(high & 0x1000) && !(((cpu.longMode ? LSL_LONG : LSL_LEGACY) >> ((high >>> 8) & 15)) & 1)) return undefined;
  return limitOf(low, high) | 0;
}

/** VERR and VERW. */
export function verify(cpu: Cpu, selector: number, write: boolean): boolean {
  if (!visible(cpu, selector)) return false;
  const a = attributesOf(cpu.sys.descriptorHigh);
  if (!(a & ATTR.S)) return false;
  if (write) return (a & (ATTR.CODE | ATTR.RW)) === ATTR.RW;
  return (a & ATTR.CODE) === 0 || (a & ATTR.RW) !== 0;
}
