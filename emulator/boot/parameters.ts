import type { GuestMemory } from '../memory.ts';
import type { EntryState } from '../processor.ts';
import {
  BOOT_PARAMS_ADDRESS,
  CMDLINE_ADDRESS,
  CMDLINE_MAX,
  GDT_ADDRESS,
  HIGH_MEMORY,
  MAX_MEMORY,
  memoryMap,
  PAGE_TABLES_ADDRESS,
  STACK_TOP,
} from './layout.ts';

/** What a loader is given. */
export interface BootOptions {
  /** RAM, all zeros but for the ACPI tables. */
  memory: GuestMemory;
  /** A bzImage, an ELF vmlinux or a Multiboot kernel. */
  kernel: Uint8Array;
  /** The initial RAM disk (Linux) or the one module (Multiboot). */
  initrd?: Uint8Array;
  cmdline: string;
  /** Physical address of the RSDP, or 0. */
  rsdp: number;
}

/** A kernel that cannot be started, in words for the person who gave it. */
export class BootError extends Error {
  override readonly name = 'BootError';
}

export const mebibytes = (bytes: number): string => `${(bytes / 1048576).toFixed(1)} MiB`;

/** Writes the zero-terminated command line. @throws BootError when it is longer than `limit` bytes */
export function writeCmdline(memory: GuestMemory, cmdline: string, limit = CMDLINE_MAX): number {
  const bytes = new TextEncoder().encode(cmdline);
  const max = Math.min(limit, CMDLINE_MAX);
  if (bytes.includes(0)) throw new BootError('the kernel command line contains a zero byte');
  if (bytes.length > max)
    throw new BootError(`the kernel command line has ${bytes.length} bytes; this kernel takes at most ${max}`);
  memory.write(CMDLINE_ADDRESS, bytes);
  memory.write8(CMDLINE_ADDRESS + bytes.length, 0);
  return CMDLINE_ADDRESS;
}

/**
 * Puts the initial RAM disk as high as it may go.
 * @param lowest first address that the kernel leaves free
 * @param highest last address that the kernel allows
 * @throws BootError when there is no room
 */
export function placeInitrd(memory: GuestMemory, initrd: Uint8Array, lowest: number, highest: number): number {
  const end = Math.min(memory.size, MAX_MEMORY, highest + 1);
  const start = (end - initrd.length) & ~0xfff;
  const address = start >>> 0;
  if (end - initrd.length < lowest || address < lowest)
    throw new BootError(
      `the initial RAM disk (${mebibytes(initrd.length)}) does not fit into ${mebibytes(memory.size)} of memory beside the kernel; give the machine more memory`,
    );
  memory.write(address, initrd);
  return address;
}

/**
 * Checks that the kernel's memory, [start, end), is RAM above 1 MiB.
 * @throws BootError when it is not
 */
export function checkKernelRange(memory: GuestMemory, start: number, end: number): void {
  if (start < HIGH_MEMORY)
    throw new BootError(
      `the kernel wants to be loaded at 0x${start.toString(16)}, below 1 MiB, where the boot tables are; only kernels at 1 MiB or above can be started`,
    );
  if (end > memory.size)
    throw new BootError(
      `the kernel needs memory up to ${mebibytes(end)}, the machine has ${mebibytes(memory.size)}; give it more memory`,
    );
}

/**
 * Fills boot_params ("zero page") except for a setup header that a bzImage brings (Documentation/arch/x86/zero-page).
 * @returns its address
 */
export function writeBootParams(memory: GuestMemory, rsdp: number, initrd: { start: number; size: number }): number {
  const base = BOOT_PARAMS_ADDRESS;
  memory.write32(base + 0x70, rsdp); // acpi_rsdp_addr, 64 bits
  const map = memoryMap(memory.size);
  memory.write8(base + 0x1e8, map.length);
  map.forEach((range, i) => {
    const at = base + 0x2d0 + i * 20;
    memory.write64(at, range.start);
    memory.write64(at + 8, range.length);
    memory.write32(at + 16, range.type);
  });
  memory.write8(base + 0x210, 0xff); // type_of_loader: none that is registered
  memory.write8(base + 0x211, memory.read8(base + 0x211) | 1); // loadflags: LOADED_HIGH
  memory.write32(base + 0x218, initrd.start);
  memory.write32(base + 0x21c, initrd.size);
  memory.write32(base + 0x228, CMDLINE_ADDRESS);
  return base;
}

/** A flat GDT. Linux's boot protocol wants code at 0x10 and data at 0x18. */
function writeGdt(memory: GuestMemory, long: boolean): EntryState['gdt'] {
  memory.write64(GDT_ADDRESS, 0);
  memory.write64(GDT_ADDRESS + 8, 0);
  memory.write32(GDT_ADDRESS + 16, 0x0000ffff);
  memory.write32(GDT_ADDRESS + 20, long ? 0x00af9b00 : 0x00cf9b00);
  memory.write32(GDT_ADDRESS + 24, 0x0000ffff);
  memory.write32(GDT_ADDRESS + 28, 0x00cf9300);
  return { base: GDT_ADDRESS, limit: 31, cs: 0x10, ds: 0x18 };
}

/** The 64-bit boot protocol's entry: identity-mapped memory, boot_params in RSI. */
export function longEntry(memory: GuestMemory, rip: number): EntryState {
  const root = PAGE_TABLES_ADDRESS;
  const pointers = root + 0x1000;
  memory.write64(root, pointers | 3);
  for (let gigabyte = 0; gigabyte < 4; gigabyte++) {
    const directory = root + 0x2000 + gigabyte * 0x1000;
    memory.write64(pointers + gigabyte * 8, directory | 3);
    for (let i = 0; i < 512; i++) memory.write64(directory + i * 8, gigabyte * 0x4000_0000 + i * 0x20_0000 + 0x83); // present, writable, 2 MiB
  }
  return {
    mode: 'long',
    rip,
    registers: { rsi: BOOT_PARAMS_ADDRESS, rsp: STACK_TOP },
    cr3: root,
    gdt: writeGdt(memory, true),
  };
}

/** A 32-bit flat protected-mode entry. */
export function protectedEntry(memory: GuestMemory, rip: number, registers: EntryState['registers']): EntryState {
  return { mode: 'protected', rip, registers: { rsp: STACK_TOP, ...registers }, gdt: writeGdt(memory, false) };
}
