/** Shared by all machines of an origin. */
const NAME = 'linux-vm.reserve';
/** What a guest may have allocated and not yet written, with what a database needs for writing it. Bytes. */
const SIZE = 64 << 20;

/**
 * Space put by: a file without contents that counts against the quota. What browsers say of their quota is an estimate
 * (Chromium gives every site the same figure), so that the end shows first in a transaction that fails. Then the file is
 * removed, which gives its space back at once, as deleting from a database does not; the transaction is done again; and
 * there is time to tell the user and to keep the guest from allocating more.
 */
export class Reserve {
  /** @returns whether it is there now */
  async fill(): Promise<boolean> {
    try {
      const file: unknown = await (await directory()).getFileHandle(NAME, { create: true });
      const access = await (file as SyncFile).createSyncAccessHandle();
      try {
        if (access.getSize() < SIZE) access.truncate(SIZE);
        return access.getSize() >= SIZE;
      } finally {
        access.close();
      }
    } catch (cause) {
      // Another machine is just doing the same.
      return cause instanceof DOMException && cause.name === 'NoModificationAllowedError';
    }
  }

  /** @returns whether there was something to give */
  async release(): Promise<boolean> {
    try {
      const root = await directory();
      const { size } = await (await root.getFileHandle(NAME)).getFile();
      await root.removeEntry(NAME);
      return size > 0;
    } catch {
      return false;
    }
  }
}

/** What dedicated workers have; the types here are a window's. */
interface SyncFile {
  createSyncAccessHandle(): Promise<{ getSize(): number; truncate(size: number): void; close(): void }>;
}

async function directory(): Promise<FileSystemDirectoryHandle> {
  const manager = (globalThis.navigator as Partial<Navigator> | undefined)?.storage;
  if (!manager?.getDirectory) throw new Error('there is no file system for this origin');
  return manager.getDirectory();
}
