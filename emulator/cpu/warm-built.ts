/** A module's bytes: in Base64 of what deflate (without a header) made of them, or in a file of their own. */
export type BuiltModule = { readonly deflated: string } | { readonly url: string };

interface Built {
  /** Base of the processor's state that they were written for. */
  readonly state: number;
  readonly core: string;
  readonly module: BuiltModule;
}

/** What `writeWarm` (warm-handlers.ts) gave when the project was built (src/cli/warm-plugin.ts puts it here); nothing in tests. */
export const BUILT: Built | undefined = undefined;
