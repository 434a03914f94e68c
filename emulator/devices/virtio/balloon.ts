import type { VirtioDevice, VirtioHost } from './device.ts';
import type { Chain, SplitQueue } from './queue.ts';

// Virtio 1.2, 5.5.
const F_STATS = 1;
const F_DEFLATE_ON_OOM = 2;
const F_REPORTING = 5;
const INFLATE = 0;
const DEFLATE = 1;
const STATS = 2;
const PAGE = 4096;
/** Bytes of one list of page numbers that are looked at; Linux sends 1 KiB. */
const MAX_LIST = 16 * 1024;
/** A statistics entry: tag (2 bytes) and value (8 bytes). */
const STAT_SIZE = 10;
const STAT_NAMES = [
  'swapIn',
  'swapOut',
  'majorFaults',
  'minorFaults',
  'freeMemory',
  'totalMemory',
  'availableMemory',
  'diskCaches',
  'hugepageAllocations',
  'hugepageFailures',
] as const;

/** Memory statistics of the guest: bytes and counts, each present when the guest reports it. */
export type BalloonStats = Partial<Record<(typeof STAT_NAMES)[number], number>>;

export interface VirtioBalloonState {
  target: number;
  actual: number;
  /** Head of the statistics request that the driver left with the device, or -1. */
  statsHead: number;
}

/**
 * virtio-balloon with free-page reporting: pages that the guest does not use are given back, so that they cost nothing
 * in a saved state and the host can page them out.
 */
export class VirtioBalloon implements VirtioDevice<VirtioBalloonState> {
  readonly id = 5;
  readonly name = 'virtio-balloon';
  readonly features = (1 << F_STATS) | (1 << F_DEFLATE_ON_OOM) | (1 << F_REPORTING);
  // Reporting is queue 4 by the specification; Linux numbers the queues it uses without gaps, so it may be 2 or 3 there.
  readonly queueSizes = [128, 128, 128, 128, 128];
  readonly config = new Uint8Array(16);
  readonly counters = { inflated: 0, deflated: 0, reportedBytes: 0 };
  /** The guest's last memory statistics. */
  stats: BalloonStats = {};
  private readonly view = new DataView(this.config.buffer);
  private host!: VirtioHost;
  private statsHead = -1;
  private budget = 0;
  private readonly pages = new Uint8Array(4096);
  private waiting: ((stats: BalloonStats) => void)[] = [];

  /**
   * @param release the guest has no use for this range of RAM now; it may be zeroed. Both numbers are bytes, multiples
   *   of 4096, inside RAM
   */
  constructor(private readonly release: (address: number, length: number) => void) {}

  attach(host: VirtioHost): void {
    this.host = host;
  }

  /** Pages of 4 KiB that the guest is asked to give up, and those it has. */
  get target(): number {
    return this.view.getUint32(0, true);
  }
  set target(pages: number) {
    this.view.setUint32(0, pages, true);
    this.host.configChanged();
  }
  get actual(): number {
    return this.view.getUint32(4, true);
  }

  writeConfig(offset: number, value: number): void {
    if (offset >= 4 && offset < 8) this.config[offset] = value;
  }

  start(): void {
    for (let i = 0; i < this.queueSizes.length; i++) this.notify(i);
  }

  notify(index: number): void {
    const queue = this.host.queues[index]!;
    if (index === STATS && this.host.has(F_STATS)) {
      this.takeStats(queue);
      return;
    }
    // One batch cannot free more than there is: a hostile list of overlapping ranges must not cost more either.
    this.budget = this.host.memory.size;
    let chain;
    while ((chain = queue.pop())) {
      if (index === INFLATE || index === DEFLATE) this.inflate(chain, index === INFLATE);
      else this.report(chain);
      queue.push(chain, 0);
    }
    queue.signal();
  }

  /** A list of 32-bit page numbers. */
  private inflate(chain: Chain, inflate: boolean): void {
    const total = Math.min(chain.readableBytes, MAX_LIST);
    for (let offset = 0; offset + 4 <= total;) {
      const n = chain.read(offset, this.pages.subarray(0, Math.min(this.pages.length, total - offset))) & ~3;
      for (let at = 0; at < n; at += 4) {
        const page =
          (this.pages[at]! | (this.pages[at + 1]! << 8) | (this.pages[at + 2]! << 16) | (this.pages[at + 3]! << 24)) >>>
          0;
        if (!this.host.memory.contains(page * PAGE, PAGE)) continue;
        if (inflate) {
          if ((this.budget -= PAGE) < 0) return;
          this.counters.inflated++;
          this.release(page * PAGE, PAGE);
        } else this.counters.deflated++;
      }
      offset += n;
    }
  }

  /** The buffers of a report are themselves the free pages. */
  private report(chain: Chain): void {
    for (let i = 0; i < chain.count; i++) {
      const start = Math.ceil(chain.addresses[i]! / PAGE) * PAGE;
      const end = Math.floor((chain.addresses[i]! + chain.lengths[i]!) / PAGE) * PAGE;
      if (end <= start || (this.budget -= end - start) < 0) continue;
      this.counters.reportedBytes += end - start;
      this.release(start, end - start);
    }
  }

  private takeStats(queue: SplitQueue): void {
    let chain;
    while ((chain = queue.pop())) {
      const bytes = new Uint8Array(Math.min(chain.readableBytes, 64 * STAT_SIZE));
      const n = chain.read(0, bytes);
      const view = new DataView(bytes.buffer);
      this.stats = {};
      for (let at = 0; at + STAT_SIZE <= n; at += STAT_SIZE) {
        const name = STAT_NAMES[view.getUint16(at, true)];
        if (name) this.stats[name] = view.getUint32(at + 2, true) + view.getUint32(at + 6, true) * 0x1_0000_0000;
      }
      // The device keeps the last buffer until it wants new numbers (5.5.6.3).
      if (this.statsHead >= 0) queue.pushHead(this.statsHead, 0);
      this.statsHead = chain.head;
      queue.forget(chain);
      const waiting = this.waiting;
      this.waiting = [];
      for (const done of waiting) done(this.stats);
    }
    queue.signal();
  }

  /** Asks the guest for new statistics. Without a driver that gives them, resolves with the last ones. */
  refreshStats(): Promise<BalloonStats> {
    const queue = this.host.queues[STATS]!;
    if (this.statsHead < 0 || !queue.prepare()) return Promise.resolve(this.stats);
    const head = this.statsHead;
    this.statsHead = -1;
    const result = new Promise<BalloonStats>((resolve) => this.waiting.push(resolve));
    queue.pushHead(head, 0);
    queue.signal();
    return result;
  }

  reset(): void {
    this.statsHead = -1;
    this.view.setUint32(4, 0, true);
    const waiting = this.waiting;
    this.waiting = [];
    for (const done of waiting) done(this.stats);
  }

  drain(): Promise<void> {
    return Promise.resolve();
  }

  save(): VirtioBalloonState {
    return { target: this.target, actual: this.actual, statsHead: this.statsHead };
  }

  restore(state: VirtioBalloonState): void {
    this.view.setUint32(0, state.target, true);
    this.view.setUint32(4, state.actual, true);
    this.statsHead = state.statsHead;
  }
}
