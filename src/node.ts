import { Worker } from 'node:worker_threads';
import type { FromWorker } from './protocol.ts';
import { setDefaultWorker, type WorkerHandle } from './worker-handle.ts';

/** A worker thread of Node; `file:` addresses work there. */
export function nodeWorker(): WorkerHandle {
  // The extension is the source's own under tsx and the built file's in the package.
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
  const entry = `./cli/worker-node.${extension}`;
  const worker = new Worker(new URL(entry, import.meta.url));
  let terminated = false;
  return {
    post: (message) => worker.postMessage(message),
    onMessage: (listener) => worker.on('message', (message: FromWorker) => listener(message)),
    onError: (listener) => {
      worker.on('error', (error) => listener(error instanceof Error ? error : new Error(String(error))));
      worker.on('exit', (code) => {
        if (!terminated) listener(new Error(`the machine's worker thread ended with code ${code}`));
      });
    },
    terminate: () => {
      terminated = true;
      void worker.terminate();
    },
  };
}

setDefaultWorker(nodeWorker);

export * from './index.ts';
