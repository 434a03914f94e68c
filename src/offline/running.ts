import { RUNNING_LOCK } from './names.ts';

/**
 * Tells the other pages of this origin, and the service worker, that a machine runs here: no new version of the site
 * takes over meanwhile. @returns a function that tells that it has ended
 */
export function machineRuns(): () => void {
  let release: () => void = () => undefined;
  const held = new Promise<void>((resolve) => (release = resolve));
  // Absent in Node and on plain http; refused in a sandboxed frame. Nothing can be updated there either.
  const locks = (globalThis as { navigator?: Partial<Navigator> }).navigator?.locks;
  try {
    locks?.request(RUNNING_LOCK, { mode: 'shared' }, () => held).catch(() => undefined);
  } catch {
    // Some browsers throw instead of rejecting.
  }
  return release;
}

/** Whether a machine runs in any page of this origin. */
export async function anyMachineRuns(): Promise<boolean> {
  const state = await navigator.locks?.query().catch(() => undefined);
  return [...(state?.held ?? []), ...(state?.pending ?? [])].some(({ name }) => name === RUNNING_LOCK);
}
