/** Function bodies and modules of WebAssembly, written straight to bytes. */
import { emitExpr, I32, localGet, type Expr, type ValType } from './expr.ts';
import { Writer } from './writer.ts';

export interface FunctionType {
  readonly params: readonly ValType[];
  readonly results: readonly ValType[];
}

/** A mutable local of the function under construction. */
export interface Local {
  readonly type: ValType;
  readonly index: number;
  /** Reads it. */
  readonly get: Expr;
  /** Reads it, where it is not set again while this is used. */
  readonly fixed?: Expr;
}

/** A label for `br`: its depth is counted from the outermost block. */
export interface Label {
  readonly depth: number;
}

/**
 * One function body. Statements are emitted in the order of the calls; expressions where a statement uses them.
 * Temporaries from `let` can be given back in bulk with `mark`/`release`, so that long functions keep few locals.
 */
export class FunctionBuilder {
  readonly w = new Writer();
  private readonly localTypes: ValType[] = [];
  private readonly free = new Map<ValType, Local[]>();
  private readonly used: Local[] = [];
  private depth = 0;

  constructor(readonly signature: FunctionType) {}

  /** How many blocks, loops and conditions are open. */
  get nesting(): number {
    return this.depth;
  }

  param(index: number): Expr {
    return localGet(this.signature.params[index]!, index);
  }

  /** A new local, zero at first, for as long as the function runs. */
  local(type: ValType): Local {
    const index = this.signature.params.length + this.localTypes.length;
    this.localTypes.push(type);
    const get = localGet(type, index);
    return { type, index, get, fixed: localGet(type, index, true) };
  }

  /** A local that `release` may hand out again. */
  temp(type: ValType): Local {
    const local = this.free.get(type)?.pop() ?? this.local(type);
    this.w.handOut(local.index);
    this.used.push(local);
    return local;
  }

  mark(): number {
    return this.used.length;
  }

  release(mark: number): void {
    while (this.used.length > mark) {
      const local = this.used.pop()!;
      this.w.giveBack(local.index);
      const list = this.free.get(local.type);
      if (list) list.push(local);
      else this.free.set(local.type, [local]);
    }
  }

  /** Evaluates now; the result can be used any number of times. Constants and unchanging locals stay as they are. */
  let(x: Expr): Expr {
    if (x.op === 0x41 || x.op === 0x42 || x.stable) return x;
    const local = this.temp(x.type);
    this.set(local, x);
    return local.fixed ?? local.get;
  }

  set(local: Local, x: Expr): void {
    emitExpr(this.w, x);
    this.w.localSet(local.index);
  }

  /** Evaluates and throws the value away. */
  drop(x: Expr): void {
    emitExpr(this.w, x);
    this.w.u8(0x1a);
  }

  /** A call without result. */
  call(index: number, ...args: Expr[]): void {
    for (const a of args) emitExpr(this.w, a);
    this.w.u8(0x10);
    this.w.functionIndex(index);
  }

  /** Tail call through table 0 of a function of type `type`. */
  returnCallIndirect(type: number, target: Expr, ...args: Expr[]): void {
    for (const a of args) emitExpr(this.w, a);
    emitExpr(this.w, target);
    this.w.u8(0x13);
    this.w.u32(type);
    this.w.u32(0);
  }

  /** Tail call of a function of this module. */
  returnCall(index: number, ...args: Expr[]): void {
    for (const a of args) emitExpr(this.w, a);
    this.w.u8(0x12);
    this.w.functionIndex(index);
  }

  return(...results: Expr[]): void {
    for (const r of results) emitExpr(this.w, r);
    this.w.u8(0x0f);
  }

  unreachable(): void {
    this.w.u8(0x00);
  }

  /** Stores `value` of `bytes` bytes (1, 2, 4 or 8; 16 for v128; floats by type) at a host address. */
  store(bytes: number, address: Expr | number, value: Expr, offset = 0): void {
    let at = typeof address === 'number' ? undefined : address;
    if (at?.op === 0x41 && (at.k as number) > 0) {
      offset += at.k as number;
      at = undefined;
    } else if (typeof address === 'number') offset += address;
    if (at) emitExpr(this.w, at);
    else {
      this.w.u8(0x41);
      this.w.u8(0);
    }
    emitExpr(this.w, value);
    switch (value.type) {
      case 0x7f:
        this.w.u8(bytes === 1 ? 0x3a : bytes === 2 ? 0x3b : 0x36);
        break;
      case 0x7e:
        this.w.u8(bytes === 1 ? 0x3c : bytes === 2 ? 0x3d : bytes === 4 ? 0x3e : 0x37);
        break;
      case 0x7d:
        this.w.u8(0x38);
        break;
      case 0x7c:
        this.w.u8(0x39);
        break;
      default:
        this.w.u8(0xfd);
        this.w.u8(0x0b);
    }
    this.w.u8(0);
    this.w.u32(offset);
  }

  /** Where branches stand that are told apart by how likely they are: position, 1 or 0, … */
  private readonly hints: number[] = [];

  /**
   * @param odds of the condition: 1 if it nearly always holds, 0 if it nearly never does. Hosts that look at it keep the other side
   *   out of the way (the "branch hinting" proposal of WebAssembly)
   */
  if(condition: Expr, then: () => void, otherwise?: () => void, odds?: 0 | 1): void {
    emitExpr(this.w, condition);
    if (odds !== undefined) this.hints.push(this.w.length, odds);
    this.w.u8(0x04);
    this.w.u8(0x40);
    this.depth++;
    then();
    if (otherwise) {
      this.w.u8(0x05);
      otherwise();
    }
    this.depth--;
    this.w.u8(0x0b);
  }

  /** A block whose label leaves it. */
  block(body: (leave: Label) => void): void {
    this.w.u8(0x02);
    this.nest(body);
  }

  /** A loop whose label starts it again. */
  loop(body: (again: Label) => void): void {
    this.w.u8(0x03);
    this.nest(body);
  }

  private nest(body: (label: Label) => void): void {
    this.w.u8(0x40);
    const label = { depth: this.depth++ };
    body(label);
    this.depth--;
    this.w.u8(0x0b);
  }

  br(label: Label): void {
    this.w.u8(0x0c);
    this.w.u32(this.depth - label.depth - 1);
  }

  /** @param odds as above */
  brIf(condition: Expr, label: Label, odds?: 0 | 1): void {
    emitExpr(this.w, condition);
    if (odds !== undefined) this.hints.push(this.w.length, odds);
    this.w.u8(0x0d);
    this.w.u32(this.depth - label.depth - 1);
  }

  brTable(index: Expr, labels: readonly Label[], otherwise: Label): void {
    emitExpr(this.w, index);
    this.w.u8(0x0e);
    this.w.u32(labels.length);
    for (const l of labels) this.w.u32(this.depth - l.depth - 1);
    this.w.u32(this.depth - otherwise.depth - 1);
  }

  memoryCopy(to: Expr, from: Expr, length: Expr): void {
    emitExpr(this.w, to);
    emitExpr(this.w, from);
    emitExpr(this.w, length);
    this.w.raw(Uint8Array.of(0xfc, 10, 0, 0));
  }

  memoryFill(to: Expr, value: Expr, length: Expr): void {
    emitExpr(this.w, to);
    emitExpr(this.w, value);
    emitExpr(this.w, length);
    this.w.raw(Uint8Array.of(0xfc, 11, 0));
  }

  /** What precedes a function's code: its locals. */
  private head(): Writer {
    const head = new Writer();
    const runs: { type: ValType; count: number }[] = [];
    for (const type of this.localTypes) {
      const last = runs[runs.length - 1];
      if (last?.type === type) last.count++;
      else runs.push({ type, count: 1 });
    }
    head.u32(runs.length);
    for (const run of runs) {
      head.u32(run.count);
      head.u8(run.type);
    }
    return head;
  }

  /** Its entry in the section of hints, if there are any. Positions count from the locals on. */
  encodeHints(out: Writer, index: number): boolean {
    const { hints } = this;
    if (!hints.length) return false;
    const head = this.head();
    const start = head.length;
    head.free();
    out.u32(index);
    out.u32(hints.length / 2);
    for (let i = 0; i < hints.length; i += 2) {
      out.u32(start + hints[i]!);
      out.u8(1);
      out.u8(hints[i + 1]!);
    }
    return true;
  }

  /** The code section's entry for this function, which is no more after that. `resolve` gives the final index of a function. */
  encode(out: Writer, resolve: (handle: number) => number): void {
    const { relocations } = this.w;
    for (let i = 0; i < relocations.length; i += 2) this.w.patch(relocations[i]!, resolve(relocations[i + 1]!));
    const head = this.head();
    out.u32(head.length + this.w.length + 1);
    out.raw(head.view());
    out.raw(this.w.view());
    out.u8(0x0b);
    head.free();
    this.w.free();
  }
}

/** Handles of a module's own functions start here; those of imports count from 0. */
const OWN = 0x100000;

/**
 * A module of functions that share the imported memory `m.memory` and table `m.table`. Functions are known by handles
 * until the module is encoded; only imports that are called are kept, because each one makes instantiation dearer.
 */
export class ModuleBuilder {
  private readonly types: FunctionType[] = [];
  private readonly typeKeys = new Map<string, number>();
  private readonly imports: { name: string; type: number }[] = [];
  private readonly functions: { builder: FunctionBuilder; type: number }[] = [];
  private readonly exports: { name: string; index: number }[] = [];
  private readonly elements: { slot: number; indices: number[] }[] = [];

  type(signature: FunctionType): number {
    const key = `${signature.params.join()}>${signature.results.join()}`;
    let index = this.typeKeys.get(key);
    if (index === undefined) {
      index = this.types.length;
      this.types.push(signature);
      this.typeKeys.set(key, index);
    }
    return index;
  }

  /** Declares that `m.<name>` may be called. @returns its handle */
  import(name: string, signature: FunctionType): number {
    this.imports.push({ name, type: this.type(signature) });
    return this.imports.length - 1;
  }

  /** Adds a function; its body may be written later. @returns its handle */
  add(builder: FunctionBuilder, exportName?: string): number {
    const index = OWN + this.functions.length;
    this.functions.push({ builder, type: this.type(builder.signature) });
    if (exportName) this.exports.push({ name: exportName, index });
    return index;
  }

  /** Puts functions into consecutive table slots when the module is instantiated. */
  element(slot: number, indices: number[]): void {
    const last = this.elements.at(-1);
    if (last && last.slot + last.indices.length === slot) last.indices.push(...indices);
    else this.elements.push({ slot, indices: [...indices] });
  }

  /** The module's bytes. Can be called once. */
  encode(): Uint8Array<ArrayBuffer> {
    // Imports in the order in which they are first called.
    const place = new Map<number, number>();
    const imports: { name: string; type: number }[] = [];
    for (const f of this.functions) {
      const { relocations } = f.builder.w;
      for (let i = 1; i < relocations.length; i += 2) {
        const handle = relocations[i]!;
        if (handle >= OWN || place.has(handle)) continue;
        place.set(handle, imports.length);
        imports.push(this.imports[handle]!);
      }
    }
    const resolve = (handle: number): number => (handle >= OWN ? imports.length + handle - OWN : place.get(handle)!);
    const out = new Writer();
    out.raw(Uint8Array.of(0, 0x61, 0x73, 0x6d, 1, 0, 0, 0));
    const section = (id: number, body: (w: Writer) => void): void => {
      const w = new Writer();
      body(w);
      out.u8(id);
      out.u32(w.length);
      out.raw(w.view());
      w.free();
    };
    section(1, (w) => {
      w.u32(this.types.length);
      for (const t of this.types) {
        w.u8(0x60);
        w.u32(t.params.length);
        for (const p of t.params) w.u8(p);
        w.u32(t.results.length);
        for (const r of t.results) w.u8(r);
      }
    });
    section(2, (w) => {
      w.u32(imports.length + 2);
      for (const i of imports) {
        w.name('m');
        w.name(i.name);
        w.u8(0);
        w.u32(i.type);
      }
      w.name('m');
      w.name('memory');
      w.u8(2);
      w.u8(0);
      w.u32(1);
      w.name('m');
      w.name('table');
      w.u8(1);
      w.u8(0x70);
      w.u8(0);
      w.u32(1);
    });
    section(3, (w) => {
      w.u32(this.functions.length);
      for (const f of this.functions) w.u32(f.type);
    });
    if (this.exports.length)
      section(7, (w) => {
        w.u32(this.exports.length);
        for (const e of this.exports) {
          w.name(e.name);
          w.u8(0);
          w.u32(resolve(e.index));
        }
      });
    if (this.elements.length)
      section(9, (w) => {
        w.u32(this.elements.length);
        for (const e of this.elements) {
          w.u32(0);
          w.u8(0x41);
          w.s32(e.slot);
          w.u8(0x0b);
          w.u32(e.indices.length);
          for (const i of e.indices) w.u32(resolve(i));
        }
      });
    const hints = new Writer();
    let hinted = 0;
    this.functions.forEach((f, k) => {
      if (f.builder.encodeHints(hints, imports.length + k)) hinted++;
    });
    if (hinted)
      section(0, (w) => {
        w.name('metadata.code.branch_hint');
        w.u32(hinted);
        w.raw(hints.view());
      });
    section(10, (w) => {
      w.u32(this.functions.length);
      for (const f of this.functions) f.builder.encode(w, resolve);
    });
    hints.free();
    const bytes = out.take();
    out.free();
    return bytes;
  }
}

/** The signature of everything in the table: a handler or a region's entry, given its record's address. */
export const HANDLER: FunctionType = { params: [I32], results: [] };
