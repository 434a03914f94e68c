import type { VirtioDevice, VirtioHost } from './device.ts';

/** The most bytes given for one request; the driver asks again for more. */
const MAX_BYTES = 4096;

/** virtio-rng (entropy), virtio 1.2, 5.4. */
export class VirtioRng implements VirtioDevice<Record<string, never>> {
  readonly id = 4;
  readonly name = 'virtio-rng';
  readonly features = 0;
  readonly queueSizes = [8];
  readonly config = new Uint8Array(0);
  readonly counters = { bytes: 0 };
  private host!: VirtioHost;
  private readonly buffer = new Uint8Array(MAX_BYTES);

  /** @param random fills its argument (at most 4096 bytes) with random data */
  constructor(private readonly random: (bytes: Uint8Array) => void) {}

  attach(host: VirtioHost): void {
    this.host = host;
  }

  start(): void {
    this.notify(0);
  }

  notify(_queue: number): void {
    const queue = this.host.queues[0]!;
    let chain;
    while ((chain = queue.pop())) {
      const bytes = this.buffer.subarray(0, Math.min(chain.writableBytes, MAX_BYTES));
      this.random(bytes);
      chain.write(0, bytes);
      this.counters.bytes += bytes.length;
      queue.push(chain, bytes.length);
    }
    queue.signal();
  }

  reset(): void {
    // No state.
  }

  drain(): Promise<void> {
    return Promise.resolve();
  }

  save(): Record<string, never> {
    return {};
  }

  restore(): void {
    // No state.
  }
}
