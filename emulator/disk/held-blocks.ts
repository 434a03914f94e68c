/** Numbers of the blocks that an overlay holds, and which of them take no memory: zeros, and those of a lower layer. */
export class HeldBlocks {
  private readonly all = new Set<number>();
  private readonly free = new Set<number>();

  get size(): number {
    return this.all.size;
  }

  /** How many take memory. */
  get filled(): number {
    return this.all.size - this.free.size;
  }

  has(block: number): boolean {
    return this.all.has(block);
  }

  /** Whether it takes memory. */
  isFilled(block: number): boolean {
    return this.all.has(block) && !this.free.has(block);
  }

  add(block: number, free: boolean): void {
    this.all.add(block);
    if (free) this.free.add(block);
    else if (this.free.size) this.free.delete(block);
  }

  clear(): void {
    this.all.clear();
    this.free.clear();
  }

  [Symbol.iterator](): Iterator<number> {
    return this.all[Symbol.iterator]();
  }
}
