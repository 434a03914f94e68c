import { fetchManifest } from '../emulator/disk/manifest.ts';
import { hashedUrl } from '../emulator/disk/hashed-url.ts';
import type { Process } from './agent/process.ts';
import { deleteStorage } from './storage.ts';
import { LinuxVM, type LinuxVMOptions, VmStoppedError } from './vm.ts';

/**
 * The classes of CheerpX 1.2 in the shapes its users know, over `LinuxVM`: a program for CheerpX changes its import. What
 * is different is told in docs/porting.md.
 */

/** Something that can be mounted. */
export abstract class Device {
  /** Does nothing: what a device holds goes with the machine. */
  delete(): void {
    // For programs that call it.
  }
}

/** A disk image. */
export abstract class BlockDevice extends Device {
  /** @internal */
  abstract readonly disk: string;
  /** @internal */
  readonly storageKey: string | undefined;
}

/** A directory. */
export abstract class CheerpOSDevice extends Device {
  /** @internal */
  abstract mount(vm: LinuxVM, path: string): Promise<void>;
}

class ImageDevice extends BlockDevice {
  constructor(readonly disk: string) {
    super();
  }
}

/** An ext2 image on a server that answers Range requests, or the manifest of a disk in chunks. */
export class HttpBytesDevice extends ImageDevice {
  static create(url: string | URL): Promise<HttpBytesDevice> {
    return Promise.resolve(new HttpBytesDevice(absolute(url)));
  }
}

/** An ext2 image in parts of 128 KiB (`IMAGE.meta`, `IMAGE.c000000.txt` …), for hosts that know no Range requests. */
export class GitHubDevice extends ImageDevice {
  /** @param url of the image, without `.meta` */
  static create(url: string | URL): Promise<GitHubDevice> {
    return Promise.resolve(new GitHubDevice(`${absolute(url)}.meta`));
  }
}

/** Writes that stay in this browser, by name: under an OverlayDevice, or a directory of their own in the guest. */
export class IDBDevice extends CheerpOSDevice {
  private mounted: { vm: LinuxVM; path: string } | undefined;

  private constructor(readonly name: string) {
    super();
  }

  static create(name: string): Promise<IDBDevice> {
    return Promise.resolve(new IDBDevice(name));
  }

  /** @internal */
  async mount(vm: LinuxVM, path: string): Promise<void> {
    await vm.fs.mkdir(path, { recursive: true });
    this.mounted = { vm, path };
  }

  /**
   * Reads a file of the directory that this device is mounted as.
   * @param path from there, as in `/result.txt`
   */
  async readFileAsBlob(path: string): Promise<Blob> {
    if (!this.mounted)
      throw new Error(`the IDBDevice "${this.name}" is not mounted; give it to Linux.create with the type "dir"`);
    const { vm, path: root } = this.mounted;
    return new Blob([(await vm.fs.readFile(join(root, path))) as Uint8Array<ArrayBuffer>]);
  }

  /** Removes what was written. @throws StorageError while a machine uses it */
  async reset(): Promise<void> {
    await deleteStorage(this.name);
  }
}

/** An image, and over it what is written, which stays in this browser. */
export class OverlayDevice extends BlockDevice {
  readonly disk: string;
  override readonly storageKey: string;

  private constructor(source: BlockDevice, idb: IDBDevice) {
    super();
    this.disk = source.disk;
    this.storageKey = idb.name;
  }

  static create(source: BlockDevice, idb: IDBDevice): Promise<OverlayDevice> {
    return Promise.resolve(new OverlayDevice(source, idb));
  }
}

/** Files from the page's memory. */
export class DataDevice extends CheerpOSDevice {
  private readonly files = new Map<string, Uint8Array>();
  private mounted: { vm: LinuxVM; path: string } | undefined;

  static create(): Promise<DataDevice> {
    return Promise.resolve(new DataDevice());
  }

  /** Before and after the mount. Text is written as UTF-8. */
  async writeFile(path: string, data: string | Uint8Array): Promise<void> {
    const bytes = typeof data === 'string' ? new TextEncoder().encode(data) : data.slice();
    this.files.set(path, bytes);
    if (this.mounted) await write(this.mounted.vm, join(this.mounted.path, path), bytes);
  }

  /** @internal */
  async mount(vm: LinuxVM, path: string): Promise<void> {
    await vm.fs.mkdir(path, { recursive: true });
    for (const [name, bytes] of this.files) await write(vm, join(path, name), bytes);
    this.mounted = { vm, path };
  }
}

export interface MountPointConfiguration {
  /** `ext2` for `/`, `dir` for a directory; the kernel mounts `devs`, `devpts`, `proc` and `sys` itself. */
  type: 'ext2' | 'dir' | 'devs' | 'devpts' | 'proc' | 'sys';
  path: string;
  dev?: Device;
}

/** Beyond CheerpX's own options, all of LinuxVM's but those that the mounts say. */
export interface LinuxOptions extends Omit<LinuxVMOptions, 'disk' | 'storageKey'> {
  mounts?: MountPointConfiguration[];
  /**
   * Manifest whose kernel, initramfs and command line boot a raw image; CheerpX needs none, a whole machine does. Default:
   * `manifest.json` beside the image.
   */
  bootFrom?: string | URL;
}

export interface RunOptions {
  /** `NAME=value` each. */
  env?: string[];
  cwd?: string;
  uid?: number;
  gid?: number;
}

export interface Callbacks {
  /** `ready` while the processor works, `wait` while it is idle; looked at four times a second. */
  cpuActivity: (state: 'ready' | 'wait') => void;
  /** `ready` when no block of the disk is on its way, `wait` when one was. */
  diskActivity: (state: 'ready' | 'wait') => void;
  /** Never called: no such figure is kept. `vm.stats()` tells what the disk did. */
  diskLatency: (milliseconds: number) => void;
  /** `run` started a program. */
  processCreated: () => void;
}

type Send = (keyCode: number) => void;

/** Milliseconds between two looks at the counters. */
const LOOK = 250;
const TEXT_CONSOLE = 1;
/** Keys. */
const TYPED_AHEAD = 4096;

/** A running machine. */
export class Linux {
  private output: ((bytes: Uint8Array) => void) | undefined;
  private size = { columns: 80, rows: 24 };
  /** Programs that `run` waits for; the last one has the keyboard. */
  private readonly programs: { process: Process; keyboard: WritableStreamDefaultWriter<Uint8Array> }[] = [];
  /** Typed while no program runs: for the next one, as on any terminal. */
  private readonly ahead: Uint8Array[] = [];
  private readonly callbacks: { [K in keyof Callbacks]: Set<Callbacks[K]> } = {
    cpuActivity: new Set(),
    diskActivity: new Set(),
    diskLatency: new Set(),
    processCreated: new Set(),
  };
  private timer: ReturnType<typeof setInterval> | undefined;

  private constructor(
    /** The same machine with this package's own methods. */
    readonly vm: LinuxVM,
  ) {}

  /**
   * Starts a machine; resolves when its agent answers and the directories are mounted.
   * @throws TypeError when the mounts are not to be had; Error in words otherwise
   */
  static async create(options: LinuxOptions = {}): Promise<Linux> {
    const { mounts = [], bootFrom, ...rest } = options;
    const root = mounts.find(({ path }) => path === '/');
    if (!(root?.dev instanceof BlockDevice))
      throw new TypeError('mounts has no block device at "/": give an HttpBytesDevice, GitHubDevice or OverlayDevice');
    const directories = mounts.filter(({ type }) => type === 'dir');
    for (const { type, path, dev } of mounts) {
      if (type === 'ext2' && path !== '/')
        throw new TypeError(`an ext2 image can be mounted at "/" only, not at "${path}"; put its files into one image`);
      if (type === 'dir' && !(dev instanceof CheerpOSDevice))
        throw new TypeError(`the device at "${path}" is no directory: give a DataDevice or an IDBDevice`);
    }
    const { disk, storageKey } = root.dev;
    const vm = await LinuxVM.start({ ...(await bootFiles(disk, bootFrom, rest)), ...rest, disk, storageKey });
    try {
      await vm.ready;
      for (const { path, dev } of directories) await (dev as CheerpOSDevice).mount(vm, path);
    } catch (cause) {
      await vm.stop();
      throw cause;
    }
    return new Linux(vm);
  }

  /**
   * Runs a program with the console as its terminal; resolves when it has ended.
   * @throws AgentError when it cannot be run; VmStoppedError when the machine ends first
   */
  async run(fileName: string, args: string[] = [], options: RunOptions = {}): Promise<{ status: number }> {
    const { env, cwd, uid, gid } = options;
    const process = await this.vm.spawn([fileName, ...args], {
      env: Object.fromEntries((env ?? []).map(variable)),
      cwd,
      uid,
      gid,
      pty: { ...this.size },
    });
    const program = { process, keyboard: process.stdin.getWriter() };
    this.programs.push(program);
    for (const bytes of this.ahead.splice(0)) this.type(bytes);
    for (const tell of this.callbacks.processCreated) tell();
    try {
      const printed = this.show(process.stdout);
      const [{ status }] = await Promise.all([process.exit, printed]);
      return { status };
    } finally {
      this.programs.splice(this.programs.indexOf(program), 1);
      program.keyboard.close().catch(() => undefined);
    }
  }

  /** Shows a terminal in an element, in the place of what is in it. */
  async setConsole(element: HTMLElement): Promise<void> {
    await import('../components/linux-vm-terminal.ts');
    const terminal = document.createElement('linux-vm-terminal');
    terminal.style.height = '100%';
    element.replaceChildren(terminal);
    await terminal.updateComplete;
    this.output = (bytes) => void terminal.write(bytes);
    this.resize(terminal.columns, terminal.rows);
    terminal.addEventListener('terminal-input', (event) => this.type((event as CustomEvent<Uint8Array>).detail));
    terminal.addEventListener('terminal-resize', (event) => {
      const { columns, rows } = (event as CustomEvent<{ columns: number; rows: number }>).detail;
      this.resize(columns, rows);
    });
  }

  /** @returns a function that takes what is typed, one UTF-16 unit at a time, as `charCodeAt` gives them */
  setCustomConsole(write: (bytes: Uint8Array, vt: number) => void, columns: number, rows: number): Send {
    this.output = (bytes) => write(bytes, TEXT_CONSOLE);
    this.resize(columns, rows);
    let high = 0;
    return (unit) => {
      if (unit >= 0xd800 && unit < 0xdc00) {
        high = unit;
        return;
      }
      this.type(new TextEncoder().encode(high ? String.fromCharCode(high, unit) : String.fromCharCode(unit)));
      high = 0;
    };
  }

  registerCallback<K extends keyof Callbacks>(name: K, callback: Callbacks[K]): void {
    const set = this.callbacks[name] as Set<Callbacks[K]> | undefined;
    if (!set)
      throw new TypeError(`there is no callback "${name}"; there are ${Object.keys(this.callbacks).join(', ')}`);
    set.add(callback);
    this.watch();
  }

  unregisterCallback<K extends keyof Callbacks>(name: K, callback: Callbacks[K]): void {
    (this.callbacks[name] as Set<Callbacks[K]> | undefined)?.delete(callback);
    this.watch();
  }

  /** Ends the machine. What `run` still waits for rejects. */
  delete(): void {
    clearInterval(this.timer);
    this.vm.stop().catch(() => undefined);
  }

  private resize(columns: number, rows: number): void {
    this.size = { columns, rows };
    for (const { process } of this.programs) process.resize(columns, rows);
  }

  private type(bytes: Uint8Array): void {
    const program = this.programs.at(-1);
    if (program) program.keyboard.write(bytes).catch(() => undefined);
    else if (this.ahead.length < TYPED_AHEAD) this.ahead.push(bytes);
  }

  private async show(stream: ReadableStream<Uint8Array>): Promise<void> {
    const reader = stream.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      this.output?.(value);
    }
  }

  /** Looks at the counters while somebody wants to know. */
  private watch(): void {
    const { cpuActivity, diskActivity } = this.callbacks;
    const wanted = cpuActivity.size + diskActivity.size > 0;
    if (wanted === (this.timer !== undefined)) return;
    clearInterval(this.timer);
    this.timer = undefined;
    if (!wanted) return;
    let before = { busy: 0, fetches: 0 };
    this.timer = setInterval(() => {
      this.vm.stats().then(
        ({ busySeconds = 0, disk }) => {
          const now = { busy: busySeconds, fetches: disk?.fetches ?? 0 };
          const works = now.busy - before.busy > LOOK / 1000 / 10;
          const fetched = now.fetches - before.fetches;
          before = now;
          for (const tell of cpuActivity) tell(works ? 'ready' : 'wait');
          for (const tell of diskActivity) tell(fetched > 0 ? 'wait' : 'ready');
        },
        (error: unknown) => {
          if (error instanceof VmStoppedError) clearInterval(this.timer);
        },
      );
    }, LOOK);
  }
}

/** What boots a raw image. A manifest's own kernel is found by the machine itself. */
async function bootFiles(
  disk: string,
  from: string | URL | undefined,
  { kernel, signal }: LinuxOptions,
): Promise<Pick<LinuxVMOptions, 'kernel' | 'initrd' | 'cmdline'>> {
  if (kernel !== undefined || (/\.json$/.test(new URL(disk).pathname) && from === undefined)) return {};
  const url = from === undefined ? new URL('manifest.json', disk).href : absolute(from);
  const manifest = await fetchManifest(url, { signal }).catch((cause: unknown) => {
    throw new Error(
      `${disk} needs a kernel to boot, and there is no manifest that names one at ${url}: give Linux.create a "bootFrom" or a ` +
        '"kernel"',
      { cause },
    );
  });
  const file = (f: { url: string; sha256: string } | undefined): string | undefined =>
    f && hashedUrl(new URL(f.url, url).href, f.sha256);
  return { kernel: file(manifest.kernel), initrd: file(manifest.initrd), cmdline: manifest.cmdline };
}

async function write(vm: LinuxVM, path: string, bytes: Uint8Array): Promise<void> {
  const folder = path.slice(0, path.lastIndexOf('/'));
  if (folder) await vm.fs.mkdir(folder, { recursive: true });
  await vm.fs.writeFile(path, bytes);
}

function join(root: string, path: string): string {
  return `${root.replace(/\/$/, '')}/${path.replace(/^\/+/, '')}`;
}

function variable(text: string): [string, string] {
  const at = text.indexOf('=');
  if (at < 1) throw new TypeError(`env has "${text}", which is not of the form NAME=value`);
  return [text.slice(0, at), text.slice(at + 1)];
}

function absolute(url: string | URL): string {
  return new URL(url, typeof document === 'undefined' ? undefined : document.baseURI).href;
}
