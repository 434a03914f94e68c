import { describe, expect, test } from 'vitest';
import { writeAcpi } from '../../emulator/boot/acpi.ts';
import { defaultCmdline } from '../../emulator/boot/cmdline.ts';
import { memoryMap } from '../../emulator/boot/layout.ts';
import { BootError, loadKernel, payload } from '../../emulator/boot/load.ts';
import { GuestMemory } from '../../emulator/memory.ts';
import type { EntryState } from '../../emulator/processor.ts';
import { tinyKernel } from './helpers/stub-processor.ts';

const MiB = 1 << 20;
const memory = (size = 32 * MiB): GuestMemory => new GuestMemory(new ArrayBuffer(size), 0, size);
const string = (m: GuestMemory, at: number): string => {
  let end = at;
  while (m.read8(end)) end++;
  return new TextDecoder().decode(m.slice(at, end - at));
};
const load = (m: GuestMemory, kernel: Uint8Array, initrd?: Uint8Array, cmdline = 'console=ttyS0'): EntryState =>
  loadKernel({ memory: m, kernel, initrd, cmdline, rsdp: 0xe0000 });

/** A bzImage of one setup sector, with `code` bytes of protected-mode kernel that hold a payload. */
function bzImage(
  change: (view: DataView) => void = () => undefined,
  body: number[] = [0x28, 0xb5, 0x2f, 0xfd],
): Uint8Array {
  const kernel = new Uint8Array(1024 + 4096);
  const view = new DataView(kernel.buffer);
  view.setUint8(0x1f1, 1);
  view.setUint16(0x1fe, 0xaa55, true);
  view.setUint8(0x200, 0xeb);
  view.setUint8(0x201, 0x6a);
  view.setUint32(0x202, 0x53726448, true);
  view.setUint16(0x206, 0x20f, true);
  view.setUint8(0x211, 1);
  view.setUint32(0x22c, 0x7fffffff, true);
  view.setUint32(0x230, 0x200000, true);
  view.setUint8(0x234, 1);
  view.setUint16(0x236, 0x3f, true);
  view.setUint32(0x238, 2047, true);
  view.setUint32(0x248, 0x400, true);
  view.setUint32(0x24c, 64, true);
  view.setUint32(0x258, 16 * MiB, true);
  view.setUint32(0x260, 8 * MiB, true);
  kernel.fill(0x90, 1024);
  kernel.set(body, 1024 + 0x400);
  view.setUint32(1024 + 0x400 + 60, 123456, true);
  change(view);
  return kernel;
}

interface ElfOptions {
  wide?: boolean;
  machine?: number;
  type?: number;
  entry?: number;
  address?: number;
  memorySize?: number;
  pvh?: number;
}

/** An ELF executable with one segment of 32 bytes and, if asked, a PVH note. */
function elf(o: ElfOptions = {}): Uint8Array {
  const wide = o.wide ?? true;
  const kernel = new Uint8Array(0x300);
  const view = new DataView(kernel.buffer);
  kernel.set([0x7f, 0x45, 0x4c, 0x46, wide ? 2 : 1, 1, 1]);
  view.setUint16(16, o.type ?? 2, true);
  view.setUint16(18, o.machine ?? 62, true);
  const number = (at: number, value: number): void => view.setUint32(at, value, true);
  number(24, o.entry ?? 0x1000000);
  number(wide ? 32 : 28, 64);
  view.setUint16(wide ? 54 : 42, wide ? 56 : 32, true);
  view.setUint16(wide ? 56 : 44, 2, true);
  const segment = (
    index: number,
    type: number,
    offset: number,
    address: number,
    fileSize: number,
    size: number,
  ): void => {
    const at = 64 + index * (wide ? 56 : 32);
    number(at, type);
    number(at + (wide ? 8 : 4), offset);
    number(at + (wide ? 24 : 12), address);
    number(at + (wide ? 32 : 16), fileSize);
    number(at + (wide ? 40 : 20), size);
  };
  segment(0, 1, 0x200, o.address ?? 0x1000000, 32, o.memorySize ?? 0x10000);
  segment(1, o.pvh === undefined ? 0 : 4, 0x280, 0, 60, 60);
  kernel.fill(0xcc, 0x200, 0x220);
  // Another owner's note of the same type comes first and must be passed over.
  [4, 4, 18, 0x554e47, 0, 4, 8, 18, 0x6e6558, o.pvh ?? 0, 0].forEach((word, i) => number(0x280 + i * 4, word));
  return kernel;
}

describe('bzImage', () => {
  test('is entered in 64-bit mode at its preferred address, with boot_params', () => {
    const m = memory();
    const state = load(m, bzImage(), Uint8Array.of(1, 2, 3), 'quiet');
    expect(state).toMatchObject({
      mode: 'long',
      rip: 16 * MiB + 0x200,
      gdt: { cs: 0x10, ds: 0x18 },
    });
    const params = state.registers.rsi!;
    expect(m.read8(16 * MiB)).toBe(0x90);
    expect(m.read32(params + 0x202)).toBe(0x53726448);
    expect([m.read8(params + 0x210), m.read32(params + 0x70)]).toEqual([0xff, 0xe0000]);
    expect(string(m, m.read32(params + 0x228))).toBe('quiet');
    const initrd = m.read32(params + 0x218);
    expect([initrd % 4096, m.read32(params + 0x21c), ...m.slice(initrd, 3)]).toEqual([0, 3, 1, 2, 3]);
    expect(initrd).toBeGreaterThanOrEqual(24 * MiB);
  });

  test('gets a memory map that covers RAM but for the tables', () => {
    const m = memory();
    const params = load(m, bzImage()).registers.rsi!;
    const map = Array.from({ length: m.read8(params + 0x1e8) }, (_, i) => {
      const at = params + 0x2d0 + i * 20;
      return { start: m.read64(at), length: m.read64(at + 8), type: m.read32(at + 16) };
    });
    expect(map).toEqual(memoryMap(32 * MiB));
    expect(map.filter((r) => r.type === 1).map((r) => [r.start, r.start + r.length])).toEqual([
      [0, 0x9f000],
      [MiB, 32 * MiB],
    ]);
  });

  test('has the first 4 GiB mapped to themselves', () => {
    const m = memory();
    const { cr3 } = load(m, bzImage());
    for (const address of [0, 0x234567, 0x7fe00123, 0xfee00000]) {
      const pointers = m.read64(cr3!) & ~0xfff;
      const directory = m.read64(pointers + Math.floor(address / 2 ** 30) * 8) & ~0xfff;
      const entry = m.read64(directory + ((address >>> 21) & 511) * 8);
      expect([entry - (entry % 2 ** 21), entry % 2 ** 21]).toEqual([address - (address % 2 ** 21), 0x83]);
    }
  });

  test('goes to the lowest aligned address when it may and RAM is small', () => {
    expect(load(memory(12 * MiB), bzImage()).rip).toBe(2 * MiB + 0x200);
  });

  const bad: [string, Uint8Array | (() => Uint8Array), RegExp, number?][] = [
    ['empty', new Uint8Array(0), /empty/],
    ['cut in its header', bzImage().subarray(0, 0x240), /truncated/],
    ['cut after its header', bzImage().subarray(0, 1024), /truncated/],
    ['cut in its payload', bzImage().subarray(0, 1024 + 0x410), /truncated: 2064 bytes of at least 2112/],
    ['without its boot flag', bzImage((v) => v.setUint16(0x1fe, 0)), /not a bzImage/],
    ['of an old protocol', bzImage((v) => v.setUint16(0x206, 0x204, true)), /protocol 2\.4/],
    ['a zImage', bzImage((v) => v.setUint8(0x211, 0)), /zImage/],
    ['32-bit', bzImage((v) => v.setUint16(0x236, 0, true)), /32-bit/],
    ['too big', bzImage((v) => v.setUint32(0x260, 64 * MiB, true)), /80\.0 MiB.*32\.0 MiB/],
    [
      'too big and not relocatable',
      bzImage((v) => {
        v.setUint8(0x234, 0);
        v.setUint32(0x258, 30 * MiB, true);
      }),
      /not relocatable/,
    ],
    ['at a nonsense address', bzImage((v) => v.setUint32(0x25c, 0xffffffff, true)), /./, 4 * MiB],
  ];
  for (const [name, kernel, message, size] of bad)
    test(`${name} is refused`, () => {
      const attempt = (): unknown => load(memory(size), kernel as Uint8Array);
      expect(attempt).toThrow(BootError);
      expect(attempt).toThrow(message);
    });

  test('a command line or initial RAM disk that does not fit is refused', () => {
    expect(() => load(memory(), bzImage(), undefined, 'x'.repeat(2048))).toThrow(/2048 bytes.*at most 2047/);
    expect(() => load(memory(), bzImage(), undefined, 'a\0b')).toThrow(/zero byte/);
    expect(() => load(memory(), bzImage(), new Uint8Array(9 * MiB))).toThrow(/9\.0 MiB.*32\.0 MiB of memory/);
    expect(() => load(memory(), bzImage(), new Uint8Array(33 * MiB))).toThrow(BootError);
  });

  test('shows its payload', () => {
    expect(payload(bzImage())).toMatchObject({ format: 'zstd', size: 123456, data: { length: 60 } });
    expect(payload(bzImage(undefined, [0x1f, 0x8b]))).toMatchObject({ format: 'gzip', data: { length: 64 } });
    expect(() => payload(bzImage(undefined, [1, 2, 3, 4]))).toThrow(/01 02 03 04/);
    expect(() => payload(elf())).toThrow(BootError);
  });
});

describe('ELF', () => {
  test('with a PVH note is entered in protected mode with start info', () => {
    const m = memory();
    const state = load(m, elf({ pvh: 0x1000010 }), Uint8Array.of(9), 'root=/dev/vda');
    expect(state).toMatchObject({ mode: 'protected', rip: 0x1000010 });
    const info = state.registers.rbx!;
    expect([m.read32(info), m.read32(info + 4), m.read32(info + 12)]).toEqual([0x336ec578, 1, 1]);
    expect(string(m, m.read64(info + 24))).toBe('root=/dev/vda');
    expect(m.read64(info + 32)).toBe(0xe0000);
    const module = m.read64(info + 16);
    expect([m.read8(m.read64(module)), m.read64(module + 8)]).toEqual([9, 1]);
    const map = m.read64(info + 40);
    expect([m.read32(info + 48), m.read64(map + 72), m.read64(map + 80), m.read32(map + 88)]).toEqual([
      4,
      MiB,
      31 * MiB,
      1,
    ]);
    expect(m.read8(0x1000000)).toBe(0xcc);
  });

  test('without the note is entered in 64-bit mode', () => {
    const m = memory();
    const state = load(m, elf());
    expect(state).toMatchObject({ mode: 'long', rip: 0x1000000 });
    expect(m.read32(state.registers.rsi! + 0x202)).toBe(0x53726448);
  });

  const bad: [string, Uint8Array, RegExp][] = [
    ['cut in its header', elf().subarray(0, 40), /truncated/],
    ['cut in its program headers', elf().subarray(0, 100), /truncated/],
    ['cut in a segment', elf().subarray(0, 0x210), /truncated/],
    ['for another machine', elf({ machine: 183 }), /machine type 183/],
    ['32-bit', elf({ wide: false, machine: 3 }), /32-bit/],
    ['a shared object', elf({ type: 3 }), /type 3/],
    ['too big', elf({ memorySize: 64 * MiB }), /80\.0 MiB/],
    ['below 1 MiB', elf({ address: 0x8000 }), /below 1 MiB/],
    ['with an entry outside RAM', elf({ entry: 0xfffffff0 }), /entry point/],
    ['with a PVH entry outside RAM', elf({ pvh: 0xfffffff0 }), /entry point/],
    ['smaller in memory than in the file', elf({ memorySize: 8 }), /damaged/],
  ];
  for (const [name, kernel, message] of bad)
    test(`${name} is refused`, () => {
      expect(() => load(memory(), kernel)).toThrow(BootError);
      expect(() => load(memory(), kernel)).toThrow(message);
    });
});

describe('Multiboot', () => {
  test('loads by the addresses in the header and gives module, map and command line', () => {
    const m = memory(4 * MiB);
    const state = load(m, tinyKernel(), Uint8Array.of(7, 8), 'one two');
    expect(state).toMatchObject({ mode: 'protected', rip: 0x100020, registers: { rax: 0x2badb002 } });
    const info = state.registers.rbx!;
    expect(m.read32(info) & 0x4d).toBe(0x4d);
    expect([m.read32(info + 4), m.read32(info + 8)]).toEqual([636, 3072]);
    expect(string(m, m.read32(info + 16))).toBe('one two');
    const module = m.read32(info + 24);
    expect([...m.slice(m.read32(module), m.read32(module + 4) - m.read32(module))]).toEqual([7, 8]);
    const map = m.read32(info + 48);
    expect([m.read32(info + 44), m.read32(map), m.read64(map + 4 + 72), m.read64(map + 12 + 72)]).toEqual([
      96,
      20,
      MiB,
      3 * MiB,
    ]);
    expect(m.read32(0x100000)).toBe(0x1badb002);
  });

  test('loads an ELF kernel with a Multiboot header', () => {
    const kernel = elf({ wide: false, machine: 3 });
    const view = new DataView(kernel.buffer);
    view.setUint32(0x200, 0x1badb002, true);
    view.setUint32(0x204, 3, true);
    view.setUint32(0x208, -(0x1badb002 + 3) >>> 0, true);
    expect(load(memory(), kernel)).toMatchObject({ mode: 'protected', rip: 0x1000000 });
  });

  const change = (...words: [number, number][]): Uint8Array => {
    const kernel = tinyKernel();
    const view = new DataView(kernel.buffer);
    for (const [i, value] of words) view.setUint32(i * 4, value >>> 0, true);
    view.setUint32(8, -(0x1badb002 + view.getUint32(4, true)) >>> 0, true);
    return kernel;
  };
  const bad: [string, Uint8Array, RegExp][] = [
    ['that requires unknown features', change([1, 0x10008]), /features that do not exist/],
    ['neither ELF nor with addresses', change([1, 3]), /no ELF file/],
    ['below 1 MiB', change([3, 0x1000], [4, 0x1000]), /below 1 MiB/],
    ['of contradicting addresses', change([3, 0x200000]), /contradict/],
    ['cut off', change([5, 0x110000]), /truncated/],
    ['cut in its header', tinyKernel().subarray(0, 20), /truncated/],
    ['too big', change([6, 0x8000000]), /128\.0 MiB/],
    ['with an entry outside RAM', change([7, 0xf0000000]), /entry point/],
  ];
  for (const [name, kernel, message] of bad)
    test(`a kernel ${name} is refused`, () => {
      expect(() => load(memory(), kernel)).toThrow(BootError);
      expect(() => load(memory(), kernel)).toThrow(message);
    });
});

test('what is no kernel is named for what it is', () => {
  expect(() => load(memory(), Uint8Array.of(0x1f, 0x8b, 8, 0))).toThrow(/gzip-compressed/);
  expect(() => load(memory(), new TextEncoder().encode('<!DOCTYPE html>'))).toThrow(
    /begins with 3c 21 44 4f and has 15/,
  );
});

describe('ACPI', () => {
  const m = memory(2 * MiB);
  const rsdp = writeAcpi(m, [
    { base: 0xfeb00000, size: 512, pin: 16 },
    { base: 0xfeb01000, size: 512, pin: 17 },
  ]);
  const table = (address: number): { name: string; at: number; length: number; sum: number } => {
    const length = m.read32(address + 4);
    const sum = m.slice(address, length).reduce((a, b) => (a + b) & 0xff, 0);
    return { name: new TextDecoder().decode(m.slice(address, 4)), at: address, length, sum };
  };
  const xsdt = table(m.read64(rsdp + 24));
  const tables = Array.from({ length: (xsdt.length - 36) / 8 }, (_, i) => table(m.read64(xsdt.at + 36 + i * 8)));
  const fadt = tables.find((t) => t.name === 'FACP')!;
  const dsdt = table(m.read64(fadt.at + 140));

  test('every table is found from the RSDP, and its checksum is right', () => {
    expect(m.slice(rsdp, 20).reduce((a, b) => (a + b) & 0xff, 0)).toBe(0);
    expect(m.slice(rsdp, 36).reduce((a, b) => (a + b) & 0xff, 0)).toBe(0);
    expect([xsdt, ...tables, dsdt].map((t) => [t.name, t.sum])).toEqual([
      ['XSDT', 0],
      ['FACP', 0],
      ['APIC', 0],
      ['DSDT', 0],
    ]);
  });

  test('the FADT is hardware-reduced and names the reset and sleep ports', () => {
    const flags = m.read32(fadt.at + 112);
    expect([(flags >>> 20) & 1, (flags >>> 10) & 1]).toEqual([1, 1]);
    expect([116, 244, 256].map((at) => [m.read8(fadt.at + at), m.read64(fadt.at + at + 4)])).toEqual([
      [1, 0x602],
      [1, 0x600],
      [1, 0x601],
    ]);
  });

  test('the MADT has one processor and the I/O APIC', () => {
    const madt = tables.find((t) => t.name === 'APIC')!;
    expect([m.read32(madt.at + 36), m.read8(madt.at + 44), m.read8(madt.at + 52), m.read32(madt.at + 56)]).toEqual([
      0xfee00000, 0, 1, 0xfec00000,
    ]);
  });

  test('the DSDT has S5, the serial port, the clock, and each virtio device with its window and interrupt', () => {
    const code = m.slice(dsdt.at, dsdt.length);
    const find = (...bytes: number[]): number => {
      for (let at = 0; at + bytes.length <= code.length; at++) if (bytes.every((b, i) => code[at + i] === b)) return at;
      return -1;
    };
    const ascii = (text: string): number[] => [...new TextEncoder().encode(text)];
    expect(find(0x08, ...ascii('_S5_'), 0x12)).toBeGreaterThan(0);
    expect(find(0x0c, 0x41, 0xd0, 0x05, 0x01)).toBeGreaterThan(0); // EISAID("PNP0501")
    expect(find(...ascii('VR01'))).toBeGreaterThan(find(0x0d, ...ascii('LNRO0005'), 0));
    expect(
      find(0x86, 9, 0, 1, 0x00, 0x10, 0xb0, 0xfe, 0x00, 0x02, 0, 0, 0x89, 6, 0, 1, 1, 17, 0, 0, 0),
    ).toBeGreaterThan(0);
  });
});

test('the default command line has both consoles, the root, and what is appended last', () => {
  const words = defaultCmdline({ append: 'panic=0' }).split(' ');
  expect(words.indexOf('console=hvc0')).toBeGreaterThan(words.indexOf('console=ttyS0'));
  expect(words).toContain('root=/dev/vda');
  expect(words.at(-1)).toBe('panic=0');
  expect(defaultCmdline({ root: '', verbose: true })).not.toMatch(/root=|quiet/);
});
