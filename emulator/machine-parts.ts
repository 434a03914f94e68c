/** Small parts of the machine that stand alone. */

/** Bytes of output after which it should go on its way. */
const FULL = 256 * 1024;

/** Collects output of the guest into few arrays: a kernel prints by the byte or by 16. */
export class ByteBatch {
  private buffer = new Uint8Array(4096);
  private length = 0;

  /** @param emit takes the bytes; they are its own */
  constructor(private readonly emit: (bytes: Uint8Array) => void) {}

  /** Whether it is time to flush: a guest may print without end. */
  get full(): boolean {
    return this.length >= FULL;
  }

  addByte(byte: number): void {
    if (this.length === this.buffer.length) this.grow(1);
    this.buffer[this.length++] = byte;
  }

  add(bytes: Uint8Array): void {
    if (this.length + bytes.length > this.buffer.length) this.grow(bytes.length);
    this.buffer.set(bytes, this.length);
    this.length += bytes.length;
  }

  private grow(more: number): void {
    const bigger = new Uint8Array(Math.max(this.buffer.length * 2, this.length + more));
    bigger.set(this.buffer.subarray(0, this.length));
    this.buffer = bigger;
  }

  flush(): void {
    if (this.length === 0) return;
    const bytes = this.buffer.slice(0, this.length);
    this.length = 0;
    if (this.buffer.length > 4 * FULL) this.buffer = new Uint8Array(4096);
    this.emit(bytes);
  }
}

/** Random data: the host's, or in a deterministic machine a generator's with a seed. */
export class RandomSource {
  private state: Uint32Array;

  constructor(private readonly seed: number | undefined) {
    this.state = Uint32Array.of(seed ?? 0, 0x9e3779b9, 0x243f6a88, 0xb7e15162);
    if (seed !== undefined) for (let i = 0; i < 16; i++) this.next();
  }

  fill(bytes: Uint8Array): void {
    if (this.seed === undefined) {
      // The host gives at most 64 KiB at a time.
      for (let at = 0; at < bytes.length; at += 65536)
        crypto.getRandomValues(bytes.subarray(at, at + 65536) as Uint8Array<ArrayBuffer>);
      return;
    }
    for (let i = 0; i < bytes.length; i++) bytes[i] = this.next() >>> 24;
  }

  /** xorshift128 (Marsaglia 2003). */
  private next(): number {
    const s = this.state;
    let t = s[3]!;
    t ^= t << 11;
    t ^= t >>> 8;
    s[3] = s[2]!;
    s[2] = s[1]!;
    s[1] = s[0]!;
    t ^= s[0]! ^ (s[0]! >>> 19);
    s[0] = t;
    return t >>> 0;
  }

  save(): Uint32Array {
    return this.state.slice();
  }

  restore(state: Uint32Array): void {
    this.state = state.slice();
  }
}

const PANIC = 'Kernel panic - not syncing';
const PANIC_END = '---[ end Kernel panic - not syncing';
/** Characters of each console that are kept. */
const KEPT = 8192;
/** Guest time in nanoseconds without a HLT after which a kernel that reported its end is believed. */
const PATIENCE = 1e9;

/**
 * Notices a kernel panic in what the consoles print. A program may print the same words, so they stop nothing by
 * themselves: either a reset follows (panic=-1), or the kernel, after its last line, spins for ever without a HLT.
 */
export class PanicWatch {
  private readonly text = { console: '', serial: '' };
  /** A character a byte, so that none is kept back. */
  private readonly decoder = new TextDecoder('latin1');
  private seen: 'console' | 'serial' | undefined;
  private ended = -1;

  watch(kind: 'console' | 'serial', bytes: Uint8Array, now: number): void {
    const added = this.decoder.decode(bytes);
    const overlap = this.text[kind].slice(-PANIC_END.length);
    this.text[kind] = added.length < KEPT ? (this.text[kind] + added).slice(-KEPT) : added.slice(-KEPT);
    const fresh = overlap + added;
    if (fresh.includes(PANIC)) this.seen ??= kind;
    if (fresh.includes(PANIC_END) && this.ended < 0) this.ended = now;
  }

  /** The processor has executed HLT: a kernel that has panicked does not. */
  halted(): void {
    this.ended = -1;
    this.seen = undefined;
  }

  /** Whether the kernel has given up. @param now guest time in nanoseconds */
  isFinal(now: number): boolean {
    return this.ended >= 0 && now - this.ended > PATIENCE;
  }

  /** The lines from the panic on, or undefined when there was none. */
  get message(): string | undefined {
    if (!this.seen) return undefined;
    const text = this.text[this.seen];
    const at = text.indexOf(PANIC);
    const start = Math.max(text.lastIndexOf('\n', at) + 1, 0);
    return text
      .slice(start)
      .split('\n')
      .slice(0, 30)
      .map((line) => line.trimEnd())
      .join('\n')
      .trim();
  }
}
