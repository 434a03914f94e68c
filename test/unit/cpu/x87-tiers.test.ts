/** x87 code on the whole processor, in both tiers: loops, operands across a page boundary, precise faults. */
import { describe, expect, test } from 'vitest';
import { S } from '../../../emulator/cpu/layout.ts';
import type { Tier } from '../../../emulator/processor.ts';
import { CodeMachine, DATA, HOLE } from './machine-code.ts';

const hex = (s: string): number[] => [...Buffer.from(s.replace(/\s/g, ''), 'hex')];

/** Sum of sqrt(k) / k for k from 1 to 1999, stored with 80 bits at [rsi]; [rdi] is scratch. */
const SUM = hex(`
  dbe3 d9ee b901000000
  890f db07 d9c0 d9fa def1 dec1 ffc1 81f9d0070000 75ea
  db3e`);
const SUM_RESULT = '0f02cd49003ff1af0540';

describe.each(['interp', 'jit'] as Tier[])('%s', (tier) => {
  const m = new CodeMachine(tier);

  test('a loop gives the 80 bits that a real processor gives, stored across a page boundary', async () => {
    const at = DATA + 0x1000 - 4;
    // Several runs, with time to compile in between: the last ones run as a region in the jit tier.
    for (let run = 0; run < 5; run++) {
      m.bytes.fill(0, at, at + 10);
      m.run(SUM, { rdi: BigInt(DATA), rsi: BigInt(at) });
      expect(Buffer.from(m.bytes.subarray(at, at + 10)).toString('hex')).toBe(SUM_RESULT);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  });

  test('FSTP to a page that is not there raises the page fault before its own stack fault', () => {
    const outcome = m.step(hex('db3e'), { rsi: BigInt(HOLE - 4) });
    expect(outcome.fault?.vector).toBe(14);
    const { i32, state } = m.cpu;
    expect(i32[(state + S.FTOP) >> 2]).toBe(0);
    expect(i32[(state + S.FSW) >> 2]).toBe(0);
    // The same instruction on a page that is there does raise it: IE, SF, and a pop.
    m.step(hex('db3e'), { rsi: BigInt(DATA) });
    expect(i32[(state + S.FSW) >> 2]).toBe(0x41);
    expect(i32[(state + S.FTOP) >> 2]).toBe(1);
  });

  test('MMX: packed arithmetic through memory', () => {
    m.view.setBigUint64(DATA, 0x00ff_7fff_8000_0001n, true);
    // movq mm0,[rdi]; paddsw mm0,mm0; movq [rsi],mm0; emms
    m.run(hex('0f6f07 0fedc0 0f7f06 0f77'), { rdi: BigInt(DATA), rsi: BigInt(DATA + 8) });
    expect(m.view.getBigUint64(DATA + 8, true)).toBe(0x01fe_7fff_8000_0002n);
  });
});

test('a loop that is entered in the middle, where a call returns to, with the stack in memory or in locals', () => {
  // fninit; fld1; fld1; jmp 1f; 2: ret; 1: fadd st, st(1); call 2b; fadd st, st(1); dec ecx; jne 1b; fstp [rsi]; fstp st
  const code = hex('dbe3 d9e8 d9e8 eb01 c3 d8c1 e8f8ffffff d8c1 ffc9 75f3 dd1e ddd8');
  for (const slice of [7, 1000]) {
    const machine = new CodeMachine('auto', 2);
    machine.slice = slice;
    for (const rounds of [1, 2, 31, 32, 1000, 1001]) {
      machine.run(code, { rcx: BigInt(rounds), rsi: BigInt(DATA) });
      expect(machine.view.getFloat64(DATA, true)).toBe(1 + rounds * 2);
    }
    expect(machine.cpu.stats.regions).toBeGreaterThan(0);
  }
});

test('registers that compiled code does not write keep what they hold, whatever it is', () => {
  // 1: fld1; fld1; faddp; fstp qword [rsi]; dec ecx; jne 1b
  const code = hex('d9e8 d9e8 dec1 dd1e ffc9 75f4');
  const machine = new CodeMachine('auto', 2);
  machine.slice = 300;
  const { cpu } = machine;
  const register = (r: number): number => cpu.state + S.X87 + r * 16;
  for (let r = 0; r < 8; r++) cpu.u8.fill(0x71 + r, register(r), register(r) + 10);
  machine.run(code, { rcx: 1000n, rsi: BigInt(DATA) });
  expect(machine.view.getFloat64(DATA, true)).toBe(2);
  expect(cpu.stats.regions).toBeGreaterThan(0);
  for (let r = 0; r < 6; r++)
    expect([...cpu.u8.slice(register(r), register(r) + 10)]).toEqual(Array(10).fill(0x71 + r));
  // What the addition left in R6 and R7: 1 and 2.
  expect([6, 7].map((r) => Buffer.from(cpu.u8.slice(register(r), register(r) + 10)).toString('hex'))).toEqual([
    '0000000000000080ff3f',
    '00000000000000800040',
  ]);
});
