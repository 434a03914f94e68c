/** Streams that the other side pulls, piece by piece. */
export class Streams {
  private readonly readers = new Map<number, ReadableStreamDefaultReader<Uint8Array>>();
  private next = 1;

  /** @returns by which it is pulled */
  add(stream: ReadableStream<Uint8Array>): number {
    const id = this.next++;
    this.readers.set(id, stream.getReader());
    return id;
  }

  /** The next piece; null at the end, and for a stream that there is none of. Rejects as the stream does. */
  async pull(id: number): Promise<Uint8Array | null> {
    const { done, value } = (await this.readers.get(id)?.read()) ?? { done: true };
    if (done) this.readers.delete(id);
    return value ?? null;
  }

  async cancel(id: number): Promise<void> {
    const reader = this.readers.get(id);
    this.readers.delete(id);
    await reader?.cancel();
  }
}
