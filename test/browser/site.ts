import { existsSync } from 'node:fs';
import type { Server } from 'node:http';
import { resolve } from 'node:path';
import { type Browser, chromium, type Page } from 'playwright-core';
import { createStaticServer, listen, type Mount, type ServeOptions } from '../../src/cli/serve.ts';

export { check, journey } from '../checks.ts';

/** What every journey needs: the built site on a plain static server, a browser, the screen, and a count of checks. */
export const SITE = resolve(process.env['SITE'] ?? 'dist');
export const DISK = resolve(process.env['DISK'] ?? 'build/disks/debian');
/** Milliseconds. */
export const BOOT = 180_000;
export const COMMAND = 60_000;

export const CHROMIUM = process.env['CHROMIUM'] ?? '/usr/bin/chromium';
export const CHROMIUM_ARGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

export interface Host {
  server: Server;
  /** Of the site, with a slash at its end. */
  address: string;
  stop(): Promise<void>;
}

/**
 * The built site and the disk under a path of a plain static server.
 * @throws Error when either has not been built
 */
export async function serveSite(path = '/some/where/', more: Mount[] = [], options: ServeOptions = {}): Promise<Host> {
  for (const needed of [`${SITE}/index.html`, `${DISK}/manifest.json`])
    if (!existsSync(needed))
      throw new Error(`${needed} is not there: "npm run build" and "npm run disk -- debian" make it`);
  const server = createStaticServer(
    [...more, { path: `${path}disks/debian/`, directory: DISK }, { path, directory: SITE }],
    options,
  );
  const origin = await listen(server, 0, '127.0.0.1');
  return {
    server,
    address: `${origin.slice(0, -1)}${path}`,
    stop: () =>
      new Promise((done) => {
        server.close(() => done());
        server.closeAllConnections();
      }),
  };
}

export function launch(): Promise<Browser> {
  return chromium.launch({ executablePath: CHROMIUM, args: CHROMIUM_ARGS });
}

/** The text of the first machine's terminal, scroll-back included. */
export const screen = (page: Page): Promise<string> =>
  page.evaluate(() => {
    const terminal = document.querySelector('linux-vm')?.shadowRoot?.querySelector('linux-vm-terminal');
    return (terminal as { text?: string } | null | undefined)?.text ?? '';
  });

export const state = (page: Page): Promise<string> =>
  page.evaluate(() => document.querySelector<HTMLElement & { state: string }>('linux-vm')?.state ?? '');

/** @throws Error with the screen's end when it does not come about in time */
export async function until(
  page: Page,
  what: string,
  milliseconds: number,
  done: () => Promise<boolean>,
): Promise<void> {
  const end = performance.now() + milliseconds;
  while (!(await done())) {
    if (performance.now() > end)
      throw new Error(
        `${what} did not come within ${milliseconds / 1000} s; the screen:\n${(await screen(page)).slice(-1500)}`,
      );
    await page.waitForTimeout(100);
  }
}

/** Whether a shell waits for a command. */
export const prompt = async (page: Page): Promise<boolean> =>
  (await state(page)) !== 'loading' && /[#$] ?$/.test((await screen(page)).trimEnd());

/** Types a command and waits for what it prints. */
export async function type(page: Page, command: string, answer: RegExp): Promise<void> {
  const before = (await screen(page)).length;
  await page.keyboard.type(`${command}\n`);
  await until(page, `the answer to "${command}"`, COMMAND, async () =>
    answer.test((await screen(page)).slice(Math.max(0, before - 200))),
  );
}

/** What the page complains of: errors on its console and exceptions. */
export function complaints(page: Page): string[] {
  const list: string[] = [];
  page.on('console', (message) => {
    if (message.type() === 'error') list.push(`${message.text()} (${message.location().url})`);
  });
  page.on('pageerror', (error) => list.push(error.message));
  return list;
}
