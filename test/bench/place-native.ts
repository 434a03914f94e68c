import { execFile } from 'node:child_process';
import { join } from 'node:path';
import type { Place } from './places.ts';
import { TINY } from './programs.ts';

/** The host itself. */
export function nativePlace(directory: string): Place {
  return {
    name: 'native',
    start: async () => ({
      put: async () => undefined,
      run: (file, args, timeout) =>
        new Promise((resolve, reject) => {
          const env = { ...process.env, TINY: join(directory, TINY) };
          execFile(join(directory, file), args, { env, timeout }, (error, stdout) =>
            error ? reject(error) : resolve(stdout),
          );
        }),
      stop: async () => undefined,
    }),
  };
}
