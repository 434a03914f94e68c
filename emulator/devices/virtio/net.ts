import type { VirtioDevice, VirtioHost } from './device.ts';

// Virtio 1.2, 5.1.
const F_MTU = 3;
const F_MAC = 5;
const F_STATUS = 16;
const STATUS_LINK_UP = 1;
const RECEIVE = 0;
const TRANSMIT = 1;
/** struct virtio_net_hdr, with num_buffers as VERSION_1 has it. */
const HEADER_SIZE = 12;
const MTU = 1500;
const ETHERNET_HEADER = 18; // with a VLAN tag
const MAX_FRAME = MTU + ETHERNET_HEADER;
/** Frames for the guest that wait for its buffers; more are dropped, as on a wire. */
const MAX_QUEUED = 256;

/** The other end of the guest's network cable. */
export interface NetworkPort {
  /** An Ethernet frame from the guest, without FCS. The bytes are a copy and may be kept. */
  transmit(frame: Uint8Array): void;
  /**
   * Called when the device is made, with a function that puts a frame on the wire to the guest (at most 1518 bytes;
   * it is copied). That returns false when the frame was dropped.
   */
  connect(receive: (frame: Uint8Array) => boolean): void;
}

export interface VirtioNetState {
  linkUp: boolean;
  queued: Uint8Array[];
}

/** virtio-net, one queue pair, no offloads: frames are complete and their checksums are right. */
export class VirtioNet implements VirtioDevice<VirtioNetState> {
  readonly id = 1;
  readonly name = 'virtio-net';
  readonly features = (1 << F_MTU) | (1 << F_MAC) | (1 << F_STATUS);
  readonly queueSizes = [256, 256];
  readonly config = new Uint8Array(12);
  readonly counters = { sent: 0, sentBytes: 0, received: 0, receivedBytes: 0, dropped: 0 };
  private readonly view = new DataView(this.config.buffer);
  private host!: VirtioHost;
  private queued: Uint8Array[] = [];
  private readonly packet = new Uint8Array(HEADER_SIZE + MAX_FRAME);

  /**
   * @param mac six bytes
   * @param port the other end; without one, frames go nowhere and the link is up
   */
  constructor(
    mac: Uint8Array,
    private readonly port?: NetworkPort,
  ) {
    if (mac.length !== 6) throw new RangeError(`a MAC address has 6 bytes, not ${mac.length}`);
    this.config.set(mac);
    this.view.setUint16(6, STATUS_LINK_UP, true);
    this.view.setUint16(8, 1, true);
    this.view.setUint16(10, MTU, true);
    this.packet[10] = 1; // num_buffers
    port?.connect((frame) => this.receive(frame));
  }

  attach(host: VirtioHost): void {
    this.host = host;
  }

  get linkUp(): boolean {
    return (this.view.getUint16(6, true) & STATUS_LINK_UP) !== 0;
  }
  set linkUp(up: boolean) {
    if (up === this.linkUp) return;
    this.view.setUint16(6, up ? STATUS_LINK_UP : 0, true);
    this.host.configChanged();
  }

  /** A frame for the guest. @returns false when it was dropped: too long, link down, or too many waiting */
  receive(frame: Uint8Array): boolean {
    if (
      frame.length > MAX_FRAME ||
      !this.linkUp ||
      this.queued.length >= MAX_QUEUED ||
      !this.host.queues[RECEIVE]!.ready
    ) {
      this.counters.dropped++;
      return false;
    }
    this.queued.push(frame.slice());
    this.deliver();
    return true;
  }

  private deliver(): void {
    const queue = this.host.queues[RECEIVE]!;
    while (this.queued.length) {
      const chain = queue.pop();
      if (!chain) break;
      const frame = this.queued.shift()!;
      const length = HEADER_SIZE + frame.length;
      if (chain.writableBytes < length) {
        this.host.fail(`a network receive buffer of ${chain.writableBytes} bytes`);
        return;
      }
      this.packet.set(frame, HEADER_SIZE);
      chain.write(0, this.packet.subarray(0, length));
      queue.push(chain, length);
      this.counters.received++;
      this.counters.receivedBytes += frame.length;
    }
    queue.signal();
  }

  start(): void {
    this.notify(RECEIVE);
    this.notify(TRANSMIT);
  }

  notify(index: number): void {
    if (index === RECEIVE) {
      this.deliver();
      return;
    }
    const queue = this.host.queues[TRANSMIT]!;
    let chain;
    while ((chain = queue.pop())) {
      const length = chain.readableBytes - HEADER_SIZE;
      if (length > 0 && length <= MAX_FRAME && this.linkUp) {
        const frame = new Uint8Array(length);
        chain.read(HEADER_SIZE, frame);
        this.counters.sent++;
        this.counters.sentBytes += length;
        this.port?.transmit(frame);
      } else this.counters.dropped++;
      queue.push(chain, 0);
    }
    queue.signal();
  }

  reset(): void {
    this.queued = [];
  }

  drain(): Promise<void> {
    return Promise.resolve();
  }

  save(): VirtioNetState {
    return { linkUp: this.linkUp, queued: this.queued.map((f) => f.slice()) };
  }

  restore(state: VirtioNetState): void {
    this.view.setUint16(6, state.linkUp ? STATUS_LINK_UP : 0, true);
    this.queued = state.queued.map((f) => f.slice());
  }
}
