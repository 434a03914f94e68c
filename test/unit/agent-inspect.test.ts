import { describe, expect, test } from 'vitest';
import { concat, PayloadWriter } from '../../src/agent/codec.ts';
import { AgentError } from '../../src/agent/errors.ts';
import { AgentFiles, type FileSystem, Operation } from '../../src/agent/files.ts';
import { AgentInspector, parseInterrupts, parseMounts } from '../../src/agent/inspect.ts';

const together = (...parts: Uint8Array[]) =>
  concat(
    parts,
    parts.reduce((sum, part) => sum + part.length, 0),
  );
const process = (pid: number, command: string) =>
  new PayloadWriter()
    .number(pid, 4)
    .number(1, 4)
    .number(1000, 4)
    .number('S'.charCodeAt(0), 1)
    .long(250n)
    .long(3n)
    .string(command)
    .finish();

/** A guest of files only; names that end in `/` are directories. */
function guest(files: Record<string, string>): FileSystem {
  const missing = (path: string) => AgentError.fromErrno(2, `read ${path}`);
  return {
    readFile: async (path: string) => {
      if (files[path] === undefined) throw missing(path);
      return new TextEncoder().encode(files[path]);
    },
    readlink: async (path: string) => {
      if (files[path] === undefined) throw missing(path);
      return files[path];
    },
    readdir: async (path: string) => {
      const names = new Set(
        Object.keys(files)
          .filter((name) => name.startsWith(`${path}/`))
          .map((name) => name.slice(path.length + 1).split('/')[0]!),
      );
      if (!names.size) throw missing(path);
      return [...names].map((name) => ({ name, type: 'directory' as const }));
    },
  } as unknown as FileSystem;
}

describe('what the inspector is told', () => {
  test('processes and open files come out of the agent’s answers', async () => {
    const asked: number[] = [];
    const inspector = new AgentInspector(async (_what, operation) => {
      asked.push(operation);
      return operation === Operation.Processes
        ? together(process(1, '/sbin/init'), process(70_000, '[kworker/0:1]'))
        : new PayloadWriter().number(5, 4).number(2, 4).string('/dev/pts/0').finish();
    }, guest({}));
    expect(await inspector.processes()).toEqual([
      { pid: 1, parent: 1, uid: 1000, state: 'S', cpuSeconds: 2.5, resident: 12288, command: '/sbin/init' },
      { pid: 70_000, parent: 1, uid: 1000, state: 'S', cpuSeconds: 2.5, resident: 12288, command: '[kworker/0:1]' },
    ]);
    expect(await inspector.openFiles()).toEqual([{ pid: 5, descriptor: 2, target: '/dev/pts/0' }]);
    expect(asked).toEqual([Operation.Processes, Operation.OpenFiles]);
  });

  test('an environment is sorted, and values keep their equals signs', async () => {
    const inspector = new AgentInspector(async () => new Uint8Array(0), guest({ '/proc/7/environ': 'B=x=y\0A=\0ODD' }));
    expect(await inspector.environment(7)).toEqual([
      ['A', ''],
      ['B', 'x=y'],
      ['ODD', ''],
    ]);
  });

  test('devices are named by kind, whatever of them is missing', async () => {
    const bus = '/sys/bus/virtio/devices';
    const inspector = new AgentInspector(
      async () => new Uint8Array(0),
      guest({
        [`${bus}/virtio0/device`]: '0x0002\n',
        [`${bus}/virtio0/driver`]: '../../../bus/virtio/drivers/virtio_blk',
        [`${bus}/virtio0/block/vda/size`]: '2097152\n',
        [`${bus}/virtio1/device`]: '0x0001\n',
        [`${bus}/virtio1/net/eth0/address`]: '02:00:00:00:00:01\n',
        [`${bus}/virtio2/device`]: '0x00ff\n',
      }),
    );
    expect(await inspector.devices()).toEqual([
      { name: 'virtio0', kind: 'disk', driver: 'virtio_blk', details: 'vda, 1024 MiB' },
      { name: 'virtio1', kind: 'network card', driver: undefined, details: 'eth0, 02:00:00:00:00:01' },
      { name: 'virtio2', kind: 'virtio device 0x00ff', driver: undefined, details: '' },
    ]);
    expect(await new AgentInspector(async () => new Uint8Array(0), guest({})).devices()).toEqual([]);
  });

  test('names with blanks in a list of mounts', () => {
    expect(parseMounts('/dev/vda / ext2 rw 0 0\nnone /mnt/a\\040b tmpfs rw,nosuid 0 0\n')).toEqual([
      { source: '/dev/vda', path: '/', type: 'ext2', options: 'rw' },
      { source: 'none', path: '/mnt/a b', type: 'tmpfs', options: 'rw,nosuid' },
    ]);
  });

  test('interrupts of two processors are added up', () => {
    const text =
      '           CPU0       CPU1\n  4:         10          5   IO-APIC   4-edge      ttyS0\nERR:          0\n';
    expect(parseInterrupts(text)).toEqual([
      { name: '4', count: 15, description: 'IO-APIC 4-edge ttyS0' },
      { name: 'ERR', count: 0, description: '' },
    ]);
  });

  test('a listing tells links from what they lead to', async () => {
    const entry = (mode: number, size: bigint, target: number, name: string) =>
      new PayloadWriter().number(mode, 4).long(size).long(1_700_000_000n).number(target, 1).string(name).finish();
    const files = new AgentFiles(async () =>
      together(entry(0o120777, 4n, 4, 'z'), entry(0o100644, 2n ** 33n, 0, 'a'), entry(0o120777, 4n, 0, 'dangling')),
    );
    expect((await files.list('/')).map(({ name, type, target, size }) => [name, type, target, size])).toEqual([
      ['a', 'file', undefined, 2 ** 33],
      ['dangling', 'symlink', undefined, 4],
      ['z', 'symlink', 'directory', 4],
    ]);
  });

  test('a listing by an agent that does not know it goes entry by entry', async () => {
    const stat = (mode: number) =>
      new PayloadWriter()
        .number(mode, 4)
        .number(0, 4)
        .number(0, 4)
        .number(1, 4)
        .long(7n)
        .long(1n)
        .long(5n)
        .number(0, 4)
        .finish();
    const files = new AgentFiles(async (what, operation) => {
      if (operation === Operation.List) throw AgentError.fromErrno(38, what);
      if (operation === Operation.Readdir)
        return together(...['gone', 'link'].map((name) => new PayloadWriter().number(8, 1).string(name).finish()));
      if (what.endsWith('gone')) throw AgentError.fromErrno(2, what);
      return stat(operation === Operation.Lstat ? 0o120777 : 0o040755);
    });
    expect(await files.list('/')).toEqual([
      { name: 'link', type: 'symlink', mode: 0o777, size: 7, mtime: 5000, target: 'directory' },
    ]);
  });
});
