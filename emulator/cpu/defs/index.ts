import { defineMov } from './mov.ts';
import { defineAlu } from './alu.ts';
import { defineBranch } from './branch.ts';
import { defineStack } from './stack.ts';
import { defineFlagops } from './flagops.ts';
/** All instruction families. Order matters only where two forms share an opcode: the first that fits wins. */
export function defineAll(): void {
  // each family's define function is called here
  defineMov();
  defineAlu();
  defineBranch();
  defineStack();
  defineFlagops();
}
