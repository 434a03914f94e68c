import { describe, expect, test } from 'vitest';
import { SplitQueue } from '../../emulator/devices/virtio/queue.ts';
import { VirtioRng } from '../../emulator/devices/virtio/rng.ts';
import { GuestMemory } from '../../emulator/memory.ts';
import { Driver } from './helpers/virtio-driver.ts';

const rng = (): Driver => new Driver(new VirtioRng((bytes) => bytes.fill(0xaa))).start();

describe('virtio-mmio transport', () => {
  test('identifies itself and its device', () => {
    const driver = rng();
    expect(driver.read(0)).toBe(0x74726976);
    expect(driver.read(4)).toBe(2);
    expect(driver.read(8)).toBe(4);
    expect(driver.read(0xb0)).toBe(0xffffffff);
  });

  test('refuses a driver without VERSION_1, or with a feature that was not offered', () => {
    for (const [low, high] of [
      [0, 0],
      [1 << 5, 1],
    ] as const) {
      const driver = new Driver(new VirtioRng(() => undefined));
      driver.write(0x70, 3);
      driver.write(0x24, 0);
      driver.write(0x20, low);
      driver.write(0x24, 1);
      driver.write(0x20, high);
      driver.write(0x70, 11);
      expect(driver.status).toBe(3);
    }
  });

  test('answers a request, raises the interrupt, and lowers it when acknowledged', () => {
    const driver = rng();
    const head = driver.add(0, [{ address: 0x8000, length: 32, write: true }]);
    expect(driver.used(0)).toEqual([{ id: head, length: 32 }]);
    expect(driver.memory.slice(0x8000, 33)).toEqual(Uint8Array.of(...Array<number>(32).fill(0xaa), 0));
    expect(driver.irq).toBe(true);
    expect(driver.acknowledge()).toBe(1);
    expect(driver.irq).toBe(false);
  });

  test('sends no interrupt when the driver wants none', () => {
    const driver = rng();
    driver.memory.write16(driver.rings(0).avail, 1);
    driver.add(0, [{ address: 0x8000, length: 1, write: true }]);
    expect(driver.used(0)).toHaveLength(1);
    expect(driver.irq).toBe(false);
  });

  test('with event index interrupts at the index asked for, and asks for the next notification', () => {
    const driver = rng().start({ eventIndex: true });
    const { avail, used } = driver.rings(0);
    driver.memory.write16(avail + 4 + driver.size * 2, 1); // used_event: after the second
    driver.add(0, [{ address: 0x8000, length: 1, write: true }]);
    expect(driver.irq).toBe(false);
    expect(driver.memory.read16(used + 4 + driver.size * 8)).toBe(1);
    driver.add(0, [{ address: 0x8000, length: 1, write: true }]);
    expect(driver.irq).toBe(true);
  });

  test('works past the wrap of the 16-bit index', () => {
    const driver = rng();
    for (let i = 0; i < 65600; i++) driver.add(0, [{ address: 0x8000, length: 1, write: true }]);
    expect(driver.used(0).length).toBeLessThan(65536);
    driver.add(0, [{ address: 0x9000, length: 4, write: true }]);
    expect(driver.memory.read32(0x9000)).toBe(0xaaaaaaaa);
    expect(driver.needsReset).toBe(false);
  });

  test('takes indirect descriptors', () => {
    const driver = rng();
    driver.memory.write64(0x7000, 0x8000);
    driver.memory.write32(0x7008, 8);
    driver.memory.write16(0x700c, 3);
    driver.memory.write16(0x700e, 1);
    driver.memory.write64(0x7010, 0x9000);
    driver.memory.write32(0x7018, 8);
    driver.memory.write16(0x701c, 2);
    driver.descriptor(0, 0, 0x7000, 32, 4);
    driver.offer(0, 0);
    driver.notify(0);
    expect(driver.used(0)).toEqual([{ id: 0, length: 16 }]);
    expect(driver.memory.read8(0x9007)).toBe(0xaa);
  });

  test('forgets everything on reset', () => {
    const driver = rng();
    driver.add(0, [{ address: 0x8000, length: 1, write: true }]);
    driver.write(0x70, 0);
    expect([driver.status, driver.irq, driver.read(0x60), driver.read(0x44)]).toEqual([0, false, 0, 0]);
  });

  test('saved and restored, goes on with the same rings', () => {
    const driver = rng();
    driver.add(0, [{ address: 0x8000, length: 1, write: true }]);
    const state = structuredClone(driver.transport.save());
    const other = new Driver(new VirtioRng((bytes) => bytes.fill(0xbb)), 0, driver.memory);
    other.transport.restore(state);
    expect(other.irq).toBe(true);
    driver.add(0, [{ address: 0x8100, length: 1, write: true }], false);
    other.notify(0);
    expect(driver.memory.read8(0x8100)).toBe(0xbb);
    expect(driver.used(0)).toHaveLength(2);
  });
});

describe('a hostile driver makes the device need a reset', () => {
  const cases: Record<string, (driver: Driver) => void> = {
    'a chain that loops': (d) => {
      d.descriptor(0, 0, 0x8000, 1, 3, 1);
      d.descriptor(0, 1, 0x8000, 1, 3, 0);
    },
    'a buffer past RAM': (d) => d.descriptor(0, 0, 0xfffff, 2, 2),
    'an address of 64 bits': (d) => {
      d.descriptor(0, 0, 0, 1, 2);
      d.memory.write32(d.rings(0).desc + 4, 0xffffffff);
    },
    'a huge length': (d) => d.descriptor(0, 0, 0, 0xffffffff, 2),
    'a next descriptor outside the table': (d) => d.descriptor(0, 0, 0x8000, 1, 3, 9),
    'a buffer to read after one to write': (d) => {
      d.descriptor(0, 0, 0x8000, 1, 3, 1);
      d.descriptor(0, 1, 0x8000, 1, 0);
    },
    'an empty indirect table': (d) => d.descriptor(0, 0, 0x8000, 0, 4),
    'an indirect table of a wrong size': (d) => d.descriptor(0, 0, 0x8000, 17, 4),
    'an indirect table past RAM': (d) => d.descriptor(0, 0, 0xffff0, 32, 4),
    'an indirect table in an indirect table': (d) => {
      d.descriptor(0, 0, 0x7000, 16, 4);
      d.memory.write64(0x7000, 0x7000);
      d.memory.write32(0x7008, 16);
      d.memory.write16(0x700c, 4);
    },
    'an indirect chain that loops': (d) => {
      d.descriptor(0, 0, 0x7000, 16, 4);
      d.memory.write64(0x7000, 0x8000);
      d.memory.write32(0x7008, 1);
      d.memory.write16(0x700c, 3);
    },
    'an indirect descriptor with a next one': (d) => d.descriptor(0, 0, 0x7000, 16, 5, 1),
  };
  for (const [name, spoil] of Object.entries(cases))
    test(name, () => {
      const driver = rng();
      spoil(driver);
      driver.offer(0, 0);
      driver.notify(0);
      expect(driver.needsReset).toBe(true);
      expect(driver.used(0)).toEqual([]);
      expect(driver.acknowledge() & 2).toBe(2); // configuration change interrupt
      // Nothing more happens until a reset, after which it works again.
      driver.notify(0);
      driver.start();
      driver.add(0, [{ address: 0x8000, length: 4, write: true }]);
      expect(driver.used(0)).toHaveLength(1);
    });

  test('a head outside the table, and more buffers than the ring holds', () => {
    const one = rng();
    one.offer(0, 8);
    one.notify(0);
    expect(one.needsReset).toBe(true);
    const two = rng();
    two.memory.write16(two.rings(0).avail + 2, 9);
    two.notify(0);
    expect(two.needsReset).toBe(true);
  });

  test('rings outside RAM, misaligned, or of an impossible size', () => {
    for (const [register, value] of [
      [0x80, 0xffff8],
      [0x84, 1],
      [0x90, 0x1001],
      [0xa0, 0xfffffffc],
      [0x38, 3],
      [0x38, 0],
      [0x38, 512],
    ] as const) {
      const driver = rng();
      driver.write(0x44, 0);
      driver.write(0x38, 8);
      driver.write(0x80, 0x1000);
      driver.write(0x90, 0x2000);
      driver.write(0xa0, 0x3000);
      driver.write(register, value);
      driver.write(0x44, 1);
      expect([register, driver.needsReset, driver.read(0x44)]).toEqual([register, true, 0]);
    }
  });

  test('a device that writes into its own ring does bounded work', () => {
    // Each answer moves the available index on by one: without a bound this would never end.
    let index = 1;
    const driver = new Driver(
      new VirtioRng((bytes) => new DataView(bytes.buffer, bytes.byteOffset).setUint16(0, ++index, true)),
    ).start();
    const { avail } = driver.rings(0);
    driver.add(0, [{ address: avail + 2, length: 2, write: true }]);
    expect(driver.needsReset).toBe(true);
    expect(index).toBeLessThan(20);
  });

  test('random rings and registers neither throw nor hang', () => {
    let seed = 1;
    const random = (): number => (seed = (Math.imul(seed, 1103515245) + 12345) >>> 0) >>> 8;
    const driver = rng();
    for (let round = 0; round < 3000; round++) {
      if (driver.needsReset || random() % 50 === 0) driver.start({ eventIndex: random() % 2 === 0 });
      const { desc, avail } = driver.rings(0);
      for (let i = 0; i < 4; i++) driver.memory.write8(desc + (random() % 128), random() & (random() % 3 ? 7 : 0xff));
      driver.offer(0, random() % 9);
      if (random() % 20 === 0) driver.memory.write16(avail + 2, random());
      driver.notify(random() % 3);
      driver.write((random() % 64) * 4, random() % 5 ? random() % 4 : random());
    }
    driver.start();
    driver.add(0, [{ address: 0x8000, length: 4, write: true }]);
    expect(driver.used(0)).toHaveLength(1);
  });
});

test('a queue gives a request back only to the life it came from', () => {
  const memory = new GuestMemory(new ArrayBuffer(65536), 0, 65536);
  const queue = new SplitQueue(
    memory,
    8,
    () => undefined,
    () => undefined,
  );
  const enable = (): void => {
    queue.size = 8;
    queue.descriptors = 0x1000;
    queue.available = 0x2000;
    queue.used = 0x3000;
    queue.enable();
  };
  enable();
  memory.write32(0x1008, 4);
  memory.write16(0x2002, 1);
  const chain = queue.pop()!;
  expect(queue.alive(chain)).toBe(true);
  queue.reset();
  enable();
  queue.push(chain, 4);
  expect(memory.read16(0x3002)).toBe(0);
});

describe('requests in pages that are not here yet', () => {
  /** All pages of `ranges` are absent; gives what was asked for, and brings it. */
  function withhold(driver: Driver, ...ranges: [address: number, length: number][]) {
    const { memory, transport } = driver;
    const absent = new Uint8Array(memory.size / 4096);
    const asked: number[] = [];
    for (const [address, length] of ranges) absent.fill(1, address >>> 12, (address + length) >>> 12);
    memory.absent = absent;
    memory.onAbsent = (page) => asked.push(page);
    return {
      asked,
      bring: () => {
        for (const page of asked.splice(0)) absent[page] = 0;
        transport.pagesArrived();
      },
    };
  }

  test('a buffer: the request waits in the ring, and is answered when all of it has come', () => {
    const driver = rng();
    const { asked, bring } = withhold(driver, [0x8000, 0x1000], [0xa000, 0x2000]);
    const head = driver.add(0, [
      { address: 0x8ff0, length: 32, write: true },
      { address: 0xaffe, length: 4, write: true },
    ]);
    expect(asked).toEqual([8, 10, 11]);
    expect(driver.used(0)).toEqual([]);
    expect(driver.memory.read8(0x8ff0)).toBe(0);
    bring();
    expect(driver.used(0)).toEqual([{ id: head, length: 36 }]);
    expect(driver.memory.read8(0xb001)).toBe(0xaa);
    expect(driver.needsReset).toBe(false);
  });

  test('requests keep their order, and as many as before fit into a batch', () => {
    const driver = rng();
    const { bring } = withhold(driver, [0x8000, 0x1000]);
    const heads = [0x8000, 0x9000].map((address) => driver.add(0, [{ address, length: 1, write: true }]));
    for (let i = 0; i < 20; i++) driver.notify(0);
    expect(driver.used(0)).toEqual([]);
    bring();
    expect(driver.used(0).map(({ id }) => id)).toEqual(heads);
    expect(driver.needsReset).toBe(false);
  });

  test('the rings themselves', () => {
    const driver = rng();
    driver.add(0, [{ address: 0x8000, length: 1, write: true }], false);
    const { asked, bring } = withhold(driver, [0x10000, 0x1000]);
    driver.notify(0);
    expect(new Set(asked)).toEqual(new Set([16]));
    bring();
    expect(driver.used(0)).toHaveLength(1);
  });

  test('an indirect table, and then what it points to', () => {
    const driver = rng();
    const { memory } = driver;
    memory.write64(0x20000, 0x8000);
    memory.write32(0x20008, 4);
    memory.write16(0x2000c, 2);
    const { asked, bring } = withhold(driver, [0x20000, 0x1000], [0x8000, 0x1000]);
    driver.descriptor(0, 0, 0x20000, 16, 4);
    driver.offer(0, 0);
    driver.notify(0);
    expect(asked).toEqual([0x20]);
    bring();
    expect(asked).toEqual([8]);
    bring();
    expect(driver.used(0)).toEqual([{ id: 0, length: 4 }]);
  });

  test('a reset forgets what waited', () => {
    const driver = rng();
    const { bring } = withhold(driver, [0x8000, 0x1000]);
    driver.add(0, [{ address: 0x8000, length: 1, write: true }]);
    driver.start();
    bring();
    expect(driver.used(0)).toEqual([]);
  });

  test('a hostile chain over all of RAM asks for a bounded number of pages', () => {
    const driver = new Driver(new VirtioRng(() => undefined), 64 << 20).start();
    const { memory } = driver;
    for (let i = 0; i < 1024; i++) {
      const at = 0x100000 + i * 16;
      memory.write64(at, 0x200000);
      memory.write32(at + 8, 0x3e00000);
      memory.write16(at + 12, i === 1023 ? 2 : 3);
      memory.write16(at + 14, i + 1);
    }
    const { asked } = withhold(driver, [0x200000, 0x3e00000]);
    driver.descriptor(0, 0, 0x100000, 1024 * 16, 4);
    driver.offer(0, 0);
    driver.notify(0);
    expect(asked.length).toBeLessThanOrEqual(1024 * 64);
    expect(driver.used(0)).toEqual([]);
  });
});
