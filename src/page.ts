// First: it loads while the others do.
import { spareWorker } from './spare-worker.ts';

import type { LinuxVMElement } from '../components/linux-vm.ts';
import '../components/linux-vm.ts';
import '../components/linux-vm-workbench.ts';
import { isTheme } from '../components/theme.ts';
import { takeInstallPrompt } from './offline/install.ts';
import { registerServiceWorker } from './offline/updates.ts';
import { SettingsStore } from './settings.ts';
import { type Link, parseLink } from './share.ts';

/** Milliseconds that a machine has for its start before anything else is fetched, and that its first echo has then. */
const LONGEST_START = 20_000;
const AFTER_START = 250;

/**
 * The hosted page. Its address may say which machine it is (`?disk=…&memory=1024&storage=none`) and what to do in it
 * (`#run=…`, see share.ts); what it leaves open, the visitor's settings say.
 */
const workbench = document.querySelector('linux-vm-workbench');
const element = document.querySelector('linux-vm');
takeInstallPrompt();
if (workbench && element) {
  const link = parseLink(location.href);
  const settings = new SettingsStore();
  if (isTheme(link.theme)) settings.override({ theme: link.theme });
  element.worker = () => spareWorker.take();
  element.memory = settings.value.memory;
  element.dataset['disk'] = element.getAttribute('disk') ?? '';
  for (const name of ['disk', 'kernel', 'initrd', 'cmdline', 'memory', 'tier', 'boot'] as const)
    if (link[name]) element.setAttribute(name, link[name]);
  if (link.screenReader) settings.override({ screenReader: true });
  const key = storageKey(link, element.getAttribute('disk'));
  if (key && settings.value.keepDisk) element.setAttribute('storage-key', key);
  element.toggleAttribute('suspend', settings.value.suspend && key !== undefined);
  settings.addEventListener('change', () => {
    if (key && settings.value.keepDisk) element.setAttribute('storage-key', key);
    else element.removeAttribute('storage-key');
    element.toggleAttribute('suspend', settings.value.suspend && key !== undefined);
    if (!link.memory) element.memory = settings.value.memory;
    colourPage(settings);
  });
  colourPage(settings);
  if (link.state) element.removeAttribute('autostart');
  workbench.settings = settings;
  void workbench.follow(link);
  // An address that differs only in its fragment does not load the page anew.
  addEventListener('hashchange', () => {
    const { run, files, directory } = parseLink(location.href);
    void workbench.follow({ run, files, directory });
  });

  /** The page works without its server from the second visit on. */
  const updates = registerServiceWorker(started(element), element.disk);
  updates.on(({ available }) => {
    if (!available) return;
    workbench.tell({
      text: 'A new version of this page is ready.',
      action: {
        label: 'Reload',
        run: () => {
          void updates.apply().then((answer) => {
            if (answer === 'machine-running')
              workbench.tell({
                text: 'The new version comes when no machine runs: power off, here and in other tabs.',
              });
          });
        },
      },
    });
  });
}

/** Resolves when the machine has started, has failed to, or has had its time for it. */
function started(element: LinuxVMElement): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, LONGEST_START);
    element.addEventListener('vm-state', ({ detail }) => {
      if (detail.state !== 'loading' && detail.state !== 'booting') setTimeout(resolve, AFTER_START);
    });
  });
}

/**
 * The name under which what is written to the disk is kept, one for each disk of this site. Nothing is kept for an
 * address that brings a disk or a kernel of its own: what it does is not to change what was kept here.
 */
function storageKey({ kernel, initrd, cmdline, state, storage }: Link, disk: string | null): string | undefined {
  if (kernel || initrd || cmdline || state || storage === 'none' || !disk) return undefined;
  const url = new URL(disk, document.baseURI);
  if (url.origin !== location.origin) return undefined;
  const here = new URL('.', document.baseURI).pathname;
  const path = url.pathname.startsWith(here) ? url.pathname.slice(here.length) : url.pathname;
  return `page-${path.replace(/\/manifest\.json$/, '').replace(/[^\w.-]+/g, '-')}`.slice(0, 200);
}

/** The page's own background, before and around the workbench. */
function colourPage(settings: SettingsStore): void {
  document.documentElement.dataset['theme'] = settings.value.theme;
}
