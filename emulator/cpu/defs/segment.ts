/** Segment registers and the instructions that look at descriptors. */
import type { Cpu } from '../cpu.ts';
import { Vector } from '../emit.ts';
import { ARITH, def, defHelper, type DefOptions, type Insn, ZF } from '../insn.ts';
import { CS, DS, ES, FS, GS, S, SS } from '../layout.ts';
import { accessRights, isProtected, loadLdt, loadSegment, loadTask, segmentLimit, verify } from '../system/segments.ts';
import { moveStack, peek, poke } from '../system/stack.ts';
import { i64 } from '../wasm/expr.ts';
import { readOperand16, regOf, writeOperand } from './system.ts';

const ONLY_ZF: DefOptions = { reads: ARITH, faults: true };

function setZf(cpu: Cpu, zf: boolean): void {
  cpu.rflags = (cpu.rflags & ~ZF) | (zf ? ZF : 0);
}

/** @throws #UD in real mode */
function needProtected(cpu: Cpu): void {
  if (!isProtected(cpu)) throw cpu.fault(Vector.UD);
}

/** Loads a segment register; loads of SS hold interrupts off for one instruction. */
function load(cpu: Cpu, n: number, selector: number): void {
  loadSegment(cpu, n, selector);
  if (n === SS) {
    cpu.shadow = cpu.rip;
    // The width of the stack may have changed.
    cpu.modeChanged();
  }
}

/** LDS and its kin: an offset of the operand size, then the selector. */
function loadFar(cpu: Cpu, insn: Insn, n: number): void {
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
  loadSegment(cpu, n, mmu.read16(l, h));
  writeOperand(cpu, insn, 0, lo, hi, size);
}

/** A selector to a register of any size, or to 16 bits of memory whatever the operand size. */
function store(opcode: string, selector: (cpu: Cpu) => number): void {
  for (const to of ['Rv', 'Mw'])
    defHelper(`${opcode} ${to}`, { access: 'w', faults: true }, (cpu, insn) => {
      writeOperand(cpu, insn, 0, selector(cpu), 0, 2);
    });
}

function defineMoves(): void {
  defHelper('mov 8e Sw,Ew', { access: 'w', faults: true, ends: true }, (cpu, insn) => {
    load(cpu, regOf(insn, 0), readOperand16(cpu, insn, 1));
  });
  for (let n = ES; n <= GS; n++)
    def(`mov 8c/${n} Rv,Sw`, { access: 'w', faults: true }, (c) => {
      const selector = c.state32(S.SELECTORS + 4 * n);
      c.set(0, c.size === 8 ? i64.extend_u(selector) : selector);
    });
  defHelper('mov 8c Mw,Sw', { access: 'w', faults: true }, (cpu, insn) => {
    writeOperand(cpu, insn, 0, cpu.segments[regOf(insn, 1)]!.selector, 0, 2);
  });
  const stack = (name: string, n: number, push: string, pop: string | undefined, only: 32 | undefined): void => {
    const options: DefOptions = { defaultSize: 'd64', faults: true, ...(only ? { only } : {}) };
    defHelper(`push ${push}`, options, (cpu, insn) => {
      poke(cpu, -insn.size, insn.size, cpu.segments[n]!.selector, 0);
      moveStack(cpu, -insn.size);
    });
    if (pop)
      defHelper(`pop ${pop}`, { ...options, ends: true }, (cpu, insn) => {
        const selector = peek(cpu, 0, insn.size) & 0xffff;
        // POP SS moves the pointer of the stack it pops from: checks come first, and they are the only faults.
        loadSegment(cpu, n, selector);
        moveStack(cpu, insn.size);
        if (n === SS) {
          cpu.shadow = cpu.rip;
          cpu.modeChanged();
        }
      });
    void name;
  };
  stack('es', ES, '06', '07', 32);
  stack('cs', CS, '0e', undefined, 32);
  stack('ss', SS, '16', '17', 32);
  stack('ds', DS, '1e', '1f', 32);
  stack('fs', FS, '0f a0', '0f a1', undefined);
  stack('gs', GS, '0f a8', '0f a9', undefined);
  const far: DefOptions = { access: 'w', faults: true, ends: true };
  defHelper('les c4 Gv,M', { ...far, only: 32 }, (cpu, insn) => loadFar(cpu, insn, ES));
  defHelper('lds c5 Gv,M', { ...far, only: 32 }, (cpu, insn) => loadFar(cpu, insn, DS));
  defHelper('lss 0f b2 Gv,M', far, (cpu, insn) => loadFar(cpu, insn, SS));
  defHelper('lfs 0f b4 Gv,M', far, (cpu, insn) => loadFar(cpu, insn, FS));
  defHelper('lgs 0f b5 Gv,M', far, (cpu, insn) => loadFar(cpu, insn, GS));
}

function defineTables(): void {
  store('sldt 0f 00/0', (cpu) => {
    needProtected(cpu);
    return cpu.ldt.selector;
  });
  store('str 0f 00/1', (cpu) => {
    needProtected(cpu);
    return cpu.tr.selector;
  });
  defHelper('lldt 0f 00/2 Ew', { access: 'r', privileged: true }, (cpu, insn) => {
    needProtected(cpu);
    loadLdt(cpu, readOperand16(cpu, insn, 0));
  });
  defHelper('ltr 0f 00/3 Ew', { access: 'r', privileged: true }, (cpu, insn) => {
    needProtected(cpu);
    loadTask(cpu, readOperand16(cpu, insn, 0));
  });
}

function defineChecks(): void {
  for (const [n, write] of [
    [4, false],
    [5, true],
  ] as const)
    defHelper(`${write ? 'verw' : 'verr'} 0f 00/${n} Ew`, { ...ONLY_ZF, access: 'r' }, (cpu, insn) => {
      needProtected(cpu);
      setZf(cpu, verify(cpu, readOperand16(cpu, insn, 0), write));
    });
  defHelper('lar 0f 02 Gv,Ew', { ...ONLY_ZF, access: 'w' }, (cpu, insn) => {
    needProtected(cpu);
    const rights = accessRights(cpu, readOperand16(cpu, insn, 1));
    if (rights !== undefined) writeOperand(cpu, insn, 0, rights, 0, insn.size);
    setZf(cpu, rights !== undefined);
  });
  defHelper('lsl 0f 03 Gv,Ew', { ...ONLY_ZF, access: 'w' }, (cpu, insn) => {
    needProtected(cpu);
    const limit = segmentLimit(cpu, readOperand16(cpu, insn, 1));
    if (limit !== undefined) writeOperand(cpu, insn, 0, limit, 0, insn.size);
    setZf(cpu, limit !== undefined);
  });
  defHelper('arpl 63 Ew,Gw', { ...ONLY_ZF, only: 32 }, (cpu, insn) => {
    needProtected(cpu);
    const selector = readOperand16(cpu, insn, 0);
    const rpl = cpu.low(regOf(insn, 1)) & 3;
    const raise = (selector & 3) < rpl;
    if (raise) writeOperand(cpu, insn, 0, (selector & 0xfffc) | rpl, 0, 2);
    setZf(cpu, raise);
  });
}

export function defineSegment(): void {
  defineMoves();
  defineTables();
  defineChecks();
}
