/** Random and mutated byte strings through our decoder and iced-x86. */
import { Decoder, DecoderOptions, Instruction } from 'iced-x86';
import { decode } from '../../emulator/cpu/decoder.ts';
import { defineAll } from '../../emulator/cpu/defs/index.ts';
import { DEFS } from '../../emulator/cpu/insn.ts';
import { encode } from './forms.ts';
import { disagreement } from './iced.ts';
import { CODE } from './native.ts';
import { Random } from './random.ts';

/** Bytes of a slot: an instruction is at most 15 long. */
const SLOT = 16;
const BATCH = 4096;
const PREFIXES = [0x66, 0x66, 0x66, 0xf2, 0xf3, 0xf3, 0x67, 0xf0, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65] as const;

/** Good encodings of every form, to be mutated. */
function corpus(r: Random): Uint8Array[] {
  const list: Uint8Array[] = [];
  for (const bits of [64, 32] as const)
    for (const d of DEFS)
      for (let n = 0; n < 12; n++) {
        const code = encode(d, n, r, CODE, bits);
        if (code) list.push(code.bytes);
      }
  return list;
}

/** Writes one string of {@link SLOT} bytes. */
function write(r: Random, good: readonly Uint8Array[], to: Uint8Array, at: number, long: boolean): void {
  for (let i = 0; i < SLOT; i += 4) {
    const v = r.u32();
    to[at + i] = v;
    to[at + i + 1] = v >>> 8;
    to[at + i + 2] = v >>> 16;
    to[at + i + 3] = v >>> 24;
  }
  const kind = r.below(8);
  // Only random bytes.
  if (kind === 0) return;
  let p = at;
  if (kind < 5) {
    // Prefixes, an escape, and the rest random: all maps alike.
    let prefixes = r.pick([0, 0, 0, 0, 1, 1, 1, 2, 2, 3]);
    if (r.oneIn(200)) prefixes = 9 + r.below(7);
    for (; prefixes > 0; prefixes--) to[p++] = r.pick(PREFIXES);
    if (long && r.oneIn(2)) to[p++] = 0x40 | r.below(16);
    if (r.oneIn(100)) to[p++] = r.pick(PREFIXES);
    const map = r.below(8);
    if (map >= 3) to[p++] = 0x0f;
    if (map >= 6) to[p++] = map === 6 ? 0x38 : 0x3a;
    // Few of the second half of these maps are anything.
    if (map >= 6 && r.oneIn(2)) to[p] = r.below(0x70);
    return;
  }
  // A good one, with a prefix more, a byte or a bit changed, or neither.
  if (r.oneIn(3)) {
    to[p++] = r.pick(PREFIXES);
    if (r.oneIn(3)) to[p++] = r.pick(PREFIXES);
  }
  const bytes = r.pick(good);
  for (let i = 0; i < bytes.length && p < at + SLOT; i++) to[p++] = bytes[i]!;
  const change = r.below(4);
  const where = at + r.below(Math.min(SLOT, bytes.length));
  if (change === 0) to[where] = r.u32();
  else if (change < 3) to[where] = to[where]! ^ (1 << r.below(8));
}

export interface Disagreement {
  readonly bits: 64 | 32 | 16;
  /** In hexadecimal, as many as the longer of the two says. */
  readonly bytes: string;
  readonly text: string;
  /** How many strings of the same kind there were. */
  count: number;
}

export interface DecoderResult {
  /** Byte strings, in all three modes together. */
  strings: number;
  /** Of these, instructions that both found. */
  instructions: number;
  /** Forms of our table that were found, of those there are. */
  forms: number;
  advertised: number;
  disagreements: Disagreement[];
}

/** Decodes `count` strings, a third in each mode. */
export function compareDecoders(options: { count: number; seed: number }): DecoderResult {
  if (!DEFS.length) defineAll();
  const r = new Random(options.seed);
  const good = corpus(r);
  const found = new Uint8Array(DEFS.length);
  const kinds = new Map<string, Disagreement>();
  const buffer = new Uint8Array(BATCH * SLOT);
  const instruction = new Instruction();
  let strings = 0;
  let instructions = 0;
  for (let batch = 0; strings < options.count; batch++) {
    const bits = ([64, 32, 16] as const)[batch % 3]!;
    const n = Math.min(BATCH, options.count - strings);
    for (let i = 0; i < n; i++) write(r, good, buffer, i * SLOT, bits === 64);
    const decoder = new Decoder(bits, buffer, DecoderOptions.None);
    for (let i = 0; i < n; i++) {
      const at = i * SLOT;
      const ours = decode(buffer, at, at + SLOT, bits);
      decoder.position = at;
      decoder.ip = 0n;
      decoder.decodeOut(instruction);
      let text = disagreement(ours, instruction, bits);
      if (typeof ours !== 'string') {
        found[ours.def.id] = 1;
        instructions++;
        // Where the code ends too early, more is asked for; where it just suffices, it does.
        const cut = r.below(ours.len);
        if (decode(buffer, at, at + cut, bits) !== 'more') text ??= `cut after ${cut} bytes: not 'more'`;
        const exact = decode(buffer, at, at + ours.len, bits);
        if (typeof exact === 'string' || exact.def !== ours.def) text ??= 'with no byte behind it';
      }
      if (text === undefined) continue;
      const key = `${bits} ${instruction.code} ${text.replace(/-?\d+/g, '')}`;
      const known = kinds.get(key);
      if (known) known.count++;
      else {
        const length = Math.max(instruction.length, typeof ours === 'string' ? 1 : ours.len);
        const bytes = [...buffer.subarray(at, at + length)].map((b) => b.toString(16).padStart(2, '0')).join(' ');
        kinds.set(key, { bits, bytes, text: `${instruction.toString()}: ${text}`, count: 1 });
      }
    }
    decoder.free();
    strings += n;
  }
  instruction.free();
  return {
    strings,
    instructions,
    forms: found.reduce((a, b) => a + b, 0),
    advertised: DEFS.length,
    disagreements: [...kinds.values()],
  };
}
