/** The processor at a kernel's entry point, and its state as a plain object. */
import { CR0_ET, CR0_NE, CR0_PE, CR0_PG, CR0_WP, CR4_PAE, EFER_LMA, EFER_LME } from './bits.ts';
import type { EntryState, ProcessorState } from '../processor.ts';
import type { Cpu, Segment } from './cpu.ts';
import { CS, GPR_NAMES, S } from './layout.ts';
import { updateBreakpoints } from './system/debug.ts';

/** Descriptor attributes (bits 40 to 55): present code, execute/read, accessed; present data, read/write, accessed. */
const CODE = 0x9b;
const DATA = 0x93;
const G_DB = 0xc000;
const G_L = 0xa000;

function flat(selector: number, attributes: number): Segment {
  return { selector, baseLow: 0, baseHigh: 0, limit: 0xffffffff, attributes, usable: true };
}

const copyOf = ({ selector, baseLow, baseHigh, limit, attributes, usable }: Segment): Segment => ({
  selector,
  baseLow,
  baseHigh,
  limit,
  attributes,
  usable,
});

/** Sets all registers for the first instruction of a kernel. */
export function enterState(cpu: Cpu, entry: EntryState): void {
  const long = entry.mode === 'long';
  for (let n = 0; n < 16; n++) cpu.set32(n, 0);
  for (const [name, value] of Object.entries(entry.registers))
    cpu.setPair(
      GPR_NAMES.indexOf(name as (typeof GPR_NAMES)[number]),
      value | 0,
      Math.floor(value / 0x1_0000_0000) | 0,
    );
  cpu.rflags = 2;
  cpu.setRip(entry.rip | 0, Math.floor(entry.rip / 0x1_0000_0000) | 0);
  cpu.cr0 = CR0_PE | CR0_ET | CR0_NE | (long ? CR0_WP | CR0_PG : 0);
  cpu.cr3Low = (entry.cr3 ?? 0) | 0;
  cpu.cr3High = 0;
  cpu.cr4 = long ? CR4_PAE : 0;
  cpu.efer = long ? EFER_LME | EFER_LMA : 0;
  cpu.cpl = 0;
  cpu.halted = false;
  cpu.shutdown = false;
  cpu.shadow = undefined;
  for (let n = 0; n < 6; n++) {
    const { cs, ds } = entry.gdt;
    Object.assign(cpu.segments[n]!, n === CS ? flat(cs, CODE | (long ? G_L : G_DB)) : flat(ds, DATA | G_DB));
    cpu.setSegmentBase(n, 0, 0);
  }
  Object.assign(cpu.gdt, { baseLow: entry.gdt.base | 0, baseHigh: 0, limit: entry.gdt.limit });
  Object.assign(cpu.idt, { baseLow: 0, baseHigh: 0, limit: 0 });
  cpu.ldt = { selector: 0, baseLow: 0, baseHigh: 0, limit: 0, attributes: 0x82, usable: false };
  cpu.tr = { selector: 0, baseLow: 0, baseHigh: 0, limit: 0xffff, attributes: 0x8b, usable: true };
  cpu.dr.fill(0n);
  cpu.dr[6] = 0xffff0ff0n;
  cpu.dr[7] = 0x400n;
  const at = cpu.state >> 2;
  cpu.i32[at + (S.MXCSR >> 2)] = 0x1f80;
  cpu.i32[at + (S.FCW >> 2)] = 0x37f;
  cpu.i32[at + (S.FSW >> 2)] = 0;
  cpu.i32[at + (S.FTW >> 2)] = 0;
  cpu.i32[at + (S.FTOP >> 2)] = 0;
}

/**
 * Where a saved state has the fields that lie before S.XMM, and how many bytes of them: the format stays when they move. The
 * rest lies as in memory.
 */
const SAVED: readonly (readonly [saved: number, at: number, bytes: number])[] = [
  [0x00, S.GPR, 128],
  [0x80, S.ZERO, 8],
  [0x88, S.VPC, 8],
  [0x90, S.RIP, 8],
  [0x98, S.FR, 8],
  [0xa0, S.FX, 4],
  [0xa4, S.FUEL, 4],
  [0xa8, S.EFLAGS, 4],
  [0xb0, S.SEG_BASE, 48],
  [0xe0, S.TLB_READ, 4],
  [0xe4, S.TLB_WRITE, 4],
  [0xe8, S.JUMP_CACHE, 4],
  [0xec, S.MODE, 4],
  [0xf0, S.CPL, 4],
  [0xf4, S.MXCSR, 4],
  [0xf8, S.INTERPRETED, 4],
  [0xfc, S.PENDING, 4],
];

/** Everything but RAM and the device-owned MSRs. */
export function saveCpu(cpu: Cpu): ProcessorState {
  const memory = cpu.u8.subarray(cpu.state, cpu.state + S.SIZE);
  const state = memory.slice();
  state.fill(0, 0, S.XMM);
  for (const [saved, at, bytes] of SAVED) state.set(memory.subarray(at, at + bytes), saved);
  return {
    // What is derived from the mode is recomputed on restore.
    state,
    cr0: cpu.cr0,
    cr3Low: cpu.cr3Low,
    cr3High: cpu.cr3High,
    cr4: cpu.cr4,
    efer: cpu.efer,
    cpl: cpu.cpl,
    segments: cpu.segments.map(copyOf),
    gdt: { ...cpu.gdt },
    idt: { ...cpu.idt },
    ldt: { ...cpu.ldt },
    tr: { ...cpu.tr },
    dr: cpu.dr.slice(),
    msrs: [...cpu.msrs],
    halted: cpu.halted,
    shutdown: cpu.shutdown,
    shadow: cpu.shadow,
    fault: { vector: cpu.faultObject.vector, code: cpu.faultObject.code },
    sys: { ...cpu.sys, randomPool: undefined, randomLeft: 0 },
  };
}

/** @throws Error when the state is none of `saveCpu` */
export function restoreCpu(cpu: Cpu, saved: ProcessorState): void {
  const state = saved.state;
  if (!(state instanceof Uint8Array) || state.length !== S.SIZE)
    throw new Error('the processor state has another layout: it was saved by another version');
  cpu.u8.set(state.subarray(S.XMM), cpu.state + S.XMM);
  for (const [saved, at, bytes] of SAVED) cpu.u8.set(state.subarray(saved, saved + bytes), cpu.state + at);
  cpu.cr0 = Number(saved.cr0);
  cpu.cr3Low = Number(saved.cr3Low);
  cpu.cr3High = Number(saved.cr3High);
  cpu.cr4 = Number(saved.cr4);
  cpu.efer = Number(saved.efer);
  cpu.cpl = Number(saved.cpl);
  (saved.segments as Segment[]).forEach((s, n) => Object.assign(cpu.segments[n]!, copyOf(s)));
  Object.assign(cpu.gdt, saved.gdt);
  Object.assign(cpu.idt, saved.idt);
  cpu.ldt = { ...(saved.ldt as Segment) };
  cpu.tr = { ...(saved.tr as Segment) };
  cpu.dr.set(saved.dr as BigUint64Array);
  cpu.msrs.clear();
  for (const [index, value] of saved.msrs as [number, bigint][]) cpu.msrs.set(index, value);
  cpu.halted = Boolean(saved.halted);
  cpu.shutdown = Boolean(saved.shutdown);
  cpu.shadow = saved.shadow as bigint | undefined;
  Object.assign(cpu.faultObject, saved.fault);
  Object.assign(cpu.sys, saved.sys);
  updateBreakpoints(cpu);
}
