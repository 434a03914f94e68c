/// <reference types="mocha" />
import '../../components/linux-vm-disk-panel.ts';
import '../../components/linux-vm-files-panel.ts';
import '../../components/linux-vm-inspector-panel.ts';
import '../../components/linux-vm-settings-panel.ts';
import '../../components/linux-vm-share-panel.ts';
import '../../components/linux-vm-snapshots-panel.ts';
import '../../components/linux-vm-storage-list.ts';
import type { LinuxVMElement } from '../../components/linux-vm.ts';
import type { OfflineDisk, OfflineStatus } from '../../src/offline/disk.ts';
import { SettingsStore } from '../../src/settings.ts';
import { parseLink } from '../../src/share.ts';
import type { SnapshotStore } from '../../src/snapshots.ts';
import type { StoredDisk } from '../../src/storage.ts';
import { FakeVM } from '../fakes/vm.ts';
import { button, equal, find, forgetful, includes, shown, until } from './tools.ts';

type PanelTag = Extract<keyof HTMLElementTagNameMap, `linux-vm-${string}-panel`>;

async function stage<T extends PanelTag>(
  tag: T,
  properties: Partial<HTMLElementTagNameMap[T]> = {},
): Promise<{ panel: HTMLElementTagNameMap[T]; fake: FakeVM }> {
  const fake = new FakeVM();
  const panel = document.createElement(tag);
  Object.assign(panel, { vm: fake.vm }, properties);
  document.body.append(panel);
  await panel.updateComplete;
  return { panel, fake };
}

/** Catches what would go to the visitor's downloads. */
async function downloaded(work: () => void): Promise<{ name: string; text: string }> {
  const { click } = HTMLAnchorElement.prototype;
  try {
    const link = await new Promise<HTMLAnchorElement>((resolve) => {
      HTMLAnchorElement.prototype.click = function (this: HTMLAnchorElement) {
        resolve(this);
      };
      work();
    });
    return { name: link.download, text: await (await fetch(link.href)).text() };
  } finally {
    HTMLAnchorElement.prototype.click = click;
  }
}

function type(panel: HTMLElement, selector: string, text: string): void {
  const input = find<HTMLInputElement>(panel, selector);
  input.value = text;
  input.dispatchEvent(new Event('input', { bubbles: true }));
}

function choose(panel: HTMLElement, selector: string, value: string): void {
  const select = find<HTMLSelectElement>(panel, selector);
  select.value = value;
  select.dispatchEvent(new Event('change', { bubbles: true }));
}

afterEach(() => {
  for (const name of ['disk', 'files', 'inspector', 'settings', 'share', 'snapshots'])
    document.querySelectorAll(`linux-vm-${name}-panel`).forEach((e) => e.remove());
});

describe('<linux-vm-files-panel>', () => {
  const names = (panel: HTMLElement): string[] =>
    [...panel.shadowRoot!.querySelectorAll('.entry')].map((e) => e.textContent!.replace(/\s+/g, ' ').trim());

  it('lists, goes down and up, and to where it is told, and says what is not there', async () => {
    const { panel } = await stage('linux-vm-files-panel');
    await until('a list', () => names(panel).length);
    equal(names(panel), ['Open sub', 'Download hello.txt 5 B']);
    button(panel, 'Open sub').click();
    await until('the directory', () => names(panel)[0] === 'Download inner.txt 5 B');
    button(panel, 'Parent directory').click();
    await until('the parent', () => names(panel).length === 2);
    const go = (path: string): void => {
      find<HTMLInputElement>(panel, 'input[name=path]').value = path;
      find<HTMLFormElement>(panel, 'form').requestSubmit();
    };
    go('/nowhere');
    await until('a failure', () => panel.shadowRoot!.querySelector('[role=alert]'));
    includes(shown(panel), 'no such file or directory (ENOENT)');
    equal(names(panel).length, 2);
    go('//root/../root/./sub/');
    await until('the directory', () => names(panel)[0] === 'Download inner.txt 5 B');
    equal(panel.shadowRoot!.querySelector('[role=alert]'), null);
  });

  it('puts files and directories of a drop into the directory that is shown', async () => {
    const { panel, fake } = await stage('linux-vm-files-panel');
    await until('a list', () => names(panel).length);
    await panel.upload(
      Promise.resolve([
        { path: 'a.txt', file: new File(['alpha'], 'a.txt') },
        { path: 'deep/er/b.txt', file: new File(['beta'], 'b.txt') },
      ]),
    );
    equal(
      [fake.files.get('/root/a.txt'), fake.files.get('/root/deep/er/b.txt'), fake.files.has('/root/deep/er/')],
      ['alpha', 'beta', true],
    );
    await until('the new list', () => names(panel).includes('Download a.txt 5 B'));
    includes(shown(panel), '2 files copied to /root');
  });

  it('takes files out, and directories as tar', async () => {
    const { panel, fake } = await stage('linux-vm-files-panel');
    await until('a list', () => names(panel).length);
    equal(await downloaded(() => button(panel, 'Download hello.txt 5 B').click()), {
      name: 'hello.txt',
      text: 'hello',
    });
    const archive = downloaded(() => button(panel, 'Download sub as tar').click());
    await until('tar', () => fake.shells.length);
    equal(fake.shells[0]!.argv, ['tar', '-C', '/root', '-cf', '-', '--', 'sub']);
    fake.shells[0]!.print('archive');
    fake.shells[0]!.end();
    equal(await archive, { name: 'sub.tar', text: 'archive' });
  });

  it('deletes only after a second click', async () => {
    const { panel, fake } = await stage('linux-vm-files-panel');
    await until('a list', () => names(panel).length);
    button(panel, 'Delete sub').click();
    await panel.updateComplete;
    equal(fake.files.has('/root/sub/'), true);
    button(panel, 'Delete').click();
    await until('the end', () => names(panel).length === 1);
    equal(fake.files.has('/root/sub/inner.txt'), false);
  });
});

describe('<linux-vm-inspector-panel>', () => {
  it('asks while it is open, and not any more afterwards', async () => {
    const { panel, fake } = await stage('linux-vm-inspector-panel');
    await until('processes', () => shown(panel).includes('/sbin/init'));
    equal(shown(panel).includes('kthreadd'), false);
    panel.remove();
    const asked = fake.calls.length;
    await new Promise((resolve) => setTimeout(resolve, 2300));
    equal(fake.calls.length, asked);
  });

  it('shows each of its views', async () => {
    const { panel } = await stage('linux-vm-inspector-panel');
    for (const [view, text] of [
      ['Open files', '/dev/console'],
      ['Mounts', '/dev/vda (rw)'],
      ['Environment', 'PID1'],
      ['Devices', 'There is none.'],
    ] as const) {
      choose(panel, 'select', view);
      await until(view, () => shown(panel).includes(text));
    }
  });
});

describe('<linux-vm-settings-panel>', () => {
  it('changes settings at once and keeps them in bounds', async () => {
    const settings = new SettingsStore(forgetful);
    const { panel } = await stage('linux-vm-settings-panel', { settings });
    choose(panel, 'select[name=theme]', 'light');
    choose(panel, 'select[name=memory]', '1024');
    find<HTMLInputElement>(panel, 'input[name=copyPaste]').click();
    choose(panel, 'input[name=fontSize]', '900');
    const { theme, memory, copyPaste, fontSize } = settings.value;
    equal([theme, memory, copyPaste, fontSize], ['light', 1024, true, 14]);
    equal(find<HTMLInputElement>(panel, 'input[name=fontSize]').value, '14');
  });

  it('offers a restart when the next machine would be another than the one that runs', async () => {
    const settings = new SettingsStore(forgetful);
    const calls: string[] = [];
    const element = {
      memory: 512,
      stop: async () => void calls.push('stop'),
      start: async () => void calls.push('start'),
    } as unknown as LinuxVMElement;
    const startedWith = { memory: 512, keepDisk: false };
    const { panel, fake } = await stage('linux-vm-settings-panel', { settings, element, startedWith });
    equal(shown(panel).includes('Restart now'), false);
    element.memory = 1024; // as the page does
    settings.update({ memory: 1024 });
    await panel.updateComplete;
    button(panel, 'Restart now').click();
    await until('a start', () => calls.length === 2);
    equal([calls, fake.calls], [['stop', 'start'], ['run sync']]);
  });
});

describe('<linux-vm-storage-list>', () => {
  it('tells what is kept, and deletes only after a second click, and not what is in use', async () => {
    const disk = (name: string, inUse: boolean): StoredDisk => ({
      key: `key of ${name}`,
      name,
      storedBytes: 2e6,
      suspendedBytes: inUse ? 0 : 5e7,
      created: new Date(0),
      modified: new Date(0),
      inUse,
    });
    const kept = [disk('debian', true), disk('other', false)];
    const list = document.createElement('linux-vm-storage-list');
    list.calls = {
      estimate: async () => ({ quota: 1e9, usage: 6e7, persisted: false }),
      persist: async () => false,
      list: async () => [...kept],
      delete: async (key) => {
        kept.splice(
          kept.findIndex((one) => one.key === key),
          1,
        );
      },
      export: () => new Blob(['the changes']).stream(),
    };
    document.body.append(list);
    await until('a list', () => list.shadowRoot!.querySelectorAll('li').length === 2);
    includes(shown(list), '2.0 MB of changes, 50 MB of suspended memory');
    equal(button(list, 'Delete the changes to debian').disabled, true);
    button(list, 'Ask to keep it').click();
    await until('an answer', () => shown(list).includes('The browser did not agree'));
    const exports = [...list.shadowRoot!.querySelectorAll<HTMLButtonElement>('li .plain')];
    equal(await downloaded(() => exports[1]!.click()), { name: 'other.diff', text: 'the changes' });
    await until('rest', () => !exports[1]!.disabled);
    button(list, 'Delete the changes to other').click();
    await list.updateComplete;
    equal(kept.length, 2);
    button(list, 'Delete').click();
    await until('its end', () => list.shadowRoot!.querySelectorAll('li').length === 1);
    equal(
      kept.map(({ name }) => name),
      ['debian'],
    );
    list.remove();
  });

  it('says that there is no storage', async () => {
    const list = document.createElement('linux-vm-storage-list');
    const denied = (): never => {
      throw new Error('denied');
    };
    list.calls = { ...list.calls, estimate: async () => denied(), list: async () => denied() };
    document.body.append(list);
    await until('the words', () => shown(list).includes('gives this page no storage'));
    list.remove();
  });
});

describe('<linux-vm-snapshots-panel>', () => {
  function store(): SnapshotStore {
    const list: { id: number; name: string; created: number; bytes: number; state: Blob }[] = [];
    return {
      list: async () => [...list],
      add: async (name: string, state: Blob) => {
        const one = { id: list.length + 1, name, created: 0, bytes: state.size, state };
        list.push(one);
        return one;
      },
      state: async (id: number) => list.find((one) => one.id === id)!.state,
      rename: async (id: number, name: string) => void (list.find((one) => one.id === id)!.name = name),
      delete: async (id: number) =>
        void list.splice(
          list.findIndex((one) => one.id === id),
          1,
        ),
    } as unknown as SnapshotStore;
  }

  it('saves, renames, exports, goes back and deletes', async () => {
    const restored: string[] = [];
    const element = {
      restore: async (state: Blob) => void restored.push(await state.text()),
    } as unknown as LinuxVMElement;
    const { panel } = await stage('linux-vm-snapshots-panel', { store: store(), element });
    type(panel, 'input[name=name]', 'before: the update');
    find<HTMLFormElement>(panel, 'form').requestSubmit();
    await until('it in the list', () => panel.shadowRoot!.querySelector('li'));
    includes(shown(panel), 'Saved “before: the update”');
    equal(await downloaded(() => button(panel, 'Export before: the update').click()), {
      name: 'before- the update.linuxvm',
      text: 'LINUXVM state',
    });
    button(panel, 'Rename before: the update').click();
    await panel.updateComplete;
    type(panel, 'li input', 'after');
    find<HTMLFormElement>(panel, 'li form').requestSubmit();
    await until('the new name', () => panel.shadowRoot!.querySelector('[aria-label="Restore after"]'));
    await until('rest', () => !button(panel, 'Restore after').disabled);
    button(panel, 'Restore after').click();
    await panel.updateComplete;
    equal(restored, []);
    button(panel, 'Go back').click();
    await until('the restore', () => restored.length);
    equal(restored, ['LINUXVM state']);
    button(panel, 'Delete after').click();
    await panel.updateComplete;
    button(panel, 'Delete').click();
    await until('an empty list', () => !panel.shadowRoot!.querySelector('li'));
  });

  it('says that a store refuses', async () => {
    const refusing = {
      list: async () => {
        throw new Error('This browser keeps no snapshots');
      },
    } as unknown as SnapshotStore;
    const { panel } = await stage('linux-vm-snapshots-panel', { store: refusing });
    await until('the reason', () => shown(panel).includes('This browser keeps no snapshots'));
  });
});

describe('<linux-vm-share-panel>', () => {
  it('makes an address with the command and the files of a directory', async () => {
    const element = { memory: 256, disk: 'disks/debian/manifest.json', dataset: {} } as unknown as LinuxVMElement;
    const settings = new SettingsStore(forgetful);
    settings.update({ theme: 'dark' });
    const { panel, fake } = await stage('linux-vm-share-panel', { element, settings });
    type(panel, 'input[name=command]', 'python3 a.py && echo "ü"');
    find<HTMLInputElement>(panel, 'input[name=withFiles]').click();
    find<HTMLInputElement>(panel, 'input[name=withTheme]').click();
    await panel.updateComplete;
    type(panel, 'input[name=directory]', '/root/work');
    button(panel, 'Make the address').click();
    await until('an address', () => panel.shadowRoot!.querySelector('textarea'));
    const link = parseLink(find<HTMLTextAreaElement>(panel, 'textarea').value);
    equal(
      [link.memory, link.disk, link.theme, link.run, link.directory],
      ['256', 'disks/debian/manifest.json', 'dark', 'python3 a.py && echo "ü"', '/root/work'],
    );
    equal(
      [link.files!.length > 0, fake.calls],
      [true, ['run tar -C /root/work --sort=name --owner=0 --group=0 -cf - .']],
    );
    type(panel, 'input[name=command]', 'other');
    await panel.updateComplete;
    equal(panel.shadowRoot!.querySelector('textarea'), null); // the old address would be wrong
  });
});

describe('<linux-vm-disk-panel>', () => {
  it('shows counters, and downloads for offline use with pause and failure', async () => {
    let listener: (status: OfflineStatus) => void = () => undefined;
    const calls: string[] = [];
    const status: OfflineStatus = { state: 'absent', files: 0, totalFiles: 4, bytes: 0, estimatedBytes: 8e6 };
    const disk = {
      status,
      on: (told: typeof listener) => {
        listener = told;
        return () => calls.push('unlistened');
      },
      download: async () => void calls.push('download'),
      pause: () => calls.push('pause'),
    } as unknown as OfflineDisk;
    const { panel } = await stage('linux-vm-disk-panel', { offline: Promise.resolve(disk) });
    await until('the offer', () => shown(panel).includes('about 8.0 MB'));
    await until('counters', () => shown(panel).includes('Found in memory 98 %'));
    button(panel, 'Make available offline').click();
    listener({ ...status, state: 'downloading', bytes: 2e6 });
    await panel.updateComplete;
    equal(find<HTMLProgressElement>(panel, 'progress').value, 0.25);
    button(panel, 'Pause').click();
    listener({ ...status, state: 'failed', bytes: 3e6, error: new Error('the server is gone') });
    await panel.updateComplete;
    includes(shown(panel), 'the server is gone');
    button(panel, 'Try again').click();
    listener({ ...status, state: 'complete', bytes: 8e6 });
    await panel.updateComplete;
    includes(shown(panel), 'works without a network');
    panel.remove();
    equal(calls, ['download', 'pause', 'download', 'unlistened']);
  });

  it('resets only after a second click', async () => {
    const { panel, fake } = await stage('linux-vm-disk-panel');
    let resets = 0;
    let starts = 0;
    Object.assign(fake, { disk: { reset: async () => void resets++ }, exited: Promise.resolve({}) });
    panel.element = { start: async () => void starts++ } as unknown as LinuxVMElement;
    button(panel, 'Reset').click();
    await panel.updateComplete;
    equal(resets, 0);
    button(panel, 'Reset the disk').click();
    await until('a start', () => starts === 1);
    equal(resets, 1);
  });
});
