import { ChunkSource } from './disk/chunks.ts';
import type { FetchPolicy } from './disk/fetch.ts';
import { fetchFile } from './disk/file.ts';
import type { DiskManifest, ManifestSnapshot } from './disk/manifest.ts';
import type { OverlayState } from './disk/overlay.ts';
import { type PagedState, STATE_VERSION } from './machine-state.ts';
import { decode, encode, StateError } from './state-stream.ts';

/*
 * The snapshot of a disk: a machine at its prompt, so that a page need not boot. Its RAM is cut into pages, of which each
 * is kept once and zeros not at all; they stand in the order in which a resume touches them, and are fetched in chunks.
 * Everything else is one small file, in the form of `encode`.
 */

/** Names the form of states and of this file. A snapshot in another form is not used. */
export const SNAPSHOT_FORMAT = `linux-vm state ${STATE_VERSION}, pages 1`;

/** Chunks under way ahead of their use. Browsers open six connections to an HTTP/1.1 server. */
const PARALLEL = 6;

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
  const table = value?.state?.memory?.table;
  if (
    !(table?.pages instanceof Uint32Array && table.slots instanceof Uint32Array) ||
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

/** Fetches a snapshot's parts. Each chunk is asked for once, and again after it could not be had. */
export class SnapshotSource {
  private readonly source: ChunkSource;
  /** Chunks that were fetched before anybody needed them, and those that somebody has asked for. */
  private readonly early = new Map<number, Promise<Uint8Array>>();
  private readonly asked = new Set<number>();
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

  /** Begins to fetch the chunks that are needed first, some at a time and in their order. */
  prefetch(): void {
    const { firstChunks, kernel } = this.snapshot;
    const chunks =
      this.which === 'kernel' ? [...kernel!.firstChunks] : Array.from({ length: firstChunks }, (_, chunk) => chunk);
    const lane = async (): Promise<void> => {
      for (let chunk; (chunk = chunks.shift()) !== undefined;) {
        if (this.asked.has(chunk)) continue;
        const bytes = this.fetch(chunk);
        this.early.set(chunk, bytes);
        // Whoever needs it hears of a failure.
        await bytes.catch(() => undefined);
      }
    };
    for (let i = 0; i < PARALLEL; i++) void lane();
  }

  /** A chunk's pages. Rejects after the retries of the policy. */
  chunk(chunk: number): Promise<Uint8Array> {
    this.asked.add(chunk);
    const early = this.early.get(chunk);
    if (!early) return this.fetch(chunk);
    this.early.delete(chunk);
    return early;
  }

  private fetch(chunk: number): Promise<Uint8Array> {
    const { size, chunkSize } = this.snapshot;
    const offset = chunk * chunkSize;
    return this.source.read(offset, Math.min(chunkSize, size - offset), this.options.signal);
  }
}
