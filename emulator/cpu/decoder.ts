/** Bytes to `Insn`, by tables that are built from the definitions. */
import { DEFS, type Def, type Insn, type MemRef, type Operand, type RegClass } from './insn.ts';

/** Why there is no instruction: more bytes are needed (the page ended), no such form (#UD), longer than 15 bytes (#GP). */
export type DecodeFailure = 'more' | 'ud' | 'gp';

/** tables[map * 256 + opcode]: the forms to choose from, in order. */
let tables: Def[][] | undefined;
/** By the same index: 1 where a form has a mandatory prefix. */
let mandatory: Uint8Array | undefined;

// Operands are shared: decoding is on the way of all cold code, and makes no more objects than it must.
const CLASSES: readonly RegClass[] = ['gpr', 'xmm', 'mmx', 'seg', 'cr', 'dr', 'st'];
const registers: Operand[] = [];
const memories: Operand[] = [];

function register(cls: RegClass, size: number, reg: number, high = false): Operand {
  const key = ((CLASSES.indexOf(cls) * 32 + size) * 16 + reg) * 2 + (high ? 1 : 0);
  return (registers[key] ??= { kind: 'reg', cls, size, reg, high });
}

function gpr(reg: number, size: number, rex: number): Operand {
  const high = size === 1 && rex === 0 && reg >= 4 && reg < 8;
  return register('gpr', size, high ? reg - 4 : reg, high);
}

const memory = (size: number): Operand => (memories[size] ??= { kind: 'mem', size });

function build(): Def[][] {
  const t: Def[][] = Array.from({ length: 1024 }, () => []);
  for (const d of DEFS) for (let i = 0; i < (d.plusR ? 8 : 1); i++) t[d.map * 256 + d.opcode + i]!.push(d);
  // Exact forms (rm given) come before general ones.
  mandatory = Uint8Array.from(t, (list) => (list.some((d) => d.prefix !== '') ? 1 : 0));
  for (const list of t) list.sort((a, b) => (b.rm >= 0 ? 1 : 0) - (a.rm >= 0 ? 1 : 0));
  return t;
}

const ADDRESS16: readonly (readonly [number, number, number])[] = [
  [3, 6, 3],
  [3, 7, 3],
  [5, 6, 2],
  [5, 7, 2],
  [6, -1, 3],
  [7, -1, 3],
  [5, -1, 2],
  [3, -1, 3],
];

/** Whether ModRM.mod = 3 is right for the form's operand codes. */
function modFits(d: Def, isReg: boolean): boolean {
  for (const s of d.specs) {
    const c = s.charCodeAt(0);
    if (c === 77 /* M */ && isReg) return false;
    if ((c === 85 /* U */ || c === 78 /* N */ || c === 82) /* R */ && !isReg && !d.ignoresMod) return false;
  }
  return true;
}

/**
 * Decodes one instruction.
 *
 * @param bytes where the code is
 * @param at index of the first byte
 * @param end index after the last byte that may be read; running into it gives 'more'
 * @param bits code size: 64, 32 or 16
 * @param stack width of the stack pointer in bytes
 */
export function decode(
  bytes: Uint8Array,
  at: number,
  end: number,
  bits: 64 | 32 | 16,
  stack: 8 | 4 | 2 = bits === 64 ? 8 : bits === 32 ? 4 : 2,
): Insn | DecodeFailure {
  tables ??= build();
  let p = at;
  const limit = Math.min(end, at + 15);
  const short: DecodeFailure = end < at + 15 ? 'more' : 'gp';
  let opsize = false;
  let adsize = false;
  let rep: 0 | 0xf2 | 0xf3 = 0;
  let lock = false;
  let segment = -1;
  let rex = 0;
  let b: number;
  for (;;) {
    if (p >= limit) return short;
    b = bytes[p++]!;
    if (b === 0x66) opsize = true;
    else if (b === 0x67) adsize = true;
    else if (b === 0xf0) lock = true;
    else if (b === 0xf2 || b === 0xf3) rep = b;
    else if (b === 0x26 || b === 0x2e || b === 0x36 || b === 0x3e) {
      if (bits !== 64) segment = (b >> 3) & 3;
    } else if (b === 0x64 || b === 0x65) segment = b - 0x60;
    else if (bits === 64 && (b & 0xf0) === 0x40) {
      // REX counts only directly before the opcode.
      rex = b;
      if (p >= limit) return short;
      const next = bytes[p]!;
      if (
        (next & 0xf0) === 0x40 ||
        next === 0x66 ||
        next === 0x67 ||
        next === 0xf0 ||
        next === 0xf2 ||
        next === 0xf3 ||
        (next & 0xe7) === 0x26 ||
        next === 0x64 ||
        next === 0x65
      )
        rex = 0;
      else {
        b = next;
        p++;
        break;
      }
    } else break;
  }
  let map = 0;
  if (b === 0x0f) {
    if (p >= limit) return short;
    b = bytes[p++]!;
    map = 1;
    if (b === 0x38 || b === 0x3a) {
      map = b === 0x38 ? 2 : 3;
      if (p >= limit) return short;
      b = bytes[p++]!;
    }
  }
  const forms = tables[map * 256 + b]!;
  if (!forms.length) return 'ud';
  const opcode = b;
  let modrm = 0;
  let haveModrm = false;
  // Choose the form.
  let d: Def | undefined;
  let usedPrefix = false;
  // 'f2'/'f3' win over '66', which wins over none.
  const prefix = rep === 0xf3 ? 'f3' : rep === 0xf2 ? 'f2' : opsize ? '66' : 'np';
  for (let pass = mandatory![map * 256 + b] ? 0 : 1; pass < 2 && !d; pass++) {
    for (let k = 0; k < forms.length; k++) {
      const f = forms[k]!;
      if (f.prefix !== (pass === 0 ? prefix : '') && !(f.prefix === 'nf' && pass === 0 && rep === 0)) continue;
      if (f.only !== undefined && (f.only === 64) !== (bits === 64)) continue;
      // 90 is NOP, but XCHG with R8 where REX.B says so.
      if (b === 0x90 && map === 0 && !f.plusR && (rex & 1) !== 0) continue;
      if (f.hasModrm || f.reg >= 0) {
        if (!haveModrm) {
          if (p >= limit) return short;
          modrm = bytes[p]!;
          haveModrm = true;
        }
        if (f.reg >= 0 && f.reg !== ((modrm >> 3) & 7)) continue;
        const isReg = modrm >= 0xc0;
        if (f.rm >= 0 && (!isReg || f.rm !== (modrm & 7))) continue;
        if (!modFits(f, isReg)) continue;
      }
      d = f;
      usedPrefix = pass === 0;
      break;
    }
  }
  if (!d) return 'ud';
  if (d.validRegisters >= 0) {
    const n = ((modrm >> 3) & 7) | (d.ignoresMod ? (rex & 4) << 1 : 0);
    if (!((d.validRegisters >> n) & 1)) return 'ud';
  }
  const W = (rex & 8) !== 0;
  let size = bits === 16 ? (opsize ? 4 : 2) : opsize && !(usedPrefix && d.prefix === '66') ? 2 : 4;
  if (W) size = 8;
  if (bits === 64) {
    if (d.defaultSize === 'f64') size = 8;
    else if (d.defaultSize === 'd64' && size === 4) size = 8;
  }
  const addressSize: 8 | 4 | 2 = bits === 64 ? (adsize ? 4 : 8) : (bits === 32) !== adsize ? 4 : 2;
  let mem: MemRef | undefined;
  let rmReg = -1;
  if (d.hasModrm) {
    p++;
    const mod = d.ignoresMod ? 3 : modrm >> 6;
    const rm = modrm & 7;
    if (mod === 3) rmReg = rm | ((rex & 1) << 3);
    else if (addressSize === 2) {
      let [base, index, seg] = ADDRESS16[rm] as [number, number, number];
      let disp = 0;
      if (mod === 0 && rm === 6) {
        base = -1;
        index = -1;
        seg = 3;
      }
      if (mod === 1) {
        if (p >= limit) return short;
        disp = (bytes[p++]! << 24) >> 24;
      } else if (mod === 2 || base < 0) {
        if (p + 2 > limit) return short;
        disp = ((bytes[p]! | (bytes[p + 1]! << 8)) << 16) >> 16;
        p += 2;
      }
      mem = { base, index, scale: 0, disp, dispHigh: disp >> 31, seg: segment >= 0 ? segment : seg, addressSize };
    } else {
      let base = rm | ((rex & 1) << 3);
      let index = -1;
      let scale = 0;
      let disp = 0;
      let dispBytes = mod === 1 ? 1 : mod === 2 ? 4 : 0;
      if (rm === 4) {
        if (p >= limit) return short;
        const sib = bytes[p++]!;
        scale = sib >> 6;
        index = ((sib >> 3) & 7) | ((rex & 2) << 2);
        if (index === 4) {
          index = -1;
          scale = 0;
        }
        base = (sib & 7) | ((rex & 1) << 3);
        if ((sib & 7) === 5 && mod === 0) {
          base = -1;
          dispBytes = 4;
        }
      } else if (rm === 5 && mod === 0) {
        base = bits === 64 ? 16 : -1;
        dispBytes = 4;
      }
      if (p + dispBytes > limit) return short;
      if (dispBytes === 1) disp = (bytes[p]! << 24) >> 24;
      else if (dispBytes === 4) disp = bytes[p]! | (bytes[p + 1]! << 8) | (bytes[p + 2]! << 16) | (bytes[p + 3]! << 24);
      p += dispBytes;
      const seg = segment >= 0 ? segment : base === 4 || base === 5 ? 2 : 3;
      mem = { base, index, scale, disp, dispHigh: disp >> 31, seg, addressSize };
    }
  }
  let imm = 0;
  let immHigh = 0;
  let immSeen = false;
  const operands: Operand[] = [];
  const specs = d.specs;
  let insnSize = size;
  for (let i = 0; i < specs.length; i++) {
    const s = specs[i]!;
    const letter = s.charCodeAt(0);
    const sizeLetter = s.charCodeAt(1);
    let n: number;
    switch (sizeLetter) {
      case 98: // b
        n = 1;
        // A relative target or a sign-extended immediate alone (PUSH Ib) does not make it a byte instruction.
        if (i === 0 && letter !== 74 && s.charCodeAt(2) !== 115) insnSize = 1;
        break;
      case 119: // w
        n = 2;
        break;
      case 100: // d
        n = 4;
        break;
      case 113: // q
        n = 8;
        break;
      case 120: // x
        n = 16;
        break;
      case 122: // z
        n = size === 2 ? 2 : 4;
        break;
      case 121: // y
        n = size === 8 ? 8 : 4;
        break;
      case 118: // v
        n = size;
        break;
      default:
        n = 0;
    }
    switch (letter) {
      case 69: // E
        operands.push(mem ? memory(n) : gpr(rmReg, n, rex));
        break;
      case 71: // G
        operands.push(gpr(((modrm >> 3) & 7) | ((rex & 4) << 1), n, rex));
        break;
      case 77: // M
        operands.push(memory(n));
        break;
      case 82: // R
        operands.push(gpr(rmReg, n || size, rex));
        break;
      case 90: // Z
        operands.push(gpr((opcode & 7) | ((rex & 1) << 3), n, rex));
        break;
      case 65: // A
        operands.push(register('gpr', n, 0));
        break;
      case 67: // C or CL
        if (s === 'CL') operands.push(register('gpr', 1, 1));
        else operands.push(register('cr', 8, ((modrm >> 3) & 7) | ((rex & 4) << 1)));
        break;
      case 68: // D or DX
        if (s === 'DX') operands.push(register('gpr', 2, 2));
        else operands.push(register('dr', 8, ((modrm >> 3) & 7) | ((rex & 4) << 1)));
        break;
      case 83: // S
        operands.push(register('seg', 2, (modrm >> 3) & 7));
        break;
      case 86: // V
        operands.push(register('xmm', 16, ((modrm >> 3) & 7) | ((rex & 4) << 1)));
        break;
      case 87: // W
        operands.push(mem ? memory(n) : register('xmm', n, rmReg));
        break;
      case 85: // U
        operands.push(register('xmm', n || 16, rmReg));
        break;
      case 80: // P
        operands.push(register('mmx', 8, (modrm >> 3) & 7));
        break;
      case 81: // Q
        operands.push(mem ? { kind: 'mem', size: n || 8 } : register('mmx', 8, rmReg & 7));
        break;
      case 78: // N
        operands.push(register('mmx', 8, rmReg & 7));
        break;
      case 49: // 1
        operands.push({ kind: 'imm', size: 1 });
        imm = 1;
        break;
      case 79: {
        // O: moffs
        if (p + addressSize > limit) return short;
        let lo = bytes[p]! | (bytes[p + 1]! << 8);
        let hi = 0;
        if (addressSize >= 4) lo |= (bytes[p + 2]! << 16) | (bytes[p + 3]! << 24);
        if (addressSize === 8)
          hi = bytes[p + 4]! | (bytes[p + 5]! << 8) | (bytes[p + 6]! << 16) | (bytes[p + 7]! << 24);
        p += addressSize;
        mem = { base: -1, index: -1, scale: 0, disp: lo, dispHigh: hi, seg: segment >= 0 ? segment : 3, addressSize };
        operands.push(memory(n));
        break;
      }
      case 73: // I
      case 74: {
        // J
        const bytesOf = letter === 74 && n !== 1 ? (bits === 64 ? 4 : size === 2 ? 2 : 4) : n;
        if (p + bytesOf > limit) return short;
        let v: number;
        let hi: number;
        if (bytesOf === 1) v = (bytes[p]! << 24) >> 24;
        else if (bytesOf === 2) v = ((bytes[p]! | (bytes[p + 1]! << 8)) << 16) >> 16;
        else v = bytes[p]! | (bytes[p + 1]! << 8) | (bytes[p + 2]! << 16) | (bytes[p + 3]! << 24);
        hi = v >> 31;
        if (bytesOf === 8) hi = bytes[p + 4]! | (bytes[p + 5]! << 8) | (bytes[p + 6]! << 16) | (bytes[p + 7]! << 24);
        if (letter === 73 && bytesOf <= 2 && s.charCodeAt(2) !== 115) {
          v &= bytesOf === 1 ? 0xff : 0xffff;
          hi = 0;
        }
        p += bytesOf;
        // ENTER has two immediates: the second goes to immHigh.
        if (immSeen) immHigh = v;
        else {
          imm = v;
          immHigh = hi;
        }
        immSeen = true;
        operands.push({ kind: letter === 73 ? 'imm' : 'rel', size: bytesOf });
        break;
      }
      default:
        throw new Error(`operand code ${s} in ${d.pattern}`);
    }
  }
  if (lock && !(d.lock && operands[0]?.kind === 'mem')) return 'ud';
  return {
    def: d,
    operands,
    mem,
    size: insnSize,
    imm,
    immHigh,
    len: p - at,
    rep: usedPrefix && (d.prefix === 'f2' || d.prefix === 'f3') ? 0 : rep,
    lock,
    bits,
    stack,
    addressSize,
    segment,
    opcode,
    modrm,
  };
}
