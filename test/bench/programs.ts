import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { join } from 'node:path';

/** The guest's programs: sources in `guest/`, built static into `build/bench/programs/`. */
export interface Program {
  /** File name of the executable. */
  file: string;
  source: string;
  flags?: readonly string[];
  /** What it measures; an argument of this name runs it alone. */
  benches: readonly string[];
}

export const PROGRAMS: readonly Program[] = [
  { file: 'b_alu', source: 'b_alu.c', benches: ['alu_list', 'alu_matmul', 'alu_crc', 'simd_matmul'] },
  { file: 'b_sha256', source: 'b_sha256.c', benches: ['sha256'] },
  { file: 'b_fp', source: 'b_fp.c', benches: ['fp_nbody', 'fp_mandel'] },
  { file: 'b_x87', source: 'b_fp.c', flags: ['-mfpmath=387', '-DX87'], benches: ['x87_nbody', 'x87_mandel'] },
  { file: 'b_interp', source: 'b_interp.c', benches: ['interp_switch', 'interp_goto'] },
  { file: 'b_sys', source: 'b_sys.c', benches: ['sys_getpid', 'sys_pipe', 'sys_forkexec', 'sys_touch64m'] },
];

/** What `sys_forkexec` starts; it looks for it here unless `TINY` names another place. */
export const TINY = 'tiny';

const SOURCES = fileURLToPath(new URL('guest', import.meta.url));
const CFLAGS = ['-O2', '-msse', '-msse2', '-static', '-Wall', '-fno-math-errno'];

/** Compiles what is absent or older than its sources. @returns the directory of the executables */
export function buildPrograms(): string {
  const directory = fileURLToPath(new URL('../../build/bench/programs', import.meta.url));
  mkdirSync(directory, { recursive: true });
  const make = (file: string, source: string, flags: readonly string[]): void => {
    const product = join(directory, file);
    const newest = Math.max(...[source, 'bench.h'].map((name) => statSync(join(SOURCES, name)).mtimeMs));
    if (existsSync(product) && statSync(product).mtimeMs > newest) return;
    execFileSync('gcc', [...flags, join(SOURCES, source), '-o', product], { stdio: 'inherit' });
  };
  for (const { file, source, flags = [] } of PROGRAMS) make(file, source, [...CFLAGS, ...flags]);
  make(TINY, 'tiny.S', ['-nostdlib', '-static']);
  return directory;
}

/** One line that a program prints for one bench. */
export interface Measurement {
  bench: string;
  iterations: number;
  /** The whole, a JIT's warm-up included. */
  seconds: number;
  /** What the whole would have taken at its fastest chunk's speed. */
  best: number;
  /** Hexadecimal; equal wherever the program runs right. */
  checksum: string;
}

/** @throws Error when `bench` is not in what the program printed */
export function parseMeasurement(bench: string, output: string): Measurement {
  const match = new RegExp(`^BENCH ${bench} (\\d+) ([\\d.]+) ([\\d.]+) ([0-9a-f]{8})$`, 'm').exec(output);
  if (!match) throw new Error(`no result of ${bench} in what it printed: ${JSON.stringify(output.slice(-300))}`);
  return {
    bench,
    iterations: Number(match[1]),
    seconds: Number(match[2]),
    best: Number(match[3]),
    checksum: match[4]!,
  };
}
