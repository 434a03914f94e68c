import { defineSse } from './sse.ts';
import { defineMov } from './mov.ts';
import { defineAlu } from './alu.ts';
import { defineBranch } from './branch.ts';
import { defineStack } from './stack.ts';
import { defineFlagops } from './flagops.ts';
import { defineShift } from './shift.ts';
import { defineMuldiv } from './muldiv.ts';
import { defineBit } from './bit.ts';
import { defineCmpxchg } from './cmpxchg.ts';
import { defineString } from './string.ts';
import { defineDecimal } from './decimal.ts';
import { defineIo } from './io.ts';
import { defineSegment } from './segment.ts';
import { defineSystem } from './system.ts';
import { defineSystemFlow } from './system-flow.ts';
import { defineMmx } from './mmx.ts';
import { defineX87 } from './x87.ts';
import { defineX87Rare } from './x87-rare.ts';

/** All instruction families. Order matters only where two forms share an opcode: the first that fits wins. */
export function defineAll(): void {
  // each family's define function is called here
  defineMov();
  defineAlu();
  defineBranch();
  defineStack();
  defineFlagops();
  defineShift();
  defineMuldiv();
  defineBit();
  defineCmpxchg();
  defineString();
  defineDecimal();
  defineSystem();
  defineSystemFlow();
  defineSegment();
  defineIo();
  defineSse();
  defineMmx();
  defineX87();
  defineX87Rare();
}
