import type { FileSystem, Inspector, ListedEntry, Process, RunResult } from '../../src/agent/client.ts';
import { AgentError } from '../../src/agent/errors.ts';
import type { LinuxVM, VmState } from '../../src/vm.ts';

/** A shell that says what it is told to say, and notes what is typed. */
export class FakeShell {
  readonly typed: string[] = [];
  readonly sizes: string[] = [];
  readonly signals: number[] = [];
  private controller!: ReadableStreamDefaultController<Uint8Array>;
  private settle!: (exit: { status: number }) => void;
  readonly process: Process;

  constructor(readonly argv: readonly string[]) {
    const exit = new Promise<{ status: number }>((resolve) => (this.settle = resolve));
    this.process = {
      pid: 100,
      stdin: new WritableStream<Uint8Array>({
        write: (bytes) => void this.typed.push(new TextDecoder().decode(bytes)),
      }),
      stdout: new ReadableStream<Uint8Array>({ start: (controller) => void (this.controller = controller) }),
      stderr: new ReadableStream<Uint8Array>({ start: (controller) => controller.close() }),
      exit,
      kill: (signal = 15) => void this.signals.push(signal),
      resize: (columns, rows) => void this.sizes.push(`${columns}x${rows}`),
    };
  }

  print(text: string): void {
    this.controller.enqueue(new TextEncoder().encode(text));
  }

  end(status = 0): void {
    this.controller.close();
    this.settle({ status });
  }
}

/** As much of a running machine as panels and consoles look at. Files are `path → contents`; directories end in `/`. */
export class FakeVM {
  state: VmState = 'running';
  readonly shells: FakeShell[] = [];
  readonly files = new Map<string, string>([
    ['/', ''],
    ['/root/', ''],
    ['/root/hello.txt', 'hello'],
    ['/root/sub/', ''],
    ['/root/sub/inner.txt', 'inner'],
  ]);
  /** Calls by name. */
  readonly calls: string[] = [];
  instructions = 0;
  refuse: Error | undefined;

  readonly console = {
    written: '',
    write(text: string): void {
      this.written += text;
    },
  };
  readonly ready = Promise.resolve();
  storage = { mode: 'exclusive', storedBytes: 5_000_000, dirtyBytes: 0, writtenBytes: 0 };

  on(): () => void {
    return () => undefined;
  }

  async spawn(argv: readonly string[]): Promise<Process> {
    if (this.refuse) throw this.refuse;
    const shell = new FakeShell(argv);
    this.shells.push(shell);
    return shell.process;
  }

  async run(argv: readonly string[]): Promise<RunResult> {
    this.calls.push(`run ${argv.join(' ')}`);
    return { status: 0, stdout: new TextEncoder().encode('the archive'), stderr: new Uint8Array(0) };
  }

  async stats(): Promise<unknown> {
    this.calls.push('stats');
    this.instructions += 50_000_000;
    return {
      seconds: performance.now() / 1000,
      busySeconds: 0,
      processor: { instructions: this.instructions },
      disk: {
        fetchedBytes: 1_500_000,
        readBytes: 3_000_000,
        hits: 98,
        misses: 2,
        cachedBytes: 8_000_000,
        writtenBytes: 0,
        overlayBytes: 0,
      },
    };
  }

  async saveState(): Promise<Blob> {
    this.calls.push('saveState');
    return new Blob(['LINUXVM state']);
  }

  readonly fs = {
    list: async (path: string): Promise<ListedEntry[]> => {
      const prefix = path === '/' ? '/' : `${path}/`;
      if (!this.files.has(prefix)) throw AgentError.fromErrno(2, `read directory ${path}`);
      const entries: ListedEntry[] = [];
      for (const [name, text] of this.files) {
        if (!name.startsWith(prefix) || name === prefix) continue;
        const rest = name.slice(prefix.length);
        if (/^[^/]+\/?$/.test(rest))
          entries.push({
            name: rest.replace('/', ''),
            type: rest.endsWith('/') ? 'directory' : 'file',
            size: text.length,
            mode: 0o644,
            mtime: 0,
          });
      }
      return entries;
    },
    writeFile: async (path: string, data: ReadableStream<Uint8Array>): Promise<void> => {
      this.files.set(path, await new Response(data as ReadableStream<Uint8Array<ArrayBuffer>>).text());
    },
    mkdir: async (path: string): Promise<void> => void this.files.set(`${path}/`, ''),
    rm: async (path: string): Promise<void> => {
      for (const name of [...this.files.keys()])
        if (name === path || name.startsWith(`${path}/`)) this.files.delete(name);
    },
    readStream: (path: string): ReadableStream<Uint8Array> => new Blob([this.files.get(path) ?? '']).stream(),
  } as unknown as FileSystem;

  readonly inspect = {
    processes: async () => {
      this.calls.push('processes');
      return [
        { pid: 1, parent: 0, uid: 0, state: 'S', cpuSeconds: 1, resident: 4096, command: '/sbin/init' },
        { pid: 2, parent: 0, uid: 0, state: 'S', cpuSeconds: 0, resident: 0, command: '[kthreadd]' },
      ];
    },
    openFiles: async () => [{ pid: 1, descriptor: 3, target: '/dev/console' }],
    mounts: async () => [{ source: '/dev/vda', path: '/', type: 'ext2', options: 'rw' }],
    interrupts: async () => [],
    devices: async () => [],
    environment: async (pid: number) => [['PID', `${pid}`]],
  } as unknown as Inspector;

  get vm(): LinuxVM {
    return this as unknown as LinuxVM;
  }
}
