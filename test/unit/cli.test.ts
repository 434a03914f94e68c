import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { halt, kernelOf, powerOff, print, spin, tripleFault } from '../fakes/kernel.ts';

const directory = mkdtempSync(join(tmpdir(), 'cli-'));
afterAll(() => rmSync(directory, { recursive: true }));

interface Outcome {
  status: number | null;
  stdout: string;
  stderr: string;
}

function vm(...args: string[]): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ['--import', 'tsx', 'src/cli/vm.ts', ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let stdout = '';
    let stderr = '';
    child.stdout.on('data', (data: Buffer) => (stdout += data.toString()));
    child.stderr.on('data', (data: Buffer) => (stderr += data.toString()));
    child.on('error', reject);
    child.on('close', (status) => resolve({ status, stdout, stderr }));
  });
}

function kernel(name: string, ...code: number[]): string[] {
  const path = join(directory, name);
  writeFileSync(path, kernelOf(...code));
  return ['--kernel', path, '--memory', '64'];
}

describe('npm run vm', { timeout: 30_000 }, () => {
  test('a guest that powers off ends it with 0, its output printed, one line of counters', async () => {
    const result = await vm(...kernel('off', ...print('hello\n'), ...powerOff), '--stats');
    expect([result.status, result.stdout]).toEqual([0, 'hello\n']);
    const stats = JSON.parse(result.stderr) as Record<string, number>;
    expect(stats['instructions']).toBeGreaterThan(18);
    expect(stats['seconds']).toBeGreaterThan(0);
  });

  test('a triple fault ends it with 1 and says so', async () => {
    const result = await vm(...kernel('fault', ...tripleFault));
    expect(result.status).toBe(1);
    expect(result.stderr).toMatch(/triple fault/);
  });

  test.each([
    ['sleeps', halt],
    ['spins', spin],
  ])('--timeout ends a guest that %s with 124', async (_, code) => {
    const result = await vm(...kernel('wait', ...print('x'), ...code), '--timeout', '3');
    expect([result.status, result.stdout]).toEqual([124, 'x']);
  });

  test.each<[string, string[], number, RegExp]>([
    ['an unknown option', ['--frobnicate'], 2, /frobnicate[^]*usage/],
    ['a kernel that is not there', ['--kernel', '/nowhere/vmlinuz'], 1, /nowhere\/vmlinuz.*404 no such file/],
    ['a kernel that is none', ['--kernel', 'package.json'], 1, /kernel/i],
    ['no memory to speak of', ['--kernel', 'package.json', '--memory', '7'], 1, /memory is 7/],
    ['a tier that does not exist', ['--kernel', 'package.json', '--tier', 'warp'], 1, /"warp"/],
  ])('%s is an error in words', async (_, args, status, words) => {
    const result = await vm(...args);
    expect(result.stderr).toMatch(words);
    expect(result.status).toBe(status);
  });
});
