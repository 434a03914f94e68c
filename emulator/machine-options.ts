import type { BlockDevice } from './disk/types.ts';
import type { NetworkPort } from './devices/virtio/net.ts';
import type { Macrotasks } from './macrotask.ts';
import type { Processor, ProcessorHost, ProcessorStats, Tier } from './processor.ts';

/** Why a machine stopped for good. `shutdown` is a triple fault, `stop` the host's own call. */
export type MachineExitReason = 'poweroff' | 'reset' | 'shutdown' | 'panic' | 'stop' | 'error';

export interface MachineExit {
  reason: MachineExitReason;
  /** For people: the panic's lines, or what failed. */
  message?: string;
  error?: unknown;
}

/** `created` until `start`; `stopped` is final. */
export type MachineStatus = 'created' | 'running' | 'paused' | 'stopped';

/** Byte arrays belong to the receiver. Handlers are called between slices, never while the processor runs. */
export interface MachineEvents {
  /** Output of the terminal (hvc0). */
  console?(bytes: Uint8Array): void;
  /** Output of the serial port (ttyS0). */
  serial?(bytes: Uint8Array): void;
  /** Output of the guest agent. */
  agent?(bytes: Uint8Array): void;
  /** The agent has opened or closed its port. */
  agentOpen?(open: boolean): void;
  status?(status: MachineStatus, exit?: MachineExit): void;
  /** The guest was given an I/O error because of this. */
  diskError?(error: unknown): void;
  /**
   * A part of a resumed machine's RAM could not be had. It is tried again; meanwhile the machine may stand still.
   * Undefined: all is well again.
   */
  memoryTrouble?(error: unknown): void;
  /** All of a resumed machine's RAM is here. `waited`: guest time that stood still for it, in milliseconds. */
  memoryComplete?(waited: number): void;
}

export interface MachineOptions {
  createProcessor: (host: ProcessorHost, memoryBytes: number, tier: Tier) => Promise<Processor> | Processor;
  /** RAM in bytes: a multiple of 2 MiB, up to 3 GiB. */
  memory: number;
  /**
   * A bzImage, an uncompressed ELF vmlinux or a Multiboot kernel. A machine without one is given it by `load`, or is
   * restored.
   */
  kernel?: Uint8Array;
  initrd?: Uint8Array;
  cmdline?: string;
  /** The first is /dev/vda. */
  disks?: readonly BlockDevice[];
  network?: NetworkPort;
  /** Six bytes. */
  mac?: Uint8Array;
  tier?: Tier;
  /** Time is counted in instructions, random numbers come from `seed`, and a disk request stops the processor. */
  deterministic?: boolean;
  seed?: number;
  events?: MachineEvents;
  /** Monotonic milliseconds; default `performance.now`. */
  now?: () => number;
  /** Milliseconds since 1970; default `Date.now`. */
  wall?: () => number;
  /** How the run loop lets other events in; default a macrotask without the 4 ms clamp of timers. */
  macrotasks?: Macrotasks;
}

export interface MachineStats {
  status: MachineStatus;
  processor: ProcessorStats;
  /** Guest time in seconds. */
  guestSeconds: number;
  /** Host milliseconds in which the processor ran, and turns of the run loop. */
  busyMs: number;
  turns: number;
  /** Interrupts accepted by the local APIC. */
  interrupts: number;
  /** Of a resumed machine: chunks of RAM that have come, and those of them that the guest had to wait for. */
  memory?: { chunks: number; demanded: number; complete: boolean };
  /** Counters of the virtio devices, in order. */
  devices: { name: string; counters: Record<string, number>; failure?: string }[];
}
