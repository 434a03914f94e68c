/** Every SSE form against the processor that the test runs on. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { S } from '../../../emulator/cpu/layout.ts';
import type { Tier } from '../../../emulator/processor.ts';
import { DOT_PRODUCT, sameButNaNs } from '../../conformance/compare.ts';
import { INTEL_HOST } from '../../conformance/native.ts';
import { CODE, CodeMachine, DATA } from './machine-code.ts';
import { At, Random, forms, writeCase, type Form } from './sse-cases.ts';

/** MXCSR: usual, with PE set (the fast path), other rounding modes, DAZ and FTZ. */
const MASKED = [0x1f80, 0x1fa0, 0x1f80, 0x1fa0, 0x3f80, 0x5fa0, 0x7fa0, 0x9fc0, 0x1fc0, 0x9fa0, 0xffe0];
/** With unmasked exceptions: all, and each alone. */
const UNMASKED = [0x0000, 0x1f00, 0x1e80, 0x1d80, 0x1b80, 0x1780, 0x0f80, 0x0020, 0x8000];

const supported = (): boolean => {
  try {
    return process.arch === 'x64' && /\bsse4_2\b/.test(readFileSync('/proc/cpuinfo', 'latin1'));
  } catch {
    return false;
  }
};

const FAULT_SIGNALS: Record<number, number> = { 6: 4, 13: 11, 19: 8 };

describe.skipIf(!supported())('SSE like the host processor', () => {
  let folder = '';
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'sse-native-'));
    execFileSync('cc', ['-O1', '-o', join(folder, 'native'), join(import.meta.dirname, 'sse-native.c')]);
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  function runCases(tier: Tier, mxcsr: readonly number[], count: number, filter: (f: Form) => boolean): string[] {
    const machine = new CodeMachine(tier);
    const random = new Random(2024 + count);
    const chosen = forms(random).filter(filter);
    const list = chosen.flatMap((form) =>
      Array<Form>(form.def.specs.includes('Ib') ? Math.ceil(count / 8) : count).fill(form),
    );
    const input = new Uint8Array(list.length * At.SIZE);
    const view = new DataView(input.buffer);
    list.forEach((form, i) => writeCase(view, i * At.SIZE, form, mxcsr, random));
    writeFileSync(join(folder, 'in'), input);
    execFileSync(join(folder, 'native'), [join(folder, 'in'), join(folder, 'out')]);
    const native = readFileSync(join(folder, 'out'));
    const { cpu } = machine;
    const state = cpu.state;
    const wrong: string[] = [];
    let loaded: Form | undefined;
    list.forEach((form, i) => {
      const at = i * At.SIZE;
      if (loaded !== form) {
        machine.prepare(form.code);
        loaded = form;
      }
      cpu.faultObject.vector = -1;
      cpu.halted = false;
      cpu.rip = BigInt(CODE);
      const offset = BigInt(view.getUint8(at + At.OFFSET));
      cpu.u8.set(input.subarray(at + At.XMM, at + At.XMM + 48), state + S.XMM);
      [At.RAX, At.RCX, At.RDX].forEach((from, n) => cpu.setBig(n, view.getBigUint64(at + from, true)));
      cpu.setBig(6, BigInt(DATA) + offset);
      cpu.setBig(7, BigInt(DATA) + offset);
      cpu.u64[(state + S.X87) >> 3] = 0n;
      cpu.u64[(state + S.X87 + 16) >> 3] = view.getBigUint64(at + At.MMX, true);
      cpu.rflags = Number(view.getBigUint64(at + At.FLAGS, true)) | 2;
      cpu.u32[(state + S.MXCSR) >> 2] = view.getUint32(at + At.MXCSR, true);
      machine.bytes.set(input.subarray(at + At.MEMORY, at + At.SIZE), DATA);
      if (tier === 'interp') cpu.step();
      else cpu.run(100);

      const got = Buffer.from(input.slice(at, at + At.SIZE));
      const want = Buffer.from(native.subarray(at, at + At.SIZE));
      const { vector } = cpu.faultObject;
      got.set(cpu.u8.subarray(state + S.XMM, state + S.XMM + 48), At.XMM);
      [At.RAX, At.RCX, At.RDX].forEach((to, n) => got.writeBigUInt64LE(cpu.big(n), to));
      got.writeBigUInt64LE(cpu.u64[(state + S.X87) >> 3]!, At.MMX);
      got.writeBigUInt64LE(BigInt(cpu.rflags & 0x8d5), At.FLAGS);
      want.writeBigUInt64LE(want.readBigUInt64LE(At.FLAGS) & 0x8d5n, At.FLAGS);
      got.writeUInt32LE(cpu.u32[(state + S.MXCSR) >> 2]!, At.MXCSR);
      got.writeUInt32LE(vector < 0 ? 0 : (FAULT_SIGNALS[vector] ?? 255), At.FAULT);
      got.set(machine.bytes.subarray(DATA, DATA + 32), At.MEMORY);
      // After a signal the general registers and flags are not known.
      if (want.readUInt32LE(At.FAULT)) for (const b of [got, want]) b.fill(0, At.RAX, At.MXCSR);
      if (INTEL_HOST && DOT_PRODUCT.test(form.def.name)) {
        const [a, b] = [got, want].map((bytes) => new DataView(bytes.buffer, bytes.byteOffset + At.XMM, 48));
        for (let n = 0; n < 48; n += 16)
          if (sameButNaNs(a!, n, b!, n, form.def.name === 'dppd'))
            want.copy(got, At.XMM + n, At.XMM + n, At.XMM + n + 16);
      }
      if (!got.equals(want) && wrong.length < 5)
        wrong.push(
          `${form.def.pattern}\n in   ${Buffer.from(input.subarray(at, at + At.SIZE)).toString('hex')}` +
            `\n got  ${got.toString('hex')}\n want ${want.toString('hex')}`,
        );
    });
    return wrong;
  }

  test('interpreted', () => {
    expect(runCases('interp', MASKED, 60, () => true)).toEqual([]);
  });

  test('with unmasked exceptions', () => {
    expect(runCases('interp', UNMASKED, 60, (f) => f.kind === 'double' || f.kind === 'single')).toEqual([]);
  });

  test('compiled', () => {
    const some = (f: Form): boolean => !f.memory && (f.kind !== 'string' || f.code.at(-1)! < 4);
    expect(runCases('jit', MASKED, 8, some)).toEqual([]);
  }, 60_000);
});
