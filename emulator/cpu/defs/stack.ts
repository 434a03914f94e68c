/** PUSH, POP and their relatives. Pushes and pops of segment registers are system instructions. */
import { AC, DF, IF, IOPL, NT, RF, TF, VM } from '../bits.ts';
import type { Cpu } from '../cpu.ts';
import { Vector, type Emit } from '../emit.ts';
import { AF, ARITH, CF, def, defHelper, OF, PF, SF, ZF, type DefOptions, type Insn } from '../insn.ts';
import { RAX, RBP, RSP, S, SS } from '../layout.ts';
import { moveStack, peek, stackMask } from '../system/stack.ts';
import { i32, i64, k32 } from '../wasm/expr.ts';

const D64: DefOptions = { defaultSize: 'd64' };

const ID = 1 << 21;

function push(c: Emit): void {
  c.push(c.get(0), c.size);
}

function definePushPop(): void {
  def('push 50+r Zv', { ...D64, access: 'r' }, push);
  def('push ff/6 Ev', { ...D64, access: 'r' }, push);
  def('push 68 Iz', { ...D64, access: 'r' }, push);
  def('push 6a Ibs', { ...D64, access: 'r' }, push);

  def('pop 58+r Zv', { ...D64, access: 'w' }, (c) => {
    const v = c.top(c.size);
    c.setStack(c.let(c.stackPlus(c.size)), c.size);
    c.set(0, v);
  });
  def('pop 8f/0 Ev', { ...D64, access: 'w' }, (c) => {
    const v = c.top(c.size);
    const after = c.let(c.stackPlus(c.size));
    if (c.isMem(0)) {
      // The address is computed with the RSP after the pop (SDM vol. 2, POP), but RSP stays if the store faults.
      const before = c.let(c.gpr(RSP, 8));
      c.setStack(after);
      c.address();
      c.setGpr(RSP, 8, before);
      c.set(0, v);
      c.setStack(after);
    } else {
      c.setStack(after);
      c.set(0, v);
    }
  });

  def('leave c9', D64, (c) => {
    // RSP = RBP, then pop RBP.
    const width = c.stackWidth;
    const frame = c.let(
      width === 8 ? c.gpr(RBP, 8) : i64.extend_u(width === 4 ? c.gpr(RBP, 4) : i32.and(c.gpr(RBP, 4), 0xffff)),
    );
    const saved = c.load(c.stackAddress(frame), c.size);
    const sum = i32.add(i32.wrap(frame), c.size);
    const after = width === 8 ? i64.add(frame, c.size) : i64.extend_u(width === 4 ? sum : i32.and(sum, 0xffff));
    c.setStack(c.let(after));
    c.setGpr(RBP, c.size, saved);
  });
}

/** Linear address of an offset in the stack segment, cut to the stack's width; high half in `cpu.eaHigh`. */
function stackAt(cpu: Cpu, lo: number, hi: number): number {
  return cpu.segmented(SS, lo & stackMask(cpu), cpu.code64 ? hi : 0);
}

function readStack(cpu: Cpu, lo: number, hi: number, size: number): bigint {
  const at = stackAt(cpu, lo, hi);
  if (size === 8) return cpu.mmu.readBig(at, cpu.eaHigh);
  return BigInt(size === 4 ? cpu.mmu.read32(at, cpu.eaHigh) >>> 0 : cpu.mmu.read16(at, cpu.eaHigh));
}

function writeStack(cpu: Cpu, lo: number, hi: number, size: number, value: bigint): void {
  const at = stackAt(cpu, lo, hi);
  const low = Number(BigInt.asIntN(32, value));
  if (size === 8) cpu.mmu.write64(at, cpu.eaHigh, low, Number(BigInt.asIntN(32, value >> 32n)));
  else if (size === 4) cpu.mmu.write32(at, cpu.eaHigh, low);
  else cpu.mmu.write16(at, cpu.eaHigh, low);
}

/** Writes a general register at an operand size. */
function setSized(cpu: Cpu, n: number, size: number, value: bigint): void {
  if (size === 8) cpu.setBig(n, value);
  else if (size === 4) cpu.set32(n, Number(BigInt.asIntN(32, value)));
  else cpu.setPair(n, (cpu.low(n) & ~0xffff) | Number(value & 0xffffn), cpu.high(n));
}

/** ENTER (SDM vol. 2): saves the frame pointer, copies up to 31 outer ones, and reserves space. */
function enter(cpu: Cpu, insn: Insn): void {
  const { size } = insn;
  const reserve = BigInt(insn.imm & 0xffff);
  const level = insn.immHigh & 31;
  const width = insn.bits === 64 ? 64 : 32;
  const wrap = (x: bigint): bigint => BigInt.asUintN(width, x);
  const read = (at: bigint): bigint =>
    readStack(cpu, Number(BigInt.asIntN(32, at)), Number(BigInt.asIntN(32, at >> 32n)), size);
  const write = (at: bigint, value: bigint): void =>
    writeStack(cpu, Number(BigInt.asIntN(32, at)), Number(BigInt.asIntN(32, at >> 32n)), size, value);
  const step = BigInt(size);
  let rsp = wrap(cpu.big(RSP) - step);
  let rbp = wrap(cpu.big(RBP));
  write(rsp, cpu.big(RBP));
  const frame = rsp;
  for (let i = 1; i < level; i++) {
    rbp = wrap(rbp - step);
    const outer = read(rbp);
    rsp = wrap(rsp - step);
    write(rsp, outer);
  }
  if (level > 0) {
    rsp = wrap(rsp - step);
    write(rsp, frame);
  }
  rsp = wrap(rsp - reserve);
  // The stack must be writable at its new top; nothing has changed in registers yet.
  if (reserve) {
    const at = stackAt(cpu, Number(BigInt.asIntN(32, rsp)), Number(BigInt.asIntN(32, rsp >> 32n)));
    cpu.mmu.access(at, cpu.eaHigh, 1, true);
  }
  setSized(cpu, RBP, size, frame);
  if (insn.bits === 64) cpu.setBig(RSP, rsp);
  else moveStack(cpu, Number(BigInt.asIntN(32, rsp)) - cpu.low(RSP));
}

/** POPF (SDM vol. 2): what CPL and IOPL allow. */
function popf(cpu: Cpu, insn: Insn): void {
  const { size } = insn;
  const value = peek(cpu, 0, size);
  let mask = ARITH | TF | DF | NT | AC | ID;
  const old = cpu.rflags;
  if (cpu.cpl === 0) mask |= IOPL;
  if (cpu.cpl <= (old & IOPL) >> 12) mask |= IF;
  if (size === 2) mask &= 0xffff;
  const now = (old & ~mask) | (value & mask);
  moveStack(cpu, size);
  cpu.rflags = now & ~RF;
  if ((now ^ old) & AC) cpu.modeChanged();
  if (now & ~old & IF || now & TF) cpu.leave();
}

function definePushAll(): void {
  defHelper('pusha 60', { only: 32 }, (cpu, insn) => {
    const { size } = insn;
    const top = cpu.low(RSP);
    // All eight slots are checked before the first is written.
    for (let n = 8; n > 0; n--) cpu.mmu.access(stackAt(cpu, (top - n * size) | 0, 0), 0, size, true);
    for (let n = 0; n < 8; n++) writeStack(cpu, (top - (n + 1) * size) | 0, 0, size, cpu.big(n));
    moveStack(cpu, -8 * size);
  });
  defHelper('popa 61', { only: 32 }, (cpu, insn) => {
    const { size } = insn;
    const top = cpu.low(RSP);
    const values: bigint[] = [];
    for (let i = 0; i < 8; i++) values.push(readStack(cpu, (top + i * size) | 0, 0, size));
    values.forEach((v, i) => {
      if (7 - i !== RSP) setSized(cpu, 7 - i, size, v);
    });
    moveStack(cpu, 8 * size);
  });
}

function defineFlagTransfers(): void {
  def('pushf 9c', { ...D64, reads: ARITH }, (c) => {
    const rest = i32.and(c.state32(S.EFLAGS), k32(~(RF | VM | ARITH)));
    const all = c.let(i32.or(i32.or(c.flagBits(), rest), 2));
    c.push(c.size === 8 ? i64.extend_u(all) : all, c.size);
  });
  // Ends the block: interrupts or single steps may be due.
  defHelper('popf 9d', { ...D64, writes: ARITH, ends: true }, popf);
  def('lahf 9f', { reads: SF | ZF | AF | PF | CF }, (c) => {
    const bits = i32.or(i32.and(c.flagBits(), 0xd5), 2);
    c.setGpr(RAX, 2, i32.or(c.gpr(RAX, 1), i32.shl(bits, 8)));
  });
  def('sahf 9e', { reads: OF, writes: SF | ZF | AF | PF | CF }, (c) => {
    if (c.flagsDead) return;
    const of = c.overflow();
    c.setFlagBits(i32.or(i32.and(i32.shr_u(c.gpr(RAX, 2), 8), 0xd5), i32.shl(of, 11)));
  });
}

export function defineStack(): void {
  definePushPop();
  definePushAll();
  defHelper('enter c8 Iw,Ib', D64, enter);
  defineFlagTransfers();

  def('bound 62 Gv,M', { only: 32, access: 'r', faults: true }, (c) => {
    const index = c.signExtend32(c.get(0), c.size);
    const lower = c.signExtend32(c.load(c.address(), c.size), c.size);
    const upper = c.signExtend32(c.load(c.wrapLinear(i64.add(c.address(), c.size)), c.size), c.size);
    c.raiseIf(i32.or(i32.lt_s(index, lower), i32.gt_s(index, upper)), Vector.BR);
  });
}
