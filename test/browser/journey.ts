import { existsSync, readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { chromium, type Page } from 'playwright-core';
import { createStaticServer, listen } from '../../src/cli/serve.ts';
import type { LinuxVM } from '../../src/index.ts';

/**
 * The page as a visitor meets it: the built site under a sub-path of a plain static server, Debian's Chromium, keys
 * typed and the screen read. Needs `npm run build` and `npm run disk -- debian`.
 */
const SITE = resolve('dist');
const DISK = resolve('build/disks/debian');
const PATH = '/some/where/';
const BOOT = 180_000;
const COMMAND = 60_000;

interface Element extends HTMLElement {
  vm?: LinuxVM;
  state: string;
}

let passed = 0;
let failed = 0;

async function check(name: string, work: () => Promise<void>): Promise<void> {
  const began = performance.now();
  try {
    await work();
    passed++;
    process.stdout.write(`ok   ${name} (${((performance.now() - began) / 1000).toFixed(1)} s)\n`);
  } catch (error) {
    failed++;
    process.stdout.write(`FAIL ${name}: ${error instanceof Error ? error.message : String(error)}\n`);
  }
}

const screen = (page: Page): Promise<string> =>
  page.evaluate(() => {
    const terminal = document.querySelector('linux-vm')?.shadowRoot?.querySelector('linux-vm-terminal');
    return (terminal as { text?: string } | null | undefined)?.text ?? '';
  });

const state = (page: Page): Promise<string> =>
  page.evaluate(() => document.querySelector<HTMLElement & { state: string }>('linux-vm')!.state);

async function until(page: Page, what: string, milliseconds: number, done: () => Promise<boolean>): Promise<void> {
  const end = performance.now() + milliseconds;
  while (!(await done())) {
    if (performance.now() > end)
      throw new Error(
        `${what} did not come within ${milliseconds / 1000} s; the screen:\n${(await screen(page)).slice(-1500)}`,
      );
    await page.waitForTimeout(100);
  }
}

/** Types a command and waits for what it prints. */
async function type(page: Page, command: string, answer: RegExp): Promise<void> {
  const before = (await screen(page)).length;
  await page.keyboard.type(`${command}\n`);
  await until(page, `the answer to "${command}"`, COMMAND, async () =>
    answer.test((await screen(page)).slice(Math.max(0, before - 200))),
  );
}

async function main(): Promise<void> {
  for (const needed of [`${SITE}/index.html`, `${DISK}/manifest.json`])
    if (!existsSync(needed))
      throw new Error(`${needed} is not there: "npm run build" and "npm run disk -- debian" make it`);
  const server = createStaticServer([
    { path: `${PATH}disks/debian/`, directory: DISK },
    { path: PATH, directory: SITE },
  ]);
  const origin = await listen(server, 0, '127.0.0.1');
  const browser = await chromium.launch({
    executablePath: process.env['CHROMIUM'] ?? '/usr/bin/chromium',
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
  try {
    const page = await browser.newPage({ viewport: { width: 1000, height: 700 } });
    const complaints: string[] = [];
    let diskBytes = 0;
    let otherBytes = 0;
    page.on('console', (message) => {
      if (message.type() === 'error') complaints.push(message.text());
    });
    page.on('pageerror', (error) => complaints.push(error.message));
    page.on('requestfinished', (request) => {
      void request
        .sizes()
        .then(({ responseBodySize }) => {
          if (request.url().includes('/chunks/')) diskBytes += responseBodySize;
          else otherBytes += responseBodySize;
        })
        .catch(() => undefined);
    });
    const prompt = async (): Promise<boolean> =>
      (await state(page)) !== 'loading' && /[#$] ?$/.test((await screen(page)).trimEnd());

    await check('boots to a prompt', async () => {
      await page.goto(`${origin.slice(0, -1)}${PATH}`);
      await until(page, 'a prompt', BOOT, prompt);
    });
    process.stdout.write(
      `     before the prompt: ${(diskBytes / 1e6).toFixed(1)} MB of disk, ${(otherBytes / 1e6).toFixed(1)} MB of site and kernel\n`,
    );
    await check('runs python3', () => type(page, "python3 -c 'print(2**100)'", /\n1267650600228229401496703205376\s/));
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
      await until(page, 'a prompt', BOOT, prompt);
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
      if (complaints.length) throw new Error(complaints.join('; '));
    });
  } finally {
    await browser.close();
    server.closeAllConnections();
    server.close();
  }
}

await main().catch((error: unknown) => {
  failed++;
  process.stdout.write(`FAIL ${error instanceof Error ? error.message : String(error)}\n`);
});
process.stdout.write(`${passed} passed, ${failed} failed\n`);
process.exit(failed ? 1 : 0);
