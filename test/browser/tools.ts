/** For tests of elements. */

export function equal(actual: unknown, expected: unknown): void {
  const [a, e] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (a !== e) throw new Error(`got ${a}, expected ${e}`);
}

export function includes(text: string, part: string): void {
  if (!text.includes(part)) throw new Error(`"${part}" is not in "${text}"`);
}

export async function until(what: string, condition: () => unknown): Promise<void> {
  const end = performance.now() + 5000;
  while (!condition()) {
    if (performance.now() > end) throw new Error(`${what} did not come about`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** What an element shows, in one line. */
export function shown(element: Element): string {
  return (element.shadowRoot!.textContent ?? '').replace(/\s+/g, ' ').trim();
}

export function find<T extends Element = HTMLElement>(element: Element, selector: string): T {
  const found = element.shadowRoot!.querySelector<T>(selector);
  if (!found) throw new Error(`there is no ${selector} in ${element.localName}`);
  return found;
}

/** The button of that name. */
export function button(element: Element, name: string): HTMLButtonElement {
  const found = [...element.shadowRoot!.querySelectorAll('button')].find(
    (one) => (one.getAttribute('aria-label') ?? one.textContent?.replace(/\s+/g, ' ').trim()) === name,
  );
  if (!found) throw new Error(`there is no button "${name}" in ${element.localName}: ${shown(element)}`);
  return found;
}

export function press(target: EventTarget, key: string, more: KeyboardEventInit = {}): KeyboardEvent {
  const event = new KeyboardEvent('keydown', { key, bubbles: true, composed: true, cancelable: true, ...more });
  target.dispatchEvent(event);
  return event;
}

/** Keeps nothing, as a private window does. */
export const forgetful = { getItem: () => null, setItem: () => undefined };
