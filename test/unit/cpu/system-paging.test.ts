/** Address translation: page faults of every kind, accessed and dirty bits, stale translations, interrupted instructions. */
import { beforeEach, describe, expect, test } from 'vitest';
import { asm, asm32, assembles, type Code } from './assembler.ts';
import {
  CODE,
  GDT,
  KERNEL_STACK,
  PD,
  PT,
  SMALL,
  SystemMachine,
  TABLES,
  TSS,
  UCODE32,
  USER_STACK,
  watchCompiler,
} from './system-machine.ts';

const P = 1;
const W = 2;
const U = 4;
const NX = 1n << 63n;
/** A small page that a test changes; the ones after it are whole. */
const PAGE = SMALL + 0x5000;
const NEXT = PAGE + 0x1000;
const CR0_WP = 1 << 16;
const NXE = 1 << 11;

const load = asm('mov ebx, [rax]');
const store = asm('mov [rax], ebx');
const fetch = asm('jmp rax');
const modify = asm('add dword ptr [rax], 1');
const compare = asm('cmpxchg [rax], ecx');
const fault = { vector: 14 };

watchCompiler();

describe.skipIf(!assembles).each(['interp', 'jit', 'light'] as const)('%s', (tier) => {
  const m = new SystemMachine(tier);
  const { cpu } = m;

  /** Runs code in kernel or user mode with small pages, RAX pointing at the changed one. */
  function start(code: Code, who: 'kernel' | 'user', rax: number | bigint = PAGE + 0x10): void {
    if (who === 'kernel') m.kernel(code.bytes, { rax });
    else m.user(code.bytes, { rax });
    m.smallPages();
    cpu.efer |= NXE;
    m.cpu.modeChanged();
  }

  describe('error codes', () => {
    test.each<[string, Code, 'kernel' | 'user', number | bigint, number]>([
      ['read, not present', load, 'kernel', 0, 0],
      ['read, not present, user', load, 'user', 0, 4],
      ['write, not present', store, 'kernel', 0, 2],
      ['write, not present, user', store, 'user', 0, 6],
      ['write to a page that can only be read', store, 'kernel', P | U, 3],
      ['write to a page that can only be read, user', store, 'user', P | U, 7],
      ['read-modify-write of a page that can only be read', modify, 'user', P | U, 7],
      ['CMPXCHG that would not write', compare, 'user', P | U, 7],
      ["read of the supervisor's page, user", load, 'user', P | W, 5],
      ["write to the supervisor's page, user", store, 'user', P | W, 7],
      ['fetch, not present', fetch, 'kernel', 0, 0x10],
      ['fetch, not present, user', fetch, 'user', 0, 0x14],
      ['fetch of a page that cannot be executed', fetch, 'kernel', NX | 7n, 0x11],
      ['fetch of a page that cannot be executed, user', fetch, 'user', NX | 7n, 0x15],
      ["fetch of the supervisor's page, user", fetch, 'user', P, 0x15],
      ['reserved bit', load, 'kernel', (1n << 45n) | 7n, 9],
      ['reserved bit, user write', store, 'user', (1n << 51n) | 7n, 0xf],
      ['reserved bit before rights', store, 'user', (1n << 40n) | 1n, 0xf],
    ])('%s', (_, code, who, entry, error) => {
      start(code, who);
      m.page(PAGE, entry ? PAGE : 0, entry);
      const rip = code === fetch ? PAGE + 0x10 - CODE : 0;
      expect(m.trap()).toMatchObject({ ...fault, code: error, rip, cr2: PAGE + 0x10 });
      // A page fault stays one when it comes again.
      cpu.setRip(code === fetch ? PAGE + 0x10 : CODE, 0);
      cpu.rflags = 2;
    });

    test.each([
      ['without EFER.NXE, a fetch is a read', fetch, 0n, 0],
      ['without EFER.NXE, the NX bit is reserved', load, NX | 7n, 9],
    ])('%s', (_, code, entry, error) => {
      start(code, 'kernel');
      cpu.efer &= ~NXE;
      m.page(PAGE, entry ? PAGE : 0, entry);
      expect(m.trap()).toMatchObject({ ...fault, code: error });
    });

    test.each<[string, number, number | bigint, Code, 'kernel' | 'user', number]>([
      ['PDE not writable', PD + 24, PT | P | U, store, 'kernel', 3],
      ["PDE the supervisor's", PD + 24, PT | P | W, load, 'user', 5],
      ['PDE not executable', PD + 24, BigInt(PT) | 7n | NX, fetch, 'kernel', 0x11],
      ['PDPTE not present', 0x2000, 0, load, 'kernel', 0],
      ['PML4E not present', TABLES, 0, load, 'kernel', 0],
      ['PML4E with the page size bit', TABLES, 0x2087, load, 'kernel', 9],
      ['PDE of 2 MiB with low address bits', PD + 24, 0x602087, load, 'kernel', 9],
      ['PDPTE of 1 GiB with low address bits', 0x2000, 0x20_0087, load, 'kernel', 9],
    ])('%s', (_, at, entry, code, who, error) => {
      // Through another address, so that the code's own translation stays: the second half of the PML4 is made alike.
      start(code, who);
      for (const [from, to] of [
        [TABLES, TABLES + 8],
        [0x2000, 0x4000],
        [PD, 0x5000],
      ] as const)
        for (let i = 0; i < 512; i++) if (from !== TABLES) m.quad(to + i * 8, m.read(from + i * 8));
      m.quad(TABLES + 8, 0x4007);
      m.quad(0x4000, 0x5007);
      const there = at === TABLES ? TABLES + 8 : at === 0x2000 ? 0x4000 : 0x5000 + 24;
      m.quad(there, entry);
      const rax = 0x80_0000_0000n + BigInt(PAGE + 0x10);
      cpu.setBig(0, rax);
      expect(m.trap()).toMatchObject({ ...fault, code: error });
      expect(cpu.u64[(cpu.state + 0x2b0) >> 3]).toBe(rax);
    });

    test('CR0.WP off lets the supervisor write to what can only be read, and the page becomes dirty', () => {
      start(store, 'kernel');
      m.page(PAGE, PAGE, P | U);
      cpu.cr0 &= ~CR0_WP;
      cpu.setBig(3, 0x1234n);
      expect(m.run()).toBe('halted');
      expect(m.read(PAGE + 0x10) & 0xffffffffn).toBe(0x1234n);
      expect(m.pageEntry(PAGE) & 0x60n).toBe(0x60n);
    });

    test('setting CR0.WP again takes that back', () => {
      const code = asm('mov [rax], ebx; mov rcx, cr0; bts rcx, 16; mov cr0, rcx; mov [rax], ebx');
      start(code, 'kernel');
      m.page(PAGE, PAGE, P | U);
      cpu.cr0 &= ~CR0_WP;
      expect(m.trap()).toMatchObject({ ...fault, code: 3, rip: code.bytes.length - 2 });
    });
  });

  describe('accessed and dirty bits', () => {
    const entries = (): number[] =>
      [m.pageEntry(PAGE), m.read(PD + 24), m.read(0x2000), m.read(TABLES)].map((e) => Number(e & 0x60n));

    test('a read marks all levels accessed', () => {
      start(load, 'kernel');
      m.run();
      expect(entries()).toEqual([0x20, 0x20, 0x20, 0x20]);
    });

    test('a write after a read marks the page dirty, and only that', () => {
      start(asm('mov ebx, [rax]; mov [rax], ebx'), 'kernel');
      m.run();
      expect(entries()).toEqual([0x60, 0x20, 0x20, 0x20]);
    });

    test('a fault changes nothing of the page', () => {
      start(store, 'user');
      m.page(PAGE, PAGE, P | U);
      expect(m.trap().code).toBe(7);
      expect(m.pageEntry(PAGE) & 0x40n).toBe(0n);
    });

    test('bits that software cleared are set again after INVLPG', () => {
      start(asm('mov [rax], ebx; and qword ptr [rcx], -97; invlpg [rax]; mov ebx, [rax]'), 'kernel');
      cpu.setBig(1, BigInt(PT + 5 * 8));
      m.run();
      expect(Number(m.pageEntry(PAGE) & 0x60n)).toBe(0x20);
    });

    test('large pages of 2 MiB and 1 GiB have them in their own entry', () => {
      m.kernel(asm('mov ebx, [0x500000]; mov [0x700000], ebx; mov rax, 0x40000000; mov ebx, [rax]').bytes);
      m.quad(0x2008, 0x87);
      cpu.mmu.flush(true);
      m.run();
      expect([2, 3].map((i) => Number(m.read(PD + i * 8) & 0x60n))).toEqual([0x20, 0x60]);
      expect(Number(m.read(0x2008) & 0x60n)).toBe(0x20);
    });

    test('a locked read-modify-write that crosses pages marks both dirty', () => {
      start(asm('lock add dword ptr [rax], 1'), 'kernel', NEXT - 2);
      m.run();
      expect([PAGE, NEXT].map((p) => Number(m.pageEntry(p) & 0x60n))).toEqual([0x60, 0x60]);
    });
  });

  describe('translations that were changed', () => {
    /** Runs `use`, then code that points PAGE at NEXT and does `after`, then `use` again. */
    const code = (use: string, after: string): Code =>
      asm(`${use}; mov qword ptr [rcx], ${NEXT | 7}; ${after}; ${use}; mov edx, ebx`);
    const reload = 'mov rdx, cr3; mov cr3, rdx';

    function prepare(c: Code): void {
      start(c, 'kernel', PAGE);
      cpu.setBig(1, BigInt(PT + 5 * 8));
      m.view.setUint32(PAGE, 0x111, true);
      m.view.setUint32(NEXT, 0x222, true);
    }

    test.each([
      ['INVLPG', 'invlpg [rax+0xabc]'],
      ['CR3', reload],
    ])('reads follow after %s', (_, after) => {
      prepare(code('mov ebx, [rax]', after));
      m.run();
      expect(cpu.low(2)).toBe(0x222);
    });

    test.each([
      ['INVLPG', 'invlpg [rax]'],
      ['CR3', reload],
    ])('writes follow after %s', (_, after) => {
      prepare(code('mov dword ptr [rax], 0x333', after));
      m.run();
      expect([m.view.getUint32(PAGE, true), m.view.getUint32(NEXT, true)]).toEqual([0x333, 0x333]);
    });

    test.each([
      ['INVLPG', 'invlpg [rax]'],
      ['CR3', reload],
    ])('fetches follow after %s', (_, after) => {
      prepare(code('call rax', after));
      m.cpu.memory.write(PAGE, Uint8Array.of(0xb3, 1, 0xc3)); // mov bl,1; ret
      m.cpu.memory.write(NEXT, Uint8Array.of(0xb3, 2, 0xc3));
      m.run();
      expect(cpu.low(2) & 0xff).toBe(2);
    });

    test('a loop that runs in the page follows too', () => {
      // The page's code calls back to what changes its own mapping.
      prepare(asm('call rax; call rax; mov edx, ebx'));
      const body = (n: number): number[] =>
        asm(`mov bl, ${n}; mov qword ptr [rcx], ${NEXT | 7}; invlpg [rax]; nop; ret`).bytes;
      m.cpu.memory.write(PAGE, Uint8Array.from(body(1)));
      m.cpu.memory.write(NEXT, Uint8Array.from(body(2)));
      m.run();
      expect(cpu.low(2) & 0xff).toBe(2);
    });

    test('INVLPG of any address in a large page forgets all of it', () => {
      const large = SMALL;
      m.kernel(asm(`mov ebx, [rax]; mov qword ptr [rcx], ${0x80_0087}; invlpg [rax+0x10000]; mov edx, [rax]`).bytes, {
        rax: large + 0x3000,
        rcx: PD + 24,
      });
      m.view.setUint32(large + 0x3000, 1, true);
      m.view.setUint32(0x80_3000, 2, true);
      m.run();
      expect(cpu.low(2)).toBe(2);
    });

    test('INVLPG forgets a global page, CR3 does not', () => {
      const again = (after: string): number => {
        prepare(code('mov ebx, [rax]', after));
        cpu.cr4 |= 0x80;
        cpu.modeChanged();
        m.page(PAGE, PAGE, 0x107);
        m.run();
        return cpu.low(2);
      };
      expect(again(reload)).toBe(0x111);
      expect(again('invlpg [rax]')).toBe(0x222);
      expect(again('mov rdx, cr4; btc rdx, 7; mov cr4, rdx; btc rdx, 7; mov cr4, rdx')).toBe(0x222);
    });

    test('rights that were taken away are gone for user code', () => {
      start(asm('mov [rax], ebx; int 0x80; mov [rax], ebx'), 'user');
      m.gate(0x80, { dpl: 3 });
      // The handler takes the right to write, forgets the translation and returns.
      cpu.memory.write(0xc000 + 0x80 * 16, Uint8Array.from(asm(`jmp %%start + ${0x1f0000 - 0xc800}`).bytes));
      cpu.memory.write(
        0xc800 + 0x1f0000 - 0xc800,
        Uint8Array.from(asm('and qword ptr [rcx], -3; invlpg [rax]; iretq').bytes),
      );
      cpu.setBig(1, BigInt(PT + 5 * 8));
      expect(m.trap()).toMatchObject({ ...fault, code: 7, rip: 4 });
    });

    test('an instruction that crosses into a page that was changed is decoded anew', () => {
      // mov ebx, imm32 with its last two bytes in the next page
      start(asm('call rax; mov edx, ebx; mov qword ptr [rcx], 0x609007; invlpg [rsi]; call rax'), 'kernel', NEXT - 3);
      cpu.setBig(1, BigInt(PT + 6 * 8));
      cpu.setBig(6, BigInt(NEXT));
      cpu.memory.write(NEXT - 3, Uint8Array.of(0xbb, 0x11, 0x11, 0x22, 0x22, 0xc3));
      cpu.memory.write(0x60_9000, Uint8Array.of(0x33, 0x33, 0xc3));
      m.run();
      expect([cpu.low(2), cpu.low(3)]).toEqual([0x22221111, 0x33331111]);
    });

    test.each([
      ['', ''],
      [' and code elsewhere, too', 'mov byte ptr [rdi], 0xc3; '],
    ])('so is one after which nothing of that page is run%s', (_, elsewhere) => {
      // ret imm16 with its immediate in the next page
      start(
        asm(
          'call rdi; mov rbp, rsp; push 0; call rax; sub rbp, rsp; mov edx, ebp; ' +
            `${elsewhere}mov qword ptr [rcx], 0x609007; invlpg [rsi]; mov rbp, rsp; push 0; call rax; sub rbp, rsp`,
        ),
        'kernel',
        NEXT - 1,
      );
      cpu.setBig(1, BigInt(PT + 6 * 8));
      cpu.setBig(6, BigInt(NEXT));
      cpu.setBig(7, BigInt(NEXT + 0x1000));
      cpu.memory.write(NEXT - 1, Uint8Array.of(0xc2, 0, 0));
      cpu.memory.write(0x60_9000, Uint8Array.of(8, 0));
      cpu.memory.write(NEXT + 0x1000, Uint8Array.of(0xc3));
      m.run();
      expect([cpu.low(2), cpu.low(5)]).toEqual([8, 0]);
    });
  });

  describe('instructions that a fault interrupts', () => {
    beforeEach(() => {
      start(load, 'kernel');
      cpu.memory.bytes.fill(0xee, PAGE, NEXT + 0x1000);
    });

    interface Case {
      code: Code;
      registers?: Partial<Record<'rax' | 'rcx' | 'rsi' | 'rdi' | 'rsp' | 'rbp' | 'rdx' | 'rbx', number>>;
      flags?: number;
      error: number;
      cr2: number;
      after?: Partial<Record<'rcx' | 'rsi' | 'rdi' | 'rsp' | 'rbp', number>>;
      rip?: number;
    }
    const END = NEXT;

    test.each<[string, Case]>([
      [
        'REP MOVSB: source',
        {
          code: asm('rep movsb'),
          registers: { rsi: END - 3, rdi: PAGE, rcx: 9 },
          error: 0,
          cr2: END,
          after: { rsi: END, rdi: PAGE + 3, rcx: 6 },
        },
      ],
      [
        'REP MOVSB: destination',
        {
          code: asm('rep movsb'),
          registers: { rsi: PAGE, rdi: END - 3, rcx: 9 },
          error: 2,
          cr2: END,
          after: { rsi: PAGE + 3, rdi: END, rcx: 6 },
        },
      ],
      [
        'REP MOVSD: an element across pages',
        {
          code: asm('rep movsd'),
          registers: { rsi: PAGE, rdi: END - 10, rcx: 9 },
          error: 2,
          cr2: END,
          after: { rsi: PAGE + 8, rdi: END - 2, rcx: 7 },
        },
      ],
      [
        'REP STOSQ',
        {
          code: asm('rep stosq'),
          registers: { rdi: END - 16, rcx: 9 },
          error: 2,
          cr2: END,
          after: { rdi: END, rcx: 7 },
        },
      ],
      [
        'REP LODSD',
        {
          code: asm('rep lodsd'),
          registers: { rsi: END - 8, rcx: 9 },
          error: 0,
          cr2: END,
          after: { rsi: END, rcx: 7 },
        },
      ],
      [
        'REPE CMPSB',
        {
          code: asm('repe cmpsb'),
          registers: { rsi: END - 4, rdi: PAGE + 0x100, rcx: 9 },
          error: 0,
          cr2: END,
          after: { rsi: END, rdi: PAGE + 0x104, rcx: 5 },
        },
      ],
      [
        'REPNE SCASW',
        {
          code: asm('repne scasw'),
          registers: { rdi: END - 4, rcx: 9 },
          error: 0,
          cr2: END,
          after: { rdi: END, rcx: 7 },
        },
      ],
      ['PUSH', { code: asm('push rax'), registers: { rsp: END + 8 }, error: 2, cr2: END, after: { rsp: END + 8 } }],
      [
        'PUSH across pages',
        { code: asm('push rax'), registers: { rsp: END + 4 }, error: 2, cr2: END, after: { rsp: END + 4 } },
      ],
      [
        'PUSH of memory',
        { code: asm('push [rbx]'), registers: { rbx: END, rsp: END + 8 }, error: 0, cr2: END, after: { rsp: END + 8 } },
      ],
      ['POP', { code: asm('pop rax'), registers: { rsp: END }, error: 0, cr2: END, after: { rsp: END } }],
      [
        'POP to memory',
        { code: asm('pop [rbx]'), registers: { rbx: END, rsp: PAGE }, error: 2, cr2: END, after: { rsp: PAGE } },
      ],
      [
        'POP to memory by the new RSP',
        { code: asm('pop [rsp+0x10]'), registers: { rsp: END - 0x18 }, error: 2, cr2: END, after: { rsp: END - 0x18 } },
      ],
      ['CALL', { code: asm('call rax'), registers: { rsp: END + 8 }, error: 2, cr2: END, after: { rsp: END + 8 } }],
      ['RET', { code: asm('ret 8'), registers: { rsp: END }, error: 0, cr2: END, after: { rsp: END } }],
      [
        'ENTER',
        {
          code: asm('enter 16, 0'),
          registers: { rsp: END + 8, rbp: PAGE },
          error: 2,
          cr2: END,
          after: { rsp: END + 8, rbp: PAGE },
        },
      ],
      [
        'LEAVE',
        {
          code: asm('leave'),
          registers: { rbp: END - 4, rsp: PAGE },
          error: 0,
          cr2: END,
          after: { rsp: PAGE, rbp: END - 4 },
        },
      ],
      [
        'RETF, its CS in the next page',
        { code: asm('retfq'), registers: { rsp: END - 8 }, error: 0, cr2: END, after: { rsp: END - 8 } },
      ],
      [
        'IRETQ, its SS in the next page',
        { code: asm('iretq'), registers: { rsp: END - 0x20 }, error: 0, cr2: END, after: { rsp: END - 0x20 } },
      ],
      ['a store across pages', { code: asm('mov [rbx], rax'), registers: { rbx: END - 3 }, error: 2, cr2: END }],
      [
        'a store of 16 bytes across pages',
        { code: asm('movdqu [rbx], xmm0'), registers: { rbx: END - 3 }, error: 2, cr2: END },
      ],
      ['a read across pages', { code: asm('mov rax, [rbx]'), registers: { rbx: END - 7 }, error: 0, cr2: END }],
      ['XCHG across pages', { code: asm('xchg [rbx], rax'), registers: { rbx: END - 7 }, error: 2, cr2: END }],
      [
        'FSTP of 10 bytes across pages',
        { code: asm('fldpi; fstp tbyte ptr [rbx]'), registers: { rbx: END - 9 }, error: 2, cr2: END, rip: 2 },
      ],
      ['FXSAVE across pages', { code: asm('fxsave [rbx]'), registers: { rbx: END - 256 }, error: 2, cr2: END }],
      [
        'BTS far from its base',
        { code: asm('bts [rbx], rcx'), registers: { rbx: PAGE, rcx: 0x8000 }, error: 2, cr2: END },
      ],
      ['SGDT across pages', { code: asm('sgdt [rbx]'), registers: { rbx: END - 4 }, error: 2, cr2: END }],
    ])('%s', (_, c) => {
      const { bytes } = c.code;
      m.kernel(bytes, { rax: PAGE, ...c.registers });
      m.smallPages();
      cpu.cr4 |= 0x600;
      cpu.modeChanged();
      m.page(END, 0, 0);
      // Far returns want selectors.
      if (/RETF|IRETQ/.test(_)) {
        [CODE, 0x10, 2, KERNEL_STACK].forEach((value, i) => {
          const at = c.registers!.rsp! + i * 8;
          if (at < END) m.quad(at, value);
        });
      }
      m.gate(14, { ist: 1 });
      const before = cpu.memory.bytes.slice(END - 16, END);
      const rsp = c.registers?.rsp ?? KERNEL_STACK;
      expect(m.trap()).toMatchObject({ ...fault, code: c.error, cr2: c.cr2, rip: c.rip ?? 0, rsp });
      const names = ['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi'];
      for (const [name, value] of Object.entries({ ...c.registers, ...c.after }))
        if (name !== 'rsp') expect([name, cpu.big(names.indexOf(name))]).toEqual([name, BigInt(value)]);
      // What was not done left no trace.
      if (!/REP|RETF|IRETQ|SGDT|FXSAVE/.test(_)) expect(cpu.memory.bytes.slice(END - 16, END)).toEqual(before);
    });

    test('an interrupted string instruction goes on where it was', () => {
      m.kernel(asm('rep movsb').bytes, { rsi: PAGE, rdi: END - 3, rcx: 9 });
      m.smallPages();
      for (let i = 0; i < 9; i++) cpu.memory.bytes[PAGE + i] = i + 1;
      m.page(END, 0, 0);
      // The handler maps the page and returns.
      const handler = asm(`mov qword ptr [${PT + 6 * 8}], ${END | 7}; add rsp, 8; iretq`).bytes;
      cpu.memory.write(0x1f_0000, Uint8Array.from(handler));
      cpu.memory.write(0xc000 + 14 * 16, Uint8Array.from(asm(`jmp %%start + ${0x1f_0000 - 0xc000 - 14 * 16}`).bytes));
      expect(m.run()).toBe('halted');
      expect([...cpu.memory.bytes.subarray(END - 3, END + 6)]).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]);
      expect(cpu.big(1)).toBe(0n);
    });

    test('a descriptor table that is not there is read as the supervisor, whoever asks', () => {
      m.user(asm('mov ds, eax').bytes, { rax: 0x1000 | 3 });
      cpu.gdt.limit = 0xffff;
      m.smallPages();
      // The GDT's beginning is needed for the handler: 0x1000 bytes up lies the hole.
      cpu.memory.bytes.copyWithin(END, GDT, GDT + 0x100);
      cpu.gdt.baseLow = END;
      m.page(END + 0x1000, 0, 0);
      expect(m.trap()).toMatchObject({ ...fault, code: 0, cr2: END + 0x1000 });
    });

    test('an exception that finds no stack becomes a page fault, and that a double fault', () => {
      m.user([0x0f, 0x0b]);
      m.smallPages();
      m.quad(TSS + 4, END + 0x30);
      m.page(END, 0, 0);
      m.gate(8, { ist: 1 });
      expect(m.trap()).toMatchObject({ vector: 8, code: 0, rip: 0, rsp: USER_STACK });
    });
  });

  describe('addresses that are not canonical', () => {
    const HIGH = 0x8000_0000_0000n;
    test.each<[string, Code, number, bigint, Partial<Record<'rsp' | 'rbp', bigint>>?]>([
      ['a read', load, 13, HIGH],
      ['a read that ends there', asm('mov rbx, [rax]'), 13, HIGH - 4n],
      ['a write', store, 13, -HIGH - 8n],
      ['a read through RBP', asm('mov ebx, [rbp]'), 12, 0n, { rbp: HIGH }],
      ['PUSH', asm('push rax'), 12, 0n, { rsp: HIGH + 8n }],
      ['POP', asm('pop rax'), 12, 0n, { rsp: HIGH }],
      ['CALL with such a stack', asm('call %%start'), 12, 0n, { rsp: HIGH + 8n }],
      ['JMP', fetch, 13, HIGH],
      ['CALL', asm('call rax'), 13, HIGH],
      ['MOVS from there', asm('mov rsi, rax; movsb'), 13, HIGH],
    ])('%s', (_, code, vector, rax, more) => {
      m.kernel(code.bytes, { rax, ...more });
      for (const v of [12, 13]) m.gate(v, { ist: 1 });
      const trap = m.trap();
      expect(trap).toMatchObject({ vector, code: 0 });
      // The processor raises it at the branch, not at the target.
      expect(trap.rip).toBe(code.bytes.length - (code.bytes.at(-1) === 0xa4 ? 1 : code.bytes.length));
    });

    test('RET to such an address leaves RSP as it was', () => {
      m.kernel([0xc3], { rsp: KERNEL_STACK - 8 });
      m.quad(KERNEL_STACK - 8, HIGH);
      expect(m.trap()).toMatchObject({ vector: 13, code: 0, rip: 0, rsp: KERNEL_STACK - 8 });
    });

    test('an access at the end of the address space goes on at its beginning', () => {
      m.kernel(asm('mov rbx, [rax]').bytes, { rax: -4n });
      m.quad(TABLES + 511 * 8, 0x4007);
      m.quad(0x4000 + 511 * 8, 0x5007);
      m.quad(0x5000 + 511 * 8, SMALL | 0x87);
      cpu.memory.bytes.set([1, 2, 3, 4], SMALL + 0x1f_fffc);
      cpu.mmu.flush(true);
      cpu.memory.bytes.set([5, 6, 7, 8], 0);
      m.run();
      expect(cpu.big(3)).toBe(0x0807060504030201n);
    });
  });

  test('32-bit code falls through from 4 GiB to 0', () => {
    // The last page below 4 GiB and page 0, both mapped to RAM.
    m.user(asm32('mov eax, 0xfffffffc; jmp eax').bytes, {}, 0x202, UCODE32);
    m.quad(0x2000 + 24, 0x5007);
    m.quad(0x5000 + 511 * 8, SMALL | 0x87);
    cpu.memory.bytes.set([0x41, 0x41, 0x41, 0x41], SMALL + 0x1f_fffc); // inc ecx
    cpu.memory.bytes.set([0x41, 0x0f, 0x0b], 0);
    cpu.setBig(1, 0n);
    expect(m.trap()).toMatchObject({ vector: 6, rip: 1 - CODE });
    expect(cpu.low(1)).toBe(5);
  });

  test('RIP-relative operands near ±2 GiB', () => {
    const far = 0x7fff_f800;
    m.kernel(asm(`mov ebx, [rip+${far}]; mov ecx, [rip-${far}]`).bytes);
    // Both lie outside what is mapped: the addresses in CR2 tell.
    expect(m.trap().cr2).toBe(CODE + 6 + far);
    m.kernel([...Array<number>(4000).fill(0x90), ...asm(`mov ebx, [rip+${0x7fffffff}]`).bytes]);
    expect(m.trap().cr2).toBe(CODE + 4006 + 0x7fffffff);
  });
});
