/// <reference types="mocha" />
import '../../components/linux-vm.ts';
import type { LinuxVMElement, VmStateDetail } from '../../components/linux-vm.ts';
import { FakeWorker } from '../fakes/machine.ts';

const kernel = URL.createObjectURL(new Blob([new Uint8Array([0x7f, 0x45, 0x4c, 0x46])]));

function equal(actual: unknown, expected: unknown): void {
  const [a, e] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (a !== e) throw new Error(`got ${a}, expected ${e}`);
}

async function until(what: string, condition: () => unknown): Promise<void> {
  const end = performance.now() + 5000;
  while (!condition()) {
    if (performance.now() > end) throw new Error(`${what} did not come about`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

interface Stage {
  element: LinuxVMElement;
  worker: FakeWorker;
  states: string[];
  errors: (string | undefined)[];
}

function stage(attributes: Record<string, string> = { kernel }): Stage {
  const worker = new FakeWorker();
  const element = document.createElement('linux-vm');
  element.worker = worker.factory;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  const states: string[] = [];
  const errors: (string | undefined)[] = [];
  element.addEventListener('vm-state', (event) => {
    const { state, error } = (event as CustomEvent<VmStateDetail>).detail;
    states.push(state);
    errors.push(error?.message);
  });
  document.body.append(element);
  return { element, worker, states, errors };
}

const shown = (element: LinuxVMElement): string =>
  [...element.shadowRoot!.querySelectorAll('.cover, .bar')].map((e) => e.textContent!.replace(/\s+/g, ' ')).join('|');
const spoken = (element: LinuxVMElement): string =>
  element.shadowRoot!.querySelector('[role=status]')!.textContent!.trim();
const button = (element: LinuxVMElement): HTMLButtonElement | null => element.shadowRoot!.querySelector('button');
const terminal = (element: LinuxVMElement): HTMLElementTagNameMap['linux-vm-terminal'] =>
  element.shadowRoot!.querySelector('linux-vm-terminal')!;

describe('<linux-vm>', () => {
  afterEach(() => document.querySelectorAll('linux-vm').forEach((e) => e.remove()));

  it('has a start button, starts by it, and shows what the guest prints', async () => {
    const { element, worker, states } = stage();
    await until('a button', () => button(element));
    equal(states, []);
    button(element)!.click();
    await until('a start', () => element.state === 'booting');
    const bytes: string[] = [];
    element.addEventListener('vm-console', (e) => bytes.push(new TextDecoder().decode(e.detail)));
    worker.machine.print('hello from the guest\r\nroot@debian:~# ');
    await until('text', () => terminal(element).text.includes('hello from the guest'));
    await until('running', () => element.state === 'running');
    equal(states, ['loading', 'booting', 'running']);
    equal(bytes, ['hello from the guest\r\nroot@debian:~# ']);
    equal(shown(element), '');
    equal(spoken(element), 'The virtual machine is running.');
  });

  it('starts by itself, and its size reaches the guest, then and when it changes', async () => {
    const { element, worker } = stage({ kernel, autostart: '' });
    await until('a start', () => element.state === 'booting');
    await terminal(element).updateComplete;
    const first = `${terminal(element).columns}x${terminal(element).rows}`;
    await until('its size', () => worker.machine.sizes.at(-1) === first);
    element.style.width = '300px';
    await until('a resize', () => worker.machine.sizes.at(-1) !== first);
    const [columns] = worker.machine.sizes.at(-1)!.split('x').map(Number);
    if (!(columns! < 50)) throw new Error(`the terminal is 300 px wide and has ${columns} columns`);
  });

  it('sends what is typed and pasted', async () => {
    const { element, worker } = stage({ kernel, autostart: '' });
    await until('a start', () => element.state === 'booting');
    await terminal(element).updateComplete;
    const area = terminal(element).shadowRoot!.querySelector('textarea')!;
    area.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', code: 'Enter', keyCode: 13, bubbles: true }));
    await until('a key', () => worker.machine.typed.includes('\r'));
    const data = new DataTransfer();
    data.setData('text/plain', 'echo ü');
    area.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true }));
    await until('the paste', () => worker.machine.typed.join('').includes('echo ü'));
  });

  it('says what could not be loaded and tries again', async () => {
    const { element, errors, states } = stage({ disk: 'nowhere.json' });
    element.worker = () => {
      throw new Error('no such disk');
    };
    await element.start().then(
      () => {
        throw new Error('it started');
      },
      (error: Error) => equal(error.message, 'no such disk'),
    );
    await element.updateComplete;
    equal(
      [states, errors],
      [
        ['loading', 'error'],
        [undefined, 'no such disk'],
      ],
    );
    if (!shown(element).includes('no such disk')) throw new Error(`it shows ${shown(element)}`);
    const good = new FakeWorker();
    element.worker = good.factory;
    element.kernel = kernel;
    element.disk = undefined;
    button(element)!.click();
    await until('a start', () => element.state === 'booting');
  });

  it('says which browsers can, in one that cannot', async () => {
    const { validate } = WebAssembly;
    try {
      WebAssembly.validate = () => false;
      const { element } = stage();
      await element.start().catch(() => undefined);
      await element.updateComplete;
      if (!/cannot run the machine.*Chrome or Edge 112, Firefox 121, Safari 18\.2.*Try again/.test(shown(element)))
        throw new Error(`it shows ${shown(element)}`);
    } finally {
      WebAssembly.validate = validate;
    }
  });

  it('says when it has nothing to boot', async () => {
    const { element } = stage({});
    await element.start().catch(() => undefined);
    await element.updateComplete;
    if (!/neither a "disk" nor a "kernel"/.test(shown(element))) throw new Error(`it shows ${shown(element)}`);
  });

  it('shows a panic and starts again, ten times, with one worker at a time', async () => {
    const { element, worker, errors } = stage();
    for (let i = 0; i < 10; i++) {
      await element.start();
      equal(worker.machines.length, i + 1);
      const reason = (['panic', 'triple-fault', 'poweroff', 'reset'] as const)[i % 4]!;
      worker.machine.events.stopped({ reason, message: reason === 'panic' ? 'Attempted to kill init!' : undefined });
      await until('an end', () => element.state === 'stopped');
      await element.updateComplete;
      equal(worker.terminated, i + 1);
      if (i === 0) {
        if (!shown(element).includes('the kernel panicked: Attempted to kill init!')) throw new Error(shown(element));
        equal(errors.at(-1), 'the kernel panicked: Attempted to kill init!');
        equal(button(element)!.textContent, 'Restart');
      }
    }
  });

  it('shows a crash of the worker', async () => {
    const { element, worker } = stage();
    await element.start();
    worker.crash(new Error('out of memory'));
    await until('an error', () => element.state === 'error');
    await element.updateComplete;
    if (!shown(element).includes('out of memory')) throw new Error(shown(element));
  });

  it('stops while it loads, and when it is taken out of the page', async () => {
    const { element, worker, states } = stage();
    worker.create = () => new Promise(() => undefined);
    const starting = element.start().catch((error: Error) => error.name);
    await until('loading', () => element.state === 'loading' && worker.sent.length > 0);
    await element.stop();
    equal(await starting, 'AbortError');
    equal(states, ['loading', 'stopped']);

    const second = stage();
    await second.element.start();
    const { vm } = second.element;
    second.element.remove();
    equal((await vm!.exited).reason, 'stopped');
    equal(second.worker.terminated, 1);
  });

  it('goes on when it is only moved', async () => {
    const { element, worker } = stage();
    await element.start();
    const box = document.createElement('div');
    document.body.append(box);
    box.append(element);
    await new Promise((resolve) => setTimeout(resolve, 20));
    equal([element.state, worker.terminated], ['booting', 0]);
    worker.machine.print('still here');
    await until('text', () => terminal(element).text.includes('still here'));
    box.remove();
  });

  it('fits a narrow screen without scrolling sideways', async () => {
    const { element } = stage({});
    element.style.width = '280px';
    await element.start().catch(() => undefined);
    await element.updateComplete;
    const cover = element.shadowRoot!.querySelector<HTMLElement>('.cover')!;
    if (cover.scrollWidth > cover.clientWidth) throw new Error(`${cover.scrollWidth} px in ${cover.clientWidth}`);
  });
});
