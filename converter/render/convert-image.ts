import { AppError } from '../../runtime/errors.ts';
import { encodePng, UNFILTERED } from './encode-png.ts';
import { MAX_SIDE } from './fit.ts';
import { imageError } from './image-error.ts';
import { type ImageHeader, inspectImage } from './inspect-image.ts';
import { DECODER, type FailOnOptions, sharp } from './libvips.ts';
import { repairImage } from './repair-image.ts';

interface ConvertedImage {
  /** The parts of the file. */
  png: Buffer[];
  width: number;
  height: number;
}

/**
 * Converts a PNG or JPEG file to an 8-bit PNG in grey or sRGB without metadata: turned upright, colours converted by its
 * profile, alpha kept, shrunk until no side is longer than 3499 pixels. A file that was cut short is accepted when only
 * its last rows are missing. Throws AppError `corrupt_file` or `unsupported_feature`.
 */
export async function convertImage(file: string): Promise<ConvertedImage> {
  const header = await inspectImage(file);
  try {
    return await encode(file, header, DECODER.failOn);
  } catch (cause) {
    const error = await imageError(file, cause);
    if (!(error instanceof AppError) || error.code !== 'corrupt_file') throw error;
    return convertRepaired(file, header, error);
  }
}

async function encode(
  input: string | Buffer,
  { format, isGrey }: ImageHeader,
  failOn: FailOnOptions,
): Promise<ConvertedImage> {
  const image = sharp(input, { ...DECODER, failOn })
    .autoOrient()
    .resize({ width: MAX_SIDE, height: MAX_SIDE, fit: 'inside', withoutEnlargement: true })
    .toColourspace(isGrey ? 'b-w' : 'srgb');
  const isPhotograph = format === 'jpeg';
  const encoded = isPhotograph ? image.raw() : image.png(UNFILTERED);
  const { data, info } = await encoded.toBuffer({ resolveWithObject: true });
  const { width, height } = info;
  const png = isPhotograph ? await encodePng({ data, width, height, channels: isGrey ? 1 : 3 }) : [data];
  return { png, width, height };
}

/** Throws the error of the first conversion for a file that cannot be repaired. */
async function convertRepaired(file: string, header: ImageHeader, error: AppError): Promise<ConvertedImage> {
  try {
    const repaired = await repairImage(file, header);
    if (repaired === null) throw error;
    return await encode(repaired.data, header, repaired.failOn);
  } catch (cause) {
    throw cause === error ? error : await imageError(file, cause);
  }
}
