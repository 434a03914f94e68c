/**
 * What a definition sees: operands, registers, flags, guest memory and control flow, without knowing which tier it is
 * emitted for. In the interpreter (interp.ts) operands come from a decoded record in memory; in a compiled region (jit.ts) they
 * are WebAssembly locals and constants.
 *
 * Rules for definitions, which make exceptions precise:
 * - everything that may fault (loads, `get` of a memory operand that is written, checks) comes before the first change
 *   of a register or flag; a plain store (`set` of a write-only memory operand) is itself such an access;
 * - a value that is used after a register or flag was changed goes through `let` (`get` already does).
 */
import { bitsToCanonical, canonicalAf, canonicalCondition, canonicalToBits } from './flags.ts';
import { ARITH, type Insn, type Operand } from './insn.ts';
import { MXCSR } from './float/mxcsr.ts';
import { CS, RSP, S, SS } from './layout.ts';
import { meta, metaLength } from './record.ts';
import { tlbAnswer, tlbMisses } from './slow.ts';
import type { FunctionBuilder, Local } from './wasm/builder.ts';
import {
  I32,
  I64,
  V128,
  W32,
  W64,
  f64,
  i32,
  i64,
  k32,
  k64,
  kv128,
  select,
  v128,
  type Expr,
  type IntOps,
} from './wasm/expr.ts';

/** Exception vectors (Intel SDM vol. 3, table 6-1). */
export const Vector = {
  DE: 0,
  DB: 1,
  NMI: 2,
  BP: 3,
  OF: 4,
  BR: 5,
  UD: 6,
  NM: 7,
  DF: 8,
  TS: 10,
  NP: 11,
  SS: 12,
  GP: 13,
  PF: 14,
  MF: 16,
  AC: 17,
  XM: 19,
} as const;

/** A flag result that has not been turned into the canonical pair yet. All parts are locals or constants. */
export interface PendingFlags {
  kind: 'add' | 'sub' | 'logic' | 'compare';
  /** Operand size in bytes. */
  size: number;
  /** Operands, zero-extended i32 for sizes to 4, i64 for 8. For `logic` the result, twice; for `compare` the bits of doubles. */
  a: Expr;
  b: Expr;
  /** For `compare`: the doubles. */
  doubles?: readonly [Expr, Expr];
}

/** ZF, PF and CF of two doubles compared (SDM vol. 2, UCOMISD). */
export const comparison = (a: Expr, b: Expr): { zf: Expr; pf: Expr; cf: Expr } => ({
  zf: i32.eqz(i32.or(f64.lt(a, b), f64.gt(a, b))),
  pf: i32.or(f64.ne(a, a), f64.ne(b, b)),
  cf: i32.eqz(f64.ge(a, b)),
});
/** The canonical pair of flags ZF, PF and CF (0 or 1, i32), the others 0. `zf` is evaluated. */
export const comparisonPair = (zf: Expr, pf: Expr, cf: Expr): { fr: Expr; fx: Expr } => ({
  // fr is 0 (even parity) or 1 (odd parity): the parity delta makes up for what PF differs from ZF.
  fr: i64.extend_u(i32.xor(zf, k32(1))),
  fx: i32.or(i32.mul(cf, k32(0xc0000000)), i32.shl(i32.xor(pf, zf), 8)),
});

/** Functions that emitted code may call, by their names as imports and as exports of the interpreter module. */
export type Import =
  /** access(lo, hi, info, record) → host address, or 0 after a fault. info: see `slowInfo`. */
  | 'access'
  /** store(lo, hi, info, record) → 1, or 0 after a fault. The bytes are in SCRATCH. */
  | 'store'
  /** commit(record) → writes SCRATCH back to where the last `access` for writing took it from. */
  | 'commit'
  /** raise(vector, errorCode, record): an exception; errorCode −1 for none. Bits 16 and up of the vector as those of `slowInfo`. */
  | 'raise'
  /** helper(record) → 0, or 1 when control must go back to the run loop. */
  | 'helper'
  /** lookup() → record for S.RIP, or 0. */
  | 'lookup'
  /** link(record, which) → record of a direct branch's target (0: taken, 1: next), or 0. */
  | 'link'
  /** hot(record): the block that starts the current run is hot. */
  | 'hot'
  /** pages(region, lo, hi): which pages of a region are mapped where its code expects them, with its first page at an address: see jit/pages.ts. */
  | 'pages'
  /** retreat(record): the interpreter is to run this instruction, and the region is left. */
  | 'retreat'
  /** float(op, record) → 1, or 0 after a fault: `exactFloat` of float/exact.ts, with operands and result in TEMP. */
  | 'float';

/** Types of values that the runtime functions for stores take, by size in bytes. */
export const WRITE_TYPES: Record<number, Expr['type']> = { 1: I32, 2: I32, 4: I32, 8: I64, 16: V128 };

/**
 * Lanes of an XMM register, for what is known of them. A number is ordinary if it is finite and not denormal: zero is.
 */
export const Lanes = { D0: 1, D1: 2, D: 3, S0: 4, S: 0x3c, UPPER_S: 0x38, HIGH: 0x32, ALL: 0x3f } as const;

export abstract class Emit {
  /** Operand size in bytes: 1, 2, 4 or 8. */
  readonly size: number;
  /** Integer operations on operands of this size. */
  readonly w: IntOps;
  /** None of the flags that the instruction writes is read afterwards. */
  flagsDead = false;
  /** Memory is accessed by calls, which take less code and more time. */
  compact = false;
  protected rmwHost: Expr | undefined;
  protected rmwIsScratchable = false;
  /** The memory operand's address, once it has been asked for. */
  protected linear: Expr | undefined;

  constructor(
    readonly f: FunctionBuilder,
    readonly insn: Insn,
    readonly state: number,
  ) {
    this.size = insn.size;
    this.w = insn.size === 8 ? W64 : W32;
  }

  // ---- the tier ----

  /** Operand `i`, a register, at its own size (zero-extended i32, i64, or v128). Not yet evaluated. */
  protected abstract regAt(i: number): Expr;
  protected abstract setRegAt(i: number, value: Expr): void;
  /** A general register by number. `size` 4 gives i32, 8 i64, 1 and 2 zero-extended i32. Not yet evaluated. */
  abstract gpr(n: number, size: number): Expr;
  /** Writes a general register; 4-byte writes clear the upper half. */
  abstract setGpr(n: number, size: number, value: Expr): void;
  abstract xmm(n: number): Expr;
  abstract setXmm(n: number, value: Expr): void;
  /** The immediate as an i32 (low bits; extended as its form says). A constant in a region. */
  abstract imm32(): Expr;
  /** The immediate as an i64, sign-extended where its form says so. */
  abstract imm64(): Expr;
  /** The immediate as a number where the tier knows it (regions); undefined in the interpreter. */
  abstract immConst(): number | undefined;
  /** Effective address of the memory operand without the segment base (LEA), i64. */
  abstract effectiveAddress(): Expr;
  /** Base of the memory operand's segment as an i64, or undefined where it is 0. */
  protected abstract segmentBase(): Expr | undefined;
  /** Linear address of the next instruction, i64. */
  abstract nextRip(): Expr;
  /** Address of this instruction's record, i32. */
  abstract record(): Expr;
  /** Calls one of the functions that all code shares. */
  abstract callImport(name: Import, ...args: Expr[]): Expr;
  /** Calls a function of the runtime library (runtime.ts) by name. */
  abstract callRuntime(name: string, ...args: Expr[]): Expr;
  /** Records an exception and leaves: nothing that follows is executed. */
  protected abstract leaveRaising(vector: Expr, code: Expr): void;
  /** Leaves after an exception has been recorded, which is so if `ok` is 0. */
  protected abstract leaveUnless(ok: Expr): void;
  /** What `access` and `store` are told, without the size: 0x200 in regions; bits 16 and up: the pending flag result. */
  protected slowInfo = 0;
  /** Before a call that may fault and is told `slowInfo`. */
  protected abstract beforeFault(): void;
  protected abstract tlb(write: boolean): Expr;
  protected abstract flagPair(): { fr: Expr; fx: Expr };
  protected abstract setFlagPair(fr: Expr | undefined, fx: Expr): void;
  protected abstract getPending(): PendingFlags | undefined;
  /** Keeps (or materialises) a flag result. */
  protected abstract setPending(p: PendingFlags): void;
  /** Turns the pending result into the canonical pair. */
  abstract settleFlags(): void;
  /** Goes to the relative target. */
  abstract jumpRel(): void;
  /** Goes to the relative target if `condition`, else to the next instruction. */
  abstract jumpRelIf(condition: Expr): void;
  /**
   * Goes to a linear address (i64). In 64-bit mode one that is not canonical is #GP(0) of this instruction: it is looked at
   * only on the slow ways out, so what the instruction has changed by then must be taken back by `back`.
   */
  abstract jumpTo(target: Expr, back?: () => void): void;
  /** Whether a linear address (i64) is not canonical. */
  notCanonical(linear: Expr): Expr {
    return i64.ne(i64.shr_s(i64.shl(linear, k64(16)), 16), linear);
  }
  /** Executes this instruction again if `again` (i32), else goes on after it: repeated string instructions. */
  repeatIf(again: Expr): void {
    const length = i64.extend_u(metaLength(meta(this.record())));
    const own = this.wrapLinear(i64.sub(this.nextRip(), length));
    this.jumpTo(select(again, own, this.nextRip()));
  }
  /** Runs the helper of this instruction. */
  abstract runHelper(): void;

  /**
   * Calls the definition's helper from within an emitted instruction, without handing over registers or flags: it may touch
   * only what emitted code never keeps in locals (EFLAGS, SHADOW, TypeScript state), may call `cpu.leave`, and may not throw.
   */
  callHelper(): void {
    this.f.drop(this.callImport('helper', this.record()));
  }

  // ---- state ----

  state32(offset: number): Expr {
    return i32.load(k32(this.state + offset));
  }
  state64(offset: number): Expr {
    return i64.load(k32(this.state + offset));
  }
  setState(offset: number, bytes: number, value: Expr): void {
    this.f.store(bytes, this.state + offset, value);
  }

  let(x: Expr): Expr {
    return this.f.let(x);
  }
  /** A local that may be set again. Valid within the instruction. */
  temp(type: Expr['type']): Local {
    return this.f.temp(type);
  }

  /** Integer operations for a size in bytes. */
  ops(size: number): IntOps {
    return size === 8 ? W64 : W32;
  }

  // ---- operands ----

  operand(i: number): Operand {
    return this.insn.operands[i]!;
  }
  isMem(i: number): boolean {
    return this.insn.operands[i]!.kind === 'mem';
  }

  /**
   * Reads operand `i` at its own size: i32 (zero-extended) to 4 bytes, i64 for 8, v128 for 16. Immediates come at the
   * instruction's operand size. A memory operand 0 that is also written is checked for writing first.
   */
  get(i: number): Expr {
    const o = this.operand(i);
    switch (o.kind) {
      case 'reg':
        return this.let(this.regAt(i));
      case 'imm':
        if (this.size === 8) return this.imm64();
        return this.size === 4 ? this.imm32() : this.zeroExtend(this.imm32(), this.size);
      case 'mem':
        if (i === 0 && this.insn.def.access === 'rw') {
          this.rmwHost = this.access(this.address(), o.size, true);
          return this.let(this.loadHost(this.rmwHost, o.size));
        }
        return this.load(this.address(), o.size);
      default:
        throw new Error(`operand ${i} of ${this.insn.def.pattern} is no value`);
    }
  }

  /** Writes operand `i` at its own size. */
  set(i: number, value: Expr): void {
    const o = this.operand(i);
    if (o.kind === 'reg') this.setRegAt(i, value);
    else if (this.rmwHost && i === 0) this.storeHost(this.rmwHost, o.size, value);
    else this.store(this.address(), o.size, value);
  }

  /** Linear address of the memory operand, i64; evaluated once. */
  address(): Expr {
    if (!this.linear) {
      const ea = this.effectiveAddress();
      const base = this.segmentBase();
      this.linear = this.let(base ? this.wrapLinear(i64.add(ea, base)) : ea);
    }
    return this.linear;
  }

  /** Outside 64-bit mode linear addresses are 32 bits wide. */
  wrapLinear(x: Expr): Expr {
    return this.insn.bits === 64 ? x : i64.and(x, k64(0xffffffff));
  }

  // ---- guest memory ----

  protected miss(x: Expr, size: number): Expr {
    return tlbMisses(this.state, x, size);
  }

  /** Looks a linear address up in the TLB. @returns `x` of `miss`, and the host address unless that is so */
  protected lookupTlb(address: Expr, write: boolean): { x: Expr; host: Expr } {
    const x = this.let(tlbAnswer(this.tlb(write), address));
    return { x, host: i32.wrap(x) };
  }

  /**
   * Hands the instruction over where its access is not found in the TLB, in tiers that can have it executed otherwise from
   * its start: the code is shorter than a call's.
   */
  protected handOver: (() => void) | undefined;

  protected slow(name: 'slowAccess' | 'slowStore' | 'read' | 'modify', address: Expr, info: number): Expr {
    return this.callRuntime(name, address, k32(info | this.slowInfo), this.record());
  }

  /**
   * Translates a linear address for an access of `size` bytes (to 64) and returns the host address, an i32 local. The host
   * address may be the bounce buffer: use `loadHost` and `storeHost` on it only. Faults leave the instruction.
   */
  access(address: Expr, size: number, write: boolean): Expr {
    const a = this.let(address);
    const { handOver } = this;
    if (handOver && !this.compact) {
      const { x, host } = this.lookupTlb(a, write);
      this.f.if(this.miss(x, size), handOver, undefined, 0);
      return this.let(host);
    }
    if (write) this.rmwIsScratchable = true;
    if (this.compact) {
      this.beforeFault();
      const to = this.let(this.slow(write ? 'modify' : 'read', a, size | (write ? 0x100 : 0)));
      this.leaveUnless(to);
      return to;
    }
    const { x, host: found } = this.lookupTlb(a, write);
    const host = this.temp(I32);
    this.f.if(
      this.miss(x, size),
      () => {
        this.beforeFault();
        this.f.set(host, this.slow('slowAccess', a, size | (write ? 0x100 : 0)));
        this.leaveUnless(host.get);
      },
      () => this.f.set(host, found),
      0,
    );
    return host.get;
  }

  /**
   * Looks a linear address up without translating it: whether `size` bytes there can be used in place, and then the host
   * address. For bulk operations, which go by `load` and `store` where there is no hit.
   */
  probe(address: Expr, size: number, write: boolean): { hit: Expr; host: Expr } {
    const { x, host } = this.lookupTlb(this.let(address), write);
    return { hit: i32.eqz(this.miss(x, size)), host };
  }

  /** Linear address of an offset in a string instruction's source segment (DS or an override). */
  sourceAddress(offset: Expr): Expr {
    const base = this.segmentBase();
    return base ? this.wrapLinear(i64.add(offset, base)) : offset;
  }

  /** Loads from a host address: i32 (zero-extended), i64 or v128 by size. */
  loadHost(host: Expr, size: number, offset = 0): Expr {
    switch (size) {
      case 1:
        return i32.load8_u(host, offset);
      case 2:
        return i32.load16_u(host, offset);
      case 4:
        return i32.load(host, offset);
      case 8:
        return i64.load(host, offset);
      case 16:
        return v128.load(host, offset);
      default:
        throw new Error(`load of ${size} bytes`);
    }
  }

  /** Stores to a host address that `access(…, true)` gave. */
  storeHost(host: Expr, size: number, value: Expr): void {
    this.f.store(size, host, value);
    if (this.rmwIsScratchable)
      this.f.if(
        i32.eq(host, this.state + S.SCRATCH),
        () => {
          this.f.drop(this.callImport('commit', this.record()));
        },
        undefined,
        0,
      );
  }

  /** Loads `size` bytes at a linear address (i64): i32 (zero-extended), i64 or v128 by size. Evaluated. */
  load(address: Expr, size: number): Expr {
    const host = this.access(address, size, false);
    return this.let(this.loadHost(host, size));
  }

  /** Stores at a linear address. `value` is i32 for 1, 2, 4 bytes, i64 for 8 (or less), v128 for 16, or f32/f64. */
  store(address: Expr, size: number, value: Expr): void {
    const a = this.let(address);
    const v = this.let(value);
    if (this.compact && WRITE_TYPES[size] === v.type) {
      this.beforeFault();
      this.leaveUnless(this.callRuntime(`write${size}`, a, v, k32(size | this.slowInfo), this.record()));
      return;
    }
    const { x, host } = this.lookupTlb(a, true);
    if (this.handOver) {
      this.f.if(this.miss(x, size), this.handOver, undefined, 0);
      this.f.store(size, host, v);
      return;
    }
    this.f.if(
      this.miss(x, size),
      () => {
        this.beforeFault();
        this.f.store(size, this.state + S.SCRATCH, v);
        this.leaveUnless(this.slow('slowStore', a, size));
      },
      () => this.f.store(size, host, v),
      0,
    );
  }

  /** Raises an exception if `condition` (nothing may have changed yet). `error` is an i32 or left out for none. */
  raiseIf(condition: Expr, vector: number, error?: Expr | number): void {
    this.f.if(condition, () => this.raise(vector, error), undefined, 0);
  }

  raise(vector: number, error?: Expr | number): void {
    const code = error === undefined ? k32(-1) : typeof error === 'number' ? k32(error) : error;
    this.beforeFault();
    this.leaveRaising(k32(vector | (this.slowInfo & ~0xffff)), code);
  }

  // ---- stack ----

  /** Bytes of a push or pop of the natural size in this mode. */
  get stackSize(): number {
    return this.insn.bits === 64 ? 8 : this.insn.bits / 8;
  }

  /** Where a branch of 16 bits goes: an offset in CS that is cut to 16 bits, as a linear address. */
  cutToWord(linear: Expr): Expr {
    const base = this.state64(S.SEG_BASE + CS * 8);
    return this.wrapLinear(i64.add(i64.and(i64.sub(linear, base), k64(0xffff)), base));
  }

  /** Width of the stack pointer in bytes. */
  get stackWidth(): 8 | 4 | 2 {
    return this.insn.stack;
  }

  /** Linear address of a stack offset (an i64, already wrapped to the stack's width). */
  stackAddress(offset: Expr): Expr {
    return this.insn.bits === 64
      ? offset
      : i64.and(i64.add(offset, this.state64(S.SEG_BASE + SS * 8)), k64(0xffffffff));
  }

  /** RSP plus a constant, as an i64 wrapped to the stack's width. */
  stackPlus(delta: number): Expr {
    if (this.stackWidth === 8) return i64.add(this.gpr(RSP, 8), k64(delta));
    const sum = i32.add(this.gpr(RSP, 4), k32(delta));
    return i64.extend_u(this.stackWidth === 4 ? sum : i32.and(sum, 0xffff));
  }

  /** `by`: what it changes by, where that is a constant. */
  setStack(offset: Expr, _by?: number): void {
    this.setGpr(RSP, this.stackWidth, this.stackWidth === 8 ? offset : i32.wrap(offset));
  }

  push(value: Expr, size: number): void {
    const v = this.let(value);
    const to = this.let(this.stackPlus(-size));
    this.store(this.stackAddress(to), size, v);
    this.setStack(to, -size);
  }

  /** Reads the top of the stack; the caller moves the pointer with `setStack(stackPlus(size))` after all faults. */
  top(size: number, offset = 0): Expr {
    return this.load(this.stackAddress(this.let(this.stackPlus(offset))), size);
  }

  // ---- flags ----

  /** Sign-extends a value of `size` bytes to i64. */
  signExtend64(x: Expr, size: number): Expr {
    if (size === 8) return x;
    if (size === 4) return i64.extend_s(x);
    return i64.extend_s(this.signExtend32(x, size));
  }

  /** Sign-extends a value of 1, 2 or 4 bytes within an i32. */
  signExtend32(x: Expr, size: number): Expr {
    return size === 1 ? i32.extend8_s(x) : size === 2 ? i32.extend16_s(x) : x;
  }

  /** Cuts an i32 to `size` bytes. */
  zeroExtend(x: Expr, size: number): Expr {
    return size === 1 ? i32.and(x, 0xff) : size === 2 ? i32.and(x, 0xffff) : x;
  }

  /** Sign bit (0 or 1, i32) of a value of `size` bytes. */
  signBit(x: Expr, size: number): Expr {
    return size === 8 ? i32.wrap(i64.shr_u(x, 63)) : i32.and(i32.shr_u(x, size * 8 - 1), 1);
  }

  /**
   * All flags of r = a + b (+ carry). Operands and result at the operation's size: i32 zero-extended (the result may have
   * garbage above its size) or i64.
   */
  flagsAdd(a: Expr, b: Expr, r: Expr, size = this.size, carry = false): void {
    if (this.flagsDead) return;
    if (carry) this.carryVector(true, a, b, r, size);
    else this.setPending({ kind: 'add', size, a, b });
  }

  /** All flags of r = a − b (− borrow). */
  flagsSub(a: Expr, b: Expr, r: Expr, size = this.size, borrow = false): void {
    if (this.flagsDead) return;
    if (borrow) this.carryVector(false, a, b, r, size);
    else this.setPending({ kind: 'sub', size, a, b });
  }

  /** ZF, SF, PF of the result; CF, OF, AF = 0. */
  flagsLogic(r: Expr, size = this.size): void {
    if (this.flagsDead) return;
    this.setPending({ kind: 'logic', size, a: r, b: r });
  }

  /** Writes the canonical pair for an addition or subtraction. */
  protected carryVector(add: boolean, a: Expr, b: Expr, r: Expr, size: number): void {
    const w = this.ops(size);
    const not = (x: Expr): Expr => w.xor(x, w.k(-1));
    const v = add ? w.or(w.and(a, b), w.and(w.or(a, b), not(r))) : w.or(w.and(not(a), b), w.and(w.or(not(a), b), r));
    if (size === 8) {
      const c = this.let(v);
      this.setFlagPair(r, i32.or(i32.and(i32.wrap(i64.shr_u(c, 32)), k32(0xc0000000)), i32.and(i32.wrap(c), k32(8))));
    } else if (size === 4) this.setFlagPair(i64.extend_s(r), i32.and(v, k32(0xc0000008)));
    else {
      const c = this.let(v);
      this.setFlagPair(
        this.signExtend64(r, size),
        i32.or(i32.and(i32.shl(c, 32 - size * 8), k32(0xc0000000)), i32.and(c, k32(8))),
      );
    }
  }

  /** The canonical pair of a pending result. */
  protected materialise(p: PendingFlags): void {
    if (p.doubles) {
      const { zf, pf, cf } = comparison(...p.doubles);
      this.setComparison(zf, pf, cf);
      return;
    }
    if (p.kind === 'logic') this.setFlagPair(this.signExtend64(p.a, p.size), k32(0));
    else this.carryVector(p.kind === 'add', p.a, p.b, this.let(pendingResult(this, p)), p.size);
  }

  /** CF and OF (0 or 1 each, i32), leaving ZF, SF, PF, AF as they are. */
  setCarryOverflow(cf: Expr, of: Expr): void {
    if (this.flagsDead) return;
    const c = this.let(cf);
    const o = this.let(of);
    this.settleFlags();
    const { fx } = this.flagPair();
    this.setFlagPair(
      undefined,
      i32.or(i32.and(fx, k32(0x3fffffff)), i32.or(i32.shl(c, 31), i32.shl(i32.xor(c, o), 30))),
    );
  }

  /** CF (0 or 1, i32), leaving the other five as they are. */
  setCarry(cf: Expr): void {
    if (this.flagsDead) return;
    const c = this.let(cf);
    this.settleFlags();
    const { fx } = this.flagPair();
    // bit 30 is CF XOR OF: it changes with CF so that OF stays.
    const change = this.let(i32.xor(c, i32.shr_u(fx, 31)));
    this.setFlagPair(undefined, i32.xor(fx, i32.mul(change, k32(0xc0000000))));
  }

  /** ZF, SF, PF from the result, AF = 0, and CF and OF as given (0 or 1, i32). */
  flagsResult(r: Expr, cf: Expr, of: Expr, size = this.size): void {
    if (this.flagsDead) return;
    const c = this.let(cf);
    const o = this.let(of);
    this.setFlagPair(this.signExtend64(r, size), i32.or(i32.shl(c, 31), i32.shl(i32.xor(c, o), 30)));
  }

  /** As `flagsResult` if `condition` (an i32, cheap to repeat) is not 0; otherwise all six flags stay. */
  flagsResultIf(condition: Expr, r: Expr, cf: Expr, of: Expr, size = this.size): void {
    if (this.flagsDead) return;
    const c = this.let(cf);
    const o = this.let(of);
    this.settleFlags();
    const { fr, fx } = this.flagPair();
    this.setFlagPair(
      select(condition, this.signExtend64(r, size), fr),
      select(condition, i32.or(i32.shl(c, 31), i32.shl(i32.xor(c, o), 30)), fx),
    );
  }

  /** As `flagsResult` with AF given too (0 or 1). */
  flagsResultAux(r: Expr, cf: Expr, of: Expr, af: Expr, size = this.size): void {
    if (this.flagsDead) return;
    const c = this.let(cf);
    const o = this.let(of);
    this.setFlagPair(
      this.signExtend64(r, size),
      i32.or(i32.or(i32.shl(c, 31), i32.shl(i32.xor(c, o), 30)), i32.shl(af, 3)),
    );
  }

  /** All six flags from a value that has them at their RFLAGS places. */
  setFlagBits(bits: Expr): void {
    if (this.flagsDead) return;
    const { fr, fx } = bitsToCanonical(this.let(bits));
    this.setFlagPair(fr, fx);
  }

  /** ZF, PF and CF as given (0 or 1, i32); OF, SF, AF = 0: comparisons of floating-point numbers. */
  flagsCompare(zf: Expr, pf: Expr, cf: Expr): void {
    if (!this.flagsDead) this.setComparison(zf, pf, cf);
  }
  private setComparison(zf: Expr, pf: Expr, cf: Expr): void {
    const { fr, fx } = comparisonPair(this.let(zf), pf, cf);
    this.setFlagPair(fr, fx);
  }
  /** The same of two doubles (f64, evaluated). */
  flagsOfDoubles(a: Expr, b: Expr): void {
    const { zf, pf, cf } = comparison(a, b);
    this.flagsCompare(zf, pf, cf);
  }

  /** The six flags at their RFLAGS places (i32). */
  flagBits(): Expr {
    this.settleFlags();
    const { fr, fx } = this.flagPair();
    return this.let(i32.and(canonicalToBits(fr, fx), k32(ARITH)));
  }

  /** CF as 0 or 1 (i32), evaluated. */
  carry(): Expr {
    return this.let(this.condition(2));
  }
  overflow(): Expr {
    return this.let(this.condition(0));
  }
  zero(): Expr {
    return this.let(this.condition(4));
  }
  auxiliary(): Expr {
    this.settleFlags();
    return this.let(canonicalAf(this.flagPair().fx));
  }

  /** A condition code (0 to 15, as in Jcc's opcode) as 0 or 1 (or any non-zero for true), i32; not yet evaluated. */
  condition(cc: number): Expr {
    const p = this.getPending();
    const fast = p && pendingCondition(this, cc, p);
    if (fast) return fast;
    this.settleFlags();
    const { fr, fx } = this.flagPair();
    return canonicalCondition(cc, fr, fx);
  }

  // ---- vector operands ----

  /** Operand `i` (XMM register or memory of 16 bytes) as v128, evaluated. */
  getVector(i: number): Expr {
    return this.isMem(i) ? this.load(this.address(), 16) : this.let(this.vectorAt(i));
  }
  /** The whole XMM register that operand `i` names, whatever the operand's size. Not yet evaluated. */
  abstract vectorAt(i: number): Expr;
  abstract setVectorAt(i: number, value: Expr): void;

  /** Low `size` bytes of operand `i` (XMM register or memory): i32 to 4, i64 for 8; evaluated. */
  getScalar(i: number, size: 1 | 2 | 4 | 8): Expr {
    if (this.isMem(i)) return this.load(this.address(), size);
    const v = this.vectorAt(i);
    if (size === 8) return this.let(v128.extract(0x1d, I64, v, 0));
    const low = v128.extract(0x1b, I32, v, 0);
    return this.let(size === 4 ? low : i32.and(low, size === 1 ? 0xff : 0xffff));
  }

  /**
   * Runs an SSE floating-point operation exactly (rounding mode, flags, NaN rules, #XM): operands and result are in TEMP.
   * Touches neither registers nor arithmetic flags.
   *
   * @param op a code that `floatOp` made, with an immediate in the upper half
   */
  exactFloat(op: Expr): void {
    this.beforeFault();
    if (this.slowInfo) this.f.store(4, this.state + S.FAULT_FLAGS, k32(this.slowInfo >>> 16));
    this.leaveUnless(this.callImport('float', op, this.record()));
    this.mxcsrChanged();
  }

  /** 0 while MXCSR is in its usual state: to nearest, everything masked, PE set. */
  mxcsrOdd(): Expr {
    const care = MXCSR.RC | MXCSR.PE | MXCSR.MASKS;
    return i32.xor(i32.and(this.state32(S.MXCSR), care), MXCSR.PE | MXCSR.MASKS);
  }
  /** MXCSR is known to be in its usual state. */
  get mxcsrUsual(): boolean {
    return false;
  }
  set mxcsrUsual(_known: boolean) {
    // Only regions remember it.
  }
  /** MXCSR in memory may have changed. */
  mxcsrChanged(): void {
    // Only regions remember it.
  }

  /** Lanes of the XMM register that operand `i` names which are known to hold ordinary numbers: a mask of `Lanes`. */
  lanesKnown(_i: number): number {
    return 0;
  }
  /** The same becomes known. Writing the register forgets it. */
  noteLanes(_i: number, _lanes: number): void {
    // Only regions remember it.
  }
  /** Operands 0 and 1 are one register: with XOR and the like the result is known. */
  sameRegister(): boolean {
    return false;
  }
  /** Whether numbers are only to be noted as evidence: what is not ordinary is done again (jit/groups.ts). */
  get trial(): boolean {
    return false;
  }
  /** A number that is to be ordinary, or in `packed` all lanes of `size` bytes. */
  evidence(_size: 4 | 8, _packed: boolean, _x: Expr): void {
    throw new Error('this tier does nothing on trial');
  }
  /** Whether `retreat` may be used for what is rare. */
  mayRetreat = false;
  /** Leaves this instruction to the interpreter; nothing may have changed yet. What follows is not reached. */
  retreat(): void {
    throw new Error('this tier does not retreat');
  }

  /** Address of x87/MMX register storage for an MMX operand: its 64-bit value. */
  abstract mmxAt(i: number): Expr;
  /** Writes an MMX register: the significand, and 0xffff to the sign and exponent (SDM vol. 1, 9.6.2). */
  abstract setMmxAt(i: number, value: Expr): void;

  /** The i of an x87 ST(i) operand, 0 to 7: ModRM.rm, an i32. A constant in a region. */
  abstract stIndex(): Expr;

  /** #GP(0) unless the memory operand is aligned (MOVAPS and legacy SSE memory operands of 16 bytes). */
  checkAligned(size = 16): void {
    this.raiseIf(i32.and(i32.wrap(this.address()), k32(size - 1)), Vector.GP, 0);
  }

  /** A v128 zero. */
  get zeroVector(): Expr {
    return kv128(new Uint8Array(16));
  }
}

/** The result of a pending operation. */
function pendingResult(c: Emit, p: PendingFlags): Expr {
  const w = c.ops(p.size);
  return p.kind === 'logic' ? p.a : p.kind === 'add' ? w.add(p.a, p.b) : w.sub(p.a, p.b);
}

/** The same of two doubles compared: OF and SF are 0. */
function comparedCondition(cc: number, a: Expr, b: Expr): Expr {
  const { zf, pf, cf } = comparison(a, b);
  switch (cc >> 1) {
    case 1:
      return cc & 1 ? f64.ge(a, b) : cf;
    case 2:
    case 7:
      return cc & 1 ? i32.eqz(zf) : zf;
    case 3:
      return cc & 1 ? f64.gt(a, b) : i32.eqz(f64.gt(a, b));
    case 5:
      return cc & 1 ? i32.eqz(pf) : pf;
    default:
      return k32(cc & 1);
  }
}

/** A condition straight from the operands of the instruction that set the flags, or undefined. */
function pendingCondition(c: Emit, cc: number, p: PendingFlags): Expr | undefined {
  if (p.doubles) return comparedCondition(cc, ...p.doubles);
  const w = c.ops(p.size);
  const negate = (x: Expr): Expr => (cc & 1 ? i32.eqz(x) : x);
  const narrow = p.size < 4;
  const signed = (x: Expr): Expr => (narrow ? c.signExtend32(x, p.size) : x);
  const zx = (x: Expr): Expr => (narrow ? c.zeroExtend(x, p.size) : x);
  const zero = w.k(0);
  const r = pendingResult(c, p);
  switch (cc >> 1) {
    case 1: // CF
      if (p.kind === 'logic') return k32(cc & 1);
      return negate(p.kind === 'sub' ? w.lt_u(p.a, p.b) : w.lt_u(zx(r), p.b));
    case 2: // ZF
      if (p.kind === 'sub') return cc & 1 ? w.ne(p.a, p.b) : w.eq(p.a, p.b);
      return cc & 1 ? w.ne(zx(r), zero) : w.eqz(zx(r));
    case 3: // CF or ZF
      if (p.kind === 'logic') return cc & 1 ? w.ne(zx(r), zero) : w.eqz(zx(r));
      if (p.kind === 'sub') return negate(w.le_u(p.a, p.b));
      return undefined;
    case 4: // SF
      return negate(w.lt_s(signed(r), zero));
    case 6: // SF != OF
      if (p.kind === 'logic') return negate(w.lt_s(signed(r), zero));
      if (p.kind === 'sub') return negate(w.lt_s(signed(p.a), signed(p.b)));
      return undefined;
    case 7: // ZF or SF != OF
      if (p.kind === 'logic') return negate(w.le_s(signed(r), zero));
      if (p.kind === 'sub') return negate(w.le_s(signed(p.a), signed(p.b)));
      return undefined;
    case 0: // OF
      if (p.kind === 'logic') return k32(cc & 1);
      return undefined;
    default:
      return undefined;
  }
}
