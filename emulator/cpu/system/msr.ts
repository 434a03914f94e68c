/** Model-specific registers (SDM vol. 4). */
import type { Cpu } from '../cpu.ts';
import { Vector } from '../emit.ts';
import { FS, GS, S } from '../layout.ts';
import { writeEfer } from './control.ts';
import { canonical } from './interrupts.ts';

const IA32_TSC = 0x10;
const IA32_PLATFORM_ID = 0x17;
const IA32_FEATURE_CONTROL = 0x3a;
const IA32_TSC_ADJUST = 0x3b;
const IA32_BIOS_SIGN_ID = 0x8b;
const IA32_MTRRCAP = 0xfe;
const IA32_ARCH_CAPABILITIES = 0x10a;
const IA32_SYSENTER_CS = 0x174;
const IA32_SYSENTER_ESP = 0x175;
const IA32_SYSENTER_EIP = 0x176;
const IA32_MCG_CAP = 0x179;
const IA32_MCG_STATUS = 0x17a;
const IA32_MISC_ENABLE = 0x1a0;
const IA32_DEBUGCTL = 0x1d9;
const IA32_PAT = 0x277;
const IA32_MTRR_DEF_TYPE = 0x2ff;
const IA32_TSC_DEADLINE = 0x6e0;
const IA32_EFER = 0xc0000080;
const IA32_STAR = 0xc0000081;
const IA32_LSTAR = 0xc0000082;
const IA32_CSTAR = 0xc0000083;
const IA32_FMASK = 0xc0000084;
const IA32_FS_BASE = 0xc0000100;
const IA32_GS_BASE = 0xc0000101;
const IA32_KERNEL_GS_BASE = 0xc0000102;
const IA32_TSC_AUX = 0xc0000103;

/** Eight variable ranges, fixed ranges, write combining. */
const MTRRCAP = 0x508;
const PAT_RESET = 0x0007040600070406n;
/** Enabled, default type write-back. */
const MTRR_DEF_TYPE_RESET = 0x806n;
/** Fast strings; no branch trace and no precise event-based sampling. */
const MISC_ENABLE_RESET = 0x1801n;
const MICROCODE_REVISION = 0x1d;
/**
 * Nothing runs speculatively here, so no flaw of speculation exists: RDCL_NO, SSB_NO, MDS_NO, IF_PSCHANGE_MC_NO, TAA_NO,
 * SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO.
 */
const ARCH_CAPABILITIES = [0, 4, 5, 6, 8, 13, 14, 15, 20, 24, 26, 27].reduce((a, n) => a | (1 << n), 0);

const asBig = (lo: number, hi: number): bigint => BigInt.asUintN(64, (BigInt(hi) << 32n) | BigInt(lo >>> 0));

/** Whether an MSR only stores what is written: MTRRs and machine-check registers. */
function isPlain(index: number): boolean {
  return (
    (index >= 0x200 && index <= 0x20f) ||
    index === 0x250 ||
    index === 0x258 ||
    index === 0x259 ||
    (index >= 0x268 && index <= 0x26f) ||
    index === IA32_MCG_STATUS
  );
}

function plainReset(index: number): bigint {
  switch (index) {
    case IA32_PAT:
      return PAT_RESET;
    case IA32_MTRR_DEF_TYPE:
      return MTRR_DEF_TYPE_RESET;
    case IA32_MISC_ENABLE:
      return MISC_ENABLE_RESET;
    default:
      return 0n;
  }
}

/** Guest nanoseconds as the time-stamp counter counts them, with IA32_TSC_ADJUST. */
const tscNow = (cpu: Cpu): bigint => BigInt(Math.floor(cpu.host.clock.now()));

/** RDMSR: low half returned, high half in `cpu.eaHigh`. @throws #GP(0) for an MSR that is not there */
const kernelGs = (cpu: Cpu): number => cpu.state + S.KERNEL_GS_BASE;

export function readMsr(cpu: Cpu, index: number): number {
  const { sys } = cpu;
  cpu.eaHigh = 0;
  switch (index >>> 0) {
    case IA32_FS_BASE:
    case IA32_GS_BASE: {
      const n = index >>> 0 === IA32_FS_BASE ? FS : GS;
      cpu.eaHigh = cpu.baseHigh(n);
      return cpu.baseLow(n);
    }
    case IA32_KERNEL_GS_BASE:
      cpu.eaHigh = cpu.i32[(kernelGs(cpu) >> 2) + 1]!;
      return cpu.i32[kernelGs(cpu) >> 2]!;
    case IA32_EFER:
      return cpu.efer;
    case IA32_STAR:
      cpu.eaHigh = sys.starHigh;
      return sys.starLow;
    case IA32_LSTAR:
      cpu.eaHigh = sys.lstarHigh;
      return sys.lstarLow;
    case IA32_CSTAR:
      cpu.eaHigh = sys.cstarHigh;
      return sys.cstarLow;
    case IA32_FMASK:
      return sys.sfmask;
    case IA32_TSC_AUX:
      return sys.tscAux;
    case IA32_SYSENTER_CS:
      return sys.sysenterCs;
    case IA32_SYSENTER_ESP:
      cpu.eaHigh = sys.sysenterEspHigh;
      return sys.sysenterEspLow;
    case IA32_SYSENTER_EIP:
      cpu.eaHigh = sys.sysenterEipHigh;
      return sys.sysenterEipLow;
    case IA32_TSC:
      return split(cpu, tscNow(cpu) + sys.tscAdjust);
    case IA32_TSC_ADJUST:
      return split(cpu, sys.tscAdjust);
    case IA32_PLATFORM_ID:
    case IA32_MCG_CAP:
    case IA32_DEBUGCTL:
      return 0;
    case IA32_FEATURE_CONTROL:
      return 1; // locked, nothing enabled
    case IA32_BIOS_SIGN_ID:
      cpu.eaHigh = MICROCODE_REVISION;
      return 0;
    case IA32_MTRRCAP:
      return MTRRCAP;
    case IA32_ARCH_CAPABILITIES:
      return ARCH_CAPABILITIES;
    case IA32_PAT:
    case IA32_MTRR_DEF_TYPE:
    case IA32_MISC_ENABLE:
      return split(cpu, cpu.msrs.get(index) ?? plainReset(index));
    default: {
      if (isPlain(index)) return split(cpu, cpu.msrs.get(index) ?? 0n);
      let value = cpu.host.msrs.readMsr(index >>> 0);
      if (value === undefined) throw cpu.fault(Vector.GP, 0);
      // The deadline is compared with the clock, which does not know IA32_TSC_ADJUST.
      if (index === IA32_TSC_DEADLINE && value !== 0n) value += sys.tscAdjust;
      return split(cpu, value);
    }
  }
}

function split(cpu: Cpu, value: bigint): number {
  cpu.eaHigh = Number(BigInt.asIntN(32, value >> 32n));
  return Number(BigInt.asIntN(32, value));
}

/** Memory types of PAT and MTRR entries: UC, WC, WT, WP, WB; PAT also UC−. */
const validTypes = (lo: number, hi: number, highest: number): boolean => {
  for (let i = 0; i < 8; i++) {
    const type = ((i < 4 ? lo : hi) >>> ((i & 3) * 8)) & 0xff;
    if (type > highest || type === 2 || type === 3) return false;
  }
  return true;
};

/** WRMSR. @throws #GP(0) for an MSR that is not there, or a value that it does not take */
export function writeMsr(cpu: Cpu, index: number, lo: number, hi: number): void {
  const { sys } = cpu;
  switch (index >>> 0) {
    case IA32_FS_BASE:
    case IA32_GS_BASE:
      needCanonical(cpu, hi);
      cpu.setSegmentBase(index >>> 0 === IA32_FS_BASE ? FS : GS, lo, hi);
      return;
    case IA32_KERNEL_GS_BASE:
      needCanonical(cpu, hi);
      cpu.i32[kernelGs(cpu) >> 2] = lo;
      cpu.i32[(kernelGs(cpu) >> 2) + 1] = hi;
      return;
    case IA32_EFER:
      writeEfer(cpu, lo, hi);
      return;
    case IA32_STAR:
      sys.starLow = lo;
      sys.starHigh = hi;
      return;
    case IA32_LSTAR:
      needCanonical(cpu, hi);
      sys.lstarLow = lo;
      sys.lstarHigh = hi;
      return;
    case IA32_CSTAR:
      needCanonical(cpu, hi);
      sys.cstarLow = lo;
      sys.cstarHigh = hi;
      return;
    case IA32_FMASK:
      if (hi !== 0) throw cpu.fault(Vector.GP, 0);
      sys.sfmask = lo;
      return;
    case IA32_TSC_AUX:
      if (hi !== 0) throw cpu.fault(Vector.GP, 0);
      sys.tscAux = lo;
      return;
    case IA32_SYSENTER_CS:
      sys.sysenterCs = lo & 0xffff;
      return;
    case IA32_SYSENTER_ESP:
      needCanonical(cpu, hi);
      sys.sysenterEspLow = lo;
      sys.sysenterEspHigh = hi;
      return;
    case IA32_SYSENTER_EIP:
      needCanonical(cpu, hi);
      sys.sysenterEipLow = lo;
      sys.sysenterEipHigh = hi;
      return;
    case IA32_TSC:
      sys.tscAdjust = BigInt.asIntN(64, asBig(lo, hi) - tscNow(cpu));
      return;
    case IA32_TSC_ADJUST:
      sys.tscAdjust = BigInt.asIntN(64, asBig(lo, hi));
      return;
    case IA32_BIOS_SIGN_ID:
      return; // written with 0 before CPUID to read the revision
    case IA32_DEBUGCTL:
      if (hi !== 0 || lo & ~3) throw cpu.fault(Vector.GP, 0);
      return; // no branch records: the bits read as 0
    case IA32_PAT:
      if (!validTypes(lo, hi, 7)) throw cpu.fault(Vector.GP, 0);
      cpu.msrs.set(index, asBig(lo, hi));
      return;
    case IA32_MTRR_DEF_TYPE:
    case IA32_MISC_ENABLE:
      cpu.msrs.set(index, asBig(lo, hi));
      return;
    default: {
      if (isPlain(index)) {
        cpu.msrs.set(index, asBig(lo, hi));
        return;
      }
      let value = asBig(lo, hi);
      if (index === IA32_TSC_DEADLINE && value !== 0n && sys.tscAdjust !== 0n) {
        value -= sys.tscAdjust;
        if (value <= 0n) value = 1n;
      }
      if (!cpu.host.msrs.writeMsr(index >>> 0, value)) throw cpu.fault(Vector.GP, 0);
    }
  }
}

function needCanonical(cpu: Cpu, hi: number): void {
  if (!canonical(hi)) throw cpu.fault(Vector.GP, 0);
}
