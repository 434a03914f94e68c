import { describe, expect, test } from 'vitest';
import { openDisk } from '../../emulator/disk/open.ts';
import { DataDevice, GitHubDevice, HttpBytesDevice, IDBDevice, Linux, OverlayDevice } from '../../src/cheerpx.ts';

/** What needs no machine; test/browser/embed.ts runs a program. */
describe('mounts that cannot be had are refused with what to do', async () => {
  const image = await HttpBytesDevice.create('http://host/a.ext2');
  const idb = await IDBDevice.create('name');
  const data = await DataDevice.create();
  test.each([
    [[], /no block device at "\/"/],
    [[{ type: 'dir', path: '/', dev: data } as const], /no block device at "\/"/],
    [
      [{ type: 'ext2', path: '/', dev: image } as const, { type: 'ext2', path: '/more', dev: image } as const],
      /"\/more"/,
    ],
    [
      [{ type: 'ext2', path: '/', dev: image } as const, { type: 'dir', path: '/x', dev: image } as const],
      /"\/x" is no directory/,
    ],
  ])('%#', async (mounts, words) => {
    await expect(Linux.create({ mounts })).rejects.toThrow(words);
  });

  test('a file of a device that is not mounted', async () => {
    await expect(idb.readFileAsBlob('/a')).rejects.toThrow('"name" is not mounted');
  });
});

test('an overlay has the address of its image and the name of its store', async () => {
  const split = await GitHubDevice.create('http://host/a.ext2');
  const overlay = await OverlayDevice.create(split, await IDBDevice.create('name'));
  expect([overlay.disk, overlay.storageKey]).toEqual(['http://host/a.ext2.meta', 'name']);
});

describe('an image in parts', () => {
  const image = new Uint8Array(3 * 131072 + 1536).map((_, i) => (i * 13) >> 4);
  const fetch = (files: Record<string, string | Uint8Array<ArrayBuffer>>) => async (url: string) => {
    const body = files[url];
    return body === undefined ? new Response(null, { status: 404 }) : new Response(body);
  };
  const part = (index: number): Uint8Array<ArrayBuffer> => image.slice(index * 131072, (index + 1) * 131072);
  const files = {
    'http://host/a.ext2.meta': `${image.length}\n`,
    ...Object.fromEntries([0, 1, 2, 3].map((i) => [`http://host/a.ext2.c00000${i}.txt`, part(i)])),
  };
  const open = (given: Record<string, string | Uint8Array<ArrayBuffer>>) =>
    openDisk('http://host/a.ext2.meta', { policy: { fetch: fetch(given), attempts: 1 } });

  test('reads as the whole', async () => {
    const { device } = await open(files);
    expect(device.size).toBe(image.length);
    for (const [offset, length] of [
      [0, 512],
      [131072 - 512, 1024],
      [0, image.length],
      [image.length - 512, 512],
    ] as const)
      expect(Buffer.compare(await device.read(offset, length), image.slice(offset, offset + length))).toBe(0);
  });

  test('says what is wrong with it', async () => {
    await expect(open({ 'http://host/a.ext2.meta': '<html>' })).rejects.toThrow('"<html>" where an image');
    const { device } = await open({ ...files, 'http://host/a.ext2.c000001.txt': new Uint8Array(5) });
    await expect(device.read(131072, 512)).rejects.toThrow('holds 5 bytes');
  });
});
