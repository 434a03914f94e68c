/** Near control flow: JMP, Jcc, CALL, RET, LOOP, JCXZ. Far transfers are system instructions. */
import { type Emit, Vector } from '../emit.ts';
import { CC_NAMES, CC_READS } from '../flags.ts';
import { def, ZF, type DefOptions } from '../insn.ts';
import { CS, RCX, S } from '../layout.ts';
import { i32, i64, k64, type Expr } from '../wasm/expr.ts';

const hex = (n: number): string => n.toString(16).padStart(2, '0');
const BRANCH: DefOptions = { ends: true, defaultSize: 'f64' };

/** The return address to push: RIP without the code segment's base, at the operand size. */
function returnOffset(c: Emit): Expr {
  const next = c.nextRip();
  if (c.insn.bits === 64) return next;
  const eip = i32.wrap(i64.sub(next, c.state64(S.SEG_BASE + CS * 8)));
  return eip;
}

/** Goes to an offset in the code segment that has the operand's size. @param back see `Emit.jumpTo` */
function jumpToOffset(c: Emit, offset: Expr, back?: () => void): void {
  if (c.insn.bits === 64) {
    c.jumpTo(offset, back);
    return;
  }
  const linear = i64.add(i64.extend_u(offset), c.state64(S.SEG_BASE + CS * 8));
  c.jumpTo(i64.and(linear, k64(0xffffffff)));
}

function defineReturns(): void {
  def('ret c3', BRANCH, (c) => {
    const target = c.top(c.size);
    c.setStack(c.let(c.stackPlus(c.size)), c.size);
    jumpToOffset(c, target, () => c.setStack(c.let(c.stackPlus(-c.size))));
  });
  def('ret c2 Iw', BRANCH, (c) => {
    const target = c.top(c.size);
    const bytes = c.let(i32.and(c.imm32(), 0xffff));
    const after = c.let(c.stackPlus(c.size));
    const sum = i64.add(after, i64.extend_u(bytes));
    const { stackWidth } = c;
    c.setStack(c.let(stackWidth === 8 ? sum : i64.and(sum, k64(stackWidth === 4 ? 0xffffffff : 0xffff))));
    jumpToOffset(c, target, () => c.setStack(c.let(i64.sub(c.stackPlus(-c.size), i64.extend_u(bytes)))));
  });
}

function defineLoops(): void {
  /** Decrements rCX at the address size; the new value. */
  const countDown = (c: Emit): Expr => {
    const size = c.insn.addressSize;
    const w = c.ops(size);
    const n = c.let(w.sub(c.gpr(RCX, size), w.k(1)));
    c.setGpr(RCX, size, n);
    return w.ne(size === 2 ? c.zeroExtend(n, 2) : n, w.k(0));
  };
  def('loopne e0 Jb', { ...BRANCH, reads: ZF }, (c) => {
    const zf = c.zero();
    c.jumpRelIf(i32.and(countDown(c), i32.eqz(zf)));
  });
  def('loope e1 Jb', { ...BRANCH, reads: ZF }, (c) => {
    const zf = c.zero();
    c.jumpRelIf(i32.and(countDown(c), i32.ne(zf, 0)));
  });
  def('loop e2 Jb', BRANCH, (c) => {
    c.jumpRelIf(countDown(c));
  });
  def('jcxz e3 Jb', BRANCH, (c) => {
    const size = c.insn.addressSize;
    c.jumpRelIf(c.ops(size).eqz(c.gpr(RCX, size)));
  });
}

export function defineBranch(): void {
  CC_NAMES.forEach((name, cc) => {
    const options: DefOptions = { ...BRANCH, reads: CC_READS[cc >> 1]! };
    def(`j${name} ${hex(0x70 + cc)} Jb`, options, (c) => c.jumpRelIf(c.condition(cc)));
    def(`j${name} 0f ${hex(0x80 + cc)} Jz`, options, (c) => c.jumpRelIf(c.condition(cc)));
  });

  def('jmp eb Jb', BRANCH, (c) => c.jumpRel());
  def('jmp e9 Jz', BRANCH, (c) => c.jumpRel());
  def('jmp ff/4 Ev', { ...BRANCH, access: 'r' }, (c) => jumpToOffset(c, c.get(0)));

  def('call e8 Jz', BRANCH, (c) => {
    c.push(returnOffset(c), c.size);
    c.jumpRel();
  });
  def('call ff/2 Ev', { ...BRANCH, access: 'r' }, (c) => {
    const target = c.get(0);
    // The stack is written only for a target that is right.
    if (c.insn.bits === 64) c.raiseIf(c.notCanonical(target), Vector.GP, 0);
    c.push(returnOffset(c), c.size);
    jumpToOffset(c, target);
  });

  defineReturns();
  defineLoops();
}
