/** Debug registers and the #DB exceptions that come of them (SDM vol. 3, chapter 18). */
import { CR4_DE } from '../bits.ts';
import type { Cpu } from '../cpu.ts';
import { Vector } from '../emit.ts';
import { ZF, type Insn } from '../insn.ts';
import { RCX, SS } from '../layout.ts';

const GD = 1 << 13;
/** DR6: breakpoints B0 to B3, BD (debug register access), BS (single step), BT. */
const DR6_WRITABLE = 0xe00f;
const DR6_ONES = 0xffff0ff0;
const BD = 1 << 13;
const BS = 1 << 14;
/** R/W fields of DR7. */
const EXECUTE = 0;
const IO = 2;
/** Bytes by the LEN field. */
const LENGTHS = [1, 2, 8, 4] as const;

const dr7 = (cpu: Cpu): number => Number(cpu.dr[7]! & 0xffffffffn);
const enabled = (control: number, n: number): boolean => ((control >> (2 * n)) & 3) !== 0;
const typeOf = (control: number, n: number): number => (control >> (16 + 4 * n)) & 3;
const lengthOf = (control: number, n: number): number => LENGTHS[(control >> (18 + 4 * n)) & 3]!;

/** Derives what the run loop and the MMU look at from DR7. Call after DR7 was set otherwise than by MOV (a restored state). */
export function updateBreakpoints(cpu: Cpu): void {
  const control = dr7(cpu);
  let code = false;
  let data = false;
  for (let n = 0; n < 4; n++)
    if (enabled(control, n)) {
      const type = typeOf(control, n);
      // Ports are watched one instruction at a time, too: #DB follows the access at once.
      if (type === EXECUTE || type === IO) code = true;
      else data = true;
    }
  cpu.sys.codeBreakpoints = code;
  if (data !== cpu.mmu.watching) {
    cpu.mmu.watching = data;
    cpu.mmu.flush(true);
  }
  // Running code has to come back to the run loop for its checks to begin (or to stop).
  cpu.leave();
}

/** Whether DR7 has an instruction breakpoint on: then the run loop goes instruction by instruction. */
export function hasCodeBreakpoints(cpu: Cpu): boolean {
  return cpu.sys.codeBreakpoints;
}

function report(cpu: Cpu, bits: number): void {
  cpu.dr[6] = BigInt(((Number(cpu.dr[6]! & 0xffffffffn) & ~0xf) | bits | DR6_ONES) >>> 0);
  cpu.dr[7] = cpu.dr[7]! & ~BigInt(GD);
}

/** Whether an instruction breakpoint is at the linear address; if so, DR6 is set and the caller raises #DB before the instruction. */
export function codeBreakpoint(cpu: Cpu, lo: number, hi: number): boolean {
  if (!cpu.sys.codeBreakpoints) return false;
  const control = dr7(cpu);
  const address = BigInt.asUintN(64, (BigInt(hi) << 32n) | BigInt(lo >>> 0));
  let hits = 0;
  for (let n = 0; n < 4; n++)
    if (enabled(control, n) && typeOf(control, n) === EXECUTE && cpu.dr[n] === address) hits |= 1 << n;
  if (hits) report(cpu, hits);
  return hits !== 0;
}

/** Notes the data breakpoints that an access of `size` bytes touches; `pendingTrap` raises them after the instruction. */
export function dataBreak(cpu: Cpu, lo: number, hi: number, size: number, write: boolean): void {
  const control = dr7(cpu);
  const first = BigInt.asUintN(64, (BigInt(hi) << 32n) | BigInt(lo >>> 0));
  const end = first + BigInt(size);
  for (let n = 0; n < 4; n++) {
    if (!enabled(control, n)) continue;
    const type = typeOf(control, n);
    if (type === EXECUTE || type === IO || (type === 1 && !write)) continue;
    const length = BigInt(lengthOf(control, n));
    const base = cpu.dr[n]! & ~(length - 1n);
    if (first < base + length && base < end) cpu.sys.dataHits |= 1 << n;
  }
}

/** Notes I/O breakpoints (CR4.DE) on a port access. */
export function portBreak(cpu: Cpu, port: number, size: number): void {
  if (!(cpu.cr4 & CR4_DE)) return;
  const control = dr7(cpu);
  if (!(control & 0xff)) return;
  for (let n = 0; n < 4; n++) {
    if (!enabled(control, n) || typeOf(control, n) !== IO) continue;
    const length = lengthOf(control, n);
    const base = Number(cpu.dr[n]! & 0xffffn) & ~(length - 1);
    if (port < base + length && base < port + size) {
      cpu.sys.dataHits |= 1 << n;
      cpu.leave();
    }
  }
}

/** Whether the last instruction hit data breakpoints; then DR6 is set and the caller raises #DB. */
export function pendingTrap(cpu: Cpu): boolean {
  const hits = cpu.sys.dataHits;
  if (!hits) return false;
  cpu.sys.dataHits = 0;
  report(cpu, hits);
  return true;
}

/** Sets DR6.BS for the #DB that the caller raises after a single-stepped instruction, keeping the hits just reported. */
export function singleStepTrap(cpu: Cpu): void {
  cpu.dr[6] = cpu.dr[6]! | BigInt(BS) | BigInt(DR6_ONES >>> 0);
  cpu.dr[7] = cpu.dr[7]! & ~BigInt(GD);
}

const STRING = /^(movs|cmps|stos|lods|scas|ins[bv]|outs[bv])$/;

/** RCX before one iteration of a repeated string instruction, and the count that it held. */
interface Iteration {
  rcx: bigint;
  count: bigint;
}

const countBits = (insn: Insn): number => insn.addressSize * 8;
const prefixOf = (insn: Insn): string => (insn.rep ? insn.rep.toString(16) : insn.def.prefix);

/** A string instruction with a repeat prefix. */
export const isRepeated = (insn: Insn): boolean => /^f[23]$/.test(prefixOf(insn)) && STRING.test(insn.def.name);

/**
 * Before a step: lets a repeated string instruction do one iteration, after which traps come (SDM vol. 3, 18.3.1.4).
 * @returns what `endIteration` wants, or undefined for other instructions and a count of 0
 */
export function startIteration(cpu: Cpu, insn: Insn): Iteration | undefined {
  if (!isRepeated(insn)) return undefined;
  const rcx = cpu.big(RCX);
  const count = BigInt.asUintN(countBits(insn), rcx);
  if (count === 0n) return undefined;
  cpu.setBig(RCX, withCount(rcx, insn, 1n));
  return { rcx, count };
}

/** RCX with another count: 32-bit counts clear the upper half, 16-bit ones leave it. */
function withCount(rcx: bigint, insn: Insn, count: bigint): bigint {
  return insn.addressSize === 2 ? (rcx & ~0xffffn) | count : count;
}

/** After the step: whether the instruction is to be executed again. */
export function endIteration(cpu: Cpu, insn: Insn, { rcx, count }: Iteration, faulted: boolean): boolean {
  cpu.setBig(RCX, faulted ? rcx : withCount(rcx, insn, count - 1n));
  if (faulted || count === 1n) return false;
  if (!/^(cmps|scas)$/.test(insn.def.name)) return true;
  return ((cpu.rflags & ZF) !== 0) === (prefixOf(insn) === 'f3');
}

/** MOV SS and POP SS. */
export function loadsStackSegment(insn: Insn): boolean {
  const o = insn.operands[0];
  return (
    insn.def.pattern === 'pop 17' ||
    (insn.def.pattern.startsWith('mov 8e') && o?.kind === 'reg' && o.cls === 'seg' && o.reg === SS)
  );
}

/** Instructions that are not followed by a single step if they have cleared TF: they clear it before they are done. */
export const clearsTrapFlag = (insn: Insn): boolean => /^(int|int3|into|int1|syscall)$/.test(insn.def.name);

/** The debug register that a MOV names. @throws #UD for DR4 and DR5 under CR4.DE, #DB under DR7.GD */
function register(cpu: Cpu, n: number): number {
  if (n > 7 || ((n === 4 || n === 5) && cpu.cr4 & CR4_DE)) throw cpu.fault(Vector.UD);
  if (dr7(cpu) & GD) {
    report(cpu, BD);
    throw cpu.fault(Vector.DB);
  }
  return n === 4 || n === 5 ? n + 2 : n;
}

/** MOV from DRn. @throws #UD, #DB */
export function readDebug(cpu: Cpu, n: number): bigint {
  return cpu.dr[register(cpu, n)]!;
}

/** MOV to DRn. @throws #UD, #DB, #GP(0) for a wide DR6 or DR7 */
export function writeDebug(cpu: Cpu, n: number, value: bigint): void {
  const r = register(cpu, n);
  if (r < 4) {
    cpu.dr[r] = value;
    return;
  }
  if (value > 0xffffffffn) throw cpu.fault(Vector.GP, 0);
  const low = Number(value);
  if (r === 6) cpu.dr[6] = BigInt(((low & DR6_WRITABLE) | DR6_ONES) >>> 0);
  else {
    cpu.dr[7] = BigInt(((low & ~0xd800) | 0x400) >>> 0);
    updateBreakpoints(cpu);
  }
}
