/** Calls, returns and computed jumps inside regions: where they are expected to go, and where they go instead. */
import { describe, expect, test } from 'vitest';
import type { Block } from '../../../emulator/cpu/block.ts';
import type { Region } from '../../../emulator/cpu/jit/find.ts';
import { MOST_CHANGES } from '../../../emulator/cpu/jit/guards.ts';
import { asm, asm32, assembles, type Code } from './assembler.ts';
import { CODE, CodeMachine, DATA } from './machine-code.ts';

/** Numbers below `n`, the same ones for the same seed. */
function random(seed: number): (n: number) => number {
  let x = seed * 2654435761 + 1;
  return (n) => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return (x >>> 0) % n;
  };
}

const FUNCTIONS = 7;

/**
 * A program of functions that call those after them, by name, through registers and through memory (function n's address is at
 * DATA + 8 n), in loops and under conditions, with flags that live across calls and returns; some do not return where they were
 * called from.
 */
function program(seed: number): Code {
  const below = random(seed);
  const data = ['rbx', 'rdx', 'rsi', 'rdi', 'r8', 'r9'];
  const pick = (list: readonly string[]): string => list[below(list.length)]!;
  let labels = 0;
  const plain = (): string =>
    pick([
      `add ${pick(data)}, ${pick(data)}`,
      `adc ${pick(data)}, ${below(100)}`,
      `sbb ${pick(data)}, ${pick(data)}`,
      `xor ${pick(data)}, ${pick(data)}`,
      `imul ${pick(data)}, ${pick(data)}, 77`,
      `setc dl`,
      `rcl ${pick(data)}, 1`,
      `cmp ${pick(data)}, ${pick(data)}`,
      `mov [r14+0x100+${8 * below(4)}], ${pick(data)}`,
      `add ${pick(data)}, [r14+0x100+${8 * below(4)}]`,
      `lahf; movzx eax, ah; add r9, rax`,
    ]);
  const call = (from: number): string => {
    const to = from + 1 + below(FUNCTIONS - from - 1);
    return pick([
      `call %%f${to}`,
      `call %%f${to}`,
      `lea rax, [rip+%%f${to}]; call rax`,
      `call [r14+${8 * to}]`,
      to + 1 < FUNCTIONS ? `mov eax, ${pick(['edx', 'ebx'])}; and eax, 1; call [r14+rax*8+${8 * to}]` : `call %%f${to}`,
      // What it comes back to, three bytes, may be left out.
      `call %%skip${from + 1}; add ebx, 1`,
    ]);
  };
  const piece = (from: number, depth: number): string => {
    const n = below(10);
    if (n < 3 && from < FUNCTIONS - 1) return call(from);
    if (n === 3 && depth < 2) {
      const label = `%%l${labels++}`;
      return `push r12; mov r12d, ${1 + below(4)}; ${label}: ${body(from, depth + 1, 2)} dec r12d; jnz ${label}; pop r12`;
    }
    if (n === 4 && depth < 2) {
      const label = `%%l${labels++}`;
      return `test ${pick(['bl', 'dl', 'sil'])}, ${1 << below(3)}; j${pick(['z', 'nz'])} ${label}; ${body(from, depth + 1, 2)} ${label}:`;
    }
    return plain();
  };
  const body = (from: number, depth: number, n: number): string =>
    Array.from({ length: 1 + below(n) }, () => `${piece(from, depth)}; `).join('');
  const functions = Array.from({ length: FUNCTIONS }, (_, k) => {
    const apart = below(3) === 0 ? '.balign 4096; ' : '';
    const jump =
      k + 1 < FUNCTIONS
        ? pick(['', '', `test dl, 2; jz %%f${k + 1};`, `test bl, 1; jnz %%t${k}; jmp [r14+${8 * k + 8}]; %%t${k}:`])
        : '';
    return `${apart}%%f${k}: ${body(k, 0, 4)} ${jump} ${pick(['ret', 'ret', 'pop rax; jmp rax', 'pop rax; push rax; ret'])}; %%skip${k}: ${body(k, 1, 1)} test ${pick(['bl', 'sil'])}, 1; jz %%s${k}; add qword ptr [rsp], 3; %%s${k}: ret;`;
  });
  const table = functions.map((_, k) => `lea rax, [rip+%%f${k}]; mov [r14+${8 * k}], rax;`).join(' ');
  // Two places call the first function.
  const main = `${table} mov r13d, 12; %%main: call %%f0; add rbx, 5; call [r14]; dec r13d; jnz %%main; jmp %%end;`;
  return asm(`${main} ${functions.join(' ')} %%end: nop`);
}

describe.skipIf(!assembles)('programs of functions end as in the interpreter', () => {
  const codes = Array.from({ length: 24 }, (_, seed) => program(seed + 1));
  const input = { r14: BigInt(DATA), rbx: 3n, rdx: 0x1234_5678_9abcn, rsi: 7n, rdi: 1n << 63n, r8: 0n, r9: 9n };

  test.each(Array.from({ length: codes.length / 6 }, (_, k) => k * 6))('%d', (first) => {
    for (let k = first; k < first + 6; k++) {
      const code = codes[k]!.bytes;
      const expected = new CodeMachine('interp').run(code, input);
      for (const [rounds, leavings, slice] of [
        [0, 0, 1_000_000],
        [0, 0, 53],
        [8, 3, 1_000_000],
        [8, 3, 19],
        [1_000_000, 3, 31],
      ] as const) {
        const machine = new CodeMachine('auto', 2, rounds, leavings);
        machine.slice = slice;
        for (let i = 0; i < 4; i++) {
          machine.bytes.fill(0, DATA, DATA + 0x200);
          const { registers, flags, fault } = machine.run(code, input);
          expect({ k, rounds, slice, registers, flags, fault }).toEqual({
            ...expected,
            k,
            rounds,
            slice,
            rip: undefined,
          });
        }
        expect(machine.cpu.jit.regions).toBeGreaterThan(0);
      }
    }
  });
});

describe.skipIf(!assembles)('calls through a register', () => {
  const body = 'mov rax, [r14+rdx*8]; inc edx; cmp edx, r15d; cmovae edx, r13d; call rax;';
  const code = asm(`%%again: ${body} dec ecx; jnz %%again; jmp %%end; .balign 4096;
    inc rbx; ret; .balign 64; add rbx, 16; ret; .balign 64; add rbx, 256; ret; %%end: nop`);
  const functions = [0, 1, 2].map((k) => CODE + 0x1000 + k * 64);
  const rounds = 60 * MOST_CHANGES * 50;

  function machineOf(): CodeMachine {
    const machine = new CodeMachine('auto', 2, 50, 20);
    machine.slice = 100;
    functions.forEach((at, k) => machine.cpu.memory.write64(DATA + k * 8, at));
    return machine;
  }

  /** Runs the loop, whose calls go round `count` functions from the `first` one on. @returns which ones are in a region with the caller */
  function follows(machine: CodeMachine, count: number, first = 0): number[] {
    const input = { rcx: BigInt(rounds), r14: BigInt(DATA + first * 8), r15: BigInt(count), r13: 0n };
    const { registers } = machine.run(code.bytes, input);
    let sum = 0;
    for (let k = 0; k < count; k++) sum += (rounds / count) * 16 ** (first + k);
    expect(registers.rbx).toBe(BigInt(sum));
    const owners = Reflect.get(machine.cpu.jit, 'owners') as Map<Block, Region>;
    const has = ({ blocks }: Region, at: number): boolean =>
      blocks.some(({ page, offset }) => page.physical + offset === at);
    const main = [...owners].flatMap(([{ page, offset }, region]) => (page.physical + offset === CODE ? [region] : []));
    return functions.flatMap((at, k) => (main.some((region) => has(region, at)) ? [k] : []));
  }

  test('are followed where they go to one or two places', () => {
    expect(follows(machineOf(), 1)).toEqual([0]);
    expect(follows(machineOf(), 2)).toEqual([0, 1]);
  });
  test('are not followed where they go to many', () => {
    expect(follows(machineOf(), 3)).toEqual([]);
  });
  test('are followed to where they come to go', () => {
    const machine = machineOf();
    expect(follows(machine, 1)).toEqual([0]);
    expect(follows(machine, 1, 1)).toEqual([0, 1]);
    expect(follows(machine, 1, 2)).toEqual([1, 2]);
  });

  test('32-bit code', () => {
    const code32 =
      asm32(`%%again: mov eax, [esi+edx*4]; xor edx, 1; call eax; call %%third; dec ecx; jnz %%again; jmp %%end;
      .balign 4096; inc ebx; ret; .balign 64; add ebx, 16; ret; %%third: add ebx, 256; push edi; pop ebp; ret 0; %%end: nop`);
    for (const [rounds, slice] of [
      [0, 1_000_000],
      [0, 17],
      [20, 50],
    ] as const) {
      const machine = new CodeMachine('auto', 2, rounds, 5);
      machine.slice = slice;
      [0, 1].forEach((k) => machine.view.setUint32(DATA + k * 4, functions[k]!, true));
      const input = { rcx: 1000n, rsi: BigInt(DATA), rdi: 0xffff_fff0n };
      const { registers } = machine.run(code32.bytes, input, 0, 32);
      expect([registers.rbx, registers.rbp]).toEqual([500n * 17n + 256_000n, 0xffff_fff0n]);
      expect(machine.cpu.jit.regions).toBeGreaterThan(0);
    }
  });
});
