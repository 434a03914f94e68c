import { spawn } from 'node:child_process';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { type Browser, chromium, type Page } from 'playwright-core';
import { CHROMIUM, CHROMIUM_ARGS } from '../site.ts';

/** A browser in a process group of its own, so that all of it can be killed at one moment. */
export class KillableBrowser {
  private constructor(
    private readonly group: number,
    private readonly exited: Promise<void>,
    readonly page: Page,
    private readonly browser: Browser,
  ) {}

  static async launch(profile: string, address: string): Promise<KillableBrowser> {
    const portFile = join(profile, 'DevToolsActivePort');
    rmSync(portFile, { force: true });
    const child = spawn(
      CHROMIUM,
      [...CHROMIUM_ARGS, '--headless=new', '--remote-debugging-port=0', `--user-data-dir=${profile}`, 'about:blank'],
      { detached: true, stdio: 'ignore' },
    );
    const exited = new Promise<void>((resolve) => child.on('close', () => resolve()));
    const end = performance.now() + 60_000;
    while (!existsSync(portFile) || !readFileSync(portFile, 'utf8').includes('\n')) {
      if (performance.now() > end) throw new Error('Chromium did not start within a minute');
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    const port = readFileSync(portFile, 'utf8').split('\n')[0]!;
    const browser = await chromium.connectOverCDP(`http://127.0.0.1:${port}`);
    const page = await browser.contexts()[0]!.newPage();
    await page.goto(address);
    return new KillableBrowser(child.pid!, exited, page, browser);
  }

  async kill(): Promise<void> {
    process.kill(-this.group, 'SIGKILL');
    await this.exited;
    await this.browser.close().catch(() => undefined);
  }
}
