import { cpuidLeaf } from '../../emulator/cpu/system/cpuid.ts';
import { DEFS } from '../../emulator/cpu/insn.ts';
import { defineAll } from '../../emulator/cpu/defs/index.ts';
import { RECIPES, SUITE } from '../../disks/recipes.ts';
import type { Result } from './results.ts';

export const BEGIN = '<!-- compatibility: written by npm run compatibility -->';
export const END = '<!-- /compatibility -->';

interface Feature {
  name: string;
  leaf: number;
  /** 0 to 3: EAX, EBX, ECX, EDX */
  register: 0 | 1 | 2 | 3;
  bit: number;
}
const feature = (leaf: number, register: 0 | 1 | 2 | 3, names: Record<string, number>): Feature[] =>
  Object.entries(names).map(([name, bit]) => ({ name, leaf, register, bit }));

/** Names of CPUID's feature bits (SDM vol. 2, CPUID), as far as programs ask for them. */
const FEATURES: readonly Feature[] = [
  ...feature(1, 3, { x87: 0, CMPXCHG8B: 8, SEP: 11, CMOV: 15, CLFLUSH: 19, MMX: 23, FXSR: 24, SSE: 25, SSE2: 26 }),
  ...feature(1, 2, {
    SSE3: 0,
    SSSE3: 9,
    CMPXCHG16B: 13,
    'SSE4.1': 19,
    'SSE4.2': 20,
    MOVBE: 22,
    POPCNT: 23,
    RDRAND: 30,
  }),
  ...feature(1, 2, { PCLMULQDQ: 1, FMA: 12, AES: 25, XSAVE: 26, AVX: 28, F16C: 29 }),
  ...feature(7, 1, {
    FSGSBASE: 0,
    BMI1: 3,
    AVX2: 5,
    SMEP: 7,
    BMI2: 8,
    ERMS: 9,
    RDSEED: 18,
    ADX: 19,
    SMAP: 20,
    SHA: 29,
    'AVX-512': 16,
  }),
  ...feature(0x80000001, 2, { LAHF: 0, LZCNT: 5 }),
  ...feature(0x80000001, 3, { SYSCALL: 11, NX: 20, RDTSCP: 27, '64-bit mode': 29 }),
  ...feature(1, 3, { PAE: 6, PGE: 13, PAT: 16 }),
  ...feature(0x80000001, 3, { '1-GiB pages': 26 }),
  ...feature(1, 2, { PCID: 17, 'TSC deadline': 24 }),
  ...feature(7, 1, { INVPCID: 10 }),
];

const offered = ({ leaf, register, bit }: Feature): boolean => ((cpuidLeaf(leaf, 0)[register] >>> bit) & 1) === 1;

/** What is not there, and what it means for a guest. Each is a decision or a gap that is known, not an accident. */
const MISSING: readonly (readonly [string, string])[] = [
  ['more than one processor', 'kernels see one'],
  [
    'where the last x87 instruction and its operand were (FIP, FDP, FOP)',
    'kept as loaded and not followed, as on processors that know them only while an exception is pending',
  ],
  ['performance counters, VMX, SVM', 'not offered'],
];

const row = (...cells: string[]): string => `| ${cells.join(' | ')} |`;

/** The section between the marks, as Markdown. */
export function compatibilityTable(results: readonly Result[]): string {
  if (!DEFS.length) defineAll();
  const names = (want: boolean): string =>
    FEATURES.filter((f) => offered(f) === want)
      .map((f) => f.name)
      .join(', ');
  const passed = results.filter((r) => r.passed);
  const failed = results.filter((r) => !r.passed);
  const python = passed.filter((r) => r.program.startsWith('Python'));
  const others = passed.filter((r) => !r.program.startsWith('Python')).map((r) => r.program);
  const counts = ({ detail }: Result): string =>
    detail ? ` (${detail.replace(/^run=([\d,]+)/, '$1').replace(/ skipped=/, ', skipped ')})` : '';
  const modules = python.map((r) => `\`${r.program.replace(/^Python's test_/, '')}\`${counts(r)}`).join(', ');
  const lines = [
    row('', ''),
    row('---', '---'),
    row('offered by CPUID', names(true)),
    row('not offered', names(false)),
    row(
      'instruction forms',
      `${DEFS.length}; \`npm run conformance\` holds them against the processor that it runs on`,
    ),
    row(
      'guests',
      `Debian ${SUITE}, its own amd64 kernel: ${RECIPES.map((r) => `\`${r.name}\``).join(', ')}; kernels by the Linux boot protocol, PVH, Multiboot`,
    ),
  ];
  if (others.length) lines.push(row('programs with the results of the host', others.join('; ')));
  if (modules)
    lines.push(
      row(
        "Python's own tests that pass",
        `${modules}; skipped are those for other systems, for hours (\`-u cpu,walltime\`), and of what Debian's build leaves out`,
      ),
    );
  for (const r of failed) lines.push(row(`does not pass: ${r.program}`, r.detail ?? ''));
  for (const [what, means] of MISSING) lines.push(row(`not there: ${what}`, means));
  return lines.join('\n');
}

/** A document with the section written anew. @throws Error when it has no marks */
export function withTable(document: string, table: string): string {
  const from = document.indexOf(BEGIN);
  const to = document.indexOf(END);
  if (from < 0 || to < from) throw new Error(`README.md has no section between "${BEGIN}" and "${END}"`);
  return `${document.slice(0, from + BEGIN.length)}\n\n${table}\n\n${document.slice(to)}`;
}
