import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import type { Server } from 'node:http';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { type BrowserContext, chromium } from 'playwright-core';
import { createStaticServer, listen } from '../../src/cli/serve.ts';
import { writeResults } from './results.ts';
import { describeHost, figure, median, table } from './statistics.ts';

const USAGE = `usage: npm run bench:start -- [options]

  --runs N        visits of each kind; medians are printed (default 5)
  --site DIR      the built site (default dist)
  --disks DIR     where the disk "debian" is (default build/disks)
  --query TEXT    the page's query, such as boot=cold
  --json          one JSON object on stdout instead of the table
  --write         puts the table into test/bench/RESULTS.md, too
  --help`;

/**
 * The page in headless Chromium, from the navigation to the first echo of a typed character: with empty caches (a new
 * profile), and with warm ones (the same profile again, after visits that nobody measures).
 */
const { values: options } = parseArgs({
  options: {
    runs: { type: 'string', default: '5' },
    site: { type: 'string', default: 'dist' },
    disks: { type: 'string', default: 'build/disks' },
    query: { type: 'string', default: '' },
    json: { type: 'boolean', default: false },
    write: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

const FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking'];
/** Visits before the caches count as warm: V8 keeps compiled code after it has seen a script a few times. */
const WARMING = 3;
const LIMIT = 120_000;
/** Of /proc/…/stat in a second. */
const TICKS = 100;

interface Visit {
  /** Milliseconds since the navigation began. */
  firstPaint: number;
  prompt: number;
  echo: number;
  /** Bytes that the server had sent by then, and requests. */
  bytes: number;
  requests: number;
  /** Seconds of processor time that the browser's processes took, all threads together. */
  cpu: number;
  /** What the machine began with. */
  from: string;
}

/** What the page's script keeps for us. */
interface Watched {
  startBench: Promise<Omit<Visit, 'bytes' | 'requests' | 'cpu'>>;
}

/** Runs in the page before its own scripts: types a character as soon as there is a prompt, and waits for its echo. */
function watch(): void {
  const watched = window as unknown as Watched;
  watched.startBench = new Promise((done) => {
    let text = '';
    let prompt = 0;
    const decoder = new TextDecoder();
    document.addEventListener('vm-console', (event) => {
      text = (text + decoder.decode((event as CustomEvent<Uint8Array>).detail)).slice(-4000);
      const { vm } = event.target as HTMLElement & {
        vm: { console: { write(text: string): void }; origin: { from: string } };
      };
      if (!prompt && /[#$] $/.test(text)) {
        prompt = performance.now();
        vm.console.write('x');
      } else if (prompt && /x$/.test(text)) {
        const echo = performance.now();
        const firstPaint = performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN;
        done({ firstPaint, prompt, echo, from: vm.origin.from });
      }
    });
  });
}

async function visit(context: BrowserContext, profile: string, address: string, counts: Counts): Promise<Visit> {
  const page = await context.newPage();
  try {
    await page.addInitScript(watch);
    const before = { bytes: counts.bytes, requests: counts.requests, cpu: cpuOf(profile) };
    await page.goto(address, { waitUntil: 'commit' });
    const times = await Promise.race([
      page.evaluate(() => (window as unknown as Watched).startBench),
      new Promise<never>((_, reject) => setTimeout(() => reject(new Error('no prompt within two minutes')), LIMIT)),
    ]);
    const result = {
      ...times,
      bytes: counts.bytes - before.bytes,
      requests: counts.requests - before.requests,
      cpu: [...cpuOf(profile)].reduce((sum, [pid, seconds]) => sum + seconds - (before.cpu.get(pid) ?? 0), 0),
    };
    // The rest of its memory comes, and caches are written, after the measurement.
    await page.waitForTimeout(4000);
    return result;
  } finally {
    await page.close();
  }
}

/** Seconds of processor time of each process of the browser that uses a profile. */
function cpuOf(profile: string): Map<number, number> {
  const parents = new Map<number, number>();
  const times = new Map<number, number>();
  const family = new Set<number>();
  for (const name of readdirSync('/proc')) {
    if (!/^[0-9]+$/.test(name)) continue;
    try {
      const pid = Number(name);
      // Fields from the third on; the second may hold spaces.
      const fields = readFileSync(`/proc/${name}/stat`, 'utf8')
        .replace(/^.*\) /s, '')
        .split(' ');
      parents.set(pid, Number(fields[1]));
      times.set(pid, (Number(fields[11]) + Number(fields[12])) / TICKS);
      if (readFileSync(`/proc/${name}/cmdline`, 'utf8').includes(profile)) family.add(pid);
    } catch {
      // It has ended meanwhile.
    }
  }
  const own = new Map<number, number>();
  for (const [pid, seconds] of times)
    for (let up: number | undefined = pid; up; up = parents.get(up))
      if (family.has(up)) {
        own.set(pid, seconds);
        break;
      }
  return own;
}

/** Since the server began: bytes that it has sent, headers included, and requests. */
interface Counts {
  readonly bytes: number;
  readonly requests: number;
}

function count(server: Server): Counts {
  const sockets = new Set<Socket>();
  let closed = 0;
  let requests = 0;
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.on('close', () => {
      sockets.delete(socket);
      closed += socket.bytesWritten;
    });
  });
  server.on('request', () => requests++);
  return {
    get bytes() {
      let sum = closed;
      for (const socket of sockets) sum += socket.bytesWritten;
      return sum;
    },
    get requests() {
      return requests;
    },
  };
}

async function main(): Promise<void> {
  if (options.help) return void process.stdout.write(`${USAGE}\n`);
  const runs = Number(options.runs);
  if (!(runs >= 1)) throw new Error(`--runs ${options.runs} is not a number of runs`);
  const site = resolve(options.site);
  const disks = resolve(options.disks);
  for (const needed of [join(site, 'index.html'), join(disks, 'debian/manifest.json')])
    if (!existsSync(needed)) throw new Error(`${needed} is not there: npm start -- --build-only makes it`);
  const server = createStaticServer([
    { path: '/disks/', directory: disks },
    { path: '/', directory: site },
  ]);
  const counts = count(server);
  const address = `${await listen(server, 0, '127.0.0.1')}${options.query && `?${options.query}`}`;
  const profiles: string[] = [];
  const open = (): Promise<BrowserContext> => {
    profiles.push(mkdtempSync(join(tmpdir(), 'bench-start-')));
    return chromium.launchPersistentContext(profiles.at(-1)!, {
      executablePath: process.env['CHROMIUM'] ?? '/usr/bin/chromium',
      args: FLAGS,
      viewport: { width: 1000, height: 700 },
    });
  };
  const cold: Visit[] = [];
  const warm: Visit[] = [];
  try {
    for (let run = 0; run < runs; run++) {
      const context = await open();
      cold.push(await visit(context, profiles.at(-1)!, address, counts));
      process.stderr.write(`cold ${run + 1}/${runs}: ${figure(cold.at(-1)!.echo / 1000)} s\n`);
      if (run === runs - 1) {
        for (let i = 0; i < WARMING; i++) await visit(context, profiles.at(-1)!, address, counts);
        for (let i = 0; i < runs; i++) {
          warm.push(await visit(context, profiles.at(-1)!, address, counts));
          process.stderr.write(`warm ${i + 1}/${runs}: ${figure(warm.at(-1)!.echo / 1000)} s\n`);
        }
      }
      await context.close();
    }
  } finally {
    server.closeAllConnections();
    server.close();
    for (const profile of profiles) rmSync(profile, { recursive: true, force: true });
  }
  const host = describeHost();
  const of = (list: Visit[], get: (visit: Visit) => number): string => figure(median(list.map(get)));
  const row = (title: string, get: (visit: Visit) => number): string[] => [title, of(cold, get), of(warm, get)];
  const text = table(
    ['start', 'cold', 'warm'],
    [
      row('seconds to the first paint', (v) => v.firstPaint / 1000),
      row('seconds to the prompt', (v) => v.prompt / 1000),
      row('seconds to the first echo', (v) => v.echo / 1000),
      row('MB transferred before it', (v) => v.bytes / 1e6),
      row('requests before it', (v) => v.requests),
      row('CPU seconds before it, all threads', (v) => v.cpu),
      ['began with', ...[cold, warm].map((list) => [...new Set(list.map(({ from }) => from))].join(', '))],
    ],
  );
  if (options.json) process.stdout.write(`${JSON.stringify({ host, cold, warm }, undefined, 2)}\n`);
  else process.stdout.write(`${host}; medians of ${runs}\n\n${text}\n`);
  const command = ['npm run bench:start --', ...process.argv.slice(2)].join(' ');
  if (options.write) writeResults('Start', command, `${host}; medians of ${runs}`, text);
}

main().then(
  () => process.exit(),
  (error: unknown) => {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
    process.exit(1);
  },
);
