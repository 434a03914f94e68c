import { defineConfig } from 'vite';

/** The package: ES modules under build/package, dependencies left to the embedder's own bundler. */
export default defineConfig({
  base: './',
  publicDir: false,
  worker: { format: 'es' },
  build: {
    target: 'es2022',
    outDir: 'build/package',
    assetsInlineLimit: 0,
    lib: {
      entry: {
        index: 'src/index.ts',
        element: 'src/element.ts',
        node: 'src/node.ts',
        'cli/worker-node': 'src/cli/worker-node.ts',
        'cli/vm': 'src/cli/vm.ts',
      },
      formats: ['es'],
    },
    rolldownOptions: { external: [/^node:/, /^lit/, /^@xterm\//, /^@noble\//, 'fzstd', 'idb'] },
  },
});
