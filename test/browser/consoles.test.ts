/// <reference types="mocha" />
import '../../components/linux-vm-consoles.ts';
import type { LinuxVMConsoles } from '../../components/linux-vm-consoles.ts';
import { FakeVM } from '../fakes/vm.ts';
import { equal, find, press, until } from './tools.ts';

async function stage(): Promise<{ consoles: LinuxVMConsoles; fake: FakeVM; own: HTMLElement }> {
  const fake = new FakeVM();
  const consoles = document.createElement('linux-vm-consoles');
  consoles.style.cssText = 'width: 600px; height: 300px';
  const own = document.createElement('button');
  own.textContent = 'the machine’s own';
  consoles.append(own);
  consoles.vm = fake.vm;
  document.body.append(consoles);
  await consoles.updateComplete;
  return { consoles, fake, own };
}

const tabs = (consoles: LinuxVMConsoles): string[] =>
  [...consoles.shadowRoot!.querySelectorAll('[role=tab]')].map(
    (tab) => `${tab.textContent!.trim()}${tab.getAttribute('aria-selected') === 'true' ? '*' : ''}`,
  );
const visible = (consoles: LinuxVMConsoles): (string | undefined)[] =>
  [...consoles.shadowRoot!.querySelectorAll('[role=tabpanel]')]
    .filter((panel) => !panel.hasAttribute('hidden'))
    .map((panel) => panel.getAttribute('aria-labelledby') ?? undefined);

describe('<linux-vm-consoles>', () => {
  afterEach(() => document.querySelectorAll('linux-vm-consoles').forEach((e) => e.remove()));

  it('opens a shell on a terminal of its own, whose size, keys and output are its own', async () => {
    const { consoles, fake } = await stage();
    void consoles.open();
    await until('a shell', () => fake.shells.length === 1);
    equal(tabs(consoles), ['Console', 'Shell 2*']);
    const shell = fake.shells[0]!;
    shell.print('hello from the shell');
    await until('its output', () => consoles.shownTerminal?.text.includes('hello from the shell'));
    const area = consoles.shownTerminal!.shadowRoot!.querySelector('textarea')!;
    area.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', code: 'Enter', keyCode: 13, bubbles: true }));
    await until('a key', () => shell.typed.includes('\r'));
    consoles.style.width = '400px';
    await until('a new size', () => shell.sizes.length > 0);
  });

  it('changes tabs by the keys of the tabs pattern, and closes one by Delete', async () => {
    const { consoles, fake } = await stage();
    void consoles.open();
    await until('a shell', () => fake.shells.length === 1);
    consoles.focusTabs();
    const focused = (): Element => consoles.shadowRoot!.activeElement!;
    press(focused(), 'ArrowRight'); // around to the first
    await until('the focus', () => focused()?.id === 'tab-0');
    equal([tabs(consoles), visible(consoles)], [['Console*', 'Shell 2'], ['tab-0']]);
    press(focused(), 'End');
    await until('the focus', () => focused()?.id === 'tab-1');
    press(focused(), 'Delete');
    await until('its end', () => tabs(consoles).length === 1);
    equal([fake.shells[0]!.signals, focused().id], [[1], 'tab-0']);
    press(focused(), 'Delete'); // the machine's own stays
    equal(tabs(consoles), ['Console*']);
  });

  it('changes tabs from inside of a terminal, which does not see the keys', async () => {
    const { consoles, fake } = await stage();
    void consoles.open();
    await until('a shell', () => fake.shells.length === 1);
    const area = consoles.shownTerminal!.shadowRoot!.querySelector('textarea')!;
    press(area, 'ArrowLeft', { ctrlKey: true, shiftKey: true, code: 'ArrowLeft' });
    await consoles.updateComplete;
    equal([tabs(consoles), fake.shells[0]!.typed], [['Console*', 'Shell 2'], []]);
    press(find(consoles, '.add'), 'Enter', { ctrlKey: true, shiftKey: true });
    await until('another shell', () => fake.shells.length === 2);
    equal(tabs(consoles), ['Console', 'Shell 2', 'Shell 3*']);
  });

  it('closes the tab of a shell that has ended, and gives the keyboard to the one before', async () => {
    const { consoles, fake, own } = await stage();
    void consoles.open();
    await until('a shell', () => fake.shells.length === 1);
    await until('the keyboard', () => consoles.shadowRoot!.activeElement?.localName === 'linux-vm-terminal');
    fake.shells[0]!.end();
    await until('its end', () => tabs(consoles).length === 1);
    await until('the keyboard back', () => document.activeElement === own);
  });

  it('says why a shell could not be started', async () => {
    const { consoles, fake } = await stage();
    fake.refuse = new Error('no such\x1b[2J thing');
    void consoles.open();
    await until('the reason', () => consoles.shownTerminal?.text.includes('The shell has ended: no such [2J thing'));
    equal(tabs(consoles), ['Console', 'Shell 2*']);
  });

  it('forgets the shells of a machine that is gone', async () => {
    const { consoles, fake } = await stage();
    void consoles.open();
    await until('a shell', () => fake.shells.length === 1);
    consoles.vm = undefined;
    await consoles.updateComplete;
    equal([tabs(consoles), visible(consoles)], [['Console*'], ['tab-0']]);
    equal(find<HTMLButtonElement>(consoles, '.add').disabled, true);
  });
});
