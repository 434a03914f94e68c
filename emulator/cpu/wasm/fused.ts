/**
 * Whether this host's `f64x2.relaxed_madd` rounds once ("fused"), as hosts with such an instruction do it; others may round the product,
 * too, and some do not know it at all. Which of these holds never changes while the program runs.
 */
/** (a, b, c, d) => lane 0 of d = 0 ? a × b + c : c − a × b */
const PROBE = Uint8Array.of(
  ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
  ...[1, 9, 1, 0x60, 4, 0x7c, 0x7c, 0x7c, 0x7f, 1, 0x7c],
  ...[3, 2, 1, 0, 7, 5, 1, 1, 0x66, 0, 0],
  ...[10, 40, 1, 38, 0],
  ...[0x20, 0, 0xfd, 0x14, 0x20, 1, 0xfd, 0x14, 0x20, 2, 0xfd, 0x14, 0xfd, 0x88, 0x02],
  ...[0x20, 0, 0xfd, 0x14, 0x20, 1, 0xfd, 0x14, 0x20, 2, 0xfd, 0x14, 0xfd, 0x87, 0x02],
  ...[0x20, 3, 0x1b, 0xfd, 0x21, 0, 0x0b],
);

function probe(): boolean {
  if (!WebAssembly.validate(PROBE)) return false;
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(PROBE));
  const f = exports['f'] as (a: number, b: number, c: number, negate: number) => number;
  // The square of 1 + 2^-30 has a last bit that a double has no room for.
  const x = 1 + 2 ** -30;
  return f(x, x, -(1 + 2 ** -29), 0) === 2 ** -60 && f(x, x, 1 + 2 ** -29, 1) === -(2 ** -60);
}

let known: boolean | undefined;

export const multiplyAdd = {
  get fused(): boolean {
    return (known ??= probe());
  },
  /** For tests: without it, or (undefined) as the host has it. */
  set fused(value: boolean | undefined) {
    known = value;
  },
};
