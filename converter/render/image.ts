import { stat } from 'node:fs/promises';
import { AppError, isOutOfMemory } from '../../runtime/errors.ts';
import { encodePng } from './encode-png.ts';
import { findUnsupportedFeature } from './find-unsupported-feature.ts';
import { MAX_SIDE } from './fit.ts';
import { type FailOnOptions, type Metadata, sharp } from './libvips.ts';
import { repairImage } from './repair-image.ts';

/**
 * 'error' refuses truncated and damaged files; one step further, 'warning' refuses files that everybody else shows (stray
 * bytes between JPEG markers, odd colour profiles). Limits of size are checked before, against the header.
 */
const INPUT = { failOn: 'error', limitInputPixels: false, sequentialRead: true } as const;

/** Level 2 is a few per cent larger than level 6 at half the time. Filters do nothing for drawn pages. */
const DRAWN = { compressionLevel: 2, adaptiveFiltering: false } as const;

/** The facts in a file's header: its size in pixels as stored, and what decides how much memory it takes. */
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
  /** One channel, and no profile that says what it means. */
  isGrey: boolean;
  /** Fewer values of colour than of light. */
  subsampled: boolean;
  /** Of the file. */
  bytes: number;
}

/** Reads the header of a PNG or JPEG file. Throws AppError `corrupt_file` or `unsupported_feature`. */
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
    isGrey: header.channels === 1 && !header.hasProfile,
    subsampled: header.chromaSubsampling?.startsWith('4:2') ?? false,
    bytes: size,
  };
}

/**
 * Converts a PNG or JPEG file to an 8-bit PNG in grey or sRGB, in parts, without metadata: turned upright, colours through its profile,
 * alpha kept, shrunk until both sides are 3499 pixels at most. The last rows may be missing. Throws AppError `corrupt_file`
 * or `unsupported_feature`.
 */
export async function convertImage(file: string): Promise<{ png: Buffer[]; width: number; height: number }> {
  const header = await inspectImage(file);
  try {
    return await convertSound(file, header, INPUT.failOn);
  } catch (cause) {
    const error = await imageError(file, cause);
    if (!(error instanceof AppError) || error.code !== 'corrupt_file') throw error;
    return convertCut(file, header, error);
  }
}

async function convertSound(input: string | Buffer, { format, isGrey }: ImageHeader, failOn: FailOnOptions) {
  const image = sharp(input, { ...INPUT, failOn })
    .autoOrient()
    .resize({ width: MAX_SIDE, height: MAX_SIDE, fit: 'inside', withoutEnlargement: true })
    .toColourspace(isGrey ? 'b-w' : 'srgb');
  const isPhotograph = format === 'jpeg';
  const encoded = isPhotograph ? image.raw() : image.png(DRAWN);
  const { data, info } = await encoded.toBuffer({ resolveWithObject: true });
  const { width, height } = info;
  const png = isPhotograph ? await encodePng({ data, width, height, channels: isGrey ? 1 : 3 }) : [data];
  return { png, width, height };
}

/** Converts what a file has that was cut short, or throws the error that its first conversion ended with. */
async function convertCut(file: string, header: ImageHeader, error: AppError) {
  try {
    const repaired = await repairImage(file, header);
    if (repaired === null) throw error;
    return await convertSound(repaired.data, header, repaired.failOn);
  } catch (cause) {
    throw cause === error ? error : await imageError(file, cause);
  }
}

async function readHeader(file: string): Promise<Metadata> {
  try {
    return await sharp(file, INPUT).metadata();
  } catch (cause) {
    throw await imageError(file, cause);
  }
}

async function imageError(file: string, cause: unknown): Promise<unknown> {
  if (/file is missing/.test(String((cause as Error)?.message))) return cause;
  if (isOutOfMemory(cause)) {
    return new AppError('out_of_memory', 'the image needs more memory than was reserved', { retryable: true, cause });
  }
  const feature = await findUnsupportedFeature(file);
  return feature === null
    ? new AppError('corrupt_file', 'the image cannot be read', { cause })
    : new AppError('unsupported_feature', `${feature} is not supported`, { cause });
}
