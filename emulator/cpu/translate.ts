/**
 * Guest bytes to decoded records: what a block is made of. All cold code comes through here, so an instruction that is like
 * one before costs a look at a table (templates.ts) and a copy of its words.
 */
import { Block, type CodePage } from './block.ts';
import type { CodeHost } from './code.ts';
import { decode } from './decoder.ts';
import { type Handler, Slot } from './handler-modules.ts';
import type { Handlers } from './handlers.ts';
import { fuses, layoutOf, memForm } from './interp.ts';
import { NO_INSN, type Insn } from './insn.ts';
import { FS, modeBits, modeIsLimited, modeIsUser, modeStack, type Mode, RAM_BASE, S } from './layout.ts';
import {
  type BranchShape,
  CHECK_SIZE,
  Form,
  hasHeat,
  HEADER_SIZE,
  isNamed,
  metaAddress,
  metaWord,
  PAGE_CHECK_SIZE,
  R,
  RAISE_SIZE,
  type RecordLayout,
} from './record.ts';
import { findDeadFlags, Template, Templates, type Variant } from './templates.ts';

/** Most instructions of a block; long straight code is cut so that fuel and interrupts are looked at. */
export const MAX_BLOCK = 48;

/** What a check's record checks: that the next page is the one expected, or segment limits and alignment. */
export const Check = { NextPage: 0, Limits: 1 } as const;

/** By `takenNear` (1) and `nextNear` (2). */
const SHAPES: readonly BranchShape[] = [0, 1, 2, 3].map((n) => ({ takenNear: (n & 1) !== 0, nextNear: n > 1 }));

export class Translator {
  /** Instructions by the index in their record's AUX, for helpers and checks. */
  insns: Insn[] = [];
  /** The page that the last block crosses into, if there is one; −1. */
  otherPage = -1;
  private readonly templates = new Templates();
  private readonly crossBytes = new Uint8Array(32);
  // Of the block under way, by instruction: template, offset in the page (of the next one, too), displacement, immediate,
  // whether its flags are dead, handler, record.
  private readonly found: Template[] = [];
  private readonly offsets = new Int32Array(MAX_BLOCK + 1);
  private readonly disps = new Int32Array(MAX_BLOCK);
  private readonly imms = new Int32Array(MAX_BLOCK);
  private readonly dead = new Uint8Array(MAX_BLOCK);
  private readonly using: Handler[] = [];
  private readonly records = new Int32Array(MAX_BLOCK);
  /** Of the block under way: its first record, and where the next one goes. */
  private start = 0;
  private record = 0;

  /** @param heat executions until a block of a mode is reported */
  constructor(
    private readonly host: CodeHost,
    private readonly handlers: Handlers,
    private readonly heat: (mode: Mode) => number,
  ) {}

  /**
   * Decodes a block.
   *
   * @param offset of its first instruction in the page
   * @param most most instructions
   * @param at where its header and records go
   */
  translate(page: CodePage, offset: number, most: number, at: number): Block {
    const { host, found, offsets, disps, imms } = this;
    const { u8 } = host;
    const { mode } = page;
    const base = RAM_BASE + page.physical;
    const bits = modeBits(mode);
    const stack = modeStack(mode);
    const limited = modeIsLimited(mode);
    const simple = bits === 64 && !limited;
    let count = 0;
    let end = offset;
    let vector = -1;
    let errorCode = -1;
    let crosses = false;
    let guarded = false;
    this.otherPage = -1;
    while (count < most && end < 4096) {
      let template = simple ? this.templates.find(u8, base + end, base + 4096) : undefined;
      let { length, disp, imm } = this.templates;
      if (!template) {
        let insn = decode(u8, base + end, base + 4096, bits, stack);
        if (insn === 'more') {
          // It crosses into the next page: a block of its own.
          if (count) break;
          crosses = true;
          const cross = this.decodeCrossing(page, end, bits);
          // Where the next page faults, the check record will raise that fault when it runs.
          if (!cross) break;
          insn = cross.insn;
        }
        if (typeof insn === 'string') {
          if (insn === 'ud') vector = 6;
          else {
            vector = 13;
            errorCode = 0;
          }
          break;
        }
        template = simple ? this.templates.make(insn) : new Template(insn);
        length = insn.len;
        disp = insn.mem?.disp ?? 0;
        ({ imm } = insn);
      }
      const { insn } = template;
      const d = insn.def;
      if (d.privileged && modeIsUser(mode)) {
        vector = 13;
        errorCode = 0;
        break;
      }
      if (d.unit) {
        const fault = host.unitFault(d.unit);
        if (fault) {
          vector = fault;
          break;
        }
      }
      if (bits !== 64 && !limited) {
        const segment = insn.mem ? insn.mem.seg : insn.segment;
        if (segment >= FS && host.throughSegment(segment)) {
          // A null segment: a block of its own, that is checked.
          if (count) break;
          guarded = true;
        }
      }
      found[count] = template;
      offsets[count] = end;
      disps[count] = disp;
      imms[count] = imm;
      count++;
      end += length;
      offsets[count] = end;
      if (d.ends || crosses || guarded) break;
    }
    const raises = vector >= 0;
    const last = count ? found[count - 1]!.insn.def : undefined;
    const branches = !raises && last !== undefined && last.ends;
    const { u16, i32: w } = host;
    this.start = this.record = at + HEADER_SIZE;
    w[at >> 2] = 0;
    if (crosses) {
      this.begin(Slot.PageCheck, offset, 0, 1);
      u8[this.record + R.CHECK] = Check.NextPage;
      // The page that it was decoded from, also where the bytes are no instruction; -1: no page was there.
      w[(this.record + R.AUX) >> 2] = this.otherPage;
      w[(this.record + R.EPOCH) >> 2] = 0;
      this.end(PAGE_CHECK_SIZE);
    }
    findDeadFlags(found, imms, count, this.dead);
    const target = this.writeRecords(page, count, crosses, limited || guarded);
    let lastRecord = count ? this.records[count - 1]! : this.start;
    if (raises) {
      lastRecord = this.record;
      this.begin(Slot.Raise, end, 0, count + 1);
      u8[lastRecord + R.VECTOR] = vector;
      w[(lastRecord + R.CODE) >> 2] = errorCode;
      this.end(RAISE_SIZE);
    } else if (!branches) {
      lastRecord = this.record;
      const shape = { takenNear: false, nextNear: end < 4096 };
      this.begin(shape.nextNear ? Slot.GoOnNear : Slot.GoOnFar, end, 0, count);
      const layout = layoutOf(NO_INSN, shape);
      this.fill(lastRecord, layout, NO_INSN, end, count, 0);
      w[(lastRecord + R.AUX) >> 2] = this.heat(mode);
      this.end(layout.size);
    }
    this.handlers.makeMissing();
    return new Block(
      {
        page,
        offset,
        record: this.start,
        recordsEnd: this.record,
        count,
        end,
        target,
        branches,
        last: lastRecord,
        handler: u16[(this.start + R.FN) >> 1]!,
        heated: !raises && (!branches || hasHeat(found[count - 1]!.insn)),
        raises,
        crosses: crosses || guarded,
      },
      u8,
    );
  }

  /**
   * Writes the records of the block under way.
   *
   * @param checked each instruction has a check before it
   * @returns the offset of the last instruction's target from the page's start, if it has one
   */
  private writeRecords(page: CodePage, count: number, crosses: boolean, checked: boolean): number | undefined {
    const { host, handlers, found, offsets, imms, dead, using, records } = this;
    const { u8, u16, i32: w } = host;
    let target: number | undefined;
    let shape = 0;
    for (let k = 0; k < count; k++) {
      const template = found[k]!;
      const { insn } = template;
      const at = offsets[k]!;
      const after = offsets[k + 1]!;
      if (checked) {
        this.begin(Slot.CrossCheck, at, insn.len, k + 1);
        u8[this.record + R.CHECK] = Check.Limits;
        w[(this.record + R.AUX) >> 2] = this.insns.length;
        this.insns.push(insn);
        this.end(CHECK_SIZE);
      }
      let near = 0;
      if (template.relative) {
        near = after + imms[k]!;
        const cut = insn.bits !== 64 && insn.size === 2;
        shape = (!crosses && !cut && near >= 0 && near < 4096 ? 1 : 0) + (!crosses && after < 4096 ? 2 : 0);
        target = cut ? undefined : near;
      }
      const { record } = this;
      records[k] = record;
      const kind = dead[k]! + shape * 2;
      const variant = template.variants[kind];
      const handler = variant?.handler ?? handlers.handler(insn, dead[k] === 1, SHAPES[shape]!);
      this.begin(handler.slot, at, after - at, k + 1);
      if (variant) this.copy(variant, template, k, near);
      else {
        this.fill(record, handler.layout, insn, after, k + 1, near);
        // The template's instruction may be another one than this.
        if (template.kept) this.copy(this.keep(template, kind, handler), template, k, near);
      }
      using[k] = handler;
      if (insn.def.helper !== undefined) {
        w[(record + R.AUX) >> 2] = this.insns.length;
        this.insns.push(insn);
      } else if (insn.def.ends) w[(record + R.AUX) >> 2] = this.heat(page.mode);
      if (handlers.recorded && !crosses) {
        const before = checked || k === 0 ? undefined : found[k - 1]!.insn;
        handlers.note(u8, RAM_BASE + page.physical + at, insn, dead[k] === 1, SHAPES[shape]!, before);
      }
      this.end(handler.layout.size);
    }
    if (checked) return target;
    for (let k = 0; k < count - 1; k++) {
      let slot = crosses ? undefined : handlers.run(using, k, count);
      // Only the last instruction is a branch.
      if (slot === undefined && k === count - 2 && fuses(found[k]!.insn, found[k + 1]!.insn))
        ({ slot } = handlers.pair(found[k]!.insn, found[k + 1]!.insn, SHAPES[shape]!));
      if (slot !== undefined) u16[(records[k]! + R.FN) >> 1] = slot;
    }
    return target;
  }

  /** Begins the next record, of an instruction at an offset: its handler, and what lies beside it. */
  private begin(slot: number, at: number, length: number, count: number): void {
    const { record } = this;
    this.host.u16[(record + R.FN) >> 1] = slot;
    this.host.i32[metaAddress(record) >> 2] = metaWord(at, length, count, (record - this.start) >> 2);
  }

  /** Ends it. */
  private end(size: number): void {
    const { i32: w } = this.host;
    const beside = metaAddress(this.record) >> 2;
    for (let k = (size >> 2) - 1; k > 0; k--) w[beside + k] = 0;
    this.record += size;
  }

  /** Keeps the record under way for what is like its instruction. */
  private keep(template: Template, kind: number, handler: Handler): Variant {
    const { record } = this;
    const words: number[] = [];
    for (let at = record; at < record + handler.layout.size; at += 4) words.push(this.host.i32[at >> 2]!);
    return (template.variants[kind] = { handler, words });
  }

  /** Writes the record of the `k`th instruction from its template: what is its own is filled in. */
  private copy({ handler, words }: Variant, { insn }: Template, k: number, near: number): void {
    const { u8, u16, i32: w } = this.host;
    const { record } = this;
    const { layout } = handler;
    const first = record >> 2;
    for (let i = 0; i < words.length; i++) w[first + i] = words[i]!;
    const after = this.offsets[k + 1]!;
    const { mem } = insn;
    if (mem) w[(record + layout.disp) >> 2] = mem.base === 16 ? this.disps[k]! + after : this.disps[k]!;
    if (layout.imm >= 0) w[(record + layout.imm) >> 2] = this.imms[k]!;
    if (layout.count < 0) return;
    u8[record + layout.count] = k + 1;
    u16[(record + layout.after) >> 1] = after;
    if (layout.target >= 0) u16[(record + layout.target) >> 1] = near;
  }

  /** Decodes an instruction that runs into the next page, if that page is there. */
  private decodeCrossing(page: CodePage, at: number, bits: 64 | 32 | 16): { insn: Insn | 'ud' | 'gp' } | undefined {
    const second = this.host.fetchNextPage(-1);
    this.otherPage = second;
    if (second < 0) return undefined;
    const { u8, ramSize } = this.host;
    const head = 4096 - at;
    this.crossBytes.fill(0xff);
    this.crossBytes.set(u8.subarray(RAM_BASE + page.physical + at, RAM_BASE + page.physical + 4096));
    if (second + 4096 <= ramSize) this.crossBytes.set(u8.subarray(RAM_BASE + second, RAM_BASE + second + 16), head);
    const insn = decode(this.crossBytes, 0, 15, bits, modeStack(page.mode));
    return { insn: insn === 'more' ? 'gp' : insn };
  }

  /**
   * Writes what a record has besides its handler and R.AUX.
   *
   * @param after offset of the next instruction in the page
   * @param count position in the block, from 1
   * @param target offset of a branch's target in the page
   */
  fill(record: number, layout: RecordLayout, insn: Insn, after: number, count: number, target: number): void {
    const { u8, u16, i32: w } = this.host;
    let next = layout.r0;
    if (next >= 0)
      for (let k = 0; k < insn.operands.length; k++) {
        const o = insn.operands[k]!;
        if (o.kind !== 'reg' || !isNamed(insn, k)) continue;
        const wide = o.cls === 'xmm' || o.cls === 'mmx';
        u8[record + next] = o.cls === 'gpr' ? o.reg * 8 + (o.high ? 1 : 0) : wide ? o.reg * 16 : o.reg;
        next = layout.r1;
      }
    const m = insn.mem;
    if (layout.seg >= 0) {
      const seg = m ? m.seg : insn.segment >= 0 ? insn.segment : 3;
      u8[record + layout.seg] = S.SEG_BASE + seg * 8;
    }
    if (layout.imm >= 0) {
      w[(record + layout.imm) >> 2] = insn.imm;
      const last = insn.operands[insn.operands.length - 1];
      if (last?.kind === 'imm' && last.size === 8) w[(record + layout.imm + 4) >> 2] = insn.immHigh;
    }
    if (m) {
      let disp = m.disp;
      let high = m.dispHigh;
      if (m.base === 16) {
        u8[record + layout.base] = S.VPC;
        disp += after;
        high = Math.floor(disp / 2 ** 32);
      } else if (layout.base >= 0) u8[record + layout.base] = m.base >= 0 ? S.GPR + m.base * 8 : S.ZERO;
      if (layout.index >= 0) {
        u8[record + layout.index] = m.index >= 0 ? S.GPR + m.index * 8 : S.ZERO;
        u8[record + layout.scale] = m.scale;
      }
      w[(record + layout.disp) >> 2] = disp;
      if (memForm(insn) >= Form.Absolute) w[(record + layout.disp + 4) >> 2] = high;
    }
    if (layout.st >= 0) u8[record + layout.st] = insn.modrm & 7;
    if (layout.count >= 0) u8[record + layout.count] = count;
    if (layout.after >= 0) u16[(record + layout.after) >> 1] = after;
    if (layout.target >= 0) u16[(record + layout.target) >> 1] = target;
    if (layout.taken >= 0) w[(record + layout.taken) >> 2] = 0;
    if (layout.next >= 0) w[(record + layout.next) >> 2] = 0;
  }
}
