/** Control registers and the switches between modes (SDM vol. 3, 2.5 and 9.8). */
import {
  CR0_CD,
  CR0_ET,
  CR0_NW,
  CR0_PE,
  CR0_PG,
  CR0_WP,
  CR4_PAE,
  CR4_PCIDE,
  CR4_PGE,
  CR4_PSE,
  EFER_LMA,
  EFER_LME,
  EFER_NXE,
  EFER_SCE,
} from '../bits.ts';
import type { Cpu } from '../cpu.ts';
import { Vector } from '../emit.ts';
import { CS, S } from '../layout.ts';
import { ATTR } from './segments.ts';

/** PE MP EM TS ET NE WP AM NW CD PG; the others read as 0. */
const CR0_KNOWN = 0xe005003f | 0;

/** TSD DE PSE PAE MCE PGE PCE OSFXSR OSXMMEXCPT FSGSBASE PCIDE: what CPUID offers. */
const CR4_KNOWN = 0x000307fc;

const EFER_WRITABLE = EFER_SCE | EFER_LME | EFER_NXE;

/** Physical addresses have 40 bits (CPUID.80000008H). */
const PHYSICAL_HIGH = 0xff;

/** @throws #GP(0) for combinations that do not exist */
export function writeCr0(cpu: Cpu, lo: number, hi: number): void {
  if (hi !== 0) throw cpu.fault(Vector.GP, 0);
  const value = (lo & CR0_KNOWN) | CR0_ET;
  const old = cpu.cr0;
  const pg = (value & CR0_PG) !== 0;
  if ((pg && !(value & CR0_PE)) || (value & CR0_NW && !(value & CR0_CD))) throw cpu.fault(Vector.GP, 0);
  const turnsOn = pg && !(old & CR0_PG);
  const turnsOff = !pg && (old & CR0_PG) !== 0;
  if (turnsOn && cpu.efer & EFER_LME) {
    if (!(cpu.cr4 & CR4_PAE) || cpu.segments[CS]!.attributes & ATTR.L) throw cpu.fault(Vector.GP, 0);
    cpu.efer |= EFER_LMA;
  }
  if (turnsOff && cpu.longMode) {
    if (cpu.code64 || cpu.cr4 & CR4_PCIDE) throw cpu.fault(Vector.GP, 0);
    cpu.efer &= ~EFER_LMA;
  }
  cpu.cr0 = value;
  cpu.i32[(cpu.state + S.CR0) >> 2] = value;
  if ((old ^ value) & (CR0_PG | CR0_WP | CR0_PE)) cpu.mmu.flush(true);
  cpu.modeChanged();
  cpu.leave();
}

/** @throws #GP(0) for address bits past the processor's */
export function writeCr3(cpu: Cpu, lo: number, hi: number): void {
  const keep = hi < 0 && (cpu.cr4 & CR4_PCIDE) !== 0;
  if (keep) hi &= 0x7fffffff;
  if (cpu.longMode && hi & ~PHYSICAL_HIGH) throw cpu.fault(Vector.GP, 0);
  cpu.cr3Low = lo;
  cpu.cr3High = cpu.longMode ? hi : 0;
  if (cpu.cr4 & CR4_PCIDE) cpu.mmu.switchSpace(lo & 0xfff, keep);
  else cpu.mmu.flush((cpu.cr4 & CR4_PGE) === 0);
}

/** @throws #GP(0) for bits that CPUID does not offer */
export function writeCr4(cpu: Cpu, lo: number, hi: number): void {
  if (hi !== 0 || lo & ~CR4_KNOWN) throw cpu.fault(Vector.GP, 0);
  if (cpu.longMode && !(lo & CR4_PAE)) throw cpu.fault(Vector.GP, 0);
  const old = cpu.cr4;
  // SDM vol. 3, 4.10.1: PCIDs come with IA-32e mode only, and from PCID 0.
  if (lo & ~old & CR4_PCIDE && (!cpu.longMode || cpu.cr3Low & 0xfff)) throw cpu.fault(Vector.GP, 0);
  cpu.cr4 = lo;
  cpu.i32[(cpu.state + S.CR4) >> 2] = lo;
  if ((old ^ lo) & (CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE)) cpu.mmu.flush(true);
  cpu.modeChanged();
  cpu.leave();
}

/** CR8: the task priority. @throws #GP(0) */
export function writeCr8(cpu: Cpu, lo: number, hi: number): void {
  if (hi !== 0 || lo & ~15) throw cpu.fault(Vector.GP, 0);
  cpu.host.interrupts.taskPriority = lo;
  cpu.leave();
}

/** WRMSR to IA32_EFER. @throws #GP(0) */
export function writeEfer(cpu: Cpu, lo: number, hi: number): void {
  if (hi !== 0 || lo & ~(EFER_WRITABLE | EFER_LMA)) throw cpu.fault(Vector.GP, 0);
  const old = cpu.efer;
  if ((old ^ lo) & EFER_LME && cpu.cr0 & CR0_PG) throw cpu.fault(Vector.GP, 0);
  cpu.efer = (lo & EFER_WRITABLE) | (old & EFER_LMA);
  if ((old ^ cpu.efer) & EFER_NXE) cpu.mmu.flush(true);
  cpu.modeChanged();
  cpu.leave();
}

/** A control register: low half returned, high half in `cpu.eaHigh`. @throws #UD for one that does not exist */
export function readControl(cpu: Cpu, n: number): number {
  cpu.eaHigh = 0;
  switch (n) {
    case 0:
      return cpu.cr0;
    case 2: {
      const at = (cpu.state + S.CR2) >> 2;
      cpu.eaHigh = cpu.i32[at + 1]!;
      return cpu.i32[at]!;
    }
    case 3:
      cpu.eaHigh = cpu.cr3High;
      return cpu.cr3Low;
    case 4:
      return cpu.cr4;
    case 8:
      return cpu.host.interrupts.taskPriority;
    default:
      throw cpu.fault(Vector.UD);
  }
}

/** @throws #UD, #GP(0) */
export function writeControl(cpu: Cpu, n: number, lo: number, hi: number): void {
  switch (n) {
    case 0:
      writeCr0(cpu, lo, hi);
      return;
    case 2: {
      const at = (cpu.state + S.CR2) >> 2;
      cpu.i32[at] = lo;
      cpu.i32[at + 1] = hi;
      return;
    }
    case 3:
      writeCr3(cpu, lo, hi);
      return;
    case 4:
      writeCr4(cpu, lo, hi);
      return;
    case 8:
      writeCr8(cpu, lo, hi);
      return;
    default:
      throw cpu.fault(Vector.UD);
  }
}
