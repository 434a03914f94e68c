import type { Saved } from '../../bus.ts';
import type { GuestMemory } from '../../memory.ts';
import type { SplitQueue } from './queue.ts';

/** What a transport gives its device. */
export interface VirtioHost {
  readonly memory: GuestMemory;
  readonly queues: readonly SplitQueue[];
  /** Whether a feature bit was negotiated. */
  has(feature: number): boolean;
  /** Tells the driver that the configuration changed. */
  configChanged(): void;
  /** The driver broke the rules: DEVICE_NEEDS_RESET. */
  fail(reason: string): void;
}

/** A virtio device, whatever it is reached through (virtio 1.2, chapters 2 and 5). */
export interface VirtioDevice<State = unknown> extends Saved<State> {
  /** Device type, virtio 1.2 chapter 5. */
  readonly id: number;
  readonly name: string;
  /** Offered feature bits of the device type (0 to 23); the transport adds its own. */
  readonly features: number;
  /** The largest size of each queue: powers of two. */
  readonly queueSizes: readonly number[];
  /** Device configuration space, as the driver reads it. */
  readonly config: Uint8Array;
  /** Called once, before anything else. */
  attach(host: VirtioHost): void;
  /** The driver is ready (DRIVER_OK). */
  start(): void;
  /** The driver has put buffers into a queue. */
  notify(queue: number): void;
  /** The driver writes a byte of the configuration space. */
  writeConfig?(offset: number, value: number): void;
  /** Back to the state after power-on. Requests in flight are dropped; their late completion is ignored. */
  reset(): void;
  /** Settles when no request is in flight; never rejects. */
  drain(): Promise<void>;
  /** Counters for people and tests. */
  readonly counters: Readonly<Record<string, number>>;
}
