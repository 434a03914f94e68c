/** The decoder against iced-x86: what the two say of the same bytes, field by field. */
import { Code, CpuidFeature, MemorySizeExt, Mnemonic, OpKind, Register, type Instruction } from 'iced-x86';
import type { DecodeFailure } from '../../emulator/cpu/decoder.ts';
import type { Insn, Operand } from '../../emulator/cpu/insn.ts';

/** What CPUID says of this processor, and what every processor of its age has, in iced's names. */
const ADVERTISED: readonly (keyof typeof CpuidFeature)[] = [
  'INTEL8086',
  'INTEL8086_ONLY',
  'INTEL186',
  'INTEL286',
  'INTEL386',
  'INTEL486',
  'X64',
  'CLFSH',
  'CMOV',
  'CMPXCHG16B',
  'CPUID',
  'CX8',
  'FPU',
  'FPU287',
  'FPU387',
  'FSGSBASE',
  'FXSR',
  'MMX',
  'MSR',
  'MULTIBYTENOP',
  'PAUSE',
  'POPCNT',
  'RDPMC',
  'RDRAND',
  'RDSEED',
  'RDTSCP',
  'SEP',
  'SSE',
  'SSE2',
  'SSE3',
  'SSE4_1',
  'SSE4_2',
  'SSSE3',
  'SYSCALL',
  'TSC',
];

/** What our decoder says instead of what iced says. */
type Says =
  /** There is no such instruction. */
  | 'ud'
  /** It does nothing: only the length is compared. */
  | 'nop'
  /** A register operand of another width: only its number is compared. */
  | 'width'
  /** The same operands under this name. */
  | `name:${string}`;

/**
 * Where the two differ and both are right, with the manual's place (Intel SDM, volume 2 where no other is named). By
 * iced's Code, as a pattern; only outside 64-bit mode where `bits` is 32.
 */
const DIFFERENCES: readonly { code: RegExp; bits?: 32; as: Says; why: string }[] = [
  {
    code: /^Ud[012]/,
    as: 'ud',
    why: 'UD: "generates an invalid opcode exception", which is what a form that is not there does',
  },
  {
    code: /^(Syscall|Sysret)/,
    bits: 32,
    as: 'ud',
    why: 'SYSCALL, SYSRET: #UD "if IA32_EFER.LMA = 0 or CS.L = 0"; only AMD has them in compatibility mode',
  },
  {
    code: /^Reservednop_rm\d+_r\d+_0F0D/,
    as: 'ud',
    why: 'PREFETCHW: a register operand is #UD (AMD APM vol. 3, PREFETCHlevel); Intel leaves it open',
  },
  {
    code: /^(Reservednop|Prefetch|Cldemote|Endbr|Bnd|Rdssp|Nop_rm)/,
    as: 'nop',
    why: 'Table A-3: 0F 18 to 0F 1F are reserved NOPs; PREFETCHh, ENDBR64 and others are made of them, and where they are not advertised they do nothing',
  },
  {
    code: /^Tzcnt/,
    as: 'name:bsf',
    why: 'TZCNT: without CPUID.BMI1 "the instruction byte encoding is executed as BSF"',
  },
  { code: /^Lzcnt/, as: 'name:bsr', why: 'LZCNT: without CPUID.LZCNT "the encoding is treated as BSR"' },
  { code: /^Wbnoinvd/, as: 'name:wbinvd', why: 'WBNOINVD: without its CPUID bit it is WBINVD (AMD APM vol. 3)' },
  {
    code: /^(Lar|Lsl|Lldt|Ltr|Verr|Verw|Lmsw|Arpl|Mov_Sreg)/,
    as: 'width',
    why: 'their source is r/m16, whatever the operand size: the upper bits of a register are not read',
  },
  {
    code: /^(Movmskp|Pmovmskb|Pextr|Extractps|Pinsr|Crc32)/,
    as: 'width',
    why: 'REX.W makes the general register one of 64 bits, of which the upper 32 become zero, as they do without it, or are not read',
  },
  {
    code: /^Movsxd_r16/,
    as: 'width',
    why: 'MOVSXD with 66: the source is r/m32 for AMD (APM vol. 3), r/m16 for Intel; the low 16 bits are moved',
  },
  {
    code: /^Mov_(r32_[cd]r|[cd]r_r32)/,
    as: 'width',
    why: 'MOV of control and debug registers: 32 bits outside 64-bit mode, which our definition looks up when it runs',
  },
];

interface Expectation {
  readonly as: Says | 'same';
  readonly mnemonic: number;
}
const expectations: (Expectation | undefined)[] = [];

/** What we are to make of an instruction that iced found. */
function expectation(iced: Instruction, bits: 64 | 32 | 16): Expectation {
  const { code } = iced;
  const key = code * 2 + (bits === 64 ? 0 : 1);
  let e = expectations[key];
  if (e) return e;
  const difference = DIFFERENCES.find((d) => d.code.test(Code[code]) && !(d.bits && bits === 64));
  const advertised = iced
    .cpuidFeatures()
    .every((f) => ADVERTISED.includes(CpuidFeature[f] as keyof typeof CpuidFeature));
  const as = difference?.as ?? (advertised ? 'same' : 'ud');
  e = { as, mnemonic: as.startsWith('name:') ? mnemonics.get(as.slice(5))! : iced.mnemonic };
  return (expectations[key] = e);
}

/** Instructions by iced's names for them: what operand size or address size makes of a name in our definitions. */
const BY_SIZE: Readonly<Record<string, readonly [two: string, four: string, eight: string]>> = {
  cbw: ['cbw', 'cwde', 'cdqe'],
  cwd: ['cwd', 'cdq', 'cqo'],
  insv: ['insw', 'insd', 'insd'],
  outsv: ['outsw', 'outsd', 'outsd'],
  iret: ['iret', 'iretd', 'iretq'],
  pusha: ['pusha', 'pushad', ''],
  popa: ['popa', 'popad', ''],
  pushf: ['pushf', 'pushfd', 'pushfq'],
  popf: ['popf', 'popfd', 'popfq'],
  sysret: ['sysret', 'sysret', 'sysretq'],
  sysexit: ['sysexit', 'sysexit', 'sysexitq'],
  movd: ['movd', 'movd', 'movq'],
  pextrd: ['pextrd', 'pextrd', 'pextrq'],
  pinsrd: ['pinsrd', 'pinsrd', 'pinsrq'],
  cmpxchg8b: ['cmpxchg8b', 'cmpxchg8b', 'cmpxchg16b'],
  fxsave: ['fxsave', 'fxsave', 'fxsave64'],
  fxrstor: ['fxrstor', 'fxrstor', 'fxrstor64'],
  pcmpestri: ['pcmpestri', 'pcmpestri', 'pcmpestri64'],
  pcmpestrm: ['pcmpestrm', 'pcmpestrm', 'pcmpestrm64'],
};
const OTHER_NAMES: Readonly<Record<string, string>> = {
  callf: 'call',
  jmpf: 'jmp',
  xlat: 'xlatb',
  fwait: 'wait',
  prefetchw: 'prefetchw',
};

/** iced's name for what we decoded. */
function mnemonicName(insn: Insn): string {
  const { name, opcode, map, reg, unit } = insn.def;
  if (map === 0 && /^(movs|stos|lods|cmps|scas)$/.test(name))
    return name + (opcode & 1 ? (insn.size === 8 ? 'q' : insn.size === 4 ? 'd' : 'w') : 'b');
  if (name === 'jcxz') return insn.addressSize === 8 ? 'jrcxz' : insn.addressSize === 4 ? 'jecxz' : 'jcxz';
  if (name === 'shl' && reg === 6) return 'sal';
  if (name === 'nop' && map === 0) return insn.rep === 0xf3 ? 'pause' : 'nop';
  if (name === 'fstp' && opcode === 0xd9 && reg === 3 && insn.modrm >= 0xc0) return 'fstpnce';
  // 8087 and 80287 instructions that do nothing any more.
  if (name === 'fnop' && opcode === 0xdb) return ['fneni', 'fndisi', '', '', 'fnsetpm'][insn.modrm & 7]!;
  const sized = BY_SIZE[name];
  if (sized && !(unit && map === 0)) return sized[insn.size === 8 ? 2 : insn.size === 4 ? 1 : 0];
  return OTHER_NAMES[name] ?? name;
}

const mnemonics = new Map<string, number>();
for (const [name, value] of Object.entries(Mnemonic))
  if (typeof value === 'number') mnemonics.set(name.toLowerCase(), value);
const known = new Map<number, number>();
/** {@link mnemonicName} as iced's number, or -1 when iced has none of that name. */
function mnemonicOf(insn: Insn): number {
  const key =
    (((insn.def.id * 16 + insn.size) * 16 + insn.addressSize) * 8 + (insn.modrm & 7)) * 2 + (insn.rep === 0xf3 ? 1 : 0);
  let m = known.get(key);
  if (m === undefined) known.set(key, (m = mnemonics.get(mnemonicName(insn)) ?? -1));
  return m;
}

/** A register as one number: class, size, number, and whether it is AH to BH. */
const packed = (cls: number, size: number, reg: number, high = false): number =>
  ((cls * 64 + size) * 32 + reg) * 2 + (high ? 1 : 0);
const CLASSES = ['gpr', 'xmm', 'mmx', 'seg', 'cr', 'dr', 'st'] as const;
const registers = new Int32Array(0x200);
const GPR = ['AX', 'CX', 'DX', 'BX', 'SP', 'BP', 'SI', 'DI'];
for (const [name, value] of Object.entries(Register)) {
  if (typeof value !== 'number') continue;
  const number = Number(/\d+/.exec(name)?.[0] ?? -1);
  let p = -1;
  if (/^[ACDB][LH]$/.test(name)) p = packed(0, 1, 'ACDB'.indexOf(name[0]!), name[1] === 'H');
  else if (/^(SPL|BPL|SIL|DIL)$/.test(name)) p = packed(0, 1, GPR.indexOf(name.slice(0, 2)));
  else if (/^R\d+L$/.test(name)) p = packed(0, 1, number);
  else if (GPR.includes(name)) p = packed(0, 2, GPR.indexOf(name));
  else if (/^R\d+W$/.test(name)) p = packed(0, 2, number);
  else if (GPR.includes(name.slice(1)) && name[0] === 'E') p = packed(0, 4, GPR.indexOf(name.slice(1)));
  else if (/^R\d+D$/.test(name)) p = packed(0, 4, number);
  else if (GPR.includes(name.slice(1)) && name[0] === 'R') p = packed(0, 8, GPR.indexOf(name.slice(1)));
  else if (/^R\d+$/.test(name)) p = packed(0, 8, number);
  else if (/^XMM\d+$/.test(name)) p = packed(1, 16, number);
  else if (/^MM\d$/.test(name)) p = packed(2, 8, number);
  else if (/^[ECSDFG]S$/.test(name)) p = packed(3, 2, 'ECSDFG'.indexOf(name[0]!));
  else if (/^CR\d+$/.test(name)) p = packed(4, 8, number);
  else if (/^DR\d+$/.test(name)) p = packed(5, 8, number);
  else if (/^ST\d$/.test(name)) p = packed(6, 8, number);
  registers[value] = p;
}
registers[Register.RIP] = packed(0, 8, 16);
registers[Register.EIP] = packed(0, 4, 16);

const operandRegister = (o: Operand, x87: boolean): number =>
  o.kind !== 'reg'
    ? -1
    : // Vector registers are as wide as what is used of them, and ST(i) are the registers that MMX shares with the x87.
      packed(
        x87 && o.cls === 'mmx' ? 6 : CLASSES.indexOf(o.cls),
        o.cls === 'xmm' ? 16 : o.cls === 'mmx' ? 8 : o.size,
        o.reg,
        o.high,
      );

/** Whether two are the same register but for its width. */
const sameNumber = (a: number, b: number): boolean => a >> 12 === b >> 12 && (a & 63) === (b & 63);

/** Segment register numbers where they matter: in 64-bit mode all but FS and GS have the base 0. */
const segmentNumber = (seg: number, bits: number): number => (bits === 64 && seg < 4 ? 3 : seg);

const sizes = new Int16Array(0x200).fill(-1);
function memoryBytes(size: number): number {
  let n = sizes[size]!;
  if (n < 0) sizes[size] = n = MemorySizeExt.size(size);
  return n;
}

/** What is different about the memory operand. */
function memoryDifference(insn: Insn, iced: Instruction, size: number): string | undefined {
  const m = insn.mem;
  if (!m) return 'memory operand';
  const base = iced.memoryBase;
  const index = iced.memoryIndex;
  const wantBase = base === Register.None ? -1 : registers[base]!;
  const wantIndex = index === Register.None ? -1 : registers[index]!;
  if (wantBase !== (m.base < 0 ? -1 : packed(0, m.addressSize, m.base))) return 'base';
  if (wantIndex !== (m.index < 0 ? -1 : packed(0, m.addressSize, m.index))) return 'index';
  if (m.index >= 0 && iced.memoryIndexScale !== 1 << m.scale) return 'scale';
  if (wantBase < 0 && wantIndex < 0 && iced.memoryDisplSize !== m.addressSize) return 'address size';
  const displacement = iced.memoryDisplacement;
  // iced adds the address of the next instruction, here its length.
  const rip = m.base === 16 ? insn.len : 0;
  const difference = Number(BigInt.asIntN(32, displacement)) ^ (m.disp + rip);
  if (m.addressSize === 2 ? difference & 0xffff : difference) return 'displacement';
  if (m.addressSize === 8 && rip === 0 && Number(BigInt.asIntN(32, displacement >> 32n)) !== m.dispHigh)
    return 'displacement, upper half';
  const segment = registers[iced.memorySegment]!;
  if (segment !== packed(3, 2, m.seg) && !(insn.bits === 64 && m.seg < 4 && ((segment >> 1) & 31) < 4))
    return 'segment';
  if (size && memoryBytes(iced.memorySize) !== size) return `memory size ${memoryBytes(iced.memorySize)}`;
  return undefined;
}

/** Operands that only iced names, because the opcode implies them. */
function implied(insn: Insn, kind: OpKind, register: number): boolean {
  const { name, unit } = insn.def;
  if (kind === OpKind.Register) {
    if (unit === 'x87' && register === packed(6, 8, 0)) return true;
    if (name === 'fnstsw' && register === packed(0, 2, 0)) return true;
    if (/^blendv|^pblendv/.test(name) && register === packed(1, 16, 0)) return true;
    if (/^(push|pop)$/.test(name) && register >> 12 === packed(3, 2, 0) >> 12) return true;
    return /^(lods|stos|scas|ins|outs)/.test(name) && (register >> 1) % 32 === (/^(ins|outs)/.test(name) ? 2 : 0);
  }
  if (kind === OpKind.Memory) return name === 'xlat';
  return false;
}

const addressSizeOf = (kind: OpKind): number => [2, 4, 8][(kind - OpKind.MemorySegSI) % 3]!;

/** What is different about the operands. */
function operandDifference(insn: Insn, iced: Instruction, anyWidth: boolean): string | undefined {
  const { operands, def } = insn;
  const x87 = def.unit === 'x87';
  let k = 0;
  const count = iced.opCount;
  for (let i = 0; i < count; i++) {
    const kind = iced.opKind(i);
    const o = operands[k];
    switch (kind) {
      case OpKind.Register: {
        const register = registers[iced.opRegister(i)]!;
        if (o && o.kind === 'reg' && operandRegister(o, x87) === register) k++;
        else if (anyWidth && o?.kind === 'reg' && sameNumber(operandRegister(o, x87), register)) k++;
        else if (!implied(insn, kind, register)) return `operand ${i}: ${Register[iced.opRegister(i)]}`;
        break;
      }
      case OpKind.Memory: {
        if (o?.kind !== 'mem') {
          if (!implied(insn, kind, 0)) return `operand ${i}: memory`;
          if (
            registers[iced.memorySegment] !==
              packed(3, 2, segmentNumber(insn.segment < 0 ? 3 : insn.segment, insn.bits)) &&
            insn.bits !== 64
          )
            return 'segment';
          break;
        }
        const d = memoryDifference(insn, iced, anyWidth ? 0 : o.size);
        if (d) return d;
        k++;
        break;
      }
      case OpKind.NearBranch16:
      case OpKind.NearBranch32:
      case OpKind.NearBranch64: {
        if (o?.kind !== 'rel') return `operand ${i}: branch target`;
        const target = Number(BigInt.asIntN(32, iced.nearBranchTarget));
        const ours = insn.len + insn.imm;
        if (kind === OpKind.NearBranch16 ? (target ^ ours) & 0xffff : target !== ours)
          return `target ${target}, ${ours}`;
        if ((kind === OpKind.NearBranch64 ? 8 : kind === OpKind.NearBranch32 ? 4 : 2) !== insn.size)
          return 'size of RIP';
        k++;
        break;
      }
      case OpKind.FarBranch16:
      case OpKind.FarBranch32: {
        const offset = kind === OpKind.FarBranch16 ? iced.farBranch16 : iced.farBranch32 | 0;
        if (offset !== (kind === OpKind.FarBranch16 ? insn.imm & 0xffff : insn.imm)) return 'far offset';
        if (iced.farBranchSelector !== (insn.immHigh & 0xffff)) return 'far selector';
        k += 2;
        break;
      }
      case OpKind.MemorySegSI:
      case OpKind.MemorySegESI:
      case OpKind.MemorySegRSI:
      case OpKind.MemorySegDI:
      case OpKind.MemorySegEDI:
      case OpKind.MemorySegRDI: {
        const segment = (registers[iced.memorySegment]! >> 1) & 31;
        if (segmentNumber(segment, insn.bits) !== (insn.segment < 0 ? 3 : insn.segment)) return 'segment';
        if (addressSizeOf(kind) !== insn.addressSize) return 'address size';
        break;
      }
      case OpKind.MemoryESDI:
      case OpKind.MemoryESEDI:
      case OpKind.MemoryESRDI:
        if (addressSizeOf(kind) !== insn.addressSize) return 'address size';
        break;
      default: {
        // Immediates. The second one of ENTER is in the upper half.
        const value = BigInt.asUintN(64, iced.immediate(i));
        const second = kind === OpKind.Immediate8_2nd;
        if (o?.kind !== 'imm') return `operand ${i}: immediate`;
        const low = Number(value & 0xffff_ffffn) | 0;
        const bytes =
          kind === OpKind.Immediate8 || second
            ? 1
            : kind === OpKind.Immediate16
              ? 2
              : kind === OpKind.Immediate8to16
                ? 2
                : 4;
        const mask = bytes === 1 ? 0xff : bytes === 2 ? 0xffff : -1;
        if (((second ? insn.immHigh : insn.imm) ^ low) & mask) return `immediate ${low}`;
        if (kind === OpKind.Immediate64 && Number(value >> 32n) !== insn.immHigh >>> 0) return 'immediate, upper half';
        const encoded =
          kind === OpKind.Immediate64
            ? 8
            : kind === OpKind.Immediate32 || kind === OpKind.Immediate32to64
              ? 4
              : kind === OpKind.Immediate16
                ? 2
                : 1;
        if (encoded !== o.size) return `immediate of ${encoded} bytes, ${o.size}`;
        k++;
      }
    }
  }
  return k === operands.length ? undefined : `${k} operands, ${operands.length}`;
}

/**
 * What is different between what we and iced say of the same bytes; undefined when nothing is.
 * @param iced decoded with its instruction pointer at 0
 */
export function disagreement(ours: Insn | DecodeFailure, iced: Instruction, bits: 64 | 32 | 16): string | undefined {
  const { code } = iced;
  if (code === Code.INVALID) return typeof ours === 'string' ? undefined : `no instruction, we: ${ours.def.pattern}`;
  const { as, mnemonic } = expectation(iced, bits);
  if (as === 'ud')
    return ours === 'ud'
      ? undefined
      : `no instruction of ours, we: ${typeof ours === 'string' ? ours : ours.def.pattern}`;
  if (typeof ours === 'string') return `we: ${ours}`;
  if (ours.len !== iced.length) return `length ${iced.length}, we: ${ours.len}`;
  const { name, map } = ours.def;
  if (as === 'nop') return name === 'nop' || name === 'prefetchw' ? undefined : `a NOP, we: ${ours.def.pattern}`;
  if (code === Code.Pause && name === 'xchg')
    // XCHG: REX.B makes it XCHG of R8 and rAX, with F3 too; so say Intel's and AMD's processors.
    return ours.operands[0]?.kind === 'reg' && ours.operands[0].reg === 8 ? undefined : 'PAUSE';
  if (mnemonicOf(ours) !== mnemonic) return `mnemonic, we: ${mnemonicName(ours)} (${ours.def.pattern})`;
  if (iced.hasLockPrefix !== ours.lock) return 'LOCK';
  if (map === 0 && /^(movs|stos|lods|cmps|scas|ins|outs)/.test(name)) {
    const rep = iced.hasRepPrefix ? 'f3' : iced.hasRepnePrefix ? 'f2' : '';
    const own = ours.rep === 0xf3 ? 'f3' : ours.rep === 0xf2 ? 'f2' : ours.def.prefix;
    if (rep !== own) return `REP ${rep}, we: ${own}`;
  }
  // Whose operand only says that ModRM is there.
  if (name.endsWith('fence')) return undefined;
  return operandDifference(ours, iced, as === 'width');
}
