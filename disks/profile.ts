/**
 * boot-profile.txt: what a boot reads, by file and not by block, so that it outlives a change of packages. One line a
 * file, in the order of first use: path, a tab, ranges of its 4 KiB blocks ("0-3,7"). Lines after "--" are read by the
 * first commands people type; they are placed next, but not fetched ahead.
 */
import { readFileSync } from 'node:fs';
import { BLOCK_SIZE, backupOffsets, type Placement } from './ext2.ts';
import type { Entry } from './tar.ts';
import { cleanPath } from './tar.ts';

export interface Profile {
  boot: { path: string; blocks: number[] }[];
  later: { path: string; blocks: number[] }[];
}

const SEPARATOR = '--';

export function readProfile(path: string): Profile {
  const profile: Profile = { boot: [], later: [] };
  let list = profile.boot;
  for (const line of readFileSync(path, 'utf8').split('\n')) {
    if (!line || line.startsWith('#')) continue;
    if (line === SEPARATOR) {
      list = profile.later;
      continue;
    }
    const [file = '', ranges = ''] = line.split('\t');
    const blocks = ranges.split(',').flatMap((range) => {
      const [first = 0, last = first] = range.split('-').map(Number);
      return Array.from({ length: last - first + 1 }, (_, i) => first + i);
    });
    list.push({ path: file, blocks });
  }
  return profile;
}

export function formatProfile({ boot, later }: Profile): string {
  const line = ({ path, blocks }: Profile['boot'][number]) => {
    const ranges: string[] = [];
    const ordered = [...new Set(blocks)].sort((a, b) => a - b);
    for (let i = 0; i < ordered.length;) {
      const first = ordered[i]!;
      let last = first;
      while (ordered[++i] === last + 1) last++;
      ranges.push(first === last ? `${first}` : `${first}-${last}`);
    }
    return `${path}\t${ranges.join(',')}`;
  };
  const head = '# What a boot reads; written by disks/profile-boot.ts, read by disks/build.ts. See disks/profile.ts.';
  return [head, ...boot.map(line), SEPARATOR, ...later.map(line), ''].join('\n');
}

/** Paths to place first: the profile's, each with the symbolic links through which it is reached. */
export function placementOrder(profile: Profile, entries: readonly Entry[]): string[] {
  const links = new Map<string, string[]>();
  const shallow: string[] = [];
  for (const { path, type, target } of entries) {
    if (type !== 'symlink') continue;
    // Such as bin, lib64 and var/run: on the way to much, and no more than an inode each.
    if (path.split('/').length <= 2) shallow.push(path);
    const folder = target.startsWith('/') ? '' : path.slice(0, Math.max(0, path.lastIndexOf('/')));
    const parts: string[] = [];
    for (const part of cleanPath(`${folder}/${target}`).split('/')) {
      if (part === '..') parts.pop();
      else parts.push(part);
    }
    const resolved = parts.join('/');
    links.set(resolved, [...(links.get(resolved) ?? []), path]);
  }
  const order = new Set<string>();
  const add = (path: string) => {
    if (order.has(path)) return;
    order.add(path);
    const slash = path.lastIndexOf('/');
    if (slash > 0) add(path.slice(0, slash));
    for (const link of links.get(path) ?? []) add(link);
  };
  if (profile.boot.length) shallow.forEach(add);
  for (const { path } of [...profile.boot, ...profile.later]) add(path);
  return [...order];
}

/**
 * Chunks that a boot reads, in the order of first use: superblock, descriptors and inodes, the superblock's copies (which
 * the mount looks at), then the profile's blocks.
 */
export function bootChunks(
  profile: Profile,
  placements: readonly Placement[],
  size: number,
  chunkSize: number,
): number[] {
  const byPath = new Map(placements.map((placement) => [placement.path, placement]));
  const offsets = [0, chunkSize, ...backupOffsets(size)];
  for (const { path, blocks } of profile.boot) {
    const placed = byPath.get(path);
    for (const block of blocks) {
      const at = placed?.blocks[block];
      if (at !== undefined) offsets.push(at * BLOCK_SIZE);
    }
  }
  return [...new Set(offsets.map((offset) => Math.floor(offset / chunkSize)))];
}
