import { describe, expect, test } from 'vitest';
import type { Width } from '../../emulator/bus.ts';
import { Scheduler } from '../../emulator/clock.ts';
import { Ioapic } from '../../emulator/devices/ioapic.ts';
import { Lapic } from '../../emulator/devices/lapic.ts';
import { Rtc } from '../../emulator/devices/rtc.ts';
import { Uart16550 } from '../../emulator/devices/uart16550.ts';
import { VirtioBalloon } from '../../emulator/devices/virtio/balloon.ts';
import { VirtioBlock } from '../../emulator/devices/virtio/block.ts';
import { VirtioConsole } from '../../emulator/devices/virtio/console.ts';
import type { VirtioDevice } from '../../emulator/devices/virtio/device.ts';
import { VirtioNet } from '../../emulator/devices/virtio/net.ts';
import { VirtioRng } from '../../emulator/devices/virtio/rng.ts';
import { emptyStats } from '../../emulator/disk/types.ts';
import { Driver } from './helpers/virtio-driver.ts';

/** xorshift32: the same cases in every run. */
function generator(seed: number): (below: number) => number {
  let x = seed;
  return (below) => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return (x >>> 0) % below;
  };
}

const WIDTHS: readonly Width[] = [1, 2, 4];
const VALUES = [0, 1, 2, 0x10, 0xff, 0x1ff, 0xffff, 0x8000_0000, 0xffff_ffff];

describe('no sequence of register accesses throws, and reads are unsigned numbers of their width', () => {
  test('local and I/O APIC', () => {
    const random = generator(1);
    const clock = { time: 0, now: () => clock.time, wall: () => 0 };
    const scheduler = new Scheduler(clock);
    const lapic = new Lapic(scheduler);
    const ioapic = new Ioapic((vector, level) => lapic.deliver(vector, level));
    lapic.onEoi = (vector) => ioapic.endOfInterrupt(vector);
    for (let i = 0; i < 100_000; i++) {
      const value = random(3) ? VALUES[random(VALUES.length)]! : random(2 ** 32);
      const width = WIDTHS[random(3)]!;
      const device = random(2) ? lapic : ioapic;
      const offset = random(4) ? random(0x40) * 16 : random(0x1000);
      if (random(2)) device.writeMmio(offset, width, value);
      else {
        const read = device.readMmio(offset, width);
        expect(read >= 0 && read < 2 ** (8 * width)).toBe(true);
      }
      if (random(10) === 0) ioapic.line(random(24)).set(random(2) === 0);
      if (random(10) === 0) lapic.acknowledge();
      if (random(10) === 0) lapic.writeMsr(0x6e0, BigInt(random(2 ** 32)) ** BigInt(random(3)));
      clock.time += random(1000);
      scheduler.run();
      expect(lapic.pending()).toBeLessThan(256);
    }
  });

  test('serial port and clock', () => {
    const random = generator(2);
    const uart = new Uart16550({ set: () => undefined }, () => undefined);
    const rtc = new Rtc({ now: () => 0, wall: () => 1.7e12 });
    for (let i = 0; i < 50_000; i++) {
      const [device, port] = random(2) ? [uart, 0x3f8 + random(8)] : [rtc, 0x70 + random(2)];
      const width = WIDTHS[random(3)]!;
      if (random(2)) device.writePort(port, width, random(2 ** 32));
      else {
        const read = device.readPort(port, width);
        expect(read >= 0 && read < 2 ** (8 * width)).toBe(true);
      }
      if (random(20) === 0) uart.send(new Uint8Array(random(40)));
    }
  });
});

describe('random rings and registers neither throw nor hang a device, and it works again after a reset', () => {
  const devices: Record<string, () => VirtioDevice> = {
    block: () =>
      new VirtioBlock({
        size: 1 << 20,
        readOnly: false,
        read: (_, length) => Promise.resolve(new Uint8Array(length)),
        readPieces: (offset, length, take) => {
          if (offset % 1024) return false;
          for (let at = 0; at < length; at += 3000) take(new Uint8Array(Math.min(3000, length - at)));
          return true;
        },
        write: () => undefined,
        flush: () => Promise.resolve(),
        stats: emptyStats(),
      }),
    console: () => new VirtioConsole([{ console: true }]),
    ports: () => new VirtioConsole([{ console: true }, { name: 'a' }, { name: 'b' }]),
    net: () => new VirtioNet(new Uint8Array(6)),
    rng: () => new VirtioRng((bytes) => bytes.fill(3)),
    balloon: () => new VirtioBalloon(() => undefined),
  };
  for (const [name, make] of Object.entries(devices))
    test(name, async () => {
      const random = generator(name.length * 7 + 3);
      const device = make();
      const driver = new Driver(device, 1 << 17);
      const queues = device.queueSizes.length;
      const address = (): number => (random(10) ? random(1 << 17) : random(2 ** 32) * 2 ** random(33));
      for (let round = 0; round < 4000; round++) {
        if (round === 0 || driver.needsReset || random(60) === 0) driver.start({ eventIndex: random(2) === 0 });
        const queue = random(queues);
        for (let i = 0; i < 3; i++)
          driver.descriptor(
            queue,
            random(8),
            address(),
            random(3) ? random(5000) : random(2 ** 32),
            random(8),
            random(9),
          );
        // A likely block request or control message at a place that descriptors often name.
        if (random(2)) {
          driver.descriptor(queue, 0, 0x8000, 16, 1, 1);
          driver.descriptor(queue, 1, 0x9000, 512 * random(4), 1 | (random(2) ? 2 : 0), 2);
          driver.descriptor(queue, 2, 0xa000, 1, 2);
          for (let i = 0; i < 4; i++) driver.memory.write32(0x8000 + i * 4, random(16));
        }
        driver.offer(queue, random(9) ? random(4) : random(65536));
        driver.notify(random(8) ? queue : random(10));
        if (random(4) === 0) driver.transport.writeMmio(random(0x200), WIDTHS[random(3)]!, random(16));
        if (random(4) === 0) driver.transport.readMmio(random(0x200), WIDTHS[random(3)]!);
        if (device instanceof VirtioConsole) device.ports[0]!.send(new Uint8Array(random(100)));
        if (device instanceof VirtioNet) device.receive(new Uint8Array(random(1600)));
      }
      await device.drain();
      driver.start();
      expect([driver.status, driver.needsReset]).toEqual([15, false]);
    });
});
