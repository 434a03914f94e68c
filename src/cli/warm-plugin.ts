import { deflateRawSync } from 'node:zlib';
import type { Plugin } from 'vite';
import { defineAll } from '../../emulator/cpu/defs/index.ts';
import { STATE_BASE } from '../../emulator/cpu/layout.ts';
import { writeWarm } from '../../emulator/cpu/warm-handlers.ts';

const FILE = /\/emulator\/cpu\/warm-built\.ts$/;

let source: string | undefined;

function write(): string {
  defineAll();
  const { core, module } = writeWarm(STATE_BASE);
  const text = (bytes: Uint8Array): string => deflateRawSync(bytes, { level: 9 }).toString('base64');
  return `export const BUILT = ${JSON.stringify({ state: STATE_BASE, core: text(core), module: text(module) })};`;
}

/** Writes the interpreter's handlers when the project is built, so that no start has to. Needed among the workers' plugins. */
export function warmHandlers(): Plugin {
  return {
    name: 'warm-handlers',
    apply: 'build',
    load: (id) => (FILE.test(id) ? (source ??= write()) : undefined),
  };
}
