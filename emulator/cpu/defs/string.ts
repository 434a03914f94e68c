/**
 * String instructions. With a repeat prefix they stop after a bounded piece of work and are executed again from where
 * they are (RIP stays), so that interrupts are taken; registers are exact after every element that was done.
 */
import { DF } from '../bits.ts';
import type { Cpu } from '../cpu.ts';
import type { Emit } from '../emit.ts';
import { ARITH, def, defHelper, type DefOptions, type Insn } from '../insn.ts';
import { DS, ES, FS, RAX, RCX, RDI, RSI, S } from '../layout.ts';
import type { RuntimeFunction } from '../runtime.ts';
import { I32, I64, i32, i64, k32, k64, select, v128, type Expr } from '../wasm/expr.ts';
import { I16X8, I32X4, I64X2, I8X16 } from '../wasm/simd.ts';
import type { Local } from '../wasm/builder.ts';

/** Pieces (each at most the rest of a page) or single elements that one execution may do. */
const EMITTED_PIECES = 128;
/** Elements that one execution of a repeated LODS may do. */
const HELPER_ELEMENTS = 4096;

/** Bytes of an element: even opcodes are the byte forms. */
const elementSize = (insn: Insn): number => (insn.def.opcode & 1 ? insn.size : 1);

// ---- emitted ----

/** A register at the address size, as an i64. */
function readIndex(c: Emit, n: number): Expr {
  const size = c.insn.addressSize;
  return size === 8 ? c.gpr(n, 8) : i64.extend_u(c.gpr(n, size));
}

function writeIndex(c: Emit, n: number, value: Expr): void {
  const size = c.insn.addressSize;
  c.setGpr(n, size, size === 8 ? value : i32.wrap(value));
}

/** Cuts an index to the address size. */
function wrapIndex(c: Emit, x: Expr): Expr {
  const size = c.insn.addressSize;
  return size === 8 ? x : i64.and(x, size === 4 ? 0xffffffff : 0xffff);
}

/** What the index registers advance by: ±element size, by DF. */
function stepOf(c: Emit, size: number): Expr {
  return c.let(select(i32.and(c.state32(S.EFLAGS), DF), k64(-size), k64(size)));
}

function destination(c: Emit, index: Expr): Expr {
  return c.let(c.insn.bits === 64 ? index : c.wrapLinear(i64.add(index, c.state64(S.SEG_BASE + ES * 8))));
}

const source = (c: Emit, index: Expr): Expr => c.let(c.sourceAddress(index));

/** Moves index registers by one element. */
function advance(c: Emit, n: number, index: Expr, step: Expr): void {
  writeIndex(c, n, c.let(wrapIndex(c, i64.add(index, step))));
}

/** rAX at an element's size, as i32 or i64. */
const accumulator = (c: Emit, size: number): Expr => c.let(c.gpr(RAX, size));

/**
 * The loop of a repeated MOVS, STOS, CMPS or SCAS.
 *
 * @param piece emits, for the forward direction, the work on many elements: sets `bytes` to what it did, 0 for nothing
 * @param element emits one element
 * @param ended set by the two when a comparison ends the loop
 */
function repeated(
  c: Emit,
  size: number,
  registers: readonly number[],
  piece: (at: readonly Expr[], wanted: Expr, bytes: Local) => void,
  element: (at: readonly Expr[]) => void,
  ended?: Local,
): void {
  const { f } = c;
  const step = stepOf(c, size);
  const count = c.temp(I64);
  const before = c.let(readIndex(c, RCX));
  f.set(count, before);
  const indices = registers.map((n) => {
    const local = c.temp(I64);
    f.set(local, readIndex(c, n));
    return local;
  });
  const pieces = c.temp(I32);
  f.set(pieces, k32(EMITTED_PIECES));
  const bytes = c.temp(I32);
  f.block((done) => {
    f.loop((again) => {
      f.brIf(i64.eqz(count.get), done);
      const at = registers.map((n, i) => (n === RSI ? source(c, indices[i]!.get) : destination(c, indices[i]!.get)));
      f.set(bytes, k32(0));
      if (!wrapsInPage(c))
        f.if(i64.gt_s(step, 0), () => {
          // All that is left, as bytes; no piece is longer than a page.
          const wanted = c.let(select(i64.gt_u(count.get, 4096), k32(4096 * size), i32.mul(i32.wrap(count.get), size)));
          piece(at, wanted, bytes);
        });
      f.if(
        bytes.get,
        () => {
          const moved = c.let(i64.extend_u(bytes.get));
          for (const index of indices) f.set(index, wrapIndex(c, i64.add(index.get, moved)));
          f.set(count, i64.sub(count.get, i64.shr_u(moved, Math.log2(size))));
        },
        () => {
          element(at);
          for (const index of indices) f.set(index, wrapIndex(c, i64.add(index.get, step)));
          f.set(count, i64.sub(count.get, 1));
        },
      );
      registers.forEach((n, i) => writeIndex(c, n, indices[i]!.get));
      writeIndex(c, RCX, count.get);
      f.set(pieces, i32.sub(pieces.get, 1));
      if (ended) f.brIf(ended.get, done);
      f.brIf(pieces.get, again);
    });
  });
  // A line of the cache is as dear as an instruction, and so is a piece: a slice has only so much time.
  const lines = i32.wrap(i64.shr_u(i64.sub(before, count.get), 6 - Math.log2(size)));
  const spent = i32.add(lines, i32.sub(EMITTED_PIECES, pieces.get));
  c.setState(S.FUEL, 4, i32.sub(c.state32(S.FUEL), spent));
  const more = i64.ne(count.get, 0);
  c.repeatIf(ended ? i32.and(more, i32.eqz(ended.get)) : more);
}

/**
 * Whether an index may start again at 0 in the middle of a page: these are too rare to be worked on in pieces. 16-bit ones do,
 * and 32-bit ones where they are added to a base without being cut with it.
 */
const wrapsInPage = ({ insn }: Emit): boolean =>
  insn.addressSize === 2 || (insn.addressSize === 4 && insn.bits === 64 && insn.segment >= FS);

/** Bytes from a linear address to the end of its page. */
const room = (address: Expr): Expr => i32.sub(4096, i32.and(i32.wrap(address), 0xfff));

const least = (c: Emit, a: Expr, b: Expr): Expr => {
  const x = c.let(a);
  const y = c.let(b);
  return c.let(select(i32.lt_u(x, y), x, y));
};

function repeatedMovs(c: Emit): void {
  const size = elementSize(c.insn);
  repeated(
    c,
    size,
    [RSI, RDI],
    ([from, to], wanted, bytes) => {
      const read = c.probe(from!, size, false);
      const write = c.probe(to!, size, true);
      c.f.if(i32.and(read.hit, write.hit), () => {
        const n = c.temp(I32);
        c.f.set(n, i32.and(least(c, least(c, room(from!), room(to!)), wanted), -size));
        // A destination that starts within the source sees what the copy itself has written: no more at once than lies
        // between the two. memory.copy would keep the old bytes.
        const gap = c.let(i32.sub(write.host, read.host));
        c.f.if(i32.lt_u(i32.sub(gap, 1), i32.sub(n.get, 1)), () => c.f.set(n, i32.and(gap, -size)));
        c.f.memoryCopy(write.host, read.host, n.get);
        c.f.set(bytes, n.get);
      });
    },
    ([from, to]) => c.store(to!, size, c.load(from!, size)),
  );
}

/** A value repeated through 8 bytes. */
function patternOf(c: Emit, value: Expr, size: number): Expr {
  if (size === 8) return value;
  const multiplier = size === 1 ? 0x0101010101010101n : size === 2 ? 0x0001000100010001n : 0x0000000100000001n;
  return c.let(i64.mul(i64.extend_u(value), k64(multiplier)));
}

function repeatedStos(c: Emit): void {
  const size = elementSize(c.insn);
  const value = accumulator(c, size);
  const pattern = patternOf(c, value, size);
  repeated(
    c,
    size,
    [RDI],
    ([to], wanted, bytes) => {
      const write = c.probe(to!, size, true);
      c.f.if(write.hit, () => {
        const n = c.let(i32.and(least(c, room(to!), wanted), -size));
        c.f.set(bytes, c.callRuntime('fill', write.host, pattern, n));
      });
    },
    ([to]) => c.store(to!, size, value),
  );
}

/** What ends a repeated comparison before its count does. */
type Until = 'equal' | 'different';

/**
 * A repeated CMPS or SCAS. The flags are those of the last comparison at every place where it may stop or fault.
 *
 * @param first the left operand: [RSI], or the accumulator
 */
function repeatedComparison(c: Emit, first: 'source' | 'accumulator', until: Until): void {
  const { f } = c;
  const size = elementSize(c.insn);
  const scans = first === 'accumulator';
  const value = scans ? accumulator(c, size) : undefined;
  const pattern = value && patternOf(c, value, size);
  const ended = c.temp(I32);
  f.set(ended, k32(0));
  const flags = (a: Expr, b: Expr): void => {
    c.flagsSub(a, b, c.let(c.ops(size).sub(a, b)), size);
    c.settleFlags();
  };
  c.settleFlags();
  repeated(
    c,
    size,
    scans ? [RDI] : [RSI, RDI],
    (at, wanted, bytes) => {
      const b = at.at(-1)!;
      const second = c.probe(b, size, false);
      const other = value ? undefined : c.probe(at[0]!, size, false);
      f.if(other ? i32.and(other.hit, second.hit) : second.hit, () => {
        const most = other ? least(c, room(at[0]!), room(b)) : room(b);
        const n = c.let(i32.and(least(c, most, wanted), -size));
        const run = c.callRuntime(scanName(first, until, size), second.host, pattern ?? other!.host, n);
        f.set(bytes, run);
        f.if(i32.lt_u(bytes.get, n), () => {
          f.set(bytes, i32.add(bytes.get, size));
          f.set(ended, k32(1));
        });
        const last = (host: Expr): Expr => c.let(c.loadHost(i32.sub(i32.add(host, bytes.get), size), size));
        flags(value ?? last(other!.host), last(second.host));
      });
    },
    (at) => {
      const a = value ?? c.load(at[0]!, size);
      const b = c.load(at.at(-1)!, size);
      flags(a, b);
      const w = c.ops(size);
      f.set(ended, until === 'equal' ? w.eq(a, b) : w.ne(a, b));
    },
    ended,
  );
}

const scanName = (first: 'source' | 'accumulator', until: Until, size: number): string =>
  `${first === 'source' ? 'compare' : 'scan'}${until === 'equal' ? 'Equal' : 'Different'}${size}`;

const LANES: Record<number, { readonly eq: number }> = { 1: I8X16, 2: I16X8, 4: I32X4, 8: I64X2 };

/**
 * compare… (host address, host address, bytes) and scan… (host address, pattern, bytes) → bytes in front of the first element that
 * is equal, or different; `bytes`, a multiple of an element, where there is none. No byte behind them is read, but some before.
 */
function scan(first: 'source' | 'accumulator', until: Until, size: number): RuntimeFunction {
  return {
    name: scanName(first, until, size),
    signature: { params: [I32, first === 'source' ? I32 : I64, I32], results: [I32] },
    build(f) {
      const [to, with_, bytes] = [f.param(0), f.param(1), f.param(2)];
      const at = f.local(I32);
      const found = f.local(I32);
      // A bit for each byte of the 16 from `at` on, the first one's lowest: whether its element is looked for.
      const stops = (): Expr => {
        const other = first === 'source' ? v128.load(i32.add(with_, at.get)) : v128.splat(I64X2.splat, with_);
        const equal = v128.test(I8X16.bitmask, v128.bin(LANES[size]!.eq, v128.load(i32.add(to, at.get)), other));
        return until === 'equal' ? equal : i32.xor(equal, 0xffff);
      };
      // The last 16 bytes end with the last element; what they share with those before is known not to be looked for.
      const end = f.let(i32.sub(bytes, 16));
      f.if(i32.lt_s(end, 0), () => {
        f.set(at, end);
        f.set(found, i32.shr_u(stops(), i32.sub(0, end)));
        f.return(select(found.get, i32.ctz(found.get), bytes));
      });
      f.loop((again) => {
        f.set(found, stops());
        f.if(found.get, () => f.return(i32.add(at.get, i32.ctz(found.get))), undefined, 0);
        f.if(i32.eq(at.get, end), () => f.return(bytes));
        f.set(at, i32.add(at.get, 16));
        f.if(i32.gt_u(at.get, end), () => f.set(at, end));
        f.br(again);
      });
      f.unreachable();
    },
  };
}

const SCANS = (['source', 'accumulator'] as const).flatMap((first) =>
  (['equal', 'different'] as const).flatMap((until) => [1, 2, 4, 8].map((size) => scan(first, until, size))),
);

/** Bytes from which on the host's own filling is quicker, where all bytes are equal. */
const LONG_FILL = 512;

/** fill(host address, pattern, bytes) → bytes, a multiple of the pattern's period. */
const FILL: RuntimeFunction = {
  name: 'fill',
  signature: { params: [I32, I64, I32], results: [I32] },
  build(f) {
    const [to, pattern, bytes] = [f.param(0), f.param(1), f.param(2)];
    const end = f.let(i32.add(to, bytes));
    const part = (size: number): void =>
      f.if(i32.and(bytes, size), () => {
        f.store(size, at.get, pattern);
        f.set(at, i32.add(at.get, size));
      });
    const at = f.local(I32);
    f.set(at, to);
    f.if(i32.lt_u(bytes, 16), () => {
      for (const size of [8, 4, 2, 1]) part(size);
      f.return(bytes);
    });
    f.if(i32.ge_u(bytes, LONG_FILL), () =>
      f.if(i64.eq(pattern, i64.rotl(pattern, 8)), () => {
        f.memoryFill(to, i32.wrap(pattern), bytes);
        f.return(bytes);
      }),
    );
    const sixteen = f.let(v128.splat(I64X2.splat, pattern));
    const last = f.let(i32.sub(end, 64));
    f.block((done) =>
      f.loop((again) => {
        f.brIf(i32.gt_s(i32.sub(at.get, last), 0), done);
        for (const offset of [0, 16, 32, 48]) f.store(16, at.get, sixteen, offset);
        f.set(at, i32.add(at.get, 64));
        f.br(again);
      }),
    );
    // What is left, in steps of which the last one ends with the last element.
    f.block((done) =>
      f.loop((again) => {
        f.brIf(i32.ge_u(i32.add(at.get, 16), end), done);
        f.store(16, at.get, sixteen);
        f.set(at, i32.add(at.get, 16));
        f.br(again);
      }),
    );
    f.store(16, i32.sub(end, 16), sixteen);
    f.return(bytes);
  },
};

export const STRING_RUNTIME: readonly RuntimeFunction[] = [FILL, ...SCANS];

function defineSingle(): void {
  for (const odd of [0, 1]) {
    const opcode = (base: number): string => (base + odd).toString(16);
    def(`movs ${opcode(0xa4)}`, {}, (c) => {
      const size = elementSize(c.insn);
      const step = stepOf(c, size);
      const from = c.let(readIndex(c, RSI));
      const to = c.let(readIndex(c, RDI));
      c.store(destination(c, to), size, c.load(source(c, from), size));
      advance(c, RSI, from, step);
      advance(c, RDI, to, step);
    });
    def(`stos ${opcode(0xaa)}`, {}, (c) => {
      const size = elementSize(c.insn);
      const step = stepOf(c, size);
      const to = c.let(readIndex(c, RDI));
      c.store(destination(c, to), size, accumulator(c, size));
      advance(c, RDI, to, step);
    });
    def(`lods ${opcode(0xac)}`, {}, (c) => {
      const size = elementSize(c.insn);
      const step = stepOf(c, size);
      const from = c.let(readIndex(c, RSI));
      const v = c.load(source(c, from), size);
      c.setGpr(RAX, size, v);
      advance(c, RSI, from, step);
    });
    def(`cmps ${opcode(0xa6)}`, { writes: ARITH }, (c) => {
      const size = elementSize(c.insn);
      const step = stepOf(c, size);
      const first = c.let(readIndex(c, RSI));
      const second = c.let(readIndex(c, RDI));
      const a = c.load(source(c, first), size);
      const b = c.load(destination(c, second), size);
      advance(c, RSI, first, step);
      advance(c, RDI, second, step);
      c.flagsSub(a, b, c.let(c.ops(size).sub(a, b)), size);
    });
    def(`scas ${opcode(0xae)}`, { writes: ARITH }, (c) => {
      const size = elementSize(c.insn);
      const step = stepOf(c, size);
      const at = c.let(readIndex(c, RDI));
      const a = accumulator(c, size);
      const b = c.load(destination(c, at), size);
      advance(c, RDI, at, step);
      c.flagsSub(a, b, c.let(c.ops(size).sub(a, b)), size);
    });
  }
}

// ---- repeated LODS, in TypeScript ----

/** Reads an element at an index register; low half returned, high half (of 8 bytes) in `cpu.mmu.high`. */
function readElement(cpu: Cpu, insn: Insn, size: number): number {
  const { addressSize } = insn;
  const lo = addressSize === 2 ? cpu.low(RSI) & 0xffff : cpu.low(RSI);
  const at = cpu.segmented(insn.segment < 0 ? DS : insn.segment, lo, addressSize === 8 ? cpu.high(RSI) : 0);
  const { mmu } = cpu;
  if (size === 1) return mmu.read8(at, cpu.eaHigh);
  if (size === 2) return mmu.read16(at, cpu.eaHigh);
  return size === 4 ? mmu.read32(at, cpu.eaHigh) : mmu.read64(at, cpu.eaHigh);
}

/** Adds to a register at the address size. */
function bump(cpu: Cpu, insn: Insn, n: number, by: number): void {
  const lo = cpu.low(n);
  const sum = (lo + by) | 0;
  if (insn.addressSize === 2) cpu.setPair(n, (lo & ~0xffff) | (sum & 0xffff), cpu.high(n));
  else if (insn.addressSize === 4) cpu.set32(n, sum);
  else {
    const carry = by >= 0 ? (sum >>> 0 < lo >>> 0 ? 1 : 0) : sum >>> 0 > lo >>> 0 ? -1 : 0;
    cpu.setPair(n, sum, (cpu.high(n) + carry) | 0);
  }
}

function countIsZero(cpu: Cpu, insn: Insn): boolean {
  const lo = cpu.low(RCX);
  if (insn.addressSize === 2) return (lo & 0xffff) === 0;
  return lo === 0 && (insn.addressSize === 4 || cpu.high(RCX) === 0);
}

/** One execution: some elements, then on to the next instruction or to this one again. */
function repeatedLods(cpu: Cpu, insn: Insn): void {
  const size = elementSize(insn);
  const step = cpu.rflags & DF ? -size : size;
  let done = 0;
  for (; done < HELPER_ELEMENTS && !countIsZero(cpu, insn); done++) {
    const lo = readElement(cpu, insn, size);
    if (size === 8) cpu.setPair(RAX, lo, cpu.mmu.high);
    else if (size === 4) cpu.set32(RAX, lo);
    else {
      const mask = size === 1 ? 0xff : 0xffff;
      cpu.setPair(RAX, (cpu.low(RAX) & ~mask) | lo, cpu.high(RAX));
    }
    bump(cpu, insn, RSI, step);
    bump(cpu, insn, RCX, -1);
  }
  // Elements cost time, of which a slice has only so much.
  cpu.i32[(cpu.state + S.FUEL) >> 2]! -= done;
  if (!countIsZero(cpu, insn)) cpu.rip -= BigInt(insn.len);
}

export function defineString(): void {
  defineSingle();
  const ends: DefOptions = { ends: true };
  for (const odd of [0, 1]) {
    const opcode = (base: number): string => (base + odd).toString(16);
    // F2 means the same as F3 where no comparison ends the loop.
    for (const prefix of ['f2', 'f3']) {
      def(`movs ${prefix} ${opcode(0xa4)}`, ends, repeatedMovs);
      def(`stos ${prefix} ${opcode(0xaa)}`, ends, repeatedStos);
      defHelper(`lods ${prefix} ${opcode(0xac)}`, ends, repeatedLods);
      const until = prefix === 'f2' ? 'equal' : 'different';
      // They leave the flags as they are where the count is 0.
      const comparing = { ...ends, reads: ARITH };
      def(`cmps ${prefix} ${opcode(0xa6)}`, comparing, (c) => repeatedComparison(c, 'source', until));
      def(`scas ${prefix} ${opcode(0xae)}`, comparing, (c) => repeatedComparison(c, 'accumulator', until));
    }
  }
}
