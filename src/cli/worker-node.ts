import { parentPort } from 'node:worker_threads';
import { prepareProcessor } from '../../emulator/cpu/processor.ts';
import { createMachine } from '../../emulator/create-machine.ts';
import { serve } from '../../emulator/worker.ts';
import type { ToWorker } from '../protocol.ts';
import { fileFetch } from './file-fetch.ts';

/** The entry of a machine's worker thread in Node. */
const port = parentPort;
if (!port) throw new Error('worker-node.ts is started as a worker thread, not by itself');

serve(
  {
    post: (message) => port.postMessage(message),
    onMessage: (listener) => port.on('message', (message: ToWorker) => listener(message)),
  },
  { createMachine, prepare: prepareProcessor, fetch: fileFetch },
);
