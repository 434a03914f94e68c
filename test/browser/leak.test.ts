/// <reference types="mocha" />
import '../../components/linux-vm.ts';
import { FakeWorker } from '../fakes/machine.ts';

/** Chromium is started with `--expose-gc`. */
const { gc } = globalThis as unknown as { gc(options: { type: 'major'; execution: 'async' }): Promise<void> };
const kernel = URL.createObjectURL(new Blob([new Uint8Array([0x7f, 0x45, 0x4c, 0x46])]));

async function until(what: string, condition: () => boolean): Promise<void> {
  const end = performance.now() + 5000;
  while (!condition()) {
    if (performance.now() > end) throw new Error(`${what} did not come about`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

describe('<linux-vm> removed and added again', () => {
  it('runs again, and leaves nothing behind', async () => {
    const before = Object.getOwnPropertyNames(globalThis).length;
    const gone: WeakRef<object>[] = [];
    // In a function of its own, whose variables hold nothing afterwards.
    const once = async (): Promise<void> => {
      const worker = new FakeWorker();
      const element = document.createElement('linux-vm');
      element.worker = worker.factory;
      element.kernel = kernel;
      for (let time = 1; time <= 2; time++) {
        document.body.append(element);
        const vm = await element.start();
        worker.machine.print('root@debian:~# ');
        await until('running', () => element.state === 'running');
        element.remove();
        await vm.exited;
        if (worker.terminated !== time) throw new Error(`${worker.terminated} workers have ended after ${time}`);
        gone.push(new WeakRef(vm));
      }
      gone.push(new WeakRef(element), new WeakRef(worker), new WeakRef(element.shadowRoot!));
    };
    for (let i = 0; i < 10; i++) await once();
    let left = gone;
    // Timers and animation frames of the last elements have to pass first.
    for (let i = 0; i < 20 && left.length; i++) {
      await new Promise((resolve) => setTimeout(resolve, 100));
      await gc({ type: 'major', execution: 'async' });
      left = gone.filter((ref) => ref.deref() !== undefined);
    }
    if (left.length)
      throw new Error(`${left.length} of ${gone.length}: ${left.map((r) => r.deref()?.constructor.name).join(', ')}`);
    const more = Object.getOwnPropertyNames(globalThis).length - before;
    if (more) throw new Error(`${more} global names were added`);
  });
});
