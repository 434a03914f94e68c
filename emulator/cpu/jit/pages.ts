/**
 * Regions that span pages. Between two pages nothing promises that the other one is mapped where it was when the region was
 * found: the same code may run in another address space, or the kernel may have changed a mapping. So an edge from page to
 * page asks the jump cache, whose entries go with the translations: when the target's address leads to the target's record,
 * the edge may be taken; otherwise it leaves the region as any far jump.
 *
 * That takes longer than most blocks, and is a function of the runtime library (`asked`). A region in which it happens often has its pages looked up in TypeScript (`Jit.pages`):
 * it knows then, as a bit each, which of them are in their places, for as long as the address of its first page and the
 * epoch of translations (S.USER_EPOCH, S.KERNEL_EPOCH) stay the same. Programs that run for a moment do without.
 */
import { jumpCacheOffset } from '../interp.ts';
import { modeIsUser, S, STATE_BASE, type Mode } from '../layout.ts';
import type { RuntimeFunction } from '../runtime.ts';
import type { FunctionBuilder, Local } from '../wasm/builder.ts';
import { I32, i32, I64, i64, k32, type Expr } from '../wasm/expr.ts';

/** What is kept beside a region: bytes from `Placed.at`. */
export const Kept = {
  /** Epoch that the bits are for (i32); 0 is none. */
  EPOCH: 0,
  /** A bit for each page of `Region.pages`, in their order (i32). */
  BITS: 4,
  /** Linear address of the first page (i64). */
  FIRST: 8,
  /** Edges that may still ask the jump cache before the pages are looked up (i32). */
  LEFT: 16,
  SIZE: 24,
} as const;

/** Edges that ask the jump cache before the pages are looked up, which takes as long as some hundred of them. */
export const PATIENCE = 400;

/** A region's pages while it is written. */
export interface Placed {
  /** Number that `Jit.pages` knows the region by. */
  readonly number: number;
  /** Address of what is kept. */
  readonly at: number;
  /** By distance from the first page, in pages: its bit. */
  readonly bit: ReadonlyMap<number, number>;
  /** The bits, in the region. */
  readonly valid: Local;
}

/**
 * asked(region, at, valid, first, target, record): whether `target`, a linear address, leads to `record`, so that an edge may go there.
 * Gives the region's bits, which are looked up anew after some of these; -1 where the edge may not be taken.
 */
export const PAGES_RUNTIME: readonly RuntimeFunction[] = [
  {
    name: 'asked',
    signature: { params: [I32, I32, I32, I64, I64, I32], results: [I32] },
    build(f: FunctionBuilder, call): void {
      const [at, first, target] = [f.param(1), f.param(3), f.param(4)];
      const cached = f.let(i32.add(i32.load(k32(STATE_BASE + S.JUMP_CACHE)), jumpCacheOffset(target)));
      const other = i32.or(i64.ne(i64.load(cached), target), i32.ne(i32.load(cached, 8), f.param(5)));
      f.if(other, () => f.return(k32(-1)), undefined, 0);
      const left = f.let(i32.sub(i32.load(at, Kept.LEFT), 1));
      f.store(4, at, left, Kept.LEFT);
      f.if(left, () => f.return(f.param(2)));
      f.return(call('pages', f.param(0), i32.wrap(first), i32.wrap(i64.shr_u(first, 32))));
    },
  },
];

const epoch = (state: number, mode: Mode): Expr =>
  i32.load(k32(state + (modeIsUser(mode) ? S.USER_EPOCH : S.KERNEL_EPOCH)));

/** At a region's entry: which of its pages are known to be in their places. */
export function writeEntry(f: FunctionBuilder, { at, valid }: Placed, state: number, mode: Mode, vpc: Local): void {
  const same = i32.and(
    i32.eq(i32.load(k32(at + Kept.EPOCH)), epoch(state, mode)),
    i64.eq(i64.load(k32(at + Kept.FIRST)), vpc.get),
  );
  f.set(valid, i32.and(i32.sub(0, same), i32.load(k32(at + Kept.BITS))));
}

/** After a helper, which may have changed translations. */
export function writeRecheck(f: FunctionBuilder, { at, valid }: Placed, state: number, mode: Mode): void {
  f.if(i32.ne(i32.load(k32(at + Kept.EPOCH)), epoch(state, mode)), () => f.set(valid, k32(0)), undefined, 0);
}
