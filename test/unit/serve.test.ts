import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { request, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { HttpRangeSource } from '../../emulator/disk/http-range.ts';
import { fileFetch } from '../../src/cli/file-fetch.ts';
import { createStaticServer, listen } from '../../src/cli/serve.ts';

let directory: string;
let server: Server;
let address: string;
const image = new Uint8Array(4096).map((_, i) => i * 7);

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'serve-'));
  mkdirSync(join(directory, 'site'));
  mkdirSync(join(directory, 'disk'));
  writeFileSync(join(directory, 'site/index.html'), '<p>hello');
  writeFileSync(join(directory, 'disk/a.ext2'), image);
  writeFileSync(join(directory, 'secret'), 'secret');
  server = createStaticServer([
    { path: '/disks/', directory: join(directory, 'disk') },
    { path: '/', directory: join(directory, 'site') },
  ]);
  address = await listen(server, 0, '127.0.0.1');
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
  rmSync(directory, { recursive: true });
});

/** Without the client's own tidying of paths. */
function raw(path: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const { port } = new URL(address);
    request({ port, path, host: '127.0.0.1' }, (r) => (r.resume(), resolve(r.statusCode!)))
      .on('error', reject)
      .end();
  });
}

describe('static server', () => {
  test('serves the site, its index, and the disk beside it', async () => {
    expect(await (await fetch(address)).text()).toBe('<p>hello');
    expect((await fetch(`${address}disks/a.ext2`)).headers.get('accept-ranges')).toBe('bytes');
  });

  test.each(['/../secret', '/%2e%2e/secret', '/disks/..%2f..%2fsecret', '/disks/../../secret', '/%00', '/%zz'])(
    'gives nothing outside its directories: %s',
    async (path) => {
      expect([400, 404]).toContain(await raw(path));
    },
  );

  test('answers ranges exactly, and 416 past the end', async () => {
    const get = (range: string): Promise<Response> => fetch(`${address}disks/a.ext2`, { headers: { range } });
    const middle = await get('bytes=100-199');
    expect([middle.status, middle.headers.get('content-range')]).toEqual([206, 'bytes 100-199/4096']);
    expect(new Uint8Array(await middle.arrayBuffer())).toEqual(image.slice(100, 200));
    expect(new Uint8Array(await (await get('bytes=-10')).arrayBuffer())).toEqual(image.slice(-10));
    expect((await get('bytes=4096-')).status).toBe(416);
  });

  test('answers 304 for what the browser has', async () => {
    const first = await fetch(address);
    const again = await fetch(address, { headers: { 'if-none-match': first.headers.get('etag')! } });
    expect(again.status).toBe(304);
  });

  test('takes the next port when the first is taken', async () => {
    const port = Number(new URL(address).port);
    const second = createStaticServer([]);
    const other = await listen(second, port, '127.0.0.1');
    expect(Number(new URL(other).port)).toBeGreaterThan(port);
    second.close();
  });
});

test('a raw image can be read from a server and from a file alike', async () => {
  for (const [url, fetcher] of [
    [`${address}disks/a.ext2`, fetch as typeof fileFetch],
    [pathToFileURL(join(directory, 'disk/a.ext2')).href, fileFetch],
  ] as const) {
    const source = await HttpRangeSource.open(url, { policy: { fetch: fetcher, attempts: 1 } });
    expect(source.size).toBe(4096);
    expect(await source.read(1000, 600)).toEqual(image.slice(1000, 1600));
  }
  const absent = HttpRangeSource.open('file:///nowhere', { policy: { fetch: fileFetch, attempts: 1 } });
  await expect(absent).rejects.toThrow(/404 no such file/);
});
