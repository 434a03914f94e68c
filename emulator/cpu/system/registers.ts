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
  kernelGsLow = 0;
  kernelGsHigh = 0;
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

  /** Random bytes for RDRAND that are left, in numbers of 8 bytes. */
  randomLeft = 0;
  randomPool: Int32Array | undefined;
}
