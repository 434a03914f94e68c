import { css, html, nothing, type PropertyValues, type TemplateResult } from 'lit';
import { customElement, property, state as reactive } from 'lit/decorators.js';
import type { OfflineDisk, OfflineStatus } from '../src/offline/disk.ts';
import type { VmStats } from '../src/protocol.ts';
import type { LinuxVM } from '../src/vm.ts';
import { chooseFiles, saveStream } from './download.ts';
import { bytesText, messageOf, percentText } from './format.ts';
import { icons } from './icons.ts';
import type { LinuxVMElement } from './linux-vm.ts';
import { Panel } from './panel.ts';

const INTERVAL = 1000;

/** Where the disk's blocks come from and go to: streamed, cached, written; offline use, export, import, reset. */
@customElement('linux-vm-disk-panel')
export class LinuxVMDiskPanel extends Panel {
  static override styles = [
    Panel.panelStyles,
    css`
      .offline {
        display: grid;
        gap: 8px;
      }
    `,
  ];

  @property({ attribute: false }) element?: LinuxVMElement;
  /** The disk in this browser; opened by whoever owns this panel, so that a download goes on when it is closed. */
  @property({ attribute: false }) offline?: Promise<OfflineDisk | undefined>;
  @reactive() private stats: VmStats | undefined;
  @reactive() private status: OfflineStatus | 'none' | undefined;
  @reactive() private asking: 'reset' | 'import' | 'remove' | undefined;
  private disk: OfflineDisk | undefined;
  private timer: ReturnType<typeof setInterval> | undefined;
  private unlisten: (() => void) | undefined;

  override connectedCallback(): void {
    super.connectedCallback();
    this.timer = setInterval(() => void this.look(), INTERVAL);
    if (this.offline) void this.openOffline();
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    clearInterval(this.timer);
    this.unlisten?.();
    this.unlisten = undefined;
  }

  protected override willUpdate(changed: PropertyValues<this>): void {
    if (changed.has('vm')) {
      this.stats = undefined;
      void this.look();
    }
    if (changed.has('offline')) void this.openOffline();
  }

  private async look(): Promise<void> {
    const { vm } = this;
    if (!vm || document.visibilityState === 'hidden') return;
    const stats = await vm.stats().catch(() => undefined);
    if (vm === this.vm && stats) this.stats = stats;
  }

  private async openOffline(): Promise<void> {
    const { offline } = this;
    this.unlisten?.();
    this.unlisten = undefined;
    try {
      const disk = await offline;
      if (offline !== this.offline || !this.isConnected) return;
      this.disk = disk;
      this.status = disk?.status ?? 'none';
      this.unlisten = disk?.on((status) => (this.status = status));
    } catch (cause) {
      this.status = 'none';
      this.failure = messageOf(cause);
    }
  }

  private download(): void {
    // What it rejects with is in its status; a pause is none.
    this.disk?.download().catch(() => undefined);
  }

  private async removeOffline(): Promise<void> {
    this.asking = undefined;
    await this.attempt('Removing the offline copy', async () => this.disk?.remove());
  }

  private async export(kind: 'image' | 'diff', vm: LinuxVM): Promise<void> {
    const { disk } = vm;
    const name = `${vmName(this.element)}.${kind === 'image' ? 'ext2' : 'diff'}`;
    await this.attempt('Exporting the disk', async (tell) => {
      const controller = new AbortController();
      const held = vm.storage?.storedBytes ?? this.stats?.disk?.overlayBytes ?? 0;
      await saveStream(name, () => (kind === 'image' ? disk.exportImage() : disk.exportDiff()), {
        // A whole image goes straight to a file: it may be larger than what fits into memory.
        size: kind === 'image' ? Infinity : held,
        signal: controller.signal,
        onBytes: (bytes) =>
          tell({
            text: `Exporting the disk: ${bytesText(bytes)}`,
            cancel: () => controller.abort(),
          }),
      });
      this.note = `${name} was saved.`;
    });
  }

  private async import(): Promise<void> {
    this.asking = undefined;
    const [file] = await chooseFiles();
    const { vm } = this;
    if (!file || !vm) return;
    await this.attempt(`Importing ${file.name}`, async () => {
      await vm.disk.importDiff(file);
      await vm.exited;
      await this.element?.start();
      this.note = `The machine was started with the disk of ${file.name}.`;
    });
  }

  private async reset(): Promise<void> {
    this.asking = undefined;
    const { vm } = this;
    if (!vm) return;
    await this.attempt('Resetting the disk', async () => {
      await vm.disk.reset();
      await vm.exited;
      await this.element?.start();
      this.note = 'The disk is as it was delivered, and the machine was started anew.';
    });
  }

  private renderOffline(): TemplateResult | typeof nothing {
    const { status } = this;
    if (!this.offline) return nothing;
    if (!status) return html`<p class="dim" role="status">Looking for what is here already…</p>`;
    if (status === 'none')
      return html`<p class="dim">
        This disk cannot be kept for offline use here: that needs a disk with a manifest, https, and a browser that
        gives this page storage.
      </p>`;
    const share = status.estimatedBytes ? Math.min(1, status.bytes / status.estimatedBytes) : 0;
    const amount = `${bytesText(status.bytes)} of about ${bytesText(status.estimatedBytes)}`;
    const start = (label: string): TemplateResult =>
      html`<button @click=${this.download}>${icons.download} ${label}</button>`;
    const remove = html`<button class="plain" @click=${() => (this.asking = 'remove')}>Remove</button>`;
    switch (status.state) {
      case 'absent':
        return html`<p class="dim">
            Download all of the disk${status.estimatedBytes ? `, about ${bytesText(status.estimatedBytes)}` : ''}, and
            the machine works without a network.
          </p>
          <div class="row">${start('Make available offline')}</div>`;
      case 'downloading':
        return html`<p role="status">Downloading: ${amount}</p>
          <progress aria-label="Downloading the disk" max="1" value=${share}></progress>
          <div class="row"><button class="plain" @click=${() => this.disk?.pause()}>Pause</button>${remove}</div>`;
      case 'partial':
        return html`<p>Paused: ${amount} are here.</p>
          <progress aria-label="Downloaded" max="1" value=${share}></progress>
          <div class="row">${start('Go on')}${remove}</div>`;
      case 'failed':
        return html`<p class="bad" role="alert">${status.error?.message ?? 'The download failed.'}</p>
          <p class="dim">${amount} are here and kept.</p>
          <div class="row">${start('Try again')}${remove}</div>`;
      case 'outdated':
        return html`<p>There is a newer build of this disk. Offline, the older one is used.</p>
          <div class="row">${start('Update')}${remove}</div>`;
      case 'complete':
        return html`<p>All of the disk is here (${bytesText(status.bytes)}): the machine works without a network.</p>
          <div class="row">${remove}</div>`;
    }
  }

  private renderQuestion(): TemplateResult | typeof nothing {
    const cancel = html`<button class="plain" @click=${() => (this.asking = undefined)}>Cancel</button>`;
    switch (this.asking) {
      case 'reset':
        return html`<div class="message bad" role="alert">
          <span
            >All that was written to this disk is lost, and the machine starts anew.
            <span class="row"><button class="danger" @click=${this.reset}>Reset the disk</button>${cancel}</span></span
          >
        </div>`;
      case 'import':
        return html`<div class="message" role="alert">
          <span
            >A diff replaces all that was written to this disk, and the machine starts anew.
            <span class="row"><button @click=${this.import}>Choose the file…</button>${cancel}</span></span
          >
        </div>`;
      case 'remove':
        return html`<div class="message" role="alert">
          <span
            >Without the offline copy the disk comes over the network again.
            <span class="row"
              ><button class="danger" @click=${this.removeOffline}>Remove it</button>${cancel}</span
            ></span
          >
        </div>`;
      case undefined:
        return nothing;
    }
  }

  private renderStorage(): TemplateResult | typeof nothing {
    const storage = this.vm?.storage;
    if (!storage) return nothing;
    return html`<h3>Kept in this browser</h3>
      <p class="dim">
        ${
          storage.mode === 'exclusive'
            ? storage.persisted
              ? 'Changes are kept, and the browser does not clear them by itself.'
              : 'Changes are kept. The browser may clear them when its disk is full; the settings have a button against that.'
            : storage.mode === 'read-only'
              ? 'Another tab has this disk; changes made here are lost when this page is closed.'
              : `Changes are lost when this page is closed${storage.reason ? `: ${storage.reason}` : ''}.`
        }
      </p>
      ${storage.warning ? html`<div class="message"><span>${storage.warning}</span></div>` : nothing}
      ${
        storage.problem
          ? html`<div class="message bad" role="alert"><span>${storage.problem.message}</span></div>`
          : nothing
      }
      ${
        storage.mode === 'exclusive'
          ? html`<dl>
              <dt>Changes</dt>
              <dd>${bytesText(storage.storedBytes)}</dd>
              <dt>Not written out yet</dt>
              <dd>${bytesText(storage.dirtyBytes)}</dd>
            </dl>`
          : nothing
      }`;
  }

  protected override render(): TemplateResult {
    const { vm } = this;
    const disk = this.stats?.disk;
    const idle = this.work === undefined && vm !== undefined && vm.state !== 'stopped' && vm.state !== 'error';
    return html`
      ${
        disk
          ? html`<dl>
              <dt>Streamed from the server</dt>
              <dd>${bytesText(disk.fetchedBytes)}</dd>
              <dt>Read by the guest</dt>
              <dd>${bytesText(disk.readBytes)}</dd>
              <dt>Found in memory</dt>
              <dd>${percentText(disk.hits, disk.hits + disk.misses)}</dd>
              <dt>Cached in memory</dt>
              <dd>${bytesText(disk.cachedBytes)}</dd>
              <dt>Written by the guest</dt>
              <dd>${bytesText(disk.writtenBytes)}</dd>
              <dt>Differs from the delivered disk</dt>
              <dd>${bytesText(Math.max(disk.overlayBytes, vm?.storage?.storedBytes ?? 0))}</dd>
            </dl>`
          : html`<p class="dim">What the disk does can be seen while the machine runs.</p>`
      }
      ${this.renderStorage()}
      ${
        this.offline
          ? html`<h3>Offline</h3>
              <div class="offline">${this.renderOffline()}</div>`
          : nothing
      }
      ${
        vm
          ? html`<h3>Export and import</h3>
              <div class="row">
                <button class="plain" ?disabled=${!idle} @click=${() => this.export('diff', vm)}>
                  ${icons.download} Changes
                </button>
                <button class="plain" ?disabled=${!idle} @click=${() => this.export('image', vm)}>
                  ${icons.download} Whole image
                </button>
                <button class="plain" ?disabled=${!idle} @click=${() => (this.asking = 'import')}>
                  ${icons.upload} Import changes
                </button>
                <button class="danger" ?disabled=${!idle} @click=${() => (this.asking = 'reset')}>Reset</button>
              </div>`
          : nothing
      }
      ${this.renderQuestion()} ${this.renderState()}
    `;
  }
}

function vmName(element: LinuxVMElement | undefined): string {
  const parts = element?.disk?.split(/[/\\?#]/).filter(Boolean) ?? [];
  return parts.at(-2) ?? parts.at(-1)?.replace(/\.\w+$/, '') ?? 'disk';
}

declare global {
  interface HTMLElementTagNameMap {
    'linux-vm-disk-panel': LinuxVMDiskPanel;
  }
}
