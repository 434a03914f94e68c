import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const FILE = fileURLToPath(new URL('RESULTS.md', import.meta.url));

/** Puts a command's results into RESULTS.md, in place of what the same heading had. */
export function writeResults(heading: string, command: string, host: string, text: string): void {
  const old = existsSync(FILE) ? readFileSync(FILE, 'utf8') : '# Benchmarks\n';
  const sections = old.split(/^(?=## )/m).map((section) => section.trimEnd());
  const date = new Date().toISOString().slice(0, 10);
  const words = `## ${heading}\n\n    ${command}\n\n${date}, ${host}.\n\n${text.trimEnd()}`;
  const at = sections.findIndex((section) => section.startsWith(`## ${heading}\n`));
  if (at < 0) sections.push(words);
  else sections[at] = words;
  writeFileSync(FILE, `${sections.join('\n\n')}\n`);
}
