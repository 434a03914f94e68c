/** Reads tar archives as GNU tar, dpkg-deb and mmdebstrap write them: ustar, with pax and GNU extensions. */

export type EntryType = 'file' | 'directory' | 'symlink' | 'hardlink' | 'character' | 'block' | 'fifo';

/** A file to be put into an image. */
export interface Entry {
  /** Without a leading or trailing slash; the root directory is the empty string. */
  path: string;
  type: EntryType;
  /** Permission bits. */
  mode: number;
  uid: number;
  gid: number;
  /** Seconds since 1970. */
  mtime: number;
  /** Of a file. */
  data: Uint8Array;
  /** Of a symlink its text, of a hard link the path it stands for. */
  target: string;
  /** Of a device. */
  major: number;
  minor: number;
  xattrs: Map<string, Uint8Array>;
}

const BLOCK = 512;
const TYPES: Readonly<Record<string, EntryType>> = {
  '0': 'file',
  '\0': 'file',
  '1': 'hardlink',
  '2': 'symlink',
  '3': 'character',
  '4': 'block',
  '5': 'directory',
  '6': 'fifo',
  '7': 'file',
};
const XATTR = 'SCHILY.xattr.';

export function entry(path: string, type: EntryType, fields: Partial<Entry> = {}): Entry {
  return {
    path,
    type,
    mode: type === 'directory' ? 0o755 : type === 'symlink' ? 0o777 : 0o644,
    uid: 0,
    gid: 0,
    mtime: 0,
    data: new Uint8Array(0),
    target: '',
    major: 0,
    minor: 0,
    xattrs: new Map(),
    ...fields,
  };
}

export function cleanPath(path: string): string {
  return path
    .split('/')
    .filter((part) => part && part !== '.')
    .join('/');
}

/** The entries of `archive`, whose data are views of it. @throws Error at a damaged header */
export function* readTar(archive: Uint8Array): Generator<Entry, void, undefined> {
  const text = new TextDecoder();
  let pax = new Map<string, Uint8Array>();
  let longName: string | undefined;
  let longLink: string | undefined;
  for (let at = 0; at + BLOCK <= archive.length;) {
    const header = archive.subarray(at, at + BLOCK);
    if (header.every((byte) => byte === 0)) return;
    const field = (from: number, length: number) => {
      const bytes = header.subarray(from, from + length);
      const zero = bytes.indexOf(0);
      return text.decode(zero < 0 ? bytes : bytes.subarray(0, zero));
    };
    const number = (from: number, length: number) => {
      // GNU's base-256 form for what octal cannot hold.
      if (header[from]! & 0x80)
        return header.subarray(from + 1, from + length).reduce((sum, byte) => sum * 256 + byte, 0);
      return parseInt(field(from, length).trim() || '0', 8);
    };
    const paxText = (key: string) => {
      const value = pax.get(key);
      return value && text.decode(value);
    };
    checkSum(header, number(148, 8), at);
    const size = Number(paxText('size') ?? number(124, 12));
    const data = archive.subarray(at + BLOCK, at + BLOCK + size);
    if (data.length < size) throw new Error(`the archive ends inside of the entry at byte ${at}`);
    at += BLOCK + Math.ceil(size / BLOCK) * BLOCK;
    const kind = String.fromCharCode(header[156]!);
    if (kind === 'x') pax = parsePax(data);
    else if (kind === 'L') longName = text.decode(data).replace(/\0.*$/s, '');
    else if (kind === 'K') longLink = text.decode(data).replace(/\0.*$/s, '');
    else if (kind !== 'g') {
      const type = TYPES[kind];
      if (!type) throw new Error(`the archive holds an entry of the unknown type "${kind}" before byte ${at}`);
      const prefix = field(257, 5) === 'ustar' && header[263] === 0x30 ? field(345, 155) : '';
      const name = paxText('path') ?? longName ?? (prefix ? `${prefix}/${field(0, 100)}` : field(0, 100));
      const target = paxText('linkpath') ?? longLink ?? field(157, 100);
      const xattrs = new Map<string, Uint8Array>();
      for (const [key, value] of pax) if (key.startsWith(XATTR)) xattrs.set(key.slice(XATTR.length), value);
      yield entry(cleanPath(name), type, {
        mode: number(100, 8) & 0o7777,
        uid: Number(paxText('uid') ?? number(108, 8)),
        gid: Number(paxText('gid') ?? number(116, 8)),
        mtime: Math.floor(Number(paxText('mtime') ?? number(136, 12))),
        data: type === 'file' ? data : new Uint8Array(0),
        target: type === 'hardlink' ? cleanPath(target) : target,
        major: number(329, 8),
        minor: number(337, 8),
        xattrs,
      });
      pax = new Map();
      longName = longLink = undefined;
    }
  }
}

function checkSum(header: Uint8Array, expected: number, at: number): void {
  let sum = 0;
  for (let i = 0; i < BLOCK; i++) sum += i >= 148 && i < 156 ? 32 : header[i]!;
  if (sum !== expected) throw new Error(`the archive is damaged: the header at byte ${at} has a wrong checksum`);
}

/** Records of "LENGTH KEY=VALUE\n". */
function parsePax(data: Uint8Array): Map<string, Uint8Array> {
  const records = new Map<string, Uint8Array>();
  for (let at = 0; at < data.length;) {
    const space = data.indexOf(0x20, at);
    const length = Number(new TextDecoder().decode(data.subarray(at, space)));
    if (space < 0 || !(length > 0)) throw new Error('the archive holds a damaged pax header');
    const record = data.subarray(space + 1, at + length - 1);
    const equals = record.indexOf(0x3d);
    records.set(new TextDecoder().decode(record.subarray(0, equals)), record.slice(equals + 1));
    at += length;
  }
  return records;
}
