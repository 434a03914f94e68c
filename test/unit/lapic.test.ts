import { describe, expect, test } from 'vitest';
import { Scheduler } from '../../emulator/clock.ts';
import { Ioapic } from '../../emulator/devices/ioapic.ts';
import { Lapic } from '../../emulator/devices/lapic.ts';

function setup(): {
  lapic: Lapic;
  clock: { time: number };
  changes: () => number;
  advance: (to: number) => void;
  write: (register: number, value: number) => void;
  read: (register: number) => number;
} {
  const clock = { time: 0, now: () => clock.time, wall: () => 0 };
  const scheduler = new Scheduler(clock);
  let changes = 0;
  const lapic = new Lapic(scheduler, () => changes++);
  lapic.writeMmio(0xf0, 4, 0x1ff);
  return {
    lapic,
    clock,
    changes: () => changes,
    advance: (to) => {
      clock.time = to;
      scheduler.run();
    },
    write: (register, value) => lapic.writeMmio(register, 4, value),
    read: (register) => lapic.readMmio(register, 4),
  };
}

describe('local APIC', () => {
  test('delivers the highest vector first, and a lower one after its end', () => {
    const { lapic, write, changes } = setup();
    lapic.deliver(0x31, false);
    lapic.deliver(0x52, false);
    expect(changes()).toBe(2);
    expect(lapic.acknowledge()).toBe(0x52);
    expect(lapic.pending()).toBe(-1);
    write(0xb0, 0);
    expect(lapic.acknowledge()).toBe(0x31);
    expect(lapic.acknowledge()).toBe(-1);
  });

  test('nests a higher priority class, but not the same one', () => {
    const { lapic } = setup();
    lapic.deliver(0x41, false);
    lapic.acknowledge();
    lapic.deliver(0x4f, false);
    expect(lapic.pending()).toBe(-1);
    lapic.deliver(0x50, false);
    expect(lapic.pending()).toBe(0x50);
  });

  test('the task priority masks classes up to its own, through CR8 and TPR alike', () => {
    const { lapic, write, read } = setup();
    lapic.deliver(0x45, false);
    lapic.taskPriority = 4;
    expect(lapic.pending()).toBe(-1);
    expect(read(0x80)).toBe(0x40);
    expect(read(0xa0)).toBe(0x40);
    write(0x80, 0x3f);
    expect(lapic.taskPriority).toBe(3);
    expect(lapic.pending()).toBe(0x45);
  });

  test('shows requests, service and trigger mode in its registers', () => {
    const { lapic, read } = setup();
    lapic.deliver(0x45, true);
    expect(read(0x220)).toBe(1 << 5);
    expect(read(0x1a0)).toBe(1 << 5);
    lapic.acknowledge();
    expect([read(0x220), read(0x120)]).toEqual([0, 1 << 5]);
  });

  test('disabled, it accepts nothing and masks its local vectors', () => {
    const { lapic, write, read } = setup();
    write(0x320, 0x40);
    write(0xf0, 0xff);
    lapic.deliver(0x45, false);
    expect(lapic.pending()).toBe(-1);
    expect(read(0x320)).toBe(0x10040);
  });

  test('a vector below 16 is an error, told in ESR', () => {
    const { lapic, write, read } = setup();
    lapic.deliver(5, false);
    write(0x280, 0);
    expect(read(0x280)).toBe(0x40);
    write(0x280, 0);
    expect(read(0x280)).toBe(0);
  });

  test('sends an interrupt to itself, and none to others', () => {
    const { lapic, write } = setup();
    write(0x310, 1 << 24);
    write(0x300, 0x61);
    expect(lapic.pending()).toBe(-1);
    write(0x310, 0);
    write(0x300, 0x62);
    expect(lapic.acknowledge()).toBe(0x62);
    write(0x300, 0x40071);
    expect(lapic.acknowledge()).toBe(0x71);
    write(0x300, 0xc0072); // all but self
    expect(lapic.pending()).toBe(-1);
  });

  test('one-shot timer: counts at 25 MHz over the divisor, and fires once', () => {
    const { lapic, write, read, advance } = setup();
    write(0x320, 0x40);
    write(0x3e0, 3); // by 16
    write(0x380, 100);
    advance(32_000);
    expect(read(0x390)).toBe(50);
    expect(lapic.pending()).toBe(-1);
    advance(64_000);
    expect(lapic.acknowledge()).toBe(0x40);
    expect(read(0x390)).toBe(0);
    write(0xb0, 0);
    advance(1e9);
    expect(lapic.pending()).toBe(-1);
  });

  test('divide configuration 11 counts undivided', () => {
    const { lapic, write, advance } = setup();
    write(0x320, 0x40);
    write(0x3e0, 11);
    write(0x380, 10);
    advance(399);
    expect(lapic.pending()).toBe(-1);
    advance(400);
    expect(lapic.pending()).toBe(0x40);
  });

  test('periodic timer: keeps its phase, and missed periods become one interrupt', () => {
    const { lapic, write, advance } = setup();
    write(0x320, 0x20040);
    write(0x3e0, 11);
    write(0x380, 25); // 1 µs
    advance(1000);
    expect(lapic.acknowledge()).toBe(0x40);
    write(0xb0, 0);
    advance(5300);
    expect(lapic.acknowledge()).toBe(0x40);
    write(0xb0, 0);
    advance(5999);
    expect(lapic.pending()).toBe(-1);
    advance(6000);
    expect(lapic.pending()).toBe(0x40);
  });

  test('TSC-deadline timer: fires at the deadline, reads 0 afterwards, and 0 disarms it', () => {
    const { lapic, write, advance } = setup();
    write(0x320, 0x40040);
    expect(lapic.writeMsr(0x6e0, 5000n)).toBe(true);
    expect(lapic.readMsr(0x6e0)).toBe(5000n);
    advance(4999);
    expect(lapic.pending()).toBe(-1);
    advance(5000);
    expect(lapic.acknowledge()).toBe(0x40);
    expect(lapic.readMsr(0x6e0)).toBe(0n);
    write(0xb0, 0);
    lapic.writeMsr(0x6e0, 6000n);
    lapic.writeMsr(0x6e0, 0n);
    advance(1e9);
    expect(lapic.pending()).toBe(-1);
    // In the past: at once. The far future: never, and nothing overflows.
    lapic.writeMsr(0x6e0, 1n);
    advance(1e9);
    expect(lapic.pending()).toBe(0x40);
    expect(lapic.writeMsr(0x6e0, 0xffff_ffff_ffff_ffffn)).toBe(true);
  });

  test('the deadline is ignored in the other modes, and a masked timer says nothing', () => {
    const { lapic, write, advance } = setup();
    write(0x320, 0x40);
    lapic.writeMsr(0x6e0, 1000n);
    expect(lapic.readMsr(0x6e0)).toBe(0n);
    write(0x320, 0x10040);
    write(0x380, 1);
    advance(1e6);
    expect(lapic.pending()).toBe(-1);
  });

  test('APIC_BASE: bootstrap processor, enabled; moving it or x2APIC is refused; other MSRs are not its', () => {
    const { lapic } = setup();
    expect(lapic.readMsr(0x1b)).toBe(0xfee00900n);
    expect(lapic.writeMsr(0x1b, 0xfee00900n)).toBe(true);
    expect(lapic.writeMsr(0x1b, 0xfee00d00n)).toBe(false);
    expect(lapic.writeMsr(0x1b, 0xfed00900n)).toBe(false);
    expect(lapic.readMsr(0x10)).toBeUndefined();
    expect(lapic.writeMsr(0x10, 0n)).toBe(false);
  });

  test('restored, it has the same interrupts in service and the same timer', () => {
    const a = setup();
    a.lapic.deliver(0x51, true);
    a.lapic.acknowledge();
    a.lapic.deliver(0x61, false);
    a.write(0x320, 0x20040);
    a.write(0x3e0, 11);
    a.write(0x380, 25);
    a.advance(1500);
    const b = setup();
    b.clock.time = 1500;
    b.lapic.restore(structuredClone(a.lapic.save()));
    expect(b.lapic.save()).toEqual(a.lapic.save());
    expect(b.lapic.acknowledge()).toBe(0x61);
    b.advance(2000);
    expect(b.read(0x220)).toBe(1);
  });
});

describe('I/O APIC', () => {
  function wired(): { ioapic: Ioapic; lapic: Lapic; eoi: () => void; route: (pin: number, low: number) => void } {
    const { lapic, write } = setup();
    const ioapic = new Ioapic((vector, level) => lapic.deliver(vector, level));
    lapic.onEoi = (vector) => ioapic.endOfInterrupt(vector);
    const route = (pin: number, low: number): void => {
      ioapic.writeMmio(0, 4, 0x10 + pin * 2);
      ioapic.writeMmio(0x10, 4, low);
    };
    return { ioapic, lapic, eoi: () => write(0xb0, 0), route };
  }

  test('has 24 pins, masked at first', () => {
    const { ioapic } = wired();
    ioapic.writeMmio(0, 4, 1);
    expect(ioapic.readMmio(0x10, 4)).toBe(0x170011);
    ioapic.writeMmio(0, 4, 0x3e);
    expect(ioapic.readMmio(0x10, 4)).toBe(0x10000);
    expect(() => ioapic.line(24)).toThrow(RangeError);
  });

  test('an edge interrupts once, however long the wire is asserted', () => {
    const { ioapic, lapic, eoi, route } = wired();
    route(4, 0x31);
    ioapic.line(4).set(true);
    ioapic.line(4).set(true);
    expect(lapic.acknowledge()).toBe(0x31);
    eoi();
    expect(lapic.pending()).toBe(-1);
    ioapic.line(4).set(false);
    ioapic.line(4).set(true);
    expect(lapic.pending()).toBe(0x31);
  });

  test('a level interrupts again after each end until it is lowered, and shows remote IRR', () => {
    const { ioapic, lapic, eoi, route } = wired();
    route(16, 0x8031);
    ioapic.line(16).set(true);
    expect(ioapic.readMmio(0x10, 4) & 0x4000).toBe(0x4000);
    expect(lapic.acknowledge()).toBe(0x31);
    eoi();
    expect(lapic.acknowledge()).toBe(0x31);
    ioapic.line(16).set(false);
    eoi();
    expect(lapic.pending()).toBe(-1);
    expect(ioapic.readMmio(0x10, 4) & 0x4000).toBe(0);
  });

  test('a level that is masked comes when it is unmasked', () => {
    const { ioapic, lapic, route } = wired();
    route(16, 0x18031);
    ioapic.line(16).set(true);
    expect(lapic.pending()).toBe(-1);
    route(16, 0x8031);
    expect(lapic.pending()).toBe(0x31);
  });

  test('is saved and restored with its asserted wires', () => {
    const { ioapic, lapic, route, eoi } = wired();
    route(16, 0x8031);
    ioapic.line(16).set(true);
    lapic.acknowledge();
    const other = new Ioapic((vector, level) => lapic.deliver(vector, level));
    other.restore(structuredClone(ioapic.save()));
    lapic.onEoi = (vector) => other.endOfInterrupt(vector);
    eoi();
    expect(lapic.pending()).toBe(0x31);
  });
});
