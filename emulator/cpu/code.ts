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
import { Slot } from './handler-modules.ts';
import { Handlers, type HandlerHost } from './handlers.ts';
import { layoutOf } from './interp.ts';
import { NO_INSN, type Insn } from './insn.ts';
import { CallSite } from './jit/guards.ts';
import { JumpCaches } from './jump-cache.ts';
import { JUMP_CACHE_HASH, modeIsUser, type Mode, MODES, RECORDS, RECORDS_BYTES, S } from './layout.ts';
import { backOf, HEADER_SIZE, metaAddress, metaWord, R } from './record.ts';
import { Check, MAX_BLOCK, Translator } from './translate.ts';

/** Table slots that are to be free: more than a batch of regions takes, or the handlers of a block. */
const LEAST_SLOTS = 128;
/** More than the records of a block take. */
const MOST_BYTES = 0x4000;
/** The share that is taken for blocks without a counter: enough for a region in their own page. */
const FEW = 1 / 128;

/** Places of `entry`'s table, direct-mapped; a power of two. */
const ENTRIES = 1 << 15;
const entryIndex = (physical: number, mode: Mode): number =>
  (Math.imul(physical + mode, JUMP_CACHE_HASH) >>> 8) & (ENTRIES - 1);

export interface CodeHost extends HandlerHost {
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly i32: Int32Array;
  readonly ramSize: number;
  /** Executions until a block of user code is reported; of other code half as many. */
  readonly heat: number;
  /** Physical address of the page after the one that S.VPC is in, or −1 after recording a fault. */
  fetchNextPage(record: number): number;
  /** After `fetchNextPage`. @returns the epoch of translations, which is another one from when that page's may have changed */
  watchNextPage(): number;
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
  private readonly translator: Translator;
  private readonly pages = new Map<number, CodePage>();
  /** Modes that there has been code of, a bit each. */
  private modes = 0;
  /** By physical page number: 1 where there is translated code. */
  private readonly marks: Uint8Array;
  private next = RECORDS;
  /** Blocks by number, from 1. */
  private blockList: (Block | undefined)[] = [undefined];
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
    this.translator = new Translator(host, this.handlers, (mode) => this.heat(mode));
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

  allPages(): Iterable<CodePage> {
    return this.pages.values();
  }

  /** Whether a block's page has not been dropped. */
  has(block: Block): boolean {
    const { page } = block;
    return this.page(page.physical, page.mode) === page && page.blocks.get(block.offset) === block;
  }

  /** The instruction that a record's AUX leads to, for helpers. */
  insnOf(record: number): Insn {
    return this.translator.insns[this.host.i32[(record + R.AUX) >> 2]!]!;
  }

  /** The block that a record belongs to, while it is there. */
  blockOf(record: number): Block | undefined {
    const first = record - backOf(this.host.i32[metaAddress(record) >> 2]!);
    const block = this.blockList[this.host.i32[(first - HEADER_SIZE) >> 2]! >>> 8];
    return block?.record === first ? block : undefined;
  }

  private register(block: Block): void {
    const number = this.blockList.push(block) - 1;
    this.host.i32[(block.record - HEADER_SIZE) >> 2] = number << 8;
  }

  private forget(block: Block): void {
    this.forgetEntry(block);
    this.blockList[this.host.i32[(block.record - HEADER_SIZE) >> 2]! >>> 8] = undefined;
  }

  /** Which entry of its region a block is: the region's code asks, where it has more than one. */
  setEntry(block: Block, entry: number): void {
    this.host.u8[block.record - HEADER_SIZE] = entry;
  }

  /** The handler of a block's first record. */
  setHandler(block: Block, slot: number): void {
    this.host.u16[(block.record + R.FN) >> 1] = slot;
  }
  handlerOf(block: Block): number {
    return this.host.u16[(block.record + R.FN) >> 1]!;
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

  private decodeBlock(page: CodePage, offset: number, most: number): Block {
    this.reserve(MOST_BYTES);
    const block = this.translator.translate(page, offset, most, this.next);
    if (most > 1) {
      this.next = block.recordsEnd;
      this.register(block);
      const { otherPage } = this.translator;
      if (otherPage >= 0) this.noteSpill(otherPage, page.mode, block);
    }
    return block;
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
    if (this.host.u8[record + R.CHECK] === Check.Limits) return this.host.checkAccesses(this.insnOf(record), record);
    const second = this.host.fetchNextPage(record);
    if (second < 0) return 0;
    const { i32: w, state } = this.host;
    if (second === w[(record + R.AUX) >> 2]!) {
      w[(record + R.EPOCH) >> 2] = this.host.watchNextPage();
      w[(record + R.PLACE) >> 2] = w[(state + S.VPC) >> 2]!;
      w[(record + R.PLACE + 4) >> 2] = w[(state + S.VPC + 4) >> 2]!;
      return 1;
    }
    // Another page is mapped there now: decode the instruction afresh.
    const block = this.blockOf(record);
    if (block) this.dropBlock(block);
    this.host.rewind(record);
    return 0;
  }

  private dropBlock(block: Block): void {
    this.dropRecords(block);
    block.page.blocks.delete(block.offset);
    this.jumps.clear();
  }

  /** Whoever still runs a block's records goes back to the run loop. */
  private dropRecords(block: Block): void {
    const { u16, i32: w } = this.host;
    for (let record = block.record; record < block.recordsEnd; record += 4)
      if (w[metaAddress(record) >> 2] !== 0) u16[(record + R.FN) >> 1] = Slot.Resync;
    this.forget(block);
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

  /**
   * Links a block's last record to its target in the same page and returns the target's record. `which`: 0 taken, 1 next.
   */
  link(record: number, which: number): number {
    const { u16, i32: w } = this.host;
    const block = this.blockOf(record);
    if (!block) return 0;
    const { target } = block;
    const near = target !== undefined && target >= 0 && target < 4096;
    const { generation } = this;
    const to = this.block(block.page.physical + (which ? block.end : target!), block.page.mode);
    if (this.generation === generation && u16[(record + R.FN) >> 1] !== Slot.Resync)
      w[(record + R.LINKS + (which && near ? 4 : 0)) >> 2] = to.record;
    return to.record;
  }

  /** Zeroed bytes that live as long as the translations: tables of compiled regions. @returns their address */
  bytes(size: number): number {
    const at = (this.next + 15) & ~15;
    this.next = at + ((size + 3) & ~3);
    this.host.u8.fill(0, at, at + size);
    return at;
  }

  /** Where the targets of a block's last instruction, a call, are noted. */
  siteOf(b: Block): number {
    // A block that is cut in a region, or is a piece of another one, is not the one that is kept.
    const block = b.page.blocks.get(b.offset) ?? b;
    return (block.site ||= this.bytes(CallSite.SIZE));
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

  /** Room for a block, or for a batch of regions' stubs and tables; if there is none, everything is dropped. @returns whether there is */
  reserve(size: number): boolean {
    if (this.next + size <= RECORDS + RECORDS_BYTES && this.handlers.freeCount >= LEAST_SLOTS) return true;
    this.flush();
    return false;
  }

  /** A record that leads to an offset in a page, for exits of regions: the block's own, or one that links to it later. */
  stub(page: CodePage, offset: number): number {
    const known = page.blocks.get(offset);
    if (known) return known.record;
    const record = this.next + HEADER_SIZE;
    const layout = layoutOf(NO_INSN, { takenNear: false, nextNear: true });
    this.next = record + layout.size;
    const { u16, i32: w } = this.host;
    w.fill(0, metaAddress(record) >> 2, metaAddress(this.next) >> 2);
    w[metaAddress(record) >> 2] = metaWord(offset, 0, 1, 0);
    u16[(record + R.FN) >> 1] = Slot.GoOnNear;
    this.translator.fill(record, layout, NO_INSN, offset, 0, 0);
    w[(record + R.AUX) >> 2] = 0x7fffffff;
    const block = new Block(
      {
        page,
        offset,
        record,
        recordsEnd: this.next,
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
    for (const b of p.blocks.values()) this.dropRecords(b);
    for (const b of p.stubs) this.dropRecords(b);
    for (const b of p.spill) {
      this.dropRecords(b);
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
    this.entryKeys.fill(-1);
    this.marks.fill(0);
    this.jumps.clear();
    // Whoever still runs old records finds `resync` there: the area is used again only from its other half on.
    this.next = this.next > RECORDS + RECORDS_BYTES / 2 ? RECORDS : this.next;
    this.generation++;
    this.translator.insns = [];
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
