/**
 * The compiler's queue: hot blocks become regions, regions are written to one module a batch, compiled by the host's own
 * threads while the interpreter goes on, and put in place of their blocks' first handlers between two slices.
 */
import type { CompiledCode, Tier } from '../processor.ts';
import type { Block } from './block.ts';
import type { CodeCache } from './code.ts';
import type { HotPage } from './hot-code.ts';
import { declareImports } from './interp.ts';
import { Ahead, type Known } from './jit/ahead.ts';
import { ASKS_AGAIN, ASKS_WIDE, findRegion, Kind, type Region } from './jit/find.ts';
import { CallSite, MOST_CHANGES } from './jit/guards.ts';
import { Kept, PATIENCE as PAGES_PATIENCE } from './jit/pages.ts';
import { emitRegion } from './jit/region.ts';
import { modeIsLimited } from './layout.ts';
import type { X86Processor } from './processor.ts';
import { ModuleBuilder, type FunctionBuilder } from './wasm/builder.ts';

/** Regions of one module at most: a module is dear whatever is in it. */
const BATCH = 32;
/**
 * Where the compiler is forced, this many regions are made one by one before their code first runs; what comes later runs
 * once in the interpreter and is compiled at the end of the slice, in batches. A module for each block of a whole boot
 * would take minutes.
 */
const EAGER = 2000;
/** Milliseconds for which a hot block may wait for others to share its module. */
const PATIENCE = 25;
/** Bytes of the code area that one region may take: 16 KiB for its table of targets, the rest for stubs of its blocks' exits. */
const ROOM = 0x8000;
/**
 * Executions in the interpreter after which a block gets a region of its own although it is part of another one
 * already: it is reached by other ways than that region's entries.
 */
const HOT_AGAIN = 50_000;
/**
 * Writing regions may take this share of the time in which the guest runs, and the hottest come first: while much new code
 * becomes warm at once, as when a big program starts, most of it is left to the interpreter.
 */
const SHARE = 0.1;
/** Milliseconds of writing that can be saved up. */
const MOST_CREDIT = 50;
/**
 * A loop that has run so often again while it waits is not kept waiting: it is compiled at once, and in the foreground, which
 * takes a millisecond of a thread that would spend many more in the interpreter.
 */
const URGENT = 12_000;
/** Most of these in one module, so that the guest does not stand still for long. */
const URGENT_BATCH = 4;
/**
 * Instructions from one leaving of a small region to the next, on average, up to which it is worth making it a wide one:
 * much of what runs between is its own code.
 */
const OFTEN = 500;
/** How often a region is found anew because its calls lead elsewhere. */
const MOST_RENEWED = 2;
/** x87 instructions of a block whose first region has registers in locals. */
const LEAST_X87 = 4;
/** Milliseconds from which on somebody may notice that the guest stands still; writing ends well before. */
const LONG_PAUSE = 20;
const LONGEST_WRITING = 8;
/** Most regions that wait; the coolest of more start again. */
const MOST_WAITING = 256;

/** Regions, and the module of their functions. */
interface Batch {
  readonly regions: readonly Region[];
  readonly bytes: Uint8Array<ArrayBuffer>;
}

export class Jit {
  regions = 0;
  codeBytes = 0;
  /** Milliseconds spent in writing WebAssembly. */
  emitTime = 0;
  /** How often the guest stood still for all this for longer than LONG_PAUSE. */
  longPauses = 0;
  private readonly queue: Region[] = [];
  /** When the oldest region of the queue came, in milliseconds. */
  private since = 0;
  private compiling = 0;
  /** Milliseconds that may be spent on writing. */
  private credit = MOST_CREDIT;
  /** By block: the installed region that it is the entry of. */
  private readonly owners = new Map<Block, Region>();
  /** By head of a light region that is, or is about to be, written anew: as what. */
  private readonly asked = new Map<Block, Kind>();
  /** Regions that span pages, by number. */
  private readonly spanning = new Map<number, Region>();
  private lastNumber = 0;
  /** Counts flushes, so that what was compiled before one is thrown away. */
  private epoch = 0;

  constructor(
    private readonly cpu: X86Processor,
    private readonly code: CodeCache,
    private readonly tier: Tier,
  ) {}

  /** A block's heat counter ran out: `record` is its last one. Or a light region asks, with its first block's first one. */
  hot(record: number): void {
    if (this.tier === 'interp') return;
    const block = this.code.blockOf(record & ~(ASKS_WIDE | ASKS_AGAIN));
    if (!block || modeIsLimited(block.page.mode) || block.raises || block.crosses || block.count === 0) return;
    const owner = this.owners.get(block);
    if (record & ASKS_AGAIN) return this.renew(block, owner);
    const kind = !block.compiled ? this.firstKind(block) : record & ASKS_WIDE ? Kind.Wide : Kind.Loops;
    const best = Math.max(owner?.kind ?? -1, this.asked.get(block) ?? -1);
    if (block.compiled && (!owner || kind <= best)) return;
    if (kind === Kind.Wide && !this.leftOften(owner!)) return;
    if (!this.queue.length) this.since = performance.now();
    this.queue.push(this.find(block, kind));
  }

  /** A region is found anew: its calls lead elsewhere than they did. */
  private renew(head: Block, owner: Region | undefined): void {
    if (!owner || owner.blocks[0] !== head || owner.renewed === MOST_RENEWED) return;
    // It is about to be more than it is.
    if ((this.asked.get(head) ?? owner.kind) !== owner.kind) return;
    const region = this.find(head, owner.kind);
    // Once for each region that asks.
    region.renewed = owner.renewed + 1;
    owner.renewed = MOST_RENEWED;
    if (!this.queue.length) this.since = performance.now();
    this.queue.push(region);
  }

  /** A block's first region is a light one, but not where it is about x87 numbers, from which these gain little. */
  private firstKind(block: Block): Kind {
    if (!this.cpu.again.rounds) return Kind.Loops;
    const kind = this.isAboutX87(block) ? Kind.Loops : Kind.Small;
    block.release();
    return kind;
  }

  private isAboutX87(block: Block): boolean {
    if (this.code.plainFloats.has(block.page.physical)) return false;
    return block.insns.reduce((n, { def }) => n + (def.unit === 'x87' ? 1 : 0), 0) >= LEAST_X87;
  }

  /** Whether a small region that asks to be a wide one has done so after few instructions: it, or what it leads to, loops. */
  private leftOften(region: Region): boolean {
    const now = this.cpu.instructions;
    const ran = now - region.askedAt;
    region.askedAt = now;
    return ran < this.cpu.again.leavings * OFTEN;
  }

  /** Compiles a block at once, for the tier that is forced. */
  compileNow(block: Block): void {
    if (this.regions >= EAGER) return;
    if (block.compiled || block.raises || block.crosses || block.count === 0) return;
    if (modeIsLimited(block.page.mode)) return;
    if (!this.code.reserve(ROOM)) return;
    const batch = this.write([this.find(block, this.tier === 'light' ? Kind.Wide : Kind.Loops)]);
    if (!batch) return;
    this.install(batch.regions, new WebAssembly.Module(batch.bytes));
  }

  /**
   * Between slices: starts compiling what is waiting.
   *
   * @param ran milliseconds that the guest has run since the last call
   * @param wait compiles everything at once (deterministic runs)
   */
  pump(ran: number, wait: boolean): void {
    this.credit = Math.min(this.credit + ran * SHARE, MOST_CREDIT);
    if (!this.queue.length) return;
    this.timed(() => {
      if (wait) this.compileAll();
      else this.compileSome();
    });
  }

  /** The guest stands still meanwhile. */
  private timed(work: () => void): void {
    const began = performance.now();
    work();
    if (performance.now() - began > LONG_PAUSE) this.longPauses++;
  }

  private compileAll(): void {
    const { queue } = this;
    while (queue.length) {
      if (!this.code.reserve(BATCH * ROOM)) return;
      const batch = this.write(queue.splice(0, BATCH));
      if (batch) this.install(batch.regions, new WebAssembly.Module(batch.bytes));
    }
  }

  /** What is urgent, and one batch of the others. */
  private compileSome(): void {
    const { queue } = this;
    this.hurry();
    if (!queue.length) return;
    if (queue.length < BATCH && performance.now() - this.since < PATIENCE) return;
    if (this.compiling >= 2 || !this.affords(queue.length) || !this.code.reserve(BATCH * ROOM)) return;
    const batch = this.write(this.hottest(), performance.now() + LONGEST_WRITING);
    this.since = performance.now();
    if (batch) this.compile(batch);
  }

  private compile({ regions, bytes }: Batch): void {
    const { epoch } = this;
    this.compiling++;
    WebAssembly.compile(bytes).then(
      (module) => {
        this.compiling--;
        if (epoch === this.epoch) this.timed(() => this.install(regions, module));
        else for (const region of regions) this.release(region);
      },
      (error: unknown) => {
        // The interpreter goes on with these blocks; a region that cannot be compiled is a defect worth seeing.
        this.compiling--;
        console.error('a region could not be compiled', error);
      },
    );
  }

  /**
   * Compiles what the guest spends its time in: with no credit left, only what has cost more time in the interpreter already than
   * writing it will take.
   */
  private hurry(): void {
    const { queue } = this;
    const rich = this.credit > 0;
    const urgent: Region[] = [];
    for (let i = 0; i < queue.length && urgent.length < URGENT_BATCH; i++) {
      const region = queue[i]!;
      const head = region.blocks[0]!;
      // What is to be written anew has asked for it because it runs much.
      if (this.asked.has(head) ? !rich : this.code.overdue(head) < URGENT) continue;
      urgent.push(region);
      queue.splice(i--, 1);
    }
    if (!urgent.length || !this.code.reserve(urgent.length * ROOM)) return;
    const batch = this.write(urgent);
    if (batch) this.install(batch.regions, new WebAssembly.Module(batch.bytes));
  }

  /** Milliseconds that writing a region takes on average. */
  private get each(): number {
    return this.regions ? this.emitTime / this.regions : 1;
  }

  /** Whether the credit is enough for a whole module, or for all that waits: small modules are dear, too. */
  private affords(waiting: number): boolean {
    return this.credit >= Math.min(waiting * this.each, MOST_CREDIT / 2);
  }

  /**
   * Compiles code that has not run, as if it had.
   *
   * @param compiled is given what came of it
   */
  ahead(pages: readonly HotPage[], compiled: (code: CompiledCode) => void): Ahead {
    const { code, cpu } = this;
    return new Ahead(
      {
        code,
        i32: cpu.i32,
        ramSize: cpu.ramSize,
        absent: cpu.memory.absent,
        epoch: () => this.epoch,
        find: (head, known) => this.find(head, Kind.Wide, known),
        compile: (regions) => {
          const { credit } = this;
          // Without room all is dropped, what was found too.
          if (!regions.length || !code.reserve(regions.length * ROOM)) return;
          const batch = this.write(regions);
          // The guest does not wait for this.
          this.credit = credit;
          if (!batch) return;
          const module = new WebAssembly.Module(batch.bytes);
          this.install(batch.regions, module);
          compiled({ module, slots: batch.regions.flatMap(({ slot }) => (slot === undefined ? [] : [slot])) });
        },
      },
      pages,
    );
  }

  /** Takes from the queue what the credit allows, by how often the first block has run. */
  private hottest(): Region[] {
    const { queue } = this;
    const runs = (region: Region): number => this.code.overdue(region.blocks[0]!);
    if (queue.length > 1) queue.sort((a, b) => runs(b) - runs(a));
    for (const region of queue.splice(MOST_WAITING)) this.abandon(region);
    return queue.splice(0, Math.min(BATCH, Math.max(1, Math.floor(this.credit / this.each))));
  }

  /** A region is not to be compiled after all. */
  private abandon(region: Region): void {
    for (const page of region.pages.values()) page.onDrop.delete(region.onDrop);
    this.drop(region);
  }

  /**
   * Finds the region of a block that is running: where its page is in linear space shows where the others are.
   *
   * @param known says that, and how often blocks run, where this one does not run now
   */
  private find(head: Block, kind: Kind, known?: Known): Region {
    if (head.compiled) this.asked.set(head, kind);
    const region = findRegion(head, kind, {
      pageAt: (distance) => this.cpu.codePageAt(distance),
      pointerAt: (offset) => (known ? undefined : this.cpu.pointerAt(offset)),
      calledAt: (block) => this.calledAt(block),
      share: (block) => this.code.share(block),
      apart: (block) => this.isAboutX87(block),
      ...known,
    });
    head.compiled = true;
    for (const block of region.blocks) {
      if (block !== head) this.code.reheat(block, HOT_AGAIN);
      block.inRegion = true;
    }
    region.onDrop = () => this.abandon(region);
    for (const page of region.pages.values()) page.onDrop.add(region.onDrop);
    return region;
  }

  /** Where a call has gone, in bytes from S.VPC, which is where the region's first block is; nowhere if to many places. */
  private calledAt(block: Block): readonly number[] {
    const { site } = block;
    const { cpu } = this;
    if (!site || cpu.i32[(site + CallSite.CHANGES) >> 2]! > MOST_CHANGES) return [];
    return [CallSite.TARGET, CallSite.OTHER]
      .map((at) => cpu.u64[(site + at) >> 3]!)
      .flatMap((target) => (target ? [cpu.distanceOf(target)] : []))
      .filter((distance) => distance !== undefined);
  }

  /** @param until when to leave the rest in the queue */
  private write(found: readonly Region[], until = Infinity): Batch | undefined {
    const t = performance.now();
    const m = new ModuleBuilder();
    const link = declareImports(m, true);
    const regions: Region[] = [];
    for (const [k, region] of found.entries()) {
      if (regions.length && performance.now() > until) {
        this.queue.unshift(...found.slice(k));
        break;
      }
      if (region.dropped) continue;
      let body: FunctionBuilder;
      try {
        region.number = ++this.lastNumber;
        body = emitRegion(region, region.number, this.cpu.state, link, this.code, this.cpu.again);
        if (region.keptAt) this.spanning.set(region.number, region);
        for (const b of region.blocks) b.release();
      } catch (error) {
        // A defect of the compiler must not cost the user the machine: the interpreter goes on with these blocks.
        console.error('a region could not be written', error);
        continue;
      }
      region.slot = this.code.handlers.allocateSlot();
      m.element(region.slot, [m.add(body)]);
      regions.push(region);
    }
    if (!regions.length) return undefined;
    const bytes = m.encode();
    this.codeBytes += bytes.length;
    const took = performance.now() - t;
    this.emitTime += took;
    // The host may have been elsewhere meanwhile.
    this.credit = Math.max(this.credit - took, -MOST_CREDIT);
    return { regions, bytes };
  }

  /**
   * Which pages of a region are in their places: jit/pages.ts.
   *
   * @param lo linear address of its first page, and the upper half
   * @returns a bit for each page
   */
  pages(number: number, lo: number, hi: number): number {
    const region = this.spanning.get(number);
    // One that was dropped while it ran.
    if (!region) return 0;
    let bits = 0;
    let bit = 1;
    for (const [distance, page] of region.pages) {
      if (this.cpu.codePageFrom(lo, hi, distance) === page) bits |= bit;
      bit <<= 1;
    }
    const { i32 } = this.cpu;
    const at = region.keptAt >> 2;
    i32[at + (Kept.EPOCH >> 2)] = this.cpu.codeEpoch;
    i32[at + (Kept.BITS >> 2)] = bits;
    i32[at + (Kept.FIRST >> 2)] = lo;
    i32[at + (Kept.FIRST >> 2) + 1] = hi;
    i32[at + (Kept.LEFT >> 2)] = PAGES_PATIENCE;
    return bits;
  }

  /** Instantiates a batch's module, which fills its table slots, and lets its entries take over. */
  private install(regions: readonly Region[], module: WebAssembly.Module): void {
    new WebAssembly.Instance(module, this.code.handlers.importObject());
    for (const region of regions) {
      region.installed = true;
      if (region.dropped) {
        this.release(region);
        continue;
      }
      this.regions++;
      region.askedAt = this.cpu.instructions;
      region.entries.forEach((block, k) => {
        // The main entry takes over; others where nothing compiled is there yet, or a region of a lesser kind.
        const old = this.owners.get(block);
        const again = old?.blocks[0] === region.blocks[0];
        if (k > 0 && !again && block.compiled && region.kind <= (old?.kind ?? Kind.Loops)) return;
        block.compiled = true;
        this.owners.set(block, region);
        this.code.setHandler(block, region.slot!);
        this.code.setEntry(block, k);
      });
    }
  }

  /** A page of the region has lost its translations. Those of its other pages go on in the interpreter. */
  private drop(region: Region): void {
    if (region.dropped) return;
    region.dropped = true;
    this.spanning.delete(region.number);
    for (const block of region.entries) {
      if (this.owners.get(block) !== region) continue;
      this.owners.delete(block);
      block.compiled = false;
      if (this.code.handlerOf(block) === region.slot) this.code.setHandler(block, block.handler);
    }
    const head = region.blocks[0]!;
    this.asked.delete(head);
    if (!this.owners.has(head)) head.compiled = false;
    for (const block of region.blocks) {
      block.inRegion = false;
      if (block.page.blocks.get(block.offset) === block) this.code.reheat(block, this.code.heat(block.page.mode));
    }
    // Until its module is instantiated, which fills the slot, nobody else may have it.
    if (region.installed) this.release(region);
  }

  private release(region: Region): void {
    if (region.slot !== undefined) this.code.handlers.releaseSlot(region.slot);
    region.slot = undefined;
  }

  /** All translations were dropped. */
  flushed(): void {
    this.epoch++;
    this.queue.length = 0;
    this.owners.clear();
    this.asked.clear();
    this.spanning.clear();
  }
}
