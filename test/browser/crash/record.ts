import { openAsBlob, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createProcessor } from '../../../emulator/cpu/processor.ts';
import { BlockCache } from '../../../emulator/disk/cache.ts';
import { MemorySource } from '../../../emulator/disk/memory.ts';
import { openDisk } from '../../../emulator/disk/open.ts';
import { MemoryStore, Overlay } from '../../../emulator/disk/overlay.ts';
import type { BlockDevice } from '../../../emulator/disk/types.ts';
import { Machine } from '../../../emulator/machine.ts';
import { AgentClient } from '../../../src/agent/client.ts';
import type { Trace } from './trace.ts';

/**
 * Runs in the guest: files that are written in pieces and fsynced, with their folder, each told with its hash once that
 * is done; between them files that nobody flushes, that grow, are renamed and deleted.
 */
export const LOAD = `
import hashlib, os, random, sys
r = random.Random(int(sys.argv[1]))
os.chdir(sys.argv[3])
for i in range(int(sys.argv[2])):
    for _ in range(r.randrange(4)):
        loose = 'loose%d' % r.randrange(12)
        with open(loose, r.choice(['ab', 'wb'])) as f:
            f.write(r.randbytes(r.randrange(1, 90000)))
        if r.random() < 0.3: os.rename(loose, 'loose%d' % r.randrange(12))
        elif r.random() < 0.2: os.unlink(loose)
    folder = 'd%d' % r.randrange(8)
    os.makedirs(folder, exist_ok=True)
    name = '%s/f%04d' % (folder, i)
    data = r.randbytes(r.choice([r.randrange(1, 300), r.randrange(1, 9000), r.randrange(1, 60000)]))
    fd = os.open(name, os.O_CREAT | os.O_WRONLY)
    at = 0
    while at < len(data): at += os.write(fd, data[at:at + r.randrange(1, 20000)])
    os.fsync(fd)
    os.close(fd)
    for path in (folder, '.'):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    print('done', name, hashlib.sha256(data).hexdigest(), flush=True)
`;

/** What the load says of a file: its name and hash. */
export const DONE = /^done (\S+) (\w{64})$/;

/**
 * Boots the disk in `directory`, lets the guest work on a second disk, and gives what arrived there.
 * @param scratch an empty ext2 file system; not changed
 */
export async function record(
  directory: string,
  scratch: Uint8Array,
  files: number,
): Promise<{ trace: Trace; data: Uint8Array }> {
  const manifest = JSON.parse(readFileSync(join(directory, 'manifest.json'), 'utf8')) as {
    name: string;
    cmdline: string;
  };
  const file = (name: string): Uint8Array => new Uint8Array(readFileSync(join(directory, name)));
  const root = await openDisk(await openAsBlob(join(directory, `${manifest.name}.ext2`)));
  const disk = await Overlay.open(new BlockCache(new MemorySource(scratch)), new MemoryStore());
  const trace: Trace = { size: scratch.length, events: [], files: [] };
  const pieces: Uint8Array[] = [];
  let length = 0;
  let lastFlush = -1;
  const recorder: BlockDevice = {
    size: disk.size,
    readOnly: false,
    read: (offset, count) => disk.read(offset, count),
    write: (offset, bytes) => {
      trace.events.push({ kind: 'write', offset, length: bytes.length, at: length });
      pieces.push(bytes.slice());
      length += bytes.length;
      return disk.write(offset, bytes);
    },
    discard: (offset, count) => {
      trace.events.push({ kind: 'discard', offset, length: count });
      disk.discard(offset, count);
    },
    flush: async () => {
      const event = trace.events.push({ kind: 'flush' }) - 1;
      await disk.flush();
      lastFlush = Math.max(lastFlush, event);
    },
    get stats() {
      return disk.stats;
    },
  };
  let receive: (bytes: Uint8Array) => void = () => undefined;
  const machine = await Machine.create({
    createProcessor,
    memory: 256 << 20,
    kernel: file('vmlinux'),
    initrd: file('initramfs.gz'),
    cmdline: manifest.cmdline,
    disks: [root.device, recorder],
    events: { agent: (bytes) => receive(bytes) },
  });
  const agent = new AgentClient({
    write: (bytes) => void machine.writeAgent(bytes),
    onData: (listener) => (receive = listener),
    onClose: (listener) => void machine.stopped.then(listener),
  });
  try {
    machine.start();
    await agent.ready;
    await agent.fs.writeFile('/root/load.py', new TextEncoder().encode(LOAD));
    const run = async (command: string): Promise<void> => {
      const { status, stderr } = await agent.run(['sh', '-c', command]);
      if (status !== 0) throw new Error(`"${command}" failed: ${new TextDecoder().decode(stderr)}`);
    };
    await run('mount -t ext2 /dev/vdb /mnt');
    const load = await agent.spawn(['python3', '/root/load.py', '7', String(files), '/mnt']);
    const decoder = new TextDecoder();
    let text = '';
    for await (const bytes of load.stdout) {
      text += decoder.decode(bytes, { stream: true });
      const lines = text.split('\n');
      text = lines.pop()!;
      for (const line of lines) {
        const [, name, sha256] = DONE.exec(line) ?? [];
        // Its last fsync has returned, so that a flush that was over by now covers it.
        if (name && sha256) trace.files.push({ name, sha256, event: lastFlush });
      }
    }
    const { status } = await load.exit;
    if (status !== 0 || trace.files.length !== files)
      throw new Error(`the guest's load ended with status ${status} after ${trace.files.length} of ${files} files`);
    await run('umount /mnt');
  } finally {
    machine.stop();
    root.device.close();
  }
  return { trace, data: concat(pieces, length) };
}

function concat(pieces: readonly Uint8Array[], length: number): Uint8Array {
  const all = new Uint8Array(length);
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}
