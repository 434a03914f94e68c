import { describe, expect, test } from 'vitest';
import { SpaceGuard } from '../../src/space-guard.ts';
import type { StorageStatus } from '../../src/storage.ts';
import type { LinuxVM } from '../../src/vm.ts';

const MIB = 2 ** 20;

/** A guest with so much free on its disk, that remembers what it was told. */
class FakeGuest {
  state = 'running' as const;
  free = 600 * MIB;
  readonly commands: string[] = [];
  readonly run: LinuxVM['run'] = async (argv) => {
    this.commands.push(argv.join(' '));
    const stdout = argv[0] === 'stat' ? new TextEncoder().encode(`${this.free / 4096} 4096\n`) : new Uint8Array(0);
    return { status: 0, signal: undefined, stdout, stderr: new Uint8Array(0) } as Awaited<ReturnType<LinuxVM['run']>>;
  };
  /** MiB that it was last told to keep back. */
  get kept(): number | undefined {
    const last = this.commands.filter((command) => command.includes('reserved_clusters')).at(-1);
    return last === undefined ? undefined : (Number(/echo (\d+)/.exec(last)![1]) * 4096) / MIB;
  }
}

const status = (changes: Partial<StorageStatus> = {}): StorageStatus => ({
  key: 'k',
  mode: 'exclusive',
  diskBytes: 1024 * MIB,
  storedBytes: 24 * MIB,
  dirtyBytes: 0,
  writtenBytes: 0,
  quota: 10_000 * MIB,
  usage: 50 * MIB,
  ...changes,
});
const settle = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 5));

describe('space guard', () => {
  async function tell(guard: SpaceGuard, ...changes: Partial<StorageStatus>[]): Promise<void> {
    for (const change of changes) {
      guard.update(status(change));
      await settle();
    }
  }

  test('a guest with room is only told to write back early, once', async () => {
    const guest = new FakeGuest();
    await tell(new SpaceGuard(guest), {}, {}, {});
    expect(guest.commands.length).toBe(1);
    expect(guest.commands[0]).toMatch(/dirty_expire_centisecs/);
  });

  test('what is not kept is left alone', async () => {
    const guest = new FakeGuest();
    await tell(new SpaceGuard(guest), { mode: 'ephemeral' }, { mode: 'read-only', quota: 60 * MIB });
    expect(guest.commands).toEqual([]);
  });

  test('where changes are held in memory, what that cannot hold is kept back', async () => {
    const guest = new FakeGuest();
    const guard = new SpaceGuard(guest);
    const memory = { mode: 'ephemeral', limitBytes: 512 * MIB } as const;
    await tell(guard, { ...memory, diskBytes: 512 * MIB });
    expect(guest.commands).toEqual([]);
    // 488 MiB are left, 64 of them are not promised.
    await tell(guard, memory);
    expect(guest.commands[0]).toMatch(/dirty_expire_centisecs/);
    expect(guest.kept).toBe(176);
    const before = guest.commands.length;
    await tell(guard, { ...memory, storedBytes: 25 * MIB });
    expect(guest.commands.length).toBe(before);
    guest.free -= 440 * MIB;
    await tell(guard, { ...memory, storedBytes: 464 * MIB });
    expect(guest.kept).toBeCloseTo(160, 0);
  });

  test('keeps back what the browser could not store, and lets go when there is room', async () => {
    const guest = new FakeGuest();
    const guard = new SpaceGuard(guest);
    // 282 MiB are left, 32 of them are not promised.
    await tell(guard, {}, { quota: 332 * MIB });
    expect(guest.kept).toBe(350);
    await tell(guard, { quota: 20_000 * MIB });
    expect(guest.kept).toBe(0);
  });

  test('at the end nothing more may be allocated but what is deleted', async () => {
    const guest = new FakeGuest();
    const guard = new SpaceGuard(guest);
    const full = { problem: { code: 'storage-full', message: 'full' } };
    await tell(guard, {}, full);
    expect(guest.kept).toBe(600);
    guest.free += 100 * MIB;
    await tell(guard, full);
    expect(guest.kept).toBe(600);
    expect(guest.commands.filter((command) => command === 'fstrim /').length).toBe(1);
    await tell(guard, {});
    expect(guest.kept).toBe(0);
  });
});
