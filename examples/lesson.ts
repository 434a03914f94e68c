import 'linux-vm/element';

/** A lesson: what the reader writes is run in the machine and its output compared with the answer. */
const ANSWER = '1267650600228229401496703205376';

const machine = document.querySelector('linux-vm')!;
const code = document.querySelector<HTMLTextAreaElement>('#code')!;
const run = document.querySelector<HTMLButtonElement>('#run')!;
const output = document.querySelector<HTMLOutputElement>('#output')!;
const verdict = document.querySelector<HTMLElement>('#verdict')!;

machine.addEventListener('vm-state', ({ detail: { state, error } }) => {
  run.disabled = state !== 'running';
  if (state === 'running') output.textContent = 'Ready.';
  if (error) output.textContent = error.message;
});

run.addEventListener('click', () => {
  run.disabled = true;
  verdict.textContent = '';
  void (async () => {
    try {
      const { vm } = machine;
      // A minute is enough for an answer, and a loop without end is ended.
      const { stdout, stderr } = await vm!.run(['timeout', '60', 'python3', '-'], { stdin: code.value });
      const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);
      output.textContent = text(stdout) + text(stderr);
      verdict.textContent = text(stdout).trim() === ANSWER ? 'That is right.' : 'Not yet.';
    } catch (error) {
      output.textContent = error instanceof Error ? error.message : String(error);
    } finally {
      run.disabled = machine.state !== 'running';
    }
  })();
});
