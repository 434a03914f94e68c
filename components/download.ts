interface PickerWindow {
  showSaveFilePicker?(options: {
    suggestedName: string;
  }): Promise<{ createWritable(): Promise<WritableStream<Uint8Array>> }>;
}

/** More than this is written to a file as it comes, where the browser can do that. */
const LARGE = 32e6;

/**
 * Gives the visitor a file. Large streams go straight to a file that the visitor names, where the browser knows how; else
 * all of it is gathered first.
 * @param size bytes, where known
 * @param onBytes told how many have come
 * @throws DOMException AbortError when the visitor does not want it after all, or `signal` says so
 */
export async function saveStream(
  name: string,
  open: () => ReadableStream<Uint8Array> | Promise<ReadableStream<Uint8Array>>,
  { size, onBytes, signal }: { size?: number; onBytes?: (bytes: number) => void; signal?: AbortSignal } = {},
): Promise<void> {
  const picker = (globalThis as PickerWindow).showSaveFilePicker;
  let bytes = 0;
  const count = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      bytes += chunk.length;
      onBytes?.(bytes);
      controller.enqueue(chunk);
    },
  });
  if (picker && size !== undefined && size > LARGE) {
    const handle = await picker.call(globalThis as PickerWindow, { suggestedName: name });
    const sink = await handle.createWritable();
    await (await open()).pipeThrough(count).pipeTo(sink, { signal });
    return;
  }
  const stream = (await open()).pipeThrough(count, { signal });
  saveBlob(name, await new Response(stream as ReadableStream<Uint8Array<ArrayBuffer>>).blob());
}

/** Puts a file into the visitor's downloads. */
export function saveBlob(name: string, blob: Blob): void {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  // The browser has opened it by then.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** Lets the visitor choose files. Resolves with none when they do not. */
export function chooseFiles({ accept = '', multiple = false }: { accept?: string; multiple?: boolean } = {}): Promise<
  File[]
> {
  return new Promise((resolve) => {
    const input = document.createElement('input');
    input.type = 'file';
    input.accept = accept;
    input.multiple = multiple;
    input.addEventListener('change', () => resolve([...(input.files ?? [])]));
    input.addEventListener('cancel', () => resolve([]));
    input.click();
  });
}
