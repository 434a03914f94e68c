/**
 * Bringing the interpreter's handlers, and regions that were compiled ahead, to their optimized code before the guest needs them.
 *
 * Browsers compile a function quickly first, and well only once it has run much: V8 when some 13 MB of its code have been executed
 * (`wasm_tiering_budget`), which is ten to forty thousand calls of a handler. That often the thousand handlers that a program
 * uses do not run before it has ended: a fifth of the time of Python's first run is code of the quick compiler. What was made
 * of a module is shared by all threads that have it, and so is the count of what was executed. So another
 * thread calls the handlers, the hottest first, in a processor of its own in which nothing happens: each gets the same record
 * over and over, finds memory wherever it looks, and hands on to one of eight functions that do
 * nothing. (Always the same one would be taken for what usually follows, and put into the handler.) A region is left
 * where it first looks whether it may go on.
 */
import type { CompiledCode } from '../processor.ts';
import { IMPORT_NAMES } from './interp.ts';
import { jumpCacheEntry, JUMP_CACHES, RAM_BASE, RECORDS, RSP, S, TLB_ENTRIES, TLB_MASK, TLB_TABLES } from './layout.ts';
import { hottestSlots, type WarmHandlers, warmHandlers } from './warm-handlers.ts';
import { FunctionBuilder, HANDLER, ModuleBuilder } from './wasm/builder.ts';
import { I32, i32, i64, k32 } from './wasm/expr.ts';

/** For another thread: modules are shared when they are posted. */
export interface Unripe extends Pick<WarmHandlers, 'core' | 'module'> {
  /** Base of the processor's state, as in the modules. */
  readonly state: number;
  /** Table slots of handlers, the first ones first. */
  readonly slots: readonly number[];
}

/** What became of the handlers, as numbers of them. */
export interface Ripened {
  /** Those that went on to the next record at least once; others ask the processor about everything. */
  passed: number;
  /** Those that left what is there at least once. */
  trapped: number;
}

/** All that a program may use often, with what is needed for them. */
export const unripe = (state: number): Unripe => {
  const { core, module } = warmHandlers(state);
  return { core, module, state, slots: hottestSlots() };
};

/** Calls of each handler, and of each region, which are longer; a share for each of ENDS. */
const CALLS = 40_000;
const REGION_CALLS = 12_000;
/**
 * Table slots of what handlers hand on to. As all of a record's words are such a slot, these are what its fields say, too: bytes name
 * a general register (by eights) or ZERO, displacements and targets are small, and a link leads to a record in memory
 * that nothing else needs, behind the processor's state.
 */
const ENDS = Array.from({ length: 8 }, (_, k) => S.GPR * 0x101 + 8 * k);
/** What counts how often they were called, behind the processor's state. */
const COUNT = 0x3000;
/** More than there are regions, too. */
const TABLE_SIZE = 0x10000;
/** Bytes that a record's fields and what follows it are in. */
const RECORD_BYTES = 256;
/** All registers are 0, which is so when it is scaled, too, but RSP, below which something is to be. */
const STACK = 1 << 20;
/** What there is of memory, whatever the address. */
const PAGES = 16;
const PAGE = 4096;
/** Blocks end when this is used up, which no handler does, and loops, which regions are in. */
const MUCH_FUEL = 1 << 30;
const LITTLE_FUEL = 1;

/** `burn(slot, calls, fuel)`, and the functions at ENDS, which count in the word at COUNT. */
function buildBurner(state: number): Uint8Array<ArrayBuffer> {
  const m = new ModuleBuilder();
  const handler = m.type(HANDLER);
  for (const slot of ENDS) {
    const end = new FunctionBuilder(HANDLER);
    end.store(4, COUNT, i32.add(i32.load(k32(COUNT)), 1));
    m.element(slot, [m.add(end)]);
  }
  const once = new FunctionBuilder({ params: [I32, I32], results: [] });
  for (let k = 0; k < 16; k++) once.store(8, state + S.GPR + 8 * k, i64.extend_u(k32(k === RSP ? STACK : 0)));
  once.store(4, state + S.FUEL, once.param(1));
  once.returnCallIndirect(handler, once.param(0), k32(RECORDS));
  const onceIndex = m.add(once);
  const burn = new FunctionBuilder({ params: [I32, I32, I32], results: [] });
  const left = burn.local(I32);
  burn.set(left, burn.param(1));
  burn.loop((again) => {
    burn.call(onceIndex, burn.param(0), burn.param(2));
    burn.set(left, i32.sub(left.get, 1));
    burn.brIf(left.get, again);
  });
  m.add(burn, 'burn');
  return m.encode();
}

/** A processor in which nothing happens. */
export class Ripener {
  private readonly imports: WebAssembly.Imports;
  private readonly words: Int32Array;
  private readonly burn: (slot: number, calls: number, fuel: number) => void;

  constructor(private readonly unripe: Unripe) {
    const { core, module, state } = unripe;
    const pages = (RAM_BASE + PAGES * PAGE) >> 16;
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
    // What asks the processor is told that there was an exception.
    const raised = (): number => 0;
    const functions = WebAssembly.Module.imports(core).filter(({ kind }) => kind === 'function');
    const m: WebAssembly.ModuleImports = {
      ...Object.fromEntries([...IMPORT_NAMES, ...functions.map(({ name }) => name)].map((name) => [name, raised])),
      memory,
      table: new WebAssembly.Table({ element: 'anyfunc', initial: TABLE_SIZE }),
    };
    this.imports = { m };
    Object.assign(m, new WebAssembly.Instance(core, this.imports).exports);
    new WebAssembly.Instance(module, this.imports);
    const burner = new WebAssembly.Instance(new WebAssembly.Module(buildBurner(state)), this.imports);
    this.burn = burner.exports.burn as typeof this.burn;

    const words = (this.words = new Int32Array(memory.buffer));
    // Whatever a handler computes is the address of one of a few pages: an entry is the linear page, combined with that in memory.
    for (let page = 0; page < TLB_ENTRIES; page++)
      words[(TLB_TABLES >> 2) + page * 2] = (page * PAGE) ^ (RAM_BASE + (page % PAGES) * PAGE);
    for (const pointer of [S.TLB_READ, S.TLB_WRITE]) words[(state + pointer) >> 2] = TLB_TABLES;
    new BigUint64Array(memory.buffer)[(state + S.TLB_MASK) >> 3] = TLB_MASK;
    words[(state + S.JUMP_CACHE) >> 2] = JUMP_CACHES;
    for (const slot of ENDS) words[slot >> 2] = slot;
  }

  /** Calls all handlers until they are optimized. Takes seconds. @param calls of each, a multiple of eight */
  handlers(calls = CALLS): Ripened {
    return this.ripen(this.unripe.slots, calls, MUCH_FUEL);
  }

  /** The same with regions. */
  regions({ module, slots }: CompiledCode, calls = REGION_CALLS): Ripened {
    new WebAssembly.Instance(module, this.imports);
    return this.ripen(slots, calls, LITTLE_FUEL);
  }

  private ripen(slots: readonly number[], calls: number, fuel: number): Ripened {
    const { words } = this;
    const result = { passed: 0, trapped: 0 };
    for (const slot of slots) {
      words[COUNT >> 2] = 0;
      let trapped = false;
      for (const end of ENDS) {
        words.fill(end, RECORDS >> 2, (RECORDS + RECORD_BYTES) >> 2);
        for (const target of [0, end, 2 * end]) this.leadTo(target, end);
        try {
          this.burn(slot, calls / ENDS.length, fuel);
        } catch {
          trapped = true;
        }
      }
      if (words[COUNT >> 2]) result.passed++;
      if (trapped) result.trapped++;
    }
    return result;
  }

  /** Where jumps lead to, by what was in registers, in memory and in the record. */
  private leadTo(target: number, record: number): void {
    const at = jumpCacheEntry(JUMP_CACHES, target) >> 2;
    this.words[at] = target;
    this.words[at + 2] = record;
  }
}
