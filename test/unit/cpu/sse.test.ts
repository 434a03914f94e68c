/** What of SSE can be checked without a processor to compare with. */
import { beforeEach, describe, expect, test } from 'vitest';
import { S } from '../../../emulator/cpu/layout.ts';
import type { Tier } from '../../../emulator/processor.ts';
import { CODE, CodeMachine, DATA } from './machine-code.ts';

const PE = 0x20;

describe.each<Tier>(['interp', 'jit', 'light'])('SSE, %s', (tier) => {
  let machine: CodeMachine;
  let xmm: (n: number) => number;
  beforeEach(() => {
    machine = new CodeMachine(tier);
    xmm = (n) => machine.cpu.state + S.XMM + n * 16;
  });
  const mxcsr = (): number => machine.cpu.u32[(machine.cpu.state + S.MXCSR) >> 2]!;

  function run(code: readonly number[], control = 0x1f80): number {
    const { cpu } = machine;
    machine.prepare([...code, 0xf4]);
    cpu.rip = BigInt(CODE);
    cpu.setBig(6, BigInt(DATA));
    cpu.u32[(cpu.state + S.MXCSR) >> 2] = control;
    cpu.faultObject.vector = -1;
    if (tier === 'interp') cpu.step();
    else {
      cpu.run(1000);
      cpu.halted = false;
    }
    return cpu.faultObject.vector;
  }
  const doubles = (n: number, low: number, high: number): void => {
    machine.cpu.view.setFloat64(xmm(n), low, true);
    machine.cpu.view.setFloat64(xmm(n) + 8, high, true);
  };
  const low = (n: number): number => machine.cpu.view.getFloat64(xmm(n), true);
  const high = (n: number): number => machine.cpu.view.getFloat64(xmm(n) + 8, true);

  test('ADDSD sets PE only where the sum is inexact, and keeps the upper half', () => {
    doubles(0, 1, 77);
    doubles(1, 2, 5);
    run([0xf2, 0x0f, 0x58, 0xc1]);
    expect([low(0), high(0), mxcsr() & PE]).toEqual([3, 77, 0]);
    doubles(1, 0.1, 5);
    run([0xf2, 0x0f, 0x58, 0xc1]);
    expect([low(0), high(0), mxcsr() & PE]).toEqual([3.1, 77, PE]);
  });

  test('HSUBPD of a register with itself sees a denormal in either lane', () => {
    for (const [first, second] of [
      [5e-324, 1],
      [1, 5e-324],
    ] as const) {
      doubles(7, first, second);
      // hsubpd xmm7, xmm7
      run([0x66, 0x0f, 0x7d, 0xff], 0x1fa0);
      expect([low(7), mxcsr()]).toEqual([first - second, 0x1fa2]);
    }
  });

  test('0/0 is the default NaN, which is negative, and sets IE', () => {
    doubles(0, 0, 0);
    doubles(1, 0, 1);
    run([0xf2, 0x0f, 0x5e, 0xc1], 0x1fa0);
    expect(machine.cpu.view.getBigUint64(xmm(0), true)).toBe(0xfff8000000000000n);
    expect(mxcsr()).toBe(0x1fa1);
  });

  test('rounding down is obeyed', () => {
    doubles(0, 1, 0);
    doubles(1, -(2 ** -60), 0);
    run([0xf2, 0x0f, 0x58, 0xc1], 0x3fa0);
    expect(low(0)).toBe(1 - 2 ** -53);
  });

  test('RCPPS and RSQRTPS are within the documented error', () => {
    const { view } = machine.cpu;
    const values = [3, 0.1, 12345.678, 1e-20];
    for (const [opcode, f] of [
      [0x53, (x: number) => 1 / x],
      [0x52, (x: number) => 1 / Math.sqrt(x)],
    ] as const) {
      values.forEach((x, i) => view.setFloat32(xmm(1) + i * 4, x, true));
      run([0x0f, opcode, 0xc1]);
      values.forEach((x, i) => {
        const error = view.getFloat32(xmm(0) + i * 4, true) / f(Math.fround(x)) - 1;
        expect(Math.abs(error)).toBeLessThanOrEqual(1.5 * 2 ** -12);
        expect(error).not.toBe(0);
      });
    }
  });

  test('CRC32 gives the check value of CRC-32C', () => {
    const { cpu } = machine;
    let crc = 0xffffffffn;
    const step = (code: readonly number[], data: bigint): void => {
      machine.prepare([...code, 0xf4]);
      cpu.setBig(0, crc);
      cpu.setBig(1, data);
      cpu.rip = BigInt(CODE);
      cpu.run(1000);
      cpu.halted = false;
      crc = cpu.big(0);
    };
    // "12345678" at once, then "9".
    step([0xf2, 0x48, 0x0f, 0x38, 0xf1, 0xc1], 0x3837363534333231n);
    step([0xf2, 0x0f, 0x38, 0xf0, 0xc1], 0x39n);
    expect(crc ^ 0xffffffffn).toBe(0xe3069283n);
  });
});

describe('SSE, faults', () => {
  const faultOf = (code: readonly number[], at: number, value = 0): number => {
    const machine = new CodeMachine();
    machine.prepare(code);
    machine.cpu.setBig(6, BigInt(at));
    machine.view.setUint32(at & ~15, value, true);
    machine.cpu.faultObject.vector = -1;
    machine.cpu.step();
    return machine.cpu.faultObject.vector;
  };

  test('MOVAPS and ADDPS want aligned memory, MOVUPS does not', () => {
    expect(faultOf([0x0f, 0x28, 0x06], DATA + 8)).toBe(13);
    expect(faultOf([0x0f, 0x58, 0x06], DATA + 8)).toBe(13);
    expect(faultOf([0x0f, 0x10, 0x06], DATA + 8)).toBe(-1);
    expect(faultOf([0x0f, 0x28, 0x06], DATA)).toBe(-1);
  });

  test('LDMXCSR refuses reserved bits', () => {
    expect(faultOf([0x0f, 0xae, 0x16], DATA, 0x10000)).toBe(13);
    expect(faultOf([0x0f, 0xae, 0x16], DATA, 0xffff)).toBe(-1);
  });

  test('an unmasked exception is #XM', () => {
    const machine = new CodeMachine();
    machine.prepare([0xf2, 0x0f, 0x5e, 0xc1]);
    const { cpu } = machine;
    cpu.view.setFloat64(cpu.state + S.XMM, 1, true);
    cpu.u32[(cpu.state + S.MXCSR) >> 2] = 0x1d80;
    cpu.faultObject.vector = -1;
    cpu.step();
    expect(cpu.faultObject.vector).toBe(19);
    expect(cpu.u32[(cpu.state + S.MXCSR) >> 2]).toBe(0x1d84);
    expect(cpu.rip).toBe(BigInt(CODE));
    expect(cpu.view.getFloat64(cpu.state + S.XMM, true)).toBe(1);
  });
});
