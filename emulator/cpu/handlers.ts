/**
 * The interpreter's handlers in the function table: the fixed ones, those of instruction shapes (made when the first
 * instruction of a shape is decoded, or ahead from warm.ts), and the slots that compiled regions take.
 */
import { decode } from './decoder.ts';
import {
  buildHandler,
  buildPair,
  buildRun,
  declareImports,
  FAR,
  fuses,
  InterpEmit,
  joins,
  layoutOf,
  shapeKey,
  type Linkage,
  type Step,
} from './interp.ts';
import { NO_INSN, type Insn } from './insn.ts';
import { S } from './layout.ts';
import { type BranchShape, CHECK_SIZE, handlerOf, meta, metaCount, metaOffset, R, type RecordLayout } from './record.ts';
import { RUNS } from './runs.ts';
import { RUNTIME } from './runtime.ts';
import { WARM } from './warm.ts';
import { FunctionBuilder, HANDLER, ModuleBuilder } from './wasm/builder.ts';
import { callExpr, i32, i64, I32, k32 } from './wasm/expr.ts';

/** Table slots of the fixed handlers. */
export const Slot = { Invalid: 0, Resync: 1, CrossCheck: 2, GoOnNear: 3, GoOnFar: 4, Raise: 5, FIRST_FREE: 6 } as const;

/** Records have 16 bits for them. */
const MOST_SLOTS = 65536;

/** A handler's table slot, and what the records that it serves are like. */
export interface Handler {
  readonly slot: number;
  readonly layout: RecordLayout;
}

/** A handler to be made: for an instruction, or for one and the branch after it. */
interface WantedHandler {
  insn: Insn;
  second: Insn | undefined;
  flagsDead: boolean;
  branch: BranchShape;
  slot: number;
}

/** A number that is equal for pairs that the same handler serves; apart from those of single instructions. */
const pairKey = (first: Insn, second: Insn, branch: BranchShape): number =>
  -1 - (shapeNumber(shapeKey(first, false, FAR)) * 2 ** 20 + shapeNumber(shapeKey(second, false, branch)));

/** Small numbers for the shapes that pairs are made of. */
const shapeNumbers = new Map<number, number>();
function shapeNumber(key: number): number {
  let n = shapeNumbers.get(key);
  if (n === undefined) shapeNumbers.set(key, (n = shapeNumbers.size));
  return n;
}

/** Runs by their instructions' handlers: what a run so far goes on with. */
interface RunNode {
  /** Table slot of the run that ends here. */
  slot: number | undefined;
  readonly next: Map<Handler, RunNode>;
}

interface WarmModule {
  module: WebAssembly.Module;
  /** By shape. */
  handlers: Map<number, Handler>;
  runs: Map<Handler, RunNode>;
  /** Table slots that it takes. */
  slots: number;
}
let warmModule: WarmModule | undefined;

/** What handlers are linked with. */
export interface HandlerHost {
  readonly wasmMemory: WebAssembly.Memory;
  /** Base of the processor's state. */
  readonly state: number;
  /** The functions that emitted code imports. */
  readonly imports: Record<string, (...args: number[]) => number>;
}

/** The module of the fixed handlers by the state's base: it is the same for all processors there. */
const coreModules = new Map<number, WebAssembly.Module>();

function coreModule(state: number): WebAssembly.Module {
  let core = coreModules.get(state);
  if (!core) coreModules.set(state, (core = new WebAssembly.Module(buildCore(state).encode())));
  return core;
}

/** Makes what all processors of this thread share: they are made quicker afterwards. */
export function prepareHandlers(state: number): void {
  coreModule(state);
  warmModule ??= writeWarm(state);
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
    Object.assign(this.exports, new WebAssembly.Instance(coreModule(host.state), this.importObject()).exports);
  }

  /** Handlers made so far. */
  get count(): number {
    return this.made.size;
  }

  private instantiate(m: ModuleBuilder): WebAssembly.Instance {
    const module = new WebAssembly.Module(m.encode());
    return new WebAssembly.Instance(module, this.importObject());
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
    const { m } = writeHandlers(this.host.state, this.waiting);
    this.waiting = [];
    this.instantiate(m);
  }

  /** Samples of the handlers that were made, in the form of warm.ts; kept while it is set. */
  recorded: Set<string> | undefined;

  /**
   * Makes the handlers of WARM ahead of their first use, in one module that all processors of this thread share. Only
   * a cache that has made none yet can do this, so that the slots are the same each time.
   */
  warm(): void {
    if (this.nextSlot !== Slot.FIRST_FREE) return;
    prepareHandlers(this.host.state);
    if (!warmModule) return;
    for (const [key, handler] of warmModule.handlers) this.made.set(key, handler);
    while (this.nextSlot < Slot.FIRST_FREE + warmModule.slots) this.allocateSlot();
    this.runs = warmModule.runs;
    new WebAssembly.Instance(warmModule.module, this.importObject());
  }

  private runs: ReadonlyMap<Handler, RunNode> = new Map();

  /**
   * The longest run that a block's instructions make from the `k`th on.
   *
   * @param handlers of the block's instructions
   * @returns the table slot of its handler, or undefined
   */
  run(handlers: readonly Handler[], k: number): number | undefined {
    let slot: number | undefined;
    let next = this.runs;
    for (let i = k; i < handlers.length; i++) {
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

function writeHandlers(state: number, list: readonly WantedHandler[]): { m: ModuleBuilder; link: Linkage } {
  const m = new ModuleBuilder();
  const link = declareImports(m, true);
  for (const h of list) {
    const index = m.add(
      h.second
        ? buildPair(h.insn, h.second, state, link, h.branch)
        : buildHandler(h.insn, state, link, h.flagsDead, h.branch),
    );
    m.element(h.slot, [index]);
  }
  return { m, link };
}

/** An instruction of a sample in WARM or RUNS: its bytes and its shape's letter. */
function readStep(text: string, bits: 64 | 32 | 16): Omit<Step, 'slot'> | undefined {
  const bytes = Uint8Array.from(text.slice(0, -1).match(/../g)!, (x) => parseInt(x, 16));
  const insn = decode(bytes, 0, bytes.length + 16, bits);
  if (typeof insn === 'string') return undefined;
  const letter = text.charCodeAt(text.length - 1) - 97;
  const branch = { takenNear: (letter & 2) !== 0, nextNear: (letter & 4) !== 0 };
  return { insn, flagsDead: (letter & 1) !== 0, branch };
}

function writeWarm(state: number): WarmModule {
  const handlers = new Map<number, Handler>();
  const list: WantedHandler[] = [];
  let slots: number = Slot.FIRST_FREE;
  const single = ({ insn, flagsDead, branch }: Omit<Step, 'slot'>): Handler => {
    const key = shapeKey(insn, flagsDead, branch);
    let handler = handlers.get(key);
    if (!handler) {
      handlers.set(key, (handler = { slot: slots++, layout: layoutOf(insn, branch) }));
      list.push({ insn, second: undefined, flagsDead, branch, slot: handler.slot });
    }
    return handler;
  };
  for (const sample of WARM.match(/\S+/g) ?? []) {
    const size = sample.at(-1);
    const texts = sample.slice(0, -1).split('_');
    if (texts.length === 2) texts[0] += 'a';
    const steps = texts.map((text) => readStep(text, size === 'q' ? 64 : size === 'd' ? 32 : 16));
    const [first, second] = steps;
    if (!first) continue;
    if (texts.length === 1) single(first);
    else if (second && fuses(first.insn, second.insn)) {
      const key = pairKey(first.insn, second.insn, second.branch);
      if (handlers.has(key)) continue;
      handlers.set(key, { slot: slots, layout: layoutOf(first.insn, FAR) });
      list.push({ ...second, insn: first.insn, second: second.insn, slot: slots++ });
    }
  }
  const runs = new Map<Handler, RunNode>();
  const wanted: { steps: Step[]; slot: number }[] = [];
  for (const sample of RUNS.match(/\S+/g) ?? []) {
    const read = sample.split('_').map((text) => readStep(text, 64));
    const steps: Step[] = [];
    let next = runs;
    let node: RunNode | undefined;
    for (const step of read) {
      if (!step || !joins(step.insn)) break;
      const handler = single(step);
      steps.push({ ...step, slot: handler.slot });
      node = next.get(handler);
      if (!node) next.set(handler, (node = { slot: undefined, next: new Map() }));
      ({ next } = node);
    }
    if (steps.length < read.length || !node || node.slot !== undefined) continue;
    node.slot = slots++;
    wanted.push({ steps, slot: node.slot });
  }
  const { m, link } = writeHandlers(state, list);
  for (const { steps, slot } of wanted) m.element(slot, [m.add(buildRun(steps, state, link))]);
  return { module: new WebAssembly.Module(m.encode()), handlers, runs, slots: slots - Slot.FIRST_FREE };
}

/** The fixed handlers, the runtime library and the way in. */
function buildCore(state: number): ModuleBuilder {
  const m = new ModuleBuilder();
  const link = declareImports(m, false);
  const cross = m.import('cross', { params: [I32], results: [I32] });
  const runtimeIndex = new Map<string, number>();
  const runtime = RUNTIME.map((r) => {
    const f = new FunctionBuilder(r.signature);
    runtimeIndex.set(r.name, m.add(f, r.name));
    return f;
  });
  RUNTIME.forEach((r, k) =>
    r.build(runtime[k]!, (name, ...args) => {
      const index = runtimeIndex.get(name);
      if (index !== undefined)
        return callExpr(RUNTIME.find((x) => x.name === name)!.signature.results[0]!, index, args);
      const imported = link.imports[name];
      if (imported === undefined) throw new Error(`no runtime function ${name}`);
      return callExpr(I32, imported, args);
    }),
  );
  const call = (f: FunctionBuilder, record: ReturnType<typeof k32>): void =>
    f.returnCallIndirect(link.handlerType, handlerOf(record), record);

  const enter = new FunctionBuilder(HANDLER);
  call(enter, enter.param(0));
  m.add(enter, 'enter');

  // Nothing leads to slot 0 (an all-zero record); if something did, the run loop would look RIP up again.
  const invalid = new FunctionBuilder(HANDLER);
  const resync = new FunctionBuilder(HANDLER);
  const m0 = resync.let(meta(resync.param(0)));
  resync.store(8, state + S.RIP, i64.add(i64.load(k32(state + S.VPC)), i64.extend_u(metaOffset(m0))));
  resync.store(4, state + S.FUEL, i32.sub(i32.load(k32(state + S.FUEL)), i32.sub(metaCount(m0), 1)));
  const check = new FunctionBuilder(HANDLER);
  const ok = check.let(callExpr(I32, cross, [check.param(0)]));
  check.if(i32.eqz(ok), () => check.return());
  const after = check.let(i32.add(check.param(0), CHECK_SIZE));
  call(check, after);
  const raise = new FunctionBuilder(HANDLER);
  raise.drop(
    callExpr(I32, link.imports.raise!, [
      i32.load8_u(raise.param(0), R.VECTOR),
      i32.load(raise.param(0), R.CODE),
      raise.param(0),
    ]),
  );
  const indices = [invalid, resync, check].map((f) => m.add(f));
  const goOn = [true, false].map((near) => m.add(buildGoOn(state, link, near)));
  m.element(0, [...indices, ...goOn, m.add(raise)]);
  return m;
}

function buildGoOn(state: number, link: Linkage, near: boolean): FunctionBuilder {
  const f = new FunctionBuilder(HANDLER);
  const c = new InterpEmit(f, NO_INSN, state, link, { takenNear: false, nextNear: near });
  c.goOn();
  return f;
}
