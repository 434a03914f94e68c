import { trustedScriptUrl } from './trusted-types.ts';

/**
 * A worker whose script may be on another origin than the page, as with a CDN or in a sandboxed frame: a worker's own
 * script may not, but may import it. The other origin has to allow that (CORS), and the page's policy blobs (`worker-src
 * blob:`).
 */
export const MovableWorker = function (url: URL, options: WorkerOptions): Worker {
  if (url.origin === globalThis.origin) return new Worker(trustedScriptUrl(url.href), options);
  const code = new Blob([importer(url.href)], { type: 'text/javascript' });
  const blob = URL.createObjectURL(code);
  const worker = new Worker(trustedScriptUrl(blob), { name: options.name });
  const revoke = (): void => URL.revokeObjectURL(blob);
  worker.addEventListener('message', revoke, { once: true });
  worker.addEventListener('error', revoke, { once: true });
  return worker;
} as unknown as new (url: URL, options: WorkerOptions) => Worker;

/**
 * A classic script: in a sandboxed frame Chromium starts no module from a blob. What is sent before the module listens is
 * kept for it.
 */
const importer = (url: string): string => `
  const early = [];
  const keep = (event) => early.push(event);
  addEventListener('message', keep);
  import(${JSON.stringify(url)}).then(
    () => {
      removeEventListener('message', keep);
      for (const { data } of early) dispatchEvent(new MessageEvent('message', { data }));
    },
    (error) => setTimeout(() => { throw error; }),
  );`;
