import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { Tier } from '../../emulator/processor.ts';
import { chromiumPlace } from './place-chromium.ts';
import { nativePlace } from './place-native.ts';
import { nodePlace } from './place-node.ts';
import { qemuPlace } from './place-qemu.ts';
import type { Place } from './places.ts';
import { buildPrograms } from './programs.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
export const PLACES = ['native', 'qemu', 'node', 'chromium'] as const;
export type PlaceName = (typeof PLACES)[number];

/** @throws Error that says which of the names is none of a place */
export function placeNames(list: string | undefined, all: readonly PlaceName[]): readonly PlaceName[] {
  if (list === undefined) return all;
  const names = list.split(',');
  for (const name of names)
    if (!(all as readonly string[]).includes(name)) throw new Error(`"${name}" is none of ${all.join(', ')}`);
  return all.filter((name) => names.includes(name));
}

/** Builds what the places need. The site is built anew, into a directory of its own, so that it is what the sources say. */
export function setUp(names: readonly PlaceName[], tier: Tier): Place[] {
  const disk = `${ROOT}build/disks/debian`;
  if (!existsSync(`${disk}/manifest.json`)) throw new Error('there is no disk: npm run disk -- debian');
  const programs = buildPrograms();
  const site = `${ROOT}build/bench/site`;
  if (names.includes('chromium'))
    execFileSync(`${ROOT}node_modules/.bin/vite`, ['build', '--logLevel', 'warn', '--emptyOutDir', '--outDir', site], {
      cwd: ROOT,
      stdio: ['ignore', 2, 2],
    });
  const places: Record<PlaceName, () => Place> = {
    native: () => nativePlace(programs),
    qemu: () => qemuPlace(disk, programs),
    node: () => nodePlace(disk, programs, tier),
    chromium: () => chromiumPlace(site, disk, programs, tier),
  };
  return names.map((name) => places[name]());
}
