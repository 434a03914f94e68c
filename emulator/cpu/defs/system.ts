/** Control and debug registers, descriptor-table registers, modes, MSRs, CPUID, time and random numbers. */
import { CR4_TSD, IF } from '../bits.ts';
import type { Cpu } from '../cpu.ts';
import { Vector } from '../emit.ts';
import { ARITH, CF, def, defHelper, type DefOptions, type Insn } from '../insn.ts';
import { RAX, RCX, RDX, S } from '../layout.ts';
import { readControl, writeControl, writeCr0 } from '../system/control.ts';
import { cpuid, readTsc } from '../system/cpuid.ts';
import { readDebug, writeDebug } from '../system/debug.ts';
import { readMsr, writeMsr } from '../system/msr.ts';
import { i32, k32 } from '../wasm/expr.ts';

const IOPL_SHIFT = 12;

/** Register number of operand `i`. */
export function regOf(insn: Insn, i: number): number {
  const o = insn.operands[i]!;
  if (o.kind !== 'reg') throw new Error(`operand ${i} of ${insn.def.pattern} is no register`);
  return o.reg;
}

/** Writes a general register or memory operand of 2, 4 or 8 bytes; to memory only `memorySize` bytes. */
export function writeOperand(cpu: Cpu, insn: Insn, i: number, lo: number, hi: number, memorySize: number): void {
  const o = insn.operands[i]!;
  if (o.kind === 'reg') {
    if (o.size === 8) cpu.setPair(o.reg, lo, hi);
    else if (o.size === 4) cpu.set32(o.reg, lo);
    else cpu.setPair(o.reg, (cpu.low(o.reg) & 0xffff0000) | (lo & 0xffff), cpu.high(o.reg));
    return;
  }
  const at = cpu.linearAddress(insn);
  const atHigh = cpu.eaHigh;
  if (memorySize === 2) cpu.mmu.write16(at, atHigh, lo & 0xffff);
  else if (memorySize === 4) cpu.mmu.write32(at, atHigh, lo);
  else cpu.mmu.write64(at, atHigh, lo, hi);
}

/** Reads 16 bits of a general register or memory operand. */
export function readOperand16(cpu: Cpu, insn: Insn, i: number): number {
  const o = insn.operands[i]!;
  if (o.kind === 'reg') return cpu.low(o.reg) & 0xffff;
  const at = cpu.linearAddress(insn);
  return cpu.mmu.read16(at, cpu.eaHigh);
}

const nextAddress = (cpu: Cpu, lo: number, hi: number, delta: number): [number, number] => cpu.add64(lo, hi, delta, 0);

/** SGDT and SIDT. */
function storeTable(cpu: Cpu, insn: Insn, table: 'gdt' | 'idt'): void {
  const lo = cpu.linearAddress(insn);
  const hi = cpu.eaHigh;
  const { limit, baseLow, baseHigh } = cpu[table];
  const [l, h] = nextAddress(cpu, lo, hi, 2);
  // The last byte first: after it the rest cannot fault but in the first page.
  if (cpu.code64) cpu.mmu.write64(l, h, baseLow, baseHigh);
  else cpu.mmu.write32(l, h, baseLow);
  cpu.mmu.write16(lo, hi, limit);
}

/** LGDT and LIDT. */
function loadTable(cpu: Cpu, insn: Insn, table: 'gdt' | 'idt'): void {
  const lo = cpu.linearAddress(insn);
  const hi = cpu.eaHigh;
  const limit = cpu.mmu.read16(lo, hi);
  const [l, h] = nextAddress(cpu, lo, hi, 2);
  const t = cpu[table];
  if (cpu.code64) {
    const base = cpu.mmu.read64(l, h);
    const baseHigh = cpu.mmu.high;
    if ((baseHigh << 15) >> 31 !== baseHigh >> 15) throw cpu.fault(Vector.GP, 0);
    t.baseLow = base;
    t.baseHigh = baseHigh;
  } else {
    t.baseLow = cpu.mmu.read32(l, h) & (insn.size === 2 ? 0xffffff : -1);
    t.baseHigh = 0;
  }
  t.limit = limit;
}

/** Data for RDRAND and RDSEED: CF = 1, the other flags 0. */
function random(cpu: Cpu, insn: Insn): void {
  const lo = cpu.sys.random((bytes) => cpu.host.random(bytes));
  writeOperand(cpu, insn, 0, lo, cpu.sys.randomHigh, insn.size);
  cpu.rflags = (cpu.rflags & ~ARITH) | CF;
}

function needTsc(cpu: Cpu): void {
  if (cpu.cr4 & CR4_TSD && cpu.cpl > 0) throw cpu.fault(Vector.GP, 0);
}

function defineControl(): void {
  const write: DefOptions = { privileged: true, ends: true, access: 'w' };
  // CR2 by itself: each page fault reads it.
  def('mov 0f 20/2 Rq,Cq', { only: 64, privileged: true, access: 'w' }, (c) => c.set(0, c.state64(S.CR2)));
  defHelper('mov 0f 20 Rq,Cq', { privileged: true, access: 'w' }, (cpu, insn) => {
    const lo = readControl(cpu, regOf(insn, 1));
    if (insn.bits === 64) cpu.setPair(regOf(insn, 0), lo, cpu.eaHigh);
    else cpu.set32(regOf(insn, 0), lo);
  });
  defHelper('mov 0f 22 Cq,Rq', write, (cpu, insn) => {
    const r = regOf(insn, 1);
    writeControl(cpu, regOf(insn, 0), cpu.low(r), insn.bits === 64 ? cpu.high(r) : 0);
  });
  defHelper('mov 0f 21 Rq,Dq', { privileged: true, access: 'w' }, (cpu, insn) => {
    const value = readDebug(cpu, regOf(insn, 1));
    if (insn.bits === 64) cpu.setBig(regOf(insn, 0), value);
    else cpu.set32(regOf(insn, 0), Number(BigInt.asIntN(32, value)));
  });
  defHelper('mov 0f 23 Dq,Rq', write, (cpu, insn) => {
    const value = cpu.big(regOf(insn, 1));
    writeDebug(cpu, regOf(insn, 0), insn.bits === 64 ? value : value & 0xffffffffn);
  });
  defHelper('clts 0f 06', { privileged: true, ends: true }, (cpu) => {
    writeCr0(cpu, cpu.cr0 & ~8, 0);
  });
  for (const to of ['Rv', 'Mw'])
    defHelper(`smsw 0f 01/4 ${to}`, { access: 'w' }, (cpu, insn) => {
      writeOperand(cpu, insn, 0, cpu.cr0, 0, 2);
    });
  defHelper('lmsw 0f 01/6 Ew', { access: 'r', privileged: true, ends: true }, (cpu, insn) => {
    // LMSW sets PE but cannot clear it.
    const value = readOperand16(cpu, insn, 0) & 15;
    writeCr0(cpu, (cpu.cr0 & ~14) | value, 0);
  });
  for (const [n, table] of (['gdt', 'idt'] as const).entries()) {
    defHelper(`s${table} 0f 01/${n} M`, { access: 'w' }, (cpu, insn) => storeTable(cpu, insn, table));
    defHelper(`l${table} 0f 01/${n + 2} M`, { access: 'r', privileged: true }, (cpu, insn) =>
      loadTable(cpu, insn, table),
    );
  }
  defHelper('invlpg 0f 01/7 M', { access: 'r', privileged: true, ends: true }, (cpu, insn) => {
    const lo = cpu.linearAddress(insn);
    cpu.mmu.flushPage(lo, cpu.eaHigh);
  });
  // Caches are always coherent here.
  def('invd 0f 08', { privileged: true }, () => undefined);
  def('wbinvd 0f 09', { privileged: true }, () => undefined);
}

function defineInterruptFlag(): void {
  const options: DefOptions = { faults: true };
  def('cli fa', options, (c) => {
    const flags = c.let(c.state32(S.EFLAGS));
    c.raiseIf(i32.gt_u(c.state32(S.CPL), i32.and(i32.shr_u(flags, IOPL_SHIFT), k32(3))), Vector.GP, 0);
    c.setState(S.EFLAGS, 4, i32.and(flags, k32(~IF)));
  });
  def(
    'sti fb',
    options,
    (c) => {
      const flags = c.let(c.state32(S.EFLAGS));
      c.raiseIf(i32.gt_u(c.state32(S.CPL), i32.and(i32.shr_u(flags, IOPL_SHIFT), k32(3))), Vector.GP, 0);
      c.f.if(i32.eqz(i32.and(flags, k32(IF))), () => {
        c.setState(S.SHADOW, 8, c.nextRip());
        c.setState(S.EFLAGS, 4, i32.or(flags, k32(IF)));
        c.f.if(c.state32(S.PENDING), () => c.callHelper());
      });
    },
    (cpu) => cpu.leave(),
  );
  defHelper('hlt f4', { privileged: true, ends: true }, (cpu) => {
    cpu.halted = true;
    cpu.leave();
  });
}

function defineMsrs(): void {
  defHelper('rdmsr 0f 32', { privileged: true }, (cpu) => {
    const lo = readMsr(cpu, cpu.low(RCX));
    cpu.set32(RAX, lo);
    cpu.set32(RDX, cpu.eaHigh);
  });
  defHelper('wrmsr 0f 30', { privileged: true, ends: true }, (cpu) => {
    writeMsr(cpu, cpu.low(RCX) >>> 0, cpu.low(RAX), cpu.low(RDX));
  });
  // No counters exist.
  defHelper('rdpmc 0f 33', { faults: true }, (cpu) => {
    throw cpu.fault(Vector.GP, 0);
  });
}

function defineTime(): void {
  defHelper('cpuid 0f a2', {}, (cpu) => cpuid(cpu));
  defHelper('rdtsc 0f 31', { faults: true }, (cpu) => {
    needTsc(cpu);
    readTsc(cpu);
  });
  defHelper('rdtscp 0f 01/7.1', { faults: true }, (cpu) => {
    needTsc(cpu);
    readTsc(cpu);
    cpu.set32(RCX, cpu.sys.tscAux);
  });
  // With F3 the second is RDPID, which is not offered.
  defHelper('rdrand nf 0f c7/6 Rv', { access: 'w', writes: ARITH }, random);
  defHelper('rdseed nf 0f c7/7 Rv', { access: 'w', writes: ARITH }, random);
}

export function defineSystem(): void {
  defineControl();
  defineInterruptFlag();
  defineMsrs();
  defineTime();
}
