import { describe, expect, test } from 'vitest';
import { AgentClient, AgentError } from '../../src/agent/client.ts';
import {
  AgentFrame,
  encodeFrame,
  helloPayload,
  HostFrame,
  parseHello,
  PayloadReader,
  PayloadWriter,
  WINDOW,
} from '../../src/agent/codec.ts';
import { Operation } from '../../src/agent/files.ts';

const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
const bytes = (string: string) => new TextEncoder().encode(string);
const turn = () => new Promise((resolve) => setTimeout(resolve, 0));

interface HostMessage {
  type: number;
  id: number;
  payload: Uint8Array;
}

/** Stands where the guest's agent would: notes what the client sends and answers by hand or by `onMessage`. */
class FakeAgent {
  readonly sent: HostMessage[] = [];
  onMessage: (message: HostMessage) => void = () => undefined;
  private deliver: (bytes: Uint8Array) => void = () => undefined;
  private closed: () => void = () => undefined;
  readonly client: AgentClient;

  constructor({ answer = true, open = true } = {}) {
    this.onMessage = ({ type, payload }) => {
      if (answer && type === HostFrame.Hello) this.hello(parseHello(payload)!.nonce);
    };
    this.client = new AgentClient({
      write: (frame) => {
        const view = new DataView(frame.buffer, frame.byteOffset);
        const message = { type: frame[0]!, id: view.getUint32(4, true), payload: frame.slice(8) };
        this.sent.push(message);
        queueMicrotask(() => this.onMessage(message));
      },
      onData: (listener) => (this.deliver = listener),
      onClose: (listener) => {
        if (open) this.closed = listener;
        else listener();
      },
    });
  }

  hello(nonce: number): void {
    this.send(AgentFrame.Hello, 0, helloPayload(nonce));
  }

  send(type: number, id: number, payload?: Uint8Array): void {
    this.deliver(encodeFrame(type, id, payload));
  }

  number(type: number, id: number, value: number): void {
    this.send(type, id, new PayloadWriter().number(value, 4).finish());
  }

  data(id: number, stream: number, data: Uint8Array): void {
    for (let at = 0; at < data.length; at += 16384) {
      this.send(
        AgentFrame.Data,
        id,
        new PayloadWriter()
          .number(stream, 1)
          .bytes(data.subarray(at, at + 16384))
          .finish(),
      );
    }
  }

  exit(id: number, status: number, signal = 0): void {
    this.send(AgentFrame.End, id, Uint8Array.of(1));
    this.send(AgentFrame.End, id, Uint8Array.of(2));
    this.send(AgentFrame.Exit, id, new PayloadWriter().number(status, 4).number(signal, 4).finish());
  }

  result(id: number, errno: number, body: Uint8Array = new Uint8Array(0)): void {
    this.send(AgentFrame.Result, id, new PayloadWriter().number(errno, 4).bytes(body).finish());
  }

  close(): void {
    this.closed();
  }

  of(type: number): HostMessage[] {
    return this.sent.filter((message) => message.type === type);
  }

  /** Answers each SPAWN with STARTED, then lets `program` go on. */
  serve(program: (id: number) => void): void {
    const before = this.onMessage;
    this.onMessage = (message) => {
      before(message);
      if (message.type !== HostFrame.Spawn) return;
      this.number(AgentFrame.Started, message.id, 42);
      program(message.id);
    };
  }
}

async function settled(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    (value) => value,
    (error: unknown) => error,
  );
}

describe('connection', () => {
  test('a hello that was lost is said again when the agent opens its port', async () => {
    const fake = new FakeAgent({ answer: false });
    await turn();
    fake.onMessage = ({ type, payload }) => {
      if (type === HostFrame.Hello) fake.hello(parseHello(payload)!.nonce);
    };
    fake.hello(0);
    await fake.client.ready;
    expect(fake.of(HostFrame.Hello)).toHaveLength(2);
  });

  test("another host's hello and what follows it are not taken for ours", async () => {
    const fake = new FakeAgent({ answer: false });
    fake.hello(12345);
    fake.result(2, 0);
    const state = await Promise.race([fake.client.ready.then(() => 'ready'), turn().then(() => 'waiting')]);
    expect(state).toBe('waiting');
  });

  test('everything that waits rejects when the port closes, and so does what is asked later', async () => {
    const fake = new FakeAgent();
    fake.serve(() => undefined);
    await fake.client.ready;
    const run = fake.client.run(['sleep', '1']);
    const stat = fake.client.fs.stat('/');
    const process = await fake.client.spawn(['cat']);
    const read = process.stdout.getReader().read();
    await turn();
    fake.close();
    for (const promise of [run, stat, read, process.exit, fake.client.ping(), fake.client.spawn(['ls'])]) {
      expect(await settled(promise)).toMatchObject({ name: 'AgentError', code: 'EAGENT' });
    }
  });

  test('a port that is closed already rejects ready', async () => {
    expect(await settled(new FakeAgent({ open: false }).client.ready)).toBeInstanceOf(AgentError);
  });

  test('an agent that was started anew ends what was open, and serves again', async () => {
    const fake = new FakeAgent();
    fake.serve(() => undefined);
    const process = await fake.client.spawn(['cat']);
    fake.hello(0);
    expect(await settled(process.exit)).toMatchObject({ code: 'EAGENT' });
    expect((await fake.client.spawn(['cat'])).pid).toBe(42);
  });

  test('an agent of another version is refused with what to do', async () => {
    const fake = new FakeAgent({ answer: false });
    await turn();
    const payload = fake.sent[0]!.payload.slice();
    payload[8] = 9;
    fake.send(AgentFrame.Hello, 0, payload);
    expect(String(await settled(fake.client.ready))).toMatch(/version 9.*build the disk again/);
  });
});

describe('run and spawn', () => {
  test('give status and both outputs apart', async () => {
    const fake = new FakeAgent();
    fake.serve((id) => {
      fake.data(id, 1, bytes('out'));
      fake.data(id, 2, bytes('err'));
      fake.exit(id, 3);
    });
    const { status, stdout, stderr, signal } = await fake.client.run(['x']);
    expect([status, text(stdout), text(stderr), signal]).toEqual([3, 'out', 'err', undefined]);
  });

  test('a program ended by a signal has status 128 + signal', async () => {
    const fake = new FakeAgent();
    fake.serve((id) => fake.exit(id, 0, 9));
    expect(await fake.client.run(['x'])).toMatchObject({ status: 137, signal: 9 });
  });

  test('a program that cannot be run rejects with its name and why', async () => {
    const fake = new FakeAgent();
    fake.onMessage = (message) => {
      if (message.type === HostFrame.Hello) fake.hello(parseHello(message.payload)!.nonce);
      if (message.type === HostFrame.Spawn) fake.number(AgentFrame.Failed, message.id, 2);
    };
    expect(await settled(fake.client.run(['nosuch']))).toMatchObject({
      code: 'ENOENT',
      message: 'cannot run nosuch: no such file or directory (ENOENT)',
    });
  });

  test('arguments, environment and user go into the frame as the agent reads it', async () => {
    const fake = new FakeAgent();
    fake.serve(() => undefined);
    await fake.client.spawn(['a', 'b c'], { env: { X: '1' }, cwd: '/tmp', uid: 33, pty: { columns: 100, rows: 30 } });
    const reader = new PayloadReader(fake.of(HostFrame.Spawn)[0]!.payload);
    const head = [reader.number(1), reader.number(2), reader.number(2), reader.number(4), reader.number(4)];
    expect(head).toEqual([1, 100, 30, 33, 0xffffffff]);
    expect(reader.string()).toBe('/tmp');
    expect([reader.number(4), reader.string(), reader.string()]).toEqual([2, 'a', 'b c']);
    expect([reader.number(4), reader.string(), reader.done]).toEqual([1, 'X=1', true]);
  });

  test('input past the window waits for credit', async () => {
    const fake = new FakeAgent();
    fake.serve(() => undefined);
    const process = await fake.client.spawn(['cat']);
    const writing = process.stdin.getWriter().write(new Uint8Array(WINDOW + 1000));
    const total = () => fake.of(HostFrame.Stdin).reduce((sum, { payload }) => sum + payload.length, 0);
    await turn();
    expect(total()).toBe(WINDOW);
    fake.number(AgentFrame.StdinCredit, fake.of(HostFrame.Spawn)[0]!.id, 1000);
    await writing;
    expect(total()).toBe(WINDOW + 1000);
  });

  test('writing to a program that closed its input fails with EPIPE, and run does not mind', async () => {
    const fake = new FakeAgent();
    fake.serve((id) => {
      fake.send(AgentFrame.End, id, Uint8Array.of(0));
      setTimeout(() => fake.exit(id, 0), 5);
    });
    const process = await fake.client.spawn(['true']);
    expect(await settled(process.stdin.getWriter().write(bytes('x')))).toMatchObject({ code: 'EPIPE' });
    expect(await fake.client.run(['true'], { stdin: new Uint8Array(WINDOW * 2) })).toMatchObject({ status: 0 });
  });

  test('credit for output is given when it is read, not when it comes', async () => {
    const fake = new FakeAgent();
    fake.serve((id) => fake.data(id, 1, new Uint8Array(WINDOW)));
    const process = await fake.client.spawn(['yes']);
    await turn();
    expect(fake.of(HostFrame.Credit)).toHaveLength(0);
    const reader = process.stdout.getReader();
    for (let got = 0; got < WINDOW;) got += (await reader.read()).value!.length;
    const credit = fake
      .of(HostFrame.Credit)
      .reduce((sum, { payload }) => sum + new PayloadReader(payload.subarray(1)).number(4), 0);
    expect(credit).toBe(WINDOW);
  });

  test('an agent that sends past its credit does not fill the memory', async () => {
    const fake = new FakeAgent();
    fake.serve((id) => fake.data(id, 1, new Uint8Array(WINDOW + 16384)));
    const process = await fake.client.spawn(['yes']);
    expect(await settled(process.exit)).toMatchObject({ code: 'EPROTO' });
  });

  test('abort kills the program and rejects with its reason', async () => {
    const fake = new FakeAgent();
    fake.serve(() => undefined);
    const abort = new AbortController();
    const run = fake.client.run(['sleep', '100'], { signal: abort.signal });
    await turn();
    abort.abort(new Error('enough'));
    expect(await settled(run)).toMatchObject({ message: 'enough' });
    expect(new PayloadReader(fake.of(HostFrame.Signal)[0]!.payload).number(4)).toBe(9);
  });

  test('output past maxOutput ends the program', async () => {
    const fake = new FakeAgent();
    fake.serve((id) => fake.data(id, 1, new Uint8Array(2000)));
    expect(await settled(fake.client.run(['yes'], { maxOutput: 1000 }))).toMatchObject({ code: 'EFBIG' });
    expect(fake.of(HostFrame.Signal)).toHaveLength(1);
  });

  test('input that cannot be read rejects with its error', async () => {
    const fake = new FakeAgent();
    fake.serve(() => undefined);
    const stdin = new ReadableStream<Uint8Array>({ pull: (controller) => controller.error(new Error('torn')) });
    expect(await settled(fake.client.run(['cat'], { stdin }))).toMatchObject({ message: 'torn' });
  });

  test('run ends with the program though its input goes on', async () => {
    const fake = new FakeAgent();
    fake.serve((id) => fake.exit(id, 0));
    const stdin = new ReadableStream<Uint8Array>({ pull: () => new Promise<void>(() => undefined) });
    expect(await fake.client.run(['true'], { stdin })).toMatchObject({ status: 0 });
  });
});

describe('files', () => {
  /** A guest with one file, whose READs give at most `short` bytes each. */
  function withFile(contents: Uint8Array, regular: boolean, short = 65536): FakeAgent {
    const fake = new FakeAgent();
    const before = fake.onMessage;
    fake.onMessage = (message) => {
      before(message);
      if (message.type !== HostFrame.FileOperation) return;
      const reader = new PayloadReader(message.payload);
      switch (reader.number(1)) {
        case Operation.Open:
          fake.result(
            message.id,
            0,
            new PayloadWriter()
              .number(0, 4)
              .number(regular ? 1 : 0, 1)
              .finish(),
          );
          break;
        case Operation.Read: {
          reader.number(4);
          const offset = Number(reader.long());
          fake.result(message.id, 0, contents.subarray(offset, offset + Math.min(short, reader.number(4))));
          break;
        }
        default:
          fake.result(message.id, 0);
      }
    };
    return fake;
  }

  test.each([
    ['of many pieces', 300_000, true, 65536],
    ['that is empty', 0, true, 65536],
    ['of whole pieces', 131072, true, 65536],
    ['of /proc, which gives little at a time', 10_000, false, 1024],
    ['that is read short', 300_000, true, 50_000],
  ])('a file %s is read whole', async (_, length, regular, short) => {
    const contents = new Uint8Array(length).map((_, i) => (i * 7) >> 3);
    const fake = withFile(contents, regular, short);
    expect(Buffer.compare(await fake.client.fs.readFile('/x'), contents)).toBe(0);
    await turn();
    const operations = fake.of(HostFrame.FileOperation).map(({ payload }) => payload[0]);
    expect(operations.filter((operation) => operation === Operation.Close)).toHaveLength(1);
  });

  test('a file longer than the limit is not collected', async () => {
    const fake = withFile(new Uint8Array(1_000_000), true);
    expect(await settled(fake.client.fs.readFile('/x', { limit: 100_000 }))).toMatchObject({ code: 'EFBIG' });
  });

  test('an error names the operation, the path and the cause', async () => {
    const fake = new FakeAgent();
    const before = fake.onMessage;
    fake.onMessage = (message) => {
      before(message);
      if (message.type === HostFrame.FileOperation) fake.result(message.id, 13);
    };
    expect(await settled(fake.client.fs.readFile('/etc/shadow'))).toMatchObject({
      message: 'open /etc/shadow: permission denied (EACCES)',
      errno: 13,
    });
  });

  test('a directory comes in parts and is sorted', async () => {
    const fake = new FakeAgent();
    const before = fake.onMessage;
    fake.onMessage = (message) => {
      before(message);
      if (message.type !== HostFrame.FileOperation) return;
      fake.send(AgentFrame.ResultPart, message.id, new PayloadWriter().number(8, 1).string('b').finish());
      fake.send(AgentFrame.ResultPart, message.id, new PayloadWriter().number(4, 1).string('a').finish());
      fake.result(message.id, 0);
    };
    // Parts come before the RESULT with its error number, which here has no body of its own.
    expect(await fake.client.fs.readdir('/')).toEqual([
      { name: 'a', type: 'directory' },
      { name: 'b', type: 'file' },
    ]);
  });

  test('what is written comes in order, whatever its shape', async () => {
    const fake = withFile(new Uint8Array(0), true);
    const data = new ReadableStream<Uint8Array>({
      start(controller) {
        controller.enqueue(new Uint8Array(70_000).fill(1));
        controller.enqueue(bytes('end'));
        controller.close();
      },
    });
    await fake.client.fs.writeFile('/x', data);
    const writes = fake.of(HostFrame.FileOperation).filter(({ payload }) => payload[0] === Operation.Write);
    const pieces = writes.map(({ payload }) => [
      Number(new PayloadReader(payload.subarray(5)).long()),
      payload.length - 13,
    ]);
    expect(pieces).toEqual([
      [0, 65536],
      [65536, 4464],
      [70000, 3],
    ]);
  });
});
