/** Defines `<linux-vm-workbench>`: the hosted page around one machine, with its panels. */
export { LinuxVMWorkbench } from '../components/linux-vm-workbench.ts';
