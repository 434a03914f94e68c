/** What only compiled regions of several blocks can get wrong. */
import { describe, expect, test, vi } from 'vitest';
import type { Tier } from '../../../emulator/processor.ts';
import { Kind, type Region } from '../../../emulator/cpu/jit/find.ts';
import { asm, assembles } from './assembler.ts';
import { CodeMachine } from './machine-code.ts';

const hex = (s: string): number[] => [...Buffer.from(s.replace(/\s/g, ''), 'hex')];

describe.each(['interp', 'jit', 'light'] as Tier[])('%s', (tier) => {
  test('a register that is written without being an operand is kept over a helper in a loop', () => {
    // mov ecx, 2000; xor ebx, ebx; mov rax, -1
    // 1: mul rcx; fldz; fsin; fstp st0; add rbx, rdx; not rax; dec ecx; jne 1b
    // MUL writes RDX; FSIN is a helper, for which a region writes its registers back and reads them again.
    const code = hex('b9d0070000 31db 48c7c0ffffffff 48f7e1 d9ee d9fe ddd8 4801d3 48f7d0 ffc9 75ed');
    let rax = (1n << 64n) - 1n;
    let rbx = 0n;
    for (let rcx = 2000n; rcx; rcx--) {
      const product = rax * rcx;
      rbx = BigInt.asUintN(64, rbx + (product >> 64n));
      rax = BigInt.asUintN(64, ~product);
    }
    const { registers } = new CodeMachine(tier).run(code, {});
    expect(registers.rbx).toBe(rbx);
    expect(registers.rax).toBe(rax);
  });

  test('registers that are written in part, under a condition and around a helper are read as they are', () => {
    // mov ecx, 100; 1: mov eax, ecx; mov ah, 0x12; test cl, 1; cmovne edx, eax; mov dl, 5; add rbx, rax; add rbx, rdx
    // fldz; fsin; fstp st0; add rbx, rdx; mov bx, dx; xadd rax, rbx; rol ebx, cl; cmpxchg rbx, rdx; dec ecx; jne 1b
    const code = hex(
      'b964000000 89c8 b412 f6c101 0f45d0 b205 4801c3 4801d3' +
        'd9ee d9fe ddd8 4801d3 6689d3 480fc1d8 d3c3 480fb1d3 ffc9 75d4',
    );
    const input = { rbx: 0x1234_5678_9abc_def0n, rdx: 0xfedc_ba98_7654_3210n };
    const expected = new CodeMachine('interp').run(code, input);
    const { registers, flags } = new CodeMachine(tier).run(code, input);
    expect(registers).toEqual(expected.registers);
    expect(flags).toBe(expected.flags);
  });

  test('calls and returns inside a page keep registers, stack and loop counts', () => {
    // mov ecx, 500; xor eax, eax; 1: call 2f; dec ecx; jne 1b; jmp 3f; 2: add eax, ecx; ret; 3: nop
    const code = hex('b9f4010000 31c0 e806000000 ffc9 75f7 eb03 01c8 c3 90');
    const { registers } = new CodeMachine(tier).run(code, {});
    expect(registers.rax).toBe(BigInt((500 * 501) / 2));
    expect(registers.rcx).toBe(0n);
  });

  test('a jump through a table in a loop goes to each case', () => {
    // lea rsi, [rip + 2f]; mov ecx, 300; xor eax, eax; 1: mov edx, ecx; and edx, 1; lea rdx, [rsi + rdx*4]; jmp rdx
    // 2: inc eax; jmp 3f; (odd ones, at 2b + 4:) add eax, 2; nop; 3: dec ecx; jne 1b
    const code = hex('488d3512000000 b92c010000 31c0 89ca 83e201 488d1496 ffe2 ffc0 eb04 83c002 90 ffc9 75e9');
    const { registers } = new CodeMachine(tier).run(code, {});
    expect(registers.rax).toBe(150n + 300n);
  });
});

test('flags that one path has pending are nothing to another', () => {
  // mov r14d, 3; 1: lahf; mov r15d, 4; 2: fdivp; sub r15, 1; jg 2b; dec r14; jg 1b
  const code = hex('41be03000000 9f 41bf04000000 def1 4983ef01 7ff8 49ffce 7fec');
  const expected = new CodeMachine('interp').run(code, {});
  const machine = new CodeMachine('auto', 2);
  // Loops are left and come back into through the region's start, which the paths of the loops share.
  machine.slice = 5;
  for (let i = 0; i < 6; i++) {
    const { registers, flags } = machine.run(code, {});
    expect([registers.rax, flags]).toEqual([expected.registers.rax, expected.flags]);
  }
  expect(machine.cpu.jit.regions).toBeGreaterThan(0);
});

test('a light region that loops is compiled anew, one that does not is left', () => {
  // xor eax, eax; 1: add eax, ecx; dec ecx; jne 1b
  const code = hex('31c0 01c8 ffc9 75fa');
  const regions = (rounds: number): number => {
    const machine = new CodeMachine('auto', 2, 100);
    machine.slice = 50;
    for (let i = 0; i < 40; i++) {
      const { registers } = machine.run(code, { rcx: BigInt(rounds) });
      expect(registers.rax).toBe(BigInt((rounds * (rounds + 1)) / 2));
    }
    return machine.cpu.jit.regions;
  };
  const once = regions(3);
  expect(once).toBeGreaterThan(0);
  expect(regions(30)).toBeGreaterThan(once);
});

test('the first region of x87 code has its registers in locals, and is no part of another one', () => {
  // xor eax, eax; 1: fld1; fld1; faddp; fstp st0, or four times inc edx, or both with a jump between them; dec ecx; jne 1b
  const found = (body: string): Region[] => {
    const machine = new CodeMachine('auto', 2, 1_000_000);
    machine.slice = 20;
    const back = (252 - hex(body).length).toString(16);
    machine.run(hex(`31c0 ${body} ffc9 75${back}`), { rcx: 40n });
    const owners = Reflect.get(machine.cpu.jit, 'owners') as Map<unknown, Region>;
    return [...owners.values()];
  };
  const kinds = (body: string): number[] => found(body).map(({ kind }) => kind);
  expect(kinds('d9e8 d9e8 dec1 ddd8')).toContain(Kind.Loops);
  expect(kinds('ffc2 ffc2 ffc2 ffc2')).not.toContain(Kind.Loops);
  const light = found('ffc2 ffc2 ffc2 ffc2 eb00 d9e8 d9e8 dec1 ddd8').filter((region) => region.light);
  const units = light.flatMap(({ blocks }) => blocks.flatMap(({ insns }) => insns.map(({ def }) => def.unit)));
  expect([light.length > 0, units.includes('x87')]).toEqual([true, false]);
});

test('a small region that is much left for want of room is compiled anew with more', () => {
  // xor eax, eax; 1: (inc eax; jmp +0) × 60; dec ecx; jne 1b
  const code = hex(`31c0 ${'ffc0eb00'.repeat(60)} ffc9 0f8508ffffff`);
  const regions = (leavings: number): number => {
    const machine = new CodeMachine('auto', 2, 1_000_000, leavings);
    machine.slice = 500;
    for (let i = 0; i < 10; i++) {
      const { registers } = machine.run(code, { rcx: 30n });
      expect(registers.rax).toBe(1800n);
    }
    return machine.cpu.jit.regions;
  };
  const once = regions(1_000_000);
  expect(once).toBeGreaterThan(2);
  expect(regions(100)).toBeGreaterThan(once);
});

test('with no time left for writing, only what has long been interpreted is compiled', () => {
  // xor eax, eax; 1: add eax, ecx; dec ecx; jne 1b
  const code = hex('31c0 01c8 ffc9 75fa');
  const regions = (rounds: bigint): number => {
    const machine = new CodeMachine('auto', 2);
    machine.cpu.synchronous = false;
    machine.slice = 1000;
    Reflect.set(machine.cpu.jit, 'credit', -1e6);
    machine.run(code, { rcx: rounds });
    return machine.cpu.jit.regions;
  };
  expect(regions(5_000n)).toBe(0);
  expect(regions(50_000n)).toBeGreaterThan(0);
});

test('writing ends before somebody notices that the guest stands still, and goes on in the next turn', async () => {
  const machine = new CodeMachine('auto', 2, 1_000_000);
  const { jit } = machine.cpu;
  machine.cpu.synchronous = false;
  machine.slice = 30;
  const queue = Reflect.get(jit, 'queue') as Region[];
  // Four loops like the one above.
  machine.run(hex('31c0 01c8 ffc9 75fa' + 'b90a000000 01c8 ffc9 75fa'.repeat(3)), { rcx: 10n });
  const waiting = queue.length;
  expect(waiting).toBeGreaterThan(2);
  let time = performance.now() + 1000;
  const clock = vi.spyOn(performance, 'now').mockImplementation(() => (time += 5));
  try {
    jit.pump(1000, false);
    expect(queue).toHaveLength(waiting - 1);
    // What is left waits for others no longer.
    time += 1000;
    jit.pump(1000, false);
    expect(queue).toHaveLength(waiting - 2);
  } finally {
    clock.mockRestore();
  }
  await vi.waitFor(() => expect(jit.regions).toBe(2));
});

test('devices see how many instructions have been executed', () => {
  // mov ecx, 50; 1: xor eax, eax; test cl, 3; jne 2f; mov eax, [r8]; 2: add ebx, eax; jmp 3f; 3: dec ecx; jne 1b
  const code = hex('b932000000 31c0 f6c103 7503 418b00 01c3 eb00 ffc9 75ee');
  const seen = (machine: CodeMachine): number[] => {
    const { cpu } = machine;
    const counts: number[] = [];
    Object.assign(cpu.host.bus, { readMmio: () => counts.push(cpu.instructions) });
    // A page that is no memory.
    cpu.memory.write64(0x4000 + 0x60 * 8, 0x8000_0003);
    for (let i = 0; i < 3; i++) machine.run(code, { r8: 0x46_0000n });
    return counts;
  };
  const expected = seen(new CodeMachine('interp'));
  expect(expected).toHaveLength(36);
  for (const tier of ['jit', 'light'] as const) expect(seen(new CodeMachine(tier))).toEqual(expected);
  for (const rounds of [0, 20]) {
    const machine = new CodeMachine('auto', 2, rounds);
    machine.slice = 60;
    expect(seen(machine)).toEqual(expected);
    expect(machine.cpu.jit.regions).toBeGreaterThan(0);
  }
});

test('a loop that is entered in the middle stays in its region', () => {
  // xor eax, eax; test ecx, 1; jne 2f; 1: add eax, 1; 2: add eax, 16; dec ecx; jne 1b
  const code = hex('31c0 f7c101000000 7503 83c001 83c010 ffc9 75f6');
  for (const slice of [7, 1000]) {
    const machine = new CodeMachine('auto', 2);
    machine.slice = slice;
    for (const rounds of [1, 2, 31, 32, 1000, 1001]) {
      const { registers } = machine.run(code, { rcx: BigInt(rounds) });
      expect(registers.rax).toBe(BigInt(rounds * 17 - (rounds & 1)));
    }
    expect(machine.cpu.jit.regions).toBeGreaterThan(0);
  }
});

test('code that is mapped twice, at different distances from what it calls, knows where it is', () => {
  const [caller, callee, again, calleeAgain] = [0x450000, 0x440000, 0x452000, 0x460000];
  for (const rounds of [0, 12]) {
    const machine = new CodeMachine('auto', 2, rounds);
    const { memory } = machine.cpu;
    // call [rip + 0xffa] (the start of the next page); nop; ret — lea rax, [rip]; ret
    memory.write(caller, Uint8Array.from(hex('ff15fa0f0000 90 c3')));
    memory.write(callee, Uint8Array.from(hex('488d0500000000 c3')));
    memory.write64(caller + 0x1000, callee);
    memory.write64(again + 0x1000, calleeAgain);
    const map = (linear: number, page: number): void => memory.write64(0x4000 + ((linear >> 12) & 511) * 8, page | 3);
    map(again, caller);
    map(calleeAgain, callee);
    // mov ecx, 40; 1: call r8; dec ecx; jne 1b
    const code = hex('b928000000 41ffd0 ffc9 75f9');
    for (let i = 0; i < 4; i++)
      for (const [r8, rax] of [
        [caller, callee + 7],
        [again, calleeAgain + 7],
      ] as const)
        expect(machine.run(code, { r8: BigInt(r8) }).registers.rax).toBe(BigInt(rax));
    expect(machine.cpu.jit.regions).toBeGreaterThan(0);
  }
});

describe.skipIf(!assembles).each([
  ['INVLPG', 'invlpg [r9]'],
  ['MOV to CR3', 'mov rax, cr3; mov cr3, rax'],
])('where a page is mapped elsewhere, by %s,', (_, flush) => {
  const [caller, constant, callee, other] = [0x450000, 0x451000, 0x452000, 0x461000];
  const entry = 0x4000 + ((callee >> 12) & 511) * 8;
  // Calls the functions at the starts of the next two pages RCX times and adds up what they return.
  const loop = '%%again: call %%start+0x1000; add edx, eax; call %%start+0x2000; add edx, eax;';
  const prepare = (rounds: number): CodeMachine => {
    const machine = new CodeMachine('auto', 2, rounds);
    const { memory } = machine.cpu;
    for (const page of [constant, callee]) memory.write(page, Uint8Array.from(hex('b801000000 c3'))); // mov eax, 1; ret
    memory.write(other, Uint8Array.from(hex('b802000000 c3')));
    memory.write64(entry, callee | 3);
    return machine;
  };

  test.each([0, 12])('a region that is entered again sees it (%d rounds)', (rounds) => {
    const machine = prepare(rounds);
    machine.cpu.memory.write(caller, Uint8Array.from(asm(`${loop} dec ecx; jnz %%again; ret`).bytes));
    const code = asm(`${flush}; mov ecx, 1000; xor edx, edx; call r8`).bytes;
    for (let i = 0; i < 6; i++) {
      machine.cpu.memory.write64(entry, (i & 1 ? other : callee) | 3);
      const { rdx } = machine.run(code, { r8: BigInt(caller), r9: BigInt(callee) }).registers;
      expect(rdx).toBe(i & 1 ? 3000n : 2000n);
    }
    expect(machine.cpu.jit.regions).toBeGreaterThan(0);
  });

  test.each([0, 12])('a region that runs sees it (%d rounds)', (rounds) => {
    const machine = prepare(rounds);
    machine.slice = 500;
    const change = `cmp ecx, 500; jne %%on; mov [rsi], rdi; ${flush}; %%on: dec ecx; jnz %%again; ret`;
    machine.cpu.memory.write(caller, Uint8Array.from(asm(`${loop} ${change}`).bytes));
    const registers = { r8: caller, r9: callee, rsi: entry, rdi: other | 3 };
    const code = asm('mov ecx, 1000; xor edx, edx; call r8').bytes;
    const { rdx } = machine.run(
      code,
      Object.fromEntries(Object.entries(registers).map(([name, x]) => [name, BigInt(x)])),
    ).registers;
    expect(rdx).toBe(1000n + 501n + 2n * 499n);
    expect(machine.cpu.jit.regions).toBeGreaterThan(0);
  });

  test.each([
    [0, 500],
    [0, 499],
    [12, 500],
    [12, 499],
  ])('code that is new there sees the flags that the old one did not look at (%d rounds, %d)', (rounds, at) => {
    const machine = prepare(rounds);
    machine.slice = 500;
    const { memory } = machine.cpu;
    // The code at the start of the next page but one goes back to 0x40.
    const back = 0x40 - 0x2000;
    const change = `mov [rsi], rdi; ${flush}`;
    const text = `cmp ecx, 500; jne %%on; ${change}; %%on: cmp ecx, r10d; jmp %%start+0x2000`;
    memory.write(caller, Uint8Array.from(asm(text).bytes));
    memory.write(caller + 0x40, Uint8Array.from(asm('add edx, eax; dec ecx; jnz %%start-0x40; ret').bytes));
    memory.write(callee, Uint8Array.from(asm(`xor eax, eax; jmp %%start${back}`).bytes));
    memory.write(other, Uint8Array.from(asm(`sete al; movzx eax, al; jmp %%start${back}`).bytes));
    const registers = { r8: caller, r9: callee, rsi: entry, rdi: other | 3, r10: at };
    const code = asm('mov ecx, 1000; xor edx, edx; call r8').bytes;
    const { rdx } = machine.run(
      code,
      Object.fromEntries(Object.entries(registers).map(([name, x]) => [name, BigInt(x)])),
    ).registers;
    expect(rdx).toBe(1n);
    expect(machine.cpu.jit.regions).toBeGreaterThan(0);
  });
});
