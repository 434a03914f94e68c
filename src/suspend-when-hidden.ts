import type { LinuxVM } from './vm.ts';

/** A hidden machine whose disk changed is kept anew after this long without another change. Milliseconds. */
const SETTLE = 5000;

/**
 * Keeps a machine whenever its page is hidden: a page that is closed has no time for it any more, but browsers hide it
 * first. While it stays hidden and its disk changes, it is kept again.
 */
export class SuspendWhenHidden {
  private busy = false;

  /** Until the machine ends. @param wanted asked each time */
  watch(vm: LinuxVM, wanted: () => boolean): void {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const onHide = (): void => {
      clearTimeout(timer);
      if (document.visibilityState !== 'hidden') return;
      // The changes to the disk go first: they are what must not be lost.
      vm.disk.flush().catch(() => undefined);
      if (wanted()) void this.keep(vm);
    };
    document.addEventListener('visibilitychange', onHide);
    addEventListener('pagehide', onHide);
    const unlisten = vm.on('storage', (status) => {
      if (document.visibilityState !== 'hidden' || !wanted() || status.suspendedBytes !== undefined) return;
      clearTimeout(timer);
      timer = setTimeout(onHide, SETTLE);
    });
    void vm.exited.then(() => {
      clearTimeout(timer);
      unlisten();
      document.removeEventListener('visibilitychange', onHide);
      removeEventListener('pagehide', onHide);
    });
  }

  private async keep(vm: LinuxVM): Promise<void> {
    if (this.busy || vm.state !== 'running' || vm.storage?.mode !== 'exclusive') return;
    this.busy = true;
    try {
      await vm.suspend({ keepRunning: true });
    } catch {
      // No space, or the machine ended; its storage status says so.
    } finally {
      this.busy = false;
    }
  }
}
