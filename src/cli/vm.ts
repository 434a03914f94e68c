#!/usr/bin/env node
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import type { Tier } from '../../emulator/processor.ts';
import { describeExit, LinuxVM, type VmExit } from '../node.ts';
import { EscapeKeys } from './escape-keys.ts';

const USAGE = `usage: npm run vm -- [options]

  --disk WHERE        manifest (….json) or raw image, a path or an address
                      (default: build/disks/debian/manifest.json)
  --kernel WHERE      kernel instead of the manifest's
  --initrd WHERE      initramfs instead of the manifest's
  --cmdline TEXT      kernel command line instead of the manifest's
  --append TEXT       words added to the command line
  --memory MIB        RAM in MiB (default 512)
  --tier TIER         auto, interp or jit (default auto)
  --exec COMMAND      boot, run it with bash -lc, print its output, end with its status
  --deterministic     clock by instruction count; two runs are equal
  --read-only         the guest cannot write to the disk
  --timeout SECONDS   give up after this long
  --verbose           with --exec: the console on stderr
  --stats             one line of JSON on stderr at the end
  --help

On the console, Ctrl-A X ends the machine, and Ctrl-A Ctrl-A types a Ctrl-A.
Status: that of COMMAND, else 0 after a power-off, 1 after a kernel panic or an error.`;

/** Statuses of this program itself, chosen apart from those that commands use. */
const FAILED = 1;
const MISUSED = 2;
const TIMED_OUT = 124;
const INTERRUPTED = 130;

async function main(): Promise<number> {
  let options;
  try {
    options = parseArgs({
      options: {
        disk: { type: 'string' },
        kernel: { type: 'string' },
        initrd: { type: 'string' },
        cmdline: { type: 'string' },
        append: { type: 'string' },
        memory: { type: 'string', default: '512' },
        tier: { type: 'string', default: 'auto' },
        exec: { type: 'string' },
        timeout: { type: 'string' },
        deterministic: { type: 'boolean', default: false },
        'read-only': { type: 'boolean', default: false },
        verbose: { type: 'boolean', default: false },
        stats: { type: 'boolean', default: false },
        help: { type: 'boolean', default: false },
      },
    }).values;
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n\n${USAGE}\n`);
    return MISUSED;
  }
  if (options.help) {
    process.stdout.write(`${USAGE}\n`);
    return 0;
  }
  const standard = 'build/disks/debian/manifest.json';
  if (!options.disk && !options.kernel && !existsSync(standard)) {
    process.stderr.write(`there is no disk: build one with "npm run disk -- debian", or give --disk or --kernel\n`);
    return MISUSED;
  }
  const timeout = options.timeout === undefined ? undefined : Number(options.timeout);
  if (timeout !== undefined && !(timeout > 0)) {
    process.stderr.write(`--timeout ${options.timeout} is not a number of seconds\n`);
    return MISUSED;
  }
  const controller = new AbortController();
  const timer = timeout && setTimeout(() => controller.abort(new TimeoutError(timeout)), timeout * 1000);
  const onSignal = (): void => controller.abort(new Interrupted('interrupted'));
  process.on('SIGTERM', onSignal);
  process.on('SIGHUP', onSignal);
  if (options.exec !== undefined) process.on('SIGINT', onSignal);
  const began = performance.now();
  let vm: LinuxVM | undefined;
  let status: number;
  try {
    const disk = options.disk ?? (options.kernel ? undefined : standard);
    vm = await LinuxVM.start({
      disk: disk && address(disk),
      kernel: options.kernel && address(options.kernel),
      initrd: options.initrd && address(options.initrd),
      cmdline: options.cmdline,
      append: options.append,
      memory: Number(options.memory),
      tier: options.tier as Tier,
      deterministic: options.deterministic,
      readOnly: options['read-only'],
      columns: process.stdout.columns ?? 80,
      rows: process.stdout.rows ?? 24,
      signal: controller.signal,
    });
    vm.on('disk-error', (error) => process.stderr.write(`disk: ${error.message}\n`));
    status =
      options.exec === undefined
        ? await interact(vm)
        : await execute(vm, options.exec, options.verbose, controller.signal);
    controller.signal.throwIfAborted();
  } catch (error) {
    if (vm && controller.signal.aborted) await vm.exited;
    const reason = controller.signal.aborted ? (controller.signal.reason as Error) : (error as Error);
    process.stderr.write(`${reason.message}\n`);
    status = reason instanceof TimeoutError ? TIMED_OUT : reason instanceof Interrupted ? INTERRUPTED : FAILED;
  } finally {
    if (timer) clearTimeout(timer);
  }
  if (vm && options.stats) await printStats(vm, began);
  await vm?.stop();
  return status;
}

class Interrupted extends Error {}

class TimeoutError extends Error {
  constructor(seconds: number) {
    super(`gave up after ${seconds} seconds`);
  }
}

/** The console on this terminal, until the guest powers off or the user quits. */
async function interact(vm: LinuxVM): Promise<number> {
  const { stdin, stdout } = process;
  const keys = new EscapeKeys(
    (bytes) => vm.console.write(bytes),
    () => void vm.stop(),
  );
  const onInput = (bytes: Buffer): void => keys.write(bytes);
  const onResize = (): void => vm.console.resize(stdout.columns, stdout.rows);
  const terminal = stdin.isTTY === true;
  if (terminal) stdin.setRawMode(true);
  if (stdout.isTTY) stdout.on('resize', onResize);
  stdin.on('data', onInput);
  vm.console.onData((bytes) => {
    if (!stdout.write(bytes)) return new Promise((resolve) => stdout.once('drain', resolve));
    return undefined;
  });
  const exit = await vm.exited;
  if (terminal) stdin.setRawMode(false);
  stdin.off('data', onInput);
  stdin.pause();
  stdout.off('resize', onResize);
  return report(exit);
}

async function execute(vm: LinuxVM, command: string, verbose: boolean, signal: AbortSignal): Promise<number> {
  let console = '';
  const decoder = new TextDecoder();
  vm.console.onData((bytes) => {
    if (verbose) process.stderr.write(bytes);
    console = (console + decoder.decode(bytes, { stream: true })).slice(-4000);
  });
  try {
    const child = await vm.spawn(['bash', '-lc', command]);
    await child.stdin.close();
    await Promise.all([pour(child.stdout, process.stdout), pour(child.stderr, process.stderr)]);
    return (await child.exit).status;
  } catch (error) {
    if (signal.aborted || (vm.state !== 'stopped' && vm.state !== 'error')) throw error;
    const exit = await vm.exited;
    if (exit.reason === 'poweroff') return 0;
    if (!verbose && console) process.stderr.write(`${console.trimEnd()}\n`);
    return report(exit);
  }
}

async function pour(from: ReadableStream<Uint8Array>, to: NodeJS.WriteStream): Promise<void> {
  for await (const bytes of from as unknown as AsyncIterable<Uint8Array>)
    if (!to.write(bytes)) await new Promise((resolve) => to.once('drain', resolve));
}

/** @returns the status that an ending of the machine means, having said what is to say about it */
function report(exit: VmExit): number {
  if (exit.reason === 'poweroff' || exit.reason === 'reset' || exit.reason === 'stopped') return 0;
  process.stderr.write(`\n${describeExit(exit)}\n`);
  return FAILED;
}

async function printStats(vm: LinuxVM, began: number): Promise<void> {
  const stats = await vm.stats().catch(() => undefined);
  const p = stats?.processor;
  const d = stats?.disk;
  const line = {
    seconds: Math.round(performance.now() - began) / 1000,
    instructions: p?.instructions,
    interpreted: p?.interpreted,
    compiled: p?.compiled,
    regions: p?.regions,
    codeBytes: p?.codeBytes,
    exceptions: p?.exceptions,
    interrupts: p?.interrupts,
    tlbFills: p?.tlbFills,
    diskReads: d?.reads,
    diskReadBytes: d?.readBytes,
    diskWrites: d?.writes,
    diskWrittenBytes: d?.writtenBytes,
    cacheHits: d?.hits,
    cacheMisses: d?.misses,
    chunks: d?.fetches,
    chunkBytes: d?.fetchedBytes,
    kernelBytes: stats?.kernelBytes,
  };
  process.stderr.write(`${JSON.stringify(line)}\n`);
}

/** A path is made an address; what has a scheme stays as it is. */
function address(where: string): string {
  return /^[a-z][a-z0-9+.-]+:\/\//i.test(where) ? where : pathToFileURL(resolve(where)).href;
}

process.exitCode = await main();
// Standard input may still hold the loop open; what is written is flushed first.
await Promise.all(
  [process.stdout, process.stderr].map((s) => new Promise<void>((done) => void s.write('', () => done()))),
);
process.exit();
