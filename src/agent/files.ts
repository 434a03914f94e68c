import { concat, PayloadReader, PayloadWriter } from './codec.ts';
import { AgentError, EFBIG, ENOSYS } from './errors.ts';

export type FileType = 'file' | 'directory' | 'symlink' | 'character' | 'block' | 'fifo' | 'socket' | 'unknown';

export interface DirectoryEntry {
  name: string;
  type: FileType;
}

/** An entry with what a listing shows of it. */
export interface ListedEntry extends DirectoryEntry {
  /** Permission bits, 0 to 0o7777. */
  mode: number;
  /** Bytes. */
  size: number;
  /** Last change of the contents, in milliseconds since 1970. */
  mtime: number;
  /** What a symbolic link leads to; absent where it leads nowhere. */
  target?: FileType;
}

export interface FileStat {
  type: FileType;
  /** Permission bits, 0 to 0o7777. */
  mode: number;
  uid: number;
  gid: number;
  links: number;
  /** Bytes. */
  size: number;
  inode: bigint;
  /** Last change of the contents, in milliseconds since 1970. */
  mtime: number;
}

/** The guest's files, as its root user sees them. Failures reject with an AgentError whose `code` is such as `ENOENT`. */
export interface FileSystem {
  /** @param options `limit`: rejects (EFBIG) past so many bytes, 1 GiB unless told */
  readFile(path: string, options?: { limit?: number }): Promise<Uint8Array>;
  /** The contents as they are read; nothing is read ahead of a slow reader. */
  readStream(path: string): ReadableStream<Uint8Array>;
  /** Creates or replaces a file; `mode` (0o666 unless told, less the umask 022) counts when it is created. */
  writeFile(
    path: string,
    data: string | Uint8Array | ReadableStream<Uint8Array>,
    options?: { mode?: number; append?: boolean },
  ): Promise<void>;
  /** Without `.` and `..`, sorted by name. */
  readdir(path: string): Promise<DirectoryEntry[]>;
  /** As `readdir`, with what is known of each entry, at the cost of a `stat` each in the guest. */
  list(path: string): Promise<ListedEntry[]>;
  stat(path: string): Promise<FileStat>;
  /** As `stat`, but of a symbolic link itself. */
  lstat(path: string): Promise<FileStat>;
  /** `recursive` makes parents and is content with a directory that exists. */
  mkdir(path: string, options?: { recursive?: boolean; mode?: number }): Promise<void>;
  /** A file or an empty directory; `recursive`: with all in it; `force`: content when there is nothing. */
  rm(path: string, options?: { recursive?: boolean; force?: boolean }): Promise<void>;
  rename(from: string, to: string): Promise<void>;
  readlink(path: string): Promise<string>;
  symlink(target: string, path: string): Promise<void>;
  chmod(path: string, mode: number): Promise<void>;
}

export const Operation = {
  Ping: 0,
  Stat: 1,
  Lstat: 2,
  Readdir: 3,
  Mkdir: 4,
  Remove: 5,
  Rename: 6,
  Open: 7,
  Read: 8,
  Write: 9,
  Close: 10,
  SetTime: 11,
  Readlink: 12,
  Chmod: 13,
  Symlink: 14,
  List: 15,
  Processes: 16,
  OpenFiles: 17,
  Refresh: 18,
} as const;

const RECURSIVE = 1;
const FORCE = 2;
const OPEN_WRITE = 1;
const OPEN_CREATE = 2;
const OPEN_TRUNCATE = 4;
const OPEN_APPEND = 8;

const PIECE = 64 * 1024;
/** Pieces under way: enough to hide the trip to the guest and back. */
const DEPTH = 4;

/** Sends one operation. `what` names it in an error, such as "stat /etc". @returns what follows the error number */
export type Operate = (what: string, operation: number, body: Uint8Array) => Promise<Uint8Array>;

// File types of stat's st_mode >> 12 and, the same numbers, of readdir's d_type.
const TYPES: Readonly<Record<number, FileType>> = {
  1: 'fifo',
  2: 'character',
  4: 'directory',
  6: 'block',
  8: 'file',
  10: 'symlink',
  12: 'socket',
};

function fields(): PayloadWriter {
  return new PayloadWriter();
}

export class AgentFiles implements FileSystem {
  constructor(private readonly operate: Operate) {}

  async readFile(path: string, { limit = 2 ** 30 }: { limit?: number } = {}): Promise<Uint8Array> {
    const parts: Uint8Array[] = [];
    let length = 0;
    for await (const part of this.pieces(path)) {
      length += part.length;
      if (length > limit) throw AgentError.fromErrno(EFBIG, `read ${path}: more than ${limit} bytes`);
      parts.push(part);
    }
    return concat(parts, length);
  }

  readStream(path: string): ReadableStream<Uint8Array> {
    const pieces = this.pieces(path);
    return new ReadableStream<Uint8Array>(
      {
        async pull(controller) {
          const { done, value } = await pieces.next();
          if (done) controller.close();
          else controller.enqueue(value);
        },
        async cancel() {
          await pieces.return();
        },
      },
      { highWaterMark: 0 },
    );
  }

  async writeFile(
    path: string,
    data: string | Uint8Array | ReadableStream<Uint8Array>,
    { mode = 0o666, append = false }: { mode?: number; append?: boolean } = {},
  ): Promise<void> {
    const flags = OPEN_WRITE | OPEN_CREATE | (append ? OPEN_APPEND : OPEN_TRUNCATE);
    const { handle } = await this.open(path, flags, mode);
    const pending: Promise<unknown>[] = [];
    let offset = 0;
    let finished = false;
    try {
      for await (const bytes of inPieces(data)) {
        if (pending.length >= DEPTH) await pending.shift();
        const body = fields().number(handle, 4).long(BigInt(offset)).bytes(bytes).finish();
        const written = this.operate(`write ${path}`, Operation.Write, body);
        written.catch(() => undefined); // seen when its turn comes
        pending.push(written);
        offset += bytes.length;
      }
      await Promise.all(pending);
      finished = true;
    } finally {
      const closed = this.close(path, handle);
      // The first failure is the one to tell; but close itself may be what tells that the data is not on the disk.
      if (finished) await closed;
      else await closed.catch(() => undefined);
    }
  }

  async readdir(path: string): Promise<DirectoryEntry[]> {
    const reader = new PayloadReader(await this.operate(`read directory ${path}`, Operation.Readdir, pathBody(path)));
    const entries: DirectoryEntry[] = [];
    while (!reader.done) {
      const type = TYPES[reader.number(1)] ?? 'unknown';
      entries.push({ name: reader.string(), type });
    }
    return entries.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
  }

  async list(path: string): Promise<ListedEntry[]> {
    let answer: Uint8Array;
    try {
      answer = await this.operate(`read directory ${path}`, Operation.List, pathBody(path));
    } catch (error) {
      if (error instanceof AgentError && error.errno === ENOSYS) return this.listOneByOne(path);
      throw error;
    }
    const reader = new PayloadReader(answer);
    const entries: ListedEntry[] = [];
    while (!reader.done) {
      const mode = reader.number(4);
      const entry = {
        type: TYPES[(mode >>> 12) & 15] ?? 'unknown',
        mode: mode & 0o7777,
        size: Number(reader.long()),
        mtime: Number(reader.long()) * 1000,
        target: TYPES[reader.number(1)],
      };
      entries.push({ name: reader.string(), ...entry });
    }
    return entries.sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** For agents of disks that were built before the operation was there. */
  private async listOneByOne(path: string): Promise<ListedEntry[]> {
    const entries: ListedEntry[] = [];
    for (const { name } of await this.readdir(path)) {
      const child = path.endsWith('/') ? path + name : `${path}/${name}`;
      try {
        const { type, mode, size, mtime } = await this.lstat(child);
        const target = type === 'symlink' ? await this.stat(child).catch(() => undefined) : undefined;
        entries.push({ name, type, mode, size, mtime, target: target?.type });
      } catch (error) {
        if (!(error instanceof AgentError && error.code === 'ENOENT')) throw error;
      }
    }
    return entries;
  }

  stat(path: string): Promise<FileStat> {
    return this.statBy(Operation.Stat, path);
  }

  lstat(path: string): Promise<FileStat> {
    return this.statBy(Operation.Lstat, path);
  }

  async mkdir(
    path: string,
    { recursive = false, mode = 0o777 }: { recursive?: boolean; mode?: number } = {},
  ): Promise<void> {
    const body = fields()
      .number(recursive ? RECURSIVE : 0, 4)
      .number(mode, 4)
      .string(path);
    await this.operate(`make directory ${path}`, Operation.Mkdir, body.finish());
  }

  async rm(
    path: string,
    { recursive = false, force = false }: { recursive?: boolean; force?: boolean } = {},
  ): Promise<void> {
    const flags = (recursive ? RECURSIVE : 0) | (force ? FORCE : 0);
    await this.operate(`remove ${path}`, Operation.Remove, fields().number(flags, 4).string(path).finish());
  }

  async rename(from: string, to: string): Promise<void> {
    await this.operate(`rename ${from} to ${to}`, Operation.Rename, fields().string(from).string(to).finish());
  }

  async readlink(path: string): Promise<string> {
    return new TextDecoder().decode(await this.operate(`read link ${path}`, Operation.Readlink, pathBody(path)));
  }

  async symlink(target: string, path: string): Promise<void> {
    await this.operate(`link ${path}`, Operation.Symlink, fields().string(target).string(path).finish());
  }

  async chmod(path: string, mode: number): Promise<void> {
    await this.operate(`change mode of ${path}`, Operation.Chmod, fields().number(mode, 4).string(path).finish());
  }

  private async statBy(operation: number, path: string): Promise<FileStat> {
    const reader = new PayloadReader(await this.operate(`stat ${path}`, operation, pathBody(path)));
    const mode = reader.number(4);
    const stat = {
      type: TYPES[(mode >>> 12) & 15] ?? 'unknown',
      mode: mode & 0o7777,
      uid: reader.number(4),
      gid: reader.number(4),
      links: reader.number(4),
      size: Number(reader.long()),
      inode: BigInt.asUintN(64, reader.long()),
    };
    const seconds = Number(reader.long());
    return { ...stat, mtime: seconds * 1000 + reader.number(4) / 1e6 };
  }

  private async open(path: string, flags: number, mode: number): Promise<{ handle: number; regular: boolean }> {
    const body = fields().number(flags, 4).number(mode, 4).string(path).finish();
    const reader = new PayloadReader(await this.operate(`open ${path}`, Operation.Open, body));
    return { handle: reader.number(4), regular: reader.number(1) === 1 };
  }

  private async close(path: string, handle: number): Promise<void> {
    await this.operate(`close ${path}`, Operation.Close, fields().number(handle, 4).finish());
  }

  private async *pieces(path: string): AsyncGenerator<Uint8Array, void, undefined> {
    const { handle, regular } = await this.open(path, 0, 0);
    const read = (offset: number) => {
      const body = fields().number(handle, 4).long(BigInt(offset)).number(PIECE, 4).finish();
      const result = this.operate(`read ${path}`, Operation.Read, body);
      result.catch(() => undefined); // seen when its turn comes
      return result;
    };
    try {
      // Ahead only in what is a file of some length: files of /proc and devices give short reads and mind the order.
      let depth = 1;
      let pending: Promise<Uint8Array>[] = [];
      let asked = 0;
      let offset = 0;
      for (;;) {
        while (pending.length < depth) {
          pending.push(read(asked));
          asked += PIECE;
        }
        const bytes = await pending.shift()!;
        if (!bytes.length) return;
        offset += bytes.length;
        yield bytes;
        if (bytes.length === PIECE) depth = regular ? DEPTH : 1;
        else {
          pending = [];
          asked = offset;
          depth = 1;
        }
      }
    } finally {
      await this.close(path, handle).catch(() => undefined);
    }
  }
}

function pathBody(path: string): Uint8Array {
  return fields().string(path).finish();
}

async function* inPieces(
  data: string | Uint8Array | ReadableStream<Uint8Array>,
): AsyncGenerator<Uint8Array, void, undefined> {
  if (data instanceof ReadableStream) {
    const reader = data.getReader();
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        yield* cut(value);
      }
    } finally {
      reader.cancel().catch(() => undefined);
    }
  } else yield* cut(typeof data === 'string' ? new TextEncoder().encode(data) : data);
}

function* cut(bytes: Uint8Array): Generator<Uint8Array, void, undefined> {
  for (let at = 0; at < bytes.length; at += PIECE) yield bytes.subarray(at, at + PIECE);
}
