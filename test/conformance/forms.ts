/** Machine code for every form that the decoder's table has. */
import { decode } from '../../emulator/cpu/decoder.ts';
import { DEFS, type Def, type Insn } from '../../emulator/cpu/insn.ts';
import { CODE, GS_BASE, FS_BASE, STATE, WINDOW } from './native.ts';
import type { Random } from './random.ts';

/** One piece of code: an instruction in a slot of its own, with a jump out behind it. */
export interface Code {
  readonly def: Def;
  readonly insn: Insn;
  readonly bits: 64 | 32;
  readonly entry: number;
  /** Where it is when it did not branch. */
  readonly exit: number;
  /** Where its branch goes, a breakpoint. */
  readonly target: number;
  readonly bytes: Uint8Array;
}

export const SLOT = 64;
const TARGET = 48;

/** What user mode of the host cannot be asked, by name, with the reason. */
const UNASKABLE: ReadonlyMap<string, string> = new Map(
  Object.entries({
    syscall: 'it is the host kernel that answers',
    sysenter: 'it is the host kernel that answers',
    sgdt: 'CR4.UMIP is the host kernel’s',
    sidt: 'CR4.UMIP is the host kernel’s',
    sldt: 'CR4.UMIP is the host kernel’s',
    smsw: 'CR4.UMIP is the host kernel’s',
    str: 'CR4.UMIP is the host kernel’s',
    int1: 'virtual machines disagree on where it is reported',
  }),
);

/** Why a form is not compared with the host's processor, or undefined when it is. */
export function unaskable(d: Def, bits: 64 | 32): string | undefined {
  if (d.only !== undefined && d.only !== bits)
    return d.only === 32 ? 'exists only outside 64-bit mode' : 'exists only in 64-bit mode';
  return UNASKABLE.get(d.name);
}

/** Far transfers and loads of a far pointer from memory: the operand size is that of the offset. */
const FAR = /^(callf|jmpf|l[defgs]s)$/;
/** Selectors that mean the same on every Linux and in the emulator's tables, valid ones more often. */
const SELECTORS = [
  0x2b, 0x2b, 0x23, 0x33, 0, 1, 3, 0x28, 0x22, 0x10, 0x18, 0x0b, 0x1b, 0x40, 0x2f, 0x87, 0xfff8,
] as const;
const CODE_SELECTORS = [0x33, 0x33, 0x33, 0x23, 0x23, 0x23] as const;
/** A selector to load, or to ask about. */
export const drawSelector = (r: Random, code: boolean): number =>
  code && !r.oneIn(3) ? r.pick(CODE_SELECTORS) : r.pick(SELECTORS);

const isRepeatable = (d: Def): boolean => d.map === 0 && /^(movs|stos|lods|cmps|scas)$/.test(d.name);

/** Whether a control register has a definition of its own, by which it is decoded. */
const hasOwnForm = (d: Def, reg: number): boolean =>
  d.ignoresMod && d.reg < 0 && DEFS.some((x) => x.reg === reg && x.opcode === d.opcode && x.map === d.map);

/**
 * Encodes one variant of a form: variant `n` goes through operand sizes and addressing forms in turn, everything else
 * is drawn. Undefined when the drawn prefixes make another form of it.
 *
 * @param simple memory operands are base + displacement below `reach` only, without prefixes (for programs)
 */
export function encode(
  d: Def,
  n: number,
  r: Random,
  slot: number,
  bits: 64 | 32,
  start = slot,
  simple?: { readonly bases: readonly number[]; readonly reach: number },
): Code | undefined {
  const out: number[] = [];
  const long = bits === 64;
  const sized = d.specs.some((s) => /^.[vzy]/.test(s)) || d.specs.length === 0 || FAR.test(d.name) || d.name === 'retf';
  // AMD's processors cut RIP to 16 bits when a near branch has 66 in 64-bit mode, Intel's ignore the prefix; so do we.
  const word = !(long && d.defaultSize === 'f64');
  // AMD's processors have no far pointers with 64-bit offsets in memory.
  const wide = long && !FAR.test(d.name);
  const sizes = sized && d.prefix !== '66' ? ['', ...(word ? ['66'] : []), ...(wide ? ['W'] : [])] : [''];
  const size = sizes[n % sizes.length]!;
  let k = Math.floor(n / sizes.length);
  const canReg = d.hasModrm && !d.specs.some((s) => s.startsWith('M'));
  const canMem = d.hasModrm && d.rm < 0 && !d.specs.some((s) => /^[UNR]/.test(s));
  const asMem = canMem && (!canReg || k % 3 !== 0);
  if (canMem && canReg) k = Math.floor((k * 2) / 3);
  const moffs = d.specs.some((s) => s.startsWith('O'));

  const implicit = moffs || isRepeatable(d) || d.name === 'xlat';
  const masked = d.name.startsWith('maskmov');
  const addressPrefix = (asMem || implicit || (masked && long)) && !simple && r.oneIn(7);
  const addressSize = long ? (addressPrefix ? 4 : 8) : addressPrefix ? 2 : 4;
  let segment = -1;
  if ((asMem || implicit || masked) && !simple && r.oneIn(6) && long) segment = 4 + r.below(2);
  if (segment >= 0) out.push(0x60 + segment);
  // Outside 64-bit mode ES, SS and DS: flat, all of them. FS and GS are null there.
  else if ((asMem || implicit || masked) && !simple && !long && r.oneIn(6)) out.push(r.pick([0x26, 0x36, 0x3e]));
  if (addressPrefix) out.push(0x67);
  if (size === '66' || d.prefix === '66') out.push(0x66);
  if (d.lock && asMem && r.oneIn(4)) out.push(0xf0);
  if (d.prefix === 'f2') out.push(0xf2);
  else if (d.prefix === 'f3') out.push(0xf3);

  let rex = size === 'W' ? 8 : 0;
  if (long && r.oneIn(2)) rex |= 0x40 | r.below(8);
  if (!sized && long && r.oneIn(8) && d.prefix !== '') rex |= 8;
  // Control and debug registers that exist: others are #UD before #GP. (DR4 and DR5 may be the same as DR6 and DR7.)
  const existing = d.ignoresMod ? d.validRegisters & ~0x130 : d.validRegisters;
  if (d.ignoresMod) rex &= ~4;
  let regField = d.reg >= 0 ? d.reg : r.below(8);
  if (existing >= 0) while (!((existing >> regField) & 1) || hasOwnForm(d, regField)) regField = r.below(8);
  let modrm = 0;
  const tail: number[] = [];
  const disp32 = (v: number): void => void tail.push(v & 255, (v >> 8) & 255, (v >> 16) & 255, (v >> 24) & 255);
  let ripAt = -1;
  const where =
    WINDOW +
    r.pick([0x100, 0x700, 0x7f0, 0xff8, 0xffd, 0x1203, 0x1800]) -
    (segment === 4 ? FS_BASE : segment === 5 ? GS_BASE : 0);
  if (d.hasModrm && !asMem) modrm = 0xc0 | (regField << 3) | (d.rm >= 0 ? d.rm : r.oneIn(4) ? regField : r.below(8));
  else if (asMem && simple) {
    const base = r.pick(simple.bases);
    rex = (rex & ~3) | (base >> 3 ? 0x41 : 0);
    modrm = 0x80 | (regField << 3) | (base & 7);
    if ((base & 7) === 4) tail.push(0x24);
    const at = r.below(simple.reach);
    disp32(d.unit === 'sse' && !r.oneIn(40) ? at & ~15 : r.oneIn(2) ? at & ~7 : at);
  } else if (asMem && addressSize === 2) {
    modrm = (r.below(3) << 6) | (regField << 3) | r.below(8);
    if ((modrm & 0xc0) === 0x40) tail.push(r.below(256));
    else if ((modrm & 0xc0) === 0x80 || (modrm & 0xc7) === 6) tail.push(r.below(256), r.below(256));
  } else if (asMem) {
    const reg = regField << 3;
    switch (k % 8) {
      case 0: // base
        modrm = reg | r.pick([0, 1, 2, 3, 6, 7]);
        break;
      case 1: // base + disp8
        modrm = 0x40 | reg | r.pick([0, 1, 2, 3, 5, 6, 7]);
        tail.push(r.below(256));
        break;
      case 2: // base + disp32
        modrm = 0x80 | reg | r.pick([0, 1, 2, 3, 5, 6, 7]);
        disp32(r.u32() | 0);
        break;
      case 3: {
        // SIB of all kinds
        const mod = r.below(3);
        const sib = r.below(256);
        modrm = (mod << 6) | reg | 4;
        tail.push(sib);
        if (mod === 1) tail.push(r.below(256));
        else if (mod === 2) disp32(r.u32() | 0);
        else if ((sib & 7) === 5) disp32(r.oneIn(2) ? where : r.u32() | 0);
        break;
      }
      case 4: // base + index * scale
        modrm = 0x40 | reg | 4;
        tail.push((r.below(4) << 6) | (r.pick([0, 1, 2, 3, 5, 6, 7]) << 3) | r.below(8), r.below(256));
        break;
      case 5: // absolute
        modrm = reg | 4;
        tail.push(0x25);
        disp32(where);
        break;
      case 6: // RIP-relative, or absolute outside 64-bit mode
        modrm = reg | 5;
        ripAt = tail.length;
        disp32(where);
        break;
      default: // base, with RSP or RBP
        modrm = (r.oneIn(2) ? 0x44 : 0x45) | reg;
        if ((modrm & 7) === 4) tail.push(0x24);
        tail.push(r.below(128));
    }
  }
  const immediate = (bytes: number): void => {
    const edge = r.below(4);
    for (let i = 0; i < bytes; i++)
      tail.push(
        edge === 0 ? r.pick([0, 0xff]) : edge === 1 ? (i === bytes - 1 ? 0x80 : 0) : edge === 2 && i ? 0 : r.below(256),
      );
  };
  const operandSize = size === 'W' ? 8 : size === '66' && d.prefix !== '66' ? 2 : 4;
  let relative = 0;
  for (const s of d.specs) {
    if (!d.hasModrm && /^(callf|jmpf)$/.test(d.name)) {
      // The pointer itself: mostly the slot's target.
      const to = r.oneIn(8) ? r.u32() : slot + TARGET;
      disp32(to);
      if (operandSize === 2) tail.length -= 2;
      const selector = drawSelector(r, true);
      tail.push(selector & 255, selector >> 8);
      break;
    }
    if (d.name === 'int') {
      // Not the system call.
      tail.push(r.pick([0, 3, 4, 0x0d, 0x20, 0x81, r.below(0x80), 0x81 + r.below(0x7f)]));
      break;
    }
    if (d.name === 'retf') {
      // What it releases stays in the window: some processors look there before they check the selector.
      tail.push(r.below(0x1c0) & 0xff, 0);
      break;
    }
    const n =
      s[1] === 'b' ? 1 : s[1] === 'w' ? 2 : s[1] === 'd' ? 4 : s[1] === 'v' ? operandSize : operandSize === 2 ? 2 : 4;
    if (s[0] === 'I') immediate(n);
    else if (s[0] === 'J') {
      relative = n === 1 ? 1 : long ? 4 : n;
      for (let i = 0; i < relative; i++) tail.push(0);
    } else if (s[0] === 'O') {
      disp32(where);
      if (addressSize === 8) disp32(0);
      else if (addressSize === 2) tail.length -= 2;
    }
  }
  if (rex) out.push(0x40 | rex);
  if (d.map) out.push(0x0f);
  if (d.map === 2) out.push(0x38);
  if (d.map === 3) out.push(0x3a);
  out.push(d.opcode + (d.plusR ? r.below(8) : 0));
  if (d.hasModrm) out.push(modrm);
  const tailAt = out.length;
  out.push(...tail);
  if (out.length > 15) return undefined;
  const bytes = Uint8Array.from(out);
  const view = new DataView(bytes.buffer);
  const target = slot + TARGET;
  if (ripAt >= 0 && long) view.setInt32(tailAt + ripAt, where - (start + bytes.length), true);
  if (relative) {
    const distance = target - (start + bytes.length);
    if (relative === 1) view.setInt8(bytes.length - 1, distance);
    else if (relative === 2) view.setInt16(bytes.length - 2, distance, true);
    else view.setInt32(bytes.length - 4, distance, true);
  }
  const padded = new Uint8Array(32);
  padded.set(bytes);
  const insn = decode(padded, 0, 32, bits);
  if (typeof insn === 'string' || insn.def !== d) return undefined;
  return { def: d, insn, bits, entry: start, exit: start + bytes.length, target, bytes };
}

/** The instruction that leaves a case on the host: JMP through the pointer at STATE. 32-bit code leaves by INT3. */
const LEAVE_NATIVE: readonly number[] = [0xff, 0x24, 0x25, STATE & 255, 0, 0, STATE >>> 24];
/** The one that leaves it in the emulator, where user mode may not halt: #GP. */
const LEAVE_EMULATED = 0xf4;

/** Puts code, with what leaves it behind it, into what the processor and the emulator have at CODE. */
export function place(
  code: { readonly bits: 64 | 32; readonly entry: number; readonly exit: number; readonly bytes: Uint8Array },
  native: Uint8Array,
  emulated: Uint8Array,
): void {
  native.set(code.bytes, code.entry - CODE);
  emulated.set(code.bytes, code.entry - CODE);
  if (code.bits === 64) native.set(LEAVE_NATIVE, code.exit - CODE);
  emulated[code.exit - CODE] = LEAVE_EMULATED;
}
