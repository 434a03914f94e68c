import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vite';
import { warmHandlers } from './src/cli/warm-plugin.ts';
import { contentSecurityPolicy, serviceWorker } from './sw/vite-plugin.ts';

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

/** The site: static files that any server can host, under any path. */
export default defineConfig({
  base: './',
  plugins: [contentSecurityPolicy(), serviceWorker()],
  worker: { format: 'es', plugins: () => [warmHandlers(true)] },
  // The examples import what an embedder does.
  resolve: {
    alias: [
      { find: /^linux-vm$/, replacement: here('src/index.ts') },
      { find: /^linux-vm\/(element|workbench|cheerpx)$/, replacement: here('src/$1.ts') },
    ],
  },
  build: {
    target: 'es2022',
    outDir: 'dist',
    // Preloading would need inline styles and scripts that the page's policy forbids.
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 1000,
    rolldownOptions: {
      output: {
        // Apart, so that the page's worker is made before all else.
        codeSplitting: {
          groups: [
            { name: 'spare-worker', test: /src\/spare-worker\.ts$/ },
            { name: 'worker', priority: 1, test: /src\/(worker-handle|trusted-types)\.ts$/ },
          ],
        },
      },
      input: ['index.html', 'examples/lesson.html', 'examples/files.html', 'examples/two.html'].map(here),
    },
  },
  server: { host: '127.0.0.1' },
  test: {
    // Many tests boot machines or run programs; the machine may be busy.
    testTimeout: 120_000,
    hookTimeout: 120_000,
    include: ['test/unit/**/*.test.ts', 'test/conformance/*.test.ts'],
  },
} as Parameters<typeof defineConfig>[0]);
