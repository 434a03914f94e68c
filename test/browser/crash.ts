import { execFileSync } from 'node:child_process';
import { appendFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Page } from 'playwright-core';
import { build } from 'vite';
import { readDiff } from '../../emulator/storage/diff.ts';
import { listen } from '../../src/cli/serve.ts';
import { KillableBrowser } from './crash/browser.ts';
import { checkFiles, TOOLS } from './crash/check.ts';
import { killGuest } from './crash/guest.ts';
import { record } from './crash/record.ts';
import { applyEvent } from './crash/trace.ts';
import { check, DISK, journey } from './site.ts';

/**
 * `npm run test:crash [-- kills]`: a browser that writes a guest's changes into IndexedDB is killed at random moments,
 * with all its processes, and started again over the same profile. What a guest did to an ext2 file system is recorded
 * once and done again to the disk in the page, so that a kill costs two seconds and not a boot. After each kill:
 *
 * - the disk is exactly what it was after some event of the trace, at or after the last flush that was reported;
 * - `e2fsck -fy` repairs what is left to repair;
 * - every file whose fsync had returned by then is there, whole.
 *
 * After one kill in four, half a record is put at the end of the browser's log, as by a kill in the middle of a write.
 * One kill in forty, and one at least, is of the built page with a guest that runs.
 */
const KILLS = Number(process.argv[2] ?? 200);
/** After every so many kills the browser's log is torn. */
const TORN = 4;
const LOG_BLOCK = 32 << 10;
const SCRATCH_SIZE = 48 << 20;
/** Files in the trace. */
const FILES = KILLS > 20 ? 150 : 60;
/** Kills of a page with a guest in it. */
const GUESTS = Math.max(1, Math.round(KILLS / 40));

const folder = mkdtempSync(join(tmpdir(), 'crash-'));
const profile = join(folder, 'profile');

async function bundlePage(): Promise<string> {
  const result = await build({
    configFile: false,
    logLevel: 'warn',
    build: { write: false, lib: { entry: 'test/browser/crash/page.ts', formats: ['iife'], name: 'crash' } },
  });
  const [{ output }] = result as unknown as [{ output: [{ code: string }] }];
  return output[0].code;
}

/**
 * Puts what a kill in the middle of an append leaves at the end of the browser's log: half a record (LevelDB's
 * doc/log_format.md). A kill that hits that moment is rare, and this one counts.
 */
function tearLog(): void {
  const indexedDb = join(profile, 'Default/IndexedDB');
  for (const directory of readdirSync(indexedDb).filter((name) => name.endsWith('.leveldb'))) {
    const log = readdirSync(join(indexedDb, directory))
      .filter((name) => /^\d+\.log$/.test(name))
      .sort()
      .at(-1);
    if (!log) continue;
    const file = join(indexedDb, directory, log);
    const left = LOG_BLOCK - (statSync(file).size % LOG_BLOCK);
    if (left < 64) continue;
    // Checksum, length, type "full", and less than that.
    const record = Buffer.alloc(32, 0xa5);
    record.writeUInt16LE(left - 7, 4);
    record.writeUInt8(1, 6);
    appendFileSync(file, record);
  }
}

/** Blocks that differ between the disk and the trace's state, kept up to date while the trace goes on. */
class Comparison {
  private readonly wrong = new Set<number>();

  constructor(
    private readonly disk: Uint8Array,
    private readonly state: Uint8Array,
  ) {
    for (let block = 0; block * 4096 < disk.length; block++) this.look(block);
  }

  get equal(): boolean {
    return this.wrong.size === 0;
  }

  /** The state has changed there. */
  changed(offset: number, length: number): void {
    for (let block = Math.floor(offset / 4096); block * 4096 < offset + length; block++) this.look(block);
  }

  private look(block: number): void {
    const at = block * 4096;
    const same = Buffer.compare(this.disk.subarray(at, at + 4096), this.state.subarray(at, at + 4096)) === 0;
    if (same) this.wrong.delete(block);
    else this.wrong.add(block);
  }
}

async function main(): Promise<void> {
  const began = performance.now();
  const scratchFile = join(folder, 'scratch');
  execFileSync('mke2fs', ['-q', '-t', 'ext2', '-b', '4096', scratchFile, String(SCRATCH_SIZE / 4096)], { env: TOOLS });
  const scratch = new Uint8Array(readFileSync(scratchFile));
  const { trace, data } = await record(DISK, scratch, FILES);
  const flushes = trace.events.filter(({ kind }) => kind === 'flush').length;
  process.stdout.write(
    `     recorded in ${((performance.now() - began) / 1000).toFixed(1)} s: ${FILES} files, ${trace.events.length} events, ` +
      `${flushes} flushes, ${(data.length / 1e6).toFixed(1)} MB\n`,
  );

  const script = await bundlePage();
  let dumped: (diff: Buffer) => void = () => undefined;
  const server = createServer((request, response) => {
    const answer = (type: string, body: string | Uint8Array): void =>
      void response.writeHead(200, { 'content-type': type }).end(body);
    switch (request.url) {
      case '/':
        return answer('text/html', `<!doctype html><script src="/page.js"></script>`);
      case '/page.js':
        return answer('text/javascript', script);
      case '/trace':
        return answer('application/json', JSON.stringify(trace));
      case '/data':
        return answer('application/octet-stream', data);
      case '/scratch':
        return answer('application/octet-stream', scratch);
      case '/diff': {
        const parts: Buffer[] = [];
        request.on('data', (part: Buffer) => parts.push(part));
        request.on('end', () => {
          dumped(Buffer.concat(parts));
          answer('text/plain', '');
        });
        return;
      }
    }
    response.writeHead(404).end();
  });
  const address = await listen(server, 0, '127.0.0.1');

  // What the disk is known to be: the trace up to here, in this round.
  let state = scratch.slice();
  let next = 0;
  let round = 0;
  let reported = -1;
  let promises = 0;
  let unflushed = 0;
  let torn = false;
  const call = (page: Page, method: string, ...args: (string | number)[]): Promise<void> =>
    page.evaluate(
      ([name, values]) =>
        (window as unknown as { crash: Record<string, (...a: unknown[]) => Promise<void>> }).crash[name]!(...values),
      [method, args] as const,
    );

  /** Reads what the last kill has left, and finds the event after which it is the disk's state. */
  const verify = async (page: Page): Promise<void> => {
    const diff = new Promise<Buffer>((resolve) => (dumped = resolve));
    await call(page, 'dump', `round-${round}`);
    const { batches } = await readDiff(new Blob([new Uint8Array(await diff)]));
    const disk = scratch.slice();
    for await (const batch of batches)
      for (const [block, bytes] of batch) {
        if (bytes) disk.set(bytes, block * 4096);
        else disk.fill(0, block * 4096, (block + 1) * 4096);
      }
    const comparison = new Comparison(disk, state);
    while (next <= reported || !comparison.equal) {
      const event = trace.events[next];
      if (!event)
        throw new Error(`the disk is no state of the trace at or after event ${reported}, whose flush had returned`);
      applyEvent(event, data, state);
      if (event.kind !== 'flush') comparison.changed(event.offset, event.length);
      next++;
    }
    if (next > reported + 1) unflushed++;
    const image = join(folder, 'image');
    writeFileSync(image, disk);
    const promised = trace.files.filter(({ event }) => event <= reported);
    checkFiles(image, '/', promised);
    promises += promised.length;
  };

  try {
    for (let kill = 1; kill <= KILLS; kill++) {
      await check(`kill ${kill}`, async () => {
        const browser = await KillableBrowser.launch(profile, address);
        try {
          const { page } = browser;
          if (round > 0 || reported >= 0) await verify(page);
          if (round === 0 || next >= trace.events.length - flushes / 10) {
            if (round > 0) await call(page, 'remove', `round-${round}`);
            round++;
            state = scratch.slice();
            next = 0;
          }
          reported = next - 1;
          // Either some time, or the very moment at which a flush is reported.
          const after = Math.random() < 0.5 || torn ? Math.floor(Math.random() * 12) : Infinity;
          let count = 0;
          await new Promise<void>((resolve, reject) => {
            const timer = setTimeout(resolve, after === Infinity ? 20 + Math.random() * 700 : 20_000);
            page.on('console', (message) => {
              const [, event] = /^flushed (\d+)$/.exec(message.text()) ?? [];
              if (event === undefined) return;
              reported = Number(event);
              if (count++ < after) return;
              clearTimeout(timer);
              resolve();
            });
            // It ends with the browser.
            call(page, 'replay', `round-${round}`, next).catch((error: Error) =>
              /closed|crashed|Target/.test(error.message) ? undefined : reject(error),
            );
          });
        } finally {
          await browser.kill();
        }
        torn = kill % TORN === 0;
        if (torn) tearLog();
      });
    }
    await check('the last kill', async () => {
      const browser = await KillableBrowser.launch(profile, address);
      await verify(browser.page).finally(() => browser.kill());
    });
    for (let kill = 1; kill <= GUESTS; kill++)
      await check(`kill ${kill} of a guest that runs`, async () => {
        promises += await killGuest(folder, script);
      });
  } finally {
    server.closeAllConnections();
    server.close();
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  }
  process.stdout.write(
    `     ${KILLS + GUESTS} kills in ${((performance.now() - began) / 1000).toFixed(0)} s: ${promises} fsynced files looked for, ` +
      `after ${unflushed} kills there was more than what had been flushed\n`,
  );
}

await journey(main);
