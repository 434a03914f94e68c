import { ACPI_ADDRESS } from './layout.ts';

/**
 * Initialisers that Debian's kernel can do without here and that are dear in instructions: the jitter entropy
 * generator tests itself for 300 million of them (RDRAND and virtio-rng seed the kernel), and there are no early
 * trace events to look up.
 */
const SKIPPED_INITCALLS = ['jent_mod_init'];

export interface CmdlineOptions {
  /** Root device; default /dev/vda. Empty for none. */
  root?: string;
  /** Kernel messages on the consoles: the default is only what is urgent. */
  verbose?: boolean;
  /** Appended last, so that it wins. */
  append?: string;
}

/**
 * The kernel command line for this machine: no calibration, no self-tests, no mitigations for processor faults that
 * an emulator has not. Messages go to COM1 and to hvc0; the latter, named last, is /dev/console.
 */
export function defaultCmdline(options: CmdlineOptions = {}): string {
  const root = options.root ?? '/dev/vda';
  return [
    'console=ttyS0',
    'console=hvc0',
    ...(options.verbose ? [] : ['quiet']),
    ...(root ? [`root=${root}`, 'rootfstype=ext2', 'rw'] : []),
    `acpi_rsdp=0x${ACPI_ADDRESS.toString(16)}`,
    'cryptomgr.notests',
    'mitigations=off',
    'init_on_alloc=0',
    'rodata=off',
    'tsc=reliable',
    'no_timer_check',
    'nokaslr',
    'noreplace-smp',
    'nr_cpus=1',
    'pci=off',
    // Hardware-reduced ACPI makes Linux try EFI first, which is not there.
    'reboot=acpi',
    'panic=-1',
    `initcall_blacklist=${SKIPPED_INITCALLS.join(',')}`,
    ...(options.append ? [options.append] : []),
  ].join(' ');
}
