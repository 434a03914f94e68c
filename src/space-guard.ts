import type { StorageStatus } from './storage.ts';
import type { LinuxVM } from './vm.ts';

/** Never promised to the guest: what it overwrites in place needs room too, and the browser's figures are estimates. */
const MARGIN = 32 << 20;
/** Smaller changes of what is kept back are not worth a call. Bytes. */
const STEP = 4 << 20;
/** Milliseconds between two times at which the guest gives back what it has deleted. */
const TRIM_INTERVAL = 30_000;

/**
 * Lets a guest see that the browser's space comes to its end. A virtio disk has no way to say "no space left", only
 * "I/O error", at which a file system loses writes. So, while there is less room than the disk could still need, free
 * blocks of the guest's file system are kept back (`reserved_clusters` of Linux's ext4 driver, which serves ext2 too and
 * binds even root): programs are told ENOSPC in time, and nothing breaks.
 */
export class SpaceGuard {
  private busy = false;
  private reserved = 0;
  private trimmed = -Infinity;

  constructor(private readonly vm: Pick<LinuxVM, 'run' | 'state'>) {}

  /** To be told of every change. */
  update(status: StorageStatus): void {
    const { quota, usage, diskBytes, storedBytes, mode } = status;
    if (mode !== 'exclusive' || quota === undefined || usage === undefined || diskBytes === undefined) return;
    const room = Math.max(0, quota - usage - MARGIN);
    const tight = room < diskBytes - storedBytes;
    if ((!tight && this.reserved === 0) || this.busy || this.vm.state !== 'running') return;
    this.busy = true;
    // A guest without these programs or files is on its own: it will see I/O errors.
    this.keepBack(tight ? room : Infinity)
      .catch(() => undefined)
      .finally(() => (this.busy = false));
  }

  private async keepBack(room: number): Promise<void> {
    if (room !== Infinity && performance.now() > this.trimmed + TRIM_INTERVAL) {
      this.trimmed = performance.now();
      await this.vm.run(['fstrim', '/']);
    }
    const { stdout } = await this.vm.run(['stat', '-f', '-c', '%f %S', '/']);
    const [free = 0, size = 4096] = new TextDecoder().decode(stdout).split(' ').map(Number);
    const reserved = Math.max(0, free * size - room);
    if (Math.abs(reserved - this.reserved) < STEP && reserved > 0 === this.reserved > 0) return;
    const blocks = Math.ceil(reserved / size);
    const { status } = await this.vm.run(['sh', '-c', `echo ${blocks} > /sys/fs/ext4/vda/reserved_clusters`]);
    if (status === 0) this.reserved = reserved;
  }
}
