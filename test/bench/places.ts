import type { VmStats } from '../../src/protocol.ts';

/** How a machine came up. Bytes are those that crossed the network (or were read) before the prompt. */
export interface BootFigures {
  /** From the start of QEMU, of `LinuxVM.start`, of the page's navigation, to the prompt on the console. */
  seconds: number;
  /** Of these, before the first instruction: page, kernel, initramfs. */
  loading?: number;
  instructions?: number;
  interpreted?: number;
  regions?: number;
  codeBytes?: number;
  kernelBytes?: number;
  initramfsBytes?: number;
  diskBytes?: number;
  diskChunks?: number;
  /** Page, scripts, manifest. */
  siteBytes?: number;
  /** Resident memory of the process that runs the machine, in MiB, at the prompt. */
  residentMiB?: number;
  /** Of these its own: without the files it maps, such as the browser's program, which all tabs share. */
  privateMiB?: number;
}

/** Somewhere programs can be run. */
export interface Running {
  boot?: BootFigures;
  /** Puts a file of the programs' directory where `run` finds it. */
  put(file: string): Promise<void>;
  /** Runs a program that was put there, or one of the disk's by its path. @returns what it printed @throws Error when it fails or takes too long */
  run(file: string, args: readonly string[], timeout: number): Promise<string>;
  stats?(): Promise<VmStats>;
  /** Ids of the processes that run the machine, the one with its memory first. */
  processes?(): Promise<number[]>;
  stop(): Promise<void>;
}

export interface Place {
  name: string;
  /** The place whose seconds are 1 for this one's slowdown; `native` unless told. */
  against?: string;
  start(): Promise<Running>;
}

/** Where programs are in a guest. */
export const GUEST_DIRECTORY = '/bench';

/** @returns what stands before a program's arguments in the guest */
export function guestPath(file: string): string {
  return file.startsWith('/') ? file : `${GUEST_DIRECTORY}/${file}`;
}

export const BOOT_LIMIT = 300_000;

export function withLimit<T>(work: Promise<T>, milliseconds: number, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} took more than ${milliseconds / 1000} s`)), milliseconds);
  });
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}
