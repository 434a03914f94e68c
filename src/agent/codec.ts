/**
 * The protocol between host and guest agent (disks/agent/), over one virtio-serial port.
 *
 * Frames in both directions: type (1 byte), payload length (3), id (4), payload. All numbers are little-endian. The id
 * is chosen by the host and names a program or a file operation. The first frame is a HELLO from either side:
 *
 * - The host's HELLO carries a nonce. The agent hangs up whatever an earlier host had started and repeats the nonce.
 * - The agent's HELLO with nonce 0 says that it has just opened the port; the host answers with its own.
 *
 * Until it has seen a HELLO the host throws away what it receives: after a restore, the port may begin inside of a frame.
 * A stream carries at most WINDOW bytes that its receiver has not given back as credit, so neither side buffers more.
 */
export const PROTOCOL_VERSION = 1;
export const HEADER_SIZE = 8;
export const MAX_PAYLOAD = 256 * 1024;
export const WINDOW = 256 * 1024;

export const HostFrame = {
  Hello: 1,
  Spawn: 2,
  Stdin: 3,
  Credit: 4,
  Signal: 5,
  Resize: 6,
  CloseStream: 7,
  FileOperation: 8,
} as const;

export const AgentFrame = {
  Hello: 1,
  Started: 17,
  Failed: 18,
  Data: 19,
  End: 20,
  Exit: 21,
  StdinCredit: 22,
  Result: 23,
  ResultPart: 24,
} as const;

export const StreamNumber = { Stdin: 0, Stdout: 1, Stderr: 2 } as const;

const MAGIC = new TextEncoder().encode('lvmagent');
const HELLO_SIZE = 16;

export interface Frame {
  type: number;
  id: number;
  payload: Uint8Array;
}

/** `parts`, which are `length` bytes together, one after the other. */
export function concat(parts: readonly Uint8Array[], length: number): Uint8Array {
  const out = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** Builds a payload field by field. */
export class PayloadWriter {
  private readonly parts: Uint8Array[] = [];
  private length = 0;

  /** `size` 1, 2 or 4: an unsigned number. */
  number(value: number, size: 1 | 2 | 4): this {
    return this.bytes(Uint8Array.from({ length: size }, (_, i) => value >>> (8 * i)));
  }

  /** A signed 64-bit number. */
  long(value: bigint): this {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigInt64(0, value, true);
    return this.bytes(bytes);
  }

  /** NUL-terminated UTF-8. @throws TypeError when the string holds a NUL, which no C string can */
  string(value: string): this {
    if (value.includes('\0')) throw new TypeError(`${JSON.stringify(value)} holds a NUL character`);
    return this.bytes(new TextEncoder().encode(`${value}\0`));
  }

  bytes(value: Uint8Array): this {
    this.parts.push(value);
    this.length += value.length;
    return this;
  }

  finish(): Uint8Array {
    return concat(this.parts, this.length);
  }
}

/** Reads a payload field by field; what is missing at its end reads as zero, since the guest is not to be trusted. */
export class PayloadReader {
  private at = 0;

  constructor(private readonly payload: Uint8Array) {}

  number(size: 1 | 2 | 4): number {
    let value = 0;
    for (let i = 0; i < size; i++) value |= (this.payload[this.at++] ?? 0) << (8 * i);
    return value >>> 0;
  }

  long(): bigint {
    const low = this.number(4);
    return BigInt.asIntN(64, (BigInt(this.number(4)) << 32n) | BigInt(low));
  }

  /** Up to the next NUL or the end. */
  string(): string {
    const zero = this.payload.indexOf(0, this.at);
    const end = zero < 0 ? this.payload.length : zero;
    const value = new TextDecoder().decode(this.payload.subarray(Math.min(this.at, end), end));
    this.at = end + 1;
    return value;
  }

  rest(): Uint8Array {
    return this.payload.subarray(this.at);
  }

  get done(): boolean {
    return this.at >= this.payload.length;
  }
}

export function encodeFrame(type: number, id: number, payload: Uint8Array = new Uint8Array(0)): Uint8Array {
  const frame = new Uint8Array(HEADER_SIZE + payload.length);
  const view = new DataView(frame.buffer);
  view.setUint32(0, type | (payload.length << 8), true);
  view.setUint32(4, id, true);
  frame.set(payload, HEADER_SIZE);
  return frame;
}

export function helloPayload(nonce: number): Uint8Array {
  return new PayloadWriter().bytes(MAGIC).number(PROTOCOL_VERSION, 4).number(nonce, 4).finish();
}

/** @returns version and nonce, or undefined when this is no HELLO payload */
export function parseHello(payload: Uint8Array): { version: number; nonce: number } | undefined {
  if (payload.length < HELLO_SIZE || MAGIC.some((byte, i) => payload[i] !== byte)) return undefined;
  const reader = new PayloadReader(payload.subarray(MAGIC.length));
  return { version: reader.number(4), nonce: reader.number(4) };
}

/** Cuts the bytes of a port into frames, in whatever pieces they come. */
export class FrameParser {
  private buffer = new Uint8Array(4096);
  private length = 0;
  private synchronized = false;

  /**
   * `onBroken` is called when the stream makes no sense; the parser then waits for the next HELLO. A payload given to
   * `onFrame` is its receiver's to keep.
   */
  constructor(
    private readonly onFrame: (frame: Frame) => void,
    private readonly onBroken: (reason: string) => void,
  ) {}

  push(bytes: Uint8Array): void {
    this.append(bytes);
    let at = 0;
    for (;;) {
      if (!this.synchronized) {
        const hello = this.findHello(at);
        if (hello < 0) {
          // A hello may have begun in the last bytes.
          at = Math.max(at, this.length - (HEADER_SIZE + MAGIC.length - 1));
          break;
        }
        at = hello;
        this.synchronized = true;
      }
      if (this.length - at < HEADER_SIZE) break;
      const view = new DataView(this.buffer.buffer, at);
      const head = view.getUint32(0, true);
      const type = head & 0xff;
      const size = head >>> 8;
      if (
        size > MAX_PAYLOAD ||
        (type !== AgentFrame.Hello && (type < AgentFrame.Started || type > AgentFrame.ResultPart))
      ) {
        this.synchronized = false;
        at++;
        this.onBroken(`a frame of type ${type} with ${size} bytes`);
        continue;
      }
      if (this.length - at < HEADER_SIZE + size) break;
      const payload = this.buffer.slice(at + HEADER_SIZE, at + HEADER_SIZE + size);
      at += HEADER_SIZE + size;
      this.onFrame({ type, id: view.getUint32(4, true), payload });
    }
    this.buffer.copyWithin(0, at, this.length);
    this.length -= at;
  }

  private append(bytes: Uint8Array): void {
    const needed = this.length + bytes.length;
    if (needed > this.buffer.length) {
      const grown = new Uint8Array(Math.max(needed, this.buffer.length * 2));
      grown.set(this.buffer.subarray(0, this.length));
      this.buffer = grown;
    }
    this.buffer.set(bytes, this.length);
    this.length = needed;
  }

  private findHello(from: number): number {
    for (let at = from; at + HEADER_SIZE + MAGIC.length <= this.length; at++) {
      if (this.buffer[at] !== AgentFrame.Hello || this.buffer[at + 1] !== HELLO_SIZE) continue;
      if (MAGIC.every((byte, i) => this.buffer[at + HEADER_SIZE + i] === byte)) return at;
    }
    return -1;
  }
}
