import { Workbox } from 'workbox-window';
import type { DiskManifest } from '../../emulator/disk/manifest.ts';
import { isManifest } from '../../emulator/disk/open.ts';
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
 * Registers the site's service worker. Where there can be none (development, plain http, a sandboxed frame), nothing
 * happens and no update is ever there.
 * @param when it may begin: on a first visit it fetches all of the site, which takes as much time as the machine's start
 * @param disk address of the manifest of the disk that the machine has on this visit
 */
export function registerServiceWorker(
  when: Promise<unknown>,
  disk: string | undefined,
  url = new URL('sw.js', document.baseURI),
): Updates {
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
    else if (disk) void keepStart(new URL(disk, document.baseURI).href);
    controlled = true;
  });
  when
    .then(() => workbox.register({ immediate: true }))
    .catch((cause: unknown) => console.warn('The site will not work offline:', cause));
  return updates;
}

/** What a machine read before the service worker was there is to be kept, too; the browser's own cache has it. */
async function keepStart(manifest: string): Promise<void> {
  // Any other disk is an image of many gigabytes, perhaps.
  if (!isManifest(manifest)) return;
  try {
    const { snapshot } = (await (await fetch(manifest)).json()) as Partial<DiskManifest>;
    if (snapshot) await (await fetch(new URL(snapshot.state.url, manifest))).blob();
  } catch {
    // The next visit brings it.
  }
}

function supported(): boolean {
  try {
    return isSecureContext && 'serviceWorker' in navigator && navigator.serviceWorker !== undefined;
  } catch {
    return false; // Reading it throws in a sandboxed frame.
  }
}
