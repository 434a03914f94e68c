import { BLOCK_PAGES, PAGE_SIZE, STATE_VERSION } from './machine-state.ts';
import type { MachineState } from './machine-state.ts';

/*
 * A machine's state as one stream of bytes, little-endian:
 *
 *   "linux-vm state\n\0"   16 bytes
 *   version                4
 *   length, value          4 and that many: the state without its RAM pages, see `encode`
 *   blocks                 each 4 (pages in it, 1 to 256) and the pages; their numbers are in the value
 *   0, check               4 and 4: the end, and the sum of all 32-bit words of the blocks
 */
const MAGIC = new TextEncoder().encode('linux-vm state\n\0');
const MOST_VALUE = 1 << 28;

/** A saved state that cannot be read, and why. */
export class StateError extends Error {
  override readonly name = 'StateError';
}

function sum(bytes: Uint8Array): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let total = 0;
  for (let at = 0; at < bytes.length; at += 4) total = (Math.imul(total, 31) + view.getInt32(at, true)) | 0;
  return total;
}

function words(...values: number[]): Uint8Array {
  const bytes = new Uint8Array(values.length * 4);
  const view = new DataView(bytes.buffer);
  values.forEach((value, i) => view.setUint32(i * 4, value >>> 0, true));
  return bytes;
}

/** The state as a stream. The state must not be changed until the stream has been read. */
export function writeState(state: MachineState): ReadableStream<Uint8Array> {
  const pieces = (function* () {
    const { blocks } = state.memory;
    const value = encode({ ...state, memory: { ...state.memory, blocks: [] } });
    yield MAGIC.slice();
    yield words(state.version, value.length);
    yield value;
    let check = 0;
    for (const block of blocks) {
      yield words(block.length / PAGE_SIZE);
      check = (check + sum(block)) | 0;
      yield block;
    }
    yield words(0, check);
  })();
  return new ReadableStream<Uint8Array>({
    pull(controller) {
      const { done, value } = pieces.next();
      if (done) controller.close();
      else controller.enqueue(value);
    },
  });
}

/** Reads exact numbers of bytes from a stream of pieces of any size. */
class ByteReader {
  private piece = new Uint8Array(0);

  constructor(private readonly reader: ReadableStreamDefaultReader<Uint8Array>) {}

  async read(length: number): Promise<Uint8Array> {
    const result = new Uint8Array(length);
    let at = 0;
    while (at < length) {
      if (this.piece.length === 0) {
        const { done, value } = await this.reader.read();
        if (done) throw new StateError('the saved machine is truncated: the stream ends before its end mark');
        this.piece = value as Uint8Array<ArrayBuffer>;
        continue;
      }
      const n = Math.min(length - at, this.piece.length);
      result.set(this.piece.subarray(0, n), at);
      this.piece = this.piece.subarray(n);
      at += n;
    }
    return result;
  }

  async word(): Promise<number> {
    const bytes = await this.read(4);
    return new DataView(bytes.buffer).getUint32(0, true);
  }
}

/** Reads a state to its end mark. @throws StateError when it is truncated, damaged, or of another version */
export async function readState(stream: ReadableStream<Uint8Array>): Promise<MachineState> {
  const source = stream.getReader();
  try {
    const reader = new ByteReader(source);
    const magic = await reader.read(MAGIC.length);
    if (!magic.every((byte, i) => byte === MAGIC[i])) throw new StateError('this is not a saved machine of linux-vm');
    const version = await reader.word();
    if (version !== STATE_VERSION)
      throw new StateError(
        `the saved machine has format ${version}, this program reads format ${STATE_VERSION}: restore it with the version that saved it`,
      );
    const length = await reader.word();
    if (length > MOST_VALUE) throw new StateError('the saved machine is damaged: its header is impossibly long');
    const state = decode(await reader.read(length)) as MachineState;
    const pages = state?.memory?.pages;
    if (!(pages instanceof Uint32Array)) throw new StateError('the saved machine is damaged: it has no list of pages');
    const blocks: Uint8Array[] = [];
    let left = pages.length;
    let check = 0;
    for (;;) {
      const count = await reader.word();
      if (count === 0) break;
      if (count > BLOCK_PAGES || count > left || count !== Math.min(left, BLOCK_PAGES))
        throw new StateError('the saved machine is damaged: a block of pages has a wrong size');
      const block = await reader.read(count * PAGE_SIZE);
      check = (check + sum(block)) | 0;
      blocks.push(block);
      left -= count;
    }
    if (left) throw new StateError(`the saved machine is damaged: ${left} pages of RAM are missing`);
    if ((await reader.word()) !== check >>> 0)
      throw new StateError('the saved machine is damaged: the checksum of its RAM is wrong');
    state.memory.blocks = blocks;
    return state;
  } catch (error) {
    await source.cancel().catch(() => undefined);
    throw error;
  } finally {
    source.releaseLock();
  }
}

// Values: what structured cloning takes, as far as states use it.

const ARRAYS = [
  Uint8Array,
  Int8Array,
  Uint16Array,
  Int16Array,
  Uint32Array,
  Int32Array,
  Float32Array,
  Float64Array,
  BigInt64Array,
  BigUint64Array,
] as const;

const enum Tag {
  Undefined,
  Null,
  False,
  True,
  Number,
  Int32,
  BigInt,
  String,
  Array,
  Object,
  Map,
  Set,
  /** Tag + index in ARRAYS. */
  TypedArray = 32,
  ArrayBuffer = 63,
}

class Writer {
  bytes = new Uint8Array(65536);
  view = new DataView(this.bytes.buffer);
  length = 0;

  private room(more: number): number {
    const at = this.length;
    if (at + more > this.bytes.length) {
      const bigger = new Uint8Array(Math.max(this.bytes.length * 2, at + more));
      bigger.set(this.bytes.subarray(0, at));
      this.bytes = bigger;
      this.view = new DataView(bigger.buffer);
    }
    this.length += more;
    return at;
  }
  tag(tag: number): void {
    const at = this.room(1);
    this.view.setUint8(at, tag);
  }
  word(value: number): void {
    const at = this.room(4);
    this.view.setUint32(at, value, true);
  }
  double(value: number): void {
    const at = this.room(8);
    this.view.setFloat64(at, value, true);
  }
  data(data: Uint8Array): void {
    this.word(data.length);
    const at = this.room(data.length);
    this.bytes.set(data, at);
  }
  text(text: string): void {
    this.data(new TextEncoder().encode(text));
  }

  value(value: unknown): void {
    if (value === undefined) this.tag(Tag.Undefined);
    else if (value === null) this.tag(Tag.Null);
    else if (typeof value === 'boolean') this.tag(value ? Tag.True : Tag.False);
    else if (typeof value === 'number') {
      if ((value | 0) === value && !Object.is(value, -0)) {
        this.tag(Tag.Int32);
        this.word(value >>> 0);
      } else {
        this.tag(Tag.Number);
        this.double(value);
      }
    } else if (typeof value === 'bigint') {
      this.tag(Tag.BigInt);
      this.text(value.toString(16));
    } else if (typeof value === 'string') {
      this.tag(Tag.String);
      this.text(value);
    } else if (typeof value === 'object') this.object(value);
    else throw new StateError(`a state cannot hold a ${typeof value}`);
  }

  private object(value: object): void {
    if (Array.isArray(value)) {
      this.tag(Tag.Array);
      this.word(value.length);
      for (const item of value as unknown[]) this.value(item);
    } else if (value instanceof ArrayBuffer) {
      this.tag(Tag.ArrayBuffer);
      this.data(new Uint8Array(value));
    } else if (ArrayBuffer.isView(value)) {
      const kind = ARRAYS.findIndex((type) => value instanceof type);
      if (kind < 0) throw new StateError('a state cannot hold this kind of array');
      this.tag(Tag.TypedArray + kind);
      this.data(new Uint8Array(value.buffer, value.byteOffset, value.byteLength));
    } else if (value instanceof Map) {
      this.tag(Tag.Map);
      this.word(value.size);
      for (const [key, item] of value as Map<unknown, unknown>) {
        this.value(key);
        this.value(item);
      }
    } else if (value instanceof Set) {
      this.tag(Tag.Set);
      this.word(value.size);
      for (const item of value as Set<unknown>) this.value(item);
    } else {
      const entries = Object.entries(value);
      this.tag(Tag.Object);
      this.word(entries.length);
      for (const [key, item] of entries) {
        this.text(key);
        this.value(item);
      }
    }
  }
}

/** A plain value as bytes. @throws StateError for what has no plain form, such as a function */
export function encode(value: unknown): Uint8Array {
  const writer = new Writer();
  writer.value(value);
  return writer.bytes.subarray(0, writer.length);
}

class Reader {
  private at = 0;
  private readonly view: DataView;

  constructor(private readonly bytes: Uint8Array) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  private take(length: number): number {
    const at = this.at;
    if (at + length > this.bytes.length) throw new StateError('the saved machine is damaged: a value is cut off');
    this.at += length;
    return at;
  }
  private word(): number {
    return this.view.getUint32(this.take(4), true);
  }
  /** A number of items, of which each takes a byte at least. */
  private count(): number {
    const count = this.word();
    if (count > this.bytes.length - this.at) throw new StateError('the saved machine is damaged: a list is too long');
    return count;
  }
  private data(): Uint8Array<ArrayBuffer> {
    const length = this.word();
    const at = this.take(length);
    return new Uint8Array(this.bytes.subarray(at, at + length));
  }
  private text(): string {
    return new TextDecoder().decode(this.data());
  }

  value(depth = 0): unknown {
    if (depth > 64) throw new StateError('the saved machine is damaged: values are nested too deep');
    const tag = this.view.getUint8(this.take(1));
    switch (tag) {
      case Tag.Undefined:
        return undefined;
      case Tag.Null:
        return null;
      case Tag.False:
        return false;
      case Tag.True:
        return true;
      case Tag.Int32:
        return this.word() | 0;
      case Tag.Number:
        return this.view.getFloat64(this.take(8), true);
      case Tag.BigInt: {
        const text = this.text();
        if (!/^-?[0-9a-f]+$/.test(text)) throw new StateError('the saved machine is damaged: a number is none');
        return text.startsWith('-') ? -BigInt(`0x${text.slice(1)}`) : BigInt(`0x${text}`);
      }
      case Tag.String:
        return this.text();
      case Tag.Array:
        return Array.from({ length: this.count() }, () => this.value(depth + 1));
      case Tag.Map:
        return new Map(
          Array.from({ length: this.count() }, () => [this.value(depth + 1), this.value(depth + 1)] as const),
        );
      case Tag.Set:
        return new Set(Array.from({ length: this.count() }, () => this.value(depth + 1)));
      case Tag.Object:
        return Object.fromEntries(
          Array.from({ length: this.count() }, () => [this.text(), this.value(depth + 1)] as const),
        );
      case Tag.ArrayBuffer:
        return this.data().buffer;
    }
    const type = ARRAYS[tag - Tag.TypedArray];
    if (!type) throw new StateError(`the saved machine is damaged: a value of kind ${tag}`);
    const data = this.data();
    if (data.length % type.BYTES_PER_ELEMENT) throw new StateError('the saved machine is damaged: an array is cut off');
    return new type(data.buffer);
  }
}

/** The opposite of `encode`. @throws StateError when the bytes are damaged */
export function decode(bytes: Uint8Array): unknown {
  return new Reader(bytes).value();
}
