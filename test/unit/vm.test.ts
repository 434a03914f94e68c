import { describe, expect, test, vi } from 'vitest';
import { EscapeKeys } from '../../src/cli/escape-keys.ts';
import type { Progress } from '../../src/protocol.ts';
import { describeExit, LinuxVM, type LinuxVMOptions, VmStoppedError } from '../../src/vm.ts';
import { FakeWorker } from '../fakes/machine.ts';

const kernel = new Uint8Array([0x7f, 0x45, 0x4c, 0x46]);
const disk = new Uint8Array(8192).fill(5);

async function start(
  options: Partial<LinuxVMOptions> = {},
  worker = new FakeWorker(),
): Promise<{ vm: LinuxVM; worker: FakeWorker }> {
  return { vm: await LinuxVM.start({ kernel, worker: worker.factory, ...options }), worker };
}
const settle = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 5));

describe('start', () => {
  test('hands the machine what it was given', async () => {
    const { worker, vm } = await start({
      disk,
      initrd: new Uint8Array([1]),
      cmdline: 'quiet',
      append: 'x=1',
      memory: 96,
    });
    const { parts } = worker.machine;
    expect([...(await parts.images!).kernel]).toEqual([...kernel]);
    expect(parts.cmdline).toBe('quiet x=1');
    expect(parts.spec.memory).toBe(96);
    expect(parts.disk?.device.size).toBe(8192);
    expect(worker.machine.started).toBe(true);
    expect(vm.state).toBe('booting');
    await vm.stop();
  });

  test.each<[string, Partial<LinuxVMOptions>, RegExp]>([
    ['too little memory', { memory: 1 }, /memory is 1/],
    ['no number', { memory: NaN }, /memory is NaN/],
    ['an unknown tier', { tier: 'fast' as 'auto' }, /tier is "fast"/],
    ['no address', { disk: 'relative/path.json' }, /not an address/],
    ['no kernel at all', { kernel: undefined }, /no kernel to boot/],
    ['half a sector', { disk: new Uint8Array(700) }, /512-byte sectors/],
  ])('%s is an error that names it', async (_, options, words) => {
    await expect(start(options)).rejects.toThrow(words);
  });

  test('machines are told to become faster when they have nothing to do, the first one of a page with handlers', async () => {
    const ripen = vi.fn();
    const workers = [new FakeWorker(), new FakeWorker()];
    for (const worker of workers) worker.ripen = ripen;
    const vms = [(await start({}, workers[0])).vm, (await start({}, workers[1])).vm];
    const work = setInterval(() => (workers[0]!.machine.busy += 0.05), 50);
    await vi.waitFor(() => expect(workers[1]!.sent.at(-1)?.type).toBe('ripen'), 2000);
    expect(workers[0]!.sent.map(({ type }) => type)).not.toContain('ripen');
    clearInterval(work);
    await vi.waitFor(() => expect(ripen).toHaveBeenCalledTimes(2), 2000);
    // The handlers of all are the same.
    expect(ripen.mock.calls).toEqual([[true], [false]]);
    for (const vm of vms) await vm.stop();
  });

  test('a machine that cannot be made rejects and frees the worker', async () => {
    const worker = new FakeWorker();
    worker.create = () => Promise.reject(new Error('the kernel is not an x86-64 one'));
    await expect(start({}, worker)).rejects.toThrow('not an x86-64');
    expect(worker.terminated).toBe(1);
  });

  test('a missing disk rejects with its address', async () => {
    const worker = new FakeWorker();
    worker.fetch = async () => new Response(null, { status: 404 });
    // Six attempts with back-off: the signal ends them, which has to settle as well.
    const signal = AbortSignal.timeout(50);
    await expect(start({ disk: 'http://host/manifest.json', signal }, worker)).rejects.toThrow();
    expect(worker.terminated).toBe(1);
  });

  test('tells its progress', async () => {
    const seen: Progress[] = [];
    const { vm } = await start({ onProgress: (p) => seen.push(p) });
    await settle();
    expect(seen.map((p) => p.phase)).toEqual(expect.arrayContaining(['manifest', 'kernel', 'machine', 'boot']));
    await vm.stop();
  });

  test('aborting stops it, before and after it runs', async () => {
    const worker = new FakeWorker();
    worker.create = () => new Promise(() => undefined);
    const controller = new AbortController();
    const starting = start({ signal: controller.signal }, worker);
    controller.abort(new Error('enough'));
    await expect(starting).rejects.toThrow('enough');

    const second = new AbortController();
    const { vm } = await start({ signal: second.signal });
    second.abort();
    expect((await vm.exited).reason).toBe('stopped');
  });
});

describe('console', () => {
  test('types, prints and resizes', async () => {
    const { vm, worker } = await start({ columns: 100, rows: 30 });
    const reader = vm.console.readable.getReader();
    vm.console.write('ls ü\n');
    vm.console.resize(120.7, 0);
    await settle();
    expect(worker.machine.typed).toEqual(['ls ü\n']);
    expect(worker.machine.sizes).toEqual(['100x30', '120x1']);
    expect(new TextDecoder().decode((await reader.read()).value)).toBe('ls ü\n');
    await vm.stop();
    expect((await reader.read()).done).toBe(true);
  });

  test('what was printed before anyone listened is kept for the first listener', async () => {
    const { vm, worker } = await start();
    worker.machine.print('early ');
    await settle();
    let text = '';
    vm.console.onData((bytes) => void (text += new TextDecoder().decode(bytes)));
    worker.machine.print('late');
    await settle();
    expect(text).toBe('early late');
    await vm.stop();
  });

  test('a listener that falls behind holds the machine, and lets it go on', async () => {
    const { vm, worker } = await start();
    const waiting: (() => void)[] = [];
    vm.console.onData(() => new Promise((resolve) => waiting.push(resolve)));
    const piece = 'x'.repeat(300_000);
    for (let i = 0; i < 4; i++) worker.machine.print(piece);
    await settle();
    expect(worker.machine.running).toBe(false);
    waiting.forEach((done) => done());
    await settle();
    expect(worker.machine.running).toBe(true);
    await vm.stop();
  });

  test('output that nobody reads does not hold the machine', async () => {
    const { vm, worker } = await start();
    for (let i = 0; i < 20; i++) worker.machine.print('x'.repeat(300_000));
    await settle();
    expect(worker.machine.running).toBe(true);
    await vm.stop();
  });

  test('a reader that stops reading holds the machine, and cancelling lets it go', async () => {
    const { vm, worker } = await start();
    const reader = vm.console.readable.getReader();
    for (let i = 0; i < 8; i++) worker.machine.print('x'.repeat(300_000));
    await settle();
    expect(worker.machine.running).toBe(false);
    await reader.cancel();
    await settle();
    expect(worker.machine.running).toBe(true);
    await vm.stop();
  });

  test.each(['root@debian:~# ', '\x1b[01;32muser\x1b[00m:~$ \x1b[?2004h', 'debian login: '])(
    'a guest without an agent runs from its first prompt: %j',
    async (prompt) => {
      const { vm, worker } = await start();
      worker.machine.print('Loading # of things\r\nbooting...\r\n');
      await settle();
      expect(vm.state).toBe('booting');
      worker.machine.print(prompt);
      await settle();
      expect(vm.state).toBe('running');
      await vm.stop();
    },
  );
});

describe('the end', () => {
  test.each(['poweroff', 'reset', 'panic', 'triple-fault'] as const)(
    '%s reaches everyone who waits',
    async (reason) => {
      const { vm, worker } = await start();
      const waiting = [
        vm.ready,
        vm.run(['true']),
        vm.spawn(['true']),
        vm.fs.readFile('/etc/passwd'),
        vm.fs.writeFile('/tmp/x', new Uint8Array(1)),
      ].map((p) =>
        p.then(
          () => 'resolved',
          (e: unknown) => e,
        ),
      );
      const reading = vm.fs.readStream('/etc/passwd').getReader().read();
      reading.catch(() => undefined);
      await settle();
      worker.machine.events.stopped({ reason, message: 'why' });
      const exit = await vm.exited;
      expect([exit.reason, exit.message, exit.stats?.processor.instructions]).toEqual([reason, 'why', 1000]);
      for (const error of await Promise.all(waiting)) expect(error).toBeInstanceOf(VmStoppedError);
      await expect(reading).rejects.toThrow('the machine has stopped');
      expect(worker.machine.disposed).toBe(true);
      expect(worker.terminated).toBe(1);
      expect(vm.state).toBe('stopped');
      await expect(vm.run(['true'])).rejects.toBeInstanceOf(VmStoppedError);
      await expect(vm.saveState()).rejects.toBeInstanceOf(VmStoppedError);
      expect((await vm.stats()).processor.instructions).toBe(1000);
      expect((await vm.stop()).reason).toBe(reason);
    },
  );

  test('a worker that crashes is an error for everyone who waits', async () => {
    const { vm, worker } = await start();
    const states: string[] = [];
    vm.on('state', (state) => states.push(state));
    worker.deaf = true;
    const waiting = vm.stats();
    worker.crash(new Error('out of memory'));
    await expect(waiting).rejects.toThrow('out of memory');
    expect((await vm.exited).error?.message).toBe('out of memory');
    expect(states).toEqual(['error']);
  });

  test('a worker that does not answer is stopped all the same', async () => {
    const { vm, worker } = await start();
    worker.deaf = true;
    expect((await vm.stop()).reason).toBe('stopped');
    expect(worker.terminated).toBe(1);
  });

  test('is described in words', () => {
    expect(describeExit({ reason: 'panic', message: 'Attempted to kill init!' })).toBe(
      'the kernel panicked: Attempted to kill init!',
    );
  });
});

test('an I/O error of the disk reaches the page', async () => {
  const worker = new FakeWorker();
  const { vm } = await start({ disk: new Blob([disk]) }, worker);
  const errors: Error[] = [];
  vm.on('disk-error', (error) => errors.push(error));
  const { device } = worker.machine.parts.disk!;
  await expect(device.read(8192, 512)).rejects.toThrow();
  device.base.source.read = () => Promise.reject(new Error('gone'));
  await expect(device.read(0, 512)).rejects.toThrow('gone');
  await settle();
  expect(errors.length).toBe(1);
  await vm.stop();
});

describe('saved state', () => {
  test('carries memory size, written blocks and the machine, and checks the disk', async () => {
    const { vm, worker } = await start({ disk, memory: 128 });
    worker.machine.parts.disk!.device.write(4096, new Uint8Array(512).fill(7));
    const state = await vm.saveState();
    expect(worker.machine.running).toBe(true);
    await vm.stop();

    const second = new FakeWorker();
    const copy = await LinuxVM.restore(state, { disk, worker: second.factory });
    expect(second.machine.restored).toBe('RAM and devices');
    expect(second.machine.parts.spec.memory).toBe(128);
    const bytes = await second.machine.parts.disk!.device.read(4000, 1000);
    expect([bytes[95], bytes[96], bytes[96 + 511], bytes[96 + 512]]).toEqual([5, 7, 7, 5]);
    await copy.stop();

    const other = LinuxVM.restore(state, { disk: new Uint8Array(512), worker: new FakeWorker().factory });
    await expect(other).rejects.toThrow(/saved with a disk of 8192 bytes/);
    const none = LinuxVM.restore(state, { worker: new FakeWorker().factory });
    await expect(none).rejects.toThrow(/give the same file again/);
  });

  test.each<[string, (good: Blob) => Blob]>([
    ['another file', () => new Blob(['hello, this is a text'])],
    ['an empty file', () => new Blob([])],
    ['a cut file', (good) => good.slice(0, 100)],
  ])('%s is refused', async (_, change) => {
    const { vm, worker } = await start({ disk });
    worker.machine.parts.disk!.device.write(0, new Uint8Array(4096));
    const bad = change(await vm.saveState());
    await vm.stop();
    await expect(LinuxVM.restore(bad, { disk, worker: new FakeWorker().factory })).rejects.toThrow(/saved|damaged/);
  });
});

test('Ctrl-A X quits, also when it comes in two pieces; Ctrl-A twice is one', () => {
  let typed = '';
  let quits = 0;
  const keys = new EscapeKeys(
    (bytes) => (typed += String.fromCharCode(...bytes)),
    () => quits++,
  );
  keys.write(new Uint8Array([0x61, 1, 1, 0x62, 1]));
  keys.write(new Uint8Array([0x63, 1]));
  expect([typed, quits]).toEqual(['a\x01b\x01c', 0]);
  keys.write(new Uint8Array([0x78]));
  expect(quits).toBe(1);
});
