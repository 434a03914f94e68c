/**
 * Assembles pieces of code with GNU as, all of a test file in one go when the first is asked for. Intel's syntax; `%%x` is
 * a label of the piece's own (`%%start` is its first byte); pieces may not refer to absolute addresses of labels but as
 * `ORIGIN + %%x - %%start`.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { arch, tmpdir } from 'node:os';
import { join } from 'node:path';

const call = (program: string, ...args: string[]): string => {
  const { status, stdout, stderr, error } = spawnSync(program, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${program} ${args.join(' ')}: ${error?.message ?? stderr}`);
  return stdout;
};

/** Whether there is an assembler for x86 here. */
export const assembles = arch() === 'x64' && spawnSync('as', ['--version']).status === 0;

export class Code {
  private static waiting: Code[] = [];
  private assembled: number[] | undefined;

  constructor(
    private readonly bits: 64 | 32 | 16,
    private readonly text: string,
  ) {
    Code.waiting.push(this);
  }

  get bytes(): number[] {
    if (!this.assembled) Code.assembleAll();
    return this.assembled!;
  }

  private static assembleAll(): void {
    const list = Code.waiting;
    Code.waiting = [];
    const directory = mkdtempSync(join(tmpdir(), 'asm-'));
    const at = (name: string): string => join(directory, name);
    try {
      const pieces = list.map(
        ({ bits, text }, n) =>
          `.section .c${n},"ax"\n.code${bits}\nL${n}_start:\n${text.replaceAll('%%', `L${n}_`).replaceAll(';', '\n')}\n`,
      );
      writeFileSync(at('s'), `.intel_syntax noprefix\n${pieces.join('')}`);
      call('as', '-o', at('o'), at('s'));
      if (/Offset/.test(call('readelf', '-rW', at('o'))))
        throw new Error(`relocations: ${call('readelf', '-rW', at('o'))}`);
      call('objcopy', ...list.flatMap((_, n) => ['--dump-section', `.c${n}=${at(String(n))}`]), at('o'), at('o2'));
      list.forEach((code, n) => (code.assembled = [...readFileSync(at(String(n)))]));
    } finally {
      rmSync(directory, { recursive: true });
    }
  }
}

export const asm = (text: string): Code => new Code(64, text);
export const asm32 = (text: string): Code => new Code(32, text);
export const asm16 = (text: string): Code => new Code(16, text);
