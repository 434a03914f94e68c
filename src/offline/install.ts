/** Installing the site as an app. Chromium says when it can be; elsewhere the browser's own menu does it. */
interface BeforeInstallPromptEvent extends Event {
  prompt(): Promise<{ outcome: 'accepted' | 'dismissed' }>;
}

export interface InstallPrompt {
  readonly available: boolean;
  on(listener: (prompt: InstallPrompt) => void): () => void;
  /** Asks the user; only once, and only after a click or a key. */
  show(): Promise<'accepted' | 'dismissed' | 'unavailable'>;
}

let waiting: BeforeInstallPromptEvent | undefined;
const listeners = new Set<(prompt: InstallPrompt) => void>();

export const installPrompt: InstallPrompt = {
  get available() {
    return waiting !== undefined;
  },
  on(listener) {
    listeners.add(listener);
    return () => listeners.delete(listener);
  },
  async show() {
    const event = waiting;
    if (!event) return 'unavailable';
    waiting = undefined;
    const { outcome } = await event.prompt();
    changed();
    return outcome;
  },
};

function changed(): void {
  for (const listener of listeners) listener(installPrompt);
}

/** Takes the browser's offer, which comes once, for `installPrompt`. For a page that is the app, not one that embeds it. */
export function takeInstallPrompt(): void {
  addEventListener('beforeinstallprompt', (event) => {
    event.preventDefault();
    waiting = event as BeforeInstallPromptEvent;
    changed();
  });
  addEventListener('appinstalled', () => {
    waiting = undefined;
    changed();
  });
}
