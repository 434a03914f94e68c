import { type FetchPolicy, fetchPolicy, withRetry } from './fetch.ts';
import { attemptBy } from './fetch-helper.ts';
import type { WholeFile } from './fetch-job.ts';

/**
 * Fetches a whole file (a kernel, an initramfs), checks it, and unpacks it where `compression` says so.
 * @param onProgress bytes come so far, and in all when that is known
 * @throws BlockError after the retries of the policy
 */
export async function fetchFile(
  file: WholeFile,
  options: {
    policy?: Partial<FetchPolicy>;
    signal?: AbortSignal;
    onProgress?: (loaded: number, total: number | undefined) => void;
  } = {},
): Promise<Uint8Array> {
  const policy = fetchPolicy(options.policy);
  const { onProgress = () => undefined } = options;
  return withRetry(policy, file.url, options.signal, (attempt) =>
    attemptBy(policy, { kind: 'file', ...file }, attempt, onProgress),
  );
}
