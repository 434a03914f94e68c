/*
 * Which blocks a guest reads next. A program that runs for the first time reads a hundred blocks, one after the other as
 * its pages are touched, and the guest's own read-ahead ends at 128 KiB: it would wait for each. Three guesses, the first
 * that has something to say:
 * - a reader that goes on where the last read ended goes on (a file that is copied);
 * - a block of a known order (recorded when the disk was built, one for each usual program) is followed by the next ones
 *   of that order, more of them the longer the reads follow it;
 * - near several blocks that were read, others are read: packages' files lie together.
 * Where a block comes at once only the likely ones of these are worth their while: the first, and a little of the second.
 */

/** Blocks of an order that are fetched ahead when the reads have just come to it, and when they have followed it. */
const FIRST_WINDOW = 8;
const LARGEST_WINDOW = 32;
/** The same where only what is likely is guessed. */
const SURE_WINDOW = 2;
/** Places by which reads may lie before or after what was expected for the window to grow: no two runs are the same. */
const SLACK = 8;
/** Blocks on either side in which reads count as near. */
const NEAR = 12;
/** Blocks that may be fetched because others near them were read, and are not used (yet), above those that were. */
const UNUSED = 8;
/** What is known of a block: fetched ahead and not read since, or read. */
const enum Known {
  Guessed,
  Read,
}

/** How the reads go along an order. */
interface Follower {
  readonly blocks: readonly number[];
  /** Place of the last read; -1 before there was one. */
  at: number;
  window: number;
  /** Reads of blocks that are in it. */
  hits: number;
}

export class ReadAhead {
  /** Guesses that were read, and that have not been. */
  readonly counters = { used: 0, unused: 0 };
  private readonly known = new Map<number, Known>();
  private readonly planned = new Set<number>();
  private readonly followers: Follower[];
  /** Of each block that is in an order: [follower, place], one after the other. */
  private readonly places = new Map<number, number[]>();
  /** Where a sequential reader would go on, and how far ahead of it to fetch. */
  private next = -1;
  private window = 0;

  /**
   * @param count of the disk's blocks
   * @param most blocks fetched ahead of a sequential reader
   * @param orders see `DiskManifest.programChunks`
   */
  constructor(
    private readonly count: number,
    private readonly most: number,
    orders: readonly (readonly number[])[] = [],
    /** Blocks that are never fetched. */
    private readonly isZero: (block: number) => boolean = () => false,
  ) {
    this.followers = orders.map((blocks) => ({ blocks, at: -1, window: 0, hits: 0 }));
    orders.forEach((blocks, order) =>
      blocks.forEach((block, place) => {
        const places = this.places.get(block);
        if (places) places.push(order, place);
        else this.places.set(block, [order, place]);
      }),
    );
  }

  /**
   * The guest reads these blocks.
   *
   * @param guess takes what it may read next, the most likely block first
   * @param sure whether only what is likely is worth a guess
   */
  read(first: number, last: number, guess: (block: number) => void, sure = false): void {
    if (first === this.next) this.window = Math.min(this.most, Math.max(1, this.window * 2));
    else if (first !== this.next - 1 || last !== first) this.window = 0;
    this.next = last + 1;
    for (let i = last + 1; i <= last + this.window && i < this.count; i++) guess(i);
    let fresh = false;
    for (let i = first; i <= last; i++) fresh = (this.isFresh(i) && !this.planned.has(i)) || fresh;
    if (fresh && !this.followOrder(first, last, guess, sure) && !sure) this.lookAround(first, last, guess);
  }

  /** These are fetched whatever is read, as a boot's are: reading them says nothing of what else will be. */
  plan(blocks: readonly number[]): void {
    for (const block of blocks) this.planned.add(block);
  }

  /** A block is fetched because it was guessed. */
  guessed(block: number): void {
    if (this.known.has(block)) return;
    this.known.set(block, Known.Guessed);
    this.counters.unused++;
  }

  /** A block is no longer there, or could not be had. */
  gone(block: number): void {
    if (this.known.get(block) === Known.Guessed) this.counters.unused--;
    this.known.delete(block);
  }

  /** Notes that a block is read. @returns whether for the first time */
  private isFresh(block: number): boolean {
    const before = this.known.get(block);
    if (before === Known.Read || this.isZero(block)) return false;
    this.known.set(block, Known.Read);
    if (before === Known.Guessed) {
      this.counters.unused--;
      this.counters.used++;
    }
    return true;
  }

  /** @returns whether one of the blocks is in an order */
  private followOrder(first: number, last: number, guess: (block: number) => void, sure: boolean): boolean {
    let best: Follower | undefined;
    for (let i = first; i <= last; i++) {
      const places = this.places.get(i);
      if (!places) continue;
      for (let k = 0; k < places.length; k += 2) {
        const follower = this.followers[places[k]!]!;
        advance(follower, places[k + 1]!);
        // Blocks that many programs read say little: the order that most reads were in counts.
        if (!best || follower.hits > best.hits) best = follower;
      }
    }
    if (!best) return false;
    const { blocks, at } = best;
    // The next ones are read sooner or later, most of those behind them in another program only.
    const window = sure ? Math.min(best.window, SURE_WINDOW) : best.window;
    for (let i = at + 1; i <= at + window && i < blocks.length; i++) guess(blocks[i]!);
    return true;
  }

  /** The more of the blocks near these were read, the more of them are guessed; rather those behind than those before. */
  private lookAround(first: number, last: number, guess: (block: number) => void): void {
    let near = 0;
    for (let i = Math.max(0, first - NEAR); i <= last + NEAR && i < this.count; i++)
      if ((i < first || i > last) && this.known.get(i) === Known.Read) near++;
    if (!near) return;
    const { used, unused } = this.counters;
    const ahead = unused > UNUSED + used ? 1 : 1 + (near >> 1);
    for (let i = 1; i <= ahead; i++) {
      if (last + i < this.count) guess(last + i);
      if (2 * i <= ahead && first - i >= 0) guess(first - i);
    }
  }
}

/** Another part of the program may have been read in between: that says nothing against the order. */
function advance(follower: Follower, place: number): void {
  const { at, window } = follower;
  follower.hits++;
  if (at < 0) follower.window = FIRST_WINDOW;
  const expected = at >= 0 && place >= at - SLACK && place <= at + window + SLACK;
  if (expected) follower.window = Math.min(LARGEST_WINDOW, window * 2);
  follower.at = expected ? Math.max(at, place) : place;
}
