/** Milliseconds of each look, and the share of them for which who is idle may be busy. */
const INTERVAL = 500;
const LITTLE = 0.1;

/**
 * Calls `then` once, when something has been idle for half a second.
 *
 * @param busySeconds for how long it has been busy since it began
 * @returns calls it off
 */
export function whenIdle(busySeconds: () => number, then: () => void): () => void {
  let before = busySeconds();
  const timer = setInterval(() => {
    const now = busySeconds();
    const idle = now - before < (LITTLE * INTERVAL) / 1000;
    before = now;
    if (!idle) return;
    clearInterval(timer);
    then();
  }, INTERVAL);
  return () => clearInterval(timer);
}
