import { describe, expect, test } from 'vitest';
import {
  AgentFrame,
  concat,
  encodeFrame,
  type Frame,
  FrameParser,
  helloPayload,
  MAX_PAYLOAD,
  parseHello,
  PayloadReader,
  PayloadWriter,
} from '../../src/agent/codec.ts';

const HELLO = encodeFrame(AgentFrame.Hello, 0, helloPayload(7));

function collect(): { parser: FrameParser; frames: Frame[]; broken: string[] } {
  const frames: Frame[] = [];
  const broken: string[] = [];
  const parser = new FrameParser(
    (frame) => frames.push(frame),
    (reason) => broken.push(reason),
  );
  return { parser, frames, broken };
}

function joined(...parts: Uint8Array[]): Uint8Array {
  return concat(
    parts,
    parts.reduce((sum, part) => sum + part.length, 0),
  );
}

describe('payload fields', () => {
  test('come back as they were written', () => {
    const payload = new PayloadWriter()
      .number(0xfffefdfc, 4)
      .number(513, 2)
      .long(-5n)
      .string('päth')
      .bytes(Uint8Array.of(9))
      .finish();
    const reader = new PayloadReader(payload);
    expect([reader.number(4), reader.number(2), reader.long(), reader.string()]).toEqual([
      0xfffefdfc,
      513,
      -5n,
      'päth',
    ]);
    expect([...reader.rest()]).toEqual([9]);
  });

  test('that are missing read as zero or empty', () => {
    const reader = new PayloadReader(Uint8Array.of(1));
    expect([reader.number(4), reader.number(4), reader.string(), reader.done]).toEqual([1, 0, '', true]);
  });

  test('a string with a NUL is refused, since the guest would cut it there', () => {
    expect(() => new PayloadWriter().string('/etc/\0x')).toThrow(TypeError);
  });

  test('a hello gives its version and nonce, and anything else nothing', () => {
    expect(parseHello(helloPayload(0xdeadbeef))).toEqual({ version: 1, nonce: 0xdeadbeef });
    expect(parseHello(new Uint8Array(16))).toBeUndefined();
  });
});

describe('frame parser', () => {
  test('gives the same frames for one piece and for single bytes', () => {
    const stream = joined(
      HELLO,
      encodeFrame(AgentFrame.Data, 5, Uint8Array.of(1, 65, 66)),
      encodeFrame(AgentFrame.Exit, 5),
    );
    const whole = collect();
    whole.parser.push(stream);
    const single = collect();
    for (const byte of stream) single.parser.push(Uint8Array.of(byte));
    expect(single.frames).toEqual(whole.frames);
    expect(whole.frames.map(({ type, id, payload }) => [type, id, payload.length])).toEqual([
      [AgentFrame.Hello, 0, 16],
      [AgentFrame.Data, 5, 3],
      [AgentFrame.Exit, 5, 0],
    ]);
  });

  test('passes over the rest of an older frame until a hello', () => {
    const { parser, frames } = collect();
    parser.push(joined(new Uint8Array(5000).fill(AgentFrame.Data), HELLO.subarray(0, 9)));
    parser.push(HELLO.subarray(9));
    expect(frames.map((frame) => frame.type)).toEqual([AgentFrame.Hello]);
  });

  test('does not wait for a frame longer than the protocol allows, and finds the next hello', () => {
    const { parser, frames, broken } = collect();
    const head = new Uint8Array(8);
    new DataView(head.buffer).setUint32(0, AgentFrame.Data | ((MAX_PAYLOAD + 1) << 8), true);
    parser.push(joined(HELLO, head, new Uint8Array(100), HELLO));
    expect(frames.map((frame) => frame.type)).toEqual([AgentFrame.Hello, AgentFrame.Hello]);
    expect(broken).toHaveLength(1);
  });

  test('takes a type it does not know for a broken stream', () => {
    const { parser, broken } = collect();
    parser.push(joined(HELLO, encodeFrame(99, 1)));
    expect(broken).toEqual(['a frame of type 99 with 0 bytes']);
  });

  test('payloads stay as they are when more comes', () => {
    const { parser, frames } = collect();
    parser.push(joined(HELLO, encodeFrame(AgentFrame.Data, 1, Uint8Array.of(1, 2, 3))));
    parser.push(encodeFrame(AgentFrame.Data, 2, new Uint8Array(9000).fill(255)));
    expect([...frames[1]!.payload]).toEqual([1, 2, 3]);
  });
});
