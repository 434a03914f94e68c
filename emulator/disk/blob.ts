import { BlockError, type BlockSource, checkRange } from './types.ts';

/** A disk image in a Blob or a File that the user picked. Nothing is read before it is asked for. */
export class BlobSource implements BlockSource {
  readonly size: number;
  readonly blockSize = 131072;

  constructor(private readonly blob: Blob) {
    // The tail of an image that is not a whole number of sectors cannot be addressed by the guest.
    this.size = blob.size - (blob.size % 512);
  }

  async read(offset: number, length: number, signal?: AbortSignal): Promise<Uint8Array> {
    checkRange(this.size, offset, length);
    if (signal?.aborted) throw new BlockError('aborted', 'stopped before the file was read');
    let bytes: Uint8Array;
    try {
      bytes = new Uint8Array(await this.blob.slice(offset, offset + length).arrayBuffer());
    } catch (cause) {
      throw new BlockError(
        'changed',
        'the image file can no longer be read: it was changed, moved or deleted since it was picked; pick it again',
        undefined,
        { cause },
      );
    }
    if (bytes.length !== length)
      throw new BlockError(
        'short',
        `the image file gave ${bytes.length} bytes at ${offset} where ${length} were expected`,
      );
    return bytes;
  }
}
