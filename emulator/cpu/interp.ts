/**
 * The threaded interpreter: one WebAssembly function (handler) for each shape of each instruction, called with the
 * address of a decoded record (layout.ts, R) and ending in a tail call of the next record's handler.
 *
 * A shape is a definition with everything that its code depends on: operand size, register or memory operand, address
 * form, code size, dead flags. Handlers are made when the first instruction of their shape is decoded, in one module a
 * batch; register numbers, displacements and immediates come from the record.
 */
import { Emit, type Import, type PendingFlags, Vector } from './emit.ts';
import type { Insn, MemRef } from './insn.ts';
import { JUMP_CACHE_HASH, JUMP_CACHE_SHIFT, RAX, RCX, RDX, S } from './layout.ts';
import {
  type BranchShape,
  Form,
  handlerOf,
  hasHeat,
  isNamed,
  layoutRecord,
  meta,
  metaLength,
  metaOffset,
  R,
  type RecordLayout,
  registerBase,
} from './record.ts';
import { RUNTIME } from './runtime.ts';
import { FunctionBuilder, HANDLER, ModuleBuilder, type FunctionType } from './wasm/builder.ts';
import { callExpr, I32, I64, i32, i64, k32, k64, v128, type Expr } from './wasm/expr.ts';

const i = (n: number): FunctionType => ({ params: Array.from({ length: n }, () => I32), results: [I32] });

/** Signatures of the functions that TypeScript gives to emitted code. */
export const IMPORTS: Record<Import, FunctionType> = {
  access: i(4),
  store: i(4),
  commit: i(1),
  raise: i(3),
  helper: i(1),
  lookup: i(0),
  link: i(2),
  hot: i(1),
  pages: i(3),
  retreat: i(1),
  float: i(2),
};
export const IMPORT_NAMES = Object.keys(IMPORTS) as Import[];

/**
 * Functions of the core module that handlers and light regions end in where they would call: V8 gives a function that calls
 * none no room on the stack to check, and keeps nothing there.
 */
export const TAILS = {
  /** heated(record): the block that ends with this instruction is hot. The instruction is executed after that. */
  heated: HANDLER,
  /** linked0(record), linked1(record): goes on as `link` says. */
  linked0: HANDLER,
  linked1: HANDLER,
  /** goOn(record): goes on at S.RIP. */
  goOn: HANDLER,
  /** raised(vector, errorCode, record): as `raise`. */
  raised: { params: [I32, I32, I32], results: [] },
  /** settled(kind, a32, b32, a64, b64, slot, record): `settle`, then the handler in the slot. */
  settled: { params: [I32, I32, I32, I64, I64, I32, I32], results: [] },
} as const satisfies Record<string, FunctionType>;
type Tail = keyof typeof TAILS;
export const TAIL_NAMES = Object.keys(TAILS) as Tail[];

export const FAR: BranchShape = { takenNear: false, nextNear: false };

/** A displacement from RIP that is too large to have the instruction's place in its page added in 32 bits. */
const farFromRip = (m: MemRef): boolean => m.base === 16 && m.disp > 0x7fff_e000;

export function memForm(insn: Insn): Form {
  const m = insn.mem;
  if (!m) return Form.Base;
  if (m.base < 0 && m.index < 0 && m.addressSize === 8 && m.dispHigh !== m.disp >> 31) return Form.Absolute;
  if (m.addressSize !== 8 || usesSegment(insn)) return farFromRip(m) ? Form.FarAll : Form.All;
  return m.index >= 0 ? Form.Index : farFromRip(m) ? Form.Far : Form.Base;
}

/** Whether the memory operand's (or string source's) segment has a base to add. In 64-bit mode only FS and GS have. */
export function usesSegment(insn: Insn): boolean {
  const seg = insn.mem ? insn.mem.seg : insn.segment;
  return insn.bits !== 64 || seg >= 4;
}

function log2(size: number): number {
  return size === 8 ? 3 : size === 4 ? 2 : size === 2 ? 1 : 0;
}

/** A number that is equal for instructions that the same handler serves. */
export function shapeKey(insn: Insn, flagsDead: boolean, branch: BranchShape): number {
  let bits = log2(insn.size);
  bits = bits * 2 + (insn.mem ? 1 : 0);
  bits = bits * 8 + memForm(insn);
  bits = bits * 4 + (insn.bits === 64 ? 2 : insn.bits === 32 ? 1 : 0);
  bits = bits * 4 + (insn.rep === 0 ? 0 : insn.rep === 0xf2 ? 1 : 2);
  bits = bits * 4 + log2(insn.addressSize);
  bits = bits * 4 + log2(insn.stack);
  bits = bits * 2 + (usesSegment(insn) ? 1 : 0);
  bits = bits * 2 + (flagsDead ? 1 : 0);
  bits = bits * 2 + (branch.takenNear ? 1 : 0);
  bits = bits * 2 + (branch.nextNear ? 1 : 0);
  // forms whose opcode byte carries meaning (Jcc, SETcc and the like are separate definitions; x87 and +r are not)
  return insn.def.id * 2 ** 18 + bits;
}

const layouts = new Map<number, RecordLayout>();

/** Where the fields of an instruction's record are. */
export function layoutOf(insn: Insn, branch: BranchShape): RecordLayout {
  const key = shapeKey(insn, false, branch);
  let layout = layouts.get(key);
  if (!layout) layouts.set(key, (layout = layoutRecord(insn, memForm(insn), usesSegment(insn), branch)));
  return layout;
}

/** Addresses of the records of a block's instructions. */
export function recordsOf(first: number, insns: readonly Insn[]): number[] {
  let at = first;
  return insns.map((insn) => {
    const record = at;
    at += layoutOf(insn, FAR).size;
    return record;
  });
}

/** Where in a jump cache the entry for a linear address is, in bytes (see layout.ts). */
export const jumpCacheOffset = (target: Expr): Expr =>
  i32.and(i32.shr_u(i32.mul(i32.wrap(target), k32(JUMP_CACHE_HASH)), JUMP_CACHE_SHIFT), -16);

/** What a module of emitted code can call, by function index. */
export interface Linkage {
  imports: Record<string, number>;
  handlerType: number;
}

/** Declares the shared functions in a module. `runtime`: also the runtime library (all modules but the one that has it). */
export function declareImports(m: ModuleBuilder, runtime: boolean): Linkage {
  const imports: Record<string, number> = {};
  for (const name of IMPORT_NAMES) imports[name] = m.import(name, IMPORTS[name]);
  if (runtime) {
    for (const r of RUNTIME) imports[r.name] = m.import(r.name, r.signature);
    for (const name of TAIL_NAMES) imports[name] = m.import(name, TAILS[name]);
  }
  return { imports, handlerType: m.type(HANDLER) };
}

const RUNTIME_RESULT = new Map(RUNTIME.map((r) => [r.name, r.signature.results[0]!]));

/** A place in memory: an address that is computed, and what is added to it. */
interface Place {
  address: Expr;
  offset: number;
}

export class InterpEmit extends Emit {
  private readonly rec: Expr;
  private readonly layout: RecordLayout;
  private pending: PendingFlags | undefined;
  /** Set once control has been handed on. */
  private done = false;
  private readonly slots: number[] = [];

  constructor(
    f: FunctionBuilder,
    insn: Insn,
    state: number,
    private readonly link: Linkage,
    private readonly branch: BranchShape,
    /** Where the instruction's record is from the handler's parameter: 0 but for those of a run of several. */
    private readonly at = 0,
    /** Gives the function that executes the instruction alone: it takes over where an access is not in the TLB. */
    alone?: () => number,
  ) {
    super(f, insn, state);
    // Only on the way to what is not reached otherwise.
    if (alone)
      this.handOver = (): void => {
        this.beforeFault();
        f.returnCall(alone(), this.record());
      };
    this.rec = f.param(0);
    this.layout = layoutOf(insn, branch);
    let next = 0;
    insn.operands.forEach((_, k) => {
      this.slots.push(isNamed(insn, k) ? (next++ === 0 ? this.layout.r0 : this.layout.r1) : -1);
    });
  }

  // ---- fields of the record ----

  private byte(at: number): Expr {
    return i32.load8_u(this.rec, this.at + at);
  }
  private half(at: number): Expr {
    return i32.load16_u(this.rec, this.at + at);
  }
  private word(at: number): Expr {
    return i32.load(this.rec, this.at + at);
  }

  /** Where a register operand is. */
  private slot(k: number): Place {
    const slot = this.slots[k]!;
    const o = this.operand(k);
    if (slot >= 0 && o.kind === 'reg') return { address: this.byte(slot), offset: this.state + registerBase(o.cls) };
    const spec = this.insn.def.specs[k]!;
    const n = spec === 'CL' ? RCX : spec === 'DX' ? RDX : RAX;
    return { address: k32(0), offset: this.state + S.GPR + 8 * n };
  }

  /** The register or segment base whose state offset is in the record. */
  private stateAt(at: number): Expr {
    return i64.load(this.byte(at), this.state);
  }

  private loadReg({ address, offset }: Place, size: number): Expr {
    switch (size) {
      case 1:
        return i32.load8_u(address, offset);
      case 2:
        return i32.load16_u(address, offset);
      case 4:
        return i32.load(address, offset);
      case 8:
        return i64.load(address, offset);
      default:
        return v128.load(address, offset);
    }
  }

  private storeReg({ address, offset }: Place, size: number, value: Expr): void {
    this.f.store(size, address, value, offset);
  }

  protected regAt(k: number): Expr {
    return this.loadReg(this.slot(k), this.operand(k).size);
  }

  protected setRegAt(k: number, value: Expr): void {
    const o = this.operand(k);
    const gpr = o.kind === 'reg' && o.cls === 'gpr';
    if (gpr && o.size === 4) this.storeReg(this.slot(k), 8, i64.extend_u(value));
    else this.storeReg(this.slot(k), o.size, value);
  }

  gpr(n: number, size: number): Expr {
    return this.loadReg({ address: k32(0), offset: this.state + S.GPR + n * 8 }, size);
  }

  setGpr(n: number, size: number, value: Expr): void {
    const at = this.state + S.GPR + n * 8;
    if (size === 4) this.f.store(8, at, i64.extend_u(value));
    else this.f.store(size, at, value);
  }

  xmm(n: number): Expr {
    return v128.load(k32(this.state + S.XMM + n * 16));
  }
  setXmm(n: number, value: Expr): void {
    this.f.store(16, this.state + S.XMM + n * 16, value);
  }
  vectorAt(k: number): Expr {
    return this.loadReg(this.slot(k), 16);
  }
  setVectorAt(k: number, value: Expr): void {
    this.storeReg(this.slot(k), 16, value);
  }
  mmxAt(k: number): Expr {
    return this.loadReg(this.slot(k), 8);
  }
  setMmxAt(k: number, value: Expr): void {
    const { address, offset } = this.slot(k);
    this.f.store(8, address, value, offset);
    this.f.store(2, address, k32(0xffff), offset + 8);
  }
  stIndex(): Expr {
    return this.byte(this.layout.st);
  }

  imm32(): Expr {
    return this.word(this.layout.imm);
  }
  imm64(): Expr {
    const last = this.insn.operands[this.insn.operands.length - 1]!;
    return last.kind === 'imm' && last.size === 8
      ? i64.load(this.rec, this.at + this.layout.imm)
      : i64.load32_s(this.rec, this.at + this.layout.imm);
  }
  immConst(): undefined {
    return undefined;
  }

  effectiveAddress(): Expr {
    const form = memForm(this.insn);
    const { layout } = this;
    const at = this.at + layout.disp;
    const disp = form >= Form.Absolute ? i64.load(this.rec, at) : i64.load32_s(this.rec, at);
    if (form === Form.Absolute) return disp;
    let ea = i64.add(this.stateAt(layout.base), disp);
    if (layout.index >= 0)
      ea = i64.add(ea, i64.shl(this.stateAt(layout.index), i64.load8_u(this.rec, this.at + layout.scale)));
    const size = this.insn.mem!.addressSize;
    return size === 8 ? ea : i64.and(ea, k64(size === 4 ? 0xffffffff : 0xffff));
  }

  protected segmentBase(): Expr | undefined {
    return usesSegment(this.insn) ? this.stateAt(this.layout.seg) : undefined;
  }

  private linearAfter(extra: Expr): Expr {
    return this.wrapLinear(i64.add(this.state64(S.VPC), i64.extend_u(extra)));
  }

  nextRip(): Expr {
    if (this.layout.after >= 0) return this.linearAfter(this.half(this.layout.after));
    const m = this.let(meta(this.record()));
    return this.linearAfter(i32.add(metaOffset(m), metaLength(m)));
  }

  record(): Expr {
    return i32.add(this.rec, this.at);
  }

  callImport(name: Import, ...args: Expr[]): Expr {
    return callExpr(I32, this.link.imports[name]!, args);
  }

  callRuntime(name: string, ...args: Expr[]): Expr {
    return callExpr(RUNTIME_RESULT.get(name)!, this.link.imports[name]!, args);
  }

  private endIn(name: Tail, ...args: Expr[]): void {
    this.f.returnCall(this.link.imports[name]!, ...args);
  }

  protected leaveRaising(vector: Expr, code: Expr): void {
    this.endIn('raised', vector, code, this.record());
  }

  protected leaveUnless(ok: Expr): void {
    this.f.if(i32.eqz(ok), () => this.f.return(), undefined, 0);
  }

  protected beforeFault(): void {
    // Everything is in memory already, but for what an instruction before in the same run has left. What follows is not reached.
    const { pending } = this;
    this.settleFlags();
    this.pending = pending;
  }

  protected tlb(write: boolean): Expr {
    return this.state32(write ? S.TLB_WRITE : S.TLB_READ);
  }

  protected flagPair(): { fr: Expr; fx: Expr } {
    return { fr: this.let(this.state64(S.FR)), fx: this.let(this.state32(S.FX)) };
  }

  protected setFlagPair(fr: Expr | undefined, fx: Expr): void {
    this.pending = undefined;
    if (fr) {
      const x = this.let(fx);
      this.setState(S.FR, 8, fr);
      this.setState(S.FX, 4, x);
    } else this.setState(S.FX, 4, fx);
  }

  protected getPending(): PendingFlags | undefined {
    return this.pending;
  }

  protected setPending(p: PendingFlags): void {
    this.pending = p;
  }

  settleFlags(): void {
    const p = this.pending;
    this.pending = undefined;
    if (p) this.materialise(p);
  }

  // ---- control flow ----

  private tailCall(record: Expr): void {
    this.f.returnCallIndirect(this.link.handlerType, handlerOf(record), record);
  }

  /** Accounts for the block that ends here, and leaves if the fuel is used up. */
  private account(target: () => Expr): void {
    const n = this.let(this.byte(this.layout.count));
    const fuel = this.let(i32.sub(this.state32(S.FUEL), n));
    this.setState(S.FUEL, 4, fuel);
    this.setState(S.INTERPRETED, 4, i32.add(this.state32(S.INTERPRETED), n));
    this.f.if(i32.le_s(fuel, 0), () => {
      this.setState(S.RIP, 8, target());
      this.f.return();
    });
  }

  /** Counts the heat of the block that this instruction ends, before it has changed anything. */
  countHeat(): void {
    if (!hasHeat(this.insn)) return;
    const heat = this.let(i32.sub(this.word(R.AUX), 1));
    this.f.store(4, this.rec, heat, this.at + R.AUX);
    this.f.if(
      i32.eqz(heat),
      () => {
        this.beforeFault();
        this.endIn('heated', this.record());
      },
      undefined,
      0,
    );
  }

  /** Follows a link to another record of the same page; `which` is 0 (the target) or 1 (the next instruction). */
  private follow(which: 0 | 1): void {
    const to = this.let(this.word(which ? this.layout.next : this.layout.taken));
    this.f.if(i32.eqz(to), () => this.endIn(which ? 'linked1' : 'linked0', this.record()), undefined, 0);
    this.tailCall(to);
  }

  /** Goes to S.RIP's record by the jump cache. */
  private dispatch(target: Expr, check?: () => void): void {
    const entry = this.let(i32.add(this.state32(S.JUMP_CACHE), jumpCacheOffset(target)));
    this.f.if(i64.eq(i64.load(entry), target), () => {
      const record = this.let(i32.load(entry, 8));
      this.setState(S.VPC, 8, i64.and(target, k64(-4096)));
      this.tailCall(record);
    });
    check?.();
    this.setState(S.RIP, 8, target);
    this.endIn('goOn', this.record());
  }

  private targetOf(taken: boolean): Expr {
    if (!taken) return this.nextRip();
    if (this.branch.takenNear) return this.linearAfter(this.half(this.layout.target));
    return this.wrapTarget(i64.add(this.nextRip(), i64.load32_s(this.rec, this.at + this.layout.imm)));
  }

  /** A 16-bit operand size cuts EIP to 16 bits (outside 64-bit mode). */
  private wrapTarget(x: Expr): Expr {
    if (this.insn.bits === 64) return x;
    return this.size === 2 ? this.cutToWord(x) : this.wrapLinear(x);
  }

  private goTaken(): void {
    if (this.branch.takenNear) {
      this.account(() => this.targetOf(true));
      this.follow(0);
    } else {
      const t = this.let(this.targetOf(true));
      this.account(() => t);
      this.dispatch(t);
    }
  }

  private goNext(): void {
    if (this.branch.nextNear) {
      this.account(() => this.targetOf(false));
      this.follow(1);
    } else {
      const t = this.let(this.targetOf(false));
      this.account(() => t);
      this.dispatch(t);
    }
  }

  jumpRel(): void {
    this.settleFlags();
    this.goTaken();
    this.done = true;
  }

  jumpRelIf(condition: Expr): void {
    const c = this.let(condition);
    this.settleFlags();
    this.f.if(c, () => this.goTaken());
    this.goNext();
    this.done = true;
  }

  jumpTo(target: Expr, back?: () => void): void {
    const t = this.let(target);
    this.settleFlags();
    const check = (): void => {
      if (this.insn.bits !== 64) return;
      this.f.if(this.notCanonical(t), () => {
        const n = this.byte(this.layout.count);
        this.setState(S.FUEL, 4, i32.add(this.state32(S.FUEL), n));
        back?.();
        this.raise(Vector.GP, 0);
      });
    };
    this.account(() => {
      check();
      return t;
    });
    this.dispatch(t, check);
    this.done = true;
  }

  /** Falls through to the next block (a record of its own that ends a block without a branch). */
  goOn(): void {
    this.countHeat();
    this.goNext();
    this.done = true;
  }

  runHelper(): void {
    this.f.if(this.callImport('helper', this.record()), () => this.f.return(), undefined, 0);
    if (this.insn.def.ends) {
      const t = this.let(this.state64(S.RIP));
      this.account(() => t);
      this.dispatch(t);
      this.done = true;
    }
  }

  /** Takes over the flag result of the instruction before, in a handler for a pair. */
  follows(first: InterpEmit): void {
    this.pending = first.pending;
  }

  /** Ends the handler with the next record, unless control has been handed on. */
  finish(): void {
    if (this.done) return;
    this.settleFlags();
    this.tailCall(i32.add(this.rec, k32(this.end)));
  }

  /** Where the next record is from the handler's parameter. */
  get end(): number {
    return this.at + this.layout.size;
  }
}

/** What a handler of one instruction is made for. */
export interface Step {
  readonly insn: Insn;
  readonly flagsDead: boolean;
  readonly branch: BranchShape;
}
/** Gives the function that executes an instruction alone, and makes all its accesses itself. */
export type Alone = (step: Step) => number;

/**
 * Builds one handler.
 *
 * @param alone executes an instruction that `joins` where an access is not in the TLB
 */
export function buildHandler(step: Step, state: number, link: Linkage, alone?: Alone): FunctionBuilder {
  const { insn, flagsDead, branch } = step;
  const f = new FunctionBuilder(HANDLER);
  const c = new InterpEmit(f, insn, state, link, branch, 0, alone && joins(insn) ? () => alone(step) : undefined);
  c.flagsDead = flagsDead;
  c.countHeat();
  if (insn.def.emit) insn.def.emit(c);
  else c.runHelper();
  c.finish();
  return f;
}

const JOINS =
  /^(mov|movzx|movsx|movsxd|lea|add|sub|adc|sbb|and|or|xor|cmp|test|not|neg|inc|dec|imul|bt|bsf|bsr|shl|shr|sar|rol|ror|push|pop|leave|nop|cbw|cwd|bswap|set[a-z]+|cmov[a-z]+|j[a-z]+|call|ret)$/;
/** Of SSE what computes nothing that could raise an exception. */
const JOINS_SSE =
  /^(mov[adu]p[sd]|movdq[au]|mov[dq]|movs[sd]|movhps|movlps|pxor|por|pand|pandn|xorps|pcmpeq[bwd]|pmovmskb|pshufd|punpck[a-z]+)$/;

/** Whether an instruction may share a handler with its neighbours: it does nothing slow but an access that is not in the TLB. */
export function joins(insn: Insn): boolean {
  const { def } = insn;
  if (!def.emit || def.helper || insn.lock || insn.bits !== 64) return false;
  return def.unit === undefined ? JOINS.test(def.name) : def.unit === 'sse' && JOINS_SSE.test(def.name);
}

/**
 * Builds the handler of a run of instructions that all `joins`; its parameter is the first one's record. One dispatch, which
 * the host's processor mostly mispredicts in wide programs, does for all of them, and flags that the next one reads or
 * overwrites are never written. What is not in the TLB, also a write to translated code, goes on in a function that
 * executes an instruction alone, so a run never goes on after a fault or after code has changed.
 */
export function buildRun(steps: readonly Step[], state: number, link: Linkage, alone: Alone): FunctionBuilder {
  const f = new FunctionBuilder(HANDLER);
  let before: InterpEmit | undefined;
  for (const step of steps) {
    const { insn, flagsDead, branch } = step;
    const c: InterpEmit = new InterpEmit(f, insn, state, link, branch, before?.end ?? 0, () => alone(step));
    if (before) c.follows(before);
    c.flagsDead = flagsDead;
    c.countHeat();
    insn.def.emit!(c);
    before = c;
  }
  before!.finish();
  return f;
}

/** Whether an instruction and the conditional branch after it share a handler, which saves a dispatch and most of the flags. */
export function fuses(first: Insn, second: Insn): boolean {
  return (
    first.def.emit !== undefined &&
    /^(cmp|test)$/.test(first.def.name) &&
    second.def.reads !== 0 &&
    second.def.name[0] === 'j' &&
    second.operands[0]?.kind === 'rel'
  );
}

/** Builds the handler of a pair that `fuses`; its parameter is the first one's record. */
export function buildPair(
  first: Insn,
  second: Insn,
  state: number,
  link: Linkage,
  branch: BranchShape,
  alone: Alone,
): FunctionBuilder {
  const f = new FunctionBuilder(HANDLER);
  const a = new InterpEmit(f, first, state, link, FAR, 0, () => alone({ insn: first, flagsDead: false, branch: FAR }));
  first.def.emit!(a);
  const b = new InterpEmit(f, second, state, link, branch, a.end);
  b.follows(a);
  b.countHeat();
  second.def.emit!(b);
  b.finish();
  return f;
}
