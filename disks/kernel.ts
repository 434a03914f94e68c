/** What is taken from Debian's kernel package: the loadable part of vmlinux, and the modules an initramfs needs. */

const ELF_MAGIC = 0x464c457f;
const PT_LOAD = 1;
const PT_NOTE = 4;
const HEADER_SIZE = 64;
const PROGRAM_HEADER_SIZE = 56;

/**
 * The compressed payload of a bzImage (Linux boot protocol 2.08 and later: `setup_sects`, `payload_offset`,
 * `payload_length`). The last four bytes of the payload area are the unpacked size, not part of the stream.
 */
export function bzImagePayload(image: Uint8Array): Uint8Array {
  const view = new DataView(image.buffer, image.byteOffset, image.byteLength);
  if (image.length < 0x300 || view.getUint32(0x202, true) !== 0x53726448) {
    throw new Error('this is not a bzImage: there is no "HdrS" at offset 0x202');
  }
  const version = view.getUint16(0x206, true);
  if (version < 0x208)
    throw new Error(`the boot protocol of this bzImage is 0x${version.toString(16)}; 0x208 is needed`);
  const setupSectors = view.getUint8(0x1f1) || 4;
  const start = (setupSectors + 1) * 512 + view.getUint32(0x248, true);
  const length = view.getUint32(0x24c, true);
  if (length < 8 || start + length > image.length)
    throw new Error('the payload of this bzImage lies outside of the file');
  return image.subarray(start, start + length - 4);
}

/**
 * The part of an ELF64 executable that a loader reads: PT_LOAD segments (without trailing zeros, which `p_memsz`
 * implies) and PT_NOTE, which holds the PVH entry point and lies inside a segment. Section headers are dropped.
 */
export function stripToLoaded(elf: Uint8Array): Uint8Array {
  const view = new DataView(elf.buffer, elf.byteOffset, elf.byteLength);
  if (elf.length < HEADER_SIZE || view.getUint32(0, true) !== ELF_MAGIC || elf[4] !== 2) {
    throw new Error('the kernel package unpacked to something that is not a 64-bit ELF file');
  }
  const table = Number(view.getBigUint64(32, true));
  const count = view.getUint16(56, true);
  const headers = Array.from({ length: count }, (_, i) => {
    const at = table + i * PROGRAM_HEADER_SIZE;
    return {
      type: view.getUint32(at, true),
      bytes: elf.slice(at, at + PROGRAM_HEADER_SIZE),
      offset: Number(view.getBigUint64(at + 8, true)),
      fileSize: Number(view.getBigUint64(at + 32, true)),
      newOffset: 0,
    };
  });
  const loads = headers.filter((header) => header.type === PT_LOAD);
  const notes = headers.filter((header) => header.type === PT_NOTE);
  const kept = [...loads, ...notes];

  let end = HEADER_SIZE + kept.length * PROGRAM_HEADER_SIZE;
  for (const load of loads) {
    while (load.fileSize > 0 && elf[load.offset + load.fileSize - 1] === 0) load.fileSize--;
    // Page aligned: a loader may map the file, and offset and address must agree modulo the page.
    load.newOffset = Math.ceil(end / 4096) * 4096;
    end = load.newOffset + load.fileSize;
  }
  for (const note of notes) {
    const home = loads.find(
      (load) => note.offset >= load.offset && note.offset + note.fileSize <= load.offset + load.fileSize,
    );
    if (!home) throw new Error('the notes of this kernel are not in a loaded segment');
    note.newOffset = home.newOffset + (note.offset - home.offset);
  }

  const out = new Uint8Array(end);
  const outView = new DataView(out.buffer);
  out.set(elf.subarray(0, HEADER_SIZE));
  outView.setBigUint64(32, BigInt(HEADER_SIZE), true); // e_phoff
  outView.setBigUint64(40, 0n, true); // e_shoff
  outView.setUint16(56, kept.length, true); // e_phnum
  outView.setUint32(58, 0, true); // e_shentsize, e_shnum
  outView.setUint32(60, 0, true); // e_shnum, e_shstrndx
  kept.forEach((header, i) => {
    const at = HEADER_SIZE + i * PROGRAM_HEADER_SIZE;
    out.set(header.bytes, at);
    outView.setBigUint64(at + 8, BigInt(header.newOffset), true);
    outView.setBigUint64(at + 32, BigInt(header.fileSize), true);
    // A 2 MiB p_align would not hold for the new offsets; a page does.
    outView.setBigUint64(at + 48, header.type === PT_LOAD ? 4096n : 4n, true);
  });
  for (const load of loads) out.set(elf.subarray(load.offset, load.offset + load.fileSize), load.newOffset);
  return out;
}

const SIGNATURE_MAGIC = '~Module signature appended~\n';
/** `struct module_signature` (linux/module_signature.h): its last field is the length of the signature before it. */
const SIGNATURE_INFO = 12;

/**
 * A module without its signature: what the signature was made of. A kernel without keys hashes a signed module twice, for
 * nothing: a sixth of the boot's instructions.
 */
export function withoutSignature(module: Uint8Array): Uint8Array {
  const info = module.length - SIGNATURE_MAGIC.length - SIGNATURE_INFO;
  const magic = new TextDecoder('latin1').decode(module.subarray(-SIGNATURE_MAGIC.length));
  if (info < 0 || magic !== SIGNATURE_MAGIC) return module;
  const view = new DataView(module.buffer, module.byteOffset, module.byteLength);
  const end = info - view.getUint32(info + SIGNATURE_INFO - 4);
  if (end <= 0) throw new Error('a module has a signature that is longer than the module');
  return module.subarray(0, end);
}

/** Modules the initramfs loads, each after what it depends on. They serve the devices the machine always has. */
export const INITRAMFS_MODULES = [
  'kernel/drivers/virtio/virtio_mmio.ko',
  'kernel/drivers/block/virtio_blk.ko',
  'kernel/net/core/failover.ko',
  'kernel/drivers/net/net_failover.ko',
  'kernel/drivers/net/virtio_net.ko',
  'kernel/drivers/virtio/virtio_balloon.ko',
  'kernel/drivers/char/hw_random/virtio-rng.ko',
];
