/** Interrupt instructions, far transfers, and the fast system calls. */
import { CR4_FSGSBASE } from '../bits.ts';
import { Vector, type Emit } from '../emit.ts';
import type { Cpu } from '../cpu.ts';
import { def, defHelper, OF, type DefOptions, type Insn } from '../insn.ts';
import { FS, GS, S } from '../layout.ts';
import { farReturn, farTransfer, iret } from '../system/far.ts';
import { icebp, softwareInterrupt } from '../system/interrupts.ts';
import { syscall, sysenter, sysexit, sysret } from '../system/syscall.ts';
import { i32, i64, k32 } from '../wasm/expr.ts';

const FLOW: DefOptions = { ends: true, faults: true };

/** Far CALL and JMP through memory: offset of the operand size, then the selector. */
function farIndirect(cpu: Cpu, insn: Insn, call: boolean): void {
  const at = cpu.linearAddress(insn);
  const atHigh = cpu.eaHigh;
  const { size } = insn;
  const { mmu } = cpu;
  let lo: number;
  let hi = 0;
  if (size === 8) {
    lo = mmu.read64(at, atHigh);
    hi = mmu.high;
  } else lo = size === 4 ? mmu.read32(at, atHigh) : mmu.read16(at, atHigh);
  const [l, h] = cpu.add64(at, atHigh, size, 0);
  farTransfer(cpu, mmu.read16(l, h), lo, hi, size, call);
}

/** RDFSBASE and its kin: 4 or 8 bytes, #UD unless CR4.FSGSBASE. A switch of tasks has one of each. */
function defineBases(): void {
  const need = (c: Emit): void => c.raiseIf(i32.eqz(i32.and(c.state32(S.CR4), k32(CR4_FSGSBASE))), Vector.UD);
  for (const [n, name, seg] of [
    [0, 'fs', FS],
    [1, 'gs', GS],
  ] as const) {
    const base = S.SEG_BASE + seg * 8;
    def(`rd${name}base f3 0f ae/${n} Ry`, { only: 64, access: 'w', faults: true }, (c) => {
      need(c);
      c.set(0, c.size === 8 ? c.state64(base) : c.state32(base));
    });
    def(`wr${name}base f3 0f ae/${n + 2} Ry`, { only: 64, access: 'r', faults: true }, (c) => {
      need(c);
      const value = c.get(0);
      if (c.size === 8) c.raiseIf(c.notCanonical(value), Vector.GP, 0);
      c.setState(base, 8, c.size === 8 ? value : i64.extend_u(value));
    });
  }
}

export function defineSystemFlow(): void {
  defHelper('int3 cc', FLOW, (cpu) => softwareInterrupt(cpu, Vector.BP));
  defHelper('int cd Ib', FLOW, (cpu, insn) => softwareInterrupt(cpu, insn.imm & 0xff));
  defHelper('into ce', { ...FLOW, only: 32, reads: OF }, (cpu) => {
    if (cpu.rflags & OF) softwareInterrupt(cpu, Vector.OF);
  });
  defHelper('int1 f1', FLOW, (cpu) => icebp(cpu));
  defHelper('iret cf', FLOW, (cpu, insn) => iret(cpu, insn.size));

  defHelper('retf ca Iw', FLOW, (cpu, insn) => farReturn(cpu, insn.size, insn.imm & 0xffff));
  defHelper('retf cb', FLOW, (cpu, insn) => farReturn(cpu, insn.size, 0));
  defHelper('callf 9a Iz,Iw', { ...FLOW, only: 32 }, (cpu, insn) =>
    farTransfer(cpu, insn.immHigh & 0xffff, insn.imm, 0, insn.size, true),
  );
  defHelper('jmpf ea Iz,Iw', { ...FLOW, only: 32 }, (cpu, insn) =>
    farTransfer(cpu, insn.immHigh & 0xffff, insn.imm, 0, insn.size, false),
  );
  defHelper('callf ff/3 M', { ...FLOW, access: 'r' }, (cpu, insn) => farIndirect(cpu, insn, true));
  defHelper('jmpf ff/5 M', { ...FLOW, access: 'r' }, (cpu, insn) => farIndirect(cpu, insn, false));

  defHelper('syscall 0f 05', { ...FLOW, only: 64 }, (cpu) => syscall(cpu));
  defHelper('sysret 0f 07', { ...FLOW, only: 64, privileged: true }, (cpu, insn) => sysret(cpu, insn.size === 8));
  defHelper('sysenter 0f 34', FLOW, (cpu) => sysenter(cpu));
  defHelper('sysexit 0f 35', { ...FLOW, privileged: true }, (cpu, insn) => sysexit(cpu, insn.size === 8));
  def('swapgs 0f 01/7.0', { only: 64, privileged: true }, (c) => {
    const base = S.SEG_BASE + GS * 8;
    const user = c.let(c.state64(base));
    c.setState(base, 8, c.state64(S.KERNEL_GS_BASE));
    c.setState(S.KERNEL_GS_BASE, 8, user);
  });
  defineBases();
}
