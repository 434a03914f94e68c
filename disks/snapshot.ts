/**
 * The machine at its prompt: boots a built disk, makes its memory small, and writes what is left beside the disk, the
 * pages that a resume touches first in front. The machine is deterministic, so that the same disk gives the same snapshot.
 */
import { createHash } from 'node:crypto';
import { existsSync, openAsBlob, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { createProcessor } from '../emulator/cpu/processor.ts';
import type { DiskManifest, ManifestSnapshot } from '../emulator/disk/manifest.ts';
import { openDisk, type OpenDisk } from '../emulator/disk/open.ts';
import type { OverlayState } from '../emulator/disk/overlay.ts';
import { Machine, type MachineState } from '../emulator/machine.ts';
import { BLOCK_PAGES, PAGE_SIZE } from '../emulator/machine-state.ts';
import { encodeSnapshot, SNAPSHOT_FORMAT, type Snapshot } from '../emulator/snapshot.ts';
import { AgentClient } from '../src/agent/client.ts';

/** What a page asks for when nobody says otherwise. */
const MEMORY = 512 * 2 ** 20;
const CHUNK_PAGES = 64;
/** Pages that stay free while the balloon takes the others: the kernel's reserves. */
const MARGIN = 1500;
const PROMPT = /[#$] $/;
/** Ctrl+U. */
const KILL_LINE = '\x15';
/** Programs whose files, and what they need, shall be in memory: people start them first. */
const WARM = ["python3 -c 'print(2**100)'", 'ls -l / | cat', 'ps aux | cat', 'cat /etc/os-release | less -F | cat'];
/** Typed in the rehearsal, one after the other, after the prompt. */
const REHEARSED = ["python3 -c 'print(2**100)'", 'ls -l /', 'cat /etc/os-release', 'ps aux'];

/** A machine of the builder, with its console and agent. It stands still while what it has said is dealt with. */
class Bench {
  console = '';
  raw: Uint8Array[] = [];
  private agentData: (bytes: Uint8Array) => void = () => undefined;
  private waiting: { pattern: RegExp; done(): void } | undefined;

  private constructor(
    readonly machine: Machine,
    attach: { console(bytes: Uint8Array): void; agent(bytes: Uint8Array): void },
  ) {
    attach.console = (bytes) => {
      this.raw.push(bytes);
      this.console += new TextDecoder().decode(bytes);
      this.standStill();
      if (this.waiting?.pattern.test(this.console)) this.waiting.done();
    };
    attach.agent = (bytes) => {
      this.standStill();
      this.agentData(bytes);
    };
  }

  /** The agent; a machine that is restored forgets what was sent before. */
  connect(nonce: number): AgentClient {
    return new AgentClient(
      {
        write: (bytes) => void this.machine.writeAgent(bytes),
        onData: (listener) => (this.agentData = listener),
        onClose: () => undefined,
      },
      nonce,
    );
  }

  static async create(directory: string, manifest: DiskManifest, disk: OpenDisk, kernel: boolean): Promise<Bench> {
    const nobody = (): undefined => undefined;
    const attach: { console(bytes: Uint8Array): void; agent(bytes: Uint8Array): void } = {
      console: nobody,
      agent: nobody,
    };
    const file = (name: string): Uint8Array => new Uint8Array(readFileSync(join(directory, name)));
    const machine = await Machine.create({
      createProcessor,
      memory: MEMORY,
      deterministic: true,
      ...(kernel && { kernel: file('vmlinux'), initrd: file('initramfs.gz'), cmdline: manifest.cmdline }),
      disks: [disk.device],
      events: { console: (bytes) => attach.console(bytes), agent: (bytes) => attach.agent(bytes) },
    });
    return new Bench(machine, attach);
  }

  /** Answers come from promises, at a time that depends on the host: the guest's own must not pass meanwhile. */
  private standStill(): void {
    if (this.machine.status !== 'running') return;
    this.machine.pause();
    setImmediate(() => this.machine.resume());
  }

  /** Resolves when the console shows the pattern; what was there before is forgotten. */
  async shows(pattern: RegExp, act: () => void): Promise<void> {
    this.console = '';
    const shown = new Promise<void>((resolve) => (this.waiting = { pattern, done: resolve }));
    const ended = this.machine.stopped.then((exit) => {
      throw new Error(`the machine for the snapshot ended: ${exit.reason} ${exit.message ?? ''}\n${this.console}`);
    });
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(
        () => reject(new Error(`the machine for the snapshot does not get on; it says:\n${this.console}`)),
        120_000,
      );
    });
    act();
    try {
      await Promise.race([shown, ended, late]);
    } finally {
      clearTimeout(timer);
      this.waiting = undefined;
    }
  }

  type(text: string): void {
    void this.machine.writeConsole(new TextEncoder().encode(text));
  }
}

/** Runs a command. @throws Error with what it said when it fails */
async function sh(agent: AgentClient, command: string): Promise<string> {
  const { status, stdout, stderr } = await agent.run(['sh', '-c', command]);
  const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);
  if (status !== 0) throw new Error(`"${command}" in the machine for the snapshot failed: ${text(stderr)}`);
  return text(stdout);
}

/** Lets the balloon take all free pages, which makes them zero, and gives them back. */
async function clearFreePages({ balloon }: Machine, agent: AgentClient): Promise<void> {
  const free = Number(/MemFree: +(\d+)/.exec(await sh(agent, 'cat /proc/meminfo'))?.[1]) / 4;
  const settles = async (pages: number): Promise<void> => {
    balloon.target = pages;
    for (let tries = 0; balloon.actual !== pages && tries < 30; tries++) await sh(agent, 'sleep 0.1');
  };
  await settles(Math.max(0, Math.floor(free - MARGIN)));
  await settles(0);
}

interface Taken {
  state: MachineState;
  overlay: OverlayState;
  console: Uint8Array;
}

/** Boots, and takes the machine at its prompt. */
async function take(directory: string, manifest: DiskManifest, disk: OpenDisk): Promise<Taken> {
  const bench = await Bench.create(directory, manifest, disk, true);
  const { machine } = bench;
  try {
    await bench.shows(PROMPT, () => machine.start());
    const screen = new Uint8Array(Buffer.concat(bench.raw));
    const agent = bench.connect(1);
    for (const command of WARM) await sh(agent, command);
    await sh(agent, 'sync');
    await clearFreePages(machine, agent);
    const state = await machine.save();
    return { state, overlay: await disk.device.exportState(), console: screen };
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
  /** How many of them were touched until a typed character was echoed. */
  first: number;
}

/** Resumes page by page and does what a visitor does, to see which pages that needs. */
async function rehearse(
  directory: string,
  manifest: DiskManifest,
  disk: OpenDisk,
  { state, overlay }: Taken,
): Promise<Order> {
  disk.device.importState(structuredClone(overlay));
  const bench = await Bench.create(directory, manifest, disk, false);
  const { machine } = bench;
  const { pages } = state.memory;
  const touched: number[] = [];
  machine.resumeFrom(
    {
      ...state,
      memory: {
        size: state.memory.size,
        table: { chunkPages: 1, pages, slots: Uint32Array.from(pages, (_, index) => index) },
      },
    },
    (index) => {
      touched.push(pages[index]!);
      return Promise.resolve(page(state, index));
    },
  );
  try {
    machine.resize(100, 30);
    const identity = { seed: new Uint8Array(64), machineId: '0'.repeat(32), mac: Uint8Array.of(2, 0, 0, 0, 0, 1) };
    const refreshed = bench.connect(2).refresh(Date.UTC(2026, 0, 1), { ...identity, hostname: 'debian' });
    await bench.shows(/x$/, () => {
      machine.start();
      bench.type('x');
    });
    await refreshed;
    const first = touched.length;
    for (const command of REHEARSED) await bench.shows(PROMPT, () => bench.type(`${KILL_LINE}${command}\r`));
    return { touched: [...new Set(touched)], first };
  } finally {
    machine.stop();
  }
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** Writes `bytes`, compressed, under the name of their SHA-256. @returns that, and the file as stored */
function writeChunk(directory: string, bytes: Uint8Array): { name: string; stored: Uint8Array } {
  const name = sha256(bytes);
  const stored = gzipSync(bytes, { level: 9 });
  const path = join(directory, name);
  writeFileSync(`${path}.part`, stored);
  renameSync(`${path}.part`, path);
  return { name, stored };
}

/**
 * Makes the snapshot of the disk in `directory`, writes its chunks beside the disk's, and removes those of an earlier one.
 * @returns what belongs into the manifest, and one line for people
 */
export async function writeSnapshot(
  directory: string,
  manifest: DiskManifest,
): Promise<{ snapshot: ManifestSnapshot; summary: string }> {
  const image = join(directory, manifest.image?.url ?? `${manifest.name}.ext2`);
  const open = async (): Promise<OpenDisk> => openDisk(await openAsBlob(image));
  const taken = await take(directory, manifest, await open());
  const { state, overlay, console } = taken;
  const order = await rehearse(directory, manifest, await open(), taken);

  const index = new Map<number, number>();
  state.memory.pages.forEach((number, i) => index.set(number, i));
  const numbers = new Set(order.touched);
  for (const number of state.memory.pages) numbers.add(number);
  // Equal pages share a slot, the first one's.
  const distinct: Uint8Array[] = [];
  const slotOf = new Map<string, number>();
  const firstPages = new Set(order.touched.slice(0, order.first));
  let firstSlots = 0;
  const entries: [slot: number, page: number][] = [];
  for (const number of numbers) {
    const bytes = page(state, index.get(number)!);
    const hash = sha256(bytes);
    let slot = slotOf.get(hash);
    if (slot === undefined) {
      slot = distinct.push(bytes) - 1;
      slotOf.set(hash, slot);
    }
    if (firstPages.has(number)) firstSlots = Math.max(firstSlots, slot + 1);
    entries.push([slot, number]);
  }
  entries.sort(([a, x], [b, y]) => a - b || x - y);
  const table = {
    chunkPages: CHUNK_PAGES,
    pages: Uint32Array.from(entries, ([, number]) => number),
    slots: Uint32Array.from(entries, ([slot]) => slot),
  };
  const snapshot: Snapshot = { state: { ...state, memory: { size: state.memory.size, table } }, overlay, console };

  const folder = join(directory, 'chunks');
  const chunks: string[] = [];
  const sizes: number[] = [];
  for (let at = 0; at < distinct.length; at += CHUNK_PAGES) {
    const { name, stored } = writeChunk(folder, Buffer.concat(distinct.slice(at, at + CHUNK_PAGES)));
    chunks.push(name);
    sizes.push(stored.length);
  }
  const rest = writeChunk(folder, encodeSnapshot(snapshot));
  const used = new Set<string | null>([...manifest.chunks, ...chunks, rest.name]);
  for (const name of readdirSync(folder)) if (!used.has(name)) rmSync(join(folder, name));
  const firstChunks = Math.ceil(firstSlots / CHUNK_PAGES);
  const mb = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;
  const sum = (list: number[]): number => list.reduce((total, each) => total + each, 0);
  return {
    snapshot: {
      format: SNAPSHOT_FORMAT,
      memory: MEMORY,
      state: {
        url: `chunks/${rest.name}`,
        size: rest.stored.length,
        sha256: sha256(rest.stored),
        compression: 'gzip',
      },
      size: distinct.length * PAGE_SIZE,
      chunkSize: CHUNK_PAGES * PAGE_SIZE,
      chunks,
      firstChunks,
    },
    summary:
      `snapshot of ${numbers.size} pages, ${distinct.length} distinct, ${mb(sum(sizes))}; ` +
      `before the first typed character: ${order.first} pages in ${firstChunks} chunks of ${mb(sum(sizes.slice(0, firstChunks)))} ` +
      `and ${mb(rest.stored.length)} of state; with ${REHEARSED.length} commands ${order.touched.length} pages`,
  };
}

/** Puts a snapshot into the manifest of a built disk. */
export async function addSnapshot(directory: string): Promise<string> {
  const path = join(directory, 'manifest.json');
  if (!existsSync(path)) throw new Error(`there is no disk in ${directory}`);
  const manifest = JSON.parse(readFileSync(path, 'utf8')) as DiskManifest;
  const { snapshot, summary } = await writeSnapshot(directory, manifest);
  writeFileSync(`${path}.part`, JSON.stringify({ ...manifest, snapshot }));
  renameSync(`${path}.part`, path);
  return summary;
}
