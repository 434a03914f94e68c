import { css, html, LitElement, nothing, type PropertyValues, type TemplateResult } from 'lit';
import { customElement, property, query, state as reactive } from 'lit/decorators.js';
import type { Tier } from '../emulator/processor.ts';
import type { Progress } from '../src/protocol.ts';
import { checkSupport } from '../src/support.ts';
import { describeExit, LinuxVM, type VmExit, type VmState } from '../src/vm.ts';
import type { WorkerFactory } from '../src/worker-handle.ts';
import { explainFailure } from './failures.ts';
import type { StorageMode, StorageStatus } from '../src/storage.ts';
import { SuspendWhenHidden } from '../src/suspend-when-hidden.ts';
import './linux-vm-terminal.ts';
import type { LinuxVMTerminal } from './linux-vm-terminal.ts';
import { progressText, progressValue } from './progress.ts';
import { asksAboutStorage, renderStorageChoice, type StorageChoice } from './storage-choice.ts';
import { type Theme, tokens, unseen } from './theme.ts';

export interface VmStateDetail {
  state: VmState;
  /** With `error`, and with `stopped` where the guest crashed. */
  error?: Error;
}

/**
 * A virtual machine with its terminal.
 *
 * ```html
 * <linux-vm disk="disks/debian/manifest.json" autostart></linux-vm>
 * ```
 *
 * @fires vm-state each change of state (`CustomEvent<VmStateDetail>`); bubbles
 * @fires vm-console what the guest prints (`CustomEvent<Uint8Array>`); bubbles
 * @fires vm-storage how it stands with the changes to the disk (`CustomEvent<StorageStatus>`); bubbles
 *
 * @slot start - what the start button says instead of "Start Linux"
 *
 * @csspart terminal - the `<linux-vm-terminal>`
 * @csspart cover - what lies over the terminal before the start, while it loads and after a failure
 * @csspart card - the box in the cover
 * @csspart start - the start button
 * @csspart bar - the line below the terminal, when there is something to say
 *
 * @cssprop --linux-vm-background - of the terminal and all around it
 * @cssprop --linux-vm-panel - of cards and bars
 * @cssprop --linux-vm-raised - of what stands out from these
 * @cssprop --linux-vm-border - lines
 * @cssprop --linux-vm-text - text; keep a contrast of 4.5 to the three above
 * @cssprop --linux-vm-dim - less important text; the same
 * @cssprop --linux-vm-accent - buttons and progress
 * @cssprop --linux-vm-on-accent - text on buttons
 */
@customElement('linux-vm')
export class LinuxVMElement extends LitElement {
  static override styles = [
    tokens,
    css`
      :host {
        display: grid;
        grid-template-rows: minmax(0, 1fr) auto;
        position: relative;
        height: 480px;
        min-width: 0;
        overflow: hidden;
        color: var(--_text);
        background: var(--_background);
        font:
          15px/1.45 system-ui,
          sans-serif;
      }
      :host([hidden]) {
        display: none;
      }
      .cover {
        position: absolute;
        inset: 0;
        display: grid;
        place-items: center;
        padding: 16px;
        overflow: auto;
        background: color-mix(in srgb, var(--_panel) 55%, transparent);
      }
      .card {
        box-sizing: border-box;
        width: min(30rem, 100%);
        padding: 20px 24px;
        border-radius: 12px;
        background: var(--_panel);
        box-shadow: 0 6px 30px rgb(0 0 0 / 30%);
        overflow-wrap: anywhere;
      }
      .card h2 {
        margin: 0 0 8px;
        font-size: 1.1rem;
      }
      .card p {
        margin: 0 0 12px;
      }
      .bar {
        display: flex;
        flex-wrap: wrap;
        gap: 6px 12px;
        align-items: center;
        padding: 6px 12px;
        background: var(--_panel);
        font-size: 0.9rem;
      }
      /* Comes and goes by itself: the terminal's size is not to change for it. */
      .bar.over {
        position: absolute;
        inset: auto 0 0;
      }
      .bar > span {
        flex: 1 1 12rem;
        min-width: 0;
        overflow-wrap: anywhere;
      }
      .bad {
        color: var(--_bad);
      }
      .dim {
        color: var(--_dim);
      }
      progress {
        width: 100%;
        accent-color: var(--_accent);
      }
      .bar progress {
        flex: 0 1 8rem;
        width: 8rem;
      }
      button {
        min-height: 36px;
        padding: 6px 16px;
        border: 0;
        border-radius: 8px;
        background: var(--_accent);
        color: var(--_on-accent);
        font: inherit;
        font-weight: 600;
        cursor: pointer;
      }
      button:focus-visible {
        outline: 3px solid var(--_text);
        outline-offset: 2px;
      }
      button.plain {
        background: transparent;
        color: var(--_accent);
      }
      ${unseen}
    `,
  ];

  /** Address of the disk: its manifest (`….json`) or a raw image. */
  @property() disk?: string;
  /** Addresses that override the manifest's. */
  @property() kernel?: string;
  @property() initrd?: string;
  /** Kernel command line instead of the manifest's. */
  @property() cmdline?: string;
  /** `cold` boots from the kernel on, even where the disk has a snapshot to go on from. */
  @property() boot: 'auto' | 'cold' = 'auto';
  /** The guest's host name, instead of the disk's. */
  @property() hostname?: string;
  /** RAM in MiB. */
  @property({ type: Number }) memory = 512;
  /** Start as soon as the element is in the page. */
  @property({ type: Boolean }) autostart = false;
  /** `auto`, or for tests `interp`, `jit` or `light`. */
  @property() tier: Tier = 'auto';
  /** Name under which the browser keeps what is written to the disk; without one it goes with the machine. */
  @property({ attribute: 'storage-key' }) storageKey?: string;
  /** `exclusive`, `read-only` or `take-over`: what to do when another tab has the same storage open. */
  @property({ attribute: 'storage-mode' }) storageMode: StorageMode = 'exclusive';
  /** `keep` or `reset`: what to do when the stored changes belong to an older disk; without it the user is asked. */
  @property({ attribute: 'storage-base' }) storageBase?: 'keep' | 'reset';
  /** Keeps RAM too, whenever the page is hidden, and goes on from it at the next start. Needs `storage-key`. */
  @property({ type: Boolean }) suspend = false;
  /** Mirrors the terminal into text for screen readers. */
  @property({ type: Boolean, attribute: 'screen-reader' }) screenReader = false;
  @property({ reflect: true }) theme: Theme = 'auto';
  /** Of the terminal, in CSS pixels. */
  @property({ type: Number, attribute: 'font-size' }) fontSize = 14;
  /** Of the terminal, as in CSS; empty for the system's fixed-width font. */
  @property({ attribute: 'font-family' }) fontFamily = '';
  /** Words for the terminal: `option-is-meta`, `copy-paste`; see LinuxVMTerminal. */
  @property() keyboard = 'option-is-meta';
  /** Another kind of worker; for tests. */
  @property({ attribute: false }) worker?: WorkerFactory;

  @reactive() private current: VmState | 'idle' = 'idle';
  @reactive() private failure: Error | undefined;
  @reactive() private exit: VmExit | undefined;
  @reactive() private progress: Progress | undefined;
  @reactive() private diskError: Error | undefined;
  /** Why changes cannot be kept at the moment. */
  @reactive() private storageProblem: string | undefined;
  @reactive() private memoryTrouble: Error | undefined;
  /** Its console, once it has been rendered. */
  @query('linux-vm-terminal') readonly terminal!: LinuxVMTerminal;

  private machine: LinuxVM | undefined;
  /** Who clicked wants to type. A page that starts it by itself says so with `autofocus`. */
  private wantsFocus = false;
  private controller: AbortController | undefined;
  private starting: Promise<LinuxVM> | undefined;

  /** What the user answered, for the next start only. */
  private choice: StorageChoice = {};
  private readonly hiding = new SuspendWhenHidden();

  /** The machine, from the time its processor runs until the next start. */
  get vm(): LinuxVM | undefined {
    return this.machine;
  }

  /** `idle` before the first start. */
  get state(): VmState | 'idle' {
    return this.current;
  }

  /**
   * Loads and starts a machine; resolves when its processor runs. While one is loading or running, gives that one.
   * @throws Error in words for people; the same that the element shows
   */
  start(): Promise<LinuxVM> {
    if (this.starting) return this.starting;
    if (this.machine && (this.current === 'booting' || this.current === 'running'))
      return Promise.resolve(this.machine);
    return this.starts();
  }

  /**
   * Ends what runs, then goes on from a state that `vm.saveState()` gave; resolves when the processor runs. With a
   * `storage-key` the disk as it was then takes the place of what was kept.
   * @throws Error in words for people, such as for a state of another build; the same that the element shows
   */
  async restore(state: Blob): Promise<LinuxVM> {
    await this.stop();
    return this.starts(state);
  }

  private starts(state?: Blob): Promise<LinuxVM> {
    const starting = this.begin(state).finally(() => {
      if (this.starting === starting) this.starting = undefined;
    });
    this.starting = starting;
    return starting;
  }

  /** Ends the machine, or its loading, and frees its memory. */
  async stop(): Promise<void> {
    this.controller?.abort(new DOMException('The machine was stopped', 'AbortError'));
    await this.machine?.exited;
    await this.starting?.catch(() => undefined);
  }

  /** Puts the keyboard into the terminal. */
  override focus(): void {
    this.terminal?.focus();
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    // An element that is only moved is connected again before this runs.
    queueMicrotask(() => {
      if (!this.isConnected) void this.stop();
    });
  }

  protected override firstUpdated(): void {
    this.wantsFocus = this.hasAttribute('autofocus');
    if (this.autostart) this.start().catch(() => undefined);
  }

  protected override updated(changed: PropertyValues<this>): void {
    if (changed.has('autostart') && this.autostart && this.current === 'idle' && !this.starting && this.hasUpdated)
      this.start().catch(() => undefined);
  }

  private async begin(state?: Blob): Promise<LinuxVM> {
    await this.updateComplete;
    // It gets its size while the machine is loading.
    const { columns, rows } = this.terminal;
    const controller = new AbortController();
    this.controller = controller;
    this.machine = undefined;
    this.exit = undefined;
    this.failure = undefined;
    this.diskError = undefined;
    this.storageProblem = undefined;
    this.memoryTrouble = undefined;
    this.progress = undefined;
    this.terminal.reset();
    const { choice } = this;
    this.choice = {};
    this.change('loading');
    try {
      const support = checkSupport();
      if (!support.ok) throw new Error(support.message);
      if (!this.disk && !this.kernel && !state)
        throw new Error('This element has neither a "disk" nor a "kernel" attribute; give it the address of one.');
      const options = {
        tier: this.tier,
        columns,
        rows,
        signal: controller.signal,
        worker: this.worker,
        onProgress: (progress: Progress) => (this.progress = progress),
      };
      const storage = {
        storageKey: this.storageKey || undefined,
        storageMode: choice.mode ?? this.storageMode,
        storageBase: choice.base ?? this.storageBase,
      };
      const vm = await (state
        ? LinuxVM.restore(state, { ...options, ...storage })
        : LinuxVM.start({
            ...options,
            ...storage,
            disk: this.disk,
            kernel: this.kernel,
            initrd: this.initrd,
            cmdline: this.cmdline,
            boot: this.boot,
            hostname: this.hostname,
            memory: this.memory,
            resume: this.suspend,
          }));
      this.attach(vm);
      // It may have been resized while it loaded.
      if (this.terminal.columns !== columns || this.terminal.rows !== rows)
        vm.console.resize(this.terminal.columns, this.terminal.rows);
      return vm;
    } catch (cause) {
      const error = cause instanceof Error ? cause : new Error(String(cause));
      if (controller.signal.aborted) {
        this.exit = { reason: 'stopped' };
        this.change('stopped');
      } else {
        this.failure = error;
        this.change('error', error);
      }
      throw error;
    }
  }

  private attach(vm: LinuxVM): void {
    this.machine = vm;
    vm.console.onData((bytes) => {
      this.dispatchEvent(new CustomEvent<Uint8Array>('vm-console', { detail: bytes, bubbles: true, composed: true }));
      return this.terminal.write(bytes);
    });
    vm.on('disk-error', (error) => (this.diskError = error));
    vm.on('memory-trouble', (error) => (this.memoryTrouble = error));
    vm.on('storage', (status) => this.tellStorage(status));
    if (vm.storage) this.tellStorage(vm.storage);
    this.hiding.watch(vm, () => this.suspend);
    vm.on('state', (state) => {
      if (state === 'running' && this.machine === vm) this.change('running');
    });
    this.change('booting');
    if (vm.state === 'running') this.change('running');
    if (this.wantsFocus) this.focus();
    void vm.exited.then((exit) => {
      if (this.machine !== vm) return;
      this.exit = exit;
      if (exit.reason === 'error') {
        this.failure = exit.error ?? new Error(describeExit(exit));
        this.change('error', this.failure);
      } else {
        const crashed = exit.reason === 'panic' || exit.reason === 'triple-fault';
        this.change('stopped', crashed ? new Error(describeExit(exit)) : undefined);
      }
    });
  }

  private change(state: VmState, error?: Error): void {
    this.current = state;
    this.dispatchEvent(
      new CustomEvent<VmStateDetail>('vm-state', { detail: { state, error }, bubbles: true, composed: true }),
    );
  }

  private tellStorage(status: StorageStatus): void {
    this.storageProblem = status.problem?.message;
    this.dispatchEvent(new CustomEvent<StorageStatus>('vm-storage', { detail: status, bubbles: true, composed: true }));
  }

  private readonly onChoice = (choice: StorageChoice): void => {
    this.choice = choice;
    this.onStart();
  };

  private readonly onInput = (event: CustomEvent<Uint8Array>): void => {
    this.machine?.console.write(event.detail);
  };

  private readonly onResize = (event: CustomEvent<{ columns: number; rows: number }>): void => {
    this.machine?.console.resize(event.detail.columns, event.detail.rows);
  };

  private readonly onStart = (): void => {
    this.wantsFocus = true;
    this.start().catch(() => undefined);
  };

  protected override render(): TemplateResult {
    return html`
      <linux-vm-terminal
        part="terminal"
        ?screen-reader=${this.screenReader}
        .theme=${this.theme}
        .fontSize=${this.fontSize}
        .fontFamily=${this.fontFamily}
        .keyboard=${this.keyboard}
        @terminal-input=${this.onInput}
        @terminal-resize=${this.onResize}
      ></linux-vm-terminal>
      ${this.renderCover()} ${this.renderBar()}
      <div class="unseen" role="status" aria-live="polite">${this.spoken}</div>
    `;
  }

  private get spoken(): string {
    switch (this.current) {
      case 'idle':
        return '';
      case 'loading':
        return 'The virtual machine is loading.';
      case 'booting':
        return 'The virtual machine is starting.';
      case 'running':
        return 'The virtual machine is running.';
      case 'stopped':
        return this.endText;
      case 'error':
        return `The virtual machine failed: ${this.failure?.message ?? ''}`;
    }
  }

  private get endText(): string {
    const { exit } = this;
    return !exit || exit.reason === 'stopped'
      ? 'The machine has been stopped.'
      : `The machine has stopped: ${describeExit(exit)}`;
  }

  private renderCover(): TemplateResult | typeof nothing {
    if (this.current === 'idle')
      return this.autostart
        ? nothing
        : html`<div class="cover" part="cover">
            <button part="start" @click=${this.onStart}><slot name="start">Start Linux</slot></button>
          </div>`;
    if (this.current === 'loading')
      return html`<div class="cover" part="cover">
        <div class="card" part="card">
          <h2>Loading</h2>
          <p>${progressText(this.progress)}</p>
          ${this.progress?.trouble ? html`<p class="bad">Trying again: ${this.progress.trouble}</p>` : nothing}
          <progress aria-label="Loading" max="1" value=${progressValue(this.progress) ?? nothing}></progress>
        </div>
      </div>`;
    if (this.current === 'error' && this.failure && asksAboutStorage(this.failure))
      return html`<div class="cover" part="cover">
        <div class="card" part="card" role="alert">
          ${renderStorageChoice(this.failure, this.storageKey ?? '', this.onChoice)}
        </div>
      </div>`;
    if (this.current === 'error' && this.failure) {
      const { title, text, next } = explainFailure(this.failure, {
        began: this.machine !== undefined,
        memory: this.memory,
      });
      return html`<div class="cover" part="cover">
        <div class="card" part="card" role="alert">
          <h2 class="bad">${title}</h2>
          <p>${text}</p>
          <p class="dim">${next}</p>
          <button @click=${this.onStart}>${this.machine ? 'Restart' : 'Try again'}</button>
        </div>
      </div>`;
    }
    return nothing;
  }

  private renderBar(): TemplateResult | typeof nothing {
    if (this.current === 'stopped') {
      const bad = this.exit?.reason === 'panic' || this.exit?.reason === 'triple-fault';
      return html`<div class="bar" part="bar">
        <span class=${bad ? 'bad' : ''}>${this.endText}</span>
        <button @click=${this.onStart}>Restart</button>
      </div>`;
    }
    if (this.memoryTrouble)
      return html`<div class="bar" role="alert">
        <span class="bad">
          A part of the machine's memory could not be fetched; it waits and tries again: ${this.memoryTrouble.message}
        </span>
      </div>`;
    if (this.storageProblem)
      return html`<div class="bar" part="bar" role="alert"><span class="bad">${this.storageProblem}</span></div>`;
    if (this.diskError)
      return html`<div class="bar" part="bar" role="alert">
        <span class="bad">
          The disk could not be ${(this.diskError as { code?: string }).code === 'store' ? 'written' : 'read'}, and the
          guest was told so: ${this.diskError.message}
        </span>
        <button class="plain" @click=${() => (this.diskError = undefined)}>Dismiss</button>
      </div>`;
    if (this.current === 'booting')
      return html`<div class="bar over" part="bar">
        <span>${progressText(this.progress)}</span>
        <progress aria-label="Starting" max="1" value=${progressValue(this.progress) ?? nothing}></progress>
      </div>`;
    return nothing;
  }
}

declare global {
  interface HTMLElementTagNameMap {
    'linux-vm': LinuxVMElement;
  }
  interface HTMLElementEventMap {
    'vm-state': CustomEvent<VmStateDetail>;
    'vm-console': CustomEvent<Uint8Array>;
    'vm-storage': CustomEvent<StorageStatus>;
  }
}
