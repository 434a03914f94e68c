import { createProcessor } from './cpu/processor.ts';
import { Machine, type MachineExit } from './machine.ts';
import { readState, writeState } from './state-stream.ts';
import type { PlainExit } from '../src/protocol.ts';
import { plainError } from '../src/protocol.ts';
import { machineMemory, type MachineEvents, type MachineParts, type WorkerMachine } from './worker.ts';

/** Makes the PC for a worker: one console out of hvc0 and the serial port, and endings in the words of the protocol. */
export async function createMachine(parts: MachineParts, events: MachineEvents): Promise<WorkerMachine> {
  const { spec } = parts;
  // Kernels without virtio print and read on the serial port. Once hvc0 has spoken, it alone is the console.
  let hvc = false;
  let disposed = false;
  const machine = await Machine.create({
    createProcessor,
    memory: machineMemory(spec),
    disks: parts.disk ? [parts.disk.device] : [],
    tier: spec.tier,
    deterministic: spec.deterministic,
    events: {
      console: (bytes) => {
        hvc = true;
        events.output('console', bytes);
      },
      serial: (bytes) => {
        if (!hvc) events.output('console', bytes);
      },
      agent: (bytes) => events.output('agent', bytes),
      memoryTrouble: (error) => events.memoryTrouble?.(error),
      memoryComplete: (waited) => events.memoryComplete?.(waited),
    },
  });
  void machine.stopped.then((exit) => {
    if (!disposed) events.stopped(plainExit(exit));
  });
  try {
    if (parts.images) machine.load(await parts.images, parts.cmdline);
  } catch (error) {
    disposed = true;
    machine.stop();
    throw error;
  }
  let serialInput = Promise.resolve();
  return {
    start: () => machine.start(),
    pause: () => machine.pause(),
    resume: () => machine.resume(),
    writeConsole: (bytes) => {
      if (hvc) void machine.writeConsole(bytes);
      else serialInput = serialInput.then(() => writeSerial(machine, bytes));
    },
    writeAgent: (bytes) => void machine.writeAgent(bytes),
    resize: (columns, rows) => machine.resize(columns, rows),
    stats: () => machine.stats().processor,
    busySeconds: () => machine.stats().busyMs / 1000,
    save: async () => pieces(writeState(await machine.save())),
    restore: async (state) => {
      machine.restore(await readState(state));
      hvc = true;
    },
    resumeFrom: (state, read, traffic) => {
      machine.resumeFrom(state, read, traffic);
      hvc = true;
    },
    compileAhead: (hotCode, compiled) => machine.processor.compileAhead?.(hotCode, compiled) ?? ((): boolean => false),
    fetchRest: () => machine.fetchRest(),
    memory: () => machine.stats().memory,
    dispose: () => {
      disposed = true;
      machine.stop();
    },
  };
}

/** Not every browser can iterate over a stream by itself. */
async function* pieces(stream: ReadableStream<Uint8Array>): AsyncIterable<Uint8Array> {
  const reader = stream.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}

/** The serial port holds few bytes; the rest is offered again until the guest has read some. */
async function writeSerial(machine: Machine, bytes: Uint8Array): Promise<void> {
  while (bytes.length && machine.status !== 'stopped') {
    bytes = bytes.subarray(machine.writeSerial(bytes));
    if (bytes.length) await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

function plainExit(exit: MachineExit): PlainExit {
  switch (exit.reason) {
    case 'shutdown':
      return { reason: 'triple-fault' };
    case 'stop':
      return { reason: 'stopped' };
    case 'error':
      return { reason: 'error', message: exit.message, error: plainError(exit.error ?? new Error(exit.message)) };
    default:
      return { reason: exit.reason, message: exit.message };
  }
}
