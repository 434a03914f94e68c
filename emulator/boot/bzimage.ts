import type { EntryState } from '../processor.ts';
import { BOOT_PARAMS_ADDRESS, HIGH_MEMORY } from './layout.ts';
import {
  BootError,
  checkKernelRange,
  longEntry,
  mebibytes,
  placeInitrd,
  writeBootParams,
  writeCmdline,
} from './parameters.ts';
import type { BootOptions } from './parameters.ts';

// Setup header offsets, Documentation/arch/x86/boot.
const SETUP_SECTS = 0x1f1;
const BOOT_FLAG = 0x1fe;
const JUMP = 0x200;
const HEADER = 0x202;
const VERSION = 0x206;
const LOADFLAGS = 0x211;
const INITRD_ADDR_MAX = 0x22c;
const KERNEL_ALIGNMENT = 0x230;
const RELOCATABLE = 0x234;
const XLOADFLAGS = 0x236;
const CMDLINE_SIZE = 0x238;
const PAYLOAD_OFFSET = 0x248;
const PAYLOAD_LENGTH = 0x24c;
const PREF_ADDRESS = 0x258;
const INIT_SIZE = 0x260;
const HEADER_END = 0x264;

const HDRS = 0x53726448; // 'HdrS'
const XLF_KERNEL_64 = 1;
const ENTRY_64 = 0x200;

const view = (kernel: Uint8Array): DataView => new DataView(kernel.buffer, kernel.byteOffset, kernel.byteLength);

/** Whether these bytes begin like a bzImage. */
export function isBzImage(kernel: Uint8Array): boolean {
  return kernel.length >= HEADER + 4 && view(kernel).getUint32(HEADER, true) === HDRS;
}

interface Setup {
  version: number;
  /** Offset of the protected-mode kernel in the file. */
  code: number;
}

function parse(kernel: Uint8Array): Setup {
  if (kernel.length < HEADER_END)
    throw new BootError(`the kernel image is truncated: ${kernel.length} bytes, its header alone has ${HEADER_END}`);
  const header = view(kernel);
  if (header.getUint16(BOOT_FLAG, true) !== 0xaa55 || !isBzImage(kernel))
    throw new BootError('this is not a bzImage: the boot flag 0xaa55 or the signature "HdrS" is missing');
  const version = header.getUint16(VERSION, true);
  if (version < 0x20c)
    throw new BootError(
      `the kernel has boot protocol ${version >>> 8}.${version & 0xff}; 2.12 or later (Linux 3.8) is needed`,
    );
  if (!(header.getUint8(LOADFLAGS) & 1)) throw new BootError('this is a zImage; only bzImage kernels can be started');
  if (!(header.getUint16(XLOADFLAGS, true) & XLF_KERNEL_64))
    throw new BootError('this is a 32-bit kernel; a 64-bit one (amd64, x86_64) is needed');
  const code = ((header.getUint8(SETUP_SECTS) || 4) + 1) * 512;
  if (code + ENTRY_64 >= kernel.length)
    throw new BootError(`the kernel image is truncated: ${kernel.length} bytes, the kernel begins at ${code}`);
  const payloadEnd = code + header.getUint32(PAYLOAD_OFFSET, true) + header.getUint32(PAYLOAD_LENGTH, true);
  if (payloadEnd > kernel.length)
    throw new BootError(`the kernel image is truncated: ${kernel.length} bytes of at least ${payloadEnd}`);
  return { version, code };
}

/**
 * Loads a bzImage by the 64-bit boot protocol.
 * @throws BootError when it is damaged, of another kind, or does not fit
 */
export function loadBzImage(options: BootOptions): EntryState {
  const { memory, kernel, initrd } = options;
  const { code } = parse(kernel);
  const header = view(kernel);
  const relocatable = header.getUint8(RELOCATABLE) !== 0;
  const alignment = header.getUint32(KERNEL_ALIGNMENT, true);
  const initSize = Math.max(header.getUint32(INIT_SIZE, true), kernel.length - code);
  let start = header.getUint32(PREF_ADDRESS, true) + header.getUint32(PREF_ADDRESS + 4, true) * 0x1_0000_0000;
  // A machine too small for the preferred address can still hold a relocatable kernel at the lowest aligned one.
  const lowest = Math.ceil(HIGH_MEMORY / (alignment || 1)) * (alignment || 1);
  if (relocatable && start + initSize > memory.size && lowest + initSize <= memory.size) start = lowest;
  try {
    checkKernelRange(memory, start, start + initSize);
  } catch (error) {
    if (relocatable || !(error instanceof BootError)) throw error;
    throw new BootError(`${error.message} (it is not relocatable)`);
  }
  memory.write(start, kernel.subarray(code));

  // The setup header goes into boot_params; its length is told by the jump over it at 0x200.
  const end = Math.min(HEADER + kernel[JUMP + 1]!, 0x290);
  memory.write(BOOT_PARAMS_ADDRESS + SETUP_SECTS, kernel.subarray(SETUP_SECTS, Math.max(end, HEADER_END)));
  writeCmdline(memory, options.cmdline, header.getUint32(CMDLINE_SIZE, true) || 255);
  const address = initrd?.length
    ? placeInitrd(memory, initrd, start + initSize, header.getUint32(INITRD_ADDR_MAX, true))
    : 0;
  writeBootParams(memory, options.rsdp, { start: address, size: initrd?.length ?? 0 });
  return longEntry(memory, start + ENTRY_64);
}

export type PayloadFormat = 'zstd' | 'gzip' | 'xz' | 'bzip2' | 'lzma' | 'lzo' | 'lz4' | 'elf';

const MAGICS: readonly [PayloadFormat, readonly number[]][] = [
  ['zstd', [0x28, 0xb5, 0x2f, 0xfd]],
  ['gzip', [0x1f, 0x8b]],
  ['xz', [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]],
  ['bzip2', [0x42, 0x5a, 0x68]],
  ['lzma', [0x5d, 0x00, 0x00]],
  ['lzo', [0x89, 0x4c, 0x5a, 0x4f]],
  ['lz4', [0x02, 0x21, 0x4c, 0x18]],
  ['elf', [0x7f, 0x45, 0x4c, 0x46]],
];

/**
 * The kernel proper (vmlinux, compressed) inside a bzImage. Unpacked, it is an ELF file for `loadElf`, and starting
 * that saves the guest from unpacking it.
 * @returns its format and data; for a compressed one, `size` is the unpacked size in bytes that the image gives
 * @throws BootError when the image is damaged or the format unknown
 */
export function payload(kernel: Uint8Array): { format: PayloadFormat; data: Uint8Array; size: number } {
  const { code } = parse(kernel);
  const header = view(kernel);
  const start = code + header.getUint32(PAYLOAD_OFFSET, true);
  const length = header.getUint32(PAYLOAD_LENGTH, true);
  if (length < 8) throw new BootError(`the kernel image says that its payload has ${mebibytes(length)}: it has none`);
  const whole = kernel.subarray(start, start + length);
  const found = MAGICS.find(([, magic]) => magic.every((byte, i) => whole[i] === byte));
  if (!found)
    throw new BootError(
      `the kernel's compression is unknown: it begins with ${Array.from(whole.subarray(0, 4), (b) => b.toString(16).padStart(2, '0')).join(' ')}`,
    );
  const format = found[0];
  if (format === 'elf') return { format, data: whole, size: length };
  // The build appends the unpacked size, 32 bits; gzip has it in its own last word, the others do not know it.
  const size = header.getUint32(start + length - 4, true);
  return { format, data: format === 'gzip' ? whole : whole.subarray(0, length - 4), size };
}
