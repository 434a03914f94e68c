/**
 * The x87 state as a whole: FLDENV, FNSTENV, FRSTOR, FNSAVE (SDM vol. 1, 8.1.10) and FXSAVE, FXRSTOR (SDM vol. 1, 10.5).
 * The pointers to the last instruction and operand are kept as loaded but not updated, as AMD's processors do
 * while no exception is pending.
 */
import type { Cpu } from '../cpu.ts';
import { Vector } from '../emit.ts';
import { defHelper, type DefOptions, type Insn } from '../insn.ts';
import { S } from '../layout.ts';
import { Fpu } from '../x87/fpu.ts';

const LOAD: DefOptions = { unit: 'x87', faults: true, access: 'r' };
const STORE: DefOptions = { unit: 'x87', faults: true, access: 'w' };
const FXSAVE_BYTES = 512;
/** What FXRSTOR accepts in MXCSR, and FXSAVE reports as its mask (SDM vol. 1, 11.6.6). */
const MXCSR_MASK = 0xffff;
/** XMM0 to XMM15, or to XMM7 outside 64-bit mode. */
const XMM_AT = 160;

const fpus = new WeakMap<Cpu, Fpu>();
/** The x87 view of a processor. */
export function fpuOf(cpu: Cpu): Fpu {
  let fpu = fpus.get(cpu);
  if (!fpu) {
    fpu = new Fpu(cpu);
    fpus.set(cpu, fpu);
  }
  return fpu;
}

/** A block of guest memory that a helper reads or builds; larger than any of the formats here. */
const block = new DataView(new ArrayBuffer(FXSAVE_BYTES));
const bytes = new Uint8Array(block.buffer);
const words = new Int32Array(block.buffer);

/** Calls `f` with the host address (or −1) of each stretch of [lo, hi + size) that lies in one page. */
function readBlock(cpu: Cpu, lo: number, hi: number, size: number): void {
  for (let at = 0; at < size;) {
    const [l, h] = cpu.add64(lo, hi, at, 0);
    const host = cpu.mmu.hostPage(l, h, false);
    const n = Math.min(size - at, 4096 - (l & 0xfff));
    if (host >= 0) bytes.set(cpu.u8.subarray(host, host + n), at);
    else
      for (let k = 0; k < n; k++) {
        const [bl, bh] = cpu.add64(l, h, k, 0);
        bytes[at + k] = cpu.mmu.read8(bl, bh);
      }
    at += n;
  }
}

/** Raises the page fault that a store to [lo, hi + size) would. */
export function probeWrite(cpu: Cpu, lo: number, hi: number, size: number): void {
  const [endLow, endHigh] = cpu.add64(lo, hi, size - 1, 0);
  cpu.mmu.hostPage(lo, hi, true);
  if ((endLow ^ lo) & ~0xfff) cpu.mmu.hostPage(endLow & ~0xfff, endHigh, true);
}

/** Writes the block's first `size` bytes. The last page is touched first, so that a fault comes before any change. */
function writeBlock(cpu: Cpu, lo: number, hi: number, size: number): void {
  const [endLow, endHigh] = cpu.add64(lo, hi, size - 1, 0);
  if ((endLow ^ lo) & ~0xfff) cpu.mmu.write8(endLow, endHigh, bytes[size - 1]!);
  for (let at = 0; at < size;) {
    const [l, h] = cpu.add64(lo, hi, at, 0);
    const host = cpu.mmu.hostPage(l, h, true);
    const n = Math.min(size - at, 4096 - (l & 0xfff));
    if (host >= 0) cpu.u8.set(bytes.subarray(at, at + n), host);
    else
      for (let k = 0; k < n; k++) {
        const [bl, bh] = cpu.add64(l, h, k, 0);
        cpu.mmu.write8(bl, bh, bytes[at + k]!);
      }
    at += n;
  }
}

const state32 = (cpu: Cpu, offset: number): number => cpu.i32[(cpu.state + offset) >> 2]!;
const setState32 = (cpu: Cpu, offset: number, value: number): void => {
  cpu.i32[(cpu.state + offset) >> 2] = value;
};

/** The full tag word: 0 valid, 1 zero, 2 special, 3 empty, two bits a physical register. */
function fullTags(cpu: Cpu, fpu: Fpu): number {
  let tags = 0;
  for (let n = 0; n < 8; n++) {
    let tag = 3;
    if ((fpu.tags >> n) & 1) {
      const at = fpu.registerAddress(n);
      const exponent = cpu.u16[(at + 8) >> 1]! & 0x7fff;
      const low = cpu.i32[at >> 2]!;
      const high = cpu.i32[(at >> 2) + 1]!;
      if (exponent === 0) tag = (low | high) === 0 ? 1 : 2;
      else tag = exponent === 0x7fff || high >= 0 ? 2 : 0;
    }
    tags |= tag << (2 * n);
  }
  return tags;
}

/** Bytes of the environment: 14 in the 16-bit format, else 28. */
const environmentBytes = (insn: Insn): number => (insn.size === 2 ? 14 : 28);

/** Puts the environment into the block (protected-mode formats). */
function putEnvironment(cpu: Cpu, fpu: Fpu, insn: Insn): void {
  const control = fpu.fcw;
  const status = fpu.status;
  const tags = fullTags(cpu, fpu);
  const fip = state32(cpu, S.FIP);
  const fcs = state32(cpu, S.FIP + 4) & 0xffff;
  const fdp = state32(cpu, S.FDP);
  const fds = state32(cpu, S.FDP + 4) & 0xffff;
  if (insn.size === 2)
    [control, status, tags, fip, fcs, fdp, fds].forEach((v, k) => block.setUint16(2 * k, v & 0xffff, true));
  else {
    const opcode = state32(cpu, S.FOP) & 0x7ff;
    // The upper halves of the 16-bit fields are reserved; processors store ones.
    [
      0xffff0000 | control,
      0xffff0000 | status,
      0xffff0000 | tags,
      fip,
      (opcode << 16) | fcs,
      fdp,
      0xffff0000 | fds,
    ].forEach((v, k) => block.setInt32(4 * k, v, true));
  }
}

/** Loads the environment from the block. */
function takeEnvironment(cpu: Cpu, fpu: Fpu, insn: Insn): void {
  const short = insn.size === 2;
  const field = (k: number): number => block.getUint16(short ? 2 * k : 4 * k, true);
  const tags = field(2);
  let used = 0;
  for (let n = 0; n < 8; n++) if (((tags >> (2 * n)) & 3) !== 3) used |= 1 << n;
  fpu.tags = used;
  fpu.control = field(0);
  fpu.status = field(1);
  setState32(cpu, S.FIP, short ? field(3) : block.getInt32(12, true));
  setState32(cpu, S.FIP + 4, field(4));
  setState32(cpu, S.FDP, short ? field(5) : block.getInt32(20, true));
  setState32(cpu, S.FDP + 4, field(6));
  setState32(cpu, S.FOP, short ? 0 : block.getUint16(18, true) & 0x7ff);
}

function initialise(cpu: Cpu, fpu: Fpu): void {
  fpu.control = 0x37f;
  fpu.status = 0;
  fpu.tags = 0;
  for (const at of [S.FOP, S.FIP, S.FIP + 4, S.FDP, S.FDP + 4]) setState32(cpu, at, 0);
}

function fldenv(cpu: Cpu, insn: Insn): void {
  const fpu = fpuOf(cpu);
  fpu.wait();
  const lo = cpu.linearAddress(insn);
  readBlock(cpu, lo, cpu.eaHigh, environmentBytes(insn));
  takeEnvironment(cpu, fpu, insn);
}

function fnstenv(cpu: Cpu, insn: Insn): void {
  const fpu = fpuOf(cpu);
  putEnvironment(cpu, fpu, insn);
  const lo = cpu.linearAddress(insn);
  writeBlock(cpu, lo, cpu.eaHigh, environmentBytes(insn));
  // All exceptions are masked afterwards.
  fpu.control = fpu.fcw | 0x3f;
}

function frstor(cpu: Cpu, insn: Insn): void {
  const fpu = fpuOf(cpu);
  fpu.wait();
  const size = environmentBytes(insn);
  const lo = cpu.linearAddress(insn);
  readBlock(cpu, lo, cpu.eaHigh, size + 80);
  takeEnvironment(cpu, fpu, insn);
  for (let i = 0; i < 8; i++) {
    const at = fpu.registerAddress((fpu.top + i) & 7);
    cpu.u8.set(bytes.subarray(size + 10 * i, size + 10 * i + 10), at);
  }
}

function fnsave(cpu: Cpu, insn: Insn): void {
  const fpu = fpuOf(cpu);
  const size = environmentBytes(insn);
  putEnvironment(cpu, fpu, insn);
  for (let i = 0; i < 8; i++) {
    const at = fpu.registerAddress((fpu.top + i) & 7);
    bytes.set(cpu.u8.subarray(at, at + 10), size + 10 * i);
  }
  const lo = cpu.linearAddress(insn);
  writeBlock(cpu, lo, cpu.eaHigh, size + 80);
  initialise(cpu, fpu);
}

/** FXSAVE and FXRSTOR look at CR0.TS and EM as an SSE instruction without CR4.OSFXSR would: `x87` says so. */
function alignedBlock(cpu: Cpu, insn: Insn): number {
  const lo = cpu.linearAddress(insn);
  const hi = cpu.eaHigh;
  // Not canonical comes before misaligned: it may be #SS.
  if (lo & 15) throw cpu.code64 && (hi << 15) >> 31 !== hi >> 15 ? cpu.nonCanonical() : cpu.fault(Vector.GP, 0);
  return lo;
}

const registersSaved = (cpu: Cpu): number => (cpu.code64 ? 16 : 8);
const OSFXSR = 1 << 9;

/** The words of FXSAVE's image, from `at` of `to` on, but for those that it leaves as they are. */
function putImage(cpu: Cpu, insn: Insn, to: Int32Array, at: number): void {
  const fpu = fpuOf(cpu);
  const { i32 } = cpu;
  const wide = insn.size === 8 ? -1 : 0xffff;
  to[at] = (fpu.fcw & 0xffff) | (fpu.status << 16);
  to[at + 1] = (fpu.tags & 0xffff) | (state32(cpu, S.FOP) << 16);
  to[at + 2] = state32(cpu, S.FIP);
  to[at + 3] = state32(cpu, S.FIP + 4) & wide;
  to[at + 4] = state32(cpu, S.FDP);
  to[at + 5] = state32(cpu, S.FDP + 4) & wide;
  to[at + 6] = state32(cpu, S.MXCSR);
  to[at + 7] = MXCSR_MASK;
  const { top } = fpu;
  for (let i = 0; i < 8; i++) {
    const from = fpu.registerAddress((top + i) & 7) >> 2;
    const k = at + 8 + 4 * i;
    to[k] = i32[from]!;
    to[k + 1] = i32[from + 1]!;
    to[k + 2] = i32[from + 2]! & 0xffff;
    to[k + 3] = 0;
  }
  if (cpu.cr4 & OSFXSR) {
    const from = (cpu.state + S.XMM) >> 2;
    const n = 4 * registersSaved(cpu);
    for (let k = 0; k < n; k++) to[at + XMM_AT / 4 + k] = i32[from + k]!;
  }
}

/** What FXRSTOR loads, from `at` of `from` on. @throws #GP(0) for a reserved bit of MXCSR */
function takeImage(cpu: Cpu, insn: Insn, from: Int32Array, at: number): void {
  const mxcsr = from[at + 6]!;
  if (mxcsr & ~MXCSR_MASK) throw cpu.fault(Vector.GP, 0);
  const fpu = fpuOf(cpu);
  const { i32 } = cpu;
  const wide = insn.size === 8 ? -1 : 0xffff;
  fpu.tags = from[at + 1]! & 0xff;
  fpu.control = from[at]! & 0xffff;
  fpu.status = from[at]! >>> 16;
  setState32(cpu, S.FOP, (from[at + 1]! >>> 16) & 0x7ff);
  setState32(cpu, S.FIP, from[at + 2]!);
  setState32(cpu, S.FIP + 4, from[at + 3]! & wide);
  setState32(cpu, S.FDP, from[at + 4]!);
  setState32(cpu, S.FDP + 4, from[at + 5]! & wide);
  const { top } = fpu;
  for (let i = 0; i < 8; i++) {
    const to = fpu.registerAddress((top + i) & 7) >> 2;
    const k = at + 8 + 4 * i;
    i32[to] = from[k]!;
    i32[to + 1] = from[k + 1]!;
    i32[to + 2] = (i32[to + 2]! & ~0xffff) | (from[k + 2]! & 0xffff);
  }
  if (cpu.cr4 & OSFXSR) {
    setState32(cpu, S.MXCSR, mxcsr);
    const to = (cpu.state + S.XMM) >> 2;
    const n = 4 * registersSaved(cpu);
    for (let k = 0; k < n; k++) i32[to + k] = from[at + XMM_AT / 4 + k]!;
  }
}

function fxsave(cpu: Cpu, insn: Insn): void {
  const lo = alignedBlock(cpu, insn);
  const hi = cpu.eaHigh;
  const host = cpu.mmu.inPlace(lo, hi, FXSAVE_BYTES, true, false);
  if (host >= 0) {
    putImage(cpu, insn, cpu.i32, host >> 2);
    return;
  }
  probeWrite(cpu, lo, hi, FXSAVE_BYTES);
  // Bytes that FXSAVE does not write keep what memory has.
  readBlock(cpu, lo, hi, FXSAVE_BYTES);
  putImage(cpu, insn, words, 0);
  writeBlock(cpu, lo, hi, FXSAVE_BYTES);
}

function fxrstor(cpu: Cpu, insn: Insn): void {
  const lo = alignedBlock(cpu, insn);
  const hi = cpu.eaHigh;
  const host = cpu.mmu.inPlace(lo, hi, FXSAVE_BYTES, false, false);
  if (host >= 0) {
    takeImage(cpu, insn, cpu.i32, host >> 2);
    return;
  }
  readBlock(cpu, lo, hi, FXSAVE_BYTES);
  takeImage(cpu, insn, words, 0);
}

export function defineX87State(): void {
  defHelper('fldenv d9/4 M', LOAD, fldenv);
  defHelper('fnstenv d9/6 M', STORE, fnstenv);
  defHelper('frstor dd/4 M', LOAD, frstor);
  defHelper('fnsave dd/6 M', STORE, fnsave);
  defHelper('fxsave np 0f ae/0 M', STORE, fxsave);
  defHelper('fxrstor np 0f ae/1 M', LOAD, fxrstor);
}
