import 'linux-vm/element';

/** Each element has a machine, a worker and a disk of its own. */
const command = document.querySelector<HTMLInputElement>('#command')!;

document.querySelector('form')!.addEventListener('submit', (event) => {
  event.preventDefault();
  for (const { vm } of document.querySelectorAll('linux-vm')) vm?.console.write(`${command.value}\n`);
});
