/** Addresses that name what is behind them: a service worker keeps such files for ever. */

const HASH_QUERY = 'sha256';

/** The address of a file whose contents are known by their hash: no cache between here and the server can go stale. */
export function hashedUrl(url: string, sha256: string): string {
  const address = new URL(url);
  if (address.protocol !== 'http:' && address.protocol !== 'https:') return url;
  address.searchParams.set(HASH_QUERY, sha256);
  return address.href;
}

/** Whether what is at this address can never change: its name or its query is a SHA-256 of it. */
export function isHashed(url: URL): boolean {
  return /\/[0-9a-f]{64}(\.\w+)*$/.test(url.pathname) || /^[0-9a-f]{64}$/.test(url.searchParams.get(HASH_QUERY) ?? '');
}
