import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  mkdtempSync,
  openAsBlob,
  openSync,
  readFileSync,
  rmSync,
  writeSync,
  closeSync,
  constants,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { createProcessor } from '../../emulator/cpu/processor.ts';
import type { DiskManifest } from '../../emulator/disk/manifest.ts';
import { openDisk } from '../../emulator/disk/open.ts';
import { Machine } from '../../emulator/machine.ts';
import { SnapshotSource } from '../../emulator/snapshot.ts';
import { fileFetch } from '../../src/cli/file-fetch.ts';
import { LinuxVM, type LinuxVMOptions } from '../../src/node.ts';
import { equal, limit, match, text } from './check.ts';
import { BOOT, type MachineCheck, type Place } from './machine.ts';
import { Typist } from './terminal.ts';

const manifestUrl = (directory: string): string => pathToFileURL(join(directory, 'manifest.json')).href;

async function start({ directory, tier }: Place, options: Partial<LinuxVMOptions> = {}): Promise<LinuxVM> {
  return LinuxVM.start({ disk: manifestUrl(directory), memory: 512, tier, ...options });
}

async function script(vm: LinuxVM, lines: string): Promise<string> {
  const { status, stdout, stderr } = await vm.run(['bash', '-ec', lines]);
  if (status !== 0) throw new Error(text(stderr));
  return text(stdout);
}

/** What somebody sees who opens the page. */
async function prompt(place: Place): Promise<void> {
  const vm = await start(place, { columns: 111, rows: 33, hostname: 'lesson-1' });
  try {
    equal(vm.origin.from, 'snapshot');
    const typist = new Typist((typed) => vm.console.write(typed));
    const decoder = new TextDecoder();
    vm.console.onData((bytes) => typist.receive(decoder.decode(bytes, { stream: true })));
    await typist.expect(/root@debian:~# /);
    equal(await typist.command('stty size; python3 -c "print(2**100)"'), '33 111\n1267650600228229401496703205376\n');
    await limit(vm.ready, BOOT, 'the agent');
    equal(await script(vm, 'hostname'), 'lesson-1\n');
    const clock = Number(await script(vm, 'date +%s')) * 1000;
    if (Math.abs(clock - Date.now()) > 5000) throw new Error(`its clock is ${(clock - Date.now()) / 1000} s off`);
    match(await script(vm, 'apt list --installed 2>/dev/null'), /^python3\//m);
    // That there is no PCI is no fault.
    equal(await script(vm, 'dmesg --level=emerg,alert,crit,err | grep -v "PCI: Fatal" || true'), '');
    // Of the memory, part is still to come: it is fetched for the state, which goes on elsewhere.
    await script(vm, 'echo kept > /run/kept');
    const again = await LinuxVM.restore(await vm.saveState(), { tier: place.tier });
    try {
      equal(again.origin.from, 'state');
      equal(await script(again, 'cat /run/kept; hostname'), 'kept\nlesson-1\n');
    } finally {
      await again.stop();
    }
    equal(String((await vm.stats()).snapshot?.complete), 'true');
  } finally {
    await vm.stop();
  }
}

/** What must not be the same in two machines from one snapshot. */
async function different(place: Place): Promise<void> {
  const seen: string[][] = [];
  for (let i = 0; i < 2; i++) {
    const vm = await start(place);
    try {
      equal(vm.origin.from, 'snapshot');
      const lines = await script(
        vm,
        'head -c 16 /dev/urandom | od -An -tx8; cat /etc/machine-id /proc/sys/kernel/random/uuid /sys/class/net/eth0/address',
      );
      seen.push(lines.trim().split('\n'));
    } finally {
      await vm.stop();
    }
  }
  const [first, second] = seen;
  equal(String(first!.length), '4');
  match(first![1]!, /^[0-9a-f]{32}$/);
  const same = first!.filter((line, i) => line === second![i]);
  if (same.length) throw new Error(`both machines have ${same.join(', ')}`);
}

/** Where the snapshot does not fit the machine boots, and says why. */
async function cold(place: Place): Promise<void> {
  for (const [options, note] of [
    [{ boot: 'cold' }, /^undefined$/],
    [{ memory: 256 }, /512 MiB of memory, not 256/],
    [{ append: 'quiet' }, /"append"/],
  ] as [Partial<LinuxVMOptions>, RegExp][]) {
    const vm = await start(place, options);
    try {
      equal(vm.origin.from, 'boot');
      match(String(vm.origin.note), note);
    } finally {
      await vm.stop();
    }
  }
}

/** The file system of a machine that went on from the snapshot, wrote, and was switched off. */
async function consistent({ directory, tier }: Place): Promise<void> {
  const manifest = JSON.parse(readFileSync(join(directory, 'manifest.json'), 'utf8')) as DiskManifest;
  if (!manifest.snapshot) throw new Error('the disk has no snapshot: npm run disk -- --snapshot debian');
  const image = join(directory, manifest.image!.url);
  const disk = await openDisk(await openAsBlob(image));
  const source = new SnapshotSource(manifest, manifest.snapshot, manifestUrl(directory), 'prompt', {
    policy: { fetch: fileFetch },
  });
  const machine = await Machine.create({
    createProcessor,
    memory: manifest.snapshot.memory,
    tier,
    disks: [disk.device],
  });
  const folder = mkdtempSync(join(tmpdir(), 'resume-'));
  try {
    const { state, overlay } = await source.state();
    machine.resumeFrom(state, (chunk) => source.chunk(chunk));
    disk.device.importState(overlay);
    machine.start();
    const lines = 'seq 1 100000 > /root/numbers; rm -r /usr/share/doc; mkdir /root/new; poweroff\n';
    await machine.writeConsole(new TextEncoder().encode(lines));
    const exit = await limit(machine.stopped, BOOT, 'the power-off');
    equal(exit.reason, 'poweroff');
    const copy = join(folder, 'image');
    copyFileSync(image, copy, constants.COPYFILE_FICLONE);
    const file = openSync(copy, 'r+');
    const { blockSize, blocks } = await disk.device.exportState();
    for (const [block, bytes] of blocks)
      writeSync(file, bytes ?? new Uint8Array(blockSize), 0, blockSize, block * blockSize);
    closeSync(file);
    const env = { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` };
    execFileSync('e2fsck', ['-fn', copy], { env, stdio: ['ignore', 'ignore', 'pipe'] });
    match(execFileSync('debugfs', ['-R', 'stat /root/numbers', copy], { env, encoding: 'utf8' }), /Size: 588895/);
  } finally {
    machine.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

export const RESUME: readonly MachineCheck[] = [
  { name: 'goes on from the snapshot: prompt, size, programs, clock, log', work: prompt },
  { name: 'two machines from one snapshot differ in random numbers, machine-id and address', work: different },
  { name: 'boots where the snapshot does not fit', work: cold },
  { name: 'the disk after a resume and a power-off is consistent', work: consistent },
];
