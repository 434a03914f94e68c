import { type FileHandle, open } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

/** `fetch` that also reads `file:` addresses, with Range; everything else goes to the real one. */
export async function fileFetch(url: string, init: RequestInit = {}): Promise<Response> {
  if (!url.startsWith('file:')) return globalThis.fetch(url, init);
  let file: FileHandle;
  try {
    file = await open(fileURLToPath(url));
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    return new Response(null, {
      status: code === 'ENOENT' ? 404 : 403,
      statusText: code === 'ENOENT' ? 'no such file' : String(code),
    });
  }
  try {
    const stat = await file.stat();
    if (!stat.isFile()) return new Response(null, { status: 403, statusText: 'not a file' });
    const { size } = stat;
    const match = /^bytes=(\d+)-(\d+)$/.exec(new Headers(init.headers).get('range') ?? '');
    if (init.method === 'HEAD') return new Response(null, { headers: { 'content-length': String(size) } });
    const first = match ? Number(match[1]) : 0;
    const last = Math.min(match ? Number(match[2]) : size - 1, size - 1);
    if (match && first > last)
      return new Response(null, { status: 416, headers: { 'content-range': `bytes */${size}` } });
    const bytes = new Uint8Array(last - first + 1);
    let done = 0;
    while (done < bytes.length) {
      const { bytesRead } = await file.read(bytes, done, bytes.length - done, first + done);
      if (bytesRead === 0) break;
      done += bytesRead;
    }
    const headers: Record<string, string> = { 'content-length': String(done), etag: `"${stat.mtimeMs}-${size}"` };
    if (match) headers['content-range'] = `bytes ${first}-${last}/${size}`;
    return new Response(bytes.subarray(0, done), { status: match ? 206 : 200, headers });
  } finally {
    await file.close();
  }
}
