/** Instructions on single flags. CLI and STI are system instructions. */
import { DF } from '../bits.ts';
import { CF, def } from '../insn.ts';
import { RAX, S } from '../layout.ts';
import { i32, k32 } from '../wasm/expr.ts';

export function defineFlagops(): void {
  def('clc f8', { writes: CF }, (c) => c.setCarry(k32(0)));
  def('stc f9', { writes: CF }, (c) => c.setCarry(k32(1)));
  def('cmc f5', { reads: CF, writes: CF }, (c) => {
    if (!c.flagsDead) c.setCarry(i32.eqz(c.carry()));
  });
  // Table A-2 has a gap there, but every processor has SALC: AL becomes FF or 0 as CF is.
  def('salc d6', { reads: CF, only: 32 }, (c) => c.setGpr(RAX, 1, i32.sub(k32(0), c.carry())));
  def('cld fc', {}, (c) => c.setState(S.EFLAGS, 4, i32.and(c.state32(S.EFLAGS), k32(~DF))));
  def('std fd', {}, (c) => c.setState(S.EFLAGS, 4, i32.or(c.state32(S.EFLAGS), k32(DF))));
}
