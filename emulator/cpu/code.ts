/**
 * The code cache: decoded blocks by physical page, the handlers they need, and the links between them.
 *
 * Blocks belong to a physical page and a code mode, so they survive changes of address space and are shared by all
 * mappings of the page. Linear addresses come in only through S.VPC (the page that is running) and the jump caches.
 * A block never leaves its page; an instruction that crosses into the next page is a block of its own that checks, each
 * time it runs, that the next page is still the one it was decoded from.
 *
 * When a byte of translated code is about to change, all blocks of its page are dropped: their records are turned into
 * `resync` records, which send whoever still runs them back to the run loop.
 */
import { Block, type CodePage } from './block.ts';
import { decode } from './decoder.ts';
import { Handlers, Slot, type HandlerHost } from './handlers.ts';
import { FAR, FAR_PART, farFromRip, fuses, memForm, usesSegment } from './interp.ts';
import { ARITH, flagsRead, flagsWritten, type Insn } from './insn.ts';
import { JumpCaches } from './jump-cache.ts';
import {
  FS,
  JUMP_CACHE_HASH,
  modeBits,
  modeIsLimited,
  modeIsUser,
  modeStack,
  type Mode,
  MODES,
  R,
  RAM_BASE,
  RECORDS,
  RECORDS_BYTES,
  S,
} from './layout.ts';

/** Most instructions of a block; long straight code is cut so that fuel and interrupts are looked at. */
const MAX_BLOCK = 48;
/** The share that is taken for blocks without a counter: enough for a region in their own page. */
const FEW = 1 / 128;

/** Places of `entry`'s table, direct-mapped; a power of two. */
const ENTRIES = 1 << 15;
const entryIndex = (physical: number, mode: Mode): number =>
  (Math.imul(physical + mode, JUMP_CACHE_HASH) >>> 8) & (ENTRIES - 1);

/** In R0 of a check's record: it is about segment limits and alignment, not about the next page. */
const LIMITS = 1;

export interface CodeHost extends HandlerHost {
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly i32: Int32Array;
  readonly ramSize: number;
  /** Executions until a block of user code is reported; of other code half as many. */
  readonly heat: number;
  /** Physical address of the page after the one that S.VPC is in, or −1 after recording a fault. */
  fetchNextPage(record: number): number;
  /** Sets S.RIP to a record's instruction. */
  rewind(record: number): void;
  /** Before an instruction in a limited mode: 1 to go on, 0 with RIP set back to it. */
  checkAccesses(insn: Insn, record: number): number;
  /**
   * Code outside 64-bit mode, where segments are flat, that accesses memory through FS or GS is about to be translated.
   * @returns whether the segment is null, so that the access has to be checked
   */
  throughSegment(n: number): boolean;
  /** May code using this unit run now? 0: yes; 6: #UD; 7: #NM. */
  unitFault(unit: 'x87' | 'mmx' | 'sse'): number;
}

export class CodeCache {
  readonly handlers: Handlers;
  readonly jumps: JumpCaches;
  private readonly pages = new Map<number, CodePage>();
  /** Modes that there has been code of, a bit each. */
  private modes = 0;
  /** By physical page number: 1 where there is translated code. */
  private readonly marks: Uint8Array;
  private next = RECORDS;
  /** Instructions by the index in their record's AUX, for helpers. */
  insns: Insn[] = [];
  /** Blocks by number, and the number (from 1) of the block whose first or last record lies at an index of the area. */
  private blockList: (Block | undefined)[] = [undefined];
  private readonly blockNumbers = new Int32Array(RECORDS_BYTES / R.SIZE);
  /** What `entry` has found: physical address × MODES + mode, and the record. */
  private readonly entryKeys = new Float64Array(ENTRIES).fill(-1);
  private readonly entryRecords = new Int32Array(ENTRIES);
  /** Counts the times that all translations were dropped. */
  generation = 0;
  onFlush: () => void = () => undefined;
  /** Physical pages whose floating-point code does not keep to what compiled regions expect of it, so that they expect nothing, until it changes. */
  readonly plainFloats = new Set<number>();

  constructor(private readonly host: CodeHost) {
    this.marks = new Uint8Array(Math.ceil(host.ramSize / 4096));
    this.jumps = new JumpCaches(host.i32);
    this.handlers = new Handlers(host, (record) => this.cross(record));
  }

  // ---- pages and blocks ----

  private static key(physical: number, mode: Mode): number {
    return (physical / 4096) * 16 + mode;
  }

  hasCode(physical: number): boolean {
    return this.marks[physical >>> 12] === 1;
  }

  page(physical: number, mode: Mode): CodePage | undefined {
    return this.pages.get(CodeCache.key(physical, mode));
  }

  blockOf(record: number): Block | undefined {
    return this.blockList[this.blockNumbers[(record - RECORDS) / R.SIZE]!];
  }

  private register(block: Block): void {
    const n = this.blockList.push(block) - 1;
    this.blockNumbers[(block.record - RECORDS) / R.SIZE] = n;
    this.blockNumbers[(block.last - RECORDS) / R.SIZE] = n;
  }

  private forget(block: Block): void {
    this.forgetEntry(block);
    this.blockList[this.blockNumbers[(block.record - RECORDS) / R.SIZE]!] = undefined;
  }

  /**
   * The block at a physical address, decoded if need be.
   *
   * @param physical physical address of the instruction; its page is in RAM
   * @param nextPage physical address of the page that follows in linear space, asked for only where an instruction crosses
   *   (−1: it faulted, and the fault has been recorded)
   */
  block(physical: number, mode: Mode): Block {
    const pagePhysical = physical - (physical & 0xfff);
    const key = CodeCache.key(pagePhysical, mode);
    let page = this.pages.get(key);
    if (!page) {
      page = emptyPage(pagePhysical, mode);
      this.pages.set(key, page);
      this.modes |= 1 << mode;
    }
    const offset = physical & 0xfff;
    const known = page.blocks.get(offset);
    if (known) return known;
    const block = this.decodeBlock(page, offset, MAX_BLOCK);
    page.blocks.set(offset, block);
    if (!this.marks[pagePhysical >>> 12]) {
      this.marks[pagePhysical >>> 12] = 1;
      this.onMark(pagePhysical);
    }
    // An instruction that only raises counts too, with as many bytes as may have been looked at.
    const end = block.raises ? block.end + 15 : block.end;
    for (let g = offset >> 7; g <= Math.min(31, (end - 1) >> 7); g++) page.granules |= 1 << g;
    return block;
  }

  /**
   * The record of the block at a physical address that a computed jump, a return or an exception leads to. As `block`;
   * found by one look at a table where it was found before, as an address space that begins anew asks for hundreds.
   */
  entry(physical: number, mode: Mode): number {
    const at = entryIndex(physical, mode);
    const key = physical * MODES + mode;
    if (this.entryKeys[at] === key) return this.entryRecords[at]!;
    const block = this.block(physical, mode);
    block.jumpedTo = true;
    this.entryKeys[at] = key;
    this.entryRecords[at] = block.record;
    return block.record;
  }

  private forgetEntry(block: Block): void {
    const physical = block.page.physical + block.offset;
    const { mode } = block.page;
    const at = entryIndex(physical, mode);
    if (this.entryKeys[at] === physical * MODES + mode) this.entryKeys[at] = -1;
  }

  /** A block of one instruction that is not kept: for single steps. The records are overwritten by the next one. */
  single(physical: number, mode: Mode): Block {
    const pagePhysical = physical - (physical & 0xfff);
    return this.decodeBlock(emptyPage(pagePhysical, mode), physical & 0xfff, 1);
  }

  private readonly crossBytes = new Uint8Array(32);

  private decodeBlock(page: CodePage, offset: number, most: number): Block {
    if (this.next + (MAX_BLOCK + 2000) * R.SIZE > RECORDS + RECORDS_BYTES) this.flush();
    const { u8 } = this.host;
    const base = RAM_BASE + page.physical;
    const bits = modeBits(page.mode);
    const insns: Insn[] = [];
    const offsets: number[] = [];
    let at = offset;
    let fault: { vector: number; code: number } | undefined;
    let crosses = false;
    let guarded = false;
    const limited = modeIsLimited(page.mode);
    while (insns.length < most && at < 4096) {
      let insn = decode(u8, base + at, base + 4096, bits, modeStack(page.mode));
      if (insn === 'more') {
        // It crosses into the next page: a block of its own.
        if (insns.length) break;
        const cross = this.decodeCrossing(page, at, bits);
        if (!cross) {
          // The next page faults: the check record will raise that fault when it runs.
          crosses = true;
          break;
        }
        insn = cross.insn;
        crosses = true;
      }
      if (typeof insn === 'string') {
        fault = insn === 'ud' ? { vector: 6, code: -1 } : { vector: 13, code: 0 };
        break;
      }
      const d = insn.def;
      if (d.privileged && modeIsUser(page.mode)) {
        fault = { vector: 13, code: 0 };
        break;
      }
      if (d.unit) {
        const vector = this.host.unitFault(d.unit);
        if (vector) {
          fault = { vector, code: -1 };
          break;
        }
      }
      const segment = insn.mem ? insn.mem.seg : insn.segment;
      if (segment >= FS && bits !== 64 && !limited && this.host.throughSegment(segment)) {
        // A null segment: a block of its own, that is checked.
        if (insns.length) break;
        guarded = true;
      }
      insns.push(insn);
      offsets.push(at);
      at += insn.len;
      if (d.ends || crosses || guarded) break;
    }
    const start = this.next;
    let record = start;
    const { u16, i32: w } = this.host;
    if (crosses) {
      this.clearRecord(record);
      w[(record + R.FN) >> 2] = Slot.CrossCheck;
      u16[(record + R.OFFSET) >> 1] = offset;
      u16[(record + R.COUNT) >> 1] = 1;
      // The page that it was decoded from, also where the bytes are no instruction; -1: no page was there.
      w[(record + R.DISP) >> 2] = this.lastCross;
      record += R.SIZE;
    }
    const dead = this.deadFlags(insns);
    const last = insns[insns.length - 1];
    const branches = !fault && last !== undefined && last.def.ends;
    let target: number | undefined;
    for (let k = 0; k < insns.length; k++) {
      const insn = insns[k]!;
      let shape = FAR;
      if (limited || guarded) {
        this.clearRecord(record);
        w[(record + R.FN) >> 2] = Slot.CrossCheck;
        u16[(record + R.OFFSET) >> 1] = offsets[k]!;
        u16[(record + R.COUNT) >> 1] = k + 1;
        u16[(record + R.R0) >> 1] = LIMITS;
        w[(record + R.AUX) >> 2] = this.insns.length;
        this.insns.push(insn);
        record += R.SIZE;
      }
      this.clearRecord(record);
      this.fillRecord(record, insn, offsets[k]!, k + 1);
      if (insn.def.ends) {
        const after = offsets[k]! + insn.len;
        if (insn.operands.some((o) => o.kind === 'rel')) {
          target = after + insn.imm;
          const cut = insn.bits !== 64 && insn.size === 2;
          shape = { takenNear: !crosses && !cut && target >= 0 && target < 4096, nextNear: !crosses && after < 4096 };
          if (cut) target = undefined;
          if (shape.takenNear) {
            u16[(record + R.R0) >> 1] = target!;
            w[(record + R.DISP) >> 2] = 0;
          } else w[(record + R.DISP) >> 2] = insn.imm;
          if (shape.nextNear) {
            u16[(record + R.R1) >> 1] = after;
            w[(record + R.IMM) >> 2] = 0;
          }
        }
        if (insn.def.emit && !insn.def.helper) w[(record + R.AUX) >> 2] = this.heat(page.mode);
      }
      w[(record + R.FN) >> 2] = this.handlers.handler(insn, dead[k]!, shape);
      const before = limited || guarded ? undefined : insns[k - 1];
      if (before && fuses(before, insn)) w[(record - R.SIZE + R.FN) >> 2] = this.handlers.pair(before, insn, shape);
      if (!crosses) this.handlers.note(u8, base + offsets[k]!, insn, dead[k]!, shape, before);
      if (insn.def.helper !== undefined) {
        w[(record + R.AUX) >> 2] = this.insns.length;
        this.insns.push(insn);
      }
      record += R.SIZE;
    }
    if (fault) {
      this.clearRecord(record);
      w[(record + R.FN) >> 2] = Slot.Raise;
      u16[(record + R.OFFSET) >> 1] = at;
      u16[(record + R.COUNT) >> 1] = insns.length + 1;
      u16[(record + R.R0) >> 1] = fault.vector;
      w[(record + R.IMM) >> 2] = fault.code;
      record += R.SIZE;
    } else if (!branches) {
      this.clearRecord(record);
      const near = at < 4096;
      w[(record + R.FN) >> 2] = near ? Slot.GoOnNear : Slot.GoOnFar;
      u16[(record + R.OFFSET) >> 1] = at;
      u16[(record + R.COUNT) >> 1] = insns.length;
      u16[(record + R.R1) >> 1] = at;
      w[(record + R.AUX) >> 2] = this.heat(page.mode);
      record += R.SIZE;
    }
    this.handlers.makeMissing();
    const block = new Block(
      {
        page,
        offset,
        record: start,
        records: ((record - start) / R.SIZE) | 0,
        count: insns.length,
        end: at,
        target,
        branches,
        last: record - R.SIZE,
        handler: w[(start + R.FN) >> 2]!,
        heated: !fault && (!branches || (last.def.emit !== undefined && !last.def.helper)),
        raises: fault !== undefined,
        crosses: crosses || guarded,
      },
      u8,
    );
    if (most > 1) {
      this.next = record;
      this.register(block);
      if (crosses && this.lastCross >= 0) this.noteSpill(this.lastCross, page.mode, block);
    }
    return block;
  }

  private lastCross = -1;

  /** Decodes an instruction that runs into the next page, if that page is there. */
  private decodeCrossing(page: CodePage, at: number, bits: 64 | 32 | 16): { insn: Insn | 'ud' | 'gp' } | undefined {
    const second = this.host.fetchNextPage(-1);
    this.lastCross = second;
    if (second < 0) return undefined;
    const { u8, ramSize } = this.host;
    const head = 4096 - at;
    this.crossBytes.fill(0xff);
    this.crossBytes.set(u8.subarray(RAM_BASE + page.physical + at, RAM_BASE + page.physical + 4096));
    if (second + 4096 <= ramSize) this.crossBytes.set(u8.subarray(RAM_BASE + second, RAM_BASE + second + 16), head);
    const insn = decode(this.crossBytes, 0, 15, bits, modeStack(page.mode));
    return { insn: insn === 'more' ? 'gp' : insn };
  }

  /** A block crosses into `physical`: that page has code in its first bytes now. */
  private noteSpill(physical: number, mode: Mode, block: Block): void {
    const key = CodeCache.key(physical, mode);
    let page = this.pages.get(key);
    if (!page) {
      page = emptyPage(physical, mode);
      this.pages.set(key, page);
    }
    page.spill.add(block);
    page.granules |= 1;
    this.marks[physical >>> 12] = 1;
    this.onMark(physical);
  }

  /** Called when a page comes to hold code: the TLB must not let writes by. */
  onMark: (physical: number) => void = () => undefined;

  /** Runs before an instruction that crosses pages (is the next page what it was?) or one in a limited mode. 1: go on. */
  private cross(record: number): number {
    if (this.host.u16[(record + R.R0) >> 1] === LIMITS)
      return this.host.checkAccesses(this.insns[this.host.i32[(record + R.AUX) >> 2]!]!, record);
    const second = this.host.fetchNextPage(record);
    if (second < 0) return 0;
    const expected = this.host.i32[(record + R.DISP) >> 2]!;
    if (second === expected) return 1;
    // Another page is mapped there now: decode the instruction afresh.
    const block = this.blockOf(record);
    if (block) this.dropBlock(block);
    this.host.rewind(record);
    return 0;
  }

  private dropBlock(block: Block): void {
    const { i32: w } = this.host;
    for (let k = 0; k < block.records; k++) w[(block.record + k * R.SIZE + R.FN) >> 2] = Slot.Resync;
    block.page.blocks.delete(block.offset);
    this.forget(block);
    this.jumps.clear();
  }

  private clearRecord(record: number): void {
    this.host.i32.fill(0, record >> 2, (record + R.SIZE) >> 2);
  }

  private fillRecord(record: number, insn: Insn, offset: number, count: number): void {
    const { u8, u16, i32: w, state } = this.host;
    let next = 0;
    insn.operands.forEach((o, k) => {
      if (o.kind !== 'reg') return;
      const spec = insn.def.specs[k]!;
      if (spec[0] === 'A' || spec === 'CL' || spec === 'DX') return;
      const address =
        o.cls === 'gpr'
          ? state + S.GPR + o.reg * 8 + (o.high ? 1 : 0)
          : o.cls === 'xmm'
            ? state + S.XMM + o.reg * 16
            : o.cls === 'mmx'
              ? state + S.X87 + o.reg * 16
              : o.reg;
      u16[(record + (next++ === 0 ? R.R0 : R.R1)) >> 1] = address;
    });
    const m = insn.mem;
    const zero = state + S.ZERO;
    u16[(record + R.BASE) >> 1] = zero;
    u16[(record + R.INDEX) >> 1] = zero;
    const seg = m ? m.seg : insn.segment >= 0 ? insn.segment : 3;
    u16[(record + R.SEG) >> 1] = usesSegment(insn) ? state + S.SEG_BASE + seg * 8 : zero;
    const last = insn.operands[insn.operands.length - 1];
    if (last?.kind === 'imm' && last.size === 8) {
      w[(record + R.DISP) >> 2] = insn.imm;
      w[(record + R.IMM) >> 2] = insn.immHigh;
    } else w[(record + R.IMM) >> 2] = insn.imm;
    if (m) {
      let disp = m.disp;
      if (m.base === 16) {
        u16[(record + R.BASE) >> 1] = state + S.VPC;
        disp += offset + insn.len;
        if (farFromRip(m)) {
          disp -= FAR_PART;
          u16[(record + R.INDEX) >> 1] = state + S.FAR_PART;
        }
      } else if (m.base >= 0) u16[(record + R.BASE) >> 1] = state + S.GPR + m.base * 8;
      if (m.index >= 0) u16[(record + R.INDEX) >> 1] = state + S.GPR + m.index * 8;
      w[(record + R.DISP) >> 2] = disp;
      if (memForm(insn) === 3) w[(record + R.IMM) >> 2] = m.dispHigh;
      u8[record + R.SCALE] = m.scale;
    } else u8[record + R.SCALE] = insn.modrm & 7;
    u8[record + R.LEN] = insn.len;
    u16[(record + R.OFFSET) >> 1] = offset;
    u16[(record + R.COUNT) >> 1] = count;
  }

  /** Which instructions' flag results nobody can see: overwritten before anything reads them or can fault. */
  private deadFlags(insns: readonly Insn[]): boolean[] {
    const dead = new Array<boolean>(insns.length).fill(false);
    let live = ARITH;
    for (let k = insns.length - 1; k >= 0; k--) {
      const d = insns[k]!.def;
      const written = flagsWritten(insns[k]!);
      dead[k] = written !== 0 && (live & written) === 0;
      live = (live & ~written) | flagsRead(insns[k]!);
      if (insns[k]!.mem || d.faults || !d.emit || d.ends) live = ARITH;
      else if (touchesMemory(insns[k]!)) live = ARITH;
    }
    return dead;
  }

  /** Runs that make a block hot. A system's own code is there for all programs and pays for compiling it sooner. */
  heat(mode: Mode): number {
    return modeIsUser(mode) ? this.host.heat : Math.ceil(this.host.heat / 2);
  }

  /** How often a block has run in the interpreter, as a share of the runs that make one hot; 1 where that is not counted. */
  share(block: Block): number {
    if (block.inRegion || this.host.heat <= 1) return 1;
    return block.heated ? 1 + this.overdue(block) / this.heat(block.page.mode) : FEW;
  }

  /** How often a block has run since its counter came to 0; negative before. */
  overdue(block: Block): number {
    return -this.host.i32[(block.last + R.AUX) >> 2]!;
  }

  /** Sets a block's heat counter, if its last record has one. */
  reheat(block: Block, heat: number): void {
    if (!block.heated) return;
    this.host.i32[(block.last + R.AUX) >> 2] = heat;
  }

  // ---- links ----

  /** Links a branch record to its target in the same page and returns the target's record. `which`: 0 taken, 1 next. */
  link(record: number, which: number): number {
    const { u16, i32: w } = this.host;
    const block = this.blockOf(record);
    const offset = u16[(record + (which ? R.R1 : R.R0)) >> 1]!;
    if (!block) return 0;
    const generation = this.generation;
    const to = this.block(block.page.physical + offset, block.page.mode);
    if (this.generation === generation && w[(record + R.FN) >> 2] !== Slot.Resync)
      w[(record + (which ? R.IMM : R.DISP)) >> 2] = to.record;
    return to.record;
  }

  /** Zeroed bytes that live as long as the translations: tables of compiled regions. @returns their address */
  bytes(size: number): number {
    const at = this.next;
    this.next += Math.ceil(size / R.SIZE) * R.SIZE;
    this.host.u8.fill(0, at, at + size);
    return at;
  }

  setWord(address: number, value: number): void {
    this.host.i32[address >> 2] = value;
  }

  /** Writes a 64-bit integer. */
  setDouble(address: number, value: number): void {
    this.setWord(address, value % 2 ** 32);
    this.setWord(address + 4, Math.floor(value / 2 ** 32));
  }

  setByte(address: number, value: number): void {
    this.host.u8[address] = value;
  }

  /** Room for a batch of regions' stubs and tables; if there is none, everything is dropped. @returns whether there is */
  reserve(size: number): boolean {
    if (this.next + size <= RECORDS + RECORDS_BYTES) return true;
    this.flush();
    return false;
  }

  /** A record that leads to an offset in a page, for exits of regions: the block's own, or one that links to it later. */
  stub(page: CodePage, offset: number): number {
    const known = page.blocks.get(offset);
    if (known) return known.record;
    const record = this.next;
    this.next += R.SIZE;
    const { u16, i32: w } = this.host;
    this.clearRecord(record);
    w[(record + R.FN) >> 2] = Slot.GoOnNear;
    u16[(record + R.OFFSET) >> 1] = offset;
    u16[(record + R.R1) >> 1] = offset;
    w[(record + R.AUX) >> 2] = 0x7fffffff;
    const block = new Block(
      {
        page,
        offset,
        record,
        records: 1,
        count: 0,
        end: offset,
        target: undefined,
        branches: false,
        last: record,
        handler: Slot.GoOnNear,
        heated: false,
        raises: false,
        crosses: false,
      },
      this.host.u8,
    );
    block.compiled = true;
    this.register(block);
    page.stubs.push(block);
    return record;
  }

  // ---- invalidation ----

  /** Whether a write of `size` bytes within a page would touch translated code. */
  hits(physical: number, size: number): boolean {
    const page = physical - (physical & 0xfff);
    const from = (physical & 0xfff) >> 7;
    const to = Math.min(31, ((physical & 0xfff) + size - 1) >> 7);
    for (let mode = 0; mode < MODES; mode++) {
      if (!((this.modes >> mode) & 1)) continue;
      const p = this.pages.get(CodeCache.key(page, mode as Mode));
      if (p) for (let g = from; g <= to; g++) if (p.granules & (1 << g)) return true;
    }
    return false;
  }

  /** Bytes of a page with code are about to change. @returns whether translations were dropped */
  written(physical: number, size: number): boolean {
    const page = physical - (physical & 0xfff);
    const from = (physical & 0xfff) >> 7;
    const to = Math.min(31, ((physical & 0xfff) + size - 1) >> 7);
    let mask = 0;
    for (let g = from; g <= to; g++) mask |= 1 << g;
    let dropped = false;
    let rest = false;
    for (let mode = 0; mode < MODES; mode++) {
      if (!((this.modes >> mode) & 1)) continue;
      const p = this.pages.get(CodeCache.key(page, mode as Mode));
      if (!p) continue;
      if (p.granules & mask) {
        this.dropPage(p);
        dropped = true;
      } else rest = true;
    }
    if (dropped) {
      if (!rest) this.marks[page >>> 12] = 0;
      this.jumps.clear();
    }
    return dropped;
  }

  private dropPage(p: CodePage): void {
    const { i32: w } = this.host;
    const drop = (b: Block): void => {
      for (let k = 0; k < b.records; k++) w[(b.record + k * R.SIZE + R.FN) >> 2] = Slot.Resync;
      this.forget(b);
    };
    for (const b of p.blocks.values()) drop(b);
    for (const b of p.stubs) drop(b);
    for (const b of p.spill) {
      drop(b);
      b.page.blocks.delete(b.offset);
    }
    // Whoever still holds the page or a block of it must find that it is gone.
    p.blocks.clear();
    p.spill.clear();
    p.stubs.length = 0;
    for (const f of p.onDrop) f();
    p.onDrop.clear();
    this.plainFloats.delete(p.physical);
    this.pages.delete(CodeCache.key(p.physical, p.mode));
  }

  /** Drops everything: no room is left, or what translation depended on has changed. */
  flush(): void {
    for (const p of [...this.pages.values()]) this.dropPage(p);
    this.pages.clear();
    this.blockList = [undefined];
    this.blockNumbers.fill(0);
    this.entryKeys.fill(-1);
    this.marks.fill(0);
    this.jumps.clear();
    // Whoever still runs old records finds `resync` there: the area is used again only from its other half on.
    this.next = this.next > RECORDS + RECORDS_BYTES / 2 ? RECORDS : this.next;
    this.generation++;
    this.insns = [];
    this.onFlush();
  }
}

const emptyPage = (physical: number, mode: Mode): CodePage => ({
  physical,
  mode,
  blocks: new Map(),
  spill: new Set(),
  stubs: [],
  granules: 0,
  onDrop: new Set(),
});

/** Instructions with implicit memory operands (stack and string instructions), which may fault. */
function touchesMemory(insn: Insn): boolean {
  const { id, name } = insn.def;
  return (IMPLICIT_MEMORY[id] ??=
    /^(push|pop|call|ret|enter|leave|movs$|stos|lods|cmps$|scas|ins|outs|xlat|maskmov)/.test(name));
}
const IMPLICIT_MEMORY: boolean[] = [];
