import { css, html, LitElement, nothing, type TemplateResult } from 'lit';
import { customElement, property, query } from 'lit/decorators.js';
import type { Link } from '../src/share.ts';
import { bytesText } from './format.ts';
import { controls } from './theme.ts';

/** Asks before something is done that an address says and its visitor may not have read. */
@customElement('linux-vm-link-dialog')
export class LinuxVMLinkDialog extends LitElement {
  static override styles = [
    controls,
    css`
      dialog {
        width: min(32rem, calc(100vw - 32px));
        padding: 20px 24px;
        border: 1px solid var(--_border);
        border-radius: 12px;
        background: var(--_panel);
        color: var(--_text);
        overflow-wrap: anywhere;
      }
      dialog::backdrop {
        background: rgb(0 0 0 / 45%);
      }
      h2 {
        margin: 0 0 8px;
        font-size: 1.1rem;
      }
      p {
        margin: 0 0 10px;
      }
      pre {
        max-height: 40vh;
        margin: 0 0 12px;
        padding: 10px 12px;
        overflow: auto;
        border: 1px solid var(--_border);
        border-radius: 8px;
        background: var(--_background);
        font:
          13px ui-monospace,
          monospace;
        white-space: pre-wrap;
      }
    `,
  ];

  @property({ attribute: false }) link: Link = {};
  @query('dialog') private readonly dialog!: HTMLDialogElement;
  private answer: ((yes: boolean) => void) | undefined;

  /** @returns whether the visitor agreed */
  async ask(link: Link): Promise<boolean> {
    this.link = link;
    await this.updateComplete;
    this.dialog.returnValue = '';
    this.dialog.showModal();
    return new Promise((resolve) => (this.answer = resolve));
  }

  private readonly onClose = (): void => {
    this.answer?.(this.dialog.returnValue === 'yes');
    this.answer = undefined;
  };

  protected override render(): TemplateResult {
    const { run, files, directory = '/root', state } = this.link;
    return html`<dialog aria-labelledby="title" @close=${this.onClose}>
      <form method="dialog">
        <h2 id="title">The address that you opened asks for this</h2>
        ${
          state
            ? html`<p>Open a machine that somebody saved, from</p>
                <pre>${state}</pre>`
            : nothing
        }
        ${files ? html`<p>Put files (${bytesText(files.length)} packed) into ${directory}.</p>` : nothing}
        ${
          run
            ? html`<p>Run this command in the machine:</p>
                <pre>${run}</pre>`
            : nothing
        }
        <p class="dim">It happens inside of the machine, as its root; this computer is not touched by it.</p>
        <div class="row">
          <button value="yes">${run ? 'Run it' : 'Go on'}</button>
          <button class="plain" value="no" autofocus>Don’t</button>
        </div>
      </form>
    </dialog>`;
  }
}

declare global {
  interface HTMLElementTagNameMap {
    'linux-vm-link-dialog': LinuxVMLinkDialog;
  }
}
