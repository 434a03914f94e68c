import { detectCompression, gunzip } from '../../emulator/disk/compression.ts';
import { checkStatus, fetchPolicy, type FetchPolicy, readBody, request, withRetry } from '../../emulator/disk/fetch.ts';
import { sha256Hex } from '../../emulator/disk/hash.ts';
import { hashedUrl } from '../../emulator/disk/hashed-url.ts';
import { type DiskManifest, fetchManifest, type ManifestFile } from '../../emulator/disk/manifest.ts';
import { BlockError } from '../../emulator/disk/types.ts';
import { BLOCK_CACHE, OFFLINE_PREFIX } from './names.ts';

export interface OfflineStatus {
  /**
   * `absent`, nothing is here; `partial`, a download was paused; `complete`; `outdated`, complete for an older build of
   * the disk; `failed`, with `error`.
   */
  readonly state: 'absent' | 'partial' | 'downloading' | 'complete' | 'outdated' | 'failed';
  /** Files that are here, and that there are. */
  readonly files: number;
  readonly totalFiles: number;
  /** Bytes that are here, as they are stored, and in all: an estimate until all are here. */
  readonly bytes: number;
  readonly estimatedBytes: number;
  /** In words for people. */
  readonly error?: Error;
}

/** One file of a disk. */
interface Part {
  /** Absolute; the same that the machine asks for. */
  url: string;
  /** Of its contents: unpacked for a chunk, as stored for any other file. */
  sha256: string;
  /** Bytes: of a chunk, unpacked; of any other file, as stored. */
  size: number;
  chunk: boolean;
}

/** Browsers open six connections to an HTTP/1.1 server; the machine may want one as well. */
const PARALLEL = 5;
/** Milliseconds between two reports of progress. */
const REPORT = 100;

/** Brings all of a disk into this browser, so that it works without a network. */
export class OfflineDisk {
  private current: OfflineStatus;
  private readonly listeners = new Set<(status: OfflineStatus) => void>();
  private controller: AbortController | undefined;
  private running: Promise<void> | undefined;
  private reported = 0;

  private constructor(
    private readonly url: string,
    private readonly manifest: DiskManifest,
    private readonly parts: readonly Part[],
    private readonly cache: Cache,
    private readonly options: { policy?: Partial<FetchPolicy> },
  ) {
    this.current = { state: 'absent', files: 0, totalFiles: parts.length, bytes: 0, estimatedBytes: 0 };
  }

  /**
   * @param url of the disk's manifest, absolute
   * @returns undefined where the browser gives this page no storage (plain http, a sandboxed frame, private windows of
   *   some browsers)
   * @throws BlockError when there is no manifest to be had
   */
  static async open(url: string, options: { policy?: Partial<FetchPolicy> } = {}): Promise<OfflineDisk | undefined> {
    let cache: Cache;
    try {
      if (!(await caches.has(OFFLINE_PREFIX + url)) && !isSecureContext) return undefined;
      cache = await caches.open(OFFLINE_PREFIX + url);
    } catch {
      return undefined; // No such object, or access to it is denied.
    }
    const manifest = await fetchManifest(url, options);
    const disk = new OfflineDisk(url, manifest, partsOf(manifest, url), cache, options);
    await disk.look();
    return disk;
  }

  get status(): OfflineStatus {
    return this.current;
  }

  /** Adds a listener, called with each change, at most ten times a second. @returns a function that removes it */
  on(listener: (status: OfflineStatus) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /**
   * Starts, or goes on with what is here already; resolves when all is here.
   * @throws AbortError when it is paused; otherwise Error in words for people, which `status` has too
   */
  download(): Promise<void> {
    if (this.running) return this.running;
    const controller = new AbortController();
    this.controller = controller;
    this.running = this.alone(() => this.fetchAll(controller.signal))
      .catch((cause: unknown) => {
        if (controller.signal.aborted) {
          this.set({ state: this.current.files ? 'partial' : 'absent' });
          throw new DOMException('The download was paused', 'AbortError');
        }
        const error = inWords(cause);
        this.set({ state: 'failed', error });
        throw error;
      })
      .finally(() => {
        this.running = undefined;
        this.controller = undefined;
      });
    return this.running;
  }

  /** Stops the download and keeps what is here. Resolves when nothing is under way any more. */
  async pause(): Promise<void> {
    this.controller?.abort();
    await this.running?.catch(() => undefined);
  }

  /** Stops the download and removes what it brought. */
  async cancel(): Promise<void> {
    await this.pause();
    await this.remove();
  }

  /** Frees the space. The disk is streamed again from then on. */
  async remove(): Promise<void> {
    await this.pause();
    for (const key of await this.cache.keys()) await this.cache.delete(key);
    await caches.delete(OFFLINE_PREFIX + this.url);
    this.set({ state: 'absent', files: 0, bytes: 0, estimatedBytes: 0, error: undefined });
  }

  /** Forgets the listeners and pauses. */
  close(): void {
    this.listeners.clear();
    this.controller?.abort();
  }

  private async look(): Promise<void> {
    const here = await this.sizes();
    const files = this.parts.filter(({ url }) => here.has(url));
    const bytes = files.reduce((sum, { url }) => sum + here.get(url)!, 0);
    const stored = await this.cache.match(this.url);
    const all = files.length === this.parts.length;
    const state = stored ? (all ? 'complete' : 'outdated') : here.size > 0 ? 'partial' : 'absent';
    this.set({ state, files: files.length, bytes, error: undefined });
  }

  /** Bytes of each file that is here. */
  private async sizes(): Promise<Map<string, number>> {
    const sizes = new Map<string, number>();
    const [keys, responses] = await Promise.all([this.cache.keys(), this.cache.matchAll()]);
    keys.forEach((key, i) => sizes.set(key.url, Number(responses[i]?.headers.get('content-length') ?? 0)));
    sizes.delete(this.url);
    return sizes;
  }

  private async fetchAll(signal: AbortSignal): Promise<void> {
    const here = await this.sizes();
    const missing = this.parts.filter(({ url }) => !here.has(url));
    this.set({ state: 'downloading', error: undefined });
    // Asked for when there is something to lose; a browser that says no may still keep it.
    await navigator.storage?.persist?.().catch(() => false);
    const blocks = await caches.open(BLOCK_CACHE);
    const stop = new AbortController();
    signal.addEventListener('abort', () => stop.abort(), { once: true });
    const lane = async (): Promise<void> => {
      for (let part = missing.shift(); part && !stop.signal.aborted; part = missing.shift()) {
        const bytes = await this.part(part, blocks, stop.signal);
        await this.cache.put(part.url, stored(bytes));
        this.set({ files: this.current.files + 1, bytes: this.current.bytes + bytes.length }, false);
      }
    };
    const lanes = Array.from({ length: PARALLEL }, () =>
      lane().catch((cause: unknown) => {
        stop.abort();
        throw cause;
      }),
    );
    const results = await Promise.allSettled(lanes);
    signal.throwIfAborted();
    // The lane that failed first has said why; the others were only stopped.
    const reasons = results.flatMap((r) => (r.status === 'rejected' ? [r.reason as unknown] : []));
    if (reasons.length) throw reasons.find((r) => !(r instanceof BlockError && r.code === 'aborted')) ?? reasons[0];
    // From here on the disk is complete; what only an older build of it had can go.
    await this.cache.put(this.url, stored(new TextEncoder().encode(JSON.stringify(this.manifest)), 'application/json'));
    const used = new Set([this.url, ...this.parts.map(({ url }) => url)]);
    for (const key of await this.cache.keys()) if (!used.has(key.url)) await this.cache.delete(key);
    this.set({ state: 'complete' });
  }

  private async part(part: Part, blocks: Cache, signal: AbortSignal): Promise<Uint8Array<ArrayBuffer>> {
    const kept = await blocks.match(part.url);
    if (kept) {
      const bytes = new Uint8Array(await kept.arrayBuffer());
      if (!(await this.damage(part, bytes))) {
        await blocks.delete(part.url);
        return bytes;
      }
    }
    const policy = fetchPolicy(this.options.policy);
    return withRetry(policy, part.url, signal, async (attempt) => {
      // Past the service worker and the browser's own cache: it is to be stored once.
      const response = await request(policy, part.url, { signal: attempt.signal, cache: 'no-store' });
      checkStatus(response, part.url, [200]);
      const limit = part.chunk ? part.size + (part.size >> 6) + 1024 : 2 ** 31;
      const bytes = (await readBody(response, part.url, limit, attempt)) as Uint8Array<ArrayBuffer>;
      const damage = await this.damage(part, bytes);
      if (damage) throw new BlockError('hash', damage, part.url);
      return bytes;
    });
  }

  /** What is wrong with a file, in words, or undefined. */
  private async damage({ url, sha256, size, chunk }: Part, bytes: Uint8Array): Promise<string | undefined> {
    try {
      const packed = chunk && this.manifest.compression === 'gzip' && detectCompression(bytes) === 'gzip';
      const actual = await sha256Hex(packed ? await gunzip(bytes, size, url) : bytes);
      return actual === sha256 ? undefined : `${url} is damaged: its SHA-256 is ${actual}; upload it again`;
    } catch (cause) {
      return `${url} is damaged (${cause instanceof Error ? cause.message : String(cause)}); upload it again`;
    }
  }

  /** Two tabs do not bring the same disk at the same time. */
  private async alone(work: () => Promise<void>): Promise<void> {
    if (!navigator.locks) return work();
    await navigator.locks.request(OFFLINE_PREFIX + this.url, { ifAvailable: true }, async (lock) => {
      if (!lock) throw new Error('Another tab is downloading this disk already; it can be watched and paused there.');
      await work();
    });
  }

  private set(change: Partial<OfflineStatus>, report = true): void {
    const next = { ...this.current, ...change };
    const known = next.files > 0 ? Math.round((next.bytes / next.files) * next.totalFiles) : 0;
    this.current = { ...next, estimatedBytes: next.state === 'complete' ? next.bytes : known };
    const now = performance.now();
    if (!report && now - this.reported < REPORT) return;
    this.reported = now;
    for (const listener of this.listeners) listener(this.current);
  }
}

/** Every file that a machine may ask for, each once. */
function partsOf(manifest: DiskManifest, base: string): Part[] {
  const parts = new Map<string, Part>();
  const address = (url: string): string => new URL(url, base).href;
  const file = ({ sha256, size }: ManifestFile, url: string): void =>
    void parts.set(url, { url, sha256, size, chunk: false });
  const chunk = (sha256: string | null | undefined, index: number, whole: number, chunkSize: number): void => {
    const url = address(`chunks/${sha256}`);
    const size = Math.min(chunkSize, whole - index * chunkSize);
    if (sha256) parts.set(url, { url, sha256, size, chunk: true });
  };
  // What a start needs comes first: a download that is broken off has brought that.
  const { snapshot, hotCode, kernel, initrd, chunks, bootChunks } = manifest;
  if (snapshot) {
    for (const part of [snapshot, snapshot.kernel]) if (part) file(part.state, address(part.state.url));
    snapshot.chunks.forEach((hash, index) => chunk(hash, index, snapshot.size, snapshot.chunkSize));
  }
  if (hotCode) file(hotCode, address(hotCode.url));
  for (const boot of [kernel, initrd]) if (boot) file(boot, hashedUrl(address(boot.url), boot.sha256));
  for (const index of [...bootChunks, ...chunks.keys()]) chunk(chunks[index], index, manifest.size, manifest.chunkSize);
  return [...parts.values()];
}

function stored(bytes: Uint8Array<ArrayBuffer>, type = 'application/octet-stream'): Response {
  return new Response(bytes, { headers: { 'content-type': type, 'content-length': String(bytes.length) } });
}

function inWords(cause: unknown): Error {
  if (cause instanceof DOMException && cause.name === 'QuotaExceededError')
    return new Error(
      'The browser gives this site no more storage. Free space on the device, or remove disks that are stored here, and ' +
        'go on with the download.',
      { cause },
    );
  return cause instanceof Error ? cause : new Error(String(cause));
}
