/**
 * Where things are in the guest's physical address space. RAM is one range from 0; nothing is mapped over it. Device
 * registers live above 3 GiB, so RAM is at most that.
 */

/** The most RAM, in bytes: 3 GiB. Above it, up to 4 GiB, are device registers. */
export const MAX_MEMORY = 0xc000_0000;
/** The least RAM with which a machine is made at all, in bytes. */
export const MIN_MEMORY = 2 << 20;

/** Low memory, used while booting; the kernel takes it over. */
export const GDT_ADDRESS = 0x1000;
export const STACK_TOP = 0x8000;
export const START_INFO_ADDRESS = 0x8000;
export const BOOT_PARAMS_ADDRESS = 0x10000;
export const CMDLINE_ADDRESS = 0x20000;
export const CMDLINE_MAX = 0xf000;
/** Six pages: identity map of the first 4 GiB in 2 MiB pages. */
export const PAGE_TABLES_ADDRESS = 0x30000;

/** End of conventional memory; the kernel finds nothing beyond it. */
export const LOW_MEMORY_END = 0x9f000;
/** ACPI tables, in what was the BIOS area: reserved, and searched by kernels that are told nothing. */
export const ACPI_ADDRESS = 0xe0000;
export const ACPI_END = 0x100000;
export const HIGH_MEMORY = 0x100000;

/** Register windows of the virtio devices: one every 4 KiB, so that each can be mapped alone. */
export const VIRTIO_BASE = 0xfeb00000;
export const VIRTIO_STRIDE = 0x1000;
/** I/O APIC pins of the virtio devices, in their order; COM1 has 4. */
export const VIRTIO_PINS: readonly number[] = [16, 17, 18, 19, 20, 21, 22, 23, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15];

/** A range of the guest's memory map. Types are those of the BIOS call E820: 1 usable, 2 reserved. */
export interface MemoryRange {
  start: number;
  length: number;
  type: 1 | 2;
}

/** The memory map for a machine with `size` bytes of RAM. */
export function memoryMap(size: number): MemoryRange[] {
  return [
    { start: 0, length: LOW_MEMORY_END, type: 1 },
    { start: LOW_MEMORY_END, length: 0xa0000 - LOW_MEMORY_END, type: 2 },
    { start: ACPI_ADDRESS, length: ACPI_END - ACPI_ADDRESS, type: 2 },
    { start: HIGH_MEMORY, length: size - HIGH_MEMORY, type: 1 },
  ];
}
