import { describe, expect, test } from 'vitest';
import { DevicePages } from '../../../emulator/cpu/device-pages.ts';
import { asm, assembles } from './assembler.ts';
import { PT, SMALL, SystemMachine } from './system-machine.ts';

test('a page is found for what it was remembered for, until all are forgotten', () => {
  const pages = new DevicePages();
  expect(pages.find(0x5123, 7, false, false)).toBe(-1);
  pages.remember(0x5000, 7, 0xff_fee0_0000, false, false);
  expect(pages.find(0x5123, 7, false, false)).toBe(0xff_fee0_0123);
  expect(pages.find(0x5123, 7, true, false)).toBe(-1);
  expect(pages.find(0x5123, 7, false, true)).toBe(-1);
  expect(pages.find(0x5123, 8, false, false)).toBe(-1);
  expect(pages.find(0x1_5123 | 0, 7, false, false)).toBe(-1);
  pages.remember(0x5000, 7, 0xff_fee0_0000, true, false);
  expect(pages.find(0x5ffc, 7, true, false)).toBe(0xff_fee0_0ffc);
  pages.forget();
  expect(pages.find(0x5123, 7, false, false)).toBe(-1);
});

describe.skipIf(!assembles).each(['interp', 'jit', 'light'] as const)('registers of devices (%s)', (tier) => {
  const m = new SystemMachine(tier);
  const { cpu } = m;
  const PAGE = SMALL + 0x5000;
  const seen: string[] = [];
  for (const base of [0x4000_0000, 0x4000_1000])
    m.bus.addMmio(base, 0x1000, {
      readMmio: (offset) => base + offset,
      writeMmio: (offset, _width, value) => void seen.push(`${(base + offset).toString(16)}=${value}`),
    });
  const entry = PT + 8 * 5;
  const start = (code: string, rights: number): void => {
    m.kernel(asm(code).bytes, { rax: PAGE + 8, rcx: entry });
    m.smallPages();
    m.page(PAGE, 0x4000_0000, rights);
    seen.length = 0;
  };

  test('another page is seen after INVLPG', () => {
    start(
      `mov ebx, [rax]; mov dword ptr [rax], 1; mov qword ptr [rcx], 0x40001003; invlpg [rax]; mov edx, [rax]; mov dword ptr [rax], 2`,
      3,
    );
    m.run();
    expect([cpu.low(3), cpu.low(2)]).toEqual([0x4000_0008, 0x4000_1008]);
    expect(seen).toEqual(['40000008=1', '40001008=2']);
  });

  test('another page is seen after MOV to CR3', () => {
    start('mov ebx, [rax]; mov qword ptr [rcx], 0x40001003; mov rdi, cr3; mov cr3, rdi; mov edx, [rax]', 3);
    m.run();
    expect([cpu.low(3), cpu.low(2)]).toEqual([0x4000_0008, 0x4000_1008]);
  });

  test('a write marks the page dirty after a read has found it', () => {
    start('mov ebx, [rax]; mov dword ptr [rax], 1; mov dword ptr [rax], 2', 3);
    m.run();
    expect(m.read(entry) & 0x60n).toBe(0x60n);
    expect(seen).toEqual(['40000008=1', '40000008=2']);
  });

  test('a page that may only be read is not written after a read has found it', () => {
    start('mov ebx, [rax]; mov dword ptr [rax], 1', 1);
    cpu.cr0 |= 0x10000;
    cpu.modeChanged();
    expect(m.fault().vector).toBe(14);
    expect(seen).toEqual([]);
  });
});
