/**
 * Memory access for emitted code that does not look the TLB up in place: the slow paths in TypeScript, which has no 64-bit
 * numbers, behind functions that take addresses whole; and the whole of an access as one call, which is a third of the
 * code and twice the time, for the parts of a region that run little.
 */
import { S, STATE_BASE } from './layout.ts';
import type { RuntimeFunction } from './runtime.ts';
import type { FunctionBuilder } from './wasm/builder.ts';
import { I32, i32, I64, i64, k32, k64, V128, v128, type Expr } from './wasm/expr.ts';

/** Of `info` of an access: its size, and whether it is for writing, too. */
const SIZE = 0xff;
const WRITE_BACK = 0x100;

/**
 * An access of 2 to 16 bytes that goes on into the next page, where the TLB knows both: nothing else is to be seen to.
 *
 * @param write is given the number of bytes in the second page, and host addresses: of the last 16 bytes of the first page, and of the
 *   start of the second one
 */
function crossing(f: FunctionBuilder, table: number, write: (over: Expr, tail: Expr, head: Expr) => void): void {
  const address = f.param(0);
  const size = f.let(i32.and(f.param(1), SIZE));
  const over = f.let(i32.sub(i32.add(i32.and(i32.wrap(address), 0xfff), size), 4096));
  f.if(i32.and(i32.gt_s(over, 0), i32.le_u(size, 16)), () => {
    const next = f.let(i64.and(i64.add(address, k64(4096)), k64(-4096)));
    const [first, second] = [address, next].map((at) => lookup(f, at, table)) as [Expr, Expr];
    const missed = (x: Expr): Expr => tlbMisses(STATE_BASE, x, 1);
    f.if(i32.eqz(i32.or(missed(first), missed(second))), () => {
      const tail = f.let(i32.add(i32.and(i32.wrap(first), -4096), 4096 - 16));
      write(over, tail, i32.wrap(second));
    });
  });
}

const vector = (at: Expr): Expr => v128.load(at);
const SCRATCH = STATE_BASE + S.SCRATCH;

/** slowAccess, slowStore (address, info, record): as the imports `access` and `store` of emit.ts. */
const SLOW: readonly RuntimeFunction[] = (['access', 'store'] as const).map((name) => ({
  name: name === 'access' ? 'slowAccess' : 'slowStore',
  signature: { params: [I64, I32, I32], results: [I32] },
  build(f, call): void {
    const address = f.param(0);
    if (name === 'access')
      f.if(i32.eqz(i32.and(f.param(1), WRITE_BACK)), () =>
        crossing(f, S.TLB_READ, (over, tail, head) => {
          f.store(16, SCRATCH, vector(tail));
          f.store(16, SCRATCH + 16, vector(head));
          f.return(i32.add(i32.sub(over, i32.and(f.param(1), SIZE)), SCRATCH + 16));
        }),
      );
    else
      crossing(f, S.TLB_WRITE, (over, tail, head) => {
        // What is to be written, 16 bytes of it, between what is there: at the end of the one page, and from where it ends in the other.
        const at = f.let(i32.add(over, SCRATCH + 32));
        const value = f.let(vector(k32(SCRATCH)));
        const first = f.let(i32.sub(at, i32.and(f.param(1), SIZE)));
        f.store(16, SCRATCH + 16, vector(tail));
        f.store(16, first, value);
        f.store(16, at, vector(i32.add(head, over)));
        f.store(16, tail, vector(k32(SCRATCH + 16)));
        f.store(16, head, vector(k32(SCRATCH + 32)));
        f.return(k32(1));
      });
    f.return(call(name, i32.wrap(address), i32.wrap(i64.shr_u(address, 32)), f.param(1), f.param(2)));
  },
}));

/** The TLB's answer for a linear address (mmu.ts): the host address, or something that `tlbMisses`. */
export function tlbAnswer(table: Expr, address: Expr): Expr {
  // Two shifts are part of an address for V8.
  const index = i32.shl(i32.shr_u(i32.wrap(address), 12), 3);
  return i64.xor(table.op === 0x41 ? i64.load(index, table.k as number) : i64.load(i32.add(table, index)), address);
}

/** Whether an answer is a miss, or the access would end behind its page. @param last largest offset in the page, an i64 */
const leavesPage = (state: number, x: Expr, last: Expr): Expr =>
  i64.gt_u(i64.and(x, i64.load(k32(state + S.TLB_MASK))), last);

/** The same for an access of `size` bytes. @param x may be evaluated again */
export const tlbMisses = (state: number, x: Expr, size: number): Expr =>
  // A byte lies in one page: there need only be nothing above the host address.
  size === 1 ? i64.ne(x, i64.extend_u(i32.wrap(x))) : leavesPage(state, x, k64(4096 - size));

const lookup = (f: FunctionBuilder, address: Expr, table: number): Expr =>
  f.let(tlbAnswer(i32.load(k32(STATE_BASE + table)), address));

const hits = (x: Expr, size: Expr): Expr => i32.eqz(leavesPage(STATE_BASE, x, i64.extend_u(i32.sub(4096, size))));

/** read, modify (address, info, record) → host address, or 0 after a fault. */
const TRANSLATE: readonly RuntimeFunction[] = (['read', 'modify'] as const).map((name) => ({
  name,
  signature: { params: [I64, I32, I32], results: [I32] },
  build(f, call): void {
    const x = lookup(f, f.param(0), name === 'read' ? S.TLB_READ : S.TLB_WRITE);
    f.if(hits(x, i32.and(f.param(1), 0xff)), () => f.return(i32.wrap(x)));
    f.return(call('slowAccess', f.param(0), f.param(1), f.param(2)));
  },
}));

/** write1 … write16 (address, value, info, record) → 0 after a fault. */
const WRITE: readonly RuntimeFunction[] = [1, 2, 4, 8, 16].map((size) => ({
  name: `write${size}`,
  signature: { params: [I64, size === 16 ? V128 : size === 8 ? I64 : I32, I32, I32], results: [I32] },
  build(f, call): void {
    const x = lookup(f, f.param(0), S.TLB_WRITE);
    f.if(hits(x, k32(size)), () => {
      f.store(size, i32.wrap(x), f.param(1));
      f.return(k32(1));
    });
    f.store(size, STATE_BASE + S.SCRATCH, f.param(1));
    f.return(call('slowStore', f.param(0), f.param(2), f.param(3)));
  },
}));

export const SLOW_RUNTIME: readonly RuntimeFunction[] = [...SLOW, ...TRANSLATE, ...WRITE];
