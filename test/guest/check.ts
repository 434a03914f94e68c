import type { FileSystem, Process, RunOptions, RunResult, SpawnOptions } from '../../src/agent/client.ts';

/** A booted guest: ours, or QEMU's as the reference. */
export interface Guest {
  run(argv: readonly string[], options?: RunOptions): Promise<RunResult>;
  spawn(argv: readonly string[], options?: SpawnOptions): Promise<Process>;
  readonly fs: FileSystem;
}

export interface Check {
  name: string;
  /** What the README says works when all checks of it pass. */
  program?: string;
  /** Milliseconds, where five minutes do not do. */
  patience?: number;
  work(guest: Guest): Promise<void>;
}

/** Milliseconds for one script. */
const PATIENCE = 240_000;

export const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);

/** Runs a script with `bash -ec`; its output when it succeeds. */
export async function script(guest: Guest, lines: string, options: RunOptions = {}): Promise<string> {
  const { status, stdout, stderr } = await guest.run(['bash', '-ec', lines], {
    // A program that hangs is ended, so that it does not disturb the checks that follow.
    signal: AbortSignal.timeout(PATIENCE),
    ...options,
  });
  if (status !== 0)
    throw new Error(`status ${status}: ${`${text(stderr)}${text(stdout)}`.trim().split('\n').slice(-8).join('\n')}`);
  return text(stdout);
}

export function equal(actual: string, expected: string): void {
  if (actual !== expected) throw new Error(`got ${JSON.stringify(actual)}, expected ${JSON.stringify(expected)}`);
}

export function match(actual: string, expected: RegExp): void {
  if (!expected.test(actual))
    throw new Error(`got ${JSON.stringify(actual.slice(-500))}, expected ${String(expected)}`);
}

export const prints = (name: string, lines: string, expected: string | RegExp): Check => ({
  name,
  work: async (guest) => {
    const output = await script(guest, lines);
    if (typeof expected === 'string') equal(output, expected);
    else match(output, expected);
  },
});

/** `work`, or an error that names `what` when it takes longer. */
export function limit<T>(work: Promise<T>, milliseconds: number, what: string): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} took more than ${milliseconds / 1000} s`)), milliseconds);
  });
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}

export const sleep = (milliseconds: number): Promise<void> => new Promise((done) => setTimeout(done, milliseconds));
