import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { decode } from '../../emulator/cpu/decoder.ts';
import { defineAll } from '../../emulator/cpu/defs/index.ts';
import { DEFS } from '../../emulator/cpu/insn.ts';
import { instructionText } from '../../src/cli/trace/instruction-text.ts';
import { Lockstep, type LockstepResult } from '../../src/cli/trace/lockstep.ts';
import { makeMachine, type TracedMachine } from '../../src/cli/trace/machines.ts';
import { traceWindow } from '../../src/cli/trace/window.ts';
import { kernelOf, powerOff, tripleFault } from '../fakes/kernel.ts';

const directory = mkdtempSync(join(tmpdir(), 'trace-'));
afterAll(() => rmSync(directory, { recursive: true }));

/** mov ecx,1000; loop: add [0x200000],ecx; dec ecx; jnz loop */
const loop = [0xb9, 0xe8, 3, 0, 0, 0x01, 0x0d, 0, 0, 0x20, 0, 0x49, 0x75, 0xf7];

function make(tier: 'interp' | 'jit' | 'auto', name: string, ...code: number[]): Promise<TracedMachine> {
  const kernel = join(directory, name);
  writeFileSync(kernel, kernelOf(...code));
  return makeMachine({ kernel, memory: 16 }, tier, () => undefined);
}

async function lines(tier: 'interp' | 'jit', from: number, count: number, ...code: number[]): Promise<string[]> {
  const { machine, cpu } = await make(tier, 'lines', ...code);
  const out: string[] = [];
  const through = new Promise<void>((done) => {
    const print = (line: string): void => void out.push(line);
    traceWindow(cpu, { from, count, single: tier === 'interp', all: false, print, done });
  });
  machine.start();
  await Promise.race([through, machine.stopped]);
  machine.stop();
  return out;
}

describe('a window of instructions', () => {
  test('shows address, instruction, what it changed and what it wrote', async () => {
    expect(await lines('interp', 0, 4, ...loop, ...powerOff)).toEqual([
      '0 0 0000000000100000 mov ecx, 0x3e8                           rcx=3e8',
      '1 0 0000000000100005 add dword ptr [0x200000], ecx            rflags=6 [200000]=000003e8',
      '2 0 000000000010000b dec ecx                                  rcx=3e7',
      '3 0 000000000010000c jne 0x100005                             rip=100005',
    ]);
  });

  test('starts where it is told to, in compiled code too', async () => {
    const [first] = await lines('jit', 1000, 10, ...loop, ...powerOff);
    expect(first).toMatch(/^100\d 0 0000000000100005 add dword ptr \[0x200000\], ecx/);
  });

  test('names the exception that an instruction raised', async () => {
    // A triple fault: the delivery of #UD finds no IDT.
    expect((await lines('interp', 0, 10, ...tripleFault)).at(-1)).toMatch(/^0 0 0000000000100000 \(undefined\) #\d/);
  });
});

describe('two tiers in lockstep', () => {
  /** @param spoil at which count the leader's RDX is changed behind its back */
  async function compare(from: number, spoil = Infinity): Promise<LockstepResult> {
    const leader = await make('jit', 'leader', ...loop, ...powerOff);
    const follower = await make('interp', 'follower', ...loop, ...powerOff);
    const piece = leader.cpu.piece.bind(leader.cpu);
    leader.cpu.piece = (budget) => {
      const reason = piece(budget);
      if (leader.cpu.retired >= spoil) leader.cpu.setBig(2, 0xbadn);
      return reason;
    };
    const result = await new Promise<LockstepResult>((resolve) => {
      const wake = (who: 'leader' | 'follower'): void => (who === 'leader' ? leader : follower).machine.wake();
      const both = new Lockstep(leader.cpu, follower.cpu, { from, count: 2500 - from }, 5, wake, resolve);
      void follower.machine.stopped.then(() => both.ended());
      leader.machine.start();
      follower.machine.start();
    });
    leader.machine.stop();
    follower.machine.stop();
    return result;
  }

  test('are equal', async () => {
    const result = await compare(500);
    expect(result.difference).toBeUndefined();
    expect(result.instructions).toBeGreaterThanOrEqual(2500);
    expect(result.compared).toBeGreaterThan(300);
  });

  test('differ, and the first place is found', async () => {
    const { difference } = await compare(500, 1200);
    expect(difference).toMatchObject({ fine: true, registers: ['rdx=bad/0'] });
    expect(difference!.after).toBeLessThan(1200);
    expect(difference!.by).toBeGreaterThanOrEqual(1200);
    expect(difference!.by - difference!.after).toBeLessThan(10);
    expect(difference!.lines).toHaveLength(5);
    expect(difference!.lines.at(-1)).toMatch(/jne 0x100005/);
  });
});

describe('instructions as text', () => {
  beforeAll(() => {
    if (!DEFS.length) defineAll();
  });

  test.each<[number[], 64 | 32, string]>([
    [[0x48, 0x8b, 0x84, 0xcb, 0xf8, 0xff, 0xff, 0xff], 64, 'mov rax, qword ptr [rbx+rcx*8-0x8]'],
    [[0x8b, 0x05, 0x10, 0, 0, 0], 64, 'mov eax, dword ptr [rip+0x10]'],
    [[0x65, 0x8b, 0x04, 0x25, 0, 0, 0, 0], 64, 'mov eax, dword ptr gs:[0x0]'],
    [[0x88, 0xe1], 64, 'mov cl, ah'],
    [[0x40, 0x88, 0xe1], 64, 'mov cl, spl'],
    [[0xf0, 0x48, 0x0f, 0xb1, 0x0a], 64, 'lock cmpxchg qword ptr [rdx], rcx'],
    [[0xf3, 0xa4], 64, 'rep movsb'],
    [[0xf2, 0x66, 0xaf], 64, 'repne scasw'],
    [[0x83, 0xc4, 0xf8], 32, 'add esp, -0x8'],
    [[0xeb, 0xfe], 32, 'jmp 0x1000'],
    [[0x0f, 0x58, 0xc1], 64, 'addps xmm0, xmm1'],
  ])('%j', (bytes, bits, text) => {
    const insn = decode(Uint8Array.from(bytes), 0, 15, bits);
    if (typeof insn === 'string') throw new Error(insn);
    expect(instructionText(insn, 0x1000n + BigInt(insn.len))).toBe(text);
  });
});
