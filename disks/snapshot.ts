/**
 * The machine at its prompt: boots a built disk, makes its memory small, and writes what is left beside the disk, the
 * pages that a resume touches in one file. The machine is deterministic, so that the same disk gives the same memory; which
 * of it is in that file is found in the host's time, too, and may differ by some pages.
 */
import { createHash } from 'node:crypto';
import { openAsBlob, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import type { DiskManifest, ManifestFile, ManifestSnapshot } from '../emulator/disk/manifest.ts';
import { openDisk, type OpenDisk } from '../emulator/disk/open.ts';
import type { OverlayState } from '../emulator/disk/overlay.ts';
import type { MachineState, PagedState } from '../emulator/machine.ts';
import { BLOCK_PAGES, type FirstPages, PAGE_SIZE } from '../emulator/machine-state.ts';
import type { PageTable } from '../emulator/pager.ts';
import { encodeSnapshot, SNAPSHOT_FORMAT } from '../emulator/snapshot.ts';
import { Traffic } from '../emulator/traffic.ts';
import type { AgentClient } from '../src/agent/client.ts';
import { Bench, MEMORY, type Pace, readManifest, replaceManifest } from './bench.ts';
import { watched } from './watched.ts';
import { writeWhole } from './write-whole.ts';

const compress = promisify(gzip);

const CHUNK_PAGES = 64;
/** Pages that stay free while the balloon takes the others: the kernel's reserves. */
const MARGIN = 1500;
/** Byte of the disk that tells the reads of the superblock. */
const SUPERBLOCK = 1024;
/** Instructions within which partitions have been looked for. */
const PARTITIONS = 2_000_000;
/** Instructions of the longest slice of a deterministic machine. */
const SLICE = 200_000;
const PROMPT = /[#$] $/;
/** Ctrl+U. */
const KILL_LINE = '\x15';
/** Programs whose files, and what they need, shall be in memory: people start them first. */
const WARM = ["python3 -c 'print(2**100)'", 'ls -l / | cat', 'ps aux | cat', 'cat /etc/os-release | less -F | cat'];
/**
 * Guest time in nanoseconds for which a rehearsal goes on when the machine has answered: in a page as much passes until
 * the first echo, with what the guest's timers do meanwhile.
 */
const SETTLED = 400_000_000;
/** Typed in the rehearsal, one after the other, after the prompt; the agent has run them before, as a page does. */
const REHEARSED = ["python3 -c 'print(2**100)'", 'ls -l /', 'cat /etc/os-release', 'ps aux'];

/** No page comes but those that the machine touches. */
const ONLY_TOUCHED = new Traffic(() => true);

/** Lets the balloon take all free pages, which makes them zero, and gives them back. */
async function clearFreePages(bench: Bench, agent: AgentClient): Promise<void> {
  const { balloon } = bench.machine;
  const free = Number(/MemFree: +(\d+)/.exec(await bench.sh(agent, 'cat /proc/meminfo'))?.[1]) / 4;
  const settles = async (pages: number): Promise<void> => {
    balloon.target = pages;
    for (let tries = 0; balloon.actual !== pages && tries < 30; tries++) await bench.sh(agent, 'sleep 0.1');
  };
  await settles(Math.max(0, Math.floor(free - MARGIN)));
  await settles(0);
}

interface Taken {
  state: MachineState;
  overlay: OverlayState;
  console: Uint8Array;
}

/** Boots, and takes the machine at its prompt. @returns also how many instructions had run at the mount's first read */
async function take(
  directory: string,
  manifest: DiskManifest,
  disk: OpenDisk,
): Promise<{ prompt: Taken; mount: number }> {
  // The superblock is read for the search for partitions, and then for the mount.
  const superblock: number[] = [];
  const device = watched(disk.device, (offset, length) => {
    if (offset <= SUPERBLOCK && offset + length > SUPERBLOCK) superblock.push(bench.machine.processor.instructions!);
  });
  const bench = await Bench.create(directory, manifest, device, true);
  const { machine } = bench;
  try {
    await bench.shows(PROMPT, () => machine.start());
    const screen = new Uint8Array(Buffer.concat(bench.raw));
    const agent = bench.connect(1);
    for (const command of WARM) await bench.sh(agent, command);
    await bench.sh(agent, 'sync');
    await clearFreePages(bench, agent);
    const state = await machine.save();
    const mount = superblock.find((instructions) => instructions > superblock[0]! + PARTITIONS);
    if (mount === undefined) throw new Error('the machine for the snapshot has not mounted its disk');
    return { prompt: { state, overlay: await disk.device.exportState(), console: screen }, mount };
  } finally {
    machine.stop();
  }
}

/**
 * Boots again, the same to the last instruction, and takes the machine shortly before it mounts its disk.
 * @param mount instructions until the mount's first read
 */
async function takeKernel(directory: string, manifest: DiskManifest, disk: OpenDisk, mount: number): Promise<Taken> {
  const bench = await Bench.create(directory, manifest, disk.device, true, 'slices');
  const { machine } = bench;
  try {
    machine.start();
    await bench.before(() => machine.processor.instructions! > mount - 2 * SLICE);
    const state = await machine.save();
    if (machine.processor.instructions! >= mount)
      throw new Error('the machine for the snapshot has mounted its disk earlier than before');
    const overlay = await disk.device.exportState();
    if (overlay.blocks.length) throw new Error('the machine for the snapshot has written to its disk before the mount');
    return { state, overlay, console: new Uint8Array(0) };
  } finally {
    machine.stop();
  }
}

function page(state: MachineState, index: number): Uint8Array {
  const at = (index % BLOCK_PAGES) * PAGE_SIZE;
  return state.memory.blocks[Math.floor(index / BLOCK_PAGES)]!.subarray(at, at + PAGE_SIZE);
}

interface Order {
  /** Guest page numbers in the order of their first use. */
  touched: number[];
  /** How many of them were touched until the machine had settled. */
  first: number;
}

/**
 * Resumes page by page and does what a visitor does, to see which pages that needs.
 * @param commands run by the agent and typed, after the machine has settled
 * @param programs run by the agent after that
 */
async function rehearse(
  directory: string,
  manifest: DiskManifest,
  disk: OpenDisk,
  { state, overlay, console }: Taken,
  commands: readonly string[],
  programs: readonly string[],
  pace: Pace = 'slices',
): Promise<Order> {
  if (overlay.blocks.length) disk.device.importState(structuredClone(overlay));
  const bench = await Bench.create(directory, manifest, disk.device, false, pace);
  const { machine } = bench;
  const { pages } = state.memory;
  const touched: number[] = [];
  const table = { chunkPages: 1, pages, slots: Uint32Array.from(pages, (_, index) => index) };
  const first = { pages: new Uint32Array(0), bytes: new Uint8Array(0) };
  const read = (index: number): Promise<Uint8Array> => {
    touched.push(pages[index]!);
    return Promise.resolve(page(state, index));
  };
  machine.resumeFrom({ ...state, memory: { size: state.memory.size, first, table } }, read, ONLY_TOUCHED);
  try {
    machine.resize(100, 30);
    const agent = bench.connect(2);
    const refreshed = agent.refresh(Date.UTC(2026, 0, 1), {
      seed: new Uint8Array(64),
      machineId: '0'.repeat(32),
      mac: Uint8Array.of(2, 0, 0, 0, 0, 1),
      hostname: 'debian',
    });
    if (console.length === 0) await bench.shows(PROMPT, () => machine.start());
    machine.start();
    await refreshed;
    if (pace === 'slices') {
      const settled = machine.clock.now() + SETTLED;
      await bench.before(() => machine.clock.now() >= settled);
    } else await new Promise((resolve) => setTimeout(resolve, SETTLED / 1e6));
    await bench.shows(/x$/, () => {
      machine.resume();
      bench.type('x');
    });
    const count = touched.length;
    for (const command of commands) await bench.sh(agent, command);
    for (const command of commands) await bench.shows(PROMPT, () => bench.type(`${KILL_LINE}${command}\r`));
    for (const program of programs) await bench.sh(agent, program);
    return { touched: [...new Set(touched)], first: count };
  } finally {
    machine.stop();
  }
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** A machine's pages that are needed at once, and the contents of a page. */
function firstPages(state: MachineState, numbers: readonly number[]): FirstPages {
  const pages = Uint32Array.from(new Set(numbers)).sort();
  const index = new Map<number, number>();
  state.memory.pages.forEach((number, i) => index.set(number, i));
  return { pages, bytes: Buffer.concat(Array.from(pages, (number) => page(state, index.get(number)!))) };
}

/** The distinct pages of several machines, in the order in which they are to be fetched. */
class PageStore {
  readonly pages: Uint8Array[] = [];
  private readonly slots = new Map<string, number>();

  /** Adds a machine's pages but the first ones: those that it touches next in front. */
  add(state: MachineState, first: FirstPages, touched: readonly number[]): PageTable {
    const { memory } = state;
    const index = new Map<number, number>();
    memory.pages.forEach((number, i) => index.set(number, i));
    const left = new Set([...touched, ...memory.pages]);
    for (const number of first.pages) left.delete(number);
    const entries: [slot: number, page: number][] = [];
    for (const number of left) {
      const bytes = page(state, index.get(number)!);
      const hash = sha256(bytes);
      let slot = this.slots.get(hash);
      if (slot === undefined) {
        slot = this.pages.push(bytes) - 1;
        this.slots.set(hash, slot);
      }
      entries.push([slot, number]);
    }
    entries.sort(([a, x], [b, y]) => a - b || x - y);
    return {
      chunkPages: CHUNK_PAGES,
      pages: Uint32Array.from(entries, ([, number]) => number),
      slots: Uint32Array.from(entries, ([slot]) => slot),
    };
  }
}

/**
 * Makes the snapshots of the disk in `directory`, writes their chunks beside the disk's, and removes those of earlier ones.
 * @param programs see `Recipe.programs`
 * @returns what belongs into the manifest, and one line for people
 */
export async function writeSnapshot(
  directory: string,
  manifest: DiskManifest,
  programs: readonly string[],
): Promise<{ snapshot: ManifestSnapshot; summary: string }> {
  const image = join(directory, manifest.image?.url ?? `${manifest.name}.ext2`);
  const open = async (): Promise<OpenDisk> => openDisk(await openAsBlob(image));
  const { prompt, mount } = await take(directory, manifest, await open());
  const kernel = await takeKernel(directory, manifest, await open(), mount);
  /** What is needed in the host's time, too: timers come more often there, for so many instructions. */
  const needed = async (taken: Taken, { touched, first }: Order): Promise<FirstPages> => {
    const real = await rehearse(directory, manifest, await open(), taken, [], [], 'real');
    return firstPages(taken.state, [...touched.slice(0, first), ...real.touched.slice(0, real.first)]);
  };
  const order = await rehearse(directory, manifest, await open(), prompt, REHEARSED, programs);
  const kernelOrder = await rehearse(directory, manifest, await open(), kernel, [], []);

  const store = new PageStore();
  const first = await needed(prompt, order);
  const kernelFirst = await needed(kernel, kernelOrder);
  const table = store.add(prompt.state, first, order.touched);
  const kernelTable = store.add(kernel.state, kernelFirst, kernelOrder.touched);
  const folder = join(directory, 'chunks');
  const used = new Set<string | null>(manifest.chunks);
  const write = async (bytes: Uint8Array): Promise<{ name: string; stored: Uint8Array }> => {
    const name = sha256(bytes);
    const stored = await compress(bytes, { level: 9 });
    used.add(name);
    writeWhole(join(folder, name), stored);
    return { name, stored };
  };
  const parts: Promise<{ name: string; stored: Uint8Array }>[] = [];
  for (let at = 0; at < store.pages.length; at += CHUNK_PAGES)
    parts.push(write(Buffer.concat(store.pages.slice(at, at + CHUNK_PAGES))));
  const chunks = await Promise.all(parts);
  const stateFile = async (
    { state, overlay, console }: Taken,
    pages: Omit<PagedState['memory'], 'size'>,
  ): Promise<ManifestFile> => {
    const memory = { size: state.memory.size, ...pages };
    const { name, stored } = await write(encodeSnapshot({ state: { ...state, memory }, overlay, console }));
    return { url: `chunks/${name}`, size: stored.length, sha256: sha256(stored), compression: 'gzip' };
  };
  const state = await stateFile(prompt, { first, table });
  const kernelState = await stateFile(kernel, { first: kernelFirst, table: kernelTable });
  for (const name of readdirSync(folder)) if (!used.has(name)) rmSync(join(folder, name));

  const mb = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;
  const sum = (list: { stored: Uint8Array }[]): number => list.reduce((total, { stored }) => total + stored.length, 0);
  return {
    snapshot: {
      format: SNAPSHOT_FORMAT,
      memory: MEMORY,
      state,
      size: store.pages.length * PAGE_SIZE,
      chunkSize: CHUNK_PAGES * PAGE_SIZE,
      chunks: chunks.map(({ name }) => name),
      kernel: { state: kernelState },
    },
    summary:
      `snapshot with ${first.pages.length} pages at once in ${mb(state.size)}, from the mount ` +
      `${kernelFirst.pages.length} in ${mb(kernelState.size)}; ${store.pages.length} distinct others of both in ${mb(sum(chunks))}`,
  };
}

/** Puts a snapshot into the manifest of a built disk. */
export async function addSnapshot(directory: string, programs: readonly string[]): Promise<string> {
  const manifest = readManifest(directory);
  const { snapshot, summary } = await writeSnapshot(directory, manifest, programs);
  // What was found in the machine of another snapshot says nothing of this one.
  replaceManifest(directory, { ...manifest, snapshot, hotCode: undefined });
  return summary;
}
