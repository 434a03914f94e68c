import { renameSync, writeFileSync } from 'node:fs';

/** Writes a file under another name until it is complete: an interrupted build must not leave a short one behind. */
export function writeWhole(path: string, data: string | Uint8Array): void {
  writeFileSync(`${path}.part`, data);
  renameSync(`${path}.part`, path);
}
