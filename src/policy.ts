/**
 * The site's Content-Security-Policy. The build writes it into each page, so that it holds on any host; `npm start` sends
 * it as well.
 *
 * - Scripts are the site's own files, and every sink of scripts takes trusted types only: Lit's policy (`lit-html`), and
 *   the worker's and the service worker's addresses (`linux-vm`). WebAssembly is what the processor compiles to.
 * - Styles: xterm.js sets its sizes and colours in style elements.
 * - Connections: a disk or a network gateway may be anywhere; the user names it.
 * - Frames: what the guest serves, and sandboxed.
 */
export const CONTENT_SECURITY_POLICY = [
  "default-src 'none'",
  "script-src 'self' 'wasm-unsafe-eval'",
  "worker-src 'self' blob:",
  "style-src 'self' 'unsafe-inline'",
  "img-src 'self' data: blob:",
  "font-src 'self' data:",
  'media-src blob:',
  'connect-src * data: blob:',
  "frame-src 'self' blob:",
  "manifest-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "require-trusted-types-for 'script'",
  'trusted-types lit-html linux-vm',
].join('; ');
