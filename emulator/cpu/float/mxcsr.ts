/** Bits of MXCSR (SDM vol. 1, 10.2.3). */
export const MXCSR = {
  FLAGS: 0x3f,
  PE: 0x20,
  DAZ: 0x40,
  MASKS: 0x1f80,
  RC: 0x6000,
  FTZ: 0x8000,
  VALID: 0xffff,
  RESET: 0x1f80,
} as const;
