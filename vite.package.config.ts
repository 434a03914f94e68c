import { gzipSync } from 'node:zlib';
import { defineConfig, type Plugin, type UserConfig } from 'vite';
import { warmHandlers } from './src/cli/warm-plugin.ts';

/**
 * The package: ES modules under build/package, dependencies left to the embedder's own bundler. With `--mode cdn`, under
 * build/package/cdn: the same with the dependencies inside, for pages that have no bundler.
 */
export default defineConfig(({ mode }): UserConfig => {
  const cdn = mode === 'cdn';
  const entry: Record<string, string> = cdn
    ? { 'linux-vm': 'src/standalone.ts', cheerpx: 'src/cheerpx.ts' }
    : {
        index: 'src/index.ts',
        element: 'src/element.ts',
        workbench: 'src/workbench.ts',
        cheerpx: 'src/cheerpx.ts',
        node: 'src/node.ts',
        'cli/worker-node': 'src/cli/worker-node.ts',
        'cli/vm': 'src/cli/vm.ts',
      };
  return {
    base: './',
    publicDir: false,
    // What runs in a worker is a file that bundlers copy as it is.
    worker: { format: 'es', plugins: () => [warmHandlers()], rolldownOptions: { output: { minify: true } } },
    plugins: [warmHandlers(), sizes()],
    define: cdn ? { 'process.env.NODE_ENV': '"production"' } : {},
    build: {
      target: 'es2022',
      outDir: cdn ? 'build/package/cdn' : 'build/package',
      emptyOutDir: true,
      assetsInlineLimit: 0,
      reportCompressedSize: false,
      // A library build leaves white space alone, which only bundlers take away.
      minify: cdn,
      lib: { entry, formats: ['es'] },
      rolldownOptions: {
        external: cdn ? [] : [/^node:/, /^lit/, /^@xterm\/(?!.*\.css)/, /^@noble\//, 'fzstd', /^zstddec/, 'idb'],
      },
    },
  };
});

/**
 * Says what each entry, and each part that is loaded when it is needed, costs a page with all that it imports at once; and
 * the worker beside it.
 */
function sizes(): Plugin {
  return {
    name: 'sizes',
    generateBundle(_, bundle) {
      const kB = (bytes: number): string => `${(bytes / 1000).toFixed(1)} kB`;
      const tell = (name: string, sources: (string | Uint8Array)[]): void => {
        const buffers = sources.map((source) => Buffer.from(source));
        const sum = (lengths: number[]): string => kB(lengths.reduce((all, n) => all + n, 0));
        const [raw, packed] = [sum(buffers.map((b) => b.length)), sum(buffers.map((b) => gzipSync(b).length))];
        process.stdout.write(`${name.padEnd(28)} ${raw.padStart(10)}  gzip ${packed.padStart(10)}\n`);
      };
      for (const file of Object.values(bundle)) {
        if (file.type === 'asset') {
          if (/worker/.test(file.fileName)) tell(file.fileName, [file.source]);
          continue;
        }
        if (!file.isEntry && !file.isDynamicEntry) continue;
        const all = new Set<string>();
        const add = (fileName: string): void => {
          const chunk = bundle[fileName];
          if (all.has(fileName) || chunk?.type !== 'chunk') return;
          all.add(fileName);
          chunk.imports.forEach(add);
        };
        add(file.fileName);
        tell(
          file.fileName,
          [...all].map((name) => (bundle[name] as { code: string }).code),
        );
      }
    },
  };
}
