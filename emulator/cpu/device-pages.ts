/**
 * Translations of pages outside RAM. The TLB tables hold none, so that emitted code leaves such accesses to TypeScript; a
 * driver asks for the same few registers again and again, and each time the page walk would take longer than the device.
 */
const ENTRIES = 16;

/** In an entry's tag, whose other bits are those of the linear page. */
const USER = 2;
/** No page has this tag. */
const NONE = 1;

export class DevicePages {
  private readonly tags = new Int32Array(ENTRIES).fill(NONE);
  private readonly high = new Int32Array(ENTRIES);
  private readonly writable = new Uint8Array(ENTRIES);
  /** Physical addresses may have 40 bits. */
  private readonly pages = new Float64Array(ENTRIES);
  private used = false;

  /** Physical address of a linear address, or −1. */
  find(lo: number, hi: number, write: boolean, user: boolean): number {
    const k = (lo >>> 12) & (ENTRIES - 1);
    if (this.tags[k] !== ((lo & ~0xfff) | (user ? USER : 0)) || this.high[k] !== hi) return -1;
    return write && !this.writable[k] ? -1 : this.pages[k]! + (lo & 0xfff);
  }

  /** @param page physical address of the page @param writable it may be written, and is marked dirty already */
  remember(lo: number, hi: number, page: number, writable: boolean, user: boolean): void {
    const k = (lo >>> 12) & (ENTRIES - 1);
    this.tags[k] = (lo & ~0xfff) | (user ? USER : 0);
    this.high[k] = hi;
    this.writable[k] = writable ? 1 : 0;
    this.pages[k] = page;
    this.used = true;
  }

  /** Some translation has changed. */
  forget(): void {
    if (!this.used) return;
    this.tags.fill(NONE);
    this.used = false;
  }
}
