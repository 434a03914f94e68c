import { ripen, unripe, type Unripe } from '../emulator/cpu/ripening.ts';
import { STATE_BASE } from '../emulator/cpu/layout.ts';
import { MovableWorker } from './movable-worker.ts';

/** Name of a worker that makes the machine's faster (emulator/cpu/ripening.ts); it has the same script. */
export const RIPENER = 'linux-vm-ripen';

/**
 * Starts one, which ends when it is done: it is busy for some seconds. Where there can be none, and where the machine has no second
 * processor to spare, all stays as it is.
 */
export function startRipener(script: string): void {
  if (navigator.hardwareConcurrency < 2) return;
  try {
    const url = new URL(script);
    // By which it is known from outside while it is too busy to say its name.
    url.hash = RIPENER;
    const worker = new MovableWorker(url, { type: 'module', name: RIPENER });
    worker.addEventListener('message', () => worker.terminate());
    worker.addEventListener('error', (event) => {
      event.preventDefault();
      worker.terminate();
    });
    worker.postMessage(unripe(STATE_BASE));
  } catch {
    // As above.
  }
}

/** What such a worker does. */
export function serveRipening(scope: {
  postMessage(message: unknown): void;
  addEventListener(type: 'message', listener: (event: MessageEvent<unknown>) => void): void;
}): void {
  scope.addEventListener('message', (event) => scope.postMessage(ripen(event.data as Unripe)));
}
