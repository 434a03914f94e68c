import { decode } from '../../../emulator/cpu/decoder.ts';
import type { Insn } from '../../../emulator/cpu/insn.ts';
import { CS, GPR_NAMES, modeBits, modeStack, RAM_BASE, S } from '../../../emulator/cpu/layout.ts';
import { X86Processor } from '../../../emulator/cpu/processor.ts';
import type { ProcessorHost, StopReason, Tier } from '../../../emulator/processor.ts';
import { instructionText } from './instruction-text.ts';

/** Registers by name, always in the same order. */
export type Registers = readonly (readonly [name: string, value: bigint])[];

/** CF, PF, AF, ZF, SF and OF: a compiled region leaves them out where nobody reads them. */
export const ARITHMETIC = 0x8d5n;

/**
 * A processor whose slices a trace takes over. Time stands still within a slice, so that it does not depend on how the
 * slice is run: two machines that are run to the same instruction counts see the same clock.
 */
export class TracedProcessor extends X86Processor {
  /** Runs a slice for the machine; without one, it is run as usual. */
  driver: ((budget: number) => StopReason) | undefined;
  private still: number | undefined;
  private readonly gate: { shut: boolean };

  constructor(memory: WebAssembly.Memory, host: ProcessorHost, ramSize: number, tier: Tier) {
    const gate = { shut: false };
    const real = host.interrupts;
    const interrupts = {
      pending: () => (gate.shut ? -1 : real.pending()),
      acknowledge: () => (gate.shut ? -1 : real.acknowledge()),
      get taskPriority() {
        return real.taskPriority;
      },
      set taskPriority(value: number) {
        real.taskPriority = value;
      },
    };
    super(memory, { ...host, interrupts }, ramSize, tier);
    this.gate = gate;
  }

  /** Holds interrupts off: a block that is stepped takes them where it would as a whole, at its end. */
  set holdInterrupts(on: boolean) {
    this.gate.shut = on;
  }

  override get instructions(): number {
    return this.still ?? super.instructions;
  }

  /** Instructions retired, also within a slice. */
  get retired(): number {
    return super.instructions;
  }

  override run(budget: number): StopReason {
    this.still = super.instructions;
    try {
      return this.driver ? this.driver(budget) : super.run(budget);
    } finally {
      this.still = undefined;
    }
  }

  /** Part of a slice, for drivers. */
  piece(budget: number): StopReason {
    return super.run(budget);
  }

  /** Physical address of a linear one, or undefined. Looks only: no accessed bits, no faults, no TLB. */
  private physical(linear: bigint): number | undefined {
    if (!(this.cr0 & (1 << 31))) return Number(linear & 0xffffffffn);
    const read = (at: number, bytes: 4 | 8): bigint | undefined => {
      if (at + bytes > this.ramSize) return undefined;
      return bytes === 8
        ? this.view.getBigUint64(RAM_BASE + at, true)
        : BigInt(this.view.getUint32(RAM_BASE + at, true));
    };
    const long = this.longMode;
    const wide = long || (this.cr4 & (1 << 5)) !== 0;
    const bits = wide ? 9 : 10;
    const frame = wide ? 0xf_ffff_ffff_f000n : 0xffff_f000n;
    let table = wide && !long ? this.cr3Low & 0xffffffe0 : (this.cr3Low & 0xfffff000) >>> 0;
    for (let level = long ? 4 : wide ? 3 : 2; level >= 1; level--) {
      const shift = BigInt(12 + (level - 1) * bits);
      const index = Number((linear >> shift) & BigInt((1 << bits) - 1));
      const entry = read((table >>> 0) + index * (wide ? 8 : 4), wide ? 8 : 4);
      if (entry === undefined || !(entry & 1n)) return undefined;
      if (level === 1 || (entry & 0x80n && !(wide && !long && level === 3))) {
        const mask = (1n << shift) - 1n;
        return Number((entry & frame & ~mask) | (linear & mask));
      }
      table = Number(entry & frame);
    }
    return undefined;
  }

  /** Bytes at a linear address, as far as they are in RAM. */
  bytesAt(linear: bigint, length: number): Uint8Array {
    const out = new Uint8Array(length);
    for (let i = 0; i < length; i++) {
      const at = this.physical(linear + BigInt(i));
      if (at === undefined || at >= this.ramSize) return out.subarray(0, i);
      out[i] = this.u8[RAM_BASE + at]!;
    }
    return out;
  }

  /** The instruction at RIP, or undefined where there is none to read. */
  current(): { insn: Insn; text: string } | { insn?: undefined; text: string } {
    const bytes = this.bytesAt(this.rip, 15);
    const insn = decode(bytes, 0, bytes.length, modeBits(this.mode), modeStack(this.mode));
    if (insn === 'more') return { text: '(not in memory)' };
    if (typeof insn === 'string') return { text: insn === 'ud' ? '(undefined)' : '(too long)' };
    const own = this.code64 ? this.rip : this.rip - BigInt(this.segments[CS]!.baseLow >>> 0);
    return { insn, text: instructionText(insn, own + BigInt(insn.len)) };
  }

  /** Linear address of an instruction's memory operand, before it runs. */
  operandAt(insn: Insn): bigint {
    const { rip } = this;
    this.rip = rip + BigInt(insn.len);
    const lo = this.linearAddress(insn);
    this.rip = rip;
    return (BigInt(this.eaHigh >>> 0) << 32n) | BigInt(lo >>> 0);
  }

  /** All registers that a program or a kernel can see. */
  registers(): Registers {
    const at = (offset: number): bigint => BigInt(this.u32[(this.state + offset) >> 2]!);
    const wide = (offset: number): bigint => this.u64[(this.state + offset) >> 3]!;
    const list: [string, bigint][] = [['rip', this.rip]];
    GPR_NAMES.forEach((name, n) => list.push([name, this.big(n)]));
    list.push(['rflags', BigInt(this.rflags)], ['cpl', BigInt(this.cpl)]);
    ['es', 'cs', 'ss', 'ds', 'fs', 'gs'].forEach((name, n) => {
      list.push([name, BigInt(this.segments[n]!.selector)]);
      list.push([`${name}.base`, wide(S.SEG_BASE + n * 8)]);
    });
    list.push(['cr0', BigInt(this.cr0 >>> 0)], ['cr2', wide(S.CR2)]);
    list.push(['cr3', (BigInt(this.cr3High) << 32n) | BigInt(this.cr3Low >>> 0)], ['cr4', BigInt(this.cr4)]);
    list.push(['efer', BigInt(this.efer)], ['mxcsr', at(S.MXCSR)]);
    for (let n = 0; n < 16; n++) list.push([`xmm${n}`, (wide(S.XMM + n * 16 + 8) << 64n) | wide(S.XMM + n * 16)]);
    list.push(['fcw', at(S.FCW)], ['fsw', at(S.FSW)], ['ftw', at(S.FTW)], ['top', at(S.FTOP)]);
    for (let n = 0; n < 8; n++)
      list.push([`r${n}.x87`, ((wide(S.X87 + n * 16 + 8) & 0xffffn) << 64n) | wide(S.X87 + n * 16)]);
    return list;
  }
}

/** The registers that differ, each as `name=value` of the second, or `name=first/second`. */
export function differences(first: Registers, second: Registers, both: boolean): string[] {
  const out: string[] = [];
  first.forEach(([name, a], i) => {
    const b = second[i]![1];
    if (a !== b) out.push(both ? `${name}=${a.toString(16)}/${b.toString(16)}` : `${name}=${b.toString(16)}`);
  });
  return out;
}

/** As two tiers can be compared: without the arithmetic flags. */
export const comparable = (registers: Registers): Registers =>
  registers.map(([name, value]) => [name, name === 'rflags' ? value & ~ARITHMETIC : value]);
