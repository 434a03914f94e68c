/** Modules of interpreter handlers: which there are, their keys and slots, and how they are written. */
import {
  buildHandler,
  buildPair,
  buildRun,
  declareImports,
  FAR,
  InterpEmit,
  shapeKey,
  TAIL_NAMES,
  TAILS,
  type Linkage,
  type Step,
} from './interp.ts';
import { NO_INSN, type Insn } from './insn.ts';
import { S } from './layout.ts';
import {
  type BranchShape,
  CHECK_SIZE,
  handlerOf,
  meta,
  metaCount,
  metaOffset,
  PAGE_CHECK_SIZE,
  R,
  type RecordLayout,
} from './record.ts';
import { RUNTIME } from './runtime.ts';
import { FunctionBuilder, HANDLER, ModuleBuilder } from './wasm/builder.ts';
import { callExpr, i32, i64, I32, k32, select, type Expr } from './wasm/expr.ts';

/** Table slots of the fixed handlers. */
export const Slot = {
  Invalid: 0,
  Resync: 1,
  CrossCheck: 2,
  GoOnNear: 3,
  GoOnFar: 4,
  Raise: 5,
  PageCheck: 6,
  FIRST_FREE: 7,
} as const;

/** A handler's table slot, and what the records that it serves are like. */
export interface Handler {
  readonly slot: number;
  readonly layout: RecordLayout;
}

/** A handler to be made: for an instruction, or for one and the branch after it. */
export interface WantedHandler {
  insn: Insn;
  second: Insn | undefined;
  flagsDead: boolean;
  branch: BranchShape;
  slot: number;
}

/** A number that is equal for pairs that the same handler serves; apart from those of single instructions. */
export const pairKey = (first: Insn, second: Insn, branch: BranchShape): number =>
  -1 - (shapeNumber(shapeKey(first, false, FAR)) * 2 ** 20 + shapeNumber(shapeKey(second, false, branch)));

/** Small numbers for the shapes that pairs are made of. */
const shapeNumbers = new Map<number, number>();
function shapeNumber(key: number): number {
  let n = shapeNumbers.get(key);
  if (n === undefined) shapeNumbers.set(key, (n = shapeNumbers.size));
  return n;
}

/** A module of handlers. */
export class HandlerModule {
  private readonly m = new ModuleBuilder();
  private readonly link = declareImports(this.m, true);
  /**
   * By shape: functions that execute an instruction alone. They are apart, so that the handlers need not call anything for an
   * access that is not in the TLB.
   */
  private readonly alone = new Map<number, number>();

  /** @param state base of the processor's state */
  constructor(private readonly state: number) {}

  add({ insn, second, flagsDead, branch, slot }: WantedHandler): void {
    const { state, link, executeAlone } = this;
    this.put(
      slot,
      second
        ? buildPair(insn, second, state, link, branch, executeAlone)
        : buildHandler({ insn, flagsDead, branch }, state, link, executeAlone),
    );
  }

  addRun(steps: readonly Step[], slot: number): void {
    this.put(slot, buildRun(steps, this.state, this.link, this.executeAlone));
  }

  encode(): Uint8Array<ArrayBuffer> {
    return this.m.encode();
  }

  private put(slot: number, handler: FunctionBuilder): void {
    this.m.element(slot, [this.m.add(handler)]);
  }

  private readonly executeAlone = (step: Step): number => {
    const key = shapeKey(step.insn, step.flagsDead, step.branch);
    let handle = this.alone.get(key);
    if (handle === undefined) this.alone.set(key, (handle = this.m.add(buildHandler(step, this.state, this.link))));
    return handle;
  };
}

/** The fixed handlers, the runtime library and the way in. */
export function buildCore(state: number): ModuleBuilder {
  const m = new ModuleBuilder();
  const link = declareImports(m, false);
  const cross = m.import('cross', { params: [I32], results: [I32] });
  const runtimeIndex = new Map<string, number>();
  const runtime = RUNTIME.map((r) => {
    const f = new FunctionBuilder(r.signature);
    runtimeIndex.set(r.name, m.add(f, r.name));
    return f;
  });
  RUNTIME.forEach((r, k) =>
    r.build(runtime[k]!, (name, ...args) => {
      const index = runtimeIndex.get(name);
      if (index !== undefined)
        return callExpr(RUNTIME.find((x) => x.name === name)!.signature.results[0]!, index, args);
      const imported = link.imports[name];
      if (imported === undefined) throw new Error(`no runtime function ${name}`);
      return callExpr(I32, imported, args);
    }),
  );
  const call = (f: FunctionBuilder, record: ReturnType<typeof k32>): void =>
    f.returnCallIndirect(link.handlerType, handlerOf(record), record);
  for (const name of TAIL_NAMES) {
    const f = new FunctionBuilder(TAILS[name]);
    link.imports[name] = m.add(f, name);
    const calls = (callee: string, args: Expr[]): Expr =>
      callExpr(I32, runtimeIndex.get(callee) ?? link.imports[callee]!, args);
    writeTail(f, name, calls, (to) => call(f, to), link.handlerType);
  }

  const enter = new FunctionBuilder(HANDLER);
  call(enter, enter.param(0));
  m.add(enter, 'enter');

  // Nothing leads to slot 0 (an all-zero record); if something did, the run loop would look RIP up again.
  const invalid = new FunctionBuilder(HANDLER);
  const resync = new FunctionBuilder(HANDLER);
  const m0 = resync.let(meta(resync.param(0)));
  resync.store(8, state + S.RIP, i64.add(i64.load(k32(state + S.VPC)), i64.extend_u(metaOffset(m0))));
  resync.store(4, state + S.FUEL, i32.sub(i32.load(k32(state + S.FUEL)), i32.sub(metaCount(m0), 1)));
  const check = new FunctionBuilder(HANDLER);
  const checked = (f: FunctionBuilder): void => {
    f.if(i32.eqz(callExpr(I32, cross, [f.param(0)])), () => f.return());
  };
  checked(check);
  call(check, check.let(i32.add(check.param(0), CHECK_SIZE)));
  // As long as no translation of code has changed, the next page is what it was.
  const pageCheck = new FunctionBuilder(HANDLER);
  const word = (at: number): Expr => i32.load(k32(state + at));
  const epoch = select(i32.eq(word(S.CPL), k32(3)), word(S.USER_EPOCH), word(S.KERNEL_EPOCH));
  const same = i32.and(
    i32.eq(epoch, i32.load(pageCheck.param(0), R.EPOCH)),
    i64.eq(i64.load(k32(state + S.VPC)), i64.load(pageCheck.param(0), R.PLACE)),
  );
  pageCheck.if(i32.eqz(same), () => checked(pageCheck), undefined, 0);
  call(pageCheck, pageCheck.let(i32.add(pageCheck.param(0), PAGE_CHECK_SIZE)));
  const raise = new FunctionBuilder(HANDLER);
  raise.drop(
    callExpr(I32, link.imports.raise!, [
      i32.load8_u(raise.param(0), R.VECTOR),
      i32.load(raise.param(0), R.CODE),
      raise.param(0),
    ]),
  );
  const indices = [invalid, resync, check].map((f) => m.add(f));
  const goOn = [true, false].map((near) => m.add(buildGoOn(state, link, near)));
  m.element(0, [...indices, ...goOn, m.add(raise), m.add(pageCheck)]);
  return m;
}

/** @param calls calls a function of the runtime library or an import @param goTo ends in a record's handler */
function writeTail(
  f: FunctionBuilder,
  name: keyof typeof TAILS,
  calls: (callee: string, args: Expr[]) => Expr,
  goTo: (record: Expr) => void,
  handlerType: number,
): void {
  const params = TAILS[name].params.map((_, k) => f.param(k));
  const record = params[0]!;
  const follow = (found: Expr): void => {
    const to = f.let(found);
    f.if(i32.eqz(to), () => f.return());
    goTo(to);
  };
  switch (name) {
    case 'heated':
      f.drop(calls('hot', [record]));
      return goTo(record);
    case 'linked0':
      return follow(calls('link', [record, k32(0)]));
    case 'linked1':
      return follow(calls('link', [record, k32(1)]));
    case 'goOn':
      return follow(calls('lookup', []));
    case 'raised':
      return f.drop(calls('raise', params));
    case 'settled':
      f.drop(calls('settle', params.slice(0, 5)));
      return f.returnCallIndirect(handlerType, params[5]!, params[6]!);
  }
}

function buildGoOn(state: number, link: Linkage, near: boolean): FunctionBuilder {
  const f = new FunctionBuilder(HANDLER);
  const c = new InterpEmit(f, NO_INSN, state, link, { takenNear: false, nextNear: near });
  c.goOn();
  return f;
}
