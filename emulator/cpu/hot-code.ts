/**
 * Which code is known to run often: what a disk's builder has seen usual programs do, for a machine with the same memory. It is
 * compiled before it has run (jit/ahead.ts). That a page is the one that was seen its checksum tells.
 */
import type { Mode } from './layout.ts';

export interface HotBlock {
  /** In its page, in bytes. */
  readonly offset: number;
  /** How often it ran, at most MOST_RUNS. */
  readonly runs: number;
  /** A computed jump or a return has led to it. */
  readonly jumpedTo: boolean;
}

export interface HotPage {
  /** Physical address. */
  readonly physical: number;
  readonly mode: Mode;
  /** Number of its linear page when it was seen, in 31 bits, or NOWHERE: what lay beside it lies beside it again. */
  readonly linear: number;
  /** `pageChecksum` of its bytes. */
  readonly checksum: number;
  readonly blocks: readonly HotBlock[];
}

export const MOST_RUNS = 2 ** 19 - 1;
/** Of a page that is only known alone. */
export const NOWHERE = 2 ** 32 - 1;
/** "HOT1". */
const MAGIC = 0x31544f48;
const PAGE_WORDS = 1024;

/** Of a page that begins at word `at` (FNV-1a by words). */
export function pageChecksum(words: Int32Array, at: number): number {
  let sum = 0x811c9dc5 | 0;
  for (let k = at; k < at + PAGE_WORDS; k++) sum = Math.imul(sum ^ words[k]!, 0x01000193);
  return sum;
}

/** Words of 32 bits: for each page number and mode, linear page, checksum, number of blocks; for each block offset, jumpedTo and runs. */
export function encodeHotCode(pages: readonly HotPage[]): Uint8Array<ArrayBuffer> {
  const words = [MAGIC];
  for (const { physical, mode, linear, checksum, blocks } of pages) {
    words.push(physical / 4096 + mode * 2 ** 28, linear, checksum, blocks.length);
    for (const { offset, runs, jumpedTo } of blocks)
      words.push(offset + (jumpedTo ? 2 ** 12 : 0) + Math.min(runs, MOST_RUNS) * 2 ** 13);
  }
  return new Uint8Array(Uint32Array.from(words, (word) => word >>> 0).buffer);
}

/** @throws Error when the bytes are none of `encodeHotCode` */
export function decodeHotCode(bytes: Uint8Array): HotPage[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const damaged = (): Error => new Error('the list of hot code is damaged; build the disk again');
  if (bytes.length % 4 || bytes.length < 4 || view.getUint32(0, true) !== MAGIC) throw damaged();
  const pages: HotPage[] = [];
  let at = 4;
  while (at < bytes.length) {
    if (at + 16 > bytes.length) throw damaged();
    const first = view.getUint32(at, true);
    const linear = view.getUint32(at + 4, true);
    const checksum = view.getInt32(at + 8, true);
    const count = view.getUint32(at + 12, true);
    at += 16;
    if (count > 4096 || at + count * 4 > bytes.length) throw damaged();
    const blocks: HotBlock[] = [];
    for (let k = 0; k < count; k++, at += 4) {
      const word = view.getUint32(at, true);
      blocks.push({ offset: word & 0xfff, jumpedTo: (word & 0x1000) !== 0, runs: word >>> 13 });
    }
    pages.push({ physical: (first % 2 ** 28) * 4096, mode: (first >>> 28) as Mode, linear, checksum, blocks });
  }
  return pages;
}
