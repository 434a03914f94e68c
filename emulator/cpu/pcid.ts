/**
 * What is remembered of address spaces that are not current, by their PCID (SDM vol. 3, 4.10.1): lists of cached entries of
 * one table of emitted code, taken out when another space comes and put back when it returns. That costs some
 * nanoseconds an entry; to find one out again costs a page walk.
 */
const MOST_SPACES = 16;
const MOST_WORDS = 1 << 15;

/** Words that belong to one address space. */
export class Kept {
  words = new Int32Array(1024);
  length = 0;
  /** What `generation` was when it was kept. */
  generation = 0;

  /** Makes room for `n` words; more than a bound is not kept. @returns `words` */
  reserve(n: number): Int32Array {
    let size = this.words.length;
    while (size < n && size < MOST_WORDS) size *= 2;
    if (size > this.words.length) this.words = new Int32Array(size);
    return this.words;
  }
}

export class KeptSpaces {
  private readonly spaces = new Map<number, Kept>();
  /** Counts the times that everything was forgotten. */
  generation = 0;

  /** An empty list for `pcid`, the most recent one. */
  take(pcid: number): Kept {
    let kept = this.spaces.get(pcid);
    if (kept) this.spaces.delete(pcid);
    else if (this.spaces.size === MOST_SPACES) {
      const [oldest] = this.spaces.entries().next().value!;
      kept = this.spaces.get(oldest)!;
      this.spaces.delete(oldest);
    } else kept = new Kept();
    this.spaces.set(pcid, kept);
    kept.length = 0;
    kept.generation = this.generation;
    return kept;
  }

  /** What was kept of `pcid` and still counts. */
  find(pcid: number): Kept | undefined {
    const kept = this.spaces.get(pcid);
    return kept?.generation === this.generation ? kept : undefined;
  }

  forget(pcid: number): void {
    const kept = this.spaces.get(pcid);
    if (kept) kept.length = 0;
  }

  forgetAll(): void {
    this.generation++;
  }
}
