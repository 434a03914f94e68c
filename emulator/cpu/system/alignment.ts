/**
 * Alignment checking (SDM vol. 3, 6.15, "Interrupt 17"): with CR0.AM and RFLAGS.AC set, accesses at CPL 3 that are not
 * aligned raise #AC. Hardly any program asks for it, so it costs others nothing: code that runs with it is decoded in
 * a mode of its own (`Mode.LimitedUser…`), in which each instruction is preceded by the check made here.
 */
import { AC, CR0_AM } from '../bits.ts';
import { GuestFault, type Cpu } from '../cpu.ts';
import { Vector } from '../emit.ts';
import type { Insn } from '../insn.ts';
import { DS, ES, RBP, RCX, RDI, RDX, RSI, RSP, S, SS } from '../layout.ts';
import { isRepeated } from './debug.ts';
import { ADDRESS_ONLY, bytesOf, raisesPending, stackAccess, STRING, WITHIN } from './limits.ts';
import { checkPort } from './tss.ts';

/** Whether accesses have to be aligned now. */
export const needsAlignment = (cpu: Cpu): boolean =>
  cpu.cpl === 3 && (cpu.cr0 & CR0_AM) !== 0 && (cpu.i32[(cpu.state + S.EFLAGS) >> 2]! & AC) !== 0;

/** What an operand without a size of its own has to be aligned to. */
function alignmentOf(insn: Insn): number {
  const { name } = insn.def;
  if (/^f(ldenv|n?stenv|rstor|n?save)$/.test(name)) return insn.size === 2 ? 2 : 4;
  if (/^[sl][gi]dt$/.test(name)) return 4;
  if (/^(l[defgs]s|callf|jmpf)$/.test(name)) return insn.size;
  // The rest of what they have to be aligned to is a matter of #GP.
  if (/^fx(save|rstor)$/.test(name)) return 4;
  if (name === 'bound') return insn.size;
  const bytes = bytesOf(insn);
  // Whole numbers of bytes that are no power of two: ten.
  return bytes & (bytes - 1) ? 8 : Math.min(bytes, 16);
}

/** Whether the I/O privilege level or the permission bitmap lets this code use the port in DX: else #GP comes first. */
function mayUsePort(cpu: Cpu, width: number): boolean {
  try {
    checkPort(cpu, cpu.low(RDX) & 0xffff, width);
    return true;
  } catch (e) {
    if (e instanceof GuestFault) return false;
    throw e;
  }
}

/**
 * Checks the accesses of an instruction that is about to run. RIP is the next instruction's.
 *
 * @returns `WITHIN` or #AC, whose error code is 0
 */
export function checkAlignment(cpu: Cpu, insn: Insn): number {
  const { name } = insn.def;
  const stack = stackAccess(insn);
  if (stack && misaligned(cpu, SS, cpu.low(stack.base) + stack.delta, insn.size)) return Vector.AC;
  if (stack && name === 'enter') {
    // It copies outer frame pointers from RBP on down, and touches the new top of the stack.
    if ((insn.immHigh & 31) > 1 && misaligned(cpu, SS, cpu.low(RBP), insn.size)) return Vector.AC;
    const top = cpu.low(RSP) + stack.delta - (insn.imm & 0xffff);
    if (misaligned(cpu, SS, top, insn.size)) return Vector.AC;
  }
  const string = STRING[name];
  if (string) {
    const [reads, uses] = string;
    const size = /b$/.test(name) || !(insn.opcode & 1) ? 1 : insn.size;
    if ((isRepeated(insn) && countIsZero(cpu, insn)) || (/^(in|out)s/.test(name) && !mayUsePort(cpu, size)))
      return WITHIN;
    if (reads && misaligned(cpu, insn.segment >= 0 ? insn.segment : DS, cpu.low(RSI), size)) return Vector.AC;
    return uses && misaligned(cpu, ES, cpu.low(RDI), size) ? Vector.AC : WITHIN;
  }
  if (name.startsWith('maskmov'))
    return misaligned(cpu, insn.segment >= 0 ? insn.segment : DS, cpu.low(RDI), 8) ? Vector.AC : WITHIN;
  if (!insn.mem || ADDRESS_ONLY.test(name) || raisesPending(cpu, insn)) return WITHIN;
  const o = insn.operands.find((x) => x.kind === 'mem');
  if (o?.size === 16 && name.startsWith('movnt')) return WITHIN;
  const to = o && o.size > 0 ? Math.min(o.size, 16) : alignmentOf(insn);
  return cpu.linearAddress(insn) & (to - 1) ? Vector.AC : WITHIN;
}

/** In 64-bit code only FS and GS have a base, which `segmented` knows. Sizes divide 4 GiB, so that the low half tells. */
const misaligned = (cpu: Cpu, segment: number, offset: number, size: number): boolean =>
  (cpu.segmented(segment, offset, 0) & (size - 1)) !== 0;

function countIsZero(cpu: Cpu, insn: Insn): boolean {
  if (insn.addressSize === 2) return (cpu.low(RCX) & 0xffff) === 0;
  return cpu.low(RCX) === 0 && (insn.addressSize === 4 || cpu.high(RCX) === 0);
}
