import { RTC_CENTURY, RTC_PORT } from '../devices/rtc.ts';
import { IOAPIC_BASE } from '../devices/ioapic.ts';
import { LAPIC_BASE } from '../devices/lapic.ts';
import { RESET_PORT, RESET_VALUE, S5_SLEEP_TYPE, SLEEP_CONTROL_PORT, SLEEP_STATUS_PORT } from '../devices/power.ts';
import { COM1_IRQ, COM1_PORT } from '../devices/uart16550.ts';
import type { GuestMemory } from '../memory.ts';
import * as aml from './aml.ts';
import { ACPI_ADDRESS, ACPI_END } from './layout.ts';

/** A virtio device's register window and interrupt. */
export interface VirtioWindow {
  base: number;
  size: number;
  /** I/O APIC pin. */
  pin: number;
}

const OEM_ID = 'LINUXV';
const OEM_TABLE_ID = 'LINUXVM ';
const HEADER = 36;

// FADT flags and boot architecture flags, ACPI 6.5, tables 5.10 and 5.11.
const WBINVD = 1 << 0;
const POWER_BUTTON_IS_DEVICE = 1 << 4;
const SLEEP_BUTTON_IS_DEVICE = 1 << 5;
const RESET_SUPPORTED = 1 << 10;
const HARDWARE_REDUCED = 1 << 20;
const NO_VGA = 1 << 2;
const NO_MSI = 1 << 3;
const NO_ASPM = 1 << 4;

function checksum(bytes: Uint8Array): number {
  let sum = 0;
  for (const byte of bytes) sum += byte;
  return -sum & 0xff;
}

function text(bytes: Uint8Array, at: number, value: string): void {
  for (let i = 0; i < value.length; i++) bytes[at + i] = value.charCodeAt(i);
}

/** A table with its header (5.2.6). `fill` writes what follows. */
function table(signature: string, revision: number, length: number, fill: (view: DataView) => void): Uint8Array {
  const bytes = new Uint8Array(length);
  const view = new DataView(bytes.buffer);
  text(bytes, 0, signature);
  view.setUint32(4, length, true);
  view.setUint8(8, revision);
  text(bytes, 10, OEM_ID);
  text(bytes, 16, OEM_TABLE_ID);
  view.setUint32(24, 1, true);
  text(bytes, 28, 'LVM ');
  view.setUint32(32, 1, true);
  fill(view);
  view.setUint8(9, checksum(bytes));
  return bytes;
}

/** A generic address of an 8-bit I/O port (5.2.3.2). */
function portAddress(view: DataView, at: number, port: number): void {
  view.setUint8(at, 1); // system I/O
  view.setUint8(at + 1, 8);
  view.setUint8(at + 2, 0);
  view.setUint8(at + 3, 1); // byte access
  view.setUint32(at + 4, port, true);
}

function buildDsdt(virtio: readonly VirtioWindow[]): Uint8Array {
  const code = [
    ...aml.name('_S5_', aml.pkg([aml.integer(S5_SLEEP_TYPE), aml.integer(0), aml.integer(0), aml.integer(0)])),
    ...aml.scope('_SB_', [
      aml.device('COM1', [
        aml.name('_HID', aml.eisaId('PNP0501')),
        aml.name('_UID', aml.integer(1)),
        aml.name('_CRS', aml.resources([aml.ioPorts(COM1_PORT, 8), aml.interrupt(COM1_IRQ)])),
      ]),
      aml.device('RTC_', [
        aml.name('_HID', aml.eisaId('PNP0B00')),
        aml.name('_CRS', aml.resources([aml.ioPorts(RTC_PORT, 2)])),
      ]),
      ...virtio.map((window, i) =>
        aml.device(`VR${i.toString(16).toUpperCase().padStart(2, '0')}`, [
          aml.name('_HID', aml.string('LNRO0005')),
          aml.name('_UID', aml.integer(i)),
          aml.name('_CCA', aml.integer(1)),
          aml.name('_CRS', aml.resources([aml.memory32(window.base, window.size), aml.interrupt(window.pin)])),
        ]),
      ),
    ]),
  ];
  return table('DSDT', 2, HEADER + code.length, (view) => new Uint8Array(view.buffer).set(code, HEADER));
}

/** FADT, hardware-reduced: no fixed registers but sleep and reset (5.2.9, 4.1). */
function buildFadt(dsdt: number): Uint8Array {
  return table('FACP', 6, 276, (view) => {
    view.setUint32(40, dsdt, true);
    view.setUint8(45, 0); // preferred profile: unspecified
    view.setUint8(108, RTC_CENTURY);
    view.setUint16(109, NO_VGA | NO_MSI | NO_ASPM, true);
    view.setUint32(
      112,
      WBINVD | POWER_BUTTON_IS_DEVICE | SLEEP_BUTTON_IS_DEVICE | RESET_SUPPORTED | HARDWARE_REDUCED,
      true,
    );
    portAddress(view, 116, RESET_PORT);
    view.setUint8(128, RESET_VALUE);
    view.setUint8(131, 5); // minor version
    view.setUint32(140, dsdt, true); // X_DSDT
    portAddress(view, 244, SLEEP_CONTROL_PORT);
    portAddress(view, 256, SLEEP_STATUS_PORT);
    text(new Uint8Array(view.buffer), 268, 'LINUXVM'); // hypervisor vendor
  });
}

/** MADT: one processor, one I/O APIC at interrupt 0, no 8259 (5.2.12). */
function buildMadt(): Uint8Array {
  return table('APIC', 5, HEADER + 8 + 8 + 12, (view) => {
    view.setUint32(36, LAPIC_BASE, true);
    view.setUint32(40, 0, true);
    view.setUint8(44, 0); // processor local APIC
    view.setUint8(45, 8);
    view.setUint8(46, 0); // processor UID
    view.setUint8(47, 0); // APIC ID
    view.setUint32(48, 1, true); // enabled
    view.setUint8(52, 1); // I/O APIC
    view.setUint8(53, 12);
    view.setUint8(54, 0); // ID
    view.setUint32(56, IOAPIC_BASE, true);
    view.setUint32(60, 0, true); // first interrupt
  });
}

function buildXsdt(tables: readonly number[]): Uint8Array {
  return table('XSDT', 1, HEADER + 8 * tables.length, (view) => {
    tables.forEach((address, i) => view.setUint32(HEADER + 8 * i, address, true));
  });
}

function buildRsdp(xsdt: number): Uint8Array {
  const bytes = new Uint8Array(36);
  const view = new DataView(bytes.buffer);
  text(bytes, 0, 'RSD PTR ');
  text(bytes, 9, OEM_ID);
  view.setUint8(15, 2);
  view.setUint32(20, 36, true);
  view.setUint32(24, xsdt, true);
  view.setUint8(8, checksum(bytes.subarray(0, 20)));
  view.setUint8(32, checksum(bytes));
  return bytes;
}

/**
 * Writes the machine's ACPI tables to RAM.
 * @returns the physical address of the RSDP
 * @throws RangeError when they do not fit into their 128 KiB
 */
export function writeAcpi(memory: GuestMemory, virtio: readonly VirtioWindow[]): number {
  let at = ACPI_ADDRESS + 64; // the RSDP comes first
  const place = (bytes: Uint8Array): number => {
    const address = at;
    at = (at + bytes.length + 63) & ~63;
    if (at > ACPI_END) throw new RangeError('the ACPI tables do not fit below 1 MiB');
    memory.write(address, bytes);
    return address;
  };
  const dsdt = place(buildDsdt(virtio));
  const xsdt = place(buildXsdt([place(buildFadt(dsdt)), place(buildMadt())]));
  memory.write(ACPI_ADDRESS, buildRsdp(xsdt));
  return ACPI_ADDRESS;
}
