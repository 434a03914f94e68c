import { createHash } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { createProcessor } from '../../emulator/cpu/processor.ts';
import { type ManifestSnapshot, parseManifest } from '../../emulator/disk/manifest.ts';
import { Machine, type MachineState, type PagedState } from '../../emulator/machine.ts';
import type { MachineOptions } from '../../emulator/machine.ts';
import { STATE_VERSION } from '../../emulator/machine-state.ts';
import { decodeSnapshot, encodeSnapshot, misfit, SNAPSHOT_FORMAT, SnapshotSource } from '../../emulator/snapshot.ts';
import { StubProcessor, tinyKernel } from './helpers/stub-processor.ts';

const MEMORY = 4 << 20;
const PAGE = 4096;
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

async function make(options: Partial<MachineOptions> = {}): Promise<{ machine: Machine; cpu: StubProcessor }> {
  let cpu!: StubProcessor;
  const machine = await Machine.create({
    createProcessor: (host, bytes) => (cpu = new StubProcessor(host, bytes)),
    memory: MEMORY,
    ...options,
  });
  return { machine, cpu };
}

/** A saved machine whose pages 5 and 6 hold 5s and 6s, with its RAM apart; page 9 is one of its first. */
async function paged(): Promise<PagedState> {
  const { machine } = await make({ kernel: tinyKernel() });
  const state = structuredClone(await machine.save());
  machine.stop();
  const table = { chunkPages: 1, pages: Uint32Array.of(5, 6), slots: Uint32Array.of(0, 1) };
  const first = { pages: Uint32Array.of(9), bytes: new Uint8Array(PAGE).fill(9) };
  return { ...state, memory: { size: MEMORY, first, table } };
}

/** Chunks that come when the test lets them. */
function chunks() {
  const waiting = new Map<number, () => void>();
  return {
    read: (chunk: number) =>
      new Promise<Uint8Array>((resolve) => waiting.set(chunk, () => resolve(new Uint8Array(PAGE).fill(chunk + 5)))),
    bring: (chunk: number) => waiting.get(chunk)!(),
    asked: waiting,
  };
}

describe('a machine that goes on from a snapshot', () => {
  test('waits for the page that it touches; meanwhile its time stands still', async () => {
    const state = await paged();
    let now = 1000;
    const { machine, cpu } = await make({ now: () => now });
    const source = chunks();
    machine.resumeFrom(state, source.read);
    const times: number[] = [];
    cpu.program = () => {
      times.push(cpu.host.clock.now());
      if (!cpu.memory.present(5 * PAGE, 1)) return 'waiting';
      return 'halted';
    };
    machine.start();
    await sleep(5);
    expect(cpu.runs).toBe(1);
    now += 60_000;
    await sleep(5);
    expect(cpu.runs).toBe(1);
    // The second is fetched ahead.
    expect([...source.asked.keys()]).toEqual([0, 1]);
    source.bring(0);
    await sleep(5);
    expect(cpu.runs).toBe(2);
    expect(times[1]! - times[0]!).toBeLessThan(1e6);
    expect(cpu.memory.read8(5 * PAGE)).toBe(5);
    machine.stop();
  });

  test('is looked at again when something else happens while it waits', async () => {
    const { machine, cpu } = await make();
    machine.resumeFrom(await paged(), chunks().read);
    cpu.program = () => (cpu.memory.present(5 * PAGE, 1) ? 'halted' : 'waiting');
    machine.start();
    await sleep(5);
    machine.wake();
    await sleep(5);
    expect(cpu.runs).toBe(2);
    machine.pause();
    machine.resume();
    await sleep(5);
    expect(cpu.runs).toBe(3);
    machine.stop();
  });

  test('is saved whole: what is still to come is fetched first', async () => {
    const { machine } = await make();
    const source = chunks();
    let complete = 0;
    Object.assign(Reflect.get(machine, 'events') as object, { memoryComplete: () => complete++ });
    machine.resumeFrom(await paged(), source.read);
    let saved: MachineState | undefined;
    const saving = machine.save().then((state) => (saved = state));
    await sleep(5);
    expect([saved, [...source.asked.keys()]]).toEqual([undefined, [0, 1]]);
    source.bring(1);
    source.bring(0);
    await saving;
    expect([...saved!.memory.pages]).toEqual([5, 6, 9]);
    expect(saved!.memory.blocks[0]![PAGE]).toBe(6);
    expect(complete).toBe(1);
    machine.stop();
  });

  test('that ends while it is being saved lets nobody wait', async () => {
    const { machine } = await make();
    machine.resumeFrom(await paged(), chunks().read);
    const saving = machine.save();
    machine.stop();
    await expect(saving).rejects.toThrow(/ended/);
  });

  test('must have the same memory and devices', async () => {
    const state = await paged();
    const { machine } = await make({ memory: 2 * MEMORY });
    expect(() => machine.resumeFrom(state, chunks().read)).toThrow(/4194304 bytes of RAM, this machine has 8388608/);
    const other = await make();
    const devices = state.devices.map((device) => device.replace('virtio-net ', 'virtio-net f'));
    expect(() => other.machine.resumeFrom({ ...state, devices }, chunks().read)).toThrow(/virtio-net/);
  });
});

describe('the file of a snapshot', () => {
  test('comes back as it was written', async () => {
    const snapshot = {
      state: await paged(),
      overlay: { blockSize: 4096, blocks: [[3, null] as [number, null]] },
      console: Uint8Array.of(1, 2),
    };
    expect(decodeSnapshot(encodeSnapshot(snapshot))).toEqual(snapshot);
    expect(() => decodeSnapshot(encodeSnapshot({ ...snapshot, console: undefined as never }))).toThrow(/damaged/);
  });

  /** The names and kinds of all that a state holds, values of maps and lists left out. */
  function shape(value: unknown, depth = 0): unknown {
    if (typeof value !== 'object' || value === null) return typeof value;
    if (Array.isArray(value)) return depth < 5 && value.length ? [shape(value[0], depth + 1)] : 'array';
    if (ArrayBuffer.isView(value) || value instanceof Map || value instanceof Set) return value.constructor.name;
    return Object.fromEntries(
      Object.entries(value)
        .sort(([a], [b]) => (a < b ? -1 : 1))
        .map(([key, item]) => [key, shape(item, depth + 1)]),
    );
  }

  test('a state with other fields has another version', async () => {
    const machine = await Machine.create({ createProcessor, memory: MEMORY, kernel: tinyKernel(), disks: [] });
    const state = await machine.save();
    machine.stop();
    const { devices, ...rest } = state;
    const virtio = rest.virtio.map(({ device, ...transport }) => ({
      transport: shape(transport),
      device: shape(device),
    }));
    const text = JSON.stringify([shape({ ...rest, virtio: [] }), virtio, devices]);
    const hash = createHash('sha256').update(text).digest('hex').slice(0, 12);
    // When this fails, saved machines and snapshots of before cannot be read any more: count STATE_VERSION up.
    expect({ version: STATE_VERSION, hash }).toEqual({ version: 4, hash: 'aa7e40b0fe3d' });
  });
});

const HASH = 'a'.repeat(64);
const SNAPSHOT: ManifestSnapshot = {
  format: SNAPSHOT_FORMAT,
  memory: 512 << 20,
  state: { url: 'chunks/state', size: 10, sha256: HASH, compression: 'gzip' },
  size: 3 * PAGE,
  chunkSize: 2 * PAGE,
  chunks: [HASH, HASH],
};

describe('the snapshot in a manifest', () => {
  const manifest = {
    format: 'linux-vm-disk',
    version: 1,
    size: 512,
    chunkSize: 4096,
    compression: 'gzip',
    chunks: [null],
  };

  test('is read', () => {
    expect(parseManifest({ ...manifest, snapshot: SNAPSHOT }, 'm.json').snapshot).toEqual(SNAPSHOT);
    expect(parseManifest(manifest, 'm.json').snapshot).toBeUndefined();
  });

  test.each([
    ['format', { format: 1 }],
    ['chunks', { chunks: [HASH] }],
    ['chunks', { chunks: [HASH, '../x'] }],
    ['pages', { size: 3 * PAGE + 1 }],
    ['state', { state: undefined }],
  ])('is refused with a wrong %s', (what, change) => {
    expect(() => parseManifest({ ...manifest, snapshot: { ...SNAPSHOT, ...change } }, 'm.json')).toThrow(what);
  });

  test('fits machines of its version and size only', () => {
    expect(misfit(SNAPSHOT, 512 << 20)).toBeUndefined();
    expect(misfit(SNAPSHOT, 256 << 20)).toMatch(/512 MiB of memory, not 256/);
    expect(misfit({ ...SNAPSHOT, format: 'older' }, 512 << 20)).toMatch(/another version/);
  });
});

test('a chunk of a snapshot is fetched by its name, again when it could not be had', async () => {
  const contents = [1, 2, 3].map((value) => new Uint8Array(PAGE).fill(value));
  const names = contents.map((bytes) => createHash('sha256').update(bytes).digest('hex'));
  let failures = 1;
  const source = new SnapshotSource(
    { compression: 'gzip' },
    { ...SNAPSHOT, size: 3 * PAGE, chunkSize: PAGE, chunks: names },
    'https://example.org/d/manifest.json',
    'prompt',
    {
      policy: {
        attempts: 1,
        fetch: async (url) => {
          if (failures-- > 0) throw new TypeError('offline');
          return new Response(gzipSync(contents[names.indexOf(url.replace('https://example.org/d/chunks/', ''))]!));
        },
      },
    },
  );
  await expect(source.chunk(2)).rejects.toThrow(/offline/);
  expect((await source.chunk(2))[0]).toBe(3);
  expect((await source.chunk(0))[0]).toBe(1);
  expect(source.fetchedBytes).toBeGreaterThan(40);
});
