import { mkdirSync, writeFileSync } from 'node:fs';
import { createCanvas, loadImage } from '@napi-rs/canvas';
import { BOOT, check, COMMAND, journey, launch, prompt, serveSite, type, until } from './site.ts';

/**
 * `npm run pictures`: the screenshots that an app catalogue shows, anew, in public/screenshots/. Needs what the journeys
 * need.
 */
const SHOTS = [
  { name: 'wide', viewport: { width: 1280, height: 800 }, deviceScaleFactor: 1 },
  { name: 'narrow', viewport: { width: 360, height: 640 }, deviceScaleFactor: 2 },
];
const SESSION: [command: string, answer: RegExp][] = [
  ['clear; head -n 2 /etc/os-release', /\nNAME=/],
  ['uname -srm', /x86_64\s/],
  ['python3 -c "print(2**100)"', /1267650600228229401496703205376/],
  ['ls /', /\nusr|\s+usr/],
  ['ps -e | tail -n 4', /tail\s/],
];

await journey(async () => {
  const host = await serveSite();
  const browser = await launch();
  try {
    mkdirSync('public/screenshots', { recursive: true });
    for (const { name, ...view } of SHOTS)
      await check(`screenshot ${name}`, async () => {
        const page = await browser.newPage({ ...view, colorScheme: 'dark' });
        await page.goto(host.address);
        await until(page, 'a prompt', BOOT, () => prompt(page));
        await page.getByRole('button', { name: 'Got it' }).click();
        await page.evaluate(() => document.querySelector('linux-vm')!.focus());
        for (const [command, answer] of SESSION) {
          await type(page, command, answer);
          await until(page, 'a prompt', COMMAND, () => prompt(page));
        }
        await page.waitForTimeout(500);
        const image = await loadImage(await page.screenshot());
        const canvas = createCanvas(image.width, image.height);
        canvas.getContext('2d').drawImage(image, 0, 0);
        writeFileSync(`public/screenshots/${name}.webp`, canvas.toBuffer('image/webp', 80));
        await page.close();
      });
  } finally {
    await browser.close();
    await host.stop();
  }
});
