import { css, html, nothing, type PropertyValues, type TemplateResult } from 'lit';
import { customElement, state as reactive } from 'lit/decorators.js';
import type { LinuxVM } from '../src/vm.ts';
import type { GuestProcess } from '../src/agent/client.ts';
import { bytesText, messageOf } from './format.ts';
import { Panel } from './panel.ts';

type Row = readonly string[];
interface Table {
  columns: readonly string[];
  rows: readonly Row[];
}

const VIEWS = ['Processes', 'Open files', 'Mounts', 'Environment', 'Devices', 'Interrupts'] as const;
type View = (typeof VIEWS)[number];

/** Milliseconds between two looks. What seldom changes is looked at once, and again when asked. */
const INTERVAL = 2000;
const LIVE: ReadonlySet<View> = new Set(['Processes', 'Interrupts']);
const MOST_ROWS = 400;

/** What goes on in the guest. It is asked only while this is in the page and can be seen, one question at a time. */
@customElement('linux-vm-inspector-panel')
export class LinuxVMInspectorPanel extends Panel {
  static override styles = [
    Panel.panelStyles,
    css`
      select {
        flex: 1;
      }
      .table {
        overflow-x: auto;
      }
      table {
        width: 100%;
        border-collapse: collapse;
        font-size: 12.5px;
        font-variant-numeric: tabular-nums;
      }
      th,
      td {
        padding: 4px 6px;
        border-bottom: 1px solid var(--_border);
        text-align: left;
        vertical-align: top;
      }
      th {
        color: var(--_dim);
        font-weight: 600;
        white-space: nowrap;
      }
      td:last-child {
        overflow-wrap: anywhere;
      }
      td:not(:last-child) {
        white-space: nowrap;
      }
    `,
  ];

  @reactive() private view: View = 'Processes';
  @reactive() private table: Table | undefined;
  @reactive() private processes: readonly GuestProcess[] = [];
  @reactive() private kernelThreads = false;
  /** Whose environment is shown. */
  @reactive() private pid = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private visit = 0;
  private last: { at: number; cpu: Map<number, number> } | undefined;

  override connectedCallback(): void {
    super.connectedCallback();
    this.begin();
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.visit++;
    clearTimeout(this.timer);
  }

  protected override updated(changed: PropertyValues<this>): void {
    if (changed.has('vm')) this.begin();
  }

  private begin(): void {
    this.table = undefined;
    this.failure = '';
    this.last = undefined;
    void this.look(++this.visit);
  }

  private async look(visit: number): Promise<void> {
    const { vm } = this;
    clearTimeout(this.timer);
    if (!vm || !this.isConnected) return;
    if (document.visibilityState === 'visible')
      try {
        const table = await this.ask(vm);
        if (visit !== this.visit) return;
        this.table = table;
        this.failure = '';
      } catch (cause) {
        if (visit !== this.visit) return;
        this.failure = messageOf(cause);
      }
    if (LIVE.has(this.view) && !this.failure) this.timer = setTimeout(() => void this.look(visit), INTERVAL);
  }

  private async ask({ inspect }: LinuxVM): Promise<Table> {
    switch (this.view) {
      case 'Processes':
        return this.processTable(await inspect.processes());
      case 'Open files': {
        const [files, processes] = await Promise.all([inspect.openFiles(), inspect.processes()]);
        const names = new Map(processes.map(({ pid, command }) => [pid, command.split(' ')[0]!.split('/').at(-1)!]));
        return {
          columns: ['PID', 'Program', 'FD', 'File'],
          rows: files.map(({ pid, descriptor, target }) => [`${pid}`, names.get(pid) ?? '', `${descriptor}`, target]),
        };
      }
      case 'Mounts':
        return {
          columns: ['Path', 'Type', 'From, and how'],
          rows: (await inspect.mounts()).map(({ path, type, source, options }) => [
            path,
            type,
            `${source} (${options})`,
          ]),
        };
      case 'Environment': {
        this.processes = (await inspect.processes()).filter(({ command }) => !command.startsWith('['));
        if (!this.processes.some(({ pid }) => pid === this.pid)) this.pid = this.processes[0]?.pid ?? 1;
        return { columns: ['Name', 'Value'], rows: await inspect.environment(this.pid) };
      }
      case 'Devices':
        return {
          columns: ['Device', 'Kind', 'Driver', 'Details'],
          rows: (await inspect.devices()).map(({ name, kind, driver, details }) => [name, kind, driver ?? '', details]),
        };
      case 'Interrupts':
        return {
          columns: ['Line', 'Count', 'Source'],
          rows: (await inspect.interrupts())
            .filter(({ count }) => count > 0)
            .map(({ name, count, description }) => [name, `${count}`, description]),
        };
    }
  }

  private processTable(processes: readonly GuestProcess[]): Table {
    const at = performance.now();
    const { last } = this;
    const share = ({ pid, cpuSeconds }: GuestProcess): string => {
      const before = last?.cpu.get(pid);
      if (!last || before === undefined) return '–';
      return `${Math.min(100, Math.max(0, Math.round((100_000 * (cpuSeconds - before)) / (at - last.at))))} %`;
    };
    const rows = [...processes]
      // The kernel's threads are many and seldom looked for.
      .filter(({ command }) => this.kernelThreads || !command.startsWith('['))
      .sort((a, b) => a.pid - b.pid)
      .map((one) => [`${one.pid}`, one.state, share(one), bytesText(one.resident), one.command]);
    this.last = { at, cpu: new Map(processes.map(({ pid, cpuSeconds }) => [pid, cpuSeconds])) };
    return { columns: ['PID', 'State', 'CPU', 'Memory', 'Command'], rows };
  }

  private choose(view: View): void {
    this.view = view;
    this.begin();
  }

  protected override render(): TemplateResult {
    if (!this.vm) return html`<p class="dim">There is something to see while the machine runs.</p>`;
    const { table, view } = this;
    return html`
      <div class="row">
        <select
          aria-label="What to show"
          @change=${(event: Event) => this.choose((event.target as HTMLSelectElement).value as View)}
        >
          ${VIEWS.map((name) => html`<option ?selected=${name === view}>${name}</option>`)}
        </select>
        <button class="plain" @click=${this.begin}>Refresh</button>
      </div>
      ${
        view === 'Environment' && this.processes.length
          ? html`<label
              >Process<select
                name="pid"
                @change=${(event: Event) => {
                  this.pid = Number((event.target as HTMLSelectElement).value);
                  this.begin();
                }}
              >
                ${this.processes.map(
                  ({ pid, command }) =>
                    html`<option value=${pid} ?selected=${pid === this.pid}>${pid} ${command.slice(0, 40)}</option>`,
                )}
              </select></label
            >`
          : nothing
      }
      ${
        view === 'Processes'
          ? html`<label class="check"
              ><input
                type="checkbox"
                .checked=${this.kernelThreads}
                @change=${(event: Event) => {
                  this.kernelThreads = (event.target as HTMLInputElement).checked;
                  this.begin();
                }}
              />Kernel threads, too</label
            >`
          : nothing
      }
      ${this.renderState()}
      ${
        table
          ? html`<div class="table" tabindex="0" role="region" aria-label=${view}>
                <table>
                  <thead>
                    <tr>
                      ${table.columns.map((name) => html`<th scope="col">${name}</th>`)}
                    </tr>
                  </thead>
                  <tbody>
                    ${table.rows.slice(0, MOST_ROWS).map(
                      (row) =>
                        html`<tr>
                          ${row.map((cell) => html`<td>${cell}</td>`)}
                        </tr>`,
                    )}
                  </tbody>
                </table>
              </div>
              ${
                table.rows.length > MOST_ROWS
                  ? html`<p class="dim">The first ${MOST_ROWS} of ${table.rows.length}.</p>`
                  : table.rows.length
                    ? nothing
                    : html`<p class="dim">There is none.</p>`
              }`
          : this.failure
            ? nothing
            : html`<p class="dim" role="status">Asking the guest…</p>`
      }
    `;
  }
}

declare global {
  interface HTMLElementTagNameMap {
    'linux-vm-inspector-panel': LinuxVMInspectorPanel;
  }
}
