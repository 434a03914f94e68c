import { describe, expect, test } from 'vitest';
import { type MachineState, STATE_VERSION } from '../../emulator/machine-state.ts';
import { decode, encode, readState, StateError, writeState } from '../../emulator/state-stream.ts';

/** A state as far as the stream looks into it. */
function state(count = 300): MachineState {
  const pages = Uint32Array.from({ length: count }, (_, i) => i * 2);
  const blocks = [];
  for (let left = count; left > 0; left -= 256) blocks.push(new Uint8Array(Math.min(left, 256) * 4096).fill(left));
  const processor = { msr: 2n ** 63n };
  return {
    version: STATE_VERSION,
    now: 1.5,
    processor,
    memory: { size: 4 << 20, pages, blocks },
  } as unknown as MachineState;
}

async function bytesOf(stream: ReadableStream<Uint8Array>): Promise<Uint8Array> {
  return new Uint8Array(await new Response(stream as ReadableStream<Uint8Array<ArrayBuffer>>).arrayBuffer());
}

/** The bytes as a stream of pieces of `size`. */
function streamOf(bytes: Uint8Array, size = 10_007): ReadableStream<Uint8Array> {
  let at = 0;
  return new ReadableStream({
    pull(controller) {
      if (at >= bytes.length) controller.close();
      else controller.enqueue(bytes.slice(at, (at += size)));
    },
  });
}

describe('the stream of a state', () => {
  test('gives the same state back, whatever the pieces', async () => {
    const bytes = await bytesOf(writeState(state()));
    const { memory, ...rest } = state();
    for (const size of [1 << 20, 4097]) {
      const { memory: got, ...others } = await readState(streamOf(bytes, size));
      expect([others, got.size, got.pages]).toEqual([rest, memory.size, memory.pages]);
      expect(got.blocks.map((b, i) => Buffer.compare(b, memory.blocks[i]!))).toEqual([0, 0]);
    }
  });

  test('truncated anywhere, it says so', async () => {
    const bytes = await bytesOf(writeState(state()));
    for (const length of [0, 5, 18, 30, 200, 5000, bytes.length - 100_000, bytes.length - 1])
      await expect(readState(streamOf(bytes.subarray(0, length)))).rejects.toThrow(/truncated/);
  });

  test('refuses another version, other files, and flipped bits', async () => {
    const bytes = await bytesOf(writeState(state()));
    const changed = (at: number, value: number): ReadableStream<Uint8Array> => {
      const copy = bytes.slice();
      copy[at] = value;
      return streamOf(copy);
    };
    await expect(readState(changed(16, 99))).rejects.toThrow(/format 99, this program reads format \d/);
    await expect(readState(changed(0, 0))).rejects.toThrow(/not a saved machine/);
    await expect(readState(changed(23, 0xff))).rejects.toThrow(/impossibly long/);
    await expect(readState(changed(bytes.length - 3000, 9))).rejects.toThrow(/checksum/);
    await expect(readState(changed(bytes.length - 8, 1))).rejects.toThrow(StateError);
  });

  test('damage in the values is an error of its own kind, never a hang', async () => {
    const bytes = await bytesOf(writeState(state(1)));
    const end = 24 + new DataView(bytes.buffer).getUint32(20, true);
    for (let at = 24; at < end; at++) {
      const copy = bytes.slice();
      copy[at]! ^= 0xff;
      await readState(streamOf(copy, 1 << 20)).then(
        () => undefined,
        (error: unknown) => expect(error).toBeInstanceOf(StateError),
      );
    }
  });

  test('carries every kind of plain value', () => {
    const value = {
      list: [undefined, null, true, false, 0, -0, 1.5, -7, 2 ** 40, NaN, Infinity, -(2n ** 70n), 'päge'],
      map: new Map<unknown, unknown>([[1, { a: new Set(['x']) }]]),
      arrays: [Uint8Array.of(1), Float64Array.of(0.1), BigUint64Array.of(2n ** 64n - 1n), Int16Array.of(-1)],
      buffer: Uint8Array.of(1, 2).buffer,
    };
    expect(decode(encode(value))).toEqual(value);
    expect(() => encode({ f: () => 1 })).toThrow(StateError);
  });
});
