/**
 * Which chunks usual programs read when they are first run: each in a machine that goes on from the disk's snapshot, so
 * that what is in its memory is not fetched ahead. The machine is deterministic: the same disk gives the same lists.
 */
import { openAsBlob } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { DiskManifest } from '../emulator/disk/manifest.ts';
import { openDisk } from '../emulator/disk/open.ts';
import { SnapshotSource } from '../emulator/snapshot.ts';
import { fileFetch } from '../src/cli/file-fetch.ts';
import { Bench, readManifest, replaceManifest } from './bench.ts';
import { watched } from './watched.ts';

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
  const { snapshot } = manifest;
  if (!snapshot) throw new Error(`the disk in ${directory} has no snapshot, which programs are run after`);
  const order = new ChunkOrder(manifest);
  const disk = await openDisk(await openAsBlob(join(directory, manifest.image?.url ?? `${manifest.name}.ext2`)));
  const url = pathToFileURL(join(directory, 'manifest.json')).href;
  const source = new SnapshotSource(manifest, snapshot, url, 'prompt', { policy: { fetch: fileFetch } });
  const device = watched(disk.device, (offset, length) => order.add(offset, length));
  const bench = await Bench.create(directory, manifest, device, false);
  const { machine } = bench;
  try {
    const { state, overlay } = await source.state();
    machine.resumeFrom(state, (chunk) => source.chunk(chunk));
    disk.device.importState(overlay);
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
