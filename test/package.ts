import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { publint } from 'publint';
import { formatMessage } from 'publint/utils';
import { check, journey } from './checks.ts';

/** The package as npm would publish it. Builds it first. */
function run(command: string, args: string[]): string {
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8', maxBuffer: 64 << 20 });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${stdout.slice(-3000)}${stderr.slice(-3000)}`);
  return stdout;
}

const built = resolve('build/package');
const pkg = JSON.parse(readFileSync('package.json', 'utf8')) as { dependencies: Record<string, string> };

await journey(async () => {
  await check('is built', async () => {
    const output = run('npm', ['run', '--silent', 'build:package']);
    process.stdout.write(output.replace(/^(?!.* gzip ).*\n/gm, '').replace(/^/gm, '     '));
  });
  await check('publint finds nothing', async () => {
    const { messages } = await publint({ pkgDir: '.', pack: false, strict: true });
    const manifest = JSON.parse(readFileSync('package.json', 'utf8')) as Record<string, unknown>;
    if (messages.length) throw new Error(messages.map((m) => formatMessage(m, manifest)).join('; '));
  });
  await check('its types are found from every kind of importer that can import it', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'package-'));
    try {
      run('npm', ['pack', '--silent', '--ignore-scripts', '--pack-destination', folder]);
      run('node_modules/.bin/attw', [join(folder, readdirSync(folder)[0]!), '--profile', 'esm-only', '--quiet']);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
  await check('imports what it depends on, and nothing else', async () => {
    const strange = new Set<string>();
    for (const name of readdirSync(built, { recursive: true, encoding: 'utf8' })) {
      if (!name.endsWith('.js')) continue;
      const inside = /^(cdn|assets|cli\/assets)\//.test(name);
      for (const [, from] of readFileSync(join(built, name), 'utf8').matchAll(
        /^(?:import|export)\b[^;'"]*?["']([^"']+)["'];/gm,
      )) {
        if (/^(\.|node:)/.test(from!)) continue;
        const dependency = from!
          .split('/')
          .slice(0, from!.startsWith('@') ? 2 : 1)
          .join('/');
        if (inside || !(dependency in pkg.dependencies) || from!.includes('?')) strange.add(`${name}: ${from}`);
      }
    }
    if (strange.size) throw new Error([...strange].join(', '));
  });
  await check('is imported without a page, and puts nothing on the global object', async () => {
    const modules = ['index', 'cheerpx', 'node', 'cdn/cheerpx'].map((name) => join(built, `${name}.js`));
    const code = `const before = Object.getOwnPropertyNames(globalThis).length;
      for (const name of ${JSON.stringify(modules)}) await import(name);
      process.stdout.write(String(Object.getOwnPropertyNames(globalThis).length - before));`;
    const more = run(process.execPath, ['--input-type=module', '--eval', code]);
    if (more !== '0') throw new Error(`${more} names were added`);
  });
  await check('docs/element.md is what the elements say', async () => {
    run('node_modules/.bin/tsx', ['src/cli/element-docs.ts', '--check']);
  });
});
