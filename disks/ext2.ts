/**
 * Writes an ext2 file system from a list of entries. Why not `mke2fs -d`: here the caller decides where things lie. What
 * a boot reads comes first and in a row, inodes too, so that it is a few chunks; and the same entries give the same
 * bytes whatever version of e2fsprogs the machine has. Field names are those of the kernel's Documentation/filesystems/ext4.
 */
import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import type { Entry } from './tar.ts';
import { entry } from './tar.ts';

export const BLOCK_SIZE = 4096;
const INODE_SIZE = 256;
/** The classic 128 bytes are followed by this many of extra fields, then by extended attributes. */
const EXTRA_SIZE = 32;
const BLOCKS_PER_GROUP = BLOCK_SIZE * 8;
const BYTES_PER_INODE = 16384;
const ROOT_INODE = 2;
const FIRST_INODE = 11;
const DIRECT = 12;
const POINTERS = BLOCK_SIZE / 4;
const BG_INODE_ZEROED = 4;
const DESCRIPTOR_SIZE = 32;

const COMPAT_EXT_ATTR = 0x8;
const COMPAT_DIR_INDEX = 0x20;
const INCOMPAT_FILETYPE = 0x2;
const RO_COMPAT_SPARSE_SUPER = 0x1;
const RO_COMPAT_LARGE_FILE = 0x2;

const FILE_TYPES = { file: 1, directory: 2, character: 3, block: 4, fifo: 5, socket: 6, symlink: 7 } as const;
const MODE_TYPES = {
  file: 0o100000,
  directory: 0o040000,
  character: 0o020000,
  block: 0o060000,
  fifo: 0o010000,
  symlink: 0o120000,
} as const;

export interface Ext2Options {
  /** Bytes; a multiple of 4096. */
  size: number;
  /** 16 bytes each. */
  uuid: Uint8Array;
  hashSeed: Uint8Array;
  /** Seconds since 1970, for what has no time of its own. */
  time: number;
  /** Paths whose inodes and data come first, in this order. Those that do not exist are passed over. */
  first: readonly string[];
}

/** Where an image keeps a file: to turn blocks into files and back. */
export interface Placement {
  path: string;
  inode: number;
  /** Data blocks in file order. */
  blocks: number[];
}

interface Node {
  entry: Entry;
  inode: number;
  links: number;
  /** Of a directory, by name. */
  children: Map<string, Node> | undefined;
  parent: Node | undefined;
  data: Uint8Array;
  blocks: number[];
  pointers: Uint32Array;
  /** Data and indirect blocks. */
  blockCount: number;
}

/** Writes the image to `path`. @returns the layout, in order of placement @throws Error when it does not fit */
export function writeExt2(path: string, entries: Iterable<Entry>, options: Ext2Options): Placement[] {
  const { root, nodes } = buildTree(entries, options.time);
  const ordered = order(root, nodes, options.first);
  const image = new Image(path, options);
  try {
    image.write(root, ordered);
  } finally {
    image.close();
  }
  return ordered.map((node) => ({ path: pathOf(node), inode: node.inode, blocks: node.blocks }));
}

function newNode(entry: Entry, parent: Node | undefined): Node {
  const children = entry.type === 'directory' ? new Map<string, Node>() : undefined;
  const data = entry.type === 'symlink' ? new TextEncoder().encode(entry.target) : entry.data;
  return {
    entry,
    inode: 0,
    links: 1,
    children,
    parent,
    data,
    blocks: [],
    pointers: new Uint32Array(15),
    blockCount: 0,
  };
}

function pathOf(node: Node): string {
  return node.entry.path;
}

/** Later entries of one path replace earlier ones, as in tar; parents that are missing are made. */
function buildTree(entries: Iterable<Entry>, time: number): { root: Node; nodes: Map<string, Node> } {
  const root = newNode(entry('', 'directory', { mtime: time }), undefined);
  const nodes = new Map<string, Node>([['', root]]);
  const hardLinks: Entry[] = [];
  const place = (child: Entry) => {
    const slash = child.path.lastIndexOf('/');
    const parentPath = slash < 0 ? '' : child.path.slice(0, slash);
    const parent = nodes.get(parentPath) ?? place(entry(parentPath, 'directory', { mtime: time }));
    if (!parent.children) throw new Error(`${parentPath} is not a directory but has entries below it`);
    const old = nodes.get(child.path);
    if (old?.children && child.type === 'directory') {
      old.entry = child;
      return old;
    }
    const node = newNode(child, parent);
    nodes.set(child.path, node);
    parent.children.set(child.path.slice(slash + 1), node);
    return node;
  };
  for (const each of entries) {
    if (each.path === '') root.entry = each;
    else if (each.type === 'hardlink') hardLinks.push(each);
    else place(each);
  }
  place(entry('lost+found', 'directory', { mode: 0o700, mtime: time }));
  for (const link of hardLinks) {
    const target = nodes.get(link.target);
    if (!target || target.children)
      throw new Error(`hard link ${link.path} points to ${link.target}, which is not there`);
    const slash = link.path.lastIndexOf('/');
    const parent = nodes.get(slash < 0 ? '' : link.path.slice(0, slash));
    if (!parent?.children) throw new Error(`hard link ${link.path} has no directory to be in`);
    parent.children.set(link.path.slice(slash + 1), target);
    nodes.set(link.path, target);
    target.links++;
  }
  return { root, nodes };
}

/** The order of inodes and data: lost+found has the first free inode by convention, then `first`, then the rest. */
function order(root: Node, nodes: Map<string, Node>, first: readonly string[]): Node[] {
  const ordered = new Set<Node>();
  const add = (node: Node) => {
    if (node.parent && !ordered.has(node.parent)) add(node.parent);
    ordered.add(node);
  };
  add(root);
  for (const path of first) {
    const node = nodes.get(path);
    if (node) add(node);
  }
  const directories: Node[] = [];
  const files: Node[] = [];
  const walk = (directory: Node) => {
    directories.push(directory);
    for (const [, child] of sorted(directory))
      if (child.children) walk(child);
      else files.push(child);
  };
  walk(root);
  // Directories together: looking something up wants them and nothing else.
  for (const node of [...directories, ...files]) add(node);
  let inode = FIRST_INODE + 1;
  for (const node of ordered) {
    if (node === root) node.inode = ROOT_INODE;
    else node.inode = node.entry.path === 'lost+found' ? FIRST_INODE : inode++;
  }
  return [...ordered];
}

function sorted(directory: Node): [string, Node][] {
  return [...directory.children!].sort(([a], [b]) => (a < b ? -1 : 1));
}

function typeOf(node: Node): keyof typeof MODE_TYPES {
  const { type } = node.entry;
  if (type === 'hardlink') throw new Error(`${node.entry.path}: a hard link has no inode of its own`);
  return type;
}

/** One directory's blocks: linear, each record 4-aligned and none across a block; the last of a block reaches its end. */
function directoryData(node: Node): Uint8Array {
  const encoder = new TextEncoder();
  const records = [
    { name: encoder.encode('.'), node },
    { name: encoder.encode('..'), node: node.parent ?? node },
    ...sorted(node).map(([name, child]) => ({ name: encoder.encode(name), node: child })),
  ];
  const blocks: Uint8Array[] = [];
  let view = new DataView(new ArrayBuffer(0));
  let at = BLOCK_SIZE;
  let last = 0;
  const close = () => {
    if (blocks.length) view.setUint16(last + 4, BLOCK_SIZE - last, true);
  };
  for (const { name, node: child } of records) {
    if (name.length > 255) throw new Error(`${node.entry.path} holds a name of ${name.length} bytes; ext2 takes 255`);
    const length = (8 + name.length + 3) & ~3;
    if (at + length > BLOCK_SIZE) {
      close();
      const block = new Uint8Array(BLOCK_SIZE);
      blocks.push(block);
      view = new DataView(block.buffer);
      at = 0;
    }
    view.setUint32(at, child.inode, true);
    view.setUint16(at + 4, length, true);
    view.setUint8(at + 6, name.length);
    view.setUint8(at + 7, FILE_TYPES[typeOf(child)]);
    blocks.at(-1)!.set(name, at + 8);
    last = at;
    at += length;
  }
  close();
  if (node.entry.path === 'lost+found') {
    // Room for what fsck finds, without having to allocate then.
    for (let i = 1; i < 4; i++) {
      const empty = new Uint8Array(BLOCK_SIZE);
      new DataView(empty.buffer).setUint16(4, BLOCK_SIZE, true);
      blocks.push(empty);
    }
  }
  return Buffer.concat(blocks);
}

/** sparse_super: copies of superblock and descriptors are in groups 0, 1 and the powers of 3, 5 and 7. */
function hasBackup(group: number): boolean {
  if (group <= 1) return true;
  return [3, 5, 7].some((base) => {
    let power = base;
    while (power < group) power *= base;
    return power === group;
  });
}

/** Where the copies of the superblock are in an image of `size` bytes. */
export function backupOffsets(size: number): number[] {
  const groupSize = BLOCKS_PER_GROUP * BLOCK_SIZE;
  const groups = Array.from({ length: Math.ceil(size / groupSize) }, (_, group) => group);
  return groups.filter((group) => group && hasBackup(group)).map((group) => group * groupSize);
}

class Image {
  private readonly file: number;
  private readonly blocks: number;
  private readonly groups: number;
  private readonly descriptorBlocks: number;
  private readonly inodesPerGroup: number;
  private readonly tableBlocks: number;
  private readonly blockBitmaps: Uint8Array[];
  private readonly inodeBitmaps: Uint8Array[];
  private readonly inodeTables: Uint8Array[];
  private readonly directories: number[];
  private next = 0;

  constructor(
    path: string,
    private readonly options: Ext2Options,
  ) {
    if (options.size % BLOCK_SIZE) throw new Error(`an image of ${options.size} bytes is not a whole number of blocks`);
    this.blocks = options.size / BLOCK_SIZE;
    this.groups = Math.ceil(this.blocks / BLOCKS_PER_GROUP);
    this.descriptorBlocks = Math.ceil((this.groups * DESCRIPTOR_SIZE) / BLOCK_SIZE);
    const perBlock = BLOCK_SIZE / INODE_SIZE;
    this.tableBlocks = Math.ceil(options.size / BYTES_PER_INODE / this.groups / perBlock);
    this.inodesPerGroup = this.tableBlocks * perBlock;
    this.blockBitmaps = Array.from({ length: this.groups }, () => new Uint8Array(BLOCK_SIZE));
    this.inodeBitmaps = Array.from({ length: this.groups }, () => new Uint8Array(BLOCK_SIZE));
    this.inodeTables = Array.from({ length: this.groups }, () => new Uint8Array(this.tableBlocks * BLOCK_SIZE));
    this.directories = new Array<number>(this.groups).fill(0);
    this.file = openSync(path, 'w');
    ftruncateSync(this.file, options.size);
    for (let group = 0; group < this.groups; group++) {
      const start = group * BLOCKS_PER_GROUP;
      if (this.metadataEnd(group) > Math.min(start + BLOCKS_PER_GROUP, this.blocks)) {
        throw new Error(
          `the last block group of an image of ${options.size} bytes is too small; choose a multiple of 128 MiB`,
        );
      }
      for (let block = start; block < this.metadataEnd(group); block++) this.take(block);
    }
  }

  close(): void {
    closeSync(this.file);
  }

  write(root: Node, nodes: readonly Node[]): void {
    if (nodes.length + FIRST_INODE > this.groups * this.inodesPerGroup) {
      throw new Error(
        `${nodes.length} files need more inodes than an image of ${this.options.size} bytes has; make it larger`,
      );
    }
    for (let inode = 1; inode < FIRST_INODE; inode++) this.takeInode(inode);
    for (const node of nodes) {
      if (node.inode >= FIRST_INODE) this.takeInode(node.inode);
      if (node.children) {
        node.data = directoryData(node);
        node.links = 2 + [...node.children.values()].filter((child) => child.children).length;
        this.directories[Math.floor((node.inode - 1) / this.inodesPerGroup)]!++;
      }
      this.place(node);
      this.writeInode(node);
    }
    if (!root.blocks.length) throw new Error('the root directory has no block');
    this.finish();
  }

  private groupStart(group: number): number {
    return group * BLOCKS_PER_GROUP + (hasBackup(group) ? 1 + this.descriptorBlocks : 0);
  }

  private metadataEnd(group: number): number {
    return this.groupStart(group) + 2 + this.tableBlocks;
  }

  private take(block: number): void {
    const inGroup = block % BLOCKS_PER_GROUP;
    this.blockBitmaps[Math.floor(block / BLOCKS_PER_GROUP)]![inGroup >> 3]! |= 1 << (inGroup & 7);
  }

  private takeInode(inode: number): void {
    const inGroup = (inode - 1) % this.inodesPerGroup;
    this.inodeBitmaps[Math.floor((inode - 1) / this.inodesPerGroup)]![inGroup >> 3]! |= 1 << (inGroup & 7);
  }

  /** Blocks are given out in a row, past each group's own. */
  private allocate(): number {
    const group = Math.floor(this.next / BLOCKS_PER_GROUP);
    if (this.next < this.metadataEnd(group)) this.next = this.metadataEnd(group);
    if (this.next >= this.blocks)
      throw new Error(`the files do not fit into ${this.options.size} bytes; make the image larger`);
    const block = this.next++;
    this.take(block);
    // The next one may be the first of a group, which is not free.
    return block;
  }

  private writeAt(bytes: Uint8Array, block: number): void {
    writeSync(this.file, bytes, 0, bytes.length, block * BLOCK_SIZE);
  }

  private place(node: Node): void {
    const type = typeOf(node);
    if (type === 'character' || type === 'block') {
      const { major, minor } = node.entry;
      if (major < 256 && minor < 256) node.pointers[0] = (major << 8) | minor;
      else node.pointers[1] = (minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12);
      return;
    }
    if (type === 'symlink' && node.data.length < 60) {
      new Uint8Array(node.pointers.buffer).set(node.data);
      return;
    }
    const count = Math.ceil(node.data.length / BLOCK_SIZE);
    // Indirect blocks lie just before what they point to, as if the file had been written from its start to its end.
    const fill = (depth: number): number => {
      const block = this.allocate();
      node.blockCount++;
      if (depth === 0) {
        node.blocks.push(block);
        return block;
      }
      const table = new Uint32Array(POINTERS);
      for (let i = 0; i < POINTERS && node.blocks.length < count; i++) table[i] = fill(depth - 1);
      this.writeAt(new Uint8Array(table.buffer), block);
      return block;
    };
    for (let i = 0; i < 15 && node.blocks.length < count; i++) node.pointers[i] = fill(Math.max(0, i - DIRECT + 1));
    if (node.blocks.length < count) throw new Error(`${node.entry.path} is too large for ext2`);
    for (let i = 0; i < count;) {
      let run = 1;
      while (i + run < count && node.blocks[i + run] === node.blocks[i]! + run) run++;
      this.writeAt(node.data.subarray(i * BLOCK_SIZE, (i + run) * BLOCK_SIZE), node.blocks[i]!);
      i += run;
    }
  }

  private writeInode(node: Node): void {
    const group = Math.floor((node.inode - 1) / this.inodesPerGroup);
    const table = this.inodeTables[group]!;
    const at = ((node.inode - 1) % this.inodesPerGroup) * INODE_SIZE;
    const view = new DataView(table.buffer, at, INODE_SIZE);
    const { mode, uid, gid, mtime } = node.entry;
    const hasSize = node.children || node.entry.type === 'file' || node.entry.type === 'symlink';
    const size = hasSize ? node.data.length : 0;
    view.setUint16(0, MODE_TYPES[typeOf(node)] | mode, true);
    view.setUint16(2, uid & 0xffff, true);
    view.setUint32(4, size, true);
    for (const offset of [8, 12, 16]) view.setUint32(offset, mtime, true); // atime, ctime, mtime
    view.setUint16(24, gid & 0xffff, true);
    view.setUint16(26, node.links, true);
    view.setUint32(28, node.blockCount * (BLOCK_SIZE / 512), true);
    for (let i = 0; i < 15; i++) view.setUint32(40 + 4 * i, node.pointers[i]!, true);
    if (node.entry.type === 'file') view.setUint32(108, Math.floor(size / 2 ** 32), true);
    view.setUint16(120, uid >>> 16, true);
    view.setUint16(122, gid >>> 16, true);
    view.setUint16(128, EXTRA_SIZE, true);
    view.setUint32(144, mtime, true); // i_crtime
    if (node.entry.xattrs.size) writeXattrs(node.entry, table.subarray(at + 128 + EXTRA_SIZE, at + INODE_SIZE));
  }

  private finish(): void {
    const descriptors = new Uint8Array(this.descriptorBlocks * BLOCK_SIZE);
    const view = new DataView(descriptors.buffer);
    let freeBlocks = 0;
    let freeInodes = 0;
    for (let group = 0; group < this.groups; group++) {
      const inGroup = Math.min(BLOCKS_PER_GROUP, this.blocks - group * BLOCKS_PER_GROUP);
      const free = inGroup - countBits(this.blockBitmaps[group]!);
      const inodesFree = this.inodesPerGroup - countBits(this.inodeBitmaps[group]!);
      freeBlocks += free;
      freeInodes += inodesFree;
      // Bits past the end are set, so that nobody allocates there.
      setBits(this.blockBitmaps[group]!, inGroup);
      setBits(this.inodeBitmaps[group]!, this.inodesPerGroup);
      const start = this.groupStart(group);
      const at = group * DESCRIPTOR_SIZE;
      view.setUint32(at, start, true);
      view.setUint32(at + 4, start + 1, true);
      view.setUint32(at + 8, start + 2, true);
      view.setUint16(at + 12, free, true);
      view.setUint16(at + 14, inodesFree, true);
      view.setUint16(at + 16, this.directories[group]!, true);
      // Linux's ext4 driver would zero the rest of the tables some seconds after the mount, and note here that it has.
      view.setUint16(at + 18, BG_INODE_ZEROED, true);
      this.writeAt(this.blockBitmaps[group]!, start);
      this.writeAt(this.inodeBitmaps[group]!, start + 1);
      const used = lastNonZero(this.inodeTables[group]!);
      if (used) this.writeAt(this.inodeTables[group]!.subarray(0, used), start + 2);
    }
    for (let group = 0; group < this.groups; group++) {
      if (!hasBackup(group)) continue;
      const superblock = this.superblock(group, freeBlocks, freeInodes);
      const offset = group === 0 ? 1024 : group * BLOCKS_PER_GROUP * BLOCK_SIZE;
      writeSync(this.file, superblock, 0, superblock.length, offset);
      this.writeAt(descriptors, group * BLOCKS_PER_GROUP + 1);
    }
  }

  private superblock(group: number, freeBlocks: number, freeInodes: number): Uint8Array {
    const block = new Uint8Array(1024);
    const view = new DataView(block.buffer);
    const { time } = this.options;
    const words: [offset: number, value: number][] = [
      [0, this.groups * this.inodesPerGroup],
      [4, this.blocks],
      [12, freeBlocks],
      [16, freeInodes],
      [24, 2], // s_log_block_size: 1024 << 2
      [28, 2],
      [32, BLOCKS_PER_GROUP],
      [36, BLOCKS_PER_GROUP],
      [40, this.inodesPerGroup],
      [48, time], // s_wtime
      [64, time], // s_lastcheck
      [76, 1], // s_rev_level: dynamic inode sizes
      [84, FIRST_INODE],
      [92, COMPAT_EXT_ATTR | COMPAT_DIR_INDEX],
      [96, INCOMPAT_FILETYPE],
      [100, RO_COMPAT_SPARSE_SUPER | RO_COMPAT_LARGE_FILE],
      [256, 0xc], // s_default_mount_opts: user_xattr, acl
      [264, time], // s_mkfs_time
      [352, 1], // s_flags: directory hashes of signed characters, as on x86
    ];
    for (const [offset, value] of words) view.setUint32(offset, value, true);
    view.setUint16(54, 0xffff, true); // s_max_mnt_count: never
    view.setUint16(56, 0xef53, true); // s_magic
    view.setUint16(58, 1, true); // s_state: clean
    view.setUint16(60, 1, true); // s_errors: go on
    view.setUint16(88, INODE_SIZE, true);
    view.setUint16(90, group, true);
    view.setUint16(348, EXTRA_SIZE, true);
    view.setUint16(350, EXTRA_SIZE, true);
    view.setUint8(252, 1); // s_def_hash_version: half MD4
    block.set(this.options.uuid.subarray(0, 16), 104);
    block.set(this.options.hashSeed.subarray(0, 16), 236);
    return block;
  }
}

/** Extended attributes in the inode's own spare room: a list of entries from the front, values from the back. */
function writeXattrs(owner: Entry, room: Uint8Array): void {
  const prefixes: [string, number][] = [
    ['user.', 1],
    ['trusted.', 4],
    ['security.', 6],
  ];
  const view = new DataView(room.buffer, room.byteOffset, room.length);
  view.setUint32(0, 0xea020000, true);
  let at = 4;
  let end = room.length;
  for (const [name, value] of [...owner.xattrs].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const prefix = prefixes.find(([start]) => name.startsWith(start));
    if (!prefix) throw new Error(`${owner.path} has the extended attribute ${name}, which cannot be stored`);
    const suffix = new TextEncoder().encode(name.slice(prefix[0].length));
    end -= (value.length + 3) & ~3;
    const next = at + ((16 + suffix.length + 3) & ~3);
    if (next + 4 > end) throw new Error(`the extended attributes of ${owner.path} do not fit into its inode`);
    view.setUint8(at, suffix.length);
    view.setUint8(at + 1, prefix[1]);
    view.setUint16(at + 2, end - 4, true); // counted from the first entry
    view.setUint32(at + 8, value.length, true);
    room.set(suffix, at + 16);
    room.set(value, end);
    at = next;
  }
}

function countBits(bytes: Uint8Array): number {
  let count = 0;
  for (const byte of bytes) for (let rest = byte; rest; rest &= rest - 1) count++;
  return count;
}

function setBits(bytes: Uint8Array, from: number): void {
  for (let bit = from; bit < bytes.length * 8; bit++) bytes[bit >> 3]! |= 1 << (bit & 7);
}

function lastNonZero(bytes: Uint8Array): number {
  let end = bytes.length;
  while (end && !bytes[end - 1]) end--;
  return end;
}
