/** Compiling code that is known to be hot (hot-code.ts) before it has run: a little at a time, while the guest has nothing to do. */
import type { Block, CodePage } from '../block.ts';
import type { CodeCache } from '../code.ts';
import { type HotPage, NOWHERE, pageChecksum } from '../hot-code.ts';
import { Mode, RAM_BASE } from '../layout.ts';
import { fits, type Region, type Surroundings } from './find.ts';

/** Runs in the builder's machine from which on a block is the first one of a region, if it is in none. */
const HOT_RUNS = 6000;
/** Most regions: with what the browser keeps of them they take some 100 kB each. */
const MOST_REGIONS = 400;
/** Regions of one module. */
const BATCH = 2;
/** Milliseconds after which a step ends, so that what is typed meanwhile is not kept waiting. */
const STEP = 5;

/** What is known of a block that does not run now. */
export type Known = Pick<Surroundings, 'pageAt' | 'share'>;

/** What this needs of the compiler. */
export interface AheadHost {
  readonly code: CodeCache;
  readonly i32: Int32Array;
  readonly ramSize: number;
  /** Pages that are not there yet. */
  readonly absent: Uint8Array | undefined;
  /** Counts the times that all translations were dropped. */
  epoch(): number;
  /** Finds a block's region, whose blocks are taken from then on. */
  find(head: Block, known: Known): Region;
  compile(regions: Region[]): void;
}

export class Ahead {
  private readonly work: Iterator<void>;
  private readonly epoch: number;

  constructor(
    private readonly host: AheadHost,
    private readonly pages: readonly HotPage[],
  ) {
    this.epoch = host.epoch();
    this.work = this.all();
  }

  /** Does some of it. @returns whether there is more to do */
  step(): boolean {
    const until = performance.now() + STEP;
    do {
      // What was found is no more.
      if (this.host.epoch() !== this.epoch || this.work.next().done) return false;
    } while (performance.now() < until);
    return true;
  }

  private *all(): Generator<void> {
    const { code } = this.host;
    const found: { block: Block; page: HotPage }[] = [];
    const runsOf = new Map<Block, number>();
    const places = new Map<string, HotPage>();
    for (const page of this.pages) {
      if (!this.isThere(page)) continue;
      places.set(`${page.mode} ${page.linear}`, page);
      for (const { offset, runs, jumpedTo } of page.blocks) {
        const block = code.block(page.physical + offset, page.mode);
        if (!fits(block) || !block.heated || block.compiled) continue;
        if (jumpedTo) block.jumpedTo = true;
        found.push({ block, page });
        runsOf.set(block, runs);
      }
      yield;
    }
    const share = (block: Block): number => Math.max(code.share(block), (runsOf.get(block) ?? 0) / HOT_RUNS);
    let regions: Region[] = [];
    let count = 0;
    found.sort((a, b) => runsOf.get(b.block)! - runsOf.get(a.block)!);
    for (const { block, page } of found) {
      if (runsOf.get(block)! < HOT_RUNS || count === MOST_REGIONS) break;
      if (block.compiled || block.inRegion || !code.has(block)) continue;
      const pageAt = (distance: number): CodePage | undefined => {
        if (page.linear === NOWHERE) return undefined;
        const place = places.get(`${page.mode} ${page.linear + distance}`);
        return place && code.page(place.physical, place.mode);
      };
      count++;
      if (regions.push(this.host.find(block, { pageAt, share })) < BATCH) continue;
      this.host.compile(regions);
      regions = [];
      yield;
    }
    this.host.compile(regions);
  }

  private isThere({ physical, mode, checksum }: HotPage): boolean {
    const { i32, ramSize, absent } = this.host;
    if (mode > Mode.User64 || physical + 4096 > ramSize) return false;
    return absent?.[physical / 4096] !== 1 && pageChecksum(i32, (RAM_BASE + physical) >> 2) === checksum;
  }
}
