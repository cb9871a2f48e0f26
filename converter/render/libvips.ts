import sharp from 'sharp';

/** sharp with the settings of the service, which apply to the whole process and must precede its first use. */

// No image is decoded twice.
sharp.cache(false);
// libvips recognizes a file by its content: an SVG or a TIFF named .png must not reach its loader.
sharp.block({ operation: ['VipsForeignLoad'] });
sharp.unblock({
  operation: [
    'VipsForeignLoadPngFile',
    'VipsForeignLoadPngBuffer',
    'VipsForeignLoadJpegFile',
    'VipsForeignLoadJpegBuffer',
  ],
});

/**
 * How files are decoded. 'error' refuses truncated and damaged files; 'warning' would also refuse files that all viewers
 * show (stray bytes between JPEG markers, odd colour profiles). The pixel limit is checked before, against the header.
 */
export const DECODER = { failOn: 'error', limitInputPixels: false, sequentialRead: true } as const;

/** Lets a conversion use as many threads as its sandbox has reserved units of CPU, at least one. */
export function useThreads(count: number): void {
  sharp.concurrency(Math.max(1, count));
}

export type { FailOnOptions, Metadata } from 'sharp';
export { sharp };
