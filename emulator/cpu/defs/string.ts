/**
 * String instructions. With a repeat prefix they stop after a bounded piece of work and are executed again from where
 * they are (RIP stays), so that interrupts are taken; registers are exact after every element that was done.
 */
import { DF } from '../bits.ts';
import type { Cpu } from '../cpu.ts';
import type { Emit } from '../emit.ts';
import { ARITH, def, defHelper, type DefOptions, type Insn } from '../insn.ts';
import { DS, ES, RAX, RCX, RDI, RSI, S } from '../layout.ts';
import { I32, I64, i32, i64, k32, k64, select, type Expr } from '../wasm/expr.ts';
import type { Local } from '../wasm/builder.ts';

/** Pieces (each at most the rest of a page) or single elements that one execution of REP MOVS or STOS may do. */
const EMITTED_PIECES = 128;
/** Elements that one execution of a repeated LODS, CMPS or SCAS may do. */
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
 * The loop of a repeated MOVS or STOS.
 *
 * @param piece emits, for the forward direction, the copying or filling of many elements: sets `bytes` to what it did, 0 for nothing
 * @param element emits one element
 */
function repeated(
  c: Emit,
  size: number,
  registers: readonly number[],
  piece: (at: readonly Expr[], wanted: Expr, bytes: Local) => void,
  element: (at: readonly Expr[]) => void,
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
      // 16-bit addresses wrap within a page; they are too rare to copy in pieces.
      if (c.insn.addressSize !== 2)
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
      f.brIf(pieces.get, again);
    });
  });
  // A line of the cache is as dear as an instruction: a slice has only so much time.
  const lines = i32.wrap(i64.shr_u(i64.sub(before, count.get), 6 - Math.log2(size)));
  c.setState(S.FUEL, 4, i32.sub(c.state32(S.FUEL), lines));
  c.repeatIf(i64.ne(count.get, 0));
}

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

function repeatedStos(c: Emit): void {
  const size = elementSize(c.insn);
  const value = accumulator(c, size);
  // The value repeated through 8 bytes.
  const multiplier = size === 1 ? 0x0101010101010101n : size === 2 ? 0x0001000100010001n : 0x0000000100000001n;
  const pattern = size === 8 ? value : c.let(i64.mul(i64.extend_u(value), k64(multiplier)));
  repeated(
    c,
    size,
    [RDI],
    ([to], wanted, bytes) => {
      const write = c.probe(to!, size, true);
      c.f.if(write.hit, () => {
        const n = c.let(i32.and(least(c, room(to!), wanted), -size));
        const fill = (): void => {
          c.f.memoryFill(write.host, i32.wrap(pattern), n);
          c.f.set(bytes, n);
        };
        if (size === 1) {
          fill();
          return;
        }
        c.f.if(i64.eq(pattern, i64.rotl(pattern, 8)), fill, () => {
          // Whole eights; a rest goes by elements.
          const at = c.temp(I32);
          const end = c.let(i32.add(write.host, i32.and(n, -8)));
          c.f.set(at, write.host);
          c.f.block((done) => {
            c.f.loop((again) => {
              c.f.brIf(i32.ge_u(at.get, end), done);
              c.f.store(8, at.get, pattern);
              c.f.set(at, i32.add(at.get, 8));
              c.f.br(again);
            });
          });
          c.f.set(bytes, i32.and(n, -8));
        });
      });
    },
    ([to]) => c.store(to!, size, value),
  );
}

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

// ---- repeated LODS, CMPS and SCAS, in TypeScript ----

/** Reads an element at an index register; low half returned, high half (of 8 bytes) in `cpu.mmu.high`. */
function readElement(cpu: Cpu, insn: Insn, register: number, seg: number, size: number): number {
  const { addressSize } = insn;
  const lo = addressSize === 2 ? cpu.low(register) & 0xffff : cpu.low(register);
  const at = cpu.segmented(seg, lo, addressSize === 8 ? cpu.high(register) : 0);
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

/** The six flags of a − b. */
function compareFlags(cpu: Cpu, a: bigint, b: bigint, size: number): void {
  const bits = size * 8;
  const r = BigInt.asUintN(bits, a - b);
  let low = Number(r & 0xffn);
  low ^= low >> 4;
  low ^= low >> 2;
  low ^= low >> 1;
  const sign = BigInt(bits - 1);
  const flags =
    (a < b ? 1 : 0) |
    (low & 1 ? 0 : 4) |
    (Number((a ^ b ^ r) & 0x10n) ? 0x10 : 0) |
    (r === 0n ? 0x40 : 0) |
    (r >> sign ? 0x80 : 0) |
    (((a ^ b) & (a ^ r)) >> sign ? 0x800 : 0);
  cpu.rflags = (cpu.rflags & ~ARITH) | flags;
}

const unsigned = (lo: number, hi: number, size: number): bigint =>
  size === 8 ? (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0) : BigInt(lo >>> 0);

/** One execution: some elements, then on to the next instruction or to this one again. */
function repeatedHelper(kind: 'lods' | 'cmps' | 'scas', until: 'count' | 'equal' | 'different') {
  return (cpu: Cpu, insn: Insn): void => {
    const size = elementSize(insn);
    const seg = insn.segment < 0 ? DS : insn.segment;
    const step = cpu.rflags & DF ? -size : size;
    let aLow = 0;
    let aHigh = 0;
    let bLow = 0;
    let bHigh = 0;
    let compared = false;
    let finished = countIsZero(cpu, insn);
    const keepFlags = (): void => {
      if (compared) compareFlags(cpu, unsigned(aLow, aHigh, size), unsigned(bLow, bHigh, size), size);
    };
    let done = 0;
    try {
      for (; done < HELPER_ELEMENTS && !finished; done++) {
        if (kind === 'lods') {
          const lo = readElement(cpu, insn, RSI, seg, size);
          if (size === 8) cpu.setPair(RAX, lo, cpu.mmu.high);
          else if (size === 4) cpu.set32(RAX, lo);
          else {
            const mask = size === 1 ? 0xff : 0xffff;
            cpu.setPair(RAX, (cpu.low(RAX) & ~mask) | lo, cpu.high(RAX));
          }
          bump(cpu, insn, RSI, step);
        } else {
          let xLow: number;
          let xHigh = 0;
          if (kind === 'cmps') {
            xLow = readElement(cpu, insn, RSI, seg, size);
            if (size === 8) xHigh = cpu.mmu.high;
          } else {
            xLow = size === 1 ? cpu.low(RAX) & 0xff : size === 2 ? cpu.low(RAX) & 0xffff : cpu.low(RAX);
            if (size === 8) xHigh = cpu.high(RAX);
          }
          const yLow = readElement(cpu, insn, RDI, ES, size);
          const yHigh = size === 8 ? cpu.mmu.high : 0;
          aLow = xLow;
          aHigh = xHigh;
          bLow = yLow;
          bHigh = yHigh;
          compared = true;
          if (kind === 'cmps') bump(cpu, insn, RSI, step);
          bump(cpu, insn, RDI, step);
        }
        bump(cpu, insn, RCX, -1);
        finished = countIsZero(cpu, insn);
        if (compared && (aLow === bLow && aHigh === bHigh) === (until === 'equal')) finished = true;
      }
    } finally {
      // Also at a fault: the elements before it were compared.
      keepFlags();
    }
    // Elements cost time, of which a slice has only so much.
    cpu.i32[(cpu.state + S.FUEL) >> 2]! -= done;
    if (!finished) cpu.rip -= BigInt(insn.len);
  };
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
      defHelper(`lods ${prefix} ${opcode(0xac)}`, ends, repeatedHelper('lods', 'count'));
      const until = prefix === 'f2' ? 'equal' : 'different';
      const comparing = { ...ends, reads: ARITH };
      defHelper(`cmps ${prefix} ${opcode(0xa6)}`, comparing, repeatedHelper('cmps', until));
      defHelper(`scas ${prefix} ${opcode(0xae)}`, comparing, repeatedHelper('scas', until));
    }
  }
}
