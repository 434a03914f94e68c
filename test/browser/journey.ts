import { readFileSync } from 'node:fs';
import type { LinuxVM } from '../../src/index.ts';
import { BOOT, check, COMMAND, complaints, journey, launch, prompt, serveSite, state, type, until } from './site.ts';

/**
 * The page as a visitor meets it: the built site under a sub-path of a plain static server, Debian's Chromium, keys
 * typed and the screen read. Needs `npm run build` and `npm run disk -- debian`.
 */
interface Element extends HTMLElement {
  vm?: LinuxVM;
  state: string;
}

async function main(): Promise<void> {
  const host = await serveSite();
  const browser = await launch();
  try {
    const page = await browser.newPage({ viewport: { width: 1000, height: 700 } });
    const errors = complaints(page);
    let ripened = false;
    page.on('worker', (worker) => {
      if (worker.url().endsWith('#linux-vm-ripen')) worker.on('close', () => (ripened = true));
    });
    const warnings: string[] = [];
    page.on('console', (message) => void (message.type() === 'warning' && warnings.push(message.text())));
    const beginsFrom = async (expected: string): Promise<void> => {
      const origin = await page.evaluate(() => document.querySelector<Element>('linux-vm')!.vm!.origin);
      if (origin.from !== expected) throw new Error(`it began from ${origin.from}: ${origin.note ?? 'no note'}`);
    };
    await check('comes to a prompt, from the snapshot of the disk', async () => {
      const began = performance.now();
      await page.goto(host.address);
      await until(page, 'a prompt', BOOT, () => prompt(page));
      process.stdout.write(`     seconds to the prompt: ${((performance.now() - began) / 1000).toFixed(1)}\n`);
      await beginsFrom('snapshot');
    });
    const { disk, kernelBytes } = await page.evaluate(() => document.querySelector<Element>('linux-vm')!.vm!.stats());
    process.stdout.write(
      `     before the prompt: ${(disk!.fetchedBytes / 1e6).toFixed(1)} MB of disk, ${(kernelBytes / 1e6).toFixed(1)} MB of kernel\n`,
    );
    await check('runs python3', () => type(page, "python3 -c 'print(2**100)'", /\n1267650600228229401496703205376\s/));
    await check("fetches chunks in a thread of their own, beside the processor's", async () => {
      const all = await page.evaluate(async () => {
        const { disk, snapshot } = await document.querySelector<Element>('linux-vm')!.vm!.stats();
        return disk!.fetches + snapshot!.chunks;
      });
      let own: number | undefined;
      for (const worker of page.workers()) {
        const [name, chunks] = await worker.evaluate((): [string, number] => [
          (globalThis as unknown as { name: string }).name,
          performance.getEntriesByType('resource').filter((entry) => entry.name.includes('/chunks/')).length,
        ]);
        if (name === 'linux-vm') own = chunks;
      }
      if (!(own !== undefined && all > 20 && own < all / 4)) throw new Error(`of ${all} it fetched ${own} itself`);
    });
    await check('optimizes code ahead in a thread that then ends', async () => {
      await until(page, 'such a thread', COMMAND, () => Promise.resolve(ripened));
      const trouble = warnings.filter((text) => / ahead: /.test(text));
      if (trouble.length) throw new Error(trouble.join('; '));
    });
    await check('lists packages', () =>
      type(page, 'apt list --installed 2>/dev/null | grep ^bash/', /\nbash\/.*installed/),
    );
    await check('runs programs through the agent', async () => {
      const result = await page.evaluate(async () => {
        const { status, stdout } = await document.querySelector<Element>('linux-vm')!.vm!.run(['uname', '-sm']);
        return `${status} ${new TextDecoder().decode(stdout)}`;
      });
      if (result !== '0 Linux x86_64\n') throw new Error(`it gave ${JSON.stringify(result)}`);
    });
    await check("gives the guest the terminal's size", async () => {
      await page.setViewportSize({ width: 640, height: 480 });
      await page.waitForTimeout(500);
      const size = await page.evaluate(() => {
        const terminal = document.querySelector('linux-vm')!.shadowRoot!.querySelector('linux-vm-terminal');
        const { rows, columns } = terminal as unknown as { rows: number; columns: number };
        return `${rows} ${columns}`;
      });
      await type(page, 'stty size', new RegExp(`\\n${size}\\s`));
    });
    await check('says that the guest powered off, and starts again', async () => {
      await page.keyboard.type('poweroff -f\n');
      await until(page, 'the end', COMMAND, async () => (await state(page)) === 'stopped');
      await page.getByRole('button', { name: 'Restart' }).click();
      await until(page, 'a prompt', BOOT, () => prompt(page));
      // The disk has been written to: from the kernel that has not mounted it yet.
      await beginsFrom('kernel');
    });
    await check('stops and starts ten times without growing', async () => {
      const session = await browser.newBrowserCDPSession();
      /** Resident memory of the page's process in MiB. */
      const resident = async (): Promise<number> => {
        const { processInfo } = await session.send('SystemInfo.getProcessInfo');
        const sizes = processInfo
          .filter(({ type }) => type === 'renderer')
          .map(({ id }) => Number(readFileSync(`/proc/${id}/statm`, 'utf8').split(' ')[1]) / 256);
        return Math.round(sizes.reduce((sum, size) => sum + size, 0));
      };
      const sizes: number[] = [];
      for (let i = 0; i < 10; i++) {
        await page.evaluate(async () => {
          const element = document.querySelector<Element & { start(): Promise<unknown>; stop(): Promise<void> }>(
            'linux-vm',
          )!;
          await element.stop();
          await element.start();
        });
        await page.waitForTimeout(1000);
        sizes.push(await resident());
      }
      const [early, late] = [Math.max(...sizes.slice(0, 4)), Math.min(...sizes.slice(-3))];
      process.stdout.write(`     MiB after each start: ${sizes.join(' ')}\n`);
      if (late > early + 100) throw new Error(`it grew from ${early} to ${late} MiB`);
    });
    await check('breaks no rule of its Content-Security-Policy', async () => {
      if (errors.length) throw new Error(errors.join('; '));
    });
  } finally {
    await browser.close();
    await host.stop();
  }
}

await journey(main);
