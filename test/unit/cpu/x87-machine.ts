/**
 * Runs single x87 and MMX instructions through their definitions (as the interpreter emits them) on a state given as an
 * FXSAVE image, so that the result can be compared with the image that a real processor left.
 */
import { Cpu } from '../../../emulator/cpu/cpu.ts';
import { decode } from '../../../emulator/cpu/decoder.ts';
import { defineMmx } from '../../../emulator/cpu/defs/mmx.ts';
import { defineX87 } from '../../../emulator/cpu/defs/x87.ts';
import { defineX87Rare } from '../../../emulator/cpu/defs/x87-rare.ts';
import { ARITH, type Insn } from '../../../emulator/cpu/insn.ts';
import { buildHandler, declareImports, FAR, IMPORT_NAMES, layoutOf } from '../../../emulator/cpu/interp.ts';
import { GPR_NAMES, RECORDS, S, STATE_BASE } from '../../../emulator/cpu/layout.ts';
import { isNamed, R } from '../../../emulator/cpu/record.ts';
import { RUNTIME } from '../../../emulator/cpu/runtime.ts';
import { FunctionBuilder, HANDLER, ModuleBuilder } from '../../../emulator/cpu/wasm/builder.ts';
import { callExpr, I32 } from '../../../emulator/cpu/wasm/expr.ts';

defineX87();
defineX87Rare();
defineMmx();

/** Where the memory operand is: its linear and its host address, because the TLB of this machine is all zero. */
export const MEMORY = 48 << 20;
/** Bytes of the memory operand that `run` takes and gives. */
export const MEMORY_BYTES = 128;

export interface Result {
  /** FXSAVE image (64-bit format), the first 288 bytes used. */
  image: Uint8Array;
  memory: Uint8Array;
  rax: bigint;
  flags: number;
  /** Vector of the exception, or -1. */
  fault: number;
}

export class X87Machine {
  readonly memory = new WebAssembly.Memory({ initial: 64 * 16, maximum: 64 * 16 });
  readonly u8 = new Uint8Array(this.memory.buffer);
  readonly view = new DataView(this.memory.buffer);
  private readonly table = new WebAssembly.Table({ element: 'anyfunc', initial: 8192 });
  private readonly runtime: Record<string, WebAssembly.ExportValue> = {};
  private readonly imports: Record<string, (...args: number[]) => number> = {};
  private readonly handlers = new Map<string, { slot: number; insn: Insn }>();
  private slots = 1;
  private fault = -1;
  private current: Insn | undefined;
  readonly cpu: Cpu;

  constructor() {
    const memory = this.memory;
    const cpu = Object.create(Cpu.prototype) as Cpu & Record<string, unknown>;
    const host = { u8: this.u8, view: this.view };
    Object.assign(cpu, {
      memory,
      state: STATE_BASE,
      u8: this.u8,
      u16: new Uint16Array(memory.buffer),
      i32: new Int32Array(memory.buffer),
      u32: new Uint32Array(memory.buffer),
      i64: new BigInt64Array(memory.buffer),
      u64: new BigUint64Array(memory.buffer),
      f64: new Float64Array(memory.buffer),
      view: this.view,
      cr0: 0x80000031,
      cr4: 0x600,
      efer: 0x500,
      cpl: 0,
      segments: Array.from({ length: 6 }, () => ({
        selector: 0,
        baseLow: 0,
        baseHigh: 0,
        limit: 0xffffffff,
        attributes: 0x2093,
        usable: true,
      })),
      faultObject: { vector: 0, code: -1 },
      mmu: {
        high: 0,
        access: (lo: number) => lo,
        commit: () => undefined,
        read8: (lo: number) => host.u8[lo],
        read16: (lo: number) => host.view.getUint16(lo, true),
        read32: (lo: number) => host.view.getInt32(lo, true),
        readBig: (lo: number) => host.view.getBigUint64(lo, true),
        write8: (lo: number, _hi: number, v: number) => host.view.setUint8(lo, v),
        write16: (lo: number, _hi: number, v: number) => host.view.setUint16(lo, v, true),
        write32: (lo: number, _hi: number, v: number) => host.view.setInt32(lo, v, true),
        write64: (lo: number, _hi: number, a: number, b: number) => {
          host.view.setInt32(lo, a, true);
          host.view.setInt32(lo + 4, b, true);
        },
        hostPage: (lo: number) => lo,
        inPlace: (lo: number) => lo,
      },
    });
    this.cpu = cpu;
    for (const name of IMPORT_NAMES) this.imports[name] = () => 0;
    this.imports.access = (lo) => lo!;
    this.imports.raise = (vector) => {
      this.fault = vector!;
      return 0;
    };
    this.imports.raised = this.imports.raise;
    this.imports.helper = (record) => {
      try {
        this.current!.def.helper!(cpu, this.current!, record!);
      } catch (e) {
        if (e !== cpu.faultObject) throw e;
        this.fault = cpu.faultObject.vector;
        return 1;
      }
      return 0;
    };
    const m = new ModuleBuilder();
    const { imports } = declareImports(m, false);
    const index = new Map<string, number>();
    const builders = RUNTIME.map((r) => {
      const f = new FunctionBuilder(r.signature);
      index.set(r.name, m.add(f, r.name));
      return f;
    });
    RUNTIME.forEach((r, k) =>
      r.build(builders[k]!, (name, ...args) =>
        callExpr(
          RUNTIME.find((x) => x.name === name)?.signature.results[0] ?? I32,
          index.get(name) ?? imports[name]!,
          args,
        ),
      ),
    );
    m.element(0, [m.add(new FunctionBuilder(HANDLER))]);
    Object.assign(this.runtime, this.instantiate(m).exports);
  }

  private instantiate(m: ModuleBuilder): WebAssembly.Instance {
    return new WebAssembly.Instance(new WebAssembly.Module(m.encode()), {
      m: { memory: this.memory, table: this.table, ...this.imports, ...this.runtime } as WebAssembly.ModuleImports,
    });
  }

  /** Decodes and compiles; undefined for #UD. */
  prepare(bytes: Uint8Array, bits: 64 | 32 = 64): { slot: number; insn: Insn } | undefined {
    const key = `${bits}:${bytes.join()}`;
    let h = this.handlers.get(key);
    if (h) return h;
    const padded = new Uint8Array(32);
    padded.set(bytes);
    const insn = decode(padded, 0, 32, bits);
    if (typeof insn === 'string') return undefined;
    if (insn.len !== bytes.length) throw new Error(`${insn.def.pattern}: length ${insn.len}, not ${bytes.length}`);
    const m = new ModuleBuilder();
    const link = declareImports(m, true);
    const slot = this.slots++;
    m.element(slot, [m.add(buildHandler({ insn, flagsDead: false, branch: FAR }, STATE_BASE, link), 'run')]);
    this.instantiate(m);
    h = { slot, insn };
    this.handlers.set(key, h);
    return h;
  }

  setImage(image: Uint8Array): void {
    const { view } = this;
    const from = new DataView(image.buffer, image.byteOffset);
    const put = (at: number, v: number): void => view.setInt32(STATE_BASE + at, v, true);
    const fsw = from.getUint16(2, true);
    const top = (fsw >> 11) & 7;
    put(S.FCW, from.getUint16(0, true));
    put(S.FSW, fsw & ~0x3800);
    put(S.FTOP, top);
    put(S.FTW, image[4]!);
    for (let i = 0; i < 8; i++)
      this.u8.set(image.subarray(32 + i * 16, 42 + i * 16), STATE_BASE + S.X87 + ((top + i) & 7) * 16);
    put(S.MXCSR, from.getUint32(24, true));
    for (const at of [S.FOP, S.FIP, S.FIP + 4, S.FDP, S.FDP + 4]) put(at, 0);
    this.u8.set(image.subarray(160, 416), STATE_BASE + S.XMM);
  }

  getImage(): Uint8Array {
    const image = new Uint8Array(512);
    const to = new DataView(image.buffer);
    const get = (at: number): number => this.view.getInt32(STATE_BASE + at, true);
    const top = get(S.FTOP);
    to.setUint16(0, get(S.FCW), true);
    to.setUint16(2, get(S.FSW) | (top << 11), true);
    image[4] = get(S.FTW);
    for (let i = 0; i < 8; i++) {
      const at = STATE_BASE + S.X87 + ((top + i) & 7) * 16;
      image.set(this.u8.subarray(at, at + 10), 32 + i * 16);
    }
    to.setUint32(24, get(S.MXCSR), true);
    image.set(this.u8.subarray(STATE_BASE + S.XMM, STATE_BASE + S.XMM + 256), 160);
    return image;
  }

  /** Runs one instruction whose memory operand, if any, is [rdx]. */
  run(bytes: Uint8Array, image: Uint8Array, memory: Uint8Array, flags: number, bits: 64 | 32 = 64): Result {
    const h = this.prepare(bytes, bits);
    if (!h) return { image, memory, rax: 0n, flags, fault: 6 };
    const { insn, slot } = h;
    const { view, cpu } = this;
    this.setImage(image);
    this.u8.set(memory, MEMORY);
    GPR_NAMES.forEach((_, n) => cpu.setBig(n, 0n));
    cpu.setBig(2, BigInt(MEMORY));
    cpu.setBig(7, BigInt(MEMORY));
    cpu.rflags = flags;
    const rec = RECORDS;
    this.u8.fill(0, rec, rec + 64);
    const layout = layoutOf(insn, FAR);
    view.setUint16(rec + R.FN, slot, true);
    let next = layout.r0;
    insn.operands.forEach((o, k) => {
      if (o.kind !== 'reg' || !isNamed(insn, k)) return;
      this.u8[rec + next] = o.cls === 'mmx' || o.cls === 'xmm' ? 16 * o.reg : 8 * o.reg;
      next = layout.r1;
    });
    if (insn.mem) this.u8[rec + layout.base] = insn.mem.base >= 0 ? S.GPR + 8 * insn.mem.base : S.ZERO;
    if (layout.seg >= 0) this.u8[rec + layout.seg] = S.ZERO;
    if (layout.index >= 0) this.u8[rec + layout.index] = S.ZERO;
    if (layout.st >= 0) this.u8[rec + layout.st] = insn.modrm & 7;
    if (layout.imm >= 0) view.setInt32(rec + layout.imm, insn.imm, true);
    this.fault = -1;
    this.current = insn;
    (this.table.get(slot) as (record: number) => void)(rec);
    return {
      image: this.getImage(),
      memory: this.u8.slice(MEMORY, MEMORY + MEMORY_BYTES),
      rax: cpu.big(0),
      flags: cpu.rflags & ARITH,
      fault: this.fault,
    };
  }
}
