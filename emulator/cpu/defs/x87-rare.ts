/** x87 instructions done in TypeScript: elementary functions, remainders, decimal, and the whole-state forms (x87-state.ts). */
import type { Cpu } from '../cpu.ts';
import { defHelper, type DefOptions, type Insn } from '../insn.ts';
import { Fsw } from '../x87/common.ts';
import type { Fpu } from '../x87/fpu.ts';
import { fscale, fxtract, loadBcd, remainder, toBcd } from '../x87/remainder.ts';
import { f2xm1, fpatan, fyl2x, fyl2xp1, trigonometric } from '../x87/transcendental.ts';
import { defineX87State, fpuOf, probeWrite } from './x87-state.ts';

const OPTIONS: DefOptions = { unit: 'x87', faults: true, access: 'r' };

function fbld(cpu: Cpu, insn: Insn): void {
  const fpu = fpuOf(cpu);
  fpu.wait();
  const lo = cpu.linearAddress(insn);
  const hi = cpu.eaHigh;
  const low = cpu.mmu.readBig(lo, hi);
  const [nextLow, nextHigh] = cpu.add64(lo, hi, 8, 0);
  const high = cpu.mmu.read16(nextLow, nextHigh);
  loadBcd(fpu, low | (BigInt(high & 0xff) << 64n), high >> 15);
}

function fbstp(cpu: Cpu, insn: Insn): void {
  const fpu = fpuOf(cpu);
  fpu.wait();
  const { value, flags, up } = toBcd(fpu);
  const lo = cpu.linearAddress(insn);
  const hi = cpu.eaHigh;
  const [nextLow, nextHigh] = cpu.add64(lo, hi, 8, 0);
  probeWrite(cpu, lo, hi, 10);
  // An unmasked invalid operation stores nothing; an inexact result is stored whatever its mask.
  const stores = !(flags & ~fpu.fcw & Fsw.IE);
  if (stores) {
    const low = BigInt.asIntN(64, value);
    cpu.mmu.write64(lo, hi, Number(BigInt.asIntN(32, low)), Number(low >> 32n));
    cpu.mmu.write16(nextLow, nextHigh, Number(value >> 64n));
  }
  fpu.flag(flags, up);
  if (stores) fpu.pop();
}

export function defineX87Rare(): void {
  const simple: readonly [string, (fpu: Fpu) => void][] = [
    ['f2xm1 d9/6.0', f2xm1],
    ['fyl2x d9/6.1', fyl2x],
    ['fptan d9/6.2', (fpu) => trigonometric(fpu, 'tan')],
    ['fpatan d9/6.3', fpatan],
    ['fxtract d9/6.4', fxtract],
    ['fprem1 d9/6.5', (fpu) => remainder(fpu, true)],
    ['fprem d9/7.0', (fpu) => remainder(fpu, false)],
    ['fyl2xp1 d9/7.1', fyl2xp1],
    ['fsincos d9/7.3', (fpu) => trigonometric(fpu, 'sincos')],
    ['fscale d9/7.5', fscale],
    ['fsin d9/7.6', (fpu) => trigonometric(fpu, 'sin')],
    ['fcos d9/7.7', (fpu) => trigonometric(fpu, 'cos')],
  ];
  for (const [pattern, run] of simple) defHelper(pattern, OPTIONS, (cpu) => run(fpuOf(cpu)));
  defHelper('fbld df/4 M', OPTIONS, fbld);
  defHelper('fbstp df/6 M', { ...OPTIONS, access: 'w' }, fbstp);
  defineX87State();
}
