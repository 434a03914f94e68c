import { deflateRawSync } from 'node:zlib';
import type { Plugin } from 'vite';
import { defineAll } from '../../emulator/cpu/defs/index.ts';
import { STATE_BASE } from '../../emulator/cpu/layout.ts';
import { writeWarm } from '../../emulator/cpu/warm-handlers.ts';

const FILE = /\/emulator\/cpu\/warm-built\.ts$/;

let written: ReturnType<typeof writeWarm> | undefined;

/**
 * Writes the interpreter's handlers when the project is built, so that no start has to. Needed among the workers' plugins.
 *
 * @param file most of them are a file of its own, which the browser keeps compiled; otherwise all are in the script
 */
export function warmHandlers(file = false): Plugin {
  const text = (bytes: Uint8Array): string => deflateRawSync(bytes, { level: 9 }).toString('base64');
  return {
    name: 'warm-handlers',
    apply: 'build',
    load(id) {
      if (!FILE.test(id)) return undefined;
      if (!written) {
        defineAll();
        written = writeWarm(STATE_BASE);
      }
      const { core, module } = written;
      const asset = file && this.emitFile({ type: 'asset', name: 'handlers.wasm', source: module });
      const at = asset ? `{ url: import.meta.ROLLUP_FILE_URL_${asset} }` : JSON.stringify({ deflated: text(module) });
      return `export const BUILT = { state: ${STATE_BASE}, core: ${JSON.stringify(text(core))}, module: ${at} };`;
    },
  };
}
