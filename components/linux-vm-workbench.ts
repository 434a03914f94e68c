import { css, html, LitElement, nothing, type PropertyValues, type TemplateResult } from 'lit';
import { customElement, property, query, state as reactive } from 'lit/decorators.js';
import type { OfflineDisk } from '../src/offline/disk.ts';
import { type Settings, SettingsStore } from '../src/settings.ts';
import { type Link, unpackInto } from '../src/share.ts';
import type { LinuxVM, VmState } from '../src/vm.ts';
import { bytesText, messageOf } from './format.ts';
import { icons, type IconName } from './icons.ts';
import './linux-vm-consoles.ts';
import type { LinuxVMConsoles, TerminalOptions } from './linux-vm-consoles.ts';
import './linux-vm-hint.ts';
import './linux-vm-key-bar.ts';
import './linux-vm-status.ts';
import type { LinuxVMElement } from './linux-vm.ts';
import type { LinuxVMTerminal } from './linux-vm-terminal.ts';
import { storageText } from './storage-text.ts';
import { controls, type Theme, tokens } from './theme.ts';
import { type Dropped, droppedFiles } from './upload.ts';

const PANELS = [
  ['files', 'Files'],
  ['disk', 'Disk'],
  ['snapshots', 'Snapshots'],
  ['inspector', 'Inspector'],
  ['share', 'Share'],
  ['settings', 'Settings'],
] as const satisfies readonly (readonly [IconName, string])[];
export type PanelName = (typeof PANELS)[number][0];

/** What a first look at the terminal does not need. */
const PARTS: Readonly<Record<PanelName | 'link', () => Promise<unknown>>> = {
  files: () => import('./linux-vm-files-panel.ts'),
  disk: () => import('./linux-vm-disk-panel.ts'),
  snapshots: () => import('./linux-vm-snapshots-panel.ts'),
  inspector: () => import('./linux-vm-inspector-panel.ts'),
  share: () => import('./linux-vm-share-panel.ts'),
  settings: () => import('./linux-vm-settings-panel.ts'),
  link: () => import('./linux-vm-link-dialog.ts'),
};

/** Something to tell that no panel shows. */
export interface Notice {
  text: string;
  bad?: boolean;
  action?: { label: string; run: () => void };
}

/** Narrower than this, in CSS pixels, a panel covers the terminal instead of standing beside it. */
const NARROW = 720;

/**
 * A `<linux-vm>` with all that stands around it: consoles in tabs, panels, keys for touch screens, a status line.
 *
 * ```html
 * <linux-vm-workbench><linux-vm disk="disks/debian/manifest.json" autostart></linux-vm></linux-vm-workbench>
 * ```
 *
 * @slot - one `<linux-vm>`
 */
@customElement('linux-vm-workbench')
export class LinuxVMWorkbench extends LitElement {
  static override styles = [
    tokens,
    controls,
    css`
      :host {
        display: block;
        container: workbench / size;
        position: relative;
        min-width: 0;
        height: 640px;
        overflow: hidden;
        color: var(--_text);
        background: var(--_background);
        font:
          15px/1.45 system-ui,
          sans-serif;
      }
      .layout {
        display: grid;
        grid-template:
          'main aside rail' minmax(0, 1fr) 'keys keys keys' auto 'status status status' auto / minmax(0, 1fr)
          auto auto;
        height: 100%;
      }
      linux-vm-consoles {
        grid-area: main;
        /* Terminals have layers of their own. */
        isolation: isolate;
      }
      #panel {
        grid-area: aside;
        display: flex;
        flex-direction: column;
        width: 360px;
        min-height: 0;
        border-left: 1px solid var(--_border);
        background: var(--_panel);
      }
      #panel > header {
        display: flex;
        align-items: center;
        justify-content: space-between;
        height: 38px;
        padding: 0 6px 0 16px;
        border-bottom: 1px solid var(--_border);
      }
      h2 {
        margin: 0;
        font-size: 14px;
        font-weight: 600;
      }
      .scroll {
        flex: 1;
        min-height: 0;
        overflow-y: auto;
      }
      nav {
        grid-area: rail;
        display: flex;
        flex-direction: column;
        gap: 2px;
        padding: 2px;
        border-left: 1px solid var(--_border);
        background: var(--_panel);
      }
      nav button.icon {
        width: 40px;
        min-height: 40px;
      }
      nav button.icon[aria-expanded='true'] {
        color: var(--_accent);
        background: var(--_raised);
      }
      nav button:last-of-type {
        margin-top: auto;
      }
      linux-vm-key-bar {
        grid-area: keys;
      }
      linux-vm-status {
        grid-area: status;
      }
      .notices {
        grid-area: main;
        z-index: 2;
        align-self: end;
        justify-self: end;
        display: grid;
        gap: 8px;
        max-width: min(26rem, 100%);
        padding: 12px;
        pointer-events: none;
      }
      .notices > * {
        pointer-events: auto;
      }
      .notice {
        display: flex;
        flex-wrap: wrap;
        gap: 8px;
        align-items: center;
        padding: 10px 12px 10px 16px;
        border: 1px solid var(--_border);
        border-radius: 10px;
        background: var(--_panel);
        box-shadow: 0 4px 18px rgb(0 0 0 / 25%);
      }
      .notice.bad {
        border-color: var(--_bad);
      }
      .notice > span {
        flex: 1 1 10rem;
        overflow-wrap: anywhere;
      }
      .drop {
        position: absolute;
        z-index: 3;
        inset: 8px;
        display: grid;
        place-items: center;
        border: 2px dashed var(--_accent);
        border-radius: 12px;
        background: color-mix(in srgb, var(--_panel) 88%, transparent);
        font-size: 1.1rem;
        pointer-events: none;
      }
      @container workbench (max-width: 720px) {
        .layout {
          grid-template: 'main' minmax(0, 1fr) 'keys' auto 'status' auto 'rail' auto / minmax(0, 1fr);
        }
        #panel {
          grid-area: main;
          z-index: 1;
          width: auto;
          border-left: 0;
        }
        nav {
          flex-direction: row;
          justify-content: space-around;
          border-left: 0;
          border-top: 1px solid var(--_border);
        }
        nav button.icon {
          flex: 1;
          max-width: 64px;
        }
        nav button:last-of-type {
          margin-top: 0;
        }
      }
      @container workbench (max-height: 400px) {
        linux-vm-status {
          display: none;
        }
      }
    `,
  ];

  /** Where choices are kept. */
  @property({ attribute: false }) settings = new SettingsStore();
  @property({ reflect: true }) theme: Theme = 'auto';

  @reactive() private machine: LinuxVM | undefined;
  @reactive() private state: VmState | 'idle' = 'idle';
  @reactive() private open: PanelName | undefined;
  @reactive() private notices: readonly Notice[] = [];
  @reactive() private progress: { text: string; done?: number } | undefined;
  @reactive() private dragging = false;
  @reactive() private narrow = false;
  @reactive() private shown: LinuxVMTerminal | undefined;
  @reactive() private storage = storageText(undefined);
  @query('linux-vm-consoles') private readonly consoles!: LinuxVMConsoles;
  @query('#panel') private readonly panel!: HTMLElement | null;
  private readonly touch = globalThis.matchMedia?.('(pointer: coarse)');
  private readonly observer = new ResizeObserver(() => (this.narrow = this.clientWidth <= NARROW));
  private unlisten: (() => void) | undefined;
  private startedWith: Pick<Settings, 'memory' | 'keepDisk'> | undefined;
  private problem: string | undefined;
  private warned = false;
  private parts: Promise<void> | undefined;
  private offline: { url: string; disk: Promise<OfflineDisk | undefined> } | undefined;

  /** The machine's element, once it is in the slot. */
  get element(): LinuxVMElement | undefined {
    return this.querySelector('linux-vm') ?? undefined;
  }

  /** Shows something until it is dismissed. */
  tell(notice: Notice): void {
    this.notices = [...this.notices.filter(({ text }) => text !== notice.text), notice];
  }

  /** Opens a panel; none closes the one that is open. */
  show(panel: PanelName | undefined): void {
    this.open = panel;
    if (panel) this.parts = this.load(panel).then(() => undefined);
  }

  /** @returns whether the part is there */
  private async load(part: keyof typeof PARTS): Promise<boolean> {
    try {
      await PARTS[part]();
      return true;
    } catch (cause) {
      this.tell({
        text: `A part of this page could not be loaded (${messageOf(cause)}): load the page again when its server can be reached.`,
        bad: true,
      });
      return false;
    }
  }

  /** Resolves when the panel that was opened is there, too. */
  protected override async getUpdateComplete(): Promise<boolean> {
    const result = await super.getUpdateComplete();
    await this.parts;
    return result;
  }

  /** Does what an address asks for beyond the choice of a machine, once the visitor agrees. */
  async follow(link: Link): Promise<void> {
    const foreign = link.state !== undefined && new URL(link.state, document.baseURI).origin !== location.origin;
    if (!link.run && !link.files && !link.state) return;
    await this.updateComplete;
    if (link.run || link.files || foreign) {
      const loaded = await this.load('link');
      if (!this.isConnected) return;
      if (!loaded || !(await this.shadowRoot!.querySelector('linux-vm-link-dialog')!.ask(link))) {
        if (link.state) await this.element?.start().catch(() => undefined);
        return;
      }
    }
    try {
      if (link.state) await this.openState(new URL(link.state, document.baseURI).href);
      const vm = await this.element?.start();
      if (!vm) return;
      await vm.ready;
      if (link.files) await unpackInto(vm, link.directory ?? '/root', link.files);
      // Typed where everybody sees it.
      if (link.run)
        vm.console.write(`${link.directory && link.files ? `cd ${quote(link.directory)} && ` : ''}${link.run}\n`);
      this.element?.focus();
    } catch (cause) {
      this.tell({ text: messageOf(cause), bad: true });
    }
  }

  private async openState(address: string): Promise<void> {
    const text = (rest: string): string => `Fetching the machine from ${new URL(address).host}${rest}`;
    this.progress = { text: text('') };
    try {
      const response = await fetch(address, { mode: 'cors', credentials: 'omit' }).catch(() => {
        throw new Error(
          `${address} could not be read: the server cannot be reached, or does not allow other sites to read it (CORS).`,
        );
      });
      if (!response.ok || !response.body)
        throw new Error(`${address} was answered with ${response.status} ${response.statusText}.`);
      const total = Number(response.headers.get('content-length')) || undefined;
      let bytes = 0;
      const counted = response.body.pipeThrough(
        new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>({
          transform: (chunk, controller) => {
            bytes += chunk.length;
            this.progress = { text: text(`: ${bytesText(bytes)}`), done: total ? bytes / total : undefined };
            controller.enqueue(chunk);
          },
        }),
      );
      await this.element?.restore(await new Response(counted).blob());
    } finally {
      this.progress = undefined;
    }
  }

  override connectedCallback(): void {
    super.connectedCallback();
    this.observer.observe(this);
    this.touch?.addEventListener('change', this.onTouch);
    this.addEventListener('vm-state', this.onState);
    this.addEventListener('terminal-leave', this.onLeave);
    this.addEventListener('dragover', this.onDrag);
    this.addEventListener('dragleave', this.onDragLeave);
    this.addEventListener('drop', this.onDrop);
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.observer.disconnect();
    this.touch?.removeEventListener('change', this.onTouch);
    this.settings.removeEventListener('change', this.onSettings);
    this.unlisten?.();
    this.unlisten = undefined;
  }

  protected override willUpdate(changed: PropertyValues<this>): void {
    if (!changed.has('settings')) return;
    changed.get('settings')?.removeEventListener('change', this.onSettings);
    this.settings.addEventListener('change', this.onSettings);
    this.onSettings();
  }

  private readonly onTouch = (): void => this.requestUpdate();

  private get terminalOptions(): TerminalOptions {
    const { theme, fontSize, fontFamily, optionIsMeta, copyPaste, screenReader } = this.settings.value;
    const keyboard = [optionIsMeta && 'option-is-meta', copyPaste && 'copy-paste'].filter(Boolean).join(' ');
    return { theme, fontSize, fontFamily, keyboard, screenReader };
  }

  private readonly onSettings = (): void => {
    this.theme = this.settings.value.theme;
    const { element } = this;
    if (element) Object.assign(element, this.terminalOptions);
    this.requestUpdate();
  };

  private readonly onState = (event: Event): void => {
    const { element } = this;
    if (event.target !== element || !element) return;
    this.state = element.state;
    if (this.state === 'loading')
      this.startedWith = { memory: element.memory, keepDisk: element.storageKey !== undefined };
    else if (this.state === 'stopped' || this.state === 'error') this.startedWith = undefined;
    if (element.vm !== this.machine) {
      this.unlisten?.();
      this.unlisten = undefined;
      this.machine = element.vm;
      this.onStorage();
      this.unlisten = this.machine?.on('storage', this.onStorage);
    }
    this.shown ??= element.terminal;
  };

  private readonly onStorage = (): void => {
    const status = this.machine?.storage;
    this.storage = storageText(status);
    const { problem } = status ?? {};
    if (problem && problem.message !== this.problem)
      this.tell({
        text: problem.message,
        bad: true,
        action: { label: 'Disk', run: () => this.show('disk') },
      });
    this.problem = problem?.message;
    const warning = status?.warning ?? (status?.reason && `Files are not kept: ${status.reason}`);
    if (warning && !this.warned) {
      this.warned = true;
      this.tell({ text: warning });
    }
  };

  private readonly onLeave = (event: Event): void => {
    event.preventDefault();
    this.consoles.focusTabs();
  };

  private readonly onConsole = (): void => {
    void this.updateComplete.then(() => (this.shown = this.consoles.shownTerminal ?? this.element?.terminal));
  };

  private get ready(): boolean {
    return this.machine !== undefined && (this.state === 'booting' || this.state === 'running');
  }

  private readonly onDrag = (event: DragEvent): void => {
    if (!event.dataTransfer?.types.includes('Files')) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = this.ready ? 'copy' : 'none';
    this.dragging = this.ready;
  };

  private readonly onDragLeave = (event: DragEvent): void => {
    if (!event.relatedTarget) this.dragging = false;
  };

  private readonly onDrop = (event: DragEvent): void => {
    if (!event.dataTransfer?.types.includes('Files')) return;
    event.preventDefault();
    this.dragging = false;
    if (!this.ready) return;
    // Entries can only be taken while the event is handled.
    const files = droppedFiles(event.dataTransfer);
    void this.upload(files);
  };

  private async upload(files: Promise<Dropped[]>): Promise<void> {
    this.show('files');
    await this.updateComplete;
    await this.shadowRoot!.querySelector('linux-vm-files-panel')?.upload(files);
  }

  private readonly onPanelKey = (event: KeyboardEvent): void => {
    if (event.key !== 'Escape' || event.defaultPrevented) return;
    event.stopPropagation();
    this.closePanel();
  };

  private closePanel(): void {
    const name = this.open;
    this.open = undefined;
    void this.updateComplete.then(() => this.shadowRoot!.querySelector<HTMLElement>(`#open-${name}`)?.focus());
  }

  private toggle(name: PanelName): void {
    this.show(this.open === name ? undefined : name);
    if (!this.open) return;
    // The heading, so that a screen reader says where it is, and Tab goes on from there.
    void this.updateComplete.then(() => this.panel?.querySelector<HTMLElement>('h2')?.focus());
  }

  /** Held here, so that a download goes on when its panel is closed. */
  private get offlineDisk(): Promise<OfflineDisk | undefined> | undefined {
    const disk = this.element?.disk;
    if (!disk?.endsWith('.json')) return undefined;
    const url = new URL(disk, document.baseURI).href;
    if (this.offline?.url !== url) {
      void this.offline?.disk.then((open) => open?.close()).catch(() => undefined);
      this.offline = { url, disk: import('../src/offline/disk.ts').then((part) => part.OfflineDisk.open(url)) };
      this.offline.disk.catch(() => undefined); // the panel shows it
    }
    return this.offline.disk;
  }

  private renderPanelBody(name: PanelName): TemplateResult {
    const { element, machine: vm } = this;
    switch (name) {
      case 'files':
        return html`<linux-vm-files-panel .vm=${vm}></linux-vm-files-panel>`;
      case 'disk':
        return html`<linux-vm-disk-panel
          .vm=${vm}
          .element=${element}
          .offline=${this.offlineDisk}
        ></linux-vm-disk-panel>`;
      case 'snapshots':
        return html`<linux-vm-snapshots-panel .vm=${vm} .element=${element}></linux-vm-snapshots-panel>`;
      case 'inspector':
        return html`<linux-vm-inspector-panel .vm=${vm}></linux-vm-inspector-panel>`;
      case 'share':
        return html`<linux-vm-share-panel
          .vm=${vm}
          .element=${element}
          .settings=${this.settings}
        ></linux-vm-share-panel>`;
      case 'settings':
        return html`<linux-vm-settings-panel
          .vm=${vm}
          .element=${element}
          .settings=${this.settings}
          .startedWith=${this.startedWith}
        ></linux-vm-settings-panel>`;
    }
  }

  private renderPanel(): TemplateResult | typeof nothing {
    const name = this.open;
    if (!name) return nothing;
    return html`<section id="panel" aria-labelledby="panel-title" @keydown=${this.onPanelKey}>
      <header>
        <h2 id="panel-title" tabindex="-1">${PANELS.find(([id]) => id === name)![1]}</h2>
        <button class="icon" aria-label="Close panel" title="Close (Esc)" @click=${this.closePanel}>
          ${icons.close}
        </button>
      </header>
      <div class="scroll">${this.renderPanelBody(name)}</div>
    </section>`;
  }

  private renderNotice(notice: Notice): TemplateResult {
    const dismiss = (): void => void (this.notices = this.notices.filter((other) => other !== notice));
    return html`<div class="notice ${notice.bad ? 'bad' : ''}">
      <span>${notice.text}</span>
      ${
        notice.action
          ? html`<button
              @click=${() => {
                dismiss();
                notice.action!.run();
              }}
            >
              ${notice.action.label}
            </button>`
          : nothing
      }
      <button class="icon" aria-label="Dismiss" @click=${dismiss}>${icons.close}</button>
    </div>`;
  }

  protected override render(): TemplateResult {
    // There is time to read while the machine is loading.
    const hint = !this.settings.value.hintSeen && ['loading', 'booting', 'running'].includes(this.state);
    return html`
      <div class="layout">
        <linux-vm-consoles
          .vm=${this.ready ? this.machine : undefined}
          .options=${this.terminalOptions}
          ?inert=${this.narrow && this.open !== undefined}
          @console-change=${this.onConsole}
          ><slot @slotchange=${this.onSettings}></slot
        ></linux-vm-consoles>
        ${this.renderPanel()}
        <nav aria-label="Panels">
          ${PANELS.map(
            ([name, label]) =>
              html`<button
                id="open-${name}"
                class="icon"
                aria-label=${label}
                title=${label}
                aria-expanded=${this.open === name}
                aria-controls=${this.open === name ? 'panel' : nothing}
                @click=${() => this.toggle(name)}
              >
                ${icons[name]}
              </button>`,
          )}
        </nav>
        <linux-vm-key-bar
          ?hidden=${!this.touch?.matches || (this.narrow && this.open !== undefined)}
          .terminal=${this.shown}
        ></linux-vm-key-bar>
        <linux-vm-status
          role="group"
          aria-label="Machine status"
          .vm=${this.machine}
          .state=${this.state}
          .storage=${this.storage.text}
          ?trouble=${this.storage.trouble}
        ></linux-vm-status>
        <div class="notices" role="status">
          ${
            this.progress
              ? html`<div class="notice">
                  <span>${this.progress.text}</span
                  ><progress aria-label=${this.progress.text} max="1" value=${this.progress.done ?? nothing}></progress>
                </div>`
              : nothing
          }
          ${this.notices.map((notice) => this.renderNotice(notice))}
          ${hint ? html`<linux-vm-hint @hint-done=${() => this.settings.update({ hintSeen: true })}></linux-vm-hint>` : nothing}
        </div>
      </div>
      <linux-vm-link-dialog></linux-vm-link-dialog>
      ${this.dragging ? html`<div class="drop">Drop files to put them into the machine</div>` : nothing}
    `;
  }
}

function quote(word: string): string {
  return `'${word.replaceAll("'", "'\\''")}'`;
}

declare global {
  interface HTMLElementTagNameMap {
    'linux-vm-workbench': LinuxVMWorkbench;
  }
}
