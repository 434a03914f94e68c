/**
 * Enough of the ACPI machine language (ACPI 6.5, chapter 20) to describe devices with fixed resources. Each function
 * returns the bytes of one term.
 */

type Bytes = readonly number[];

const NAME_OP = 0x08;
const BYTE_PREFIX = 0x0a;
const WORD_PREFIX = 0x0b;
const DWORD_PREFIX = 0x0c;
const STRING_PREFIX = 0x0d;
const SCOPE_OP = 0x10;
const BUFFER_OP = 0x11;
const PACKAGE_OP = 0x12;
const ROOT = 0x5c;
const EXT_PREFIX = 0x5b;
const DEVICE_OP = 0x82;

const ascii = (text: string): number[] => Array.from(text, (c) => c.charCodeAt(0));
const word = (value: number): number[] => [value & 0xff, (value >>> 8) & 0xff];
const dword = (value: number): number[] => [...word(value), ...word(value >>> 16)];

/** PkgLength (20.2.4): it counts itself. */
function packageLength(body: number): number[] {
  if (body + 1 < 0x40) return [body + 1];
  if (body + 2 < 0x1000) return [0x40 | ((body + 2) & 15), (body + 2) >>> 4];
  const total = body + 3;
  return [0x80 | (total & 15), (total >>> 4) & 0xff, (total >>> 12) & 0xff];
}

function block(op: Bytes, body: Bytes): number[] {
  return [...op, ...packageLength(body.length), ...body];
}

/** A name segment of four characters. @throws Error for anything else */
function segment(name: string): number[] {
  if (!/^[A-Z_][A-Z0-9_]{3}$/.test(name)) throw new Error(`'${name}' is not an ACPI name of four characters`);
  return ascii(name);
}

export function integer(value: number): number[] {
  if (value === 0) return [0];
  if (value === 1) return [1];
  if (value < 0x100) return [BYTE_PREFIX, value];
  if (value < 0x10000) return [WORD_PREFIX, ...word(value)];
  return [DWORD_PREFIX, ...dword(value)];
}

export function string(text: string): number[] {
  return [STRING_PREFIX, ...ascii(text), 0];
}

export function name(id: string, value: Bytes): number[] {
  return [NAME_OP, ...segment(id), ...value];
}

export function pkg(elements: readonly Bytes[]): number[] {
  return block([PACKAGE_OP], [elements.length, ...elements.flat()]);
}

/** A scope below the root, such as `_SB_`. */
export function scope(id: string, terms: readonly Bytes[]): number[] {
  return block([SCOPE_OP], [ROOT, ...segment(id), ...terms.flat()]);
}

export function device(id: string, terms: readonly Bytes[]): number[] {
  return block([EXT_PREFIX, DEVICE_OP], [...segment(id), ...terms.flat()]);
}

/** A compressed EISA identifier, such as PNP0501 (19.3.4). */
export function eisaId(id: string): number[] {
  const letter = (i: number): number => id.charCodeAt(i) - 0x40;
  const vendor = (letter(0) << 10) | (letter(1) << 5) | letter(2);
  const product = parseInt(id.slice(3), 16);
  return [DWORD_PREFIX, vendor >>> 8, vendor & 0xff, product >>> 8, product & 0xff];
}

/** A buffer of resource descriptors, with its end tag (6.4.2.9). */
export function resources(descriptors: readonly Bytes[]): number[] {
  const body = [...descriptors.flat(), 0x79, 0];
  return block([BUFFER_OP], [...integer(body.length), ...body]);
}

/** Memory32Fixed, read and write (6.4.3.4). */
export function memory32(base: number, length: number): number[] {
  return [0x86, 9, 0, 1, ...dword(base), ...dword(length)];
}

/** Interrupt: a global system interrupt, level-triggered, active high, not shared (6.4.3.6). */
export function interrupt(gsi: number): number[] {
  return [0x89, 6, 0, 1, 1, ...dword(gsi)];
}

/** IO: a range of ports, 16-bit decode (6.4.2.5). */
export function ioPorts(base: number, length: number): number[] {
  return [0x47, 1, ...word(base), ...word(base), 1, length];
}
