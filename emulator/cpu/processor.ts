/** The processor: run loop, code modes, and the border between emitted code and TypeScript. */
import { CR0_EM, CR0_PE, CR0_TS, CR4_OSFXSR, IF, RF, TF } from './bits.ts';
import type {
  CompiledCode,
  ProcessorState,
  EntryState,
  Processor,
  ProcessorHost,
  ProcessorStats,
  StopReason,
  Tier,
} from '../processor.ts';
import { GuestMemory } from '../memory.ts';
import type { CodePage } from './block.ts';
import { CodeCache, type CodeHost } from './code.ts';
import { ABSENT, Cpu, GuestFault } from './cpu.ts';
import { decode } from './decoder.ts';
import { defineAll } from './defs/index.ts';
import { exactFloat } from './float/exact.ts';
import { prepareHandlers } from './warm-handlers.ts';
import { Jit } from './jit.ts';
import type { Again } from './jit/region.ts';
import {
  CS,
  jumpCacheOf,
  Mode,
  modeBits,
  modeIsUser,
  modeStack,
  RAM_BASE,
  S,
  SS,
  STATE_BASE,
  TLB_KERNEL_READ,
  TLB_KERNEL_WRITE,
  TLB_USER_READ,
  TLB_USER_WRITE,
} from './layout.ts';
import type { Insn } from './insn.ts';
import { countOf, lengthOf, offsetOf } from './record.ts';
import {
  clearsTrapFlag,
  codeBreakpoint,
  dataBreak,
  endIteration,
  hasCodeBreakpoints,
  isRepeated,
  loadsStackSegment,
  pendingTrap,
  singleStepTrap,
  startIteration,
} from './system/debug.ts';
import { decodeHotCode } from './hot-code.ts';
import { enterState, restoreCpu, saveCpu } from './reset.ts';
import { FAULTED } from './mmu.ts';
import { fillTables } from './tables.ts';
import { deliverException, deliverInterrupt } from './system/interrupts.ts';
import { checkAlignment, needsAlignment } from './system/alignment.ts';
import { checkLimits, needsLimits, STEPWISE, WITHIN } from './system/limits.ts';

/**
 * Executions after which a block is given to the compiler (half as many outside user mode: `CodeCache.heat`). The host's own
 * compilers need tens of milliseconds for a region, so code that runs less is done sooner by the interpreter: Python
 * importing its library takes a tenth more time with 6,000 than with 12,000; in the kernel, which all that runs comes back to,
 * 64 MiB of page faults take a sixth less with 6,000, and pipes an eighth.
 */
const HOT = 12_000;
/** Rounds in its loops after which a light region is compiled with registers in locals. */
const ROUNDS = 20_000;
/** Times that a small region is left for code that it had no room for, after which it is compiled with more of that. */
const LEAVINGS = 20_000;
const NEVER = 0x7fffffff;
const RETREAT_WINDOW = 50_000_000;
const STACK_INSTRUCTIONS = /^(push|pop(?!cnt)|call|ret|enter|leave|iret)/;
/** Whether an address whose upper half is `hi` is canonical. */
const isCanonical = (hi: number): boolean => (hi << 15) >> 31 === hi >> 15;

/** Bytes of a page with translated code that are written in one go before the rest is expected to follow. */
const SWEEP = 256;

/** Fetch translations kept between TLB flushes: direct-mapped by linear page. */
const FETCH_ENTRIES = 1024;

const PAGE_SHIFT = 16;
const USER64_JUMPS = jumpCacheOf(Mode.User64);
const KERNEL64_JUMPS = jumpCacheOf(Mode.Kernel64);

/** Of `X86Processor.locate`; not FAULTED. */
const ELSEWHERE = -2;

export class X86Processor extends Cpu implements Processor, CodeHost {
  readonly memory: GuestMemory;
  readonly ramSize: number;
  readonly heat: number;
  /** After what a light region is compiled anew. */
  readonly again: Again;
  /** What is found is compiled before it runs. */
  private readonly eager: boolean;
  readonly code: CodeCache;
  readonly jit: Jit;
  readonly imports: Record<string, (...args: number[]) => number>;
  private readonly enterCode: (record: number) => void;
  /** A fault waits to be delivered. */
  private faulted = false;
  private stolen = 0;
  private running = false;
  private total = 0;
  /** Instructions that the restored state brought; which tier ran them is not known. */
  private restored = 0;
  private exceptions = 0;
  private interruptCount = 0;
  private unitState = 0;
  private readonly fetchLow = new Int32Array(FETCH_ENTRIES).fill(1);
  private readonly fetchHigh = new Int32Array(FETCH_ENTRIES);
  private readonly fetchPhysical = new Float64Array(FETCH_ENTRIES);
  /** An entry counts while its epoch is the current one of its kind (odd: pages that are not global; even: global). */
  private readonly fetchEpoch = new Float64Array(FETCH_ENTRIES);
  private localEpoch = 1;
  private globalEpoch = 2;
  /** Whether the last page fetched from is global. */
  private fetchedGlobal = false;

  constructor(
    memory: WebAssembly.Memory,
    host: ProcessorHost,
    ramSize: number,
    readonly tier: Tier,
  ) {
    super(memory, host, ramSize, STATE_BASE);
    this.ramSize = ramSize;
    this.eager = tier === 'jit' || tier === 'light';
    this.again = this.eager ? { rounds: NEVER, leavings: NEVER } : { rounds: ROUNDS, leavings: LEAVINGS };
    this.heat = tier === 'interp' ? NEVER : this.eager ? 1 : HOT;
    this.memory = new GuestMemory(memory.buffer, RAM_BASE, ramSize, (address, length) =>
      this.dmaWrite(address, length),
    );
    const faultFlags = (this.state + S.FAULT_FLAGS) >> 2;
    this.imports = {
      access: (lo, hi, info, record) => {
        try {
          this.i32[faultFlags] = info! >>> 16;
          const size = info! & 0xff;
          const write = (info! & 0x100) !== 0;
          const physical = this.locate(lo!, hi!, size, write, record!);
          if (physical === FAULTED) return 0;
          if (write && info! & 0x200 && this.mayHoldCode(physical) && this.rewritesCode(lo!, hi!, size, record!))
            return 0;
          return physical === ELSEWHERE
            ? this.mmu.access(lo!, hi!, size, write)
            : this.mmu.accessAt(physical, lo!, hi!, size, write);
        } catch (e) {
          return this.catchFault(e, record!);
        }
      },
      store: (lo, hi, info, record) => {
        try {
          this.i32[faultFlags] = info! >>> 16;
          const size = info! & 0xff;
          const physical = this.locate(lo!, hi!, size, true, record!);
          if (physical === FAULTED) return 0;
          if (info! & 0x200 && this.mayHoldCode(physical) && this.rewritesCode(lo!, hi!, size, record!)) return 0;
          if (physical >= 0 && physical < this.ramSize && this.code.hasCode(physical) && this.sweeps(physical, size)) {
            this.codeWritten(physical - (physical & 0xfff), 4096);
            if (info! & 0x200) {
              // As where it rewrites code: the region may be part of what has been dropped.
              this.rewind(record!);
              this.interpretOnce = true;
              return 0;
            }
          }
          if (physical === ELSEWHERE) this.mmu.store(lo!, hi!, size);
          else this.mmu.storeAt(physical, size);
          return 1;
        } catch (e) {
          return this.catchFault(e, record!);
        }
      },
      commit: () => {
        this.mmu.commit();
        return 0;
      },
      raise: (vector, code, record) => {
        this.i32[faultFlags] = vector! >>> 16;
        this.fault(vector! & 0xffff, code!);
        this.faulted = true;
        this.rewind(record!);
        return 0;
      },
      helper: (record) => this.runHelper(record!),
      lookup: () => this.lookup(),
      link: (record, which) => {
        try {
          const to = this.code.link(record!, which!);
          if (this.eager && to) {
            const block = this.code.blockOf(to);
            if (block) this.jit.compileNow(block);
          }
          return to;
        } catch (e) {
          return this.catchFault(e, record!);
        }
      },
      float: (op, record) => {
        try {
          exactFloat(this, op!);
          return 1;
        } catch (e) {
          return this.catchFault(e, record!);
        }
      },
      hot: (record) => {
        this.jit.hot(record!);
        return 0;
      },
      pages: (region, lo, hi) => this.jit.pages(region!, lo!, hi!),
      retreat: (record) => {
        this.rewind(record!);
        this.retreat();
        return 0;
      },
    };
    this.code = new CodeCache(this);
    this.code.onMark = (physical) => this.mmu.protectPhysical(physical);
    this.code.handlers.warm();
    this.jit = new Jit(this, this.code, tier);
    this.code.onFlush = () => {
      this.sys.segmentsUsed = 0;
      this.jit.flushed();
    };
    this.enterCode = this.code.handlers.exports.enter as (record: number) => void;
    this.i32[(this.state + S.MXCSR) >> 2] = 0x1f80;
    fillTables(this.u8);
    this.tellEpochs();
    this.modeChanged();
  }

  // ---- CodeHost ----

  /**
   * Translates a slow access within one page that nobody watches.
   *
   * @returns its physical address; FAULTED after a page fault, which is recorded; ELSEWHERE if it is another kind of access
   */
  private locate(lo: number, hi: number, size: number, write: boolean, record: number): number {
    if ((lo & 0xfff) + size > 4096 || this.mmu.watching) return ELSEWHERE;
    const physical = this.mmu.find(lo, hi, write ? 'write' : 'read', this.cpl === 3);
    if (physical === FAULTED) {
      this.faulted = true;
      this.rewind(record);
    }
    return physical;
  }

  /** Whether translated code may be where `locate` says. */
  private mayHoldCode(physical: number): boolean {
    return physical === ELSEWHERE || (physical < this.ramSize && this.code.hasCode(physical));
  }

  /** Where the last store into a page with translated code ended, and how many bytes before it were written one after the other. */
  private sweepEnd = -1;
  private swept = 0;

  /**
   * Whether a store into a page with translated code seems to be part of a sweep, going on where many before it ended: the page has
   * been freed and is cleared, or something else is read into it. Then all of its code is dropped at once, for until the
   * sweep comes to it each store takes the slow way.
   */
  private sweeps(physical: number, size: number): boolean {
    this.swept = physical === this.sweepEnd ? this.swept + size : size;
    this.sweepEnd = physical + size;
    if (this.swept < SWEEP) return false;
    this.sweepEnd = -1;
    return true;
  }

  private catchFault(e: unknown, record: number): 0 {
    if (!(e instanceof GuestFault)) throw e;
    this.faulted = true;
    this.rewind(record);
    if (this.outside) {
      this.outside = false;
      if (this.faultObject.vector === 13 && this.usesStack(lengthOf(this.metaOf(record)))) this.faultObject.vector = 12;
    }
    return 0;
  }

  /** The last fault was a non-canonical address: through the stack segment it is #SS. */
  private outside = false;
  override nonCanonical(): GuestFault {
    this.outside = true;
    return super.nonCanonical();
  }

  /** The instruction at RIP, of at most `length` bytes, or undefined where there is none. */
  private decodeHere(length: number): Insn | undefined {
    const bytes = new Uint8Array(16);
    const lo = this.ripLow();
    const cr2 = (this.state + S.CR2) >> 3;
    const saved = this.u64[cr2]!;
    for (let i = 0; i < length; i++) {
      const at = (lo + i) | 0;
      const carry = at >>> 0 < lo >>> 0 && this.code64 ? 1 : 0;
      try {
        bytes[i] = this.u8[RAM_BASE + this.fetchPage(at, (this.ripHigh() + carry) | 0) + (at & 0xfff)]!;
      } catch {
        // It may be shorter than what was asked for.
        this.u64[cr2] = saved;
        break;
      }
    }
    const insn = decode(bytes, 0, 16, modeBits(this.mode), modeStack(this.mode));
    return typeof insn === 'string' ? undefined : insn;
  }

  /** Whether the instruction at RIP, of `length` bytes, accesses the stack segment: by its operand, or else by itself. */
  private usesStack(length: number): boolean {
    const insn = this.decodeHere(length);
    if (!insn) return false;
    const own = STACK_INSTRUCTIONS.test(insn.def.name);
    if (!insn.mem || insn.mem.seg === SS) return own || insn.mem !== undefined;
    if (!own) return false;
    // PUSH, POP and CALL of memory: if the operand's addresses are right, it was the stack's.
    const lo = this.linearAddress(insn);
    const hi = this.eaHigh;
    return isCanonical(hi) && isCanonical(this.add64(lo, hi, insn.size - 1, 0)[1]);
  }

  /** Sets RIP back to a record's instruction and takes the not executed rest of its block off the count. */
  rewind(record: number): void {
    const lo = this.i32[(this.state + S.VPC) >> 2]!;
    const hi = this.i32[((this.state + S.VPC) >> 2) + 1]!;
    const meta = this.metaOf(record);
    this.setRip(lo | offsetOf(meta), hi);
    this.i32[(this.state + S.FUEL) >> 2]! -= countOf(meta) - 1;
  }

  /**
   * A store of a compiled region into translated code: the code is dropped and the region left in front of the storing
   * instruction, which the interpreter then runs, so that a changed next instruction is seen. @throws faults
   */
  private rewritesCode(lo: number, hi: number, size: number, record: number): boolean {
    const user = this.cpl === 3;
    const inPage = 4096 - (lo & 0xfff);
    if (size > inPage) this.mmu.checkEnd(lo, hi, inPage);
    const first = this.mmu.translate(lo, hi, 'write', user);
    let hit = false;
    const test = (physical: number, n: number): void => {
      if (physical + n <= this.ramSize && this.code.hasCode(physical) && this.code.hits(physical, n)) {
        this.code.written(physical, n);
        hit = true;
      }
    };
    if (size > inPage) {
      const next = (lo + inPage) | 0;
      test(this.mmu.translate(next, next === 0 ? (hi + 1) | 0 : hi, 'write', user), size - inPage);
      test(first, inPage);
    } else test(first, size);
    if (hit) {
      this.rewind(record);
      this.interpretOnce = true;
    }
    return hit;
  }
  /** The next block is run by the interpreter even where the compiler is forced. */
  private interpretOnce = false;

  /** The next instruction is one that a compiled region has left to the interpreter. */
  private retreated = false;
  /**
   * Times that compiled code of a page may leave an instruction to the interpreter, each of which takes as long as thousands
   * of compiled ones, within `RETREAT_WINDOW` instructions before it is compiled anew without that.
   */
  retreatLimit = 1000;
  /** How often that happened, by physical page, since a number of instructions. */
  private readonly retreats = new Map<number, { count: number; since: number }>();

  /** Code on which regions retreat again and again is compiled anew without what they retreat from. */
  private retreat(): void {
    this.retreated = true;
    let page: number;
    try {
      page = this.fetchPage(this.ripLow(), this.ripHigh());
    } catch (e) {
      // The mapping has changed meanwhile; running the instruction will tell.
      if (!(e instanceof GuestFault)) throw e;
      return;
    }
    const now = this.instructions;
    let seen = this.retreats.get(page);
    if (!seen || now - seen.since > RETREAT_WINDOW) this.retreats.set(page, (seen = { count: 0, since: now }));
    if (++seen.count < this.retreatLimit || this.code.plainFloats.has(page)) return;
    this.retreats.delete(page);
    this.code.written(page, 4096);
    this.code.plainFloats.add(page);
  }

  unitFault(unit: 'x87' | 'mmx' | 'sse'): number {
    if (unit === 'x87') return this.cr0 & (CR0_TS | CR0_EM) ? 7 : 0;
    if (this.cr0 & CR0_EM) return 6;
    if (unit === 'sse' && !(this.cr4 & CR4_OSFXSR)) return 6;
    return this.cr0 & CR0_TS ? 7 : 0;
  }

  /** Physical page for instruction fetch. @throws faults */
  private fetchPage(lo: number, hi: number): number {
    const page = this.findPage(lo, hi);
    if (page === FAULTED) throw this.faultObject;
    return page;
  }

  /** As `fetchPage`, but `FAULTED` with a page fault in the fault object is returned. @throws other faults */
  private findPage(lo: number, hi: number): number {
    const k = (lo >>> 12) & (FETCH_ENTRIES - 1);
    const tag = (lo & ~0xfff) | (this.cpl === 3 ? 2 : 0);
    if (this.fetchLow[k] === tag && this.fetchHigh[k] === hi) {
      const epoch = this.fetchEpoch[k]!;
      if (epoch === this.localEpoch || epoch === this.globalEpoch) {
        this.fetchedGlobal = epoch === this.globalEpoch;
        return this.fetchPhysical[k]!;
      }
    }
    // The whole address, so that CR2 has it where there is no page.
    const physical = this.mmu.find(lo, hi, 'fetch', this.cpl === 3);
    if (physical === FAULTED) return FAULTED;
    const page = physical - (lo & 0xfff);
    this.fetchLow[k] = tag;
    this.fetchHigh[k] = hi;
    this.fetchPhysical[k] = page;
    this.fetchedGlobal = this.mmu.global;
    this.fetchEpoch[k] = this.mmu.global ? this.globalEpoch : this.localEpoch;
    return page;
  }

  /** The translated code of the page `distance` pages from S.VPC's, as far as fetching has gone there lately. */
  codePageAt(distance: number): CodePage | undefined {
    const at = (this.state + S.VPC) >> 2;
    const [lo, hi] = this.pageFrom(this.i32[at]!, this.i32[at + 1]!, distance);
    const physical = this.fetched(lo, hi);
    return physical === FAULTED ? undefined : this.code.page(physical, this.mode);
  }

  /** The same from a page at a linear address, and where fetching has not gone lately, as far as the page tables say that it has before. */
  codePageFrom(lo: number, hi: number, distance: number): CodePage | undefined {
    const [low, high] = this.pageFrom(lo, hi, distance);
    let physical = this.fetched(low, high);
    if (physical === FAULTED) {
      physical = this.mmu.peekCode(low, high, this.cpl === 3);
      this.fetchedGlobal = this.mmu.global;
    }
    if (physical === FAULTED) return undefined;
    this.watchFetched(low);
    return this.code.page(physical, this.mode);
  }

  /** Sees to it that `codeEpoch` changes with the translation of a page at a linear address, which `fetchedGlobal` is about. */
  private watchFetched(lo: number): void {
    if (this.cpl !== 3 && !this.fetchedGlobal && !this.localKernel) {
      // From now on the epoch of kernels changes with the address space.
      this.localKernel = true;
      this.tellEpochs();
    }
    this.code.jumps.watch(lo);
  }

  watchNextPage(): number {
    this.watchFetched((this.i32[(this.state + S.VPC) >> 2]! + 4096) | 0);
    return this.codeEpoch;
  }

  /** Linear address of the page `distance` pages from another one. */
  private pageFrom(lo: number, hi: number, distance: number): [lo: number, hi: number] {
    const linear = (lo >>> 0) + distance * 4096;
    return [linear | 0, this.code64 ? (hi + Math.floor(linear / 2 ** 32)) | 0 : 0];
  }

  /** Physical address of a page that has been fetched from lately, or FAULTED. */
  private fetched(lo: number, hi: number): number {
    const k = (lo >>> 12) & (FETCH_ENTRIES - 1);
    const tag = (lo & ~0xfff) | (this.cpl === 3 ? 2 : 0);
    const epoch = this.fetchEpoch[k]!;
    if (this.fetchLow[k] !== tag || this.fetchHigh[k] !== hi) return FAULTED;
    if (epoch !== this.localEpoch && epoch !== this.globalEpoch) return FAULTED;
    this.fetchedGlobal = epoch === this.globalEpoch;
    return this.fetchPhysical[k]!;
  }

  /** Whether code outside user mode has run that belongs to an address space: its pages are not global. */
  private localKernel = false;

  /** The number that stands for what the translations of code pages are, for the current privilege. */
  get codeEpoch(): number {
    return this.i32[(this.state + (this.cpl === 3 ? S.USER_EPOCH : S.KERNEL_EPOCH)) >> 2]!;
  }

  private tellEpochs(): void {
    const at = this.state >> 2;
    this.i32[at + (S.USER_EPOCH >> 2)] = this.localEpoch;
    this.i32[at + (S.KERNEL_EPOCH >> 2)] = this.localKernel ? this.localEpoch : this.globalEpoch;
  }

  /**
   * What is stored `offset` bytes from S.VPC, as a distance from S.VPC, if the TLB knows the place. In 64-bit code.
   */
  pointerAt(offset: number): number | undefined {
    const page = this.u64[(this.state + S.VPC) >> 3]!;
    const linear = BigInt.asUintN(64, page + BigInt(offset));
    const table = this.i32[(this.state + S.TLB_READ) >> 2]!;
    const x = this.u64[(table + (Number(linear >> 9n) & 0x7ffff8)) >> 3]! ^ linear;
    if ((x & 0xffffffff00000fffn) > 4088n || x & 7n) return undefined;
    return this.distanceOf(this.u64[Number(x) >> 3]!);
  }

  /** A linear address as a distance from S.VPC, if that is a number. In 64-bit code. */
  distanceOf(linear: bigint): number | undefined {
    const distance = BigInt.asIntN(64, linear - this.u64[(this.state + S.VPC) >> 3]!);
    return distance > -(1n << 47n) && distance < 1n << 47n ? Number(distance) : undefined;
  }

  compileAhead(hotCode: Uint8Array, compiled: (code: CompiledCode) => void): () => boolean {
    if (this.tier !== 'auto') return () => false;
    const ahead = this.jit.ahead(decodeHotCode(hotCode), compiled);
    return () => ahead.step();
  }

  checkAccesses(insn: Insn, record: number): number {
    const vpc = (this.state + S.VPC) >> 2;
    const at = this.i32[vpc]! + offsetOf(this.metaOf(record));
    let verdict = this.code64 ? WITHIN : checkLimits(this, insn, (at - this.segments[CS]!.baseLow) | 0);
    if (verdict === WITHIN && needsAlignment(this)) {
      // Operands relative to RIP are so to the next instruction's.
      const next = (at + insn.len) | 0;
      this.setRip(next, (this.i32[vpc + 1]! + (next >>> 0 < at >>> 0 ? 1 : 0)) | 0);
      verdict = checkAlignment(this, insn);
    }
    if (verdict === WITHIN) return 1;
    this.rewind(record);
    if (verdict === STEPWISE) this.stepwise = true;
    else {
      this.fault(verdict, 0);
      this.faulted = true;
    }
    return 0;
  }

  throughSegment(n: number): boolean {
    this.sys.segmentsUsed |= 1 << n;
    return (this.cr0 & CR0_PE) !== 0 && !this.segments[n]!.usable;
  }

  /** The next instruction, a repeated one, goes by single iterations. */
  private stepwise = false;

  fetchNextPage(record: number): number {
    const at = (this.state + S.VPC) >> 2;
    const lo = (this.i32[at]! + 4096) | 0;
    const hi = lo === 0 && this.code64 ? (this.i32[at + 1]! + 1) | 0 : this.i32[at + 1]!;
    const cr2 = (this.state + S.CR2) >> 3;
    const saved = this.u64[cr2]!;
    try {
      const page = this.fetchPage(lo, hi);
      if (page + 4096 <= this.ramSize) return page;
      if (record < 0) return -1;
      throw this.fault(13, 0);
    } catch (e) {
      if (!(e instanceof GuestFault)) throw e;
      if (record < 0) this.u64[cr2] = saved;
      else this.catchFault(e, record);
      return -1;
    }
  }

  /** The record to run at S.RIP, or 0 with a fault recorded. */
  private lookup(): number {
    const lo = this.ripLow();
    // Code that is cut at the end of a page does not know of its width: outside 64-bit mode 4 GiB is followed by 0.
    if (!this.code64 && this.ripHigh() !== 0) this.setRip(lo, 0);
    const hi = this.ripHigh();
    const at = (this.state + S.VPC) >> 2;
    const known = this.code.jumps.find(this.i32[(this.state + S.JUMP_CACHE) >> 2]!, lo, hi);
    if (known) {
      this.i32[at] = lo & ~0xfff;
      this.i32[at + 1] = hi;
      return known;
    }
    try {
      const page = this.findPage(lo, hi);
      if (page === FAULTED) {
        this.faulted = true;
        return 0;
      }
      if (page + 4096 > this.ramSize) throw this.fault(13, 0);
      this.i32[at] = lo & ~0xfff;
      this.i32[at + 1] = hi;
      const { mode } = this;
      const record = this.code.entry(page + (lo & 0xfff), mode);
      if (this.eager) {
        if (this.interpretOnce) this.interpretOnce = false;
        else this.jit.compileNow(this.code.blockOf(record)!);
      }
      this.code.jumps.remember(mode, lo, hi, record, this.fetchedGlobal);
      return record;
    } catch (e) {
      if (!(e instanceof GuestFault)) throw e;
      this.faulted = true;
      return 0;
    }
  }

  private runHelper(record: number): number {
    const insn = this.code.insnOf(record);
    const at = (this.state + S.VPC) >> 2;
    const meta = this.metaOf(record);
    const after = offsetOf(meta) + lengthOf(meta);
    const lo = (this.i32[at]! + after) | 0;
    this.setRip(lo, after >= 4096 && lo >>> 0 < 4096 && this.code64 ? (this.i32[at + 1]! + 1) | 0 : this.i32[at + 1]!);
    const flushes = this.code.generation;
    try {
      insn.def.helper!(this, insn, record);
    } catch (e) {
      this.catchFault(e, record);
      return 1;
    }
    if (this.code.generation !== flushes || this.faulted) {
      // The translations are gone, or an exception follows: whoever called must not go on. RIP is right; count what has run.
      this.i32[(this.state + S.FUEL) >> 2]! -= countOf(meta);
      return 1;
    }
    return 0;
  }

  hasCode(physical: number): boolean {
    return this.code?.hasCode(physical) ?? false;
  }

  codeWritten(physical: number, size: number): void {
    if (this.code.written(physical, size)) this.leave();
  }

  private dmaWrite(address: number, length: number): void {
    for (let page = address - (address & 0xfff); page < address + length; page += 4096)
      if (this.code.hasCode(page)) {
        const from = Math.max(page, address);
        this.code.written(from, Math.min(page + 4096, address + length) - from);
      }
  }

  translationsChanged(globals: boolean): void {
    if (!this.code) return;
    this.localEpoch = this.lastEpoch += 2;
    if (globals) {
      this.globalEpoch += 2;
      this.epochs.clear();
      this.localKernel = false;
      this.code.jumps.clearWatched();
    } else this.code.jumps.clearLocal();
    this.tellEpochs();
  }

  /** `localEpoch` of address spaces that are not current, by PCID. */
  private readonly epochs = new Map<number, number>();
  private lastEpoch = 1;

  spaceChanged(from: number, to: number, keep: boolean): void {
    this.epochs.set(from, this.localEpoch);
    this.localEpoch = (keep ? this.epochs.get(to) : undefined) ?? (this.lastEpoch += 2);
    this.code.jumps.switchSpace(from, to, keep);
    this.tellEpochs();
  }

  translationChanged(lo: number, _hi: number): void {
    if (this.code.jumps.clearPage(lo)) {
      this.localEpoch = this.lastEpoch += 2;
      this.globalEpoch += 2;
      this.epochs.clear();
      this.tellEpochs();
    }
    this.fetchLow[(lo >>> 12) & (FETCH_ENTRIES - 1)] = 1;
  }

  /** The mode outside 64-bit code, by the widths of code and stack. */
  private legacyMode(user: boolean, limited: boolean): Mode {
    const wide = (this.segments[CS]!.attributes & 0x4000) !== 0;
    if (wide !== ((this.segments[SS]!.attributes & 0x4000) !== 0)) {
      if (wide) return user ? Mode.Stack16User32 : Mode.Stack16Kernel32;
      return user ? Mode.Stack32User16 : Mode.Stack32Kernel16;
    }
    if (wide) {
      if (limited) return user ? Mode.LimitedUser32 : Mode.LimitedKernel32;
      return user ? Mode.User32 : Mode.Kernel32;
    }
    if (limited) return user ? Mode.LimitedUser16 : Mode.LimitedKernel16;
    return user ? Mode.User16 : Mode.Kernel16;
  }

  enterCode64(): void {
    const user = this.cpl === 3;
    if (user && needsAlignment(this)) {
      this.modeChanged();
      return;
    }
    const at = this.state >> 2;
    this.i32[at + (S.MODE >> 2)] = user ? Mode.User64 : Mode.Kernel64;
    this.i32[at + (S.CPL >> 2)] = this.cpl;
    this.i32[at + (S.JUMP_CACHE >> 2)] = user ? USER64_JUMPS : KERNEL64_JUMPS;
    this.i32[at + (S.TLB_READ >> 2)] = user ? TLB_USER_READ : TLB_KERNEL_READ;
    this.i32[at + (S.TLB_WRITE >> 2)] = user ? TLB_USER_WRITE : TLB_KERNEL_WRITE;
  }

  modeChanged(): void {
    const user = this.cpl === 3;
    let mode: Mode;
    if (!this.code64) mode = this.legacyMode(user, needsLimits(this) || needsAlignment(this));
    else if (user) mode = needsAlignment(this) ? Mode.LimitedUser64 : Mode.User64;
    else mode = Mode.Kernel64;
    const at = this.state >> 2;
    this.i32[at + (S.MODE >> 2)] = mode;
    this.i32[at + (S.CPL >> 2)] = this.cpl;
    this.i32[at + (S.JUMP_CACHE >> 2)] = jumpCacheOf(mode);
    this.code?.jumps.enter(mode);
    this.i32[at + (S.TLB_READ >> 2)] = modeIsUser(mode) ? TLB_USER_READ : TLB_KERNEL_READ;
    this.i32[at + (S.TLB_WRITE >> 2)] = modeIsUser(mode) ? TLB_USER_WRITE : TLB_KERNEL_WRITE;
    this.i32[at + (S.CR0 >> 2)] = this.cr0;
    this.i32[at + (S.CR4 >> 2)] = this.cr4;
    const units = (this.cr0 & (CR0_TS | CR0_EM)) | (this.cr4 & CR4_OSFXSR);
    if (units !== this.unitState) {
      this.unitState = units;
      this.code?.flush();
    }
  }

  leave(): void {
    const at = (this.state + S.FUEL) >> 2;
    const fuel = this.i32[at]!;
    if (!this.running || fuel <= 0) return;
    this.stolen += fuel;
    this.i32[at] = 0;
  }

  raiseAfter(vector: number, code: number): void {
    this.fault(vector, code);
    this.faulted = true;
  }

  dataBreak(lo: number, hi: number, size: number, write: boolean): void {
    dataBreak(this, lo, hi, size, write);
  }

  // ---- Processor ----

  enter(state: EntryState): void {
    enterState(this, state);
    this.modeChanged();
  }

  interruptChanged(): void {
    const pending = this.host.interrupts.pending() >= 0;
    this.i32[(this.state + S.PENDING) >> 2] = pending ? 1 : 0;
    if (pending && this.i32[(this.state + S.EFLAGS) >> 2]! & IF) this.leave();
  }

  get instructions(): number {
    if (!this.running) return this.total;
    return this.total + this.sliceBudget - this.i32[(this.state + S.FUEL) >> 2]! - this.stolen;
  }
  private sliceBudget = 0;
  private interpreted = 0;
  /** Compile between slices and wait for it, so that the tiers change at the same instruction in every run. */
  synchronous = false;
  /** Run instruction by instruction, with interrupts looked at before each: for traces. */
  stepping = false;

  run(budget: number): StopReason {
    const fuelAt = (this.state + S.FUEL) >> 2;
    const flagsAt = (this.state + S.EFLAGS) >> 2;
    const shadowAt = (this.state + S.SHADOW) >> 2;
    const { interrupts } = this.host;
    this.sliceBudget = budget;
    this.i32[fuelAt] = budget;
    this.stolen = 0;
    this.running = true;
    const began = performance.now();
    let reason: StopReason = 'budget';
    try {
      for (;;) {
        if (this.stolen) {
          this.i32[fuelAt]! += this.stolen;
          this.stolen = 0;
        }
        if (this.faulted) {
          if (this.faultObject.vector === ABSENT) {
            this.faulted = false;
            reason = 'waiting';
            break;
          }
          if (!deliverException(this, this.faultObject.vector, this.faultObject.code)) {
            reason = 'waiting';
            break;
          }
          this.faulted = false;
          this.exceptions++;
          // A delivery counts like an instruction, so that a handler that faults at once ends the slice too.
          this.i32[fuelAt]!--;
          this.i32[(this.state + S.INTERPRETED) >> 2]!++;
          this.shadow = undefined;
        }
        if (this.shutdown) {
          reason = 'shutdown';
          break;
        }
        const flags = this.i32[flagsAt]!;
        let shadowed = false;
        if (this.i32[shadowAt] !== 0 || this.i32[shadowAt + 1] !== 0) {
          shadowed = this.shadow === this.rip;
          if (!shadowed) this.shadow = undefined;
        }
        if (flags & IF && !shadowed) {
          const held = this.heldInterrupt;
          if (held >= 0 || interrupts.pending() >= 0) {
            const vector = held >= 0 ? held : interrupts.acknowledge();
            if (vector >= 0) {
              this.halted = false;
              if (held < 0) this.interruptCount++;
              if (!deliverInterrupt(this, vector)) {
                this.faulted = this.heldInterrupt < 0;
                reason = 'waiting';
                break;
              }
              this.i32[(this.state + S.PENDING) >> 2] = interrupts.pending() >= 0 ? 1 : 0;
              continue;
            }
          }
        }
        if (this.halted) {
          reason = 'halted';
          break;
        }
        if (this.i32[fuelAt]! <= 0) break;
        if (
          this.retreated ||
          flags & TF ||
          shadowed ||
          this.mmu.watching ||
          this.stepping ||
          this.stepwise ||
          hasCodeBreakpoints(this)
        ) {
          this.retreated = false;
          this.step();
          continue;
        }
        const record = this.lookup();
        if (record) this.enterCode(record);
      }
    } finally {
      if (this.stolen) this.i32[fuelAt]! += this.stolen;
      this.stolen = 0;
      this.running = false;
      this.total += budget - this.i32[fuelAt]!;
      const at = (this.state + S.INTERPRETED) >> 2;
      this.interpreted += this.i32[at]!;
      this.i32[at] = 0;
      this.jit.pump(performance.now() - began, this.synchronous || this.eager);
    }
    return reason;
  }

  private repeats(): boolean {
    const insn = this.decodeHere(15);
    return insn !== undefined && isRepeated(insn);
  }

  /** Runs one instruction, then the traps that follow it. */
  step(): void {
    const flagsAt = (this.state + S.EFLAGS) >> 2;
    const fuelAt = (this.state + S.FUEL) >> 2;
    const lo = this.ripLow();
    const hi = this.ripHigh();
    let traced = (this.i32[flagsAt]! & TF) !== 0;
    if (!(this.i32[flagsAt]! & RF) && codeBreakpoint(this, lo, hi)) {
      this.fault(1);
      this.faulted = true;
      return;
    }
    let record: number;
    try {
      const page = this.fetchPage(lo, hi);
      if (page + 4096 > this.ramSize) throw this.fault(13, 0);
      const at = (this.state + S.VPC) >> 2;
      this.i32[at] = lo & ~0xfff;
      this.i32[at + 1] = hi;
      record = this.code.single(page + (lo & 0xfff), this.mode).record;
    } catch (e) {
      if (!(e instanceof GuestFault)) throw e;
      this.faulted = true;
      return;
    }
    // RF holds for one instruction; IRET may set it for the next.
    const resumed = (this.i32[flagsAt]! & RF) !== 0;
    this.i32[flagsAt]! &= ~RF;
    const insn = traced || this.mmu.watching || this.stepwise ? this.decodeHere(15) : undefined;
    this.stepwise = false;
    const iteration = insn && startIteration(this, insn);
    const fuel = this.i32[fuelAt]!;
    this.i32[fuelAt] = 1;
    // What is held back is not retired: `instructions`, and so the clock, must not run ahead meanwhile.
    this.stolen = fuel - 1;
    this.enterCode(record);
    this.stolen = 0;
    this.i32[fuelAt] = this.faulted ? fuel : fuel - 1;
    if (insn && iteration && endIteration(this, insn, iteration, this.faulted)) this.setRip(lo, hi);
    if (this.faulted) return;
    // A repeated instruction that is not done yet is the same one still.
    if (resumed && this.ripLow() === lo && this.ripHigh() === hi && this.repeats()) this.i32[flagsAt]! |= RF;
    // MOV SS and POP SS hold back what is due, until the instruction after them (SDM vol. 3, 6.8.3).
    if (insn && loadsStackSegment(insn)) return;
    const trap = pendingTrap(this);
    if (insn && clearsTrapFlag(insn) && !(this.i32[flagsAt]! & TF)) traced = false;
    if (traced) singleStepTrap(this);
    if (traced || trap) {
      this.fault(1);
      this.faulted = true;
    }
  }

  get stats(): ProcessorStats {
    return {
      instructions: this.instructions,
      interpreted: this.interpreted,
      compiled: Math.max(0, this.total - this.restored - this.interpreted),
      regions: this.jit.regions,
      codeBytes: this.jit.codeBytes,
      emitMilliseconds: this.jit.emitTime,
      longPauses: this.jit.longPauses,
      exceptions: this.exceptions,
      interrupts: this.interruptCount,
      tlbFills: this.mmu.fills,
    };
  }

  save(): ProcessorState {
    return {
      version: 1,
      total: this.total,
      faulted: this.faulted,
      heldInterrupt: this.heldInterrupt,
      ...saveCpu(this),
    };
  }

  restore(state: ProcessorState): void {
    restoreCpu(this, state);
    this.total = Number(state.total);
    this.restored = this.total;
    this.interpreted = 0;
    this.faulted = Boolean(state.faulted);
    this.heldInterrupt = Number(state.heldInterrupt ?? -1);
    this.mmu.flush(true);
    this.modeChanged();
    this.code.flush();
  }
}

let defined = false;

function defineOnce(): void {
  if (!defined) defineAll();
  defined = true;
}

/** Does ahead, while something else is waited for, what takes longest in making the first processor of a thread. */
export async function prepareProcessor(): Promise<void> {
  defineOnce();
  await prepareHandlers(STATE_BASE);
}

/**
 * Makes a processor with its own memory.
 *
 * @param memoryBytes guest RAM in bytes, a multiple of 64 KiB, at most 3 GiB
 * @param Kind a subclass instead: for traces
 * @throws Error when the host cannot give that much memory, or lacks WebAssembly tail calls or SIMD
 */
export function createProcessor(
  host: ProcessorHost,
  memoryBytes: number,
  tier: Tier,
  Kind: typeof X86Processor = X86Processor,
): Processor {
  defineOnce();
  const pages = Math.ceil((RAM_BASE + memoryBytes) / 2 ** PAGE_SHIFT);
  let memory: WebAssembly.Memory;
  try {
    memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
  } catch (cause) {
    throw new Error(
      `the browser could not give ${Math.round(memoryBytes / 2 ** 20)} MiB of memory to the machine: close other tabs or give it less memory`,
      { cause },
    );
  }
  return new Kind(memory, host, memoryBytes, tier);
}
