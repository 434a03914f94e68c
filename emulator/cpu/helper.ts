import type { Cpu } from './cpu.ts';
import type { Insn } from './insn.ts';

/**
 * An instruction in TypeScript. All registers and flags are in memory (see layout.ts) while it runs. It reads and writes guest
 * memory through `cpu.mmu`, raises an exception by throwing `cpu.fault(...)` before it has changed anything,
 * and, where it ends the block, sets the next RIP by `cpu.setRip`.
 *
 * @param record address of the decoded record
 */
export type Helper = (cpu: Cpu, insn: Insn, record: number) => void;
