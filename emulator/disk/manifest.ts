import { checkStatus, type FetchPolicy, fetchPolicy, readBody, request, withRetry } from './fetch.ts';
import { BlockError } from './types.ts';

/** A file beside the manifest. `url` is relative to the manifest. */
export interface ManifestFile {
  url: string;
  /** Bytes, as stored. */
  size: number;
  /** Of the file as stored, in lower-case hexadecimal. */
  sha256: string;
  compression?: 'none' | 'gzip' | 'zstd';
}

/** `manifest.json` of a disk that is served as chunks. */
export interface DiskManifest {
  format: 'linux-vm-disk';
  version: 1;
  name: string;
  /** Of the disk, in bytes; a multiple of 512. */
  size: number;
  /** Uncompressed bytes in each chunk but the last; a power of two. */
  chunkSize: number;
  compression: 'gzip' | 'none';
  /** SHA-256 of each chunk's uncompressed bytes, which is also its file name under `chunks/`; null where all zero. */
  chunks: (string | null)[];
  /** The raw image, for range requests. */
  image?: { url: string };
  kernel?: ManifestFile;
  initrd?: ManifestFile;
  cmdline: string;
  /** Chunks that a boot reads, in the order of their first use. */
  bootChunks: number[];
  /** Chunks that usual programs read when they are first run after the snapshot: a list each, in the order of first use. */
  programChunks?: number[][];
  /** Code that usual programs run often in a machine with this kernel. See emulator/cpu/hot-code.ts. */
  hotCode?: ManifestFile;
  /** The machine at its prompt, for who does not want to wait for the boot. */
  snapshot?: ManifestSnapshot;
}

/** A machine that was booted from the disk when that was built. See emulator/snapshot.ts. */
export interface ManifestSnapshot {
  /** SNAPSHOT_FORMAT of the program that made it; no other can use it. */
  format: string;
  /** Its RAM in bytes. */
  memory: number;
  /** Everything but the pages of RAM that a resume does not touch at once. */
  state: ManifestFile;
  /** The distinct ones of these pages: bytes, and bytes in each chunk but the last. Chunks are named and packed as the disk's. */
  size: number;
  chunkSize: number;
  chunks: string[];
  /** The same machine before it mounted the disk, for disks that have been written to since; over the same chunks. */
  kernel?: { state: ManifestFile };
}

const HASH = /^[0-9a-f]{64}$/;
/** 1 TiB in chunks of 128 KiB is 8 million names of 64 digits: half a gigabyte of manifest. Nobody means that. */
const LARGEST_MANIFEST = 64 << 20;

/** @throws BlockError code `manifest` that names the first field that is wrong */
export function parseManifest(json: unknown, url: string): DiskManifest {
  const fail = (what: string): never => {
    throw new BlockError('manifest', `${url} is not a usable disk manifest: ${what}; build the disk again`, url);
  };
  if (typeof json !== 'object' || json === null) return fail('it is not a JSON object');
  const m = json as Record<string, unknown>;
  if (m['format'] !== 'linux-vm-disk') fail('"format" is not "linux-vm-disk"');
  if (m['version'] !== 1) fail(`"version" is ${String(m['version'])}, and this build reads version 1`);
  const size = m['size'];
  if (!(typeof size === 'number' && Number.isSafeInteger(size) && size > 0 && size % 512 === 0))
    return fail('"size" is not a positive multiple of 512');
  const chunkSize = m['chunkSize'];
  if (!(
    typeof chunkSize === 'number' &&
    Number.isSafeInteger(chunkSize) &&
    chunkSize >= 4096 &&
    chunkSize <= 16 << 20 &&
    (chunkSize & (chunkSize - 1)) === 0
  ))
    return fail('"chunkSize" is not a power of two from 4 KiB to 16 MiB');
  const compression = m['compression'];
  if (compression !== 'gzip' && compression !== 'none') return fail('"compression" is neither "gzip" nor "none"');
  const chunks = m['chunks'];
  const count = Math.ceil(size / chunkSize);
  if (!Array.isArray(chunks) || chunks.length !== count) return fail(`"chunks" is not a list of ${count}`);
  const wrong = chunks.findIndex((c) => !(c === null || (typeof c === 'string' && HASH.test(c))));
  if (wrong >= 0) fail(`chunk ${wrong} has no SHA-256`);
  const areChunks = (list: unknown): list is number[] =>
    Array.isArray(list) && list.every((c) => Number.isSafeInteger(c) && c >= 0 && c < count);
  const boot = m['bootChunks'] ?? [];
  if (!areChunks(boot)) return fail('"bootChunks" is not a list of chunk numbers');
  const programs = m['programChunks'] ?? [];
  if (!(Array.isArray(programs) && programs.every(areChunks)))
    return fail('"programChunks" is not a list of lists of chunk numbers');
  const cmdline = m['cmdline'] ?? '';
  if (typeof cmdline !== 'string') return fail('"cmdline" is not a string');
  const image = m['image'] as { url?: unknown } | undefined;
  if (image !== undefined && typeof image?.url !== 'string') fail('"image" has no "url"');
  return {
    format: 'linux-vm-disk',
    version: 1,
    name: typeof m['name'] === 'string' ? m['name'] : 'disk',
    size,
    chunkSize,
    compression,
    chunks: chunks as (string | null)[],
    image: image as { url: string } | undefined,
    kernel: parseFile(m['kernel'], 'kernel', fail),
    initrd: parseFile(m['initrd'], 'initrd', fail),
    cmdline,
    bootChunks: boot,
    programChunks: programs,
    hotCode: parseFile(m['hotCode'], 'hotCode', fail),
    snapshot: parseSnapshot(m['snapshot'], fail),
  };
}

function parseSnapshot(value: unknown, fail: (what: string) => never): ManifestSnapshot | undefined {
  if (value === undefined || value === null) return undefined;
  const s = value as Record<string, unknown>;
  if (typeof s['format'] !== 'string') return fail('"snapshot" has no "format"');
  const state = parseFile(s['state'], 'snapshot.state', fail);
  if (!state) return fail('"snapshot" has no "state"');
  const count = (name: string, least: number, most: number): number => {
    const n = s[name];
    if (typeof n === 'number' && Number.isSafeInteger(n) && n >= least && n <= most) return n;
    return fail(`"snapshot.${name}" is not a number from ${least} to ${most}`);
  };
  const memory = count('memory', 1, 2 ** 32);
  const size = count('size', 4096, memory);
  const chunkSize = count('chunkSize', 4096, 16 << 20);
  if (size % 4096 || chunkSize % 4096) return fail('"snapshot" holds no whole pages');
  const chunks = s['chunks'];
  const expected = Math.ceil(size / chunkSize);
  if (!Array.isArray(chunks) || chunks.length !== expected || chunks.some((c) => !HASH.test(String(c))))
    return fail(`"snapshot.chunks" is not a list of ${expected} SHA-256`);
  const kernel = parseKernelSnapshot(s['kernel'], fail);
  return { format: s['format'], memory, state, size, chunkSize, chunks: chunks as string[], kernel };
}

function parseKernelSnapshot(value: unknown, fail: (what: string) => never): ManifestSnapshot['kernel'] {
  if (value === undefined || value === null) return undefined;
  const state = parseFile((value as Record<string, unknown>)['state'], 'snapshot.kernel.state', fail);
  return state ? { state } : fail('"snapshot.kernel" has no "state"');
}

function parseFile(value: unknown, name: string, fail: (what: string) => never): ManifestFile | undefined {
  if (value === undefined || value === null) return undefined;
  const f = value as Record<string, unknown>;
  if (typeof f['url'] !== 'string') return fail(`"${name}" has no "url"`);
  if (!(typeof f['size'] === 'number' && Number.isSafeInteger(f['size']) && f['size'] > 0))
    return fail(`"${name}" has no "size"`);
  if (!(typeof f['sha256'] === 'string' && HASH.test(f['sha256']))) return fail(`"${name}" has no "sha256"`);
  const compression = f['compression'];
  if (compression !== undefined && compression !== 'none' && compression !== 'gzip' && compression !== 'zstd')
    return fail(`"${name}" has the unknown compression "${String(compression)}"`);
  return { url: f['url'], size: f['size'], sha256: f['sha256'], compression };
}

export async function fetchManifest(
  url: string,
  options: { policy?: Partial<FetchPolicy>; signal?: AbortSignal } = {},
): Promise<DiskManifest> {
  const policy = fetchPolicy(options.policy);
  return withRetry(policy, url, options.signal, async (attempt) => {
    const response = await request(policy, url, {
      signal: attempt.signal,
      // The one file whose name stays when its contents change: always ask the server.
      cache: attempt.number > 1 ? 'reload' : 'no-cache',
    });
    checkStatus(response, url, [200]);
    const bytes = await readBody(response, url, LARGEST_MANIFEST, attempt);
    let json: unknown;
    try {
      json = JSON.parse(new TextDecoder().decode(bytes));
    } catch (cause) {
      throw new BlockError('manifest', `${url} is not JSON; is it the address of a disk's manifest?`, url, { cause });
    }
    return parseManifest(json, url);
  });
}
