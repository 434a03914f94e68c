/**
 * Which chunks usual programs read when they are first run: each in a machine that goes on from the disk's snapshot, so
 * that what is in its memory is not fetched ahead. The machine is deterministic: the same disk gives the same lists.
 */
import type { DiskManifest } from '../emulator/disk/manifest.ts';
import { Bench, readManifest, replaceManifest } from './bench.ts';

/** Chunks in the order of their first use, of which those of zeros are nobody's to fetch. */
export class ChunkOrder {
  private readonly seen = new Set<number>();

  constructor(private readonly manifest: Pick<DiskManifest, 'chunkSize' | 'chunks'>) {}

  add(offset: number, length: number): void {
    const { chunkSize, chunks } = this.manifest;
    for (let chunk = Math.floor(offset / chunkSize); chunk * chunkSize < offset + length; chunk++)
      if (chunks[chunk] !== null) this.seen.add(chunk);
  }

  get chunks(): number[] {
    return [...this.seen];
  }
}

async function firstRun(directory: string, manifest: DiskManifest, command: string): Promise<number[]> {
  const order = new ChunkOrder(manifest);
  const bench = await Bench.resumed(directory, manifest, { read: (offset, length) => order.add(offset, length) });
  const { machine } = bench;
  try {
    const agent = bench.connect(2);
    machine.start();
    await bench.sh(agent, command);
    return order.chunks;
  } finally {
    machine.stop();
  }
}

/** Puts what the commands read into the manifest of a built disk with a snapshot. @returns one line for people */
export async function addPrograms(directory: string, commands: readonly string[]): Promise<string> {
  const manifest = readManifest(directory);
  const programChunks: number[][] = [];
  for (const command of commands) programChunks.push(await firstRun(directory, manifest, command));
  replaceManifest(directory, { ...manifest, programChunks });
  return `first runs of ${commands.length} programs read ${programChunks.map((chunks) => chunks.length).join(', ')} chunks`;
}
