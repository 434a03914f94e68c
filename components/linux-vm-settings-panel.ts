import { css, html, nothing, type TemplateResult } from 'lit';
import { customElement, property } from 'lit/decorators.js';
import { installPrompt } from '../src/offline/install.ts';
import { FONT_SIZES, MEMORY_CHOICES, type Settings, type SettingsStore } from '../src/settings.ts';
import type { LinuxVMElement } from './linux-vm.ts';
import './linux-vm-storage-list.ts';
import { Panel } from './panel.ts';

const FONTS: readonly (readonly [family: string, name: string])[] = [
  ['', 'System'],
  ['Menlo, Consolas, "DejaVu Sans Mono", monospace', 'Menlo or Consolas'],
  ['"Courier New", "Liberation Mono", monospace', 'Courier'],
  ['"JetBrains Mono", "Fira Code", "Cascadia Code", monospace', 'JetBrains, Fira or Cascadia'],
];

/** Longest wait for the guest to write its files out before a restart, in milliseconds. */
const SYNC = 5000;

/** The visitor's choices. They hold at once, but for those that need a restart, which say so. */
@customElement('linux-vm-settings-panel')
export class LinuxVMSettingsPanel extends Panel {
  static override styles = [
    Panel.panelStyles,
    css`
      select,
      input[type='number'] {
        width: 11rem;
      }
      .check span {
        flex: 1;
      }
    `,
  ];

  @property({ attribute: false }) settings?: SettingsStore;
  @property({ attribute: false }) element?: LinuxVMElement;
  private unlisten: (() => void) | undefined;
  /** What the machine that runs was started with; absent when none runs. */
  @property({ attribute: false }) startedWith?: Pick<Settings, 'memory' | 'keepDisk'>;

  override connectedCallback(): void {
    super.connectedCallback();
    this.settings?.addEventListener('change', this.onChange);
    this.unlisten = installPrompt.on(this.onChange);
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.settings?.removeEventListener('change', this.onChange);
    this.unlisten?.();
  }

  protected override firstUpdated(): void {
    this.settings?.addEventListener('change', this.onChange);
  }

  private readonly onChange = (): void => this.requestUpdate();

  private set(changes: Partial<Settings>): void {
    this.settings?.update(changes);
  }

  private async restart(): Promise<void> {
    await this.attempt('Restarting the machine', async () => {
      // Written out as far as the guest can still do that.
      await this.vm?.run(['sync'], { signal: AbortSignal.timeout(SYNC) }).catch(() => undefined);
      await this.element?.stop();
      await this.element?.start();
    });
  }

  private renderCheck(
    name: 'optionIsMeta' | 'copyPaste' | 'screenReader' | 'keepDisk' | 'suspend',
    text: string,
    more = '',
  ): TemplateResult {
    return html`<label class="check"
      ><input
        type="checkbox"
        name=${name}
        .checked=${this.settings!.value[name]}
        @change=${(event: Event) => this.set({ [name]: (event.target as HTMLInputElement).checked })}
      /><span>${text}${more ? html`<br /><small class="dim">${more}</small>` : nothing}</span></label
    >`;
  }

  private renderSelect(
    label: string,
    name: string,
    value: string,
    choices: readonly (readonly [string, string])[],
    set: (value: string) => void,
  ): TemplateResult {
    return html`<label
      >${label}<select name=${name} @change=${(event: Event) => set((event.target as HTMLSelectElement).value)}>
        ${choices.map(([id, text]) => html`<option value=${id} ?selected=${id === value}>${text}</option>`)}
      </select></label
    >`;
  }

  protected override render(): TemplateResult | typeof nothing {
    if (!this.settings) return nothing;
    const { value } = this.settings;
    const { element, startedWith } = this;
    // An address may say otherwise than the settings; then there is nothing that a restart would change.
    const next = element && { memory: element.memory, keepDisk: element.storageKey !== undefined };
    const memories = [...new Set([...MEMORY_CHOICES, value.memory])].sort((a, b) => a - b);
    return html`
      <h3>Appearance</h3>
      ${this.renderSelect(
        'Theme',
        'theme',
        value.theme,
        [
          ['auto', 'As the system'],
          ['light', 'Light'],
          ['dark', 'Dark'],
        ],
        (theme) => this.set({ theme: theme as Settings['theme'] }),
      )}
      ${this.renderSelect('Font', 'fontFamily', value.fontFamily, FONTS, (fontFamily) => this.set({ fontFamily }))}
      <label
        >Font size<input
          type="number"
          name="fontSize"
          min=${FONT_SIZES.least}
          max=${FONT_SIZES.most}
          .value=${String(value.fontSize)}
          @change=${(event: Event) => {
            const input = event.target as HTMLInputElement;
            this.set({ fontSize: Number(input.value) });
            input.value = String(this.settings!.value.fontSize);
          }}
      /></label>

      <h3>Keyboard</h3>
      ${this.renderCheck('copyPaste', 'Ctrl+C copies selected text, Ctrl+V pastes', 'Otherwise Ctrl+Shift+C and Ctrl+Shift+V do.')}
      ${this.renderCheck('optionIsMeta', 'Option acts as Alt on a Mac')}
      ${this.renderCheck('screenReader', 'Screen reader support in terminals', 'Slows fast output a little. Shift+F6 leaves the terminal.')}

      <h3>Machine</h3>
      ${this.renderSelect(
        'Memory',
        'memory',
        String(value.memory),
        memories.map((size) => [String(size), `${size} MiB`] as const),
        (memory) => this.set({ memory: Number(memory) }),
      )}
      ${this.renderCheck('keepDisk', 'Keep files in this browser', 'What is written to the disk is there again on the next visit.')}
      ${this.renderCheck('suspend', 'Suspend when the page is closed', 'Memory is saved, too: programs go on where they were.')}
      ${
        next && startedWith && (next.memory !== startedWith.memory || next.keepDisk !== startedWith.keepDisk)
          ? html`<div class="message">
              <span>Memory and files change with the next start.</span
              ><button class="plain" ?disabled=${this.work !== undefined} @click=${this.restart}>Restart now</button>
            </div>`
          : nothing
      }

      <h3>Storage</h3>
      <linux-vm-storage-list></linux-vm-storage-list>
      ${
        installPrompt.available
          ? html`<h3>App</h3>
              <p class="dim">Installed, the page opens in a window of its own, without a network too.</p>
              <button class="plain" @click=${() => void installPrompt.show()}>Install</button>`
          : nothing
      }
      ${this.renderState()}
    `;
  }
}

declare global {
  interface HTMLElementTagNameMap {
    'linux-vm-settings-panel': LinuxVMSettingsPanel;
  }
}
