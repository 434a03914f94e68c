/** SSE4.2: string comparisons (PCMPxSTRx, in TypeScript) and CRC32. */
import type { Cpu } from '../cpu.ts';
import { ARITH, CF, OF, SF, ZF, def, defHelper, type Insn } from '../insn.ts';
import { RAX, RCX, RDX, S } from '../layout.ts';
import { CRC32C_TABLES } from '../tables.ts';
import { i32, i64, k32, k64, type Expr } from '../wasm/expr.ts';

/** Length of an explicit-length operand: the register's magnitude, at most `n`. */
function explicitLength(cpu: Cpu, register: number, wide: boolean, n: number): number {
  let value = wide ? BigInt.asIntN(64, cpu.big(register)) : BigInt(cpu.low(register));
  if (value < 0n) value = -value;
  return value > BigInt(n) ? n : Number(value);
}

/** Elements before the first zero. */
function implicitLength(elements: Int32Array, n: number): number {
  for (let i = 0; i < n; i++) if (elements[i] === 0) return i;
  return n;
}

const first = new Int32Array(16);
const second = new Int32Array(16);
const raw = new DataView(new ArrayBuffer(32));

function readElements(at: number, format: number, to: Int32Array): void {
  if (format & 1)
    for (let i = 0; i < 8; i++) to[i] = format & 2 ? raw.getInt16(at + i * 2, true) : raw.getUint16(at + i * 2, true);
  else for (let i = 0; i < 16; i++) to[i] = format & 2 ? raw.getInt8(at + i) : raw.getUint8(at + i);
}

/** The aggregation (SDM vol. 2B, 4.1): one bit for each element of the second operand. */
function aggregate(kind: number, n: number, len1: number, len2: number): number {
  let result = 0;
  for (let i = 0; i < n; i++) {
    let bit: boolean;
    switch (kind) {
      case 0: // equal any
        bit = false;
        if (i < len2) for (let j = 0; j < len1 && !bit; j++) bit = first[j] === second[i];
        break;
      case 1: // ranges: pairs of limits
        bit = false;
        if (i < len2)
          for (let j = 0; j + 1 < len1 && !bit; j += 2) bit = second[i]! >= first[j]! && second[i]! <= first[j + 1]!;
        break;
      case 2: // equal each
        bit = i < len1 && i < len2 ? first[i] === second[i] : i >= len1 && i >= len2;
        break;
      default: // equal ordered: the first operand begins here
        bit = true;
        for (let j = 0; j < len1 && i + j < n && bit; j++) bit = i + j < len2 && first[j] === second[i + j];
    }
    if (bit) result |= 1 << i;
  }
  return result;
}

function compareStrings(cpu: Cpu, insn: Insn, explicit: boolean, index: boolean): void {
  const imm = insn.imm & 0xff;
  const xmm = (i: number): number => {
    const o = insn.operands[i]!;
    return cpu.state + S.XMM + (o.kind === 'reg' ? o.reg : 0) * 16;
  };
  const bytes = cpu.view;
  raw.setBigUint64(0, bytes.getBigUint64(xmm(0), true), true);
  raw.setBigUint64(8, bytes.getBigUint64(xmm(0) + 8, true), true);
  if (insn.operands[1]!.kind === 'mem') {
    const lo = cpu.linearAddress(insn);
    const host = cpu.mmu.access(lo, cpu.eaHigh, 16, false);
    raw.setBigUint64(16, bytes.getBigUint64(host, true), true);
    raw.setBigUint64(24, bytes.getBigUint64(host + 8, true), true);
  } else {
    raw.setBigUint64(16, bytes.getBigUint64(xmm(1), true), true);
    raw.setBigUint64(24, bytes.getBigUint64(xmm(1) + 8, true), true);
  }
  const format = imm & 3;
  const n = format & 1 ? 8 : 16;
  readElements(0, format, first);
  readElements(16, format, second);
  const wide = insn.size === 8;
  const len1 = explicit ? explicitLength(cpu, RAX, wide, n) : implicitLength(first, n);
  const len2 = explicit ? explicitLength(cpu, RDX, wide, n) : implicitLength(second, n);
  let result = aggregate((imm >> 2) & 3, n, len1, len2);
  if (imm & 0x10) result ^= imm & 0x20 ? (1 << len2) - 1 : (1 << n) - 1;
  if (index) {
    let at = n;
    if (result) at = imm & 0x40 ? 31 - Math.clz32(result) : 31 - Math.clz32(result & -result);
    cpu.set32(RCX, at);
  } else {
    const at = cpu.state + S.XMM;
    bytes.setBigUint64(at, 0n, true);
    bytes.setBigUint64(at + 8, 0n, true);
    if (!(imm & 0x40)) bytes.setUint16(at, result, true);
    else if (n === 16) for (let i = 0; i < 16; i++) bytes.setUint8(at + i, (result >> i) & 1 ? 0xff : 0);
    else for (let i = 0; i < 8; i++) bytes.setUint16(at + i * 2, (result >> i) & 1 ? 0xffff : 0, true);
  }
  cpu.rflags =
    (cpu.rflags & ~ARITH) | (result ? CF : 0) | (len2 < n ? ZF : 0) | (len1 < n ? SF : 0) | (result & 1 ? OF : 0);
}

/** The next state of a CRC-32C after `size` bytes of data, low byte first. */
function crc32c(crc: Expr, data: Expr, size: number): Expr {
  const table = (k: number, byte: Expr): Expr => i32.load(i32.shl(byte, k32(2)), CRC32C_TABLES + k * 1024);
  const byte32 = (x: Expr, i: number): Expr => i32.and(i32.shr_u(x, k32(8 * i)), k32(0xff));
  const bits = size * 8;
  if (size < 4) {
    // The part of the state that stays, and the bytes that are mixed in.
    let r: Expr = i32.shr_u(crc, k32(bits));
    const x = i32.xor(crc, data);
    for (let i = 0; i < size; i++) r = i32.xor(r, table(size - 1 - i, byte32(x, i)));
    return r;
  }
  let r: Expr | undefined;
  const low = i32.xor(crc, size === 8 ? i32.wrap(data) : data);
  for (let i = 0; i < size; i++) {
    const b = i < 4 ? byte32(low, i) : byte32(i32.wrap(i64.shr_u(data, k64(32))), i - 4);
    const t = table(size - 1 - i, b);
    r = r ? i32.xor(r, t) : t;
  }
  return r!;
}

export function defineSse42(): void {
  for (const [name, opcode, explicit, index] of [
    ['pcmpestrm', '60', true, false],
    ['pcmpestri', '61', true, true],
    ['pcmpistrm', '62', false, false],
    ['pcmpistri', '63', false, true],
  ] as const)
    defHelper(`${name} 66 0f 3a ${opcode} Vx,Wx,Ib`, { unit: 'sse', access: 'r', writes: ARITH }, (cpu, insn) =>
      compareStrings(cpu, insn, explicit, index),
    );
  for (const form of ['f0 Gd,Eb', 'f1 Gd,Ev'])
    def(`crc32 f2 0f 38 ${form}`, {}, (c) => {
      const data = c.get(1);
      c.set(0, crc32c(c.get(0), data, c.operand(1).size));
    });
}
