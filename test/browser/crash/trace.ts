/** What a guest did to a disk, to be done again to another one: `data` holds the bytes of the writes, one after another. */
export interface Trace {
  /** Bytes of the disk. */
  size: number;
  events: TraceEvent[];
  files: TracedFile[];
}

export type TraceEvent =
  | { kind: 'write'; offset: number; length: number; at: number }
  | { kind: 'discard'; offset: number; length: number }
  /** Where the guest was told that all before is on the disk. */
  | { kind: 'flush' };

/** A file that the guest was told is on the disk when the event was over: its fsync and its folder's had returned. */
export interface TracedFile {
  name: string;
  sha256: string;
  event: number;
}

/** Does one event to bytes. */
export function applyEvent(event: TraceEvent, data: Uint8Array, disk: Uint8Array): void {
  if (event.kind === 'write') disk.set(data.subarray(event.at, event.at + event.length), event.offset);
  else if (event.kind === 'discard') {
    const from = Math.ceil(event.offset / 4096) * 4096;
    const to = Math.floor((event.offset + event.length) / 4096) * 4096;
    if (to > from) disk.fill(0, from, to);
  }
}
