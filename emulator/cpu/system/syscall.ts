/** SYSCALL, SYSRET, SYSENTER and SYSEXIT, as Intel processors do them. */
import { EFER_SCE, IF, RF, VM } from '../bits.ts';
import type { Cpu } from '../cpu.ts';
import { Vector } from '../emit.ts';
import { CS, RCX, RDX, RSP, S, SS } from '../layout.ts';
import { loadedFlags, noticeFlags } from './far.ts';
import { canonical } from './interrupts.ts';
import { setCache, setCpl } from './segments.ts';

/** RFLAGS bits that SYSRET takes from R11 (SDM vol. 2). */
const SYSRET_FLAGS = 0x3c7fd7;
const R11 = 11;

/** Flat descriptor caches: accessed, present, with granularity; DPL is added. */
const CODE64 = 0xa09b;
const CODE32 = 0xc09b;
const DATA = 0xc093;
const WHOLE = 0xffffffff;
const user = (attributes: number): number => attributes | 0x60;

function setFlat(cpu: Cpu, n: number, selector: number, attributes: number): void {
  const s = cpu.segments[n]!;
  // Mostly it is flat already; a number of 32 bits is dear to store in an object.
  if (s.limit !== WHOLE || !s.usable || (s.baseLow | s.baseHigh) !== 0)
    setCache(cpu, n, selector & 0xffff, 0, WHOLE, attributes, true);
  else {
    s.selector = selector & 0xffff;
    s.attributes = attributes;
  }
}

/** SYSCALL in 64-bit code; cpu.rip is the next instruction's. @throws #UD when EFER.SCE is 0 */
export function syscall(cpu: Cpu): void {
  if (!(cpu.efer & EFER_SCE) || !cpu.code64) throw cpu.fault(Vector.UD);
  const { sys } = cpu;
  const flags = cpu.rflags & ~RF;
  cpu.setPair(RCX, cpu.ripLow(), cpu.ripHigh());
  cpu.setPair(R11, flags, 0);
  const selector = sys.starHigh & 0xfffc;
  setFlat(cpu, CS, selector, CODE64);
  setFlat(cpu, SS, selector + 8, DATA);
  cpu.rflags = flags & ~sys.sfmask;
  setCpl(cpu, 0);
  cpu.setRip(sys.lstarLow, sys.lstarHigh);
  cpu.enterCode64();
}

/** SYSRET at CPL 0. @param wide REX.W: to 64-bit code @throws #UD, #GP(0) */
export function sysret(cpu: Cpu, wide: boolean): void {
  if (!(cpu.efer & EFER_SCE)) throw cpu.fault(Vector.UD);
  const lo = cpu.low(RCX);
  const hi = cpu.high(RCX);
  if (wide && !canonical(hi)) throw cpu.fault(Vector.GP, 0);
  const selector = cpu.sys.starHigh >>> 16;
  setFlat(cpu, CS, wide ? (selector + 16) | 3 : selector | 3, user(wide ? CODE64 : CODE32));
  setFlat(cpu, SS, (selector + 8) | 3, user(DATA));
  // At CPL 0 all of these bits can be loaded.
  cpu.rflags = loadedFlags(cpu, cpu.low(R11) & SYSRET_FLAGS, 0, 4);
  setCpl(cpu, 3);
  cpu.setRip(lo, wide ? hi : 0);
  if (wide) cpu.enterCode64();
  else cpu.modeChanged();
  noticeFlags(cpu);
}

/** SYSENTER. @throws #GP(0) when IA32_SYSENTER_CS is null or in real mode */
export function sysenter(cpu: Cpu): void {
  const { sys } = cpu;
  if (!(cpu.cr0 & 1) || (sys.sysenterCs & 0xfffc) === 0) throw cpu.fault(Vector.GP, 0);
  const long = cpu.longMode;
  const at = (cpu.state + S.EFLAGS) >> 2;
  cpu.i32[at] = cpu.i32[at]! & ~(IF | VM | RF);
  const selector = sys.sysenterCs & 0xfffc;
  setFlat(cpu, CS, selector, long ? CODE64 : CODE32);
  setFlat(cpu, SS, selector + 8, DATA);
  setCpl(cpu, 0);
  cpu.setPair(RSP, sys.sysenterEspLow, long ? sys.sysenterEspHigh : 0);
  cpu.setRip(sys.sysenterEipLow, long ? sys.sysenterEipHigh : 0);
  cpu.modeChanged();
}

/** SYSEXIT at CPL 0. @throws #GP(0) */
export function sysexit(cpu: Cpu, wide: boolean): void {
  const { sys } = cpu;
  if (!(cpu.cr0 & 1) || (sys.sysenterCs & 0xfffc) === 0) throw cpu.fault(Vector.GP, 0);
  if (wide && !(canonical(cpu.high(RDX)) && canonical(cpu.high(RCX)))) throw cpu.fault(Vector.GP, 0);
  const selector = sys.sysenterCs & 0xfffc;
  setFlat(cpu, CS, (selector + (wide ? 32 : 16)) | 3, user(wide ? CODE64 : CODE32));
  setFlat(cpu, SS, (selector + (wide ? 40 : 24)) | 3, user(DATA));
  setCpl(cpu, 3);
  cpu.setRip(cpu.low(RDX), wide ? cpu.high(RDX) : 0);
  cpu.setPair(RSP, cpu.low(RCX), wide ? cpu.high(RCX) : 0);
  cpu.modeChanged();
}
