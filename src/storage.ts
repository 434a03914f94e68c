import { storageEstimate as estimate } from '../emulator/storage/session.ts';
import type { StorageStatus } from '../emulator/storage/types.ts';
import type { Call, CallResult } from './protocol.ts';

export { deleteStorage, exportStorage, listStorage, type StoredDisk } from '../emulator/storage/admin.ts';
export { StorageError, type StorageErrorCode } from '../emulator/storage/error.ts';
export type { BaseIdentity } from '../emulator/disk/identity.ts';
export type { BaseChange } from '../emulator/storage/idb-store.ts';
export type { StorageMode, StorageStatus } from '../emulator/storage/types.ts';

/** What the browser gives this origin and what all of it uses (estimates, in bytes), and whether it may be deleted. */
export async function storageEstimate(): Promise<{ quota?: number; usage?: number; persisted?: boolean }> {
  const manager = storageManager();
  return { ...(await estimate()), persisted: await manager?.persisted?.().catch(() => undefined) };
}

/** Asks the browser not to delete the changes when space is short. @returns whether it promised; undefined: unknown */
export async function askToPersist(): Promise<boolean | undefined> {
  const manager = storageManager();
  try {
    return (await manager?.persisted?.()) || (await manager?.persist?.());
  } catch {
    return undefined;
  }
}

function storageManager(): Partial<StorageManager> | undefined {
  return (globalThis.navigator as Partial<Navigator> | undefined)?.storage;
}

/** The disk of a machine and the changes to it. */
export class VmDisk {
  constructor(
    private readonly call: (call: Call) => Promise<CallResult>,
    /** Lets the guest write out what it holds back, if it has an agent. */
    private readonly sync: () => Promise<void>,
  ) {}

  /** How it stands with the changes. */
  async status(): Promise<StorageStatus | undefined> {
    return (await this.call({ method: 'storage' })) as StorageStatus | undefined;
  }

  /** Resolves when all that the guest has written is where it is kept. What it still holds back itself is not. */
  async flush(): Promise<void> {
    await this.call({ method: 'flush' });
  }

  /**
   * The changes, as a file that `importDiff` and the option `diff` take over the same base image. The machine goes on;
   * the file has the disk as it is now.
   */
  exportDiff(): ReadableStream<Uint8Array> {
    return this.export('diff');
  }

  /** The whole disk as a raw ext2 image. What was never read is fetched. */
  exportImage(): ReadableStream<Uint8Array> {
    return this.export('image');
  }

  /**
   * Puts the changes of a file in the place of those there are, all at once, and ends the machine.
   * @throws StorageError when the file is damaged or belongs to another base; then nothing has changed
   */
  async importDiff(diff: Blob): Promise<void> {
    await this.call({ method: 'import', diff });
  }

  /** Drops all changes and ends the machine. */
  async reset(): Promise<void> {
    await this.call({ method: 'reset' });
  }

  private export(what: 'diff' | 'image'): ReadableStream<Uint8Array> {
    let stream: number | undefined;
    return new ReadableStream<Uint8Array>(
      {
        pull: async (controller) => {
          if (stream === undefined) {
            await this.sync();
            stream = (await this.call({ method: 'export', what })) as number;
          }
          const bytes = (await this.call({ method: 'pull', stream })) as Uint8Array | null;
          if (bytes) controller.enqueue(bytes);
          else controller.close();
        },
        cancel: async () => {
          if (stream !== undefined) await this.call({ method: 'cancel', stream });
        },
      },
      { highWaterMark: 0 },
    );
  }
}
