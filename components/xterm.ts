/** What a terminal is made of, in one part that is loaded when the first one is shown. */
export { FitAddon } from '@xterm/addon-fit';
export { Unicode11Addon } from '@xterm/addon-unicode11';
export { WebLinksAddon } from '@xterm/addon-web-links';
export { Terminal } from '@xterm/xterm';
