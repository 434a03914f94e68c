import type { EntryState } from '../processor.ts';
import { isBzImage, loadBzImage } from './bzimage.ts';
import { isElf, loadElf } from './elf.ts';
import { findMultiboot, loadMultiboot } from './multiboot.ts';
import { BootError } from './parameters.ts';
import type { BootOptions } from './parameters.ts';

export type { BootOptions } from './parameters.ts';
export { BootError } from './parameters.ts';
export { payload } from './bzimage.ts';

const COMPRESSED: readonly [string, readonly number[]][] = [
  ['gzip', [0x1f, 0x8b]],
  ['zstd', [0x28, 0xb5, 0x2f, 0xfd]],
  ['xz', [0xfd, 0x37, 0x7a, 0x58, 0x5a]],
];

/**
 * Recognises the kernel's format, loads it with its initial RAM disk and command line, and says where to start.
 * @throws BootError when the kernel is damaged, of an unknown kind, or does not fit into memory
 */
export function loadKernel(options: BootOptions): EntryState {
  const { kernel } = options;
  if (kernel.length === 0) throw new BootError('the kernel image is empty');
  if (isBzImage(kernel)) return loadBzImage(options);
  if (findMultiboot(kernel) >= 0) return loadMultiboot(options);
  if (isElf(kernel)) return loadElf(options);
  const packed = COMPRESSED.find(([, magic]) => magic.every((byte, i) => kernel[i] === byte));
  if (packed) throw new BootError(`the kernel is ${packed[0]}-compressed; unpack it, or give the bzImage (vmlinuz)`);
  throw new BootError(
    `the kernel is neither a bzImage nor an ELF vmlinux nor a Multiboot kernel: it begins with ${Array.from(
      kernel.subarray(0, 4),
      (byte) => byte.toString(16).padStart(2, '0'),
    ).join(' ')} and has ${kernel.length} bytes`,
  );
}
