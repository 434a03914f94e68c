/**
 * Which chunks usual programs read when they are first run: each in a machine that goes on from the disk's snapshot, so
 * that what is in its memory is not fetched ahead. The machine is deterministic: the same disk gives the same lists.
 */
import { openAsBlob, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { createProcessor } from '../emulator/cpu/processor.ts';
import type { DiskManifest } from '../emulator/disk/manifest.ts';
import { openDisk } from '../emulator/disk/open.ts';
import { Machine } from '../emulator/machine.ts';
import { SnapshotSource } from '../emulator/snapshot.ts';
import { AgentClient } from '../src/agent/client.ts';
import { fileFetch } from '../src/cli/file-fetch.ts';
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

/** @throws Error with what the command said when it fails */
async function firstRun(directory: string, manifest: DiskManifest, command: string): Promise<number[]> {
  const { snapshot } = manifest;
  if (!snapshot) throw new Error(`the disk in ${directory} has no snapshot, which programs are run after`);
  const order = new ChunkOrder(manifest);
  const disk = await openDisk(await openAsBlob(join(directory, manifest.image?.url ?? `${manifest.name}.ext2`)));
  const source = new SnapshotSource(
    manifest,
    snapshot,
    pathToFileURL(join(directory, 'manifest.json')).href,
    'prompt',
    {
      policy: { fetch: fileFetch },
    },
  );
  let receive: (bytes: Uint8Array) => void = () => undefined;
  const machine = await Machine.create({
    createProcessor,
    memory: snapshot.memory,
    deterministic: true,
    disks: [watched(disk.device, (offset, length) => order.add(offset, length))],
    events: { agent: (bytes) => receive(bytes) },
  });
  try {
    const { state, overlay } = await source.state();
    machine.resumeFrom(state, (chunk) => source.chunk(chunk));
    disk.device.importState(overlay);
    const agent = new AgentClient(
      {
        write: (bytes) => void machine.writeAgent(bytes),
        onData: (listener) => (receive = listener),
        onClose: () => undefined,
      },
      1,
    );
    machine.start();
    const ended = machine.stopped.then(({ reason, message = '' }) => {
      throw new Error(`the machine in which "${command}" was run ended: ${reason} ${message}`);
    });
    const { status, stderr } = await Promise.race([agent.run(['sh', '-c', command]), ended]);
    if (status !== 0) throw new Error(`"${command}" failed: ${new TextDecoder().decode(stderr)}`);
    return order.chunks;
  } finally {
    machine.stop();
  }
}

/** Puts what the commands read into the manifest of a built disk with a snapshot. @returns one line for people */
export async function addPrograms(directory: string, commands: readonly string[]): Promise<string> {
  const path = join(directory, 'manifest.json');
  const manifest = JSON.parse(readFileSync(path, 'utf8')) as DiskManifest;
  const programChunks: number[][] = [];
  for (const command of commands) programChunks.push(await firstRun(directory, manifest, command));
  writeFileSync(`${path}.part`, JSON.stringify({ ...manifest, programChunks }));
  renameSync(`${path}.part`, path);
  return `first runs of ${commands.length} programs read ${programChunks.map((chunks) => chunks.length).join(', ')} chunks`;
}
