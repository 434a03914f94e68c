/** What a visitor of the page has chosen; kept in this browser where that is possible. */
export interface Settings {
  /** RAM of the next start, in MiB. */
  memory: number;
  theme: 'auto' | 'light' | 'dark';
  /** CSS pixels. */
  fontSize: number;
  /** As in CSS; empty for the system's. */
  fontFamily: string;
  /** Option on a Mac acts as Alt does elsewhere. */
  optionIsMeta: boolean;
  /** Ctrl+C copies when text is selected, Ctrl+V pastes. */
  copyPaste: boolean;
  /** Terminals are mirrored into text that screen readers follow. */
  screenReader: boolean;
  /** Files are kept in this browser. */
  keepDisk: boolean;
  /** Memory, too: the machine goes on where it was. */
  suspend: boolean;
  /** The first-use hint was read. */
  hintSeen: boolean;
}

export const DEFAULTS: Readonly<Settings> = {
  memory: 512,
  theme: 'auto',
  fontSize: 14,
  fontFamily: '',
  optionIsMeta: true,
  copyPaste: false,
  screenReader: false,
  keepDisk: true,
  suspend: false,
  hintSeen: false,
};

export const MEMORY_CHOICES: readonly number[] = [128, 256, 512, 768, 1024, 2048];
export const FONT_SIZES = { least: 8, most: 32 } as const;

const KEY = 'linux-vm-settings';

/** Reads, keeps and tells changes of the settings. Without storage they last as long as the page. */
export class SettingsStore extends EventTarget {
  private current: Settings;
  private overrides: Partial<Settings> | undefined;
  /** Whether the browser keeps them. */
  readonly lasting: boolean;

  constructor(private readonly storage: Pick<Storage, 'getItem' | 'setItem'> | undefined = pageStorage()) {
    super();
    let text: string | null = null;
    try {
      text = this.storage?.getItem(KEY) ?? null;
    } catch {
      this.storage = undefined;
    }
    this.lasting = this.storage !== undefined;
    this.current = parse(text);
  }

  get value(): Readonly<Settings> {
    return this.overrides ? clean({ ...this.current, ...this.overrides }) : this.current;
  }

  /** As `update`, for as long as the page lasts: what an address says is not the visitor's own choice. */
  override(changes: Partial<Settings>): void {
    this.overrides = { ...this.overrides, ...changes };
    this.dispatchEvent(new Event('change'));
  }

  /** Takes what is valid of `changes`. Fires `change`. */
  update(changes: Partial<Settings>): void {
    this.current = clean({ ...this.current, ...changes });
    for (const name of Object.keys(changes)) delete this.overrides?.[name as keyof Settings];
    try {
      this.storage?.setItem(KEY, JSON.stringify(this.current));
    } catch {
      // Full or forbidden: they last as long as the page.
    }
    this.dispatchEvent(new Event('change'));
  }
}

function pageStorage(): Storage | undefined {
  try {
    return globalThis.localStorage;
  } catch {
    return undefined; // a sandboxed frame, or a browser told so
  }
}

function parse(text: string | null): Settings {
  try {
    const value: unknown = JSON.parse(text ?? '{}');
    if (typeof value === 'object' && value !== null) return clean(value as Record<string, unknown>);
  } catch {
    // Not ours, or cut short.
  }
  return { ...DEFAULTS };
}

function clean(value: { [K in keyof Settings]?: unknown }): Settings {
  const flag = (name: 'optionIsMeta' | 'copyPaste' | 'screenReader' | 'keepDisk' | 'suspend' | 'hintSeen'): boolean =>
    typeof value[name] === 'boolean' ? value[name] : DEFAULTS[name];
  const between = (name: 'memory' | 'fontSize', least: number, most: number): number => {
    const number = value[name];
    return typeof number === 'number' && number >= least && number <= most ? Math.floor(number) : DEFAULTS[name];
  };
  return {
    memory: between('memory', 64, 3072),
    theme: value.theme === 'light' || value.theme === 'dark' ? value.theme : 'auto',
    fontSize: between('fontSize', FONT_SIZES.least, FONT_SIZES.most),
    fontFamily: typeof value.fontFamily === 'string' ? value.fontFamily.slice(0, 200) : '',
    optionIsMeta: flag('optionIsMeta'),
    copyPaste: flag('copyPaste'),
    screenReader: flag('screenReader'),
    keepDisk: flag('keepDisk'),
    suspend: flag('suspend'),
    hintSeen: flag('hintSeen'),
  };
}
