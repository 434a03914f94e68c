import { FetchHelper, type FromFetchHelper, type ToFetchHelper } from '../emulator/disk/fetch-helper.ts';
import { MovableWorker } from './movable-worker.ts';

/** Name of a worker that fetches for the machine's; it has the same script, so that there is no other file to be found. */
export const FETCH_HELPER = 'linux-vm-fetch';

/** Starts one. @returns undefined where a worker cannot have one of its own; all works without it, too */
export function startFetchHelper(script: string): FetchHelper | undefined {
  let worker: Worker;
  try {
    worker = new MovableWorker(new URL(script), { type: 'module', name: FETCH_HELPER });
  } catch {
    return undefined;
  }
  const helper = new FetchHelper({
    post: (message: ToFetchHelper) => worker.postMessage(message),
    onMessage: (listener) => worker.addEventListener('message', (event) => listener(event.data as FromFetchHelper)),
  });
  worker.addEventListener('error', (event) => {
    event.preventDefault();
    helper.lost();
  });
  return helper;
}
