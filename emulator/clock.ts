/** The machine's time: nanoseconds since power-on, never going backwards, and the wall clock it corresponds to. */
export interface Clock {
  /** Guest nanoseconds since power-on. A double holds 104 days of them to the nanosecond. */
  now(): number;
  /** Wall-clock time in milliseconds since 1970-01-01 UTC. */
  wall(): number;
}

/** One pending call-back. */
export interface Timer {
  readonly deadline: number;
}

interface Entry extends Timer {
  readonly call: () => void;
  cancelled: boolean;
}

/**
 * Call-backs at guest times. The run loop asks for `next` to bound a slice or a sleep, and calls `run` between slices;
 * nothing here uses the host's timers, so a deterministic clock gives a deterministic order.
 */
export class Scheduler {
  private entries: Entry[] = [];

  constructor(readonly clock: Clock) {}

  /** @param deadline guest time in nanoseconds, as from `clock.now()` */
  at(deadline: number, call: () => void): Timer {
    const entry: Entry = { deadline, call, cancelled: false };
    let i = this.entries.length;
    while (i > 0 && this.entries[i - 1]!.deadline > deadline) i--;
    this.entries.splice(i, 0, entry);
    return entry;
  }

  cancel(timer: Timer | undefined): void {
    const i = timer ? this.entries.indexOf(timer as Entry) : -1;
    if (i >= 0) {
      this.entries[i]!.cancelled = true;
      this.entries.splice(i, 1);
    }
  }

  /** The earliest deadline in guest nanoseconds, or Infinity. */
  get next(): number {
    return this.entries.length ? this.entries[0]!.deadline : Infinity;
  }

  /** Calls everything that is due. */
  run(): void {
    const now = this.clock.now();
    while (this.entries.length && this.entries[0]!.deadline <= now) {
      const entry = this.entries.shift()!;
      if (!entry.cancelled) entry.call();
    }
  }
}
