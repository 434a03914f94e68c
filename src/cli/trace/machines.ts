import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { createProcessor } from '../../../emulator/cpu/processor.ts';
import { decompress, detectCompression } from '../../../emulator/disk/compression.ts';
import { fetchFile } from '../../../emulator/disk/file.ts';
import type { ManifestFile } from '../../../emulator/disk/manifest.ts';
import { openDisk } from '../../../emulator/disk/open.ts';
import { Machine } from '../../../emulator/machine.ts';
import type { Tier } from '../../../emulator/processor.ts';
import { fileFetch } from '../file-fetch.ts';
import { TracedProcessor } from './processor.ts';

/** What the machines of a trace start from; paths or addresses. */
export interface Source {
  disk?: string;
  kernel?: string;
  initrd?: string;
  cmdline?: string;
  append?: string;
  /** RAM in MiB. */
  memory: number;
}

export interface TracedMachine {
  machine: Machine;
  cpu: TracedProcessor;
}

const LARGEST_KERNEL = 1 << 28;

/** A path is made an address; what has a scheme stays as it is. */
export function address(where: string): string {
  return /^[a-z][a-z0-9+.-]+:\/\//i.test(where) ? where : pathToFileURL(resolve(where)).href;
}

/**
 * A deterministic machine that has not started.
 * @param output what the guest prints, on the console and the serial port
 * @throws BlockError, BootError
 */
export async function makeMachine(source: Source, tier: Tier, output: (text: string) => void): Promise<TracedMachine> {
  const policy = { fetch: fileFetch };
  const disk = source.disk === undefined ? undefined : await openDisk(address(source.disk), { policy });
  const load = async (given: string | undefined, file: ManifestFile | undefined): Promise<Uint8Array | undefined> => {
    if (given !== undefined) return fetchFile({ url: address(given) }, { policy });
    return file && disk?.url !== undefined
      ? fetchFile({ ...file, url: new URL(file.url, disk.url).href }, { policy })
      : undefined;
  };
  let kernel = await load(source.kernel, disk?.manifest?.kernel);
  if (!kernel) throw new Error('there is no kernel to trace: give --kernel, or --disk with a manifest that names one');
  kernel = await decompress(kernel, detectCompression(kernel), LARGEST_KERNEL, 'the kernel');
  const initrd = await load(source.initrd, disk?.manifest?.initrd);
  const decoder = new TextDecoder();
  const print = (bytes: Uint8Array): void => output(decoder.decode(bytes, { stream: true }));
  const machine = await Machine.create({
    createProcessor: (host, memory, which) => createProcessor(host, memory, which, TracedProcessor),
    memory: Math.floor(source.memory / 2) * 2 * 2 ** 20,
    kernel,
    initrd,
    cmdline: [source.cmdline ?? disk?.manifest?.cmdline ?? '', source.append ?? ''].filter(Boolean).join(' '),
    disks: disk ? [disk.device] : [],
    tier,
    deterministic: true,
    events: { console: print, serial: print },
  });
  if (!(machine.processor instanceof TracedProcessor)) throw new Error('the machine has another processor');
  return { machine, cpu: machine.processor };
}
