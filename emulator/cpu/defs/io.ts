/** Port input and output. */
import { DF, IF } from '../bits.ts';
import type { Width } from '../../bus.ts';
import type { Cpu } from '../cpu.ts';
import { defHelper, type DefOptions, type Insn } from '../insn.ts';
import { DS, ES, RAX, RCX, RDI, RDX, RSI, S } from '../layout.ts';
import { portBreak } from '../system/debug.ts';
import { checkPort } from '../system/tss.ts';

/**
 * A repeated string transfer comes up for air after this many elements, each as dear as an instruction; its RIP stays at
 * it until it is done.
 */
const BURST = 4096;

function input(cpu: Cpu, port: number, width: Width): number {
  checkPort(cpu, port, width);
  portBreak(cpu, port, width);
  return cpu.bus.readPort(port, width) | 0;
}

function output(cpu: Cpu, port: number, width: Width, value: number): void {
  checkPort(cpu, port, width);
  portBreak(cpu, port, width);
  cpu.bus.writePort(port, width, width === 4 ? value >>> 0 : value & (width === 2 ? 0xffff : 0xff));
}

function setAccumulator(cpu: Cpu, width: Width, value: number): void {
  if (width === 4) cpu.set32(RAX, value);
  else {
    const mask = width === 2 ? 0xffff : 0xff;
    cpu.setPair(RAX, (cpu.low(RAX) & ~mask) | (value & mask), cpu.high(RAX));
  }
}

const widthOf = (insn: Insn): Width => (insn.size >= 4 ? 4 : insn.size === 2 ? 2 : 1);
const dx = (cpu: Cpu): number => cpu.low(RDX) & 0xffff;

/** A register cut to the address size: low half returned, high half in `cpu.eaHigh`. */
function pointer(cpu: Cpu, n: number, addressSize: number): number {
  cpu.eaHigh = addressSize === 8 ? cpu.high(n) : 0;
  return addressSize === 2 ? cpu.low(n) & 0xffff : cpu.low(n);
}

function advance(cpu: Cpu, n: number, addressSize: number, delta: number): void {
  const lo = (cpu.low(n) + delta) | 0;
  if (addressSize === 8) {
    const [l, h] = cpu.add64(cpu.low(n), cpu.high(n), delta, delta >> 31);
    cpu.setPair(n, l, h);
  } else if (addressSize === 4) cpu.set32(n, lo);
  else cpu.setPair(n, (cpu.low(n) & 0xffff0000) | (lo & 0xffff), cpu.high(n));
}

/** One element of INS or OUTS. */
function element(cpu: Cpu, insn: Insn, isInput: boolean, width: Width): void {
  const { mmu } = cpu;
  const delta = cpu.rflags & DF ? -width : width;
  const reg = isInput ? RDI : RSI;
  const offset = pointer(cpu, reg, insn.addressSize);
  const seg = isInput ? ES : insn.segment >= 0 ? insn.segment : DS;
  const lo = cpu.segmented(seg, offset, cpu.eaHigh);
  const hi = cpu.eaHigh;
  if (isInput) {
    checkPort(cpu, dx(cpu), width);
    // The port may be read only if the memory can be written.
    mmu.access(lo, hi, width, true);
    const value = input(cpu, dx(cpu), width);
    if (width === 4) mmu.write32(lo, hi, value);
    else if (width === 2) mmu.write16(lo, hi, value & 0xffff);
    else mmu.write8(lo, hi, value & 0xff);
  } else {
    checkPort(cpu, dx(cpu), width);
    const value = width === 4 ? mmu.read32(lo, hi) : width === 2 ? mmu.read16(lo, hi) : mmu.read8(lo, hi);
    output(cpu, dx(cpu), width, value);
  }
  advance(cpu, reg, insn.addressSize, delta);
}

function string(cpu: Cpu, insn: Insn, isInput: boolean): void {
  const width = widthOf(insn);
  if (!insn.rep) {
    element(cpu, insn, isInput, width);
    return;
  }
  for (let n = 0; ; n++) {
    const count = pointer(cpu, RCX, insn.addressSize);
    if (count === 0 && cpu.eaHigh === 0) return;
    // An interrupt that the device asked for comes between two elements.
    const interrupted = n > 0 && cpu.i32[(cpu.state + S.PENDING) >> 2] !== 0 && (cpu.rflags & IF) !== 0;
    if (n === BURST || interrupted) {
      // Go on at this same instruction after the run loop has had its turn.
      const [lo, hi] = cpu.add64(cpu.ripLow(), cpu.ripHigh(), -insn.len, -1);
      cpu.setRip(lo, insn.bits === 64 ? hi : 0);
      cpu.i32[(cpu.state + S.FUEL) >> 2]! -= n;
      cpu.leave();
      return;
    }
    element(cpu, insn, isInput, width);
    advance(cpu, RCX, insn.addressSize, -1);
  }
}

export function defineIo(): void {
  const options: DefOptions = { faults: true, access: 'w', ends: true };
  // Registers in these forms are fixed; only the immediate is an operand.
  const fixed: DefOptions = { faults: true, access: 'r', ends: true };
  defHelper('in e4 Ab,Ib', options, (cpu, insn) => setAccumulator(cpu, 1, input(cpu, insn.imm & 0xff, 1)));
  defHelper('in e5 Az,Ib', options, (cpu, insn) => {
    setAccumulator(cpu, widthOf(insn), input(cpu, insn.imm & 0xff, widthOf(insn)));
  });
  defHelper('out e6 Ib,Ab', fixed, (cpu, insn) => output(cpu, insn.imm & 0xff, 1, cpu.low(RAX)));
  defHelper('out e7 Ib,Az', fixed, (cpu, insn) => {
    const width = operandWidth(insn, 1);
    output(cpu, insn.imm & 0xff, width, cpu.low(RAX));
  });
  defHelper('in ec Ab,DX', options, (cpu) => setAccumulator(cpu, 1, input(cpu, dx(cpu), 1)));
  defHelper('in ed Az,DX', options, (cpu, insn) => {
    setAccumulator(cpu, widthOf(insn), input(cpu, dx(cpu), widthOf(insn)));
  });
  defHelper('out ee DX,Ab', fixed, (cpu) => output(cpu, dx(cpu), 1, cpu.low(RAX)));
  defHelper('out ef DX,Az', fixed, (cpu, insn) => output(cpu, dx(cpu), operandWidth(insn, 1), cpu.low(RAX)));
  // A fault in the middle leaves the registers at the element that faulted, as it should.
  defHelper('insb 6c', options, (cpu, insn) => string(cpu, byteForm(insn), true));
  defHelper('insv 6d', options, (cpu, insn) => string(cpu, insn, true));
  defHelper('outsb 6e', fixed, (cpu, insn) => string(cpu, byteForm(insn), false));
  defHelper('outsv 6f', fixed, (cpu, insn) => string(cpu, insn, false));
}

function operandWidth(insn: Insn, i: number): Width {
  const { size } = insn.operands[i]!;
  return size >= 4 ? 4 : size === 2 ? 2 : 1;
}

/** The byte forms have no operand that says so. */
const byteForm = (insn: Insn): Insn => (insn.size === 1 ? insn : { ...insn, size: 1 });
