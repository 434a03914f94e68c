import { describe, expect, test } from 'vitest';
import { Machine } from '../../emulator/machine.ts';
import type { MachineExit, MachineOptions, MachineStatus } from '../../emulator/machine.ts';
import { readState, writeState } from '../../emulator/state-stream.ts';
import type { BlockDevice } from '../../emulator/disk/types.ts';
import { emptyStats } from '../../emulator/disk/types.ts';
import { StubProcessor, tinyKernel } from './helpers/stub-processor.ts';

const MEMORY = 4 << 20;

async function make(options: Partial<MachineOptions> = {}): Promise<{
  machine: Machine;
  cpu: StubProcessor;
  statuses: MachineStatus[];
  serial: () => string;
}> {
  let cpu!: StubProcessor;
  const statuses: MachineStatus[] = [];
  let serial = '';
  const machine = await Machine.create({
    createProcessor: (host, bytes) => (cpu = new StubProcessor(host, bytes)),
    memory: MEMORY,
    kernel: tinyKernel(),
    ...options,
    events: {
      ...options.events,
      status: (status) => statuses.push(status),
      serial: (bytes) => (serial += String.fromCharCode(...bytes)),
    },
  });
  return { machine, cpu, statuses, serial: () => serial };
}

const LAPIC = 0xfee00000;
const print = (cpu: StubProcessor, text: string): void => {
  for (const c of text) cpu.host.bus.writePort(0x3f8, 1, c.charCodeAt(0));
};
/** Sets the local APIC's timer to TSC-deadline mode with vector 0x40. */
function useDeadlines(cpu: StubProcessor): void {
  cpu.host.bus.writeMmio(LAPIC + 0xf0, 4, 0x1ff);
  cpu.host.bus.writeMmio(LAPIC + 0x320, 4, 0x40040);
}
/** Takes a pending interrupt and ends it. @returns its vector or -1 */
function takeInterrupt(cpu: StubProcessor): number {
  const vector = cpu.host.interrupts.acknowledge();
  if (vector >= 0) cpu.host.bus.writeMmio(LAPIC + 0xb0, 4, 0);
  return vector;
}
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

describe('making a machine', () => {
  test('loads the kernel and gives it ACPI tables', async () => {
    const { cpu } = await make();
    expect(cpu.entry).toMatchObject({ mode: 'protected', rip: 0x100020 });
    expect(new TextDecoder().decode(cpu.memory.slice(0xe0000, 8))).toBe('RSD PTR ');
  });

  test('refuses a size of memory that cannot be', async () => {
    for (const memory of [0, 1 << 20, (2 << 20) + 4096, 0xc0200000])
      await expect(make({ memory })).rejects.toThrow(RangeError);
  });

  test('without a kernel or a state there is nothing to start', async () => {
    const { machine } = await make({ kernel: undefined });
    expect(() => machine.start()).toThrow(/neither a kernel nor a saved state/);
  });
});

describe('how a machine ends', () => {
  const endings: [string, (cpu: StubProcessor) => void, Partial<MachineExit>][] = [
    ['power-off by ACPI', (cpu) => cpu.host.bus.writePort(0x600, 1, 0x34), { reason: 'poweroff' }],
    ['reset by ACPI', (cpu) => cpu.host.bus.writePort(0x602, 1, 1), { reason: 'reset' }],
    [
      'reset through the BIOS',
      (cpu) => {
        cpu.host.bus.writePort(0x70, 1, 0x8f);
        cpu.host.bus.writePort(0x71, 1, 0);
      },
      { reason: 'reset' },
    ],
    ['reset by the keyboard controller', (cpu) => cpu.host.bus.writePort(0x64, 1, 0xfe), { reason: 'reset' }],
    [
      'an exception in the processor',
      () => {
        throw new Error('out of opcodes');
      },
      { reason: 'error', message: 'out of opcodes' },
    ],
    [
      'a panic and the reset after it',
      (cpu) => {
        print(cpu, 'x\r\n[    1.5] Kernel panic - not syncing: Attempted to kill init!\r\n[    1.6] CPU: 0\r\n');
        cpu.host.bus.writePort(0xcf9, 1, 6);
      },
      {
        reason: 'panic',
        message: '[    1.5] Kernel panic - not syncing: Attempted to kill init!\n[    1.6] CPU: 0',
      },
    ],
  ];
  for (const [name, act, expected] of endings)
    test(name, async () => {
      const { machine, cpu, statuses } = await make();
      cpu.program = () => {
        act(cpu);
        return cpu.spend(10);
      };
      machine.start();
      expect(await machine.stopped).toMatchObject(expected);
      expect(statuses).toEqual(['running', 'stopped']);
      const { runs } = cpu;
      await sleep(5);
      expect(cpu.runs).toBe(runs);
    });

  test('a triple fault', async () => {
    const { machine, cpu } = await make();
    cpu.program = () => 'shutdown';
    machine.start();
    expect((await machine.stopped).reason).toBe('shutdown');
  });

  test('a panic without a reset: the kernel spins for a guest second after its last line', async () => {
    const { machine, cpu } = await make({ deterministic: true });
    let first = true;
    cpu.program = (budget) => {
      if (first) print(cpu, '---[ end Kernel panic - not syncing: VFS ]---\n');
      first = false;
      return cpu.spend(budget);
    };
    machine.start();
    const exit = await machine.stopped;
    expect(exit.reason).toBe('panic');
    expect(exit.message).toContain('VFS');
    expect(machine.stats().guestSeconds).toBeLessThan(1.1);
  });

  test('words of a panic that a program prints end nothing', async () => {
    const { machine, cpu } = await make({ deterministic: true });
    let runs = 0;
    useDeadlines(cpu);
    cpu.program = () => {
      if (++runs === 1) print(cpu, '---[ end Kernel panic - not syncing: just a log ]---\n');
      takeInterrupt(cpu);
      if (runs > 4) cpu.host.bus.writePort(0x600, 1, 0x34);
      cpu.host.msrs.writeMsr(0x6e0, BigInt(cpu.host.clock.now() + 2e9));
      cpu.spend(1000);
      return 'halted';
    };
    machine.start();
    expect((await machine.stopped).reason).toBe('poweroff');
  });

  test('stop() settles what waits for it, and what comes afterwards is harmless', async () => {
    const { machine } = await make();
    machine.start();
    const writing = machine.writeConsole(new Uint8Array(1 << 20));
    machine.stop();
    await writing;
    expect((await machine.stopped).reason).toBe('stop');
    await machine.writeAgent(new Uint8Array(1 << 20));
    machine.resize(10, 10);
    machine.pause();
    machine.resume();
    machine.stop();
    expect(machine.status).toBe('stopped');
    await expect(machine.save()).rejects.toThrow(/stopped/);
  });

  test('a handler that throws stops the machine with its error', async () => {
    const { machine, cpu } = await make({
      events: {
        console: () => {
          throw new Error('bad handler');
        },
      },
    });
    cpu.program = () => {
      machine.console.ports[0]!.onOutput(Uint8Array.of(1));
      return cpu.spend(10);
    };
    machine.start();
    expect(await machine.stopped).toMatchObject({ reason: 'error', message: 'bad handler' });
  });
});

describe('running', () => {
  test('halted, it sleeps until the next timer, then takes the interrupt', async () => {
    const { machine, cpu } = await make();
    useDeadlines(cpu);
    const times: number[] = [];
    cpu.program = () => {
      cpu.stats.instructions += 100;
      if (takeInterrupt(cpu) === 0x40 || cpu.runs === 1) {
        times.push(cpu.host.clock.now());
        if (times.length === 4) cpu.host.bus.writePort(0x600, 1, 0x34);
        cpu.host.msrs.writeMsr(0x6e0, BigInt(cpu.host.clock.now() + 20e6));
      }
      return 'halted';
    };
    machine.start();
    await machine.stopped;
    for (let i = 1; i < 4; i++) expect(times[i]! - times[i - 1]!).toBeGreaterThanOrEqual(20e6);
    expect(cpu.runs).toBeLessThan(30);
  });

  test('halted without a timer it does nothing until a device wakes it', async () => {
    const { machine, cpu } = await make();
    cpu.host.bus.writeMmio(LAPIC + 0xf0, 4, 0x1ff);
    cpu.host.bus.writeMmio(0xfec00000, 4, 0x10 + 2 * 4);
    cpu.host.bus.writeMmio(0xfec00010, 4, 0x8044);
    cpu.host.bus.writePort(0x3f9, 1, 1);
    let vector = -1;
    cpu.program = () => {
      vector = Math.max(vector, cpu.host.interrupts.acknowledge());
      return 'halted';
    };
    machine.start();
    await sleep(30);
    expect(cpu.runs).toBe(1);
    machine.writeSerial(Uint8Array.of(65));
    await sleep(5);
    expect([cpu.runs, vector, cpu.host.bus.readPort(0x3f8, 1)]).toEqual([2, 0x44, 65]);
    machine.stop();
  });

  test('busy, it lets other events in every four milliseconds', async () => {
    let time = 0;
    const posted: (() => void)[] = [];
    const { machine, cpu } = await make({
      now: () => time,
      macrotasks: { post: (call) => posted.push(call), close: () => undefined },
    });
    cpu.program = (budget) => {
      time += 0.5;
      return cpu.spend(budget);
    };
    machine.start();
    for (let turn = 1; turn <= 3; turn++) {
      expect(posted).toHaveLength(1);
      posted.pop()!();
      expect(cpu.runs).toBe(8 * turn);
    }
    machine.stop();
  });

  test('a timer bounds the budget of a slice', async () => {
    const { machine, cpu } = await make({ deterministic: true });
    useDeadlines(cpu);
    cpu.host.msrs.writeMsr(0x6e0, 1234n);
    const budgets: number[] = [];
    cpu.program = (budget) => {
      budgets.push(budget);
      if (cpu.host.interrupts.pending() === 0x40) cpu.host.bus.writePort(0x600, 1, 0x34);
      return cpu.spend(budget);
    };
    machine.start();
    await machine.stopped;
    expect(budgets[0]).toBe(1234);
    expect(budgets).toHaveLength(2);
  });

  test('time stands still while paused', async () => {
    let time = 5000;
    const { machine, cpu, statuses } = await make({ now: () => time });
    cpu.program = () => {
      time += 1;
      return cpu.spend(1000);
    };
    machine.start();
    await sleep(10);
    machine.pause();
    const { guestSeconds } = machine.stats();
    const { runs } = cpu;
    time += 10_000;
    await sleep(10);
    expect([machine.stats().guestSeconds, cpu.runs]).toEqual([guestSeconds, runs]);
    machine.resume();
    await sleep(10);
    machine.pause();
    expect(cpu.runs).toBeGreaterThan(runs);
    // A millisecond for each run since, and none of the ten seconds.
    expect(machine.stats().guestSeconds - guestSeconds).toBeCloseTo((cpu.runs - runs) / 1000, 3);
    machine.stop();
    expect(statuses).toEqual(['running', 'paused', 'running', 'paused', 'stopped']);
  });

  test('two deterministic runs are equal, HLT and random numbers included', async () => {
    const run = async (): Promise<unknown> => {
      const { machine, cpu } = await make({ deterministic: true, seed: 7 });
      useDeadlines(cpu);
      const trace: unknown[] = [];
      cpu.program = (budget) => {
        const random = new Uint8Array(4);
        cpu.host.random(random);
        trace.push([budget, cpu.host.clock.now(), takeInterrupt(cpu), [...random]]);
        if (trace.length === 40) cpu.host.bus.writePort(0x600, 1, 0x34);
        if (trace.length % 3 === 0) cpu.host.msrs.writeMsr(0x6e0, BigInt(cpu.host.clock.now() + 5e6 + random[0]!));
        cpu.spend(Math.min(budget, 1000 * random[1]!));
        return trace.length % 3 === 2 ? 'halted' : 'budget';
      };
      machine.start();
      // The last HLT may have no timer.
      await Promise.race([machine.stopped, sleep(200)]);
      machine.stop();
      return trace;
    };
    expect(await run()).toEqual(await run());
  });

  test('in a deterministic machine no guest time passes while a disk is asked', async () => {
    let answer: ((bytes: Uint8Array) => void) | undefined;
    const { machine, cpu } = await make({ deterministic: true, disks: [slowDisk((done) => (answer = done))] });
    let asked = -1;
    cpu.program = () => {
      if (asked < 0) {
        asked = cpu.stats.instructions;
        readSector(cpu);
      }
      return cpu.spend(100);
    };
    machine.start();
    await sleep(20);
    expect(cpu.stats.instructions).toBe(asked + 100);
    answer!(new Uint8Array(512).fill(0x5a));
    await sleep(5);
    expect(cpu.stats.instructions).toBeGreaterThan(asked + 100);
    expect(cpu.memory.read8(0x202000)).toBe(0x5a);
    machine.stop();
  });
});

/** A disk whose reads are answered by the test. */
function slowDisk(onRead: (answer: (bytes: Uint8Array) => void) => void): BlockDevice {
  return {
    size: 1 << 20,
    readOnly: false,
    read: () => new Promise((resolve) => onRead(resolve)),
    write: () => undefined,
    flush: () => Promise.resolve(),
    stats: emptyStats(),
  };
}

/** Brings up the disk (the third device) with one ring at 2 MiB and asks for sector 0. */
function readSector(cpu: StubProcessor): void {
  const base = 0xfeb02000;
  const { memory, host } = cpu;
  const write = (offset: number, value: number): void => host.bus.writeMmio(base + offset, 4, value);
  write(0x70, 3);
  write(0x24, 1);
  write(0x20, 1);
  write(0x70, 11);
  write(0x38, 8);
  write(0x80, 0x200000);
  write(0x90, 0x200400);
  write(0xa0, 0x200800);
  write(0x44, 1);
  write(0x70, 15);
  [
    [0x201000, 16, 1, 1],
    [0x202000, 512, 3, 2],
    [0x203000, 1, 2, 0],
  ].forEach(([address, length, flags, next], i) => {
    memory.write64(0x200000 + i * 16, address!);
    memory.write32(0x200008 + i * 16, length!);
    memory.write16(0x20000c + i * 16, flags!);
    memory.write16(0x20000e + i * 16, next!);
  });
  memory.write8(0x203000, 0xff);
  memory.write16(0x200402, 1);
  write(0x50, 0);
}

describe('saving', () => {
  test('a machine restored from its stream goes on as if nothing had happened', async () => {
    const first = await make({ deterministic: true });
    useDeadlines(first.cpu);
    first.cpu.program = () => first.cpu.spend(10);
    first.cpu.host.msrs.writeMsr(0x6e0, 1_000_000_000n);
    first.cpu.memory.write32(0x300000, 0x12345678);
    first.cpu.value = 42;
    first.machine.start();
    await sleep(5);
    const saving = first.machine.save();
    expect(first.machine.status).toBe('paused');
    const state = await saving;
    expect(first.machine.status).toBe('running');
    first.machine.stop();

    const second = await make({ deterministic: true, kernel: undefined });
    second.cpu.memory.write32(0x340000, 1); // what is not in the state must go
    second.machine.restore(await readState(writeState(structuredClone(state))));
    expect([second.cpu.memory.read32(0x300000), second.cpu.memory.read32(0x340000), second.cpu.value]).toEqual([
      0x12345678, 0, 42,
    ]);
    let fired = -1;
    second.cpu.program = (budget) => {
      if (fired < 0 && takeInterrupt(second.cpu) === 0x40) {
        fired = second.cpu.host.clock.now();
        second.cpu.host.bus.writePort(0x600, 1, 0x34);
      }
      return second.cpu.spend(budget);
    };
    expect(second.machine.stats().guestSeconds).toBe(state.now / 1e9);
    second.machine.start();
    await second.machine.stopped;
    expect(fired).toBe(1_000_000_000);
  });

  test('waits for a disk request under way, and holds the machine meanwhile', async () => {
    let answer: ((bytes: Uint8Array) => void) | undefined;
    const { machine, cpu } = await make({ disks: [slowDisk((done) => (answer = done))] });
    cpu.program = () => {
      if (!answer) readSector(cpu);
      return 'halted';
    };
    machine.start();
    await sleep(5);
    let saved = false;
    const saving = machine.save().then((state) => {
      saved = true;
      return state;
    });
    await sleep(10);
    expect(saved).toBe(false);
    answer!(new Uint8Array(512).fill(0x77));
    const state = await saving;
    expect(cpu.memory.read8(0x203000)).toBe(0);
    expect(state.memory.pages).toContain(0x202);
    machine.stop();
  });

  test('zero pages cost nothing', async () => {
    const { machine } = await make({ memory: 64 << 20 });
    const { memory } = await machine.save();
    expect(memory.pages.length).toBeLessThan(40);
  });

  test('refuses a state of another size, version, kind, or with other disks', async () => {
    const { machine } = await make();
    const state = await machine.save();
    const into = async (options: Partial<MachineOptions>, change: object = {}): Promise<void> => {
      const other = await make({ kernel: undefined, ...options });
      other.machine.restore({ ...structuredClone(state), ...change });
    };
    await expect(into({ memory: 8 << 20 })).rejects.toThrow(/4194304 bytes of RAM, this one has 8388608/);
    await expect(into({}, { version: 99 })).rejects.toThrow(/format 99/);
    await expect(into({ deterministic: true })).rejects.toThrow(/deterministic/);
    await expect(into({ disks: [slowDisk(() => undefined)] })).rejects.toThrow(/5 devices, this one has 6/);
    await into({});
  });
});

describe('slices', () => {
  test('last as long on a host that is busy every other turn, and adapt to one that is slower', async () => {
    let time = 0;
    const { machine, cpu } = await make({ now: () => time });
    const budgets: number[] = [];
    // A turn is 4 ms: now and then a slice has 40 ms, in most of which somebody else ran.
    let nanoseconds = 20;
    cpu.program = (budget) => {
      budgets.push(budget);
      time += (budget * nanoseconds) / 1e6 + (nanoseconds === 20 && cpu.runs % 16 === 0 ? 40 : 0);
      if (cpu.runs === 800) nanoseconds = 200;
      if (cpu.runs === 1600) machine.stop();
      return cpu.spend(budget);
    };
    machine.start();
    await machine.stopped;
    expect(Math.min(...budgets.slice(400, 800))).toBeGreaterThan(500_000 / 20 / 3);
    expect(budgets.at(-1)).toBeGreaterThan(500_000 / 200 / 2);
    expect(budgets.at(-1)).toBeLessThan((500_000 / 200) * 2);
  });
});

describe('terminal and agent', () => {
  test('the terminal output comes in one piece a turn', async () => {
    const pieces: string[] = [];
    const { machine, cpu } = await make({
      events: { console: (bytes) => pieces.push(new TextDecoder().decode(bytes)) },
    });
    cpu.program = () => {
      if (cpu.runs === 1) for (const c of 'hello') machine.console.ports[0]!.onOutput(new TextEncoder().encode(c));
      return 'halted';
    };
    machine.start();
    await sleep(5);
    machine.stop();
    expect(pieces).toEqual(['hello']);
  });

  test('output without end goes on its way within the slice, and the guest waits meanwhile', async () => {
    let largest = 0;
    const { machine, cpu } = await make({
      events: { console: (bytes) => (largest = Math.max(largest, bytes.length)) },
    });
    const port = machine.console.ports[0]!;
    const held: boolean[] = [];
    cpu.program = () => {
      held.push(port.hold);
      for (let i = 0; i < 1000 && !port.hold; i++) port.onOutput(new Uint8Array(4096));
      held.push(port.hold);
      if (cpu.runs === 2) machine.stop();
      return cpu.spend(10);
    };
    machine.start();
    await machine.stopped;
    expect(held).toEqual([false, true, false, true]);
    expect(largest).toBe(256 * 1024);
  });

  test('large input waits for room, in order, and two writers do not mix', async () => {
    const { machine } = await make();
    const port = machine.agent.ports[0]!;
    let done = 0;
    const first = machine.writeAgent(new Uint8Array(300_000).fill(1)).then(() => done++);
    const second = machine.writeAgent(new Uint8Array(100_000).fill(2)).then(() => done++);
    await sleep(1);
    expect([done, port.queued]).toEqual([0, 262144]);
    const got = new Uint8Array(400_000);
    let at = 0;
    while (at < got.length) {
      at += port.take(got.subarray(at, at + 4096));
      port.announceRoom();
      await Promise.resolve();
    }
    await Promise.all([first, second]);
    expect(got.lastIndexOf(1)).toBe(299_999);
    expect(got.indexOf(2)).toBe(300_000);
  });
});
