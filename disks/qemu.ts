/**
 * QEMU (TCG) with a machine much like ours: microvm, virtio-mmio, hvc0, the agent's port. It is the reference for
 * bisecting boots, for benchmarks, and where the boot profile of a disk is taken.
 */
import { type ChildProcess, spawn, type SpawnOptions } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

export interface QemuOptions {
  /** Directory of a built disk: manifest.json and what it names. */
  directory: string;
  /** Guest RAM in MiB; 512 unless told. */
  memory?: number;
  /** Added to the manifest's kernel command line. */
  append?: string;
  /** Another image than the manifest's. */
  image?: string;
  /** Path of a Unix socket on which QEMU listens for the agent's client. */
  agentSocket?: string;
  /** Writes go to the image; without it they are thrown away. */
  writable?: boolean;
  /** File for the serial port's output; none unless told. */
  serialLog?: string;
  /** Further arguments. */
  extra?: string[];
}

/**
 * TCG's TSC is the host's, but it tells no frequency in CPUID; and on a busy host the kernel's calibration by the PIT
 * fails, after which it waits for ever.
 */
function hostTsc(): string | undefined {
  const megahertz = /^cpu MHz\s*:\s*([\d.]+)/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1];
  return megahertz && `tsc_early_khz=${Math.round(Number(megahertz) * 1000)}`;
}

/** Arguments of qemu-system-x86_64 whose standard input and output are the guest's console hvc0. */
export function qemuArguments(options: QemuOptions): string[] {
  const manifest = JSON.parse(readFileSync(join(options.directory, 'manifest.json'), 'utf8')) as {
    name: string;
    cmdline: string;
    initrd: { url: string };
  };
  const image = options.image ?? join(options.directory, `${manifest.name}.ext2`);
  const drive = `if=none,id=root,format=raw,file=${image}${options.writable ? '' : ',snapshot=on'}`;
  const serial = options.serialLog ? `file,id=serial,path=${options.serialLog}` : 'null,id=serial';
  const agent = options.agentSocket
    ? ['-chardev', `socket,id=agent,path=${options.agentSocket},server=on,wait=off`].concat(
        '-device',
        'virtserialport,chardev=agent,name=org.linux-vm.agent,nr=1',
      )
    : [];
  return [
    ...['-machine', 'microvm,acpi=on,pic=on,pit=on,rtc=on,isa-serial=on,accel=tcg'],
    ...['-cpu', 'qemu64,+rdrand,+rdseed,+rdtscp,+ssse3,+sse4.1,+sse4.2,+popcnt', '-m', String(options.memory ?? 512)],
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
    ...['-kernel', join(options.directory, 'vmlinuz'), '-initrd', join(options.directory, manifest.initrd.url)],
    ...['-append', [manifest.cmdline, hostTsc(), options.append].filter(Boolean).join(' ')],
    ...['-chardev', serial, '-serial', 'chardev:serial'],
    ...['-drive', drive, '-device', 'virtio-blk-device,drive=root'],
    ...['-device', 'virtio-serial-device,max_ports=4'],
    ...['-chardev', 'stdio,id=console,signal=off', '-device', 'virtconsole,chardev=console,nr=0'],
    ...agent,
    ...['-device', 'virtio-rng-device', '-device', 'virtio-net-device', '-device', 'virtio-balloon-device'],
    ...(options.extra ?? []),
  ];
}

export function startQemu(options: QemuOptions, stdio: SpawnOptions['stdio'] = 'pipe'): ChildProcess {
  return spawn('qemu-system-x86_64', qemuArguments(options), { stdio });
}

/** The shell's prompt, as it shows on the console. */
export const PROMPT = /root@[^\n]*:~# /;

/** Boots a disk and ends QEMU. @returns seconds from its start to the prompt @throws Error when none comes within `timeout` s */
export async function timeToPrompt(options: QemuOptions, timeout = 120): Promise<number> {
  const start = performance.now();
  const qemu = startQemu(options);
  let timer: NodeJS.Timeout | undefined;
  try {
    return await new Promise<number>((resolve, reject) => {
      let said = '';
      timer = setTimeout(
        () => reject(new Error(`no prompt in QEMU within ${timeout} s; it said:\n${said}`)),
        timeout * 1000,
      );
      qemu.on('error', reject);
      qemu.on('exit', (code) =>
        reject(new Error(`QEMU ended with status ${code} before the prompt; it said:\n${said}`)),
      );
      qemu.stderr!.on('data', (bytes: Buffer) => (said += bytes.toString()));
      qemu.stdout!.on('data', (bytes: Buffer) => {
        said += bytes.toString();
        if (PROMPT.test(said)) resolve((performance.now() - start) / 1000);
      });
    });
  } finally {
    clearTimeout(timer);
    qemu.kill();
  }
}
