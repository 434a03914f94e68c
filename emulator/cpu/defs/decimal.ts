/** Decimal arithmetic of 16- and 32-bit code: AAA, AAS, AAM, AAD, DAA, DAS. */
import type { Cpu } from '../cpu.ts';
import { Vector } from '../emit.ts';
import { AF, ARITH, CF, defHelper, PF, SF, ZF, type DefOptions } from '../insn.ts';
import { RAX } from '../layout.ts';

/** SF, ZF and PF of a byte. */
function byteFlags(x: number): number {
  let p = x & 0xff;
  p ^= p >> 4;
  p ^= p >> 2;
  p ^= p >> 1;
  return (x & 0x80 ? SF : 0) | (x & 0xff ? 0 : ZF) | (p & 1 ? 0 : PF);
}

function finish(cpu: Cpu, ax: number, flags: number): void {
  cpu.setPair(RAX, (cpu.low(RAX) & ~0xffff) | (ax & 0xffff), cpu.high(RAX));
  cpu.rflags = (cpu.rflags & ~ARITH) | flags;
}

const sign = (add: boolean): 1 | -1 => (add ? 1 : -1);

/** AAA and AAS. */
const adjustAscii =
  (add: boolean) =>
  (cpu: Cpu): void => {
    let ax = cpu.low(RAX) & 0xffff;
    const carry = (ax & 0xf) > 9 || (cpu.rflags & AF) !== 0;
    if (carry) ax += sign(add) * 0x106;
    finish(cpu, ax & 0xff0f, (carry ? AF | CF : 0) | (byteFlags(ax & 0x0f) & (ZF | PF | SF)));
  };

/** DAA and DAS. */
const adjustDecimal =
  (add: boolean) =>
  (cpu: Cpu): void => {
    const ax = cpu.low(RAX) & 0xffff;
    const old = ax & 0xff;
    let al = old;
    let flags = 0;
    if ((old & 0xf) > 9 || cpu.rflags & AF) {
      al += sign(add) * 6;
      flags |= AF;
      // A borrow or carry out of AL by this step counts as well.
      if (cpu.rflags & CF || al < 0 || al > 0xff) flags |= CF;
    }
    if (old > 0x99 || cpu.rflags & CF) {
      al += sign(add) * 0x60;
      flags |= CF;
    } else if (add) flags &= ~CF;
    finish(cpu, (ax & 0xff00) | (al & 0xff), flags | byteFlags(al));
  };

export function defineDecimal(): void {
  const options: DefOptions = { only: 32, reads: AF | CF, writes: ARITH };
  defHelper('daa 27', options, adjustDecimal(true));
  defHelper('das 2f', options, adjustDecimal(false));
  defHelper('aaa 37', options, adjustAscii(true));
  defHelper('aas 3f', options, adjustAscii(false));
  defHelper('aam d4 Ib', { only: 32, writes: ARITH, faults: true }, (cpu, insn) => {
    const base = insn.imm & 0xff;
    if (base === 0) throw cpu.fault(Vector.DE);
    const al = cpu.low(RAX) & 0xff;
    finish(cpu, (Math.floor(al / base) << 8) | (al % base), byteFlags(al % base));
  });
  defHelper('aad d5 Ib', { only: 32, writes: ARITH }, (cpu, insn) => {
    const ax = cpu.low(RAX) & 0xffff;
    const al = ((ax & 0xff) + (ax >> 8) * (insn.imm & 0xff)) & 0xff;
    finish(cpu, al, byteFlags(al));
  });
}
