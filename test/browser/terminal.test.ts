/// <reference types="mocha" />
import '../../components/linux-vm-key-bar.ts';
import '../../components/linux-vm-terminal.ts';
import type { LinuxVMTerminal } from '../../components/linux-vm-terminal.ts';
import { button, equal, press, until } from './tools.ts';

async function stage(): Promise<{ terminal: LinuxVMTerminal; area: HTMLTextAreaElement; typed: string[] }> {
  const terminal = document.createElement('linux-vm-terminal');
  terminal.style.cssText = 'width: 500px; height: 200px';
  document.body.append(terminal);
  await terminal.updateComplete;
  const typed: string[] = [];
  terminal.addEventListener('terminal-input', (event) =>
    typed.push(new TextDecoder().decode((event as CustomEvent<Uint8Array>).detail)),
  );
  return { terminal, area: terminal.shadowRoot!.querySelector('textarea')!, typed };
}

const clear = (): void => document.querySelectorAll('linux-vm-terminal, linux-vm-key-bar').forEach((e) => e.remove());

describe('<linux-vm-terminal>', () => {
  afterEach(clear);

  it('gives the keyboard back by Shift+F6: to who wants it, else to the next Tab', async () => {
    const { area, terminal, typed } = await stage();
    area.focus();
    let asked = 0;
    terminal.addEventListener('terminal-leave', (event) => asked++ === 1 && event.preventDefault());
    equal(press(area, 'Tab', { code: 'Tab', keyCode: 9 }).defaultPrevented, true);
    press(area, 'F6', { code: 'F6', keyCode: 117, shiftKey: true });
    equal(press(area, 'Tab', { code: 'Tab', keyCode: 9 }).defaultPrevented, false);
    area.blur();
    area.focus();
    equal(press(area, 'Tab', { code: 'Tab', keyCode: 9 }).defaultPrevented, true);
    press(area, 'F6', { code: 'F6', keyCode: 117, shiftKey: true }); // taken by the listener
    equal(press(area, 'Tab', { code: 'Tab', keyCode: 9 }).defaultPrevented, true);
    equal([asked, typed], [2, ['\t', '\t', '\t']]);
  });

  it('copies by Ctrl+C only where that is wanted and something is selected', async () => {
    const { terminal, area, typed } = await stage();
    const pressCtrl = (code: string, keyCode: number): boolean =>
      press(area, code.at(-1)!.toLowerCase(), { code, keyCode, ctrlKey: true }).defaultPrevented;
    pressCtrl('KeyC', 67);
    pressCtrl('KeyV', 86);
    equal(typed.splice(0), ['\x03', '\x16']);
    terminal.keyboard = 'copy-paste';
    await terminal.updateComplete;
    pressCtrl('KeyC', 67);
    equal(pressCtrl('KeyV', 86), false); // the browser pastes
    equal(typed, ['\x03']);
  });

  it('shows what hangs below a line, such as an underscore', async () => {
    const { terminal } = await stage();
    const row = (): HTMLElement | null => terminal.shadowRoot!.querySelector('.xterm-rows > div');
    await until('a row', row);
    equal(getComputedStyle(row()!).getPropertyValue('overflow'), 'clip');
    equal(getComputedStyle(row()!).getPropertyValue('overflow-clip-margin'), '3px');
  });

  it('has the colours of its theme, and changes them while it is shown', async () => {
    const { terminal } = await stage();
    const colour = (): string => getComputedStyle(terminal).backgroundColor;
    terminal.theme = 'light';
    await terminal.updateComplete;
    equal(colour(), 'rgb(255, 255, 255)');
    terminal.theme = 'dark';
    await terminal.updateComplete;
    equal(colour(), 'rgb(20, 22, 27)');
  });
});

describe('<linux-vm-key-bar>', () => {
  afterEach(clear);

  it('presses keys without taking the focus, and sticks modifiers to the next key of either keyboard', async () => {
    const { terminal, area, typed } = await stage();
    const bar = document.createElement('linux-vm-key-bar');
    bar.terminal = terminal;
    document.body.append(bar);
    await bar.updateComplete;
    const tap = (name: string): void => {
      const target = button(bar, name);
      const down = new PointerEvent('pointerdown', { bubbles: true, cancelable: true });
      target.dispatchEvent(down);
      equal(down.defaultPrevented, true);
      target.dispatchEvent(new PointerEvent('pointerup', { bubbles: true }));
      target.dispatchEvent(new MouseEvent('click', { bubbles: true, detail: 1 }));
    };
    const pressed = (name: string): string | null => button(bar, name).getAttribute('aria-pressed');
    area.focus();
    tap('Escape');
    tap('Up');
    await terminal.write('\x1b[?1h'); // application cursor keys
    tap('Up');
    tap('Ctrl');
    await bar.updateComplete;
    equal(pressed('Ctrl'), 'true');
    tap('Right');
    await bar.updateComplete;
    equal(pressed('Ctrl'), 'false');
    tap('Ctrl');
    // As keyboards on a screen do: no key, only text.
    area.dispatchEvent(new InputEvent('input', { data: 'c', inputType: 'insertText' }));
    await until('a key', () => typed.length === 5);
    tap('Alt');
    tap('Alt'); // and off again
    tap('Tab');
    equal(typed, ['\x1b', '\x1b[A', '\x1bOA', '\x1b[1;5C', '\x03', '\t']);
  });

  it('serves keyboards and screen readers, too', async () => {
    const { terminal, typed } = await stage();
    const bar = document.createElement('linux-vm-key-bar');
    bar.terminal = terminal;
    document.body.append(bar);
    await bar.updateComplete;
    button(bar, 'Left').click(); // without a pointer
    equal(typed, ['\x1b[D']);
  });
});
