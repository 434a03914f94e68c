import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { extname, join, normalize, sep } from 'node:path';
import { pipeline } from 'node:stream';
import { createGzip } from 'node:zlib';

/** A directory and the path of the site that it appears under. */
export interface Mount {
  /** Begins and ends with a slash. */
  path: string;
  directory: string;
}

const TYPES: Record<string, string> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.json': 'application/json',
  '.svg': 'image/svg+xml',
  '.png': 'image/png',
  '.wasm': 'application/wasm',
  '.webmanifest': 'application/manifest+json',
};

export interface ServeOptions {
  /** Sent with everything. */
  headers?: Readonly<Record<string, string>>;
  /** Compresses text for browsers that take it, as most hosts do. */
  compress?: boolean;
  /** Sent with `.html` files. */
  pageHeaders?: Readonly<Record<string, string>>;
}

/** Types that shrink, and that nobody reads by ranges. */
const TEXT = /^(text|application\/(json|manifest\+json)|image\/svg)/;

/**
 * A static file server: GET and HEAD, single byte ranges, ETag. Unless told no compression and no special headers, so
 * that what works here works on any static host.
 */
export function createStaticServer(mounts: readonly Mount[], options: ServeOptions = {}): Server {
  return createServer((request, response) => {
    void (async () => {
      const fail = (status: number, text: string): void => {
        response.writeHead(status, { 'content-type': 'text/plain; charset=utf-8' }).end(`${text}\n`);
      };
      if (request.method !== 'GET' && request.method !== 'HEAD') return fail(405, 'only GET and HEAD');
      let path: string;
      try {
        path = decodeURIComponent(new URL(request.url ?? '/', 'http://localhost').pathname);
      } catch {
        return fail(400, 'that address cannot be decoded');
      }
      const file = await find(mounts, path);
      if (!file) return fail(404, 'not found');
      const etag = `"${file.size.toString(36)}-${Math.floor(file.modified).toString(36)}"`;
      const headers: Record<string, string | number> = {
        'content-type': TYPES[extname(file.name)] ?? 'application/octet-stream',
        'accept-ranges': 'bytes',
        'x-content-type-options': 'nosniff',
        'cache-control': immutable(file.name) ? 'public, max-age=31536000, immutable' : 'no-cache',
        etag,
        ...options.headers,
        ...(extname(file.name) === '.html' ? options.pageHeaders : undefined),
      };
      const conditional = request.headers['if-range'];
      const range = conditional === undefined || conditional === etag ? request.headers.range : undefined;
      if (range === undefined && request.headers['if-none-match'] === etag)
        return void response.writeHead(304, headers).end();
      let first = 0;
      let last = file.size - 1;
      let status = 200;
      const match = /^bytes=(\d*)-(\d*)$/.exec(range ?? '');
      // More than one range, or nonsense, may be answered with the whole (RFC 9110, 14.2).
      if (match && (match[1] || match[2])) {
        if (match[1]) {
          first = Number(match[1]);
          if (match[2]) last = Math.min(last, Number(match[2]));
        } else first = Math.max(0, file.size - Number(match[2]));
        if (first > last) {
          response.writeHead(416, { 'content-range': `bytes */${file.size}` }).end();
          return;
        }
        status = 206;
        headers['content-range'] = `bytes ${first}-${last}/${file.size}`;
      }
      if (
        options.compress &&
        status === 200 &&
        TEXT.test(String(headers['content-type'])) &&
        /\bgzip\b/.test(String(request.headers['accept-encoding']))
      ) {
        headers['content-encoding'] = 'gzip';
        headers['vary'] = 'accept-encoding';
        response.writeHead(status, headers);
        if (request.method === 'HEAD') return void response.end();
        pipeline(createReadStream(file.name), createGzip(), response, () => undefined);
        return;
      }
      headers['content-length'] = last - first + 1;
      response.writeHead(status, headers);
      if (request.method === 'HEAD' || file.size === 0) return void response.end();
      // The client may leave at any time; that is no error of ours.
      pipeline(createReadStream(file.name, { start: first, end: last }), response, () => undefined);
    })().catch(() => {
      if (!response.headersSent) response.writeHead(500);
      response.end();
    });
  });
}

/** Files named by their contents never change. */
function immutable(name: string): boolean {
  return /[/\\](chunks[/\\][0-9a-f]{64}|assets[/\\][^/\\]+-[\w-]{8}\.\w+)$/.test(name);
}

async function find(
  mounts: readonly Mount[],
  path: string,
): Promise<{ name: string; size: number; modified: number } | undefined> {
  if (path.includes('\0')) return undefined;
  for (const mount of mounts) {
    if (!path.startsWith(mount.path)) continue;
    let name = join(mount.directory, normalize(`/${path.slice(mount.path.length)}`));
    if (name !== mount.directory && !name.startsWith(mount.directory + sep) && name !== mount.directory + sep) continue;
    let info = await stat(name).catch(() => undefined);
    if (info?.isDirectory() && path.endsWith('/')) {
      name = join(name, 'index.html');
      info = await stat(name).catch(() => undefined);
    }
    if (info?.isFile()) return { name, size: info.size, modified: info.mtimeMs };
  }
  return undefined;
}

/** Listens, on the next free port when `port` is taken. @returns the address */
export function listen(server: Server, port: number, host: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let tries = 0;
    server.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EADDRINUSE' && port !== 0 && tries++ < 20) server.listen(port + tries, host);
      else reject(error);
    });
    server.on('listening', () => {
      const address = server.address() as { port: number };
      resolve(`http://${host.includes(':') ? `[${host}]` : host}:${address.port}/`);
    });
    server.listen(port, host);
  });
}
