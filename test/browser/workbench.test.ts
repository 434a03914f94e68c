/// <reference types="mocha" />
import '../../components/linux-vm.ts';
import '../../components/linux-vm-workbench.ts';
import type { LinuxVMElement } from '../../components/linux-vm.ts';
import type { LinuxVMWorkbench } from '../../components/linux-vm-workbench.ts';
import { SettingsStore } from '../../src/settings.ts';
import { FakeWorker } from '../fakes/machine.ts';
import { FakeVM } from '../fakes/vm.ts';
import { button, equal, find, forgetful, includes, press, shown, until } from './tools.ts';

const kernel = URL.createObjectURL(new Blob([new Uint8Array([0x7f, 0x45, 0x4c, 0x46])]));

async function stage(width = '1000px'): Promise<{
  workbench: LinuxVMWorkbench;
  element: LinuxVMElement;
  worker: FakeWorker;
  settings: SettingsStore;
}> {
  const worker = new FakeWorker();
  const settings = new SettingsStore(forgetful);
  settings.update({ hintSeen: true });
  const workbench = document.createElement('linux-vm-workbench');
  workbench.style.cssText = `width: ${width}; height: 500px`;
  workbench.settings = settings;
  const element = document.createElement('linux-vm');
  element.worker = worker.factory;
  element.kernel = kernel;
  workbench.append(element);
  document.body.append(workbench);
  await element.updateComplete;
  await workbench.updateComplete;
  return { workbench, element, worker, settings };
}

async function running(element: LinuxVMElement, worker: FakeWorker): Promise<void> {
  await element.start();
  worker.machine.print('root@debian:~# ');
  await until('running', () => element.state === 'running');
}

describe('<linux-vm-workbench>', () => {
  afterEach(() => document.querySelectorAll('linux-vm-workbench, linux-vm-status').forEach((e) => e.remove()));

  it('gives the settings to the machine’s element, then and when they change', async () => {
    const { workbench, element, settings } = await stage();
    settings.update({ theme: 'light', fontSize: 18, copyPaste: true });
    await workbench.updateComplete;
    equal(
      [workbench.theme, element.theme, element.fontSize, element.keyboard],
      ['light', 'light', 18, 'option-is-meta copy-paste'],
    );
  });

  it('opens a panel beside the terminal, closes it by Escape, and the focus goes with it', async () => {
    const { workbench } = await stage();
    button(workbench, 'Settings').click();
    await until('the focus', () => workbench.shadowRoot!.activeElement?.id === 'panel-title');
    equal(button(workbench, 'Settings').getAttribute('aria-expanded'), 'true');
    equal(find(workbench, 'linux-vm-consoles').hasAttribute('inert'), false);
    press(find(workbench, '#panel-title'), 'Escape');
    await until('the focus', () => workbench.shadowRoot!.activeElement?.id === 'open-settings');
    equal(workbench.shadowRoot!.querySelector('#panel'), null);
  });

  it('covers the terminal with a panel on a narrow screen, without scrolling sideways', async () => {
    const { workbench } = await stage('360px');
    for (const name of ['Files', 'Disk', 'Snapshots', 'Inspector', 'Share', 'Settings']) {
      button(workbench, name).click();
      await workbench.updateComplete;
      await until('the cover', () => find(workbench, 'linux-vm-consoles').hasAttribute('inert'));
      const scroll = find(workbench, '.scroll');
      if (scroll.scrollWidth > scroll.clientWidth)
        throw new Error(`${name}: ${scroll.scrollWidth} px in ${scroll.clientWidth}`);
    }
  });

  it('takes the keyboard out of the terminal into the tabs by Shift+F6', async () => {
    const { workbench, element, worker } = await stage();
    await running(element, worker);
    await element.terminal.updateComplete;
    const area = element.terminal.shadowRoot!.querySelector('textarea')!;
    area.focus();
    press(area, 'F6', { code: 'F6', keyCode: 117, shiftKey: true });
    await until('the focus', () => find(workbench, 'linux-vm-consoles').shadowRoot!.activeElement?.id === 'tab-0');
  });

  it('shows the first-use hint once', async () => {
    const { workbench, element, worker, settings } = await stage();
    settings.update({ hintSeen: false });
    await running(element, worker);
    await workbench.updateComplete;
    const hint = find(workbench, 'linux-vm-hint');
    button(hint, 'Got it').click();
    await workbench.updateComplete;
    equal([workbench.shadowRoot!.querySelector('linux-vm-hint'), settings.value.hintSeen], [null, true]);
  });

  it('runs a command of an address only when the visitor agrees', async () => {
    const { workbench, element, worker } = await stage();
    const fake = new FakeVM();
    element.start = async () => fake.vm;
    const dialog = find(workbench, 'linux-vm-link-dialog');
    for (const agrees of [false, true]) {
      const following = workbench.follow({ run: 'echo "<b>hi</b>"' });
      await until('the question', () => dialog.shadowRoot && find<HTMLDialogElement>(dialog, 'dialog').open);
      includes(shown(dialog), 'echo "<b>hi</b>"');
      equal(fake.console.written, '');
      button(dialog, agrees ? 'Run it' : 'Don’t').click();
      await following;
    }
    equal(fake.console.written, 'echo "<b>hi</b>"\n');
    equal(worker.machines.length, 0);
  });

  it('says what of an address did not work', async () => {
    const { workbench, element } = await stage();
    const fake = new FakeVM();
    element.start = async () => fake.vm;
    const following = workbench.follow({ files: new Uint8Array([1, 2, 3]), directory: '/root' });
    const dialog = find(workbench, 'linux-vm-link-dialog');
    await until('the question', () => dialog.shadowRoot && find<HTMLDialogElement>(dialog, 'dialog').open);
    button(dialog, 'Go on').click();
    await following;
    await workbench.updateComplete;
    includes(shown(workbench), 'The files in this address are damaged');
  });
});

describe('<linux-vm-status>', () => {
  it('looks at the machine at most twice a second, and shows what it does', async () => {
    const fake = new FakeVM();
    const status = document.createElement('linux-vm-status');
    status.state = 'running';
    status.vm = fake.vm;
    document.body.append(status);
    await new Promise((resolve) => setTimeout(resolve, 2200));
    await until('rates', () => shown(status).includes('MIPS'));
    includes(shown(status), 'Running');
    includes(shown(status), 'Cache 98 %');
    const looks = fake.calls.length;
    if (looks > 5) throw new Error(`${looks} looks`);
    status.remove();
    await new Promise((resolve) => setTimeout(resolve, 1200));
    equal(fake.calls.length, looks);
    fake.state = 'stopped';
  });
});
