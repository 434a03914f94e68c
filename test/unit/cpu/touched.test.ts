/** Which pages of RAM count as written to: what has never been is neither looked at when it is given back nor when a state is restored. */
import { describe, expect, test } from 'vitest';
import { GuestMemory } from '../../../emulator/memory.ts';
import { asm, assembles } from './assembler.ts';
import { SystemMachine } from './system-machine.ts';

const touchedBy = (write: (memory: GuestMemory) => void): number[] => {
  const memory = new GuestMemory(new ArrayBuffer(0x8000), 0, 0x8000);
  write(memory);
  return [...memory.touched].flatMap((t, page) => (t & 1 ? [page] : []));
};

test('what devices write to, and nothing else', () => {
  expect(touchedBy(() => undefined)).toEqual([]);
  expect(touchedBy((m) => m.read64(0x1000))).toEqual([]);
  expect(touchedBy((m) => m.slice(0x1000, 0x2000))).toEqual([]);
  expect(touchedBy((m) => m.write(0x1fff, new Uint8Array(0x1002)))).toEqual([1, 2, 3]);
  expect(touchedBy((m) => m.write(0x1000, new Uint8Array(0x1000)))).toEqual([1]);
  expect(touchedBy((m) => m.write(0x1000, new Uint8Array(0)))).toEqual([]);
  expect(touchedBy((m) => m.writable(0x2000, 1))).toEqual([2]);
  expect(touchedBy((m) => m.write8(0x3fff, 1))).toEqual([3]);
  expect(touchedBy((m) => m.write16(0x4000, 1))).toEqual([4]);
  expect(touchedBy((m) => m.write32(0x5ffc, 1))).toEqual([5]);
  expect(touchedBy((m) => m.write64(0x6ffc, 1))).toEqual([6, 7]);
});

describe.skipIf(!assembles).each(['interp', 'jit', 'light'] as const)('by the guest (%s)', (tier) => {
  const AT = 0x60_0000;
  const touched = (code: string, prepare: (m: SystemMachine) => void = () => undefined): number[] => {
    const m = new SystemMachine(tier);
    m.kernel(asm(code).bytes, { rax: AT });
    prepare(m);
    m.run();
    return [...m.cpu.memory.touched.subarray(AT >>> 12, (AT >>> 12) + 8)].flatMap((t, page) => (t & 1 ? [page] : []));
  };

  test('stores do, of any kind', () => {
    expect(touched('mov [rax], ebx; lock inc dword ptr [rax+0x1000]; mov [rax+0x2ffe], ebx')).toEqual([0, 1, 2, 3]);
    // The second page's store makes their large page dirty, so that the load of the first makes it writable.
    expect(touched('mov [rax+0x1000], ebx; mov ebx, [rax]; mov [rax], bl')).toEqual([0, 1]);
    expect(touched('lea rdi, [rax+0x1000]; mov ecx, 0x1800; rep stosb')).toEqual([1, 2]);
  });

  test('stores that are watched, too', () => {
    const watch = (m: SystemMachine): void => {
      m.cpu.dr[0] = BigInt(AT + 0x5000);
      m.cpu.mmu.watching = true;
      m.cpu.mmu.flush(true);
    };
    expect(touched('mov [rax], ebx; add [rax+0x1000], ebx', watch)).toEqual([0, 1]);
  });
});

describe.skipIf(!assembles)('by a program that is never written to', () => {
  test('loads and fetches do not', () => {
    const m = new SystemMachine('interp');
    m.kernel(asm('mov ebx, [rax]; add ebx, [rax+0x1ffe]').bytes, { rax: 0x60_0000 });
    m.run();
    expect([...m.cpu.memory.touched.subarray(0x600, 0x604)].map((t) => t & 1)).toEqual([0, 0, 0, 0]);
  });
});
