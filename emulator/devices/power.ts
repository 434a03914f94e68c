import type { Bus, PortDevice, Width } from '../bus.ts';

/** ACPI sleep control, sleep status and reset registers (ACPI 6.5, 4.8.3.7 and 4.8.3.6), as I/O ports. */
export const SLEEP_CONTROL_PORT = 0x600;
export const SLEEP_STATUS_PORT = 0x601;
export const RESET_PORT = 0x602;
export const RESET_VALUE = 1;
/** SLP_TYP of S5, soft off: what `_S5` in the DSDT says. */
export const S5_SLEEP_TYPE = 5;

const KEYBOARD_PORT = 0x64;
const CHIPSET_RESET_PORT = 0xcf9;

const SLEEP_ENABLE = 0x20;
const WAKE_STATUS = 0x80;

/**
 * Power-off and reset: the ACPI registers, the keyboard controller's reset line and the chipset's reset port.
 * It has no state.
 */
export class Power implements PortDevice {
  constructor(
    private readonly onPowerOff: () => void,
    private readonly onReset: () => void,
  ) {}

  attach(bus: Bus): void {
    bus.addPorts(SLEEP_CONTROL_PORT, 3, this);
    bus.addPorts(KEYBOARD_PORT, 1, this);
    bus.addPorts(CHIPSET_RESET_PORT, 1, this);
  }

  readPort(port: number, width: Width): number {
    // The keyboard controller is absent but for its reset line: all ones tells a driver so.
    if (port === KEYBOARD_PORT) return width === 1 ? 0xff : width === 2 ? 0xffff : 0xffffffff;
    return port === SLEEP_STATUS_PORT ? WAKE_STATUS : 0;
  }

  writePort(port: number, _width: Width, value: number): void {
    switch (port) {
      case SLEEP_CONTROL_PORT:
        if (value & SLEEP_ENABLE && ((value >>> 2) & 7) === S5_SLEEP_TYPE) this.onPowerOff();
        break;
      case RESET_PORT:
        if ((value & 0xff) === RESET_VALUE) this.onReset();
        break;
      case KEYBOARD_PORT:
        // 0xf0 to 0xff pulse the output lines whose bit is 0; bit 0 is the processor's reset.
        if ((value & 0xf1) === 0xf0) this.onReset();
        break;
      case CHIPSET_RESET_PORT:
        if (value & 4) this.onReset();
        break;
    }
  }
}
