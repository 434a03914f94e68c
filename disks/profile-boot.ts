/**
 * `npx tsx disks/profile-boot.ts [debian]`: boots a built disk in QEMU, notes what it reads until the prompt and for the
 * first commands, and writes that to boot-profile.txt. Build the disk again afterwards.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { DiskManifest } from '../emulator/disk/manifest.ts';
import { BLOCK_SIZE, type Placement } from './ext2.ts';
import { formatProfile, type Profile } from './profile.ts';
import { PROMPT, startQemu } from './qemu.ts';

/** Typed after the prompt, one after the other. */
const COMMANDS = [
  'ls -l /',
  "python3 -c 'print(2**100)'",
  'apt list --installed | cat',
  'ps aux',
  'ip address',
  'cat /etc/os-release | less -F',
];
const SECTOR = 512;

interface Reads {
  boot: number[];
  later: number[];
}

/** Blocks in the order of their first read. */
async function record(directory: string): Promise<Reads> {
  const reads: Reads = { boot: [], later: [] };
  let list = reads.boot;
  const qemu = startQemu({ directory, extra: ['-trace', 'enable=virtio_blk_handle_read'] });
  let trace = '';
  qemu.stderr!.setEncoding('utf8').on('data', (text: string) => {
    trace += text;
    const lines = trace.split('\n');
    trace = lines.pop()!;
    for (const line of lines) {
      const match = /sector (\d+) nsectors (\d+)/.exec(line);
      if (!match) continue;
      const first = Math.floor((Number(match[1]) * SECTOR) / BLOCK_SIZE);
      const count = Math.ceil((Number(match[2]) * SECTOR) / BLOCK_SIZE);
      for (let block = first; block < first + count; block++) list.push(block);
    }
  });
  let console = '';
  const prompt = () =>
    new Promise<void>((resolve, reject) => {
      const timeout = setTimeout(
        () => reject(new Error(`no prompt within a minute; the console says:\n${console}`)),
        60_000,
      );
      const onData = (text: string) => {
        console += text;
        if (!PROMPT.test(console)) return;
        clearTimeout(timeout);
        qemu.stdout!.off('data', onData);
        console = '';
        resolve();
      };
      qemu.stdout!.on('data', onData);
    });
  qemu.stdout!.setEncoding('utf8');
  try {
    await prompt();
    await new Promise((resolve) => setTimeout(resolve, 300)); // the trace may come a little behind the console
    list = reads.later;
    for (const command of COMMANDS) {
      qemu.stdin!.write(`${command}\r`);
      await prompt();
    }
  } finally {
    qemu.kill();
  }
  return reads;
}

function byFile(blocks: number[], owner: Map<number, { path: string; index: number }>): Profile['boot'] {
  const files = new Map<string, number[]>();
  for (const block of blocks) {
    const found = owner.get(block);
    if (!found) continue; // the file system's own
    const list = files.get(found.path) ?? [];
    list.push(found.index);
    files.set(found.path, list);
  }
  return [...files].map(([path, list]) => ({ path, blocks: list }));
}

const name = process.argv[2] ?? 'debian';
const output = fileURLToPath(new URL('../build/disks/', import.meta.url));
const directory = join(output, name);
if (!existsSync(join(directory, 'manifest.json'))) throw new Error(`build the disk first: npm run disk -- ${name}`);
const manifest = JSON.parse(readFileSync(join(directory, 'manifest.json'), 'utf8')) as DiskManifest;
const placements = JSON.parse(readFileSync(join(output, '.cache', `${name}-layout.json`), 'utf8')) as Placement[];
const owner = new Map(placements.flatMap(({ path, blocks }) => blocks.map((block, index) => [block, { path, index }])));

const { boot, later } = await record(directory);
const chunkOf = (block: number) => Math.floor((block * BLOCK_SIZE) / manifest.chunkSize);
const touched = [...new Set(boot.map(chunkOf))];
const size = (chunk: number) => {
  const hash = manifest.chunks[chunk];
  return hash ? readFileSync(join(directory, 'chunks', hash)).length : 0;
};
const total = (chunks: number[]) => chunks.reduce((sum, chunk) => sum + size(chunk), 0);
const ahead = new Set(manifest.bootChunks);
console.log(
  `until the prompt: ${new Set(boot).size} blocks of ${BLOCK_SIZE}, ${touched.length} chunks, ${total(touched)} bytes compressed; ` +
    `not in bootChunks: ${touched.filter((chunk) => !ahead.has(chunk)).join(' ') || 'none'}; ` +
    `in bootChunks and not read: ${manifest.bootChunks.filter((chunk) => !touched.includes(chunk)).join(' ') || 'none'}`,
);
const all = [...new Set([...boot, ...later].map(chunkOf))];
console.log(`with ${COMMANDS.length} commands: ${all.length} chunks, ${total(all)} bytes compressed`);
const profile: Profile = { boot: byFile(boot, owner), later: [] };
const early = new Set(profile.boot.map(({ path }) => path));
profile.later = byFile(later, owner).filter(({ path }) => !early.has(path));
writeFileSync(fileURLToPath(new URL('boot-profile.txt', import.meta.url)), formatProfile(profile));
