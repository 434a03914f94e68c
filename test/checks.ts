/** Checks that are no unit tests: what runs for long, or in a browser. */
const counts = { passed: 0, failed: 0 };

/** One check: counted, timed and told on a line. What it throws is its failure. */
export async function check(name: string, work: () => Promise<void>): Promise<void> {
  const began = performance.now();
  try {
    await work();
    counts.passed++;
    process.stdout.write(`ok   ${name} (${((performance.now() - began) / 1000).toFixed(1)} s)\n`);
  } catch (error) {
    counts.failed++;
    process.stdout.write(`FAIL ${name}: ${error instanceof Error ? error.message : String(error)}\n`);
  }
}

/** Runs a journey and ends the process with its outcome. */
export async function journey(main: () => Promise<void>): Promise<never> {
  await main().catch((error: unknown) => {
    counts.failed++;
    process.stdout.write(`FAIL ${error instanceof Error ? error.message : String(error)}\n`);
  });
  process.stdout.write(`${counts.passed} passed, ${counts.failed} failed\n`);
  process.exit(counts.failed ? 1 : 0);
}
