/** Loops that regions have twice (jit/strides.ts): whatever the interpreter makes of them, registers, memory, faults, fuel, they make. */
import { describe, expect, test } from 'vitest';
import { S } from '../../../emulator/cpu/layout.ts';
import type { StopReason } from '../../../emulator/processor.ts';
import { assembles, asm, type Code } from './assembler.ts';
import { Random } from '../../conformance/random.ts';
import { CODE, CodeMachine, DATA, HOLE, READ_ONLY, STACK, type Outcome, type Registers } from './machine-code.ts';
import { watchCompiler } from './system-machine.ts';

watchCompiler();

const USUAL_MXCSR = 0x1fa0;
const BYTES = HOLE - DATA;

interface Setting {
  readonly registers: Registers;
  readonly slice?: number;
  readonly mxcsr?: number;
  /** Fills memory from DATA on. */
  readonly fill?: (view: DataView) => void;
}

interface Result extends Outcome {
  readonly instructions: number;
  readonly memory: Uint8Array;
  readonly code: Uint8Array;
  readonly vectors: Uint8Array;
}

function execute(m: CodeMachine, code: readonly number[], setting: Setting): Result {
  const { cpu } = m;
  // Pages that lie side by side for the program do not do so in memory.
  const data = new Uint8Array(BYTES).fill(0x5a);
  setting.fill?.(new DataView(data.buffer));
  for (let at = 0; at < BYTES; at += 4096) {
    const physical = HOLE - 4096 - at;
    m.bytes.set(data.subarray(at, at + 4096), physical);
    m.view.setUint32(0x4000 + ((at + DATA - 0x40_0000) >> 9), physical | 3, true);
  }
  // What is translated stays so from one time to the next.
  if (m.bytes[CODE] === 0) m.prepare(code);
  cpu.setRip(CODE, 0);
  cpu.rflags = 2;
  cpu.setBig(4, BigInt(STACK));
  cpu.faultObject.vector = -1;
  Reflect.set(cpu, 'faulted', false);
  const state = new DataView(cpu.wasmMemory.buffer, cpu.state, S.SIZE);
  for (let i = 0; i < 256; i += 8) state.setFloat64(S.XMM + i, 1.5 + i, true);
  state.setUint32(S.MXCSR, setting.mxcsr ?? USUAL_MXCSR, true);
  const names = ['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi', 'r8', 'r9', 'r10', 'r11'] as const;
  names.forEach((name, n) => {
    if (name !== 'rsp') cpu.setBig(n, BigInt.asUintN(64, setting.registers[name] ?? 0n));
  });
  const before = cpu.instructions;
  const slice = setting.slice ?? 1_000_000;
  let most = 0;
  let reason: StopReason;
  do {
    const start = cpu.instructions;
    reason = cpu.run(slice);
    most = Math.max(most, cpu.instructions - start);
  } while (reason === 'budget');
  // A region looks at its fuel once a round.
  expect(most).toBeLessThan(slice + 64);
  cpu.halted = false;
  cpu.shutdown = false;
  const registers = Object.fromEntries(names.map((name, n) => [name, cpu.big(n)])) as Outcome['registers'];
  const { vector, code: error } = cpu.faultObject;
  return {
    registers,
    flags: cpu.rflags,
    rip: cpu.rip,
    fault: reason === 'halted' ? undefined : { vector, code: error },
    instructions: cpu.instructions - before,
    memory: m.bytes.slice(DATA, HOLE),
    code: m.bytes.slice(CODE, CODE + code.length),
    vectors: new Uint8Array(state.buffer.slice(cpu.state + S.XMM, cpu.state + S.XMM + 256)),
  };
}

/** Loops of the machine's regions that are written twice. */
const stridesOf = (m: CodeMachine): number =>
  [...(Reflect.get(m.cpu.jit, 'owners') as Map<unknown, { strides: number }>).values()].reduce(
    (n, r) => n + r.strides,
    0,
  );

/**
 * Runs the code until its regions are made, and then as often again, each time as the interpreter does.
 *
 * @param strides whether regions are to have strides
 */
function check(code: Code, settings: readonly Setting[], strides: boolean | 'perhaps' = true): void {
  const interp = new CodeMachine('interp');
  const wanted = settings.map((s) => execute(interp, code.bytes, s));
  const m = new CodeMachine('auto', 40);
  let most = 0;
  for (let k = 0; k < 3; k++)
    settings.forEach((s, i) => {
      const { memory, ...rest } = execute(m, code.bytes, s);
      most = Math.max(most, stridesOf(m));
      const { memory: wantedMemory, ...wantedRest } = wanted[i]!;
      expect(rest, `time ${k}, setting ${i}`).toEqual(wantedRest);
      expect(Buffer.compare(memory, wantedMemory), `memory, time ${k}, setting ${i}`).toBe(0);
    });
  if (strides !== 'perhaps') expect(most > 0).toBe(strides);
}

const numbers = (view: DataView): void => {
  for (let i = 0; i < BYTES; i += 8) view.setFloat64(i, 1 + ((i * 7) % 1000) / 8, true);
};

describe.skipIf(!assembles)('strides', () => {
  test.each([
    ['a sum', 'mov ecx, 1500; 1: add rbx, [rsi]; add rsi, 8; dec ecx; jnz 1b', 4],
    ['an index', 'mov ecx, 900; 1: mov rbx, [rsi+rax*8]; mov [rdi+rax*8], rbx; inc rax; dec ecx; jnz 1b', 8],
    ['backward', 'mov ecx, 900; 1: mov rbx, [rsi+rax*4]; add [rdi+rax*4-8], rbx; sub rax, 1; dec ecx; jnz 1b', 8],
    ['large steps', 'mov ecx, 100; 1: add rbx, [rsi+40]; mov [rsi+300], rbx; add rsi, 328; dec ecx; jnz 1b', 4],
    [
      'fields before and after the step',
      'mov ecx, 500; 1: mov rbx, [rsi]; lea rsi, [rsi+24]; add rbx, [rsi-16]; add [rsi-8], rbx; dec ecx; jnz 1b',
      8,
    ],
    [
      'what the round before has stored',
      'mov ecx, 900; 1: mov rbx, [rsi]; rol rbx, 5; mov [rsi+12], rbx; add rsi, 8; dec ecx; jnz 1b',
      4,
    ],
    [
      'a stack',
      'mov ecx, 300; 1: push rcx; add rbx, [rsi]; push rbx; pop r9; pop r10; add r8, r9; add rsi, 8; dec ecx; jnz 1b',
      8,
    ],
    [
      'a variable beside',
      'mov ecx, 600; 1: add rbx, [rsi]; add [rdx], rbx; mov rbx, [rdx]; add rsi, 8; dec ecx; jnz 1b',
      8,
    ],
    [
      'XMM registers, unaligned',
      'mov ecx, 400; 1: movdqu xmm0, [rsi]; paddb xmm1, xmm0; movups [rdi+3], xmm1; add rsi, 16; add rdi, 16; dec ecx; jnz 1b',
      8,
    ],
    ['flags at the end', 'mov ecx, 900; 1: sub bl, [rsi]; inc rsi; dec ecx; jnz 1b; sub bl, 3', 1],
    [
      'carries',
      'mov ecx, 700; 1: mov rbx, [rsi]; adc [rdi], rbx; lea rsi, [rsi+8]; lea rdi, [rdi+8]; dec ecx; jnz 1b; adc r8, 0',
      8,
    ],
    [
      '32-bit registers',
      'mov ecx, 900; 1: mov ebx, [rsi]; xor r8d, ebx; mov [rdi], r8w; add rsi, 4; add rdi, 2; dec ecx; jnz 1b',
      4,
    ],
  ])('%s', (_, text, alignment) => {
    const places = [0, 8, 4080, 2000, 4096 - 24].map((at) => BigInt(at - (at % alignment)));
    check(
      asm(text),
      places.flatMap((at, k) => {
        const registers = {
          rsi: BigInt(DATA + 0x3000) + at,
          rdi: BigInt(DATA + 0x8000 - 8 * k),
          rdx: BigInt(DATA + 0x200 + 8 * k),
          rbx: 77n,
        };
        return [{ registers }, { registers, slice: 61 }, { registers, slice: 1500, fill: numbers }];
      }),
    );
  });

  test('ways out in the middle, and ways that part', () => {
    const text =
      'mov ecx, 2000; 1: movzx ebx, byte ptr [rsi]; cmp bl, 3; je 3f; test bl, 1; jz 2f; add r8d, [rsi+1]; mov [rdi], r8b;' +
      '2: inc rsi; inc rdi; cmp byte ptr [rsi], 7; je 4f; dec ecx; jnz 1b; 3: mov r9d, 1; jmp 5f; 4: mov r9d, 2; 5: nop';
    const settings = [
      [3000, 3],
      [4500, 7],
      [1000, 3],
      [7000, 3],
      [3700, 7],
    ].flatMap(([at, what], k) =>
      [undefined, 37, 500].map((slice) => ({
        registers: { rsi: BigInt(DATA + 2100 + k), rdi: BigInt(DATA + 0x5000 - 3 * k) },
        slice,
        fill: (view: DataView): void => {
          for (let i = 0; i < 0x4000; i++) view.setUint8(i, i % 61 === 5 ? 12 : i & 1 ? 11 : 9);
          view.setUint8(at!, what!);
        },
      })),
    ) as Setting[];
    check(asm(text), settings);
  });

  test('a way that has hardly been taken', () => {
    const text =
      'mov ecx, 3000; 1: movzx ebx, byte ptr [rsi]; test bl, bl; jz 2f; 3: add r8, rbx; inc rsi; dec ecx; jnz 1b; jmp 4f;' +
      '2: inc r9; add r8, [rsi-5]; jmp 3b; 4: nop';
    const settings = [0, 500, 97].map((distance) => ({
      registers: { rsi: BigInt(DATA + 600) },
      fill: (view: DataView): void => {
        for (let i = 0; distance && i < 0x4000; i += distance) view.setUint8(i, 0);
      },
    }));
    check(asm(text), settings);
  });

  test('an inner loop begins again and again', () => {
    const text =
      'mov edx, 40; 1: mov ecx, edx; mov rdi, rsi; 2: add rbx, [rdi]; mov [rdi+8], rbx; add rdi, 8; dec ecx; jnz 2b;' +
      'add rsi, 72; dec edx; jnz 1b';
    check(asm(text), [
      { registers: { rsi: BigInt(DATA + 3000) } },
      { registers: { rsi: BigInt(DATA + 3000) }, slice: 29 },
    ]);
  });

  test('pages that are not there, or not to be written', () => {
    const copy = asm('1: mov rbx, [rsi]; mov [rdi], rbx; add r8, rbx; add rsi, 8; add rdi, 8; dec ecx; jnz 1b');
    const far = BigInt(DATA + 0x100);
    check(copy, [
      { registers: { rsi: far, rdi: BigInt(DATA + 0x4000), rcx: 1000n } },
      { registers: { rsi: far, rdi: BigInt(HOLE - 4096), rcx: 1000n } },
      { registers: { rsi: BigInt(HOLE - 4100), rdi: far, rcx: 1000n } },
      { registers: { rsi: far, rdi: BigInt(READ_ONLY), rcx: 1000n } },
      { registers: { rsi: far, rdi: BigInt(READ_ONLY - 3000), rcx: 1000n } },
    ]);
  });

  test('accesses that have to be aligned', () => {
    const text = asm(
      '1: movaps xmm0, [rsi]; addps xmm0, [rsi+32]; movaps [rdi+16], xmm0; add rsi, 16; add rdi, 32; dec ecx; jnz 1b',
    );
    check(text, [
      { registers: { rsi: BigInt(DATA), rdi: BigInt(DATA + 0x4000), rcx: 200n }, fill: numbers },
      { registers: { rsi: BigInt(DATA + 8), rdi: BigInt(DATA + 0x4000), rcx: 200n } },
      { registers: { rsi: BigInt(DATA), rdi: BigInt(DATA + 0x4008), rcx: 200n } },
    ]);
    // Only every other round's is.
    check(
      asm('1: movaps xmm0, [rsi]; add rsi, 8; dec ecx; jnz 1b'),
      [{ registers: { rsi: BigInt(DATA), rcx: 200n } }],
      false,
    );
  });

  /** Bytes that say which way a round goes: both by turns, or the other one only after some rounds. */
  const ways =
    (late: boolean, rest?: (view: DataView) => void) =>
    (view: DataView): void => {
      rest?.(view);
      for (let i = 0; i < 4096; i++) view.setUint8(i, Number(late ? i > 120 : (i * i) % 5 === 1));
    };

  test('what is asked for only in later rounds: alignment, rounding', () => {
    const code = (work: string): Code =>
      asm(
        `mov ecx, 300; 1: mov rbx, [rsi]; cmp byte ptr [rdx], 0; je 2f; ${work}; 2: add rsi, 16; inc rdx; dec ecx; jnz 1b`,
      );
    const registers = { rsi: BigInt(DATA + 0x1000), rdi: BigInt(DATA + 0x9008), rdx: BigInt(DATA) };
    check(code('movaps xmm0, [rsi]; paddd xmm1, xmm0'), [
      { registers, fill: ways(false) },
      { registers: { ...registers, rsi: registers.rsi + 8n }, fill: ways(true) },
    ]);
    check(code('movsd xmm2, [rdi]; divsd xmm2, [rsi]; addsd xmm1, xmm2'), [
      { registers, fill: ways(false, numbers) },
      ...[0x1f80, 0x3fa0, 0x5fa0].map((mxcsr) => ({ registers, mxcsr, fill: ways(true, numbers) })),
    ]);
  });

  test('flags that one block leaves to the next', () => {
    const code = asm(
      'mov ecx, 2000; 1: movzx rbx, byte ptr [rsi]; cmp rbx, 1; je 2f; inc r9; 2: setb r10b; add r8, r10; inc rsi;' +
        'cmp cl, r8b; adc r8, 3; dec ecx; jnz 1b',
    );
    const registers = { rsi: BigInt(DATA) };
    check(code, [
      { registers, fill: ways(false) },
      { registers, fill: ways(true) },
    ]);
  });

  test('code that the loop overwrites', () => {
    // The loop's own immediate, and what comes after it.
    const text = asm(
      'lea rdi, [rip+%%near-0x300]; mov ecx, 0x40; 1: mov rbx, [rsi]; add r8, 0x11; mov byte ptr [rdi+rax], 0x22;' +
        '%%near: add rax, 8; add rsi, 8; dec ecx; jnz 1b; nop; nop',
    );
    const near = asm(
      'lea rdi, [rip+%%near]; mov ecx, 100; 1: mov rbx, [rsi]; add r8, 0x11; mov [rsi+0x100], rbx; add rsi, 8; dec ecx; jnz 1b;' +
        'cmp edx, 1; je 2f; inc edx; mov ecx, 100; mov byte ptr [rdi+9], 0x22; %%near: nop; jmp 1b; 2: nop',
    );
    check(text, [{ registers: { rsi: BigInt(DATA) } }]);
    check(near, [{ registers: { rsi: BigInt(DATA) } }]);
  });

  test.each([
    ['one operation', 'mulsd xmm1, xmm0'],
    ['two', 'mulsd xmm1, xmm0; addsd xmm1, [rdx+rax]'],
    ['packed', 'movddup xmm1, [rsi+rax]; divpd xmm1, xmm0; sqrtpd xmm1, xmm1'],
    ['with a store between', 'mulsd xmm1, xmm0; movsd [rdx+rax+0x800], xmm1; addsd xmm1, [rdx+rax]; subsd xmm1, xmm0'],
    ['singles', 'cvtsd2ss xmm1, xmm1; mulss xmm1, xmm1; cvtss2sd xmm1, xmm1'],
    ['a comparison', 'comisd xmm1, xmm0; ja 2f; inc r8; 2: addsd xmm1, xmm1'],
    ['in the second block', 'test al, 8; jz 2f; inc r8; 2: mulsd xmm1, xmm0; addsd xmm2, xmm1'],
  ])('numbers: %s', (_, text) => {
    const code = asm(
      `mov ecx, 900; 1: movsd xmm1, [rsi+rax]; ${text}; movsd [rdi+rax], xmm1; add rax, 8; dec ecx; jnz 1b`,
    );
    const registers = { rsi: BigInt(DATA + 0x100), rdi: BigInt(DATA + 0x4008), rdx: BigInt(DATA + 0x8040) };
    const odd = [0n, 1n << 63n, 1n, 0x7ffn << 52n, 0x7ff8n << 48n, 0x7ff4n << 48n, 0x10n << 48n, 0x7fen << 52n, 3n];
    const some =
      (distance: number) =>
      (view: DataView): void => {
        numbers(view);
        for (let i = 0, k = 0; i < BYTES; i += 8 * distance, k++) view.setBigUint64(i, odd[k % odd.length]!, true);
      };
    check(code, [
      { registers, fill: numbers },
      { registers, fill: numbers, slice: 300 },
      { registers, fill: numbers, mxcsr: 0x3fa0 },
      { registers, fill: numbers, mxcsr: 0x1f80 },
      { registers, fill: some(101) },
      { registers, fill: some(3), slice: 700 },
    ]);
  });

  /** A loop of random accesses, branches and steps. */
  function randomLoop(r: Random): Code {
    const number = (from: number, to: number): number => from + r.below(to - from + 1);
    const register = (): string => r.pick(['rbx', 'rbp', 'r8', 'r9', 'r10']);
    const vector = (): string => `xmm${r.below(4)}`;
    const place = (): string => {
      const index = r.oneIn(3) ? `+rax*${r.pick([1, 2, 4, 8])}` : '';
      return `[${r.pick(['rsi', 'rdi', 'rdx', 'r11'])}${index}+${number(-64, 64)}]`;
    };
    let labels = 0;
    const piece = (): string => {
      const [a, b, x, y, m] = [register(), register(), vector(), vector(), place()];
      switch (r.below(19)) {
        case 0:
          return `mov ${a}, ${m}`;
        case 1:
          return `add ${a}, ${m}`;
        case 2:
          return `mov ${m}, ${a}`;
        case 3:
          return `${r.pick(['add', 'xor', 'sub'])} ${m}, ${a}`;
        case 4:
          return `movzx ebx, byte ptr ${m}`;
        case 5:
          return `mov word ptr ${m}, ${r.pick(['bx', 'r8w'])}`;
        case 6:
          return `cmp ${a}, ${m}`;
        case 7:
          return `movdqu ${x}, ${m}`;
        case 8:
          return `movups ${m}, ${x}`;
        case 9:
          return `${r.pick(['paddd', 'pcmpeqb', 'pxor'])} ${x}, ${y}`;
        case 10:
          return `movsd ${x}, ${m}`;
        case 11:
          return `${r.pick(['mulsd', 'addsd', 'subsd', 'divsd'])} ${x}, ${r.oneIn(2) ? y : m}`;
        case 12:
          return `movsd ${m}, ${x}`;
        case 13:
          return `push ${a}; add ${b}, ${m}; pop ${register()}`;
        case 14:
          return `adc ${a}, ${b}; setc r8b`;
        case 15:
          return `lock xadd ${m}, ${a}`;
        case 16:
          return `cmpxchg ${m}, ${b}; mov eax, 0`;
        case 17: {
          const label = `%%skip${labels++}`;
          return `test bl, ${1 << r.below(4)}; ${r.pick(['jz', 'jnz'])} ${label}; ${piece()}; ${label}:`;
        }
        default:
          return `cmp ${a}, ${number(0, 20)}; je %%out`;
      }
    };
    const step = (n: string): string =>
      r.pick([`add ${n}, ${number(-32, 32)}`, `sub ${n}, ${number(-16, 16)}`, `lea ${n}, [${n}+${number(-24, 24)}]`]);
    const steps = ['rsi', 'rdi', 'rdx', 'r11'].filter(() => !r.oneIn(3)).map(step);
    if (!r.oneIn(3)) steps.push(r.pick(['inc rax', 'dec rax', 'add rax, 3']));
    const pieces = [...Array.from({ length: number(2, 9) }, piece), ...steps];
    // CMPXCHG writes RAX, which is no index then.
    const text = pieces.sort(() => r.below(3) - 1).join(';');
    return asm(`mov ecx, 150; 1: ${text}; dec ecx; jnz 1b; %%out: nop`);
  }

  const random = new Random(20261130);
  const loops = assembles ? Array.from({ length: 60 }, () => randomLoop(random)) : [];
  test.each(loops.map((code, n) => [n, code] as const))('loop %i of random pieces', (n, code) => {
    const r = new Random(n);
    const setting = (): Setting => {
      const middle = (): bigint => BigInt(DATA + 0x8000 + r.below(0x1000) - 0x800);
      const registers = { rsi: middle(), rdi: middle(), rdx: middle(), r11: middle(), rbx: BigInt(r.below(100)) };
      const seed = r.u32();
      const fill = (view: DataView): void => {
        const content = new Random(seed);
        for (let i = 0; i < BYTES; i += 8) view.setFloat64(i, (content.below(4000) - 1000) / 16 || 3, true);
        for (let k = 0; k < 40; k++) view.setUint8(content.below(BYTES), content.below(256));
      };
      return { registers, fill, slice: r.pick([1_000_000, 333, 47]) };
    };
    check(code, [setting(), setting(), setting()], 'perhaps');
  });
});
