import { parseArgs } from 'node:util';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Tier } from '../../emulator/processor.ts';
import type { VmStats } from '../../src/protocol.ts';
import type { Place, Running } from './places.ts';
import { memoryOf, processorSeconds } from './processes.ts';
import { type DiskName, parseMeasurement, type Program, PROGRAMS } from './programs.ts';
import { complaintsOf, type Idle, report, type Result, type Results } from './report.ts';
import { writeResults } from './results.ts';
import { PLACES, placeNames, possiblePlaces, setUp } from './setup.ts';
import { describeHost, figure } from './statistics.ts';

const USAGE = `usage: npm run bench -- [options]

  --only PATTERN  benches whose name matches this regular expression; "idle" is the machine left alone
  --list          names the benches
  --runs N        rounds, each in machines booted anew; medians are printed (default 3)
  --in PLACES     of native,qemu,node,chromium,native-i386,v86 (default all that this host can do)
  --tier TIER     of our machine: auto, interp or jit (default auto); with jit, Node boots with auto and goes on with
                  jit from its saved state, Chromium boots with jit, which takes minutes
  --limit S       seconds after which a bench is given up (default 300)
  --json          one JSON object on stdout instead of the tables
  --write         puts the tables into test/bench/RESULTS.md, too
  --help

real_* need the disk debian-dev, and natively root, for they run in its image; the rest need debian. v86 runs the C
programs only, built for i386, and is compared with these run natively (native-i386); that needs gcc-multilib and seabios,
and Debian's i386 kernel, which apt downloads. A bench's checksum must be the same everywhere; where it is not, or a bench
fails, or a guest's clock is ahead of the host's, the status is 1.`;

const { values: options } = parseArgs({
  options: {
    only: { type: 'string', default: '' },
    list: { type: 'boolean', default: false },
    runs: { type: 'string', default: '3' },
    in: { type: 'string' },
    tier: { type: 'string', default: 'auto' },
    limit: { type: 'string', default: '300' },
    json: { type: 'boolean', default: false },
    write: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

/**
 * After the prompt, before a machine counts as idle: in a page it goes on compiling for almost ten seconds. And for how long it is watched.
 * Milliseconds.
 */
const SETTLING = 12_000;
const WATCHING = 10_000;
/** After that, before its memory is looked at again: browsers tidy up when nothing has happened for a while. Milliseconds. */
const TIDYING = 15_000;

/** RAM of all machines. MemTotal of /proc/meminfo is less: without the kernel and its tables. */
const GUEST_MIB = 512;

/** Starts that may fail in a round before the place is left out. */
const MOST_FAILURES = 2;

interface Wanted {
  program: Program;
  bench: string;
}

/** A place and the machine that is up in it; one that fails is replaced. */
class Worker {
  private running: Running | undefined;
  private here = new Set<string>();
  /** Starts of this round that failed. */
  private failures = 0;

  constructor(readonly place: Place) {}

  /** Whether the place is a machine, and runs such programs. */
  takes({ devices }: Program): boolean {
    const { name } = this.place;
    return !devices || !(name.startsWith('native') || name === 'v86');
  }

  async measure({ program: { file, needs = [] }, bench }: Wanted, timeout: number): Promise<Result> {
    let began = performance.now();
    try {
      const running = await this.up();
      for (const name of [file, ...needs])
        if (!this.here.has(name)) {
          await running.put(name);
          this.here.add(name);
        }
      const before = await running.stats?.();
      began = performance.now();
      const output = await running.run(file, [bench], timeout);
      const hostSeconds = (performance.now() - began) / 1000;
      const after = await running.stats?.();
      return { ...parseMeasurement(bench, output), hostSeconds, counters: before && after && growth(before, after) };
    } catch (error) {
      await this.stop();
      return { error: wordsOf(error), hostSeconds: (performance.now() - began) / 1000 };
    }
  }

  async up(): Promise<Running> {
    if (this.running) return this.running;
    if (this.failures >= MOST_FAILURES) throw new Error('it was left out, as it did not start');
    try {
      this.running = await this.place.start();
    } catch (error) {
      this.failures++;
      throw error;
    }
    return this.running;
  }

  /** The machine at the prompt: nothing but this may have been run in it. */
  async idle(): Promise<Idle | undefined> {
    const running = await this.up();
    if (!running.processes) return undefined;
    const pids = await running.processes();
    const [before, began] = [processorSeconds(pids), performance.now()];
    await sleep(WATCHING);
    const seconds = (performance.now() - began) / 1000;
    const idlePercent = ((processorSeconds(pids) - before) / seconds) * 100;
    await sleep(TIDYING);
    const { privateMiB: settledMiB } = memoryOf(pids[0]!);
    const guest = await running.run('/bin/cat', ['/proc/meminfo'], 60_000).catch(() => '');
    const kib = (name: string): number => Number(new RegExp(`^${name}: +(\\d+) kB`, 'm').exec(guest)?.[1]);
    return {
      bootSeconds: running.boot?.seconds,
      residentMiB: running.boot?.residentMiB,
      privateMiB: running.boot?.privateMiB,
      settledMiB,
      idlePercent,
      ...(guest && { guestMiB: GUEST_MIB - kib('MemFree') / 1024 }),
    };
  }

  async endRound(): Promise<void> {
    this.failures = 0;
    await this.stop();
  }

  async stop(): Promise<void> {
    const { running } = this;
    this.running = undefined;
    this.here.clear();
    await running?.stop();
  }
}

function growth(before: VmStats, after: VmStats): Record<string, number> {
  const earlier = before.processor as unknown as Record<string, unknown>;
  return Object.fromEntries(
    Object.entries(after.processor).flatMap(([name, value]) =>
      typeof value === 'number' ? [[name, value - Number(earlier[name])]] : [],
    ),
  );
}

/** All of a round's machines of one disk are up together, so that each bench is run everywhere within moments. */
async function round(
  label: string,
  workers: readonly Worker[],
  wanted: readonly Wanted[],
  results: Results,
  idle: Record<string, Idle[]> | undefined,
): Promise<void> {
  try {
    const broken = new Set<Worker>();
    for (const worker of workers)
      await worker.up().catch((error: unknown) => {
        say(`${worker.place.name}: ${wordsOf(error)}`);
        broken.add(worker);
      });
    if (idle) {
      await sleep(SETTLING);
      for (const worker of workers) {
        const figures = broken.has(worker) ? undefined : await worker.idle();
        if (!figures) continue;
        (idle[worker.place.name] ??= []).push(figures);
        say(`${label} idle ${worker.place.name}: ${figure(figures.idlePercent)} % of a core`);
      }
    }
    for (const one of wanted)
      for (const worker of workers) {
        if (!worker.takes(one.program)) continue;
        const result = await worker.measure(one, Number(options.limit) * 1000);
        ((results[one.bench] ??= {})[worker.place.name] ??= []).push(result);
        const what = result.error ?? `${figure(result.seconds)} s (best ${figure(result.best)}) ${result.checksum}`;
        say(`${label} ${one.bench} ${worker.place.name}: ${what}`);
      }
  } finally {
    for (const worker of workers) await worker.endRound();
  }
}

async function main(): Promise<number> {
  if (options.help) {
    process.stdout.write(`${USAGE}\n`);
    return 0;
  }
  const runs = Number(options.runs);
  if (!(runs >= 1) || !(Number(options.limit) > 0)) throw new Error('--runs and --limit are numbers');
  const only = new RegExp(options.only);
  const wanted = PROGRAMS.flatMap((program) => program.benches.map((bench) => ({ program, bench }))).filter(
    ({ bench }) => only.test(bench),
  );
  if (options.list) {
    process.stdout.write(`${wanted.map(({ bench }) => bench).join('\n')}\n`);
    return 0;
  }
  const idle: Record<string, Idle[]> | undefined = only.test('idle') ? {} : undefined;
  if (!wanted.length && !idle) throw new Error(`no bench matches --only ${options.only}; --list names them all`);
  const names = possiblePlaces(placeNames(options.in, PLACES), say);
  const parts = (['debian', 'debian-dev'] as const satisfies readonly DiskName[])
    .map((disk) => ({ disk, wanted: wanted.filter(({ program }) => program.disk === disk) }))
    .filter((part) => part.wanted.length || (idle && part.disk === 'debian'))
    .map((part) => ({
      ...part,
      workers: setUp(names, options.tier as Tier, part.disk).map((place) => new Worker(place)),
    }));
  const places = [...new Map(parts.flatMap(({ workers }) => workers.map(({ place }) => [place.name, place]))).values()];
  const host = describeHost();
  const results: Results = {};
  for (let run = 1; run <= runs; run++)
    for (const part of parts)
      await round(`${run}/${runs}`, part.workers, part.wanted, results, part.disk === 'debian' ? idle : undefined);
  const complaints = complaintsOf(results);
  const text = report(results, places, idle ?? {});
  if (options.json)
    process.stdout.write(`${JSON.stringify({ host, tier: options.tier, results, idle, complaints }, undefined, 2)}\n`);
  else process.stdout.write(`${host}; tier ${options.tier}; medians of ${runs}\n\n${text}\n`);
  if (options.write) {
    const words =
      `Seconds are medians of ${runs} rounds, places interleaved; × is the slowdown against native, v86's against ` +
      `native-i386; *: without the benches that failed or are not for that place.`;
    const command = ['npm run bench --', ...process.argv.slice(2)].join(' ');
    writeResults('Programs', command, host, `${words}\n\n${text}`);
  }
  for (const complaint of complaints) say(complaint);
  return complaints.length ? 1 : 0;
}

function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

function wordsOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

main().then(
  (status) => process.exit(status),
  (error: unknown) => {
    say(wordsOf(error));
    process.exit(2);
  },
);
