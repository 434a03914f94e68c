import { readFileSync } from 'node:fs';
import { type Check, equal, match, prints, script, text } from './check.ts';

/** ELF32 for Linux, by the kernel's i386 entry: writes "32\n" and ends with status 7. */
function program32(): Uint8Array {
  const BASE = 0x8048000;
  const ENTRY = 52 + 32;
  const code = [
    ...[0xb8, 4, 0, 0, 0, 0xbb, 1, 0, 0, 0], // mov eax, 4 (write); mov ebx, 1
    ...[0xb9, 0, 0, 0, 0, 0xba, 3, 0, 0, 0, 0xcd, 0x80], // mov ecx, text; mov edx, 3; int 0x80
    ...[0xb8, 1, 0, 0, 0, 0xbb, 7, 0, 0, 0, 0xcd, 0x80], // mov eax, 1 (exit); mov ebx, 7; int 0x80
  ];
  const text = ENTRY + code.length;
  const bytes = new Uint8Array(text + 3);
  const view = new DataView(bytes.buffer);
  bytes.set([0x7f, 0x45, 0x4c, 0x46, 1, 1, 1]);
  const halves: [number, number][] = [
    [16, 2], // ET_EXEC
    [18, 3], // EM_386
    [40, 52], // sizes of the headers, one program header
    [42, 32],
    [44, 1],
  ];
  const words: [number, number][] = [
    [20, 1],
    [24, BASE + ENTRY],
    [28, 52],
    [52, 1], // PT_LOAD: the whole file, to be read and executed
    [60, BASE],
    [64, BASE],
    [68, bytes.length],
    [72, bytes.length],
    [76, 5],
    [80, 0x1000],
  ];
  for (const [at, value] of halves) view.setUint16(at, value, true);
  for (const [at, value] of words) view.setUint32(at, value, true);
  bytes.set(code, ENTRY);
  view.setUint32(ENTRY + 11, BASE + text, true);
  bytes.set(new TextEncoder().encode('32\n'), text);
  return bytes;
}

/** What the project is for. */
export const ESSENTIAL: readonly Check[] = [
  prints('python3 computes', "python3 -c 'print(2**100)'", '1267650600228229401496703205376\n'),
  prints('apt lists what is installed', 'apt list --installed 2>/dev/null | grep -c installed', /^[1-9]\d+\n$/),
];

/** What every disk can do. */
export const BASE: readonly Check[] = [
  ...ESSENTIAL,
  prints(
    'floating point',
    "python3 -c 'import math; print(math.pi, 0.1+0.2, math.exp(1), math.sin(1e6))'",
    '3.141592653589793 0.30000000000000004 2.718281828459045 -0.34999350217129294\n',
  ),
  prints('dpkg finds nothing wrong', 'dpkg --audit', ''),
  prints('apt finds nothing broken', 'apt-get check -qq', ''),
  prints(
    'hashes are right',
    'printf abc | sha256sum',
    'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  -\n',
  ),
  prints('pipes, sorting and text tools', 'seq 1 20000 | sort -R | sort -n | tail -1', '20000\n'),
  prints(
    'gzip round trip',
    'seq 1 50000 > /tmp/seq; gzip -9 < /tmp/seq | gzip -d | cmp - /tmp/seq; echo same',
    'same\n',
  ),
  prints('the clock is right', 'date +%s', /^\d{10}\n$/),
  prints(
    'loopback',
    'ip link set lo up; python3 - <<E\nimport socket\ns = socket.create_server(("127.0.0.1", 7777))\nc = socket.create_connection(("127.0.0.1", 7777))\na, _ = s.accept()\nc.sendall(b"hello")\nprint(a.recv(5).decode())\nE',
    'hello\n',
  ),
  {
    name: '64 MB are written, synced and read back past the cache',
    work: async (guest) => {
      const output = await script(
        guest,
        `cd /root
        python3 -c 'import random, sys; r = random.Random(1); sys.stdout.buffer.write(r.randbytes(64 << 20))' > big
        sha256sum < big > before
        sync big
        echo 3 > /proc/sys/vm/drop_caches
        sha256sum < big | cmp - before
        rm big before
        echo same`,
      );
      equal(output, 'same\n');
    },
  },
  {
    name: 'a fork bomb is bounded',
    work: async (guest) => {
      const output = await script(
        guest,
        `cat > /tmp/bomb.py <<E
import os, sys, time
os.setuid(65534)
import resource
resource.setrlimit(resource.RLIMIT_NPROC, (40, 40))
n = 0
pids = []
try:
    while n < 1000:
        pid = os.fork()
        if pid == 0:
            time.sleep(60)
            os._exit(0)
        pids.append(pid)
        n += 1
except BlockingIOError:
    print("bounded", n < 41)
for pid in pids:
    os.kill(pid, 9)
for pid in pids:
    os.waitpid(pid, 0)
E
        python3 /tmp/bomb.py; echo alive`,
      );
      equal(output, 'bounded True\nalive\n');
    },
  },
  {
    name: 'a 32-bit program',
    work: async (guest) => {
      await guest.fs.writeFile('/tmp/p32', program32());
      const { status, stdout, stderr } = await guest.run(['bash', '-c', 'chmod +x /tmp/p32; /tmp/p32']);
      equal(`${status} ${text(stdout)}${text(stderr)}`, '7 32\n');
    },
  },
  {
    name: 'another user, directory and environment',
    work: async (guest) => {
      const { stdout } = await guest.run(['sh', '-c', 'id -u; pwd; echo $GREETING; cat'], {
        uid: 65534,
        cwd: '/tmp',
        env: { GREETING: 'hello' },
        stdin: 'input',
      });
      equal(text(stdout), '65534\n/tmp\nhello\ninput');
    },
  },
  {
    name: 'files through the agent',
    work: async (guest) => {
      const { fs } = guest;
      const bytes = new Uint8Array(300_000).map((_, i) => i * 31);
      await fs.mkdir('/tmp/agent');
      await fs.writeFile('/tmp/agent/data', bytes);
      const back = await fs.readFile('/tmp/agent/data');
      if (Buffer.compare(back, bytes)) throw new Error(`wrote ${bytes.length} bytes, read others (${back.length})`);
      equal((await fs.readdir('/tmp/agent')).map((e) => e.name).join(), 'data');
      equal(String((await fs.stat('/tmp/agent/data')).size), '300000');
      await fs.rm('/tmp/agent', { recursive: true });
      equal(String((await guest.run(['test', '-e', '/tmp/agent'])).status), '1');
    },
  },
];

/** What `debian-dev` can do besides. */
export const DEVELOPMENT: readonly Check[] = [
  prints(
    'gcc compiles a program that runs',
    `cd /tmp; cat > a.c <<E
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
static int order(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }
int main(void) {
  int v[1000];
  unsigned x = 1;
  for (int i = 0; i < 1000; i++) v[i] = (x = x * 1103515245 + 12345) >> 8 & 0xffff;
  qsort(v, 1000, sizeof *v, order);
  printf("%d %d %.10f %.10Lf\\n", v[0], v[999], sqrt(2), 1.0L / 3);
}
E
gcc -O2 -Wall -o a a.c -lm; ./a`,
    /^\d+ 6\d{4} 1\.4142135624 0\.3333333333\n$/,
  ),
  prints(
    'make',
    "cd /tmp; printf 'all: x\\n\\t@cat x\\nx:\\n\\t@echo made > x\\n' > Makefile; rm -f x; make -s",
    'made\n',
  ),
  prints(
    'perl',
    `perl -e 'my %h = map { $_ => $_ ** 2 } 1..10; print join(",", map { $h{$_} } sort { $a <=> $b } keys %h), "\\n"'`,
    '1,4,9,16,25,36,49,64,81,100\n',
  ),
  prints(
    'git',
    `rm -rf /tmp/repo; mkdir /tmp/repo; cd /tmp/repo; git init -q; echo hello > file; git add file
    git -c user.name=n -c user.email=e@example.org commit -qm first; git log --format=%s; git fsck`,
    'first\n',
  ),
  {
    name: 'python3 -m venv without a network',
    // It unpacks pip and compiles its 1,000 modules: a minute and a half even in QEMU.
    patience: 900_000,
    work: async (guest) => {
      const lines = `rm -rf /tmp/venv; python3 -m venv /tmp/venv; cd /tmp/venv/bin; ./python -c 'import sys; print(sys.prefix)'; ./pip --version`;
      match(await script(guest, lines, { signal: AbortSignal.timeout(900_000) }), /^\/tmp\/venv\npip \d+/);
    },
  },
  {
    name: 'a 32-bit program from gcc: INT 0x80, the vDSO, x87 and SSE',
    work: async (guest) => {
      await guest.fs.writeFile('/tmp/program32.c', readFileSync(new URL('program32.c', import.meta.url)));
      const flags = '-nostdlib -static -fno-pic -no-pie -fno-stack-protector -fno-builtin';
      const output = await script(
        guest,
        `cd /tmp; for how in -O0 -O2 "-O2 -msse2 -mfpmath=sse"; do
        gcc -m32 $how ${flags} -o program32 program32.c; ./program32 || echo $?; done`,
      );
      // As the host's own processor has it.
      equal(output, 'f8905c9d 00000057\nvdso\n5\n'.repeat(3));
    },
  },
  prints('strace', 'strace -o /tmp/trace true; tail -1 /tmp/trace', /exited with 0/),
  prints('gdb', 'gdb -batch -ex run /bin/true 2>&1', /exited normally/),
  prints(
    'gdb stops at breakpoints and steps',
    `cd /tmp; printf 'int f(int x) { return x + 1; }\\nint main(void) { return f(41) - 42; }\\n' > b.c; gcc -g -O0 -o b b.c
    gdb -batch -ex 'break f' -ex run -ex 'print x' -ex stepi -ex stepi -ex finish -ex continue ./b 2>&1`,
    /\$1 = 41[^]*Value returned is \$2 = 42[^]*exited normally/,
  ),
];
