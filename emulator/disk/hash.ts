import { sha256 } from '@noble/hashes/sha2.js';

/**
 * SHA-256 in lower-case hexadecimal. `crypto.subtle` exists only in secure contexts; a page served over plain http from
 * another machine computes it in JavaScript.
 */
export async function sha256Hex(bytes: Uint8Array): Promise<string> {
  const subtle = (globalThis.crypto as Crypto | undefined)?.subtle as SubtleCrypto | undefined;
  const digest = subtle
    ? new Uint8Array(await subtle.digest('SHA-256', bytes as Uint8Array<ArrayBuffer>))
    : sha256(bytes);
  let hex = '';
  for (const byte of digest) hex += byte.toString(16).padStart(2, '0');
  return hex;
}
