import '../components/linux-vm.ts';
import { registerServiceWorker } from './offline/updates.ts';

/** The hosted page. Its address may set the element's attributes: `?disk=…&memory=1024&tier=interp`. */
const element = document.querySelector('linux-vm');
const wishes = new URLSearchParams(location.search);
for (const name of ['disk', 'kernel', 'initrd', 'cmdline', 'memory', 'tier']) {
  const value = wishes.get(name);
  if (value !== null) element?.setAttribute(name, value);
}
if (wishes.has('screen-reader')) element?.setAttribute('screen-reader', '');

/** The page works without its server from the second visit on. */
registerServiceWorker();
