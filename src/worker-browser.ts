import { prepareProcessor } from '../emulator/cpu/processor.ts';
import { createMachine } from '../emulator/create-machine.ts';
import { serve } from '../emulator/worker.ts';
import type { FromWorker, ToWorker } from './protocol.ts';

/** The entry of the page's worker. */
const scope = globalThis as unknown as DedicatedWorkerGlobalScope;

interface DedicatedWorkerGlobalScope {
  postMessage(message: FromWorker, transfer: Transferable[]): void;
  addEventListener(type: 'message', listener: (event: MessageEvent<ToWorker>) => void): void;
}

serve(
  {
    post: (message, transfer = []) => scope.postMessage(message, transfer),
    onMessage: (listener) => scope.addEventListener('message', (event) => listener(event.data)),
  },
  { createMachine, prepare: prepareProcessor },
);
