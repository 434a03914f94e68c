import { html, nothing, type TemplateResult } from 'lit';
import { type BaseChange, exportStorage, StorageError, type StorageMode } from '../src/storage.ts';
import { saveStream } from './download.ts';
import { bytesText } from './format.ts';

/** How to start again after a question about the storage was answered. */
export interface StorageChoice {
  mode?: StorageMode;
  base?: 'keep' | 'reset';
}

/** Whether a failure is a question that the user can answer, or of another tab. */
export function asksAboutStorage(error: Error): error is StorageError {
  return (
    error instanceof StorageError && ['storage-busy', 'storage-taken', 'storage-base-changed'].includes(error.code)
  );
}

/** The card with the question. @param key of the storage @param choose starts the machine with the answer */
export function renderStorageChoice(
  error: StorageError,
  key: string,
  choose: (choice: StorageChoice) => void,
): TemplateResult | typeof nothing {
  if (error.code === 'storage-busy')
    return html`<h2>This machine is open in another tab</h2>
      <p>
        Only one tab at a time can write to its disk. You can look at it here: what you change then is lost. Or take it
        over, which stops the other tab; what it has written to the disk is kept.
      </p>
      <button @click=${() => choose({ mode: 'take-over' })}>Take over</button>
      <button class="plain" @click=${() => choose({ mode: 'read-only' })}>Open without saving</button>
      <button class="plain" @click=${() => choose({})}>Try again</button>`;
  if (error.code === 'storage-taken')
    return html`<h2>Another tab took this machine over</h2>
      <p>It was stopped here. What it had written to the disk is kept.</p>
      <button @click=${() => choose({ mode: 'take-over' })}>Take it back</button>
      <button class="plain" @click=${() => choose({ mode: 'read-only' })}>Open without saving</button>`;
  const { stored, storedBytes, canKeep } = error.details as BaseChange;
  const name = `${stored.name}.diff`;
  return html`<h2>The disk has a new version</h2>
    <p>
      You have ${bytesText(storedBytes)} of changes to an older version of ${stored.name}. They do not fit the new one.
      ${
        canKeep
          ? 'You can go on with the old version, or start with the new one and lose the changes.'
          : 'The old version is no longer on the server. You can save the changes as a file, or start with the new disk and lose them.'
      }
    </p>
    ${canKeep ? html`<button @click=${() => choose({ base: 'keep' })}>Go on with the old version</button>` : nothing}
    <button
      class="plain"
      @click=${() => saveStream(name, () => exportStorage(key), { size: storedBytes }).catch(() => undefined)}
    >
      Save the changes as a file
    </button>
    <button class="plain" @click=${() => choose({ base: 'reset' })}>Drop the changes</button>`;
}
