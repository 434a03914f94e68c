import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { gzipSync } from 'node:zlib';
import { build, type Plugin } from 'vite';
import { CONTENT_SECURITY_POLICY } from '../src/policy.ts';
import { drawIcons } from './icons.ts';

/** Files that a visitor's first page does not need and that need not work offline. */
const NOT_PRECACHED = /(^sw\.js|\.map|^icons\/.*\.png|^screenshots\/.*|^disks\/.*)$/;
/** Vite puts the hash of the contents into these names. */
const HASHED = /^assets\/.*-[\w-]{8}\.\w+$/;

/** Writes the policy into each page: after the character set, which has to be among the first bytes, before all else. */
export function contentSecurityPolicy(): Plugin {
  const charset = '<meta charset="utf-8" />';
  return {
    name: 'content-security-policy',
    transformIndexHtml: {
      order: 'pre',
      handler(html, { path }) {
        if (!html.includes(charset)) throw new Error(`${path} has no ${charset}`);
        const meta = `<meta http-equiv="Content-Security-Policy" content="${CONTENT_SECURITY_POLICY}" />`;
        return html.replace(charset, `${charset}\n    ${meta}`);
      },
    },
  };
}

/** Builds `sw.js` with the list of the site's files, and says how large they are. */
export function serviceWorker(): Plugin {
  let outDir = '';
  return {
    name: 'service-worker',
    apply: 'build',
    configResolved(config) {
      outDir = resolve(config.root, config.build.outDir);
    },
    // Not in the page itself: its file is there only after the build.
    transformIndexHtml: (_html, { path }) =>
      path === '/index.html'
        ? [{ tag: 'link', attrs: { rel: 'apple-touch-icon', href: './icons/apple-touch.png' }, injectTo: 'head' }]
        : [],
    async closeBundle() {
      if (!existsSync(join(outDir, 'index.html'))) return; // The build failed.
      await drawIcons(outDir);
      checkPictures(join(outDir, 'manifest.webmanifest'));
      const names = list(outDir).filter((name) => !NOT_PRECACHED.test(name));
      const entries = names.map((url) => ({ url, revision: HASHED.test(url) ? null : hash(join(outDir, url)) }));
      await build({
        configFile: false,
        publicDir: false,
        logLevel: 'warn',
        define: {
          'self.__WB_MANIFEST': JSON.stringify(entries),
          'process.env.NODE_ENV': '"production"',
        },
        build: {
          outDir,
          emptyOutDir: false,
          target: 'es2022',
          modulePreload: false,
          rolldownOptions: {
            input: resolve(import.meta.dirname, 'service-worker.ts'),
            output: { format: 'iife', entryFileNames: 'sw.js', codeSplitting: false },
          },
        },
      });
      const size = (some: string[]): string => {
        const files = some.map((name) => readFileSync(join(outDir, name)));
        const kB = (bytes: number): string => `${(bytes / 1000).toFixed(1)} kB`;
        const total = (sizes: number[]): number => sizes.reduce((sum, n) => sum + n, 0);
        return `${kB(total(files.map((f) => f.length)))}, gzip ${kB(total(files.map((f) => gzipSync(f).length)))}`;
      };
      process.stdout.write(
        `the page with its worker and examples, ${names.length} files: ${size(names)}; sw.js: ${size(['sw.js'])}\n`,
      );
    },
  };
}

/** @throws Error when the manifest names a picture that is not there: a browser would not install the site */
function checkPictures(file: string): void {
  const { icons, screenshots, shortcuts } = JSON.parse(readFileSync(file, 'utf8')) as {
    icons: { src: string }[];
    screenshots: { src: string }[];
    shortcuts: { icons: { src: string }[] }[];
  };
  for (const { src } of [...icons, ...screenshots, ...shortcuts.flatMap((shortcut) => shortcut.icons)])
    if (!existsSync(join(file, '..', src))) throw new Error(`${file} names ${src}, which is not there`);
}

function list(directory: string, under = ''): string[] {
  return readdirSync(join(directory, under), { withFileTypes: true }).flatMap((entry) =>
    entry.isDirectory() ? list(directory, `${under}${entry.name}/`) : [`${under}${entry.name}`],
  );
}

function hash(file: string): string {
  return createHash('sha256').update(readFileSync(file)).digest('hex').slice(0, 16);
}
