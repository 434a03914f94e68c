import { PayloadReader } from './codec.ts';
import { AgentError } from './errors.ts';
import { type FileSystem, type Operate, Operation } from './files.ts';

export interface GuestProcess {
  pid: number;
  parent: number;
  uid: number;
  /** One letter as in ps(1): R running, S sleeping, D waiting for a disk, Z ended and not collected, T stopped, I idle. */
  state: string;
  /** Processor time used so far, in seconds. */
  cpuSeconds: number;
  /** RAM in use, in bytes. */
  resident: number;
  /** Its arguments, cut at 511 bytes; the name in brackets where there are none. */
  command: string;
}

export interface OpenFile {
  pid: number;
  descriptor: number;
  /** A path, or such as `pipe:[123]`. */
  target: string;
}

export interface Mount {
  source: string;
  path: string;
  type: string;
  options: string;
}

export interface GuestDevice {
  /** The kernel's name, such as `virtio0`. */
  name: string;
  /** What it is, such as `disk`. */
  kind: string;
  driver?: string;
  /** What is known of it: `vda, 1024 MiB`. */
  details: string;
}

export interface InterruptLine {
  /** `4`, or such as `LOC`. */
  name: string;
  /** Since the boot, over all processors. */
  count: number;
  description: string;
}

/** What goes on in the guest, asked for through its agent; each call is one request or a few, and starts no program. */
export interface Inspector {
  processes(): Promise<GuestProcess[]>;
  /** Of all processes. */
  openFiles(): Promise<OpenFile[]>;
  mounts(): Promise<Mount[]>;
  interrupts(): Promise<InterruptLine[]>;
  devices(): Promise<GuestDevice[]>;
  /** Environment that a process was started with. */
  environment(pid: number): Promise<[name: string, value: string][]>;
}

/** USER_HZ and the page size of x86-64 Linux. */
const TICKS = 100;
const PAGE = 4096;
/** Most bytes of a file of /proc or /sys. */
const LIMIT = 1 << 20;

/** Device types of the virtio specification, 5. */
const VIRTIO: Readonly<Record<number, string>> = {
  1: 'network card',
  2: 'disk',
  3: 'console',
  4: 'entropy source',
  5: 'memory balloon',
  9: '9P file system',
  16: 'graphics',
  18: 'input',
  19: 'socket',
  26: 'file system',
};

export class AgentInspector implements Inspector {
  constructor(
    private readonly operate: Operate,
    private readonly fs: FileSystem,
  ) {}

  async processes(): Promise<GuestProcess[]> {
    const reader = new PayloadReader(await this.operate('list processes', Operation.Processes, new Uint8Array(0)));
    const processes: GuestProcess[] = [];
    while (!reader.done)
      processes.push({
        pid: reader.number(4),
        parent: reader.number(4),
        uid: reader.number(4),
        state: String.fromCharCode(reader.number(1)),
        cpuSeconds: Number(reader.long()) / TICKS,
        resident: Number(reader.long()) * PAGE,
        command: reader.string(),
      });
    return processes;
  }

  async openFiles(): Promise<OpenFile[]> {
    const reader = new PayloadReader(await this.operate('list open files', Operation.OpenFiles, new Uint8Array(0)));
    const files: OpenFile[] = [];
    while (!reader.done) files.push({ pid: reader.number(4), descriptor: reader.number(4), target: reader.string() });
    return files;
  }

  async mounts(): Promise<Mount[]> {
    return parseMounts(await this.text('/proc/self/mounts'));
  }

  async interrupts(): Promise<InterruptLine[]> {
    return parseInterrupts(await this.text('/proc/interrupts'));
  }

  async devices(): Promise<GuestDevice[]> {
    const bus = '/sys/bus/virtio/devices';
    // A guest without virtio, or without /sys, has nothing to list.
    const names = await this.fs.readdir(bus).catch(orNone([]));
    return Promise.all(names.map(({ name }) => this.device(`${bus}/${name}`, name)));
  }

  async environment(pid: number): Promise<[string, string][]> {
    const text = await this.text(`/proc/${pid}/environ`);
    return text
      .split('\0')
      .filter(Boolean)
      .map((entry): [string, string] => {
        const at = entry.indexOf('=');
        return at < 0 ? [entry, ''] : [entry.slice(0, at), entry.slice(at + 1)];
      })
      .sort(([a], [b]) => (a < b ? -1 : 1));
  }

  private async device(path: string, name: string): Promise<GuestDevice> {
    const [id, driver, inside] = await Promise.all([
      this.text(`${path}/device`).catch(orNone('')),
      this.fs.readlink(`${path}/driver`).catch(orNone('')),
      this.fs.readdir(path).catch(orNone([])),
    ]);
    const has = (child: string): boolean => inside.some((entry) => entry.name === child);
    return {
      name,
      kind: VIRTIO[Number(id)] ?? `virtio device ${id.trim()}`,
      driver: driver.split('/').at(-1) || undefined,
      details: has('block')
        ? await this.children(`${path}/block`, async (child) => {
            const sectors = Number(await this.text(`${path}/block/${child}/size`));
            return `${child}, ${Math.round(sectors / 2048)} MiB`;
          })
        : has('net')
          ? await this.children(
              `${path}/net`,
              async (child) => `${child}, ${(await this.text(`${path}/net/${child}/address`)).trim()}`,
            )
          : has('virtio-ports')
            ? await this.children(
                `${path}/virtio-ports`,
                async (child) => (await this.text(`${path}/virtio-ports/${child}/name`)).trim() || child,
              )
            : '',
    };
  }

  private async children(path: string, describe: (name: string) => Promise<string>): Promise<string> {
    const names = await this.fs.readdir(path).catch(orNone([]));
    const texts = await Promise.all(names.map(({ name }) => describe(name).catch(orNone(name))));
    return texts.join('; ');
  }

  private async text(path: string): Promise<string> {
    return new TextDecoder().decode(await this.fs.readFile(path, { limit: LIMIT }));
  }
}

/** Something that the guest does not have, or took away meanwhile, is nothing to show; a lost agent is an error. */
function orNone<T>(none: T): (error: unknown) => T {
  return (error) => {
    if (error instanceof AgentError && error.errno !== undefined) return none;
    throw error;
  };
}

/** proc_pid_mounts(5), which is fstab(5): blanks in names are octal escapes. */
export function parseMounts(text: string): Mount[] {
  const plain = (field: string): string =>
    field.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)));
  return text
    .split('\n')
    .map((line) => line.split(' '))
    .filter((fields) => fields.length >= 4)
    .map(([source, path, type, options]) => ({
      source: plain(source!),
      path: plain(path!),
      type: type!,
      options: options!,
    }));
}

/** /proc/interrupts: a line of processors, then a name, a count for each processor, and words. */
export function parseInterrupts(text: string): InterruptLine[] {
  const [head = '', ...lines] = text.split('\n');
  const processors = head.split(/\s+/).filter(Boolean).length;
  return lines.flatMap((line) => {
    const [name, ...rest] = line.trim().split(/\s+/);
    if (!name?.endsWith(':')) return [];
    let counts = 0;
    while (counts < processors && /^\d+$/.test(rest[counts] ?? '')) counts++;
    return [
      {
        name: name.slice(0, -1),
        count: rest.slice(0, counts).reduce((sum, field) => sum + Number(field), 0),
        description: rest.slice(counts).join(' '),
      },
    ];
  });
}
