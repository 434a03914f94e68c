import { Strategy, type StrategyHandler } from 'workbox-strategies';
import { OFFLINE_PREFIX } from '../src/offline/names.ts';
import type { Bounded } from './bounded.ts';

/** What was downloaded for offline use, whichever disk it was for. */
export async function offlineMatch(request: Request | string): Promise<Response | undefined> {
  for (const name of await caches.keys()) {
    if (!name.startsWith(OFFLINE_PREFIX)) continue;
    const response = await (await caches.open(name)).match(request);
    if (response) return response;
  }
  return undefined;
}

/**
 * Cache first for files whose address names their contents. A request with `cache: 'reload'` says that the kept copy
 * proved damaged: it is fetched again and replaced.
 */
export class HashedFirst extends Strategy {
  constructor(private readonly bounded: Bounded) {
    super({ cacheName: bounded.cacheName });
  }

  override async _handle(request: Request, handler: StrategyHandler): Promise<Response> {
    if (request.cache !== 'reload') {
      const kept = await handler.cacheMatch(request);
      if (kept) {
        void handler.waitUntil(this.bounded.read(request.url));
        return kept;
      }
      const offline = await offlineMatch(request);
      if (offline) return offline;
    }
    const response = await handler.fetchAndCachePut(request);
    if (response.ok) void handler.waitUntil(this.bounded.written(request.url));
    return response;
  }
}
