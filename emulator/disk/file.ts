import type { Compression } from './compression.ts';
import { type FetchPolicy, fetchPolicy, withRetry } from './fetch.ts';
import { attemptBy } from './fetch-helper.ts';

export interface WholeFile {
  /** Absolute address. */
  url: string;
  /** Bytes as stored, when known. */
  size?: number;
  /** Of the file as stored, when known. */
  sha256?: string;
  compression?: Compression;
}

/**
 * Fetches a whole file (a kernel, an initramfs), checks it, and unpacks it where `compression` says so.
 * @param onProgress bytes come so far, and in all when that is known
 * @throws BlockError after the retries of the policy
 */
export async function fetchFile(
  { url, size, sha256, compression }: WholeFile,
  options: {
    policy?: Partial<FetchPolicy>;
    signal?: AbortSignal;
    onProgress?: (loaded: number, total: number | undefined) => void;
  } = {},
): Promise<Uint8Array> {
  const policy = fetchPolicy(options.policy);
  const { onProgress = () => undefined } = options;
  return withRetry(policy, url, options.signal, (attempt) =>
    attemptBy(policy, { kind: 'file', url, size, sha256, compression }, attempt, onProgress),
  );
}
