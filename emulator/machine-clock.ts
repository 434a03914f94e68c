import type { Clock } from './clock.ts';

/** The machine's clock, as its run loop drives it. */
export interface MachineClock extends Clock {
  /** Lets time pass, from `at` (guest nanoseconds) on. */
  start(at: number): void;
  /** Stops time, and returns it. */
  stop(): number;
  /** Advances a deterministic clock to `deadline` while the processor is halted. */
  jump(deadline: number): void;
  /** How long an instruction takes, in nanoseconds: measured by the run loop, for times between two host ticks. */
  nsPerInstruction: number;
}

/** Past this many nanoseconds since the host's clock last moved, interpolation waits for it. */
const MOST_AHEAD = 100_000;

/**
 * Guest time follows the host's monotonic clock. Browsers round that to 5, 100 or 1000 µs; between two of its ticks the
 * guest's time moves on with the instructions retired, so that the time-stamp counter is strictly increasing and fine,
 * and at most 100 µs ahead. While the machine is paused time stands still. When the host suspends the whole tab the
 * guest's time jumps forward afterwards, as a laptop's does that slept: its wall clock stays right.
 */
export class RealClock implements MachineClock {
  nsPerInstruction = 10;
  /** Host milliseconds that correspond to guest time 0. */
  private base = 0;
  private tick = -1;
  private tickNs = 0;
  private tickInstructions = 0;
  private last = 0;
  private running = false;

  /**
   * @param host monotonic milliseconds
   * @param instructions retired so far
   * @param wallNow milliseconds since 1970
   */
  constructor(
    private readonly host: () => number,
    private readonly instructions: () => number,
    private readonly wallNow: () => number = Date.now,
  ) {}

  now(): number {
    if (!this.running) return this.last;
    const host = this.host();
    const instructions = this.instructions();
    if (host !== this.tick) {
      this.tick = host;
      this.tickNs = (host - this.base) * 1e6;
      this.tickInstructions = instructions;
    }
    const ahead = Math.min((instructions - this.tickInstructions) * this.nsPerInstruction, MOST_AHEAD);
    const time = Math.floor(this.tickNs + ahead);
    // Two readings always differ, by a nanosecond at least: that is never faster than real time.
    this.last = time > this.last ? time : this.last + 1;
    return this.last;
  }

  wall(): number {
    return this.wallNow();
  }

  start(at: number): void {
    this.last = at;
    this.base = this.host() - at / 1e6;
    this.tick = -1;
    this.running = true;
  }

  stop(): number {
    const now = this.now();
    this.running = false;
    return now;
  }

  jump(_deadline: number): void {
    // Real time passes by itself.
  }
}

/** Guest time is the number of instructions retired, 1 ns each, plus what was skipped in HLT: two runs are equal. */
export class InstructionClock implements MachineClock {
  nsPerInstruction = 1;
  private offset = 0;

  /**
   * @param instructions retired so far
   * @param epoch wall-clock time at power-on, milliseconds since 1970
   */
  constructor(
    private readonly instructions: () => number,
    private readonly epoch: number,
  ) {}

  now(): number {
    return this.offset + this.instructions();
  }

  wall(): number {
    return this.epoch + this.now() / 1e6;
  }

  start(at: number): void {
    this.offset = at - this.instructions();
  }

  stop(): number {
    return this.now();
  }

  jump(deadline: number): void {
    const now = this.now();
    if (deadline > now) this.offset += deadline - now;
  }
}
