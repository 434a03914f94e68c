/**
 * Pages of RAM that come one by one: whatever touches them, a program must end as if all had been there from the start.
 */
import { beforeAll, describe, expect, test } from 'vitest';
import type { StopReason, Tier } from '../../../emulator/processor.ts';
import { CODE, DATA, HOLE, IDT, RSP0, SystemMachine } from './system-machine.ts';

const hex = (s: string): number[] => [...Buffer.from(s.replace(/\s/g, ''), 'hex')];
const PAGE = 4096;
const GARBAGE = 0xcc;
const GARBAGE_PAGE = Buffer.alloc(PAGE, GARBAGE);

interface Scenario {
  name: string;
  /** Sets machine and program. */
  set(m: SystemMachine): void;
  /** How the program ends. */
  end?: StopReason;
  /** Pages that it has to wait for at least; those of tables and code not counted. */
  pages: number[];
  /** Offered once the program waits for this page. */
  interrupt?: { at: number; vector: number };
}

const SCENARIOS: Scenario[] = [
  {
    name: 'loads, stores and read-modify-writes',
    // mov eax,[rsi]; add [rdi],eax; mov [rbx],rax; xadd [rdi],eax; inc dword [rbx]
    set: (m) => m.kernel(hex('8b06 0107 488903 0fc107 ff03'), { rsi: DATA, rdi: DATA + 0x1008, rbx: DATA + 0x5000 }),
    pages: [DATA, DATA + 0x1000, DATA + 0x5000],
  },
  {
    name: 'an access over the edge of two pages',
    // mov rax,[rsi]; mov [rdi],rax; movdqu xmm0,[rsi]
    set: (m) => {
      m.kernel(hex('488b06 488907'), { rsi: DATA + 0xffc, rdi: DATA + 0x2ffd });
    },
    pages: [DATA, DATA + 0x1000, DATA + 0x2000, DATA + 0x3000],
  },
  {
    name: 'REP MOVSB over many pages, with its progress in the registers',
    set: (m) => m.kernel(hex('f3a4'), { rsi: DATA + 10, rdi: DATA + 0x10_0010, rcx: 0x4100 }),
    pages: [DATA, DATA + 0x4000, DATA + 0x10_0000, DATA + 0x10_4000],
  },
  {
    name: 'a loop that walks pages and calls',
    // mov ecx,3; 1: call 2f; add rsi,4096; dec ecx; jnz 1b; jmp 3f; 2: add rax,[rsi]; push rax; pop rdx; ret; 3: nop
    set: (m) => {
      m.kernel(hex('b903000000 e80d000000 4881c600100000 ffc9 75f0 eb06 480306 50 5a c3 90'), {
        rsi: DATA,
        rsp: DATA + 0x9008,
      });
    },
    pages: [DATA, DATA + 0x1000, DATA + 0x2000, DATA + 0x8000],
  },
  {
    name: 'an instruction over the edge of two pages of code',
    set: (m) => {
      m.kernel([0xe9, 0xf9, 0x0f, 0, 0]); // jmp to CODE + 0xffe
      m.cpu.memory.write(CODE + 0xffe, Uint8Array.from(hex('48b8 8877665544332211 f4'))); // mov rax, imm64; hlt
    },
    pages: [CODE + 0x1000],
  },
  {
    name: 'a page fault from user mode: IDT, TSS, kernel stack',
    set: (m) => m.user(hex('8b00'), { rax: HOLE }),
    pages: [RSP0 - PAGE, IDT],
  },
  {
    name: 'a page fault whose frame faults becomes a double fault, with the pages absent too',
    set: (m) => {
      m.kernel(hex('8b00'), { rax: HOLE, rsp: HOLE + 0x1000 });
      m.gate(8, { ist: 1 });
    },
    pages: [IDT],
  },
  {
    name: 'a fault in a double fault shuts down once everything has come',
    set: (m) => m.kernel(hex('8b00'), { rax: HOLE, rsp: HOLE + 0x1000 }),
    end: 'shutdown',
    pages: [IDT],
  },
  {
    name: 'INT n pushes onto an absent stack',
    set: (m) => m.kernel(hex('cd80'), { rsp: DATA + 0x3008 }),
    pages: [IDT, DATA + 0x2000],
  },
  {
    name: 'an interrupt while a load waits is delivered first, and once',
    set: (m) => {
      m.kernel(hex('fb 90 8b06'), { rsi: DATA }); // sti; nop; mov eax,[rsi]
      m.cpu.memory.write(0xc000 + 0x40 * 16, Uint8Array.from(hex('48ffc3 48cf'))); // inc rbx; iretq
    },
    interrupt: { at: DATA, vector: 0x40 },
    pages: [DATA, IDT],
  },
  {
    name: 'an interrupt whose stack is absent is not lost',
    set: (m) => {
      m.kernel(hex('fb 90 8b06 90'), { rsi: DATA, rsp: DATA + 0x7000 });
      m.cpu.memory.write(0xc000 + 0x41 * 16, Uint8Array.from(hex('48ffc3 48cf')));
    },
    interrupt: { at: DATA, vector: 0x41 },
    pages: [DATA, DATA + 0x6000],
  },
];

interface End {
  reason: StopReason;
  registers: bigint[];
  rip: bigint;
  flags: number;
  waited: number[];
  untouched: boolean;
  ram: Uint8Array;
}

/** Runs to the end. With `drip`, no page is there before something has waited for it. */
function run(m: SystemMachine, scenario: Scenario, drip: boolean): End {
  const { cpu } = m;
  const { memory } = cpu;
  memory.bytes.fill(0, DATA, DATA + 0x20_0000);
  for (let at = DATA; at < DATA + 0x20_0000; at += PAGE) memory.view.setUint32(at, at, true);
  scenario.set(m);
  const original = memory.bytes.slice();
  const wanted = new Set<number>();
  const waited: number[] = [];
  cpu.mmu.flush(true);
  cpu.code.flush();
  if (drip) {
    memory.absent = new Uint8Array(memory.size / PAGE).fill(1);
    memory.bytes.fill(GARBAGE);
    memory.onAbsent = (page) => wanted.add(page);
  }
  let offered = false;
  let reason = cpu.run(100_000);
  for (let turns = 0; reason === 'waiting' && turns < 1000; turns++) {
    if (scenario.interrupt && !offered && wanted.has(scenario.interrupt.at / PAGE)) {
      offered = true;
      m.pending = scenario.interrupt.vector;
      cpu.interruptChanged();
      // It waits again, now for what the delivery needs; the load's page stays away until that is done.
      wanted.delete(scenario.interrupt.at / PAGE);
      reason = cpu.run(100_000);
      continue;
    }
    expect(wanted.size).toBeGreaterThan(0);
    for (const page of wanted) {
      waited.push(page * PAGE);
      memory.bytes.set(original.subarray(page * PAGE, (page + 1) * PAGE), page * PAGE);
      memory.absent![page] = 0;
    }
    wanted.clear();
    reason = cpu.run(100_000);
  }
  // Pages that never came were neither read nor written.
  let untouched = true;
  if (drip) {
    for (let page = 0; page < memory.absent!.length; page++)
      if (memory.absent![page]) {
        const bytes = memory.bytes.subarray(page * PAGE, (page + 1) * PAGE);
        if (!GARBAGE_PAGE.equals(bytes)) untouched = false;
        bytes.set(original.subarray(page * PAGE, (page + 1) * PAGE));
      }
    memory.absent = undefined;
  }
  const end: End = {
    reason,
    registers: Array.from({ length: 16 }, (_, n) => cpu.big(n)),
    rip: cpu.rip,
    flags: cpu.rflags,
    waited,
    untouched,
    ram: memory.bytes.slice(),
  };
  cpu.halted = false;
  cpu.shutdown = false;
  return end;
}

/** Quadwords that differ, by address; accessed and dirty bits of a table included. */
function differences(a: Uint8Array, b: Uint8Array): string[] {
  if (Buffer.compare(a, b) === 0) return [];
  const x = new BigUint64Array(a.buffer);
  const y = new BigUint64Array(b.buffer);
  const list: string[] = [];
  for (let i = 0; i < x.length && list.length < 10; i++) if (x[i] !== y[i]) list.push((i * 8).toString(16));
  return list;
}

describe.each(['interp', 'jit', 'light'] as Tier[])('%s: RAM that comes page by page', (tier) => {
  let m: SystemMachine;
  beforeAll(() => {
    m = new SystemMachine(tier);
  });

  test.each(SCENARIOS)('$name', (scenario) => {
    const whole = run(m, { ...scenario, interrupt: undefined }, false);
    const dripped = run(m, scenario, true);
    expect(dripped.reason).toBe(scenario.end ?? 'halted');
    expect(dripped.untouched).toBe(true);
    expect(dripped.waited).toEqual(expect.arrayContaining(scenario.pages));
    expect(new Set(dripped.waited).size).toBe(dripped.waited.length);
    if (scenario.interrupt) {
      // The handler counts in RBX; for the rest the interrupt has left no trace.
      expect(dripped.registers[3]).toBe(whole.registers[3]! + 1n);
      dripped.registers[3] = whole.registers[3]!;
    } else expect(differences(dripped.ram, whole.ram)).toEqual([]);
    const { registers, rip, flags } = whole;
    expect(dripped).toMatchObject({ registers, rip, flags });
  });

  test('a machine that is saved while a delivery waits delivers after the restore', () => {
    m.kernel(hex('fb 90 8b06'), { rsi: DATA, rsp: DATA + 0x7000 });
    m.cpu.memory.write(0xc000 + 0x42 * 16, Uint8Array.from(hex('48ffc3 48cf')));
    const { memory } = m.cpu;
    m.cpu.mmu.flush(true);
    memory.absent = new Uint8Array(memory.size / PAGE);
    memory.onAbsent = () => undefined;
    memory.absent[(DATA + 0x6000) / PAGE] = 1;
    m.pending = 0x42;
    expect(m.cpu.run(1000)).toBe('waiting');
    expect(m.pending).toBe(-1);
    const state = structuredClone(m.cpu.save());
    memory.absent = undefined;
    m.kernel([0x90]);
    m.cpu.memory.write(CODE, Uint8Array.from(hex('fb 90 8b06 f4')));
    m.cpu.memory.write(0xc000 + 0x42 * 16, Uint8Array.from(hex('48ffc3 48cf')));
    m.cpu.restore(state);
    const before = m.cpu.big(3);
    expect(m.run()).toBe('halted');
    expect(m.cpu.big(3)).toBe(before + 1n);
  });
});
