/**
 * Recorded answers of a real processor: every instruction form at least once, for hosts that have none to ask. What went
 * in is not recorded: it is drawn from the form's own seed, as it was then; of what came out only the differences to
 * what went in are kept. `npm run conformance:record` makes the file anew, which is due when the generator changes.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { brotliCompressSync, brotliDecompressSync, constants } from 'node:zlib';
import type { Def } from '../../emulator/cpu/insn.ts';
import { forms } from './campaign.ts';
import { encode, place, SLOT, type Code } from './forms.ts';
import { fillInput } from './inputs.ts';
import {
  CODE,
  FS_BASE,
  GS_BASE,
  IN,
  NO_EXCEPTION,
  OUT,
  USER_CODE,
  USER_CODE32,
  USER_DATA,
  WINDOW_BYTES,
} from './native.ts';
import { fill16 } from './operands.ts';
import { Random } from './random.ts';
import { Results } from './results.ts';

export const VECTORS = new URL('vectors.bin', import.meta.url);
const VARIANTS = 2;
const INPUTS = 3;

/** The cases of one form in one mode. */
export interface FormCases {
  readonly def: Def;
  readonly bits: 64 | 32;
  readonly codes: readonly Code[];
  /** What is at CODE, for the processor and for the emulator. */
  readonly native: Uint8Array;
  readonly emulated: Uint8Array;
  readonly window: Uint8Array;
  readonly inputs: Uint8Array;
  readonly count: number;
}

/** All the cases, drawn anew. */
export function* formCases(): Generator<FormCases> {
  for (const bits of [64, 32] as const) for (const def of forms(bits).askable) yield draw(def, bits);
}

/** One form's cases depend on nothing but its pattern and the generator. */
function draw(def: Def, bits: 64 | 32): FormCases {
  const r = new Random(createHash('sha256').update(`${bits} ${def.pattern}`).digest().readInt32LE());
  const native = new Uint8Array(VARIANTS * SLOT + SLOT).fill(0xcc);
  const emulated = native.slice();
  const codes: Code[] = [];
  for (let n = 0, tries = 0; codes.length < VARIANTS && tries < 100; n++, tries++) {
    const at = CODE + codes.length * SLOT;
    const code = encode(def, n, r, at, bits, at);
    if (!code) continue;
    place(code, native, emulated);
    codes.push(code);
  }
  const window = new Uint8Array(WINDOW_BYTES);
  const windowView = new DataView(window.buffer);
  for (let i = 0; i < WINDOW_BYTES; i += 16) fill16(r, r.pick(['int', 'f32', 'f64'] as const), windowView, i);
  const count = codes.length * INPUTS;
  const inputs = new Uint8Array(count * IN.SIZE);
  const view = new DataView(inputs.buffer);
  for (let i = 0; i < count; i++) fillInput(codes[Math.floor(i / INPUTS)]!, r, view, i * IN.SIZE);
  return { def, bits, codes, native, emulated, window, inputs, count };
}

export const codeOf = (cases: FormCases, i: number): Code => cases.codes[Math.floor(i / INPUTS)]!;

/** The output record of an instruction that does nothing. */
function unchanged(cases: FormCases, i: number): Uint8Array {
  const out = new Uint8Array(OUT.SIZE);
  const view = new DataView(out.buffer);
  const at = i * IN.SIZE;
  out.set(cases.inputs.subarray(at + IN.GPR, at + IN.GPR + 128), OUT.GPR);
  out.set(cases.inputs.subarray(at + IN.RFLAGS, at + IN.RFLAGS + 8), OUT.RFLAGS);
  out.set(cases.inputs.subarray(at + IN.FX, at + IN.FX + 512), OUT.FX);
  view.setBigUint64(OUT.RIP, BigInt(codeOf(cases, i).exit), true);
  view.setUint32(OUT.VECTOR, NO_EXCEPTION, true);
  view.setBigUint64(OUT.FS_BASE, BigInt(FS_BASE), true);
  view.setBigUint64(OUT.GS_BASE, BigInt(GS_BASE), true);
  [USER_DATA, cases.bits === 64 ? USER_CODE : USER_CODE32, USER_DATA, USER_DATA, 0, 0].forEach((v, k) =>
    view.setUint16(OUT.SELECTORS + k * 2, v, true),
  );
  return out;
}

/** Parts of an output record that nothing looks at: made equal, so that they take no room. */
function clean(record: Uint8Array, cases: FormCases): void {
  const { FX } = OUT;
  record.fill(0, FX + 5, FX + 24);
  record.fill(0, FX + 28, FX + 32);
  for (let i = 0; i < 8; i++) record.fill(0, FX + 42 + i * 16, FX + 48 + i * 16);
  record.fill(0, FX + 416, FX + 512);
  if (cases.bits === 32) {
    record.fill(0, OUT.FS_BASE, OUT.FS_BASE + 16);
    for (let n = 0; n < 16; n++) record.fill(0, OUT.GPR + n * 8 + (n < 8 ? 4 : 0), OUT.GPR + n * 8 + 8);
  }
}

/** Differences as runs: bytes to skip, bytes that follow (two bytes each), the bytes. An end of two zeros. */
function difference(from: Uint8Array, to: Uint8Array, out: number[]): void {
  let last = 0;
  for (let i = 0; i < to.length;) {
    if (from[i] === to[i]) {
      i++;
      continue;
    }
    let end = i + 1;
    while (end < to.length && from[end] !== to[end]) end++;
    out.push((i - last) & 255, (i - last) >> 8, (end - i) & 255, (end - i) >> 8, ...to.subarray(i, end));
    last = end;
    i = end;
  }
  out.push(0, 0, 0, 0);
}

interface Header {
  /** The processor that answered, as its kernel names it. */
  processor: string;
  /** Each form's name and mode, the digest of what went in, and how many bytes of answers it has. */
  forms: [pattern: string, bits: number, digest: string, bytes: number][];
}

function digest(cases: FormCases): string {
  const hash = createHash('sha256');
  for (const part of [cases.native, cases.window, cases.inputs]) hash.update(part);
  return hash.digest('hex').slice(0, 8);
}

/** Puts answers together into the file's contents. */
export class Recorder {
  private readonly header: Header;
  private readonly data: number[] = [];

  constructor(processor: string) {
    this.header = { processor, forms: [] };
  }

  add(cases: FormCases, results: Results): void {
    const start = this.data.length;
    for (let i = 0; i < cases.count; i++) {
      const at = results.at(i);
      const record = new Uint8Array(results.view.buffer, results.view.byteOffset + at, OUT.SIZE).slice();
      record.fill(0, OUT.FIRST, OUT.LENGTH + 4);
      clean(record, cases);
      const from = unchanged(cases, i);
      clean(from, cases);
      difference(from, record, this.data);
      difference(results.windowBefore(i).slice(), results.windowAfter(i), this.data);
    }
    this.header.forms.push([cases.def.pattern, cases.bits, digest(cases), this.data.length - start]);
  }

  finish(): Buffer {
    const header = Buffer.from(JSON.stringify(this.header));
    const length = Buffer.alloc(4);
    length.writeUInt32LE(header.length);
    return brotliCompressSync(Buffer.concat([length, header, Uint8Array.from(this.data)]), {
      params: { [constants.BROTLI_PARAM_LGWIN]: constants.BROTLI_MAX_WINDOW_BITS },
    });
  }
}

/** The recorded answers. */
export class Vectors {
  readonly processor: string;
  private readonly forms = new Map<string, { digest: string; at: number }>();
  private readonly data: Uint8Array;

  /** @throws Error when the file is not there or is none */
  constructor(file: URL = VECTORS) {
    const all = brotliDecompressSync(readFileSync(file));
    const length = all.readUInt32LE();
    const header = JSON.parse(all.subarray(4, 4 + length).toString()) as Header;
    this.processor = header.processor;
    this.data = all.subarray(4 + length);
    let at = 0;
    for (const [pattern, bits, digest, bytes] of header.forms) {
      this.forms.set(`${bits} ${pattern}`, { digest, at });
      at += bytes;
    }
  }

  /** What the processor answered to these cases; undefined when it was asked others, or not at all. */
  results(cases: FormCases): Results | undefined {
    const form = this.forms.get(`${cases.bits} ${cases.def.pattern}`);
    if (form?.digest !== digest(cases)) return undefined;
    let p = form.at;
    const apply = (to: Uint8Array): void => {
      let i = 0;
      for (;;) {
        const skip = this.data[p]! | (this.data[p + 1]! << 8);
        const length = this.data[p + 2]! | (this.data[p + 3]! << 8);
        p += 4;
        if (length === 0) return;
        i += skip;
        to.set(this.data.subarray(p, p + length), i);
        p += length;
        i += length;
      }
    };
    // As the native program writes them, with the whole window behind each record.
    const size = OUT.SIZE + WINDOW_BYTES;
    const output = new Uint8Array(cases.count * size);
    const before = new Results(new Uint8Array(cases.count * OUT.SIZE), cases.inputs, cases.window, cases.count);
    for (let i = 0; i < cases.count; i++) {
      const record = unchanged(cases, i);
      clean(record, cases);
      apply(record);
      new DataView(record.buffer).setUint32(OUT.LENGTH, WINDOW_BYTES, true);
      output.set(record, i * size);
      const window = before.windowBefore(i).slice();
      apply(window);
      output.set(window, i * size + OUT.SIZE);
    }
    return new Results(output, cases.inputs, cases.window, cases.count);
  }
}
