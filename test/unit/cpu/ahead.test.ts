import { expect, test } from 'vitest';
import { decodeHotCode, encodeHotCode, type HotPage, NOWHERE, pageChecksum } from '../../../emulator/cpu/hot-code.ts';
import { Mode, RAM_BASE, STATE_BASE } from '../../../emulator/cpu/layout.ts';
import { Ripener, unripe } from '../../../emulator/cpu/ripening.ts';
import type { CompiledCode } from '../../../emulator/processor.ts';
import { CODE, CodeMachine } from './machine-code.ts';

const TURNS = 500;
/** mov ecx, TURNS; xor eax, eax; 1: call f; dec ecx; jne 1b; jmp end; in the next page f: add eax, ecx; ret; end: */
const LOOP = [0xb9, TURNS & 0xff, TURNS >> 8, 0, 0, 0x31, 0xc0, 0xe8, 0xf4, 0x0f, 0, 0, 0xff, 0xc9, 0x75, 0xf7];
const code = [...LOOP, 0xe9, 0xee, 0x0f, 0, 0, ...Array<number>(4096 - LOOP.length - 5).fill(0x90), 0x01, 0xc8, 0xc3];

/** A machine with the code, in which nothing becomes hot by running. */
function setUp(change: (pages: HotPage[]) => HotPage[] = (pages) => pages) {
  const machine = new CodeMachine('auto', 1_000_000);
  machine.step(code);
  const { cpu } = machine;
  const page = (at: number, offsets: number[]): HotPage => ({
    physical: at,
    mode: Mode.Kernel64,
    linear: at / 4096,
    checksum: pageChecksum(cpu.i32, (RAM_BASE + at) >> 2),
    blocks: offsets.map((offset) => ({ offset, runs: 100_000, jumpedTo: false })),
  });
  const pages = change([page(CODE, [7, 12]), page(CODE + 4096, [0])]);
  const compiled: CompiledCode[] = [];
  const step = cpu.compileAhead(encodeHotCode(pages), (code) => compiled.push(code));
  while (step());
  const { registers } = machine.run(code);
  return { compiled, interpreted: cpu.stats.interpreted, rax: registers.rax };
}
const SUM = BigInt((TURNS * (TURNS + 1)) / 2);

test('what is known to be hot is compiled before it has run, pages that lie beside each other together', () => {
  const { compiled, interpreted, rax } = setUp();
  expect(rax).toBe(SUM);
  expect(compiled.flatMap(({ slots }) => slots)).toHaveLength(1);
  expect(interpreted).toBeLessThan(20);
  // What it gives can be run in a processor in which nothing happens.
  expect(new Ripener(unripe(STATE_BASE)).regions(compiled[0]!, 80).trapped).toBe(0);
});

test('a page that is another one than was seen is left alone', () => {
  const { compiled, interpreted, rax } = setUp((pages) =>
    pages.map((page) => ({ ...page, checksum: page.checksum ^ 1 })),
  );
  expect([rax, compiled.length]).toEqual([SUM, 0]);
  expect(interpreted).toBeGreaterThan(4 * TURNS);
});

test.each<[string, (pages: HotPage[]) => HotPage[]]>([
  ['a page that is only known alone', ([a, b]) => [{ ...a!, linear: NOWHERE }, b!]],
  ['a page that lies elsewhere than was seen', ([a, b]) => [a!, { ...b!, linear: a!.linear - 1 }]],
  ['a page beyond the memory', ([a, b]) => [a!, b!, { ...a!, physical: 2 ** 32 - 4096 }]],
  ['a mode that is none', ([a, b]) => [a!, b!, { ...a!, mode: 15 as Mode }]],
  [
    'places that no block begins at',
    ([a, b]) => [{ ...a!, blocks: [{ ...a!.blocks[0]!, offset: 9 }, ...a!.blocks] }, b!],
  ],
])('%s does no harm', (_, change) => {
  expect(setUp(change).rax).toBe(SUM);
});

test('a damaged list is an error', () => {
  const bytes = encodeHotCode([{ physical: 0, mode: 0, linear: 0, checksum: 0, blocks: [] }]);
  expect(decodeHotCode(bytes)).toHaveLength(1);
  for (const damaged of [bytes.slice(0, 12), bytes.slice(1), new Uint8Array(64), bytes.map((x) => x ^ 0xff)])
    expect(() => decodeHotCode(damaged)).toThrow(/damaged/);
});
