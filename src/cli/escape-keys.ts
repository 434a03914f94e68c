const CTRL_A = 0x01;

/** Finds Ctrl-A X (quit) and Ctrl-A Ctrl-A (one Ctrl-A) in what is typed; passes everything else on. */
export class EscapeKeys {
  private escaped = false;

  constructor(
    private readonly pass: (bytes: Uint8Array) => void,
    private readonly quit: () => void,
  ) {}

  write(bytes: Uint8Array): void {
    const out: number[] = [];
    for (const byte of bytes) {
      if (!this.escaped) {
        if (byte === CTRL_A) this.escaped = true;
        else out.push(byte);
        continue;
      }
      this.escaped = false;
      const letter = String.fromCharCode(byte).toLowerCase();
      if (letter === 'x') {
        this.quit();
        return;
      }
      if (byte === CTRL_A) out.push(CTRL_A);
      else out.push(CTRL_A, byte);
    }
    if (out.length) this.pass(Uint8Array.from(out));
  }
}
