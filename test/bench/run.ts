import { parseArgs } from 'node:util';
import type { Tier } from '../../emulator/processor.ts';
import type { VmStats } from '../../src/protocol.ts';
import type { BootFigures, Place, Running } from './places.ts';
import { type Measurement, parseMeasurement, PROGRAMS, TINY } from './programs.ts';
import { writeResults } from './results.ts';
import { PLACES, placeNames, setUp } from './setup.ts';
import { describeHost, figure, geometricMean, median, table } from './statistics.ts';

const USAGE = `usage: npm run bench -- [options]

  --only PATTERN  benches whose name matches this regular expression
  --runs N        rounds, each in machines booted anew; medians are printed (default 3)
  --in PLACES     of native,qemu,node,chromium (default all)
  --tier TIER     of our machine: auto, interp or jit (default auto); with jit, Node boots with auto and goes on with
                  jit from its saved state, Chromium boots with jit, which takes minutes
  --limit S       seconds after which a bench is given up (default 120)
  --json          one JSON object on stdout instead of the tables
  --write         puts the tables into test/bench/RESULTS.md, too
  --help

A bench's checksum must be the same everywhere; where it is not, the status is 1.`;

const { values: options } = parseArgs({
  options: {
    only: { type: 'string', default: '' },
    runs: { type: 'string', default: '3' },
    in: { type: 'string' },
    tier: { type: 'string', default: 'auto' },
    limit: { type: 'string', default: '120' },
    json: { type: 'boolean', default: false },
    write: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

/** One bench, run once in one place. */
interface Result extends Partial<Measurement> {
  /** What it took on the host's clock, start of the program included: tells of a guest whose clock is wrong. */
  hostSeconds: number;
  /** What our machine's counters grew by meanwhile. */
  counters?: Record<string, number>;
  error?: string;
}

type Results = Record<string, Record<string, Result[]>>;

/** A place and the machine that is up in it; one that fails is replaced. */
class Worker {
  private running: Running | undefined;
  private here = new Set<string>();
  readonly boots: BootFigures[] = [];

  constructor(readonly place: Place) {}

  async measure(file: string, bench: string, timeout: number): Promise<Result> {
    let began = performance.now();
    try {
      const running = await this.up();
      for (const name of [file, ...(bench === 'sys_forkexec' ? [TINY] : [])])
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
      const words = error instanceof Error ? error.message : String(error);
      return { error: words, hostSeconds: (performance.now() - began) / 1000 };
    }
  }

  async up(): Promise<Running> {
    if (!this.running) {
      this.running = await this.place.start();
      if (this.running.boot) this.boots.push(this.running.boot);
    }
    return this.running;
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

async function main(): Promise<number> {
  if (options.help) {
    process.stdout.write(`${USAGE}\n`);
    return 0;
  }
  const [runs, limit] = [Number(options.runs), Number(options.limit)];
  if (!(runs >= 1) || !(limit > 0)) throw new Error('--runs and --limit are numbers');
  const only = new RegExp(options.only);
  const wanted = PROGRAMS.flatMap(({ file, benches }) => benches.map((bench) => ({ file, bench }))).filter(
    ({ bench }) => only.test(bench),
  );
  if (!wanted.length) throw new Error(`no bench matches --only ${options.only}`);
  const names = placeNames(options.in, PLACES);
  const workers = setUp(names, options.tier as Tier).map((place) => new Worker(place));
  const host = describeHost();
  const results: Results = {};
  for (let run = 0; run < runs; run++) {
    // All of a round's machines are up together, so that each bench is run everywhere within moments.
    for (const worker of workers) await worker.up().catch((error: unknown) => say(`${worker.place.name}: ${error}`));
    for (const { file, bench } of wanted)
      for (const worker of workers) {
        const result = await worker.measure(file, bench, limit * 1000);
        ((results[bench] ??= {})[worker.place.name] ??= []).push(result);
        const what = result.error ?? `${figure(result.seconds)} s (best ${figure(result.best)}) ${result.checksum}`;
        say(`${run + 1}/${runs} ${bench} ${worker.place.name}: ${what}`);
      }
    for (const worker of workers) await worker.stop();
  }
  const complaints = check(results);
  if (options.json) {
    const boots = Object.fromEntries(workers.map(({ place, boots }) => [place.name, boots]));
    process.stdout.write(`${JSON.stringify({ host, tier: options.tier, results, boots, complaints }, undefined, 2)}\n`);
  } else process.stdout.write(`${report(results, names)}\n`);
  if (options.write) {
    const words = `Seconds are medians of ${runs} rounds, × is the slowdown against native; *: without the benches that failed.`;
    const command = ['npm run bench --', ...process.argv.slice(2)].join(' ');
    writeResults('Programs', command, host, `${words}\n\n${report(results, names)}`);
  }
  for (const complaint of complaints) say(complaint);
  return complaints.length ? 1 : 0;
}

function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** @returns a line for each bench that failed somewhere or did not give one checksum */
function check(results: Results): string[] {
  return Object.entries(results).flatMap(([bench, places]) => {
    const lines = Object.entries(places).flatMap(([place, list]) =>
      list.flatMap(({ error }) => (error === undefined ? [] : [`FAILED ${bench} in ${place}: ${error}`])),
    );
    const sums = Object.entries(places).flatMap(([place, list]) =>
      list.flatMap(({ checksum }) => (checksum === undefined ? [] : [`${checksum} (${place})`])),
    );
    if (new Set(sums.map((sum) => sum.slice(0, 8))).size > 1)
      lines.push(`DIFFERENT CHECKSUMS of ${bench}: ${[...new Set(sums)].join(', ')}`);
    return lines;
  });
}

function report(results: Results, names: readonly string[]): string {
  const others = names.filter((name) => name !== 'native');
  const value = (bench: string, place: string, key: 'seconds' | 'best'): number => {
    const list = results[bench]?.[place]?.flatMap((result) => result[key] ?? []) ?? [];
    return list.length ? median(list) : NaN;
  };
  const slowdown = (bench: string, place: string, key: 'seconds' | 'best'): number =>
    value(bench, place, key) / value(bench, 'native', key);
  const native = names.includes('native');
  const section = (key: 'seconds' | 'best', title: string): string => {
    const benches = Object.keys(results);
    const cells = (bench: string): string[] => [
      bench,
      ...names.map((place) => figure(value(bench, place, key))),
      ...(native ? others.map((place) => figure(slowdown(bench, place, key))) : []),
    ];
    const mean = (place: string): string => {
      const all = benches.map((bench) => slowdown(bench, place, key)).filter(Number.isFinite);
      return all.length === benches.length ? figure(geometricMean(all)) : `${figure(geometricMean(all))}*`;
    };
    const rows = benches.map(cells);
    if (native) rows.push(['geometric mean', ...names.map(() => ''), ...others.map(mean)]);
    const head = [title, ...names.map((name) => `${name} s`), ...(native ? others.map((name) => `${name} ×`) : [])];
    return table(head, rows);
  };
  return `${section('seconds', 'whole, warm-up included')}\n\n${section('best', 'past warm-up')}\n${mips(results)}`;
}

/** What our machine's counters say of each bench. */
function mips(results: Results): string {
  const rows = Object.entries(results).flatMap(([bench, places]) =>
    Object.entries(places).flatMap(([place, list]) => {
      const all = list.flatMap(({ counters, hostSeconds }) => (counters ? [{ ...counters, hostSeconds }] : []));
      if (!all.length) return [];
      const get = (key: string): number =>
        median(all.map((counters) => (counters as unknown as Record<string, number>)[key] ?? NaN));
      const instructions = get('instructions');
      return [
        [
          `${bench} (${place})`,
          figure(instructions / 1e6),
          figure(instructions / get('hostSeconds') / 1e6),
          figure((get('interpreted') / instructions) * 100),
          figure(get('regions')),
          figure(get('codeBytes') / 1e6),
          figure((get('tlbFills') / instructions) * 1e6),
          figure((get('exceptions') / instructions) * 1e6),
          figure((get('interrupts') / instructions) * 1e6),
        ],
      ];
    }),
  );
  if (!rows.length) return '';
  const head =
    'counters|10⁶ instructions|MIPS|interpreted %|regions|MB of code|TLB fills/10⁶|exceptions/10⁶|interrupts/10⁶';
  return `\n${table(head.split('|'), rows)}\n`;
}

main().then(
  (status) => process.exit(status),
  (error: unknown) => {
    say(error instanceof Error ? error.message : String(error));
    process.exit(2);
  },
);
