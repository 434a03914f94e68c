import { css, html, LitElement, type TemplateResult } from 'lit';
import { customElement } from 'lit/decorators.js';
import { controls } from './theme.ts';

/**
 * What a first visitor may want to know, in four lines.
 *
 * @fires hint-done it was read
 */
@customElement('linux-vm-hint')
export class LinuxVMHint extends LitElement {
  static override styles = [
    controls,
    css`
      :host {
        display: block;
        padding: 14px 16px;
        border: 1px solid var(--_border);
        border-radius: 12px;
        background: var(--_panel);
        box-shadow: 0 4px 18px rgb(0 0 0 / 25%);
        font-size: 14px;
      }
      h2 {
        margin: 0 0 6px;
        font-size: 15px;
      }
      ul {
        margin: 0 0 10px;
        padding-left: 18px;
      }
      kbd,
      code {
        padding: 0 4px;
        border: 1px solid var(--_border);
        border-radius: 4px;
        background: var(--_background);
        font:
          12.5px ui-monospace,
          monospace;
        white-space: nowrap;
      }
      @media (pointer: coarse) {
        .keys {
          display: none;
        }
      }
    `,
  ];

  protected override render(): TemplateResult {
    return html`
      <h2>This is Debian, in your browser</h2>
      <ul>
        <li>A real 64-bit machine, and you are its root: try <code>python3</code> or <code>apt list</code>.</li>
        <li>Drop files here to put them in; the files panel gets them out.</li>
        <li class="keys"><kbd>Ctrl+Shift+Enter</kbd> opens another console.</li>
        <li class="keys">
          <kbd>Shift+F6</kbd> takes the keyboard out of the terminal, where <kbd>Tab</kbd> belongs to programs.
        </li>
      </ul>
      <button @click=${() => this.dispatchEvent(new CustomEvent('hint-done'))}>Got it</button>
    `;
  }
}

declare global {
  interface HTMLElementTagNameMap {
    'linux-vm-hint': LinuxVMHint;
  }
}
