/**
 * Flags of comparisons of floating-point numbers in compiled regions, which keep the numbers until somebody asks: every condition, all
 * flags at once, and what an exception finds. Against the interpreter.
 */
import { describe, expect, test } from 'vitest';
import { CodeMachine, DATA, HOLE } from './machine-code.ts';

const bytes = (s: string): number[] => [...Buffer.from(s.replace(/\s/g, ''), 'hex')];

const DOUBLES = [1, 2, -1, 0, -0, Infinity, -Infinity, NaN];
const PAIRS = DOUBLES.flatMap((a) => DOUBLES.map((b) => [a, b] as const));
const STRIDE = 64;

/** Compares the numbers at [rsi] and [rsi + 8], or [rsi + 4] for singles. */
const COMPARISONS: readonly [string, string][] = [
  ['ucomisd', 'f20f1006 660f2e4608'],
  ['comisd', 'f20f1006 660f2f4608'],
  ['ucomiss', 'f30f104610 0f2e4614'],
  ['fucomip', 'dd4608 dd06 dfe9 ddd8'],
];

const loop = (body: number[]): number[] => {
  const code = [...body, ...bytes(`4883c6${STRIDE.toString(16)} ffc9 0f85`)];
  const back = -(code.length + 4);
  return [...code, back & 0xff, (back >> 8) & 0xff, 0xff, 0xff];
};

function outcome(m: CodeMachine, code: readonly number[]): string {
  PAIRS.forEach(([a, b], i) => {
    const at = DATA + i * STRIDE;
    m.bytes.fill(0, at, at + STRIDE);
    m.view.setFloat64(at, a, true);
    m.view.setFloat64(at + 8, b, true);
    m.view.setFloat32(at + 16, a, true);
    m.view.setFloat32(at + 20, b, true);
  });
  m.prepare(code);
  m.cpu.setBig(6, BigInt(DATA));
  m.cpu.setBig(1, BigInt(PAIRS.length));
  while (m.cpu.run(300) === 'budget');
  m.cpu.halted = false;
  return PAIRS.map(([a, b], i) => {
    const at = DATA + i * STRIDE;
    return `${String(a)} ${String(b)} ${Buffer.from(m.bytes.slice(at + 24, at + 48)).toString('hex')}`;
  }).join('\n');
}

const interpreted = new CodeMachine('interp');
const compiled = new CodeMachine('auto', 4);
const AT_ONCE = [new CodeMachine('jit'), new CodeMachine('light')];

describe.each(COMPARISONS)('%s', (_name, compare) => {
  test.each(Array.from({ length: 16 }, (_, cc) => cc))('condition %i', (cc) => {
    const hex = (x: number): string => x.toString(16).padStart(2, '0');
    // setcc [rsi + 24]; jcc over inc byte [rsi + 25]; pushfq; pop [rsi + 32]
    const code = loop(bytes(`${compare} 0f${hex(0x90 + cc)}4618 ${hex(0x70 + cc)}03 fe4619 ${compare} 9c 8f4620`));
    const { regions } = compiled.cpu.stats;
    expect(outcome(compiled, code)).toBe(outcome(interpreted, code));
    expect(compiled.cpu.stats.regions).toBeGreaterThan(regions);
  });

  test('and an exception', () => {
    const flagsAt = (m: CodeMachine): string[] =>
      PAIRS.map(([a, b]) => {
        m.view.setFloat64(DATA, a, true);
        m.view.setFloat64(DATA + 8, b, true);
        m.view.setFloat32(DATA + 16, a, true);
        m.view.setFloat32(DATA + 20, b, true);
        const code = bytes(`${compare} 8b07`);
        m.prepare(code);
        m.cpu.setBig(6, BigInt(DATA));
        m.cpu.setBig(7, BigInt(HOLE));
        m.cpu.run(1000);
        const { vector } = m.cpu.faultObject;
        m.cpu.halted = false;
        m.cpu.shutdown = false;
        return `${String(a)} ${String(b)} ${vector} ${m.cpu.rflags.toString(16)}`;
      });
    const expected = flagsAt(interpreted);
    for (const m of AT_ONCE) expect(flagsAt(m)).toEqual(expected);
  });
});
