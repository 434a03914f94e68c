/** The SSE families, SSE to SSE4.2. */
import { defineSseConvert } from './sse-convert.ts';
import { defineSseFloat } from './sse-float.ts';
import { defineSseInteger } from './sse-integer.ts';
import { defineSseMove } from './sse-move.ts';
import { defineSseShuffle } from './sse-shuffle.ts';
import { defineSse41 } from './sse41.ts';
import { defineSse42 } from './sse42-string.ts';

export function defineSse(): void {
  defineSseMove();
  defineSseFloat();
  defineSseConvert();
  defineSseInteger();
  defineSseShuffle();
  defineSse41();
  defineSse42();
}
