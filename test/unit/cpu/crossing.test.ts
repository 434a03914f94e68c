/** Accesses that go on into the next page: both pages are known, or one of them cannot be accessed. */
import { describe, expect, test } from 'vitest';
import type { Tier } from '../../../emulator/processor.ts';
import { RAX, RDI, RSI } from '../../../emulator/cpu/layout.ts';
import { asm, assembles } from './assembler.ts';
import { CodeMachine, HOLE, READ_ONLY } from './machine-code.ts';

/** Two pages side by side, of memory that is not. */
const PAGES = 0x44_0000;
const FIRST = 0x45_3000;
const SECOND = 0x45_1000;
const TARGET = 0x46_0000;

describe.skipIf(!assembles).each(['interp', 'jit', 'light'] as Tier[])('%s', (tier) => {
  const machine = new CodeMachine(tier);
  const { cpu } = machine;
  const { memory } = cpu;
  const map = (linear: number, page: number): void => memory.write64(0x4000 + ((linear >> 12) & 511) * 8, page | 3);
  const pattern = (seed: number, n: number): Uint8Array => Uint8Array.from({ length: n }, (_, k) => seed + k * 7);

  function prepare(): void {
    map(PAGES, FIRST);
    map(PAGES + 4096, SECOND);
    memory.write(FIRST, pattern(1, 4096));
    memory.write(SECOND, pattern(101, 4096));
  }

  function run(code: readonly number[], rsi: number, rdi: number): void {
    machine.prepare(code);
    cpu.setBig(RSI, BigInt(rsi));
    cpu.setBig(RDI, BigInt(rdi));
    expect(cpu.run(1000)).toBe('halted');
    cpu.halted = false;
  }

  const moves: readonly [number, string, string][] = [
    [2, 'mov ax, [rsi]', 'mov [rdi], ax'],
    [4, 'mov eax, [rsi]', 'mov [rdi], eax'],
    [8, 'mov rax, [rsi]', 'mov [rdi], rax'],
    [16, 'movups xmm0, [rsi]', 'movups [rdi], xmm0'],
    [10, 'fld tbyte ptr [rsi]', 'fstp tbyte ptr [rdi]'],
  ];
  // The first round finds nothing in the TLB.
  const twice = (text: string): readonly number[] =>
    asm(`mov ecx, 2; %%again: mov al, [rsi]; mov al, [rsi+15]; or byte ptr [rdi], 0; or byte ptr [rdi+15], 0;
      ${text}; dec ecx; jnz %%again`).bytes;

  test.each(moves)('%d bytes: %s, %s', (size, load, store) => {
    const code = twice(`${load}; ${store}`);
    for (let before = 1; before < size; before++) {
      const across = PAGES + 4096 - before;
      const bytes = (at: number, n: number): number[] => [...machine.bytes.subarray(at, at + n)];
      prepare();
      memory.write(TARGET, pattern(33, 32));
      run(code, across, TARGET);
      const read = [...pattern(1, 4096).subarray(4096 - before), ...pattern(101, size - before)];
      expect(bytes(TARGET, 32)).toEqual([...read, ...pattern(33, 32).subarray(size)]);

      prepare();
      const value = pattern(77, 32);
      // A number that the x87 keeps as it is.
      value[7]! |= 0x80;
      memory.write(TARGET, value);
      run(code, TARGET, across);
      expect(bytes(FIRST, 4096)).toEqual([...pattern(1, 4096 - before), ...value.subarray(0, before)]);
      const rest = size - before;
      expect(bytes(SECOND, 4096)).toEqual([...value.subarray(before, size), ...pattern(101, 4096).subarray(rest)]);
    }
  });

  test('a write into what can only be read, or is absent, writes nothing', () => {
    for (const [page, code] of [
      [READ_ONLY, 3],
      [HOLE, 2],
    ] as const) {
      const at = page - 4096;
      memory.write(at, pattern(5, 4096));
      // The first page is known to the TLB.
      machine.prepare(asm('mov ecx, [rdi-64]; mov [rdi-64], ecx; mov [rdi], rax').bytes);
      cpu.setBig(RDI, BigInt(page - 3));
      cpu.setBig(RAX, -1n);
      for (let i = 0; i < 3; i++) cpu.step();
      expect(cpu.faultObject).toMatchObject({ vector: 14, code });
      Reflect.set(cpu, 'faulted', false);
      expect([...machine.bytes.subarray(at, page)]).toEqual([...pattern(5, 4096)]);
    }
  });
});
