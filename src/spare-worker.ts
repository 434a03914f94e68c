import { browserWorker, type WorkerHandle } from './worker-handle.ts';

/** A worker that loads while the page does, so that its machine starts sooner. */
class SpareWorker {
  private worker: WorkerHandle | undefined;

  constructor() {
    try {
      const worker = browserWorker();
      this.worker = worker;
      // Whoever starts a machine makes another one then, and is told why that fails.
      worker.onError(() => this.drop(worker));
    } catch {
      // As above.
    }
  }

  /** The worker for a machine; from the second call on a new one. */
  take(): WorkerHandle {
    const worker = this.worker ?? browserWorker();
    this.worker = undefined;
    return worker;
  }

  private drop(worker: WorkerHandle): void {
    if (this.worker !== worker) return;
    this.worker = undefined;
    worker.terminate();
  }
}

export const spareWorker = new SpareWorker();
