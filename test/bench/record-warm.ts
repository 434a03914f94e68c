/**
 * `npx tsx test/bench/record-warm.ts`: boots the `debian` disk, runs a few programs, and writes the instruction shapes that
 * were decoded to emulator/cpu/warm.ts. Run it when definitions, shapes or the disk change much.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { createProcessor, type X86Processor } from '../../emulator/cpu/processor.ts';
import { Machine } from '../../emulator/machine.ts';
import { MemorySource } from '../../emulator/disk/memory.ts';
import { MemoryStore, Overlay } from '../../emulator/disk/overlay.ts';
import { BlockCache } from '../../emulator/disk/cache.ts';

const DISK = 'build/disks/debian';
const TARGET = 'emulator/cpu/warm.ts';
const PROMPT = /root@[^ ]*[#$] $/;
const COMMANDS = [
  `python3 -c 'import json, hashlib, re, random, decimal, asyncio, email, unittest; print(2**100, random.random() ** .5)'`,
  'apt list --installed 2>/dev/null | tail -3; ls -la /usr/bin | sort | tail -2; perl -v | head -2; ps aux | tail -2',
  'gzip -9 < /bin/bash | sha256sum; ip addr; df -h; date',
];

const image = new Uint8Array(readFileSync(`${DISK}/debian.ext2`));
const manifest = JSON.parse(readFileSync(`${DISK}/manifest.json`, 'utf8')) as { cmdline: string };
let cpu: X86Processor | undefined;
let screen = '';
const machine = await Machine.create({
  createProcessor: (host, bytes, tier) => {
    cpu = createProcessor(host, bytes, tier) as X86Processor;
    cpu.code.handlers.recorded = new Set();
    return cpu;
  },
  memory: 512 * 2 ** 20,
  kernel: new Uint8Array(readFileSync(`${DISK}/vmlinux`)),
  initrd: new Uint8Array(readFileSync(`${DISK}/initramfs.gz`)),
  cmdline: manifest.cmdline,
  disks: [await Overlay.open(new BlockCache(new MemorySource(image)), new MemoryStore())],
  events: { console: (bytes) => (screen += new TextDecoder().decode(bytes)) },
});
machine.start();
const prompt = async (): Promise<void> => {
  while (!PROMPT.test(screen)) await new Promise((resolve) => setTimeout(resolve, 100));
  screen = '';
};
await prompt();
for (const command of COMMANDS) {
  await machine.writeConsole(new TextEncoder().encode(`${command}\n`));
  await prompt();
}
machine.stop();
const text = readFileSync(TARGET, 'utf8');
const head = text.slice(0, text.indexOf('export const'));
const lines: string[] = [];
let line = '';
for (const sample of [...cpu!.code.handlers.recorded!].sort()) {
  if (line.length + sample.length > 112) {
    lines.push(line.trim());
    line = '';
  }
  line += ` ${sample}`;
}
writeFileSync(TARGET, `${head}export const WARM = \`\n${[...lines, line.trim()].join('\n')}\`;\n`);
