/**
 * Regions that span pages. Between two pages nothing promises that the other one is mapped where it was when the region was
 * found: the same code may run in another address space, or the kernel may have changed a mapping. So a region knows,
 * as a bit each, which of its pages are in their places, and an edge to a page that is not leaves the region. The bits are
 * looked up in TypeScript (`Jit.pages`) and kept beside the region for as long as the address of its first page and the
 * epoch of translations (S.USER_EPOCH, S.KERNEL_EPOCH) stay the same: an entry compares both.
 */
import { modeIsUser, S, type Mode } from '../layout.ts';
import type { FunctionBuilder, Local } from '../wasm/builder.ts';
import { callExpr, I32, i32, i64, k32, type Expr } from '../wasm/expr.ts';

/** What is kept beside a region: bytes from `Placed.at`. */
export const Kept = {
  /** Epoch that the bits are for (i32); 0 is none. */
  EPOCH: 0,
  /** A bit for each page of `Region.pages`, in their order (i32). */
  BITS: 4,
  /** Linear address of the first page (i64). */
  FIRST: 8,
  /** Edges to absent pages that may still be met before the bits are looked up anew (i32), and how many after that. */
  LEFT: 16,
  MOST: 20,
  SIZE: 24,
} as const;

/** At first: a page of a program that has just begun comes to be there soon. */
export const FIRST_MISSES = 4;

/** A region's pages while it is written. */
export interface Placed {
  /** Address of what is kept. */
  readonly at: number;
  /** By distance from the first page, in pages: its bit. */
  readonly bit: ReadonlyMap<number, number>;
  /** The bits, in the region. */
  readonly valid: Local;
}

const epoch = (state: number, mode: Mode): Expr =>
  i32.load(k32(state + (modeIsUser(mode) ? S.USER_EPOCH : S.KERNEL_EPOCH)));

/** At a region's entry: which of its pages are in their places. @param pages the import of that name */
export function writeEntry(
  f: FunctionBuilder,
  { at, valid }: Placed,
  state: number,
  mode: Mode,
  vpc: Local,
  pages: number,
  region: number,
): void {
  const other = i32.or(
    i32.ne(i32.load(k32(at + Kept.EPOCH)), epoch(state, mode)),
    i64.ne(i64.load(k32(at + Kept.FIRST)), vpc.get),
  );
  f.if(
    other,
    () => f.set(valid, callExpr(I32, pages, [k32(region), i32.wrap(vpc.get), i32.wrap(i64.shr_u(vpc.get, 32))])),
    () => f.set(valid, i32.load(k32(at + Kept.BITS))),
    0,
  );
}

/** After a helper, which may have changed translations: then no page is known to be in its place. */
export function writeRecheck(f: FunctionBuilder, { at, valid }: Placed, state: number, mode: Mode): void {
  f.if(i32.ne(i32.load(k32(at + Kept.EPOCH)), epoch(state, mode)), () => f.set(valid, k32(0)), undefined, 0);
}

/** An edge has met a page that is not in its place: after some of these the next entry looks again. */
export function writeMiss(f: FunctionBuilder, { at }: Placed): void {
  const left = f.let(i32.sub(i32.load(k32(at + Kept.LEFT)), 1));
  f.store(4, at + Kept.LEFT, left);
  f.if(i32.eqz(left), () => f.store(4, at + Kept.EPOCH, k32(0)));
}
