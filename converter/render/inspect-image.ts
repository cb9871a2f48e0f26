import { stat } from 'node:fs/promises';
import { imageError } from './image-error.ts';
import { DECODER, type Metadata, sharp } from './libvips.ts';

/** The facts in the header of an image file that decide how it is converted and how much memory that needs. */
export interface ImageHeader {
  format: 'jpeg' | 'png';
  /** Pixels, as stored. */
  width: number;
  height: number;
  channels: number;
  /** 16 bits a channel instead of 8. */
  deep: boolean;
  /** True for interlaced PNG as well. */
  progressive: boolean;
  /** From EXIF, 1 (upright) to 8; above 2 the picture is turned. */
  orientation: number;
  hasAlpha: boolean;
  cmyk: boolean;
  /** One channel without a colour profile. */
  isGrey: boolean;
  /** True when the file stores colour at a lower resolution than brightness. */
  subsampled: boolean;
  /** The size of the file. */
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

async function readHeader(file: string): Promise<Metadata> {
  try {
    return await sharp(file, DECODER).metadata();
  } catch (cause) {
    throw await imageError(file, cause);
  }
}
