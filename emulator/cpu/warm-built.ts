/** A module in Base64 of its deflated bytes (without a header). */
interface Built {
  /** Base of the processor's state that they were written for. */
  readonly state: number;
  readonly core: string;
  readonly module: string;
}

/** What `writeWarm` (warm-handlers.ts) gave when the project was built (src/cli/warm-plugin.ts puts it here); nothing in tests. */
export const BUILT: Built | undefined = undefined;
