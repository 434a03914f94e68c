import { readFileSync } from 'node:fs';
import type { Browser } from 'playwright-core';

/** Of /proc/…/stat in a second. */
const TICKS = 100;

/** Processor time in seconds that processes have taken, all threads together. */
export function processorSeconds(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => {
    try {
      // Fields from the third on; the second may hold spaces.
      const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
        .replace(/^.*\) /s, '')
        .split(' ');
      return sum + (Number(fields[11]) + Number(fields[12])) / TICKS;
    } catch {
      // It has ended meanwhile.
      return sum;
    }
  }, 0);
}

/** Resident memory of a process in MiB. */
export function residentMiB(pid: number): number {
  return Number(readFileSync(`/proc/${pid}/statm`, 'utf8').split(' ')[1]) / 256;
}

/** Resident memory of a process, and what of it is its own, which is what a browser's task manager shows for a tab. */
export function memoryOf(pid: number): { residentMiB: number; privateMiB: number } {
  const anonymous = /^RssAnon:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
  return { residentMiB: residentMiB(pid), privateMiB: Number(anonymous) / 1024 };
}

/** All of a browser's processes, the page's first: of several renderers the one with most memory. */
export async function processesOf(browser: Browser): Promise<number[]> {
  const session = await browser.newBrowserCDPSession();
  const { processInfo } = await session.send('SystemInfo.getProcessInfo');
  await session.detach();
  const weight = ({ type, id }: { type: string; id: number }): number => (type === 'renderer' ? residentMiB(id) : 0);
  return processInfo.sort((a, b) => weight(b) - weight(a)).map(({ id }) => id);
}
