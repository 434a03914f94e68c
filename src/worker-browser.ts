import { prepareProcessor } from '../emulator/cpu/processor.ts';
import { createMachine } from '../emulator/create-machine.ts';
import { serveFetches, type ToFetchHelper } from '../emulator/disk/fetch-helper.ts';
import { serve } from '../emulator/worker.ts';
import { FETCH_HELPER, fetchHelper } from './fetch-helper-browser.ts';
import type { ToWorker } from './protocol.ts';

/** The entry of the page's worker, and of the one that fetches for it. */
const scope = globalThis as unknown as DedicatedWorkerGlobalScope;

interface DedicatedWorkerGlobalScope {
  readonly name: string;
  postMessage(message: unknown, transfer: Transferable[]): void;
  addEventListener(type: 'message', listener: (event: MessageEvent<unknown>) => void): void;
}

const post = (message: unknown, transfer: Transferable[] = []): void => scope.postMessage(message, transfer);

if (scope.name === FETCH_HELPER)
  serveFetches({
    post,
    onMessage: (listener) => scope.addEventListener('message', (event) => listener(event.data as ToFetchHelper)),
  });
else
  serve(
    {
      post,
      onMessage: (listener) => scope.addEventListener('message', (event) => listener(event.data as ToWorker)),
    },
    { createMachine, prepare: prepareProcessor, fetchHelper: () => fetchHelper(import.meta.url) },
  );
