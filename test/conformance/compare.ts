/** What must be equal, and what the manuals leave undefined. */
import { AF, ARITH, CF, OF, PF, SF, ZF } from '../../emulator/cpu/insn.ts';
import { CS, GPR_NAMES, RSP } from '../../emulator/cpu/layout.ts';
import type { Code } from './forms.ts';
import type { Outcome } from './emulated.ts';
import { operandAddress } from './inputs.ts';
import { IN, NO_EXCEPTION, OUT, PATCH_BYTES, STATE, TIMEOUT, USER_CODE32, WINDOW, WINDOW_BYTES } from './native.ts';
import { Comparison, digits, hex, type Results } from './results.ts';

const RCX = 1;
const RSI = 6;
const RDI = 7;
/** Patterns of string instructions with a REP prefix. */
const REPEATED = /^(movs|stos|lods|cmps|scas) f/;

/** The count of a shift, masked as the processor does. */
function shiftCount(code: Code, input: DataView, at: number): number {
  const { insn } = code;
  const last = insn.def.specs[insn.def.specs.length - 1];
  const raw = last === 'CL' ? input.getUint8(at + IN.GPR + RCX * 8) : last === '1' ? 1 : insn.imm;
  return raw & (insn.size === 8 ? 63 : 31);
}

/** Arithmetic flags that are undefined after the instruction (SDM vol. 1, appendix A, and the instruction's own page). */
export function undefinedFlags(code: Code, input: DataView, at: number): number {
  const { insn } = code;
  const { name } = insn.def;
  switch (name) {
    case 'div':
    case 'idiv':
      return ARITH;
    case 'bt':
    case 'bts':
    case 'btr':
    case 'btc':
      return OF | SF | AF | PF;
    case 'bsf':
    case 'bsr':
      return ARITH & ~ZF;
    case 'aam':
    case 'aad':
      return OF | AF | CF;
    case 'aaa':
    case 'aas':
      return OF | SF | ZF | PF;
    case 'daa':
    case 'das':
      return OF;
    case 'shl':
    case 'shr':
    case 'sar': {
      const n = shiftCount(code, input, at);
      return (n ? AF : 0) | (n > 1 ? OF : 0) | (n >= insn.size * 8 && name !== 'sar' ? CF : 0);
    }
    case 'shld':
    case 'shrd': {
      const n = shiftCount(code, input, at);
      return n > insn.size * 8 ? ARITH : (n ? AF : 0) | (n > 1 ? OF : 0);
    }
    case 'rol':
    case 'ror':
    case 'rcl':
    case 'rcr':
      return shiftCount(code, input, at) > 1 ? OF : 0;
    default:
      return alwaysUndefined(name);
  }
}

/** Arithmetic flags that are undefined whatever the operands are. */
export function alwaysUndefined(name: string): number {
  switch (name) {
    case 'and':
    case 'or':
    case 'xor':
    case 'test':
      return AF;
    case 'mul':
    case 'imul':
      return SF | ZF | AF | PF;
    default:
      return 0;
  }
}

/**
 * Intel's processors clear the upper halves of what a repeated string instruction with 32-bit addresses counts also where it
 * comes to nothing, so that the lower halves stay. A bit for each register.
 */
function upperCleared(code: Code, input: DataView, at: number, native: DataView, nativeAt: number): number {
  if (!REPEATED.test(code.def.pattern) || code.insn.addressSize !== 4) return 0;
  const stays = (n: number): boolean =>
    native.getUint32(nativeAt + OUT.GPR + n * 8, true) === input.getUint32(at + IN.GPR + n * 8, true);
  return [RCX, RSI, RDI].reduce((mask, n) => mask | (stays(n) ? 1 << n : 0), 0);
}

/** Whether the result itself is undefined, so that only exceptions are compared. */
function undefinedResult(code: Code, input: DataView, at: number): boolean {
  const { insn } = code;
  switch (insn.def.name) {
    case 'bswap':
      return insn.size === 2;
    case 'shld':
    case 'shrd':
      return shiftCount(code, input, at) > insn.size * 8;
    default:
      return false;
  }
}

/**
 * BSF and BSR of 0 leave the register (AMD), or undefined (Intel), and CMPXCHG that finds no equality writes the old
 * value back (Intel) or nothing (AMD): the upper half may be cleared. A bit for each register.
 */
function upperUndefined(code: Code, input: DataView, at: number): number {
  const { insn } = code;
  const o = insn.operands[0];
  if (!/^(bs[fr]|cmpxchg)$/.test(insn.def.name) || insn.size !== 4 || o?.kind !== 'reg') return 0;
  return input.getUint32(at + IN.GPR + o.reg * 8 + 4, true) !== 0 ? 1 << o.reg : 0;
}

/**
 * Registers (a bit for each) whose values are the processor's own, time, or random. What is compared of them is that
 * the upper half becomes 0, or stays with operands of 16 bits.
 */
function unknownRegisters(code: Code): { values: number; upperHalves: number } {
  const { insn } = code;
  const o = insn.operands[0];
  let values = 0;
  switch (insn.def.name) {
    case 'cpuid':
      values = 0b1111;
      break;
    case 'rdtsc':
      values = 0b101;
      break;
    case 'rdtscp':
      values = 0b111;
      break;
    case 'rdrand':
    case 'rdseed':
      if (o?.kind === 'reg') values = 1 << o.reg;
  }
  return { values, upperHalves: insn.size === 8 && o ? values : 0 };
}

/** Forms whose operand is read or written in parts. */
const IN_PARTS = /^f(ld$|stp$|bld|bstp|ldenv|nstenv|rstor|nsave|xsave|xrstor)/;
/** Whether the operand begins below the hole of non-canonical addresses, and may end in it. */
function crossesHole(code: Code, input: DataView, at: number): boolean {
  const where = operandAddress(code, (n) => input.getBigUint64(at + IN.GPR + n * 8, true));
  return where !== undefined && where < HOLE && where + 512n > HOLE;
}
const HOLE = 0x8000_0000_0000n;
/** Whether the operand of 32-bit code begins before the end of the address space, and may end behind it. */
function runsOver(code: Code, input: DataView, at: number): boolean {
  const where = operandAddress(code, (n) => input.getBigUint64(at + IN.GPR + n * 8, true));
  return code.bits === 32 && where !== undefined && where + 512n > 0x1_0000_0000n;
}
const C0_C2_C3 = 0x4500;
const DEFINES_CONDITION =
  /^f(u?com|icom|tst|xam|prem|nstsw|ldenv|rstor|xrstor|nsave|ninit|nclex|nop|ld|nst|xsave|st|xch|free|dec|inc|ist|cmov)/;
/** Forms of which it is the processor's choice which page is found missing first. */
const LONG_OPERAND = /^f(ldenv|xrstor|xsave|rstor|nsave|nstenv)|^cmps|^pusha|^iret|^retf|^callf/;
/** Results of the transcendental instructions may differ in the last place. */
const TRANSCENDENTAL = /^(fsin|fcos|fsincos|fptan|fpatan|f2xm1|fyl2x|fyl2xp1)$/;

const SEGMENTS = ['es', 'cs', 'ss', 'ds', 'fs', 'gs'];

/**
 * Bytes of the window that are not compared: beside a pushed selector; where the last x87 instruction and its operand were,
 * which AMD's processors only know when an exception is pending, and what FXSAVE says of MXCSR's bits or reserves.
 */
function ignoredMemory(
  code: Code,
  input: DataView,
  at: number,
  intel: boolean,
): readonly (readonly [from: number, to: number])[] {
  const { name } = code.def;
  const { insn } = code;
  // Of a selector that is pushed with 32 bits, Intel's processors write the lower half (SDM vol. 2, PUSH).
  if (intel && name === 'push' && insn.size === 4 && !insn.operands.length) {
    const top = input.getUint32(at + IN.GPR + RSP * 8, true) - 4 - WINDOW;
    return [[top + 2, top + 4]];
  }
  const fx = name === 'fxsave';
  if (!fx && !/^fn(save|stenv)$/.test(name)) return [];
  const where = operandAddress(code, (n) => input.getBigUint64(at + IN.GPR + n * 8, true));
  if (where === undefined) return [];
  const start = Number(BigInt.asIntN(64, where)) - WINDOW;
  return (fx ? FXSAVE_IGNORED : insn.size === 2 ? ENVIRONMENT16_IGNORED : ENVIRONMENT_IGNORED).map(([a, b]) => [
    start + a,
    start + b,
  ]);
}
/** SDM vol. 1, table 10-2 and figures 8-9 to 8-12. */
const FXSAVE_IGNORED = [
  [6, 24],
  [28, 32],
  [416, 512],
] as const;
const ENVIRONMENT_IGNORED = [[12, 28]] as const;
const ENVIRONMENT16_IGNORED = [[6, 14]] as const;

/**
 * Compares what the processor did in case `i` with what the emulator did.
 * @returns one line for each difference
 */
export function differences(code: Code, input: DataView, results: Results, i: number, got: Outcome): string[] {
  const { record } = got;
  const { name, pattern, unit } = code.def;
  const { intel } = results;
  const inputAt = i * IN.SIZE;
  const native = results.view;
  const at = results.at(i);
  const c = new Comparison(native, at, got);
  const { vector, gotVector } = c;
  // An operand that runs over the end of the 32-bit address space is beyond the segment's limit.
  if (
    code.bits === 32 &&
    (vector === 13 || vector === 12) &&
    gotVector === 14 &&
    (record.getUint32(OUT.CR2, true) + 0x1000) >>> 0 < 0x1200
  )
    return [];
  const other = (v: number): boolean => v === 13 || v === 14;
  // Faults on executing an instruction come in an order of the processor's choice (SDM vol. 3, 6.9).
  const access = (v: number): boolean => other(v) || v === 12;
  // Such an operand may be misaligned or missing as well.
  if (vector !== gotVector && access(vector) && access(gotVector) && runsOver(code, input, inputAt)) return [];
  // Which of its two operands CMPS reads first is the processor's choice.
  if (name === 'cmps' && other(vector) && other(gotVector) && vector !== gotVector) return [];
  // So is how a far call to compatibility mode pushes when RSP does not fit there.
  if (name === 'callf' && code.bits === 64 && input.getUint32(inputAt + IN.GPR + RSP * 8 + 4, true)) return [];
  // So is whether RETF looks behind what it releases before it has checked the selector.
  if (name === 'retf' && vector === 14 && gotVector === 13) return [];
  if (results.intel && intelFaultsOtherwise(code, input, inputAt, c)) return [];
  // Nor is it said whether alignment comes before the rest.
  if ((vector === 17 && access(gotVector)) || (gotVector === 17 && access(vector))) return [];
  // Alignment of what need not be aligned is checked, or not (SDM vol. 2, MOVUPS).
  if (/^(movu|movdqu|lddqu)/.test(name) && (vector === 17) !== (gotVector === 17)) return [];
  // A long operand that runs into the non-canonical hole: the part before it may be found missing first.
  if (vector !== gotVector && IN_PARTS.test(name) && crossesHole(code, input, inputAt)) return [];
  c.exception();
  if (vector === gotVector) {
    // Which of a long operand's pages is found missing first is the processor's choice.
    if (vector === 14 && !LONG_OPERAND.test(name)) {
      // The host's kernel says "present" of all its own addresses, and the harness has its own program and state mapped.
      const cr2 = native.getBigUint64(at + OUT.CR2, true);
      const own =
        cr2 >= 0x7fff_ffff_f000n || (cr2 >= 0x40_0000n && cr2 < 0x100_0000n) || cr2 >> 12n === BigInt(STATE >>> 12);
      c.field(OUT.ERROR, 4, own ? ~1 : -1, '#PF code');
      c.quad(OUT.CR2, 'CR2');
    }
    if (vector === 13 || vector === 12) c.field(OUT.ERROR, 4, -1, '#GP code');
  }
  c.rip(code.entry);
  // A POPA that faults may have loaded some registers already; it is executed again as a whole.
  if (vector === 14 && name === 'popa') return c.lines;
  if (vector === NO_EXCEPTION && undefinedResult(code, input, inputAt)) return c.lines;
  // In compatibility mode the upper halves are undefined (SDM vol. 1, 3.4.1.1).
  const lowerOnly = code.bits === 32 || native.getUint16(at + OUT.SELECTORS + CS * 2, true) === USER_CODE32;
  const { upperHalves, values } = unknownRegisters(code);
  const uppers = upperUndefined(code, input, inputAt) | (intel ? upperCleared(code, input, inputAt, native, at) : 0);
  c.registers(code.bits === 64 ? 16 : 8, values, lowerOnly ? -1 : upperHalves | uppers);
  // On its way to the signal, the host's kernel may have made another null selector of a null selector.
  const exact = code.bits === 64 && vector === NO_EXCEPTION;
  SEGMENTS.forEach((segment, n) => {
    const o = OUT.SELECTORS + n * 2;
    if (exact || native.getUint16(at + o, true) > 3 || record.getUint16(o, true) > 3) c.field(o, 2, -1, segment);
  });
  if (code.bits === 64) {
    c.quad(OUT.FS_BASE, 'FS base');
    c.quad(OUT.GS_BASE, 'GS base');
  }
  const whole = vector === NO_EXCEPTION || vector === 3;
  // With Intel, flags are those from before the first of the repetitions when one faults (SDM vol. 2, REP).
  const changed = native.getUint32(at + OUT.RFLAGS, true) ^ input.getUint32(inputAt + IN.RFLAGS, true);
  const restored = intel && REPEATED.test(pattern) && !(changed & ARITH);
  const undefinedBits = whole ? undefinedFlags(code, input, inputAt) : restored ? ARITH : 0;
  // RDSEED may have none.
  c.flags(0x247ed5 & ~0x100 & ~undefinedBits & (name === 'rdseed' ? ~CF : -1));

  // A processor may have entered MMX state before it found the fault.
  if ((unit === 'mmx' || /^cvt.*pi/.test(name)) && (vector === 14 || vector === 17 || vector === 19)) return c.lines;
  if (intel && unit === 'mmx' && access(vector)) return c.lines;
  const transcendental = TRANSCENDENTAL.test(name);
  // C1 (rounded up), PE and UE follow the last place too.
  const conditions = transcendental || (unit === 'x87' && !DEFINES_CONDITION.test(name));
  c.field(OUT.FX, 2, 0x1f3f, 'fcw');
  c.field(OUT.FX + 2, 2, (transcendental ? 0xfccf : 0xffff) & (conditions ? ~C0_C2_C3 : -1), 'fsw');
  c.field(OUT.FX + 4, 1, 0xff, 'ftw');
  c.field(OUT.FX + 24, 4, -1, 'mxcsr');
  const approximation = /^r(cp|sqrt)[ps]s$/.test(name);
  c.vectors((n, a, ai, b, bi) =>
    n < 8
      ? n < 2 && transcendental && near(a, ai, b, bi)
      : approximation
        ? approximates(a, ai, b, bi)
        : intel && DOT_PRODUCT.test(name) && sameButNaNs(a, ai, b, bi, name === 'dppd'),
  );
  const expected = results.windowAfter(i);
  for (const [from, to] of ignoredMemory(code, input, inputAt, intel))
    for (let k = Math.max(0, from); k < Math.min(WINDOW_BYTES, to); k++) expected[k] = got.window[k]!;
  // How much is written before a missing page or a misaligned address is found is the processor's choice (SDM vol. 3, 8.1.1).
  const inPart =
    vector === 17
      ? name === 'enter'
      : vector === 14 && (/^(f(xsave|nsave|nstenv)|pusha)$/.test(name) || (intel && /^(fbstp|fstp db)/.test(pattern)));
  if (!inPart) c.memory(expected);
  return c.lines;
}

const X87_STORE = /^f(st|stp|ist|istp|isttp|bstp)$/;
/** Whether one of Intel's processors may raise another exception, or none, where the emulator does as AMD's. */
function intelFaultsOtherwise(code: Code, input: DataView, at: number, c: Comparison): boolean {
  const { insn } = code;
  const { name } = code.def;
  const { vector, gotVector } = c;
  if (vector === gotVector) return false;
  const misaligned = (place: bigint | undefined, size: number): boolean =>
    place !== undefined && place % BigInt(size) !== 0n;
  const gpr = (n: number): bigint => input.getBigUint64(at + IN.GPR + n * 8, true);
  const access = gotVector === 12 || gotVector === 13 || gotVector === 14 || gotVector === 17;
  switch (name) {
    // The selector is checked before what is behind the released part is looked at.
    case 'retf':
      return vector === 13 && gotVector === 14;
    // From a misaligned stack to flags with AC set it comes to nothing that the harness survives.
    case 'iret':
      return vector === TIMEOUT && misaligned(gpr(RSP), insn.size);
    // Two bytes of a selector's place on the stack are read or written.
    case 'push':
    case 'pop':
      return access && !insn.operands.length && misaligned(gpr(RSP), insn.size);
    // 16 bits are read.
    case 'movsxd':
      return access && insn.size === 2 && misaligned(operandAddress(code, gpr), 4);
  }
  // Alignment is not checked (SDM vol. 2, PCMPESTRI).
  if (/^pcmp[ei]str/.test(name)) return gotVector === 17;
  // A result that cannot be stored is found before the page where it is not stored is.
  return (
    access &&
    X87_STORE.test(name) &&
    vector === NO_EXCEPTION &&
    (c.native.getUint16(c.at + OUT.FX + 2, true) & 0x80) !== 0
  );
}

/** Whether two 80-bit numbers are at most one unit in the last place apart. */
function near(a: DataView, at: number, b: DataView, bt: number): boolean {
  const signExponent = a.getUint16(at + 8, true);
  const other = b.getUint16(bt + 8, true);
  if ((signExponent ^ other) & 0x8000) return false;
  // In order, without the integer bit: the largest significand is next to the following exponent's smallest.
  const place = (se: number, significand: bigint): bigint => (BigInt(se) << 63n) + BigInt.asUintN(63, significand);
  const d = place(signExponent, a.getBigUint64(at, true)) - place(other, b.getBigUint64(bt, true));
  return d >= -1n && d <= 1n;
}

/** Whether each of four floats is within the error that RCPPS and RSQRTPS may have (1.5 × 2⁻¹²), on both sides. */
function approximates(a: DataView, at: number, b: DataView, bt: number): boolean {
  for (let k = 0; k < 16; k += 4) {
    if (a.getUint32(at + k, true) === b.getUint32(bt + k, true)) continue;
    const x = a.getFloat32(at + k, true);
    const y = b.getFloat32(bt + k, true);
    if (!(Math.abs(x - y) <= 3 * 2 ** -12 * Math.abs(x))) return false;
  }
  return true;
}

/** In their sums it is the processor's choice which of several NaNs is the result. */
export const DOT_PRODUCT = /^dpp[sd]$/;
/** Whether numbers of single or double precision are the same, and NaNs where the others are. */
export function sameButNaNs(a: DataView, at: number, b: DataView, bt: number, double: boolean): boolean {
  const step = double ? 8 : 4;
  for (let k = 0; k < 16; k += step) {
    const x = double ? a.getFloat64(at + k, true) : a.getFloat32(at + k, true);
    const y = double ? b.getFloat64(bt + k, true) : b.getFloat32(bt + k, true);
    if (!Object.is(x, y)) return false;
  }
  return true;
}

/** An input in words: enough to run it again by hand. */
export function describeInput(code: Code, input: DataView, at: number): string {
  const used = new Set<string>();
  const lines: string[] = [];
  const text = Array.from(
    { length: code.bits === 64 ? 16 : 8 },
    (_, n) => `${GPR_NAMES[n]}=${hex(input.getBigUint64(at + IN.GPR + n * 8, true))}`,
  );
  lines.push(text.join(' ') + ` rflags=${hex(input.getBigUint64(at + IN.RFLAGS, true))} exit=${hex(code.exit)}`);
  const { unit } = code.def;
  const fx = at + IN.FX;
  if (unit === 'sse' || unit === 'mmx') lines.push(`mxcsr=${hex(input.getUint32(fx + 24, true))}`);
  for (const o of code.insn.operands)
    if (o.kind === 'reg' && (o.cls === 'xmm' || o.cls === 'mmx')) {
      const key = `${o.cls}${o.reg}`;
      if (!used.has(key))
        lines.push(
          `${key}=${o.cls === 'xmm' ? digits(input, fx + 160 + o.reg * 16, 16) : digits(input, fx + 32 + o.reg * 16, 10)}`,
        );
      used.add(key);
    }
  if (unit === 'x87') {
    lines.push(
      `fcw=${hex(input.getUint16(fx, true))} fsw=${hex(input.getUint16(fx + 2, true))} ftw=${hex(input.getUint8(fx + 4))}`,
    );
    for (let i = 0; i < 8; i++) lines.push(`st${i}=${digits(input, fx + 32 + i * 16, 10)}`);
  }
  for (let k = 0; k < input.getUint32(at + IN.PATCHES, true); k++) {
    const p = at + IN.PATCH + k * PATCH_BYTES;
    lines.push(`window+${hex(input.getUint32(p, true))}: ${digits(input, p + 8, 16)} (most significant first)`);
  }
  return lines.join('\n      ');
}
