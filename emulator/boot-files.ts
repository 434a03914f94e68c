import type { BootFile, Location, MachineSpec } from '../src/protocol.ts';
import { decompress, detectCompression } from './disk/compression.ts';
import type { FetchPolicy } from './disk/fetch.ts';
import { fetchFile } from './disk/file.ts';
import { hashedUrl } from './disk/hashed-url.ts';
import type { ManifestFile } from './disk/manifest.ts';
import type { OpenDisk } from './disk/open.ts';
import { BlockError } from './disk/types.ts';
import type { BootImages } from './worker.ts';

/** Bytes. */
const LARGEST_KERNEL = 1 << 28;

/** Kernel and initramfs of a machine that boots: those it was given, else those of its disk's manifest. */
export class BootFiles {
  private readonly bytes = new Map<string, { loaded: number; total?: number }>();

  constructor(
    private readonly policy: Partial<FetchPolicy>,
    private readonly signal: AbortSignal,
  ) {}

  /** Bytes that have come so far. */
  get loaded(): number {
    let sum = 0;
    for (const { loaded } of this.bytes.values()) sum += loaded;
    return sum;
  }

  /** Bytes of the files that have been asked for; undefined when a server does not tell. */
  get total(): number | undefined {
    let sum = 0;
    for (const { total } of this.bytes.values()) {
      if (total === undefined) return undefined;
      sum += total;
    }
    return sum;
  }

  /** @throws BlockError when there is no kernel, or a file cannot be had or is damaged */
  async load(spec: MachineSpec, disk: Pick<OpenDisk, 'manifest' | 'url'> | undefined): Promise<BootImages> {
    const kernel = choose(spec.kernel, disk?.manifest?.kernel, disk?.url);
    if (!kernel)
      throw new BlockError('manifest', 'there is no kernel to boot: give one, or a disk whose manifest names one');
    const initrd = choose(spec.initrd, disk?.manifest?.initrd, disk?.url);
    const [image, ramdisk] = await Promise.all([
      this.loadOne('kernel', kernel),
      initrd ? this.loadOne('initrd', initrd) : undefined,
    ]);
    return { kernel: image, initrd: ramdisk };
  }

  private async loadOne(name: string, file: BootFile): Promise<Uint8Array> {
    const { location } = file;
    let bytes: Uint8Array;
    if (typeof location === 'string') {
      this.bytes.set(name, { loaded: 0, total: file.size });
      bytes = await fetchFile(
        { ...file, url: location },
        {
          policy: this.policy,
          signal: this.signal,
          onProgress: (loaded, total) => this.bytes.set(name, { loaded, total }),
        },
      );
    } else bytes = location instanceof Uint8Array ? location : new Uint8Array(await location.arrayBuffer());
    // A file that nothing is known of may still be a compressed kernel. An initramfs is unpacked by the kernel itself.
    if (file.compression === undefined && name === 'kernel')
      bytes = await decompress(bytes, detectCompression(bytes), LARGEST_KERNEL, 'the kernel');
    return bytes;
  }
}

function choose(
  given: Location | undefined,
  file: ManifestFile | undefined,
  url: string | undefined,
): BootFile | undefined {
  if (given !== undefined) return { location: given };
  if (!file || url === undefined) return undefined;
  return { ...file, location: hashedUrl(new URL(file.url, url).href, file.sha256) };
}
