import { type Measurement, FIRST_BENCHES, RATES } from './programs.ts';
import type { BootFigures, Place } from './places.ts';
import { figure, geometricMean, median, table } from './statistics.ts';

/** One bench, run once in one place. */
export interface Result extends Partial<Measurement> {
  /** What it took on the host's clock, start of the program included: tells of a guest whose clock is wrong. */
  hostSeconds: number;
  /** What our machine's counters grew by meanwhile. */
  counters?: Record<string, number>;
  error?: string;
}

/** By bench, then by place. */
export type Results = Record<string, Record<string, Result[]>>;

/** One machine, up and left alone. */
export interface Idle extends Pick<BootFigures, 'residentMiB' | 'privateMiB'> {
  bootSeconds?: number;
  /** Processor time of all its processes, in per cent of one core. */
  idlePercent?: number;
  /** What is its own when it has been left alone for half a minute. */
  settledMiB?: number;
  /** Pages that the guest uses, its kernel and caches included, in MiB. */
  guestMiB?: number;
}

type Where = Pick<Place, 'name' | 'against'>;
type Time = 'seconds' | 'best';

/** A guest's clock may be off the host's by this share, and the seconds that a program takes to start and prepare itself. */
const CLOCK_SHARE = 0.1;
const CLOCK_SECONDS = 0.3;

/** @returns a line for each bench that failed somewhere, did not give one checksum, or whose clock ran ahead of the host's */
export function complaintsOf(results: Results): string[] {
  return Object.entries(results).flatMap(([bench, places]) => {
    const all = Object.entries(places).flatMap(([place, list]) => list.map((result) => ({ place, ...result })));
    const lines = all.flatMap(({ place, error }) =>
      error === undefined ? [] : [`FAILED ${bench} in ${place}: ${error}`],
    );
    for (const { place, seconds = 0, hostSeconds } of all)
      if (seconds > hostSeconds * (1 + CLOCK_SHARE) + CLOCK_SECONDS)
        lines.push(`WRONG CLOCK in ${place}: ${figure(seconds)} s of ${bench} took ${figure(hostSeconds)} s`);
    const sums = all.flatMap(({ place, checksum }) => (checksum === undefined ? [] : [`${checksum} (${place})`]));
    if (new Set(sums.map((sum) => sum.slice(0, 8))).size > 1)
      lines.push(`DIFFERENT CHECKSUMS of ${bench}: ${[...new Set(sums)].join(', ')}`);
    return lines;
  });
}

export function report(results: Results, places: readonly Where[], idle: Record<string, Idle[]>): string {
  const parts = [
    times(results, places, 'seconds', 'whole, warm-up included'),
    times(results, places, 'best', 'past warm-up'),
    rates(results, places),
    machines(idle),
    counters(results),
  ];
  return parts.filter(Boolean).join('\n\n');
}

export function medianOf(results: Results, bench: string, place: string, key: Time): number {
  return median(results[bench]?.[place]?.flatMap((result) => result[key] ?? []) ?? []);
}

function times(results: Results, places: readonly Where[], key: Time, title: string): string {
  const names = places.map(({ name }) => name);
  const others = places.flatMap(({ name, against = 'native' }) =>
    name !== against && names.includes(against) && !name.startsWith('native') ? [{ name, against }] : [],
  );
  const benches = Object.keys(results);
  const slowdown = (bench: string, { name, against }: Required<Where>): number =>
    medianOf(results, bench, name, key) / medianOf(results, bench, against, key);
  const rows = benches.map((bench) => [
    bench,
    ...names.map((name) => figure(medianOf(results, bench, name, key))),
    ...others.map((other) => figure(slowdown(bench, other))),
  ]);
  const summary = (label: string, among: readonly string[], get: (values: number[]) => number): void => {
    if (!among.length || !others.length) return;
    const cells = others.map((other) => {
      const values = among.map((bench) => slowdown(bench, other)).filter(Number.isFinite);
      return values.length ? `${figure(get(values))}${values.length < among.length ? '*' : ''}` : '–';
    });
    rows.push([label, ...names.map(() => ''), ...cells]);
  };
  // Without a native time (devices) there is no slowdown: such benches are in no mean.
  const compared = benches.filter((bench) => Number.isFinite(medianOf(results, bench, 'native', key)));
  summary('geometric mean', compared, geometricMean);
  const first = compared.filter((bench) => FIRST_BENCHES.has(bench));
  if (first.length < compared.length) {
    summary('… of the first fifteen', first, geometricMean);
    const real = compared.filter((bench) => bench.startsWith('real_'));
    summary('… of real programs', real, geometricMean);
  }
  summary('worst', compared, (values) => Math.max(...values));
  return table([title, ...names.map((name) => `${name} s`), ...others.map(({ name }) => `${name} ×`)], rows);
}

function rates(results: Results, places: readonly Where[]): string {
  const benches = Object.keys(RATES).filter((bench) => results[bench]);
  if (!benches.length) return '';
  const shown = places.filter(({ name }) => benches.some((bench) => results[bench]![name]?.length));
  const rows = benches.map((bench) => {
    const { unit, factor } = RATES[bench]!;
    const rate = (place: string): number =>
      median(
        results[bench]?.[place]?.flatMap(({ iterations, best }) =>
          iterations && best ? [(iterations / best) * factor] : [],
        ) ?? [],
      );
    return [`${bench}, ${unit}`, ...shown.map(({ name }) => figure(rate(name)))];
  });
  return table(['rates past warm-up', ...shown.map(({ name }) => name)], rows);
}

function machines(idle: Record<string, Idle[]>): string {
  const names = Object.keys(idle).filter((name) => idle[name]!.length);
  if (!names.length) return '';
  const rows: [string, (idle: Idle) => number | undefined][] = [
    ['seconds to the prompt', (one) => one.bootSeconds],
    ['MiB resident at the prompt', (one) => one.residentMiB],
    ['of these its own', (one) => one.privateMiB],
    ['MiB that the guest uses then, kernel and caches included', (one) => one.guestMiB],
    ['MiB of its own beyond these', (one) => one.privateMiB && one.guestMiB && one.privateMiB - one.guestMiB],
    ['the same after half a minute', (one) => one.settledMiB && one.guestMiB && one.settledMiB - one.guestMiB],
    ['idle: % of a core, all processes', (one) => one.idlePercent],
  ];
  return table(
    ['machine', ...names],
    rows.map(([title, get]) => [
      title,
      ...names.map((name) => figure(median(idle[name]!.flatMap((one) => get(one) ?? [])))),
    ]),
  );
}

/** What our machine's counters say of each bench. */
function counters(results: Results): string {
  const rows = Object.entries(results).flatMap(([bench, places]) =>
    Object.entries(places).flatMap(([place, list]) => {
      const all = list.flatMap(({ counters, hostSeconds }) => (counters ? [{ ...counters, hostSeconds }] : []));
      if (!all.length) return [];
      const get = (key: string): number =>
        median(all.flatMap((counters) => (counters as unknown as Record<string, number>)[key] ?? []));
      const instructions = get('instructions');
      return [
        [
          `${bench} (${place})`,
          figure(instructions / 1e6),
          figure(instructions / get('hostSeconds') / 1e6),
          figure((get('interpreted') / instructions) * 100),
          figure(get('regions')),
          figure(get('codeBytes') / 1e6),
          figure(get('emitMilliseconds')),
          figure(get('longPauses')),
          figure((get('tlbFills') / instructions) * 1e6),
          figure((get('exceptions') / instructions) * 1e6),
          figure((get('interrupts') / instructions) * 1e6),
        ],
      ];
    }),
  );
  if (!rows.length) return '';
  const head =
    'counters|10⁶ instructions|MIPS|interpreted %|regions|MB of code|ms emitting|pauses over 20 ms|TLB fills/10⁶|exceptions/10⁶|interrupts/10⁶';
  return table(head.split('|'), rows);
}
