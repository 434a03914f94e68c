/**
 * The jump caches: from a linear address to the record of the block there, a direct-mapped table for each code mode, of which
 * the rare ones share one.
 * Emitted code reads them (see `dispatch` in interp.ts and the exit in jit/region.ts); entries are made and dropped here.
 * What was filled is listed, so that dropping costs what was filled and not the size of the tables; entries of
 * global pages survive a change of address space.
 */
import { KeptSpaces } from './pcid.ts';
import {
  JUMP_CACHE_BYTES,
  JUMP_CACHE_ENTRIES,
  JUMP_CACHES,
  jumpCacheEntry,
  jumpCacheOf,
  SHARED_JUMP_CACHE,
  type Mode,
} from './layout.ts';

const TABLES = SHARED_JUMP_CACHE + 1;
/** Index (address / 4) of the table that several modes share. */
const SHARED = jumpCacheOf(SHARED_JUMP_CACHE as Mode) >> 2;

export class JumpCaches {
  /** Indices (address / 4) of filled entries: of pages that are not global, and of global ones. */
  private readonly local = new Int32Array(TABLES * JUMP_CACHE_ENTRIES);
  private readonly global = new Int32Array(TABLES * JUMP_CACHE_ENTRIES);
  private locals = 0;
  private globals = 0;
  /** A bit for each linear page, by bits 12 to 31 of its address, that has had entries. */
  private readonly pages = new Uint32Array(1 << 15);

  constructor(private readonly i32: Int32Array) {
    this.i32.fill(0, JUMP_CACHES >> 2, (JUMP_CACHES + TABLES * JUMP_CACHE_BYTES) >> 2);
    for (let m = 0; m < TABLES; m++) this.forget((JUMP_CACHES + m * JUMP_CACHE_BYTES) >> 2);
  }

  /** An empty entry has a tag that no address of this entry has: tag 0, or for entry 0 the address 1, of another one. */
  private forget(at: number): void {
    this.i32[at] = (at & (JUMP_CACHE_BYTES / 4 - 1)) === 0 ? 1 : 0;
    this.i32[at + 1] = 0;
    this.i32[at + 2] = 0;
  }

  /** The mode whose entries the shared table has. */
  private owner: Mode = SHARED_JUMP_CACHE as Mode;

  /** Another mode begins to run. */
  enter(mode: Mode): void {
    if (mode < SHARED_JUMP_CACHE || mode === this.owner) return;
    this.owner = mode;
    for (let i = 0; i < this.locals; i++) if (this.local[i]! >= SHARED) this.forget(this.local[i]!);
    for (let i = 0; i < this.globals; i++) if (this.global[i]! >= SHARED) this.forget(this.global[i]!);
  }

  /** The record for a linear address in the table at `table`, or 0. */
  find(table: number, lo: number, hi: number): number {
    const at = jumpCacheEntry(table, lo) >> 2;
    return this.i32[at] === lo && this.i32[at + 1] === hi ? this.i32[at + 2]! : 0;
  }

  remember(mode: Mode, lo: number, hi: number, record: number, global: boolean): void {
    if (this.locals === this.local.length || this.globals === this.global.length) this.clear();
    const at = jumpCacheEntry(jumpCacheOf(mode), lo) >> 2;
    this.i32[at] = lo;
    this.i32[at + 1] = hi;
    this.i32[at + 2] = record;
    if (global) this.global[this.globals++] = at;
    else this.local[this.locals++] = at;
    this.watch(lo);
  }

  /** The address space changed: entries of pages that are not global go. */
  clearLocal(): void {
    for (let i = 0; i < this.locals; i++) this.forget(this.local[i]!);
    this.locals = 0;
  }

  private readonly kept = new KeptSpaces();

  /** As `Mmu.switchSpace`. */
  switchSpace(from: number, to: number, keep: boolean): void {
    const old = this.kept.take(from);
    const { i32 } = this;
    const store = old.reserve(4 * this.locals);
    const most = store.length - 4;
    let stored = 0;
    for (let i = 0; i < this.locals; i++) {
      const at = this.local[i]!;
      if (at < SHARED && i32[at + 2] !== 0 && stored <= most) {
        store[stored] = at;
        store[stored + 1] = i32[at]!;
        store[stored + 2] = i32[at + 1]!;
        store[stored + 3] = i32[at + 2]!;
        stored += 4;
      }
      this.forget(at);
    }
    old.length = stored;
    this.locals = 0;
    const kept = keep ? this.kept.find(to) : undefined;
    if (!kept) return;
    const { words, length } = kept;
    for (let i = 0; i < length; i += 4) {
      const at = words[i]!;
      this.i32[at] = words[i + 1]!;
      this.i32[at + 1] = words[i + 2]!;
      this.i32[at + 2] = words[i + 3]!;
      this.local[this.locals++] = at;
    }
  }

  /** Everything goes, but that pages count: who watches them goes by epochs, which stay the same. */
  clear(): void {
    this.kept.forgetAll();
    this.clearLocal();
    for (let i = 0; i < this.globals; i++) this.forget(this.global[i]!);
    this.globals = 0;
  }

  /** The same where all epochs change, too. */
  clearWatched(): void {
    this.clear();
    this.pages.fill(0);
  }

  /** The translation of a linear page counts, though no entry is of it. */
  watch(lo: number): void {
    this.pages[lo >>> 17]! |= 1 << ((lo >>> 12) & 31);
  }

  /** The translation of one linear page is gone. @returns whether it counted, so that everything was emptied */
  clearPage(lo: number): boolean {
    if (!(this.pages[lo >>> 17]! & (1 << ((lo >>> 12) & 31)))) return false;
    this.clearWatched();
    return true;
  }
}
