import { type Browser, chromium, type Page } from 'playwright-core';
import { createStaticServer, listen } from '../../src/cli/serve.ts';
import { CHROMIUM_FLAGS } from './place-chromium.ts';
import { BOOT_LIMIT, GUEST_DIRECTORY, type Place, type Running, withLimit } from './places.ts';
import { processesOf } from './processes.ts';

/** What we use of v86. */
interface Emulator {
  add_listener(event: 'serial0-output-byte', listener: (byte: number) => void): void;
  serial0_send(text: string): void;
}

/** What the page's script keeps for us. */
interface Watched {
  V86: new (options: Record<string, unknown>) => Emulator;
  emulator: Emulator;
  /** What the guest has said since the last question. */
  said: string;
  heard: () => void;
}

const CMDLINE = 'console=ttyS0 quiet mitigations=off cryptomgr.notests tsc=reliable nokaslr rdinit=/init';

/** v86 in headless Chromium with Debian's i386 kernel and an initramfs that holds the programs. */
export function v86Place(directory: string): Place {
  return { name: 'v86', against: 'native-i386', start: () => start(directory) };
}

async function start(directory: string): Promise<Running> {
  const server = createStaticServer([{ path: '/', directory }]);
  const origin = await listen(server, 0, '127.0.0.1');
  let browser: Browser | undefined;
  const stop = async (): Promise<void> => {
    await browser?.close().catch(() => undefined);
    server.closeAllConnections();
    server.close();
  };
  try {
    const began = performance.now();
    browser = await chromium.launch({
      executablePath: process.env['CHROMIUM'] ?? '/usr/bin/chromium',
      args: CHROMIUM_FLAGS,
    });
    const page = await browser.newPage();
    await page.goto(origin);
    await page.evaluate(boot, CMDLINE);
    await withLimit(page.evaluate(until, 'READY\\n'), BOOT_LIMIT, "v86's boot");
    const seconds = (performance.now() - began) / 1000;
    return {
      boot: { seconds },
      put: async () => undefined,
      run: async (file, args, timeout) => {
        const line = [`${GUEST_DIRECTORY}/${file}`, ...args].join(' ');
        const output = await withLimit(ask(page, line), timeout, `${line} in v86`);
        const [, text = '', status] = /^([^]*)DONE (\d+)\n$/.exec(output) ?? [];
        if (status !== '0') throw new Error(`status ${status}: ${output}`);
        return text;
      },
      processes: () => processesOf(browser!),
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

async function ask(page: Page, line: string): Promise<string> {
  await page.evaluate((text) => {
    const watched = window as unknown as Watched;
    watched.said = '';
    watched.emulator.serial0_send(`${text}\n`);
  }, line);
  return page.evaluate(until, 'DONE \\d+\\n');
}

/** Runs in the page. */
function boot(cmdline: string): void {
  const watched = window as unknown as Watched;
  watched.said = '';
  watched.heard = () => undefined;
  watched.emulator = new watched.V86({
    wasm_path: 'v86.wasm',
    memory_size: 512 << 20,
    bios: { url: 'bios.bin' },
    vga_bios: { url: 'vgabios-stdvga.bin' },
    bzimage: { url: 'vmlinuz' },
    initrd: { url: 'initramfs' },
    cmdline,
    disable_keyboard: true,
    disable_mouse: true,
    disable_speaker: true,
    autostart: true,
  });
  watched.emulator.add_listener('serial0-output-byte', (byte) => {
    if (byte === 13) return;
    watched.said += String.fromCharCode(byte);
    if (byte === 10) watched.heard();
  });
}

/** Runs in the page. @returns what the guest said, up to and with the pattern */
function until(pattern: string): Promise<string> {
  const watched = window as unknown as Watched;
  const wanted = new RegExp(pattern);
  return new Promise((resolve) => {
    watched.heard = () => {
      if (wanted.test(watched.said)) resolve(watched.said);
    };
    watched.heard();
  });
}
