import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { Tier } from '../../emulator/processor.ts';
import { chromiumPlace } from './place-chromium.ts';
import { nativeImagePlace, nativePlace } from './place-native.ts';
import { nodePlace } from './place-node.ts';
import { qemuPlace } from './place-qemu.ts';
import { v86Place } from './place-v86.ts';
import type { Place } from './places.ts';
import { buildPrograms, type DiskName } from './programs.ts';
import { buildV86, whatV86Needs } from './v86.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
/** `native-i386` is what v86 is measured against: the same 32-bit programs. */
export const PLACES = ['native', 'qemu', 'node', 'chromium', 'native-i386', 'v86'] as const;
export type PlaceName = (typeof PLACES)[number];
const FOR_V86: readonly PlaceName[] = ['native-i386', 'v86'];

/** @throws Error that says which of the names is none of a place */
export function placeNames(list: string | undefined, all: readonly PlaceName[]): readonly PlaceName[] {
  if (list === undefined) return all;
  const names = list.split(',');
  for (const name of names)
    if (!(all as readonly string[]).includes(name)) throw new Error(`"${name}" is none of ${all.join(', ')}`);
  return all.filter((name) => names.includes(name));
}

/** Leaves out, and says so, what v86 needs when that is absent. */
export function possiblePlaces(names: readonly PlaceName[], say: (text: string) => void): readonly PlaceName[] {
  const needs = names.some((name) => FOR_V86.includes(name)) && whatV86Needs();
  if (!needs) return names;
  say(`without v86, which needs: ${needs}`);
  return names.filter((name) => !FOR_V86.includes(name));
}

let site: string | undefined;

/** The site is built anew, into a directory of its own, so that it is what the sources say. */
function buildSite(): string {
  if (site) return site;
  const directory = `${ROOT}build/bench/site`;
  const arguments_ = ['build', '--logLevel', 'warn', '--emptyOutDir', '--outDir', directory];
  execFileSync(`${ROOT}node_modules/.bin/vite`, arguments_, { cwd: ROOT, stdio: ['ignore', 2, 2] });
  return (site = directory);
}

/** Builds what the places need. 32-bit places have programs for the disk `debian` only. */
export function setUp(names: readonly PlaceName[], tier: Tier, diskName: DiskName = 'debian'): Place[] {
  const disk = `${ROOT}build/disks/${diskName}`;
  if (!existsSync(`${disk}/manifest.json`)) throw new Error(`there is no such disk: npm run disk -- ${diskName}`);
  const programs = buildPrograms();
  const places: Record<PlaceName, () => Place> = {
    native: () =>
      diskName === 'debian'
        ? nativePlace('native', programs)
        : nativeImagePlace('native', `${disk}/${diskName}.ext2`, programs),
    qemu: () => qemuPlace(disk, programs),
    node: () => nodePlace(disk, programs, tier),
    chromium: () => chromiumPlace(buildSite(), disk, programs, tier),
    'native-i386': () => nativePlace('native-i386', buildPrograms('i386')),
    v86: () => v86Place(buildV86(buildPrograms('i386'))),
  };
  return names.filter((name) => diskName === 'debian' || !FOR_V86.includes(name)).map((name) => places[name]());
}
