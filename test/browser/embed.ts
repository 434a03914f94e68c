import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { Frame, Page } from 'playwright-core';
import type { LinuxVM } from '../../src/index.ts';
import { BOOT, check, complaints, journey, launch, serveSite } from './site.ts';

/**
 * The machine in other people's pages: the examples; the package's modules from another origin, as from a CDN; a sandboxed
 * frame without storage; a program written for CheerpX. Needs `npm run build:package` as well.
 */
interface Element extends HTMLElement {
  vm?: LinuxVM;
  state: string;
}

/** Pages that an embedder might write; CDN stands for the other origin. */
const PAGES: Record<string, string> = {
  'element.html': `<!doctype html><title>element</title><link rel="icon" href="data:," /><script type="module" src="CDN/linux-vm.js"></script>
    <linux-vm disk="CDN/disks/debian/manifest.json" memory="256" storage-key="frame" autostart></linux-vm>`,
  'frame.html': `<!doctype html><title>frame</title><link rel="icon" href="data:," />
    <iframe sandbox="allow-scripts" src="element.html" width="800" height="500"></iframe>`,
  'cheerpx.html': `<!doctype html><title>cheerpx</title><link rel="icon" href="data:," /><script type="module">
    import * as CheerpX from 'CDN/cheerpx.js';
    addEventListener('unhandledrejection', ({ reason }) => { globalThis.outcome = String(reason); });
    addEventListener('error', ({ message }) => { globalThis.outcome = message; });
    const image = await CheerpX.HttpBytesDevice.create('CDN/disks/debian/debian.ext2');
    const overlay = await CheerpX.OverlayDevice.create(image, await CheerpX.IDBDevice.create('cheerpx'));
    const data = await CheerpX.DataDevice.create();
    await data.writeFile('/hello.txt', 'from the page');
    const cx = await CheerpX.Linux.create({ memory: 256, mounts: [
      { type: 'ext2', path: '/', dev: overlay },
      { type: 'dir', path: '/data', dev: data },
      { type: 'devs', path: '/dev' },
    ] });
    let shown = '';
    const send = cx.setCustomConsole((bytes) => { shown += new TextDecoder().decode(bytes); }, 60, 20);
    const ended = cx.run('/bin/sh', ['-c', 'cat /data/hello.txt; stty size; read x; echo "$NAME $x"; exit 3'], { env: ['NAME=a=b'] });
    for (const c of 'w\u00f6rld\\n') send(c.charCodeAt(0));
    globalThis.outcome = JSON.stringify([(await ended).status, shown.replace(/\\s+/g, ' ')]);
    </script>`,
};

const running = (where: Page | Frame): Promise<unknown> =>
  where.waitForFunction(
    () => {
      const elements = [...document.querySelectorAll<Element>('linux-vm')];
      const failed = elements.find(({ state }) => state === 'error' || state === 'stopped');
      if (failed) throw new Error(failed.shadowRoot!.textContent!);
      return elements.length > 0 && elements.every(({ state }) => state === 'running');
    },
    undefined,
    { timeout: BOOT },
  );

async function main(): Promise<void> {
  const pages = mkdtempSync(join(tmpdir(), 'embed-'));
  // Modules and disks of another origin need its consent, which CDNs give.
  const cdn = await serveSite('/', [{ path: '/', directory: resolve('build/package/cdn') }], {
    headers: { 'access-control-allow-origin': '*' },
  });
  const host = await serveSite('/site/', [{ path: '/', directory: pages }]);
  const origin = new URL(host.address).origin;
  for (const [name, html] of Object.entries(PAGES))
    writeFileSync(join(pages, name), html.replaceAll('CDN', new URL(cdn.address).origin));
  const browser = await launch();
  const open = async (address: string): Promise<{ page: Page; errors: string[] }> => {
    const page = await (await browser.newContext()).newPage();
    const errors = complaints(page);
    await page.goto(address);
    return { page, errors };
  };
  const close = async ({ page, errors }: { page: Page; errors: string[] }): Promise<void> => {
    await page.context().close();
    if (errors.length) throw new Error(errors.join('; '));
  };
  try {
    await check('example: a lesson runs what the reader wrote', async () => {
      const view = await open(`${host.address}examples/lesson.html`);
      await running(view.page);
      await view.page.getByLabel('Your program').fill('print(2 ** 100)');
      await view.page.getByRole('button', { name: 'Run' }).click();
      await view.page.getByText('That is right.').waitFor({ timeout: BOOT });
      await close(view);
    });

    await check('example: a file goes through a program', async () => {
      const view = await open(`${host.address}examples/files.html`);
      const buffer = Buffer.from('b\na\nb\n');
      await view.page.getByLabel('File').setInputFiles({ name: 'a.txt', mimeType: 'text/plain', buffer });
      await view.page.getByLabel('What to do').selectOption('Count equal lines');
      await view.page.getByRole('button', { name: 'Start' }).click();
      await view.page.getByText('Done:').waitFor({ timeout: BOOT });
      const result = await view.page.getByLabel('Result').textContent();
      if (result?.replace(/\s+/g, ' ').trim() !== '2 b 1 a') throw new Error(`it gave ${result}`);
      await close(view);
    });

    await check('example: two machines know nothing of each other', async () => {
      const view = await open(`${host.address}examples/two.html`);
      await running(view.page);
      const results = await view.page.evaluate(async () => {
        const [a, b] = [...document.querySelectorAll<Element>('linux-vm')].map(({ vm }) => vm!);
        await a!.fs.writeFile('/root/only-here', new Uint8Array(1));
        const lists = await Promise.all([a!, b!].map((vm) => vm.run(['ls', '/root'])));
        return lists.map(({ stdout }) => new TextDecoder().decode(stdout).trim());
      });
      if (results.join('|') !== 'only-here|') throw new Error(results.join('|'));
      await close(view);
    });

    await check('runs from another origin', async () => {
      const view = await open(`${origin}/element.html`);
      await running(view.page);
      const mode = await view.page.evaluate(() => document.querySelector<Element>('linux-vm')!.vm!.storage?.mode);
      if (mode !== 'exclusive') throw new Error(`its storage is ${mode}`);
      await close(view);
    });

    await check('runs in a sandboxed frame, and keeps nothing', async () => {
      const view = await open(`${origin}/frame.html`);
      const frame = view.page.frames()[1]!;
      await running(frame);
      const [mode, printed] = await frame.evaluate(async () => {
        const { vm } = document.querySelector<Element>('linux-vm')!;
        const { stdout } = await vm!.run(['uname', '-m']);
        return [vm!.storage?.mode, new TextDecoder().decode(stdout)];
      });
      if (mode !== 'ephemeral' || printed !== 'x86_64\n') throw new Error(`${mode}, ${printed}`);
      await close(view);
    });

    await check('a program for CheerpX runs, from another origin and a raw image', async () => {
      const view = await open(`${origin}/cheerpx.html`);
      const outcome = await view.page.waitForFunction(
        () => (globalThis as unknown as { outcome?: string }).outcome,
        undefined,
        { timeout: BOOT },
      );
      const text = await outcome.jsonValue();
      // Where the terminal echoes what was typed ahead depends on when the program was there.
      if (!/^\[3,.*from the page20 60 .*a=b wörld "\]$/.test(text ?? '')) throw new Error(text);
      await close(view);
    });
  } finally {
    await browser.close();
    await Promise.all([host.stop(), cdn.stop()]);
    rmSync(pages, { recursive: true });
  }
}

await journey(main);
