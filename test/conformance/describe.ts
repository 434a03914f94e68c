/** A program that failed, in words: what differs, what it started with, and its listing. */
import { Decoder, DecoderOptions, Formatter, FormatterSyntax } from 'iced-x86';
import { GPR_NAMES } from '../../emulator/cpu/layout.ts';
import { IN } from './native.ts';
import type { SequenceFailure } from './sequences.ts';

export function describeFailure({ program, input, runner, lines, inputIndex }: SequenceFailure): string {
  const text = [`---- ${program.bits}-bit, ${runner}, input ${inputIndex}: expected ${lines.join('\n     expected ')}`];
  const { bytes } = program;
  const view = new DataView(input.buffer, input.byteOffset);
  text.push(
    `  ${GPR_NAMES.map((n, i) => `${n}=${view.getBigUint64(IN.GPR + i * 8, true).toString(16)}`).join(' ')} rflags=${view.getUint32(IN.RFLAGS, true).toString(16)}`,
  );
  const decoder = new Decoder(program.bits, bytes, DecoderOptions.None);
  decoder.ip = BigInt(program.entry);
  const formatter = new Formatter(FormatterSyntax.Gas);
  let nops = 0;
  while (decoder.canDecode) {
    const insn = decoder.decode();
    const offset = Number(insn.ip) - program.entry;
    const instruction = formatter.format(insn);
    if (instruction === 'nop' && insn.length === 1) nops++;
    else
      text.push(
        `  +${offset.toString(16).padStart(3, '0')}  ${[...bytes.subarray(offset, offset + insn.length)]
          .map((b) => b.toString(16).padStart(2, '0'))
          .join(' ')
          .padEnd(32)} ${instruction}`,
      );
    insn.free();
  }
  formatter.free();
  decoder.free();
  text.push(`  (${nops} NOPs left out; entry ${program.entry.toString(16)})`);
  return text.join('\n');
}
