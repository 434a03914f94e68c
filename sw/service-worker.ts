import { clientsClaim } from 'workbox-core';
import { cleanupOutdatedCaches, precacheAndRoute, type PrecacheEntry } from 'workbox-precaching';
import { registerRoute } from 'workbox-routing';
import { NetworkFirst } from 'workbox-strategies';
import { isHashed } from '../emulator/disk/hashed-url.ts';
import { BLOCK_CACHE, MANIFEST_CACHE, RANGE_CACHE, TAKE_OVER, type UpdateAnswer } from '../src/offline/names.ts';
import { anyMachineRuns } from '../src/offline/running.ts';
import { Bounded } from './bounded.ts';
import { HashedFirst, offlineMatch } from './hashed.ts';
import { parseRange, RangeCache, type Store } from './ranges.ts';

/** The service worker: the site without its server. */
interface Scope {
  __WB_MANIFEST: (PrecacheEntry | string)[];
  skipWaiting(): Promise<void>;
  addEventListener(type: 'message', listener: (event: ExtendableMessageEvent) => void): void;
}
interface ExtendableMessageEvent extends MessageEvent<{ type?: string } | null> {
  waitUntil(promise: Promise<unknown>): void;
}
declare const self: Scope;

/** Blocks of 128 KiB, most of them compressed to less: 4,096 are half a gigabyte at the very most. */
const MOST_BLOCKS = 4096;
/** Seconds to wait for a manifest before the last one is taken. */
const MANIFEST_TIMEOUT = 4;

// The page's address carries the machine's configuration in its query; the page is the same.
precacheAndRoute(self.__WB_MANIFEST, { ignoreURLParametersMatching: [/./] });
cleanupOutdatedCaches();
// The first visit is served offline the next time; a later version waits (see TAKE_OVER).
clientsClaim();

const blocks = new Bounded(BLOCK_CACHE, MOST_BLOCKS);
registerRoute(
  // What is downloaded for offline use says `no-store`: it is kept elsewhere, and not twice.
  ({ url, request }) => isHashed(url) && !request.headers.has('range') && request.cache !== 'no-store',
  new HashedFirst(blocks),
);

const rangeBound = new Bounded(RANGE_CACHE, MOST_BLOCKS);
let ranges: Promise<RangeCache> | undefined;
registerRoute(
  ({ request }) => parseRange(request.headers.get('range')) !== undefined,
  async ({ request, event }) => {
    ranges ??= caches
      .open(RANGE_CACHE)
      .then((cache) => new RangeCache(cache satisfies Store, (r) => fetch(r), rangeBound));
    return (await ranges).answer(request, parseRange(request.headers.get('range'))!, (work) => event.waitUntil(work));
  },
);

const manifests = new NetworkFirst({
  cacheName: MANIFEST_CACHE,
  networkTimeoutSeconds: MANIFEST_TIMEOUT,
  plugins: [
    // A disk made available offline is complete as it was then; the newest manifest may name blocks that are not here.
    {
      cachedResponseWillBeUsed: async ({ cachedResponse, request }) => (await offlineMatch(request)) ?? cachedResponse,
    },
  ],
});
registerRoute(({ url }) => url.pathname.endsWith('.json'), manifests);

self.addEventListener('message', (event) => {
  if (event.data?.type !== TAKE_OVER) return;
  event.waitUntil(
    (async () => {
      const answer: UpdateAnswer = (await anyMachineRuns()) ? 'machine-running' : 'reloading';
      event.ports[0]?.postMessage(answer);
      if (answer === 'reloading') await self.skipWaiting();
    })(),
  );
});
