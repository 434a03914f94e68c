import { css, html, LitElement, nothing, type PropertyValues, svg, type TemplateResult } from 'lit';
import { customElement, property, state as reactive } from 'lit/decorators.js';
import type { VmStats } from '../src/protocol.ts';
import type { LinuxVM, VmState } from '../src/vm.ts';
import { bytesText, percentText } from './format.ts';
import { controls } from './theme.ts';

/** Milliseconds between two looks at the machine's counters. */
const INTERVAL = 1000;
const SAMPLES = 24;

const WORDS: Readonly<Record<VmState | 'idle', string>> = {
  idle: 'Not started',
  loading: 'Loading',
  booting: 'Starting',
  running: 'Running',
  stopped: 'Stopped',
  error: 'Failed',
};

/** What happened between two looks. Rates are per second. */
interface Rates {
  /** 0 to 1; absent when the machine does not tell. */
  busy?: number;
  instructions: number;
  read: number;
  written: number;
  fetched: number;
}

/** State and activity of a machine in one line, looked at once a second while it can be seen. */
@customElement('linux-vm-status')
export class LinuxVMStatus extends LitElement {
  static override styles = [
    controls,
    css`
      :host {
        display: flex;
        align-items: center;
        gap: 4px 18px;
        min-width: 0;
        height: 28px;
        padding: 0 12px;
        overflow: hidden;
        background: var(--_panel);
        color: var(--_dim);
        border-top: 1px solid var(--_border);
        font-size: 12.5px;
        font-variant-numeric: tabular-nums;
        white-space: nowrap;
      }
      span {
        display: inline-flex;
        align-items: center;
        gap: 6px;
      }
      .dot {
        width: 8px;
        height: 8px;
        border-radius: 50%;
        background: var(--_dim);
      }
      .running .dot {
        background: var(--_good);
      }
      .loading .dot,
      .booting .dot {
        background: var(--_warn);
      }
      .error .dot {
        background: var(--_bad);
      }
      .state {
        color: var(--_text);
      }
      .graph {
        width: 48px;
        height: 16px;
        stroke: var(--_accent);
        stroke-width: 1.5;
      }
      /* Numbers come and go; what stands beside them stays where it is. */
      .wide {
        min-width: 7ch;
      }
      .disk {
        min-width: 18ch;
      }
      .cache {
        min-width: 11ch;
      }
      .storage {
        margin-left: auto;
      }
      .storage.bad {
        color: var(--_bad);
      }
      @container workbench (max-width: 900px) {
        .cache {
          display: none;
        }
      }
      @container workbench (max-width: 640px) {
        .net,
        .mips {
          display: none;
        }
      }
      @container workbench (max-width: 420px) {
        :host {
          gap: 12px;
        }
        .graph,
        .disk {
          display: none;
        }
      }
    `,
  ];

  @property({ attribute: false }) vm?: LinuxVM;
  @property() state: VmState | 'idle' = 'idle';
  /** What is known of where the disk's changes go, in a few words. */
  @property() storage = '';
  @property({ type: Boolean }) trouble = false;
  @reactive() private stats: VmStats | undefined;
  @reactive() private rates: Rates | undefined;
  private history: number[] = [];
  private timer: ReturnType<typeof setInterval> | undefined;

  override connectedCallback(): void {
    super.connectedCallback();
    this.timer = setInterval(() => void this.look(), INTERVAL);
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    clearInterval(this.timer);
  }

  protected override willUpdate(changed: PropertyValues<this>): void {
    if (!changed.has('vm')) return;
    this.stats = undefined;
    this.rates = undefined;
    this.history = [];
    void this.look();
  }

  private async look(): Promise<void> {
    const { vm } = this;
    if (!vm || document.visibilityState === 'hidden' || vm.state === 'stopped' || vm.state === 'error') return;
    const stats = await vm.stats().catch(() => undefined);
    if (!stats || vm !== this.vm) return;
    const before = this.stats;
    this.stats = stats;
    const seconds = before ? stats.seconds - before.seconds : 0;
    if (!before || seconds < 0.2) return;
    const per = (now = 0, then = 0): number => Math.max(0, now - then) / seconds;
    this.rates = {
      busy: stats.busySeconds === undefined ? undefined : Math.min(1, per(stats.busySeconds, before.busySeconds)),
      instructions: per(stats.processor.instructions, before.processor.instructions),
      read: per(stats.disk?.readBytes, before.disk?.readBytes),
      written: per(stats.disk?.writtenBytes, before.disk?.writtenBytes),
      fetched: per(stats.disk?.fetchedBytes, before.disk?.fetchedBytes),
    };
    this.history = [...this.history, this.rates.busy ?? 0].slice(-SAMPLES);
  }

  private renderGraph(): TemplateResult {
    const points = this.history.map((busy, i) => `${i * 2 + (SAMPLES - this.history.length) * 2},${15 - busy * 14}`);
    return html`<svg class="graph" viewBox="0 0 48 16" preserveAspectRatio="none" aria-hidden="true">
      ${svg`<polyline points=${points.join(' ')} />`}
    </svg>`;
  }

  protected override render(): TemplateResult {
    const { stats, rates, state } = this;
    const live = state === 'booting' || state === 'running';
    const disk = live ? stats?.disk : undefined;
    return html`
      <span class="state ${state}"><span class="dot"></span>${WORDS[state]}</span>
      ${
        live && rates
          ? html`${
                rates.busy === undefined
                  ? nothing
                  : html`<span class="cpu" title="Share of time in which the processor works"
                      >CPU ${this.renderGraph()}<span class="wide">${Math.round(rates.busy * 100)} %</span></span
                    >`
              }
              <span class="mips" title="Million instructions a second"
                ><span class="wide">${(rates.instructions / 1e6).toFixed(0)} MIPS</span></span
              >`
          : nothing
      }
      ${
        disk
          ? html`<span class="disk" title="The guest's disk: reading, writing, and what comes over the network for it"
                >Disk ${rates && rates.read + rates.written > 0 ? activity(rates) : 'idle'}</span
              >
              <span class="cache" title="Disk blocks that were in memory when the guest asked for them"
                >Cache ${percentText(disk.hits, disk.hits + disk.misses)}</span
              >
              <span class="net" title="Streamed from the server so far"
                >↓
                ${bytesText(disk.fetchedBytes)}${rates && rates.fetched > 0 ? ` (${bytesText(rates.fetched)}/s)` : ''}</span
              >`
          : nothing
      }
      ${this.storage ? html`<span class="storage ${this.trouble ? 'bad' : ''}">${this.storage}</span>` : nothing}
    `;
  }
}

function activity({ read, written }: Rates): string {
  const parts = [];
  if (read > 0) parts.push(`R ${bytesText(read)}/s`);
  if (written > 0) parts.push(`W ${bytesText(written)}/s`);
  return parts.join(' ');
}

declare global {
  interface HTMLElementTagNameMap {
    'linux-vm-status': LinuxVMStatus;
  }
}
