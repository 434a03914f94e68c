/** Keys that the keyboards of touch screens lack. */
export type NamedKey = 'Escape' | 'Tab' | 'ArrowUp' | 'ArrowDown' | 'ArrowLeft' | 'ArrowRight' | 'Home' | 'End';

export interface Modifiers {
  readonly ctrl: boolean;
  readonly alt: boolean;
}

export const NO_MODIFIERS: Modifiers = { ctrl: false, alt: false };

/** Last letter of a cursor key's sequence; see xterm's ctlseqs, "PC-Style Function Keys". */
const CURSOR: Partial<Record<NamedKey, string>> = {
  ArrowUp: 'A',
  ArrowDown: 'B',
  ArrowRight: 'C',
  ArrowLeft: 'D',
  End: 'F',
  Home: 'H',
};

/** What a key sends. `application`: DECCKM is set, which editors do. */
export function encodeKey(key: NamedKey, { ctrl, alt }: Modifiers, application: boolean): string {
  const letter = CURSOR[key];
  if (letter) {
    const modifier = 1 + (alt ? 2 : 0) + (ctrl ? 4 : 0);
    if (modifier > 1) return `\x1b[1;${modifier}${letter}`;
    return application ? `\x1bO${letter}` : `\x1b[${letter}`;
  }
  return (alt ? '\x1b' : '') + (key === 'Tab' ? '\t' : '\x1b');
}

/** UTF-8, a single character with the modifiers applied as a terminal does: Ctrl clears bits, Alt puts ESC before. */
export function encodeText(text: string, { ctrl, alt }: Modifiers = NO_MODIFIERS): Uint8Array {
  let plain = text;
  if (ctrl) {
    const code = text.toUpperCase().charCodeAt(0);
    if (text === ' ' || text === '2') plain = '\0';
    else if (text === '?' || text === '8') plain = '\x7f';
    else if (code >= 0x40 && code < 0x60) plain = String.fromCharCode(code & 0x1f);
  }
  return new TextEncoder().encode((alt ? '\x1b' : '') + plain);
}
