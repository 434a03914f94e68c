import { execFileSync } from 'node:child_process';
import { openSync, readFileSync, writeSync, closeSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { readDiff } from '../../../emulator/storage/diff.ts';
import type { LinuxVM } from '../../../src/index.ts';
import { BOOT, DISK, serveSite } from '../site.ts';
import { KillableBrowser } from './browser.ts';
import { checkFiles, type PromisedFile } from './check.ts';
import { DONE, LOAD } from './record.ts';

const FOLDER = '/root/crash';
/** Before what the guest's program printed, on the page's console. */
const PRINTED = 'printed: ';

/**
 * The whole thing once: the built page boots, its guest writes and fsyncs files on its root disk, the browser is killed
 * in the middle, and the base image with what was stored is repaired and searched.
 * @param folder for the profile and the image
 * @param script bundle of `page.ts`
 * @returns how many files were promised
 */
export async function killGuest(folder: string, script: string): Promise<number> {
  const profile = join(folder, 'guest-profile');
  const host = await serveSite('/');
  try {
    const promised: PromisedFile[] = [];
    const wanted = 3 + Math.floor(Math.random() * 30);
    const browser = await KillableBrowser.launch(profile, host.address);
    let key: string | undefined;
    try {
      const { page } = browser;
      let enough: () => void = () => undefined;
      const killTime = new Promise<void>((resolve) => (enough = resolve));
      let text = '';
      page.on('console', (message) => {
        if (!message.text().startsWith(PRINTED)) return;
        const lines = (text + message.text().slice(PRINTED.length)).split('\n');
        text = lines.pop()!;
        for (const line of lines) {
          const [, name, sha256] = DONE.exec(line) ?? [];
          if (name && sha256) promised.push({ name, sha256 });
        }
        if (promised.length >= wanted) enough();
      });
      await page.waitForFunction(
        () => document.querySelector<HTMLElement & { vm?: LinuxVM }>('linux-vm')?.vm?.state === 'running',
        undefined,
        { timeout: BOOT },
      );
      key = await page.evaluate(
        async ([load, where, mark]) => {
          const vm = document.querySelector<HTMLElement & { vm?: LinuxVM }>('linux-vm')!.vm!;
          await vm.fs.writeFile('/root/load.py', new TextEncoder().encode(load));
          await vm.run(['mkdir', '-p', where]);
          await vm.run(['sync']);
          const work = await vm.spawn(['python3', '/root/load.py', String(Date.now()), '1000', where]);
          const reader = work.stdout.getReader();
          void (async () => {
            for (;;) {
              const { done, value } = await reader.read();
              if (done) return;
              console.log(mark + new TextDecoder().decode(value));
            }
          })();
          return vm.storage?.key;
        },
        [LOAD, FOLDER, PRINTED] as const,
      );
      if (key === undefined) throw new Error('the page keeps nothing');
      const late = new Promise<never>((_, reject) =>
        setTimeout(() => reject(new Error(`after ${promised.length} files nothing came any more`)), BOOT).unref(),
      );
      await Promise.race([killTime, late]);
    } finally {
      await browser.kill();
    }

    // Not the page itself, which would go on with the disk.
    const after = await KillableBrowser.launch(profile, `${host.address}manifest.webmanifest`);
    let diff: Blob;
    try {
      await after.page.evaluate(script);
      const text = await after.page.evaluate(
        (name) => (globalThis as unknown as { crash: { exported(key: string): Promise<string> } }).crash.exported(name),
        key,
      );
      diff = new Blob([new Uint8Array(Buffer.from(text, 'latin1'))]);
    } finally {
      await after.kill();
    }
    const image = join(folder, 'guest.ext2');
    execFileSync('cp', ['--sparse=always', join(DISK, `${diskName()}.ext2`), image]);
    const file = openSync(image, 'r+');
    const { header, batches } = await readDiff(diff);
    for await (const batch of batches)
      for (const [block, bytes] of batch)
        writeSync(file, bytes ?? new Uint8Array(header.blockSize), 0, header.blockSize, block * header.blockSize);
    closeSync(file);
    checkFiles(image, FOLDER, promised);
    rmSync(image);
    return promised.length;
  } finally {
    await host.stop();
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  }
}

const diskName = (): string => (JSON.parse(readFileSync(join(DISK, 'manifest.json'), 'utf8')) as { name: string }).name;
