import { BUILT } from '../emulator/cpu/warm-built.ts';
import { prepareProcessor } from '../emulator/cpu/processor.ts';
import { createMachine } from '../emulator/create-machine.ts';
import { serveFetches, type ToFetchHelper } from '../emulator/disk/fetch-helper.ts';
import { serve } from '../emulator/worker.ts';
import { FETCH_HELPER, fetchHelper } from './fetch-helper-browser.ts';
import type { ToWorker } from './protocol.ts';
import { RIPENER, serveRipening, startRipener } from './ripener-browser.ts';

/** The entry of the page's worker, and of those that work for it. */
const scope = globalThis as unknown as DedicatedWorkerGlobalScope;

interface DedicatedWorkerGlobalScope {
  readonly name: string;
  postMessage(message: unknown, transfer?: Transferable[]): void;
  addEventListener(type: 'message', listener: (event: MessageEvent<unknown>) => void): void;
}

const post = (message: unknown, transfer: Transferable[] = []): void => scope.postMessage(message, transfer);

if (scope.name === FETCH_HELPER)
  serveFetches({
    post,
    onMessage: (listener) => scope.addEventListener('message', (event) => listener(event.data as ToFetchHelper)),
  });
else if (scope.name === RIPENER) serveRipening(scope);
else
  serve(
    {
      post,
      onMessage: (listener) => scope.addEventListener('message', (event) => listener(event.data as ToWorker)),
    },
    {
      createMachine,
      prepare: prepareProcessor,
      fetchHelper: () => fetchHelper(import.meta.url),
      // Where nothing was built, in tests, the start takes longer than this saves.
      ripen: BUILT ? (handlers) => startRipener(import.meta.url, handlers) : undefined,
    },
  );
