/**
 * Where things are in the WebAssembly memory. The processor's state starts at a base address (one base for each
 * processor), so nothing of it is in module-level variables; addresses below are offsets from that base.
 */

/**
 * Base of the first processor's state. Registers, VPC and segment bases lie in its first 256 bytes, for records have bytes for them.
 * What code names most, RAX to RDI among it, lies in its first 128: x86-64 hosts have a byte for such a distance from
 * where the memory begins, and four for others.
 */
export const STATE_BASE = 0;

export const S = {
  /** Always 0: what an absent base, index or segment reads. */
  ZERO: 0x000,
  /** Flag extras (i32): see flags.ts. */
  FX: 0x008,
  /** Instructions left before the run loop wants control (i32). */
  FUEL: 0x00c,
  /** Linear address of the page that the running code is in. */
  VPC: 0x010,
  /** Linear address of the next instruction (RIP + CS base); valid whenever TypeScript runs. */
  RIP: 0x018,
  /** Addresses of the TLB tables for the current privilege (i32). */
  TLB_READ: 0x020,
  TLB_WRITE: 0x024,
  /** Address of the jump cache for the current mode (i32). */
  JUMP_CACHE: 0x028,
  /** Instructions that the interpreter retired since the last slice began (i32); the rest were compiled. */
  INTERPRETED: 0x02c,
  /** TLB_MASK (i64): to read it takes the host less code than a constant of its size. */
  TLB_MASK: 0x030,
  /** Flag result (i64): see flags.ts. */
  FR: 0x038,
  /** 16 general registers of 8 bytes, in encoding order (RAX RCX RDX RBX RSP RBP RSI RDI R8…R15). */
  GPR: 0x040,
  /** Segment bases, 8 bytes each: ES CS SS DS FS GS. */
  SEG_BASE: 0x0c0,
  /** Current code mode: a Mode value (i32). */
  MODE: 0x0f0,
  CPL: 0x0f4,
  /** Nonzero when an interrupt waits for RFLAGS.IF (i32). */
  PENDING: 0x0f8,
  XMM: 0x100,
  /** x87 data registers R0…R7 (physical), 16 bytes each: significand (8), sign and exponent (2). MMn is Rn's significand. */
  X87: 0x200,
  FCW: 0x280,
  FSW: 0x284,
  /** Tag word in FXSAVE's abridged form (one bit a physical register: 1 = not empty), as i32. */
  FTW: 0x288,
  /** TOP as an i32; FSW's own TOP field is filled in when it is stored. */
  FTOP: 0x28c,
  FOP: 0x290,
  /** Which flag result was pending in a region whose instruction has just faulted (see flagKind in jit/emit.ts); i32. */
  FAULT_FLAGS: 0x294,
  FIP: 0x298,
  FDP: 0x2a0,
  /** CR0 and CR4 (i32 copies for emitted code). */
  CR0: 0x2a8,
  CR4: 0x2ac,
  /** CR2 as set by the last page fault, 8 bytes. */
  CR2: 0x2b0,
  /** Linear address before which interrupts are held off (STI, MOV SS), 0 for none; 8 bytes. */
  SHADOW: 0x2b8,
  /** Bounce buffer for accesses that cross a page, hit a device, or hit translated code. 64 bytes. */
  SCRATCH: 0x2c0,
  /** IA32_KERNEL_GS_BASE, 8 bytes. */
  KERNEL_GS_BASE: 0x3f0,
  /** RFLAGS without the six arithmetic flags (i32). */
  EFLAGS: 0x3f8,
  MXCSR: 0x3fc,
  /** Free words for helpers' 64-bit results and operands. */
  TEMP: 0x300,
  /** Bytes that are saved as they are. What follows is a copy of something else. */
  SIZE: 0x400,
  /** Selectors of the segment registers, 4 bytes each, in the order of SEG_BASE (i32). */
  SELECTORS: 0x400,
  /**
   * What the translations of code pages are now: another number (i32) once some may have changed, the same one again with
   * the same address space (`pcid.ts`). One for user mode, one for the other privilege levels.
   */
  USER_EPOCH: 0x420,
  KERNEL_EPOCH: 0x424,
} as const;

export const GPR_NAMES = [
  'rax',
  'rcx',
  'rdx',
  'rbx',
  'rsp',
  'rbp',
  'rsi',
  'rdi',
  'r8',
  'r9',
  'r10',
  'r11',
  'r12',
  'r13',
  'r14',
  'r15',
] as const;
export const RAX = 0;
export const RCX = 1;
export const RDX = 2;
export const RBX = 3;
export const RSP = 4;
export const RBP = 5;
export const RSI = 6;
export const RDI = 7;

export const ES = 0;
export const CS = 1;
export const SS = 2;
export const DS = 3;
export const FS = 4;
export const GS = 5;

/** What code is decoded for; each has a jump cache, or shares one (`jumpCacheOf`). Translations of one mode are never run in another. */
export const Mode = {
  Kernel64: 0,
  User64: 1,
  User32: 2,
  Kernel32: 3,
  User16: 4,
  Kernel16: 5,
  /** Code whose accesses are checked one by one: a segment is not flat (system/limits.ts), or alignment (system/alignment.ts). */
  LimitedUser32: 6,
  LimitedKernel32: 7,
  LimitedUser16: 8,
  LimitedKernel16: 9,
  LimitedUser64: 10,
  /** The same with a stack pointer of another width than the code's own. */
  Stack16User32: 11,
  Stack16Kernel32: 12,
  Stack32User16: 13,
  Stack32Kernel16: 14,
} as const;
export type Mode = (typeof Mode)[keyof typeof Mode];
export const MODES = 15;
export const modeIsLimited = (mode: Mode): boolean => mode >= Mode.LimitedUser32;
const BITS = [64, 64, 32, 32, 16, 16, 32, 32, 16, 16, 64, 32, 32, 16, 16] as const;
const STACKS = [8, 8, 4, 4, 2, 2, 4, 4, 2, 2, 8, 2, 2, 4, 4] as const;
/** Code size. */
export const modeBits = (mode: Mode): 64 | 32 | 16 => BITS[mode];
/** Width of the stack pointer in bytes. */
export const modeStack = (mode: Mode): 8 | 4 | 2 => STACKS[mode];
const USER_MODES =
  (1 << Mode.User64) |
  (1 << Mode.User32) |
  (1 << Mode.User16) |
  (1 << Mode.LimitedUser32) |
  (1 << Mode.LimitedUser16) |
  (1 << Mode.LimitedUser64) |
  (1 << Mode.Stack16User32) |
  (1 << Mode.Stack32User16);
export const modeIsUser = (mode: Mode): boolean => ((USER_MODES >> mode) & 1) !== 0;

/**
 * Jump cache: direct-mapped by linear address, 16 bytes an entry: tag (i64 linear address), record (i32), unused. The
 * low half of the address times JUMP_CACHE_HASH, shifted down by JUMP_CACHE_SHIFT, is 16 times the entry's index once
 * its low four bits are cleared: functions are aligned, and plain address bits made a few of them evict each other.
 */
export const JUMP_CACHE_ENTRIES = 65536;
export const JUMP_CACHE_BYTES = JUMP_CACHE_ENTRIES * 16;
/** 2^32 divided by the golden ratio (Fibonacci hashing), as i32. */
export const JUMP_CACHE_HASH = 0x9e3779b1 | 0;
export const JUMP_CACHE_SHIFT = 32 - 16 - 4;

/** Address of the entry for an address, by its lower half, in the jump cache at `table`. */
export const jumpCacheEntry = (table: number, lo: number): number =>
  table + ((Math.imul(lo, JUMP_CACHE_HASH) >>> JUMP_CACHE_SHIFT) & ~15);

/** TLB tables are direct-mapped by address bits 12 to 31, 8 bytes an entry; see mmu.ts. */
export const TLB_ENTRIES = 1 << 20;
export const TLB_BYTES = TLB_ENTRIES * 8;
/** Of an entry combined with an address: the bits that are 0 where it is the address's own, and the offset in the page. */
export const TLB_MASK = 0xffffffff00000fffn;

const MIB = 1 << 20;
/** Addresses of the big areas, for one processor. */
export const JUMP_CACHES = 1 * MIB;
/** The table that the modes of 16-bit code and of checked code share: it is emptied when another one of them begins. */
export const SHARED_JUMP_CACHE = 4;
export const jumpCacheOf = (mode: Mode): number => JUMP_CACHES + Math.min(mode, SHARED_JUMP_CACHE) * JUMP_CACHE_BYTES;
/** Read-only tables that definitions use (shuffle masks and the like). */
export const TABLES = 0x80000;
/** A multiple of a table's size, so that an entry's address gives its index. */
export const TLB_TABLES = 8 * MIB;
/** Four tables: kernel read, kernel write, user read, user write. */
export const TLB_KERNEL_READ = TLB_TABLES;
export const TLB_KERNEL_WRITE = TLB_TABLES + TLB_BYTES;
export const TLB_USER_READ = TLB_TABLES + 2 * TLB_BYTES;
export const TLB_USER_WRITE = TLB_TABLES + 3 * TLB_BYTES;
/** A page that unused TLB entries point to, so that not even a non-canonical address can reach anything else. */
export const DUMMY_PAGE = TLB_TABLES + 4 * TLB_BYTES;
/** Decoded records, and the words beside them (record.ts). */
export const RECORDS = 41 * MIB;
export const RECORDS_BYTES = 27 * MIB;
export const META = RECORDS + RECORDS_BYTES;
export const RAM_BASE = 96 * MIB;
