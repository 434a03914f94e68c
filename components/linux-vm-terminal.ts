import type { FitAddon } from '@xterm/addon-fit';
import type { WebglAddon } from '@xterm/addon-webgl';
import type { ITerminalOptions, ITheme, Terminal } from '@xterm/xterm';
import xtermStyles from '@xterm/xterm/css/xterm.css?inline';
import { css, html, LitElement, type PropertyValues, unsafeCSS } from 'lit';
import { customElement, property, query } from 'lit/decorators.js';
import { messageOf } from './format.ts';
import { encodeKey, encodeText, type Modifiers, type NamedKey, NO_MODIFIERS } from './keys.ts';
import { type Theme, tokens } from './theme.ts';

const DARK: ITheme = {
  background: '#14161b',
  foreground: '#e4e6eb',
  cursor: '#e4e6eb',
  selectionBackground: '#3d5a80',
};
/** The 16 colours darkened until they read on white (contrast 4.5 and more), which programs' own choices assume. */
const LIGHT: ITheme = {
  background: '#ffffff',
  foreground: '#1d1f24',
  cursor: '#1d1f24',
  selectionBackground: '#b5d5ff',
  black: '#1d1f24',
  red: '#b3261e',
  green: '#1b6e34',
  yellow: '#7a5900',
  blue: '#1a56b8',
  magenta: '#8a2a8a',
  cyan: '#00687a',
  white: '#5c6066',
  brightBlack: '#5c6066',
  brightRed: '#c5221f',
  brightGreen: '#137333',
  brightYellow: '#855f00',
  brightBlue: '#0b57d0',
  brightMagenta: '#9c27b0',
  brightCyan: '#00738a',
  brightWhite: '#3c4043',
};

const FONT = 'ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace';
/** Longest that a guest's bell is shown, and least time between two. */
const BELL = 150;

/**
 * A terminal: shows bytes, gives bytes, tells its size. It knows nothing of machines.
 *
 * Tab belongs to the programs in it. Shift+F6 gives the keyboard back: whoever hears `terminal-leave` may take the focus
 * (and call `preventDefault`), else the next Tab moves on in the page.
 *
 * @fires terminal-input what was typed or pasted (`CustomEvent<Uint8Array>`)
 * @fires terminal-resize new size in cells (`CustomEvent<{ columns: number; rows: number }>`)
 * @fires terminal-modifiers sticky modifiers were used up or changed (`CustomEvent<Modifiers>`)
 * @fires terminal-leave the keyboard shall go elsewhere; cancelable; bubbles
 */
@customElement('linux-vm-terminal')
export class LinuxVMTerminal extends LitElement {
  static override styles = [
    unsafeCSS(xtermStyles),
    tokens,
    css`
      :host {
        display: block;
        position: relative;
        /* What lies over it is not to mind the layers that xterm.js has inside. */
        isolation: isolate;
        min-height: 0;
        overflow: hidden;
        background: var(--_background);
      }
      :host([hidden]) {
        display: none;
      }
      .screen {
        position: absolute;
        inset: 6px 0 0 8px;
      }
      .xterm {
        height: 100%;
      }
      /* What is left over below the last whole line has the colour of the rest. */
      .xterm .xterm-viewport,
      .xterm .xterm-scrollable-element {
        background-color: transparent !important;
      }
      /* A cell is as high as the font's rounded metrics, and the underscores of DejaVu Sans Mono and Menlo lie below. */
      .xterm .xterm-rows > div {
        overflow: clip !important;
        overflow-clip-margin: 3px;
      }
      .screen.bell {
        outline: 2px solid var(--_dim);
      }
    `,
  ];

  /** Mirrors the screen into text that screen readers follow. Costs some speed. */
  @property({ type: Boolean, attribute: 'screen-reader' }) screenReader = false;
  /** CSS pixels. */
  @property({ type: Number, attribute: 'font-size' }) fontSize = 14;
  /** As in CSS; empty for the system's. */
  @property({ attribute: 'font-family' }) fontFamily = '';
  @property({ reflect: true }) theme: Theme = 'auto';
  /**
   * Words, in any order: `option-is-meta` (Option on a Mac acts as Alt does elsewhere) and `copy-paste` (Ctrl+C copies
   * when text is selected, Ctrl+V pastes).
   */
  @property() keyboard = 'option-is-meta';

  @query('.screen') private readonly screen!: HTMLElement;
  private terminal: Terminal | undefined;
  private opening: Promise<void> | undefined;
  /** What is to be shown once it is open. */
  private readonly early: { data: Uint8Array | string; done(): void }[] = [];
  private wantsFocus = false;
  private fitAddon: FitAddon | undefined;
  private webgl: WebglAddon | undefined;
  /** Bytes shown, up to MUCH. */
  private written = 0;
  private observer: ResizeObserver | undefined;
  private sticky: Modifiers = NO_MODIFIERS;
  private tabLeaves = false;
  private lastBell = 0;
  private readonly light = globalThis.matchMedia?.('(prefers-color-scheme: light)');
  private readonly onScheme = (): void => {
    if (this.terminal) this.terminal.options.theme = this.colours;
  };

  get columns(): number {
    return this.terminal?.cols ?? 80;
  }

  get rows(): number {
    return this.terminal?.rows ?? 24;
  }

  /** Shows bytes of a UTF-8 terminal stream; resolves when they are on the screen. */
  write(data: Uint8Array | string): Promise<void> {
    const { terminal } = this;
    if (!terminal && this.opening) return new Promise((done) => this.early.push({ data, done }));
    if (terminal && this.written < MUCH && (this.written += data.length) >= MUCH)
      whenIdle(() => void this.useWebgl(terminal));
    return terminal ? new Promise((resolve) => terminal.write(data, resolve)) : Promise.resolve();
  }

  /** Empties the screen and the scroll-back and forgets every mode. */
  reset(): void {
    for (const { done } of this.early.splice(0)) done();
    this.terminal?.reset();
  }

  override focus(): void {
    this.wantsFocus = !this.terminal;
    this.terminal?.focus();
  }

  /** Modifiers that the next key is pressed with. */
  get modifiers(): Modifiers {
    return this.sticky;
  }

  set modifiers(modifiers: Modifiers) {
    if (modifiers.ctrl === this.sticky.ctrl && modifiers.alt === this.sticky.alt) return;
    this.sticky = modifiers;
    this.dispatchEvent(new CustomEvent<Modifiers>('terminal-modifiers', { detail: modifiers }));
  }

  /** Presses a key that a keyboard on the screen does not have, with the sticky modifiers. */
  press(key: NamedKey): void {
    const { terminal } = this;
    if (!terminal) return;
    this.input(encodeText(encodeKey(key, this.sticky, terminal.modes.applicationCursorKeysMode)));
    this.modifiers = NO_MODIFIERS;
    terminal.scrollToBottom();
  }

  /** The lines on the screen and in the scroll-back, without colours. */
  get text(): string {
    const buffer = this.terminal?.buffer.active;
    if (!buffer) return '';
    const lines: string[] = [];
    for (let i = 0; i < buffer.length; i++) lines.push(buffer.getLine(i)?.translateToString(true) ?? '');
    return lines.join('\n').trimEnd();
  }

  protected override render(): unknown {
    return html`<div class="screen" part="screen"></div>`;
  }

  protected override firstUpdated(): void {
    this.openSoon();
  }

  override connectedCallback(): void {
    super.connectedCallback();
    if (this.hasUpdated) this.openSoon();
  }

  /** Resolves when it has its size, too. */
  protected override async getUpdateComplete(): Promise<boolean> {
    const result = await super.getUpdateComplete();
    await this.opening;
    return result;
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.opening = undefined;
    this.reset();
    this.observer?.disconnect();
    this.light?.removeEventListener('change', this.onScheme);
    this.terminal?.dispose();
    this.terminal = undefined;
    this.webgl = undefined;
    this.written = 0;
  }

  protected override updated(changed: PropertyValues<this>): void {
    const { terminal } = this;
    if (!terminal) return;
    if (changed.has('screenReader')) terminal.options.screenReaderMode = this.screenReader;
    if (changed.has('theme')) this.onScheme();
    if (changed.has('keyboard')) terminal.options.macOptionIsMeta = this.hasKeyboard('option-is-meta');
    if (changed.has('fontSize') || changed.has('fontFamily')) {
      terminal.options.fontSize = this.fontSize;
      terminal.options.fontFamily = this.fontFamily || FONT;
      this.fit();
    }
  }

  private hasKeyboard(word: 'option-is-meta' | 'copy-paste'): boolean {
    return this.keyboard.split(/\s+/).includes(word);
  }

  private get settings(): ITerminalOptions {
    return {
      fontFamily: this.fontFamily || FONT,
      fontSize: this.fontSize,
      macOptionIsMeta: this.hasKeyboard('option-is-meta'),
      screenReaderMode: this.screenReader,
      theme: this.colours,
    };
  }

  private get colours(): ITheme {
    const light = this.theme === 'auto' ? this.light?.matches : this.theme === 'light';
    const theme = light ? LIGHT : DARK;
    // What the page has chosen, where it has.
    const own = (name: string, otherwise: string | undefined): string | undefined =>
      getComputedStyle(this).getPropertyValue(name).trim() || otherwise;
    return {
      ...theme,
      background: own('--linux-vm-background', theme.background),
      foreground: own('--linux-vm-text', theme.foreground),
    };
  }

  /** It takes a while to load and to start: what is around it can be seen, and a machine be loading, before. */
  private openSoon(): void {
    const opening: Promise<void> = import('./xterm.ts').then(
      (parts) => this.open(parts, () => this.opening === opening),
      (cause: unknown) => {
        this.screen.textContent = `The terminal could not be loaded (${messageOf(cause)}): load the page again.`;
      },
    );
    this.opening = opening;
  }

  /** In steps, so that the page can do other things in between. @param wanted whether it still is */
  private async open(xterm: typeof import('./xterm.ts'), wanted: () => boolean): Promise<void> {
    await nextTask();
    if (!wanted() || this.terminal) return;
    const { settings } = this;
    const terminal = new xterm.Terminal({
      allowProposedApi: true, // for the Unicode add-on
      // Blinking keeps the page drawing, sixty times a second, for as long as it is shown.
      cursorBlink: false,
      scrollback: 10_000,
      ...settings,
    });
    const fit = new xterm.FitAddon();
    terminal.loadAddon(fit);
    terminal.loadAddon(new xterm.Unicode11Addon());
    terminal.unicode.activeVersion = '11';
    terminal.loadAddon(
      new xterm.WebLinksAddon((_event, url) => {
        globalThis.open(url, '_blank', 'noopener,noreferrer');
      }),
    );
    // From the moment that it can be typed in.
    terminal.attachCustomKeyEventHandler((event) => this.onKey(event, terminal));
    terminal.onData((text) => this.type(text));
    await nextTask();
    if (wanted()) terminal.open(this.screen);
    await nextTask();
    if (!wanted()) return terminal.dispose();
    if (JSON.stringify(settings) !== JSON.stringify(this.settings)) terminal.options = this.settings;
    this.terminal = terminal;
    this.fitAddon = fit;
    terminal.onBell(() => this.bell());
    terminal.textarea?.addEventListener('blur', () => (this.tabLeaves = false));
    // Mouse reports of old protocols are bytes, not text.
    terminal.onBinary((text) => this.input(Uint8Array.from(text, (c) => c.charCodeAt(0) & 0xff)));
    terminal.onResize(({ cols, rows }) =>
      this.dispatchEvent(new CustomEvent('terminal-resize', { detail: { columns: cols, rows } })),
    );
    this.observer = new ResizeObserver(() => this.fit());
    this.observer.observe(this.screen);
    this.light?.addEventListener('change', this.onScheme);
    this.fit();
    if (this.wantsFocus) this.focus();
    for (const { data, done } of this.early.splice(0)) void this.write(data).then(done);
  }

  private fit(): void {
    // A hidden element has no size; its last one stays until it is shown again.
    if (this.screen.clientWidth > 0 && this.screen.clientHeight > 0) this.fitAddon?.fit();
  }

  /** The faster renderer comes with the first long output: a prompt does not need it, and it takes long to start. */
  private async useWebgl(terminal: Terminal): Promise<void> {
    // Without a graphics processor the DOM is faster.
    const probe = document.createElement('canvas').getContext('webgl2', { failIfMajorPerformanceCaveat: true });
    const info = probe?.getExtension('WEBGL_debug_renderer_info');
    const name = info ? String(probe?.getParameter(info.UNMASKED_RENDERER_WEBGL)) : '';
    probe?.getExtension('WEBGL_lose_context')?.loseContext();
    if (!probe || /swiftshader|llvmpipe|software/i.test(name)) return;
    try {
      const { WebglAddon: Addon } = await import('@xterm/addon-webgl');
      if (this.terminal !== terminal) return;
      const webgl = new Addon();
      // Browsers take contexts away (too many of them, a driver reset): the DOM renderer goes on.
      webgl.onContextLoss(() => {
        webgl.dispose();
        this.webgl = undefined;
      });
      terminal.loadAddon(webgl);
      this.webgl = webgl;
    } catch {
      this.webgl = undefined;
    }
  }

  /** Which renderer is in use. */
  get renderer(): 'webgl' | 'dom' {
    return this.webgl ? 'webgl' : 'dom';
  }

  /** Keys and pastes. Only a single character takes the sticky modifiers; a report of the terminal is none. */
  private type(text: string): void {
    const { ctrl, alt } = this.sticky;
    if ((ctrl || alt) && [...text].length === 1) {
      this.input(encodeText(text, this.sticky));
      this.modifiers = NO_MODIFIERS;
    } else this.input(encodeText(text));
  }

  private bell(): void {
    const now = performance.now();
    if (now - this.lastBell < 2 * BELL) return;
    this.lastBell = now;
    this.screen.classList.add('bell');
    setTimeout(() => this.screen.classList.remove('bell'), BELL);
  }

  private input(bytes: Uint8Array): void {
    this.dispatchEvent(new CustomEvent<Uint8Array>('terminal-input', { detail: bytes }));
  }

  /**
   * Ctrl+Shift+C and Ctrl+Insert copy; pasting is the browser's own (Ctrl+Shift+V, Shift+Insert, Cmd+V).
   * @returns whether the terminal is to handle the key
   */
  private onKey(event: KeyboardEvent, terminal: Terminal): boolean {
    if (event.type !== 'keydown') return true;
    if (event.key === 'Tab' && this.tabLeaves && !event.ctrlKey && !event.altKey) return false;
    if (event.key === 'F6' && event.shiftKey && !event.ctrlKey && !event.altKey) {
      event.preventDefault();
      this.leave();
      return false;
    }
    if (!event.ctrlKey) return true;
    const plain = !event.shiftKey && !event.altKey && this.hasKeyboard('copy-paste');
    const copy =
      (event.shiftKey && event.code === 'KeyC') ||
      (!event.shiftKey && event.code === 'Insert') ||
      (plain && event.code === 'KeyC' && terminal.hasSelection());
    if (copy) {
      event.preventDefault();
      const text = terminal.getSelection();
      if (text) navigator.clipboard?.writeText(text).catch(() => undefined);
      if (plain) terminal.clearSelection();
      return false;
    }
    // The browser pastes on its own; the terminal must not send ^V as well.
    return !((event.shiftKey || plain) && event.code === 'KeyV');
  }

  private leave(): void {
    const stay = this.dispatchEvent(
      new CustomEvent('terminal-leave', { bubbles: true, composed: true, cancelable: true }),
    );
    this.tabLeaves = stay;
  }
}

/** Bytes after which a faster renderer is worth its start. */
const MUCH = 32768;

const nextTask = (): Promise<void> => new Promise((resolve) => setTimeout(resolve));

/** Safari has no idle callbacks. */
function whenIdle(work: () => void): void {
  if (typeof requestIdleCallback === 'function') requestIdleCallback(work, { timeout: 2000 });
  else setTimeout(work, 200);
}

declare global {
  interface HTMLElementTagNameMap {
    'linux-vm-terminal': LinuxVMTerminal;
  }
}
