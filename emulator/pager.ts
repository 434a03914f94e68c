import type { GuestMemory } from './memory.ts';
import { type FirstPages, PAGE_SIZE } from './machine-state.ts';
import { Traffic } from './traffic.ts';

/** Where the pages of a snapshot are: `pages[i]` is a guest page whose contents are in slot `slots[i]`. */
export interface PageTable {
  /** Slots in each chunk but the last. */
  chunkPages: number;
  /** Guest page numbers, in the order of their slots: those that are used first in front. Pages not in it are zero. */
  pages: Uint32Array;
  /** Ascending. Equal pages share a slot. */
  slots: Uint32Array;
}

/** Gives a chunk's pages, one after the other. Rejects when they cannot be had now; it is asked again later. */
export type ChunkReader = (chunk: number) => Promise<Uint8Array>;

export interface PagerEvents {
  /** Pages have come. */
  arrived(): void;
  /**
   * A chunk could not be had. It is asked for again; while the guest needs it, the machine stands still. Undefined: all is
   * well again.
   */
  trouble(error: unknown): void;
  /** All pages are here. */
  complete(): void;
}

/** Of a chunk. */
const enum State {
  Absent,
  Wanted,
  Present,
}

/** Chunks under way at once: for the guest, which waits, and others. */
const PARALLEL = 6;
const PARALLEL_AHEAD = 4;
const PARALLEL_BACKGROUND = 2;
/**
 * Chunks fetched ahead behind one that the guest waits for, since the table has the pages in the order of their usual use;
 * and most that wait for that.
 */
const AHEAD = 8;
const MOST_AHEAD = 32;
/** Chunks that the guest has had to wait for, after which it is taken to do something new: the rest is fetched, too. */
const BUSY = 4;
/** Milliseconds until a chunk that could not be had is asked for again; doubles up to the second number. */
const RETRY = 1000;
const LONGEST_RETRY = 30_000;

/**
 * Brings the pages of a resumed machine: those that the guest touches at once, the others in the background. Until a page
 * has come it is marked in `GuestMemory.absent`.
 */
export class Pager {
  /** Chunks whose pages have come, and those that the guest had to wait for. */
  readonly counters = { chunks: 0, demanded: 0 };
  private readonly absent: Uint8Array;
  /** By chunk: where its entries begin in the table. */
  private readonly starts: Uint32Array;
  private readonly chunkCount: number;
  /** Of each guest page its chunk, plus 1; 0 for a page that is zero. */
  private readonly chunkOf: Uint16Array;
  private readonly state: Uint8Array;
  private left: number;
  private demand: number[] = [];
  /** Those that the guest waits for. */
  private readonly waited = new Set<number>();
  /** Those that it may soon wait for, the most likely first. */
  private soon: number[] = [];
  /** Where the background goes on. */
  private next = 0;
  private inBackground = false;
  /** Somebody needs all of it. */
  private needsAll = false;
  private running = 0;
  /** Chunks that could not be had and have not come since. */
  private failing = 0;
  private closed = false;
  private readonly timers = new Set<ReturnType<typeof setTimeout>>();
  private settle!: () => void;
  private abandon!: (error: Error) => void;
  private readonly whole: Promise<void>;

  private readonly table: PageTable;

  /**
   * Puts the first pages into memory, which is all zeros, and makes the others wait.
   * @throws Error when the tables are damaged
   */
  constructor(
    private readonly memory: GuestMemory,
    { first, table }: { first: FirstPages; table: PageTable },
    private readonly read: ChunkReader,
    private readonly events: PagerEvents,
    private readonly traffic = new Traffic(),
  ) {
    traffic.onIdle(() => this.pump());
    this.table = table;
    const { pages, slots, chunkPages } = table;
    const total = memory.size / PAGE_SIZE;
    if (first.bytes.length !== first.pages.length * PAGE_SIZE || first.pages.some((page) => page >= total))
      throw damaged();
    first.pages.forEach((page, i) =>
      memory.write(page * PAGE_SIZE, first.bytes.subarray(i * PAGE_SIZE, (i + 1) * PAGE_SIZE)),
    );
    const most = slots.length ? slots[slots.length - 1]! + 1 : 0;
    this.chunkCount = Math.ceil(most / chunkPages);
    if (pages.length !== slots.length || !(chunkPages >= 1) || this.chunkCount > 0xfffe) throw damaged();
    this.absent = new Uint8Array(total);
    this.chunkOf = new Uint16Array(total);
    this.starts = new Uint32Array(this.chunkCount + 1);
    let chunk = 0;
    for (let i = 0; i < pages.length; i++) {
      const page = pages[i]!;
      const at = Math.floor(slots[i]! / chunkPages);
      if (page >= total || this.absent[page] === 1 || (i > 0 && slots[i]! < slots[i - 1]!)) throw damaged();
      while (chunk < at) this.starts[++chunk] = i;
      this.absent[page] = 1;
      this.chunkOf[page] = at + 1;
    }
    while (chunk < this.chunkCount) this.starts[++chunk] = pages.length;
    this.state = new Uint8Array(this.chunkCount);
    this.left = 0;
    for (let i = 0; i < this.chunkCount; i++)
      // Other snapshots may share the chunks: some may hold nothing of this one.
      if (this.starts[i + 1]! > this.starts[i]!) this.left++;
      else this.state[i] = State.Present;
    this.whole = new Promise((resolve, reject) => {
      this.settle = resolve;
      this.abandon = reject;
    });
    this.whole.catch(() => undefined);
    if (!this.left) {
      this.settle();
      return;
    }
    memory.absent = this.absent;
    memory.onAbsent = (page) => this.request(page);
  }

  /** Whether all pages are here. */
  get complete(): boolean {
    return this.left === 0;
  }

  /** Asks for a page that something waits for. */
  request(page: number): void {
    const chunk = this.chunkOf[page]! - 1;
    if (chunk < 0 || this.state[chunk] !== State.Absent) return;
    this.state[chunk] = State.Wanted;
    this.demand.push(chunk);
    this.waited.add(chunk);
    this.traffic.begin();
    const behind: number[] = [];
    for (let i = chunk + 1; i <= chunk + AHEAD && i < this.chunkCount; i++) behind.push(i);
    this.soon = [...behind, ...this.soon].slice(0, MOST_AHEAD);
    if (++this.counters.demanded >= BUSY) this.inBackground = true;
    this.pump();
  }

  /** The page's former contents are of no use any more: it is zero from now on. */
  discard(page: number): void {
    this.absent[page] = 0;
  }

  /** Fetches what nobody has asked for, too, while the guest waits for nothing else. */
  startBackground(): void {
    this.inBackground = true;
    this.pump();
  }

  /** Resolves when all pages are here, which it sees to. Rejects when it was closed before. */
  all(): Promise<void> {
    this.needsAll = true;
    this.startBackground();
    return this.whole;
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    for (const timer of this.timers) clearTimeout(timer);
    this.timers.clear();
    for (const chunk of this.waited) this.ended(chunk);
    this.memory.onAbsent = () => undefined;
    this.abandon(new Error('the machine ended before all of its memory had come'));
  }

  private pump(): void {
    while (!this.closed) {
      if (this.demand.length && this.running < PARALLEL) this.fetch(this.demand.shift()!);
      else {
        const chunk = this.nextAhead() ?? this.nextInBackground();
        if (chunk === undefined) return;
        this.state[chunk] = State.Wanted;
        this.fetch(chunk);
      }
    }
  }

  /** @returns a chunk that the guest may soon wait for */
  private nextAhead(): number | undefined {
    if (this.running >= PARALLEL_AHEAD || !this.soon.length) return undefined;
    if (!this.traffic.mayGuess) this.soon = [];
    let chunk;
    while ((chunk = this.soon.shift()) !== undefined) if (this.state[chunk] === State.Absent) return chunk;
    return undefined;
  }

  private nextInBackground(): number | undefined {
    if (!this.inBackground || this.running >= PARALLEL_BACKGROUND) return undefined;
    if (!this.needsAll && !(this.traffic.idle && this.traffic.mayGuess)) return undefined;
    while (this.next < this.chunkCount && this.state[this.next] !== State.Absent) this.next++;
    return this.next < this.chunkCount ? this.next : undefined;
  }

  /** The guest no longer waits for a chunk. */
  private ended(chunk: number): void {
    if (this.waited.delete(chunk)) this.traffic.end();
  }

  private fetch(chunk: number, failures = 0): void {
    this.running++;
    this.read(chunk).then(
      (bytes) => {
        this.running--;
        if (this.closed) return;
        if (bytes.length < this.bytesOf(chunk)) return this.again(chunk, failures, damaged());
        if (failures && --this.failing === 0) this.events.trouble(undefined);
        this.place(chunk, bytes);
        this.pump();
      },
      (error: unknown) => {
        this.running--;
        this.again(chunk, failures, error);
      },
    );
  }

  private again(chunk: number, failures: number, error: unknown): void {
    if (this.closed) return;
    if (!failures) this.failing++;
    this.events.trouble(error);
    const timer = setTimeout(
      () => {
        this.timers.delete(timer);
        this.fetch(chunk, failures + 1);
      },
      Math.min(RETRY * 2 ** failures, LONGEST_RETRY),
    );
    this.timers.add(timer);
    this.pump();
  }

  private bytesOf(chunk: number): number {
    const last = this.table.slots[this.starts[chunk + 1]! - 1];
    return last === undefined ? 0 : (last - chunk * this.table.chunkPages + 1) * PAGE_SIZE;
  }

  private place(chunk: number, bytes: Uint8Array): void {
    const { pages, slots, chunkPages } = this.table;
    const { bytes: ram, touched } = this.memory;
    for (let i = this.starts[chunk]!; i < this.starts[chunk + 1]!; i++) {
      const page = pages[i]!;
      // What was given back or written meanwhile stays as it is. An absent page holds no translated code.
      if (this.absent[page] !== 1) continue;
      const at = (slots[i]! - chunk * chunkPages) * PAGE_SIZE;
      ram.set(bytes.subarray(at, at + PAGE_SIZE), page * PAGE_SIZE);
      touched[page]! |= 1;
      this.absent[page] = 0;
    }
    this.state[chunk] = State.Present;
    this.counters.chunks++;
    this.ended(chunk);
    if (--this.left === 0) {
      this.memory.absent = undefined;
      this.settle();
      this.events.complete();
    }
    this.events.arrived();
  }
}

function damaged(): Error {
  return new Error('the snapshot is damaged: its table of pages makes no sense; build the disk again');
}
