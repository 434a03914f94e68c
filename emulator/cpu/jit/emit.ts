/**
 * Definitions emitted into a compiled region: operands are known, registers and flags are WebAssembly locals or, in a light
 * region, where the interpreter has them.
 */
import { Emit, type Import, type PendingFlags, Vector, WRITE_TYPES } from '../emit.ts';
import type { Insn } from '../insn.ts';
import { memForm, usesSegment, type Linkage } from '../interp.ts';
import {
  modeIsUser,
  RSP,
  S,
  TLB_KERNEL_READ,
  TLB_KERNEL_WRITE,
  TLB_USER_READ,
  TLB_USER_WRITE,
  type Mode,
} from '../layout.ts';
import { RUNTIME } from '../runtime.ts';
import type { Trial } from './groups.ts';
import { type Placed, writeRecheck } from './pages.ts';
import type { StrideAccess } from './strides.ts';
import { INVALID, type Place, RIP, type Window, Windows } from './windows.ts';
import type { X87Stack } from './x87.ts';
import type { FunctionBuilder, Label, Local } from '../wasm/builder.ts';
import { callExpr, F64, I32, i32, I64, i64, k32, k64, localTee, V128, v128, type Expr } from '../wasm/expr.ts';

const RUNTIME_RESULT = new Map(RUNTIME.map((r) => [r.name, r.signature.results[0]!]));

/** Value of `exitRecord` for an exit to the linear address in `exitTarget`. 0, but not in a light region: an exception. */
export const EXIT_FAR = -1;

/** Which registers a piece of code touches: bit masks of GPR and XMM numbers. */
export interface Registers {
  gpr: number;
  gprWritten: number;
  xmm: number;
  xmmWritten: number;
}

/** What all instructions of a region share while it is emitted. */
export interface RegionContext {
  readonly f: FunctionBuilder;
  readonly state: number;
  readonly mode: Mode;
  readonly link: Linkage;
  /** Of a light region: registers and flags stay in memory. */
  readonly light: boolean;
  readonly gpr: readonly Local[];
  readonly xmm: readonly Local[];
  readonly fr: Local;
  readonly fx: Local;
  /** Linear address of the region's page. */
  readonly vpc: Local;
  readonly exitRecord: Local;
  readonly exitTarget: Local;
  /** Instructions that have not been taken off the fuel. */
  readonly spent: Local;
  /** Operands of the last flag-setting instruction, by type. */
  readonly pending32: readonly Local[];
  readonly pending64: readonly Local[];
  /** And those of a comparison of doubles; made when one comes. */
  compared: readonly [Local, Local] | undefined;
  readonly registers: Registers;
  /** While registers are only being discovered. */
  readonly discover: boolean;
  pending: PendingFlags | undefined;
  /** Leaves the function through the common exit. */
  exit: Label;
  /** The same after an exception. */
  fault: Label;
  /** The same where `exitRecord` is to be run by the interpreter. */
  back: Label;
  /** The same in a light region: its handler, unless `exitHandler` is another one, goes on from there. */
  interpret: Label;
  readonly exitHandler: Local;
  /** There, the kind of the pending result (`flagKind`), or 0. */
  readonly exitKind: Local;
  readonly windows: Windows;
  /** Of a light region: general registers that locals hold, too, at this place of the path, a bit each. What is written goes to both. */
  mirrored: number;
  readonly mirrors: (Local | undefined)[];
  /** Goes to an offset relative to the page, as an edge from the current block. */
  edge(offset: number): void;
  /** Goes to a linear address, within the region if it is one of its blocks that can be jumped to; `check` comes before a lookup. */
  jump(target: Expr, check: () => void): void;
  /** The x87 stack, if the region uses it and has it in locals. */
  x87: X87Stack | undefined;
  /** What `Emit.mxcsrOdd` gave when MXCSR last changed, in regions that compute with SSE. */
  mxcsr: Local | undefined;
  /** At this place of the block it is 0. */
  mxcsrUsual: boolean;
  /** The group of SSE arithmetic that is being written. */
  trial: Trial | undefined;
  /** Of a light region: where it counts its rounds, and from what it counts down; the same for leaving it for want of room. */
  heat:
    { readonly at: number; readonly rounds: number; readonly leavingAt: number; readonly leavings: number } | undefined;
  /** Where a region counts calls that lead elsewhere than it expects, and from what it counts down. */
  astray: { readonly at: number; readonly from: number } | undefined;
  /** Of a region that spans pages: which are known to be in their places. */
  placed: Placed | undefined;
  /** The stride that is being written. */
  stride: StrideAccess | undefined;
  /** By XMM register: lanes with numbers known to be ordinary, at this place of the block (`Lanes`). */
  readonly lanes: Uint8Array;
}

/** Instructions that write no register but their first operand, last of all, and read each operand once or twice. */
const READS_IN_PLACE = /^(mov|movsx|movsxd|movzx|add|sub|and|or|xor|cmp|test|push)$/;

const inPlaceById: boolean[] = [];
const readsInPlace = (insn: Insn): boolean => (inPlaceById[insn.def.id] ??= READS_IN_PLACE.test(insn.def.name));

/** Stands for a register that the region does not use; emitting it gives an invalid module. */
const MISSING: Local = { type: I64, index: -1, get: k64(0) };

const NO_REGISTERS: Registers = { gpr: 0, gprWritten: 0, xmm: 0, xmmWritten: 0 };

/** What `settle` of the runtime library is told of a pending result: 1 + kind × 4 + log2 of the size. */
export function flagKind(p: PendingFlags): number {
  const kind = ['add', 'sub', 'logic', 'compare'].indexOf(p.kind);
  return 1 + kind * 4 + (p.size === 8 ? 3 : p.size === 4 ? 2 : p.size === 2 ? 1 : 0);
}

/** @param registers what the region touches, to be kept in locals; undefined for a light region */
export function newContext(
  f: FunctionBuilder,
  state: number,
  mode: Mode,
  link: Linkage,
  registers: Registers | undefined,
  discover: boolean,
): RegionContext {
  const locals = (type: typeof I32 | typeof I64 | typeof V128, n: number, used = -1): Local[] =>
    Array.from({ length: n }, (_, k) => (discover || used & (1 << k) ? f.local(type) : MISSING));
  const light = !registers;
  return {
    f,
    state,
    mode,
    link,
    light,
    gpr: light ? [] : locals(I64, 16, registers.gpr),
    xmm: light ? [] : locals(V128, 16, registers.xmm),
    fr: light ? MISSING : f.local(I64),
    fx: light ? MISSING : f.local(I32),
    vpc: f.local(I64),
    exitRecord: f.local(I32),
    exitTarget: f.local(I64),
    spent: f.local(I32),
    pending32: locals(I32, 2),
    pending64: locals(I64, 2),
    compared: undefined,
    registers: registers ?? NO_REGISTERS,
    discover,
    pending: undefined,
    windows: new Windows(f),
    exit: { depth: 0 },
    fault: { depth: 0 },
    back: { depth: 0 },
    interpret: { depth: 0 },
    exitHandler: light ? f.local(I32) : MISSING,
    exitKind: light ? f.local(I32) : MISSING,
    mirrored: 0,
    mirrors: [],
    edge: () => undefined,
    jump: () => undefined,
    x87: undefined,
    mxcsr: undefined,
    mxcsrUsual: false,
    trial: undefined,
    heat: undefined,
    astray: undefined,
    placed: undefined,
    stride: undefined,
    lanes: new Uint8Array(16),
  };
}

/** Goes to the common exit. */
export function leave(c: RegionContext): void {
  c.x87?.exiting();
  c.f.br(c.exit);
}

/** Registers to memory, before a helper and at the exit. */
export function spill(c: RegionContext): void {
  const { f, state, registers: r } = c;
  if (c.light) return;
  for (let n = 0; n < 16; n++) if (r.gprWritten & (1 << n)) f.store(8, state + S.GPR + n * 8, c.gpr[n]!.get);
  for (let n = 0; n < 16; n++) if (r.xmmWritten & (1 << n)) f.store(16, state + S.XMM + n * 16, c.xmm[n]!.get);
  f.store(8, state + S.FR, c.fr.get);
  f.store(4, state + S.FX, c.fx.get);
}

/** Registers from memory, at the entry and after a helper. */
export function reload(c: RegionContext): void {
  const { f, state, registers: r } = c;
  if (c.light) return;
  for (let n = 0; n < 16; n++) if (r.gpr & (1 << n)) f.set(c.gpr[n]!, i64.load(k32(state + S.GPR + n * 8)));
  for (let n = 0; n < 16; n++) if (r.xmm & (1 << n)) f.set(c.xmm[n]!, v128.load(k32(state + S.XMM + n * 16)));
  f.set(c.fr, i64.load(k32(state + S.FR)));
  f.set(c.fx, i32.load(k32(state + S.FX)));
}

/** Address of the TLB table that a region looks up. */
export function tlbOf(mode: Mode, write: boolean): number {
  if (modeIsUser(mode)) return write ? TLB_USER_WRITE : TLB_USER_READ;
  return write ? TLB_KERNEL_WRITE : TLB_KERNEL_READ;
}

/**
 * Takes a block's instructions off the fuel, once somebody may look at it: devices read the clock by it, but changing memory takes
 * longer than a short block. Nothing is ever put there, for it may be set to 0 at any time (`leave`).
 */
export function takeFuel(c: RegionContext, instructions: number): void {
  const { f, spent } = c;
  if (c.stride) {
    c.stride.done += instructions;
    return;
  }
  f.set(spent, i32.add(spent.get, instructions));
}

/** What is left of the fuel. */
export function fuelLeft(c: RegionContext): Expr {
  return i32.sub(i32.load(k32(c.state + S.FUEL)), c.spent.get);
}

/** Before somebody may look at the fuel. */
export function writeFuel(c: RegionContext): void {
  const { f, spent } = c;
  f.store(4, c.state + S.FUEL, fuelLeft(c));
  f.set(spent, k32(0));
}

export class JitEmit extends Emit {
  done = false;

  /**
   * @param offset of the instruction in the region's page
   * @param recordAddress of its decoded record, for helpers and slow paths
   * @param blockLength instructions of its block, for the last one
   */
  constructor(
    private readonly c: RegionContext,
    insn: Insn,
    private readonly offset: number,
    private readonly recordAddress: number,
    private readonly blockLength: number,
  ) {
    super(c.f, insn, c.state);
    this.nesting = c.f.nesting;
    if (c.light) this.handOver = (): void => this.toInterpreter();
  }

  /** Of a block's first instruction: its handler in the interpreter. */
  firstHandler = 0;

  /** Of the instruction: what is emitted deeper may not be run. */
  private readonly nesting: number;

  /** Operands of most instructions are read in place. */
  override get(k: number): Expr {
    const o = this.operand(k);
    const inPlace = o.kind === 'reg' && o.cls === 'gpr' && o.size >= 4 && readsInPlace(this.insn);
    return inPlace ? this.regAt(k) : super.get(k);
  }

  /** Notes a register's use; outside discovery it must have been found before. */
  private note(mask: 'gpr' | 'gprWritten' | 'xmm' | 'xmmWritten', n: number): void {
    if (this.c.discover) this.c.registers[mask] |= 1 << n;
    else if (!(this.c.registers[mask] & (1 << n)))
      throw new Error(`${this.insn.def.pattern} uses register ${n} (${mask}), which was not foreseen`);
  }
  private gprAddress(n: number): number {
    return this.state + S.GPR + n * 8;
  }

  private readGpr(n: number, size: number, high: boolean): Expr {
    if (this.c.light && !(this.c.mirrored & (1 << n))) {
      const at = this.gprAddress(n);
      switch (size) {
        case 8:
          return i64.load(k32(at));
        case 4:
          return i32.load(k32(at));
        case 2:
          return i32.load16_u(k32(at));
        default:
          return i32.load8_u(k32(high ? at + 1 : at));
      }
    }
    if (!this.c.light) this.note('gpr', n);
    const x = (this.c.light ? this.c.mirrors[n]! : this.c.gpr[n]!).get;
    switch (size) {
      case 8:
        return x;
      case 4:
        return i32.wrap(x);
      case 2:
        return i32.and(i32.wrap(x), 0xffff);
      default:
        return i32.and(high ? i32.shr_u(i32.wrap(x), 8) : i32.wrap(x), 0xff);
    }
  }

  private putGpr(n: number, size: number, high: boolean, value: Expr): void {
    this.c.windows.changed(n);
    if (this.c.light) {
      this.putMirrored(n, size, high, value);
      return;
    }
    this.note('gpr', n);
    this.note('gprWritten', n);
    const local = this.c.gpr[n]!;
    this.f.set(local, this.merged(local, size, high, value));
  }

  /** A register's value after `value` is written to a part of it. */
  private merged(local: Local, size: number, high: boolean, value: Expr): Expr {
    if (size === 8) return value;
    if (size === 4) return i64.extend_u(value);
    const mask = size === 2 ? 0xffffn : high ? 0xff00n : 0xffn;
    let v = i64.extend_u(i32.and(value, size === 2 ? 0xffff : 0xff));
    if (high) v = i64.shl(v, 8);
    return i64.or(i64.and(local.get, k64(~mask)), v);
  }

  /**
   * In a light region: to memory, and to a local that the rest of the path reads, which need not wait for what was stored
   * to come back.
   */
  private putMirrored(n: number, size: number, high: boolean, value: Expr): void {
    const { c, f } = this;
    const at = this.gprAddress(n);
    const known = (c.mirrored & (1 << n)) !== 0;
    // What is set under a condition only is not known after it.
    if (!known && (size < 4 || f.nesting !== this.nesting)) {
      if (size === 4) f.store(8, at, i64.extend_u(value));
      else f.store(size, high ? at + 1 : at, value);
      return;
    }
    const local = (c.mirrors[n] ??= f.local(I64));
    f.store(8, at, localTee(I64, local.index, this.merged(local, size, high, value)));
    c.mirrored |= 1 << n;
  }

  protected regAt(k: number): Expr {
    const o = this.operand(k);
    if (o.kind !== 'reg') throw new Error(`operand ${k} of ${this.insn.def.pattern} is no register`);
    if (o.cls === 'gpr') return this.readGpr(o.reg, o.size, o.high);
    if (o.cls === 'xmm') return this.xmm(o.reg);
    if (o.cls === 'mmx') return this.mmxAt(k);
    throw new Error(`register class ${o.cls} in ${this.insn.def.pattern}`);
  }

  protected setRegAt(k: number, value: Expr): void {
    const o = this.operand(k);
    if (o.kind !== 'reg') throw new Error(`operand ${k} of ${this.insn.def.pattern} is no register`);
    if (o.cls === 'gpr') this.putGpr(o.reg, o.size, o.high, value);
    else if (o.cls === 'xmm') this.setXmm(o.reg, value);
    else this.setMmxAt(k, value);
  }

  gpr(n: number, size: number): Expr {
    return this.readGpr(n, size, false);
  }
  setGpr(n: number, size: number, value: Expr): void {
    this.putGpr(n, size, false, value);
  }
  xmm(n: number): Expr {
    if (this.c.light) return v128.load(k32(this.state + S.XMM + n * 16));
    this.note('xmm', n);
    return this.c.xmm[n]!.get;
  }
  setXmm(n: number, value: Expr): void {
    this.c.lanes[n] = 0;
    if (this.c.light) {
      this.f.store(16, this.state + S.XMM + n * 16, value);
      return;
    }
    this.note('xmm', n);
    this.note('xmmWritten', n);
    this.f.set(this.c.xmm[n]!, value);
  }
  private regNumber(k: number): number {
    const o = this.operand(k);
    return o.kind === 'reg' ? o.reg : 0;
  }
  vectorAt(k: number): Expr {
    return this.xmm(this.regNumber(k));
  }
  setVectorAt(k: number, value: Expr): void {
    this.setXmm(this.regNumber(k), value);
  }
  mmxAt(k: number): Expr {
    return i64.load(k32(this.state + S.X87 + this.regNumber(k) * 16));
  }
  setMmxAt(k: number, value: Expr): void {
    const at = this.state + S.X87 + this.regNumber(k) * 16;
    this.f.store(8, at, value);
    this.f.store(2, at + 8, k32(0xffff));
  }
  stIndex(): Expr {
    return k32(this.insn.modrm & 7);
  }

  imm32(): Expr {
    return k32(this.insn.imm);
  }
  imm64(): Expr {
    return k64((BigInt(this.insn.immHigh) << 32n) | BigInt(this.insn.imm >>> 0));
  }
  immConst(): number {
    return this.insn.imm;
  }

  effectiveAddress(): Expr {
    const m = this.insn.mem!;
    if (memForm(this.insn) === 3) return k64((BigInt(m.dispHigh) << 32n) | BigInt(m.disp >>> 0));
    let ea: Expr;
    if (m.base === 16) ea = i64.add(this.c.vpc.get, k64(this.offset + this.insn.len));
    else ea = m.base >= 0 ? this.readGpr(m.base, 8, false) : k64(0);
    if (m.index >= 0) {
      const index = i64.shl(this.readGpr(m.index, 8, false), k64(m.scale));
      ea = m.base >= 0 ? i64.add(ea, index) : index;
    }
    ea = i64.add(ea, k64(m.disp));
    return m.addressSize === 8 ? ea : i64.and(ea, k64(m.addressSize === 4 ? 0xffffffff : 0xffff));
  }

  protected segmentBase(): Expr | undefined {
    if (!usesSegment(this.insn)) return undefined;
    const m = this.insn.mem;
    const seg = m ? m.seg : this.insn.segment >= 0 ? this.insn.segment : 3;
    return this.state64(S.SEG_BASE + seg * 8);
  }

  private linearAt(offset: number): Expr {
    return this.wrapLinear(i64.add(this.c.vpc.get, k64(offset)));
  }
  nextRip(): Expr {
    return this.linearAt(this.offset + this.insn.len);
  }
  record(): Expr {
    return k32(this.recordAddress);
  }

  callImport(name: Import, ...args: Expr[]): Expr {
    return callExpr(I32, this.c.link.imports[name]!, args);
  }
  callRuntime(name: string, ...args: Expr[]): Expr {
    return callExpr(RUNTIME_RESULT.get(name)!, this.c.link.imports[name]!, args);
  }

  // ---- memory near what was accessed before ----

  /** Address of the stack access that is being written, and its displacement from RSP. */
  private stackPlace: Expr | undefined;
  private stackDisplacement = 0;

  /** An address as registers and a displacement, where it is just that. */
  private place(address: Expr): Place | undefined {
    if (this.insn.bits !== 64 || this.compact) return undefined;
    if (address === this.stackPlace) return { base: RSP, index: -1, scale: 0, displacement: this.stackDisplacement };
    const m = this.insn.mem;
    if (!m || address !== this.linear || m.addressSize !== 8 || usesSegment(this.insn)) return undefined;
    if (m.base < 0 && m.index < 0) return undefined;
    const displacement = m.base === RIP ? this.offset + this.insn.len + m.disp : m.disp;
    return { base: m.base, index: m.index, scale: m.index < 0 ? 0 : m.scale, displacement };
  }

  private open(place: Place, write: boolean): Window | undefined {
    return this.f.nesting === this.nesting ? this.c.windows.open(place, write) : undefined;
  }

  override load(address: Expr, size: number): Expr {
    if (!this.c.stride) return super.load(address, size);
    const { host, distance } = this.c.stride.access(this.place(address), size, false);
    return this.let(this.loadHost(host.get, size, distance));
  }

  override checkAligned(size = 16): void {
    if (size === 16 && this.c.stride?.aligned(this.place(this.address()))) return;
    super.checkAligned(size);
  }

  override access(address: Expr, size: number, write: boolean): Expr {
    const place = this.place(address);
    if (this.c.stride) {
      const { host, distance } = this.c.stride.access(place, size, write);
      return i32.add(host.get, distance);
    }
    if (!place) return super.access(address, size, write);
    const { f } = this;
    const { displacement } = place;
    const near = this.c.windows.find(place, write);
    const { handOver } = this;
    if (handOver) {
      if (near) {
        const distance = displacement - near.displacement;
        f.if(i32.gt_u(i32.add(near.offset.get, distance), 4096 - size), handOver, undefined, 0);
        return i32.add(near.host.get, distance);
      }
      const { x, host } = this.lookupTlb(address, write);
      f.if(this.miss(x, size), handOver, undefined, 0);
      const opened = this.open(place, write);
      if (!opened) return this.let(host);
      f.set(opened.host, host);
      f.set(opened.offset, i32.and(opened.host.get, 0xfff));
      return opened.host.get;
    }
    if (write) this.rmwIsScratchable = true;
    const host = this.temp(I32);
    const info = size | (write ? 0x100 : 0);
    if (near) {
      const distance = displacement - near.displacement;
      f.if(
        i32.gt_u(i32.add(near.offset.get, distance), 4096 - size),
        () => {
          this.beforeFault();
          f.set(host, this.slow(write ? 'modify' : 'read', address, info));
          this.leaveUnless(host.get);
        },
        () => f.set(host, i32.add(near.host.get, distance)),
        0,
      );
      return host.get;
    }
    const { x, host: found } = this.lookupTlb(address, write);
    const opened = this.open(place, write);
    f.if(
      this.miss(x, size),
      () => {
        this.beforeFault();
        f.set(host, this.slow('slowAccess', address, info));
        this.leaveUnless(host.get);
        if (opened) f.set(opened.offset, k32(INVALID));
      },
      () => {
        f.set(host, found);
        if (opened) f.set(opened.offset, i32.and(host.get, 0xfff));
      },
      0,
    );
    if (opened) f.set(opened.host, host.get);
    return host.get;
  }

  override store(address: Expr, size: number, value: Expr): void {
    const place = this.place(address);
    if (this.c.stride) {
      const { host, distance } = this.c.stride.access(place, size, true);
      this.f.store(size, host.get, value, distance);
      return;
    }
    if (!place || WRITE_TYPES[size] !== value.type) return super.store(address, size, value);
    const { f } = this;
    const { displacement } = place;
    const v = this.let(value);
    const slow = (): void => {
      if (this.handOver) {
        this.handOver();
        return;
      }
      this.beforeFault();
      this.leaveUnless(this.callRuntime(`write${size}`, address, v, k32(size | this.slowInfo), this.record()));
    };
    const near = this.c.windows.find(place, true);
    if (near) {
      const distance = displacement - near.displacement;
      f.if(
        i32.gt_u(i32.add(near.offset.get, distance), 4096 - size),
        slow,
        () => f.store(size, i32.add(near.host.get, distance), v),
        0,
      );
      return;
    }
    const { x, host: found } = this.lookupTlb(address, true);
    const opened = this.open(place, true);
    f.if(
      this.miss(x, size),
      () => {
        slow();
        if (opened && !this.handOver) f.set(opened.offset, k32(INVALID));
      },
      () => {
        const host = opened ? opened.host : this.temp(I32);
        f.set(host, found);
        f.store(size, host.get, v);
        if (opened) f.set(opened.offset, i32.and(host.get, 0xfff));
      },
      0,
    );
  }

  override push(value: Expr, size: number): void {
    const v = this.let(value);
    const to = this.let(this.stackPlus(-size));
    this.stackPlace = to;
    this.stackDisplacement = -size;
    this.store(this.stackAddress(to), size, v);
    this.setStack(to, -size);
  }

  override top(size: number, offset = 0): Expr {
    const at = this.let(this.stackPlus(offset));
    this.stackPlace = at;
    this.stackDisplacement = offset;
    return this.load(this.stackAddress(at), size);
  }

  override setStack(offset: Expr, by?: number): void {
    const { windows } = this.c;
    const known = by === undefined || this.insn.bits !== 64 ? undefined : windows.save();
    super.setStack(offset);
    if (!known) return;
    windows.restore(known);
    windows.changed(RSP, by);
  }

  override callHelper(): void {
    writeFuel(this.c);
    super.callHelper();
    this.c.windows.clear();
    this.c.mirrored = 0;
  }

  protected leaveRaising(vector: Expr, code: Expr): void {
    this.f.drop(this.callImport('raise', vector, code, this.record()));
    this.f.br(this.c.fault);
  }

  protected leaveUnless(ok: Expr): void {
    this.f.brIf(i32.eqz(ok), this.c.fault, 0);
  }

  override retreat(): void {
    this.beforeFault();
    this.f.store(4, this.state + S.FAULT_FLAGS, k32(this.slowInfo >>> 16));
    this.f.set(this.c.exitRecord, this.record());
    this.f.br(this.c.back);
  }

  /**
   * In a light region, where all is in memory: the interpreter executes this instruction and goes on. A block's first
   * record has the region's own function, so there the handler is told.
   */
  private toInterpreter(): void {
    const { f, c } = this;
    this.tellPending();
    if (this.slowInfo >>> 16) f.set(c.exitKind, k32(this.slowInfo >>> 16));
    if (this.firstHandler) f.set(c.exitHandler, k32(this.firstHandler));
    f.set(c.exitRecord, this.record());
    f.br(c.interpret);
  }

  /** In a light region the interpreter executes this instruction, and raises what there is to raise. */
  override raise(vector: number, error?: Expr | number): void {
    if (this.handOver) this.handOver();
    else super.raise(vector, error);
  }

  override get trial(): boolean {
    return this.c.trial !== undefined;
  }
  override evidence(size: 4 | 8, packed: boolean, x: Expr): void {
    this.c.trial!.evidence.add(size, packed, x);
  }
  override get mxcsrUsual(): boolean {
    return this.c.mxcsrUsual;
  }
  override set mxcsrUsual(known: boolean) {
    this.c.mxcsrUsual = known;
  }
  override mxcsrOdd(): Expr {
    return this.c.mxcsrUsual ? k32(0) : (this.c.mxcsr?.get ?? super.mxcsrOdd());
  }
  override mxcsrChanged(): void {
    this.c.mxcsrUsual = false;
    if (this.c.mxcsr) this.f.set(this.c.mxcsr, super.mxcsrOdd());
  }
  private xmmOf(k: number): number {
    const o = this.operand(k);
    return o.kind === 'reg' && o.cls === 'xmm' ? o.reg : -1;
  }
  override lanesKnown(k: number): number {
    return this.c.lanes[this.xmmOf(k)] ?? 0;
  }
  override noteLanes(k: number, lanes: number): void {
    const n = this.xmmOf(k);
    if (n >= 0) this.c.lanes[n] = lanes;
  }
  override sameRegister(): boolean {
    const [a, b] = this.insn.operands;
    return a?.kind === 'reg' && b?.kind === 'reg' && a.cls === b.cls && a.reg === b.reg && a.high === b.high;
  }

  protected beforeFault(): void {
    const trial = this.c.trial;
    const odd = trial?.evidence.odd();
    if (odd) this.f.brIf(odd, trial!.again, 0);
    this.c.x87?.exiting();
    writeFuel(this.c);
    this.tellPending();
  }

  private tellPending(): void {
    // The pending flags are settled at the common exit, so that each access stays small.
    const p = this.c.pending;
    // Regions must not go on after their own code has changed: the slow path is told that a region asks.
    this.slowInfo = 0x200 | (p ? flagKind(p) << 16 : 0);
    if (!p) return;
    const keep = p.size === 8 ? this.c.pending64 : this.c.pending32;
    if (p.a.op === 0x41 || p.a.op === 0x42) this.f.set(keep[0]!, p.a);
    if (p.b.op === 0x41 || p.b.op === 0x42) this.f.set(keep[1]!, p.b);
  }

  protected tlb(write: boolean): Expr {
    return k32(tlbOf(this.c.mode, write));
  }

  protected flagPair(): { fr: Expr; fx: Expr } {
    if (this.c.light) return { fr: this.state64(S.FR), fx: this.state32(S.FX) };
    return { fr: this.c.fr.get, fx: this.c.fx.get };
  }
  protected setFlagPair(fr: Expr | undefined, fx: Expr): void {
    this.c.pending = undefined;
    const x = fr ? this.let(fx) : fx;
    if (this.c.light) {
      if (fr) this.setState(S.FR, 8, fr);
      this.setState(S.FX, 4, x);
      return;
    }
    if (fr) this.f.set(this.c.fr, fr);
    this.f.set(this.c.fx, x);
  }
  protected getPending(): PendingFlags | undefined {
    return this.c.pending;
  }
  protected setPending(p: PendingFlags): void {
    const keep = p.size === 8 ? this.c.pending64 : this.c.pending32;
    const copy = (x: Expr, local: Local): Expr => {
      if (x.op === 0x41 || x.op === 0x42) return x;
      this.f.set(local, x);
      return local.get;
    };
    // Both are evaluated before either is overwritten: operands may not be pending locals themselves.
    const logic = p.kind === 'logic';
    const a = copy(p.a, keep[0]!);
    this.c.pending = { ...p, a, b: logic ? a : copy(p.b, keep[1]!) };
  }
  override flagsOfDoubles(a: Expr, b: Expr): void {
    if (this.flagsDead) return;
    const [x, y] = (this.c.compared ??= [this.f.local(F64), this.f.local(F64)]);
    this.f.set(x, a);
    this.f.set(y, b);
    const [left, right] = [i64.reinterpret(x.get), i64.reinterpret(y.get)];
    this.setPending({ kind: 'compare', size: 8, a: left, b: right, doubles: [x.get, y.get] });
  }
  settleFlags(): void {
    const p = this.c.pending;
    this.c.pending = undefined;
    if (p) this.materialise(p);
  }

  // ---- control flow ----

  /** Takes the block's instructions off the fuel. */
  account(): void {
    takeFuel(this.c, this.blockLength);
  }

  private get relTarget(): number {
    return this.offset + this.insn.len + this.insn.imm;
  }

  /** Leaves to a linear address. */
  exitTo(target: Expr): void {
    this.f.set(this.c.exitTarget, target);
    this.settleFlags();
    this.f.set(this.c.exitRecord, k32(EXIT_FAR));
    leave(this.c);
  }

  private goRel(): void {
    if (this.insn.bits !== 64 && this.size === 2) {
      this.exitTo(this.cutToWord(this.linearAt(this.relTarget)));
      return;
    }
    this.c.edge(this.relTarget);
  }

  jumpRel(): void {
    this.account();
    this.goRel();
    this.done = true;
  }

  jumpRelIf(condition: Expr): void {
    this.account();
    const pending = this.c.pending;
    this.f.if(condition, () => this.goRel());
    this.c.pending = pending;
    this.c.edge(this.offset + this.insn.len);
    this.done = true;
  }

  override repeatIf(again: Expr): void {
    this.account();
    const pending = this.c.pending;
    this.f.if(again, () => this.exitTo(this.linearAt(this.offset)));
    this.c.pending = pending;
    this.c.edge(this.offset + this.insn.len);
    this.done = true;
  }

  jumpTo(target: Expr, back?: () => void): void {
    this.account();
    const t = this.let(target);
    this.c.jump(t, () => {
      if (this.insn.bits !== 64) return;
      this.f.if(this.notCanonical(t), () => {
        takeFuel(this.c, -this.blockLength);
        back?.();
        this.raise(Vector.GP, 0);
      });
    });
    this.done = true;
  }

  runHelper(): void {
    this.c.x87?.sync();
    this.settleFlags();
    this.c.windows.clear();
    this.c.mirrored = 0;
    spill(this.c);
    writeFuel(this.c);
    this.f.if(this.callImport('helper', this.record()), () => this.f.return(), undefined, 0);
    reload(this.c);
    this.c.lanes.fill(0);
    this.mxcsrChanged();
    if (this.insn.def.ends) {
      this.account();
      this.exitTo(this.state64(S.RIP));
      this.done = true;
    } else if (this.c.placed) writeRecheck(this.f, this.c.placed, this.state, this.c.mode);
  }
}
