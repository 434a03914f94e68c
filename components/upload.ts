import type { LinuxVM } from '../src/vm.ts';
import type { Work } from './panel.ts';

/** A file on its way into the guest, and its path below the directory it goes to. */
export interface Dropped {
  path: string;
  file: File;
}

/** Files and directories of a drop. Must be called while the event is handled; the result may be awaited later. */
export async function droppedFiles(data: DataTransfer): Promise<Dropped[]> {
  const entries = [...data.items].map((item) => item.webkitGetAsEntry?.());
  const plain = [...data.files];
  if (!entries.some(Boolean)) return plain.map((file) => ({ path: file.name, file }));
  const found: Dropped[] = [];
  for (const entry of entries) if (entry) await walk(entry, found);
  return found;
}

async function walk(entry: FileSystemEntry, found: Dropped[]): Promise<void> {
  const path = entry.fullPath.replace(/^\/+/, '');
  if (entry.isFile) {
    const file = await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject));
    found.push({ path, file });
    return;
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  for (;;) {
    // Gives a hundred at a time, and none at the end.
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return;
    for (const child of some) await walk(child, found);
  }
}

/** Writes files below `directory`, making directories as needed. */
export async function uploadFiles(
  vm: LinuxVM,
  directory: string,
  files: readonly Dropped[],
  tell: (work: Partial<Work>) => void,
): Promise<void> {
  const total = files.reduce((sum, { file }) => sum + file.size, 0);
  const controller = new AbortController();
  let sent = 0;
  const cancel = (): void => controller.abort();
  const made = new Set<string>();
  for (const { path, file } of files) {
    controller.signal.throwIfAborted();
    tell({ text: `Copying ${path}`, done: total ? sent / total : 0, cancel });
    const target = join(directory, path);
    const parent = target.slice(0, target.lastIndexOf('/')) || '/';
    if (parent !== directory && !made.has(parent)) {
      await vm.fs.mkdir(parent, { recursive: true });
      made.add(parent);
    }
    const counted = file.stream().pipeThrough(
      new TransformStream<Uint8Array, Uint8Array>({
        transform(chunk, transform) {
          controller.signal.throwIfAborted();
          sent += chunk.length;
          tell({ done: total ? sent / total : 0 });
          transform.enqueue(chunk);
        },
      }),
    );
    await vm.fs.writeFile(target, counted);
  }
}

export function join(directory: string, name: string): string {
  return directory === '/' ? `/${name}` : `${directory}/${name}`;
}

/** Without `.`, `..` and doubled slashes; absolute. */
export function normalise(path: string): string {
  const parts: string[] = [];
  for (const part of path.split('/')) {
    if (part === '..') parts.pop();
    else if (part && part !== '.') parts.push(part);
  }
  return `/${parts.join('/')}`;
}
