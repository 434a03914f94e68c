/** The x87 state as helpers in TypeScript see it: registers as big integers, exceptions, rounding. For what is rare. */
import type { Cpu } from '../cpu.ts';
import { Vector } from '../emit.ts';
import { S } from '../layout.ts';
import { BIAS, EXCEPTIONS, EXPONENT_WRAP, Fsw, INDEFINITE, INTEGER_BIT, QUIET_BIT, Rc, SUMMARY } from './common.ts';

/** A register taken apart. */
export interface Float80 {
  kind: 'zero' | 'finite' | 'infinite' | 'quiet' | 'signalling' | 'unsupported';
  /** 0 or 1. */
  sign: number;
  /** Of a finite number: value = significand × 2^(exponent − 63), with 2^63 <= significand < 2^64 (denormals too). */
  exponent: number;
  significand: bigint;
  denormal: boolean;
}

/** Number of bits of a positive integer. */
export function bitLength(x: bigint): number {
  return x === 0n ? 0 : x.toString(16).length * 4 - Math.clz32(parseInt(x.toString(16)[0]!, 16)) + 28;
}

export class Fpu {
  private readonly word: number;

  constructor(readonly cpu: Cpu) {
    this.word = cpu.state >> 2;
  }

  private get(offset: number): number {
    return this.cpu.i32[this.word + (offset >> 2)]!;
  }
  private set(offset: number, value: number): void {
    this.cpu.i32[this.word + (offset >> 2)] = value;
  }

  get fcw(): number {
    return this.get(S.FCW);
  }
  get fsw(): number {
    return this.get(S.FSW);
  }
  set fsw(value: number) {
    this.set(S.FSW, value);
  }
  get top(): number {
    return this.get(S.FTOP);
  }
  set top(value: number) {
    this.set(S.FTOP, value & 7);
  }
  /** Abridged: bit n is 1 when R n is in use. */
  get tags(): number {
    return this.get(S.FTW);
  }
  set tags(value: number) {
    this.set(S.FTW, value & 0xff);
  }
  /** The status word with TOP in it. */
  get status(): number {
    return this.fsw | (this.top << 11);
  }
  set status(value: number) {
    this.top = (value >> 11) & 7;
    this.fsw = value & 0xc7ff;
    this.summarise();
  }
  /** Writes FCW; reserved bits read as on real processors. */
  set control(value: number) {
    this.set(S.FCW, (value & 0x1f3f) | 0x40);
    this.summarise();
  }

  /** ES and B follow the flags and masks. */
  summarise(): void {
    this.fsw = (this.fsw & ~SUMMARY) | (this.fsw & ~this.fcw & EXCEPTIONS ? SUMMARY : 0);
  }

  /** #MF for a pending unmasked exception: first thing a waiting instruction does. @throws the fault */
  wait(): void {
    if (this.fsw & Fsw.ES) throw this.cpu.fault(Vector.MF);
  }

  /** Address of the physical register R n. */
  registerAddress(n: number): number {
    return this.cpu.state + S.X87 + n * 16;
  }
  private address(i: number): number {
    return this.registerAddress((this.top + i) & 7);
  }
  inUse(i: number): boolean {
    return ((this.tags >> ((this.top + i) & 7)) & 1) !== 0;
  }

  read(i: number): Float80 {
    const at = this.address(i);
    return unpack(this.cpu.u16[(at + 8) >> 1]!, this.cpu.u64[at >> 3]!);
  }

  /** Writes ST(i) and marks it in use. */
  write(i: number, signExponent: number, significand: bigint): void {
    const at = this.address(i);
    this.cpu.u16[(at + 8) >> 1] = signExponent;
    this.cpu.u64[at >> 3] = significand;
    this.tags |= 1 << ((this.top + i) & 7);
  }
  writeIndefinite(i: number): void {
    this.write(i, 0xffff, INDEFINITE);
  }
  writeZero(i: number, sign: number): void {
    this.write(i, sign << 15, 0n);
  }
  writeInfinity(i: number, sign: number): void {
    this.write(i, (sign << 15) | 0x7fff, INTEGER_BIT);
  }
  writeQuiet(i: number, x: Float80): void {
    this.write(i, (x.sign << 15) | 0x7fff, x.significand | QUIET_BIT);
  }

  /** Moves TOP down; the new ST(0) is to be written. */
  push(): void {
    this.top = this.top - 1;
  }
  pop(): void {
    this.tags &= ~(1 << this.top);
    this.top = this.top + 1;
  }

  /** Raises exceptions with C1 = `up`. @returns whether all of them are masked */
  flag(flags: number, up = false): boolean {
    const unmasked = flags & ~this.fcw & EXCEPTIONS;
    this.fsw = (this.fsw & ~Fsw.C1) | flags | (up ? Fsw.C1 : 0) | (unmasked ? SUMMARY : 0);
    return !unmasked;
  }

  /** C0 to C3 as given (FSW bits). */
  conditions(bits: number): void {
    this.fsw = (this.fsw & ~(Fsw.C0 | Fsw.C1 | Fsw.C2 | Fsw.C3)) | bits;
  }

  /** An empty source: raises a stack fault. @returns whether it is masked, so that default NaNs are to be stored */
  underflow(): boolean {
    return this.flag(Fsw.IE | Fsw.SF);
  }

  /** An operand that no number comes of: default NaN in ST(i) if invalid operations are masked. @returns that */
  invalid(i: number): boolean {
    if (!this.flag(Fsw.IE)) return false;
    this.writeIndefinite(i);
    return true;
  }

  /**
   * Handles NaNs and unsupported encodings of one or two operands: the result goes to ST(i).
   * @returns undefined if there is none; else whether the instruction goes on (pops)
   */
  nan(i: number, a: Float80, b: Float80 = a): boolean | undefined {
    if (a.kind === 'unsupported' || b.kind === 'unsupported') return this.invalid(i);
    const isNan = (x: Float80): boolean => x.kind === 'quiet' || x.kind === 'signalling';
    if (!isNan(a) && !isNan(b)) return undefined;
    if (!this.flag(a.kind === 'signalling' || b.kind === 'signalling' ? Fsw.IE : 0)) return false;
    let x = isNan(a) ? a : b;
    if (isNan(a) && isNan(b)) {
      if (a.kind !== b.kind) x = a.kind === 'quiet' ? a : b;
      else if (a.significand === b.significand) x = a.sign <= b.sign ? a : b;
      else x = a.significand > b.significand ? a : b;
    }
    this.writeQuiet(i, x);
    return true;
  }

  /**
   * Rounds ±(magnitude + a bit more if `sticky`) × 2^scale to 64 bits by RC into ST(i), raising what rounding raises besides
   * `flags`. `magnitude` is positive; give it more than 66 bits where `sticky` is set.
   */
  round(i: number, sign: number, magnitude: bigint, scale: number, sticky: boolean, flags = 0): void {
    const rc = (this.fcw >> 10) & 3;
    const first = roundAt(magnitude, scale, bitLength(magnitude) - 64, sticky, sign, rc);
    let exponent = first.exponent + BIAS;
    if (exponent <= 0) {
      if (this.fcw & Fsw.UE) {
        // The last place of a denormal is worth 2^(1 − BIAS − 63).
        const tiny = roundAt(magnitude, scale, 1 - BIAS - 63 - scale, sticky, sign, rc);
        this.write(i, (sign << 15) | (tiny.significand >= INTEGER_BIT ? 1 : 0), tiny.significand);
        this.flag(flags | (tiny.inexact ? Fsw.UE | Fsw.PE : 0), tiny.up);
        return;
      }
      exponent += EXPONENT_WRAP;
      if (exponent <= 0) {
        this.writeZero(i, sign);
        this.flag(flags | Fsw.UE | Fsw.PE);
        return;
      }
      flags |= Fsw.UE;
    } else if (exponent >= 0x7fff) {
      flags |= Fsw.OE;
      exponent -= EXPONENT_WRAP;
      if (this.fcw & Fsw.OE || exponent >= 0x7fff) {
        // FSCALE can overflow by more than the wrapped exponent holds: infinity then, whatever RC.
        const infinite = !(this.fcw & Fsw.OE) || rc === Rc.NEAREST || (rc !== Rc.ZERO && (rc & 1) === sign);
        if (infinite) this.writeInfinity(i, sign);
        else this.write(i, (sign << 15) | 0x7ffe, (1n << 64n) - 1n);
        this.flag(flags | Fsw.PE, infinite);
        return;
      }
    }
    this.write(i, (sign << 15) | exponent, first.significand);
    this.flag(flags | (first.inexact ? Fsw.PE : 0), first.up);
  }
}

export function unpack(signExponent: number, significand: bigint): Float80 {
  const sign = signExponent >> 15;
  const field = signExponent & 0x7fff;
  const x: Float80 = { kind: 'finite', sign, exponent: field - BIAS, significand, denormal: false };
  if (field === 0) {
    if (significand === 0n) x.kind = 'zero';
    else {
      const n = 64 - bitLength(significand);
      x.denormal = true;
      x.significand = significand << BigInt(n);
      x.exponent = 1 - BIAS - n;
    }
  } else if (!(significand & INTEGER_BIT)) x.kind = 'unsupported';
  else if (field === 0x7fff)
    x.kind = significand === INTEGER_BIT ? 'infinite' : significand & QUIET_BIT ? 'quiet' : 'signalling';
  return x;
}

/** Drops `drop` bits (none where it is 0 or less: then widens to a 64-bit significand). */
function roundAt(
  magnitude: bigint,
  scale: number,
  drop: number,
  sticky: boolean,
  sign: number,
  rc: number,
): { significand: bigint; exponent: number; inexact: boolean; up: boolean } {
  if (drop <= 0)
    return { significand: magnitude << BigInt(-drop), exponent: scale + drop + 63, inexact: sticky, up: false };
  let significand = magnitude >> BigInt(drop);
  const rest = magnitude - (significand << BigInt(drop));
  const half = 1n << BigInt(drop - 1);
  const inexact = sticky || rest !== 0n;
  const up =
    rc === Rc.NEAREST
      ? rest > half || (rest === half && (sticky || (significand & 1n) === 1n))
      : inexact && rc !== Rc.ZERO && (rc & 1) === sign;
  let exponent = scale + drop + 63;
  if (up) {
    significand++;
    if (significand === 1n << 64n) {
      significand = INTEGER_BIT;
      exponent++;
    }
  }
  return { significand, exponent, inexact, up };
}
