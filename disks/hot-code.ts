/**
 * Which code usual programs run often: they run in a machine that goes on from the disk's snapshot, in the interpreter, which counts.
 * Only what is in memory from the start is of interest, for it is at the same place in each machine.
 */
import { createHash } from 'node:crypto';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { encodeHotCode, type HotBlock, type HotPage, NOWHERE, pageChecksum } from '../emulator/cpu/hot-code.ts';
import { Mode, RAM_BASE } from '../emulator/cpu/layout.ts';
import { X86Processor } from '../emulator/cpu/processor.ts';
import type { ManifestFile } from '../emulator/disk/manifest.ts';
import { Bench, MEMORY, readManifest, replaceManifest } from './bench.ts';
import { writeWhole } from './write-whole.ts';

/** Runs below which a block is none of a region that is compiled ahead. */
const LEAST_RUNS = 300;
/** Pages from one to another of the same program or library. */
const NEAR = 2000;

/**
 * Where physical pages lie beside each other in linear space, as numbers of linear pages in 31 bits. The same page is at another
 * place in each address space, but at the same distance from the others of its file; each keeps the place that fits the first ones.
 */
class LinearPages {
  private readonly places = new Map<number, number>();
  /** By address space: physical pages, and where they are there. */
  private readonly seen = new Map<number, Map<number, number>>();

  note(space: number, physical: number, lo: number, hi: number): void {
    let known = this.seen.get(space);
    if (!known) this.seen.set(space, (known = new Map()));
    const linear = (hi >>> 0) * 2 ** 20 + (lo >>> 12);
    if (known.get(physical) === linear) return;
    known.set(physical, linear);
    if (this.places.has(physical)) return;
    for (const [other, there] of known) {
      const place = this.places.get(other);
      if (place === undefined || Math.abs(there - linear) > NEAR) continue;
      this.places.set(physical, place + linear - there);
      return;
    }
    this.places.set(physical, linear);
  }

  of(physical: number): number {
    const place = this.places.get(physical);
    return place === undefined ? NOWHERE : place % 2 ** 31;
  }
}

function hotPages(cpu: X86Processor, linear: LinearPages, before: readonly number[]): HotPage[] {
  const out: HotPage[] = [];
  const { code } = cpu;
  for (const { physical, mode, blocks } of code.allPages()) {
    const checksum = pageChecksum(cpu.i32, (RAM_BASE + physical) >> 2);
    if (mode > Mode.User64 || checksum !== before[physical / 4096]) continue;
    const hot: HotBlock[] = [];
    for (const block of blocks.values()) {
      if (!block.heated || block.raises || block.crosses) continue;
      const runs = code.heat(mode) + code.overdue(block);
      if (runs >= LEAST_RUNS) hot.push({ offset: block.offset, runs, jumpedTo: block.jumpedTo });
    }
    if (hot.length) out.push({ physical, mode, linear: linear.of(physical), checksum, blocks: hot });
  }
  return out;
}

/** Puts the code that is hot when the commands run into the manifest of a built disk with a snapshot. @returns one line for people */
export async function addHotCode(directory: string, commands: readonly string[]): Promise<string> {
  const manifest = readManifest(directory);
  const bench = await Bench.resumed(directory, manifest, { tier: 'interp' });
  const { machine } = bench;
  try {
    const { processor: cpu } = machine;
    if (!(cpu instanceof X86Processor)) throw new Error('the machine has another processor');
    const linear = new LinearPages();
    const { jumps } = cpu.code;
    const remember = jumps.remember.bind(jumps);
    jumps.remember = (mode: Mode, lo: number, hi: number, record: number, global: boolean): void => {
      remember(mode, lo, hi, record, global);
      const block = cpu.code.blockOf(record);
      if (block) linear.note(cpu.cr3Low, block.page.physical, lo, hi);
    };
    const agent = bench.connect(2);
    machine.start();
    machine.fetchRest();
    await bench.sh(agent, 'true');
    while (!machine.stats().memory?.complete) await new Promise((resolve) => setTimeout(resolve, 10));
    const before = Array.from({ length: MEMORY / 4096 }, (_, k) => pageChecksum(cpu.i32, (RAM_BASE >> 2) + k * 1024));
    for (const command of commands) await bench.sh(agent, command);
    machine.pause();
    const pages = hotPages(cpu, linear, before);
    const bytes = gzipSync(encodeHotCode(pages), { level: 9 });
    const sha256 = createHash('sha256').update(bytes).digest('hex');
    const url = `chunks/${sha256}`;
    writeWhole(join(directory, url), bytes);
    const hotCode: ManifestFile = { url, size: bytes.length, sha256, compression: 'gzip' };
    replaceManifest(directory, { ...manifest, hotCode });
    const old = manifest.hotCode?.url;
    if (old !== undefined && old !== url) rmSync(join(directory, old), { force: true });
    const blocks = pages.reduce((sum, page) => sum + page.blocks.length, 0);
    return `${blocks} hot blocks in ${pages.length} pages of what is in memory, ${(bytes.length / 1e3).toFixed(0)} kB`;
  } finally {
    machine.stop();
  }
}
