import { BlobSource } from './blob.ts';
import { BlockCache, type CacheOptions } from './cache.ts';
import { ChunkSource } from './chunks.ts';
import type { FetchPolicy } from './fetch.ts';
import { HttpRangeSource } from './http-range.ts';
import { type BaseIdentity, identifyBlob, identifyBytes, identifyManifest, identifyRange } from './identity.ts';
import { type DiskManifest, fetchManifest } from './manifest.ts';
import { MemorySource } from './memory.ts';
import { MemoryStore, Overlay, type OverlayOptions, type OverlayStore } from './overlay.ts';
import { isParts, PartsSource } from './parts.ts';
import { BlockError, type BlockSource } from './types.ts';

/** A disk by the absolute address of its manifest (`….json`) or raw image, or the bytes themselves. */
export type DiskLocation = string | Blob | Uint8Array;

/** The original of a disk. */
export interface DiskBase {
  readonly source: BlockSource;
  /** What the manifest says, when there is one, and its address, which its files are relative to. */
  readonly manifest?: DiskManifest;
  readonly url?: string;
  /** Computed once, when somebody asks. */
  identity(): Promise<BaseIdentity>;
}

export interface DiskOptions extends CacheOptions, Pick<OverlayOptions, 'readOnly' | 'limit' | 'onFull'> {
  /**
   * Where written blocks are kept; default memory. With `manifest`, they stand on that base instead of the one that is
   * at the location now.
   */
  openStore?: (base: DiskBase) => Promise<{ store: OverlayStore; kept?: { manifest: DiskManifest; url: string } }>;
  policy?: Partial<FetchPolicy>;
  signal?: AbortSignal;
  onError?: (error: BlockError) => void;
}

export interface OpenDisk extends Omit<DiskBase, 'source'> {
  readonly device: Overlay;
  readonly cache: BlockCache;
  /** What the location has now, where the disk stands on an older base. */
  readonly newer?: DiskBase;
}

/** Opens a disk; nothing of its contents is fetched yet, but for the first sector of a raw image on a server. */
export async function openDisk(location: DiskLocation, options: DiskOptions = {}): Promise<OpenDisk> {
  const current = await openBase(location, options);
  const { store, kept } = (await options.openStore?.(current)) ?? { store: new MemoryStore(), kept: undefined };
  try {
    const base = kept ? chunkBase(kept.manifest, kept.url, options) : current;
    const cache = new BlockCache(base.source, { orders: base.manifest?.programChunks, ...options });
    const device = await Overlay.open(cache, store, options);
    const { manifest, url } = base;
    return { device, cache, manifest, url, identity: () => base.identity(), newer: kept && current };
  } catch (cause) {
    store.close?.();
    throw cause;
  }
}

async function openBase(location: DiskLocation, options: DiskOptions): Promise<DiskBase> {
  const base = await findBase(location, options);
  const { size } = base.source;
  if (size === 0 || size % 512 !== 0)
    throw new BlockError('bounds', `a disk image of ${size} bytes is not a whole number of 512-byte sectors`);
  return base;
}

async function findBase(location: DiskLocation, options: DiskOptions): Promise<DiskBase> {
  if (location instanceof Uint8Array)
    return { source: new MemorySource(location), identity: once(() => identifyBytes(location)) };
  if (typeof location !== 'string') {
    const source = new BlobSource(location);
    return { source, identity: once(() => identifyBlob(location, source)) };
  }
  if (isManifest(location)) return chunkBase(await fetchManifest(location, options), location, options);
  if (isParts(location)) {
    const parts = await PartsSource.open(location, options);
    return { source: parts, url: location, identity: async () => parts.identity };
  }
  const source = await HttpRangeSource.open(location, options);
  return { source, url: location, identity: async () => identifyRange(source) };
}

function chunkBase(manifest: DiskManifest, url: string, options: DiskOptions): DiskBase {
  return {
    source: new ChunkSource(manifest, url, options),
    manifest,
    url,
    identity: once(() => identifyManifest(manifest, url)),
  };
}

function once<T>(work: () => Promise<T>): () => Promise<T> {
  let result: Promise<T> | undefined;
  return () => (result ??= work());
}

/** Whether an address is a manifest's, going by its name. */
export function isManifest(url: string): boolean {
  return /\.json$/i.test(url.replace(/[?#].*$/, ''));
}
