/** The root file system: Debian's packages by mmdebstrap, and the few files of ours that make it a guest. */
import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Mirrors } from './host.ts';
import { EPOCH, EXCLUDED_PATHS, KERNEL_PACKAGE, type Recipe, SUITE } from './recipes.ts';
import { type Entry, entry, readTar } from './tar.ts';

const HERE = fileURLToPath(new URL('.', import.meta.url));
const LIBRARY = 'usr/lib/linux-vm';

export interface Bootstrapped {
  archive: Uint8Array;
  /** The kernel's .deb. */
  kernelPackage: string;
}

/** In the chroot, after the packages are in. The kernel is fetched here since here apt knows the suite. */
const CUSTOMIZE = `
set -eu
# Byte code: with SOURCE_DATE_EPOCH set it was compiled to be checked by a hash of its source, which then is read at every
# import. Compile it anew to be checked by the source's time, and give no source a time that the image will not keep.
find /usr/lib/python3* -name '*.py' -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
find /usr/lib/python3* -name '*.pyc' | sort > /compiled
sed -E 's,__pycache__/([^/]*)\\.cpython-[0-9]+\\.pyc$,\\1.py,' /compiled | while read -r source; do [ -f "$source" ] && echo "$source"; done > /sources || true
xargs rm -f < /compiled
(unset SOURCE_DATE_EPOCH; PYTHONHASHSEED=0 python3 -m compileall -q -f -i /sources >/dev/null)
rm -f /compiled /sources
mkdir -p /kernel
chown _apt /kernel
cd /kernel
package=$(apt-cache depends ${KERNEL_PACKAGE} | sed -n 's/.*Depends: \\(linux-image-.*\\)/\\1/p' | head -n 1)
apt-get download -qq "$package"
# The modules, for modprobe, mount -o loop, overlayfs, nftables; the kernel itself comes from outside of the disk.
dpkg-deb -x ./*.deb unpacked
mkdir -p /usr/lib/modules
mv unpacked/usr/lib/modules/* /usr/lib/modules/
rm -rf unpacked
depmod "$(ls /usr/lib/modules)"
rm -f /etc/apt/apt.conf.d/99mmdebstrap /etc/apt/sources.list /var/cache/ldconfig/aux-cache
mv /etc/dpkg/dpkg.cfg.d/99mmdebstrap /etc/dpkg/dpkg.cfg.d/linux-vm
: > /etc/machine-id
find /var/log -type f -delete
`;

/** Runs mmdebstrap; what it made is kept in `cache` and, with `reuse`, taken from there. */
export function bootstrap(recipe: Recipe, mirrors: Mirrors, cache: string, reuse: boolean): Bootstrapped {
  const archive = join(cache, `${recipe.name}.tar`);
  const kernelDirectory = join(cache, `${recipe.name}-kernel`);
  const findKernel = () => {
    const folder = join(kernelDirectory, 'kernel');
    const found = existsSync(folder) ? readdirSync(folder).find((name) => name.endsWith('.deb')) : undefined;
    return found && join(folder, found);
  };
  const present = findKernel();
  if (!(reuse && present && existsSync(archive))) {
    rmSync(kernelDirectory, { recursive: true, force: true });
    mkdirSync(kernelDirectory, { recursive: true });
    chmodSync(kernelDirectory, 0o777); // in unshare mode another user writes there
    const script = join(cache, 'customize.sh');
    writeFileSync(script, CUSTOMIZE);
    const sources = [`deb ${mirrors.main} ${SUITE} main`, `deb ${mirrors.main} ${SUITE}-updates main`];
    if (mirrors.security) sources.push(`deb ${mirrors.security} ${SUITE}-security main`);
    execFileSync(
      'mmdebstrap',
      [
        ...['--variant=apt', '--architectures=amd64', '--format=tar', `--include=${recipe.packages.join(',')}`],
        '--aptopt=Apt::Install-Recommends "false"',
        ...EXCLUDED_PATHS.map((path) => `--dpkgopt=${path}`),
        `--customize-hook=upload ${script} /customize.sh`,
        '--customize-hook=chroot "$1" sh /customize.sh',
        '--customize-hook=rm "$1/customize.sh"',
        `--customize-hook=copy-out /kernel ${kernelDirectory}`,
        '--customize-hook=rm -r "$1/kernel"',
        ...[SUITE, archive, ...sources],
      ],
      {
        // Everyone but root uses user namespaces; root does without when it must.
        env: { ...process.env, SOURCE_DATE_EPOCH: String(EPOCH), LC_ALL: 'C.UTF-8', TZ: 'UTC' },
        stdio: ['ignore', 'inherit', 'inherit'],
      },
    );
  }
  const kernelPackage = findKernel();
  if (!kernelPackage) throw new Error(`mmdebstrap left no kernel package in ${kernelDirectory}`);
  return { archive: readFileSync(archive), kernelPackage };
}

/** Compiles one of our programs for the guest: static, so that it runs whatever the user does to the libraries. */
export function compile(sources: string[], output: string): Uint8Array {
  const strict = ['-std=gnu17', '-Wall', '-Wextra', '-Wno-unused-result', '-D_GNU_SOURCE'];
  const small = ['-Os', '-fno-asynchronous-unwind-tables', '-fno-ident', '-Wl,--build-id=none,-z,norelro', '-s'];
  const files = sources.map((source) => join(HERE, source));
  execFileSync('musl-gcc', ['-static', ...strict, ...small, '-o', output, ...files], { stdio: 'inherit' });
  return readFileSync(output);
}

function debianSources(mirrors: Mirrors): string {
  const paragraph = (uri: string, suites: string) =>
    `Types: deb\nURIs: ${uri}\nSuites: ${suites}\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n`;
  const paragraphs = [paragraph(mirrors.main, `${SUITE} ${SUITE}-updates`)];
  if (mirrors.security) paragraphs.push(paragraph(mirrors.security, `${SUITE}-security`));
  return paragraphs.join('\n');
}

/** The entries of the image: the archive's, but for what the guest makes anew at each boot, and ours. */
export function* rootEntries(archive: Uint8Array, mirrors: Mirrors, cache: string): Generator<Entry, void, undefined> {
  for (const each of readTar(archive)) {
    if (/^(dev|proc|sys|run|tmp)\//.test(each.path)) continue;
    // POSIX ACLs have a form of their own on the disk; of Debian's packages only journald sets one, on its logs.
    for (const name of each.xattrs.keys()) if (name.startsWith('system.')) each.xattrs.delete(name);
    yield each;
  }
  const file = (path: string, data: Uint8Array | string, mode = 0o644) =>
    entry(path, 'file', { data: typeof data === 'string' ? new TextEncoder().encode(data) : data, mode, mtime: EPOCH });
  const link = (path: string, target: string) => entry(path, 'symlink', { target, mtime: EPOCH });
  const ours = (name: string) => readFileSync(join(HERE, 'files', name));

  yield file(`${LIBRARY}/init`, compile(['guest/init.c'], join(cache, 'init')), 0o755);
  const agent = ['agent/agent.c', 'agent/processes.c', 'agent/files.c', 'agent/inspect.c', 'agent/refresh.c'];
  yield file(`${LIBRARY}/agent`, compile(agent, join(cache, 'agent')), 0o755);
  // Links, so that installing systemd replaces them and leaves our program alone.
  for (const name of ['init', 'poweroff', 'reboot', 'halt', 'shutdown'])
    yield link(`usr/sbin/${name}`, '../lib/linux-vm/init');
  yield file('usr/lib/systemd/system/linux-vm-agent.service', ours('linux-vm-agent.service'));
  yield link(
    'etc/systemd/system/multi-user.target.wants/linux-vm-agent.service',
    '/usr/lib/systemd/system/linux-vm-agent.service',
  );
  yield file('etc/systemd/system/serial-getty@hvc0.service.d/autologin.conf', ours('autologin.conf'));
  yield file('etc/apt/sources.list.d/debian.sources', debianSources(mirrors));
  yield file('etc/hostname', 'debian\n');
  yield file('etc/hosts', '127.0.0.1\tlocalhost debian\n::1\t\tlocalhost ip6-localhost ip6-loopback\n');
  yield file('etc/resolv.conf', '# Written when the network is set up.\n');
  yield file('etc/fstab', '/dev/vda / ext2 rw,noatime 0 0\n');
  yield link('etc/mtab', '../proc/self/mounts');
}
