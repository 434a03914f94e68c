import { Workbox } from 'workbox-window';
import { trustedScriptUrl } from '../trusted-types.ts';
import { TAKE_OVER, type UpdateAnswer } from './names.ts';

export interface Updates {
  /** A new version of the site is installed and waits. */
  readonly available: boolean;
  /** Adds a listener for the above. @returns a function that removes it */
  on(listener: (updates: Updates) => void): () => void;
  /**
   * Lets the new version take over, and reloads the page. It does not while a machine runs in any page of this origin:
   * then the answer is `machine-running`.
   */
  apply(): Promise<UpdateAnswer | 'none'>;
}

/**
 * Registers the site's service worker, once the page has loaded. Where there can be none (development, plain http, a
 * sandboxed frame), nothing happens and no update is ever there.
 */
export function registerServiceWorker(url = new URL('sw.js', document.baseURI)): Updates {
  const listeners = new Set<(updates: Updates) => void>();
  // Vite's development server has no service worker.
  const built = (import.meta as { env?: { PROD?: boolean } }).env?.PROD === true;
  const workbox = built && supported() ? new Workbox(trustedScriptUrl(url.href) as string) : undefined;
  const updates: Updates & { available: boolean } = {
    available: false,
    on(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    async apply() {
      const waiting = workbox && (await workbox.getSW());
      if (!waiting || !updates.available) return 'none';
      return new Promise((resolve) => {
        const channel = new MessageChannel();
        channel.port1.onmessage = ({ data }: MessageEvent<UpdateAnswer>) => {
          channel.port1.close();
          resolve(data);
        };
        waiting.postMessage({ type: TAKE_OVER }, [channel.port2]);
      });
    },
  };
  if (!workbox) return updates;
  workbox.addEventListener('waiting', () => {
    updates.available = true;
    for (const listener of listeners) listener(updates);
  });
  let controlled = navigator.serviceWorker.controller !== null;
  navigator.serviceWorker.addEventListener('controllerchange', () => {
    // On the first visit nothing changes. Later no machine runs in any page, or the new version would not be here.
    if (controlled) location.reload();
    controlled = true;
  });
  workbox.register().catch((cause: unknown) => console.warn('The site will not work offline:', cause));
  return updates;
}

function supported(): boolean {
  try {
    return isSecureContext && 'serviceWorker' in navigator && navigator.serviceWorker !== undefined;
  } catch {
    return false; // Reading it throws in a sandboxed frame.
  }
}
