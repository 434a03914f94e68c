/** The stack of the current privilege level, for system instructions: reads and writes below RSP move it only when told. */
import type { Cpu } from '../cpu.ts';
import { Vector } from '../emit.ts';
import { RSP, SS } from '../layout.ts';
import { ATTR } from './segments.ts';

/** What a stack offset is cut to outside 64-bit code; all of it inside. */
export const stackMask = (cpu: Cpu): number => (cpu.code64 || cpu.segments[SS]!.attributes & ATTR.DB ? -1 : 0xffff);

/** Linear address of RSP + delta: low half returned, high half in `cpu.eaHigh`. @throws #SS(0) when not canonical */
function address(cpu: Cpu, delta: number): number {
  const sp = cpu.low(RSP);
  const lo = (sp + delta) | 0;
  if (cpu.code64) {
    const carry = delta >= 0 ? (lo >>> 0 < sp >>> 0 ? 1 : 0) : lo >>> 0 > sp >>> 0 ? -1 : 0;
    const hi = (cpu.high(RSP) + carry) | 0;
    if ((hi << 15) >> 31 !== hi >> 15) throw cpu.fault(Vector.SS, 0);
    cpu.eaHigh = hi;
    return lo;
  }
  const ss = cpu.segments[SS]!;
  cpu.eaHigh = 0;
  return (ss.baseLow + (ss.attributes & ATTR.DB ? lo : lo & 0xffff)) | 0;
}

/** Reads the word of 2, 4 or 8 bytes at RSP + delta: low half returned (2 and 4 bytes zero-extended in it), high in `mmu.high`. */
export function peek(cpu: Cpu, delta: number, size: number): number {
  const lo = address(cpu, delta);
  if (size === 8) return cpu.mmu.read64(lo, cpu.eaHigh);
  const value = size === 4 ? cpu.mmu.read32(lo, cpu.eaHigh) : cpu.mmu.read16(lo, cpu.eaHigh);
  cpu.mmu.high = 0;
  return value;
}

export function poke(cpu: Cpu, delta: number, size: number, valueLow: number, valueHigh: number): void {
  const lo = address(cpu, delta);
  if (size === 8) cpu.mmu.write64(lo, cpu.eaHigh, valueLow, valueHigh);
  else if (size === 4) cpu.mmu.write32(lo, cpu.eaHigh, valueLow);
  else cpu.mmu.write16(lo, cpu.eaHigh, valueLow & 0xffff);
}

/** Adds to the stack pointer, at the stack's width. */
export function moveStack(cpu: Cpu, delta: number): void {
  const sp = cpu.low(RSP);
  const lo = (sp + delta) | 0;
  if (cpu.code64) {
    const carry = delta >= 0 ? (lo >>> 0 < sp >>> 0 ? 1 : 0) : lo >>> 0 > sp >>> 0 ? -1 : 0;
    cpu.setPair(RSP, lo, (cpu.high(RSP) + carry) | 0);
  } else if (cpu.segments[SS]!.attributes & ATTR.DB) cpu.set32(RSP, lo);
  else cpu.setPair(RSP, (sp & 0xffff0000) | (lo & 0xffff), cpu.high(RSP));
}
