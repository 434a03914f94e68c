/** `npx tsx disks/run-qemu.ts [debian] [MORE KERNEL PARAMETERS]`: boots a built disk in QEMU, console on this terminal. */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { startQemu } from './qemu.ts';

const [name = 'debian', ...append] = process.argv.slice(2);
const directory = fileURLToPath(new URL(`../build/disks/${name}`, import.meta.url));
if (!existsSync(directory)) {
  console.error(`${directory} is not there; build it with: npm run disk -- ${name}`);
  process.exit(1);
}
// Keys belong to the guest, Ctrl+C too: `poweroff` ends the machine.
if (process.stdin.isTTY) process.stdin.setRawMode(true);
startQemu({ directory, append: append.join(' '), writable: process.env['WRITABLE'] === '1' }, 'inherit').on(
  'exit',
  (code) => process.exit(code ?? 1),
);
