import { describe, expect, test } from 'vitest';
import { VirtioBalloon } from '../../emulator/devices/virtio/balloon.ts';
import { VirtioBlock } from '../../emulator/devices/virtio/block.ts';
import { VirtioConsole } from '../../emulator/devices/virtio/console.ts';
import { VirtioNet } from '../../emulator/devices/virtio/net.ts';
import { VirtioRng } from '../../emulator/devices/virtio/rng.ts';
import type { BlockDevice } from '../../emulator/disk/types.ts';
import { emptyStats } from '../../emulator/disk/types.ts';
import { Driver } from './helpers/virtio-driver.ts';

const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);
const bytes = (string: string): Uint8Array => new TextEncoder().encode(string);
const settle = async (): Promise<void> => {
  for (let i = 0; i < 20; i++) await Promise.resolve();
};

// Block

interface TestDisk extends BlockDevice {
  data: Uint8Array;
  log: string[];
  /** Makes reads asynchronous: they wait in `waiting`. */
  slow: boolean;
  waiting: (() => void)[];
  fail: boolean;
}

function testDisk(readOnly = false): TestDisk {
  const disk: TestDisk = {
    data: Uint8Array.from({ length: 65536 }, (_, i) => i >>> 9),
    size: 65536,
    readOnly,
    log: [],
    slow: false,
    waiting: [],
    fail: false,
    stats: emptyStats(),
    readPieces: (offset, length, take) => {
      if (disk.slow) return false;
      for (let at = offset; at < offset + length; at += 300)
        take(disk.data.subarray(at, Math.min(at + 300, offset + length)));
      return true;
    },
    read: async (offset, length) => {
      await new Promise<void>((resolve) => disk.waiting.push(resolve));
      if (disk.fail) throw new Error('lost');
      return disk.data.slice(offset, offset + length);
    },
    write: (offset, data) => {
      if (disk.fail) throw new Error('full');
      disk.log.push(`write ${offset} ${data.length}`);
      disk.data.set(data, offset);
    },
    flush: async () => void disk.log.push('flush'),
    discard: (offset, length) => void disk.log.push(`discard ${offset} ${length}`),
  };
  return disk;
}

const HEADER = 0x8000;
const DATA = 0x9000;
const STATUS = 0x8800;

/** Sends a block request; the status byte reads 0xff until it is answered. */
function block(driver: Driver, type: number, sector: number, data: { length: number; write?: boolean }[]): void {
  driver.memory.write32(HEADER, type);
  driver.memory.write32(HEADER + 4, 0);
  driver.memory.write64(HEADER + 8, sector);
  driver.memory.write8(STATUS, 0xff);
  let address = DATA;
  driver.add(0, [
    { address: HEADER, length: 16 },
    ...data.map((part) => ({ address: (address += 0x1000) - 0x1000, ...part })),
    { address: STATUS, length: 1, write: true },
  ]);
}
const status = (driver: Driver): number => driver.memory.read8(STATUS);

describe('virtio-blk', () => {
  test('tells its capacity in sectors, and whether it is read-only', () => {
    const driver = new Driver(new VirtioBlock(testDisk(true))).start();
    expect(driver.read(0x100)).toBe(128);
    expect(driver.device.features & 0x20).toBe(0x20);
    expect(driver.device.features & 0x6000).toBe(0);
  });

  test('reads what the disk has in memory before the notification returns, into several buffers', () => {
    const driver = new Driver(new VirtioBlock(testDisk())).start();
    block(driver, 0, 3, [
      { length: 512, write: true },
      { length: 1024, write: true },
    ]);
    expect([status(driver), driver.used(0)[0]!.length, driver.irq]).toEqual([0, 1537, true]);
    expect([
      driver.memory.read8(DATA),
      driver.memory.read8(DATA + 0x1000),
      driver.memory.read8(DATA + 0x11ff + 1),
    ]).toEqual([3, 4, 5]);
  });

  test('answers later what has to be fetched, in any order', async () => {
    const disk = testDisk();
    disk.slow = true;
    const device = new VirtioBlock(disk);
    const driver = new Driver(device).start();
    block(driver, 0, 7, [{ length: 512, write: true }]);
    expect([status(driver), device.inFlight, driver.irq]).toEqual([0xff, 1, false]);
    disk.waiting[0]!();
    await device.drain();
    expect([status(driver), driver.memory.read8(DATA), device.inFlight, driver.irq]).toEqual([0, 7, 0, true]);
  });

  test('writes from several buffers', () => {
    const disk = testDisk();
    const driver = new Driver(new VirtioBlock(disk)).start();
    driver.memory.bytes.fill(0xee, DATA, DATA + 512);
    driver.memory.bytes.fill(0xdd, DATA + 0x1000, DATA + 0x1200);
    block(driver, 1, 2, [{ length: 512 }, { length: 512 }]);
    expect(status(driver)).toBe(0);
    expect([disk.log, disk.data[1024], disk.data[1536], disk.data[2048]]).toEqual([['write 1024 1024'], 0xee, 0xdd, 4]);
  });

  test('flushes, discards, writes zeros, and tells its name', async () => {
    const disk = testDisk();
    const device = new VirtioBlock(disk, { serial: 'disk-one' });
    const driver = new Driver(device).start();
    block(driver, 4, 0, []);
    await device.drain();
    expect([status(driver), disk.log]).toEqual([0, ['flush']]);

    driver.memory.write64(DATA, 8);
    driver.memory.write32(DATA + 8, 16);
    block(driver, 11, 0, [{ length: 16 }]);
    expect([status(driver), disk.log[1]]).toEqual([0, 'discard 4096 8192']);

    driver.memory.write32(DATA + 12, 1);
    block(driver, 13, 0, [{ length: 16 }]);
    await device.drain();
    expect([status(driver), disk.data[4096], disk.data[12287], disk.data[12288]]).toEqual([0, 0, 0, 24]);

    block(driver, 8, 0, [{ length: 20, write: true }]);
    expect([status(driver), text(driver.memory.slice(DATA, 8))]).toEqual([0, 'disk-one']);
  });

  test('refuses what is past the end, odd, read-only, or unknown', () => {
    const driver = new Driver(new VirtioBlock(testDisk())).start();
    const attempt = (...args: Parameters<typeof block> extends [Driver, ...infer R] ? R : never): number => {
      block(driver, ...args);
      return status(driver);
    };
    expect(attempt(0, 128, [{ length: 512, write: true }])).toBe(1);
    expect(attempt(0, 127, [{ length: 1024, write: true }])).toBe(1);
    expect(attempt(0, 0, [{ length: 511, write: true }])).toBe(1);
    expect(attempt(0, 2 ** 52, [{ length: 512, write: true }])).toBe(1);
    expect(attempt(1, 128, [{ length: 512 }])).toBe(1);
    expect(attempt(99, 0, [])).toBe(2);
    driver.memory.write64(DATA, 120);
    driver.memory.write32(DATA + 8, 16);
    driver.memory.write32(DATA + 12, 0);
    expect(attempt(11, 0, [{ length: 16 }])).toBe(1);
    expect(attempt(13, 0, [{ length: 15 }])).toBe(1);
    driver.memory.write32(DATA + 12, 2);
    expect(attempt(13, 0, [{ length: 16 }])).toBe(2);
    const sealed = new Driver(new VirtioBlock(testDisk(true))).start();
    block(sealed, 1, 0, [{ length: 512 }]);
    expect(status(sealed)).toBe(1);
    expect(driver.needsReset || sealed.needsReset).toBe(false);
  });

  test('an error of the disk is an I/O error for the guest, and is told to the host', async () => {
    const disk = testDisk();
    disk.slow = disk.fail = true;
    const errors: unknown[] = [];
    const device = new VirtioBlock(disk, { onError: (error) => errors.push(error) });
    const driver = new Driver(device).start();
    block(driver, 0, 0, [{ length: 512, write: true }]);
    disk.waiting[0]!();
    await device.drain();
    expect([status(driver), driver.used(0).length]).toEqual([1, 1]);
    block(driver, 1, 0, [{ length: 512 }]);
    expect([status(driver), errors.map(String), device.counters.errors]).toEqual([
      1,
      ['Error: lost', 'Error: full'],
      2,
    ]);
  });

  test('a request without header or status byte needs a reset', () => {
    for (const buffers of [[{ address: HEADER, length: 15 }], [{ address: HEADER, length: 16 }]]) {
      const driver = new Driver(new VirtioBlock(testDisk())).start();
      driver.add(0, buffers);
      expect(driver.needsReset).toBe(true);
    }
  });

  test('what completes after a reset touches neither rings nor buffers', async () => {
    const disk = testDisk();
    disk.slow = true;
    const device = new VirtioBlock(disk);
    const driver = new Driver(device).start();
    block(driver, 0, 7, [{ length: 512, write: true }]);
    driver.start();
    driver.memory.bytes.fill(0x11, DATA, DATA + 512);
    disk.waiting[0]!();
    await device.drain();
    expect([driver.memory.read8(DATA), status(driver), driver.used(0), driver.irq]).toEqual([0x11, 0xff, [], false]);
  });
});

// Console

describe('virtio-console with one terminal', () => {
  const setup = (): { driver: Driver; device: VirtioConsole; out: () => string } => {
    const device = new VirtioConsole([{ console: true }]);
    let out = '';
    device.ports[0]!.onOutput = (b) => (out += text(b));
    return { device, driver: new Driver(device).start(), out: () => out };
  };

  test('carries output and input', () => {
    const { driver, device, out } = setup();
    driver.memory.write(DATA, bytes('hello'));
    driver.add(1, [
      { address: DATA, length: 2 },
      { address: DATA + 2, length: 3 },
    ]);
    expect(out()).toBe('hello');
    driver.add(0, [{ address: DATA + 0x100, length: 4, write: true }]);
    expect(device.ports[0]!.send(bytes('typed'))).toBe(5);
    expect(driver.used(0)).toEqual([{ id: 0, length: 4 }]);
    driver.add(0, [{ address: DATA + 0x200, length: 64, write: true }]);
    expect(text(driver.memory.slice(DATA + 0x100, 4)) + text(driver.memory.slice(DATA + 0x200, 1))).toBe('typed');
  });

  test('interrupts after the slice, and only a driver that has not looked for itself', () => {
    const device = new VirtioConsole([{ console: true }]);
    const driver = new Driver(device).start({ eventIndex: true });
    const { avail } = driver.rings(1);
    const write = (used: number, event: number): unknown[] => {
      for (let i = 0; i < used; i++) driver.add(1, [{ address: DATA, length: 1 }]);
      const before = driver.irq;
      driver.memory.write16(avail + 4 + driver.size * 2, event); // used_event: what it has not seen
      return [before, driver.transport.settle(), driver.acknowledge(), driver.transport.settle()];
    };
    expect(write(1, 1)).toEqual([false, false, 0, false]);
    expect(write(1, 1)).toEqual([false, true, 1, false]);
    expect(write(30, 32)).toEqual([false, false, 0, false]);
    driver.write(0x70, 0);
    expect(driver.transport.settle()).toBe(false);
  });

  test('on hold leaves output with the guest until it is released', () => {
    const { driver, device, out } = setup();
    device.ports[0]!.hold = true;
    driver.memory.write(DATA, bytes('x'));
    driver.add(1, [{ address: DATA, length: 1 }]);
    expect([out(), driver.used(1).length]).toEqual(['', 0]);
    device.ports[0]!.hold = false;
    expect([out(), driver.used(1).length]).toEqual(['x', 1]);
  });

  test('takes a bounded amount of input, and says when there is room again', () => {
    const { driver, device } = setup();
    const port = device.ports[0]!;
    let room = 0;
    port.onWritable = () => room++;
    expect(port.send(new Uint8Array(300_000))).toBe(262_144);
    expect(port.send(new Uint8Array(1))).toBe(0);
    for (let i = 0; i < 40; i++) driver.add(0, [{ address: DATA, length: 4096, write: true }]);
    expect(room).toBe(1);
  });

  test('a resize is a change of configuration', () => {
    const { driver, device } = setup();
    driver.acknowledge();
    const generation = driver.read(0xfc);
    device.resize(132, 43);
    expect([driver.acknowledge(), driver.read(0x100, 2), driver.read(0x102, 2)]).toEqual([2, 132, 43]);
    expect(driver.read(0xfc)).not.toBe(generation);
    device.resize(132, 43);
    expect(driver.irq).toBe(false);
    device.resize(0, 1e9);
    expect([device.columns, device.rows]).toEqual([1, 65535]);
  });

  test('a receive buffer without room needs a reset', () => {
    const { driver, device } = setup();
    driver.add(0, [{ address: DATA, length: 4 }]);
    device.ports[0]!.send(bytes('a'));
    expect(driver.needsReset).toBe(true);
  });
});

describe('virtio-console with several ports', () => {
  const setup = (): { driver: Driver; device: VirtioConsole; control: (p: number, e: number, v: number) => void } => {
    const device = new VirtioConsole([{ console: true }, { name: 'org.test' }]);
    const driver = new Driver(device).start();
    const control = (port: number, event: number, value: number): void => {
      driver.memory.write32(DATA, port);
      driver.memory.write16(DATA + 4, event);
      driver.memory.write16(DATA + 6, value);
      driver.add(3, [{ address: DATA, length: 8 }]);
    };
    return { driver, device, control };
  };
  /** Takes the control messages there are: port, event, value and what follows. */
  const messages = (driver: Driver): unknown[] => {
    const result: unknown[] = [];
    for (;;) {
      driver.add(2, [{ address: DATA + 0x800, length: 64, write: true }]);
      const used = driver.used(2);
      if (!used.length) return result;
      const at = DATA + 0x800;
      const extra = text(driver.memory.slice(at + 8, used[0]!.length - 8));
      result.push([driver.memory.read32(at), driver.memory.read16(at + 4), driver.memory.read16(at + 6), extra]);
    }
  };

  test('announces its ports, their kind, name, size and state', () => {
    const { driver, control } = setup();
    control(0xffffffff, 0, 1);
    expect(messages(driver)).toEqual([
      [0, 1, 1, ''],
      [1, 1, 1, ''],
    ]);
    // Only one buffer is left over; the ring is small, so start again for the rest.
    const again = setup();
    again.control(0, 3, 1);
    again.control(1, 3, 1);
    expect(messages(again.driver)).toEqual([
      [0, 4, 1, ''],
      [0, 5, 0, 'P\0\x19\0'],
      [0, 6, 1, ''],
      [1, 7, 1, 'org.test'],
      [1, 6, 1, ''],
    ]);
  });

  test('keeps input until the guest has opened the port, and drops it when it closes', () => {
    const { driver, device, control } = setup();
    const port = device.ports[1]!;
    const opened: boolean[] = [];
    port.onGuestOpen = (open) => opened.push(open);
    driver.add(4, [{ address: DATA + 0x100, length: 16, write: true }]);
    port.send(bytes('early'));
    expect(driver.used(4)).toEqual([]);
    control(1, 6, 1);
    expect(driver.used(4)).toEqual([{ id: 0, length: 5 }]);
    port.send(bytes('late'));
    control(1, 6, 0);
    expect([opened, port.queued]).toEqual([[true, false], 0]);
  });

  test('is saved with what is queued, and restored', () => {
    const { driver, device, control } = setup();
    control(1, 6, 1);
    device.ports[1]!.send(bytes('queued'));
    const state = structuredClone(driver.transport.save());
    const copy = new VirtioConsole([{ console: true }, { name: 'org.test' }]);
    const other = new Driver(copy, 0, driver.memory);
    other.transport.restore(state);
    expect(copy.ports[1]!.guestOpen).toBe(true);
    driver.add(4, [{ address: DATA + 0x100, length: 16, write: true }], false);
    other.notify(4);
    expect(text(driver.memory.slice(DATA + 0x100, 6))).toBe('queued');
  });

  test('nonsense in the control queue is harmless', () => {
    const { driver, control } = setup();
    for (const [p, e, v] of [
      [77, 3, 1],
      [1, 999, 1],
      [0xffffffff, 6, 1],
    ] as const)
      control(p, e, v);
    for (let i = 0; i < 2000; i++) control(0xffffffff, 0, 1);
    driver.add(3, [{ address: DATA, length: 3 }]);
    expect(driver.needsReset).toBe(false);
  });
});

// Network

describe('virtio-net', () => {
  const setup = (): { driver: Driver; device: VirtioNet; sent: Uint8Array[]; receive: (f: Uint8Array) => boolean } => {
    const sent: Uint8Array[] = [];
    let receive!: (frame: Uint8Array) => boolean;
    const device = new VirtioNet(Uint8Array.of(2, 0, 0, 0, 0, 1), {
      transmit: (frame) => sent.push(frame),
      connect: (r) => (receive = r),
    });
    return { driver: new Driver(device).start(), device, sent, receive: (f) => receive(f) };
  };

  test('has its address, its link is up, and a change of the link is told', () => {
    const { driver, device } = setup();
    expect([driver.read(0x100), driver.read(0x104, 2), driver.read(0x106, 2)]).toEqual([2, 0x100, 1]);
    device.linkUp = false;
    expect([driver.acknowledge(), driver.read(0x106, 2)]).toEqual([2, 0]);
  });

  test('sends a frame without its header', () => {
    const { driver, sent } = setup();
    driver.memory.write(DATA + 12, bytes('frame'));
    driver.add(1, [{ address: DATA, length: 17 }]);
    expect(sent.map(text)).toEqual(['frame']);
  });

  test('receives with a header, and keeps frames until there is a buffer', () => {
    const { driver, receive } = setup();
    expect(receive(bytes('frame'))).toBe(true);
    driver.add(0, [{ address: DATA, length: 2048, write: true }]);
    expect(driver.used(0)).toEqual([{ id: 0, length: 17 }]);
    expect([driver.memory.read16(DATA + 10), text(driver.memory.slice(DATA + 12, 5))]).toEqual([1, 'frame']);
  });

  test('drops what is too long, and what nobody takes', () => {
    const { driver, device, sent, receive } = setup();
    expect(receive(new Uint8Array(1519))).toBe(false);
    driver.add(1, [{ address: DATA, length: 2000 }]);
    driver.add(1, [{ address: DATA, length: 5 }]);
    expect([sent.length, driver.used(1).length, driver.needsReset]).toEqual([0, 2, false]);
    let taken = 0;
    while (receive(new Uint8Array(60))) taken++;
    expect([taken, device.counters.dropped]).toEqual([256, 4]);
  });

  test('a receive buffer too small for a frame needs a reset', () => {
    const { driver, receive } = setup();
    driver.add(0, [{ address: DATA, length: 16, write: true }]);
    receive(new Uint8Array(60));
    expect(driver.needsReset).toBe(true);
  });
});

// Entropy and balloon

test('virtio-rng fills at most 4 KiB a request', () => {
  const driver = new Driver(new VirtioRng((b) => b.fill(1))).start();
  driver.add(0, [{ address: DATA, length: 0x4000, write: true }]);
  expect(driver.used(0)).toEqual([{ id: 0, length: 4096 }]);
  expect([driver.memory.read8(DATA + 4095), driver.memory.read8(DATA + 4096)]).toEqual([1, 0]);
});

describe('virtio-balloon', () => {
  const setup = (): { driver: Driver; device: VirtioBalloon; released: [number, number][] } => {
    const released: [number, number][] = [];
    const device = new VirtioBalloon((address, length) => released.push([address, length]));
    return { driver: new Driver(device).start(), device, released };
  };

  test('asks for pages, and releases those it is given that are in RAM', () => {
    const { driver, device, released } = setup();
    device.target = 2;
    expect([driver.acknowledge(), driver.read(0x100)]).toEqual([2, 2]);
    [0x20, 0x30, 0xffffffff].forEach((page, i) => driver.memory.write32(DATA + i * 4, page));
    driver.add(0, [{ address: DATA, length: 12 }]);
    expect(released).toEqual([
      [0x20000, 4096],
      [0x30000, 4096],
    ]);
    driver.write(0x104, 2);
    expect(device.actual).toBe(2);
  });

  test('releases whole pages of reported ranges, whichever queue the driver uses for them', () => {
    const { driver, released } = setup();
    driver.add(4, [
      { address: 0x40000, length: 0x4000, write: true },
      { address: 0x50800, length: 0x1fff, write: true },
    ]);
    driver.add(3, [{ address: 0x60000, length: 0x1000, write: true }]);
    expect(released).toEqual([
      [0x40000, 0x4000],
      [0x51000, 0x1000],
      [0x60000, 0x1000],
    ]);
  });

  test('does not release more than there is RAM for one notification', () => {
    const { driver, released } = setup();
    for (let i = 0; i < 8; i++) driver.add(4, [{ address: 0, length: 1 << 20, write: true }], false);
    driver.notify(4);
    expect(released).toEqual([[0, 1 << 20]]);
  });

  test('gives the guest’s statistics anew when asked', async () => {
    const { driver, device } = setup();
    const stats = (free: number): void => {
      driver.memory.write16(DATA, 4);
      driver.memory.write64(DATA + 2, free);
      driver.add(2, [{ address: DATA, length: 10 }]);
    };
    stats(1000);
    expect(driver.used(2)).toEqual([]);
    const asked = device.refreshStats();
    expect(driver.used(2)).toHaveLength(1);
    stats(2 ** 33);
    expect(await asked).toEqual({ freeMemory: 2 ** 33 });
    const pending = device.refreshStats();
    driver.start();
    await settle();
    expect(await pending).toEqual({ freeMemory: 2 ** 33 });
  });
});
