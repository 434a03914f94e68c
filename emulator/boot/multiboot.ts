import type { EntryState } from '../processor.ts';
import { isElf, loadSegments, parseElf } from './elf.ts';
import { CMDLINE_ADDRESS, HIGH_MEMORY, LOW_MEMORY_END, memoryMap, START_INFO_ADDRESS } from './layout.ts';
import { BootError, checkKernelRange, placeInitrd, protectedEntry, writeCmdline } from './parameters.ts';
import type { BootOptions } from './parameters.ts';

// Multiboot Specification 0.6.96.
const HEADER_MAGIC = 0x1badb002;
const LOADER_MAGIC = 0x2badb002;
const SEARCH = 8192;
const ADDRESSES = 1 << 16;
/** Page-aligned modules, memory information; a video mode is a wish that a machine without a screen cannot grant. */
const KNOWN_FLAGS = 7;

const INFO_MEMORY = 1 << 0;
const INFO_CMDLINE = 1 << 2;
const INFO_MODULES = 1 << 3;
const INFO_MAP = 1 << 6;
const INFO_LOADER = 1 << 9;

/** Offset of the Multiboot header, or -1. */
export function findMultiboot(kernel: Uint8Array): number {
  const view = new DataView(kernel.buffer, kernel.byteOffset, kernel.byteLength);
  for (let at = 0; at + 12 <= Math.min(kernel.length, SEARCH); at += 4)
    if (
      view.getUint32(at, true) === HEADER_MAGIC &&
      ((HEADER_MAGIC + view.getUint32(at + 4, true) + view.getUint32(at + 8, true)) >>> 0) % 0x1_0000_0000 === 0
    )
      return at;
  return -1;
}

/** Loads an image by the addresses in its Multiboot header (3.1.3). */
function loadByAddresses(options: BootOptions, header: number): { entry: number; end: number } {
  const { memory, kernel } = options;
  if (header + 32 > kernel.length) throw new BootError('the Multiboot kernel is truncated inside its header');
  const view = new DataView(kernel.buffer, kernel.byteOffset, kernel.byteLength);
  const headerAddress = view.getUint32(header + 12, true);
  const loadAddress = view.getUint32(header + 16, true);
  const loadEnd = view.getUint32(header + 20, true);
  const bssEnd = view.getUint32(header + 24, true);
  const offset = header - (headerAddress - loadAddress);
  const size = loadEnd ? loadEnd - loadAddress : kernel.length - offset;
  if (offset < 0 || size < 0)
    throw new BootError('the Multiboot kernel is damaged: its header gives addresses that contradict each other');
  if (offset + size > kernel.length)
    throw new BootError(`the Multiboot kernel is truncated: ${kernel.length} bytes of ${offset + size}`);
  const end = Math.max(loadAddress + size, bssEnd);
  checkKernelRange(memory, loadAddress, end);
  memory.write(loadAddress, kernel.subarray(offset, offset + size));
  return { entry: view.getUint32(header + 28, true), end };
}

/**
 * Loads a Multiboot (version 1) kernel, ELF or with addresses in its header; the initrd becomes its one module.
 * @throws BootError when it is damaged, needs what the machine has not, or does not fit
 */
export function loadMultiboot(options: BootOptions): EntryState {
  const { memory, kernel, initrd } = options;
  const header = findMultiboot(kernel);
  if (header < 0) throw new BootError('there is no Multiboot header in the first 8192 bytes');
  const view = new DataView(kernel.buffer, kernel.byteOffset, kernel.byteLength);
  const flags = view.getUint32(header + 4, true);
  if (flags & 0xffff & ~KNOWN_FLAGS)
    throw new BootError(
      `the Multiboot kernel requires features that do not exist here (flags 0x${flags.toString(16)})`,
    );
  let entry, end: number;
  if (flags & ADDRESSES) ({ entry, end } = loadByAddresses(options, header));
  else if (isElf(kernel)) {
    const elf = parseElf(kernel);
    end = loadSegments(memory, kernel, elf);
    entry = elf.entry;
  } else throw new BootError('the Multiboot kernel is no ELF file and its header gives no addresses');
  if (!memory.contains(entry, 1))
    throw new BootError(`the Multiboot kernel's entry point 0x${entry.toString(16)} is outside memory`);

  writeCmdline(memory, options.cmdline);
  const info = START_INFO_ADDRESS;
  const module = info + 0x100;
  const name = info + 0x180;
  const map = info + 0x200;
  memory.write32(info, INFO_MEMORY | INFO_CMDLINE | INFO_MAP | INFO_LOADER | (initrd?.length ? INFO_MODULES : 0));
  memory.write32(info + 4, LOW_MEMORY_END >>> 10);
  memory.write32(info + 8, (memory.size - HIGH_MEMORY) >>> 10);
  memory.write32(info + 16, CMDLINE_ADDRESS);
  if (initrd?.length) {
    const start = placeInitrd(memory, initrd, end, 0xffffffff);
    memory.write32(info + 20, 1);
    memory.write32(info + 24, module);
    memory.write32(module, start);
    memory.write32(module + 4, start + initrd.length);
    memory.write32(module + 8, name + 16); // an empty string
  }
  const ranges = memoryMap(memory.size);
  memory.write32(info + 44, ranges.length * 24);
  memory.write32(info + 48, map);
  ranges.forEach((range, i) => {
    const at = map + i * 24;
    memory.write32(at, 20); // size of what follows
    memory.write64(at + 4, range.start);
    memory.write64(at + 12, range.length);
    memory.write32(at + 20, range.type);
  });
  memory.write(name, new TextEncoder().encode('linux-vm\0'));
  memory.write32(info + 64, name);
  return protectedEntry(memory, entry, { rax: LOADER_MAGIC, rbx: info });
}
