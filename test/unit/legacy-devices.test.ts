import { describe, expect, test } from 'vitest';
import { Bus } from '../../emulator/bus.ts';
import { Power } from '../../emulator/devices/power.ts';
import { Rtc } from '../../emulator/devices/rtc.ts';
import { Uart16550 } from '../../emulator/devices/uart16550.ts';

describe('16550A', () => {
  function setup(): {
    uart: Uart16550;
    out: number[];
    irq: () => boolean;
    read: (r: number) => number;
    write: (r: number, v: number) => void;
  } {
    const out: number[] = [];
    let irq = false;
    const uart = new Uart16550({ set: (asserted) => (irq = asserted) }, (byte) => out.push(byte));
    return {
      uart,
      out,
      irq: () => irq,
      read: (r) => uart.readPort(0x3f8 + r, 1),
      write: (r, v) => uart.writePort(0x3f8 + r, 1, v),
    };
  }

  test('sends bytes at once, and its transmitter is always empty', () => {
    const { out, read, write } = setup();
    write(0, 0x41);
    write(0, 0x42);
    expect(out).toEqual([0x41, 0x42]);
    expect(read(5)).toBe(0x60);
  });

  test('behind DLAB there is the divisor, not the data', () => {
    const { out, read, write } = setup();
    write(3, 0x83);
    write(0, 0x34);
    write(1, 0x12);
    expect([read(0), read(1), read(3)]).toEqual([0x34, 0x12, 0x83]);
    write(3, 3);
    expect([read(1), out.length]).toEqual([0, 0]);
  });

  test('THR-empty interrupt: raised when enabled and after each byte, cleared by reading IIR', () => {
    const { irq, read, write } = setup();
    write(1, 2);
    expect(irq()).toBe(true);
    expect(read(2)).toBe(2);
    expect([irq(), read(2)]).toEqual([false, 1]);
    write(0, 0x41);
    expect(irq()).toBe(true);
    write(1, 0);
    expect(irq()).toBe(false);
  });

  test('receives through the FIFO: interrupt, time-out below the trigger level, order kept past 16 bytes', () => {
    const { uart, irq, read, write } = setup();
    write(2, 0x81); // FIFO on, trigger at 8
    write(1, 1);
    uart.send(Uint8Array.of(1, 2, 3));
    expect([irq(), read(2), read(5) & 1]).toEqual([true, 0xcc, 1]);
    uart.send(Uint8Array.from({ length: 40 }, (_, i) => i + 4));
    expect(read(2)).toBe(0xc4);
    const got = [];
    while (read(5) & 1) got.push(read(0));
    expect(got).toEqual(Array.from({ length: 43 }, (_, i) => i + 1));
    expect([irq(), read(2)]).toEqual([false, 0xc1]);
  });

  test('takes at most 64 KiB that the guest does not read', () => {
    const { uart } = setup();
    expect(uart.send(new Uint8Array(100_000))).toBe(65536);
    expect(uart.send(new Uint8Array(1))).toBeLessThanOrEqual(1);
  });

  test('loopback returns bytes and modem lines, as drivers probe for', () => {
    const { out, read, write } = setup();
    write(4, 0x1a);
    expect(read(6) & 0xf0).toBe(0x90);
    write(0, 0x55);
    expect([read(0), out.length]).toEqual([0x55, 0]);
    write(7, 0xa5);
    expect(read(7)).toBe(0xa5);
  });

  test('restored, it still has what was typed', () => {
    const a = setup();
    a.write(2, 1);
    a.write(1, 1);
    a.uart.send(Uint8Array.from({ length: 20 }, (_, i) => i));
    a.read(0);
    const b = setup();
    b.uart.restore(structuredClone(a.uart.save()));
    expect(b.irq()).toBe(true);
    expect(Array.from({ length: 19 }, () => b.read(0))).toEqual(Array.from({ length: 19 }, (_, i) => i + 1));
  });
});

describe('CMOS clock', () => {
  const wall = Date.UTC(2026, 10, 21, 13, 45, 59);
  const read = (rtc: Rtc, index: number): number => {
    rtc.writePort(0x70, 1, index | 0x80);
    return rtc.readPort(0x71, 1);
  };
  test('gives UTC in BCD, with the century', () => {
    const rtc = new Rtc({ now: () => 0, wall: () => wall });
    expect([0x32, 9, 8, 7, 6, 4, 2, 0].map((i) => read(rtc, i).toString(16))).toEqual([
      '20',
      '26',
      '11',
      '21',
      '7',
      '13',
      '45',
      '59',
    ]);
    expect([read(rtc, 10) & 0x80, read(rtc, 11), read(rtc, 13)]).toEqual([0, 2, 0x80]);
  });
  test('gives binary and 12 hours when asked to, and keeps its RAM', () => {
    const rtc = new Rtc({ now: () => 0, wall: () => wall });
    rtc.writePort(0x70, 1, 11);
    rtc.writePort(0x71, 1, 4);
    expect([read(rtc, 4), read(rtc, 2)]).toEqual([0x81, 45]);
    rtc.writePort(0x70, 1, 0x40);
    rtc.writePort(0x71, 1, 0x77);
    const other = new Rtc({ now: () => 0, wall: () => wall });
    other.restore(structuredClone(rtc.save()));
    expect(read(other, 0x40)).toBe(0x77);
  });
});

describe('power', () => {
  function setup(): { bus: Bus; log: string[] } {
    const bus = new Bus();
    const log: string[] = [];
    new Power(
      () => log.push('off'),
      () => log.push('reset'),
    ).attach(bus);
    return { bus, log };
  }
  test('S5 with sleep enable powers off; other sleep types do nothing', () => {
    const { bus, log } = setup();
    bus.writePort(0x600, 1, 5 << 2);
    bus.writePort(0x600, 1, 0x20 | (3 << 2));
    expect(log).toEqual([]);
    bus.writePort(0x600, 1, 0x20 | (5 << 2));
    expect(log).toEqual(['off']);
    expect(bus.readPort(0x601, 1) & 0x80).toBe(0x80);
  });
  test('each of the three reset ports resets, by its own value only', () => {
    const { bus, log } = setup();
    for (const [port, wrong, right] of [
      [0x602, 0, 1],
      [0x64, 0xff, 0xfe],
      [0xcf9, 2, 6],
    ] as const) {
      bus.writePort(port, 1, wrong);
      expect(log.length).toBe(0);
      bus.writePort(port, 1, right);
      expect(log.splice(0)).toEqual(['reset']);
    }
  });
  test('what is absent reads as all ones', () => {
    const { bus } = setup();
    expect([bus.readPort(0x2f8, 1), bus.readPort(0xcf8, 4), bus.readPort(0x64, 1)]).toEqual([0xff, 0xffffffff, 0xff]);
  });
});
