/**
 * Instructions by their bytes up to displacement and immediate. Most code is made of a few thousand of these (the same
 * operation on the same registers), so translating cold code, which a first run consists of, mostly takes what was found out before:
 * decoding in full, and laying out a record, happen once for each.
 *
 * Only for 64-bit code, and for what is common there: at most one legacy prefix, no helper in TypeScript (which is given
 * the instruction itself), no address or immediate of 64 bits.
 */
import type { Handler } from './handler-modules.ts';
import { ARITH, DEFS, flagsRead, flagsWritten, type Insn } from './insn.ts';

/** Instructions with implicit memory operands (stack and string instructions), which may fault. */
const IMPLICIT_MEMORY = /^(push|pop|call|ret|enter|leave|movs$|stos|lods|cmps$|scas|ins|outs|xlat|maskmov)/;

/** By definition: whether it is one of these. */
const touching: boolean[] = [];

/** How an immediate stands in the code: its bytes, and whether they are sign-extended. */
const Imm = { None: 0, Signed8: 1, Unsigned8: 2, Unsigned16: 3, Word: 4 } as const;
type Imm = (typeof Imm)[keyof typeof Imm];

/** A template's record for one handler: its words, with what differs from one instruction to the next as it was at first. */
export interface Variant {
  readonly handler: Handler;
  readonly words: readonly number[];
}

/** What is true of all instructions that have the same bytes up to displacement and immediate. */
export class Template {
  /** Whether flags written before must be right when it begins, and which it reads and surely overwrites. */
  readonly exposes: boolean;
  readonly reads: number;
  readonly writes: number;
  /** It is a shift, whose count says whether it writes flags. */
  readonly counted: boolean;
  /** Flags that it overwrites or not, as CL says. */
  readonly sometimes: number;
  /** It ends in a relative target. */
  readonly relative: boolean;
  /** By dead flags (1), near target (2), near next instruction (4). */
  readonly variants: (Variant | undefined)[] = [];
  /** Key of `Templates`. */
  head = 0;
  sib = 0;
  immediate: Imm = Imm.None;
  /** It can be found again. */
  kept = false;

  /** @param insn one of them */
  constructor(readonly insn: Insn) {
    const { def } = insn;
    this.reads = flagsRead(insn);
    this.writes = flagsWritten(insn);
    this.counted = def.counted !== 0;
    this.sometimes = def.sometimes;
    this.relative = def.ends && insn.operands.some((o) => o.kind === 'rel');
    const implicit = (touching[def.id] ??= IMPLICIT_MEMORY.test(def.name));
    this.exposes = insn.mem !== undefined || def.faults || !def.emit || def.ends || implicit;
  }
}

/** Templates that are kept: direct-mapped; a power of two. */
const PLACE_BITS = 15;
const PLACES = 1 << PLACE_BITS;
/** Longest instruction in bytes. */
const LONGEST = 15;

/** By byte: a number from 1 for legacy prefixes that a template may have; 8 for others. */
const PREFIXES = new Uint8Array(256);
[0x66, 0xf2, 0xf3, 0x64, 0x65, 0xf0].forEach((b, k) => (PREFIXES[b] = k + 1));
for (const b of [0x26, 0x2e, 0x36, 0x3e, 0x67]) PREFIXES[b] = 8;

/** By map × 256 + opcode: 1 where all forms have a ModRM byte, 0 where none has, 2 where some have, or it is read in another way. */
let withModrm: Uint8Array | undefined;

function findModrm(): Uint8Array {
  const none = new Uint8Array(1024);
  const some = new Uint8Array(1024);
  for (const d of DEFS)
    for (let k = 0; k < (d.plusR ? 8 : 1); k++) {
      const at = d.map * 256 + d.opcode + k;
      if (d.hasModrm) some[at] = 1;
      if (!d.hasModrm || d.ignoresMod) none[at] = 1;
    }
  return some.map((x, k) => (x && none[k] ? 2 : x));
}

export class Templates {
  private readonly places: (Template | undefined)[] = new Array<undefined>(PLACES).fill(undefined);
  /** Of what `find` looked at last: length in bytes, displacement and immediate (where found). */
  length = 0;
  disp = 0;
  imm = 0;
  /** The key that it had, and its length without an immediate; head −1: it can have no template. */
  private head = -1;
  private sib = 0;
  private before = 0;

  /**
   * Looks at the bytes of 64-bit code.
   *
   * @param at index of the first byte
   * @param end index after the last byte that may be read
   * @returns what is known of the instruction, or undefined: it is to be decoded in full
   */
  find(bytes: Uint8Array, at: number, end: number): Template | undefined {
    withModrm ??= findModrm();
    this.head = -1;
    if (at + LONGEST > end) return undefined;
    let p = at;
    let b = bytes[p++]!;
    const prefix = PREFIXES[b]!;
    if (prefix) {
      if (prefix === 8) return undefined;
      b = bytes[p++]!;
      if (PREFIXES[b]) return undefined;
    }
    let rex = 0;
    if ((b & 0xf0) === 0x40) {
      rex = (b & 0x0f) | 0x10;
      b = bytes[p++]!;
      if (PREFIXES[b] || (b & 0xf0) === 0x40) return undefined;
    }
    let map = 0;
    if (b === 0x0f) {
      map = 1;
      b = bytes[p++]!;
      if (b === 0x38 || b === 0x3a) {
        map = b === 0x38 ? 2 : 3;
        b = bytes[p++]!;
      }
    }
    let modrm = 0;
    let sib = 0;
    let disp = 0;
    const has = withModrm[map * 256 + b]!;
    if (has) {
      if (has === 2) return undefined;
      modrm = bytes[p++]!;
      if (modrm < 0xc0) {
        const mod = modrm >> 6;
        let long = mod === 2;
        if ((modrm & 7) === 4) {
          sib = bytes[p++]!;
          long ||= mod === 0 && (sib & 7) === 5;
        } else long ||= mod === 0 && (modrm & 7) === 5;
        if (long) {
          disp = bytes[p]! | (bytes[p + 1]! << 8) | (bytes[p + 2]! << 16) | (bytes[p + 3]! << 24);
          p += 4;
        } else if (mod === 1) disp = (bytes[p++]! << 24) >> 24;
      }
    }
    const head = prefix | (rex << 3) | (map << 8) | (b << 10) | (modrm << 18);
    this.head = head;
    this.sib = sib;
    this.before = p - at;
    const found = this.places[placeOf(head, sib)];
    if (!found || found.head !== head || found.sib !== sib) return undefined;
    // A displacement from RIP to which the instruction's place cannot be added in 32 bits has a record of another form.
    if (disp > 0x7fff_e000) return undefined;
    let imm = found.insn.imm;
    switch (found.immediate) {
      case Imm.None:
        break;
      case Imm.Signed8:
        imm = (bytes[p++]! << 24) >> 24;
        break;
      case Imm.Unsigned8:
        imm = bytes[p++]!;
        break;
      case Imm.Word:
        imm = bytes[p]! | (bytes[p + 1]! << 8) | (bytes[p + 2]! << 16) | (bytes[p + 3]! << 24);
        p += 4;
        break;
      default:
        imm = bytes[p]! | (bytes[p + 1]! << 8);
        p += 2;
    }
    this.length = p - at;
    this.disp = disp;
    this.imm = imm;
    return found;
  }

  /** A template for what `find` looked at last and did not know, and `insn` was decoded from; kept if it can be. */
  make(insn: Insn): Template {
    const template = new Template(insn);
    const { def, mem } = insn;
    const wanted = def.specs.filter((s) => s[0] === 'I' || s[0] === 'J');
    const bytes = insn.len - this.before;
    if (this.head < 0 || def.helper || wanted.length > 1 || bytes > 4) return template;
    if (def.specs.some((s) => s[0] === 'O') || (mem && mem.disp > 0x7fff_e000)) return template;
    if (bytes) {
      const signed = wanted[0]![0] === 'J' || wanted[0]![2] === 's';
      if (bytes === 4) template.immediate = Imm.Word;
      else if (bytes === 1) template.immediate = signed ? Imm.Signed8 : Imm.Unsigned8;
      else if (bytes === 2 && !signed) template.immediate = Imm.Unsigned16;
      else return template;
    }
    template.head = this.head;
    template.sib = this.sib;
    template.kept = true;
    this.places[placeOf(this.head, this.sib)] = template;
    return template;
  }
}

const placeOf = (head: number, sib: number): number =>
  Math.imul(head ^ Math.imul(sib, 0x9e3779b1), 0x85ebca6b) >>> (32 - PLACE_BITS);

/** Which flag results of instructions nobody can see: overwritten before anything reads them or can fault. */
export function findDeadFlags(templates: readonly Template[], imms: Int32Array, count: number, dead: Uint8Array): void {
  let live = ARITH;
  for (let k = count - 1; k >= 0; k--) {
    const t = templates[k]!;
    let { reads, writes } = t;
    if (t.counted) {
      const { def, size } = t.insn;
      const zero = (imms[k]! & (size === 8 ? 63 : 31)) === 0;
      reads = zero ? def.reads | def.counted : def.reads;
      writes = zero ? def.writes : def.writes | def.counted;
    }
    const changed = writes | t.sometimes;
    dead[k] = changed !== 0 && (live & changed) === 0 ? 1 : 0;
    live = t.exposes ? ARITH : (live & ~writes) | reads;
  }
}
