import { readFileSync } from 'node:fs';
import type { Download, Page } from 'playwright-core';
import {
  BOOT,
  check,
  COMMAND,
  complaints,
  journey,
  launch,
  prompt,
  screen,
  serveSite,
  state,
  type,
  until,
} from './site.ts';

/**
 * What stands around the terminal, with a real machine: consoles, files in and out, inspector, settings with a restart,
 * snapshots, a shared address, a second tab. Needs `npm run build` and `npm run disk -- debian`.
 */

/** The text of the console that is shown, which may be one of the shells. */
const shell = (page: Page): Promise<string> =>
  page.evaluate(() => {
    const consoles = document.querySelector('linux-vm-workbench')?.shadowRoot?.querySelector('linux-vm-consoles');
    return (consoles as { shownTerminal?: { text: string } } | null | undefined)?.shownTerminal?.text ?? '';
  });

const panel = (page: Page, name: string): Promise<void> => page.getByRole('button', { name, exact: true }).click();

async function shows(page: Page, text: string | RegExp, milliseconds = COMMAND): Promise<void> {
  await page.getByText(text).first().waitFor({ timeout: milliseconds });
}

/** Drops a file onto the page, as from the desktop. */
async function drop(page: Page, name: string, size: number): Promise<void> {
  await page.evaluate(
    ([name, size]) => {
      const data = new DataTransfer();
      data.items.add(new File([Uint8Array.from({ length: size }, (_, i) => (i * 7919) >> 3)], name));
      const target = document.querySelector('linux-vm-workbench')!;
      for (const kind of ['dragover', 'drop'])
        target.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
    },
    [name, size] as const,
  );
}

async function contents(download: Promise<Download>): Promise<Buffer> {
  return readFileSync(await (await download).path());
}

async function main(): Promise<void> {
  const host = await serveSite();
  const browser = await launch();
  try {
    const context = await browser.newContext({ viewport: { width: 1200, height: 760 }, acceptDownloads: true });
    const page = await context.newPage();
    const errors = complaints(page);
    const focusConsole = (): Promise<void> => page.evaluate(() => document.querySelector('linux-vm')!.focus());
    let address = '';

    await check('boots, with a hint for the first visit', async () => {
      await page.goto(host.address);
      await until(page, 'a prompt', BOOT, () => prompt(page));
      await page.getByRole('button', { name: 'Got it' }).click();
      await focusConsole();
    });

    await check('a second console is a terminal of its own, reached by keys, gone with its shell', async () => {
      await page.keyboard.press('Control+Shift+Enter');
      await until(page, 'a shell', COMMAND, async () => /#$/.test(await shell(page)));
      await page.keyboard.type('tty; stty size; exit\n');
      // The tab may be gone before its text is read.
      await page.getByRole('tab', { name: 'Shell 2' }).waitFor({ state: 'detached', timeout: COMMAND });
      await type(page, 'tty', /\n\/dev\/hvc0\s/);
      await page.keyboard.press('Control+Shift+Enter');
      await until(page, 'a shell', COMMAND, async () => /#$/.test(await shell(page)));
      await page.keyboard.type('tty\n');
      await until(page, 'its terminal', COMMAND, async () => (await shell(page)).includes('/dev/pts/0'));
      await page.keyboard.press('Control+Shift+ArrowLeft');
      await type(page, 'echo $((6 * 7))', /\n42\s/);
    });

    await check('a dropped file is in the guest, and comes out again as it was', async () => {
      await drop(page, 'three megabytes.bin', 3e6);
      await shows(page, 'three megabytes.bin copied to /root');
      const expected = Buffer.from(Uint8Array.from({ length: 3e6 }, (_, i) => (i * 7919) >> 3));
      const download = page.waitForEvent('download');
      await page.getByRole('button', { name: 'Download three megabytes.bin' }).click();
      if (!(await contents(download)).equals(expected)) throw new Error('the bytes are others');
      await page.getByRole('button', { name: 'New folder' }).click();
      await page.getByRole('button', { name: 'Open new-folder' }).click();
      await shows(page, 'This directory is empty');
      await drop(page, 'note.txt', 10);
      await shows(page, 'note.txt copied to /root/new-folder');
      await page.getByRole('button', { name: 'Parent directory' }).click();
      const archive = page.waitForEvent('download');
      await page.getByRole('button', { name: 'Download new-folder as tar' }).click();
      if (!(await contents(archive)).includes('new-folder/note.txt')) throw new Error('the archive lacks the file');
    });

    await check('the inspector tells processes, mounts, files and devices', async () => {
      await panel(page, 'Inspector');
      await shows(page, '/bin/bash -l');
      for (const [view, text] of [
        ['Open files', '/dev/hvc0'],
        ['Mounts', 'ext2'],
        ['Environment', 'HOME'],
        ['Devices', 'virtio_blk'],
        ['Interrupts', /virtio2/],
      ] as const) {
        await page.getByLabel('What to show').selectOption(view);
        await shows(page, text);
      }
    });

    await check('settings hold at once; memory after a restart, which keeps the files', async () => {
      await panel(page, 'Settings');
      await page.getByLabel('Theme').selectOption('light');
      const colour = await page.evaluate(() =>
        getComputedStyle(document.querySelector('linux-vm')!).getPropertyValue('color-scheme'),
      );
      if (colour !== 'light') throw new Error(`the scheme is ${colour}`);
      await page.getByRole('combobox', { name: 'Memory' }).selectOption('256');
      await page.getByRole('button', { name: 'Restart now' }).click();
      await until(page, 'the end of the old machine', COMMAND, async () => (await state(page)) !== 'running');
      await until(page, 'a prompt', BOOT, () => prompt(page));
      await focusConsole();
      await type(page, 'grep MemTotal /proc/meminfo; ls', /MemTotal: +2[0-4]\d{4} kB[^]*three megabytes.bin/);
      if ((await page.getByRole('tab').count()) !== 1) throw new Error('the shells of the old machine are still there');
    });

    await check('a snapshot brings back what ran', async () => {
      await type(page, 'x=before; echo $x', /\nbefore\s/);
      await panel(page, 'Snapshots');
      await page.getByLabel('Name', { exact: true }).fill('here');
      await page.getByRole('button', { name: 'Save', exact: true }).click();
      await shows(page, 'Saved “here”');
      await focusConsole();
      await type(page, 'x=after; echo $x', /\nafter\s/);
      await page.getByRole('button', { name: 'Restore here' }).click();
      await page.getByRole('button', { name: 'Go back' }).click();
      await shows(page, 'The machine goes on from “here”');
      await focusConsole();
      await type(page, 'echo [$x]', /\n\[before\]\s/);
      await type(page, 'echo kept > since; sync; echo $?', /\n0\s/);
    });

    await check('an address carries files and a command', async () => {
      await type(page, 'mkdir -p w; echo "print(6 * 111)" > w/a.py; echo made', /\nmade\s/);
      await panel(page, 'Share');
      await page.getByLabel('Command to run').fill('python3 a.py');
      await page.getByLabel('With the files').check();
      await page.getByRole('textbox', { name: 'Directory' }).fill('/root/w');
      await page.getByRole('button', { name: 'Make the address' }).click();
      address = await page.getByLabel('Address', { exact: true }).inputValue({ timeout: COMMAND });
      if (address.length > 2000) throw new Error(`it has ${address.length} characters`);
    });

    await check('who opens it is asked, then sees it run', async () => {
      const other = await (await browser.newContext()).newPage();
      const complaintsThere = complaints(other);
      await other.goto(address);
      await shows(other, 'python3 a.py');
      await until(other, 'a prompt', BOOT, () => prompt(other));
      if ((await screen(other)).includes('python3')) throw new Error('it ran without being asked');
      await other.getByRole('button', { name: 'Run it' }).click();
      await until(other, 'its output', COMMAND, async () => /\n666\s/.test(await screen(other)));
      errors.push(...complaintsThere);
      await other.context().close();
    });

    await check('a second tab is told, and may take over', async () => {
      const second = await context.newPage();
      await second.goto(host.address);
      await shows(second, 'This machine is open in another tab', BOOT);
      await second.getByRole('button', { name: 'Take over' }).click();
      await until(second, 'a prompt', BOOT, () => prompt(second));
      await type(second, 'cat since', /\nkept\s/);
      await shows(page, 'Another tab took this machine over');
      await second.close();
    });

    await check('nothing was complained of', async () => {
      if (errors.length) throw new Error(errors.join('; '));
    });
  } finally {
    await browser.close();
    await host.stop();
  }
}

await journey(main);
