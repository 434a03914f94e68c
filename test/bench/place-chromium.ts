import type { Server } from 'node:http';
import { type Browser, chromium, type Page } from 'playwright-core';
import { PROMPT } from '../../disks/qemu.ts';
import type { Tier } from '../../emulator/processor.ts';
import { createStaticServer, listen } from '../../src/cli/serve.ts';
import type { LinuxVM } from '../../src/index.ts';
import type { VmStats } from '../../src/protocol.ts';
import {
  BOOT_LIMIT,
  type BootFigures,
  GUEST_DIRECTORY,
  guestPath,
  type Place,
  type Running,
  withLimit,
} from './places.ts';
import { memoryOf, processesOf } from './processes.ts';

export const CHROMIUM_FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

/** What the page's script keeps for us. */
interface Watched {
  benchPrompt: Promise<{ seconds: number; loading: number }>;
}

type Element = HTMLElement & { vm: LinuxVM };

/** Our machine in the built site, in headless Chromium; a new browser for each start, so that its caches are empty. */
export function chromiumPlace(site: string, disk: string, programs: string, tier: Tier): Place {
  return { name: 'chromium', start: () => start(site, disk, programs, tier) };
}

async function start(site: string, disk: string, programs: string, tier: Tier): Promise<Running> {
  const server = createStaticServer([
    { path: '/disks/debian/', directory: disk },
    { path: '/programs/', directory: programs },
    { path: '/', directory: site },
  ]);
  const bytes = countBytes(server);
  const origin = await listen(server, 0, '127.0.0.1');
  let browser: Browser | undefined;
  const stop = async (): Promise<void> => {
    await browser?.close().catch(() => undefined);
    server.closeAllConnections();
    server.close();
  };
  try {
    browser = await chromium.launch({
      executablePath: process.env['CHROMIUM'] ?? '/usr/bin/chromium',
      args: CHROMIUM_FLAGS,
    });
    const page = await browser.newPage({ viewport: { width: 1000, height: 700 } });
    await page.addInitScript(watch, PROMPT.source);
    await page.goto(`${origin}?tier=${tier}&boot=cold&storage=none`);
    const times = await withLimit(
      page.evaluate(() => (window as unknown as Watched).benchPrompt),
      BOOT_LIMIT,
      'the boot in Chromium',
    );
    const fetched = { ...bytes };
    const { processor } = await statsOf(page);
    const { instructions, interpreted, regions, codeBytes } = processor;
    return {
      boot: {
        ...times,
        ...fetched,
        instructions,
        interpreted,
        regions,
        codeBytes,
        ...memoryOf((await processesOf(browser))[0]!),
      },
      put: (file) =>
        page.evaluate(
          async ([directory, name]) => {
            const { vm } = document.querySelector<Element>('linux-vm')!;
            const contents = new Uint8Array(await (await fetch(`/programs/${name}`)).arrayBuffer());
            await vm.fs.mkdir(directory!, { recursive: true });
            await vm.fs.writeFile(`${directory}/${name}`, contents, { mode: 0o755 });
          },
          [GUEST_DIRECTORY, file],
        ),
      run: async (file, args, timeout) => {
        const result = await page.evaluate(
          async ({ argv, milliseconds }) => {
            const { vm } = document.querySelector<Element>('linux-vm')!;
            const { status, stdout, stderr } = await vm.run(argv, { signal: AbortSignal.timeout(milliseconds) });
            const decoder = new TextDecoder();
            return { status, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
          },
          { argv: [guestPath(file), ...args], milliseconds: timeout },
        );
        if (result.status !== 0) throw new Error(`status ${result.status}: ${result.stdout}${result.stderr}`);
        return result.stdout;
      },
      stats: () => statsOf(page),
      processes: () => processesOf(browser!),
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** Runs in the page before its scripts: hears the console until the prompt. Times count from the navigation's start. */
function watch(prompt: string): void {
  const wanted = new RegExp(prompt);
  const decoder = new TextDecoder();
  let said = '';
  let loading = 0;
  (window as unknown as Watched).benchPrompt = new Promise((resolve, reject) => {
    document.addEventListener('vm-console', (event) => {
      said = (said + decoder.decode((event as CustomEvent<Uint8Array>).detail, { stream: true })).slice(-10_000);
      if (wanted.test(said)) resolve({ seconds: performance.now() / 1000, loading });
    });
    document.addEventListener('vm-state', (event) => {
      const { state, error } = (event as CustomEvent<{ state: string; error?: Error }>).detail;
      if (state === 'booting') loading = performance.now() / 1000;
      if (state === 'stopped' || state === 'error')
        reject(new Error(`the machine's state is "${state}" (${error?.message ?? 'no error'}); it said:\n${said}`));
    });
  });
}

function statsOf(page: Page): Promise<VmStats> {
  return page.evaluate(() => document.querySelector<Element>('linux-vm')!.vm.stats());
}

type Bytes = Required<Pick<BootFigures, 'kernelBytes' | 'initramfsBytes' | 'diskBytes' | 'diskChunks' | 'siteBytes'>>;

/** Adds up what the server sends, headers included, by what it is. */
function countBytes(server: Server): Bytes {
  const bytes: Bytes = { kernelBytes: 0, initramfsBytes: 0, diskBytes: 0, diskChunks: 0, siteBytes: 0 };
  server.on('request', (request, response) => {
    const { socket } = request;
    const before = socket.bytesWritten;
    response.on('finish', () => {
      const length = socket.bytesWritten - before;
      const path = request.url ?? '';
      if (path.includes('/chunks/')) {
        bytes.diskBytes += length;
        bytes.diskChunks++;
      } else if (path.includes('/vmlinu')) bytes.kernelBytes += length;
      else if (path.includes('/initramfs')) bytes.initramfsBytes += length;
      else bytes.siteBytes += length;
    });
  });
  return bytes;
}
