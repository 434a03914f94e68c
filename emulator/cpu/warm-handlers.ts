/**
 * The handlers that are there from the start: the fixed ones, those of warm.ts and runs.ts, in two modules that all
 * processors of a thread share. Writing them takes longer than anything else in a start, so a build of the project writes them once and has
 * their bytes in place of `BUILT` in warm-built.ts; where nothing was built they are written here.
 */
import { decode } from './decoder.ts';
import { buildCore, type Handler, HandlerModule, pairKey, Slot, type WantedHandler } from './handler-modules.ts';
import { FAR, fuses, joins, layoutOf, shapeKey, type Step } from './interp.ts';
import { RUNS } from './runs.ts';
import { WARM } from './warm.ts';
import { BUILT, type BuiltModule } from './warm-built.ts';

/** Runs by their instructions' handlers: what a run so far goes on with. */
export interface RunNode {
  /** Table slot of the run that ends here. */
  slot: number | undefined;
  readonly next: Map<Handler, RunNode>;
}

interface WantedRun {
  steps: Step[];
  slot: number;
}

interface Plan {
  list: WantedHandler[];
  wanted: WantedRun[];
  /** By shape. */
  handlers: Map<number, Handler>;
  /** First nodes of all runs. */
  runs: Map<Handler, RunNode>;
  /** Table slots that it takes. */
  slots: number;
}
/** What all processors of a thread share. */
export interface WarmHandlers extends Pick<Plan, 'handlers' | 'runs' | 'slots'> {
  /** The fixed handlers, the runtime library and the way in. */
  core: WebAssembly.Module;
  /** The others. */
  module: WebAssembly.Module;
}

/** An instruction of a sample in WARM or RUNS: its bytes and its shape's letter. */
function readStep(text: string, bits: 64 | 32 | 16): Step | undefined {
  const bytes = Uint8Array.from(text.slice(0, -1).match(/../g)!, (x) => parseInt(x, 16));
  const insn = decode(bytes, 0, bytes.length + 16, bits);
  if (typeof insn === 'string') return undefined;
  const letter = text.charCodeAt(text.length - 1) - 97;
  const branch = { takenNear: (letter & 2) !== 0, nextNear: (letter & 4) !== 0 };
  return { insn, flagsDead: (letter & 1) !== 0, branch };
}

/**
 * What WARM and RUNS ask for.
 *
 * @param note is told which sample a slot is made from
 */
export function plan(note: (slot: number, sample: string) => void = () => undefined): Plan {
  const handlers = new Map<number, Handler>();
  const list: WantedHandler[] = [];
  let slots: number = Slot.FIRST_FREE;
  const single = ({ insn, flagsDead, branch }: Step): Handler => {
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
    if (texts.length === 1) note(single(first).slot, sample);
    else if (second && fuses(first.insn, second.insn)) {
      const key = pairKey(first.insn, second.insn, second.branch);
      if (handlers.has(key)) continue;
      note(slots, sample);
      handlers.set(key, { slot: slots, layout: layoutOf(first.insn, FAR) });
      list.push({ ...second, insn: first.insn, second: second.insn, slot: slots++ });
    }
  }
  const runs = new Map<Handler, RunNode>();
  const wanted: WantedRun[] = [];
  for (const sample of RUNS.match(/\S+/g) ?? []) {
    const read = sample.split('_').map((text) => readStep(text, 64));
    const steps: Step[] = [];
    let next = runs;
    let node: RunNode | undefined;
    for (const step of read) {
      if (!step || !joins(step.insn)) break;
      const handler = single(step);
      steps.push(step);
      node = next.get(handler);
      if (!node) next.set(handler, (node = { slot: undefined, next: new Map() }));
      ({ next } = node);
    }
    if (steps.length < read.length || !node || node.slot !== undefined) continue;
    note(slots, sample);
    node.slot = slots++;
    wanted.push({ steps, slot: node.slot });
  }
  return { list, wanted, handlers, runs, slots: slots - Slot.FIRST_FREE };
}

/** The bytes of both modules. @param state base of the processor's state */
export function writeWarm(state: number): { core: Uint8Array<ArrayBuffer>; module: Uint8Array<ArrayBuffer> } {
  const { list, wanted } = (planned ??= plan());
  const module = new HandlerModule(state);
  for (const handler of list) module.add(handler);
  for (const { steps, slot } of wanted) module.addRun(steps, slot);
  return { core: buildCore(state).encode(), module: module.encode() };
}

let planned: Plan | undefined;

/** Of these, all that is often used: samples begin with the most frequent ones. */
const HOT_SINGLES = 800;

/** Table slots of what programs use often, the most frequent ones first. */
export function hottestSlots(): number[] {
  const { list, wanted } = (planned ??= plan());
  const slots: number[] = [];
  const perSingle = wanted.length / HOT_SINGLES;
  for (let k = 0; k < HOT_SINGLES; k++)
    for (const { slot } of [list[k]!, ...wanted.slice(Math.floor(k * perSingle), Math.floor((k + 1) * perSingle))])
      slots.push(slot);
  return slots;
}
/** By the state's base: it is a constant in the code. */
const made = new Map<number, WarmHandlers>();

function make(state: number, core: WebAssembly.Module, module: WebAssembly.Module): WarmHandlers {
  const { handlers, runs, slots } = (planned ??= plan());
  const warm = { handlers, runs, slots, core, module };
  made.set(state, warm);
  return warm;
}

/** The handlers for processors whose state is at `state`. */
export function warmHandlers(state: number): WarmHandlers {
  const known = made.get(state);
  if (known) return known;
  const { core, module } = writeWarm(state);
  return make(state, new WebAssembly.Module(core), new WebAssembly.Module(module));
}

/** Makes them ahead, from what a build has written where there is that. */
export async function prepareHandlers(state: number): Promise<void> {
  if (made.has(state)) return;
  if (BUILT?.state !== state) {
    warmHandlers(state);
    return;
  }
  const files = Promise.all([inflate(BUILT.core), load(BUILT.module)]);
  // They come and are compiled meanwhile.
  planned ??= plan();
  const [core, module] = await files;
  if (module) make(state, new WebAssembly.Module(core), module);
  else warmHandlers(state);
}

/** @returns undefined where the file cannot be had: all is written here then, which makes the start slower */
async function load(built: BuiltModule): Promise<WebAssembly.Module | undefined> {
  if ('deflated' in built) return new WebAssembly.Module(await inflate(built.deflated));
  try {
    const response = await fetch(built.url);
    if (!response.ok) throw new Error(`it was answered with ${response.status}`);
    // Of a response the browser keeps what it has made: later visits start with handlers that are optimized already. Servers that give
    // the file another type do without.
    if (response.headers.get('content-type') === 'application/wasm')
      return await WebAssembly.compileStreaming(response);
    return await WebAssembly.compile(await response.arrayBuffer());
  } catch (error) {
    console.warn(`${built.url} could not be had, so the machine starts more slowly:`, error);
    return undefined;
  }
}

/** Bytes from what deflate (without a header) and Base64 made of them. */
async function inflate(text: string): Promise<Uint8Array<ArrayBuffer>> {
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('deflate-raw'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
