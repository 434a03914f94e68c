import { css, html, nothing, type TemplateResult } from 'lit';
import { customElement, property, query, state as reactive } from 'lit/decorators.js';
import { type Snapshot, SnapshotStore } from '../src/snapshots.ts';
import { chooseFiles, saveBlob } from './download.ts';
import { bytesText, dateText, messageOf } from './format.ts';
import { icons } from './icons.ts';
import type { LinuxVMElement } from './linux-vm.ts';
import { Panel } from './panel.ts';

const EXTENSION = '.linuxvm';
/** First bytes of what `saveState` gives. */
const MAGIC = 'LINUXVM';

/** The machine as it is at one moment: kept in this browser, gone back to, exported and imported. */
@customElement('linux-vm-snapshots-panel')
export class LinuxVMSnapshotsPanel extends Panel {
  static override styles = [
    Panel.panelStyles,
    css`
      form {
        display: flex;
        gap: 8px;
      }
      form input {
        flex: 1;
      }
      li {
        display: grid;
        gap: 4px;
        padding: 8px 0;
        border-bottom: 1px solid var(--_border);
      }
      .row .icon {
        flex: none;
      }
    `,
  ];

  @property({ attribute: false }) element?: LinuxVMElement;
  @property({ attribute: false }) store = new SnapshotStore();
  @reactive() private list: readonly Snapshot[] | undefined;
  @reactive() private asking: { id: number; what: 'delete' | 'restore' | 'rename' } | undefined;
  @query('input[name=name]') private readonly nameInput!: HTMLInputElement | null;

  override connectedCallback(): void {
    super.connectedCallback();
    void this.refresh();
  }

  private async refresh(): Promise<void> {
    try {
      this.list = await this.store.list();
    } catch (cause) {
      this.list = [];
      this.failure = messageOf(cause);
    }
  }

  /** Whether this browser keeps what the machine writes. */
  private get keeps(): boolean {
    return this.element?.vm?.storage?.mode === 'exclusive';
  }

  private get name(): string {
    return this.nameInput?.value.trim() || `Snapshot of ${dateText(Date.now())}`;
  }

  private readonly onSave = async (event: Event): Promise<void> => {
    event.preventDefault();
    const { name } = this;
    await this.attempt('Saving the machine; it is held meanwhile', async () => {
      const { bytes } = await this.store.add(name, await this.vm!.saveState());
      this.note = `Saved “${name}” (${bytesText(bytes)}).`;
      if (this.nameInput) this.nameInput.value = '';
    });
    await this.refresh();
  };

  private async exportNow(): Promise<void> {
    const { name } = this;
    await this.attempt('Saving the machine; it is held meanwhile', async () =>
      saveBlob(fileName(name), await this.vm!.saveState()),
    );
  }

  private async exportOne(snapshot: Snapshot): Promise<void> {
    await this.attempt('Exporting', async () => saveBlob(fileName(snapshot.name), await this.store.state(snapshot.id)));
  }

  private async importFile(): Promise<void> {
    const [file] = await chooseFiles({ accept: EXTENSION });
    if (!file) return;
    await this.attempt(`Importing ${file.name}`, async () => {
      if ((await file.slice(0, MAGIC.length).text()) !== MAGIC)
        throw new Error(`${file.name} is not a snapshot of a machine (its first bytes are wrong).`);
      await this.store.add(file.name.replace(/\.[^.]*$/, ''), file);
    });
    await this.refresh();
  }

  private async restore(snapshot: Snapshot): Promise<void> {
    this.asking = undefined;
    await this.attempt(`Going back to “${snapshot.name}”`, async () => {
      const state = await this.store.state(snapshot.id);
      await this.element!.restore(state);
      this.note =
        `The machine goes on from “${snapshot.name}”, and its disk is as it was then. ` +
        (this.keeps ? 'What it writes is kept.' : 'What it writes is kept only in snapshots.');
    });
  }

  private async discard(snapshot: Snapshot): Promise<void> {
    this.asking = undefined;
    await this.attempt('Deleting', () => this.store.delete(snapshot.id));
    await this.refresh();
  }

  private async rename(event: Event, snapshot: Snapshot): Promise<void> {
    event.preventDefault();
    const name = (event.target as HTMLFormElement).querySelector('input')!.value.trim();
    this.asking = undefined;
    if (name) await this.attempt('Renaming', () => this.store.rename(snapshot.id, name));
    await this.refresh();
  }

  private renderQuestion(snapshot: Snapshot): TemplateResult | typeof nothing {
    if (this.asking?.id !== snapshot.id) return nothing;
    const keep = html`<button type="button" class="plain" @click=${() => (this.asking = undefined)}>Cancel</button>`;
    switch (this.asking.what) {
      case 'delete':
        return html`<div class="row" role="alert">
          Delete it for good? <button class="danger" @click=${() => this.discard(snapshot)}>Delete</button>${keep}
        </div>`;
      case 'restore':
        return html`<div class="row" role="alert">
          <span>
            What runs now ends${this.keeps ? ', and what was written to the disk since then is gone' : ''}; another
            snapshot keeps it.
          </span>
          <button @click=${() => this.restore(snapshot)}>Go back</button>${keep}
        </div>`;
      case 'rename':
        return html`<form @submit=${(event: Event) => this.rename(event, snapshot)}>
          <input aria-label="New name" .value=${snapshot.name} maxlength="200" /><button>Rename</button>${keep}
        </form>`;
    }
  }

  private renderOne(snapshot: Snapshot): TemplateResult {
    const { id, name } = snapshot;
    const ask = (what: 'delete' | 'restore' | 'rename') => () => (this.asking = { id, what });
    return html`<li>
      <strong>${name}</strong>
      <small class="dim">${dateText(snapshot.created)}, ${bytesText(snapshot.bytes)}</small>
      <div class="row">
        <button
          class="plain"
          ?disabled=${this.work !== undefined}
          aria-label="Restore ${name}"
          @click=${ask('restore')}
        >
          ${icons.play} Restore
        </button>
        <button
          class="icon"
          aria-label="Export ${name}"
          title="Export as a file"
          @click=${() => this.exportOne(snapshot)}
        >
          ${icons.download}
        </button>
        <button class="icon" aria-label="Rename ${name}" title="Rename" @click=${ask('rename')}>${icons.edit}</button>
        <button class="icon" aria-label="Delete ${name}" title="Delete" @click=${ask('delete')}>${icons.trash}</button>
      </div>
      ${this.renderQuestion(snapshot)}
    </li>`;
  }

  protected override render(): TemplateResult {
    const idle = this.vm !== undefined && this.work === undefined;
    const live = idle && (this.vm!.state === 'running' || this.vm!.state === 'booting');
    return html`
      <form @submit=${this.onSave}>
        <input name="name" aria-label="Name" placeholder="Name (may be empty)" maxlength="200" autocomplete="off" />
        <button ?disabled=${!live}>Save</button>
      </form>
      <div class="row">
        <button class="plain" ?disabled=${!live} @click=${this.exportNow}>${icons.download} Export now</button>
        <button class="plain" ?disabled=${this.work !== undefined} @click=${this.importFile}>
          ${icons.upload} Import…
        </button>
      </div>
      ${this.renderState()}
      ${
        this.list?.length
          ? html`<ul aria-label="Snapshots">
              ${this.list.map((snapshot) => this.renderOne(snapshot))}
            </ul>`
          : html`<p class="dim">
              A snapshot holds the whole machine: memory, running programs, and what was written to its disk. Going back
              to it takes a few seconds.
            </p>`
      }
    `;
  }
}

function fileName(name: string): string {
  // eslint-disable-next-line no-control-regex -- no file system likes them
  return `${name.replace(/[\x00-\x1f/\\:*?"<>|]+/g, '-').slice(0, 120)}${EXTENSION}`;
}

declare global {
  interface HTMLElementTagNameMap {
    'linux-vm-snapshots-panel': LinuxVMSnapshotsPanel;
  }
}
