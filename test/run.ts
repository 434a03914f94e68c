import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';

/**
 * `npm test`: every check and every runner, one after the other, and one line that adds them up. With names of steps as
 * arguments, only these. Ends with status 1 when anything failed, or when a runner that should have run did not.
 */
interface Step {
  name: string;
  command: string[];
  /** Reads the runner's own counts from what it printed; a step without counts is one test. */
  count?: (output: string) => { passed: number; failed: number } | undefined;
  /** A reason to leave the step out, or undefined. */
  skip?: () => string | undefined;
  /** Seconds after which it is ended. */
  limit: number;
}

const DISK = 'build/disks/debian/manifest.json';

const steps: Step[] = [
  { name: 'format', command: ['prettier', '--check', '--log-level', 'warn', '.'], limit: 120 },
  { name: 'lint', command: ['eslint', '.'], limit: 300 },
  { name: 'types', command: ['tsc', '--noEmit'], limit: 300 },
  {
    name: 'unit',
    command: ['vitest', 'run', '--no-color'],
    count: (output) => counts(/^\s*Tests\s+(.*)$/m.exec(output)?.[1]),
    limit: 1200,
  },
  {
    name: 'elements',
    command: ['web-test-runner'],
    count: (output) => counts([...output.matchAll(/\| (\d+ passed, \d+ failed)/g)].at(-1)?.[1]),
    skip: () => (chromium() ? undefined : 'no Chromium: apt-get install chromium'),
    limit: 300,
  },
  {
    name: 'package',
    command: ['tsx', 'test/package.ts'],
    count: (output) => counts([...output.matchAll(/^(\d+ passed, \d+ failed)$/gm)].at(-1)?.[1]),
    limit: 600,
  },
  { name: 'build', command: ['tsx', 'src/cli/start.ts', '--build-only', 'debian', 'debian-dev'], limit: 3600 },
  {
    name: 'guest',
    command: ['tsx', 'test/guest/run.ts'],
    count: (output) => counts([...output.matchAll(/^(\d+ passed, \d+ failed)$/gm)].at(-1)?.[1]),
    skip: () => (existsSync('test/guest/run.ts') ? undefined : 'test/guest/run.ts is not there'),
    limit: 3600,
  },
  journey('page', 'journey'),
  journey('workbench', 'workbench'),
  journey('offline', 'offline'),
  journey('persistence', 'persistence'),
  journey('crash', 'crash', '8'),
  journey('embed', 'embed'),
  journey('quality', 'quality'),
  {
    ...journey('firefox', 'firefox'),
    skip: () =>
      !existsSync(DISK)
        ? `no disk at ${DISK}: npm run disk -- debian`
        : existsSync(process.env['FIREFOX'] ?? '/usr/bin/firefox-esr')
          ? undefined
          : 'no Firefox: apt-get install firefox-esr',
  },
];

/** A browser journey: `test/browser/FILE.ts`. */
function journey(name: string, file: string, ...args: string[]): Step {
  return {
    name,
    command: ['tsx', `test/browser/${file}.ts`, ...args],
    count: (output) => counts([...output.matchAll(/^(\d+ passed, \d+ failed)$/gm)].at(-1)?.[1]),
    skip: () =>
      !existsSync(DISK)
        ? `no disk at ${DISK}: npm run disk -- debian`
        : chromium()
          ? undefined
          : 'no Chromium: apt-get install chromium',
    limit: 900,
  };
}

function chromium(): boolean {
  return existsSync(process.env['CHROMIUM'] ?? '/usr/bin/chromium');
}

/** "1 failed | 27 passed (28)", "27 passed, 1 failed". */
function counts(text: string | undefined): { passed: number; failed: number } | undefined {
  if (text === undefined) return undefined;
  const of = (word: string): number => Number(new RegExp(`(\\d+) ${word}`).exec(text)?.[1] ?? 0);
  return { passed: of('passed'), failed: of('failed') };
}

function run(step: Step): Promise<{ passed: number; failed: number }> {
  return new Promise((resolve) => {
    const [program, ...rest] = step.command;
    const child = spawn('node_modules/.bin/' + program, rest, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, NO_COLOR: '1', FORCE_COLOR: undefined },
      detached: true,
    });
    let output = '';
    for (const [from, to] of [
      [child.stdout, process.stdout],
      [child.stderr, process.stderr],
    ] as const)
      from.on('data', (data: Buffer) => {
        output += data.toString();
        to.write(data);
      });
    const timer = setTimeout(() => {
      process.stderr.write(`${step.name}: ended after ${step.limit} seconds\n`);
      // The whole group: runners start browsers and workers.
      if (child.pid) process.kill(-child.pid, 'SIGKILL');
    }, step.limit * 1000);
    child.on('error', (error) => {
      clearTimeout(timer);
      process.stderr.write(`${step.name}: ${error.message}\n`);
      resolve({ passed: 0, failed: 1 });
    });
    child.on('close', (status) => {
      clearTimeout(timer);
      const own = step.count?.(output) ?? { passed: status === 0 && !step.count ? 1 : 0, failed: 0 };
      // A runner that fails without saying which test did is a failure of its own.
      if (own.failed === 0 && (status !== 0 || own.passed === 0)) own.failed = 1;
      resolve(own);
    });
  });
}

const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !steps.some((step) => step.name === name));
if (unknown.length) {
  process.stderr.write(`no step is called ${unknown.join(', ')}; there are ${steps.map((s) => s.name).join(', ')}\n`);
  process.exit(2);
}
const total = { passed: 0, failed: 0 };
const summary: string[] = [];
for (const step of steps) {
  if (wanted.length && !wanted.includes(step.name)) continue;
  const reason = step.skip?.();
  if (reason !== undefined) {
    summary.push(`${step.name}: left out (${reason})`);
    continue;
  }
  process.stdout.write(`\n== ${step.name}\n`);
  const began = performance.now();
  const { passed, failed } = await run(step);
  total.passed += passed;
  total.failed += failed;
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  summary.push(`${step.name}: ${passed} passed, ${failed} failed (${seconds} s)`);
}
process.stdout.write(`\n${summary.join('\n')}\n${total.passed} passed, ${total.failed} failed\n`);
process.exitCode = total.failed ? 1 : 0;
