import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import type { AxeResults } from 'axe-core';
import type { Page } from 'playwright-core';
import { BOOT, check, CHROMIUM, CHROMIUM_ARGS, complaints, journey, launch, serveSite, state, until } from './site.ts';

/**
 * What others measure of the site: axe-core finds no violation, in light and dark, on a phone's screen and a large one,
 * with each panel open; nothing is asked of another host. With `--lighthouse` (`npm run quality`) Lighthouse as well:
 * performance, accessibility and best practices of 95 or more, on its phone and its desktop.
 */
const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const PAGES = ['', 'examples/lesson.html', 'examples/files.html', 'examples/two.html'];
const SIZES = { phone: { width: 360, height: 740 }, desktop: { width: 1280, height: 800 } };
const LEAST = 0.95;

interface Workbench extends HTMLElement {
  show(panel: string | undefined): void;
  updateComplete: Promise<boolean>;
}

async function violations(page: Page): Promise<string[]> {
  // What glides into its place is looked at when it is there.
  await page.evaluate(() => Promise.allSettled(document.getAnimations().map(({ finished }) => finished)));
  const { violations: found } = await page.evaluate(() =>
    (globalThis as unknown as { axe: { run(): Promise<AxeResults> } }).axe.run(),
  );
  return found.map(({ id, nodes }) => `${id}: ${nodes.map((n) => n.target.join(' ')).join(', ')}`);
}

async function axe(address: string): Promise<void> {
  const browser = await launch();
  const strangers = new Set<string>();
  try {
    for (const colorScheme of ['light', 'dark'] as const)
      for (const [size, viewport] of Object.entries(SIZES))
        await check(`axe-core finds nothing in ${colorScheme} on a ${size}`, async () => {
          const context = await browser.newContext({ colorScheme, viewport, serviceWorkers: 'block' });
          const page = await context.newPage();
          const errors = complaints(page);
          page.on('request', (request) => {
            const { origin, protocol } = new URL(request.url());
            if (/^https?:$/.test(protocol) && origin !== new URL(address).origin) strangers.add(request.url());
          });
          const wrong: string[] = [];
          const look = async (what: string): Promise<void> => {
            wrong.push(...(await violations(page)).map((v) => `${what}: ${v}`));
          };
          for (const path of PAGES) {
            await page.goto(`${address}${path}`);
            await page.evaluate(AXE);
            await page.waitForFunction(() => !document.querySelector(':not(:defined)'));
            await look(path || 'page');
            if (path) continue;
            const panels = ['files', 'disk', 'snapshots', 'inspector', 'share', 'settings'];
            await until(page, 'a machine', BOOT, async () => (await state(page)) === 'running');
            for (const panel of panels) {
              await page.evaluate(async (name) => {
                const workbench = document.querySelector<Workbench>('linux-vm-workbench')!;
                workbench.show(name);
                await workbench.updateComplete;
              }, panel);
              await page.waitForTimeout(300);
              await look(`panel ${panel}`);
            }
          }
          await context.close();
          wrong.push(...errors);
          if (wrong.length) throw new Error(wrong.join('; '));
        });
    await check('asks no other host for anything', async () => {
      if (strangers.size) throw new Error([...strangers].join(', '));
    });
  } finally {
    await browser.close();
  }
}

async function lighthouse(address: string): Promise<void> {
  const { default: run, desktopConfig } = await import('lighthouse');
  const { chromium } = await import('playwright-core');
  const port = 9333;
  for (const form of ['phone', 'desktop'] as const)
    for (const path of PAGES)
      await check(`Lighthouse, ${form}, ${path || 'page'}`, async () => {
        const browser = await chromium.launch({
          executablePath: CHROMIUM,
          args: [...CHROMIUM_ARGS, `--remote-debugging-port=${port}`],
        });
        try {
          const result = await run(
            `${address}${path}`,
            { port, logLevel: 'error', onlyCategories: ['performance', 'accessibility', 'best-practices'] },
            form === 'desktop' ? desktopConfig : undefined,
          );
          if (!result) throw new Error('it gave no result');
          const { categories, audits, runtimeError } = result.lhr;
          if (runtimeError) throw new Error(runtimeError.message);
          const scores = Object.values(categories).map(
            ({ title, score }) => `${title} ${Math.round((score ?? 0) * 100)}`,
          );
          const times = [
            'first-contentful-paint',
            'largest-contentful-paint',
            'total-blocking-time',
            'cumulative-layout-shift',
          ];
          process.stdout.write(
            `     ${scores.join(', ')}; ${times.map((id) => `${audits[id]!.title} ${audits[id]!.displayValue}`).join(', ')}\n`,
          );
          const low = Object.values(categories).filter(({ score }) => (score ?? 0) < LEAST);
          if (low.length) {
            const causes = low.flatMap(({ auditRefs }) =>
              auditRefs
                .filter(({ id, weight }) => weight > 0 && (audits[id]!.score ?? 1) < 0.9)
                .map(({ id }) => `${id} ${audits[id]!.displayValue ?? ''}`),
            );
            throw new Error(`${low.map(({ title }) => title).join(', ')} below ${LEAST * 100}: ${causes.join('; ')}`);
          }
        } finally {
          await browser.close();
        }
      });
}

await journey(async () => {
  const host = await serveSite('/some/where/', [], { compress: true });
  try {
    await axe(host.address);
    if (process.argv.includes('--lighthouse')) await lighthouse(host.address);
  } finally {
    await host.stop();
  }
});
