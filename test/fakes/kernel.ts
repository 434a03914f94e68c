/**
 * A vmlinux (ELF64 with a PVH note, Xen's docs/misc/pvh.pandoc) whose entry is `code`, 32-bit machine code at 1 MiB.
 */
export function kernelOf(...code: number[]): Uint8Array {
  const HEADER = 64;
  const PROGRAM = 56;
  const NOTE = HEADER + 2 * PROGRAM;
  const CODE = 0x1000;
  const ENTRY = 0x100000;
  const bytes = new Uint8Array(CODE + code.length);
  const view = new DataView(bytes.buffer);
  bytes.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setUint16(16, 2, true); // ET_EXEC
  view.setUint16(18, 62, true); // EM_X86_64
  view.setUint32(20, 1, true);
  view.setUint32(24, ENTRY, true);
  view.setUint32(32, HEADER, true);
  view.setUint16(52, HEADER, true);
  view.setUint16(54, PROGRAM, true);
  view.setUint16(56, 2, true);
  view.setUint16(58, 64, true);
  const program = (
    index: number,
    type: number,
    offset: number,
    address: number,
    size: number,
    memory: number,
  ): void => {
    const at = HEADER + index * PROGRAM;
    view.setUint32(at, type, true);
    view.setUint32(at + 4, 7, true);
    view.setUint32(at + 8, offset, true);
    view.setUint32(at + 16, address, true);
    view.setUint32(at + 24, address, true);
    view.setUint32(at + 32, size, true);
    view.setUint32(at + 40, memory, true);
    view.setUint32(at + 48, 4, true);
  };
  program(0, 1, CODE, ENTRY, code.length, 0x2000); // PT_LOAD
  program(1, 4, NOTE, 0, 20, 20); // PT_NOTE
  view.setUint32(NOTE, 4, true);
  view.setUint32(NOTE + 4, 4, true);
  view.setUint32(NOTE + 8, 18, true); // XEN_ELFNOTE_PHYS32_ENTRY
  bytes.set([0x58, 0x65, 0x6e, 0], NOTE + 12);
  view.setUint32(NOTE + 16, ENTRY, true);
  bytes.set(code, CODE);
  return bytes;
}

/** mov dx, port; mov al, value; out dx, al */
const out = (port: number, value: number): number[] => [0x66, 0xba, port & 0xff, port >> 8, 0xb0, value, 0xee];

/** Prints on the serial port. */
export const print = (text: string): number[] => [...text].flatMap((c) => out(0x3f8, c.charCodeAt(0)));
/** ACPI sleep control: S5. */
export const powerOff = [...out(0x600, 0x34), 0xf4];
/** ud2 without an interrupt table. */
export const tripleFault = [0x0f, 0x0b];
/** hlt, for ever. */
export const halt = [0xf4, 0xeb, 0xfd];
/** A loop that never lets anything in. */
export const spin = [0xeb, 0xfe];
