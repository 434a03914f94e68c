import { LinuxVM } from 'linux-vm';

/** A machine without a terminal: a file goes in, a program works on it, a file comes out. */
const form = document.querySelector('form')!;
const file = document.querySelector<HTMLInputElement>('#file')!;
const program = document.querySelector<HTMLSelectElement>('#program')!;
const status = document.querySelector<HTMLElement>('#status')!;
const result = document.querySelector<HTMLElement>('#result')!;
const download = document.querySelector<HTMLAnchorElement>('#download')!;

/** Started with the first file, and kept for the next. */
let machine: Promise<LinuxVM> | undefined;

form.addEventListener('submit', (event) => {
  event.preventDefault();
  void work().catch((error: unknown) => {
    status.textContent = error instanceof Error ? error.message : String(error);
  });
});

async function work(): Promise<void> {
  const [input] = file.files ?? [];
  if (!input) {
    status.textContent = 'Choose a file first.';
    return;
  }
  status.textContent = 'The machine is starting.';
  machine ??= LinuxVM.start({ disk: '../disks/debian/manifest.json', memory: 256 });
  const vm = await machine.catch((error: unknown) => {
    machine = undefined;
    throw error;
  });
  await vm.fs.mkdir('/root/work', { recursive: true });
  await vm.fs.writeFile('/root/work/in', new Uint8Array(await input.arrayBuffer()));
  status.textContent = 'Working.';
  const { status: code, stderr } = await vm.run(['sh', '-c', program.value], { cwd: '/root/work' });
  if (code !== 0) throw new Error(`It ended with ${code}: ${new TextDecoder().decode(stderr)}`);
  const bytes = await vm.fs.readFile('/root/work/out');
  const blob = new Blob([bytes as Uint8Array<ArrayBuffer>]);
  result.textContent = await blob.slice(0, 4000).text();
  URL.revokeObjectURL(download.href);
  download.href = URL.createObjectURL(blob);
  download.download = `${input.name}.out`;
  download.hidden = false;
  status.textContent = `Done: ${bytes.length} bytes.`;
}
