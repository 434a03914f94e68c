/** Random bytes asked of the host at once. */
const POOL_BYTES = 1024;

/** Registers that only system instructions touch; halves of 64-bit values are signed 32-bit numbers. */
export class SystemRegisters {
  /** IA32_STAR: the upper half holds the SYSCALL and SYSRET selectors. */
  starLow = 0;
  starHigh = 0;
  lstarLow = 0;
  lstarHigh = 0;
  cstarLow = 0;
  cstarHigh = 0;
  /** IA32_FMASK: RFLAGS bits that SYSCALL clears. */
  sfmask = 0;
  sysenterCs = 0;
  sysenterEspLow = 0;
  sysenterEspHigh = 0;
  sysenterEipLow = 0;
  sysenterEipHigh = 0;
  tscAux = 0;
  /** IA32_TSC_ADJUST; TSC = guest nanoseconds + this. */
  tscAdjust = 0n;

  /** The descriptor that was last read from the GDT or LDT: its two words. */
  descriptorLow = 0;
  descriptorHigh = 0;

  /** DR6 bits of data breakpoints that the running instruction has hit; #DB follows it. */
  dataHits = 0;
  /** DR7 has an instruction breakpoint on. */
  codeBreakpoints = false;

  /** FS and GS, a bit each: whether there is translated code outside 64-bit mode that accesses memory through them unchecked. */
  segmentsUsed = 0;

  /** Random numbers not yet handed out. Private, so that a saved state does not carry them: two machines must not share them. */
  #pool: Int32Array | undefined;
  #left = 0;

  /** A random 64-bit number: low half returned, high half in `randomHigh`. @param fill fills bytes with random data */
  random(fill: (bytes: Uint8Array) => void): number {
    const pool = (this.#pool ??= new Int32Array(POOL_BYTES / 4));
    if (this.#left === 0) {
      fill(new Uint8Array(pool.buffer));
      this.#left = POOL_BYTES / 8;
    }
    const i = --this.#left * 2;
    const lo = pool[i]!;
    this.randomHigh = pool[i + 1]!;
    // What was handed out is not kept.
    pool[i] = 0;
    pool[i + 1] = 0;
    return lo;
  }
  randomHigh = 0;
}
