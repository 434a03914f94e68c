/**
 * x87 instructions (SDM vol. 1, chapter 8): checks and operands here, the arithmetic in the runtime library (cpu/x87/).
 * What is rare is in x87-rare.ts. Register forms take `Nq`, so that ModRM.mod = 3 is required; i is `Emit.stIndex`.
 */
import type { Emit } from '../emit.ts';
import { Vector } from '../emit.ts';
import { ARITH, CF, def, PF, ZF, type DefOptions } from '../insn.ts';
import { S } from '../layout.ts';
import { i32, k32, k64, type Expr } from '../wasm/expr.ts';
import { Fsw, OPERAND, RESULT } from '../x87/common.ts';
import { Compare } from '../x87/compare.ts';
import { Arith } from '../x87/stack.ts';

const WAITING: DefOptions = { unit: 'x87', faults: true, access: 'r' };
const WAITING_STORE: DefOptions = { unit: 'x87', faults: true, access: 'w' };
const CONTROL: DefOptions = { unit: 'x87', access: 'r' };
const CONTROL_STORE: DefOptions = { unit: 'x87', access: 'w' };

/** #MF for an unmasked exception of an earlier instruction: first thing that a waiting instruction does. */
function wait(c: Emit): void {
  c.raiseIf(i32.and(c.state32(S.FSW), Fsw.ES), Vector.MF);
}

function run(c: Emit, name: string, ...args: Expr[]): Expr {
  return c.callRuntime(name, k32(c.state), ...args);
}
function just(c: Emit, name: string, ...args: Expr[]): void {
  c.f.drop(run(c, name, ...args));
}

/** Reads the memory operand into OPERAND; returns the flags of the conversion (DE or 0). */
type MemoryKind = 'f32' | 'f64' | 'i32' | 'i16';
function operandFlags(c: Emit, kind: MemoryKind): Expr {
  const value = c.get(0);
  switch (kind) {
    case 'f32':
    case 'f64':
      return c.let(run(c, `f80_from_${kind}`, value));
    default:
      return c.let(run(c, 'f80_from_int', c.signExtend64(value, kind === 'i16' ? 2 : 4)));
  }
}

/** FADD FMUL FCOM FCOMP FSUB FSUBR FDIV FDIVR by ModRM.reg. */
const OPERATIONS: readonly { name: string; core: 'add' | 'mul' | 'div'; info: number }[] = [
  { name: 'add', core: 'add', info: 0 },
  { name: 'mul', core: 'mul', info: 0 },
  { name: 'sub', core: 'add', info: Arith.NEGATE },
  { name: 'subr', core: 'add', info: Arith.NEGATE | Arith.SWAP },
  { name: 'div', core: 'div', info: 0 },
  { name: 'divr', core: 'div', info: Arith.SWAP },
];
/** ModRM.reg of each, with ST(0) as destination. */
const REG = [0, 1, 4, 5, 6, 7];
/** With ST(i) as destination FSUB and FSUBR, FDIV and FDIVR change places (SDM vol. 2, FSUB). */
const REG_TO_I = [0, 1, 5, 4, 7, 6];

function defineArithmetic(): void {
  const memory: readonly [string, string, string, MemoryKind][] = [
    ['f', 'd8', 'Md', 'f32'],
    ['f', 'dc', 'Mq', 'f64'],
    ['fi', 'da', 'Md', 'i32'],
    ['fi', 'de', 'Mw', 'i16'],
  ];
  OPERATIONS.forEach(({ name, core, info }, k) => {
    for (const [prefix, opcode, spec, kind] of memory)
      def(`${prefix}${name} ${opcode}/${REG[k]!} ${spec}`, WAITING, (c) => {
        wait(c);
        if (kind === 'f32' || kind === 'f64') just(c, `x87_${core}_${kind}`, k32(info), c.get(0));
        else just(c, `x87_${core}_operand`, k32(info), operandFlags(c, kind));
      });
    // ST(0) op ST(i), and ST(i) op ST(0), which is ST(0) op ST(i) with the operands exchanged.
    const swapped = info ^ Arith.SWAP;
    const toI = (opcode: string, extra: number, suffix: string): void =>
      def(`f${name}${suffix} ${opcode}/${REG_TO_I[k]!} Nq`, WAITING, (c) => {
        wait(c);
        just(c, `x87_${core}`, c.stIndex(), k32(swapped | Arith.TO_I | extra));
      });
    def(`f${name} d8/${REG[k]!} Nq`, WAITING, (c) => {
      wait(c);
      just(c, `x87_${core}`, c.stIndex(), k32(info));
    });
    toI('dc', 0, '');
    toI('de', Arith.POP, 'p');
  });
  for (const [name, pattern, fn] of [
    ['fsqrt', 'd9/7.2', 'x87_sqrt'],
    ['frndint', 'd9/7.4', 'x87_rndint'],
    ['fabs', 'd9/4.1', 'x87_abs'],
    ['fchs', 'd9/4.0', 'x87_chs'],
    ['ftst', 'd9/4.4', 'x87_ftst'],
    ['fdecstp', 'd9/6.6', ''],
    ['fincstp', 'd9/6.7', ''],
    ['fnop', 'd9/2.0', ''],
  ] as const)
    def(`${name} ${pattern}`, WAITING, (c) => {
      wait(c);
      if (fn) just(c, fn);
      else if (name !== 'fnop') just(c, 'x87_rotate', k32(name === 'fincstp' ? 1 : -1));
    });
  def('fxam d9/4.5', WAITING, (c) => {
    wait(c);
    just(c, 'x87_fxam');
  });
}

function defineCompare(): void {
  const memory: readonly [string, string, string, MemoryKind][] = [
    ['fcom', 'd8', 'Md', 'f32'],
    ['fcom', 'dc', 'Mq', 'f64'],
    ['ficom', 'da', 'Md', 'i32'],
    ['ficom', 'de', 'Mw', 'i16'],
  ];
  for (const [name, opcode, spec, kind] of memory)
    for (const pops of [0, 1])
      def(`${name}${pops ? 'p' : ''} ${opcode}/${2 + pops} ${spec}`, WAITING, (c) => {
        wait(c);
        const flags = operandFlags(c, kind);
        just(c, 'x87_compare', k32(0), k32(Compare.MEMORY | (pops ? Compare.POP : 0)), flags);
      });
  const registers: readonly [string, number][] = [
    ['fcom d8/2', 0],
    ['fcom dc/2', 0],
    ['fcomp d8/3', Compare.POP],
    ['fcomp dc/3', Compare.POP],
    ['fcomp de/2', Compare.POP],
    ['fucom dd/4', Compare.QUIET],
    ['fucomp dd/5', Compare.QUIET | Compare.POP],
  ];
  for (const [pattern, info] of registers)
    def(`${pattern} Nq`, WAITING, (c) => {
      wait(c);
      just(c, 'x87_compare', c.stIndex(), k32(info), k32(0));
    });
  for (const [pattern, info] of [
    ['fcompp de/3.1', Compare.POP2],
    ['fucompp da/5.1', Compare.QUIET | Compare.POP2],
  ] as const)
    def(pattern, WAITING, (c) => {
      wait(c);
      just(c, 'x87_compare', k32(1), k32(info), k32(0));
    });
  for (const [pattern, info] of [
    ['fcomi db/6', 0],
    ['fucomi db/5', Compare.QUIET],
    ['fcomip df/6', Compare.POP],
    ['fucomip df/5', Compare.QUIET | Compare.POP],
  ] as const)
    def(`${pattern} Nq`, { ...WAITING, writes: ARITH }, (c) => {
      wait(c);
      const flags = c.let(run(c, 'x87_compare', c.stIndex(), k32(info | Compare.FLAGS), k32(0)));
      c.setFlagBits(flags);
    });
}

/** Constants, cut to 64 bits, with 1 where the nearest is the next one up. */
const CONSTANTS: readonly [string, number, bigint, number, number][] = [
  ['fldl2t', 1, 0xd49a784bcd1b8afen, 0x4000, 0],
  ['fldl2e', 2, 0xb8aa3b295c17f0bbn, 0x3fff, 1],
  ['fldpi', 3, 0xc90fdaa22168c234n, 0x4000, 1],
  ['fldlg2', 4, 0x9a209a84fbcff798n, 0x3ffd, 1],
  ['fldln2', 5, 0xb17217f7d1cf79abn, 0x3ffe, 1],
];

function defineLoads(): void {
  def('fld d9/0 Md', WAITING, (c) => {
    wait(c);
    just(c, 'x87_load_f32', c.get(0));
  });
  def('fld dd/0 Mq', WAITING, (c) => {
    wait(c);
    just(c, 'x87_load_f64', c.get(0));
  });
  def('fld db/5 M', WAITING, (c) => {
    wait(c);
    const host = c.access(c.address(), 10, false);
    just(c, 'x87_push', c.loadHost(host, 8), c.loadHost(host, 2, 8));
  });
  def('fld d9/0 Nq', WAITING, (c) => {
    wait(c);
    just(c, 'x87_load_st', c.stIndex());
  });
  for (const [pattern, size] of [
    ['fild df/0 Mw', 2],
    ['fild db/0 Md', 4],
    ['fild df/5 Mq', 8],
  ] as const)
    def(pattern, WAITING, (c) => {
      wait(c);
      just(c, 'x87_load_int', c.signExtend64(c.get(0), size));
    });
  def('fld1 d9/5.0', WAITING, (c) => {
    wait(c);
    just(c, 'x87_push', k64(0x8000000000000000n), k32(0x3fff));
  });
  def('fldz d9/5.6', WAITING, (c) => {
    wait(c);
    just(c, 'x87_push', k64(0), k32(0));
  });
  for (const [name, rm, significand, signExponent, nearest] of CONSTANTS)
    def(`${name} d9/5.${rm}`, WAITING, (c) => {
      wait(c);
      just(c, 'x87_load_constant', k64(significand), k32(signExponent), k32(nearest));
    });
}

function defineStores(): void {
  for (const [pattern, size, pop] of [
    ['fst d9/2 Md', 4, 0],
    ['fstp d9/3 Md', 4, 1],
    ['fst dd/2 Mq', 8, 0],
    ['fstp dd/3 Mq', 8, 1],
  ] as const)
    def(pattern, WAITING_STORE, (c) => {
      wait(c);
      const host = c.access(c.address(), size, true);
      c.f.if(run(c, 'x87_store_float', k32(size), k32(pop)), () =>
        c.storeHost(host, size, size === 8 ? c.state64(RESULT) : c.state32(RESULT)),
      );
    });
  def('fstp db/7 M', WAITING_STORE, (c) => {
    wait(c);
    const host = c.access(c.address(), 10, true);
    c.f.if(run(c, 'x87_store_extended'), () => {
      // The second store is the one that takes the bounce buffer back.
      c.f.store(2, host, i32.load16_u(k32(c.state + OPERAND + 8)), 8);
      c.storeHost(host, 8, c.state64(OPERAND));
    });
  });
  for (const [name, opcode, reg, spec, size, truncate, pop] of [
    ['fist', 'df', 2, 'Mw', 2, 0, 0],
    ['fistp', 'df', 3, 'Mw', 2, 0, 1],
    ['fisttp', 'df', 1, 'Mw', 2, 1, 1],
    ['fist', 'db', 2, 'Md', 4, 0, 0],
    ['fistp', 'db', 3, 'Md', 4, 0, 1],
    ['fisttp', 'db', 1, 'Md', 4, 1, 1],
    ['fistp', 'df', 7, 'Mq', 8, 0, 1],
    ['fisttp', 'dd', 1, 'Mq', 8, 1, 1],
  ] as const)
    def(`${name} ${opcode}/${reg} ${spec}`, WAITING_STORE, (c) => {
      wait(c);
      const host = c.access(c.address(), size, true);
      c.f.if(run(c, 'x87_store_int', k32(size), k32(truncate), k32(pop)), () =>
        c.storeHost(host, size, size === 8 ? c.state64(RESULT) : c.state32(RESULT)),
      );
    });
  for (const [pattern, pop] of [
    ['fst dd/2', 0],
    ['fstp dd/3', 1],
    ['fstp d9/3', 2],
    ['fstp df/2', 1],
    ['fstp df/3', 1],
  ] as const)
    def(`${pattern} Nq`, WAITING, (c) => {
      wait(c);
      just(c, 'x87_store_st', c.stIndex(), k32(pop));
    });
}

function defineMoves(): void {
  for (const pattern of ['d9/1', 'dd/1', 'df/1'])
    def(`fxch ${pattern} Nq`, WAITING, (c) => {
      wait(c);
      just(c, 'x87_exchange', c.stIndex());
    });
  for (const [pattern, pop] of [
    ['ffree dd/0', 0],
    ['ffreep df/0', 1],
  ] as const)
    def(`${pattern} Nq`, WAITING, (c) => {
      wait(c);
      just(c, 'x87_free', c.stIndex(), k32(pop));
    });
  // FCMOVB, E, BE, U with DA; their opposites with DB. The condition codes are those of Jcc.
  for (const [reg, cc, name, reads] of [
    [0, 2, 'b', CF],
    [1, 4, 'e', ZF],
    [2, 6, 'be', CF | ZF],
    [3, 10, 'u', PF],
  ] as const)
    for (const not of [0, 1])
      def(`fcmov${not ? 'n' : ''}${name} ${not ? 'db' : 'da'}/${reg} Nq`, { ...WAITING, reads }, (c) => {
        wait(c);
        just(c, 'x87_move_if', c.stIndex(), c.let(c.condition(cc + not)));
      });
}

function defineControl(): void {
  def('fninit db/4.3', CONTROL, (c) => {
    c.setState(S.FCW, 4, k32(0x37f));
    for (const at of [S.FSW, S.FTW, S.FTOP, S.FOP]) c.setState(at, 4, k32(0));
    for (const at of [S.FIP, S.FDP]) c.setState(at, 8, k64(0));
  });
  def('fnclex db/4.2', CONTROL, (c) => c.setState(S.FSW, 4, i32.and(c.state32(S.FSW), ~(0xff | Fsw.B))));
  // The 8087's and 80287's FENI, FDISI and FSETPM do nothing.
  for (const rm of [0, 1, 4]) def(`fnop db/4.${rm}`, CONTROL, () => undefined);
  def('fldcw d9/5 Mw', WAITING, (c) => {
    wait(c);
    just(c, 'x87_set_control', c.get(0));
  });
  def('fnstcw d9/7 Mw', CONTROL_STORE, (c) => c.set(0, c.state32(S.FCW)));
  const status = (c: Emit): Expr => i32.or(c.state32(S.FSW), i32.shl(c.state32(S.FTOP), 11));
  def('fnstsw dd/7 Mw', CONTROL_STORE, (c) => c.set(0, c.let(status(c))));
  def('fnstsw df/4.0', CONTROL, (c) => c.setGpr(0, 2, c.let(status(c))));
  // FWAIT obeys CR0.TS only with CR0.MP (SDM vol. 3, 2.5), so it has no `unit`.
  def('fwait 9b', { faults: true }, (c) => {
    c.raiseIf(i32.eq(i32.and(c.state32(S.CR0), 0xa), k32(0xa)), Vector.NM);
    wait(c);
  });
}

export function defineX87(): void {
  defineArithmetic();
  defineCompare();
  defineLoads();
  defineStores();
  defineMoves();
  defineControl();
}
