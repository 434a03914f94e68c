import { execFileSync } from 'node:child_process';
import { chmodSync, copyFileSync, existsSync, mkdirSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { join } from 'node:path';

/** A program that runs in the guest: one of C, built static, or a script that starts what a disk brings. Sources are in `guest/`. */
export interface Program {
  /** File name of the executable. */
  file: string;
  source: string;
  flags?: readonly string[];
  /** What it measures; an argument of this name runs it alone. */
  benches: readonly string[];
  /** Further files that it wants beside it. */
  needs?: readonly string[];
  /** Disk that it runs on. */
  disk: DiskName;
  /** Measures the machine's devices: it is not run natively, nor in v86, which has others. */
  devices?: true;
}

export type DiskName = 'debian' | 'debian-dev';

/** What `sys_forkexec` starts; it looks for it in the guest's directory unless `TINY` names another place. */
export const TINY = 'tiny';
const DRIVER = 'real.py';

/** These are the first benches, those of the published comparison: their mean is printed, too. */
const FIRST: readonly Omit<Program, 'disk'>[] = [
  { file: 'b_alu', source: 'b_alu.c', benches: ['alu_list', 'alu_matmul', 'alu_crc', 'simd_matmul'] },
  { file: 'b_sha256', source: 'b_sha256.c', benches: ['sha256'] },
  { file: 'b_fp', source: 'b_fp.c', benches: ['fp_nbody', 'fp_mandel'] },
  { file: 'b_x87', source: 'b_fp.c', flags: ['-mfpmath=387', '-DX87'], benches: ['x87_nbody', 'x87_mandel'] },
  { file: 'b_interp', source: 'b_interp.c', benches: ['interp_switch', 'interp_goto'] },
  {
    file: 'b_sys',
    source: 'b_sys.c',
    benches: ['sys_getpid', 'sys_pipe', 'sys_forkexec', 'sys_touch64m'],
    needs: [TINY],
  },
];

export const FIRST_BENCHES: ReadonlySet<string> = new Set(FIRST.flatMap(({ benches }) => benches));

const MORE: readonly Omit<Program, 'disk'>[] = [
  {
    file: 'b_mem',
    source: 'b_mem.c',
    benches: ['mem_copy', 'mem_scale', 'mem_add', 'mem_triad', 'chase_64k', 'chase_1m', 'chase_16m'],
  },
  { file: 'b_call', source: 'b_call.c', benches: ['call_fib', 'call_deep', 'call_table', 'call_qsort'] },
  { file: 'b_comp', source: 'b_comp.c', benches: ['comp_pack', 'comp_unpack', 'comp_range'] },
  {
    file: 'b_block',
    source: 'b_block.c',
    benches: ['rep_movsb', 'rep_movsl', 'rep_stos', 'rep_scas', 'rep_cmps'].concat(
      ['libc_memcpy', 'libc_memset', 'libc_memcmp', 'libc_strlen'], // SSE2's
    ),
  },
  { file: 'b_int', source: 'b_int.c', benches: ['div_32', 'div_64', 'mul_wide', 'int_bits'] },
  { file: 'b_text', source: 'b_text.c', benches: ['text_hash', 'text_format', 'text_search', 'text_tree'] },
  { file: 'b_page', source: 'b_page.c', benches: ['page_walk', 'page_map', 'page_cow'] },
];

export const PROGRAMS: readonly Program[] = [
  ...[...FIRST, ...MORE].map((program) => ({ ...program, disk: 'debian' }) as const),
  {
    file: 'b_io',
    source: 'b_io.c',
    benches: ['io_first', 'io_sequential', 'io_random', 'io_console', 'io_raw', 'io_port'],
    disk: 'debian',
    devices: true,
  },
  {
    file: DRIVER,
    source: DRIVER,
    benches: ['real_python', 'real_gcc', 'real_sqlite', 'real_git', 'real_sha256', 'real_aes', 'real_bignum'].concat([
      'real_xz',
      'real_gzip',
      'real_perl',
      'real_bash',
    ]),
    needs: ['pystones.py'],
    disk: 'debian-dev',
  },
];

/** What a bench's iterations are, where their rate says more than seconds do. */
export const RATES: Readonly<Record<string, { unit: string; factor: number }>> = {
  io_first: { unit: 'MB/s', factor: 1 },
  io_sequential: { unit: 'MB/s', factor: 1 },
  io_random: { unit: '10³ reads/s', factor: 1e-3 },
  io_console: { unit: 'MB/s', factor: 1 },
  io_raw: { unit: 'MB/s', factor: 1 },
  io_port: { unit: 'MB/s', factor: 1 },
  sys_pipe: { unit: '10³ round trips/s', factor: 1e-3 },
};

const SOURCES = fileURLToPath(new URL('guest', import.meta.url));
const CFLAGS = ['-O2', '-msse', '-msse2', '-static', '-Wall', '-fno-math-errno'];
const MACHINE_FLAGS = { amd64: [], i386: ['-m32', '-msse2', '-mfpmath=sse'] } as const;

/** Compiles what is absent or older than its sources. @returns the directory of the executables */
export function buildPrograms(architecture: keyof typeof MACHINE_FLAGS = 'amd64'): string {
  const suffix = architecture === 'amd64' ? '' : `-${architecture}`;
  const directory = fileURLToPath(new URL(`../../build/bench/programs${suffix}`, import.meta.url));
  mkdirSync(directory, { recursive: true });
  const make = (file: string, source: string, flags: readonly string[]): void => {
    const product = join(directory, file);
    const newest = Math.max(...[source, 'bench.h'].map((name) => statSync(join(SOURCES, name)).mtimeMs));
    if (existsSync(product) && statSync(product).mtimeMs > newest) return;
    if (source.endsWith('.py')) {
      copyFileSync(join(SOURCES, source), product);
      chmodSync(product, 0o755);
    } else execFileSync('gcc', [...flags, join(SOURCES, source), '-o', product], { stdio: 'inherit' });
  };
  const machine = MACHINE_FLAGS[architecture];
  for (const { file, source, flags = [], needs = [] } of PROGRAMS) {
    make(file, source, [...machine, ...CFLAGS, ...flags]);
    for (const name of needs) if (name !== TINY) make(name, name, []);
  }
  make(TINY, 'tiny.S', [...machine, '-nostdlib', '-static']);
  if (architecture === 'i386') make('init', 'v86-init.c', [...machine, '-O2', '-static']);
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
  const match = new RegExp(`^BENCH ${bench} (\\d+) ([\\d.]+) ([\\d.]+) ([0-9a-f]{8})\\r?$`, 'm').exec(output);
  if (!match) throw new Error(`no result of ${bench} in what it printed: ${JSON.stringify(output.slice(-300))}`);
  return {
    bench,
    iterations: Number(match[1]),
    seconds: Number(match[2]),
    best: Number(match[3]),
    checksum: match[4]!,
  };
}
