/**
 * The host's own processor as a reference: builds native.c with gcc and runs batches of cases in it. Only on x86-64
 * Linux with gcc and the FSGSBASE instructions.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Two pages that cases may read and write; the page before and the page after are not mapped. */
export const WINDOW = 0x1000_0000;
export const WINDOW_BYTES = 0x2000;
/** A page of zeros that can only be read. */
export const READ_ONLY = WINDOW + 0x3000;
export const CODE = 0x2000_0000;
/** Holds, at its start, the address that a case's last instruction jumps to. */
export const STATE = 0x3000_0000;
/** Linux's selectors. */
export const USER_CODE32 = 0x23;
export const USER_DATA = 0x2b;
export const USER_CODE = 0x33;
export const FS_BASE = WINDOW + 0x400;
export const GS_BASE = WINDOW + 0xc00;

/** Bytes of an input record: see struct input in native.c. */
export const IN = {
  ENTRY: 0,
  EXIT: 4,
  BITS: 8,
  PATCHES: 12,
  GPR: 16,
  RFLAGS: 144,
  FX: 152,
  PATCH: 664,
  SIZE: 880,
} as const;
export const PATCH_BYTES = 72;
/** Bytes of an output record, before the changed memory. */
export const OUT = {
  GPR: 0,
  RFLAGS: 128,
  RIP: 136,
  CR2: 144,
  VECTOR: 152,
  ERROR: 156,
  FIRST: 160,
  LENGTH: 164,
  FS_BASE: 168,
  GS_BASE: 176,
  /** ES, CS, SS, DS, FS, GS, two bytes each */
  SELECTORS: 184,
  FX: 200,
  SIZE: 712,
} as const;
/** Vector of a case that came to its end without an exception, and of one that did not come to an end. */
export const NO_EXCEPTION = 255;
export const TIMEOUT = 254;

function isIntel(): boolean {
  try {
    return readFileSync('/proc/cpuinfo', 'utf8').includes('GenuineIntel');
  } catch {
    return false;
  }
}
/** Whether the processor that this runs on is one of Intel's. */
export const INTEL_HOST = isIntel();

export interface Batch {
  /** Contents of memory at CODE. */
  readonly code: Uint8Array;
  /** Contents of the window before each case's patches. */
  readonly window: Uint8Array;
  /** `count` records of IN.SIZE bytes. */
  readonly inputs: Uint8Array;
  readonly count: number;
}

/** Its own memory is above 4 GiB, where no case of 32-bit code can reach it, and no random heap is where cases have theirs. */
const FLAGS = ['-O2', '-static-pie', '-fno-stack-protector', '-fcf-protection=none'];

/** Where the built program is, or undefined with the reason when this host cannot build or run it. */
export function buildNative(): { program: string } | { reason: string } {
  if (process.arch !== 'x64' || process.platform !== 'linux')
    return { reason: `needs x86-64 Linux, this is ${process.arch} ${process.platform}` };
  if (!/\bfsgsbase\b/.test(readFileSync('/proc/cpuinfo', 'utf8'))) return { reason: 'the processor has no FSGSBASE' };
  const source = join(dirname(fileURLToPath(import.meta.url)), 'native.c');
  const folder = join(tmpdir(), `conformance-${process.getuid?.() ?? 0}`);
  const program = join(
    folder,
    createHash('sha256').update(FLAGS.join()).update(readFileSync(source)).digest('hex').slice(0, 16),
  );
  if (existsSync(program)) return { program };
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const temporary = `${program}.${process.pid}`;
  try {
    execFileSync('gcc', [...FLAGS, '-o', temporary, source], { stdio: ['ignore', 'ignore', 'pipe'] });
  } catch (cause) {
    return { reason: `gcc could not build native.c: ${cause instanceof Error ? cause.message : String(cause)}` };
  }
  renameSync(temporary, program);
  return { program };
}

/**
 * Runs a batch on the processor. The result is the output records, each followed by its changed memory.
 * @throws Error when the program dies
 */
export function runNative(program: string, batch: Batch): Buffer {
  const header = Buffer.alloc(16);
  header.writeUInt32LE(batch.code.length, 0);
  header.writeUInt32LE(batch.count, 4);
  header.writeUInt32LE(FS_BASE, 8);
  header.writeUInt32LE(GS_BASE, 12);
  const input = Buffer.concat([header, batch.code, batch.window, batch.inputs.subarray(0, batch.count * IN.SIZE)]);
  const done = spawnSync(program, { input, maxBuffer: batch.count * (OUT.SIZE + 8192) + 4096, timeout: 120_000 });
  if (done.status !== 0)
    throw new Error(
      `the native program ended with ${done.status ?? done.signal}: ${done.stderr?.toString() ?? done.error}`,
    );
  return done.stdout;
}
