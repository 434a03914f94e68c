import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { env } from 'node:process';

export const TOOLS = { ...env, PATH: `${env['PATH'] ?? ''}:/usr/sbin:/sbin` };

export interface PromisedFile {
  name: string;
  sha256: string;
}

/**
 * Repairs an image as a boot would, and looks for files in it.
 * @param image is repaired
 * @param folder of the files, in the image
 * @throws Error when it cannot be repaired, or a file is not there as promised
 */
export function checkFiles(image: string, folder: string, promised: readonly PromisedFile[]): void {
  const { status, stdout } = spawnSync('e2fsck', ['-fy', image], { env: TOOLS, encoding: 'utf8' });
  // 0: nothing to do; 1: repaired (e2fsck(8)).
  if (status !== 0 && status !== 1) throw new Error(`e2fsck ended with ${status}:\n${stdout}`);
  const files = mkdtempSync(join(tmpdir(), 'crash-files-'));
  try {
    mkdirSync(files, { recursive: true });
    execFileSync('debugfs', ['-R', `rdump ${folder} ${files}`, image], { env: TOOLS, stdio: 'ignore' });
    for (const { name, sha256 } of promised) {
      const file = join(files, folder === '/' ? '' : folder.split('/').at(-1)!, name);
      if (!existsSync(file)) throw new Error(`${name}, which was fsynced, is gone`);
      const found = createHash('sha256').update(readFileSync(file)).digest('hex');
      if (found !== sha256) throw new Error(`${name}, which was fsynced, has changed`);
    }
  } finally {
    rmSync(files, { recursive: true, force: true });
  }
}
