import type { PortDevice, Saved, Width } from '../bus.ts';
import type { Clock } from '../clock.ts';

export const RTC_PORT = 0x70;

/** CMOS location of the century, told to the guest in the FADT. */
export const RTC_CENTURY = 0x32;

const STATUS_A = 10;
const STATUS_B = 11;
const STATUS_C = 12;
const STATUS_D = 13;
/** The shutdown code, for the BIOS to read after a reset of the processor. */
const SHUTDOWN_CODE = 15;
const B_BINARY = 4;
const B_24_HOURS = 2;

export interface RtcState {
  index: number;
  ram: Uint8Array;
}

/**
 * The MC146818 clock: date and time in UTC, and 114 bytes of RAM. Time is the host's and cannot be set; no alarm,
 * no periodic interrupt, and the "update in progress" flag is never seen because a read is atomic in guest time.
 */
export class Rtc implements PortDevice, Saved<RtcState> {
  private index = 0;
  private readonly ram = new Uint8Array(128);

  /**
   * @param onReset the guest is about to enter the BIOS for a reset. Linux does so on a machine with hardware-reduced
   *   ACPI and no EFI: it writes shutdown code 0 and jumps to the reset vector in real mode. There is no BIOS here,
   *   so the code is the reset.
   */
  constructor(
    private readonly clock: Clock,
    private readonly onReset: () => void = () => undefined,
  ) {
    this.ram[STATUS_A] = 0x26; // 32.768 kHz time base, default rate
    this.ram[STATUS_B] = B_24_HOURS;
  }

  readPort(port: number, width: Width): number {
    const value = port === RTC_PORT ? this.index : this.read(this.index);
    return width === 1 ? value : width === 2 ? value | 0xff00 : (value | 0xffffff00) >>> 0;
  }

  writePort(port: number, _width: Width, value: number): void {
    // Bit 7 of the index port masks the NMI, of which there is none.
    if (port === RTC_PORT) this.index = value & 0x7f;
    else if (this.index === STATUS_B) this.ram[STATUS_B] = value & 0x87;
    else if (this.index > STATUS_D || this.index === 1 || this.index === 3 || this.index === 5)
      this.ram[this.index] = value;
    if (port !== RTC_PORT && this.index === SHUTDOWN_CODE && (value & 0xff) === 0) this.onReset();
  }

  private read(index: number): number {
    const date = new Date(this.clock.wall());
    switch (index) {
      case 0:
        return this.encode(date.getUTCSeconds());
      case 2:
        return this.encode(date.getUTCMinutes());
      case 4:
        return this.hours(date.getUTCHours());
      case 6:
        return this.encode(date.getUTCDay() + 1);
      case 7:
        return this.encode(date.getUTCDate());
      case 8:
        return this.encode(date.getUTCMonth() + 1);
      case 9:
        return this.encode(date.getUTCFullYear() % 100);
      case RTC_CENTURY:
        return this.encode(Math.floor(date.getUTCFullYear() / 100));
      case STATUS_C:
        return 0;
      case STATUS_D:
        return 0x80; // battery good
      default:
        return this.ram[index]!;
    }
  }

  private hours(hours: number): number {
    if (this.ram[STATUS_B]! & B_24_HOURS) return this.encode(hours);
    return this.encode(hours % 12 || 12) | (hours >= 12 ? 0x80 : 0);
  }

  private encode(value: number): number {
    return this.ram[STATUS_B]! & B_BINARY ? value : (Math.floor(value / 10) << 4) | (value % 10);
  }

  save(): RtcState {
    return { index: this.index, ram: this.ram.slice() };
  }

  restore(state: RtcState): void {
    this.index = state.index;
    this.ram.set(state.ram);
  }
}
