/**
 * The interpreter's handlers in the function table: the fixed ones, those of instruction shapes (made when the first
 * instruction of a shape is decoded, or ahead from warm.ts), and the slots that compiled regions take.
 */
import { type Handler, pairKey, Slot, HandlerModule, type WantedHandler } from './handler-modules.ts';
import { FAR, fuses, layoutOf, shapeKey } from './interp.ts';
import type { Insn } from './insn.ts';
import type { BranchShape } from './record.ts';
import { warmHandlers, type RunNode } from './warm-handlers.ts';

/** Records have 16 bits for them. */
const MOST_SLOTS = 65536;

/** What handlers are linked with. */
export interface HandlerHost {
  readonly wasmMemory: WebAssembly.Memory;
  /** Base of the processor's state. */
  readonly state: number;
  /** The functions that emitted code imports. */
  readonly imports: Record<string, (...args: number[]) => number>;
}

export class Handlers {
  readonly table: WebAssembly.Table;
  readonly exports: Record<string, WebAssembly.ExportValue> = {};
  private readonly made = new Map<number, Handler>();
  private nextSlot: number = Slot.FIRST_FREE;
  private readonly freeSlots: number[] = [];
  private waiting: WantedHandler[] = [];

  /** @param cross runs before an instruction that crosses pages: 1 to go on */
  constructor(
    private readonly host: HandlerHost,
    private readonly cross: (record: number) => number,
  ) {
    this.table = new WebAssembly.Table({ element: 'anyfunc', initial: 4096 });
    const { core } = warmHandlers(host.state);
    Object.assign(this.exports, new WebAssembly.Instance(core, this.importObject()).exports);
  }

  /** Handlers made so far. */
  get count(): number {
    return this.made.size;
  }

  /** What a module of emitted code is instantiated with. */
  importObject(): WebAssembly.Imports {
    return {
      m: {
        memory: this.host.wasmMemory,
        table: this.table,
        ...this.host.imports,
        cross: (record: number) => this.cross(record),
        ...this.exports,
      } as WebAssembly.ModuleImports,
    };
  }

  // ---- table slots ----

  /** A free slot of the function table. */
  allocateSlot(): number {
    const free = this.freeSlots.pop();
    if (free !== undefined) return free;
    if (this.nextSlot === this.table.length) this.table.grow(this.table.length);
    return this.nextSlot++;
  }

  /** How many slots are left. */
  get freeCount(): number {
    return this.freeSlots.length + MOST_SLOTS - this.nextSlot;
  }

  releaseSlot(slot: number): void {
    this.table.set(slot, null);
    this.freeSlots.push(slot);
  }

  /** An instruction's handler. */
  handler(insn: Insn, flagsDead: boolean, branch: BranchShape): Handler {
    return this.get(shapeKey(insn, flagsDead, branch), insn, undefined, flagsDead, branch);
  }

  private readonly sampled = new Set<number>();

  /** The handler that an instruction and the branch after it share. */
  pair(first: Insn, second: Insn, branch: BranchShape): Handler {
    return this.get(pairKey(first, second, branch), first, second, false, branch);
  }

  private get(key: number, insn: Insn, second: Insn | undefined, flagsDead: boolean, branch: BranchShape): Handler {
    let handler = this.made.get(key);
    if (!handler) {
      const slot = this.allocateSlot();
      this.made.set(key, (handler = { slot, layout: layoutOf(insn, second ? FAR : branch) }));
      this.waiting.push({ insn, second, flagsDead, branch, slot });
    }
    return handler;
  }

  /** Compiles the handlers that decoding found missing. */
  makeMissing(): void {
    if (!this.waiting.length) return;
    const module = new HandlerModule(this.host.state);
    for (const wanted of this.waiting) module.add(wanted);
    this.waiting = [];
    new WebAssembly.Instance(new WebAssembly.Module(module.encode()), this.importObject());
  }

  /** Samples of the handlers that were made, in the form of warm.ts; kept while it is set. */
  recorded: Set<string> | undefined;

  /**
   * Makes the handlers of WARM ahead of their first use, in one module that all processors of this thread share. Only
   * a cache that has made none yet can do this, so that the slots are the same each time.
   */
  warm(): void {
    if (this.nextSlot !== Slot.FIRST_FREE) return;
    const { handlers, runs, slots, module } = warmHandlers(this.host.state);
    for (const [key, handler] of handlers) this.made.set(key, handler);
    while (this.nextSlot < Slot.FIRST_FREE + slots) this.allocateSlot();
    this.runs = runs;
    new WebAssembly.Instance(module, this.importObject());
  }

  private runs: ReadonlyMap<Handler, RunNode> = new Map();

  /**
   * The longest run that a block's instructions make from the `k`th on.
   *
   * @param handlers of the block's first `count` instructions
   * @returns the table slot of its handler, or undefined
   */
  run(handlers: readonly Handler[], k: number, count: number): number | undefined {
    let slot: number | undefined;
    let next = this.runs;
    for (let i = k; i < count; i++) {
      const node = next.get(handlers[i]!);
      if (!node) break;
      slot = node.slot ?? slot;
      ({ next } = node);
    }
    return slot;
  }

  /** Notes an instruction (and the one before, where they share a handler) in the form of warm.ts, if that is wanted. */
  note(code: Uint8Array, at: number, insn: Insn, flagsDead: boolean, branch: BranchShape, before?: Insn): void {
    if (!this.recorded) return;
    const letter = 'abcdefgh'[(flagsDead ? 1 : 0) + (branch.takenNear ? 2 : 0) + (branch.nextNear ? 4 : 0)]!;
    const size = insn.bits === 64 ? 'q' : insn.bits === 32 ? 'd' : 'w';
    const text = hex(code, at, insn.len);
    this.noteSample(shapeKey(insn, flagsDead, branch), text + letter + size);
    if (before && fuses(before, insn))
      this.noteSample(
        pairKey(before, insn, branch),
        `${hex(code, at - before.len, before.len)}_${text}${letter}${size}`,
      );
  }

  private noteSample(key: number, sample: string): void {
    if (this.sampled.has(key)) return;
    this.sampled.add(key);
    this.recorded!.add(sample);
  }
}

const hex = (bytes: Uint8Array, at: number, length: number): string =>
  Array.from(bytes.subarray(at, at + length), (x) => x.toString(16).padStart(2, '0')).join('');
