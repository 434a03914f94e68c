/** Operand values: random ones, and the ones that break things. */
import type { Random } from './random.ts';

/** What bytes are meant as. */
export type Kind = 'int' | 'f32' | 'f64' | 'f80';

const EDGES: readonly (readonly [high: number, low: number])[] = [
  [0, 0],
  [0, 1],
  [0, 2],
  [-1, -1],
  [-1, -2],
  [0, 0x7f],
  [0, 0x80],
  [0, 0xff],
  [0, 0x100],
  [-1, -128],
  [0, 0x7fff],
  [0, 0x8000],
  [0, 0xffff],
  [0, 0x10000],
  [-1, -32768],
  [0, 0x7fffffff],
  [0, 0x80000000],
  [0, 0xffffffff],
  [1, 0],
  [-1, 0x80000000],
  [0x7fffffff, 0xffffffff],
  [0x80000000, 0],
  [0x80000000, 1],
  [0x55555555, 0x55555555],
  [0x80808080, 0x80808080],
  [0x7f7f7f7f, 0x7f7f7f7f],
  [0x80008000, 0x80008000],
  [0x7fff7fff, 0x7fff7fff],
  [0x0000ffff, 0xffff0000],
];

/** A 64-bit integer: an edge, a small one, a random one, or something between. */
export function integer64(r: Random, to: DataView, at: number): void {
  let high = 0;
  let low: number;
  switch (r.below(8)) {
    case 0:
    case 1:
    case 2:
      [high, low] = r.pick(EDGES) as [number, number];
      break;
    case 3:
      low = r.below(256);
      break;
    case 4: {
      // One bit, or all but one.
      const n = r.below(64);
      low = n < 32 ? 1 << n : 0;
      high = n < 32 ? 0 : 1 << (n - 32);
      if (r.oneIn(2)) {
        low = ~low;
        high = ~high;
      }
      break;
    }
    case 5:
      // Bytes from edges.
      for (let i = 0; i < 8; i++) to.setUint8(at + i, r.pick([0, 1, 0x7f, 0x80, 0x81, 0xff, r.below(256)]));
      return;
    default:
      high = r.u32();
      low = r.u32();
  }
  to.setUint32(at, low, true);
  to.setUint32(at + 4, high, true);
}

const F32: readonly number[] = [
  0, 0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00000, 0xffc00000, 0x7fa00001, 0xff800001,
  0x7fc12345, 0x00000001, 0x80000001, 0x007fffff, 0x807fffff, 0x00800000, 0x80800000, 0x7f7fffff, 0xff7fffff,
  0x3f7fffff, 0x3f800001, 0x4effffff, 0x4f000000, 0xcf000000, 0xcf000001, 0x5f000000, 0xdf000000, 0x3f000000,
  0xbf000000, 0x3fc00000, 0x40200000, 0x4b000001, 0x34000000, 0x42280000,
];

function f32(r: Random): number {
  switch (r.below(5)) {
    case 0:
    case 1:
      return r.pick(F32);
    case 2:
      // Near 1, so that sums and quotients are interesting.
      return ((r.below(2) << 31) | ((120 + r.below(16)) << 23) | r.below(1 << 23)) >>> 0;
    case 3:
      // Few significant bits: exact results, ties.
      return ((r.below(2) << 31) | ((118 + r.below(24)) << 23) | (r.below(16) << 19)) >>> 0;
    default:
      return r.u32();
  }
}

const F64_HIGH: readonly number[] = [
  0, 0x80000000, 0x3ff00000, 0xbff00000, 0x7ff00000, 0xfff00000, 0x7ff80000, 0xfff80000, 0x000fffff, 0x800fffff,
  0x00100000, 0x7fefffff, 0xffefffff, 0x3fefffff, 0x41dfffff, 0x41e00000, 0xc1e00000, 0x43dfffff, 0x43e00000,
  0xc3e00000, 0x3fe00000, 0xbfe00000, 0x3ff80000, 0x40040000, 0x36a00000, 0x38100000, 0x380fffff, 0x47efffff,
  0x47f00000, 0x43300000, 0x7ff40000, 0xfff00000,
];

function f64(r: Random, to: DataView, at: number): void {
  let high: number;
  let low: number;
  switch (r.below(5)) {
    case 0:
    case 1:
      high = r.pick(F64_HIGH);
      low = r.pick([0, 0, 0, 1, 0xffffffff, 0xe0000000, 0xffe00000, 0x10000000, 0xf0000000, 0xffc00000]);
      break;
    case 2:
      high = (r.below(2) << 31) | ((0x3f8 + r.below(16)) << 20) | r.below(1 << 20);
      low = r.u32();
      break;
    case 3:
      high = (r.below(2) << 31) | ((0x3f0 + r.below(80)) << 20) | (r.below(16) << 16);
      low = r.oneIn(3) ? r.below(8) << 28 : 0;
      break;
    default:
      high = r.u32();
      low = r.u32();
  }
  to.setUint32(at, low, true);
  to.setUint32(at + 4, high, true);
}

const F80: readonly (readonly [signExponent: number, high: number, low: number])[] = [
  [0, 0, 0],
  [0x8000, 0, 0],
  [0x3fff, 0x80000000, 0],
  [0xbfff, 0x80000000, 0],
  [0x7fff, 0x80000000, 0],
  [0xffff, 0x80000000, 0],
  [0x7fff, 0xc0000000, 0],
  [0xffff, 0xc0000000, 0],
  [0x7fff, 0xa0000000, 1],
  [0xffff, 0x80000000, 1],
  [0x7fff, 0xc1234567, 0x89abcdef],
  // Denormals, a pseudo-denormal, an unnormal, a pseudo-infinity, a pseudo-NaN.
  [0, 0, 1],
  [0x8000, 0x7fffffff, 0xffffffff],
  [0, 0x80000000, 0],
  [0, 0x80000000, 1],
  [0x4000, 0x40000000, 0],
  [0x7fff, 0, 0],
  [0x7fff, 0x40000000, 1],
  [1, 0x80000000, 0],
  [0x7ffe, 0xffffffff, 0xffffffff],
  [0xfffe, 0xffffffff, 0xffffffff],
  [0x3fff, 0xffffffff, 0xffffffff],
  [0x3ffe, 0x80000000, 0],
  [0x403e, 0x80000000, 0],
  [0xc03e, 0x80000000, 0],
  [0x403d, 0xffffffff, 0xffffffff],
  [0x401e, 0x80000000, 0],
  [0x401d, 0xfffffffe, 0],
  [0x3fff, 0xc0000000, 0],
  [0x4000, 0xa0000000, 0],
  [0x4000, 0xc90fdaa2, 0x2168c235],
];

/** An 80-bit number, 10 bytes. */
export function f80(r: Random, to: DataView, at: number): void {
  let se: number;
  let high: number;
  let low: number;
  switch (r.below(6)) {
    case 0:
    case 1:
      [se, high, low] = r.pick(F80) as [number, number, number];
      break;
    case 2:
      se = (r.below(2) << 15) | (0x3ff8 + r.below(16));
      high = r.u32() | 0x80000000;
      low = r.u32();
      break;
    case 3:
      se = (r.below(2) << 15) | (0x3ff0 + r.below(80));
      high = ((8 + r.below(8)) << 28) >>> 0;
      low = 0;
      break;
    case 4:
      // Near what a double or a float can hold: their largest, their denormals, halfway between two.
      se =
        (r.below(2) << 15) |
        r.pick([0x43fe, 0x43ff, 0x3c01, 0x3c00, 0x3bcd, 0x3bcc, 0x407e, 0x407f, 0x3f81, 0x3f80, 0x3f6a, 0x3f69]);
      high = (r.pick([0xffffffff, 0x80000000, 0xffffff80, 0x80000180, 0x80000080, r.u32()]) | 0x80000000) >>> 0;
      low = r.pick([0, 0xffffffff, 0x400, 0xc00, 0xfffffc00, 0xfffff800, r.u32()]);
      break;
    default:
      se = r.below(0x10000);
      high = (r.u32() | (r.oneIn(8) ? 0 : 0x80000000)) >>> 0;
      low = r.u32();
  }
  to.setUint32(at, low, true);
  to.setUint32(at + 4, high, true);
  to.setUint16(at + 8, se, true);
}

/** 16 bytes of one kind; every element drawn for itself. */
export function fill16(r: Random, kind: Kind, to: DataView, at: number): void {
  switch (kind) {
    case 'f32':
      for (let i = 0; i < 16; i += 4) to.setUint32(at + i, f32(r), true);
      break;
    case 'f64':
      f64(r, to, at);
      f64(r, to, at + 8);
      break;
    case 'f80':
      f80(r, to, at);
      to.setUint32(at + 10, r.u32(), true);
      to.setUint16(at + 14, r.u32() & 0xffff, true);
      break;
    default:
      integer64(r, to, at);
      integer64(r, to, at + 8);
  }
}
