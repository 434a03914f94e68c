/** The task-state segment: stacks for inner levels, and the I/O permission bitmap (SDM vol. 3, 7.7; vol. 1, 19.5.2). */
import type { Cpu } from '../cpu.ts';
import { Vector } from '../emit.ts';
import { isVirtual8086 } from './segments.ts';

/**
 * A stack pointer of the 64-bit TSS: low half returned, high half in `cpu.mmu.high`.
 *
 * @param offset 4 + 8 × CPL for RSP0 to RSP2, 0x1c + 8 × n for IST n
 * @throws #TS when the TSS is too short, page faults
 */
export function tssStack64(cpu: Cpu, offset: number, ext: number): number {
  const { tr } = cpu;
  if (!tr.usable || offset + 7 > tr.limit) throw cpu.fault(Vector.TS, (tr.selector & 0xfffc) | ext);
  const lo = (tr.baseLow + offset) | 0;
  return cpu.mmu.read64(lo, tr.baseHigh + (lo >>> 0 < tr.baseLow >>> 0 ? 1 : 0), true);
}

/** ESP of the 32-bit (or 16-bit) TSS for a level: ESP returned, SS in `cpu.mmu.high`. @throws #TS, page faults */
export function tssStack32(cpu: Cpu, cpl: number, ext: number): number {
  const { tr } = cpu;
  const wide = (tr.attributes & 8) !== 0;
  const offset = wide ? 4 + cpl * 8 : 2 + cpl * 4;
  if (!tr.usable || offset + (wide ? 5 : 3) > tr.limit) throw cpu.fault(Vector.TS, (tr.selector & 0xfffc) | ext);
  const lo = (tr.baseLow + offset) | 0;
  if (wide) {
    const esp = cpu.mmu.read32(lo, 0, true);
    cpu.mmu.high = cpu.mmu.read16((lo + 4) | 0, 0, true);
    return esp;
  }
  const sp = cpu.mmu.read16(lo, 0, true);
  cpu.mmu.high = cpu.mmu.read16((lo + 2) | 0, 0, true);
  return sp;
}

/** Checks that code at this CPL may use ports `port` to `port + width − 1`. @throws #GP(0) */
export function checkPort(cpu: Cpu, port: number, width: number): void {
  if (!(cpu.cr0 & 1) || (cpu.cpl <= ((cpu.rflags >> 12) & 3) && !isVirtual8086(cpu))) return;
  const { tr } = cpu;
  // The bitmap exists only in the 32-bit and 64-bit TSS (types 9 and 11).
  if (!tr.usable || (tr.attributes & 0xd) !== 9 || tr.limit < 0x67) throw cpu.fault(Vector.GP, 0);
  const lo = tr.baseLow;
  const hi = tr.baseHigh;
  const at = (offset: number): number => {
    const l = (lo + offset) | 0;
    return cpu.mmu.read8(l, hi + (l >>> 0 < lo >>> 0 ? 1 : 0), true);
  };
  const map = (at(0x66) | (at(0x67) << 8)) + (port >> 3);
  if (map + 1 > tr.limit) throw cpu.fault(Vector.GP, 0);
  const bits = (at(map) | (at(map + 1) << 8)) >> (port & 7);
  if (bits & ((1 << width) - 1)) throw cpu.fault(Vector.GP, 0);
}
