/// <reference types="mocha" />
import '../../components/linux-vm.ts';
import type { VmStateDetail } from '../../components/linux-vm.ts';
import { LinuxVM } from '../../src/index.ts';
import { halt, kernelOf, powerOff, print, spin, tripleFault } from '../fakes/kernel.ts';

/** The real machine in a real worker of a real browser, with kernels of a few instructions. */

function equal(actual: unknown, expected: unknown): void {
  const [a, e] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (a !== e) throw new Error(`got ${a}, expected ${e}`);
}

async function text(vm: LinuxVM, length: number): Promise<string> {
  let printed = '';
  const reader = vm.console.readable.getReader();
  while (printed.length < length) {
    const { done, value } = await reader.read();
    if (done) break;
    printed += new TextDecoder().decode(value);
  }
  await reader.cancel();
  return printed;
}

describe('a machine in the browser', () => {
  it('runs, prints and powers off', async () => {
    const vm = await LinuxVM.start({ kernel: kernelOf(...print('hello'), ...powerOff), memory: 64 });
    equal(await text(vm, 5), 'hello');
    const exit = await vm.exited;
    equal([exit.reason, vm.state], ['poweroff', 'stopped']);
    if (!(exit.stats!.processor.instructions > 15)) throw new Error('it counted nothing');
  });

  it('is stopped while it spins', async () => {
    const vm = await LinuxVM.start({ kernel: kernelOf(...spin), memory: 64 });
    equal((await vm.stop()).reason, 'stopped');
  });

  it('is saved and goes on in another worker', async () => {
    const vm = await LinuxVM.start({ kernel: kernelOf(...print('a'), ...halt, ...print('b')), memory: 64 });
    equal(await text(vm, 1), 'a');
    const state = await vm.saveState();
    if (state.size > 1 << 20) throw new Error(`an empty machine takes ${state.size} bytes`);
    await vm.stop();
    const again = await LinuxVM.restore(state);
    const stats = await again.stats();
    await again.stop();
    if (!(stats.seconds >= 0)) throw new Error('it gives no counters');
  });

  it('refuses a kernel that is none, in words', async () => {
    const outcome = await LinuxVM.start({ kernel: new Uint8Array(5000), memory: 64 }).catch((e: Error) => e.message);
    if (typeof outcome !== 'string' || !/kernel/i.test(outcome)) throw new Error(String(outcome));
  });

  it('crashes and starts again in the same element, ten times', async () => {
    const element = document.createElement('linux-vm');
    element.kernel = URL.createObjectURL(new Blob([kernelOf(...tripleFault) as Uint8Array<ArrayBuffer>]));
    element.memory = 256;
    document.body.append(element);
    for (let i = 0; i < 10; i++) {
      const ended = new Promise<VmStateDetail>((resolve) =>
        element.addEventListener('vm-state', (event) => {
          if (event.detail.state === 'stopped') resolve(event.detail);
        }),
      );
      await element.start();
      const { error } = await ended;
      if (!error || !/triple fault/.test(error.message)) throw new Error(`it said ${error?.message}`);
    }
    element.remove();
  });
});
