/** A way to be called again after other events have had their turn. */
export interface Macrotasks {
  post(call: () => void): void;
  /** Nothing is called any more, and nothing keeps the process alive. */
  close(): void;
}

/**
 * Macrotasks without the delay of timers: browsers clamp nested timeouts to 4 ms, messages they do not. Where the host
 * has `setImmediate` (Node) that is used, because an open message port would keep a finished process alive.
 */
export function macrotasks(): Macrotasks {
  let closed = false;
  const immediate = (globalThis as { setImmediate?: (call: () => void) => unknown }).setImmediate;
  if (immediate)
    return {
      post: (call) => void immediate(() => closed || call()),
      close: () => (closed = true),
    };
  const { port1, port2 } = new MessageChannel();
  const calls: (() => void)[] = [];
  port1.onmessage = () => {
    if (!closed) calls.shift()?.();
  };
  return {
    post: (call) => {
      calls.push(call);
      port2.postMessage(0);
    },
    close: () => {
      closed = true;
      port1.close();
    },
  };
}
