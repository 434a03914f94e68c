/** Defines `<linux-vm>` and `<linux-vm-terminal>`. */
export { LinuxVMElement, type VmStateDetail } from '../components/linux-vm.ts';
export { LinuxVMTerminal } from '../components/linux-vm-terminal.ts';
