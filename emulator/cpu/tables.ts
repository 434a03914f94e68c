/** Read-only tables in the area at TABLES (layout.ts), which emitted code reads. */
import { TABLES } from './layout.ts';

/** Eight tables of 256 i32: table k advances the CRC-32C of a byte by k further zero bytes. */
export const CRC32C_TABLES = TABLES;
export const CRC32C_BYTES = 8 * 1024;

/** The reflected Castagnoli polynomial. */
const POLYNOMIAL = 0x82f63b78;

/** Fills the tables; once for each memory, before anything runs. */
export function fillTables(u8: Uint8Array): void {
  const t = new DataView(u8.buffer, u8.byteOffset + CRC32C_TABLES, CRC32C_BYTES);
  for (let i = 0; i < 256; i++) {
    let v = i;
    for (let bit = 0; bit < 8; bit++) v = v & 1 ? (v >>> 1) ^ POLYNOMIAL : v >>> 1;
    t.setUint32(i * 4, v, true);
  }
  for (let k = 1; k < 8; k++)
    for (let i = 0; i < 256; i++) {
      const before = t.getUint32((k - 1) * 1024 + i * 4, true);
      t.setUint32(k * 1024 + i * 4, (before >>> 8) ^ t.getUint32((before & 0xff) * 4, true), true);
    }
}
