import { STATE_BASE } from '../emulator/cpu/layout.ts';
import { Ripener, unripe, type Unripe } from '../emulator/cpu/ripening.ts';
import type { CompiledCode } from '../emulator/processor.ts';
import type { RipenerThread } from '../emulator/idle-work.ts';
import { MovableWorker } from './movable-worker.ts';

/** Name of a worker that makes the machine's faster (emulator/cpu/ripening.ts); it has the same script. */
export const RIPENER = 'linux-vm-ripen';

/** To such a worker: first of all what it is to do with handlers, then modules, then that there are no more. It answers when it is done. */
type ToRipener = Unripe | CompiledCode | 'end';

/**
 * Starts one. Where there can be none, and where the machine has no second processor to spare, all stays as it is.
 *
 * @param handlers whether handlers are to be optimized, too, which takes some seconds
 */
export function startRipener(script: string, handlers: boolean): RipenerThread | undefined {
  if (navigator.hardwareConcurrency < 2) return undefined;
  const url = new URL(script);
  // By which it is known from outside while it is too busy to say its name.
  url.hash = RIPENER;
  let worker: Worker;
  try {
    worker = new MovableWorker(url, { type: 'module', name: RIPENER });
  } catch {
    return undefined;
  }
  const post = (message: ToRipener): void => worker.postMessage(message);
  worker.addEventListener('message', () => worker.terminate());
  worker.addEventListener('error', (event) => {
    event.preventDefault();
    console.warn('nothing is optimized ahead:', event.message);
    worker.terminate();
  });
  const all = unripe(STATE_BASE);
  post(handlers ? all : { ...all, slots: [] });
  return { add: post, end: () => post('end') };
}

/** What such a worker does. */
export function serveRipening(scope: {
  postMessage(message: unknown): void;
  addEventListener(type: 'message', listener: (event: MessageEvent<unknown>) => void): void;
}): void {
  let ripener: Ripener | undefined;
  scope.addEventListener('message', ({ data }) => {
    const message = data as ToRipener;
    if (message === 'end') scope.postMessage('done');
    else if ('core' in message) {
      ripener = new Ripener(message);
      ripener.handlers();
    } else ripener?.regions(message);
  });
}
