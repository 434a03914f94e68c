import { css } from 'lit';

/** `auto` is what the system asks for. */
export type Theme = 'auto' | 'light' | 'dark';

export function isTheme(value: unknown): value is Theme {
  return value === 'auto' || value === 'light' || value === 'dark';
}

const light = css`
  color-scheme: light;
  --_background: var(--linux-vm-background, #ffffff);
  --_panel: var(--linux-vm-panel, #f3f5f9);
  --_raised: var(--linux-vm-raised, #e2e7f0);
  --_border: var(--linux-vm-border, #c9d1dd);
  --_text: var(--linux-vm-text, #1d1f24);
  --_dim: var(--linux-vm-dim, #4d5562);
  --_accent: var(--linux-vm-accent, #0b57d0);
  --_on-accent: var(--linux-vm-on-accent, #ffffff);
  --_good: #1b6e34;
  --_warn: #7a5900;
  --_bad: #b3261e;
`;

/**
 * Colours of an outermost element, as `--_…` for itself and all that is inside. Pages may set the `--linux-vm-…` ones.
 * Text on every surface has a contrast of 4.5 or more in both schemes.
 */
export const tokens = css`
  :host {
    color-scheme: dark;
    --_background: var(--linux-vm-background, #14161b);
    --_panel: var(--linux-vm-panel, #1c2027);
    --_raised: var(--linux-vm-raised, #2b313c);
    --_border: var(--linux-vm-border, #353d4a);
    --_text: var(--linux-vm-text, #e4e6eb);
    --_dim: var(--linux-vm-dim, #a9b0bd);
    --_accent: var(--linux-vm-accent, #7db4ff);
    --_on-accent: var(--linux-vm-on-accent, #0b1a30);
    --_good: #7fd39a;
    --_warn: #f0c674;
    --_bad: #ff9d94;
  }
  @media (prefers-color-scheme: light) {
    :host(:not([theme='dark'])) {
      ${light}
    }
  }
  :host([theme='light']) {
    ${light}
  }
`;

/** What only screen readers are to find. */
export const unseen = css`
  .unseen {
    position: absolute;
    width: 1px;
    height: 1px;
    overflow: hidden;
    clip-path: inset(50%);
    white-space: nowrap;
  }
`;

/** Buttons, fields and the like, the same everywhere. */
export const controls = css`
  *,
  *::before,
  *::after {
    box-sizing: border-box;
  }
  button,
  .button {
    display: inline-flex;
    align-items: center;
    justify-content: center;
    gap: 6px;
    min-height: 34px;
    padding: 4px 14px;
    border: 1px solid transparent;
    border-radius: 8px;
    background: var(--_accent);
    color: var(--_on-accent);
    font: inherit;
    font-weight: 600;
    cursor: pointer;
  }
  button.plain {
    border-color: var(--_border);
    background: transparent;
    color: var(--_text);
    font-weight: 500;
  }
  button.plain:hover,
  button.icon:hover {
    background: var(--_raised);
  }
  button.icon {
    width: 34px;
    padding: 0;
    background: transparent;
    color: var(--_dim);
  }
  button.icon:hover {
    color: var(--_text);
  }
  button.danger {
    border-color: var(--_bad);
    background: transparent;
    color: var(--_bad);
  }
  button:disabled {
    opacity: 0.55;
    cursor: default;
  }
  :is(button, input, select, textarea, summary, a, [tabindex]):focus-visible {
    outline: 2px solid var(--_accent);
    outline-offset: 2px;
  }
  input,
  select,
  textarea {
    min-height: 34px;
    padding: 4px 10px;
    border: 1px solid var(--_border);
    border-radius: 8px;
    background: var(--_background);
    color: var(--_text);
    font: inherit;
    min-width: 0;
  }
  input[type='checkbox'],
  input[type='radio'] {
    min-height: 0;
    width: 18px;
    height: 18px;
    margin: 0;
    accent-color: var(--_accent);
    flex: none;
  }
  progress {
    width: 100%;
    height: 8px;
    accent-color: var(--_accent);
  }
  svg {
    width: 18px;
    height: 18px;
    fill: none;
    stroke: currentcolor;
    stroke-width: 1.75;
    stroke-linecap: round;
    stroke-linejoin: round;
    flex: none;
  }
  .dim {
    color: var(--_dim);
  }
  .bad {
    color: var(--_bad);
  }
  .row {
    display: flex;
    flex-wrap: wrap;
    gap: 8px;
    align-items: center;
  }
  ${unseen}
  @media (prefers-reduced-motion: reduce) {
    *,
    *::before,
    *::after {
      transition: none !important;
      animation: none !important;
    }
  }
`;
