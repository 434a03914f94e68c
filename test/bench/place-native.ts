import { execFile } from 'node:child_process';
import { mkdtempSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Place, Running } from './places.ts';
import { TINY } from './programs.ts';

/**
 * The C library's functions that the guests' processor gets: SSE2's. Otherwise it is AVX-512 that is compared with them.
 * (Names that a C library does not know are passed over.)
 */
const GLIBC_TUNABLES = 'glibc.cpu.hwcaps=-AVX2,-AVX512F,-AVX512VL,-AVX512BW,-ERMS,-FSRM,-AVX_Fast_Unaligned_Load';

/** The host itself. */
export function nativePlace(name: string, directory: string): Place {
  const run: Running['run'] = (file, args, timeout) =>
    execute(join(directory, file), args, timeout, { GLIBC_TUNABLES, TINY: join(directory, TINY) });
  return { name, start: async () => running(run) };
}

/**
 * The host's processor and kernel with the user space of a disk's image, which is mounted for one run in a mount namespace
 * of its own, so that nothing is left of it. Arguments: mount point, image, programs' directory, program and its arguments.
 */
const IN_IMAGE = `set -e
root=$1 image=$2 programs=$3
shift 3
mount -o loop,ro "$image" "$root"
mount -t tmpfs tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
mkdir "$root/tmp/bench"
cp "$programs"/*.py "$root/tmp/bench"
program=$1
shift
exec chroot "$root" "/tmp/bench/$program" "$@"`;

export function nativeImagePlace(name: string, image: string, programs: string): Place {
  return {
    name,
    async start() {
      const root = mkdtempSync(join(tmpdir(), 'bench-root-'));
      const enter = ['--mount', '--propagation', 'private', 'sh', '-c', IN_IMAGE, 'sh', root, image, programs];
      const run: Running['run'] = (file, args, timeout) =>
        execute('unshare', [...enter, file, ...args], timeout, { GLIBC_TUNABLES, BENCH_IN_MEMORY: '1' });
      return { ...running(run), stop: async () => rmdirSync(root) };
    },
  };
}

function running(run: Running['run']): Running {
  return { put: async () => undefined, run, stop: async () => undefined };
}

function execute(
  file: string,
  args: readonly string[],
  timeout: number,
  environment: Record<string, string>,
): Promise<string> {
  return new Promise((resolve, reject) => {
    const env = { ...process.env, ...environment };
    execFile(file, args, { env, timeout }, (error, stdout, stderr) => {
      if (!error) resolve(stdout);
      else if (error.killed) reject(new Error(`it was given up after ${timeout / 1000} s`));
      else reject(new Error(`status ${error.code}: ${stdout.slice(-300)}${stderr.slice(-300)}`));
    });
  });
}
