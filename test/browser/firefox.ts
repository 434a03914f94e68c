import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import puppeteer from 'puppeteer-core';
import type { LinuxVM } from '../../src/index.ts';
import { BOOT, check, journey, serveSite } from './site.ts';

/** The page in Debian's Firefox ESR, over WebDriver BiDi. What Firefox cannot do is told in the README. */
const FIREFOX = process.env['FIREFOX'] ?? '/usr/bin/firefox-esr';

interface Element extends HTMLElement {
  vm?: LinuxVM;
  state: string;
}

await journey(async () => {
  if (!existsSync(FIREFOX)) throw new Error(`there is no ${FIREFOX}: apt-get install firefox-esr`);
  const host = await serveSite();
  // Firefox wants a home of its own.
  const home = mkdtempSync(join(tmpdir(), 'firefox-'));
  const browser = await puppeteer.launch({
    browser: 'firefox',
    executablePath: FIREFOX,
    headless: true,
    timeout: 120_000,
    protocolTimeout: BOOT,
    env: { ...process.env, HOME: home, MOZ_DISABLE_CONTENT_SANDBOX: '1' },
  });
  try {
    const page = await browser.newPage();
    const errors: string[] = [];
    page.on('pageerror', (error) => errors.push(String(error)));
    await check('boots and runs python3', async () => {
      await page.goto(`${host.address}?memory=256`);
      const end = performance.now() + BOOT;
      for (;;) {
        const [now, text] = await page.evaluate(() => {
          const element = document.querySelector<Element>('linux-vm');
          const terminal = element?.shadowRoot?.querySelector('linux-vm-terminal');
          return [element?.state ?? '', (terminal as { text?: string } | null | undefined)?.text ?? ''];
        });
        if (now === 'running' || now === 'error') break;
        if (performance.now() > end) throw new Error(`it is still ${now}; the screen:\n${text}`);
        await new Promise((resolve) => setTimeout(resolve, 500));
      }
      const printed = await page.evaluate(async () => {
        const element = document.querySelector<Element>('linux-vm')!;
        if (element.state === 'error') return element.shadowRoot!.textContent!;
        const { stdout } = await element.vm!.run(['python3', '-c', 'print(2**100)']);
        return new TextDecoder().decode(stdout);
      });
      if (printed !== '1267650600228229401496703205376\n') throw new Error(printed);
    });
    await check('works again when the server is gone', async () => {
      const controlled = await page.evaluate(async () => (await navigator.serviceWorker.ready).active !== null);
      if (!controlled) throw new Error('there is no service worker');
      await host.stop();
      await page.reload();
      await page.waitForFunction(() => Boolean(document.querySelector('linux-vm')?.shadowRoot), { timeout: BOOT });
    });
    await check('complains of nothing', async () => {
      if (errors.length) throw new Error(errors.join('; '));
    });
  } finally {
    await browser.close();
    rmSync(home, { recursive: true, force: true });
    if (host.server.listening) await host.stop();
  }
});
