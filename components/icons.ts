import { svg, type TemplateResult } from 'lit';
import { html } from 'lit';

/** Line icons on a grid of 24, drawn for this page. */
const draw = (body: TemplateResult<2>): TemplateResult =>
  html`<svg viewBox="0 0 24 24" aria-hidden="true" focusable="false">${body}</svg>`;

export const icons = {
  files: draw(svg`<path d="M3 6.5h6l2 2.5h10v9.5H3z" />`),
  disk: draw(
    svg`<ellipse cx="12" cy="6" rx="8" ry="3" /><path d="M4 6v12c0 1.7 3.6 3 8 3s8-1.3 8-3V6M4 12c0 1.7 3.6 3 8 3s8-1.3 8-3" />`,
  ),
  snapshots: draw(svg`<path d="M4 8h3.5L9 5.5h6L16.5 8H20v11H4z" /><circle cx="12" cy="13.3" r="3.2" />`),
  inspector: draw(svg`<path d="M3 12h4l2.5-7 5 14 2.5-7h4" />`),
  share: draw(
    svg`<circle cx="6" cy="12" r="2.5" /><circle cx="17.5" cy="6" r="2.5" /><circle cx="17.5" cy="18" r="2.5" /><path d="m8.3 10.9 7-3.7M8.3 13.1l7 3.7" />`,
  ),
  settings: draw(
    svg`<path d="M4 7h9M17 7h3M4 17h3M11 17h9" /><circle cx="15" cy="7" r="2" /><circle cx="9" cy="17" r="2" />`,
  ),
  close: draw(svg`<path d="m6 6 12 12M18 6 6 18" />`),
  add: draw(svg`<path d="M12 5v14M5 12h14" />`),
  up: draw(svg`<path d="M12 19V6M6 11.5 12 5.5l6 6" />`),
  refresh: draw(svg`<path d="M19 12a7 7 0 1 1-2-5l2 2M19 4v5h-5" />`),
  upload: draw(svg`<path d="M12 15V4M7.5 8 12 3.5 16.5 8M4 15v5h16v-5" />`),
  download: draw(svg`<path d="M12 4v11M7.5 11 12 15.5l4.5-4.5M4 17v3h16v-3" />`),
  folder: draw(svg`<path d="M3 6.5h6l2 2.5h10v9.5H3z" />`),
  newFolder: draw(svg`<path d="M3 6.5h6l2 2.5h10v9.5H3zM12 11.5v5M9.5 14h5" />`),
  file: draw(svg`<path d="M6 3.5h8l4 4v13H6zM14 3.5v4h4" />`),
  link: draw(
    svg`<path d="M10 14a4 4 0 0 0 5.7 0l3-3A4 4 0 0 0 13 5.3l-1 1M14 10a4 4 0 0 0-5.7 0l-3 3a4 4 0 0 0 5.7 5.7l1-1" />`,
  ),
  trash: draw(svg`<path d="M4.5 7h15M9.5 7V4h5v3M6.5 7l1 13h9l1-13M10 11v5M14 11v5" />`),
  edit: draw(svg`<path d="m4 20 1-4L16.5 4.5l3 3L8 19z" />`),
  play: draw(svg`<path d="M7 4.5v15l12-7.5z" />`),
} as const;

export type IconName = keyof typeof icons;
