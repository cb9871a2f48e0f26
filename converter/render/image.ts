import { stat } from 'node:fs/promises';
import sharp, { type Metadata } from 'sharp';
import { AppError, isOutOfMemory } from '../../errors.ts';
import { encodePng } from './encode-png.ts';
import { MAX_SIDE } from './fit.ts';

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

/**
 * 'error' refuses truncated and damaged files; one step further, 'warning' refuses files that everybody else shows (stray
 * bytes between JPEG markers, odd colour profiles). Limits of size are checked before, against the header.
 */
const INPUT = { failOn: 'error', limitInputPixels: false, sequentialRead: true } as const;

/** Level 2 is a few per cent larger than level 6 at half the time. Filters do nothing for drawn pages. */
const DRAWN = { compressionLevel: 2, adaptiveFiltering: false } as const;

/** What a file's header says of its image: its size in pixels as stored, and what decides how much memory it takes. */
export interface ImageHeader {
  format: 'jpeg' | 'png';
  width: number;
  height: number;
  channels: number;
  /** 16 bits a channel, not 8. */
  deep: boolean;
  /** Holds for interlaced PNG too. */
  progressive: boolean;
  /** EXIF's, from 1 (upright) to 8; above 2 the picture is turned. */
  orientation: number;
  hasAlpha: boolean;
  cmyk: boolean;
  /** Fewer values of colour than of light. */
  subsampled: boolean;
  /** Of the file. */
  bytes: number;
}

/** Reads the header of a PNG or JPEG file. Throws AppError `corrupt_file`. */
export async function inspectImage(file: string): Promise<ImageHeader> {
  const header = await readHeader(file);
  const { size } = await stat(file);
  return {
    format: header.format === 'jpeg' ? 'jpeg' : 'png',
    width: header.width,
    height: header.height,
    channels: header.channels,
    deep: header.depth === 'ushort',
    progressive: header.isProgressive ?? false,
    orientation: header.orientation ?? 1,
    hasAlpha: header.hasAlpha ?? false,
    cmyk: header.space === 'cmyk',
    subsampled: header.chromaSubsampling?.startsWith('4:2') ?? false,
    bytes: size,
  };
}

/**
 * Converts a PNG or JPEG file to an 8-bit sRGB PNG, in parts, without metadata: turned upright, colours through its profile,
 * alpha kept, shrunk until both sides are 3499 pixels at most. Throws AppError `corrupt_file`.
 */
export async function convertImage(file: string): Promise<{ png: Buffer[]; width: number; height: number }> {
  const { format } = await readHeader(file);
  const isPhotograph = format === 'jpeg';
  try {
    const image = sharp(file, INPUT)
      .autoOrient()
      .resize({ width: MAX_SIDE, height: MAX_SIDE, fit: 'inside', withoutEnlargement: true })
      .toColourspace('srgb');
    const made = await (isPhotograph ? image.raw() : image.png(DRAWN)).toBuffer({ resolveWithObject: true });
    const { width, height } = made.info;
    return {
      png: isPhotograph ? await encodePng({ data: made.data, width, height, channels: 3 }) : [made.data],
      width,
      height,
    };
  } catch (cause) {
    throw imageError(cause);
  }
}

async function readHeader(file: string): Promise<Metadata> {
  try {
    return await sharp(file, INPUT).metadata();
  } catch (cause) {
    throw imageError(cause);
  }
}

function imageError(cause: unknown): unknown {
  if (/file is missing/.test(String((cause as Error)?.message))) return cause;
  return isOutOfMemory(cause)
    ? new AppError('out_of_memory', 'the image needs more memory than was reserved', { retryable: true, cause })
    : new AppError('corrupt_file', 'the image cannot be read', { cause });
}
