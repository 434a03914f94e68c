/** Raw images that are read by Range requests, kept by block. */

/** Bytes of an image in one entry; the machine asks for blocks of this size. */
export const BLOCK = 131072;
/** A request that begins at 0 and is no longer than this asks whether the image is still the same one. */
const PROBE = 512;

/** The part of a Cache that is used here. */
export interface Store {
  match(key: string): Promise<Response | undefined>;
  put(key: string, response: Response): Promise<void>;
  keys(): Promise<readonly { url: string }[]>;
  delete(key: string): Promise<boolean>;
}

interface Image {
  /** Bytes in all. */
  size: number;
  /** Strong ETag, or else the time of the last change. Without either nothing is kept. */
  version: string;
}

/** Told of the entries that are read and written, so that somebody can see to their number. */
export interface Use {
  read(key: string): Promise<void>;
  written(key: string): Promise<void>;
}

export interface Range {
  first: number;
  last: number;
}

/** `bytes=FIRST-LAST`, both given. */
export function parseRange(value: string | null): Range | undefined {
  const match = /^bytes=(\d+)-(\d+)$/.exec(value ?? '');
  if (!match) return undefined;
  const range = { first: Number(match[1]), last: Number(match[2]) };
  return range.first <= range.last ? range : undefined;
}

export class RangeCache {
  private readonly images = new Map<string, Image>();

  constructor(
    private readonly store: Store,
    private readonly fetch: (request: Request) => Promise<Response>,
    private readonly use: Use = { read: async () => undefined, written: async () => undefined },
  ) {}

  /** @param background takes the work that goes on when the answer is there: keeping it */
  async answer(request: Request, range: Range, background: (work: Promise<void>) => void): Promise<Response> {
    const { url } = request;
    if (range.first === 0 && range.last < PROBE) return this.probe(request, range);
    const image = await this.image(url);
    if (image && request.cache !== 'reload') {
      const kept = await this.kept(url, image, range, background);
      if (kept) return kept;
    }
    const response = await this.fetch(request);
    if (image) background(this.keep(url, image, range, response.clone()));
    return response;
  }

  /** The network knows best whether the image has changed; without it, what is kept is taken as it is. */
  private async probe(request: Request, range: Range): Promise<Response> {
    let response: Response;
    try {
      response = await this.fetch(request);
    } catch (cause) {
      const image = await this.image(request.url);
      const kept = image && (await this.kept(request.url, image, range, () => undefined));
      if (kept) return kept;
      throw cause;
    }
    const now = response.status === 206 ? describe(response) : undefined;
    if (now) {
      const before = await this.image(request.url);
      if (before && (before.version !== now.version || before.size !== now.size)) await this.forget(request.url);
      this.images.set(request.url, now);
      await this.put(imageKey(request.url), new Response(JSON.stringify(now)));
    }
    return response;
  }

  private async image(url: string): Promise<Image | undefined> {
    const known = this.images.get(url);
    if (known) return known;
    // The service worker may have been ended and started since the image was opened.
    const stored = await this.store.match(imageKey(url));
    const image = stored && ((await stored.json().catch(() => undefined)) as Image | undefined);
    if (image) this.images.set(url, image);
    return image;
  }

  private async kept(
    url: string,
    image: Image,
    { first, last }: Range,
    background: (work: Promise<void>) => void,
  ): Promise<Response | undefined> {
    if (last >= image.size) return undefined;
    const bytes = new Uint8Array(last - first + 1);
    for (let index = Math.floor(first / BLOCK); index * BLOCK <= last; index++) {
      const key = blockKey(url, image, index);
      const response = await this.store.match(key);
      if (!response) return undefined;
      const block = new Uint8Array(await response.arrayBuffer());
      const start = index * BLOCK;
      const from = Math.max(first, start);
      const to = Math.min(last + 1, start + block.length);
      bytes.set(block.subarray(from - start, to - start), from - first);
      background(this.use.read(key));
    }
    const headers: Record<string, string> = {
      'content-type': 'application/octet-stream',
      'content-length': String(bytes.length),
      'content-range': `bytes ${first}-${last}/${image.size}`,
    };
    if (image.version.startsWith('"')) headers['etag'] = image.version;
    return new Response(bytes, { status: 206, headers });
  }

  /** Keeps the whole blocks of an answer; the image's last one may be short. */
  private async keep(url: string, image: Image, { first, last }: Range, response: Response): Promise<void> {
    if (response.status !== 206) return;
    const now = describe(response);
    if (!now || now.version !== image.version || now.size !== image.size) return;
    let bytes: Uint8Array<ArrayBuffer>;
    try {
      bytes = new Uint8Array(await response.arrayBuffer());
    } catch {
      return; // The connection was cut; the reader is told by its own copy.
    }
    if (bytes.length !== last - first + 1) return;
    for (let index = Math.ceil(first / BLOCK); index * BLOCK <= last; index++) {
      const start = index * BLOCK;
      const end = Math.min(start + BLOCK, image.size);
      if (end - 1 > last) return;
      await this.put(blockKey(url, image, index), new Response(bytes.slice(start - first, end - first)));
    }
  }

  /** A full disk is no reason to fail: the answer is there without being kept. */
  private async put(key: string, response: Response): Promise<void> {
    try {
      await this.store.put(key, response);
      await this.use.written(key);
    } catch {
      // Not kept.
    }
  }

  private async forget(url: string): Promise<void> {
    const prefix = withQuery(url, 'block', '');
    for (const { url: key } of await this.store.keys()) if (key.startsWith(prefix)) await this.store.delete(key);
  }
}

function describe(response: Response): Image | undefined {
  const tag = response.headers.get('etag');
  const version = tag !== null && !tag.startsWith('W/') ? tag : response.headers.get('last-modified');
  const size = /\/(\d+)$/.exec(response.headers.get('content-range') ?? '')?.[1];
  return version && size ? { size: Number(size), version } : undefined;
}

const imageKey = (url: string): string => withQuery(url, 'image', '');
const blockKey = (url: string, image: Image, index: number): string =>
  withQuery(url, 'block', `${encodeURIComponent(`${image.size} ${image.version}`)}.${index}`);

/** Addresses that no server is asked for. */
function withQuery(url: string, name: string, value: string): string {
  const address = new URL(url);
  address.hash = '';
  return `${address.href}${address.search ? '&' : '?'}linux-vm-${name}=${value}`;
}
