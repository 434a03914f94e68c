import { BlobSource } from './blob.ts';
import { BlockCache, type CacheOptions } from './cache.ts';
import { ChunkSource } from './chunks.ts';
import type { FetchPolicy } from './fetch.ts';
import { HttpRangeSource } from './http-range.ts';
import { type DiskManifest, fetchManifest } from './manifest.ts';
import { MemorySource } from './memory.ts';
import { MemoryStore, Overlay, type OverlayOptions, type OverlayStore } from './overlay.ts';
import { BlockError, type BlockSource } from './types.ts';

/** A disk by the absolute address of its manifest (`….json`) or raw image, or the bytes themselves. */
export type DiskLocation = string | Blob | Uint8Array;

export interface DiskOptions extends CacheOptions, Pick<OverlayOptions, 'readOnly' | 'limit'> {
  store?: OverlayStore;
  policy?: Partial<FetchPolicy>;
  signal?: AbortSignal;
  onError?: (error: BlockError) => void;
}

export interface OpenDisk {
  readonly device: Overlay;
  readonly cache: BlockCache;
  /** What the manifest says, when there is one, and its address, which its files are relative to. */
  readonly manifest?: DiskManifest;
  readonly url?: string;
}

/** Opens a disk; nothing of its contents is fetched yet, but for the first sector of a raw image on a server. */
export async function openDisk(location: DiskLocation, options: DiskOptions = {}): Promise<OpenDisk> {
  let source: BlockSource;
  let manifest: DiskManifest | undefined;
  if (typeof location === 'string') {
    if (isManifest(location)) {
      manifest = await fetchManifest(location, options);
      source = new ChunkSource(manifest, location, options);
    } else source = await HttpRangeSource.open(location, options);
  } else source = location instanceof Uint8Array ? new MemorySource(location) : new BlobSource(location);
  if (source.size === 0 || source.size % 512 !== 0)
    throw new BlockError('bounds', `a disk image of ${source.size} bytes is not a whole number of 512-byte sectors`);
  const cache = new BlockCache(source, options);
  const device = await Overlay.open(cache, options.store ?? new MemoryStore(), options);
  return { device, cache, manifest, url: typeof location === 'string' ? location : undefined };
}

/** Whether an address is a manifest's, going by its name. */
export function isManifest(url: string): boolean {
  return /\.json$/i.test(url.replace(/[?#].*$/, ''));
}
