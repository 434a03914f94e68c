import { css, html, LitElement, nothing, type TemplateResult } from 'lit';
import { property, state as reactive } from 'lit/decorators.js';
import type { LinuxVM } from '../src/vm.ts';
import { messageOf } from './format.ts';
import { controls } from './theme.ts';

/** How far a longer piece of work has come. */
export interface Work {
  text: string;
  /** 0 to 1; absent when the end is not known. */
  done?: number;
  /** Ends it before its time. */
  cancel?: () => void;
}

/** What all side panels have: the machine, their look, work that takes a while, and a place for failures. */
export class Panel extends LitElement {
  static panelStyles = [
    controls,
    css`
      :host {
        display: flex;
        flex-direction: column;
        gap: 14px;
        padding: 14px 16px;
        font-size: 14px;
        overflow-wrap: anywhere;
      }
      h3 {
        margin: 6px 0 0;
        font-size: 13px;
        font-weight: 600;
        color: var(--_dim);
      }
      p {
        margin: 0;
      }
      dl {
        display: grid;
        grid-template-columns: 1fr auto;
        gap: 6px 12px;
        margin: 0;
      }
      dd {
        margin: 0;
        text-align: right;
        font-variant-numeric: tabular-nums;
      }
      ul {
        margin: 0;
        padding: 0;
        list-style: none;
      }
      .message {
        display: flex;
        gap: 8px;
        align-items: start;
        padding: 8px 12px;
        border: 1px solid var(--_border);
        border-radius: 8px;
        background: var(--_background);
      }
      .message > span {
        flex: 1;
        min-width: 0;
      }
      .message.bad {
        border-color: var(--_bad);
      }
      .message button {
        min-height: 26px;
      }
      .work {
        display: grid;
        gap: 6px;
      }
      .name {
        flex: 1;
        min-width: 0;
        overflow: hidden;
        text-overflow: ellipsis;
        white-space: nowrap;
      }
      label {
        display: flex;
        gap: 10px;
        align-items: center;
        justify-content: space-between;
      }
      label.check {
        justify-content: start;
      }
    `,
  ];

  @property({ attribute: false }) vm?: LinuxVM;
  @reactive() protected work: Work | undefined;
  @reactive() protected failure = '';
  @reactive() protected note = '';

  /** Runs a piece of work; what fails is shown. One at a time. @returns its result, or undefined */
  protected async attempt<T>(
    text: string,
    job: (tell: (work: Partial<Work>) => void) => Promise<T>,
  ): Promise<T | undefined> {
    if (this.work) return undefined;
    this.failure = '';
    this.note = '';
    this.work = { text };
    try {
      return await job((work) => (this.work = { ...(this.work ?? { text }), ...work }));
    } catch (cause) {
      if (!(cause instanceof DOMException && cause.name === 'AbortError')) this.failure = messageOf(cause);
      return undefined;
    } finally {
      this.work = undefined;
    }
  }

  /** Work, failure and note, where there are any. */
  protected renderState(): TemplateResult {
    const { work, failure, note } = this;
    return html`
      ${
        work
          ? html`<div class="work" role="status">
              <div class="row">
                <span class="name">${work.text}</span>
                ${work.cancel ? html`<button class="plain" @click=${work.cancel}>Cancel</button>` : nothing}
              </div>
              <progress aria-label=${work.text} max="1" value=${work.done ?? nothing}></progress>
            </div>`
          : nothing
      }
      ${
        failure
          ? html`<div class="message bad" role="alert">
              <span>${failure}</span><button class="plain" @click=${() => (this.failure = '')}>Dismiss</button>
            </div>`
          : nothing
      }
      ${note ? html`<div class="message" role="status"><span>${note}</span></div>` : nothing}
    `;
  }
}
