import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import type { DiskManifest } from '../../emulator/disk/manifest.ts';
import { SNAPSHOT_FORMAT } from '../../emulator/snapshot.ts';
import { CONTENT_SECURITY_POLICY } from '../policy.ts';
import { createStaticServer, listen } from './serve.ts';

/**
 * `npm start`: builds disk and site where they are absent or older than their sources, and serves them. The disk's
 * builder sees to the tools it needs. Arguments name other recipes than `debian`; with `--build-only` it ends there.
 * HOST and PORT say where it listens. Every built disk is served: `?disk=disks/NAME/manifest.json`.
 */
const DISKS = resolve('build/disks');
const SITE = resolve('dist');

async function main(): Promise<void> {
  const major = Number(process.versions.node.split('.')[0]);
  if (major < 20) throw new Error(`Node ${process.versions.node} is too old: version 20 or later is needed`);
  if (!existsSync('node_modules/vite')) throw new Error('the packages are not installed: run "npm ci" first');

  const { values, positionals } = parseArgs({
    options: { 'build-only': { type: 'boolean', default: false } },
    allowPositionals: true,
  });
  for (const recipe of positionals.length ? positionals : ['debian']) {
    const manifest = join(DISKS, recipe, 'manifest.json');
    if (stale(manifest, ['disks'])) {
      say(`building the disk "${recipe}" (a few minutes, once)`);
      await run('npm', ['run', '--silent', 'disk', '--', recipe]);
    } else if (snapshotFormat(manifest) !== SNAPSHOT_FORMAT) {
      say(`making the snapshot of the disk "${recipe}"`);
      await run('npm', ['run', '--silent', 'disk', '--', '--snapshot', '--hot-code', recipe]);
    }
  }
  const sources = ['index.html', 'vite.config.ts', 'package.json', 'public', 'src', 'components', 'emulator', 'sw'];
  if (stale(join(SITE, 'index.html'), [...sources, 'examples'])) {
    say('building the site');
    await run('npm', ['run', '--silent', 'build']);
  }
  if (values['build-only']) return;
  const host = process.env['HOST'] ?? '127.0.0.1';
  const server = createStaticServer(
    [
      { path: '/disks/', directory: DISKS },
      { path: '/', directory: SITE },
    ],
    // The pages say the same of themselves; a header also holds where a page has been tampered with.
    {
      compress: true,
      pageHeaders: { 'content-security-policy': CONTENT_SECURITY_POLICY, 'referrer-policy': 'no-referrer' },
    },
  );
  const address = await listen(server, Number(process.env['PORT'] ?? 8080), host);
  say(`Debian is at ${address}  (Ctrl-C ends)`);
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}

function snapshotFormat(manifest: string): string | undefined {
  return (JSON.parse(readFileSync(manifest, 'utf8')) as Partial<DiskManifest>).snapshot?.format;
}

/** Whether `product` is absent or older than anything under `sources`. */
function stale(product: string, sources: readonly string[]): boolean {
  if (!existsSync(product)) return true;
  const made = statSync(product).mtimeMs;
  const newer = (path: string): boolean => {
    if (!existsSync(path)) return false;
    const info = statSync(path);
    if (!info.isDirectory()) return info.mtimeMs > made;
    return readdirSync(path).some((name) => newer(join(path, name)));
  };
  return sources.some(newer);
}

function run(command: string, args: string[]): Promise<void> {
  return new Promise((done, fail) => {
    const child = spawn(command, args, { stdio: 'inherit' });
    child.on('error', fail);
    child.on('exit', (code, signal) => {
      if (code === 0) done();
      else fail(new Error(`"${command} ${args.join(' ')}" ended with ${signal ?? `status ${code}`}`));
    });
  });
}

main().catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exit(1);
});
