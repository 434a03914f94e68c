import { deflateRawSync } from 'node:zlib';
import { afterEach, expect, test, vi } from 'vitest';
import { defineAll } from '../../../emulator/cpu/defs/index.ts';
import { STATE_BASE } from '../../../emulator/cpu/layout.ts';
import { prepareHandlers, warmHandlers, writeWarm } from '../../../emulator/cpu/warm-handlers.ts';
import type { BuiltModule } from '../../../emulator/cpu/warm-built.ts';

/** What a build has put in place of warm-built.ts. */
const built = vi.hoisted(() => ({
  value: undefined as { state: number; core: string; module: BuiltModule } | undefined,
}));
vi.mock('../../../emulator/cpu/warm-built.ts', () => ({
  get BUILT() {
    return built.value;
  },
}));

defineAll();
const written = writeWarm(STATE_BASE);
const text = (bytes: Uint8Array): string => deflateRawSync(bytes).toString('base64');

afterEach(() => vi.restoreAllMocks());

/** Each has handlers of a state of its own, so that none finds another one's. The modules are for STATE_BASE in fact. */
let state = STATE_BASE;

async function prepare(module: BuiltModule): Promise<{ streamed: number; compiled: number; warnings: unknown[][] }> {
  state += 0x1000;
  built.value = { state, core: text(written.core), module };
  const streaming = vi.spyOn(WebAssembly, 'compileStreaming');
  const compiling = vi.spyOn(WebAssembly, 'compile');
  for (const spy of [streaming, compiling]) spy.mockClear();
  const warnings = vi.spyOn(console, 'warn').mockImplementation(() => undefined);
  await prepareHandlers(state);
  const { module: made, handlers } = warmHandlers(state);
  // Node's own fetch compiles something, too.
  const ours = compiling.mock.calls.filter(([bytes]) => bytes.byteLength === written.module.length);
  expect([WebAssembly.Module.imports(made).length > 5, handlers.size > 1000]).toEqual([true, true]);
  return {
    streamed: streaming.mock.calls.length,
    compiled: ours.length,
    warnings: warnings.mock.calls,
  };
}

const answer = (status: number, type: string): void => {
  vi.spyOn(globalThis, 'fetch').mockImplementation(() =>
    Promise.resolve(new Response(written.module, { status, headers: { 'content-type': type } })),
  );
};

test('handlers come out of the script, or from a file that the browser keeps compiled', async () => {
  expect(await prepare({ deflated: text(written.module) })).toEqual({ streamed: 0, compiled: 0, warnings: [] });
  answer(200, 'application/wasm');
  expect(await prepare({ url: 'http://host/handlers.wasm' })).toEqual({ streamed: 1, compiled: 0, warnings: [] });
});

test('a file of another type is compiled, and without the file handlers are written here, with a warning', async () => {
  answer(200, 'application/octet-stream');
  expect(await prepare({ url: 'http://host/handlers.wasm' })).toEqual({ streamed: 0, compiled: 1, warnings: [] });
  answer(404, 'text/html');
  const { streamed, compiled, warnings } = await prepare({ url: 'http://host/handlers.wasm' });
  expect([streamed, compiled, warnings.length]).toEqual([0, 0, 1]);
  expect(String(warnings[0]![0])).toContain('http://host/handlers.wasm could not be had');
});
