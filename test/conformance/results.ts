/** What the native program answered, and the parts that every comparison with it has. */
import { GPR_NAMES } from '../../emulator/cpu/layout.ts';
import type { Outcome } from './emulated.ts';
import { IN, NO_EXCEPTION, OUT, PATCH_BYTES, WINDOW_BYTES } from './native.ts';

/** The cases of a batch: what went in, and what the processor made of it. */
export class Results {
  readonly view: DataView;
  private readonly bytes: Uint8Array;
  private readonly offsets: Int32Array;
  private readonly expected = new Uint8Array(WINDOW_BYTES);

  /**
   * @param output records of OUT.SIZE bytes, each followed by its changed memory
   * @param window contents of the window before each case's patches
   */
  constructor(
    output: Uint8Array,
    private readonly inputs: Uint8Array,
    private readonly window: Uint8Array,
    readonly count: number,
    /** Whether one of Intel's processors answered: where the manuals let them, they do otherwise than AMD's, as which the emulator does. */
    readonly intel = false,
  ) {
    this.bytes = output;
    this.view = new DataView(output.buffer, output.byteOffset, output.length);
    this.offsets = new Int32Array(count);
    for (let i = 0, p = 0; i < count; i++) {
      this.offsets[i] = p;
      p += OUT.SIZE + this.view.getUint32(p + OUT.LENGTH, true);
    }
  }

  /** Where the record of case `i` is in `view`. */
  at(i: number): number {
    return this.offsets[i]!;
  }

  vector(i: number): number {
    return this.view.getUint32(this.at(i) + OUT.VECTOR, true);
  }

  /** A case in 32-bit code leaves by a breakpoint: a jump back to 64-bit code would need a far pointer. */
  leaveByBreakpoint(i: number, exit: number): void {
    const at = this.at(i);
    if (this.vector(i) !== 3 || this.view.getBigUint64(at + OUT.RIP, true) !== BigInt(exit + 1)) return;
    this.view.setUint32(at + OUT.VECTOR, NO_EXCEPTION, true);
    this.view.setBigUint64(at + OUT.RIP, BigInt(exit), true);
  }

  /** The window before case `i`. Overwritten by the next call of this or `windowAfter`. */
  windowBefore(i: number): Uint8Array {
    const { expected, inputs } = this;
    const input = new DataView(inputs.buffer, inputs.byteOffset + i * IN.SIZE, IN.SIZE);
    expected.set(this.window);
    for (let k = 0; k < input.getUint32(IN.PATCHES, true); k++) {
      const p = IN.PATCH + k * PATCH_BYTES;
      const from = i * IN.SIZE + p + 8;
      expected.set(inputs.subarray(from, from + input.getUint32(p + 4, true)), input.getUint32(p, true));
    }
    return expected;
  }

  /** The window after case `i`. */
  windowAfter(i: number): Uint8Array {
    const expected = this.windowBefore(i);
    const at = this.at(i);
    const from = at + OUT.SIZE;
    expected.set(
      this.bytes.subarray(from, from + this.view.getUint32(at + OUT.LENGTH, true)),
      this.view.getUint32(at + OUT.FIRST, true),
    );
    return expected;
  }
}

export const hex = (v: bigint | number): string => v.toString(16);

/** Collects a line for each thing that the emulator did otherwise than the processor. */
export class Comparison {
  readonly lines: string[] = [];
  readonly vector: number;
  readonly gotVector: number;

  constructor(
    readonly native: DataView,
    readonly at: number,
    private readonly got: Outcome,
  ) {
    this.vector = native.getUint32(at + OUT.VECTOR, true);
    this.gotVector = got.record.getUint32(OUT.VECTOR, true);
  }

  /** Says what differs in a field of 1, 2 or 4 bytes, as far as `mask` goes. */
  field(offset: number, bytes: 1 | 2 | 4, mask: number, what: string): void {
    const read = (view: DataView, at: number): number =>
      (bytes === 1 ? view.getUint8(at) : bytes === 2 ? view.getUint16(at, true) : view.getUint32(at, true)) & mask;
    const a = read(this.native, this.at + offset);
    const b = read(this.got.record, offset);
    if (a !== b) this.lines.push(`${what} ${hex(a >>> 0)}, got ${hex(b >>> 0)}`);
  }

  /** Says what differs in a field of 8 bytes. */
  quad(offset: number, what: string): void {
    const a = this.native.getBigUint64(this.at + offset, true);
    const b = this.got.record.getBigUint64(offset, true);
    if (a !== b) this.lines.push(`${what} ${hex(a)}, got ${hex(b)}`);
  }

  exception(): void {
    if (this.vector !== this.gotVector) this.lines.push(`exception ${this.vector}, got ${this.gotVector}`);
  }

  rip(entry: number): void {
    const a = this.native.getBigUint64(this.at + OUT.RIP, true);
    const b = this.got.record.getBigUint64(OUT.RIP, true);
    if (a !== b) this.lines.push(`rip entry+${hex(a - BigInt(entry))}, got entry+${hex(b - BigInt(entry))}`);
  }

  /** General registers, but for the halves that `lower` and `upper` (a bit for each register) leave out. */
  registers(count: number, lower: number, upper: number): void {
    const { native, at, got } = this;
    for (let n = 0; n < count; n++) {
      const o = OUT.GPR + n * 8;
      const differs = (half: number): boolean =>
        native.getUint32(at + o + half, true) !== got.record.getUint32(o + half, true);
      if ((!((lower >> n) & 1) && differs(0)) || (!((upper >> n) & 1) && differs(4))) this.quad(o, GPR_NAMES[n]!);
    }
  }

  flags(mask: number): void {
    const a = this.native.getUint32(this.at + OUT.RFLAGS, true) & mask;
    const b = this.got.record.getUint32(OUT.RFLAGS, true) & mask;
    if (a !== b) this.lines.push(`rflags ${hex(a)}, got ${hex(b)} (of ${hex(mask)})`);
  }

  /**
   * The eight x87 and sixteen XMM registers.
   * @param accepts whether register `i` (XMM from 8), at these places, may differ as it does
   */
  vectors(accepts?: (i: number, native: DataView, at: number, got: DataView, gotAt: number) => boolean): void {
    const { native, got } = this;
    for (let i = 0; i < 24; i++) {
      const o = OUT.FX + 32 + i * 16;
      const length = i < 8 ? 10 : 16;
      let same = true;
      for (let k = 0; k < length; k += 2)
        if (native.getUint16(this.at + o + k, true) !== got.record.getUint16(o + k, true)) same = false;
      if (!same && !accepts?.(i, native, this.at + o, got.record, o))
        this.lines.push(
          `${i < 8 ? `st${i}` : `xmm${i - 8}`} ${digits(native, this.at + o, length)}, got ${digits(got.record, o, length)}`,
        );
    }
  }

  memory(expected: Uint8Array): void {
    const { window } = this.got;
    if (Buffer.compare(expected, window) === 0) return;
    const list: string[] = [];
    for (let i = 0; i < WINDOW_BYTES && list.length < 24; i++)
      if (expected[i] !== window[i]) list.push(`+${hex(i)}: ${hex(expected[i]!)}, got ${hex(window[i]!)}`);
    this.lines.push(`memory ${list.join('; ')}`);
  }
}

/** Bytes as one number, the most significant first, a mark in the middle. */
export function digits(view: DataView, at: number, length: number): string {
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
