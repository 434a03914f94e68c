/**
 * `npm run conformance:sequences -- --programs N --seed S [--runners interp,jit,compiled,slices] [--mix integer|all] [--bits 64|32]`:
 * random programs against the processor that this runs on.
 */
import { Decoder, DecoderOptions, Formatter, FormatterSyntax } from 'iced-x86';
import { parseArgs } from 'node:util';
import { GPR_NAMES } from '../../emulator/cpu/layout.ts';
import { IN } from './native.ts';
import { sequences } from './sequences.ts';

const { values } = parseArgs({
  options: {
    programs: { type: 'string', default: '1000' },
    seed: { type: 'string', default: '1' },
    runners: { type: 'string', default: 'interp,jit,compiled,slices' },
    mix: { type: 'string', default: 'all' },
    bits: { type: 'string', default: '64' },
    size: { type: 'string', default: '900' },
    stop: { type: 'string', default: '20' },
    'no-reduce': { type: 'boolean', default: false },
  },
});
const started = performance.now();
const result = sequences({
  programs: Number(values.programs),
  seed: Number(values.seed),
  runners: values.runners.split(','),
  mix: values.mix === 'integer' ? 'integer' : 'all',
  bits: values.bits === '32' ? 32 : 64,
  reduce: !values['no-reduce'],
  size: Number(values.size),
  stopAfter: Number(values.stop),
});
for (const f of result.failures) {
  const { program } = f;
  console.log(`---- ${f.runner}, input ${f.inputIndex}: expected ${f.lines.join('\n     expected ')}`);
  const view = new DataView(f.input.buffer, f.input.byteOffset);
  console.log(
    `  ${GPR_NAMES.map((n, i) => `${n}=${view.getBigUint64(IN.GPR + i * 8, true).toString(16)}`).join(' ')} rflags=${view.getUint32(IN.RFLAGS, true).toString(16)}`,
  );
  const decoder = new Decoder(program.bits, program.bytes, DecoderOptions.None);
  decoder.ip = BigInt(program.entry);
  const formatter = new Formatter(FormatterSyntax.Gas);
  let nops = 0;
  while (decoder.canDecode) {
    const insn = decoder.decode();
    const offset = Number(insn.ip) - program.entry;
    const text = formatter.format(insn);
    if (text === 'nop' && insn.length === 1) nops++;
    else
      console.log(
        `  +${offset.toString(16).padStart(3, '0')}  ${[...program.bytes.subarray(offset, offset + insn.length)]
          .map((b) => b.toString(16).padStart(2, '0'))
          .join(' ')
          .padEnd(32)} ${text}`,
      );
  }
  console.log(`  (${nops} NOPs left out; entry ${program.entry.toString(16)})`);
}
console.log(
  `${result.programs} programs of ${(result.instructions / result.programs).toFixed(0)} instructions, ${result.cases} runs (${result.finished} to the end) in each of ${values.runners}, ` +
    `seed ${values.seed}; ${result.regions} regions compiled; ${result.failures.length} mismatches; ${((performance.now() - started) / 1000).toFixed(1)} s`,
);
process.exitCode = result.failures.length ? 1 : 0;
