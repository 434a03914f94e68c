import type { Port } from '../emulator/worker.ts';
import { MovableWorker } from './movable-worker.ts';
import type { FromWorker, ToWorker } from './protocol.ts';

/** The page's end of a worker that runs one machine. */
export interface WorkerHandle extends Port<FromWorker, ToWorker> {
  /** The worker itself failed: it could not be loaded, or threw where nobody caught it. */
  onError(listener: (error: Error) => void): void;
  /** Ends it and frees its memory. */
  terminate(): void;
}

export type WorkerFactory = () => WorkerHandle;

let standard: WorkerFactory = browserWorker;

/** What `LinuxVM` uses when its options bring no `worker`. */
export function defaultWorker(): WorkerHandle {
  return standard();
}

export function setDefaultWorker(factory: WorkerFactory): void {
  standard = factory;
}

/** Bundlers look for exactly this expression; what `Worker` is in it, they leave to us. */
const place = (Worker: new (url: URL, options: WorkerOptions) => globalThis.Worker): globalThis.Worker =>
  new Worker(new URL('./worker-browser.ts', import.meta.url), { type: 'module', name: 'linux-vm' });

/** A dedicated worker of the page. */
export function browserWorker(): WorkerHandle {
  if (typeof Worker === 'undefined')
    throw new Error('there are no web workers here; in Node, import LinuxVM from "linux-vm/node"');
  const worker = place(MovableWorker);
  return {
    post: (message, transfer = []) => worker.postMessage(message, transfer),
    onMessage: (listener) => worker.addEventListener('message', (event) => listener(event.data as FromWorker)),
    onError: (listener) => {
      worker.addEventListener('error', (event) => {
        event.preventDefault();
        listener(
          new Error(
            event.message
              ? `the machine's worker failed: ${event.message}`
              : "the machine's worker could not be loaded; is the whole build on the server, and does its " +
                  'Content-Security-Policy allow workers from it?',
          ),
        );
      });
      worker.addEventListener('messageerror', () => listener(new Error("a message of the machine's worker was lost")));
    },
    terminate: () => worker.terminate(),
  };
}
