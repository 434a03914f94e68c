import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { BOOT, journey, check, launch, prompt, serveSite, type, until } from './site.ts';

/**
 * `npm run pictures`: the icons as PNG, for systems that take no SVG, and the screenshots that an app catalogue shows,
 * into public/, from where the next build takes them. Needs what the journeys need.
 */
const ICONS = [
  { from: 'icon', to: 'icon-192', size: 192 },
  { from: 'icon', to: 'icon-512', size: 512 },
  { from: 'maskable', to: 'maskable-512', size: 512 },
  { from: 'maskable', to: 'apple-touch', size: 180 },
];
const SHOTS = [
  { name: 'wide', viewport: { width: 1280, height: 800 }, deviceScaleFactor: 1 },
  { name: 'narrow', viewport: { width: 360, height: 640 }, deviceScaleFactor: 2 },
];

await journey(async () => {
  const host = await serveSite();
  const browser = await launch();
  try {
    for (const { from, to, size } of ICONS)
      await check(`${to}.png`, async () => {
        const page = await browser.newPage({ viewport: { width: size, height: size } });
        const svg = readFileSync(`public/icons/${from}.svg`).toString('base64');
        await page.setContent(
          `<body style="margin:0"><img width="${size}" height="${size}" src="data:image/svg+xml;base64,${svg}">`,
        );
        writeFileSync(`public/icons/${to}.png`, await page.screenshot({ omitBackground: true }));
        await page.close();
      });
    mkdirSync('public/screenshots', { recursive: true });
    for (const { name, ...view } of SHOTS)
      await check(`screenshot ${name}`, async () => {
        const page = await browser.newPage({ ...view, colorScheme: 'dark' });
        await page.goto(host.address);
        await until(page, 'a prompt', BOOT, () => prompt(page));
        await type(page, 'uname -srm; python3 -c "print(2**100)"', /1267650600228229401496703205376/);
        await page.waitForTimeout(500);
        writeFileSync(`public/screenshots/${name}.png`, await page.screenshot());
        await page.close();
      });
  } finally {
    await browser.close();
    await host.stop();
  }
});
