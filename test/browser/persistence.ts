import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Page } from 'playwright-core';
import type { DiskManifest } from '../../emulator/disk/manifest.ts';
import type { LinuxVM } from '../../src/index.ts';
import {
  BOOT,
  check,
  COMMAND,
  complaints,
  DISK,
  journey,
  launch,
  prompt,
  serveSite,
  state,
  type,
  until,
} from './site.ts';

/**
 * What a visitor has written is there when they come back; a second tab is told; a machine is suspended and goes on; a
 * full browser and a new version of the disk are told and survived.
 */
interface Element extends HTMLElement {
  vm?: LinuxVM;
  suspend: boolean;
  start(): Promise<LinuxVM>;
}

const mode = (page: Page): Promise<string | undefined> =>
  page.evaluate(async () => (await document.querySelector<Element>('linux-vm')!.vm?.disk.status())?.mode);
const button = (page: Page, name: string): Promise<void> =>
  page.getByRole('button', { name }).click({ timeout: COMMAND });
const booted = (page: Page): Promise<void> => until(page, 'a prompt', BOOT, () => prompt(page));
const started = (page: Page): Promise<void> =>
  until(page, 'the start', BOOT, async () => ['booting', 'running'].includes(await state(page)));

async function main(): Promise<void> {
  const newer = mkdtempSync(join(tmpdir(), 'persistence-'));
  const host = await serveSite('/some/where/', [{ path: '/some/where/disks/debian/', directory: newer }]);
  const browser = await launch();
  const context = await browser.newContext({ viewport: { width: 1000, height: 700 } });
  try {
    let page = await context.newPage();
    const errors = complaints(page);
    await page.goto(host.address);
    await booted(page);

    await check('what the guest writes is kept, once there is something', async () => {
      await type(page, 'echo kept for later > /root/note; sync; echo wri""tten', /\nwritten\s/);
      const status = await page.evaluate(async () => {
        const { vm } = document.querySelector<Element>('linux-vm')!;
        await vm!.disk.flush();
        return vm!.disk.status();
      });
      if (status?.mode !== 'exclusive' || !status.storedBytes) throw new Error(JSON.stringify(status));
    });

    const second = await context.newPage();
    await check('a second tab is told, and can look without keeping', async () => {
      await second.goto(host.address);
      await button(second, 'Open without saving');
      await started(second);
      const is = await mode(second);
      if (is !== 'read-only') throw new Error(`it is ${is}`);
      if ((await mode(page)) !== 'exclusive') throw new Error('the first tab has lost its storage');
    });

    await check('it can take over: the first tab says so, and the file is there', async () => {
      await second.goto(host.address);
      await button(second, 'Take over');
      await until(page, 'the end', COMMAND, async () => (await state(page)) === 'error');
      await page.getByText('Another tab took this machine over').waitFor({ timeout: COMMAND });
      if (errors.length) throw new Error(errors.join('; '));
      await page.close();
      page = second;
      await booted(page);
      await type(page, 'cat /root/note', /\nkept for later\s/);
    });

    await check('a hidden page keeps the machine, which goes on where it was', async () => {
      await type(page, 'sync; answer=42; echo s""et', /\nset\s/);
      await page.evaluate(() => {
        document.querySelector<Element>('linux-vm')!.suspend = true;
        Object.defineProperty(document, 'visibilityState', { value: 'hidden', configurable: true });
        document.dispatchEvent(new Event('visibilitychange'));
      });
      await until(page, 'the suspended machine', COMMAND, () =>
        page.evaluate(async () => {
          const status = await document.querySelector<Element>('linux-vm')!.vm!.disk.status();
          return status?.suspendedBytes !== undefined && status.dirtyBytes === 0;
        }),
      );
      const began = performance.now();
      await page.evaluate(async () => {
        Object.defineProperty(document, 'visibilityState', { value: 'visible', configurable: true });
        const element = document.querySelector<Element>('linux-vm')!;
        await element.vm!.stop();
        await element.start();
      });
      await type(page, 'echo the answer is $answer', /\nthe answer is 42\s/);
      process.stdout.write(`     back after ${((performance.now() - began) / 1000).toFixed(1)} s\n`);
      await page.evaluate(() => (document.querySelector<Element>('linux-vm')!.suspend = false));
    });

    await check('a full browser is "No space left on device" in the guest, and space that comes is used', async () => {
      const session = await context.newCDPSession(page);
      const { usage } = await session.send('Storage.getUsageAndQuota', { origin: new URL(host.address).origin });
      const limit = (quotaSize?: number): Promise<unknown> =>
        session.send('Storage.overrideQuotaForOrigin', { origin: new URL(host.address).origin, quotaSize });
      const reserved = (): Promise<number> =>
        page.evaluate(async () => {
          const { vm } = document.querySelector<Element>('linux-vm')!;
          const { stdout } = await vm!.run(['cat', '/sys/fs/ext4/vda/reserved_clusters']);
          return Number(new TextDecoder().decode(stdout));
        });
      await limit(usage + (4 << 20));
      // Chromium goes by what it last knew of the space for up to 30 s.
      await new Promise((done) => setTimeout(done, 35_000));
      await type(page, 'dd if=/dev/urandom of=/big bs=1M count=200 oflag=dsync', /No space left on device/);
      await type(page, 'sync && dmesg | grep -c "I/O error"', /\n0\s/);
      await type(page, 'rm /big; cat /root/note', /\nkept for later\s/);
      await limit();
      await until(page, 'the end of the guard', COMMAND, async () => (await reserved()) === 0);
      await type(page, 'head -c 3000000 /dev/urandom > /more && sync && echo go""es on', /\ngoes on\s/);
    });

    await check('a new version of the disk is a question, and the old one can be kept', async () => {
      mkdirSync(newer, { recursive: true });
      const manifest = JSON.parse(readFileSync(join(DISK, 'manifest.json'), 'utf8')) as DiskManifest;
      // The last piece becomes another.
      const pieces = manifest.chunks.flatMap((chunk, i) => (chunk ? [i] : []));
      manifest.chunks[pieces.at(-1)!] = manifest.chunks[pieces[0]!]!;
      writeFileSync(join(newer, 'manifest.json'), JSON.stringify(manifest));
      cpSync(join(DISK, 'initramfs.gz'), join(newer, 'initramfs.gz'));
      await page.evaluate(async () => document.querySelector<Element>('linux-vm')!.vm!.stop());
      await page.reload();
      await page.getByText('The disk has a new version').waitFor({ timeout: COMMAND });
      await button(page, 'Go on with the old version');
      await booted(page);
      await type(page, 'cat /root/note', /\nkept for later\s/);
    });
  } finally {
    await browser.close();
    await host.stop();
    rmSync(newer, { recursive: true, force: true });
  }
}

await journey(main);
