import { registerQuotaErrorCallback } from 'workbox-core';
import { CacheExpiration } from 'workbox-expiration';

/** Milliseconds of quiet after which times of use are written down and old entries are removed. */
const QUIET = 2000;

/**
 * A bound on the number of entries of one cache, least recently used out first. Workbox's own plugin walks its whole
 * list at every hit; a resuming machine makes hundreds of them a second, so here that waits until nobody reads.
 */
export class Bounded {
  private readonly expiration: CacheExpiration;
  private readonly used = new Set<string>();
  private timer: ReturnType<typeof setTimeout> | undefined;
  private settled: (() => void) | undefined;

  constructor(
    readonly cacheName: string,
    maxEntries: number,
  ) {
    this.expiration = new CacheExpiration(cacheName, { maxEntries });
    // What can be fetched again makes room for what cannot: the overlay's blocks share the quota.
    registerQuotaErrorCallback(async () => {
      await caches.delete(cacheName);
      await this.expiration.delete();
    });
  }

  /** An entry was written: known at once, for one that nobody knows of would never go. */
  async written(url: string): Promise<void> {
    await this.expiration.updateTimestamp(url);
    await this.read(url);
  }

  /** An entry was read. @returns a promise that keeps the service worker alive until that is written down */
  read(url: string): Promise<void> {
    this.used.add(url);
    clearTimeout(this.timer);
    this.settled?.();
    return new Promise((resolve) => {
      this.settled = resolve;
      this.timer = setTimeout(() => void this.write().finally(resolve), QUIET);
    });
  }

  private async write(): Promise<void> {
    const urls = [...this.used];
    this.used.clear();
    for (const url of urls) await this.expiration.updateTimestamp(url);
    await this.expiration.expireEntries();
  }
}
