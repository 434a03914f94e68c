/**
 * One kernel for every instruction form of which user mode sees nothing but #GP, or that a host's kernel answers
 * itself: what the host's processor cannot be asked about. `npm run conformance` counts these forms as covered here.
 */
import { CODE, DATA, FREE, GDT, IDT, KCODE64, PD, UCODE32, USER_STACK, type SystemMachine } from './system-machine.ts';

export interface KernelForm {
  /** Patterns of the instruction definitions that the kernel is about; each is in its code. */
  readonly forms: readonly string[];
  /** Runs it and says what came out. */
  readonly run: (m: SystemMachine, code: readonly number[], handler: Uint8Array) => unknown;
  readonly code: readonly number[];
  readonly expected: unknown;
  /** Code of a handler, at HANDLER. */
  readonly handler?: readonly number[];
  readonly bits?: 32;
}

const HANDLER = CODE + 0x100;
const RAX = 0;
const RCX = 1;
const RBX = 3;
const RSI = 6;
const RDI = 7;
const ONES = 0xffff_ffff_ffff_ffffn;
const VALUE = 0x1234_5678_90abn;
const le32 = (x: number): number[] => [x & 0xff, (x >> 8) & 0xff, (x >> 16) & 0xff, (x >>> 24) & 0xff];

/** A descriptor of 16 bytes at FREE, for LLDT and LTR: base DATA, limit FFH. */
function systemDescriptor(m: SystemMachine, type: number): void {
  m.view.setUint32(GDT + FREE, (DATA << 16) | 0xff, true);
  m.view.setUint32(GDT + FREE + 4, ((DATA >> 16) & 0xff) | (0x80 << 8) | (type << 8), true);
  m.quad(GDT + FREE + 8, 0);
}

/** LGDT or LIDT of what is at DATA, then SGDT or SIDT behind it: equal, and so is the table. */
const table = (load: number, store: number, base: number): Omit<KernelForm, 'forms'> => ({
  code: [0x0f, 0x01, load, 0x0f, 0x01, store], // lgdt [rax]; sgdt [rcx]
  run: (m, code) => {
    m.kernel(code, { rax: DATA, rcx: DATA + 0x20 });
    m.view.setUint16(DATA, 0x77, true);
    m.quad(DATA + 2, base);
    m.quad(DATA + 0x28, ONES);
    m.run();
    const limit = m.view.getUint16(DATA + 0x20, true);
    return { limit, base: m.read(DATA + 0x22), after: m.view.getUint16(DATA + 0x2a, true) };
  },
  expected: { limit: 0x77, base: BigInt(base), after: 0xffff },
});

/** LLDT or LTR of FREE, then its selector to a register and to memory. */
const task = (modrm: number, toRegister: number, toMemory: number, type: number): Omit<KernelForm, 'forms'> => ({
  code: [0x0f, 0x00, modrm, 0x0f, 0x00, toRegister, 0x0f, 0x00, toMemory], // lldt ax; sldt ebx; sldt [rdi]
  run: (m, code) => {
    m.kernel(code, { rax: (ONES & ~0xffffn) | BigInt(FREE), rbx: ONES, rdi: DATA });
    systemDescriptor(m, type);
    m.quad(DATA, ONES);
    m.run();
    return { register: m.cpu.big(RBX), memory: m.read(DATA), type: m.view.getUint8(GDT + FREE + 5) & 15 };
  },
  // The selector alone, zero-extended; in memory 16 bits whatever the operand size; a TSS becomes busy.
  expected: { register: BigInt(FREE), memory: (ONES & ~0xffffn) | BigInt(FREE), type: type === 9 ? 11 : type },
});

const input = (form: string, code: readonly number[], rax: bigint): KernelForm => ({
  forms: [form],
  code,
  run: (m, c) => {
    m.kernel(c, { rax: ONES, rdx: 0x60 });
    m.run();
    return m.cpu.big(RAX);
  },
  expected: rax,
});

const output = (form: string, code: readonly number[], port: number, width: number, value: number): KernelForm => ({
  forms: [form],
  code,
  run: (m, c) => {
    m.kernel(c, { rax: 0xffff_ffff_1234_5678n, rdx: 0x62 });
    m.run();
    return m.written;
  },
  expected: [[port, width, value]],
});

const string = (form: string, code: readonly number[], expected: unknown): KernelForm => ({
  forms: [form],
  code,
  run: (m, c) => {
    m.kernel(c, { rdx: 0x60, rsi: DATA, rdi: DATA });
    m.quad(DATA, 0x8877_6655_4433_2211n);
    m.run();
    return [m.read(DATA), m.cpu.big(RSI) - BigInt(DATA), m.cpu.big(RDI) - BigInt(DATA), ...m.written];
  },
  expected,
});

/** What arrives at a handler. */
const trap = (form: string, code: readonly number[], expected: unknown): KernelForm => ({
  forms: [form],
  code,
  run: (m, c) => {
    m.kernel(c);
    const { vector, stack } = m.fault();
    return [vector, Number(stack[vector === 13 ? 1 : 0]) - CODE];
  },
  expected,
});

export const KERNEL_FORMS: readonly KernelForm[] = [
  {
    forms: ['mov 0f 22 Cq,Rq', 'mov 0f 20/2 Rq,Cq'],
    code: [0x0f, 0x22, 0xd3, 0x0f, 0x20, 0xd1], // mov cr2,rbx; mov rcx,cr2
    run: (m, code) => {
      m.kernel(code, { rbx: VALUE, rcx: 1 });
      m.run();
      return m.cpu.big(RCX);
    },
    expected: VALUE,
  },
  {
    forms: ['mov 0f 22 Cq,Rq', 'mov 0f 20 Rq,Cq'],
    code: [0x44, 0x0f, 0x22, 0xc3, 0x44, 0x0f, 0x20, 0xc1], // mov cr8,rbx; mov rcx,cr8
    run: (m, code) => {
      m.kernel(code, { rbx: 5n, rcx: VALUE });
      m.run();
      return m.cpu.big(RCX);
    },
    expected: 5n,
  },
  {
    forms: ['mov 0f 23 Dq,Rq', 'mov 0f 21 Rq,Dq'],
    code: [0x0f, 0x23, 0xd3, 0x0f, 0x21, 0xd1], // mov dr2,rbx; mov rcx,dr2
    run: (m, code) => {
      m.kernel(code, { rbx: VALUE, rcx: 1 });
      m.run();
      return m.cpu.big(RCX);
    },
    expected: VALUE,
  },
  {
    forms: ['lmsw 0f 01/6 Ew', 'smsw 0f 01/4 Rv', 'clts 0f 06', 'smsw 0f 01/4 Mw'],
    // lmsw ax; smsw ebx; clts; smsw [rdi]
    code: [0x0f, 0x01, 0xf0, 0x0f, 0x01, 0xe3, 0x0f, 0x06, 0x0f, 0x01, 0x27],
    run: (m, code) => {
      m.kernel(code, { rax: 0xa, rdi: DATA });
      m.quad(DATA, 0);
      m.run();
      return [m.cpu.low(RBX) & 15, m.read(DATA) & 0xffff_ffff_ffff_000fn];
    },
    // MP and TS are set, PE cannot be cleared; then TS is cleared.
    expected: [0xb, 3n],
  },
  { forms: ['lgdt 0f 01/2 M', 'sgdt 0f 01/0 M'], ...table(0x10, 0x01, GDT) },
  { forms: ['lidt 0f 01/3 M', 'sidt 0f 01/1 M'], ...table(0x18, 0x09, IDT) },
  { forms: ['lldt 0f 00/2 Ew', 'sldt 0f 00/0 Rv', 'sldt 0f 00/0 Mw'], ...task(0xd0, 0xc3, 0x07, 2) },
  { forms: ['ltr 0f 00/3 Ew', 'str 0f 00/1 Rv', 'str 0f 00/1 Mw'], ...task(0xd8, 0xcb, 0x0f, 9) },
  {
    forms: ['invlpg 0f 01/7 M'],
    // mov ebx,[rax]; mov dword [rcx],0x800087; invlpg [rax]; mov esi,[rax]
    code: [0x8b, 0x18, 0xc7, 0x01, ...le32(0x80_0087), 0x0f, 0x01, 0x38, 0x8b, 0x30],
    run: (m, code) => {
      m.kernel(code, { rax: DATA, rcx: PD + 16 });
      m.view.setUint32(DATA, 1, true);
      m.view.setUint32(DATA + 0x40_0000, 2, true);
      m.run();
      return [m.cpu.low(RBX), m.cpu.low(RSI)];
    },
    expected: [1, 2],
  },
  {
    forms: ['wbinvd 0f 09', 'invd 0f 08'],
    code: [0x89, 0x07, 0x0f, 0x09, 0x0f, 0x08, 0x8b, 0x1f], // mov [rdi],eax; wbinvd; invd; mov ebx,[rdi]
    run: (m, code) => {
      m.kernel(code, { rax: 0x1234, rdi: DATA });
      m.run();
      return m.cpu.low(RBX);
    },
    expected: 0x1234,
  },
  {
    forms: ['sti fb', 'cli fa'],
    code: [0xfb, 0x9c, 0x5b, 0xfa, 0x9c, 0x59], // sti; pushf; pop rbx; cli; pushf; pop rcx
    run: (m, code) => {
      m.kernel(code);
      m.run();
      return [m.cpu.low(RBX) & 0x200, m.cpu.low(RCX) & 0x200];
    },
    expected: [0x200, 0],
  },
  {
    forms: ['hlt f4'],
    code: [0xf4, 0xff, 0xc0], // hlt; inc eax
    run: (m, code) => {
      m.kernel(code, { rax: 0 });
      return [m.run(), Number(m.cpu.rip) - CODE, m.run(), m.cpu.low(RAX)];
    },
    // An interrupt would go on behind it; so does the next run.
    expected: ['halted', 1, 'halted', 1],
  },
  {
    forms: ['wrmsr 0f 30', 'rdmsr 0f 32', 'swapgs 0f 01/7.0'],
    // mov ecx,GS_BASE; wrmsr; swapgs; mov ecx,KERNEL_GS_BASE; xor eax,eax; xor edx,edx; rdmsr
    code: [
      ...[0xb9, ...le32(0xc000_0101), 0x0f, 0x30, 0x0f, 0x01, 0xf8],
      ...[0xb9, ...le32(0xc000_0102), 0x31, 0xc0, 0x31, 0xd2, 0x0f, 0x32],
    ],
    run: (m, code) => {
      m.kernel(code, { rax: (ONES & ~0xffff_ffffn) | 0x9abc_def0n, rdx: (ONES & ~0xffff_ffffn) | 0x1234n });
      m.run();
      return [m.cpu.big(RAX), m.cpu.big(2)];
    },
    expected: [0x9abc_def0n, 0x1234n],
  },
  // There are no performance counters (CPUID leaf 0AH), so every one is beyond the last.
  trap('rdpmc 0f 33', [0x0f, 0x33], [13, 0]),
  trap('int cd Ib', [0xcd, 0x30], [0x30, 2]),
  trap('int1 f1', [0xf1], [1, 1]),
  {
    forms: ['syscall 0f 05', 'sysret 0f 07'],
    code: [0x0f, 0x05], // syscall; hlt
    handler: [0x48, 0x0f, 0x07], // sysretq
    run: (m, code, handler) => {
      m.user(code);
      m.cpu.memory.write(HANDLER, handler);
      m.cpu.efer |= 1;
      m.cpu.sys.starHigh = (0x20 << 16) | KCODE64;
      m.cpu.sys.lstarLow = HANDLER;
      const { vector, stack } = m.fault();
      // HLT in user mode, behind SYSCALL; RCX has its address, R11 the flags.
      return [vector, Number(stack[1]) - CODE, Number(stack[2]), Number(m.cpu.big(RCX)) - CODE, m.cpu.big(11)];
    },
    expected: [13, 2, 0x33, 2, 0x202n],
  },
  {
    forms: ['sysenter 0f 34', 'sysexit 0f 35'],
    bits: 32,
    code: [0x0f, 0x34], // sysenter
    handler: [0x0f, 0x35], // sysexit
    run: (m, code, handler) => {
      m.user(code, { rdx: CODE + 0x40, rcx: USER_STACK - 64 }, 0x202, UCODE32);
      m.cpu.memory.write(CODE + 0x40, Uint8Array.of(0xf4));
      m.cpu.memory.write(HANDLER, handler);
      Object.assign(m.cpu.sys, { sysenterCs: KCODE64, sysenterEspLow: DATA, sysenterEipLow: HANDLER });
      const { vector, stack } = m.fault();
      return [vector, Number(stack[1]) - CODE, Number(stack[2]), Number(stack[4]) - USER_STACK, Number(stack[5])];
    },
    expected: [13, 0x40, UCODE32, -64, 0x2b],
  },
  // The port gives 11223344H, its address less 60H added.
  input('in e4 Ab,Ib', [0xe4, 0x61], (ONES & ~0xffn) | 0x45n),
  input('in e5 Az,Ib', [0xe5, 0x61], 0x1122_3345n),
  input('in ec Ab,DX', [0xec], (ONES & ~0xffn) | 0x44n),
  input('in ed Az,DX', [0x66, 0xed], (ONES & ~0xffffn) | 0x3344n),
  output('out e6 Ib,Ab', [0xe6, 0x61], 0x61, 1, 0x78),
  output('out e7 Ib,Az', [0xe7, 0x61], 0x61, 4, 0x1234_5678),
  output('out ee DX,Ab', [0xee], 0x62, 1, 0x78),
  output('out ef DX,Az', [0x66, 0xef], 0x62, 2, 0x5678),
  string('insb 6c', [0x6c], [0x8877_6655_4433_2244n, 0n, 1n]),
  string('insv 6d', [0x6d], [0x8877_6655_1122_3344n, 0n, 4n]),
  string('outsb 6e', [0x6e], [0x8877_6655_4433_2211n, 1n, 0n, [0x60, 1, 0x11]]),
  string('outsv 6f', [0x66, 0x6f], [0x8877_6655_4433_2211n, 2n, 0n, [0x60, 2, 0x2211]]),
];

/** Patterns of all these forms. */
export const formsOfKernels = (): Set<string> => new Set(KERNEL_FORMS.flatMap((k) => k.forms));
