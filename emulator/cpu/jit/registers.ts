/** Which registers a region's code touches, so that only these are loaded at its entry and stored at its exit. */
import type { Mode } from '../layout.ts';
import type { Insn } from '../insn.ts';
import { FAR, shapeKey, type Linkage } from '../interp.ts';
import { FunctionBuilder, HANDLER } from '../wasm/builder.ts';
import { JitEmit, newContext, type Registers } from './emit.ts';

/** Registers that a shape touches besides its operands, found once by emitting it. */
const implicit = new Map<number, Registers>();

export function registersOf(insns: readonly Insn[], state: number, mode: Mode, link: Linkage): Registers {
  const r: Registers = { gpr: 0, gprWritten: 0, xmm: 0, xmmWritten: 0 };
  for (const insn of insns) {
    if (insn.mem) {
      if (insn.mem.base >= 0 && insn.mem.base < 16) r.gpr |= 1 << insn.mem.base;
      if (insn.mem.index >= 0) r.gpr |= 1 << insn.mem.index;
    }
    if (!insn.def.emit) {
      // A helper works on registers in memory: all that the region knows are written back and read again.
      continue;
    }
    insn.operands.forEach((o, k) => {
      if (o.kind !== 'reg') return;
      const written = k === 0 ? insn.def.access !== 'r' : !/^(mov|cmp|test|add|sub|and|or|xor)$/.test(insn.def.name);
      if (o.cls === 'gpr') {
        r.gpr |= 1 << o.reg;
        if (written) r.gprWritten |= 1 << o.reg;
      } else if (o.cls === 'xmm') {
        r.xmm |= 1 << o.reg;
        if (written) r.xmmWritten |= 1 << o.reg;
      }
    });
    const key = shapeKey(insn, false, FAR);
    let extra = implicit.get(key);
    if (!extra) {
      extra = { gpr: 0, gprWritten: 0, xmm: 0, xmmWritten: 0 };
      const c = newContext(new FunctionBuilder(HANDLER), state, mode, link, extra, true);
      // Operands are given register numbers that do not matter: only fixed ones stay when operands are masked out.
      const probe = { gpr: 0, gprWritten: 0, xmm: 0, xmmWritten: 0 };
      Object.assign(c.registers, probe);
      c.f.block((exit) => {
        c.exit = exit;
        const e = new JitEmit(c, withoutRegisters(insn), 0, 0, 1);
        insn.def.emit!(e);
      });
      implicit.set(key, extra);
      // What the explicit operands of the probe added (R15 and XMM15) is not implicit.
      extra.gpr &= 0x7fff;
      extra.gprWritten &= 0x7fff;
      extra.xmm &= 0x7fff;
      extra.xmmWritten &= 0x7fff;
    }
    r.gpr |= extra.gpr;
    r.gprWritten |= extra.gprWritten;
    r.xmm |= extra.xmm;
    r.xmmWritten |= extra.xmmWritten;
  }
  return r;
}

/** The instruction with register 15 for every variable operand, so that emission shows only the fixed ones. */
function withoutRegisters(insn: Insn): Insn {
  return {
    ...insn,
    operands: insn.operands.map((o) => (o.kind === 'reg' ? { ...o, reg: o.cls === 'mmx' ? 7 : 15, high: false } : o)),
    mem: insn.mem && { ...insn.mem, base: 15, index: insn.mem.index >= 0 ? 15 : -1 },
  };
}
