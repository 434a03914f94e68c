/** Random programs: loops, branches, calls, memory, partial registers, and flags that are used far from where they were made. */
import { decode } from '../../emulator/cpu/decoder.ts';
import { AF, ARITH, CF, DEFS, OF, PF, SF, ZF, type Def, type Insn } from '../../emulator/cpu/insn.ts';
import { RBP, RSP } from '../../emulator/cpu/layout.ts';
import { alwaysUndefined, DOT_PRODUCT } from './compare.ts';
import { encode, unaskable } from './forms.ts';
import { INTEL_HOST, WINDOW } from './native.ts';
import type { Random } from './random.ts';

export interface Program {
  readonly bits: 64 | 32;
  readonly entry: number;
  readonly exit: number;
  readonly bytes: Uint8Array;
  /** Offsets of its instructions, and whether each may be replaced by NOPs to make the program smaller. */
  readonly instructions: readonly { offset: number; length: number; removable: boolean }[];
  /** Arithmetic flags that are undefined at the end. */
  readonly undefinedAtEnd: number;
}

/**
 * Registers that hold addresses and loop counts; no other instruction writes them. 32-bit code has none to spare for
 * the counts: they are in memory.
 */
const COUNTERS = [14, 15] as const;
/** The second base register. */
export const secondBase = (bits: 64 | 32): number => (bits === 64 ? 13 : RBX);
const RCX = 1;
const RBX = 3;
/** Where they are: beyond what the base registers reach. */
export const COUNTS_IN_MEMORY = WINDOW + 0x1f00;
/** Where the base registers point, and how far displacements reach. */
export const REACH = 0xc00;

/** Instructions that a program cannot have as they are: control flow (made on purpose here), traps, strange state. */
const EXCLUDED =
  /^(j|call|ret|loop|push|pop|enter|leave|int|hlt|div|idiv|movs|stos|lods|cmps|scas|xlat|ldmxcsr|fldcw|fldenv|frstor|fxrstor|fxsave|fnsave|fnstenv|fnstsw|fninit|f2xm1|fyl2x|fptan|fpatan|fsin|fcos|bt|std|cld|cli|sti|in|out|lahf|sahf|pushf|popf|bswap|bsf|bsr|cmpxchg|clflush|rdfs|rdgs|ud|aam|aad|syscall|wrmsr|rdmsr|clts|invd|wbinvd|invlpg|lgdt|lidt|lldt|ltr|swapgs|sys|lmsw|rdtsc|rdpmc|rdrand|rdseed|cpuid|rcp|rsqrt|maskmov|wrfs|wrgs|l[defgs]s$|lar|lsl|ver[rw]|bound)/;

interface Families {
  /** CMP, ADD, SUB and NEG, after which all flags are defined. */
  defining: Def[];
  /** Leave all flags alone. */
  flagless: Def[];
  integer: Def[];
  flags: Def[];
  shifts: Def[];
  vector: Def[];
  x87: Def[];
  mmx: Def[];
  /** Of all these, the ones that are functions in TypeScript: compiled code hands its registers over to them. */
  helpers: Def[];
}

const families: Partial<Record<32 | 64, Families>> = {};
function familiesOf(bits: 64 | 32): Families {
  if (families[bits]) return families[bits];
  const f: Families = {
    integer: [],
    flags: [],
    shifts: [],
    vector: [],
    x87: [],
    mmx: [],
    helpers: [],
    defining: [],
    flagless: [],
  };
  for (const d of DEFS) {
    // What they give for NaNs would be computed on with.
    if (INTEL_HOST && DOT_PRODUCT.test(d.name)) continue;
    if (unaskable(d, bits) || d.privileged || d.ends || EXCLUDED.test(d.name) || d.validRegisters >= 0) {
      // BT and relatives with an immediate are well behaved; so is CMPXCHG in memory.
      if (/^bt/.test(d.name) && d.specs[1] === 'Ib' && !unaskable(d, bits)) f.flags.push(d);
      continue;
    }
    if (!d.emit) f.helpers.push(d);
    if (d.unit === 'sse') f.vector.push(d);
    else if (d.unit === 'x87') f.x87.push(d);
    else if (d.unit === 'mmx') f.mmx.push(d);
    else if (/^(shl|shr|sar|rol|ror|rcl|rcr|shld|shrd)$/.test(d.name)) f.shifts.push(d);
    else if (d.reads & ARITH) f.flags.push(d);
    else f.integer.push(d);
  }
  f.defining = f.integer.filter((d) => /^(cmp|add|sub|neg)$/.test(d.name) && d.hasModrm);
  f.flagless = f.integer.filter((d) => !(d.writes & ARITH));
  return (families[bits] = f);
}

/** Flags that are undefined after the instruction when `before` were. Undefined: the instruction must not be used. */
function undefinedAfter(insn: Insn, before: number): number | undefined {
  const { name, specs } = insn.def;
  switch (name) {
    case 'bt':
    case 'bts':
    case 'btr':
    case 'btc':
      return (before & ZF) | OF | SF | AF | PF;
    case 'daa':
    case 'das':
      return before & (AF | CF) ? undefined : OF;
    case 'aaa':
    case 'aas':
      return before & AF ? undefined : OF | SF | ZF | PF;
    case 'shl':
    case 'shr':
    case 'sar':
    case 'rol':
    case 'ror':
    case 'rcl':
    case 'rcr':
    case 'shld':
    case 'shrd': {
      const last = specs[specs.length - 1];
      const rotates = name.startsWith('r');
      const width = insn.size * 8;
      const mask = insn.size === 8 ? 63 : 31;
      const count = last === 'CL' ? -1 : last === '1' ? 1 : insn.imm & mask;
      if (name.startsWith('rc') && before & CF) return undefined;
      if (/^sh[lr]d/.test(name) && width === 16 && (count < 0 || count > 16)) return undefined;
      if (count === 0) return before;
      if (count < 0) return before | OF | (rotates ? 0 : AF | (name !== 'sar' && width < 32 ? CF : 0));
      if (rotates) return (before & ~(CF | OF)) | (count > 1 ? OF : 0);
      return AF | (count > 1 ? OF : 0) | (count >= width && name !== 'sar' ? CF : 0);
    }
    default:
      if (insn.def.reads & before) return undefined;
      return (before & ~insn.def.writes) | alwaysUndefined(name);
  }
}

interface Use {
  at: number;
  size: 1 | 4;
  /** The address itself, not the distance to it. */
  absolute: boolean;
}

interface Label {
  at: number;
  /** Undefined flags of the jumps to it. */
  undefinedFlags: number;
  uses: Use[];
}

export class ProgramMaker {
  private bytes: number[] = [];
  private list: { offset: number; length: number; removable: boolean }[] = [];
  private undefinedFlags: number = ARITH;
  private readonly view = new DataView(new ArrayBuffer(16));
  /** Registers that drawn instructions may name: often few, so that others are touched by implication only. */
  private readonly named: readonly number[];
  private readonly bases: readonly number[];
  private readonly reserved: readonly number[];
  private readonly f: Families;
  /** It rewrites itself: slow, so not all do. */
  private readonly rewrites: boolean;
  /** Offsets of instructions that may be rewritten, and the stores that do. */
  private readonly rewritten: number[] = [];
  private readonly stores: { offset: number; length: number; what: number }[] = [];

  constructor(
    private readonly r: Random,
    private readonly entry: number,
    private readonly mix: 'integer' | 'all',
    private readonly bits: 64 | 32,
  ) {
    this.rewrites = r.oneIn(8);
    this.bases = [RBP, secondBase(bits)];
    this.reserved = [RSP, ...this.bases, ...(bits === 64 ? COUNTERS : [])];
    this.f = familiesOf(bits);
    const name = (): number => (bits === 64 ? r.below(13) : this.free());
    this.named = r.oneIn(2) ? [name(), name(), name()] : [];
  }

  /** REX.W, which 32-bit code does not have. */
  private rexW(): number[] {
    return this.bits === 64 ? [0x48] : [];
  }
  /** Registers of the first eight that instructions made by hand may write. */
  private free(): number {
    return this.r.pick(this.bits === 64 ? [0, 1, 2, 3, 6, 7] : [0, 1, 2, 6, 7]);
  }

  private put(bytes: readonly number[], removable = false): void {
    this.list.push({ offset: this.bytes.length, length: bytes.length, removable });
    this.bytes.push(...bytes);
  }

  private label(): Label {
    return { at: -1, undefinedFlags: 0, uses: [] };
  }
  private place(l: Label): void {
    l.at = this.bytes.length;
    this.undefinedFlags |= l.undefinedFlags;
    for (const u of l.uses) this.patch(l, u);
  }
  private patch(l: Label, u: Use): void {
    const distance = u.absolute ? this.entry + l.at : l.at - (u.at + u.size);
    this.view.setInt32(0, distance, true);
    for (let i = 0; i < u.size; i++) this.bytes[u.at + i] = this.view.getUint8(i);
    if (u.size === 1 && (distance < -128 || distance > 127)) throw new RangeError('short branch too long');
  }
  private use(l: Label, absolute = false): void {
    const u = { at: this.bytes.length, size: 4 as const, absolute };
    this.bytes.push(0, 0, 0, 0);
    this.list[this.list.length - 1]!.length += 4;
    l.undefinedFlags |= this.undefinedFlags;
    if (l.at >= 0) this.patch(l, u);
    else l.uses.push(u);
  }

  /** One drawn instruction. */
  private draw(list: readonly Def[]): boolean {
    const { r } = this;
    for (let attempt = 0; attempt < (this.named.length ? 150 : 20); attempt++) {
      const d = r.pick(list);
      const at = this.entry + this.bytes.length;
      const code = encode(d, r.below(64), r, at, this.bits, at, { bases: this.bases, reach: REACH });
      if (!code) continue;
      const { insn } = code;
      if (insn.lock && !r.oneIn(4)) continue;
      const writable = insn.operands.some(
        (o, k) =>
          o.kind === 'reg' &&
          o.cls === 'gpr' &&
          this.reserved.includes(o.reg) &&
          // AH to BH are of the first four registers, of which 32-bit code reserves one.
          (!o.high || o.reg === RBX) &&
          !(k > 0 && /^(mov|add|sub|cmp|and|or|adc|sbb|cmov)/.test(d.name)),
      );
      if (writable) continue;
      const { named } = this;
      if (
        named.length &&
        insn.operands.some(
          (o) =>
            o.kind === 'reg' &&
            (o.cls === 'gpr' || o.cls === 'xmm') &&
            !named.includes(o.reg) &&
            !(o.cls === 'gpr' && this.reserved.includes(o.reg)),
        )
      )
        continue;
      // A load from the displacement of LEA is no access, but a register result may be an address: fine.
      if (d.specs.some((s) => s.startsWith('O'))) continue;
      const after = undefinedAfter(insn, this.undefinedFlags);
      if (after === undefined) continue;
      this.undefinedFlags = after;
      this.put([...code.bytes], true);
      return true;
    }
    return false;
  }

  private anyInstruction(): void {
    const { r } = this;
    const n = r.below(100);
    if (this.mix === 'integer' || n < 70) {
      const k = r.below(10);
      this.draw(k < 5 ? this.f.integer : k < 8 ? this.f.flags : this.f.shifts);
    } else if (n < 76) this.draw(this.f.helpers);
    else if (n < 90) this.draw(this.f.vector);
    else if (n < 96) this.draw(this.f.x87);
    else this.draw(this.f.mmx);
  }

  /** CMP, TEST, ADD or SUB of drawn registers: all flags are defined afterwards, but for AF of TEST. */
  private defineFlags(): void {
    while (this.undefinedFlags & ~AF)
      if (!this.draw(this.f.defining)) throw new Error('no instruction to define the flags');
  }

  private condition(): number {
    const { r } = this;
    const reads = [OF, CF, ZF, CF | ZF, SF, PF, SF | OF, SF | OF | ZF];
    for (let i = 0; i < 8; i++) {
      const cc = r.below(16);
      if (!(reads[cc >> 1]! & this.undefinedFlags)) return cc;
    }
    this.defineFlags();
    return r.below(16);
  }

  private jumpIf(l: Label): void {
    const cc = this.condition();
    this.put([0x0f, 0x80 + cc]);
    this.use(l);
  }

  private movImmediate(reg: number, value: number): void {
    this.put([
      ...(reg >= 8 ? [0x41] : []),
      0xb8 + (reg & 7),
      value & 255,
      (value >> 8) & 255,
      (value >> 16) & 255,
      value >>> 24,
    ]);
  }

  /** A group that belongs together. */
  private item(depth: number, subroutines: readonly { label: Label; undefinedAfter: number }[], ahead: Label[]): void {
    const { r } = this;
    switch (r.below(this.mix === 'integer' ? 28 : 34)) {
      case 12: {
        if (!this.rewrites) break;
        // An instruction that others rewrite: ADD, SUB or CMP of a register and an imm32.
        const reg = this.free();
        this.rewritten.push(this.bytes.length);
        this.put([
          ...this.rexW(),
          0x81,
          0xc0 | (r.pick([0, 5, 7]) << 3) | reg,
          r.below(256),
          r.below(256),
          r.below(256),
          r.below(256),
        ]);
        this.undefinedFlags = 0;
        break;
      }
      case 13:
        if (this.rewrites) this.rewrite();
        break;
      case 14:
        // Rarely: a page that is not there.
        if (r.oneIn(30))
          this.put([...this.rexW(), r.pick([0x8b, 0x89, 0x03]), 0x85 | (r.below(4) << 3), 0, 0x40, 0, 0], true);
        break;
      case 0: {
        // Forward branch over a few items.
        const l = this.label();
        this.jumpIf(l);
        const n = 1 + r.below(4);
        for (let i = 0; i < n; i++) this.item(depth, subroutines, ahead);
        this.place(l);
        break;
      }
      case 1: {
        // If and else.
        const otherwise = this.label();
        const end = this.label();
        this.jumpIf(otherwise);
        for (let i = 1 + r.below(3); i > 0; i--) this.item(depth, subroutines, ahead);
        this.put([0xe9]);
        this.use(end);
        this.undefinedFlags = 0;
        this.place(otherwise);
        for (let i = 1 + r.below(3); i > 0; i--) this.item(depth, subroutines, ahead);
        this.place(end);
        break;
      }
      case 2:
        if (ahead.length) this.jumpIf(r.pick(ahead));
        break;
      case 3:
        // A loop.
        if (depth < 2) this.loop(depth, subroutines, ahead);
        break;
      case 4:
        if (subroutines.length) {
          const s = r.pick(subroutines);
          this.put([0xe8]);
          this.use(s.label);
          this.undefinedFlags = s.undefinedAfter;
        }
        break;
      case 5: {
        // PUSH and POP with something between; not of the stack pointer.
        const from = r.below(this.bits === 64 ? 16 : 8);
        const to = this.bits === 64 && r.oneIn(2) ? 8 + r.below(5) : this.free();
        this.put([...(from >= 8 ? [0x41] : []), 0x50 + (from & 7)]);
        for (let i = r.below(3); i > 0; i--) this.anyInstruction();
        this.put([...(to >= 8 ? [0x41] : []), 0x58 + (to & 7)]);
        break;
      }
      case 6: {
        // Flags into AH or onto the stack, some instructions after they were made.
        this.defineAll();
        for (let i = r.below(3); i > 0; i--) {
          const keep = this.undefinedFlags;
          this.draw(this.f.flagless);
          if (this.undefinedFlags !== keep) throw new Error('a flag changed');
        }
        if (r.oneIn(2)) this.put([0x9f]);
        else {
          this.put([0x9c]);
          this.put([0x58 + this.free()]);
        }
        break;
      }
      case 7: {
        // SAHF, CLC, STC, CMC
        const op = r.pick([0x9e, 0xf8, 0xf9]);
        if (op === 0x9e) {
          // All five come from AH.
          this.undefinedFlags &= OF;
        } else this.undefinedFlags &= ~CF;
        this.put([op], true);
        break;
      }
      case 8: {
        // A string instruction in the window.
        this.put([...this.rexW(), 0x8d, 0xbd, r.below(256), r.below(8), 0, 0]); // lea disp32(%rbp), %rdi
        // lea disp32(%r13), %rsi
        this.put([...(this.bits === 64 ? [0x49, 0x8d, 0xb5] : [0x8d, 0xb3]), r.below(256), r.below(8), 0, 0]);
        this.movImmediate(RCX, r.below(40));
        const op = r.pick([0xa4, 0xa5, 0xaa, 0xab, 0xa6, 0xa7, 0xae, 0xaf, 0xac, 0xad]);
        const compares = op === 0xa6 || op === 0xa7 || op === 0xae || op === 0xaf;
        if (compares) this.defineFlags(); // a count of 0 leaves them
        const prefix = r.pick([[], [0xf3], [0xf3], compares ? [0xf2] : [0xf3]]);
        this.put([...prefix, ...(op & 1 && r.oneIn(2) ? this.rexW() : []), op], true);
        break;
      }
      case 9: {
        // An indirect jump forward, and DIV that does not overflow.
        const l = this.label();
        const reg = this.free();
        if (this.bits === 64) this.put([0x48, 0x8d, 0x05 | (reg << 3)]);
        else this.put([0xb8 + reg]);
        this.use(l, this.bits === 32);
        this.put([0xff, 0xe0 | reg]);
        this.undefinedFlags = 0;
        this.place(l);
        break;
      }
      case 10: {
        const wide = r.oneIn(2) ? this.rexW() : [];
        this.put([0x31, 0xd2]); // xor %edx, %edx
        this.put([...wide, 0x83, 0xc9, 1 + r.below(100)]); // or $n, %ecx
        this.put([...wide, 0xf7, 0xf1]); // div %ecx
        this.undefinedFlags = ARITH;
        if (r.oneIn(2)) this.defineFlags();
        break;
      }
      case 11: {
        // A computed address: an index register of few bits.
        const index = this.free();
        this.put([0x0f, 0xb6, 0xc0 | (index << 3) | r.below(4)]); // movzx
        const op = r.pick([0x8b, 0x89, 0x03, 0x01, 0x33, 0x3b, 0x39, 0x8a, 0x88]);
        // AL, CL, DL or DH: not BL and BH.
        const reg = op === 0x8a ? r.pick([0, 1, 2, 6]) : this.free();
        if (op === 0x33) this.undefinedFlags = AF;
        else if (op < 0x80) this.undefinedFlags = 0;
        const rex = r.oneIn(2) && op !== 0x8a && op !== 0x88 ? this.rexW() : [];
        this.put([...rex, op, 0x44 | (reg << 3), (r.below(4) << 6) | (index << 3) | RBP, r.below(64)], true);
        break;
      }
      default:
        for (let i = 1 + r.below(4); i > 0; i--) this.anyInstruction();
    }
  }

  /** A store into an instruction made for it: its immediate, or what it does. Those that come later are patched in. */
  private rewrite(): void {
    const { r } = this;
    const wide = r.oneIn(2);
    // Where ModRM is in the instruction that is rewritten.
    const modrm = this.rexW().length + 1;
    const what = modrm + r.below(5);
    if (wide && what === modrm + 1)
      this.put([0x89, 0x05, 0, 0, 0, 0]); // mov %eax, disp32(%rip)
    else
      this.put([0xc6, 0x05, 0, 0, 0, 0, what === modrm ? 0xc0 | (r.pick([0, 5, 7]) << 3) | this.free() : r.below(256)]);
    const { offset, length } = this.list[this.list.length - 1]!;
    this.stores.push({ offset, length, what });
  }

  private defineAll(): void {
    while (!this.draw(this.f.defining) || this.undefinedFlags);
  }

  /** Sets a loop's counter, or takes one off it with DEC or SUB. */
  private count(how: 'set' | 'dec' | 'sub', depth: number, value = 1): void {
    const immediate = [value, ...(how === 'set' ? [0, 0, 0] : [])];
    if (this.bits === 64) {
      const n = COUNTERS[depth]! & 7;
      if (how === 'set') this.put([0x41, 0xb8 + n, ...immediate]);
      else this.put(how === 'dec' ? [0x49, 0xff, 0xc8 | n] : [0x49, 0x83, 0xe8 | n, ...immediate]);
      return;
    }
    const at = COUNTS_IN_MEMORY + depth * 4;
    const address = [at & 255, (at >> 8) & 255, (at >> 16) & 255, at >>> 24];
    if (how === 'set') this.put([0xc7, 0x05, ...address, ...immediate]);
    else this.put(how === 'dec' ? [0xff, 0x0d, ...address] : [0x83, 0x2d, ...address, ...immediate]);
  }

  private loop(depth: number, subroutines: readonly { label: Label; undefinedAfter: number }[], ahead: Label[]): void {
    const { r } = this;
    if (!r.oneIn(8)) this.count('set', depth, 1 + r.below(depth ? 4 : 9));
    const start = this.label();
    this.place(start);
    // Coming round, the flags are those of SUB.
    const leave = this.label();
    const skip = this.label();
    for (let i = 1 + r.below(5); i > 0; i--)
      this.item(depth + 1, subroutines, r.oneIn(2) ? [...ahead, leave, skip] : ahead);
    this.place(skip);
    if (r.oneIn(3)) {
      this.count('dec', depth); // CF stays
      this.undefinedFlags &= CF;
    } else {
      this.count('sub', depth);
      this.undefinedFlags = 0;
    }
    if (this.undefinedFlags & CF) {
      this.put([0xf8]);
      this.undefinedFlags = 0;
    }
    this.put([0x0f, 0x8f]); // jg
    this.use(start);
    this.place(leave);
    // Counters go on from where they are when a branch comes into the middle of a loop, so every loop ends.
  }

  /** @returns undefined when the draw did not work out */
  make(size: number): Program | undefined {
    const { r } = this;
    const main = this.label();
    const subroutines: { label: Label; undefinedAfter: number }[] = [];
    // Half of the programs have their subroutines first.
    const count = r.below(3);
    if (count) {
      this.put([0xe9]);
      this.use(main);
      for (let i = 0; i < count; i++) {
        const label = this.label();
        this.place(label);
        this.undefinedFlags = ARITH;
        for (let k = 1 + r.below(4); k > 0; k--) this.item(2, [], []);
        if (r.oneIn(2)) this.defineFlags();
        this.put([0xc3]);
        subroutines.push({ label, undefinedAfter: this.undefinedFlags });
      }
    }
    this.undefinedFlags = 0;
    this.place(main);
    const ahead: Label[] = [];
    while (this.bytes.length < size) {
      if (r.oneIn(6)) ahead.push(this.label());
      this.item(0, subroutines, ahead);
      if (ahead.length && r.oneIn(4)) this.place(ahead.splice(r.below(ahead.length), 1)[0]!);
    }
    for (const l of ahead) this.place(l);
    if (this.stores.length && !this.rewritten.length) {
      this.rewritten.push(this.bytes.length);
      this.put([...this.rexW(), 0x81, 0xc0, 1, 2, 3, 4]);
      this.undefinedFlags = 0;
    }
    const bytes = Uint8Array.from(this.bytes);
    const all = new DataView(bytes.buffer);
    for (const { offset, length, what } of this.stores) {
      const to = r.pick(this.rewritten) + what;
      all.setInt32(offset + 2, this.bits === 64 ? to - (offset + length) : this.entry + to, true);
    }
    for (const { offset, length } of this.list) {
      const padded = new Uint8Array(32);
      padded.set(bytes.subarray(offset, offset + length));
      const insn = decode(padded, 0, 32, this.bits);
      if (typeof insn === 'string' || insn.len !== length)
        throw new Error(
          `the program has a wrong instruction at +${offset}: ${[...bytes.subarray(offset, offset + length)]}`,
        );
    }
    return {
      bits: this.bits,
      entry: this.entry,
      exit: this.entry + bytes.length,
      bytes,
      instructions: this.list,
      undefinedAtEnd: this.undefinedFlags,
    };
  }
}
