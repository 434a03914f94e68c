import { openAsBlob, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { createProcessor } from '../../emulator/cpu/processor.ts';
import { openDisk } from '../../emulator/disk/open.ts';
import { Machine, type MachineExit } from '../../emulator/machine.ts';
import type { Tier } from '../../emulator/processor.ts';
import { describeExit, LinuxVM, type VmState } from '../../src/node.ts';
import { equal, limit, sleep, text } from './check.ts';
import { Typist } from './terminal.ts';

export const BOOT = 180_000;
const WORK = 300_000;

/** A disk that is built, and how to run it. */
export interface Place {
  directory: string;
  tier: Tier;
}

export interface MachineCheck {
  name: string;
  work(place: Place): Promise<void>;
}

async function boot({ directory, tier }: Place): Promise<LinuxVM> {
  const disk = pathToFileURL(join(directory, 'manifest.json')).href;
  const vm = await LinuxVM.start({ disk, memory: 256, tier });
  try {
    await limit(vm.ready, BOOT, 'the boot');
    return vm;
  } catch (error) {
    await vm.stop();
    throw error;
  }
}

/** SHA-256 of the numbers to 400,000, a line each. */
const SUM = '88d1bf216a4a23b8ef0ad575bf91511a3929458e2babeed31ff8a89f7c5dbac3';

/** The state of a machine is taken while it works, and both go on to the same end. */
async function saveInTheMiddle(place: Place): Promise<void> {
  const vm = await boot(place);
  let again: LinuxVM | undefined;
  try {
    const work =
      'seq 1 400000 | tee /root/seq | sha256sum > /root/sum; sync; cmp <(seq 1 400000) /root/seq; echo $? > /root/done';
    await vm.run(['bash', '-c', `(${work}) > /dev/null 2>&1 &`]);
    const state = await vm.saveState();
    const result = async (guest: LinuxVM): Promise<string> => {
      const wait =
        'test ! -e /root/done; echo $?; while ! [ -s /root/done ]; do sleep 0.2; done; cat /root/sum /root/done';
      const { status, stdout, stderr } = await guest.run(['bash', '-c', wait]);
      if (status !== 0) throw new Error(text(stderr));
      return text(stdout);
    };
    const first = await limit(result(vm), WORK, 'the first machine');
    await vm.stop();
    again = await LinuxVM.restore(state, { tier: place.tier });
    const second = await limit(result(again), WORK, 'the restored machine');
    const clock = Number(text((await again.run(['date', '+%s'])).stdout)) * 1000;
    if (Math.abs(clock - Date.now()) > 5000) throw new Error(`its clock is ${(clock - Date.now()) / 1000} s off`);
    // 0: it was not done yet.
    equal(second, `0\n${SUM}  -\n0\n`);
    equal(second, first);
  } finally {
    await vm.stop();
    await again?.stop();
  }
}

interface Ending {
  command: string;
  reason: string;
  message?: RegExp;
}

const ENDINGS: readonly Ending[] = [
  { command: 'poweroff', reason: 'poweroff' },
  { command: 'reboot', reason: 'reset' },
  { command: 'echo triple > /sys/kernel/reboot/type; reboot -f', reason: 'triple-fault' },
  { command: 'echo c > /proc/sysrq-trigger', reason: 'panic', message: /sysrq/i },
];

/** However the guest ends, what waits for it hears of it, and what comes later as well. */
async function ending(place: Place, { command, reason, message }: Ending): Promise<void> {
  const vm = await boot(place);
  try {
    const states: VmState[] = [];
    vm.on('state', (state) => states.push(state));
    const name = (work: Promise<unknown>): Promise<string> =>
      work.then(
        () => 'it answered',
        (error: Error) => error.name,
      );
    const sleeper = await vm.spawn(['sleep', '1000']);
    const pending = [name(vm.run(['sleep', '1000'])), name(sleeper.exit), name(vm.fs.readFile('/dev/hvc0'))];
    const reader = vm.console.readable.getReader();
    const drained = (async () => {
      while (!(await reader.read()).done);
    })();
    vm.run(['bash', '-c', command]).catch(() => undefined);
    const exit = await limit(vm.exited, 60_000, command);
    equal(exit.reason, reason);
    if (message && !message.test(exit.message ?? '')) throw new Error(`it said: ${describeExit(exit)}`);
    equal(states.join(), 'stopped');
    equal(vm.state, 'stopped');
    const settled = await limit(Promise.all(pending), 5000, 'what was under way');
    // An orderly end kills the programs first; then they have answered.
    for (const one of settled) if (!/^(VmStoppedError|AgentError|it answered)$/.test(one)) throw new Error(one);
    await limit(drained, 5000, "the console's end");
    const late = [vm.run(['true']), vm.spawn(['true']), vm.fs.stat('/'), vm.saveState()].map(name);
    equal((await limit(Promise.all(late), 5000, 'later calls')).join(), Array(4).fill('VmStoppedError').join());
    if (!((await vm.stats()).processor.instructions > 1e6)) throw new Error('it has no last counters');
    equal((await vm.stop()).reason, reason);
  } finally {
    await vm.stop();
  }
}

interface Run {
  /** Instructions before each piece of console output. */
  times: number[];
  console: string;
  exit: MachineExit;
}

/** One deterministic machine: to the prompt, through some commands typed there, to its end. */
async function deterministicRun({ directory, tier }: Place): Promise<Run> {
  const manifest = JSON.parse(readFileSync(join(directory, 'manifest.json'), 'utf8')) as {
    name: string;
    cmdline: string;
  };
  const file = (name: string): Uint8Array => new Uint8Array(readFileSync(join(directory, name)));
  const disk = await openDisk(await openAsBlob(join(directory, `${manifest.name}.ext2`)));
  const run: Run = { times: [], console: '', exit: { reason: 'error' } };
  let typed = false;
  const machine = await Machine.create({
    createProcessor,
    memory: 256 << 20,
    tier,
    deterministic: true,
    kernel: file('vmlinux'),
    initrd: file('initramfs.gz'),
    cmdline: manifest.cmdline,
    disks: [disk.device],
    events: {
      console: (bytes) => {
        run.console += new TextDecoder().decode(bytes);
        run.times.push(machine.processor.stats.instructions);
        if (typed || !/root@\S*# $/.test(run.console)) return;
        typed = true;
        const lines =
          'echo $RANDOM $$; date +%s.%N; head -c 8 /dev/urandom | od -x; sleep 0.3; sha256sum /bin/bash; poweroff -f\n';
        void machine.writeConsole(new TextEncoder().encode(lines));
      },
    },
  });
  try {
    machine.start();
    run.exit = await limit(machine.stopped, BOOT + WORK, 'a deterministic machine');
    return run;
  } finally {
    machine.stop();
  }
}

async function deterministic(place: Place): Promise<void> {
  const first = await deterministicRun(place);
  const second = await deterministicRun(place);
  equal(first.exit.reason, 'poweroff');
  if (!/[0-9a-f]{64} +\/bin\/bash/.test(first.console)) throw new Error(first.console.slice(-500));
  equal(`${second.console}${second.times.join()}`, `${first.console}${first.times.join()}`);
}

/** The console itself: what xterm.js is joined to. */
async function consoleWorks(place: Place): Promise<void> {
  const vm = await boot(place);
  try {
    const typist = new Typist((typed) => vm.console.write(typed));
    const decoder = new TextDecoder();
    vm.console.onData((bytes) => typist.receive(decoder.decode(bytes, { stream: true })));
    await typist.expect(/[#$] $/);
    equal(await typist.command('stty size'), '24 80\n');
    vm.console.resize(120, 50);
    await sleep(500);
    equal(await typist.command('stty size'), '50 120\n');
    typist.type('sleep 1000\r');
    await vm.run(['timeout', '30', 'sh', '-c', 'until pgrep -x sleep > /dev/null; do sleep 0.05; done']);
    typist.type('\x03');
    await typist.expect(/\^C[^]*[#$] $/);
    typist.type('echo status $?\r');
    await typist.expect(/status 130\r\n/);
    equal(await typist.command("printf 'žluťoučký 🐧\\n'"), 'žluťoučký 🐧\n');
    // More than any buffer on the way holds.
    const long = await typist.command('seq 1 50000');
    equal(String(long.split('\n').length), '50001');
    // A shell that ends is followed by another.
    typist.type('exit\r');
    await typist.expect(/logout[^]*[#$] $/);
    equal(await typist.command('tty'), '/dev/hvc0\n');
  } finally {
    await vm.stop();
  }
}

/** At the prompt: at most 2 % of a core, in the best of a few stretches, since tests share their host. */
/** Instructions a second of a guest that has nothing to do: 40,000 to 70,000; a tick of 250 Hz alone is 750,000. */
const IDLE = 400_000;

async function idles(place: Place): Promise<void> {
  const vm = await boot(place);
  try {
    const rates: number[] = [];
    do {
      const before = await vm.stats();
      await sleep(5000);
      const after = await vm.stats();
      const done = after.processor.instructions - before.processor.instructions;
      rates.push(done / (after.seconds - before.seconds));
      // What the boot began goes on for some seconds, and for longer on a busy host.
    } while (rates.at(-1)! > IDLE && rates.length < 6);
    if (rates.at(-1)! > IDLE)
      throw new Error(`an idle guest runs ${rates.map((n) => Math.round(n)).join(', ')} instructions a second`);
  } finally {
    await vm.stop();
  }
}

export const MACHINE: readonly MachineCheck[] = [
  { name: 'the console: size, Ctrl-C, UTF-8, a flood, a new shell', work: consoleWorks },
  { name: 'a state saved in the middle of work goes on elsewhere', work: saveInTheMiddle },
  ...ENDINGS.map((one) => ({
    name: `"${one.command}" ends the machine: ${one.reason}`,
    work: (place: Place) => ending(place, one),
  })),
  { name: 'two deterministic runs are equal', work: deterministic },
  { name: 'an idle guest idles', work: idles },
];
