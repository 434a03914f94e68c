/**
 * Guest physical RAM: one range from physical address 0, inside the WebAssembly memory that the processor uses.
 * Devices reach RAM only through this class; every access is checked against the size, so no address that a guest
 * driver writes can read or write outside RAM.
 */
export class GuestMemory {
  /** RAM as bytes; index 0 is guest physical address 0. */
  readonly bytes: Uint8Array;
  readonly view: DataView;

  /**
   * @param buffer the WebAssembly memory's buffer (or any ArrayBuffer, in a test)
   * @param offset where RAM starts in it, in bytes
   * @param size RAM size in bytes
   * @param onWrite called before a device's bytes become visible, so that code translated from them is dropped
   */
  constructor(
    readonly buffer: ArrayBufferLike,
    readonly offset: number,
    readonly size: number,
    private readonly onWrite: (address: number, length: number) => void = () => undefined,
  ) {
    this.bytes = new Uint8Array(buffer, offset, size);
    this.view = new DataView(buffer, offset, size);
  }

  /** Whether [address, address + length) lies in RAM. */
  contains(address: number, length: number): boolean {
    return address >= 0 && length >= 0 && address + length <= this.size;
  }

  /** RAM for reading, without a copy. @throws RangeError when any byte is outside RAM. */
  slice(address: number, length: number): Uint8Array {
    this.check(address, length);
    return this.bytes.subarray(address, address + length);
  }

  /** RAM that a device is about to fill: like `slice`, and translated code over it is dropped. */
  writable(address: number, length: number): Uint8Array {
    this.check(address, length);
    this.onWrite(address, length);
    return this.bytes.subarray(address, address + length);
  }

  /** Copies `data` to RAM. @throws RangeError when any byte would fall outside RAM. */
  write(address: number, data: Uint8Array): void {
    this.writable(address, data.length).set(data);
  }

  read8(address: number): number {
    this.check(address, 1);
    return this.bytes[address]!;
  }
  read16(address: number): number {
    this.check(address, 2);
    return this.view.getUint16(address, true);
  }
  read32(address: number): number {
    this.check(address, 4);
    return this.view.getUint32(address, true);
  }
  /** A 64-bit value as a number; what exceeds 2^53 loses low bits and is past any RAM anyway. */
  read64(address: number): number {
    this.check(address, 8);
    return this.view.getUint32(address, true) + this.view.getUint32(address + 4, true) * 0x1_0000_0000;
  }
  write8(address: number, value: number): void {
    this.writable(address, 1)[0] = value;
  }
  write16(address: number, value: number): void {
    this.check(address, 2);
    this.onWrite(address, 2);
    this.view.setUint16(address, value, true);
  }
  write32(address: number, value: number): void {
    this.check(address, 4);
    this.onWrite(address, 4);
    this.view.setUint32(address, value, true);
  }
  write64(address: number, value: number): void {
    this.write32(address, value >>> 0);
    this.write32(address + 4, Math.floor(value / 0x1_0000_0000) >>> 0);
  }

  private check(address: number, length: number): void {
    if (!this.contains(address, length))
      throw new RangeError(
        `guest physical address 0x${address.toString(16)} + ${length} bytes is outside RAM (0x${this.size.toString(16)} bytes)`,
      );
  }
}
