/** A machine in which a disk is tried out while it is built. Where it is deterministic, the same disk gives the same result. */
import { existsSync, openAsBlob, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { createProcessor } from '../emulator/cpu/processor.ts';
import type { DiskManifest } from '../emulator/disk/manifest.ts';
import { openDisk } from '../emulator/disk/open.ts';
import type { BlockDevice } from '../emulator/disk/types.ts';
import { Machine } from '../emulator/machine.ts';
import type { Macrotasks } from '../emulator/macrotask.ts';
import type { Tier } from '../emulator/processor.ts';
import { SnapshotSource } from '../emulator/snapshot.ts';
import { AgentClient } from '../src/agent/client.ts';
import { fileFetch } from '../src/cli/file-fetch.ts';
import { watched } from './watched.ts';
import { writeWhole } from './write-whole.ts';

/** What a page asks for when nobody says otherwise. */
export const MEMORY = 512 * 2 ** 20;
/** Milliseconds. */
const LONGEST_COMMAND = 300_000;

/** A host's clock on which each slice takes a second, so that each has a turn of its own; and what is done before each turn. */
class Turns {
  before: () => void = () => undefined;
  private time = 0;
  readonly now = (): number => (this.time += 1000);
  readonly macrotasks: Macrotasks = {
    post: (call) =>
      void setImmediate(() => {
        this.before();
        call();
      }),
    close: () => undefined,
  };
}

/** Whose time a machine has: its instructions', the same with each slice in a turn of its own, or the host's. */
export type Pace = 'instructions' | 'slices' | 'real';

/** A machine of the builder, with its console and agent. It stands still while what it has said is dealt with. */
export class Bench {
  console = '';
  raw: Uint8Array[] = [];
  private agentData: (bytes: Uint8Array) => void = () => undefined;
  private waiting: { pattern: RegExp; done(): void } | undefined;

  private constructor(
    readonly machine: Machine,
    attach: { console(bytes: Uint8Array): void; agent(bytes: Uint8Array): void },
    private readonly turns: Turns,
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

  static async create(
    directory: string,
    manifest: DiskManifest,
    disk: BlockDevice,
    kernel: boolean,
    pace: Pace = 'instructions',
    tier: Tier = 'auto',
  ): Promise<Bench> {
    const nobody = (): undefined => undefined;
    const attach: { console(bytes: Uint8Array): void; agent(bytes: Uint8Array): void } = {
      console: nobody,
      agent: nobody,
    };
    const file = (name: string): Uint8Array => new Uint8Array(readFileSync(join(directory, name)));
    const turns = new Turns();
    const machine = await Machine.create({
      createProcessor,
      memory: MEMORY,
      tier,
      deterministic: pace !== 'real',
      ...(kernel && { kernel: file('vmlinux'), initrd: file('initramfs.gz'), cmdline: manifest.cmdline }),
      disks: [disk],
      ...(pace === 'slices' && { now: turns.now, macrotasks: turns.macrotasks }),
      events: { console: (bytes) => attach.console(bytes), agent: (bytes) => attach.agent(bytes) },
    });
    return new Bench(machine, attach, turns);
  }

  /**
   * A machine that goes on from the snapshot of a built disk.
   *
   * @param read is told of what is read from the disk
   */
  static async resumed(
    directory: string,
    manifest: DiskManifest,
    { read, tier }: { read?: (offset: number, length: number) => void; tier?: Tier } = {},
  ): Promise<Bench> {
    const { snapshot } = manifest;
    if (!snapshot) throw new Error(`the disk in ${directory} has no snapshot, which programs are run after`);
    const { device } = await openDisk(
      await openAsBlob(join(directory, manifest.image?.url ?? `${manifest.name}.ext2`)),
    );
    const url = pathToFileURL(join(directory, 'manifest.json')).href;
    const source = new SnapshotSource(manifest, snapshot, url, 'prompt', { policy: { fetch: fileFetch } });
    const { state, overlay } = await source.state();
    const disk = read ? watched(device, read) : device;
    const bench = await Bench.create(directory, manifest, disk, false, 'instructions', tier);
    bench.machine.resumeFrom(state, (chunk) => source.chunk(chunk));
    device.importState(overlay);
    return bench;
  }

  /** Holds the machine before a slice. Only where each slice has a turn of its own. */
  async before(reached: () => boolean): Promise<void> {
    await new Promise<void>((there) => {
      this.turns.before = () => {
        if (this.machine.status !== 'running' || !reached()) return;
        this.turns.before = () => undefined;
        this.machine.pause();
        there();
      };
    });
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
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(
        () => reject(new Error(`the builder's machine does not get on; it says:\n${this.console}`)),
        120_000,
      );
    });
    act();
    try {
      await Promise.race([shown, this.ended(), late]);
    } finally {
      clearTimeout(timer);
      this.waiting = undefined;
    }
  }

  /** Runs a command. @throws Error with what it said when it fails, or that it takes too long */
  async sh(agent: AgentClient, command: string): Promise<string> {
    const run = agent.run(['sh', '-c', command], { signal: AbortSignal.timeout(LONGEST_COMMAND) });
    run.catch(() => undefined);
    const { status, stdout, stderr } = await Promise.race([run, this.ended()]);
    const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);
    if (status !== 0) throw new Error(`"${command}" in the builder's machine failed: ${text(stderr)}`);
    return text(stdout);
  }

  /** Rejects when the machine ends. */
  private async ended(): Promise<never> {
    const { reason, message = '' } = await this.machine.stopped;
    throw new Error(`the builder's machine ended: ${reason} ${message}\n${this.console}`);
  }

  type(text: string): void {
    void this.machine.writeConsole(new TextEncoder().encode(text));
  }
}

/** The manifest of a built disk. */
export function readManifest(directory: string): DiskManifest {
  const path = join(directory, 'manifest.json');
  if (!existsSync(path)) throw new Error(`there is no disk in ${directory}`);
  return JSON.parse(readFileSync(path, 'utf8')) as DiskManifest;
}

/** Writes a built disk's manifest in place of the one that is there. */
export function replaceManifest(directory: string, manifest: DiskManifest): void {
  const path = join(directory, 'manifest.json');
  writeWhole(path, JSON.stringify(manifest));
}
