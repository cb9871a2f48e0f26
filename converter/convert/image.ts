import sharp, { type Metadata } from 'sharp';
import { AppError } from '../../errors.ts';
import { MAX_SIDE } from './fit.ts';
import type { RawImage } from './pdf.ts';

// Nothing is decoded twice, and one sandbox is one unit of CPU.
sharp.cache(false);
sharp.concurrency(1);
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

/**
 * 'error' refuses truncated and damaged files; one step further, 'warning' refuses files that everybody else shows (stray
 * bytes between JPEG markers, odd colour profiles). Limits of size are checked before, against the header.
 */
const INPUT = { failOn: 'error', limitInputPixels: false, sequentialRead: true } as const;

/** Level 2 is a few per cent larger than level 6 at half the time. Filters halve photographs, and do nothing for drawn pages. */
const DRAWN = { compressionLevel: 2, adaptiveFiltering: false } as const;
const PHOTOGRAPH = { compressionLevel: 2, adaptiveFiltering: true } as const;

/**
 * Reads the header of a PNG or JPEG file: its size in pixels as it is shown (EXIF orientation applied), and what decides how
 * much memory a conversion takes. `progressive` holds for interlaced PNG too. Throws AppError `corrupt_file`.
 */
export async function inspectImage(file: string) {
  const header = await readHeader(file);
  const { autoOrient, channels, depth, isProgressive, orientation, hasAlpha, space } = header;
  return {
    width: autoOrient.width,
    height: autoOrient.height,
    channels,
    depth,
    progressive: isProgressive ?? false,
    orientation: orientation ?? 1,
    hasAlpha: hasAlpha ?? false,
    space,
  };
}

/**
 * Converts a PNG or JPEG file to an 8-bit sRGB PNG without metadata: turned upright, colours through its profile, alpha kept,
 * shrunk until both sides are 3499 pixels at most. Throws AppError `corrupt_file`.
 */
export async function convertImage(file: string): Promise<{ png: Buffer; width: number; height: number }> {
  const { format } = await readHeader(file);
  try {
    const { data, info } = await sharp(file, INPUT)
      .autoOrient()
      .resize({ width: MAX_SIDE, height: MAX_SIDE, fit: 'inside', withoutEnlargement: true })
      .toColourspace('srgb')
      .png(format === 'jpeg' ? PHOTOGRAPH : DRAWN)
      .toBuffer({ resolveWithObject: true });
    return { png: data, width: info.width, height: info.height };
  } catch (cause) {
    throw imageError(cause);
  }
}

/** Encodes a drawn page as an RGB PNG; its alpha, opaque throughout, is dropped. */
export function encodePng({ data, width, height, channels }: RawImage): Promise<Buffer> {
  return sharp(data, { raw: { width, height, channels } }).removeAlpha().png(DRAWN).toBuffer();
}

async function readHeader(file: string): Promise<Metadata> {
  try {
    return await sharp(file, INPUT).metadata();
  } catch (cause) {
    throw imageError(cause);
  }
}

function imageError(cause: unknown): unknown {
  const message = String((cause as Error)?.message);
  if (/file is missing/.test(message)) return cause;
  return /out of memory|allocation failed/i.test(message)
    ? new AppError('out_of_memory', 'the image needs more memory than was reserved', { retryable: true, cause })
    : new AppError('corrupt_file', 'the image cannot be read', { cause });
}
