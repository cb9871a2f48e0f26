import sharp from 'sharp';

/** sharp with our settings, which hold for the whole process and must be made before its first use. */

// Nothing is decoded twice.
sharp.cache(false);
// libvips goes by a file's content, not by its name: an SVG or a TIFF named .png must not reach its loader.
sharp.block({ operation: ['VipsForeignLoad'] });
sharp.unblock({
  operation: [
    'VipsForeignLoadPngFile',
    'VipsForeignLoadPngBuffer',
    'VipsForeignLoadJpegFile',
    'VipsForeignLoadJpegBuffer',
  ],
});

/** How many threads a conversion may use: as many units of CPU as its sandbox has reserved, one at least. */
export function useThreads(count: number): void {
  sharp.concurrency(Math.max(1, count));
}

export type { FailOnOptions, Metadata } from 'sharp';
export { sharp };
