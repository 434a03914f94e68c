import { type Check, equal, prints, script } from './check.ts';

/** What CPUID advertises, as Linux names it, among what programs look for. */
const FEATURES =
  'fpu tsc msr pae cx8 apic sep pge cmov pat clflush mmx fxsr sse sse2 syscall nx pdpe1gb rdtscp lm constant_tsc pni ssse3 cx16 sse4_1 sse4_2 popcnt tsc_deadline_timer rdrand hypervisor lahf_lm fsgsbase erms rdseed';
/** What this processor does not have: a program that sees one of them uses it. */
const ABSENT = 'avx avx2 fma aes pclmulqdq bmi1 bmi2 movbe xsave smep smap umip vmx svm rtm adx sha_ni';

/** The kernel, its clock and what it tells of the machine. */
export const SYSTEM: readonly Check[] = [
  {
    name: 'the processor says what it has and no more',
    work: async (guest) => {
      const output = await script(guest, `grep -m1 ^flags /proc/cpuinfo; grep -c ^processor /proc/cpuinfo`);
      const flags = new Set(output.split('\n')[0]!.replace(/.*: /, '').split(' '));
      equal(
        FEATURES.split(' ')
          .filter((name) => !flags.has(name))
          .join(),
        '',
      );
      equal(
        ABSENT.split(' ')
          .filter((name) => flags.has(name))
          .join(),
        '',
      );
    },
  },
  prints(
    'ps and top',
    'ps aux | grep -c "[l]inux-vm-agent\\|[a]gent"; top -b -n1 | head -2',
    /^[1-9]\d*\ntop - [^]*Tasks: +\d+ total/,
  ),
  prints('the memory is there', `awk '/MemTotal/ { print ($2 > 400000 && $2 < 524288) }' /proc/meminfo`, '1\n'),
  prints(
    'apt works offline',
    `apt-cache policy bash | grep -c Installed; apt-cache depends bash | head -1; apt-mark showmanual | grep -cx python3
    apt-get -s remove nano 2>/dev/null | grep ^Remv; dpkg -L nano | grep -x /usr/bin/nano; dpkg -S /usr/bin/less`,
    /^1\nbash\n1\nRemv nano [^\n]*\n\/usr\/bin\/nano\nless: \/usr\/bin\/less\n$/,
  ),
  {
    name: 'the date is right and passes as fast as here',
    work: async (guest) => {
      const ask = async (): Promise<number> => Number(await script(guest, 'date +%s.%N')) * 1000;
      const before = Date.now();
      const first = await ask();
      const after = Date.now();
      if (first < before - 100 || first > after + 100)
        throw new Error(`${new Date(first).toISOString()} in the guest, ${new Date(after).toISOString()} here`);
      const host = performance.now();
      const [low, high] = (await script(guest, 'date +%s.%N; sleep 3; date +%s.%N')).split('\n').map(Number);
      const took = high! - low!;
      const outside = (performance.now() - host) / 1000;
      // Starting programs costs time as well, most of all on a busy host.
      if (took < 3 || took > outside)
        throw new Error(`sleep 3 took ${took} s by the guest's clock, ${outside} s by ours`);
    },
  },
  {
    name: 'short sleeps are short',
    work: async (guest) => {
      const lines = `import time
t = time.perf_counter()
for _ in range(100): time.sleep(0.002)
print(time.perf_counter() - t)`;
      const seconds = Number(await script(guest, `python3 -c '${lines}'`));
      // 1 ms late each by the host's timers, and the host may be busy; without timers each ends at a tick or later.
      if (!(seconds >= 0.2 && seconds < 10)) throw new Error(`100 × 2 ms took ${seconds} s`);
    },
  },
  prints(
    'timers, alarms and CPU time',
    `python3 - <<E
import signal, time, os
hits = []
signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
end = time.monotonic() + 0.5
while time.monotonic() < end: pass
signal.setitimer(signal.ITIMER_REAL, 0)
print(5 <= len(hits) <= 50, 0.05 < time.process_time() < 5)
E`,
    'True True\n',
  ),
  prints(
    'threads, semaphores and shared memory',
    `python3 - <<E
import threading, queue, mmap, os, hashlib
q = queue.Queue(10); out = []
def work():
    while (x := q.get()) is not None: out.append(x * x)
ts = [threading.Thread(target=work) for _ in range(4)]
for t in ts: t.start()
for x in range(2000): q.put(x)
for t in ts: q.put(None)
for t in ts: t.join()
print(sum(out))
m = mmap.mmap(-1, 1 << 20)
if os.fork() == 0:
    m[:5] = b"child"; os._exit(0)
os.wait()
print(m[:5].decode())
E`,
    '2664667000\nchild\n',
  ),
  prints(
    'signals: SIGSEGV, SIGFPE and SIGILL reach their process alone',
    `set +e
    python3 -c 'import ctypes; ctypes.string_at(0)' 2>/dev/null; echo $?
    python3 -c 'import ctypes, mmap
m = mmap.mmap(-1, 4096, prot=7); m.write(bytes([0x31,0xc9,0xf7,0xf1,0xc3]))
ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()' 2>/dev/null; echo $?
    python3 -c 'import ctypes, mmap
m = mmap.mmap(-1, 4096, prot=7); m.write(bytes([0x0f,0x0b]))
ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()' 2>/dev/null; echo $?
    true`,
    '139\n136\n132\n',
  ),
  prints(
    'kernel services: namespaces, tmpfs, overlay, loop devices, cgroups',
    `mkdir -p /tmp/m && mount -t tmpfs none /tmp/m && mkdir /tmp/m/a /tmp/m/b /tmp/m/w /tmp/m/o
    modprobe overlay && mount -t overlay none -o lowerdir=/tmp/m/a,upperdir=/tmp/m/b,workdir=/tmp/m/w /tmp/m/o
    echo x > /tmp/m/o/f; cat /tmp/m/b/f; umount /tmp/m/o /tmp/m
    unshare -fp --mount-proc sh -c 'echo $$'
    ls /sys/fs/cgroup/cgroup.controllers`,
    'x\n1\n/sys/fs/cgroup/cgroup.controllers\n',
  ),
  prints(
    'floating point keeps its state across processes',
    `python3 - <<E
import os, math
pids = []
for n in range(4):
    pid = os.fork()
    if pid == 0:
        a = 0.0
        for i in range(1, 40000): a += math.sin(i * (n + 1)) / i
        b = 0.0
        for i in range(1, 40000): b += math.sin(i * (n + 1)) / i
        os._exit(0 if a == b else 1)
    pids.append(pid)
print([os.waitpid(p, 0)[1] for p in pids])
E`,
    '[0, 0, 0, 0]\n',
  ),
];

/** After all the others: what the kernel has to say about them. */
export const KERNEL_LOG: Check = {
  name: 'the kernel complains of nothing',
  work: async (guest) => {
    // Programs that are to crash leave lines of their own (segfault at, trap divide error, trap invalid opcode).
    const words =
      'BUG|WARNING|Oops|Call Trace|general protection|soft lockup|hung task|rcu:.*stall|I/O error|EXT4-fs error|clocksource.*unstable|MCE|bad page|double fault|unhandled|corrupt';
    equal(await script(guest, `dmesg | grep -E '${words}' || true`), '');
  },
};
