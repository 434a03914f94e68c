import type { IoapicState } from './devices/ioapic.ts';
import type { LapicState } from './devices/lapic.ts';
import type { RtcState } from './devices/rtc.ts';
import type { UartState } from './devices/uart16550.ts';
import type { TransportState } from './devices/virtio/transport-mmio.ts';
import type { GuestMemory } from './memory.ts';
import type { PageTable } from './pager.ts';
import type { ProcessorState } from './processor.ts';

/**
 * Changes whenever an older state can no longer be restored: of any part of it, the processor's and the devices' included.
 * test/unit/snapshot.test.ts notices changes of their fields.
 */
export const STATE_VERSION = 4;
export const PAGE_SIZE = 4096;
/** Pages that are kept in one array. */
export const BLOCK_PAGES = 256;

/** RAM without its zero pages. */
export interface MemoryState {
  /** Bytes of RAM. */
  size: number;
  /** Numbers of the pages that are not zero, ascending. */
  pages: Uint32Array;
  /** Their contents, `BLOCK_PAGES` of them an array; the last one may have fewer. */
  blocks: Uint8Array[];
}

/** A whole machine at one moment; it can be structured-cloned. Disks are not part of it. */
export interface MachineState {
  version: number;
  deterministic: boolean;
  /** The devices, with what they offer their drivers: only a machine with the same ones can go on. */
  devices: string[];
  /** Guest time in nanoseconds. */
  now: number;
  /** Wall-clock time at that moment, milliseconds since 1970. */
  wall: number;
  /** State of the deterministic random generator. */
  random: Uint32Array;
  processor: ProcessorState;
  lapic: LapicState;
  ioapic: IoapicState;
  uart: UartState;
  rtc: RtcState;
  virtio: TransportState[];
  memory: MemoryState;
}

/** A machine's state with most of its RAM elsewhere, in chunks that are fetched when they are needed. */
export interface PagedState extends Omit<MachineState, 'memory'> {
  memory: { size: number; first: FirstPages; table: PageTable };
}

/** Pages that a resume touches at once: numbers, and their contents one after the other. They are not in the table. */
export interface FirstPages {
  pages: Uint32Array;
  bytes: Uint8Array;
}

/** Whether the page-aligned range is all zeros. */
export function isZero(words: Int32Array, start: number, end: number): boolean {
  for (let i = start; i < end; i += 8)
    if (
      words[i]! |
      words[i + 1]! |
      words[i + 2]! |
      words[i + 3]! |
      words[i + 4]! |
      words[i + 5]! |
      words[i + 6]! |
      words[i + 7]!
    )
      return false;
  return true;
}

const PAGE_WORDS = PAGE_SIZE / 4;

/** RAM as 32-bit words. */
export function wordsOf(memory: GuestMemory): Int32Array {
  return new Int32Array(memory.buffer, memory.offset, memory.size >>> 2);
}

export function saveMemory(memory: GuestMemory): MemoryState {
  const words = wordsOf(memory);
  const found: number[] = [];
  for (let page = 0; page < memory.size / PAGE_SIZE; page++)
    if (!isZero(words, page * PAGE_WORDS, (page + 1) * PAGE_WORDS)) found.push(page);
  const blocks: Uint8Array[] = [];
  for (let i = 0; i < found.length; i += BLOCK_PAGES) {
    const count = Math.min(BLOCK_PAGES, found.length - i);
    const block = new Uint8Array(count * PAGE_SIZE);
    for (let j = 0; j < count; j++) block.set(memory.slice(found[i + j]! * PAGE_SIZE, PAGE_SIZE), j * PAGE_SIZE);
    blocks.push(block);
  }
  return { size: memory.size, pages: Uint32Array.from(found), blocks };
}

/** @throws Error when the state is of another size of RAM, or damaged; RAM may be changed already */
export function restoreMemory(memory: GuestMemory, state: MemoryState): void {
  if (state.size !== memory.size)
    throw new Error(`the saved machine has ${state.size} bytes of RAM, this one has ${memory.size}`);
  const words = wordsOf(memory);
  const { touched } = memory;
  let next = 0;
  for (let page = 0; page < memory.size / PAGE_SIZE; page++) {
    const address = page * PAGE_SIZE;
    if (state.pages[next] === page) {
      const block = state.blocks[Math.floor(next / BLOCK_PAGES)];
      const at = (next % BLOCK_PAGES) * PAGE_SIZE;
      if (!block || block.length < at + PAGE_SIZE)
        throw new Error('the saved machine is damaged: a page of RAM is missing');
      memory.write(address, block.subarray(at, at + PAGE_SIZE));
      next++;
    } else if (touched[page] && !isZero(words, page * PAGE_WORDS, (page + 1) * PAGE_WORDS))
      memory.writable(address, PAGE_SIZE).fill(0);
  }
  if (next !== state.pages.length) throw new Error('the saved machine is damaged: its pages of RAM are out of order');
}
