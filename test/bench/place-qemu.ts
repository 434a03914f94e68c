import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PROMPT, startQemu } from '../../disks/qemu.ts';
import { AgentClient } from '../../src/agent/client.ts';
import { BOOT_LIMIT, GUEST_DIRECTORY, guestPath, type Place, type Running, withLimit } from './places.ts';
import { memoryOf } from './processes.ts';

/** QEMU's whole machine (TCG) with the same kernel, image and command line. */
export function qemuPlace(disk: string, programs: string): Place {
  return { name: 'qemu', start: () => start(disk, programs) };
}

async function start(disk: string, programs: string): Promise<Running> {
  const folder = mkdtempSync(join(tmpdir(), 'bench-'));
  const agentSocket = join(folder, 'agent');
  const began = performance.now();
  const qemu = startQemu({ directory: disk, agentSocket });
  let said = '';
  const stop = async (): Promise<void> => {
    qemu.kill('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
  };
  const prompt = new Promise<number>((resolve, reject) => {
    const onData = (bytes: Buffer): void => {
      said = (said + bytes.toString()).slice(-10_000);
      if (PROMPT.test(said)) resolve((performance.now() - began) / 1000);
    };
    qemu.stdout!.on('data', onData);
    qemu.stderr!.on('data', (bytes: Buffer) => (said += bytes.toString()));
    qemu.on('error', reject);
    qemu.on('exit', (status) => reject(new Error(`QEMU ended with status ${status} before the prompt:\n${said}`)));
  });
  try {
    const seconds = await withLimit(prompt, BOOT_LIMIT, "QEMU's boot");
    // Its console stands still when the agent's socket is connected before the guest has opened its port.
    const socket = connect(agentSocket);
    const agent = new AgentClient({
      write: (bytes) => socket.write(bytes),
      onData: (listener) => socket.on('data', (data: Buffer) => listener(new Uint8Array(data))),
      onClose: (listener) => socket.on('close', listener),
    });
    return {
      boot: { seconds, ...memoryOf(qemu.pid!) },
      put: async (file) => {
        await agent.fs.mkdir(GUEST_DIRECTORY, { recursive: true });
        await agent.fs.writeFile(`${GUEST_DIRECTORY}/${file}`, new Uint8Array(readFileSync(join(programs, file))), {
          mode: 0o755,
        });
      },
      run: async (file, args, timeout) => {
        const argv = [guestPath(file), ...args];
        const { status, stdout, stderr } = await agent.run(argv, { signal: AbortSignal.timeout(timeout) });
        const text = new TextDecoder().decode(stdout);
        if (status !== 0) throw new Error(`status ${status}: ${text}${new TextDecoder().decode(stderr)}`);
        return text;
      },
      processes: async () => [qemu.pid!],
      stop: async () => {
        socket.destroy();
        await stop();
      },
    };
  } catch (error) {
    await stop();
    throw error;
  }
}
