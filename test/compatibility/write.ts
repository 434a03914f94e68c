import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import * as prettier from 'prettier';
import { readResults } from './results.ts';
import { compatibilityTable, withTable } from './table.ts';

/** `npm run compatibility`: writes the README's table of what the processor offers and what is known to work. */
const README = fileURLToPath(new URL('../../README.md', import.meta.url));
const written = withTable(readFileSync(README, 'utf8'), compatibilityTable(readResults()));
const options = await prettier.resolveConfig(README);
writeFileSync(README, await prettier.format(written, { ...options, filepath: README }));
