import { parseArgs } from 'node:util';
import type { Tier } from '../../emulator/processor.ts';
import type { BootFigures } from './places.ts';
import { writeResults } from './results.ts';
import { type PlaceName, placeNames, setUp } from './setup.ts';
import { describeHost, figure, median, table } from './statistics.ts';

const USAGE = `usage: npm run bench:boot -- [options]

  --runs N        boots in each place, interleaved; medians are printed (default 3)
  --in PLACES     of qemu,node,chromium (default all)
  --tier TIER     auto, interp or jit (default auto)
  --json          one JSON object on stdout instead of the table
  --write         puts the table into test/bench/RESULTS.md, too
  --help`;

/** Cold boot of the `debian` disk to the prompt: QEMU (TCG), Node, Chromium. */
const { values: options } = parseArgs({
  options: {
    runs: { type: 'string', default: '3' },
    in: { type: 'string' },
    tier: { type: 'string', default: 'auto' },
    json: { type: 'boolean', default: false },
    write: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

async function main(): Promise<void> {
  if (options.help) return void process.stdout.write(`${USAGE}\n`);
  const runs = Number(options.runs);
  if (!(runs >= 1)) throw new Error(`--runs ${options.runs} is not a number of runs`);
  const places = setUp(placeNames(options.in, ['qemu', 'node', 'chromium']), options.tier as Tier);
  const host = describeHost();
  const all: Record<string, BootFigures[]> = Object.fromEntries(places.map(({ name }) => [name, []]));
  for (let run = 0; run < runs; run++)
    for (const place of places) {
      const running = await place.start();
      await running.stop();
      all[place.name]!.push(running.boot!);
      process.stderr.write(`${place.name} ${run + 1}/${runs}: ${figure(running.boot!.seconds)} s\n`);
    }
  const medians = Object.fromEntries(Object.entries(all).map(([name, list]) => [name, mediansOf(list)]));
  const ratio = (name: PlaceName): number => (medians[name]?.seconds ?? NaN) / (medians['qemu']?.seconds ?? NaN);
  const rows: [string, (figures: BootFigures) => number | undefined][] = [
    ['seconds to the prompt', (f) => f.seconds],
    ['of these before the first instruction', (f) => f.loading],
    ['10⁹ instructions', (f) => f.instructions && f.instructions / 1e9],
    ['MIPS from the first instruction', (f) => f.instructions && f.instructions / (f.seconds - f.loading!) / 1e6],
    ['interpreted, %', (f) => f.interpreted && (f.interpreted / f.instructions!) * 100],
    ['regions compiled', (f) => f.regions],
    ['MB of WebAssembly for them', (f) => f.codeBytes && f.codeBytes / 1e6],
    ['kernel, MB fetched', (f) => f.kernelBytes && f.kernelBytes / 1e6],
    ['initramfs, MB fetched (Node: with the kernel)', (f) => f.initramfsBytes && f.initramfsBytes / 1e6],
    ['disk chunks, MB fetched', (f) => f.diskBytes && f.diskBytes / 1e6],
    ['disk chunks', (f) => f.diskChunks],
    ['page and manifest, MB fetched', (f) => f.siteBytes && f.siteBytes / 1e6],
    ['MiB resident at the prompt', (f) => f.residentMiB],
    ['of these its own', (f) => f.privateMiB],
  ];
  const names = places.map(({ name }) => name);
  const figures = table(
    ['boot', ...names],
    rows.map(([title, get]) => [title, ...names.map((name) => figure(get(medians[name]!)))]),
  );
  const both = medians['qemu'] && medians['chromium'];
  const text = both ? `${figures}\n\nChromium / QEMU: ${figure(ratio('chromium'))} (at most 3)` : figures;
  if (options.json) {
    const ratios = { chromium: ratio('chromium'), node: ratio('node') };
    process.stdout.write(`${JSON.stringify({ host, tier: options.tier, runs: all, medians, ratios }, undefined, 2)}\n`);
  } else process.stdout.write(`${host}; tier ${options.tier}; medians of ${runs}\n\n${text}\n`);
  const command = ['npm run bench:boot --', ...process.argv.slice(2)].join(' ');
  if (options.write) writeResults('Boot', command, `${host}; medians of ${runs}`, text);
}

function mediansOf(list: readonly BootFigures[]): BootFigures {
  const keys = Object.keys(list[0]!) as (keyof BootFigures)[];
  return Object.fromEntries(
    keys.map((key) => [key, median(list.flatMap((f) => f[key] ?? []))]),
  ) as unknown as BootFigures;
}

main().then(
  () => process.exit(),
  (error: unknown) => {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
    process.exit(1);
  },
);
