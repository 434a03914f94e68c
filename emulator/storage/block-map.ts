/** Blocks in a segment. With blocks of 4 KiB a segment is 128 MiB of disk. */
const SEGMENT = 32768;
const BITS = SEGMENT / 8;

export type Segments = ReadonlyMap<number, Uint8Array>;

/** Which blocks of a disk are held, and which of those are all zero: two bits a block, stored a segment at a time. */
export class BlockMap {
  private readonly segments = new Map<number, Uint8Array>();

  constructor(stored: Iterable<readonly [number, Uint8Array]> = []) {
    for (const [segment, bits] of stored) if (bits.length === 2 * BITS) this.segments.set(segment, bits);
  }

  /** The segments as they would be with these blocks held too; `apply` takes them over once they are committed. */
  changed(blocks: Iterable<readonly [block: number, zero: boolean]>): Segments {
    const changed = new Map<number, Uint8Array>();
    for (const [block, zero] of blocks) {
      const number = Math.floor(block / SEGMENT);
      let bits = changed.get(number);
      if (!bits) changed.set(number, (bits = this.segments.get(number)?.slice() ?? new Uint8Array(2 * BITS)));
      const at = block % SEGMENT;
      const bit = 1 << (at & 7);
      bits[at >> 3]! |= bit;
      if (zero) bits[BITS + (at >> 3)]! |= bit;
      else bits[BITS + (at >> 3)]! &= ~bit;
    }
    return changed;
  }

  apply(changed: Segments): void {
    for (const [number, bits] of changed) this.segments.set(number, bits);
  }

  entries(): Segments {
    return this.segments;
  }

  /** undefined: not held. */
  get(block: number): 'data' | 'zero' | undefined {
    const bits = this.segments.get(Math.floor(block / SEGMENT));
    const at = block % SEGMENT;
    const bit = 1 << (at & 7);
    if (!bits || !(bits[at >> 3]! & bit)) return undefined;
    return bits[BITS + (at >> 3)]! & bit ? 'zero' : 'data';
  }

  /** Held blocks, ascending within a segment. */
  *blocks(): Iterable<number> {
    for (const [number, bits] of this.segments)
      for (let i = 0; i < BITS; i++)
        for (let byte = bits[i]!, at = i * 8; byte; byte >>= 1, at++) if (byte & 1) yield number * SEGMENT + at;
  }
}
