/**
 * Windows: what a region knows of the pages that its registers point into.
 *
 * An access at [base + index + displacement] that found its page in the TLB leaves two locals behind: the host address and the
 * offset in the page. While the registers keep their values, or change by constants, the next access with another displacement
 * needs only to see that it ends in the same page. That holds along a path until something may change translations
 * (a helper), and is forgotten where paths meet.
 */
import type { Insn } from '../insn.ts';
import type { FunctionBuilder, Local } from '../wasm/builder.ts';
import { I32 } from '../wasm/expr.ts';

/** Stands for the address of the region's first page, as a base. */
export const RIP = 16;

/** A linear address as registers and a displacement. */
export interface Place {
  /** Number of a general register, `RIP`, or -1 for none. */
  readonly base: number;
  readonly index: number;
  /** log2 of what the index is multiplied by; 0 where there is none. */
  readonly scale: number;
  readonly displacement: number;
}

export interface Window extends Place {
  readonly write: boolean;
  /** Host address of the place, its registers as they are now. */
  readonly host: Local;
  /** Its offset in the page, or INVALID where the access went a slow way; sums of it and displacements are compared unsigned. */
  readonly offset: Local;
}

/** An offset from which no displacement of less than a page leads back. */
export const INVALID = 0x4000_0000;

const MOST = 10;

/** Whether two places differ in their displacements only. */
export const sameRegisters = (a: Place, b: Place): boolean =>
  a.base === b.base && a.index === b.index && a.scale === b.scale;

/** What a place's address changes by when a register changes by a constant. */
export const stepOf = (p: Place, register: number, by: number): number =>
  (p.base === register ? by : 0) + (p.index === register ? by * 2 ** p.scale : 0);

export class Windows {
  private readonly pool: { host: Local; offset: Local }[] = [];
  /** Never changed in place, as it may have been saved. */
  private known: readonly Window[] = [];

  /** Locals that are not to be given to others. */
  private readonly held = new Set<Local>();

  constructor(private readonly f: FunctionBuilder) {}

  /** The window for an access, if there is one near enough. What may be written may be read. */
  find(place: Place, write: boolean): Window | undefined {
    let found: Window | undefined;
    for (const w of this.known)
      if (
        (w.write || (!write && !found)) &&
        sameRegisters(w, place) &&
        Math.abs(place.displacement - w.displacement) < 4096
      )
        found = w;
    return found;
  }

  /** A window to be set by the access that follows, or undefined when there are enough. */
  open(place: Place, write: boolean): Window | undefined {
    const known = this.known.filter((w) => w.write !== write || !sameRegisters(w, place));
    this.known = known;
    let locals = this.pool.find((l) => !this.isUsed(l.host) && !this.held.has(l.host));
    if (!locals) {
      if (this.pool.length === MOST) return undefined;
      this.pool.push((locals = { host: this.f.local(I32), offset: this.f.local(I32) }));
    }
    const { base, index, scale, displacement } = place;
    const window = { base, index, scale, displacement, write, host: locals.host, offset: locals.offset };
    this.known = [...known, window];
    return window;
  }

  private isUsed(host: Local): boolean {
    return this.known.some((w) => w.host === host);
  }

  /** A register gets another value; `by`: its old one plus a constant. */
  changed(register: number, by?: number): void {
    const { known } = this;
    if (!known.some((w) => w.base === register || w.index === register)) return;
    this.known =
      by === undefined
        ? known.filter((w) => w.base !== register && w.index !== register)
        : known.map((w) => ({ ...w, displacement: w.displacement - stepOf(w, register, by) }));
  }

  /** Nothing is known any more. */
  clear(): void {
    this.known = [];
  }

  save(): readonly Window[] {
    return this.known;
  }

  /** Until `release` what is known now can be restored, whatever comes to be known. */
  hold(): void {
    for (const w of this.known) this.held.add(w.host);
  }
  release(): void {
    this.held.clear();
  }

  /** Whether the same is known as then, and is in the same locals. */
  equal(known: readonly Window[]): boolean {
    const same = (a: Window, b: Window): boolean =>
      a.host === b.host &&
      a.offset === b.offset &&
      a.write === b.write &&
      sameRegisters(a, b) &&
      a.displacement === b.displacement;
    return known.length === this.known.length && known.every((a) => this.known.some((b) => same(a, b)));
  }

  restore(known: readonly Window[]): void {
    this.known = known;
  }
}

/** A register that an instruction changes by a constant, changing nothing else. */
function constantStep(insn: Insn): { register: number; by: number } | undefined {
  const [to, from] = insn.operands;
  if (insn.size !== 8 || to?.kind !== 'reg' || to.cls !== 'gpr') return undefined;
  switch (insn.def.name) {
    case 'add':
    case 'sub':
      if (from?.kind !== 'imm') return undefined;
      return { register: to.reg, by: insn.def.name === 'add' ? insn.imm : -insn.imm };
    case 'inc':
      return { register: to.reg, by: 1 };
    case 'dec':
      return { register: to.reg, by: -1 };
    case 'lea': {
      const m = insn.mem!;
      if (m.base !== to.reg || m.index >= 0 || m.addressSize !== 8) return undefined;
      return { register: to.reg, by: m.disp };
    }
    default:
      return undefined;
  }
}

/** Writes an instruction; windows of a register that it changes by a constant stay. */
export function keepingSteps(windows: Windows, insn: Insn, write: () => void): void {
  const step = constantStep(insn);
  const known = step && windows.save();
  write();
  if (!known) return;
  windows.restore(known);
  windows.changed(step.register, step.by);
}
