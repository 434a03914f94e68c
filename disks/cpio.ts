/** Writes the "newc" cpio archives that Linux unpacks as its initramfs (Documentation/driver-api/early-userspace). */

export interface CpioEntry {
  /** Path without a leading slash. */
  path: string;
  /** Type and permission bits, such as 0o100755. */
  mode: number;
  data?: Uint8Array;
  /** Device numbers, for a character or block device. */
  device?: { major: number; minor: number };
}

const HEADER_LENGTH = 110;

function padded(length: number): number {
  return (length + 3) & ~3;
}

/** The archive of `entries`, in their order, owned by root and with the time set to zero. */
export function writeCpio(entries: readonly CpioEntry[]): Uint8Array {
  const parts: Uint8Array[] = [];
  const encoder = new TextEncoder();
  const append = (
    inode: number,
    { path, mode, data = new Uint8Array(0), device = { major: 0, minor: 0 } }: CpioEntry,
  ) => {
    const name = encoder.encode(`${path}\0`);
    const links = (mode & 0o170000) === 0o040000 ? 2 : 1;
    const fields = [inode, mode, 0, 0, links, 0, data.length, 0, 0, device.major, device.minor, name.length, 0];
    const header = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`;
    const record = new Uint8Array(padded(HEADER_LENGTH + name.length) + padded(data.length));
    record.set(encoder.encode(header));
    record.set(name, HEADER_LENGTH);
    record.set(data, padded(HEADER_LENGTH + name.length));
    parts.push(record);
  };
  entries.forEach((entry, i) => append(i + 1, entry));
  append(0, { path: 'TRAILER!!!', mode: 0 });
  const out = new Uint8Array(Math.ceil(parts.reduce((sum, part) => sum + part.length, 0) / 512) * 512);
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
