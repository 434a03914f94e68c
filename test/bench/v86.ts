import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type CpioEntry, writeCpio } from '../../disks/cpio.ts';
import { PROGRAMS, TINY } from './programs.ts';
import { GUEST_DIRECTORY } from './places.ts';

const V86 = fileURLToPath(new URL('../../node_modules/v86/build/', import.meta.url));
const BIOS = '/usr/share/seabios';
/** Debian's metapackage for kernels of 32-bit PCs without PAE. Suites after bookworm have none. */
const KERNEL_PACKAGE = 'linux-image-686';

/** Whether gcc makes static 32-bit programs here, SeaBIOS is there, or what to install. */
export function whatV86Needs(): string | undefined {
  const missing: string[] = [];
  try {
    const libc = execFileSync('gcc', ['-m32', '-print-file-name=libc.a'], { encoding: 'utf8' }).trim();
    if (!existsSync(libc)) missing.push('gcc-multilib');
  } catch {
    missing.push('gcc-multilib');
  }
  if (!existsSync(join(BIOS, 'bios.bin'))) missing.push('seabios');
  return missing.length ? `apt-get install ${missing.join(' ')}` : undefined;
}

/** A directory with the page that boots v86. @throws Error when its kernel cannot be had */
export function buildV86(programs: string): string {
  const directory = fileURLToPath(new URL('../../build/bench/v86', import.meta.url));
  mkdirSync(directory, { recursive: true });
  const kernel = join(directory, 'vmlinuz');
  if (!existsSync(kernel)) {
    const scratch = join(directory, 'apt');
    copyFileSync(downloadKernel(scratch), kernel);
    rmSync(scratch, { recursive: true });
  }
  for (const name of ['libv86.js', 'v86.wasm']) copyFileSync(join(V86, name), join(directory, name));
  for (const name of ['bios.bin', 'vgabios-stdvga.bin']) copyFileSync(join(BIOS, name), join(directory, name));
  writeFileSync(join(directory, 'initramfs'), initramfs(programs));
  writeFileSync(join(directory, 'index.html'), '<!doctype html><title>v86</title><script src="libv86.js"></script>');
  return directory;
}

function initramfs(programs: string): Uint8Array {
  const executable = (path: string, name: string): CpioEntry => ({
    path,
    mode: 0o100755,
    data: new Uint8Array(readFileSync(join(programs, name))),
  });
  const names = PROGRAMS.filter(({ disk, devices }) => disk === 'debian' && !devices).map(({ file }) => file);
  const folder = GUEST_DIRECTORY.slice(1);
  return writeCpio([
    { path: 'dev', mode: 0o040755 },
    { path: 'dev/console', mode: 0o020600, device: { major: 5, minor: 1 } },
    { path: folder, mode: 0o040755 },
    executable('init', 'init'),
    ...[...names, TINY].map((name) => executable(`${folder}/${name}`, name)),
  ]);
}

/** With lists of its own, so that this machine's apt stays as it is. */
function downloadKernel(directory: string): string {
  rmSync(directory, { recursive: true, force: true });
  for (const folder of ['lists/partial', 'cache/archives/partial', 'state', 'kernel'])
    mkdirSync(join(directory, folder), { recursive: true });
  const configuration = join(directory, 'apt.conf');
  const lines = [
    'APT::Architecture "i386"',
    'APT::Architectures { "i386"; }',
    'APT::Sandbox::User "root"',
    'Acquire::Languages "none"',
    `Dir::State "${directory}/state"`,
    `Dir::State::lists "${directory}/lists"`,
    'Dir::State::status "/dev/null"',
    `Dir::Cache "${directory}/cache"`,
  ];
  writeFileSync(configuration, lines.map((line) => `${line};\n`).join(''));
  const options = { cwd: directory, env: { ...process.env, APT_CONFIG: configuration }, encoding: 'utf8' } as const;
  try {
    execFileSync('apt-get', ['update', '-qq'], { ...options, stdio: ['ignore', 2, 'ignore'] });
  } catch {
    // What it could not fetch is told by the next step, if it matters.
  }
  const depends = execFileSync('apt-cache', ['depends', KERNEL_PACKAGE], options);
  const name = /Depends: (linux-image-\S+-686)\b/.exec(depends)?.[1];
  if (!name) throw new Error(`apt knows no ${KERNEL_PACKAGE} for i386; Debian has it up to bookworm`);
  execFileSync('apt-get', ['download', '-q', name], { ...options, stdio: ['ignore', 2, 2] });
  const archive = readdirSync(directory).find((file) => file.endsWith('.deb'));
  execFileSync('dpkg-deb', ['--extract', archive!, 'kernel'], options);
  const boot = join(directory, 'kernel/boot');
  const image = readdirSync(boot).find((file) => file.startsWith('vmlinuz'));
  if (!image) throw new Error(`${name} has no kernel`);
  return join(boot, image);
}
