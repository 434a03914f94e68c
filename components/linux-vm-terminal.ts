import { FitAddon } from '@xterm/addon-fit';
import { Unicode11Addon } from '@xterm/addon-unicode11';
import { WebLinksAddon } from '@xterm/addon-web-links';
import { WebglAddon } from '@xterm/addon-webgl';
import { type ITheme, Terminal } from '@xterm/xterm';
import xtermStyles from '@xterm/xterm/css/xterm.css?inline';
import { css, html, LitElement, type PropertyValues, unsafeCSS } from 'lit';
import { customElement, property, query } from 'lit/decorators.js';

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

/**
 * A terminal: shows bytes, gives bytes, tells its size. It knows nothing of machines.
 *
 * @fires terminal-input what was typed or pasted (`CustomEvent<Uint8Array>`)
 * @fires terminal-resize new size in cells (`CustomEvent<{ columns: number; rows: number }>`)
 */
@customElement('linux-vm-terminal')
export class LinuxVMTerminal extends LitElement {
  static override styles = [
    unsafeCSS(xtermStyles),
    css`
      :host {
        display: block;
        position: relative;
        min-height: 0;
        overflow: hidden;
        background: #14161b;
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
      @media (prefers-color-scheme: light) {
        :host {
          background: #ffffff;
        }
      }
    `,
  ];

  /** Mirrors the screen into text that screen readers follow. Costs some speed. */
  @property({ type: Boolean, attribute: 'screen-reader' }) screenReader = false;
  /** CSS pixels. */
  @property({ type: Number, attribute: 'font-size' }) fontSize = 14;

  @query('.screen') private readonly screen!: HTMLElement;
  private terminal: Terminal | undefined;
  private fitAddon: FitAddon | undefined;
  private webgl: WebglAddon | undefined;
  private observer: ResizeObserver | undefined;
  private readonly light = globalThis.matchMedia?.('(prefers-color-scheme: light)');
  private readonly onScheme = (): void => {
    if (this.terminal) this.terminal.options.theme = this.theme;
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
    return terminal ? new Promise((resolve) => terminal.write(data, resolve)) : Promise.resolve();
  }

  /** Empties the screen and the scroll-back and forgets every mode. */
  reset(): void {
    this.terminal?.reset();
  }

  override focus(): void {
    this.terminal?.focus();
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
    this.open();
  }

  override connectedCallback(): void {
    super.connectedCallback();
    if (this.hasUpdated) this.open();
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.observer?.disconnect();
    this.light?.removeEventListener('change', this.onScheme);
    this.terminal?.dispose();
    this.terminal = undefined;
    this.webgl = undefined;
  }

  protected override updated(changed: PropertyValues<this>): void {
    const { terminal } = this;
    if (!terminal) return;
    if (changed.has('screenReader')) terminal.options.screenReaderMode = this.screenReader;
    if (changed.has('fontSize')) {
      terminal.options.fontSize = this.fontSize;
      this.fit();
    }
  }

  private get theme(): ITheme {
    return this.light?.matches ? LIGHT : DARK;
  }

  private open(): void {
    if (this.terminal) return;
    const terminal = new Terminal({
      allowProposedApi: true, // for the Unicode add-on
      cursorBlink: true,
      fontFamily: 'ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace',
      fontSize: this.fontSize,
      macOptionIsMeta: true,
      scrollback: 10_000,
      screenReaderMode: this.screenReader,
      theme: this.theme,
    });
    this.terminal = terminal;
    this.fitAddon = new FitAddon();
    terminal.loadAddon(this.fitAddon);
    terminal.loadAddon(new Unicode11Addon());
    terminal.unicode.activeVersion = '11';
    terminal.loadAddon(
      new WebLinksAddon((_event, url) => {
        globalThis.open(url, '_blank', 'noopener,noreferrer');
      }),
    );
    terminal.open(this.screen);
    this.useWebgl(terminal);
    terminal.attachCustomKeyEventHandler((event) => this.onKey(event, terminal));
    terminal.onData((text) => this.input(new TextEncoder().encode(text)));
    // Mouse reports of old protocols are bytes, not text.
    terminal.onBinary((text) => this.input(Uint8Array.from(text, (c) => c.charCodeAt(0) & 0xff)));
    terminal.onResize(({ cols, rows }) =>
      this.dispatchEvent(new CustomEvent('terminal-resize', { detail: { columns: cols, rows } })),
    );
    this.observer = new ResizeObserver(() => this.fit());
    this.observer.observe(this.screen);
    this.light?.addEventListener('change', this.onScheme);
    this.fit();
  }

  private fit(): void {
    // A hidden element has no size; its last one stays until it is shown again.
    if (this.screen.clientWidth > 0 && this.screen.clientHeight > 0) this.fitAddon?.fit();
  }

  private useWebgl(terminal: Terminal): void {
    try {
      const webgl = new WebglAddon();
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

  private input(bytes: Uint8Array): void {
    this.dispatchEvent(new CustomEvent<Uint8Array>('terminal-input', { detail: bytes }));
  }

  /** Ctrl+Shift+C and Ctrl+Insert copy; pasting is the browser's own (Ctrl+Shift+V, Shift+Insert, Cmd+V). */
  private onKey(event: KeyboardEvent, terminal: Terminal): boolean {
    if (event.type !== 'keydown' || !event.ctrlKey) return true;
    const copy = (event.shiftKey && event.code === 'KeyC') || (!event.shiftKey && event.code === 'Insert');
    if (copy) {
      event.preventDefault();
      const text = terminal.getSelection();
      if (text) navigator.clipboard?.writeText(text).catch(() => undefined);
      return false;
    }
    // The browser pastes on its own; the terminal must not send ^V as well.
    return !(event.shiftKey && event.code === 'KeyV');
  }
}

declare global {
  interface HTMLElementTagNameMap {
    'linux-vm-terminal': LinuxVMTerminal;
  }
}
