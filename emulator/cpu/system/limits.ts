/**
 * Segment limits and access rights outside 64-bit code (SDM vol. 3, 5.3 to 5.5). Flat segments need no checks, and nearly
 * all code has flat ones; where a segment is not flat, code is decoded in a mode of its own (`Mode.Limited…`), in which
 * each instruction is preceded by the check made here.
 */
import { CR0_PE, DF, IOPL } from '../bits.ts';
import { GuestFault, type Cpu, type Segment } from '../cpu.ts';
import { Vector } from '../emit.ts';
import { CF, OF, PF, SF, ZF, type Insn } from '../insn.ts';
import { CS, DS, ES, FS, RAX, RBP, RBX, RCX, RDI, RSI, RSP, S, SS } from '../layout.ts';
import { Fsw } from '../x87/common.ts';
import { isRepeated } from './debug.ts';
import { ATTR, isVirtual8086 } from './segments.ts';
import { stackMask } from './stack.ts';

const WHOLE = 0xffffffff;

/** Whether every offset can be read and written (CS: executed). */
function isFlat(s: Segment, code: boolean): boolean {
  if (!s.usable || s.limit !== WHOLE) return false;
  if (code) return true;
  return (s.attributes & (ATTR.CODE | ATTR.CONFORMING | ATTR.RW)) === ATTR.RW;
}

/**
 * Whether code has to be checked: outside 64-bit mode, with a segment that is not flat. FS and GS are often null, which
 * is a reason only while there is code that would use them. In real mode only limits count, which are those of before.
 */
export function needsLimits(cpu: Cpu): boolean {
  if (cpu.code64) return false;
  if (!(cpu.cr0 & CR0_PE)) return cpu.segments.some((s) => s.usable && s.limit !== WHOLE);
  for (let n = ES; n <= 5; n++) {
    const s = cpu.segments[n]!;
    const unused = n >= FS && !s.usable && !(cpu.sys.segmentsUsed & (1 << n));
    if (!unused && !isFlat(s, n === CS)) return true;
  }
  return false;
}

/** Whether `size` bytes at an offset are in the segment, which allows this kind of access. */
function allows(cpu: Cpu, s: Segment, offset: number, size: number, write: boolean): boolean {
  const { attributes: a, limit } = s;
  const first = offset >>> 0;
  const last = first + size - 1;
  if (!(cpu.cr0 & CR0_PE)) return last <= limit;
  if (!s.usable) return false;
  const code = (a & ATTR.CODE) !== 0;
  if (write ? code || !(a & ATTR.RW) : code && !(a & ATTR.RW)) return false;
  if (!code && a & ATTR.CONFORMING) {
    // Expand-down: what is above the limit.
    return first > limit && last <= (a & ATTR.DB ? WHOLE : 0xffff);
  }
  return last <= limit;
}

/** Bytes that a memory operand without a size of its own has. */
export function bytesOf(insn: Insn): number {
  const { name } = insn.def;
  if (/^fx(save|rstor)/.test(name)) return 512;
  if (name === 'cmpxchg8b') return 8;
  if (name === 'bound') return insn.size * 2;
  if (/^[sl][gi]dt$/.test(name)) return 6;
  if (/^(l[defgs]s|callf|jmpf)$/.test(name)) return insn.size + 2;
  if (/^f(ldenv|n?stenv)$/.test(name)) return insn.size === 2 ? 14 : 28;
  if (/^f(rstor|n?save)$/.test(name)) return insn.size === 2 ? 94 : 108;
  return name === 'fld' || name === 'fstp' || name === 'fbld' || name === 'fbstp' ? 10 : 1;
}

/** Whether an instruction is going to raise #MF for an earlier x87 instruction, which it does before it looks at its operand. */
export const raisesPending = (cpu: Cpu, insn: Insn): boolean =>
  insn.def.unit === 'x87' && !/^f(n|x[rs])/.test(insn.def.name) && (cpu.i32[(cpu.state + S.FSW) >> 2]! & Fsw.ES) !== 0;

const SENSITIVE = /^(pushf|popf|int|iret)$/;
/** What uses its operand's address only. */
export const ADDRESS_ONLY = /^(lea|nop|invlpg|prefetch|clflush)/;
export const STRING: Record<string, readonly [source: boolean, destination: boolean, writes: boolean]> = {
  movs: [true, true, true],
  cmps: [true, true, false],
  stos: [false, true, true],
  lods: [true, false, false],
  scas: [false, true, false],
  insb: [false, true, true],
  insv: [false, true, true],
  outsb: [true, false, false],
  outsv: [true, false, false],
};

/** The instruction is in its segments. */
export const WITHIN = 0;
/** A repeated string instruction that gets to the end of a segment: one iteration at a time. */
export const STEPWISE = -1;

/**
 * Checks the accesses of an instruction that is about to run.
 *
 * @param eip its offset in CS
 * @returns `WITHIN`, `STEPWISE`, or the vector of the exception, whose error code is 0
 */
export function checkLimits(cpu: Cpu, insn: Insn, eip: number): number {
  if ((eip >>> 0) + insn.len - 1 > cpu.segments[CS]!.limit) return Vector.GP;
  const { name } = insn.def;
  // SDM vol. 3, 20.2.7: with an IOPL below 3 these are the monitor's in virtual-8086 mode. CLI and STI are anyone's matter.
  if (SENSITIVE.test(name) && isVirtual8086(cpu) && (cpu.rflags & IOPL) !== IOPL) return Vector.GP;
  const stack = checkStack(cpu, insn);
  if (stack) return stack;
  const target = insn.def.ends ? branchTarget(cpu, insn, eip) : undefined;
  if (target !== undefined && target >>> 0 > cpu.segments[CS]!.limit) return Vector.GP;
  const string = STRING[name];
  if (string) return checkString(cpu, insn, string);
  if (name === 'xlat' || name.startsWith('maskmov')) {
    const seg = insn.segment >= 0 ? insn.segment : DS;
    const at = name === 'xlat' ? cpu.low(RBX) + (cpu.low(RAX) & 0xff) : cpu.low(RDI);
    const size = name === 'xlat' ? 1 : name === 'maskmovq' ? 8 : 16;
    return allows(cpu, cpu.segments[seg]!, at & (insn.addressSize === 2 ? 0xffff : -1), size, size > 1)
      ? WITHIN
      : seg === SS
        ? Vector.SS
        : Vector.GP;
  }
  if (!insn.mem || ADDRESS_ONLY.test(name) || raisesPending(cpu, insn)) return WITHIN;
  const o = insn.operands.find((x) => x.kind === 'mem');
  const size = o && o.size > 0 ? o.size : bytesOf(insn);
  const write = insn.operands[0]?.kind === 'mem' && insn.def.access !== 'r';
  let offset = cpu.effectiveAddress(insn);
  const index = insn.operands[1];
  if (/^bt[scr]?$/.test(name) && index?.kind === 'reg')
    // A bit offset reaches beyond the operand.
    offset =
      (offset + (((insn.size === 2 ? (cpu.low(index.reg) << 16) >> 16 : cpu.low(index.reg)) >> 3) & -insn.size)) | 0;
  if (allows(cpu, cpu.segments[insn.mem.seg]!, offset, size, write)) return WITHIN;
  return insn.mem.seg === SS ? Vector.SS : Vector.GP;
}

/** Where a near branch that is about to run goes to, an offset in CS; undefined where it does not branch, or cannot. */
function branchTarget(cpu: Cpu, insn: Insn, eip: number): number | undefined {
  const { name } = insn.def;
  const mask = insn.size === 2 ? 0xffff : -1;
  if (insn.operands.some((o) => o.kind === 'rel'))
    return isTaken(cpu, insn) ? (eip + insn.len + insn.imm) & mask : undefined;
  const o = insn.operands[0];
  const read = (at: number): number => (insn.size === 2 ? cpu.mmu.read16(at, 0) : cpu.mmu.read32(at, 0));
  try {
    if (name === 'ret') return read(cpu.segmented(SS, cpu.low(RSP) & stackMask(cpu), 0));
    if (name !== 'jmp' && name !== 'call') return undefined;
    return o?.kind === 'reg' ? cpu.low(o.reg) & mask : read(cpu.linearAddress(insn));
  } catch (e) {
    // The instruction itself will raise it.
    if (e instanceof GuestFault) return undefined;
    throw e;
  }
}

/** Whether a branch with a relative target will be taken. */
function isTaken(cpu: Cpu, insn: Insn): boolean {
  const { name } = insn.def;
  if (name === 'jmp' || name === 'call') return true;
  const { rflags } = cpu;
  if (name.startsWith('loop') || name === 'jcxz') {
    const count = cpu.low(RCX) & (insn.addressSize === 2 ? 0xffff : -1);
    if (name === 'jcxz') return count === 0;
    return count !== 1 && (name === 'loop' || ((rflags & ZF) !== 0) === (name === 'loope'));
  }
  const holds = [
    rflags & OF,
    rflags & CF,
    rflags & ZF,
    rflags & (CF | ZF),
    rflags & SF,
    rflags & PF,
    Number(!(rflags & SF) !== !(rflags & OF)),
    Number(!(rflags & SF) !== !(rflags & OF) || (rflags & ZF) !== 0),
  ][(insn.opcode >> 1) & 7]!;
  return (holds !== 0) !== ((insn.opcode & 1) !== 0);
}

/** What an instruction does to the stack on its own account. */
interface StackAccess {
  /** What it is relative to: RSP or RBP. */
  readonly base: number;
  readonly delta: number;
  readonly bytes: number;
  readonly write: boolean;
}

/** PUSH and POP and their kin. */
export function stackAccess(insn: Insn): StackAccess | undefined {
  const { size } = insn;
  const access = (base: number, delta: number, bytes: number, write: boolean): StackAccess => ({
    base,
    delta,
    bytes,
    write,
  });
  switch (insn.def.name) {
    case 'push':
    case 'pushf':
    case 'call':
      return access(RSP, -size, size, true);
    case 'callf':
      return access(RSP, -2 * size, 2 * size, true);
    case 'pusha':
      return access(RSP, -8 * size, 8 * size, true);
    case 'pop':
    case 'popf':
    case 'ret':
      return access(RSP, 0, size, false);
    case 'retf':
      return access(RSP, 0, 2 * size, false);
    case 'iret':
      return access(RSP, 0, 3 * size, false);
    case 'popa':
      return access(RSP, 0, 8 * size, false);
    case 'leave':
      return access(RBP, 0, size, false);
    case 'enter': {
      const words = 1 + (insn.immHigh & 31);
      return access(RSP, -words * size, words * size, true);
    }
  }
  return undefined;
}

function checkStack(cpu: Cpu, insn: Insn): number {
  const access = stackAccess(insn);
  if (!access) return WITHIN;
  const ss = cpu.segments[SS]!;
  const mask = ss.attributes & ATTR.DB ? -1 : 0xffff;
  const first = cpu.low(access.base) + access.delta;
  for (let k = 0; k < access.bytes; k += insn.size)
    if (!allows(cpu, ss, (first + k) & mask, insn.size, access.write)) return Vector.SS;
  return WITHIN;
}

function checkString(cpu: Cpu, insn: Insn, [reads, uses, writes]: readonly [boolean, boolean, boolean]): number {
  const size = /b$/.test(insn.def.name) || !(insn.opcode & 1) ? 1 : insn.size;
  const mask = insn.addressSize === 2 ? 0xffff : -1;
  const repeated = isRepeated(insn);
  const count = repeated ? (cpu.low(RCX) & mask) >>> 0 : 1;
  if (count === 0) return WITHIN;
  const down = (cpu.rflags & DF) !== 0;
  let whole = true;
  const test = (register: number, seg: number, write: boolean): number => {
    const s = cpu.segments[seg]!;
    const first = cpu.low(register) & mask;
    if (!allows(cpu, s, first, size, write)) return seg === SS ? Vector.SS : Vector.GP;
    const bytes = count * size;
    const from = down ? (first >>> 0) + size - bytes : first >>> 0;
    // Offsets that wrap go one by one, too.
    if (from < 0 || from + bytes > WHOLE + 1 || !allows(cpu, s, from, bytes, write)) whole = false;
    return WITHIN;
  };
  const source = reads ? test(RSI, insn.segment >= 0 ? insn.segment : DS, false) : WITHIN;
  if (source) return source;
  const destination = uses ? test(RDI, ES, writes) : WITHIN;
  if (destination) return destination;
  return whole ? WITHIN : STEPWISE;
}
