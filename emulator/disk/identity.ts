import { sha256 } from '@noble/hashes/sha2.js';
import type { BlobSource } from './blob.ts';
import { sha256Hex } from './hash.ts';
import type { HttpRangeSource } from './http-range.ts';
import type { DiskManifest } from './manifest.ts';

/** Which base image changes belong to. */
export interface BaseIdentity {
  /** Equal for equal contents, as far as that can be known without reading them all. */
  id: string;
  /** For people. */
  name: string;
  /** Bytes. */
  size: number;
  url?: string;
}

/** By its contents only: another kernel or command line over the same chunks is the same disk. */
export async function identifyManifest(manifest: DiskManifest, url: string): Promise<BaseIdentity> {
  const { size, chunkSize, chunks } = manifest;
  const text = JSON.stringify([size, chunkSize, chunks]);
  return { id: `chunks:${await sha256Hex(new TextEncoder().encode(text))}`, name: manifest.name, size, url };
}

/** By what the server says of it; by its address only where the server says nothing. */
export function identifyRange(source: HttpRangeSource): BaseIdentity {
  const { size, url, validator } = source;
  return { id: `range:${size}:${validator ?? url}`, name: new URL(url).pathname.split('/').at(-1) || url, size, url };
}

export async function identifyBytes(bytes: Uint8Array): Promise<BaseIdentity> {
  return { id: `bytes:${await sha256Hex(bytes)}`, name: 'image', size: bytes.length };
}

/** A file by name, size and date, as file systems do; a blob without a date has to be read. */
export async function identifyBlob(blob: Blob, source: BlobSource): Promise<BaseIdentity> {
  const { name, lastModified } = blob as Partial<File>;
  if (name !== undefined && lastModified !== undefined)
    return { id: `file:${source.size}:${lastModified}:${name}`, name, size: source.size };
  const hash = sha256.create();
  for (let at = 0; at < blob.size; at += 4 << 20)
    hash.update(new Uint8Array(await blob.slice(at, at + (4 << 20)).arrayBuffer()));
  const hex = Array.from(hash.digest(), (byte) => byte.toString(16).padStart(2, '0')).join('');
  return { id: `bytes:${hex}`, name: 'image', size: source.size };
}
