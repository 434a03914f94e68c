/** Hardware task switches, of 32-bit protected mode only (SDM vol. 3, chapter 7). */
import { CR0_PG, CR0_TS, NT, RF, VM } from '../bits.ts';
import { ABSENT, GuestFault, type Cpu } from '../cpu.ts';
import { Vector } from '../emit.ts';
import { CS, ES, SS } from '../layout.ts';
import { restoreCpu, saveCpu } from '../reset.ts';
import { writeCr3 } from './control.ts';
import { updateBreakpoints } from './debug.ts';
import {
  ATTR,
  attributesOf,
  baseOf,
  checkStack,
  dplOf,
  limitOf,
  loadLdt,
  markAccessed,
  readDescriptor,
  setBusy,
  setCache,
  setCode,
  setCpl,
  setNull,
  setSegment,
  setVirtual,
} from './segments.ts';
import { moveStack, poke } from './stack.ts';

/** JMP; CALL, exceptions and interrupts, which nest; IRET from a nested task. */
export type TaskSwitch = 'jump' | 'call' | 'return';

/** Where a TSS keeps what is saved and loaded: in order, from `start` on, `step` bytes apart (SDM vol. 3, 7.2.1 and 7.6). */
interface Layout {
  readonly bytes: number;
  readonly step: 2 | 4;
  readonly eip: number;
  readonly flags: number;
  readonly registers: number;
  readonly selectors: number;
  /** How many of ES CS SS DS FS GS. */
  readonly segments: number;
  readonly ldt: number;
}
const WIDE: Layout = {
  bytes: 0x68,
  step: 4,
  eip: 0x20,
  flags: 0x24,
  registers: 0x28,
  selectors: 0x48,
  segments: 6,
  ldt: 0x60,
};
const NARROW: Layout = {
  bytes: 0x2c,
  step: 2,
  eip: 0x0e,
  flags: 0x10,
  registers: 0x12,
  selectors: 0x22,
  segments: 4,
  ldt: 0x2a,
};
const CR3_AT = 0x1c;
const TRAP_AT = 0x64;
/** What EFLAGS can hold outside virtual-8086 mode. */
const FLAGS = 0x003d7fd5;
/** DR6.BT: the trap flag of a TSS. */
const BT = 1n << 15n;
/** L0 to L3 and LE of DR7, which belong to a task. */
const LOCAL_BREAKPOINTS = 0x155n;

/** Bits 0 to 4 of the attributes: an available or busy TSS of 16 or 32 bits; a task gate. */
export const isTss = (attributes: number): boolean => (attributes & 0x15) === 1;
export const isTaskGate = (attributes: number): boolean => (attributes & 0x1f) === 5;
const BUSY = 2;

const layoutOf = (attributes: number): Layout => (attributes & 8 ? WIDE : NARROW);

/** What the switch is for. */
interface Reason {
  readonly way: TaskSwitch;
  /** What the old task goes on with, and its EFLAGS. */
  readonly eip: number;
  readonly flags: number;
  /** Bit 0 of error codes. */
  readonly ext: 0 | 1;
  /** The error code that the new task finds on its stack, or −1. */
  readonly pushed: number;
  /** By an instruction, not in the delivery of an exception or interrupt. */
  readonly instruction: boolean;
}

/**
 * Switches to the task of a TSS.
 *
 * @throws #GP, #TS, #NP, page faults that are the old task's; then nothing has changed. What is wrong with the new task's
 *   segments is the new task's: raised by `cpu.raiseAfter` where an instruction has switched, else thrown
 */
export function switchTask(cpu: Cpu, selector: number, reason: Reason): void {
  const { mmu, tr, sys } = cpu;
  const { way, ext } = reason;
  const code = (selector & 0xfffc) | ext;
  const wrong = way === 'return' ? Vector.TS : Vector.GP;
  if (selector & 4 || (selector & 0xfffc) === 0) throw cpu.fault(wrong, code);
  readDescriptor(cpu, selector, wrong, ext);
  const attributes = attributesOf(sys.descriptorHigh);
  if (!isTss(attributes) || (attributes & BUSY) !== (way === 'return' ? BUSY : 0)) throw cpu.fault(wrong, code);
  if (!(attributes & ATTR.P)) throw cpu.fault(Vector.NP, code);
  const next = layoutOf(attributes);
  const limit = limitOf(sys.descriptorLow, sys.descriptorHigh);
  if (limit < next.bytes - 1) throw cpu.fault(Vector.TS, code);
  const base = baseOf(sys.descriptorLow, sys.descriptorHigh);
  const last = layoutOf(tr.attributes);
  if (!tr.usable || tr.limit < last.bytes - 1) throw cpu.fault(Vector.TS, (tr.selector & 0xfffc) | ext);

  // Everything that may fault in memory comes before the first change.
  const read = (offset: number, size: number): number =>
    size === 4 ? mmu.read32((base + offset) | 0, 0, true) : mmu.read16((base + offset) | 0, 0, true);
  const image = {
    cr3: next === WIDE ? read(CR3_AT, 4) : 0,
    eip: read(next.eip, next.step),
    flags: read(next.flags, next.step),
    registers: Array.from({ length: 8 }, (_, n) => read(next.registers + n * next.step, next.step)),
    selectors: Array.from({ length: 6 }, (_, n) => (n < next.segments ? read(next.selectors + n * next.step, 2) : 0)),
    ldt: read(next.ldt, 2),
    trap: next === WIDE && (read(TRAP_AT, 2) & 1) !== 0,
  };
  const touch = (at: number): void => mmu.write8(at, 0, mmu.read8(at, 0, true), true);
  for (const offset of [last.eip, last.ldt - 1]) touch((tr.baseLow + offset) | 0);
  touch(base);
  setBusy(cpu, tr.selector, true);
  const undo = saveCpu(cpu);
  const link = read(0, 2);
  if (way !== 'return') setBusy(cpu, selector, true);

  const write = (offset: number, value: number, size: number): void => {
    const at = (tr.baseLow + offset) | 0;
    if (size === 4) mmu.write32(at, 0, value, true);
    else mmu.write16(at, 0, value & 0xffff, true);
  };
  write(last.eip, reason.eip, last.step);
  write(last.flags, way === 'return' ? reason.flags & ~NT : reason.flags, last.step);
  for (let n = 0; n < 8; n++) write(last.registers + n * last.step, cpu.low(n), last.step);
  for (let n = 0; n < last.segments; n++) write(last.selectors + n * last.step, cpu.segments[n]!.selector, 2);
  if (way === 'call') mmu.write16(base, 0, tr.selector, true);
  else setBusy(cpu, tr.selector, false);

  cpu.tr = {
    selector,
    baseLow: base,
    baseHigh: 0,
    limit,
    attributes: attributes | BUSY,
    usable: true,
  };
  cpu.cr0 |= CR0_TS;
  try {
    enterTask(cpu, image, next, reason);
  } catch (e) {
    if (!(e instanceof GuestFault)) throw e;
    cpu.modeChanged();
    if (e.vector === ABSENT) {
      // A page of RAM has to come first: as if nothing had happened.
      restoreCpu(cpu, undo);
      mmu.flush(true);
      cpu.modeChanged();
      if (way !== 'return') setBusy(cpu, selector, false);
      if (way === 'call') mmu.write16(base, 0, link, true);
      else setBusy(cpu, cpu.tr.selector, true);
      throw cpu.fault(ABSENT);
    }
    if (!reason.instruction) throw e;
    cpu.raiseAfter(e.vector, e.code);
    return;
  }
  cpu.modeChanged();
  if (!image.trap) return;
  cpu.dr[6] = cpu.dr[6]! | BT;
  if (!reason.instruction) throw cpu.fault(Vector.DB);
  cpu.raiseAfter(Vector.DB, -1);
}

interface Image {
  cr3: number;
  eip: number;
  flags: number;
  registers: number[];
  selectors: number[];
  ldt: number;
}

/** Loads the new task's state. @throws #TS, #NP, #SS, #GP, page faults, all of them the new task's */
function enterTask(cpu: Cpu, image: Image, layout: Layout, { way, ext, pushed }: Reason): void {
  const wide = layout === WIDE;
  if (wide && cpu.cr0 & CR0_PG) writeCr3(cpu, image.cr3, 0);
  // What a 16-bit TSS says nothing of are the upper halves, whose value is undefined.
  image.registers.forEach((value, n) => cpu.set32(n, wide ? value : value | 0xffff0000));
  cpu.rflags = (image.flags & FLAGS) | (way === 'call' ? NT : 0);
  const [es, cs, ss, ...data] = image.selectors as [number, number, number, ...number[]];
  image.selectors.forEach((selector, n) => setCache(cpu, n, selector, 0, 0, 0, false));
  setCpl(cpu, cs & 3);
  // Until CS is there, offset and linear address are the same.
  cpu.setRip(image.eip, 0);
  if (cpu.dr[7]! & LOCAL_BREAKPOINTS) {
    cpu.dr[7] = cpu.dr[7]! & ~LOCAL_BREAKPOINTS;
    updateBreakpoints(cpu);
  }
  try {
    loadLdt(cpu, image.ldt);
  } catch (e) {
    if (e instanceof GuestFault && (e.vector === Vector.GP || e.vector === Vector.NP))
      throw cpu.fault(Vector.TS, (image.ldt & 0xfffc) | ext);
    throw e;
  }

  if (wide && image.flags & VM) {
    cpu.rflags |= VM;
    image.selectors.forEach((selector, n) => setVirtual(cpu, n, selector));
    setCpl(cpu, 3);
    cpu.setRip((image.eip + cpu.segments[CS]!.baseLow) | 0, 0);
    if (pushed >= 0) push(cpu, pushed, layout.step);
    if (image.eip >>> 0 > 0xffff) throw cpu.fault(Vector.GP, ext);
    return;
  }
  const cpl = cs & 3;
  const code = (cs & 0xfffc) | ext;
  if ((cs & 0xfffc) === 0) throw cpu.fault(Vector.TS, code);
  readDescriptor(cpu, cs, Vector.TS, ext);
  const a = attributesOf(cpu.sys.descriptorHigh);
  const allowed = a & ATTR.CONFORMING ? dplOf(a) <= cpl : dplOf(a) === cpl;
  if ((a & (ATTR.S | ATTR.CODE)) !== (ATTR.S | ATTR.CODE) || !allowed) throw cpu.fault(Vector.TS, code);
  if (!(a & ATTR.P)) throw cpu.fault(Vector.NP, code);
  markAccessed(cpu, cs);
  setCode(cpu, cs, cpl);
  cpu.setRip((image.eip + cpu.segments[CS]!.baseLow) | 0, 0);

  checkStack(cpu, ss, cpl, Vector.TS, Vector.SS, ext);
  markAccessed(cpu, ss);
  setSegment(cpu, SS, ss);
  [es, ...data].forEach((selector, i) => loadData(cpu, i === 0 ? ES : SS + i, selector, cpl, ext));
  if (pushed >= 0) push(cpu, pushed, layout.step);
  if (image.eip >>> 0 > cpu.segments[CS]!.limit) throw cpu.fault(Vector.GP, ext);
}

function push(cpu: Cpu, value: number, size: number): void {
  poke(cpu, -size, size, value, 0);
  moveStack(cpu, -size);
}

/** ES, DS, FS or GS. @throws #TS, #NP, page faults */
function loadData(cpu: Cpu, n: number, selector: number, cpl: number, ext: number): void {
  if ((selector & 0xfffc) === 0) return setNull(cpu, n, selector);
  const code = (selector & 0xfffc) | ext;
  readDescriptor(cpu, selector, Vector.TS, ext);
  const a = attributesOf(cpu.sys.descriptorHigh);
  if (!(a & ATTR.S) || (a & (ATTR.CODE | ATTR.RW)) === ATTR.CODE) throw cpu.fault(Vector.TS, code);
  const conforming = (a & (ATTR.CODE | ATTR.CONFORMING)) === (ATTR.CODE | ATTR.CONFORMING);
  if (!conforming && dplOf(a) < Math.max(cpl, selector & 3)) throw cpu.fault(Vector.TS, code);
  if (!(a & ATTR.P)) throw cpu.fault(Vector.NP, code);
  markAccessed(cpu, selector);
  setSegment(cpu, n, selector);
}

/**
 * The TSS selector of the task gate in `cpu.sys`. @param code its error code
 * @throws #NP when it is not present
 */
export function gateTask(cpu: Cpu, code: number): number {
  if (!(attributesOf(cpu.sys.descriptorHigh) & ATTR.P)) throw cpu.fault(Vector.NP, code);
  return cpu.sys.descriptorLow >>> 16;
}

/** Far JMP and CALL to a TSS or task gate, IRET from a nested task, and INT through a task gate. @throws as `switchTask` */
export function switchByInstruction(cpu: Cpu, selector: number, way: TaskSwitch): void {
  const eip = (cpu.ripLow() - cpu.segments[CS]!.baseLow) | 0;
  switchTask(cpu, selector, { way, eip, flags: cpu.rflags & ~RF, ext: 0, pushed: -1, instruction: true });
}

/** IRET with NT: the selector of the task that the TSS links to. @throws page faults */
export const linkedTask = (cpu: Cpu): number => cpu.mmu.read16(cpu.tr.baseLow, 0, true);
