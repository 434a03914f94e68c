import type { GuestMemory } from '../memory.ts';
import type { EntryState } from '../processor.ts';
import { BOOT_PARAMS_ADDRESS, CMDLINE_ADDRESS, memoryMap, START_INFO_ADDRESS } from './layout.ts';
import {
  BootError,
  checkKernelRange,
  longEntry,
  placeInitrd,
  protectedEntry,
  writeBootParams,
  writeCmdline,
} from './parameters.ts';
import type { BootOptions } from './parameters.ts';

const PT_LOAD = 1;
const PT_NOTE = 4;
const EM_386 = 3;
const EM_X86_64 = 62;
const ET_EXEC = 2;
/** XEN_ELFNOTE_PHYS32_ENTRY: the physical address of the 32-bit PVH entry. */
const NOTE_PHYS32_ENTRY = 18;

interface Segment {
  type: number;
  offset: number;
  /** Physical address. */
  address: number;
  fileSize: number;
  memorySize: number;
  align: number;
}

/** An executable's headers. */
export interface Elf {
  machine: 'x86' | 'x86-64';
  entry: number;
  segments: Segment[];
}

export function isElf(kernel: Uint8Array): boolean {
  return kernel[0] === 0x7f && kernel[1] === 0x45 && kernel[2] === 0x4c && kernel[3] === 0x46;
}

/** Reads the headers of a little-endian x86 executable. @throws BootError when it is none, or damaged */
export function parseElf(bytes: Uint8Array): Elf {
  if (!isElf(bytes)) throw new BootError('this is not an ELF file');
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const wide = bytes[4] === 2;
  if (bytes.length < (wide ? 64 : 52))
    throw new BootError(`the ELF kernel is truncated: ${bytes.length} bytes are less than its header`);
  if ((bytes[4] !== 1 && !wide) || bytes[5] !== 1) throw new BootError('the ELF kernel is not a little-endian one');
  const number = (at: number): number =>
    wide ? view.getUint32(at, true) + view.getUint32(at + 4, true) * 0x1_0000_0000 : view.getUint32(at, true);
  const machine = view.getUint16(18, true);
  if (machine !== EM_386 && machine !== EM_X86_64)
    throw new BootError(`the ELF kernel is for machine type ${machine}, not for x86`);
  const type = view.getUint16(16, true);
  if (type !== ET_EXEC)
    throw new BootError(`the ELF file is no executable at a fixed address (type ${type}): a vmlinux is wanted`);
  const table = number(wide ? 32 : 28);
  const size = view.getUint16(wide ? 54 : 42, true);
  const count = view.getUint16(wide ? 56 : 44, true);
  if (count === 0) throw new BootError('the ELF kernel has nothing to load: no program headers');
  if (size < (wide ? 56 : 32) || table + size * count > bytes.length)
    throw new BootError(`the ELF kernel is truncated: its program headers lie past its ${bytes.length} bytes`);
  const segments: Segment[] = [];
  for (let i = 0; i < count; i++) {
    const at = table + i * size;
    const segment: Segment = {
      type: view.getUint32(at, true),
      offset: number(at + (wide ? 8 : 4)),
      address: number(at + (wide ? 24 : 12)),
      fileSize: number(at + (wide ? 32 : 16)),
      memorySize: number(at + (wide ? 40 : 20)),
      align: number(at + (wide ? 48 : 28)),
    };
    if (segment.type === PT_LOAD || segment.type === PT_NOTE) {
      if (segment.offset + segment.fileSize > bytes.length)
        throw new BootError(
          `the ELF kernel is truncated: ${bytes.length} bytes, a segment ends at ${segment.offset + segment.fileSize}`,
        );
      if (segment.type === PT_LOAD && segment.memorySize < segment.fileSize)
        throw new BootError('the ELF kernel is damaged: a segment is smaller in memory than in the file');
    }
    segments.push(segment);
  }
  return { machine: machine === EM_386 ? 'x86' : 'x86-64', entry: number(24), segments };
}

/** Copies the segments to RAM. @returns the first free address after them. @throws BootError when they do not fit */
export function loadSegments(memory: GuestMemory, bytes: Uint8Array, elf: Elf): number {
  let end = 0;
  for (const s of elf.segments) {
    if (s.type !== PT_LOAD || s.memorySize === 0) continue;
    checkKernelRange(memory, s.address, s.address + s.memorySize);
    memory.write(s.address, bytes.subarray(s.offset, s.offset + s.fileSize));
    // RAM is zero already, and the rest of the segment is left untouched so that it takes no host memory.
    end = Math.max(end, s.address + s.memorySize);
  }
  if (end === 0) throw new BootError('the ELF kernel has nothing to load');
  return end;
}

/** The PVH entry point from the notes, or undefined. */
function pvhEntry(bytes: Uint8Array, elf: Elf): number | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (const s of elf.segments) {
    if (s.type !== PT_NOTE) continue;
    const align = s.align === 8 ? 7 : 3;
    const end = s.offset + s.fileSize;
    for (let at = s.offset; at + 12 <= end;) {
      const nameSize = view.getUint32(at, true);
      const size = view.getUint32(at + 4, true);
      const type = view.getUint32(at + 8, true);
      const name = at + 12;
      const data = name + ((nameSize + align) & ~align);
      const next = data + ((size + align) & ~align);
      if (nameSize > end || size > end || data + size > end) break;
      const xen = nameSize === 4 && String.fromCharCode(...bytes.subarray(name, name + 3)) === 'Xen';
      if (xen && type === NOTE_PHYS32_ENTRY && size >= 4) return view.getUint32(data, true);
      at = next;
    }
  }
  return undefined;
}

/** struct hvm_start_info, version 1, with its module list and memory map (xen/include/public/arch-x86/hvm/start_info.h). */
function writeStartInfo(memory: GuestMemory, rsdp: number, initrd: { start: number; size: number }): number {
  const base = START_INFO_ADDRESS;
  const modules = base + 0x100;
  const map = base + 0x200;
  const ranges = memoryMap(memory.size);
  memory.write32(base, 0x336ec578);
  memory.write32(base + 4, 1);
  memory.write32(base + 8, 0);
  memory.write32(base + 12, initrd.size ? 1 : 0);
  memory.write64(base + 16, initrd.size ? modules : 0);
  memory.write64(base + 24, CMDLINE_ADDRESS);
  memory.write64(base + 32, rsdp);
  memory.write64(base + 40, map);
  memory.write32(base + 48, ranges.length);
  memory.write64(modules, initrd.start);
  memory.write64(modules + 8, initrd.size);
  ranges.forEach((range, i) => {
    const at = map + i * 24;
    memory.write64(at, range.start);
    memory.write64(at + 8, range.length);
    memory.write32(at + 16, range.type);
  });
  return base;
}

/**
 * Loads an uncompressed vmlinux: by PVH where it has the note, else by the 64-bit boot protocol.
 * @throws BootError when it is damaged, of another kind, or does not fit
 */
export function loadElf(options: BootOptions): EntryState {
  const { memory, kernel, initrd } = options;
  const elf = parseElf(kernel);
  if (elf.machine !== 'x86-64')
    throw new BootError('this is a 32-bit ELF kernel; a 64-bit one (amd64, x86_64) is needed');
  const pvh = pvhEntry(kernel, elf);
  const end = loadSegments(memory, kernel, elf);
  const entry = pvh ?? elf.entry;
  if (!memory.contains(entry, 1))
    throw new BootError(`the kernel's entry point 0x${entry.toString(16)} is outside memory: is this a vmlinux?`);
  writeCmdline(memory, options.cmdline, 2047);
  const size = initrd?.length ?? 0;
  const start = size ? placeInitrd(memory, initrd!, end, 0x7fffffff) : 0;
  if (pvh !== undefined)
    return protectedEntry(memory, pvh, { rbx: writeStartInfo(memory, options.rsdp, { start, size }) });
  const base = BOOT_PARAMS_ADDRESS;
  memory.write16(base + 0x1fe, 0xaa55);
  memory.write32(base + 0x202, 0x53726448); // 'HdrS'
  memory.write16(base + 0x206, 0x20f);
  memory.write32(base + 0x22c, 0x7fffffff);
  memory.write32(base + 0x230, 0x200000);
  memory.write32(base + 0x238, 2047);
  writeBootParams(memory, options.rsdp, { start, size });
  return longEntry(memory, elf.entry);
}
