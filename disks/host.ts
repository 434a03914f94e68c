/** What the building machine must have, and where it gets its packages. */
import { execFileSync } from 'node:child_process';

/** Command and the Debian package that brings it. */
const TOOLS = {
  mmdebstrap: 'mmdebstrap',
  'musl-gcc': 'musl-tools',
  zstd: 'zstd',
  xz: 'xz-utils',
  e2fsck: 'e2fsprogs',
  'dpkg-deb': 'dpkg',
} as const;

export function hasCommand(name: string): boolean {
  const path = `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`;
  try {
    execFileSync('sh', ['-c', 'command -v "$1" >/dev/null', 'sh', name], { env: { ...process.env, PATH: path } });
    return true;
  } catch {
    return false;
  }
}

/** Installs what is missing where that can be done without asking, or names it. @throws Error that says what to install */
export function needTools(): void {
  const missing = Object.entries(TOOLS).filter(([command]) => !hasCommand(command));
  if (!missing.length) return;
  const packages = missing.map(([, name]) => name);
  if (process.getuid?.() === 0 && hasCommand('apt-get')) {
    console.error(`disk: installing ${packages.join(' ')}`);
    const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
    const stdio = ['ignore', 'inherit', 'inherit'] as const;
    execFileSync('apt-get', ['update', '-qq'], { env, stdio: [...stdio] });
    execFileSync('apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...packages], {
      env,
      stdio: [...stdio],
    });
    if (missing.every(([command]) => hasCommand(command))) return;
  }
  throw new Error(
    `building a disk needs ${missing.map(([command]) => command).join(', ')}; install with: apt-get install ${packages.join(' ')}`,
  );
}

export interface Mirrors {
  main: string;
  /** Absent when the machine itself has no security updates configured. */
  security: string | undefined;
}

/** The archive that this machine's own apt uses. LINUX_VM_MIRROR names another. */
export function findMirrors(): Mirrors {
  const override = process.env['LINUX_VM_MIRROR'];
  if (override) return { main: override, security: process.env['LINUX_VM_SECURITY_MIRROR'] };
  const format = '$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)';
  const list = (): string[][] => {
    const out = execFileSync('apt-get', ['indextargets', '--format', format, 'Created-By: Packages'], {
      encoding: 'utf8',
    });
    return out
      .trim()
      .split('\n')
      .map((line) => line.split('|'));
  };
  const find = (targets: string[][], wanted: string) =>
    targets.find(([origin, label, component]) => origin === 'Debian' && label === wanted && component === 'main')?.[3];
  let targets = list();
  if (!find(targets, 'Debian') && process.getuid?.() === 0) {
    // Origin and label are known once the lists have been fetched.
    execFileSync('apt-get', ['update', '-qq'], { stdio: ['ignore', 'inherit', 'inherit'] });
    targets = list();
  }
  const main = find(targets, 'Debian');
  if (!main) {
    throw new Error(
      'apt on this machine knows no Debian archive: run apt-get update, or name one: LINUX_VM_MIRROR=URL npm run disk',
    );
  }
  const trimmed = (uri: string | undefined) => uri?.replace(/\/+$/, '');
  return { main: trimmed(main)!, security: trimmed(find(targets, 'Debian-Security')) };
}
