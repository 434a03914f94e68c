/** What must be equal, and what the manuals leave undefined. */
import { CS, GPR_NAMES } from '../../emulator/cpu/layout.ts';
import { AF, ARITH, CF, OF, PF, SF, ZF } from '../../emulator/cpu/insn.ts';
import type { Code } from './forms.ts';
import type { Outcome } from './emulated.ts';
import { IN, NO_EXCEPTION, OUT, PATCH_BYTES, STATE, USER_CODE32, WINDOW_BYTES } from './native.ts';

const RCX = 1;

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
    case 'and':
    case 'or':
    case 'xor':
    case 'test':
      return AF;
    case 'mul':
    case 'imul':
      return SF | ZF | AF | PF;
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
      return 0;
  }
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
 * value back (Intel) or nothing (AMD): the upper half may be cleared.
 */
function upperUndefined(code: Code, n: number, input: DataView, at: number): boolean {
  const { insn } = code;
  const o = insn.operands[0];
  if (!/^(bs[fr]|cmpxchg)$/.test(insn.def.name) || insn.size !== 4 || o?.kind !== 'reg' || o.reg !== n) return false;
  return input.getUint32(at + IN.GPR + n * 8 + 4, true) !== 0;
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

const C0_C2_C3 = 0x4500;
const DEFINES_CONDITION =
  /^f(u?com|icom|tst|xam|prem|nstsw|ldenv|rstor|xrstor|nsave|ninit|nclex|nop|ld|nst|xsave|st|xch|free|dec|inc|ist|cmov)/;
/** Forms of which it is the processor's choice which page is found missing first. */
const LONG_OPERAND = /^f(ldenv|xrstor|xsave|rstor|nsave|nstenv)|^cmps|^pusha|^iret|^retf|^callf/;
/** Results of the transcendental instructions may differ in the last place. */
const TRANSCENDENTAL = /^(fsin|fcos|fsincos|fptan|fpatan|f2xm1|fyl2x|fyl2xp1)$/;

const SEGMENTS = ['es', 'cs', 'ss', 'ds', 'fs', 'gs'];
const hex = (v: bigint | number): string => v.toString(16);

/**
 * Compares what the processor did (`native`, at `at`, the changed memory behind it) with what the emulator did.
 * @returns one line for each difference
 */
export function differences(
  code: Code,
  input: DataView,
  inputAt: number,
  native: DataView,
  at: number,
  expectedWindow: Uint8Array,
  got: Outcome,
): string[] {
  const out: string[] = [];
  const { record } = got;
  const { name } = code.def;
  const vector = native.getUint32(at + OUT.VECTOR, true);
  const gotVector = record.getUint32(OUT.VECTOR, true);
  // An operand that runs over the end of the 32-bit address space is beyond the segment's limit.
  if (code.bits === 32 && vector === 13 && gotVector === 14 && record.getUint32(OUT.CR2, true) >= 0xffff_f000)
    return out;
  // Which of its two operands CMPS reads first is the processor's choice.
  const other = (v: number): boolean => v === 13 || v === 14;
  if (name === 'cmps' && other(vector) && other(gotVector) && vector !== gotVector) return out;
  // So is whether RETF looks behind what it releases before it has checked the selector.
  if (name === 'retf' && vector === 14 && gotVector === 13) return out;
  // An operand that runs into the non-canonical hole: the part before it may be found missing first.
  if (vector === 13 && gotVector === 14 && record.getBigUint64(OUT.CR2, true) >> 12n === 0x7_ffff_ffffn) return out;
  if (vector !== gotVector) out.push(`exception ${vector}, got ${gotVector}`);
  else if (vector === 14) {
    // The host's kernel says "present" of all its own addresses, and the harness has its own program and state mapped.
    const cr2 = native.getBigUint64(at + OUT.CR2, true);
    const own =
      cr2 >= 0x7fff_ffff_f000n || (cr2 >= 0x40_0000n && cr2 < 0x100_0000n) || cr2 >> 12n === BigInt(STATE >>> 12)
        ? 1
        : 0;
    if (
      !LONG_OPERAND.test(name) &&
      (native.getUint32(at + OUT.ERROR, true) | own) !== (record.getUint32(OUT.ERROR, true) | own)
    )
      out.push(`#PF code ${native.getUint32(at + OUT.ERROR, true)}, got ${record.getUint32(OUT.ERROR, true)}`);
    // Which of a long operand's pages is found missing first is the processor's choice.
    if (!LONG_OPERAND.test(name) && cr2 !== record.getBigUint64(OUT.CR2, true))
      out.push(`CR2 ${hex(cr2)}, got ${hex(record.getBigUint64(OUT.CR2, true))}`);
  } else if (vector === 13 || vector === 12) {
    if (native.getUint32(at + OUT.ERROR, true) !== record.getUint32(OUT.ERROR, true))
      out.push(`#GP code ${native.getUint32(at + OUT.ERROR, true)}, got ${record.getUint32(OUT.ERROR, true)}`);
  }
  const rip = native.getBigUint64(at + OUT.RIP, true);
  const gotRip = record.getBigUint64(OUT.RIP, true);
  if (rip !== gotRip)
    out.push(`rip entry+${hex(rip - BigInt(code.entry))}, got entry+${hex(gotRip - BigInt(code.entry))}`);
  // A POPA that faults may have loaded some registers already; it is executed again as a whole.
  if (vector === 14 && name === 'popa') return out;
  if (vector === NO_EXCEPTION && undefinedResult(code, input, inputAt)) return out;
  const { upperHalves, values } = unknownRegisters(code);
  // In compatibility mode the upper halves are undefined (SDM vol. 1, 3.4.1.1).
  const lowerOnly = code.bits === 32 || native.getUint16(at + OUT.SELECTORS + CS * 2, true) === USER_CODE32;
  for (let n = 0; n < (code.bits === 64 ? 16 : 8); n++) {
    const offset = OUT.GPR + n * 8;
    const same =
      ((values >> n) & 1 || native.getUint32(at + offset, true) === record.getUint32(offset, true)) &&
      (lowerOnly ||
        (upperHalves >> n) & 1 ||
        upperUndefined(code, n, input, inputAt) ||
        native.getUint32(at + offset + 4, true) === record.getUint32(offset + 4, true));
    if (!same)
      out.push(
        `${GPR_NAMES[n]} ${hex(native.getBigUint64(at + offset, true))}, got ${hex(record.getBigUint64(offset, true))}`,
      );
  }
  for (let n = 0; n < 6; n++) {
    const a = native.getUint16(at + OUT.SELECTORS + n * 2, true);
    const b = record.getUint16(OUT.SELECTORS + n * 2, true);
    // On its way to the signal, the host's kernel may have made another null selector of a null selector.
    const left = code.bits === 64 && vector === NO_EXCEPTION;
    if (a !== b && (left || a > 3 || b > 3)) out.push(`${SEGMENTS[n]} ${hex(a)}, got ${hex(b)}`);
  }
  if (code.bits === 64)
    for (const [base, offset] of [
      ['FS', OUT.FS_BASE],
      ['GS', OUT.GS_BASE],
    ] as const) {
      const a = native.getBigUint64(at + offset, true);
      const b = record.getBigUint64(offset, true);
      if (a !== b) out.push(`${base} base ${hex(a)}, got ${hex(b)}`);
    }
  const undefinedBits = vector === NO_EXCEPTION || vector === 3 ? undefinedFlags(code, input, inputAt) : 0;
  // RDSEED may have none.
  const flags = 0x247ed5 & ~0x100 & ~undefinedBits & (name === 'rdseed' ? ~CF : -1);
  const wantFlags = native.getUint32(at + OUT.RFLAGS, true) & flags;
  const gotFlags = record.getUint32(OUT.RFLAGS, true) & flags;
  if (wantFlags !== gotFlags) out.push(`rflags ${hex(wantFlags)}, got ${hex(gotFlags)} (of ${hex(flags)})`);

  // x87 and SSE
  const fx = at + OUT.FX;
  const word = (offset: number, mask: number, what: string, bytes: 1 | 2 | 4): void => {
    const a =
      (bytes === 1
        ? native.getUint8(fx + offset)
        : bytes === 2
          ? native.getUint16(fx + offset, true)
          : native.getUint32(fx + offset, true)) & mask;
    const b =
      (bytes === 1
        ? record.getUint8(OUT.FX + offset)
        : bytes === 2
          ? record.getUint16(OUT.FX + offset, true)
          : record.getUint32(OUT.FX + offset, true)) & mask;
    if (a !== b) out.push(`${what} ${hex(a >>> 0)}, got ${hex(b >>> 0)}`);
  };
  const x87 = code.def.unit === 'x87';
  // A processor may have entered MMX state before it found the fault.
  if ((code.def.unit === 'mmx' || /^cvt.*pi/.test(name)) && (vector === 14 || vector === 19)) return out;
  word(0, 0x1f3f, 'fcw', 2);
  // C1 (rounded up), PE and UE follow the last place too.
  word(
    2,
    TRANSCENDENTAL.test(name) ? 0xfccf & ~C0_C2_C3 : x87 && !DEFINES_CONDITION.test(name) ? 0xffff & ~C0_C2_C3 : 0xffff,
    'fsw',
    2,
  );
  word(4, 0xff, 'ftw', 1);
  word(24, -1, 'mxcsr', 4);
  for (let i = 0; i < 24; i++) {
    const offset = 32 + i * 16;
    const length = i < 8 ? 10 : 16;
    let same = true;
    for (let k = 0; k < length; k += 2)
      if (native.getUint16(fx + offset + k, true) !== record.getUint16(OUT.FX + offset + k, true)) same = false;
    if (!same && /^r(cp|sqrt)[ps]s$/.test(name) && i >= 8 && approximates(native, fx + offset, record, OUT.FX + offset))
      continue;
    if (!same && !(i < 2 && TRANSCENDENTAL.test(name) && near(native, fx + offset, record, OUT.FX + offset)))
      out.push(
        `${i < 8 ? `st${i}` : `xmm${i - 8}`} ${digits(native, fx + offset, length)}, got ${digits(record, OUT.FX + offset, length)}`,
      );
  }

  if (Buffer.compare(expectedWindow, got.window) !== 0 && !/^f(n?save|xsave|n?stenv)$/.test(name)) {
    const list: string[] = [];
    for (let i = 0; i < WINDOW_BYTES && list.length < 24; i++)
      if (expectedWindow[i] !== got.window[i])
        list.push(`+${hex(i)}: ${hex(expectedWindow[i]!)}, got ${hex(got.window[i]!)}`);
    out.push(`memory ${list.join('; ')}`);
  }
  return out;
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

function digits(view: DataView, at: number, length: number): string {
  let s = '';
  for (let i = length - 1; i >= 0; i--)
    s +=
      (i === 7 ? '_' : '') +
      view
        .getUint8(at + i)
        .toString(16)
        .padStart(2, '0');
  return s;
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
