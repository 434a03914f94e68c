/** CPUID and the time-stamp counter. */
import type { Cpu } from '../cpu.ts';
import { RAX, RBX, RCX, RDX } from '../layout.ts';

type Leaf = readonly [eax: number, ebx: number, ecx: number, edx: number];
const NONE: Leaf = [0, 0, 0, 0];

const bits = (...numbers: number[]): number => numbers.reduce((a, n) => a | (1 << n), 0);

/** Four bytes of a string from index `at`, zero-padded, as they lie in a register. */
function chars(text: string, at: number): number {
  let value = 0;
  for (let i = 3; i >= 0; i--) value = (value << 8) | (at + i < text.length ? text.charCodeAt(at + i) : 0);
  return value;
}

/** Family 6, model 26, stepping 5: old enough that no microcode erratum list names what is offered here. */
const SIGNATURE = 0x000106a5;
const BRAND = 'linux-vm x86-64 processor';
/** Not the name of any hypervisor whose paravirtual interface a kernel would then use. */
const HYPERVISOR = 'linux-vm';

// SDM vol. 2, CPUID, tables of leaf 01H and 07H.
const FEATURES_1_ECX = bits(0, 9, 13, 17, 19, 20, 23, 24, 30, 31); // SSE3 SSSE3 CX16 PCID SSE4.1 SSE4.2 POPCNT TSC-deadline RDRAND hypervisor
const FEATURES_1_EDX = bits(0, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 19, 23, 24, 25, 26); // FPU DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT CLFSH MMX FXSR SSE SSE2
const FEATURES_7_EBX = bits(0, 1, 9, 18); // FSGSBASE TSC_ADJUST ERMS RDSEED
const FEATURES_7_EDX = bits(4, 29); // FSRM ARCH_CAPABILITIES
const FEATURES_81_ECX = bits(0); // LAHF
const FEATURES_81_EDX = bits(11, 20, 26, 27, 29); // SYSCALL NX 1-GiB pages RDTSCP LM

/** Deterministic cache parameters: 32 KiB + 32 KiB, 256 KiB, 8 MiB, lines of 64 bytes. */
const CACHES: readonly Leaf[] = [
  [0x121, 63 | (7 << 22), 63, 0],
  [0x122, 63 | (7 << 22), 63, 0],
  [0x143, 63 | (7 << 22), 511, 0],
  [0x163, 63 | (15 << 22), 8191, 0],
];

const LEAVES = new Map<number, Leaf>([
  [0, [0x16, chars('Genu', 0), chars('ntel', 0), chars('ineI', 0)]],
  [1, [SIGNATURE, (1 << 16) | (8 << 8), FEATURES_1_ECX, FEATURES_1_EDX]],
  // Descriptor FF: the caches are those of leaf 4.
  [2, [0x0000ff01, 0, 0, 0]],
  // The APIC timer runs always.
  [6, [1 << 2, 0, 0, 0]],
  // The TSC is the 25 MHz crystal times 40.
  [0x15, [1, 40, 25_000_000, 0]],
  [0x16, [1000, 1000, 25, 0]],
  [0x40000000, [0x40000000, chars(HYPERVISOR, 0), chars(HYPERVISOR, 4), chars(HYPERVISOR, 8)]],
  [0x80000000, [0x80000008 | 0, 0, 0, 0]],
  [0x80000001, [0, 0, FEATURES_81_ECX, FEATURES_81_EDX]],
  ...[0, 1, 2].map((i): [number, Leaf] => [
    0x80000002 + i,
    [chars(BRAND, i * 16), chars(BRAND, i * 16 + 4), chars(BRAND, i * 16 + 8), chars(BRAND, i * 16 + 12)],
  ]),
  [0x80000006, [0, 0, (256 << 16) | (6 << 12) | 64, 0]],
  // Invariant TSC.
  [0x80000007, [0, 0, 0, 1 << 8]],
  // 40 physical and 48 linear address bits.
  [0x80000008, [40 | (48 << 8), 0, 0, 0]],
]);

/** The registers that CPUID gives for a leaf and subleaf (unsigned). What is not there is all zeros. */
export function cpuidLeaf(leaf: number, subleaf: number): Leaf {
  switch (leaf) {
    case 4:
      return CACHES[subleaf] ?? NONE;
    case 7:
      return subleaf === 0 ? [0, FEATURES_7_EBX, 0, FEATURES_7_EDX] : NONE;
    case 0xb:
      // One thread in one core.
      if (subleaf === 0) return [0, 1, 0x100, 0];
      return subleaf === 1 ? [0, 1, 0x201, 0] : [0, 0, subleaf & 0xff, 0];
    default:
      return LEAVES.get(leaf) ?? NONE;
  }
}

/** CPUID. */
export function cpuid(cpu: Cpu): void {
  const [eax, ebx, ecx, edx] = cpuidLeaf(cpu.low(RAX) >>> 0, cpu.low(RCX) >>> 0);
  cpu.set32(RAX, eax | 0);
  cpu.set32(RBX, ebx | 0);
  cpu.set32(RCX, ecx | 0);
  cpu.set32(RDX, edx | 0);
}

/** Reads the time-stamp counter into EDX:EAX. */
export function readTsc(cpu: Cpu): void {
  const now = cpu.host.clock.now();
  const { tscAdjust } = cpu.sys;
  if (tscAdjust !== 0n) {
    const value = BigInt.asUintN(64, BigInt(Math.floor(now)) + tscAdjust);
    cpu.set32(RAX, Number(value & 0xffffffffn) | 0);
    cpu.set32(RDX, Number(value >> 32n) | 0);
    return;
  }
  const high = Math.floor(now / 0x1_0000_0000);
  cpu.set32(RAX, (now - high * 0x1_0000_0000) | 0);
  cpu.set32(RDX, high | 0);
}
