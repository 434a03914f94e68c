/** Blocks in memory, least recently used out first. */
export class BlockLru {
  private readonly blocks = new Map<number, Uint8Array>();
  private bytes = 0;

  /** @param limit bytes */
  constructor(private readonly limit: number) {}

  get(block: number): Uint8Array | undefined {
    const bytes = this.blocks.get(block);
    if (bytes) {
      this.blocks.delete(block);
      this.blocks.set(block, bytes);
    }
    return bytes;
  }

  set(block: number, bytes: Uint8Array): void {
    this.delete(block);
    this.blocks.set(block, bytes);
    this.bytes += bytes.length;
    for (const [oldest, old] of this.blocks) {
      if (this.bytes <= this.limit) break;
      this.blocks.delete(oldest);
      this.bytes -= old.length;
    }
  }

  delete(block: number): void {
    const bytes = this.blocks.get(block);
    if (bytes && this.blocks.delete(block)) this.bytes -= bytes.length;
  }

  clear(): void {
    this.blocks.clear();
    this.bytes = 0;
  }
}
