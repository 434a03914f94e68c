/**
 * Addresses of scripts under the Content-Security-Policy `require-trusted-types-for 'script'`. A page with such a policy
 * names this one in its `trusted-types` (with Lit's, `lit-html`).
 */
interface Policy {
  createScriptURL(url: string): unknown;
}
interface Factory {
  createPolicy(name: string, rules: { createScriptURL(url: string): string }): Policy;
}

let policy: Policy | undefined;

/** Only for addresses of this build's own files, and blobs made here: nothing else may be passed. */
export function trustedScriptUrl(url: string): string | URL {
  const { trustedTypes } = globalThis as { trustedTypes?: Factory };
  if (!trustedTypes) return url;
  try {
    policy ??= trustedTypes.createPolicy('linux-vm', { createScriptURL: (address) => address });
  } catch {
    // The page does not allow the policy. Where it does not insist on trusted types either, the string will do.
    return url;
  }
  // What takes it is declared with string; a TrustedScriptURL is as good.
  return policy.createScriptURL(url) as string;
}
