import { css, html, LitElement, nothing, type PropertyValues, type TemplateResult } from 'lit';
import { customElement, property, query, state as reactive } from 'lit/decorators.js';
import { repeat } from 'lit/directives/repeat.js';
import type { Process } from '../src/agent/client.ts';
import type { LinuxVM } from '../src/vm.ts';
import { messageOf } from './format.ts';
import { icons } from './icons.ts';
import './linux-vm-terminal.ts';
import type { LinuxVMTerminal } from './linux-vm-terminal.ts';
import { controls, type Theme } from './theme.ts';

/** How terminals look and behave; see LinuxVMTerminal. */
export interface TerminalOptions {
  theme: Theme;
  fontSize: number;
  fontFamily: string;
  keyboard: string;
  screenReader: boolean;
}

interface Shell {
  id: number;
  title: string;
  /** Set once it runs. */
  process?: Process;
  writer?: WritableStreamDefaultWriter<Uint8Array>;
  closed: boolean;
}

const SIGHUP = 1;
const MOST_SHELLS = 8;
/** The user's own shell from /etc/passwd, as a login shell. */
const LOGIN = ['/bin/sh', '-c', 'exec "${SHELL:-/bin/sh}" -l'];

/**
 * Consoles as tabs: the machine's own in the default slot, and shells that the guest's agent starts on terminals of
 * their own. Ctrl+Shift+Left and Right change tabs, Ctrl+Shift+Enter opens one, Delete on a tab closes it.
 *
 * @slot - the machine's console
 * @fires console-change another tab is shown
 */
@customElement('linux-vm-consoles')
export class LinuxVMConsoles extends LitElement {
  static override styles = [
    controls,
    css`
      :host {
        display: grid;
        grid-template-rows: auto minmax(0, 1fr);
        min-width: 0;
        min-height: 0;
      }
      .strip {
        display: flex;
        align-items: stretch;
        min-width: 0;
        height: 38px;
        padding: 0 4px;
        border-bottom: 1px solid var(--_border);
        background: var(--_panel);
      }
      .tabs {
        display: flex;
        min-width: 0;
        overflow-x: auto;
        scrollbar-width: none;
      }
      [role='tab'] {
        position: relative;
        flex: none;
        gap: 4px;
        min-height: 37px;
        padding: 0 12px;
        border: 0;
        border-radius: 0;
        background: transparent;
        color: var(--_dim);
        font-weight: 500;
      }
      [role='tab']:hover {
        color: var(--_text);
      }
      [role='tab'][aria-selected='true'] {
        color: var(--_text);
        box-shadow: inset 0 -2px var(--_accent);
      }
      [role='tab']:focus-visible,
      .add:focus-visible {
        outline-offset: -3px;
      }
      .close {
        display: inline-grid;
        place-items: center;
        width: 24px;
        height: 24px;
        margin-right: -8px;
        border-radius: 6px;
      }
      .close:hover {
        background: var(--_raised);
      }
      .close svg {
        width: 13px;
        height: 13px;
      }
      .add {
        flex: none;
        align-self: center;
      }
      .panels {
        position: relative;
        min-height: 0;
      }
      [role='tabpanel'] {
        position: absolute;
        inset: 0;
      }
      [role='tabpanel'][hidden] {
        display: none;
      }
      [role='tabpanel'] > linux-vm-terminal,
      [role='tabpanel'] > slot::slotted(*) {
        height: 100%;
      }
    `,
  ];

  @property({ attribute: false }) vm?: LinuxVM;
  @property({ attribute: false }) options?: TerminalOptions;
  @reactive() private shells: readonly Shell[] = [];
  /** 0 is the machine's own. */
  @reactive() private active = 0;
  @query('.tabs') private readonly tabs!: HTMLElement;
  private nextId = 1;

  /** The terminal of the tab that is shown; undefined where that is the machine's own. */
  get shownTerminal(): LinuxVMTerminal | undefined {
    return this.terminal(this.active);
  }

  /** Opens a shell in a tab of its own and shows it. */
  async open(): Promise<void> {
    const { vm } = this;
    if (!vm || this.shells.length >= MOST_SHELLS) return;
    const shell: Shell = { id: this.nextId++, title: '', closed: false };
    const taken = new Set(this.shells.map(({ title }) => title));
    for (let n = 2; !shell.title; n++) if (!taken.has(`Shell ${n}`)) shell.title = `Shell ${n}`;
    this.shells = [...this.shells, shell];
    this.show(shell.id);
    await this.updateComplete;
    await this.run(vm, shell);
  }

  /** Hangs its programs up, as closing a terminal's window does. */
  close(id: number): void {
    const shell = this.shells.find((one) => one.id === id);
    if (!shell) return;
    shell.closed = true;
    shell.process?.kill(SIGHUP);
    shell.writer?.abort().catch(() => undefined);
    const at = this.shells.indexOf(shell);
    this.shells = this.shells.filter((one) => one !== shell);
    if (this.active === id) {
      const focused = this.shadowRoot?.activeElement;
      this.show(this.shells[Math.min(at, this.shells.length - 1)]?.id ?? 0, { focus: focused ? 'same' : 'none' });
    }
  }

  /** @param focus `terminal` takes the keyboard there, `same` keeps it in the tabs when it is there */
  show(id: number, { focus = 'terminal' }: { focus?: 'terminal' | 'same' | 'none' } = {}): void {
    const inTabs = this.shadowRoot?.activeElement?.getAttribute('role') === 'tab';
    this.active = id;
    this.dispatchEvent(new CustomEvent('console-change'));
    void this.updateComplete.then(() => {
      const tab = this.tabs.querySelector<HTMLElement>('[aria-selected="true"]');
      tab?.scrollIntoView({ block: 'nearest', inline: 'nearest' });
      if (focus === 'none') return;
      if (focus === 'same' && inTabs) tab?.focus();
      else this.focus();
    });
  }

  /** The keyboard goes to the terminal that is shown. */
  override focus(): void {
    if (this.active) this.terminal(this.active)?.focus();
    else this.consoleElement?.focus();
  }

  /** The keyboard leaves the terminal for the tabs. */
  focusTabs(): void {
    this.tabs.querySelector<HTMLElement>('[aria-selected="true"]')?.focus();
  }

  protected override willUpdate(changed: PropertyValues<this>): void {
    // The shells went with their machine.
    if (changed.has('vm') && changed.get('vm') && this.shells.length) {
      for (const shell of this.shells) shell.closed = true;
      this.shells = [];
      this.active = 0;
    }
  }

  private get consoleElement(): HTMLElement | undefined {
    const slot = this.shadowRoot?.querySelector<HTMLSlotElement>('#panel-0 > slot');
    return slot?.assignedElements({ flatten: true })[0] as HTMLElement | undefined;
  }

  private terminal(id: number): LinuxVMTerminal | undefined {
    return this.shadowRoot?.querySelector<LinuxVMTerminal>(`#panel-${id} > linux-vm-terminal`) ?? undefined;
  }

  private async run(vm: LinuxVM, shell: Shell): Promise<void> {
    const terminal = this.terminal(shell.id);
    if (!terminal) return;
    await terminal.updateComplete;
    if (vm.state === 'booting') void terminal.write('The shell starts when the guest is ready…\r\n');
    try {
      const { columns, rows } = terminal;
      const process = await vm.spawn(LOGIN, { pty: { columns, rows }, env: { COLORTERM: 'truecolor' } });
      if (shell.closed) {
        process.kill(SIGHUP);
        await process.stdout.cancel();
        return;
      }
      shell.process = process;
      shell.writer = process.stdin.getWriter();
      terminal.reset();
      if (terminal.columns !== columns || terminal.rows !== rows) process.resize(terminal.columns, terminal.rows);
      const reader = process.stdout.getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done || shell.closed) break;
        await terminal.write(value);
      }
      if (shell.closed) await reader.cancel();
      else this.close(shell.id);
    } catch (cause) {
      if (!shell.closed)
        void terminal.write(`\r\n\x1b[31mThe shell has ended: ${printable(messageOf(cause))}\x1b[0m\r\n`);
    }
  }

  private readonly onKeydown = (event: KeyboardEvent): void => {
    if (!event.ctrlKey || !event.shiftKey || event.altKey || event.metaKey) return;
    const ids = [0, ...this.shells.map(({ id }) => id)];
    const at = ids.indexOf(this.active);
    if (event.key === 'ArrowRight') this.show(ids[(at + 1) % ids.length]!);
    else if (event.key === 'ArrowLeft') this.show(ids[(at + ids.length - 1) % ids.length]!);
    else if (event.key === 'Enter' && this.vm) void this.open();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };

  /** The keys of the ARIA tabs pattern; a tab is shown as soon as it has the focus. */
  private readonly onTabKey = (event: KeyboardEvent): void => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const ids = [0, ...this.shells.map(({ id }) => id)];
    const at = ids.indexOf(this.active);
    const to: Record<string, number> = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: -1 };
    if (event.key in to) this.show(ids.at(to[event.key]! % ids.length)!, { focus: 'same' });
    else if (event.key === 'Delete' && this.active) this.close(this.active);
    else if (event.key === 'Enter' || event.key === ' ' || event.key === 'ArrowDown') this.focus();
    else return;
    event.preventDefault();
  };

  override connectedCallback(): void {
    super.connectedCallback();
    // Before the terminal takes it.
    this.addEventListener('keydown', this.onKeydown, { capture: true });
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.removeEventListener('keydown', this.onKeydown, { capture: true });
  }

  private renderTab(id: number, title: string): TemplateResult {
    const selected = this.active === id;
    return html`<button
      role="tab"
      id="tab-${id}"
      aria-selected=${selected}
      aria-controls="panel-${id}"
      aria-keyshortcuts=${id ? 'Delete' : nothing}
      tabindex=${selected ? 0 : -1}
      @click=${() => this.show(id)}
      @auxclick=${(event: MouseEvent) => event.button === 1 && id && this.close(id)}
    >
      ${title}${
        id
          ? html`<span
              class="close"
              aria-hidden="true"
              title="Close (Delete)"
              @click=${(event: Event) => {
                event.stopPropagation();
                this.close(id);
              }}
              >${icons.close}</span
            >`
          : nothing
      }
    </button>`;
  }

  private renderShell(shell: Shell): TemplateResult {
    const { options } = this;
    return html`<div
      role="tabpanel"
      id="panel-${shell.id}"
      aria-labelledby="tab-${shell.id}"
      ?hidden=${this.active !== shell.id}
    >
      <linux-vm-terminal
        .theme=${options?.theme ?? 'auto'}
        .fontSize=${options?.fontSize ?? 14}
        .fontFamily=${options?.fontFamily ?? ''}
        .keyboard=${options?.keyboard ?? 'option-is-meta'}
        ?screen-reader=${options?.screenReader ?? false}
        @terminal-input=${(event: CustomEvent<Uint8Array>) =>
          void shell.writer?.write(event.detail).catch(() => undefined)}
        @terminal-resize=${({ detail }: CustomEvent<{ columns: number; rows: number }>) =>
          shell.process?.resize(detail.columns, detail.rows)}
      ></linux-vm-terminal>
    </div>`;
  }

  protected override render(): TemplateResult {
    return html`
      <div class="strip">
        <div class="tabs" role="tablist" aria-label="Consoles" @keydown=${this.onTabKey}>
          ${this.renderTab(0, 'Console')}
          ${repeat(
            this.shells,
            ({ id }) => id,
            ({ id, title }) => this.renderTab(id, title),
          )}
        </div>
        <button
          class="icon add"
          aria-label="New console"
          title="New console (Ctrl+Shift+Enter)"
          ?disabled=${!this.vm || this.shells.length >= MOST_SHELLS}
          @click=${() => void this.open()}
        >
          ${icons.add}
        </button>
        <slot name="tools"></slot>
      </div>
      <div class="panels">
        <div role="tabpanel" id="panel-0" aria-labelledby="tab-0" ?hidden=${this.active !== 0}><slot></slot></div>
        ${repeat(
          this.shells,
          ({ id }) => id,
          (shell) => this.renderShell(shell),
        )}
      </div>
    `;
  }
}

/** The guest's words are shown on a terminal of ours: no control characters. */
function printable(text: string): string {
  // eslint-disable-next-line no-control-regex -- that is what is taken out
  return text.replace(/[\x00-\x1f\x7f-\x9f]/g, ' ');
}

declare global {
  interface HTMLElementTagNameMap {
    'linux-vm-consoles': LinuxVMConsoles;
  }
}
