import { BlockError, type BlockSource, checkRange } from './types.ts';

/** A disk whose original bytes are already in memory. */
export class MemorySource implements BlockSource {
  readonly size: number;
  readonly blockSize = 65536;

  /** @param bytes not copied; length a multiple of 512 */
  constructor(private readonly bytes: Uint8Array) {
    this.size = bytes.length;
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    checkRange(this.size, offset, length);
    return this.bytes.subarray(offset, offset + length);
  }
}

/** A disk of zeros. */
export class EmptySource implements BlockSource {
  readonly blockSize = 65536;

  constructor(readonly size: number) {
    if (!(Number.isSafeInteger(size) && size > 0 && size % 512 === 0))
      throw new BlockError('bounds', `a disk of ${size} bytes is impossible: take a positive multiple of 512`);
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    checkRange(this.size, offset, length);
    return new Uint8Array(length);
  }

  isZero(): boolean {
    return true;
  }
}
