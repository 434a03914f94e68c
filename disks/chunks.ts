/** Cuts a disk image into the chunk directory that any static host can serve. */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, openSync, readSync, closeSync, fstatSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import { writeWhole } from './write-whole.ts';

export interface ChunkDirectory {
  /** Bytes of the image. */
  size: number;
  /** SHA-256 (hex) of each chunk as it is in the image, which is its file's name; null where the chunk is all zeros. */
  chunks: (string | null)[];
  /** Compressed bytes of each chunk; 0 for zeros. */
  compressedSizes: number[];
}

const compress = promisify(gzip);

/**
 * Writes each distinct chunk of `image` gzip-compressed as `directory`/HASH; the last chunk may be short. Files of an earlier build
 * that this image does not use are removed, those it does are kept.
 */
export async function writeChunks(image: string, directory: string, chunkSize: number): Promise<ChunkDirectory> {
  mkdirSync(directory, { recursive: true });
  const file = openSync(image, 'r');
  try {
    const { size } = fstatSync(file);
    const zeros = Buffer.alloc(chunkSize);
    const chunks: (string | null)[] = [];
    const compressedSizes: number[] = [];
    const cut = async (index: number) => {
      const chunk = Buffer.alloc(Math.min(chunkSize, size - index * chunkSize));
      readSync(file, chunk, 0, chunk.length, index * chunkSize);
      if (chunk.equals(zeros.subarray(0, chunk.length))) {
        chunks[index] = null;
        compressedSizes[index] = 0;
        return;
      }
      const hash = createHash('sha256').update(chunk).digest('hex');
      const compressed = await compress(chunk, { level: 9 });
      chunks[index] = hash;
      compressedSizes[index] = compressed.length;
      const path = join(directory, hash);
      if (existsSync(path)) return;
      writeWhole(path, compressed);
    };
    const total = Math.ceil(size / chunkSize);
    const lanes = 4; // zlib runs on libuv's threads
    for (let first = 0; first < total; first += lanes) {
      const batch = new Map<number, Promise<void>>();
      for (let index = first; index < Math.min(first + lanes, total); index++) batch.set(index, cut(index));
      await Promise.all(batch.values());
    }
    const used = new Set(chunks);
    for (const name of readdirSync(directory)) if (!used.has(name)) rmSync(join(directory, name));
    return { size, chunks, compressedSizes };
  } finally {
    closeSync(file);
  }
}
