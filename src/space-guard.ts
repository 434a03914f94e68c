import type { StorageStatus } from './storage.ts';
import type { LinuxVM } from './vm.ts';

/** Never promised to the guest: what it overwrites in place needs room too, and the browser's figures are estimates. */
const MARGIN = 32 << 20;
/** The same of memory, whose end is known to the byte, and is an end: there is no reserve behind it. */
const MEMORY_MARGIN = 64 << 20;
/** Smaller changes of what is kept back are not worth a call. Bytes. */
const STEP = 4 << 20;
/** Milliseconds between two times at which the guest gives back what it has deleted. */
const TRIM_INTERVAL = 30_000;
const RESERVED = '/sys/fs/ext4/vda/reserved_clusters';
/**
 * Linux's page cache may hold back a fifth of RAM for half a minute. A tab can be closed at any moment, and space can
 * come to its end with that much allocated but not written (Documentation/admin-guide/sysctl/vm.rst).
 */
const WRITE_BACK = {
  dirty_bytes: 32 << 20,
  dirty_background_bytes: 8 << 20,
  dirty_expire_centisecs: 300,
  dirty_writeback_centisecs: 100,
};

/**
 * Lets a guest whose disk is kept write back early, and see when the browser's space, or the memory for changes that are
 * not kept, comes to its end. A virtio disk has no way to say "no space left", only "I/O error", at which a file system loses writes. So, while there is less room than
 * the disk could still need, free blocks of the guest's file system are kept back (`reserved_clusters` of Linux's ext4
 * driver, which serves ext2 too and binds even root): programs are told ENOSPC in time, and nothing breaks.
 */
export class SpaceGuard {
  private busy = false;
  private tuned = false;
  private reserved = 0;
  /** Room of changes that are held in memory when the guest was last told. */
  private room = Infinity;
  /** Free bytes of the file system when space came to its end: what is deleted afterwards may be used again. */
  private freeAtEnd: number | undefined;
  private trimmed = -Infinity;

  constructor(private readonly vm: Pick<LinuxVM, 'run' | 'state'>) {}

  /** To be told of every change. */
  update(status: StorageStatus): void {
    if (this.busy || this.vm.state !== 'running') return;
    const work = status.mode === 'exclusive' ? this.forKept(status) : this.forMemory(status);
    if (!work) return;
    this.busy = true;
    // A guest without these programs or files is on its own: it will see I/O errors.
    work.catch(() => undefined).finally(() => (this.busy = false));
  }

  private forKept(status: StorageStatus): Promise<void> | undefined {
    const room = roomFor(status);
    if (!this.tuned) return this.tune();
    return room === Infinity && this.reserved === 0 ? undefined : this.keepBack(room);
  }

  /** Changes that go with the machine. What is deleted is given back, and counted right. */
  private forMemory({ limitBytes, diskBytes, storedBytes }: StorageStatus): Promise<void> | undefined {
    if (limitBytes === undefined || diskBytes === undefined || diskBytes <= limitBytes) return undefined;
    const room = Math.max(1, limitBytes - storedBytes - MEMORY_MARGIN);
    if (Math.abs(room - this.room) < STEP) return undefined;
    this.room = room;
    return (this.tuned ? Promise.resolve() : this.tune()).then(() => this.keepBack(room));
  }

  private async tune(): Promise<void> {
    this.tuned = true;
    const settings = Object.entries(WRITE_BACK).map(([name, value]) => `echo ${value} > /proc/sys/vm/${name}`);
    await this.vm.run(['sh', '-c', settings.join('; ')]);
  }

  private async keepBack(room: number): Promise<void> {
    const { stdout } = await this.vm.run(['stat', '-f', '-c', '%f %S', '/']);
    const [blocks = 0, size = 4096] = new TextDecoder().decode(stdout).split(' ').map(Number);
    const free = blocks * size;
    if (room > 0) this.freeAtEnd = undefined;
    else this.freeAtEnd ??= free;
    const reserved = this.freeAtEnd ?? Math.max(0, free - room);
    if (Math.abs(reserved - this.reserved) >= STEP || reserved > 0 !== this.reserved > 0) {
      const { status } = await this.vm.run(['sh', '-c', `echo ${Math.ceil(reserved / size)} > ${RESERVED}`]);
      if (status === 0) this.reserved = reserved;
    }
    if (reserved > 0 && performance.now() > this.trimmed + TRIM_INTERVAL) {
      this.trimmed = performance.now();
      await this.vm.run(['fstrim', '/']);
    }
  }
}

/** Bytes that the guest may still allocate; Infinity where its disk cannot need more than there is. */
function roomFor({ problem, quota, usage, diskBytes, storedBytes }: StorageStatus): number {
  if (problem?.code === 'storage-full') return 0;
  if (quota === undefined || usage === undefined || diskBytes === undefined) return Infinity;
  const room = Math.max(0, quota - usage - MARGIN);
  return room < diskBytes - storedBytes ? room : Infinity;
}
