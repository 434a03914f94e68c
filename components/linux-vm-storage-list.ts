import { css, html, nothing, type TemplateResult } from 'lit';
import { customElement, property, state as reactive } from 'lit/decorators.js';
import {
  askToPersist,
  deleteStorage,
  exportStorage,
  listStorage,
  type StoredDisk,
  storageEstimate,
} from '../src/storage.ts';
import { saveStream } from './download.ts';
import { bytesText, dateText } from './format.ts';
import { icons } from './icons.ts';
import { Panel } from './panel.ts';

/** What this element asks of the browser's storage; tests bring their own. */
export interface StorageCalls {
  estimate: typeof storageEstimate;
  persist: typeof askToPersist;
  list: typeof listStorage;
  delete: typeof deleteStorage;
  export: typeof exportStorage;
}

const CALLS: StorageCalls = {
  estimate: storageEstimate,
  persist: askToPersist,
  list: listStorage,
  delete: deleteStorage,
  export: exportStorage,
};

/** What this site keeps in the browser: how much, whether the browser may clear it, and the disks one by one. */
@customElement('linux-vm-storage-list')
export class LinuxVMStorageList extends Panel {
  static override styles = [
    Panel.panelStyles,
    css`
      :host {
        padding: 0;
      }
      li {
        display: grid;
        gap: 4px;
        padding: 8px 0;
        border-bottom: 1px solid var(--_border);
      }
    `,
  ];

  @property({ attribute: false }) calls = CALLS;
  @reactive() private estimate: Awaited<ReturnType<typeof storageEstimate>> | undefined;
  @reactive() private disks: readonly StoredDisk[] = [];
  @reactive() private asking: string | undefined;

  override connectedCallback(): void {
    super.connectedCallback();
    // After properties that are given right away.
    queueMicrotask(() => void this.refresh());
  }

  private async refresh(): Promise<void> {
    const none =
      <T>(value: T) =>
      (): T =>
        value; // storage that refuses is no storage
    [this.estimate, this.disks] = await Promise.all([
      this.calls.estimate().catch(none({})),
      this.calls.list().catch(none([])),
    ]);
  }

  private readonly persist = async (): Promise<void> => {
    if (!(await this.calls.persist()))
      this.note =
        'The browser did not agree. It may once this site is installed, bookmarked or used more often; until then it may clear what is kept when the disk is full.';
    await this.refresh();
  };

  private async export(disk: StoredDisk): Promise<void> {
    await this.attempt('Exporting the changes', () =>
      saveStream(`${disk.name}.diff`, () => this.calls.export(disk.key), { size: disk.storedBytes }),
    );
  }

  private async discard(disk: StoredDisk): Promise<void> {
    this.asking = undefined;
    await this.attempt('Deleting', () => this.calls.delete(disk.key));
    await this.refresh();
  }

  private renderDisk(disk: StoredDisk): TemplateResult {
    const { key, name, storedBytes, suspendedBytes, modified, inUse } = disk;
    return html`<li>
      <strong>${name}</strong>
      <small class="dim"
        >${bytesText(storedBytes)} of
        changes${suspendedBytes ? `, ${bytesText(suspendedBytes)} of suspended memory` : ''};
        ${inUse ? 'in use' : dateText(modified.getTime())}</small
      >
      <div class="row">
        <button class="plain" ?disabled=${this.work !== undefined || inUse} @click=${() => this.export(disk)}>
          ${icons.download} Export
        </button>
        <button
          class="icon"
          aria-label="Delete the changes to ${name}"
          title="Delete"
          ?disabled=${inUse}
          @click=${() => (this.asking = key)}
        >
          ${icons.trash}
        </button>
      </div>
      ${
        this.asking === key
          ? html`<div class="row" role="alert">
              Delete it for good? <button class="danger" @click=${() => this.discard(disk)}>Delete</button
              ><button class="plain" @click=${() => (this.asking = undefined)}>Cancel</button>
            </div>`
          : nothing
      }
    </li>`;
  }

  protected override render(): TemplateResult | typeof nothing {
    const { estimate, disks } = this;
    if (!estimate) return nothing;
    if (!estimate.quota)
      return html`<p class="dim">
        This browser gives this page no storage (a private window, a sandboxed frame, or a setting): files and settings
        last until it is closed.
      </p>`;
    return html`
      <dl>
        <dt>Used by this site</dt>
        <dd>${bytesText(estimate.usage ?? 0)}</dd>
        <dt>The browser allows</dt>
        <dd>${bytesText(estimate.quota)}</dd>
      </dl>
      ${
        estimate.persisted
          ? html`<p class="dim">The browser does not clear it by itself.</p>`
          : html`<p class="dim">The browser may clear it when the disk is full.</p>
              <div><button class="plain" @click=${this.persist}>Ask to keep it</button></div>`
      }
      ${
        disks.length
          ? html`<ul aria-label="Kept disks">
              ${disks.map((disk) => this.renderDisk(disk))}
            </ul>`
          : nothing
      }
      ${this.renderState()}
    `;
  }
}

declare global {
  interface HTMLElementTagNameMap {
    'linux-vm-storage-list': LinuxVMStorageList;
  }
}
