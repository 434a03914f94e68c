import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { createCanvas, loadImage } from '@napi-rs/canvas';

/** The icons that systems want as pixels, each of an SVG in `icons/`. Sizes in pixels. */
const ICONS = [
  { from: 'icon', to: 'icon-192', size: 192 },
  { from: 'icon', to: 'icon-512', size: 512 },
  { from: 'maskable', to: 'maskable-512', size: 512 },
  { from: 'maskable', to: 'apple-touch', size: 180 },
];

/** Draws the icons of a site as PNG, beside the SVG that they are drawn from. @param directory of the built site */
export async function drawIcons(directory: string): Promise<void> {
  for (const { from, to, size } of ICONS) {
    const image = await loadImage(readFileSync(join(directory, `icons/${from}.svg`)));
    // Drawn at its size; otherwise the pixels of the SVG's own size are scaled.
    image.width = size;
    image.height = size;
    const canvas = createCanvas(size, size);
    canvas.getContext('2d').drawImage(image, 0, 0, size, size);
    const file = join(directory, `icons/${to}.png`);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, canvas.toBuffer('image/png'));
  }
}
