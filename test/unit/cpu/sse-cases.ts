/** Cases for single SSE instructions: every form, registers and memory, with operands chosen to be nasty. */
import { DEFS, type Def } from '../../../emulator/cpu/insn.ts';

/** Layout of a case, as in sse-native.c. */
export const At = {
  CODE: 0,
  OFFSET: 14,
  LENGTH: 15,
  XMM: 16,
  RAX: 64,
  RCX: 72,
  RDX: 80,
  MMX: 88,
  FLAGS: 96,
  MXCSR: 104,
  FAULT: 108,
  MEMORY: 112,
  SIZE: 144,
} as const;

export interface Form {
  readonly def: Def;
  readonly code: readonly number[];
  /** What the operands are: doubles, singles, strings, or anything. */
  readonly kind: 'double' | 'single' | 'string' | 'integer';
  readonly memory: boolean;
}

/** Numbers that are the same in each run. */
export class Random {
  private state: number;
  constructor(seed: number) {
    this.state = seed >>> 0;
  }
  /** 0 to n − 1. */
  below(n: number): number {
    this.state = (Math.imul(this.state, 1103515245) + 12345) >>> 0;
    return (this.state >>> 8) % n;
  }
  of<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }
}

function kindOf(name: string): Form['kind'] {
  if (/^pcmp.str/.test(name)) return 'string';
  if (/^cvt(dq|pi|si)/.test(name)) return 'integer';
  if (/^cvtt?(pd|sd)2/.test(name)) return 'double';
  if (/^cvtt?(ps|ss)2/.test(name) || /[ps]s$/.test(name)) return 'single';
  return /[ps]d$/.test(name) ? 'double' : 'integer';
}

/** All forms of the SSE definitions, encoded with XMM0 (EAX, MM0) and register 1 or memory at RSI. */
export function forms(random: Random): Form[] {
  const list: Form[] = [];
  for (const def of DEFS) {
    if (def.unit !== 'sse' && !/^(crc32|movq2dq|movdq2q|movnti)$/.test(def.name)) continue;
    // Approximations differ between vendors; these others depend on more than this state.
    if (/^(rcp|rsqrt|ldmxcsr|fx|.fence)/.test(def.name)) continue;
    const { specs } = def;
    const hasMemory = specs.some((s) => /^[WEQM]/.test(s));
    const hasRegister = !specs.some((s) => s.startsWith('M'));
    const sized = specs.some((s) => s[1] === 'y') || /^(crc32|pcmpestr)/.test(def.name);
    const immediate = specs.includes('Ib');
    const kind = kindOf(def.name);
    for (const wide of sized ? [false, true] : [false])
      for (const memory of [false, true]) {
        if (memory ? !hasMemory : !hasRegister) continue;
        for (let k = 0; k < (immediate ? (kind === 'string' ? 128 : 32) : 1); k++) {
          const code: number[] = [];
          if (def.prefix !== 'np' && def.prefix !== '') code.push(parseInt(def.prefix, 16));
          if (wide) code.push(0x48);
          if (def.map) code.push(0x0f);
          if (def.map > 1) code.push(def.map === 2 ? 0x38 : 0x3a);
          code.push(def.opcode, (memory ? 0x06 : 0xc1) | (Math.max(def.reg, 0) << 3));
          if (immediate) code.push(kind === 'string' || k < 18 ? k : random.below(256));
          list.push({ def, code, kind, memory });
        }
      }
  }
  return list;
}

const DOUBLES = [
  0,
  -0,
  1,
  -1,
  1.5,
  0.1,
  3,
  2,
  4,
  0.5,
  2.5,
  -0.5,
  Infinity,
  -Infinity,
  5e-324,
  2.2250738585072014e-308,
  2.225073858507201e-308,
  1e308,
  1.7976931348623157e308,
  1e-300,
  1e-160,
  1e160,
  1e-39,
  1e-46,
  3.5e38,
  3.4028235e38,
  2147483647,
  2147483647.5,
  2147483648,
  -2147483648,
  -2147483649,
  9.2e18,
  9.3e18,
  -9.223372036854775808e18,
  123456789.123,
  16777217,
  9007199254740991,
  2251799813685249.5,
];
const DOUBLE_NANS = [
  0x7ff0000000000001n,
  0xfff4000000000000n,
  0x7ff8000000000123n,
  0xfff8000000000000n,
  0x7fffffffffffffffn,
];
const SINGLES = [
  0,
  -0,
  1,
  -1,
  1.5,
  0.1,
  3,
  2,
  4,
  0.5,
  2.5,
  -0.5,
  Infinity,
  -Infinity,
  1e-45,
  1.1754943508222875e-38,
  1.1754942106924411e-38,
  3.4028234663852886e38,
  1e38,
  1e-30,
  1e20,
  1e-20,
  1e-40,
  2147483648,
  -2147483648,
  2147483520,
  16777216,
  9.2e18,
  -9.223372036854775808e18,
  8388609,
  8388607.5,
];
const SINGLE_NANS = [0x7f800001, 0xffa00000, 0x7fc00123, 0xffc00000];

function fillVector(view: DataView, at: number, kind: Form['kind'], random: Random): void {
  if (kind === 'double')
    for (let i = at; i < at + 16; i += 8) {
      if (random.below(6) === 0) view.setBigUint64(i, random.of(DOUBLE_NANS), true);
      else if (random.below(3) === 0)
        view.setFloat64(
          i,
          (random.below(1 << 24) - (1 << 23)) * 2 ** (random.below(60) - 30) * (1 + random.below(9) / 7),
          true,
        );
      else view.setFloat64(i, random.of(DOUBLES), true);
    }
  else if (kind === 'single')
    for (let i = at; i < at + 16; i += 4) {
      if (random.below(8) === 0) view.setUint32(i, random.of(SINGLE_NANS), true);
      else if (random.below(3) === 0)
        view.setFloat32(i, (random.below(1 << 24) - (1 << 23)) * 2 ** (random.below(40) - 20), true);
      else view.setFloat32(i, random.of(SINGLES), true);
    }
  else if (kind === 'string')
    for (let i = at; i < at + 16; i++) view.setUint8(i, random.below(9) ? 97 + random.below(3) : 0);
  else if (random.below(8) === 0) {
    // A shift count.
    view.setBigUint64(at, BigInt(random.below(80)), true);
    view.setBigUint64(at + 8, 0n, true);
  } else {
    const extreme = random.below(4) === 0;
    for (let i = at; i < at + 16; i++)
      view.setUint8(i, extreme ? random.of([0, 0x7f, 0x80, 0xff, 1]) : random.below(256));
  }
}

/** Writes a case for a form. `mxcsr`: what to choose from. */
export function writeCase(view: DataView, at: number, form: Form, mxcsr: readonly number[], random: Random): void {
  form.code.forEach((b, i) => view.setUint8(at + At.CODE + i, b));
  view.setUint8(at + At.LENGTH, form.code.length);
  if (form.memory && random.below(10) === 0) view.setUint8(at + At.OFFSET, random.of([1, 4, 8]));
  for (let r = 0; r < 3; r++) fillVector(view, at + At.XMM + r * 16, form.kind, random);
  for (const register of [At.RAX, At.RCX, At.RDX]) {
    const word = (): bigint => BigInt(random.below(1 << 16));
    const small = BigInt(random.below(20));
    const values = [small, BigInt.asUintN(64, -small), (word() << 48n) | (word() << 32n) | (word() << 16n) | word()];
    view.setBigUint64(at + register, random.of(values), true);
  }
  view.setBigUint64(at + At.MMX, BigInt(random.below(1 << 24)) * 0x1234567n, true);
  view.setBigUint64(at + At.FLAGS, BigInt(random.of([0, 0x8d5])), true);
  view.setUint32(at + At.MXCSR, random.of(mxcsr), true);
  fillVector(view, at + At.MEMORY, form.kind, random);
  fillVector(view, at + At.MEMORY + 16, form.kind, random);
}
