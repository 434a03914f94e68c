import { readFile } from 'node:fs/promises';
import { env } from 'node:process';
import { esbuildPlugin } from '@web/dev-server-esbuild';
import { playwrightLauncher } from '@web/test-runner-playwright';

/** Imports of `….css?inline` give the text, as they do in Vite. */
const inlineCss = {
  name: 'inline-css',
  async serve(context) {
    if (!context.path.endsWith('.css') || !('inline' in context.query)) return undefined;
    const text = await readFile(`.${context.path}`, 'utf8');
    return { body: `export default ${JSON.stringify(text)};`, type: 'js' };
  },
};

export default {
  files: 'test/browser/**/*.test.ts',
  nodeResolve: true,
  plugins: [inlineCss, esbuildPlugin({ ts: true, tsconfig: 'tsconfig.json', target: 'es2022' })],
  browsers: [
    playwrightLauncher({
      product: 'chromium',
      launchOptions: {
        executablePath: env.CHROMIUM ?? '/usr/bin/chromium',
        args: [
          '--no-sandbox',
          '--disable-gpu',
          '--disable-quic',
          '--no-first-run',
          '--disable-background-networking',
          '--disable-component-update',
          '--disable-sync',
          '--js-flags=--expose-gc',
        ],
      },
    }),
  ],
  testFramework: { config: { timeout: 60_000 } },
};
