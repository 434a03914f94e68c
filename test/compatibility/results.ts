import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** What a run showed of a program in the guest. */
export interface Result {
  program: string;
  passed: boolean;
  /** Numbers of tests, names of those that failed. */
  detail?: string;
}

const FILE = fileURLToPath(new URL('results.json', import.meta.url));

export function readResults(): Result[] {
  return existsSync(FILE) ? (JSON.parse(readFileSync(FILE, 'utf8')) as Result[]) : [];
}

/** Keeps a result, in place of an earlier one of the same program. */
export function record(result: Result): void {
  const results = readResults().filter(({ program }) => program !== result.program);
  results.push(result.detail ? result : { program: result.program, passed: result.passed });
  results.sort((a, b) => (a.program < b.program ? -1 : 1));
  writeFileSync(FILE, `${JSON.stringify(results, null, 2)}\n`);
}
