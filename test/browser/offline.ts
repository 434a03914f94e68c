import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { chromium } from 'playwright-core';
import { build } from 'vite';
import type { DiskManifest } from '../../emulator/disk/manifest.ts';
import type { LinuxVM } from '../../src/index.ts';
import type { OfflineDisk } from '../../src/offline/disk.ts';
import {
  BOOT,
  check,
  CHROMIUM,
  CHROMIUM_ARGS,
  complaints,
  DISK,
  journey,
  prompt,
  serveSite,
  SITE,
  type,
  until,
} from './site.ts';

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

/** The disk with a compiler. */
const DEV = 'disks/debian-dev/manifest.json';

/**
 * The site without its server: a visit, the disk made available offline, the server stopped, a session that goes on from
 * the disk's snapshot, computes, compiles, and finds its files after a reload. A profile on disk, as visitors have one; the
 * private one of other journeys keeps everything in memory. Needs `npm run disk -- debian debian-dev`.
 */
async function main(): Promise<void> {
  const profile = await mkdtemp(join(tmpdir(), 'offline-profile-'));
  // What lies here is served before the built site.
  const newer = await mkdtemp(join(tmpdir(), 'offline-site-'));
  const host = await serveSite('/some/where/', [
    { path: '/some/where/disks/debian-dev/', directory: resolve(DISK, '../debian-dev') },
    { path: '/some/where/', directory: newer },
  ]);
  const address = `${host.address}?disk=${DEV}`;
  const context = await chromium.launchPersistentContext(profile, { executablePath: CHROMIUM, args: CHROMIUM_ARGS });
  try {
    const page = await context.newPage();
    const errors = complaints(page);

    await check('the service worker takes the page over on the first visit', async () => {
      await page.goto(address);
      await page.waitForFunction(() => navigator.serviceWorker.controller !== null, undefined, { timeout: 60_000 });
    });

    await check('what the machine read before that is kept, too', async () => {
      await until(page, 'the snapshot in a cache', 30_000, () =>
        page.evaluate(async (manifest) => {
          const kept = await caches.match(manifest);
          if (!kept) return false;
          const { snapshot } = (await kept.json()) as DiskManifest;
          return (
            (await caches.match(new URL(snapshot!.state.url, new URL(manifest, document.baseURI)).href)) !== undefined
          );
        }, DEV),
      );
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
      const outcome = await page.evaluate(async (manifest) => {
        const { OfflineDisk: Disk } = globalThis as unknown as { OfflineDisk: typeof OfflineDisk };
        const disk = (await Disk.open(new URL(manifest, document.baseURI).href))!;
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
      }, DEV);
      const { states, paused, status } = outcome;
      if (states.join() !== 'absent,AbortError,partial' || !paused) throw new Error(`${states.join()}, ${paused}`);
      if (status.state !== 'complete' || status.files !== status.totalFiles) throw new Error(JSON.stringify(status));
    });

    /** Bytes of the raw image, as a machine on one asks for them. */
    const raw = (range: string): Promise<string> =>
      page.evaluate(async (wanted) => {
        const response = await fetch('disks/debian/debian.ext2', { headers: { range: wanted } });
        const bytes = new Uint8Array(await response.arrayBuffer());
        const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
        return `${response.status} ${response.headers.get('content-range')} ${bytes.length} ${digest.join()}`;
      }, range);
    const ranges = ['bytes=0-511', 'bytes=131072-262143', 'bytes=0-131071'];
    const online: string[] = [];
    for (const range of ranges) online.push(await raw(range));

    await check('a new version waits while a machine runs, and takes over when it does not', async () => {
      const takeOver = (): Promise<string> =>
        page.evaluate(async () => {
          const { waiting } = (await navigator.serviceWorker.getRegistration())!;
          const { port1, port2 } = new MessageChannel();
          const answer = new Promise<string>((resolve) => (port1.onmessage = ({ data }) => resolve(data as string)));
          waiting!.postMessage({ type: 'linux-vm-take-over' }, [port2]);
          return answer;
        });
      writeFileSync(join(newer, 'sw.js'), `${readFileSync(join(SITE, 'sw.js'), 'utf8')}\n// newer`);
      await page.evaluate(async () => (await navigator.serviceWorker.getRegistration())!.update());
      const waits = (): Promise<boolean> =>
        page.evaluate(async () => (await navigator.serviceWorker.getRegistration())!.waiting !== null);
      await until(page, 'the new version', 30_000, waits);
      const first = await takeOver();
      if (first !== 'machine-running') throw new Error(`with a machine it answers ${first}`);
      await page.evaluate(() => document.querySelector<HTMLElement & { stop(): Promise<void> }>('linux-vm')!.stop());
      const loaded = page.waitForEvent('load', { timeout: 30_000 });
      const second = await takeOver();
      if (second !== 'reloading') throw new Error(`without a machine it answers ${second}`);
      await loaded;
      if (await waits()) throw new Error('it still waits');
    });

    await host.stop();
    await check('blocks of a raw image are kept', async () => {
      for (const [i, range] of ranges.entries()) {
        const offline = await raw(range);
        if (offline !== online[i]) throw new Error(`${range}: ${online[i]} became ${offline}`);
      }
    });
    const origin = (): Promise<LinuxVM['origin'] | undefined> =>
      page.evaluate(() => document.querySelector<HTMLElement & { vm?: LinuxVM }>('linux-vm')!.vm?.origin);
    const session = async (from: RegExp): Promise<void> => {
      await until(page, 'a prompt', BOOT, () => prompt(page));
      const began = await origin();
      if (!from.test(began?.from ?? '')) throw new Error(`it began with ${began?.from}, not ${from}: ${began?.note}`);
      await type(page, "python3 -c 'print(2**100)'", /\n1267650600228229401496703205376\s/);
    };
    await check('goes on from the snapshot without the server, runs python3, compiles and runs a program', async () => {
      await page.goto(address);
      await session(/^(snapshot|kernel)$/);
      await type(
        page,
        'echo \'int main(void) { return puts("made here") < 0; }\' > a.c && gcc -w -O2 -include stdio.h -o a a.c && ./a && sync && echo ke""pt',
        /\nmade here\s+kept\s/,
      );
    });
    await check('has its files after a reload without the server, and goes on with them', async () => {
      await page.reload();
      await session(/^kernel$/);
      await type(
        page,
        './a && sed s/made/remade/ a.c > b.c && make CFLAGS="-w -include stdio.h" b && ./b',
        /\nremade here\s/,
      );
    });

    await check('complains of nothing', async () => {
      if (errors.length) throw new Error(errors.join('; '));
    });
  } finally {
    await context.close();
    for (const folder of [profile, newer]) rmSync(folder, { recursive: true, force: true });
  }
}

await journey(main);
