/**
 * Windows: what a region knows of the pages that its registers point into.
 *
 * An access at [base + displacement] that found its page in the TLB leaves two locals behind: the host address and the
 * offset in the page. While the base keeps its value, or changes by a constant, the next access with another displacement
 * needs only to see that it ends in the same page. That holds along a path until something may change translations
 * (a helper), and is forgotten where paths meet.
 */
import type { FunctionBuilder, Local } from '../wasm/builder.ts';
import { I32 } from '../wasm/expr.ts';

export interface Window {
  /** Host address of [base + displacement]. */
  readonly host: Local;
  /** Its offset in the page, or INVALID where the access went a slow way; sums of it and displacements are compared unsigned. */
  readonly offset: Local;
  /** Displacement from what the base is now. */
  readonly displacement: number;
}

/** An offset from which no displacement of less than a page leads back. */
export const INVALID = 0x4000_0000;

const MOST = 10;

export class Windows {
  private pool: { host: Local; offset: Local }[] = [];
  /** By register × 2 + (1: for writing). What may be written may be read. */
  private known = new Map<number, Window>();
  /** Somebody has saved `known`: it is copied before it changes. */
  private saved = false;

  /** Locals that are not to be given to others. */
  private readonly held = new Set<Local>();

  constructor(private readonly f: FunctionBuilder) {}

  /** The window for an access at `displacement` from a register, if there is one near enough. */
  find(register: number, displacement: number, write: boolean): Window | undefined {
    const near = (w: Window | undefined): Window | undefined =>
      w && Math.abs(displacement - w.displacement) < 4096 ? w : undefined;
    return near(this.known.get(register * 2 + 1)) ?? (write ? undefined : near(this.known.get(register * 2)));
  }

  /** A window to be set by the access that follows, or undefined when there are enough. */
  open(register: number, displacement: number, write: boolean): Window | undefined {
    const key = register * 2 + (write ? 1 : 0);
    const known = this.own();
    known.delete(key);
    let locals = this.pool.find((l) => !this.isUsed(l.host) && !this.held.has(l.host));
    if (!locals) {
      if (this.pool.length === MOST) return undefined;
      this.pool.push((locals = { host: this.f.local(I32), offset: this.f.local(I32) }));
    }
    const window = { host: locals.host, offset: locals.offset, displacement };
    known.set(key, window);
    return window;
  }

  private isUsed(host: Local): boolean {
    for (const w of this.known.values()) if (w.host === host) return true;
    return false;
  }

  /** The map, to be changed. */
  private own(): Map<number, Window> {
    if (this.saved) {
      this.known = new Map(this.known);
      this.saved = false;
    }
    return this.known;
  }

  /** A register gets another value; `by`: its old one plus a constant. */
  changed(register: number, by?: number): void {
    for (let key = register * 2; key <= register * 2 + 1; key++) {
      const w = this.known.get(key);
      if (!w) continue;
      if (by === undefined) this.own().delete(key);
      else this.own().set(key, { host: w.host, offset: w.offset, displacement: w.displacement - by });
    }
  }

  /** Nothing is known any more. */
  clear(): void {
    if (!this.known.size) return;
    this.known = new Map();
    this.saved = false;
  }

  save(): ReadonlyMap<number, Window> {
    this.saved = true;
    return this.known;
  }

  /** Until `release` what is known now can be restored, whatever comes to be known. */
  hold(): void {
    for (const w of this.known.values()) this.held.add(w.host);
  }
  release(): void {
    this.held.clear();
  }

  /** Whether the same is known as then, and is in the same locals. */
  equal(known: ReadonlyMap<number, Window>): boolean {
    const same = (a: Window, b: Window | undefined): boolean =>
      a.host === b?.host && a.offset === b.offset && a.displacement === b.displacement;
    return known.size === this.known.size && [...known].every(([key, w]) => same(w, this.known.get(key)));
  }

  restore(known: ReadonlyMap<number, Window>): void {
    // It is changed as a copy only.
    this.known = known as Map<number, Window>;
    this.saved = true;
  }
}
