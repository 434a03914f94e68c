import { Worker } from 'node:worker_threads';
import type { FromWorker } from './protocol.ts';
import { setDefaultWorker, type WorkerHandle } from './worker-handle.ts';

// Variables, so that bundlers leave the addresses alone.
const BUILT = './cli/worker-node.js';
const SOURCE = './cli/worker-node.ts';

/** From its sources the project runs under tsx, which a worker thread does not inherit: it is told of it first. */
function sourceWorker(): Worker {
  const tsx = import.meta.resolve('tsx/esm/api');
  const entry = new URL(SOURCE, import.meta.url).href;
  const code = `import(${JSON.stringify(tsx)}).then(({ register }) => (register(), import(${JSON.stringify(entry)})))`;
  return new Worker(code, { eval: true });
}

/** A worker thread of Node; `file:` addresses work there. */
export function nodeWorker(): WorkerHandle {
  const worker = import.meta.url.endsWith('.ts') ? sourceWorker() : new Worker(new URL(BUILT, import.meta.url));
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
