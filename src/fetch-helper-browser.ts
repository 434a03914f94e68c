import { FetchHelper, type FromFetchHelper, type ToFetchHelper } from '../emulator/disk/fetch-helper.ts';
import { MovableWorker } from './movable-worker.ts';

/** Name of a worker that fetches for the machine's; it has the same script, so that there is no other file to be found. */
export const FETCH_HELPER = 'linux-vm-fetch';

/** What starts such workers when they are needed. Where a worker cannot have one of its own, all works without. */
export const fetchHelper = (script: string): FetchHelper =>
  new FetchHelper(() => {
    let worker: Worker;
    try {
      worker = new MovableWorker(new URL(script), { type: 'module', name: FETCH_HELPER });
    } catch {
      return undefined;
    }
    return {
      post: (message: ToFetchHelper) => worker.postMessage(message),
      onMessage: (listener) => worker.addEventListener('message', (event) => listener(event.data as FromFetchHelper)),
      onLost: (listener) =>
        worker.addEventListener('error', (event) => {
          event.preventDefault();
          listener();
        }),
      terminate: () => worker.terminate(),
    };
  });
