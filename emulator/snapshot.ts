import { ChunkSource } from './disk/chunks.ts';
import type { FetchPolicy } from './disk/fetch.ts';
import { fetchFile } from './disk/file.ts';
import type { DiskManifest, ManifestSnapshot } from './disk/manifest.ts';
import type { OverlayState } from './disk/overlay.ts';
import { type PagedState, STATE_VERSION } from './machine-state.ts';
import { decode, encode, StateError } from './state-stream.ts';

/*
 * The snapshot of a disk: a machine at its prompt, so that a page need not boot. One file, in the form of `encode`, has its
 * state and the pages of RAM that a resume touches until it has settled: asked for one by one, they would take most of the
 * time of a start. The other pages, each kept once and zeros not at all, are fetched in chunks, in the order of their use.
 */

/** Names the form of states and of this file. A snapshot in another form is not used. */
export const SNAPSHOT_FORMAT = `linux-vm state ${STATE_VERSION}, pages 2`;

export interface Snapshot {
  state: PagedState;
  /** What had been written to the disk by then. */
  overlay: OverlayState;
  /** What was on the terminal. */
  console: Uint8Array;
}

export function encodeSnapshot(snapshot: Snapshot): Uint8Array {
  return encode(snapshot);
}

/** @throws StateError when the bytes are none of `encodeSnapshot` */
export function decodeSnapshot(bytes: Uint8Array): Snapshot {
  const value = decode(bytes) as Partial<Snapshot> | undefined;
  const { table, first } = value?.state?.memory ?? {};
  if (
    !(table?.pages instanceof Uint32Array && table.slots instanceof Uint32Array) ||
    !(first?.pages instanceof Uint32Array && first.bytes instanceof Uint8Array) ||
    !(value?.console instanceof Uint8Array) ||
    !Array.isArray(value.overlay?.blocks)
  )
    throw new StateError('the snapshot is damaged: a part of it is missing; build the disk again');
  return value as Snapshot;
}

/** Why a machine cannot go on from a snapshot, in words; undefined when it can. @param memory bytes of RAM */
export function misfit(snapshot: ManifestSnapshot, memory: number): string | undefined {
  if (snapshot.format !== SNAPSHOT_FORMAT)
    return `the disk's snapshot is of another version (${snapshot.format}, not ${SNAPSHOT_FORMAT}); build the disk again`;
  if (snapshot.memory !== memory)
    return `the disk's snapshot is of a machine with ${snapshot.memory / 2 ** 20} MiB of memory, not ${memory / 2 ** 20}`;
  return undefined;
}

/** Fetches a snapshot's parts. */
export class SnapshotSource {
  private readonly source: ChunkSource;
  private stateBytes = 0;

  /** @param url of the manifest, absolute */
  constructor(
    manifest: Pick<DiskManifest, 'compression'>,
    private readonly snapshot: ManifestSnapshot,
    private readonly url: string,
    /** `kernel`: the machine before it mounted the disk. */
    private readonly which: 'prompt' | 'kernel' = 'prompt',
    private readonly options: { policy?: Partial<FetchPolicy>; signal?: AbortSignal } = {},
  ) {
    const { size, chunkSize, chunks } = snapshot;
    this.source = new ChunkSource({ compression: manifest.compression, size, chunkSize, chunks }, url, options);
  }

  /** Bytes that crossed the network. */
  get fetchedBytes(): number {
    return this.source.transfer.fetchedBytes + this.stateBytes;
  }

  /** @throws BlockError after the retries of the policy, StateError when the file is damaged */
  async state(): Promise<Snapshot> {
    const { state } = this.which === 'kernel' ? this.snapshot.kernel! : this.snapshot;
    const bytes = await fetchFile(
      { ...state, url: new URL(state.url, this.url).href },
      { ...this.options, onProgress: (loaded) => (this.stateBytes = loaded) },
    );
    return decodeSnapshot(bytes);
  }

  /** A chunk's pages. Rejects after the retries of the policy. */
  chunk(chunk: number): Promise<Uint8Array> {
    const { size, chunkSize } = this.snapshot;
    const offset = chunk * chunkSize;
    return this.source.read(offset, Math.min(chunkSize, size - offset), this.options.signal);
  }
}
