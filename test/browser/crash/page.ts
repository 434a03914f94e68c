import { BlockCache } from '../../../emulator/disk/cache.ts';
import { identifyBytes } from '../../../emulator/disk/identity.ts';
import { MemorySource } from '../../../emulator/disk/memory.ts';
import { Overlay } from '../../../emulator/disk/overlay.ts';
import { writeDiff } from '../../../emulator/storage/diff.ts';
import { IdbStore } from '../../../emulator/storage/idb-store.ts';
import { deleteStorage, exportStorage } from '../../../src/storage.ts';
import type { Trace } from './trace.ts';

/** What runs in the page of the crash test: the disk over IndexedDB, without a guest, fed from a trace. */

/** The test reads on the console which event is over. */
function flushed(event: number): void {
  console.log(`flushed ${event}`);
}

async function fetchBytes(path: string): Promise<Uint8Array> {
  return new Uint8Array(await (await fetch(path)).arrayBuffer());
}

async function openDisk(key: string): Promise<{ store: IdbStore; disk: Overlay }> {
  const scratch = await fetchBytes('/scratch');
  const store = await IdbStore.open({ key, base: await identifyBytes(scratch) });
  // Small, so that much is written without being flushed.
  const disk = await Overlay.open(new BlockCache(new MemorySource(scratch)), store, { dirtyLimit: 256 << 10 });
  return { store, disk };
}

/** Sends the changes that are stored to the test. */
export async function dump(key: string): Promise<void> {
  const { store, disk } = await openDisk(key);
  const diff = writeDiff(store.base, await disk.snapshot());
  await fetch('/diff', {
    method: 'POST',
    body: await new Response(diff as ReadableStream<Uint8Array<ArrayBuffer>>).blob(),
  });
  disk.close();
}

/** Does the events from one on, until the browser is killed. */
export async function replay(key: string, from: number): Promise<void> {
  const trace = (await (await fetch('/trace')).json()) as Trace;
  const data = await fetchBytes('/data');
  const { disk } = await openDisk(key);
  for (let i = from; i < trace.events.length; i++) {
    const event = trace.events[i]!;
    if (event.kind === 'write') await disk.write(event.offset, data.subarray(event.at, event.at + event.length));
    else if (event.kind === 'discard') disk.discard(event.offset, event.length);
    else {
      await disk.flush();
      flushed(i);
    }
  }
  await disk.flush();
  flushed(trace.events.length - 1);
  disk.close();
}

/** The changes that are stored, a byte a character. */
export async function exported(key: string): Promise<string> {
  const reader = exportStorage(key).getReader();
  let text = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return text;
    for (let at = 0; at < value.length; at += 8192) text += String.fromCharCode(...value.subarray(at, at + 8192));
  }
}

export const remove = deleteStorage;
