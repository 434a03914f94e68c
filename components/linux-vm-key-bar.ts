import { css, html, LitElement, type PropertyValues, type TemplateResult } from 'lit';
import { customElement, property, state as reactive } from 'lit/decorators.js';
import type { Modifiers, NamedKey } from './keys.ts';
import { NO_MODIFIERS } from './keys.ts';
import type { LinuxVMTerminal } from './linux-vm-terminal.ts';
import { controls } from './theme.ts';

const KEYS: readonly (readonly [key: NamedKey, label: string, name: string])[] = [
  ['Tab', 'Tab', 'Tab'],
  ['ArrowLeft', '←', 'Left'],
  ['ArrowUp', '↑', 'Up'],
  ['ArrowDown', '↓', 'Down'],
  ['ArrowRight', '→', 'Right'],
];
/** Before a key that is held repeats, and between repeats, in milliseconds; as keyboards do. */
const FIRST_REPEAT = 450;
const REPEAT = 70;

/**
 * Keys that touch screens lack, for one terminal. Ctrl and Alt stay down for the next key, from here or from the
 * keyboard. Pressing them does not take the focus, so the keyboard on the screen stays.
 */
@customElement('linux-vm-key-bar')
export class LinuxVMKeyBar extends LitElement {
  static override styles = [
    controls,
    css`
      :host {
        display: block;
        padding: 4px;
        background: var(--_panel);
        border-top: 1px solid var(--_border);
      }
      :host([hidden]) {
        display: none;
      }
      div {
        display: flex;
        gap: 4px;
      }
      button {
        flex: 1 1 0;
        min-width: 0;
        min-height: 40px;
        padding: 0 2px;
        border: 1px solid var(--_border);
        background: var(--_raised);
        color: var(--_text);
        font-weight: 500;
        touch-action: manipulation;
        user-select: none;
        -webkit-user-select: none;
      }
      button[aria-pressed='true'] {
        background: var(--_accent);
        color: var(--_on-accent);
      }
    `,
  ];

  @property({ attribute: false }) terminal?: LinuxVMTerminal;
  @reactive() private down: Modifiers = NO_MODIFIERS;
  private timer: ReturnType<typeof setTimeout> | undefined;

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.release();
    this.terminal?.removeEventListener('terminal-modifiers', this.onModifiers);
  }

  override connectedCallback(): void {
    super.connectedCallback();
    this.terminal?.addEventListener('terminal-modifiers', this.onModifiers);
  }

  protected override willUpdate(changed: PropertyValues<this>): void {
    if (!changed.has('terminal')) return;
    changed.get('terminal')?.removeEventListener('terminal-modifiers', this.onModifiers);
    this.terminal?.addEventListener('terminal-modifiers', this.onModifiers);
    this.down = this.terminal?.modifiers ?? NO_MODIFIERS;
  }

  private readonly onModifiers = (): void => {
    this.down = this.terminal?.modifiers ?? NO_MODIFIERS;
  };

  private toggle(name: 'ctrl' | 'alt'): void {
    if (this.terminal) this.terminal.modifiers = { ...this.down, [name]: !this.down[name] };
  }

  private hold(event: PointerEvent, key: NamedKey): void {
    event.preventDefault();
    this.terminal?.press(key);
    const again = (): void => {
      this.terminal?.press(key);
      this.timer = setTimeout(again, REPEAT);
    };
    this.release();
    if (key.startsWith('Arrow')) this.timer = setTimeout(again, FIRST_REPEAT);
  }

  private readonly release = (): void => clearTimeout(this.timer);

  private renderKey(key: NamedKey, label: string, name: string): TemplateResult {
    return html`<button
      aria-label=${name}
      @pointerdown=${(event: PointerEvent) => this.hold(event, key)}
      @pointerup=${this.release}
      @pointerleave=${this.release}
      @pointercancel=${this.release}
      @click=${(event: MouseEvent) => {
        // A click without a pointer: the keyboard, or a screen reader.
        if (event.detail === 0) this.terminal?.press(key);
      }}
    >
      ${label}
    </button>`;
  }

  private renderModifier(name: 'ctrl' | 'alt', label: string): TemplateResult {
    return html`<button
      aria-pressed=${this.down[name]}
      @pointerdown=${(event: PointerEvent) => event.preventDefault()}
      @click=${() => this.toggle(name)}
    >
      ${label}
    </button>`;
  }

  protected override render(): TemplateResult {
    return html`<div role="toolbar" aria-label="Keys">
      ${this.renderKey('Escape', 'Esc', 'Escape')} ${this.renderModifier('ctrl', 'Ctrl')}
      ${this.renderModifier('alt', 'Alt')} ${KEYS.map(([key, label, name]) => this.renderKey(key, label, name))}
    </div>`;
  }
}

declare global {
  interface HTMLElementTagNameMap {
    'linux-vm-key-bar': LinuxVMKeyBar;
  }
}
