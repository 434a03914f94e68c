/**
 * Decoded records: what the interpreter reads of an instruction. A record has just the fields that its handler needs, packed
 * to 4 bytes, so that wide programs keep their records in the host's caches: some 8 bytes an instruction, as long as its
 * code. Where the fields are depends on the instruction's shape alone (`shapeKey` in interp.ts), so a handler knows it.
 *
 * Before a block's first record is a word with the block's number and which entry of its region it is. What only slow
 * paths ask for lies apart, in a table beside the area (`META`): a word for each 4 bytes of it, set at each record's start.
 */
import { META, RECORDS, S } from './layout.ts';
import type { Insn } from './insn.ts';
import { i32, type Expr } from './wasm/expr.ts';

/** Fields that are at the same place in all records that have them; see `RecordLayout` for the others. */
export const R = {
  /** Table index of the handler (u16). */
  FN: 0,
  /** Index into the processor's table of decoded instructions, for helpers; or a block's heat counter (i32). */
  AUX: 4,
  /**
   * Of a branch: links to the records of a near target and of a near next instruction, 0 before they are known (i32); the
   * second takes the place of the first where the target is not near.
   */
  LINKS: 8,
  /** Of a check before an instruction (CrossCheck, PageCheck): what is checked (u8). AUX is the page expected, or leads to the instruction. */
  CHECK: 2,
  /** Of a PageCheck: it has been passed in this epoch of translations (i32; 0: none) from the page at this linear address (i64). */
  EPOCH: 8,
  PLACE: 12,
  /** Of a record that raises an exception: vector (u8), error code (i32). */
  VECTOR: 2,
  CODE: 4,
} as const;
/** Bytes of these kinds of records. */
export const CHECK_SIZE = 8;
export const PAGE_CHECK_SIZE = 20;
export const RAISE_SIZE = 8;
/** Bytes of the word before a block's first record: the entry's number (8 bits), above it the block's (24 bits). */
export const HEADER_SIZE = 4;

/** Where a record's fields are, in bytes; −1 where it has no such field. */
export interface RecordLayout {
  /** Bytes, a multiple of 4. */
  readonly size: number;
  /** State offsets of register operands, from their class's registers on (u8). */
  readonly r0: number;
  readonly r1: number;
  /** State offsets of base, index and segment base (u8). */
  readonly base: number;
  readonly index: number;
  readonly seg: number;
  /** log2 of the index scale (u8). */
  readonly scale: number;
  /** The i of ST(i) (u8). */
  readonly st: number;
  /** Displacement, sign-extended (i32), or of 64 bits (at any multiple of 4). */
  readonly disp: number;
  /** Immediate, sign-extended where the instruction says so (i32), or of 64 bits. For far branches: displacement. */
  readonly imm: number;
  /** Of a block's last record: the number of its instructions (u8). */
  readonly count: number;
  /** Offset of the next instruction from the page's start (u16), 0 to 4096. */
  readonly after: number;
  /** Offset of a near branch's target in its page (u16). */
  readonly target: number;
  /** R.LINKS, where it has them. */
  readonly taken: number;
  readonly next: number;
}

/** Where a branch goes: `near` targets are in the branch's page and linked record to record. */
export interface BranchShape {
  takenNear: boolean;
  nextNear: boolean;
}

/**
 * How an address is formed: base + displacement; + index; everything; 64-bit absolute; the first and third with a
 * displacement of 64 bits and without an index (from RIP, with the instruction's place in its page added).
 */
export const Form = { Base: 0, Index: 1, All: 2, Absolute: 3, Far: 4, FarAll: 5 } as const;
export type Form = (typeof Form)[keyof typeof Form];

/** Puts fields of 1, 2, 4 or 8 bytes one after the other into the first holes that they fit in. */
class Packer {
  private readonly taken: boolean[] = [];
  place(bytes: 1 | 2 | 4 | 8): number {
    const step = Math.min(bytes, 4);
    for (let at = 0; ; at += step) {
      let free = true;
      for (let k = 0; k < bytes; k++) if (this.taken[at + k]) free = false;
      if (!free) continue;
      for (let k = 0; k < bytes; k++) this.taken[at + k] = true;
      return at;
    }
  }
  get size(): number {
    return (this.taken.length + 3) & ~3;
  }
}

/** Whether operand `k`, a register, is named by the record: not where the definition names it. */
export function isNamed(insn: Insn, k: number): boolean {
  const spec = insn.def.specs[k]!;
  return insn.operands[k]!.kind === 'reg' && spec[0] !== 'A' && spec !== 'CL' && spec !== 'DX';
}

/** A heat counter is at the end of blocks that end in emitted code. */
export const hasHeat = (insn: Insn): boolean => insn.def.ends && insn.def.helper === undefined;

/** Lays out the record of an instruction. */
export function layoutRecord(insn: Insn, form: Form, segment: boolean, branch: BranchShape): RecordLayout {
  const p = new Packer();
  p.place(2);
  const { def, mem } = insn;
  if (def.helper !== undefined || def.ends) p.place(4); // AUX; the bytes before it are taken below
  const relative = insn.operands.some((o) => o.kind === 'rel');
  const conditional = !relative || !/^(jmp|call)$/.test(def.name);
  const word = (wanted: boolean): number => (wanted ? p.place(4) : -1);
  const taken = word(relative && branch.takenNear);
  const next = word(def.ends && conditional && branch.nextNear);
  const named = insn.operands.filter((_, k) => isNamed(insn, k)).length;
  const byte = (wanted: boolean): number => (wanted ? p.place(1) : -1);
  const last = insn.operands[insn.operands.length - 1];
  const immediate = insn.operands.some((o) => o.kind === 'imm');
  const indexed = mem !== undefined && (form === Form.Index || form === Form.All);
  const long = form >= Form.Absolute;
  const count = byte(def.ends);
  const r0 = byte(named > 0);
  const r1 = byte(named > 1);
  const base = byte(mem !== undefined && form !== Form.Absolute);
  const disp = mem && long ? p.place(8) : word(mem !== undefined);
  const wide = immediate && last?.kind === 'imm' && last.size === 8;
  const far = relative && !branch.takenNear;
  const imm = wide ? p.place(8) : word(immediate || far);
  const index = byte(indexed);
  const scale = byte(indexed);
  const seg = byte(segment);
  const st = byte(def.unit === 'x87' && !mem);
  const after = def.ends ? p.place(2) : -1;
  const target = relative && branch.takenNear ? p.place(2) : -1;
  return { size: p.size, r0, r1, base, index, seg, scale, st, disp, imm, count, after, target, taken, next };
}

/** State offset that the u8 of a register operand counts from. */
export function registerBase(cls: string): number {
  return cls === 'xmm' ? S.XMM : cls === 'mmx' ? S.X87 : S.GPR;
}

// ---- the words beside the area ----

/** A word of META: offset in the page (13 bits), length (4), position in the block from 1 (6), words back to its first record (9). */
export const metaWord = (offset: number, length: number, count: number, back: number): number =>
  offset | (length << 13) | (count << 17) | (back << 23);
export const metaAddress = (record: number): number => record - RECORDS + META;
/** Offset of the instruction in its page, 0 to 4096. */
export const offsetOf = (meta: number): number => meta & 0x1fff;
/** Length of the instruction in bytes. */
export const lengthOf = (meta: number): number => (meta >>> 13) & 15;
/** Position of the instruction in its block, from 1; the last record's is the block's length. */
export const countOf = (meta: number): number => (meta >>> 17) & 63;
/** Bytes from a record back to its block's first one. */
export const backOf = (meta: number): number => (meta >>> 23) << 2;

/** The same in emitted code. */
export const meta = (record: Expr): Expr => i32.load(record, META - RECORDS);
export const metaOffset = (meta: Expr): Expr => i32.and(meta, 0x1fff);
export const metaLength = (meta: Expr): Expr => i32.and(i32.shr_u(meta, 13), 15);
export const metaCount = (meta: Expr): Expr => i32.and(i32.shr_u(meta, 17), 63);
/** Table index of a record's handler. */
export const handlerOf = (record: Expr): Expr => i32.load16_u(record, R.FN);
