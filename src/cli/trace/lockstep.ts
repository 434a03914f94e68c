import type { StopReason } from '../../../emulator/processor.ts';
import { comparable, differences, type Registers, type TracedProcessor } from './processor.ts';
import { letInterruptIn, tracedStep, withoutCompiling, type Window } from './window.ts';

/** Part of a slice: to which instruction the leader ran, and what it had then. */
interface Piece {
  end: number;
  reason: StopReason;
  registers: Registers;
}

/** Slices that the leader may be ahead. */
const AHEAD = 16;
/** Parts of a slice in the window; then the devices have their turn. */
const PIECES = 500;

export interface Difference {
  /** Instructions between which it arose. */
  after: number;
  by: number;
  /** `name=leader/follower` */
  registers: string[];
  /** What the follower ran last, line by line, where it was in the window. */
  lines: string[];
  /** In the window, so found as finely as it can be. */
  fine: boolean;
}

export interface LockstepResult {
  instructions: number;
  compared: number;
  /** Slices that the two could not end at the same instruction. */
  skipped: number;
  difference?: Difference;
}

/**
 * Runs two deterministic machines through the same slices. The leader runs as its tiers do, in the window block by
 * block; the follower runs to the same instruction, in the window one by one, and is compared.
 */
export class Lockstep {
  private readonly slices: Piece[][] = [];
  private readonly result: LockstepResult = { instructions: 0, compared: 0, skipped: 0 };
  private readonly lines: string[] = [];
  private last = 0;
  private finished = false;

  /**
   * @param wake lets the other machine go on, when one has waited
   * @param done called once, with the first difference or at the end of the window
   */
  constructor(
    private readonly leader: TracedProcessor,
    private readonly follower: TracedProcessor,
    private readonly window: Window,
    private readonly context: number,
    private readonly wake: (who: 'leader' | 'follower') => void,
    private readonly done: (result: LockstepResult) => void,
  ) {
    leader.driver = (budget) => this.lead(budget);
    follower.driver = () => this.follow();
  }

  /** The machines ended by themselves. */
  ended(): void {
    this.finish();
  }

  private finish(difference?: Difference): StopReason {
    if (!this.finished) {
      this.finished = true;
      this.result.instructions = this.last;
      this.result.difference = difference;
      this.done(this.result);
    }
    return 'waiting';
  }

  private lead(budget: number): StopReason {
    const { leader, window } = this;
    if (this.finished || this.slices.length >= AHEAD || leader.retired >= window.from + window.count) return 'waiting';
    const pieces: Piece[] = [];
    const run = (n: number): StopReason => {
      const reason = leader.piece(n);
      pieces.push({ end: leader.retired, reason, registers: comparable(leader.registers()) });
      return reason;
    };
    const start = leader.retired;
    const end = Math.min(start + budget, window.from + window.count);
    let reason: StopReason;
    if (start + budget <= window.from) reason = run(budget);
    else
      reason = withoutCompiling(leader, () => {
        let r: StopReason = 'budget';
        if (start < window.from) r = run(window.from - start);
        while (r === 'budget' && leader.retired < end && pieces.length < PIECES) r = run(1);
        return r;
      });
    this.slices.push(pieces);
    this.wake('follower');
    return reason;
  }

  private follow(): StopReason {
    const slice = this.slices.shift();
    this.wake('leader');
    if (this.finished) return 'waiting';
    if (!slice) {
      if (this.leader.retired >= this.window.from + this.window.count) return this.finish();
      return 'waiting';
    }
    return withoutCompiling(this.follower, () => {
      let reason: StopReason = 'budget';
      for (const piece of slice) {
        const fine = this.last >= this.window.from;
        reason = fine ? this.stepTo(piece.end) : this.follower.piece(Math.max(0, piece.end - this.follower.retired));
        const difference = this.compare(piece, reason, fine);
        if (difference) return this.finish(difference);
        this.last = piece.end;
      }
      return reason;
    });
  }

  /** Instruction by instruction, with interrupts where the leader's blocks let them in: at the ends. */
  private stepTo(end: number): StopReason {
    const { follower } = this;
    const print = (text: string): void => {
      this.lines.push(text);
      if (this.lines.length > this.context) this.lines.shift();
    };
    let reason = letInterruptIn(follower, false, print);
    follower.stepping = true;
    follower.holdInterrupts = true;
    try {
      while (follower.retired < end && reason === 'budget') reason = tracedStep(follower, false, print);
    } finally {
      follower.holdInterrupts = false;
      follower.stepping = false;
    }
    return letInterruptIn(follower, false, print);
  }

  private compare(piece: Piece, reason: StopReason, fine: boolean): Difference | undefined {
    const { follower } = this;
    if (follower.retired !== piece.end && !fine) {
      this.result.skipped++;
      return undefined;
    }
    this.result.compared++;
    const registers = differences(piece.registers, comparable(follower.registers()), true);
    if (follower.retired !== piece.end) registers.push(`instructions=${piece.end}/${follower.retired}`);
    if (reason !== piece.reason) registers.push(`state=${piece.reason}/${reason}`);
    return registers.length ? { after: this.last, by: piece.end, registers, lines: [...this.lines], fine } : undefined;
  }
}
