import { execFileSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { findMirrors } from '../../disks/host.ts';
import { SUITE } from '../../disks/recipes.ts';
import type { Tier } from '../../emulator/processor.ts';
import { LinuxVM } from '../../src/node.ts';
import { record } from '../compatibility/results.ts';
import { limit, text } from './check.ts';
import { BOOT } from './machine.ts';

/**
 * `npm run test:programs -- [--tier TIER] [--record] [MODULE…]`: Python's own tests of what leans on the processor and the
 * kernel, in the guest `debian-dev`. They are a package of Debian's, fetched by apt and kept in build/testsuite. With
 * `--record` the results go to where the README's table is made from.
 */
const MODULES = [
  ...['math', 'cmath', 'struct', 'float', 'long', 'decimal', 'hashlib', 'zlib'],
  ...['threading', 'subprocess', 'signal', 'mmap', 'ctypes'],
];
/** Seconds for one module: thousands of tests, some of which start programs. */
const PATIENCE = 3600;
const FOLDER = resolve('build/testsuite');

/** The package with Python's tests, without what it depends on. */
function fetchTests(version: string): string {
  const known = existsSync(FOLDER)
    ? readdirSync(FOLDER).find((name) => name.startsWith(`libpython${version}-testsuite`))
    : undefined;
  if (known) return join(FOLDER, known);
  const folder = mkdtempSync(join(tmpdir(), 'testsuite-'));
  try {
    for (const name of ['state/lists/partial', 'cache/archives/partial'])
      mkdirSync(join(folder, name), { recursive: true });
    writeFileSync(join(folder, 'sources.list'), `deb ${findMirrors().main} ${SUITE} main\n`);
    const settings = Object.entries({
      'Dir::Etc::SourceList': join(folder, 'sources.list'),
      'Dir::Etc::SourceParts': '/dev/null',
      'Dir::State': join(folder, 'state'),
      'Dir::State::status': '/dev/null',
      'Dir::Cache': join(folder, 'cache'),
      'APT::Sandbox::User': 'root',
    }).flatMap(([name, value]) => ['-o', `${name}=${value}`]);
    const apt = (...args: string[]): Buffer =>
      execFileSync('apt-get', ['-qq', ...settings, ...args], { cwd: folder, stdio: ['ignore', 'inherit', 'inherit'] });
    apt('update');
    apt('download', `libpython${version}-testsuite`);
    const name = readdirSync(folder).find((file) => file.endsWith('.deb'));
    if (!name) throw new Error(`apt-get download left no package in ${folder}`);
    mkdirSync(FOLDER, { recursive: true });
    const kept = join(FOLDER, name);
    writeFileSync(`${kept}.part`, readFileSync(join(folder, name)));
    renameSync(`${kept}.part`, kept);
    return kept;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    options: { tier: { type: 'string', default: 'auto' }, record: { type: 'boolean', default: false } },
    allowPositionals: true,
  });
  const disk = resolve('build/disks/debian-dev/manifest.json');
  if (!existsSync(disk)) throw new Error('there is no disk: npm run disk -- debian-dev');
  const vm = await LinuxVM.start({ disk: pathToFileURL(disk).href, memory: 1024, tier: values.tier as Tier });
  let failed = 0;
  try {
    await limit(vm.ready, BOOT, 'the boot');
    const run = async (lines: string, seconds = 300): Promise<{ status: number; output: string }> => {
      const { status, stdout, stderr } = await vm.run(['bash', '-c', lines], {
        signal: AbortSignal.timeout(seconds * 1000),
      });
      return { status, output: text(stdout) + text(stderr) };
    };
    const version = (await run(`python3 -c 'import sys; print("%d.%d" % sys.version_info[:2], end="")'`)).output;
    await vm.fs.writeFile('/root/tests.deb', readFileSync(fetchTests(version)));
    // Without tar's owners and times the guest has less to do; the .deb's own format is unpacked by what it has.
    const unpacked = await run('cd /root && dpkg-deb -x tests.deb / && rm tests.deb');
    if (unpacked.status !== 0) throw new Error(`the tests could not be unpacked: ${unpacked.output}`);
    for (const name of positionals.length ? positionals : MODULES) {
      const began = performance.now();
      const { status, output } = await run(
        `cd /tmp; python3 -m test -u none --timeout 3500 test_${name} 2>&1`,
        PATIENCE,
      ).catch((error: unknown) => ({ status: -1, output: String(error) }));
      const seconds = ((performance.now() - began) / 1000).toFixed(0);
      const ran = /Total tests: run=([\d,]+)[^\n]*/.exec(output)?.[0].replace('Total tests: ', '') ?? '';
      const bad = [...output.matchAll(/^(?:FAIL|ERROR): (\S+)/gm)].map((m) => m[1]!);
      if (status !== 0) failed++;
      process.stdout.write(`${status === 0 ? 'ok  ' : 'FAIL'} test_${name} (${seconds} s) ${ran} ${bad.join(' ')}\n`);
      if (status !== 0 && !bad.length) process.stdout.write(`${output.slice(-2000)}\n`);
      if (values.record)
        record({
          program: `Python's test_${name}`,
          passed: status === 0,
          detail: [ran, ...bad].filter(Boolean).join('; '),
        });
    }
  } finally {
    await vm.stop();
  }
  return failed ? 1 : 0;
}

process.exit(await main());
