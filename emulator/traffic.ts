/** Where a browser tells that its user wants to save data (Chromium does, in workers too). */
function savesData(): boolean {
  const { connection } = (globalThis.navigator ?? {}) as { connection?: { saveData?: boolean } };
  return connection?.saveData === true;
}

/**
 * What is fetched for the guest, of its disk and of its memory, so that what it waits for comes before the guesses of
 * either, and these before what it will need at some time; and whether there may be any guesses.
 */
export class Traffic {
  private waits = 0;
  private guesses = 0;
  private readonly listeners: (() => void)[] = [];

  /** @param frugal whether nothing may be fetched but what the guest waits for */
  constructor(private readonly frugal: () => boolean = savesData) {}

  /** How many things the guest waits for. */
  get waited(): number {
    return this.waits;
  }

  /** Whether nothing is fetched that the guest waits for, or may soon. */
  get idle(): boolean {
    return this.waits + this.guesses === 0;
  }

  get mayGuess(): boolean {
    return !this.frugal();
  }

  /** The guest waits for one thing more. */
  begin(): void {
    this.waits++;
  }

  /** It has it, or never will. */
  end(): void {
    if (--this.waits === 0) for (const listener of this.listeners) listener();
  }

  beginGuess(): void {
    this.guesses++;
  }

  endGuess(): void {
    if (--this.guesses === 0) for (const listener of this.listeners) listener();
  }

  /** Called each time that nothing is waited for any more, or that all guesses have come. */
  onIdle(listener: () => void): void {
    this.listeners.push(listener);
  }
}
