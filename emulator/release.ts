/**
 * Gives the memory of an array of many megabytes back soon. The collector would find it, too, but takes its time where
 * little else is allocated. The array is empty afterwards. Does nothing for one that is only a part of its buffer.
 */
export function release(bytes: Uint8Array): void {
  const { buffer } = bytes;
  if (!(buffer instanceof ArrayBuffer) || bytes.length !== buffer.byteLength) return;
  // What it moves into is young, and so collected with the next small things.
  structuredClone(buffer, { transfer: [buffer] });
}
