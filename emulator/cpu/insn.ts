/** Decoded instructions, and the definitions that the decoder finds and both tiers are made from. */
import type { Emit } from './emit.ts';
import type { Helper } from './helper.ts';

export type RegClass = 'gpr' | 'xmm' | 'mmx' | 'seg' | 'cr' | 'dr' | 'st';

/** One operand of a decoded instruction. Sizes are in bytes. */
export type Operand =
  | {
      readonly kind: 'reg';
      readonly cls: RegClass;
      readonly size: number;
      readonly reg: number;
      /** AH, CH, DH or BH */ readonly high: boolean;
    }
  | { readonly kind: 'mem'; readonly size: number }
  | { readonly kind: 'imm'; readonly size: number }
  /** A relative branch target: `Insn.imm` is the displacement from the next instruction. */
  | { readonly kind: 'rel'; readonly size: number };

/** Address of a memory operand. */
export interface MemRef {
  /** Register number; -1: none; 16: RIP (of the next instruction). */
  readonly base: number;
  readonly index: number;
  /** log2 of the scale */
  readonly scale: number;
  /** Sign-extended. */
  readonly disp: number;
  /** High half of a 64-bit absolute address (MOV with moffs in 64-bit mode); otherwise the sign of `disp`. */
  readonly dispHigh: number;
  /** Segment register, ES=0 … GS=5. */
  readonly seg: number;
  /** Address size in bytes: 8, 4 or 2. */
  readonly addressSize: 8 | 4 | 2;
}

export interface Insn {
  readonly def: Def;
  readonly operands: readonly Operand[];
  readonly mem: MemRef | undefined;
  /** Operand size in bytes (2, 4 or 8; 1 for byte forms). */
  readonly size: number;
  /** Low 32 bits of the immediate, sign-extended to 32 as the form says. */
  readonly imm: number;
  /** High 32 bits: of the imm64 of MOV, else the sign of `imm`. Second immediate of ENTER. */
  readonly immHigh: number;
  readonly len: number;
  /** 0, 0xf2 or 0xf3, where it is not part of the opcode. */
  readonly rep: 0 | 0xf2 | 0xf3;
  readonly lock: boolean;
  readonly bits: 64 | 32 | 16;
  /** Width of the stack pointer in bytes: outside 64-bit code SS.B says, whatever the code is. */
  readonly stack: 8 | 4 | 2;
  /** Address size in bytes, also where there is no ModRM operand (string instructions, LOOP, JCXZ). */
  readonly addressSize: 8 | 4 | 2;
  /** Segment override: register number, or -1. */
  readonly segment: number;
  /** The opcode byte, for forms that encode something in its low bits. */
  readonly opcode: number;
  readonly modrm: number;
}

/** The six arithmetic flags at their places in RFLAGS. */
export const CF = 0x001;
export const PF = 0x004;
export const AF = 0x010;
export const ZF = 0x040;
export const SF = 0x080;
export const OF = 0x800;
export const ARITH = CF | PF | AF | ZF | SF | OF;

export interface DefOptions {
  /** How operand 0 is used. Default `rw`. A memory operand that is `rw` is translated for writing before it is read. */
  access?: 'r' | 'w' | 'rw';
  /** Flags that it may read (also: leaves as they are only sometimes, but for `sometimes`). Default 0. */
  reads?: number;
  /** Flags that it surely overwrites (or leaves undefined). Default 0. */
  writes?: number;
  /**
   * Flags that are overwritten if the immediate, a shift count, is not 0 (masked to the operand's width), and stay
   * otherwise. They are in neither `reads` nor `writes`.
   */
  counted?: number;
  /** Flags that are overwritten if CL, a shift count, is not 0, and stay otherwise. They are in neither `reads` nor `writes`. */
  sometimes?: number;
  /** A LOCK prefix is allowed with a memory destination. */
  lock?: boolean;
  /** Exists only in this mode: 64-bit, or not 64-bit. */
  only?: 64 | 32;
  /** In 64-bit mode the operand size is 8 unless 66 makes it 2 (PUSH, POP); `f64`: 8 whatever the prefix (near branches). */
  defaultSize?: 'd64' | 'f64';
  /** Ends the block: control may go elsewhere than to the next instruction, or the mode may change. */
  ends?: boolean;
  /** Needs CPL 0 (#GP otherwise). Checked before anything else. */
  privileged?: boolean;
  /** May raise an exception for another reason than a memory operand (keeps flags precise before it). */
  faults?: boolean;
  /** CPU resources to check first: #NM when CR0.TS, #UD when CR0.EM or (sse) CR4.OSFXSR is off. */
  unit?: 'x87' | 'mmx' | 'sse';
}

export interface Def extends Required<Omit<DefOptions, 'only' | 'defaultSize' | 'unit'>> {
  readonly id: number;
  readonly name: string;
  /** The whole pattern, for messages and the list of forms. */
  readonly pattern: string;
  readonly only: 64 | 32 | undefined;
  readonly defaultSize: 'd64' | 'f64' | undefined;
  readonly unit: 'x87' | 'mmx' | 'sse' | undefined;
  /** Mandatory prefix: none matters, none allowed ('np'), neither F2 nor F3 allowed ('nf'), or one of them. */
  readonly prefix: '' | 'np' | 'nf' | '66' | 'f2' | 'f3';
  /** 0: one byte, 1: 0F, 2: 0F 38, 3: 0F 3A */
  readonly map: 0 | 1 | 2 | 3;
  readonly opcode: number;
  /** The register is in the opcode's low three bits. */
  readonly plusR: boolean;
  /** ModRM.reg that selects this form, or -1. */
  readonly reg: number;
  /** ModRM.rm with mod = 3 that selects this form, or -1. */
  readonly rm: number;
  readonly specs: readonly string[];
  readonly hasModrm: boolean;
  /** ModRM.rm is a register whatever ModRM.mod says (MOV of control and debug registers). */
  readonly ignoresMod: boolean;
  /** Segment, control or debug registers that exist, a bit for each; -1 where there is no such operand. */
  readonly validRegisters: number;
  readonly emit: ((c: Emit) => void) | undefined;
  readonly helper: Helper | undefined;
}

const countIsZero = (insn: Insn): boolean => (insn.imm & (insn.size === 8 ? 63 : 31)) === 0;

/** Flags that an instruction may read (or leaves as they are only sometimes). */
export function flagsRead(insn: Insn): number {
  const { reads, counted } = insn.def;
  return counted && countIsZero(insn) ? reads | counted : reads;
}

/** Flags that an instruction surely overwrites. */
export function flagsWritten(insn: Insn): number {
  const { writes, counted } = insn.def;
  return counted && !countIsZero(insn) ? writes | counted : writes;
}

/** Flags that an instruction may overwrite: where none of them is read, it need not make any. */
export function flagsChanged(insn: Insn): number {
  return flagsWritten(insn) | insn.def.sometimes;
}

/** All definitions, in the order they were made; `Def.id` is the index. */
export const DEFS: Def[] = [];

function parse(pattern: string, options: DefOptions, emit: Def['emit'], helper: Helper | undefined): Def {
  const tokens = pattern.trim().split(/\s+/);
  const name = tokens.shift()!;
  let prefix: Def['prefix'] = '';
  // (None of these bytes is an opcode itself.)
  if (/^(np|nf|66|f2|f3)$/.test(tokens[0]!) && /^[0-9a-f]{2}/.test(tokens[1] ?? ''))
    prefix = tokens.shift() as Def['prefix'];
  let map: Def['map'] = 0;
  if (tokens[0] === '0f' && tokens.length > 1 && /^[0-9a-f]{2}/.test(tokens[1]!)) {
    tokens.shift();
    map = 1;
    const escape: string | undefined = tokens.at(0);
    if ((escape === '38' || escape === '3a') && /^[0-9a-f]{2}/.test(tokens[1] ?? '')) {
      tokens.shift();
      map = escape === '38' ? 2 : 3;
    }
  }
  const m = /^([0-9a-f]{2})(\+r)?(?:\/([0-7])(?:\.([0-7]))?)?$/.exec(tokens.shift()!);
  if (!m) throw new Error(`bad opcode pattern: ${pattern}`);
  const specs = (tokens.shift() ?? '').split(',').filter((s) => s);
  if (tokens.length) throw new Error(`bad opcode pattern: ${pattern}`);
  const reg = m[3] ? Number(m[3]) : -1;
  const special = specs.findIndex((s) => /^(S|C[^L]|D[^X])/.test(s));
  const kind = specs[special]?.[0];
  return {
    id: DEFS.length,
    name,
    pattern,
    prefix,
    map,
    opcode: parseInt(m[1]!, 16),
    plusR: m[2] !== undefined,
    reg,
    rm: m[4] ? Number(m[4]) : -1,
    specs,
    hasModrm: reg >= 0 || specs.some((s) => /^[EGMSCDVWUPQNR]/.test(s) && s !== 'CL' && s !== 'DX'),
    ignoresMod: kind === 'C' || kind === 'D',
    // CS can be read, but not loaded.
    validRegisters: kind === 'C' ? 0x11d : kind === 'D' ? 0xff : kind === 'S' ? (special === 0 ? 0x3d : 0x3f) : -1,
    access: options.access ?? 'rw',
    reads: options.reads ?? 0,
    writes: options.writes ?? 0,
    counted: options.counted ?? 0,
    sometimes: options.sometimes ?? 0,
    lock: options.lock ?? false,
    only: options.only,
    defaultSize: options.defaultSize,
    ends: options.ends ?? false,
    privileged: options.privileged ?? false,
    faults: options.faults ?? false,
    unit: options.unit,
    emit,
    helper,
  };
}

/**
 * Defines an instruction form by code that emits its meaning.
 *
 * @param pattern `name [np|nf|66|f2|f3] [0f [38|3a]] opcode[+r][/reg[.rm]] operands`, for example `add 00 Eb,Gb`,
 * `shl d3/4 Ev,CL`, `movaps np 0f 28 Vx,Wx`, `push 50+r Zv`, `swapgs 0f 01/7.0`,
 * `movs f3 a4`.
 *
 * Operand codes follow the manual's opcode map (Intel SDM vol. 2, appendix A): E (general register or memory), G, M
 * (memory only), R (ModRM.rm as register only), Z (register in the opcode), I (immediate), J (relative), O (moffs), A (accumulator:
 * `Ab`, `Av`), S, C, D, V, W, U (XMM in rm only), P, Q, N (MMX in rm only), `CL`, `DX`, `1`. Sizes: b w d q, v (operand
 * size), z (operand size, at most 4), y (4 or 8), x (16), s after I (sign-extended to the operand size: `Ibs`); M alone
 * has no size.
 *
 * @param helper what `Emit.callHelper` calls, for a rare part of an emitted instruction
 */
export function def(pattern: string, options: DefOptions, emit: (c: Emit) => void, helper?: Helper): void {
  DEFS.push(parse(pattern, options, emit, helper));
}

/** Defines an instruction form by a function in TypeScript, for what is rare or slow. */
export function defHelper(pattern: string, options: DefOptions, helper: Helper): void {
  DEFS.push(parse(pattern, options, undefined, helper));
}

/** Stands in where code is emitted that belongs to no instruction: the end of a cut block, settling of flags. */
export const NO_INSN: Insn = {
  def: {
    ...parse('none 90', { access: 'r', ends: true }, undefined, undefined),
    id: -1,
  },
  operands: [],
  mem: undefined,
  size: 8,
  imm: 0,
  immHigh: 0,
  len: 0,
  rep: 0,
  lock: false,
  bits: 64,
  stack: 8,
  addressSize: 8,
  segment: -1,
  opcode: 0,
  modrm: 0,
};
