/** What is in each disk. */

export interface Recipe {
  name: string;
  packages: readonly string[];
  /** Bytes of the file system. What is free is zeros, which are neither stored nor fetched. */
  size: number;
  /** Commands of programs that people run first, each of them for as much of its files as is usual. */
  programs: readonly string[];
}

const MIB = 2 ** 20;

const BASE = [
  ...['bash', 'coreutils', 'apt', 'python3', 'nano', 'less', 'curl', 'ca-certificates', 'iproute2', 'procps'],
  // What Debian's installer always brings and people expect: mount, modprobe, useradd, names of ports, ping.
  ...['mount', 'kmod', 'passwd', 'netbase', 'iputils-ping'],
];

/** What most Python programs import, some of it or all. */
const MODULES = `
  abc argparse array ast asyncio base64 bisect calendar collections concurrent.futures configparser contextlib
  copy csv ctypes dataclasses datetime decimal difflib email enum fractions functools getpass glob gzip hashlib
  heapq html http.server inspect io itertools json logging math multiprocessing operator os pathlib pickle
  platform pprint queue random re secrets select shlex shutil signal socket sqlite3 ssl statistics string struct
  subprocess sys tarfile tempfile textwrap threading time timeit traceback types typing unittest urllib.request
  uuid xml.etree.ElementTree zipfile`;

const PROGRAMS = [
  // The interactive one: its prompt is a program of its own.
  "printf 'import sys\n1 + 1\n' | python3 -i 2>&1",
  `python3 -c 'import ${MODULES.trim().split(/\s+/).join(', ')}'`,
  'apt-cache policy bash && apt list --installed && dpkg -l',
  'ls -la --color=always /etc && find /etc -name "*.conf" | sort | head && grep -r root /etc/passwd && df -h && free && top -bn1',
  'nano --version && less --version && tar --version && gzip --version && sed --version && awk 1 /etc/hostname',
  'ip address && ip route && curl --version && curl -s file:///etc/hostname',
];

const DEVELOPMENT = [
  `printf '#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <math.h>\nint main(void) { puts("hello"); }\n' > /tmp/h.c && gcc -O2 -Wall /tmp/h.c -o /tmp/h -lm && /tmp/h`,
  `mkdir /tmp/m && cd /tmp/m && printf 'all: a\na: a.c\n\t$(CC) -g -o $@ $<\n' > Makefile && echo 'int main() { return 0; }' > a.c && make && gdb -batch -ex 'break main' -ex run ./a`,
  'git init -q /tmp/g && cd /tmp/g && echo a > a && git add a && git -c user.name=a -c user.email=a@b commit -qm a && git status && git log -p && git branch && git diff',
  'perl -MList::Util -MPOSIX -MFile::Spec -MFile::Find -MGetopt::Long -MData::Dumper -e "print Dumper({1=>2})"',
  'strace -c true',
  'python3 -m venv --without-pip /tmp/v',
];

export const RECIPES: readonly Recipe[] = [
  { name: 'debian', packages: BASE, size: 1024 * MIB, programs: PROGRAMS },
  {
    name: 'debian-dev',
    packages: [
      ...BASE,
      ...['gcc', 'libc6-dev', 'make', 'git', 'perl', 'gdb', 'strace'],
      // ensurepip's wheels: `python3 -m venv` works without a network.
      'python3-venv',
    ],
    size: 3072 * MIB,
    programs: [...PROGRAMS, ...DEVELOPMENT],
  },
];

export const SUITE = 'trixie';

/** The metapackage whose dependency is the kernel, and its ABI's name in the package's. */
export const KERNEL_PACKAGE = 'linux-image-cloud-amd64';

/** Times after this day are set to it, in seconds since 1970: trixie's release. Part of what makes builds reproducible. */
export const EPOCH = Date.UTC(2025, 7, 9) / 1000;

/** Not installed at all. Licences stay. */
export const EXCLUDED_PATHS = [
  'path-exclude=/usr/share/man/*',
  'path-exclude=/usr/share/info/*',
  'path-exclude=/usr/share/locale/*',
  'path-include=/usr/share/locale/locale.alias',
  'path-exclude=/usr/share/doc/*',
  'path-include=/usr/share/doc/*/copyright',
];

/**
 * Initialisers of the kernel that cost half of its start and do nothing for a guest like this one. What is lost:
 * - jent_mod_init: the self-test of the jitter entropy source, and the source as a crypto algorithm. The kernel's own
 *   random numbers come from RDRAND and virtio-rng.
 * - trace_eval_init: names instead of numbers for some enums in tracefs formats.
 * - ftrace_check_for_weak_functions: a few useless names more in available_filter_functions.
 * - load_system_certificate_list: keys to verify modules with. Debian does not enforce them: a module loads all the
 *   same and taints the kernel (E). (So the initramfs has its modules without their signatures.)
 * - slab_late_init: /sys/kernel/slab. /proc/slabinfo is there.
 * - blake2s_mod_init: nothing but a self-test.
 * - the rest: functions that BPF programs may call (kfuncs) and BPF_PROG_TEST_RUN of struct_ops; a program that needs
 *   them is refused. Classic BPF, maps, and programs without kfuncs work.
 */
const SKIPPED_INITCALLS = [
  'jent_mod_init',
  'trace_eval_init',
  'ftrace_check_for_weak_functions',
  'load_system_certificate_list',
  'slab_late_init',
  'blake2s_mod_init',
  'bpf_rstat_kfunc_init',
  'kfunc_init',
  'cpumask_kfunc_init',
  'crypto_kfunc_init',
  'bpf_kfunc_init',
  'bpf_prog_test_run_init',
  'bpf_dummy_struct_ops_init',
  'bpf_tcp_ca_kfunc_init',
];

export const CMDLINE = [
  'console=ttyS0',
  'console=hvc0', // the last one is /dev/console
  'quiet',
  'cryptomgr.notests',
  'mitigations=off', // the emulated processor does not speculate
  'init_on_alloc=0', // fresh RAM is zero already
  'rodata=off',
  'randomize_kstack_offset=off', // reads the time-stamp counter at each system call
  'nokaslr',
  'nr_cpus=1',
  'tsc=reliable',
  'no_timer_check',
  'noreplace-smp',
  'psi=0', // /proc/pressure: accounting at each switch from one program to another
  'noautogroup', // a group of its own for the one session makes each switch longer, too
  `initcall_blacklist=${SKIPPED_INITCALLS.join(',')}`,
].join(' ');
