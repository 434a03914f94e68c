import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { writeChunks } from '../../disks/chunks.ts';
import { writeCpio } from '../../disks/cpio.ts';
import { BLOCK_SIZE, type Placement, writeExt2 } from '../../disks/ext2.ts';
import { hasCommand } from '../../disks/host.ts';
import { bzImagePayload, stripToLoaded, withoutSignature } from '../../disks/kernel.ts';
import { bootChunks, formatProfile, placementOrder, readProfile } from '../../disks/profile.ts';
import { ChunkOrder } from '../../disks/programs.ts';
import { type Entry, entry, readTar } from '../../disks/tar.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'disk-build-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const bytes = (text: string) => new TextEncoder().encode(text);
const text = (data: Uint8Array) => new TextDecoder().decode(data);

describe('tar', () => {
  test("reads what the system's tar writes: long names, links, modes", () => {
    const source = join(folder, 'source');
    const long = 'd'.repeat(120);
    const script =
      'mkdir -p "$1/$2" && echo hi > "$1/$2/f" && chmod 4711 "$1/$2/f" && ln "$1/$2/f" "$1/hard" && ln -s "$2/f" "$1/soft"';
    execFileSync('sh', ['-c', script, 'sh', source, long]);
    for (const format of ['pax', 'gnu']) {
      const archive = execFileSync('tar', [`--format=${format}`, '--sort=name', '-C', source, '-c', '.']);
      const entries = new Map([...readTar(archive)].map((each) => [each.path, each]));
      expect([...entries.keys()]).toEqual(['', long, `${long}/f`, 'hard', 'soft']);
      expect(entries.get(`${long}/f`)).toMatchObject({ type: 'file', mode: 0o4711 });
      expect(text(entries.get(`${long}/f`)!.data)).toBe('hi\n');
      expect(entries.get('hard')).toMatchObject({ type: 'hardlink', target: `${long}/f` });
      expect(entries.get('soft')).toMatchObject({ type: 'symlink', target: `${long}/f` });
    }
  });

  test('a damaged header and an archive cut short are told', () => {
    const archive = execFileSync('tar', ['-C', '/etc', '-c', 'passwd']);
    const damaged = Uint8Array.from(archive);
    damaged[0]! ^= 1;
    expect(() => [...readTar(damaged)]).toThrow(/checksum/);
    expect(() => [...readTar(archive.subarray(0, 600))]).toThrow(/ends inside/);
  });
});

describe('ext2', () => {
  const MIB = 2 ** 20;
  const options = {
    size: 256 * MIB,
    uuid: new Uint8Array(16).fill(1),
    hashSeed: new Uint8Array(16).fill(2),
    time: 1e9,
    first: [],
  };
  const large = new Uint8Array(5 * MIB + 1).map((_, i) => i * 31 + (i >> 12));
  const many = Array.from({ length: 700 }, (_, i) =>
    entry(`many/${'n'.repeat(40)}${i}`, 'file', { data: bytes(`${i}`) }),
  );
  const capability = new Uint8Array(20).fill(3);
  const entries: Entry[] = [
    entry('', 'directory', { mtime: 1e9 }),
    entry('etc/hostname', 'file', { data: bytes('debian\n'), mode: 0o640, uid: 1000, gid: 70000, mtime: 1.5e9 }),
    entry('large', 'file', { data: large }),
    entry('empty', 'file'),
    entry('hard', 'hardlink', { target: 'large' }),
    entry('short', 'symlink', { target: 'etc/hostname' }),
    entry('long', 'symlink', { target: 'x/'.repeat(60) }),
    entry('null', 'character', { major: 1, minor: 3, mode: 0o666 }),
    entry('ping', 'file', { data: bytes('x'), xattrs: new Map([['security.capability', capability]]) }),
    ...many,
  ];
  let image: string;
  let placements: Placement[];
  const debugfs = (command: string) =>
    execFileSync('debugfs', ['-R', command, image], {
      encoding: 'buffer',
      env: sbin,
      stdio: ['ignore', 'pipe', 'ignore'],
      maxBuffer: 2 ** 26,
    });
  const sbin = { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` };
  const checkable = hasCommand('e2fsck') && hasCommand('debugfs');

  beforeAll(() => {
    image = join(folder, 'image.ext2');
    placements = writeExt2(image, entries, { ...options, first: ['many', 'etc/hostname'] });
  });

  test.runIf(checkable)('is clean to e2fsck', () => {
    // Throws when the status is not 0.
    expect(
      execFileSync('e2fsck', ['-fn', image], { encoding: 'utf8', env: sbin, stdio: ['ignore', 'pipe', 'ignore'] }),
    ).toMatch(/Pass 5/);
  });

  test('a guest that writes nothing has nothing to write: the inode tables are known to be zeros', () => {
    const descriptors = readFileSync(image).subarray(BLOCK_SIZE, 2 * BLOCK_SIZE);
    expect([descriptors.readUInt16LE(18), descriptors.readUInt16LE(32 + 18)]).toEqual([4, 4]);
  });

  test.runIf(checkable)('gives its files back, with double indirect blocks', () => {
    expect(Buffer.compare(debugfs('cat /large'), large)).toBe(0);
    expect(Buffer.compare(debugfs('cat /hard'), large)).toBe(0);
    expect(text(debugfs(`cat /many/${'n'.repeat(40)}699`))).toBe('699');
  });

  test.runIf(checkable)('keeps owners, modes, times, links, devices and attributes', () => {
    const stat = text(debugfs('stat /etc/hostname'));
    expect(stat).toMatch(/Mode: +0640/);
    expect(stat).toMatch(/User: +1000 +Group: 70000/);
    expect(stat).toContain(`mtime: 0x${(1.5e9).toString(16)}`);
    expect(text(debugfs('stat /large'))).toMatch(/Links: 2/);
    expect(text(debugfs('stat /short'))).toContain('Fast link dest: "etc/hostname"');
    expect(text(debugfs('cat /long'))).toBe('x/'.repeat(60));
    expect(text(debugfs('stat /null'))).toMatch(/major\/minor number: 01:03/);
    const value = join(folder, 'capability');
    debugfs(`ea_get -f ${value} /ping security.capability`);
    expect([...readFileSync(value)]).toEqual([...capability]);
  });

  test('what is named comes first: low inodes, blocks in a row', () => {
    const first = placements.find(({ path }) => path === 'etc/hostname')!;
    const directory = placements.find(({ path }) => path === 'many')!;
    expect(directory.inode).toBe(12);
    expect(first.blocks[0]).toBe(directory.blocks.at(-1)! + 2); // etc's own block lies between
    expect(first.inode).toBeLessThan(20);
  });

  test('the same entries give the same bytes', () => {
    const again = join(folder, 'again.ext2');
    writeExt2(again, entries, { ...options, first: ['many', 'etc/hostname'] });
    execFileSync('cmp', [again, image]); // throws when they differ
  });

  test.each([
    [
      'more data than there is room for',
      [entry('x', 'file', { data: new Uint8Array(130 * MIB) })],
      128 * MIB,
      /do not fit/,
    ],
    ['a last group without room for its own tables', [], 128 * MIB + 4096, /last block group/],
    ['a hard link to nothing', [entry('x', 'hardlink', { target: 'y' })], 128 * MIB, /hard link x/],
    ['a file used as a directory', [entry('x', 'file'), entry('x/y', 'file')], 128 * MIB, /x is not a directory/],
    ['a name too long', [entry('n'.repeat(256), 'file')], 128 * MIB, /256 bytes/],
    [
      'attributes too large',
      [entry('x', 'file', { xattrs: new Map([['user.a', new Uint8Array(90)]]) })],
      128 * MIB,
      /do not fit/,
    ],
  ])('%s is an error in words', (_, list: Entry[], size, message) => {
    expect(() => writeExt2(join(folder, 'bad.ext2'), list, { ...options, size })).toThrow(message);
  });
});

describe('chunks', () => {
  test('are named by what they hold, zeros have none, and those of an older image go away', async () => {
    const image = join(folder, 'small');
    const chunks = join(folder, 'chunks');
    const contents = Buffer.concat([
      Buffer.alloc(4096, 1),
      Buffer.alloc(4096),
      Buffer.alloc(4096, 1),
      Buffer.from('tail'),
    ]);
    writeFileSync(image, contents);
    await writeChunks(image, chunks, 4096);
    const old = readdirSync(chunks);
    contents[0] = 9;
    writeFileSync(image, contents);
    const list = (await writeChunks(image, chunks, 4096)).chunks;
    expect(list.map(Boolean)).toEqual([true, false, true, true]);
    expect(readdirSync(chunks).sort()).toEqual([...new Set(list)].filter((name) => name !== null).sort());
    expect(old).toContain(list[2]);
    const last = gunzipSync(readFileSync(join(chunks, list[3]!)));
    expect(last.toString()).toBe('tail');
    expect(createHash('sha256').update(last).digest('hex')).toBe(list[3]);
  });
});

describe('chunks that a program reads', () => {
  test('are in the order of first use, once each, without those of zeros', () => {
    const order = new ChunkOrder({ chunkSize: 4096, chunks: ['a', null, 'c', 'd', 'e'] });
    order.add(3 * 4096 + 512, 512);
    order.add(4096 - 512, 3 * 4096);
    order.add(4 * 4096, 4096);
    expect(order.chunks).toEqual([3, 0, 2, 4]);
  });
});

describe('cpio', () => {
  test('entries begin at multiples of four, after a header of 13 hexadecimal fields', () => {
    const archive = writeCpio([
      { path: 'a', mode: 0o100644, data: bytes('12345') },
      { path: 'bc', mode: 0o100644 },
    ]);
    const at = text(archive).indexOf('070701', 6);
    expect(at).toBe(112 + 8);
    expect(text(archive.subarray(54, 62))).toBe('00000005'); // c_filesize
    expect(archive.length % 512).toBe(0);
  });
});

describe('kernel', () => {
  /** An ELF64 with two PT_LOADs, a PT_NOTE inside of the first, and junk that nothing loads. */
  function elf(): Uint8Array {
    const file = new Uint8Array(0x6000);
    const view = new DataView(file.buffer);
    file.set([0x7f, 0x45, 0x4c, 0x46, 2]);
    view.setBigUint64(24, 0x1000000n, true);
    view.setBigUint64(32, 64n, true);
    view.setUint16(56, 3, true);
    const header = (i: number, type: number, offset: number, address: number, size: number, memory: number) => {
      const at = 64 + i * 56;
      view.setUint32(at, type, true);
      [offset, address, address, size, memory].forEach((value, k) =>
        view.setBigUint64(at + 8 + 8 * k, BigInt(value), true),
      );
    };
    header(0, 1, 0x3000, 0x1000000, 0x1000, 0x1000);
    header(1, 1, 0x5000, 0x1002000, 0x800, 0x4000);
    header(2, 4, 0x3100, 0x1000100, 16, 16);
    file.fill(0xaa, 0x3000, 0x3f00);
    file.set(bytes('note'), 0x3100);
    file.fill(0xbb, 0x5000, 0x5010);
    file.fill(0xcc, 0x5900);
    return file;
  }

  test('stripped: what is loaded and the note stay, trailing zeros and the rest go', () => {
    const stripped = stripToLoaded(elf());
    const view = new DataView(stripped.buffer);
    const header = (i: number) => {
      const at = 64 + i * 56;
      return [view.getUint32(at, true), ...[8, 32, 40].map((offset) => Number(view.getBigUint64(at + offset, true)))];
    };
    expect(view.getUint16(56, true)).toBe(3);
    expect(header(0)).toEqual([1, 0x1000, 0xf00, 0x1000]);
    expect(header(1)).toEqual([1, 0x2000, 0x10, 0x4000]);
    expect(header(2)).toEqual([4, 0x1100, 16, 16]);
    expect(text(stripped.subarray(0x1100, 0x1104))).toBe('note');
    expect(stripped.length).toBe(0x2010);
  });

  test('what is no ELF or no bzImage is refused', () => {
    expect(() => stripToLoaded(new Uint8Array(100))).toThrow(/ELF/);
    expect(() => bzImagePayload(new Uint8Array(4096))).toThrow(/HdrS/);
    const image = new Uint8Array(4096);
    const view = new DataView(image.buffer);
    view.setUint32(0x202, 0x53726448, true);
    view.setUint16(0x206, 0x20f, true);
    view.setUint32(0x24c, 1 << 30, true);
    expect(() => bzImagePayload(image)).toThrow(/outside/);
  });

  test('a module loses its signature and nothing else', () => {
    const code = Uint8Array.of(1, 2, 3);
    const signed = (length: number): Uint8Array => {
      const info = new DataView(new ArrayBuffer(12));
      info.setUint32(8, length);
      return Buffer.concat([
        code,
        new Uint8Array(5),
        Buffer.from(info.buffer),
        Buffer.from('~Module signature appended~\n'),
      ]);
    };
    expect([...withoutSignature(signed(5))]).toEqual([...code]);
    expect(withoutSignature(code)).toBe(code);
    expect(() => withoutSignature(signed(9))).toThrow(/signature/);
  });
});

describe('boot profile', () => {
  test('survives being written and read', () => {
    const path = join(folder, 'profile');
    const profile = {
      boot: [
        { path: 'usr/bin/bash', blocks: [3, 1, 2, 7] },
        { path: '', blocks: [0] },
      ],
      later: [{ path: 'x', blocks: [0] }],
    };
    writeFileSync(path, formatProfile(profile));
    expect(readProfile(path)).toEqual({
      boot: [
        { path: 'usr/bin/bash', blocks: [1, 2, 3, 7] },
        { path: '', blocks: [0] },
      ],
      later: [{ path: 'x', blocks: [0] }],
    });
  });

  test('a file comes with its directories and the links that lead to it', () => {
    const profile = { boot: [{ path: 'usr/lib/libc.so.6', blocks: [0] }], later: [] };
    const entries = [
      entry('lib', 'symlink', { target: 'usr/lib' }),
      entry('usr/lib/deep/libc.so', 'symlink', { target: '../libc.so.6' }),
      entry('usr/share/deep/other', 'symlink', { target: 'nothing' }),
    ];
    expect(placementOrder(profile, entries)).toEqual([
      'lib',
      'usr/lib/libc.so.6',
      'usr/lib',
      'usr',
      'usr/lib/deep/libc.so',
      'usr/lib/deep',
    ]);
  });

  test('chunks are in the order of first use, once each, and files that are gone are passed over', () => {
    const profile = {
      boot: [
        { path: 'b', blocks: [0, 1] },
        { path: 'gone', blocks: [0] },
        { path: 'a', blocks: [0, 9] },
      ],
      later: [],
    };
    const chunk = 2 * BLOCK_SIZE;
    const placements = [
      { path: 'a', inode: 12, blocks: [20] },
      { path: 'b', inode: 13, blocks: [30, 31] },
    ];
    expect(bootChunks(profile, placements, 100 * BLOCK_SIZE, chunk)).toEqual([0, 1, 15, 10]);
  });
});
