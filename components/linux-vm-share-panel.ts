import { css, html, nothing, type TemplateResult } from 'lit';
import { customElement, property, state as reactive } from 'lit/decorators.js';
import type { SettingsStore } from '../src/settings.ts';
import { COMFORTABLE_LENGTH, type Link, makeLink, packDirectory } from '../src/share.ts';
import { bytesText } from './format.ts';
import { icons } from './icons.ts';
import type { LinuxVMElement } from './linux-vm.ts';
import { Panel } from './panel.ts';

/** Makes an address that opens this machine: its configuration, a command, a few files, or a snapshot file. */
@customElement('linux-vm-share-panel')
export class LinuxVMSharePanel extends Panel {
  static override styles = [
    Panel.panelStyles,
    css`
      label.field {
        display: grid;
        gap: 4px;
        justify-content: stretch;
      }
      textarea {
        min-height: 5.5rem;
        resize: vertical;
        font:
          12.5px ui-monospace,
          monospace;
        overflow-wrap: anywhere;
      }
    `,
  ];

  @property({ attribute: false }) element?: LinuxVMElement;
  @property({ attribute: false }) settings?: SettingsStore;
  @reactive() private command = '';
  @reactive() private withTheme = false;
  @reactive() private withFiles = false;
  @reactive() private directory = '/root';
  @reactive() private stateAddress = '';
  @reactive() private link = '';
  private files: Uint8Array | undefined;

  private async make(): Promise<void> {
    const { element, settings } = this;
    if (!element) return;
    await this.attempt('Packing files', async () => {
      this.link = '';
      this.files = undefined;
      const link: Link = { memory: String(element.memory), run: this.command || undefined };
      // What the page itself says need not be said again.
      if (element.disk && element.disk !== element.dataset['disk']) link.disk = element.disk;
      for (const name of ['kernel', 'initrd', 'cmdline'] as const) if (element[name]) link[name] = element[name];
      if (this.withTheme && settings) link.theme = settings.value.theme;
      if (this.stateAddress) link.state = new URL(this.stateAddress, document.baseURI).href;
      if (this.withFiles) {
        if (!this.vm) throw new Error('Files can be shared while the machine runs.');
        link.directory = this.directory;
        link.files = this.files = await packDirectory(this.vm, this.directory);
      }
      this.link = makeLink(location.href, link);
    });
  }

  private async copy(): Promise<void> {
    const area = this.shadowRoot!.querySelector('textarea')!;
    try {
      await navigator.clipboard.writeText(this.link);
      this.note = 'Copied.';
    } catch {
      area.select();
      this.note = 'The browser does not let this page copy; it is selected, press Ctrl+C.';
    }
  }

  private readonly send = (): void => {
    // Who changes their mind has done nothing wrong.
    navigator.share({ title: document.title, url: this.link }).catch(() => undefined);
  };

  private text(name: 'command' | 'directory' | 'stateAddress'): (event: Event) => void {
    return (event) => {
      this[name] = (event.target as HTMLInputElement).value.trim();
      this.link = '';
    };
  }

  private check(name: 'withTheme' | 'withFiles'): (event: Event) => void {
    return (event) => {
      this[name] = (event.target as HTMLInputElement).checked;
      this.link = '';
    };
  }

  protected override render(): TemplateResult {
    return html`
      <p class="dim">An address that opens a machine like this one. Who opens it is asked before a command runs.</p>
      <label class="field"
        >Command to run (optional)<input
          name="command"
          placeholder="python3 hello.py"
          autocomplete="off"
          spellcheck="false"
          .value=${this.command}
          @input=${this.text('command')}
      /></label>
      <label class="check"
        ><input name="withFiles" type="checkbox" .checked=${this.withFiles} @change=${this.check('withFiles')} /><span
          >With the files of a small directory</span
        ></label
      >
      ${
        this.withFiles
          ? html`<label class="field"
              >Directory<input
                name="directory"
                autocomplete="off"
                spellcheck="false"
                .value=${this.directory}
                @input=${this.text('directory')}
            /></label>`
          : nothing
      }
      <label class="check"
        ><input name="withTheme" type="checkbox" .checked=${this.withTheme} @change=${this.check('withTheme')} /><span
          >With the theme</span
        ></label
      >
      <label class="field"
        >Address of an exported snapshot (optional)<input
          name="state"
          type="url"
          placeholder="https://…/machine.linuxvm"
          .value=${this.stateAddress}
          @input=${this.text('stateAddress')}
      /></label>
      <p class="dim">
        For a larger workspace: export a snapshot, put the file on a server that allows other sites to read it (CORS),
        and give its address here.
      </p>
      <div class="row">
        <button ?disabled=${this.work !== undefined} @click=${this.make}>${icons.link} Make the address</button>
      </div>
      ${
        this.link
          ? html`<textarea aria-label="Address" readonly .value=${this.link}></textarea>
              <div class="row">
                <button class="plain" @click=${this.copy}>Copy</button>
                ${
                  typeof navigator.share === 'function'
                    ? html`<button class="plain" @click=${this.send}>Send…</button>`
                    : nothing
                }
                <small class="dim"
                  >${this.link.length}
                  characters${this.files ? `, files: ${bytesText(this.files.length)} packed` : ''}</small
                >
              </div>
              ${
                this.link.length > COMFORTABLE_LENGTH
                  ? html`<p class="dim">Some mail and chat programs cut addresses as long as this.</p>`
                  : nothing
              }`
          : nothing
      }
      ${this.renderState()}
    `;
  }
}

declare global {
  interface HTMLElementTagNameMap {
    'linux-vm-share-panel': LinuxVMSharePanel;
  }
}
