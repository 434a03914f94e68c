/** Bytes of the unit in which RAM may be absent. */
const PAGE_SHIFT = 12;
/** Pages that one look at a range asks for at most. */
const MOST_ASKED = 64;

/**
 * Guest physical RAM: one range from physical address 0, inside the WebAssembly memory that the processor uses.
 * Devices reach RAM only through this class; every access is checked against the size, so no address that a guest
 * driver writes can read or write outside RAM.
 *
 * After a resume pages may still be under way: `absent` marks them. Whoever touches RAM has to see to it that the page is
 * here first: the processor in its page walk, virtio queues before they hand out a request. A page that has come stays.
 */
export class GuestMemory {
  /** RAM as bytes; index 0 is guest physical address 0. */
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** By page of 4 KiB: 1 while its contents have not come. Undefined when all of RAM is here, which is the usual case. */
  absent: Uint8Array | undefined;
  /**
   * By page of 4 KiB: bit 0 is set once anything may have written to it (the others are zeros, and no host has had to give
   * memory for them yet). The other bits are the processor's.
   */
  readonly touched: Uint8Array;
  /** Told of each page that was needed and was not here, by its number; any number of times. */
  onAbsent: (page: number) => void = () => undefined;

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
    this.touched = new Uint8Array(Math.ceil(size / 2 ** PAGE_SHIFT));
  }

  /** Bytes of a range inside RAM are about to be written by a device. */
  private touch(address: number, length: number): void {
    const end = address + length;
    for (let at = address - (address & 0xfff); at < end; at += 4096) this.touched[at >>> PAGE_SHIFT]! |= 1;
    this.onWrite(address, length);
  }

  /** Whether [address, address + length) lies in RAM. */
  contains(address: number, length: number): boolean {
    return address >= 0 && length >= 0 && address + length <= this.size;
  }

  /**
   * Whether all of [address, address + length) is here. Asks for pages that are not, a bounded number of them: ask again
   * when they have come. What lies outside RAM counts as here: it never comes.
   */
  present(address: number, length: number): boolean {
    const { absent } = this;
    if (absent === undefined || length <= 0) return true;
    const first = Math.floor(address / 2 ** PAGE_SHIFT);
    const last = Math.min(Math.floor((address + length - 1) / 2 ** PAGE_SHIFT), absent.length - 1);
    // Natively, because a hostile driver may ask for all of RAM a thousand times.
    const pages = absent.subarray(first, last + 1);
    let at = pages.indexOf(1);
    if (at < 0) return true;
    for (let asked = 0; at >= 0 && asked < MOST_ASKED; asked++) {
      this.onAbsent(first + at);
      at = pages.indexOf(1, at + 1);
    }
    return false;
  }

  /** RAM for reading, without a copy. @throws RangeError when any byte is outside RAM. */
  slice(address: number, length: number): Uint8Array {
    this.check(address, length);
    return this.bytes.subarray(address, address + length);
  }

  /** RAM that a device is about to fill: like `slice`, and translated code over it is dropped. */
  writable(address: number, length: number): Uint8Array {
    this.check(address, length);
    this.touch(address, length);
    return this.bytes.subarray(address, address + length);
  }

  /** Copies `data` to RAM. @throws RangeError when any byte would fall outside RAM. */
  write(address: number, data: Uint8Array): void {
    this.check(address, data.length);
    this.touch(address, data.length);
    this.bytes.set(data, address);
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
    this.touch(address, 2);
    this.view.setUint16(address, value, true);
  }
  write32(address: number, value: number): void {
    this.check(address, 4);
    this.touch(address, 4);
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
