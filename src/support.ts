/** Whether a browser can run the machine, and if not, what it lacks. */
export interface Support {
  ok: boolean;
  missing: string[];
  /** For people; empty when all is there. */
  message: string;
}

// Each module is the shortest that only validates where the feature exists; see the WebAssembly specification, 5 (binary
// format): type section with () -> (), function section, code section with one body.
const module = (type: number[], body: number[]): Uint8Array<ArrayBuffer> => {
  const code = [body.length + 2, 0, ...body, 0x0b];
  return new Uint8Array([
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...[1, type.length + 1, 1, ...type],
    ...[3, 2, 1, 0],
    ...[10, code.length + 1, 1, ...code],
  ]);
};
const TAIL_CALL = module([0x60, 0, 0], [0x12, 0]); // return_call 0
const SIMD = module([0x60, 0, 0], [0x41, 0, 0xfd, 0x0f, 0x1a]); // i32.const 0, i8x16.splat, drop
const BULK = module([0x60, 0, 0], []);

export function checkSupport(): Support {
  const missing: string[] = [];
  const validate = (bytes: Uint8Array<ArrayBuffer>): boolean =>
    typeof WebAssembly === 'object' && typeof WebAssembly.validate === 'function' && WebAssembly.validate(bytes);
  if (!validate(BULK)) missing.push('WebAssembly');
  else {
    if (!validate(TAIL_CALL)) missing.push('WebAssembly tail calls');
    if (!validate(SIMD)) missing.push('WebAssembly SIMD');
  }
  if (typeof DecompressionStream === 'undefined') missing.push('DecompressionStream');
  if (typeof BigInt64Array === 'undefined') missing.push('BigInt');
  if (missing.length === 0) return { ok: true, missing, message: '' };
  return {
    ok: false,
    missing,
    message:
      `This browser lacks ${missing.join(', ')}. Chrome or Edge 112, Firefox 121, Safari 18.2, or anything newer ` +
      'has what is needed.',
  };
}
