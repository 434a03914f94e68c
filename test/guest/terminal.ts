import type { Process } from '../../src/agent/client.ts';
import { type Check, equal, type Guest, limit } from './check.ts';

const WAIT = 60_000;

// eslint-disable-next-line no-control-regex -- they begin with ESC
const SEQUENCES = /\x1b(\[[0-9;?>]*[A-Za-z]|\][^\x07]*\x07|[()][A-Z0-9]|[=>78])/g;

/** Somebody at a terminal: types, and reads until what they wait for has come. */
export class Typist {
  private seen = '';
  private wake: (() => void) | undefined;

  constructor(private readonly send: (text: string) => unknown) {}

  /** On a terminal of the agent's. */
  static of(process: Process): Typist {
    const writer = process.stdin.getWriter();
    // A program that has ended reads nothing more.
    writer.closed.catch(() => undefined);
    const typist = new Typist((text) => writer.write(new TextEncoder().encode(text)).catch(() => undefined));
    const reader = process.stdout.getReader();
    const decoder = new TextDecoder();
    const pump = async (): Promise<void> => {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        typist.receive(decoder.decode(value, { stream: true }));
      }
    };
    pump().catch(() => undefined);
    return typist;
  }

  receive(text: string): void {
    this.seen += text;
    this.wake?.();
  }

  type(text: string): void {
    void this.send(text);
  }

  /** Waits for `pattern` in what has come since the last match, colours and cursor movements left out. */
  async expect(pattern: RegExp): Promise<RegExpExecArray> {
    const end = performance.now() + WAIT;
    for (;;) {
      const plain = this.seen.replace(SEQUENCES, '');
      const found = pattern.exec(plain);
      if (found) {
        this.seen = plain.slice(found.index + found[0].length);
        return found;
      }
      const left = end - performance.now();
      const shown = JSON.stringify(plain.slice(-400));
      await limit(
        new Promise<void>((resolve) => (this.wake = resolve)),
        Math.max(left, 1),
        `waiting for ${String(pattern)} after ${shown}`,
      );
    }
  }

  /** A command in bash and its output. Output is told from the echo of what is typed by the way the marks are written. */
  async command(line: string): Promise<string> {
    this.type(`echo '<''<'; ${line}; echo '>''>'\r`);
    return (await this.expect(/<<\r\n([^]*?)>>\r\n/))[1]!.replaceAll('\r\n', '\n');
  }
}

async function shell(guest: Guest, work: (typist: Typist, process: Process) => Promise<void>): Promise<void> {
  const process = await guest.spawn(['bash', '--norc', '-i'], {
    pty: { columns: 100, rows: 30 },
    env: { TERM: 'xterm', PS1: 'ready> ' },
  });
  const typist = Typist.of(process);
  try {
    await typist.expect(/ready> $/);
    await work(typist, process);
    typist.type('exit 3\r');
    equal(String((await limit(process.exit, WAIT, 'exit')).status), '3');
  } finally {
    process.kill(9);
  }
}

export const TERMINAL: readonly Check[] = [
  {
    name: 'a terminal has its size, and resizing reaches programs',
    work: (guest) =>
      shell(guest, async (typist, process) => {
        equal(await typist.command('stty size'), '30 100\n');
        await typist.command(`trap 'echo changed' WINCH`);
        // Bash between two commands keeps the signal until the next.
        await typist.expect(/ready> $/);
        process.resize(132, 43);
        typist.type('\r');
        await typist.expect(/changed/);
        equal(await typist.command('stty size'), '43 132\n');
      }),
  },
  {
    name: 'Ctrl-C, Ctrl-Z, Ctrl-D and job control',
    work: (guest) =>
      shell(guest, async (typist) => {
        typist.type('sleep 1000\r');
        await typist.expect(/sleep 1000\r\n/);
        await waitForProgram(guest, 'sleep');
        typist.type('\x03');
        // "^C" stands before it unless the shell, awakened by the signal, switches echoing off before Linux echoes (n_tty.c).
        await typist.expect(/ready> $/);
        typist.type('echo status $?\r');
        await typist.expect(/status 130\r\n/);
        typist.type('sleep 1000\r');
        await waitForProgram(guest, 'sleep');
        typist.type('\x1a');
        await typist.expect(/Stopped +sleep 1000[^]*ready> $/);
        typist.type('bg\r');
        await typist.expect(/\[1\]\+ sleep 1000 &/);
        typist.type('jobs\r');
        await typist.expect(/\[1\]\+ +Running +sleep 1000 &/);
        typist.type('fg\r');
        await typist.expect(/fg\r\n\r?sleep 1000\r\n/);
        typist.type('\x03');
        await typist.expect(/ready> $/);
        typist.type('cat > /tmp/typed\r');
        await waitForProgram(guest, 'cat');
        typist.type('line\r\x04');
        await typist.expect(/line\r\n[^]*ready> $/);
        equal(await typist.command('cat /tmp/typed'), 'line\n');
      }),
  },
  {
    name: 'nano writes a file',
    work: async (guest) => {
      await guest.fs.rm('/tmp/note', { recursive: true }).catch(() => undefined);
      const process = await guest.spawn(['nano', '/tmp/note'], { pty: true, env: { TERM: 'xterm' } });
      const typist = Typist.of(process);
      await typist.expect(/GNU nano[^]*Exit/);
      typist.type('written in nano\x0f');
      await typist.expect(/(File Name to Write|Write to File): /);
      typist.type('\r');
      await typist.expect(/Wrote 1 line/);
      typist.type('\x18');
      equal(String((await limit(process.exit, WAIT, 'nano')).status), '0');
      equal(new TextDecoder().decode(await guest.fs.readFile('/tmp/note')), 'written in nano\n');
    },
  },
  {
    name: 'less shows pages and searches',
    work: async (guest) => {
      await guest.run(['sh', '-c', 'seq 1 1000 > /tmp/numbers']);
      const process = await guest.spawn(['less', '/tmp/numbers'], { pty: true, env: { TERM: 'xterm' } });
      const typist = Typist.of(process);
      await typist.expect(/\n23\r/);
      typist.type(' ');
      await typist.expect(/\n46\r/);
      typist.type('/^777\r');
      await typist.expect(/777\r\n778\r/);
      typist.type('q');
      equal(String((await limit(process.exit, WAIT, 'less')).status), '0');
    },
  },
  {
    name: 'programs read their input, are killed, and tell how they ended',
    work: async (guest) => {
      const cat = await guest.spawn(['cat']);
      const typist = Typist.of(cat);
      typist.type('one\n');
      await typist.expect(/one\n/);
      typist.type('two\n');
      await typist.expect(/two\n/);
      cat.kill();
      equal(JSON.stringify(await limit(cat.exit, WAIT, 'kill')), '{"status":143,"signal":15}');
      const stubborn = await guest.spawn(['sh', '-c', 'trap "" TERM; echo set; while :; do sleep 1; done']);
      await Typist.of(stubborn).expect(/set/);
      stubborn.kill();
      stubborn.kill(9);
      equal(JSON.stringify(await limit(stubborn.exit, WAIT, 'kill -9')), '{"status":137,"signal":9}');
    },
  },
];

/** Until a program of this name runs: what is typed before reaches bash. */
async function waitForProgram(guest: Guest, name: string): Promise<void> {
  const { status } = await guest.run([
    'timeout',
    '30',
    'sh',
    '-c',
    `until pgrep -x ${name} > /dev/null; do sleep 0.05; done`,
  ]);
  if (status !== 0) throw new Error(`${name} does not run`);
}
