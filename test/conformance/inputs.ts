/** Register and memory contents for a piece of code, so that its operands lie where something happens. */
import { drawSelector, type Code } from './forms.ts';
import { FS_BASE, GS_BASE, IN, PATCH_BYTES, READ_ONLY, USER_DATA, WINDOW, WINDOW_BYTES } from './native.ts';
import { f80, fill16, integer64, type Kind } from './operands.ts';
import type { Random } from './random.ts';

const MASK64 = (1n << 64n) - 1n;
const RAX = 0;
const RCX = 1;
const RDX = 2;
const RBX = 3;
const RSP = 4;
const RBP = 5;
const RSI = 6;
const RDI = 7;

/** What an instruction's vector and memory operands hold, from its name. */
export function kindOf(name: string, r: Random): Kind {
  if (r.oneIn(6)) return r.pick(['int', 'f32', 'f64'] as const);
  if (/^cvt(t?)(ps|ss)/.test(name) || /(ps|ss)$/.test(name)) return 'f32';
  if (/^cvt(t?)(pd|sd)/.test(name) || /(pd|sd)$/.test(name)) return 'f64';
  return 'int';
}

/** Where a memory operand of `size` bytes should be. */
function address(r: Random, size: number, canFault: boolean): bigint {
  const s = Math.max(1, size);
  const inside = (): number => WINDOW + r.below(WINDOW_BYTES - s + 1);
  let at: number;
  switch (r.below(32)) {
    case 0:
    case 1:
    case 2:
      // Across the two pages.
      at = WINDOW + 0x1000 - (s > 1 ? 1 + r.below(s - 1) : 0);
      break;
    case 3:
      at = canFault ? WINDOW + WINDOW_BYTES - r.below(s + 1) : inside();
      break;
    case 4:
      at = canFault ? WINDOW - r.below(s + 1) : inside();
      break;
    case 5:
      at = canFault ? READ_ONLY + r.below(0x1000 - s) : inside();
      break;
    case 6:
      if (canFault && r.oneIn(2)) return r.pick([0n, 0x1234n, 0x4000_0000_0000n, 0x1000_0000_0000n]);
      at = inside();
      break;
    case 7:
      if (canFault && r.oneIn(2))
        return r.pick([0x8000_0000_0000n - BigInt(r.below(2 * s)), 0x1234_5678_9abc_def0n, 0xffff_7fff_ffff_f000n]);
      at = inside();
      break;
    case 8:
    case 9:
    case 10:
    case 11:
    case 12:
    case 13:
    case 14:
    case 15:
      at = inside();
      break;
    default:
      at = inside() & ~15;
  }
  return BigInt(at);
}

/** Linear address of the code's memory operand for the registers in `gpr`, or undefined when it has none. */
export function operandAddress(code: Code, gpr: (n: number) => bigint): bigint | undefined {
  const m = code.insn.mem;
  if (!m) return undefined;
  let ea = BigInt(m.disp) | 0n;
  if (m.base < 0 && m.index < 0 && m.dispHigh !== m.disp >> 31)
    ea = BigInt.asIntN(64, (BigInt(m.dispHigh) << 32n) | BigInt(m.disp >>> 0));
  if (m.base === 16) ea += BigInt(code.exit);
  else if (m.base >= 0) ea += gpr(m.base);
  if (m.index >= 0) ea += gpr(m.index) << BigInt(m.scale);
  ea &= (1n << BigInt(m.addressSize * 8)) - 1n;
  const base = code.bits === 64 ? (m.seg === 4 ? FS_BASE : m.seg === 5 ? GS_BASE : 0) : 0;
  return (ea + BigInt(base)) & (code.bits === 64 ? MASK64 : 0xffff_ffffn);
}

/** Writes one input record for `code`. */
export function fillInput(code: Code, r: Random, view: DataView, at: number): void {
  const { def, insn } = code;
  const { name } = def;
  const long = code.bits === 64;
  new Uint8Array(view.buffer, view.byteOffset + at, IN.SIZE).fill(0);
  const gprAt = (n: number): number => at + IN.GPR + n * 8;
  const gpr = (n: number): bigint => view.getBigUint64(gprAt(n), true);
  const setGpr = (n: number, v: bigint): void => view.setBigUint64(gprAt(n), v & (long ? MASK64 : 0xffff_ffffn), true);

  view.setUint32(at + IN.ENTRY, code.entry, true);
  view.setUint32(at + IN.EXIT, code.exit, true);
  view.setUint32(at + IN.BITS, code.bits, true);
  for (let n = 0; n < 16; n++) integer64(r, view, gprAt(n));
  if (!long) for (let n = 0; n < 16; n++) setGpr(n, n < 8 ? gpr(n) : 0n);
  const stack = WINDOW + 0x200 + r.below(0x1c00 >> 3) * 8 + (r.oneIn(8) ? r.below(8) : 0);
  setGpr(RSP, BigInt(stack));
  setGpr(RBP, BigInt(WINDOW + 0x200 + r.below(0x1c00)));
  let flags = 0x202 | (r.u32() & 0x8d5);
  if (def.map === 0 && /^(movs|stos|lods|cmps|scas|ins|outs)/.test(name) ? r.oneIn(4) : r.oneIn(32)) flags |= 0x400;

  // Alignment checks.
  if (r.oneIn(16)) flags |= 0x40000;

  const kind = kindOf(name, r);
  const x87 = def.unit === 'x87';
  fillVectors(r, def.unit, kind, name, view, at + IN.FX);

  // What the instruction takes from fixed registers.
  const override = long ? (insn.segment === 4 ? FS_BASE : insn.segment === 5 ? GS_BASE : 0) : 0;
  const spot = (size: number): bigint => address(r, size, true);
  /** For an address that a segment override applies to. */
  const source = (size: number): bigint => spot(size) - BigInt(override);
  const narrow = insn.addressSize;
  const pointer = (n: number, v: bigint): void => {
    // With short addresses the upper bits are not looked at.
    if (narrow === 4 && long) setGpr(n, (v & 0xffff_ffffn) | (BigInt(r.u32()) << 32n));
    else setGpr(n, v);
  };
  const counts = (): void => {
    if (insn.rep || /^(movs|stos|lods|cmps|scas) f/.test(def.pattern))
      pointer(RCX, BigInt(r.pick([0, 1, 2, 3, 7, 16, r.below(100)])));
  };
  if (def.map === 0 && /^(movs|stos|lods|cmps|scas)$/.test(name)) {
    const from = spot(8);
    pointer(RSI, from - BigInt(override));
    pointer(
      RDI,
      r.oneIn(4)
        ? from + BigInt(r.below(32) - 16)
        : address(r, 8, from >= BigInt(WINDOW) && from < BigInt(WINDOW + WINDOW_BYTES - 0x400)),
    );
    counts();
  } else if (name === 'xlat') pointer(RBX, source(1) - BigInt(r.below(256)));
  else if (name.startsWith('maskmov')) {
    // Which of the bytes that are not written may fault is the processor's choice.
    pointer(RDI, BigInt(WINDOW + 0xc00 + r.below(0x13f0) - override));
  } else if (/^(loop|jcxz)/.test(name)) pointer(RCX, BigInt(r.pick([0, 1, 2, 3])));
  else if (/^pcmpe/.test(name)) {
    for (const n of [RAX, RDX]) if (r.oneIn(2)) setGpr(n, BigInt(r.below(40) - 20));
  } else if (/^i?div$/.test(name) && !def.pattern.includes(' ps')) {
    // Mostly no overflow: the upper half small or a sign.
    if (!r.oneIn(4)) {
      const bits = BigInt(insn.size * 8);
      if (insn.size === 1)
        setGpr(
          RAX,
          (gpr(RAX) & ~0xffffn) | (r.oneIn(2) ? BigInt(r.below(256)) : BigInt.asUintN(16, BigInt(r.below(256) - 128))),
        );
      else {
        const negative = name === 'idiv' && (gpr(RAX) >> (bits - 1n)) & 1n;
        setGpr(RDX, negative ? MASK64 : r.oneIn(2) ? 0n : BigInt(r.below(64)));
      }
    }
  } else if (/^(ret|iret|popf|pop|leave|enter|push|pushf|call)/.test(name) && r.oneIn(6)) {
    // A far call that pushes below 0 and goes to 64-bit code makes the host fault without end.
    setGpr(RSP, address(r, 8, true) & 0xffff_ffffn || (name === 'callf' ? 0x1234n : 0n));
    if (name === 'leave') setGpr(RBP, address(r, 8, true));
  } else if (/^(shl|shr|sar|ro|rc|shld|shrd)/.test(name) && r.oneIn(2)) setGpr(RCX, BigInt(r.below(72)));
  // log2(x + 1) is defined up to 1 − √½, 2^x − 1 up to 1.
  // Whether a tiny result is exact follows the last place: no traps.
  if (/^(fsin|fcos|fsincos|fptan|fpatan|f2xm1|fyl2x|fyl2xp1)$/.test(name)) {
    view.setUint8(at + IN.FX, view.getUint8(at + IN.FX) | 0x3f);
    view.setUint16(at + IN.FX + 2, view.getUint16(at + IN.FX + 2, true) & ~0x8080, true);
  }
  if (name === 'fyl2xp1' || name === 'f2xm1')
    view.setUint16(at + IN.FX + 32 + 8, (r.below(2) << 15) | (0x3ffc - r.below(70)), true);
  if (name === 'enter' && (insn.immHigh & 31) > 1) setGpr(RBP, BigInt(WINDOW + 0x1000));

  let patches = 0;
  const patch = (where: bigint, length: number, fill: (to: DataView, offset: number) => void): void => {
    const offset = Number(where - BigInt(WINDOW));
    if (where < BigInt(WINDOW) || offset + 1 > WINDOW_BYTES || patches === 3) return;
    const p = at + IN.PATCH + patches * PATCH_BYTES;
    fill(view, p + 8);
    view.setUint32(p, offset, true);
    view.setUint32(p + 4, Math.min(length, WINDOW_BYTES - offset), true);
    patches++;
  };

  // The memory operand: choose its address, then solve for a register.
  const m = insn.mem;
  const bitTest = m !== undefined && /^bt/.test(name) && insn.operands[1]?.kind === 'reg';
  if (bitTest) {
    // Not so far that it reaches code.
    const offset = insn.operands[1];
    if (offset?.kind === 'reg') setGpr(offset.reg, BigInt(r.below(0x4000) - 0x2000));
  }
  const memSize = insn.operands.find((o) => o.kind === 'mem')?.size || 16;
  if (m && (m.base >= 0 || m.index >= 0) && m.base !== 16) {
    let wanted = bitTest ? BigInt(WINDOW + 0x700 + r.below(0x1000)) : address(r, memSize, true);
    // A sum with a segment base that leaves the hole of non-canonical addresses is treated differently by processors.
    if (m.seg >= 4 && wanted > 0xffff_ffffn) wanted = BigInt(WINDOW);
    const segBase = BigInt(long ? (m.seg === 4 ? FS_BASE : m.seg === 5 ? GS_BASE : 0) : 0);
    const mask = (1n << BigInt(m.addressSize * 8)) - 1n;
    const offset = (wanted - segBase - BigInt(m.disp)) & mask;
    // A far transfer that is not canonical and changes the mode: the order of its checks is the processor's choice.
    const high = m.addressSize === 4 && long && !/^(callf|jmpf)$/.test(name) ? BigInt(r.u32()) << 32n : 0n;
    if (m.base >= 0 && m.index >= 0 && m.base !== m.index)
      setGpr(m.base, ((offset - (gpr(m.index) << BigInt(m.scale))) & mask) | high);
    else if (m.base >= 0 && m.index < 0) setGpr(m.base, offset | high);
    else if (m.base < 0) setGpr(m.index, (offset >> BigInt(m.scale)) | high);
    else {
      // base = index: base × (1 + scale), which only a scale of 1, 3, 5 or 9 can be divided by.
      const by = 1n + (1n << BigInt(m.scale));
      setGpr(m.base, ((wanted > 0xffff_ffffn ? BigInt(WINDOW) : offset) / by) | high);
    }
  }
  const where = operandAddress(code, gpr);
  const memKind: Kind = x87
    ? memSize === 10 || !insn.operands.length
      ? 'f80'
      : r.oneIn(3)
        ? 'int'
        : memSize === 4
          ? 'f32'
          : 'f64'
    : kind;
  if (where !== undefined)
    patch(where, 64, (to, o) => {
      for (let i = 0; i < 64; i += 16) fill16(r, memKind, to, o + i);
      if (def.unit === 'x87' && def.specs[0] === 'M' && r.oneIn(2)) f80(r, to, o);
      // Not bit 17, which only AMD's processors have.
      if (name === 'ldmxcsr') to.setUint32(o, r.u32() & (r.oneIn(4) ? 0xfffdffff : 0xffff), true);
      if (name === 'fxrstor') to.setUint8(o + 26, to.getUint8(o + 26) & ~2);
      if (name === 'fldcw') to.setUint16(o, (r.u32() & 0x0f3f) | 0x40, true);
    });

  // Selectors, and far pointers.
  const put = (to: DataView, o: number, size: number, v: number): void => {
    if (size === 2) to.setUint16(o, v, true);
    else if (size === 4) to.setUint32(o, v, true);
    else to.setBigUint64(o, BigInt(v), true);
  };
  if (/^(lar|lsl|verr|verw)$/.test(name) || (name === 'mov' && def.opcode === 0x8e)) {
    const o = insn.operands[insn.operands.length - 1]!;
    const selector = drawSelector(r, false);
    if (o.kind === 'reg') setGpr(o.reg, (gpr(o.reg) & ~0xffffn) | BigInt(selector));
    else if (where !== undefined) patch(where, 2, (to, off) => to.setUint16(off, selector, true));
  } else if (name === 'pop' && !insn.operands.length)
    patch(gpr(RSP), 8, (to, off) => put(to, off, insn.size, r.oneIn(2) ? USER_DATA : drawSelector(r, false)));
  else if (/^(l[defgs]s|callf|jmpf)$/.test(name) && where !== undefined)
    patch(where, 16, (to, off) => {
      const branch = name.length === 4 || name === 'callf';
      put(to, off, insn.size, branch && !r.oneIn(8) ? code.target : r.u32());
      to.setUint16(off + insn.size, drawSelector(r, branch), true);
    });
  else if (name === 'retf' || name === 'iret')
    patch(gpr(RSP), 40, (to, off) => {
      const { size } = insn;
      [
        r.oneIn(8) ? r.u32() : code.target,
        drawSelector(r, true),
        // Not TF, NT or VM.
        r.u32() & 0x04_3ed5,
        WINDOW + 0x800 + r.below(0x800),
        r.oneIn(4) ? drawSelector(r, false) : 0x2b,
      ].forEach((v, k) => put(to, off + k * size, size, v));
    });
  else if (/^wr[fg]sbase$/.test(name) && !r.oneIn(4)) {
    const o = insn.operands[0]!;
    if (o.kind === 'reg') setGpr(o.reg, BigInt(r.u32()) << BigInt(r.below(16)));
  }

  // Branches through registers and memory go to the slot's target.
  if (/^(call|jmp)$/.test(name) && def.opcode === 0xff) {
    const o = insn.operands[0]!;
    if (o.kind === 'reg') setGpr(o.reg, BigInt(code.target));
    else if (where !== undefined)
      patch(where, 8, (to, off) => {
        to.setBigUint64(off, BigInt(code.target), true);
      });
  } else if (name === 'ret')
    patch(gpr(RSP), 8, (to, off) => {
      to.setBigUint64(off, BigInt(code.target), true);
    });
  else if (name === 'popf')
    patch(gpr(RSP), 8, (to, off) => {
      // Not TF, which the harness does not survive, nor NT and VM.
      to.setBigUint64(off, BigInt(r.u32() & 0x04_3ed5), true);
    });
  else if (
    /^cmpxchg/.test(name) &&
    where !== undefined &&
    ![m?.base, m?.index].some((n) => n === RAX || n === RDX) &&
    r.oneIn(2)
  ) {
    // Equal, so that the store happens.
    if (name === 'cmpxchg') {
      if (insn.operands[0]!.kind === 'mem' && patches) setGpr(RAX, view.getBigUint64(at + IN.PATCH + 8, true));
    } else {
      const half = insn.size === 8 ? 8 : 4;
      const low = view.getBigUint64(at + IN.PATCH + 8, true);
      setGpr(RAX, half === 8 ? low : low & 0xffff_ffffn);
      setGpr(RDX, half === 8 ? view.getBigUint64(at + IN.PATCH + 16, true) : low >> 32n);
    }
  } else if (name === 'cmpxchg' && insn.operands[0]!.kind === 'reg' && r.oneIn(2))
    setGpr(RAX, gpr(insn.operands[0].reg));
  view.setUint32(at + IN.PATCHES, patches, true);
  view.setBigUint64(at + IN.RFLAGS, BigInt(flags), true);
}

/** XMM, MXCSR and x87 or MMX registers as an FXSAVE image. */
function fillVectors(r: Random, unit: string | undefined, kind: Kind, name: string, view: DataView, at: number): void {
  let control = 0x37f;
  let status = 0;
  let tags = 0xff;
  if (unit === 'x87') {
    control = r.oneIn(2) ? 0x37f : (r.below(16) << 8) | 0x7f;
    if ((control & 0x300) === 0x100) control |= 0x200;
    if (r.oneIn(8)) control &= ~r.below(64);
    status = (r.below(8) << 11) | (r.u32() & 0x4700);
    if (r.oneIn(4)) status |= r.below(128);
    if (status & ~control & 0x3f) {
      if (r.oneIn(8)) status |= 0x8080;
      else status &= ~0x3f;
    }
    tags = r.oneIn(2) ? 0xff : r.oneIn(2) ? r.below(256) : ~(1 << r.below(8)) & 0xff;
  } else if (unit !== undefined) {
    status = r.below(8) << 11;
    tags = r.below(256);
  }
  view.setUint16(at, control, true);
  view.setUint16(at + 2, status, true);
  view.setUint8(at + 4, tags);
  let mxcsr = 0x1f80;
  if (unit === 'sse' || unit === 'mmx') {
    mxcsr |= r.below(4) << 13;
    if (r.oneIn(6)) mxcsr |= 0x40;
    if (r.oneIn(6)) mxcsr |= 0x8000;
    if (r.oneIn(4)) mxcsr |= r.below(64);
    if (r.oneIn(10)) mxcsr &= ~(r.below(64) << 7);
  }
  view.setUint32(at + 24, mxcsr, true);
  for (let i = 0; i < 8; i++) {
    const o = at + 32 + i * 16;
    if (unit === 'mmx') {
      fill16(r, kind, view, o);
      view.setUint16(o + 8, r.oneIn(2) ? 0xffff : 0x3fff, true);
    } else f80(r, view, o);
    for (let k = 10; k < 16; k++) view.setUint8(o + k, 0);
  }
  for (let i = 0; i < 16; i++) fill16(r, r.oneIn(8) ? kindOf(name, r) : kind, view, at + 160 + i * 16);
}
