import { css, html, nothing, type PropertyValues, type TemplateResult } from 'lit';
import { customElement, query, state as reactive } from 'lit/decorators.js';
import type { ListedEntry } from '../src/agent/client.ts';
import { chooseFiles, saveStream } from './download.ts';
import { bytesText, dateText, messageOf } from './format.ts';
import { icons } from './icons.ts';
import { Panel } from './panel.ts';
import { type Dropped, join, normalise, uploadFiles } from './upload.ts';

/** Entries shown at first; more on demand. */
const PAGE = 500;

/** The guest's files: browse, put in, take out. */
@customElement('linux-vm-files-panel')
export class LinuxVMFilesPanel extends Panel {
  static override styles = [
    Panel.panelStyles,
    css`
      form {
        display: flex;
        gap: 6px;
      }
      form input {
        flex: 1;
      }
      li {
        display: flex;
        align-items: center;
        gap: 2px;
        border-bottom: 1px solid var(--_border);
      }
      .entry {
        flex: 1;
        justify-content: start;
        gap: 10px;
        min-width: 0;
        min-height: 38px;
        padding: 2px 4px;
        border: 0;
        background: transparent;
        color: var(--_text);
        font-weight: 400;
        text-align: left;
      }
      .entry:hover {
        background: var(--_raised);
      }
      .entry svg {
        color: var(--_dim);
      }
      .entry.directory svg {
        color: var(--_accent);
      }
      small {
        flex: none;
        color: var(--_dim);
        font-variant-numeric: tabular-nums;
      }
      .ask {
        flex: 1;
        padding: 4px;
      }
      li .icon {
        flex: none;
      }
    `,
  ];

  @reactive() private directory = '/root';
  @reactive() private entries: readonly ListedEntry[] | undefined;
  @reactive() private limit = PAGE;
  @reactive() private asking: string | undefined;
  @query('input[name=path]') private readonly pathInput!: HTMLInputElement | null;
  private visit = 0;

  /** Puts files into the directory that is shown. */
  async upload(files: Promise<Dropped[]>): Promise<void> {
    const { vm, directory } = this;
    if (!vm) return;
    await this.attempt('Reading what was dropped', async (tell) => {
      const list = await files;
      if (!list.length) return;
      await uploadFiles(vm, directory, list, tell);
      this.note = `${list.length === 1 ? list[0]!.path : `${list.length} files`} copied to ${directory}`;
    }).then(() => this.refresh());
  }

  protected override willUpdate(changed: PropertyValues<this>): void {
    if (changed.has('vm')) {
      this.entries = undefined;
      void this.refresh();
    }
  }

  private async go(path: string): Promise<void> {
    this.asking = undefined;
    await this.list(normalise(path));
  }

  private refresh(): Promise<void> {
    return this.list(this.directory);
  }

  private async list(path: string): Promise<void> {
    const { vm } = this;
    if (!vm) return;
    const visit = ++this.visit;
    try {
      const entries = await vm.fs.list(path);
      if (visit !== this.visit) return;
      if (path !== this.directory) {
        this.limit = PAGE;
        this.note = '';
      }
      this.directory = path;
      this.entries = entries.sort((a, b) => Number(isDirectory(b)) - Number(isDirectory(a)) || compare(a.name, b.name));
      this.failure = '';
    } catch (cause) {
      if (visit === this.visit) this.failure = messageOf(cause);
    }
    if (this.pathInput) this.pathInput.value = this.directory;
  }

  private async download(entry: ListedEntry): Promise<void> {
    const { vm } = this;
    if (!vm) return;
    const path = join(this.directory, entry.name);
    const directory = isDirectory(entry);
    await this.attempt(`Downloading ${entry.name}`, async (tell) => {
      const controller = new AbortController();
      const size = directory ? undefined : entry.size;
      const options = {
        size,
        signal: controller.signal,
        onBytes: (bytes: number) =>
          tell({
            text: `Downloading ${entry.name}: ${bytesText(bytes)}`,
            done: size ? bytes / size : undefined,
            cancel: () => controller.abort(),
          }),
      };
      if (!directory) return saveStream(entry.name, () => vm.fs.readStream(path), options);
      const tar = await vm.spawn(['tar', '-C', this.directory, '-cf', '-', '--', entry.name]);
      try {
        await saveStream(`${entry.name}.tar`, () => tar.stdout, options);
        const { status } = await tar.exit;
        if (status !== 0)
          this.note = `Some files of ${entry.name} could not be read (tar ended with status ${status}).`;
      } finally {
        tar.kill();
      }
    });
  }

  private async discard(entry: ListedEntry): Promise<void> {
    this.asking = undefined;
    await this.attempt(`Deleting ${entry.name}`, () =>
      this.vm!.fs.rm(join(this.directory, entry.name), { recursive: true }),
    );
    await this.refresh();
  }

  private async newFolder(): Promise<void> {
    const names = new Set(this.entries?.map(({ name }) => name));
    let name = 'new-folder';
    for (let n = 2; names.has(name); n++) name = `new-folder-${n}`;
    await this.attempt('Making a folder', () => this.vm!.fs.mkdir(join(this.directory, name)));
    await this.refresh();
  }

  private async choose(): Promise<void> {
    const files = await chooseFiles({ multiple: true });
    await this.upload(Promise.resolve(files.map((file) => ({ path: file.name, file }))));
  }

  private renderEntry(entry: ListedEntry): TemplateResult {
    const { name } = entry;
    const directory = isDirectory(entry);
    if (this.asking === name)
      return html`<li>
        <span class="ask row" role="alert"
          >Delete ${name}${directory ? ' and all in it' : ''}?
          <button class="danger" @click=${() => this.discard(entry)}>Delete</button>
          <button class="plain" @click=${() => (this.asking = undefined)}>Keep</button></span
        >
      </li>`;
    const regular = entry.type === 'file' || entry.target === 'file';
    return html`<li>
      <button
        class="entry ${directory ? 'directory' : ''}"
        title="${name}, ${dateText(entry.mtime)}"
        ?disabled=${!directory && !regular}
        @click=${() => (directory ? this.go(join(this.directory, name)) : this.download(entry))}
      >
        <span class="unseen">${directory ? 'Open' : 'Download'} </span>${directory ? icons.folder : icons.file}<span
          class="name"
          >${name}</span
        >
        <small>${directory ? '' : regular ? bytesText(entry.size) : entry.type}</small>
      </button>
      ${
        directory
          ? html`<button
              class="icon"
              aria-label="Download ${name} as tar"
              title="Download as tar"
              @click=${() => this.download(entry)}
            >
              ${icons.download}
            </button>`
          : nothing
      }
      <button class="icon" aria-label="Delete ${name}" title="Delete" @click=${() => (this.asking = name)}>
        ${icons.trash}
      </button>
    </li>`;
  }

  protected override render(): TemplateResult {
    if (!this.vm) return html`<p class="dim">The machine’s files can be seen while it runs.</p>`;
    const { entries } = this;
    return html`
      <form
        @submit=${(event: Event) => {
          event.preventDefault();
          void this.go(this.pathInput!.value);
        }}
      >
        <button
          type="button"
          class="icon"
          aria-label="Parent directory"
          title="Up"
          ?disabled=${this.directory === '/'}
          @click=${() => this.go(`${this.directory}/..`)}
        >
          ${icons.up}
        </button>
        <input name="path" aria-label="Directory" autocomplete="off" spellcheck="false" .value=${this.directory} />
        <button type="button" class="icon" aria-label="Refresh" title="Refresh" @click=${this.refresh}>
          ${icons.refresh}
        </button>
      </form>
      <div class="row">
        <button ?disabled=${this.work !== undefined} @click=${this.choose}>${icons.upload} Upload</button>
        <button class="plain" ?disabled=${this.work !== undefined} @click=${this.newFolder}>
          ${icons.newFolder} New folder
        </button>
      </div>
      ${this.renderState()}
      ${
        entries
          ? entries.length
            ? html`<ul aria-label="Files in ${this.directory}">
                ${entries.slice(0, this.limit).map((entry) => this.renderEntry(entry))}
              </ul>`
            : html`<p class="dim">This directory is empty. Drop files here to put them in.</p>`
          : this.failure
            ? nothing
            : html`<p class="dim" role="status">Waiting for the guest…</p>`
      }
      ${
        entries && entries.length > this.limit
          ? html`<button class="plain" @click=${() => (this.limit += PAGE)}>
              Show ${Math.min(PAGE, entries.length - this.limit)} more of ${entries.length}
            </button>`
          : nothing
      }
    `;
  }
}

function isDirectory(entry: ListedEntry): boolean {
  return entry.type === 'directory' || entry.target === 'directory';
}

function compare(a: string, b: string): number {
  return a.localeCompare(b, undefined, { numeric: true });
}

declare global {
  interface HTMLElementTagNameMap {
    'linux-vm-files-panel': LinuxVMFilesPanel;
  }
}
