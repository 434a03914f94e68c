/** Buffers come out of larger ones: a start makes two thousand functions, and array buffers of their own are dear. */
const SLAB = 1 << 18;
const SMALLEST = 9;
let slab = new Uint8Array(0);
let used = 0;
/**
 * Those that nobody needs any more, by log2 of their size: the collector, who sees a small object for each, would let a hundred
 * megabytes of them gather.
 */
const free: Uint8Array<ArrayBuffer>[][] = [];

function take(size: number): Uint8Array<ArrayBuffer> {
  const log = Math.max(SMALLEST, 32 - Math.clz32(size - 1));
  const known = free[log]?.pop();
  if (known) return known;
  const rounded = 2 ** log;
  if (rounded > SLAB / 8) return new Uint8Array(rounded);
  if (used + rounded > slab.length) {
    slab = new Uint8Array(SLAB);
    used = 0;
  }
  used += rounded;
  return slab.subarray(used - rounded, used);
}

function give(bytes: Uint8Array<ArrayBuffer>): void {
  if (bytes.length) (free[31 - Math.clz32(bytes.length)] ??= []).push(bytes);
}

const EMPTY = new Uint8Array(0);

const NOP = 0x01;
const DROP = 0x1a;
const TEE = 0x22;
/** In the place of a number of gets. */
const GIVEN_BACK = -1;

/** A growing byte buffer with WebAssembly's LEB128 encodings. */
export class Writer {
  bytes = take(512);
  length = 0;

  private room(n: number): void {
    if (this.length + n <= this.bytes.length) return;
    const bigger = take(Math.max(this.bytes.length * 2, this.length + n));
    bigger.set(this.bytes.subarray(0, this.length));
    give(this.bytes);
    this.bytes = bigger;
  }

  u8(value: number): void {
    if (this.length === this.bytes.length) this.room(1);
    this.bytes[this.length++] = value;
  }

  raw(data: Uint8Array): void {
    this.room(data.length);
    this.bytes.set(data, this.length);
    this.length += data.length;
  }

  /** Unsigned LEB128 of an integer up to 2^32 − 1. */
  u32(value: number): void {
    value >>>= 0;
    while (value >= 0x80) {
      this.u8((value & 0x7f) | 0x80);
      value >>>= 7;
    }
    this.u8(value);
  }

  /** Signed LEB128 of a 32-bit integer. */
  s32(value: number): void {
    value |= 0;
    while (value < -64 || value > 63) {
      this.u8((value & 0x7f) | 0x80);
      value >>= 7;
    }
    this.u8(value & 0x7f);
  }

  /** Signed LEB128 of a 64-bit integer. */
  s64(value: bigint): void {
    const n = Number(value);
    if (n >= -0x8000_0000 && n <= 0x7fff_ffff) return this.s32(n);
    if (Number.isSafeInteger(n)) {
      // Big integers are slow.
      let rest = n;
      for (; rest < -64 || rest > 63; rest = Math.floor(rest / 0x80)) this.u8((rest & 0x7f) | 0x80);
      return this.u8(rest & 0x7f);
    }
    while (value < -64n || value > 63n) {
      this.u8(Number(value & 0x7fn) | 0x80);
      value >>= 7n;
    }
    this.u8(Number(value & 0x7fn));
  }

  name(text: string): void {
    const data = new TextEncoder().encode(text);
    this.u32(data.length);
    this.raw(data);
  }

  /** Of the last `local.set`, while nothing follows it: where its opcode stands, its end, and the local. */
  setAt = -1;
  setEnd = -1;
  setIndex = -1;

  /** By temporary local: how often it has been set and got since it was handed out, and where it was set last. */
  private readonly sets: number[] = [];
  private readonly gets: number[] = [];
  private readonly places: number[] = [];

  /** A temporary is handed out. */
  handOut(index: number): void {
    this.sets[index] = this.gets[index] = 0;
  }

  /**
   * It is given back: nobody gets it any more. If it was only set to be got at once, by a `local.tee`, it need not be set: the
   * host's first compiler keeps what is in a local as if it were of use, and moves it wherever paths meet.
   */
  giveBack(index: number): void {
    const { bytes } = this;
    if (this.sets[index] === 1 && this.gets[index] === 0) {
      const at = this.places[index]!;
      // Nobody got it: the value is dropped instead.
      bytes[at] = bytes[at] === TEE ? NOP : DROP;
      for (let k = at + 1; k < at + (index < 0x80 ? 2 : 3); k++) bytes[k] = NOP;
      if (this.setAt === at) this.setEnd = -1;
    }
    this.gets[index] = GIVEN_BACK;
  }

  /** `local.set`. */
  localSet(index: number): void {
    if (this.sets[index] !== undefined) this.sets[index]!++;
    this.places[index] = this.length;
    this.setAt = this.length;
    this.setIndex = index;
    this.u8(0x21);
    this.u32(index);
    this.setEnd = this.length;
  }

  /** `local.get`; right after a `local.set` of the same local the two are one `local.tee`. */
  localGet(index: number): void {
    if (this.length === this.setEnd && index === this.setIndex) {
      this.bytes[this.setAt] = TEE;
      this.setEnd = -1;
      return;
    }
    const gets = this.gets[index];
    if (gets !== undefined) {
      if (gets === GIVEN_BACK) throw new Error(`local ${index} is read after it was given back`);
      this.gets[index] = gets + 1;
    }
    this.u8(0x20);
    this.u32(index);
  }

  /** Where function indices stand that the module builder fills in when it knows them: position, function, … */
  readonly relocations: number[] = [];

  /** A function index to be filled in later, in LEB128 of 5 bytes. */
  functionIndex(handle: number): void {
    this.room(5);
    this.relocations.push(this.length, handle);
    this.length += 5;
  }

  /** Writes `value` as LEB128 of 5 bytes at a position. */
  patch(position: number, value: number): void {
    for (let i = 0; i < 4; i++) this.bytes[position + i] = ((value >>> (7 * i)) & 0x7f) | 0x80;
    this.bytes[position + 4] = value >>> 28;
  }

  /** The bytes so far (a view: copy before writing on). */
  view(): Uint8Array {
    return this.bytes.subarray(0, this.length);
  }

  take(): Uint8Array<ArrayBuffer> {
    return this.bytes.slice(0, this.length);
  }

  /** Nobody needs what was written any more. */
  free(): void {
    give(this.bytes);
    this.bytes = EMPTY;
    this.length = 0;
  }
}
