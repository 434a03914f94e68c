import { existsSync, rmSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { build } from 'vite';
import type { OfflineDisk } from '../../src/offline/disk.ts';
import { BOOT, check, CHROMIUM, CHROMIUM_ARGS, complaints, journey, prompt, serveSite, type, until } from './site.ts';

/** A module of ours as a script that puts its exports into the page. */
async function bundle(entry: string): Promise<string> {
  const result = await build({
    configFile: false,
    logLevel: 'warn',
    build: { write: false, lib: { entry, formats: ['iife'], name: 'exported' } },
  });
  const [{ output }] = result as unknown as [{ output: [{ code: string }] }];
  return `${output[0].code}; Object.assign(globalThis, exported);`;
}

/**
 * The site without its server: a visit, the disk made available offline, the server stopped, a session with a reload.
 * A profile on disk, as visitors have one; the private one of other journeys keeps everything in memory.
 */
async function main(): Promise<void> {
  const host = await serveSite();
  const profile = await mkdtemp(join(tmpdir(), 'offline-'));
  const context = await chromium.launchPersistentContext(profile, { executablePath: CHROMIUM, args: CHROMIUM_ARGS });
  try {
    const page = await context.newPage();
    const errors = complaints(page);

    await check('the service worker takes the page over on the first visit', async () => {
      await page.goto(host.address);
      await page.waitForFunction(() => navigator.serviceWorker.controller !== null, undefined, { timeout: 60_000 });
    });

    await check('can be installed', async () => {
      const session = await context.newCDPSession(page);
      const { errors: problems } = await session.send('Page.getAppManifest');
      if (problems.length) throw new Error(problems.map(({ message }) => message).join('; '));
      const { installabilityErrors } = await session.send('Page.getInstallabilityErrors');
      // This browser's profile is private in the eyes of that check, and nothing else may be wrong.
      const others = installabilityErrors.map(({ errorId }) => errorId).filter((id) => id !== 'in-incognito');
      if (others.length) throw new Error(others.join(', '));
    });

    await check('makes the disk available offline, with a pause', async () => {
      await page.evaluate(await bundle('src/offline/disk.ts'));
      const outcome = await page.evaluate(async () => {
        const { OfflineDisk: Disk } = globalThis as unknown as { OfflineDisk: typeof OfflineDisk };
        const disk = (await Disk.open(new URL('disks/debian/manifest.json', document.baseURI).href))!;
        const states: string[] = [disk.status.state];
        const first = disk.download().catch((error: Error) => error.name);
        await new Promise<void>((resolve) => {
          const off = disk.on(({ files }) => {
            if (files > 20) {
              off();
              resolve();
            }
          });
        });
        await disk.pause();
        states.push(String(await first), disk.status.state);
        const { files } = disk.status;
        await disk.download();
        return { states, paused: files > 20 && files < disk.status.totalFiles, status: disk.status };
      });
      const { states, paused, status } = outcome;
      if (states.join() !== 'absent,AbortError,partial' || !paused) throw new Error(`${states.join()}, ${paused}`);
      if (status.state !== 'complete' || status.files !== status.totalFiles) throw new Error(JSON.stringify(status));
    });

    await host.stop();
    let asked = 0;
    page.on('requestfailed', () => asked++);

    for (const time of ['first', 'second'])
      await check(`boots a ${time} time without the server and runs python3`, async () => {
        await (time === 'first' ? page.goto(`${host.address}?memory=256`) : page.reload());
        await until(page, 'a prompt', BOOT, () => prompt(page));
        await type(page, "python3 -c 'print(2**100)'", /\n1267650600228229401496703205376\s/);
      });

    await check('complains of nothing', async () => {
      if (errors.length) throw new Error(errors.join('; '));
      if (asked) throw new Error(`${asked} requests failed`);
    });
  } finally {
    await context.close();
    if (existsSync(profile)) rmSync(profile, { recursive: true, force: true });
  }
}

await journey(main);
