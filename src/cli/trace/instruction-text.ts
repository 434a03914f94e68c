import type { Insn, Operand } from '../../../emulator/cpu/insn.ts';
import { GPR_NAMES } from '../../../emulator/cpu/layout.ts';

const SEGMENTS = ['es', 'cs', 'ss', 'ds', 'fs', 'gs'] as const;
const POINTERS: Record<number, string> = {
  1: 'byte ptr ',
  2: 'word ptr ',
  4: 'dword ptr ',
  8: 'qword ptr ',
  16: 'xmmword ptr ',
};
/** Instructions without operands whose name says nothing of their size: byte forms have an even opcode. */
const SIZED = /^(movs|cmps|stos|lods|scas|ins|outs)$/;
const SUFFIX: Record<number, string> = { 1: 'b', 2: 'w', 4: 'd', 8: 'q' };

/** A general register's name at a size of 1, 2, 4 or 8 bytes. */
export function gprName(n: number, size: number, high = false): string {
  const name = GPR_NAMES[n]!;
  if (n >= 8) return name + (size === 8 ? '' : size === 4 ? 'd' : size === 2 ? 'w' : 'b');
  if (size === 8) return name;
  if (size === 4) return `e${name.slice(1)}`;
  const short = name.slice(1);
  if (size === 2) return short;
  if (n < 4) return short[0]! + (high ? 'h' : 'l');
  return `${short}l`;
}

const hex = (value: bigint): string => (value < 0n ? `-0x${(-value).toString(16)}` : `0x${value.toString(16)}`);

function register(o: Extract<Operand, { kind: 'reg' }>): string {
  switch (o.cls) {
    case 'gpr':
      return gprName(o.reg, o.size, o.high);
    case 'seg':
      return SEGMENTS[o.reg] ?? `seg${o.reg}`;
    case 'mmx':
      return `mm${o.reg}`;
    case 'st':
      return `st(${o.reg})`;
    default:
      return o.cls + o.reg;
  }
}

function memory(insn: Insn, size: number): string {
  const m = insn.mem!;
  const parts: string[] = [];
  if (m.base === 16) parts.push('rip');
  else if (m.base >= 0) parts.push(gprName(m.base, m.addressSize));
  if (m.index >= 0) parts.push(gprName(m.index, m.addressSize) + (m.scale ? `*${1 << m.scale}` : ''));
  const disp = (BigInt(m.dispHigh) << 32n) | BigInt(m.disp >>> 0);
  let text = parts.join('+');
  if (!text) text = hex(BigInt.asUintN(m.addressSize * 8, disp));
  else if (disp !== 0n) text += disp < 0n ? hex(disp) : `+${hex(disp)}`;
  const usual = m.base === 4 || m.base === 5 ? 2 : 3;
  const segment = m.seg !== usual && (insn.bits !== 64 || m.seg >= 4) ? `${SEGMENTS[m.seg]}:` : '';
  return `${POINTERS[size] ?? ''}${segment}[${text}]`;
}

/**
 * An instruction in Intel's syntax, as the decoder understood it.
 *
 * @param next address of the instruction after it, for relative targets (bits above the code's width are dropped)
 */
export function instructionText(insn: Insn, next: bigint): string {
  let name = insn.def.name;
  if (SIZED.test(name) && !insn.operands.length) name += SUFFIX[insn.opcode & 1 ? insn.size : 1]!;
  const prefix =
    (insn.lock ? 'lock ' : '') +
    (insn.rep === 0xf3 || (insn.def.prefix === 'f3' && SIZED.test(insn.def.name))
      ? 'rep '
      : insn.rep === 0xf2 || (insn.def.prefix === 'f2' && SIZED.test(insn.def.name))
        ? 'repne '
        : '');
  let seen = 0;
  const operands = insn.operands.map((o) => {
    switch (o.kind) {
      case 'reg':
        return register(o);
      case 'mem':
        return memory(insn, o.size);
      case 'rel':
        return hex(BigInt.asUintN(insn.bits, next + BigInt(insn.imm)));
      case 'imm': {
        // The second one (ENTER, far pointers) is kept in the upper half.
        if (seen++) return hex(BigInt(insn.immHigh >>> 0));
        const value = (BigInt(insn.immHigh) << 32n) | BigInt(insn.imm >>> 0);
        // Small negative numbers are read as such, others as addresses and masks.
        return hex(value > -0x1000n && insn.immHigh < 0 ? value : BigInt.asUintN(insn.size * 8, value));
      }
    }
  });
  return `${prefix}${name}${operands.length ? ` ${operands.join(', ')}` : ''}`;
}
