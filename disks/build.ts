/**
 * `npm run disk -- NAME…` builds disks into build/disks/NAME: manifest.json, chunks/, kernel, initramfs and the raw image.
 * Options: --reuse takes the last run's packages instead of asking the archive again, --snapshot makes only the snapshot of
 * a built disk anew, --programs only its lists of what programs read, --hot-code only that of code that they run often,
 * --output=DIRECTORY instead of build/disks, --list names the recipes.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import type { DiskManifest, ManifestFile } from '../emulator/disk/manifest.ts';
import { writeChunks } from './chunks.ts';
import { writeCpio } from './cpio.ts';
import { writeExt2 } from './ext2.ts';
import { addHotCode } from './hot-code.ts';
import { findMirrors, needTools } from './host.ts';
import { bzImagePayload, INITRAMFS_MODULES, stripToLoaded, withoutSignature } from './kernel.ts';
import { bootChunks, placementOrder, readProfile } from './profile.ts';
import { addPrograms } from './programs.ts';
import { CMDLINE, EPOCH, type Recipe, RECIPES } from './recipes.ts';
import { bootstrap, compile, rootEntries } from './rootfs.ts';
import { addSnapshot } from './snapshot.ts';
import { TRAINING } from './training.ts';
import { readTar } from './tar.ts';

const CHUNK_SIZE = 128 * 1024;
/** A window of 8 MiB: the page's decoder keeps the memory for it. */
const ZSTD = ['-19', '--zstd=wlog=23', '-T1', '-q', '-f'];
const STANDARD_OUTPUT = fileURLToPath(new URL('../build/disks/', import.meta.url));
const PROFILE = fileURLToPath(new URL('boot-profile.txt', import.meta.url));

function say(text: string): void {
  console.error(`disk: ${text}`);
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

function describe(directory: string, name: string, compression?: ManifestFile['compression']): ManifestFile {
  const bytes = readFileSync(join(directory, name));
  return { url: name, size: bytes.length, sha256: sha256(bytes), ...(compression && { compression }) };
}

/** Kernel and initramfs out of the kernel's package. */
function buildKernel(
  kernelPackage: string,
  directory: string,
  cache: string,
): { kernel: ManifestFile; initrd: ManifestFile } {
  // One tar stream of the package's files; nothing is unpacked to the disk.
  const archive = execFileSync('dpkg-deb', ['--fsys-tarfile', kernelPackage], { maxBuffer: 2 ** 31 });
  const files = new Map([...readTar(archive)].map((file) => [file.path, file.data]));
  const image = [...files].find(([path]) => path.startsWith('boot/vmlinuz-'));
  if (!image) throw new Error(`${kernelPackage} holds no boot/vmlinuz`);
  const [path, vmlinuz] = image;
  const version = path.slice('boot/vmlinuz-'.length);
  writeFileSync(join(directory, 'vmlinuz'), vmlinuz);

  const stripped = join(directory, 'vmlinux');
  const unpacked = execFileSync('zstd', ['-dc'], { input: bzImagePayload(vmlinuz), maxBuffer: 2 ** 31 });
  writeFileSync(stripped, stripToLoaded(unpacked));
  execFileSync('zstd', [...ZSTD, stripped, '-o', `${stripped}.zst`]);
  const kernel = describe(directory, 'vmlinux.zst', 'zstd');
  if (kernel.size > vmlinuz.length)
    say(`warning: vmlinux.zst is larger than vmlinuz (${kernel.size} > ${vmlinuz.length})`);

  const modules = INITRAMFS_MODULES.map((name, number) => {
    const packed = files.get(`usr/lib/modules/${version}/${name}.xz`);
    if (!packed) throw new Error(`${kernelPackage} holds no module ${name}`);
    const data = execFileSync('xz', ['-dc'], { input: packed, maxBuffer: 2 ** 28 });
    return { path: `modules/${String(number).padStart(2, '0')}.ko`, mode: 0o100644, data: withoutSignature(data) };
  });
  const initramfs = writeCpio([
    { path: 'dev', mode: 0o040755 },
    { path: 'dev/console', mode: 0o020600, device: { major: 5, minor: 1 } },
    { path: 'modules', mode: 0o040755 },
    ...modules,
    { path: 'init', mode: 0o100755, data: compile(['guest/initramfs.c'], join(cache, 'initramfs')) },
  ]);
  writeFileSync(join(directory, 'initramfs.gz'), gzipSync(initramfs, { level: 9 }));
  return { kernel, initrd: describe(directory, 'initramfs.gz', 'gzip') };
}

async function build(recipe: Recipe, output: string, reuse: boolean): Promise<void> {
  const directory = join(output, recipe.name);
  const cache = join(output, '.cache');
  mkdirSync(directory, { recursive: true });
  mkdirSync(cache, { recursive: true });
  const mirrors = findMirrors();
  say(`${recipe.name}: packages`);
  const { archive, kernelPackage } = bootstrap(recipe, mirrors, cache, reuse);
  say(`${recipe.name}: kernel`);
  const { kernel, initrd } = buildKernel(kernelPackage, directory, cache);

  say(`${recipe.name}: file system`);
  const entries = [...rootEntries(archive, mirrors, cache)];
  const profile = existsSync(PROFILE) ? readProfile(PROFILE) : { boot: [], later: [] };
  const image = join(directory, `${recipe.name}.ext2`);
  const identity = createHash('sha256').update(recipe.name).update(archive).digest();
  identity[6] = (identity[6]! & 0x0f) | 0x40; // a version 4 UUID
  identity[8] = (identity[8]! & 0x3f) | 0x80;
  const placements = writeExt2(`${image}.part`, entries, {
    size: recipe.size,
    uuid: identity.subarray(0, 16),
    hashSeed: identity.subarray(16, 32),
    time: EPOCH,
    first: placementOrder(profile, entries),
  });
  execFileSync('e2fsck', ['-fn', `${image}.part`], {
    env: { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` },
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  renameSync(`${image}.part`, image);
  writeFileSync(join(cache, `${recipe.name}-layout.json`), JSON.stringify(placements));

  say(`${recipe.name}: chunks`);
  const { size, chunks, compressedSizes } = await writeChunks(image, join(directory, 'chunks'), CHUNK_SIZE);
  const boot = bootChunks(profile, placements, size, CHUNK_SIZE);
  const manifest: DiskManifest = {
    format: 'linux-vm-disk',
    version: 1,
    name: recipe.name,
    size,
    chunkSize: CHUNK_SIZE,
    compression: 'gzip',
    chunks,
    image: { url: `${recipe.name}.ext2` },
    kernel,
    initrd,
    cmdline: CMDLINE,
    bootChunks: boot,
  };
  writeFileSync(join(directory, 'manifest.json'), JSON.stringify(manifest));
  const mb = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`;
  const sum = (sizes: number[]) => sizes.reduce((total, each) => total + each, 0);
  say(
    `${recipe.name}: ${mb(statSync(image).blocks * 512)} of files in ${chunks.filter(Boolean).length} chunks, ${mb(sum(compressedSizes))} compressed; ` +
      `before the prompt: kernel ${mb(kernel.size)}, initramfs ${mb(initrd.size)}, ${boot.length} chunks of ${mb(sum(boot.map((chunk) => compressedSizes[chunk]!)))}`,
  );
}

async function main(): Promise<void> {
  const names = process.argv.slice(2).filter((argument) => !argument.startsWith('--'));
  const flags = process.argv.slice(2).filter((argument) => argument.startsWith('--'));
  const recipeNames = RECIPES.map(({ name }) => name).join(', ');
  const output = flags.find((flag) => flag.startsWith('--output='))?.slice('--output='.length);
  const known = ['--reuse', '--snapshot', '--programs', '--hot-code', '--list'];
  const wrongFlag = flags.find((flag) => !known.includes(flag) && !flag.startsWith('--output='));
  if (wrongFlag) throw new Error(`${wrongFlag} is not an option; there are ${known.join(', ')} and --output=DIRECTORY`);
  if (flags.includes('--list')) {
    console.log(recipeNames);
    return;
  }
  const recipes = (names.length ? names : ['debian']).map((name) => {
    const recipe = RECIPES.find((each) => each.name === name);
    if (!recipe) throw new Error(`there is no recipe "${name}"; there are ${recipeNames}`);
    return recipe;
  });
  const directory = output ? resolve(output) : STANDARD_OUTPUT;
  const only = ['--snapshot', '--programs', '--hot-code'].filter((flag) => flags.includes(flag));
  if (!only.length) needTools();
  for (const recipe of recipes) {
    const place = join(directory, recipe.name);
    if (!only.length) await build(recipe, directory, flags.includes('--reuse'));
    if (!only.length || only.includes('--snapshot')) {
      say(`${recipe.name}: the machine at its prompt`);
      say(`${recipe.name}: ${await addSnapshot(place, recipe.programs)}`);
    }
    if (!only.length || only.includes('--programs')) {
      say(`${recipe.name}: first runs of programs`);
      say(`${recipe.name}: ${await addPrograms(place, recipe.programs)}`);
    }
    if (!only.length || only.includes('--hot-code')) {
      say(`${recipe.name}: code that is hot`);
      say(`${recipe.name}: ${await addHotCode(place, TRAINING)}`);
    }
  }
}

main().then(
  () => process.exit(),
  (error: unknown) => {
    say(error instanceof Error ? error.message : String(error));
    process.exit(1);
  },
);
